//! How a call fails: a kind, words, the path and the kernel's error number.

use crate::proto;
use prost::Message;
use tonic::{Code, Status};

pub use proto::failure::Kind as FailureKind;

/// A failed call, as it stands in a status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The kind: callers branch on it.
    pub kind: FailureKind,
    /// What failed, in words for a user.
    pub message: String,
    /// The path that it is about; empty where it is about none.
    pub path: Vec<u8>,
    /// The kernel's error number; 0 where there is none.
    pub errno: i32,
}

impl Failure {
    /// A failure without path and error number.
    pub fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            path: Vec::new(),
            errno: 0,
        }
    }

    /// Adds the path that it is about.
    #[must_use]
    pub fn at(mut self, path: impl Into<Vec<u8>>) -> Self {
        self.path = path.into();
        self
    }

    /// Adds the kernel's error number.
    #[must_use]
    pub fn with_errno(mut self, errno: i32) -> Self {
        self.errno = errno;
        self
    }

    /// The failure that a status tells of; `None` when it is one of the transport.
    pub fn of(status: &Status) -> Option<Self> {
        let details = status.details();
        if details.is_empty() {
            return None;
        }
        let failure = proto::Failure::decode(details).ok()?;
        Some(Self {
            kind: failure.kind(),
            message: status.message().to_owned(),
            path: failure.path.to_vec(),
            errno: failure.errno,
        })
    }
}

impl From<Failure> for Status {
    fn from(failure: Failure) -> Self {
        let details = proto::Failure {
            kind: failure.kind.into(),
            path: failure.path.into(),
            errno: failure.errno,
        };
        Status::with_details(
            code(failure.kind),
            failure.message,
            details.encode_to_vec().into(),
        )
    }
}

/// The status code nearest to a kind, for tools that know gRPC and not this protocol.
fn code(kind: FailureKind) -> Code {
    use FailureKind as Kind;
    match kind {
        Kind::NotFound => Code::NotFound,
        Kind::AlreadyExists => Code::AlreadyExists,
        Kind::PermissionDenied => Code::PermissionDenied,
        Kind::NotADirectory
        | Kind::IsADirectory
        | Kind::NotEmpty
        | Kind::NotRegular
        | Kind::Loop
        | Kind::ReadOnly
        | Kind::CrossDevice
        | Kind::Busy
        | Kind::Ended
        | Kind::NoSuchUser
        | Kind::NoShell => Code::FailedPrecondition,
        Kind::StaleRevision | Kind::Changed => Code::Aborted,
        Kind::NameTooLong | Kind::Invalid => Code::InvalidArgument,
        Kind::NoSpace | Kind::TooLarge | Kind::Limit => Code::ResourceExhausted,
        Kind::Unsupported => Code::Unimplemented,
        Kind::Internal => Code::Internal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_survives_its_status() {
        let failure = Failure::new(FailureKind::NotFound, "there is no such file")
            .at(b"/data/\xff".as_slice())
            .with_errno(2);
        let status = Status::from(failure.clone());
        assert_eq!(status.code(), Code::NotFound);
        assert_eq!(Failure::of(&status), Some(failure));
    }

    #[test]
    fn a_status_of_the_transport_is_no_failure_of_the_agent() {
        assert_eq!(Failure::of(&Status::unavailable("broken pipe")), None);
        let garbage = Status::with_details(Code::Internal, "x", vec![0xff; 3].into());
        assert_eq!(Failure::of(&garbage), None);
    }
}
