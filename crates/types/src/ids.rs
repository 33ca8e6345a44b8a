//! Identifiers as newtypes, so that a bot's id can never stand where an operation's is meant.

use crate::InvalidValue;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use uuid::Uuid;

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Uuid);

        impl $name {
            /// A new id. Ids are UUIDv7, so that they sort by the time they were made.
            pub fn generate() -> Self {
                Self(Uuid::now_v7())
            }

            /// Wraps a UUID that is known to be such an id.
            pub const fn from_uuid(uuid: Uuid) -> Self {
                Self(uuid)
            }

            /// The UUID itself.
            pub const fn as_uuid(&self) -> &Uuid {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.as_hyphenated().fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = InvalidValue;

            /// Accepts the hyphenated form only: an id is part of paths and names, and one
            /// spelling per id keeps them comparable.
            fn from_str(text: &str) -> Result<Self, InvalidValue> {
                let invalid = || {
                    InvalidValue::new($what, text, "expected a lower-case UUID with hyphens")
                };
                let uuid = Uuid::try_parse(text).map_err(|_| invalid())?;
                if uuid.as_hyphenated().to_string() == text {
                    Ok(Self(uuid))
                } else {
                    Err(invalid())
                }
            }
        }
    };
}

uuid_id!(
    /// A bot.
    BotId, "bot id"
);
uuid_id!(
    /// A user account.
    UserId, "user id"
);
uuid_id!(
    /// A journalled operation.
    OperationId, "operation id"
);
uuid_id!(
    /// An archive of preserved data.
    PreservedId, "preserved id"
);
uuid_id!(
    /// A personal access token.
    TokenId, "token id"
);

macro_rules! name_id {
    ($(#[$doc:meta])* $name:ident, $what:literal, $max:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = InvalidValue;

            fn from_str(text: &str) -> Result<Self, InvalidValue> {
                check_name($what, text, $max)?;
                Ok(Self(text.to_owned()))
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidValue;

            fn try_from(text: String) -> Result<Self, InvalidValue> {
                check_name($what, &text, $max)?;
                Ok(Self(text))
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0
            }
        }
    };
}

name_id!(
    /// A container in the runtime. At most 76 characters, the limit that containerd sets
    /// (its `identifiers` package), of letters, digits, `-`, `_` and `.`.
    ContainerId, "container id", 76
);
name_id!(
    /// A lease in the runtime: what it holds is not garbage-collected.
    LeaseId, "lease id", 128
);

impl ContainerId {
    /// The container of a bot: `workspace-<bot_id>`.
    pub fn for_bot(bot: BotId) -> Self {
        Self(format!("workspace-{bot}"))
    }

    /// The bot whose container this is, when the id has the form that [`Self::for_bot`] gives.
    pub fn bot(&self) -> Option<BotId> {
        self.0.strip_prefix("workspace-")?.parse().ok()
    }
}

impl LeaseId {
    /// The lease of an operation: `operation-<operation_id>`.
    pub fn for_operation(operation: OperationId) -> Self {
        Self(format!("operation-{operation}"))
    }

    /// The operation whose lease this is, when the id has the form that
    /// [`Self::for_operation`] gives.
    pub fn operation(&self) -> Option<OperationId> {
        self.0.strip_prefix("operation-")?.parse().ok()
    }
}

/// The runtime's name of a snapshot: opaque, never shown as a version's name.
///
/// Image layers have chain ids (`sha256:...`) and other tools' snapshots have names of any form,
/// so the only rules are that it is not empty, not longer than 1024 bytes and has no control
/// characters.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SnapshotKey(String);

impl SnapshotKey {
    /// The key of the writable snapshot that an operation prepares.
    pub fn active(operation: OperationId) -> Self {
        Self(format!("active-{operation}"))
    }

    /// The name of the version that an operation commits.
    pub fn version(operation: OperationId) -> Self {
        Self(format!("version-{operation}"))
    }

    /// The name of the flattened chain on which an operation prepares its writable snapshot.
    pub fn flattened(operation: OperationId) -> Self {
        Self(format!("flattened-{operation}"))
    }

    /// The name of the copy of a present state that an operation makes for its own use.
    pub fn copied(operation: OperationId) -> Self {
        Self(format!("copied-{operation}"))
    }

    /// The operation that it is the copy of, where it is one.
    pub fn copied_by(&self) -> Option<OperationId> {
        self.0.strip_prefix("copied-")?.parse().ok()
    }

    /// The key of the writable snapshot that a fork's workspace gets.
    pub fn forked(operation: OperationId) -> Self {
        Self(format!("forked-{operation}"))
    }

    /// The key of the writable snapshot on which an operation goes back to the state before.
    pub fn reverted(operation: OperationId) -> Self {
        Self(format!("reverted-{operation}"))
    }

    /// The key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SnapshotKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for SnapshotKey {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        text.to_owned().try_into()
    }
}

