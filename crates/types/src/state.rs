//! States of containers, tasks, snapshots and versions.

use crate::InvalidValue;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

macro_rules! words {
    ($(#[$doc:meta])* $name:ident, $what:literal { $($(#[$vdoc:meta])* $variant:ident = $word:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        pub enum $name {
            $($(#[$vdoc])* #[serde(rename = $word)] $variant,)+
        }

        impl $name {
            /// Every value.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// The word that stands for it in the API and in the database.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl FromStr for $name {
            type Err = InvalidValue;

            fn from_str(text: &str) -> Result<Self, InvalidValue> {
                match text {
                    $($word => Ok(Self::$variant),)+
                    _ => Err(InvalidValue::new($what, text, concat!("expected one of", $(" ", $word),+))),
                }
            }
        }
    };
}

words!(
    /// What a workspace's container is doing, as a client sees it.
    ContainerStatus, "container status" {
        /// Made and never started.
        Created = "created",
        /// Its task runs.
        Running = "running",
        /// It was started and does not run now.
        Stopped = "stopped",
        /// The last operation on it failed and it needs attention.
        Error = "error",
        /// The runtime did not answer.
        Unknown = "unknown",
    }
);

words!(
    /// What the user wants of a workspace; reconciliation works towards it.
    DesiredState, "desired state" {
        /// It should run, also after a restart of server, runtime or host.
        Running = "running",
        /// It stays stopped until it is started.
        Stopped = "stopped",
    }
);

words!(
    /// The state of a task in the runtime.
    TaskStatus, "task status" {
        /// Its process is set up and waits to be started.
        Created = "created",
        /// Its process runs.
        Running = "running",
        /// Its processes are frozen.
        Paused = "paused",
        /// Its process ended and the task was not deleted yet.
        Stopped = "stopped",
    }
);

words!(
    /// What a snapshot in the runtime is.
    SnapshotKind, "snapshot kind" {
        /// Writable.
        Active = "Active",
        /// Frozen; can be a parent.
        Committed = "Committed",
        /// A read-only look at a committed one.
        View = "View",
    }
);

words!(
    /// What a user may do beyond their own bots.
    Role, "role" {
        /// Everything.
        Admin = "admin",
        /// Only what concerns their own bots and those shared with them.
        Member = "member",
    }
);

words!(
    /// Why a version was made.
    VersionSource, "version source" {
        /// A user or program asked for it.
        Manual = "manual",
        /// It was asked for with a command that might do harm.
        PreExec = "pre_exec",
        /// The state before a rollback.
        Rollback = "rollback",
        /// The state before an import of data.
        Import = "import",
        /// The state before a change of image.
        Image = "image",
        /// The version that a fork began from.
        Inherited = "inherited",
        /// The runtime had it and the database did not, as after an older database was put back.
        Recovered = "recovered",
    }
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_round_trip() {
        for source in VersionSource::ALL {
            assert_eq!(source.as_str().parse(), Ok(*source));
            assert_eq!(serde_json::to_value(source).unwrap(), source.as_str());
        }
        let error = "running ".parse::<TaskStatus>().unwrap_err();
        assert!(
            error
                .to_string()
                .contains("expected one of created running paused stopped")
        );
    }
}
