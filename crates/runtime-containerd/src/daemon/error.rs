//! What can go wrong with a managed containerd.

use botstead_runtime::ErrorKind;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// A failed operation on a managed containerd.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DaemonError {
    /// A setting cannot be used.
    #[error("cannot use {} for containerd: {reason}", .path.display())]
    Config {
        /// The path at fault.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// There is no such program.
    #[error(
        "cannot find the containerd program {}: install containerd 1.6 or later \
         (Debian and Ubuntu: apt-get install containerd runc) or set its path", .path.display()
    )]
    NoBinary {
        /// What was looked for.
        path: PathBuf,
    },
    /// The program does not tell its version.
    #[error("cannot learn the version of {}: {reason}", .path.display())]
    Version {
        /// The program.
        path: PathBuf,
        /// What it did instead.
        reason: String,
    },
    /// The program is older than what the adapter can work with.
    #[error(
        "cannot use {}, which is containerd {found}: install containerd 1.6 or later \
         (Debian and Ubuntu: apt-get install containerd)", .path.display()
    )]
    TooOld {
        /// The program.
        path: PathBuf,
        /// Its version.
        found: String,
    },
    /// Another server holds the data directory.
    #[error(
        "cannot lock {}: {} uses it", .path.display(),
        .holder.map_or_else(|| "another server".to_owned(), |pid| format!("the server with pid {pid}"))
    )]
    Locked {
        /// The lock file.
        path: PathBuf,
        /// The process that holds it, if it left its id.
        holder: Option<i32>,
    },
    /// A containerd of an earlier server still serves this data directory from another place.
    #[error(
        "cannot adopt containerd (pid {pid}): it runs in {} and not in {}: restore that setting or \
         stop it", .found.display(), .expected.display()
    )]
    OtherRunDir {
        /// Its process.
        pid: i32,
        /// Its directory.
        found: PathBuf,
        /// The directory of the configuration.
        expected: PathBuf,
    },
    /// A file or directory could not be used.
    #[error("cannot {operation} {}", .path.display())]
    File {
        /// What was tried.
        operation: &'static str,
        /// On which file.
        path: PathBuf,
        /// The failure.
        source: io::Error,
    },
    /// The program could not be started.
    #[error("cannot start {}", .path.display())]
    Spawn {
        /// The program.
        path: PathBuf,
        /// The failure.
        source: io::Error,
    },
    /// It ended before it answered.
    #[error("cannot start {}: it ended with {status}; the end of its log:\n{log}", .path.display())]
    Exited {
        /// The program.
        path: PathBuf,
        /// Its exit status.
        status: String,
        /// The last lines of its log.
        log: String,
    },
    /// It did not answer in time and was ended.
    #[error(
        "cannot start {}: no answer within {} s; the end of its log:\n{log}",
        .path.display(), .after.as_secs()
    )]
    NoAnswer {
        /// The program.
        path: PathBuf,
        /// How long was waited.
        after: Duration,
        /// The last lines of its log.
        log: String,
    },
    /// A process could not be watched or signalled.
    #[error("cannot {operation} containerd (pid {pid})")]
    Process {
        /// What was tried.
        operation: &'static str,
        /// On which process.
        pid: i32,
        /// The failure.
        source: io::Error,
    },
}

impl DaemonError {
    /// What kind of failure it is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Config { .. } => ErrorKind::InvalidArgument,
            Self::NoBinary { .. } => ErrorKind::NotFound,
            Self::TooOld { .. } => ErrorKind::Unsupported,
            Self::Locked { .. } | Self::OtherRunDir { .. } => ErrorKind::Conflict,
            Self::Version { .. }
            | Self::Spawn { .. }
            | Self::Exited { .. }
            | Self::NoAnswer { .. } => ErrorKind::Unavailable,
            Self::File { .. } | Self::Process { .. } => ErrorKind::Internal,
        }
    }

    /// Adds the operation and the file to an I/O error.
    pub(super) fn file(
        operation: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File {
            operation,
            path,
            source,
        }
    }
}