impl TryFrom<String> for SnapshotKey {
    type Error = InvalidValue;

    fn try_from(text: String) -> Result<Self, InvalidValue> {
        let reason = if text.is_empty() {
            "it is empty"
        } else if text.len() > 1024 {
            "it is longer than 1024 bytes"
        } else if text.chars().any(char::is_control) {
            "it has control characters"
        } else {
            return Ok(Self(text));
        };
        Err(InvalidValue::new("snapshot key", &text, reason))
    }
}

impl From<SnapshotKey> for String {
    fn from(key: SnapshotKey) -> String {
        key.0
    }
}

/// The number of a version of a workspace: 1, 2, 3 and so on, never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "i64", into = "i64")]
pub struct VersionNumber(u32);

impl VersionNumber {
    /// The first version of every workspace.
    pub const FIRST: Self = Self(1);

    /// The number itself, at least 1.
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl fmt::Display for VersionNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl TryFrom<i64> for VersionNumber {
    type Error = InvalidValue;

    fn try_from(number: i64) -> Result<Self, InvalidValue> {
        match u32::try_from(number) {
            Ok(number) if number >= 1 => Ok(Self(number)),
            _ => Err(InvalidValue::new(
                "version",
                &number.to_string(),
                "versions are numbered from 1",
            )),
        }
    }
}

impl From<VersionNumber> for i64 {
    fn from(version: VersionNumber) -> i64 {
        i64::from(version.0)
    }
}

fn check_name(what: &'static str, text: &str, max: usize) -> Result<(), InvalidValue> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    let reason = if text.is_empty() {
        "it is empty".to_owned()
    } else if text.len() > max {
        format!("it is longer than {max} characters")
    } else if !text.chars().all(allowed) {
        "letters, digits, '-', '_' and '.' are allowed".to_owned()
    } else if !edge(text.chars().next()) || !edge(text.chars().last()) {
        "it must begin and end with a letter or a digit".to_owned()
    } else {
        return Ok(());
    };
    Err(InvalidValue::new(what, text, reason))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_canonical_spelling_of_a_uuid_is_an_id() {
        let id = BotId::generate();
        assert_eq!(id.to_string().parse(), Ok(id));
        for bad in [
            "",
            "../x",
            "0",
            &id.to_string().to_uppercase(),
            &id.as_uuid().as_simple().to_string(),
            &format!("{{{id}}}"),
        ] {
            assert!(bad.parse::<BotId>().is_err(), "{bad:?} was accepted");
        }
    }

    #[test]
    fn a_container_id_tells_its_bot() {
        let bot = BotId::generate();
        assert_eq!(ContainerId::for_bot(bot).bot(), Some(bot));
        let foreign: ContainerId = "workspace-of-somebody".parse().unwrap();
        assert_eq!(foreign.bot(), None);
    }

    #[test]
    fn names_that_could_leave_a_folder_are_refused() {
        for bad in ["", "..", "a/b", ".hidden", "a-", "a b", &"x".repeat(77)] {
            assert!(bad.parse::<ContainerId>().is_err(), "{bad:?} was accepted");
        }
    }

    #[test]
    fn versions_begin_at_one() {
        assert!(VersionNumber::try_from(0).is_err());
        assert!(VersionNumber::try_from(-1).is_err());
        assert!(VersionNumber::try_from(i64::from(u32::MAX) + 1).is_err());
        assert_eq!(VersionNumber::try_from(1), Ok(VersionNumber::FIRST));
    }
}
