//! The operation under way, which every error of it names.

use botstead_runtime::{Error, ErrorKind};
use std::error::Error as StdError;
use std::io;
use tonic::{Code, Status};

/// An operation and its subject.
#[derive(Debug, Clone)]
pub(crate) struct Op {
    operation: &'static str,
    subject: String,
}

impl Op {
    pub(crate) fn new(operation: &'static str, subject: impl ToString) -> Self {
        Self {
            operation,
            subject: subject.to_string(),
        }
    }

    pub(crate) fn fail(&self, kind: ErrorKind, reason: impl Into<String>) -> Error {
        Error::new(kind, self.operation, &self.subject).because(reason)
    }

    pub(crate) fn fail_with(
        &self,
        kind: ErrorKind,
        reason: impl Into<String>,
        source: impl Into<Box<dyn StdError + Send + Sync>>,
    ) -> Error {
        self.fail(kind, reason).with_source(source)
    }

    pub(crate) fn cancelled(&self) -> Error {
        self.fail(ErrorKind::Cancelled, "it was cancelled")
    }

    pub(crate) fn corrupt(&self, reason: impl Into<String>) -> Error {
        self.fail(ErrorKind::Corrupt, reason)
    }

    pub(crate) fn invalid(&self, reason: impl Into<String>) -> Error {
        self.fail(ErrorKind::InvalidArgument, reason)
    }

    /// A failure of the host's files.
    pub(crate) fn io(&self, reason: &'static str, error: std::io::Error) -> Error {
        match botstead_overlay::is_disk_full(&error) {
            true => self.disk_full(error),
            false => self.fail_with(ErrorKind::Internal, reason, error),
        }
    }

    pub(crate) fn disk_full(&self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Error {
        self.fail_with(ErrorKind::ResourceExhausted, "the disk is full", source)
    }

    /// What containerd's answer means.
    pub(crate) fn status(&self, status: Status) -> Error {
        let (kind, reason) = kind_of(&status);
        self.fail_with(kind, reason, status)
    }
}

/// Does what blocks, such as mounts and files of a disk, on a thread for that.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(io::Error::other(error)))
}

/// What text decides where containerd has no code for it: errors of the kernel, of runc and of the
/// shim arrive as `Unknown` with Go's text. The first that is contained wins.
const TEXTS: &[(&str, ErrorKind, &str)] = &[
    // A directory that a snapshotter which died had made and not recorded; its next collection removes it.
    (
        "failed to rename: rename",
        ErrorKind::Unavailable,
        "containerd clears away what it left when it was killed: try again in some seconds",
    ),
    (
        "cannot allocate memory",
        ErrorKind::ResourceExhausted,
        "the host is out of memory",
    ),
    (
        "executable file not found",
        ErrorKind::InvalidArgument,
        "the program does not exist",
    ),
    (
        "exec format error",
        ErrorKind::InvalidArgument,
        "the program cannot be executed here",
    ),
    (
        "no such file or directory",
        ErrorKind::InvalidArgument,
        "a file that it needs does not exist",
    ),
    (
        "permission denied",
        ErrorKind::InvalidArgument,
        "the program may not be executed",
    ),
    (
        "cannot start a",
        ErrorKind::Conflict,
        "it was started already",
    ),
    ("cannot delete a", ErrorKind::Conflict, "it runs"),
    ("cannot exec in a", ErrorKind::Conflict, "it does not run"),
    ("with child", ErrorKind::Conflict, "others build on it"),
    ("already finished", ErrorKind::NotFound, "it ended"),
    (
        "already exists",
        ErrorKind::AlreadyExists,
        "containerd has it already",
    ),
    (
        "not found",
        ErrorKind::NotFound,
        "containerd does not have it",
    ),
    (
        "does not exist",
        ErrorKind::NotFound,
        "containerd does not have it",
    ),
    (
        "transport error",
        ErrorKind::Unavailable,
        "containerd did not answer",
    ),
    (
        "deadline exceeded",
        ErrorKind::Unavailable,
        "containerd did not answer in time",
    ),
    (
        "ttrpc: closed",
        ErrorKind::Unavailable,
        "its shim went away",
    ),
];

fn kind_of(status: &Status) -> (ErrorKind, &'static str) {
    if is_disk_full(status) {
        return (ErrorKind::ResourceExhausted, "the disk is full");
    }
    match status.code() {
        Code::NotFound => (ErrorKind::NotFound, "containerd does not have it"),
        Code::AlreadyExists => (ErrorKind::AlreadyExists, "containerd has it already"),
        Code::InvalidArgument => (ErrorKind::InvalidArgument, "containerd refused it"),
        Code::FailedPrecondition => (ErrorKind::Conflict, "containerd refused it"),
        // Whoever cancels a call here drops it and sees no answer: this is a broken connection or
        // tonic's own deadline.
        Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled => {
            (ErrorKind::Unavailable, "containerd did not answer")
        }
        Code::ResourceExhausted => (
            ErrorKind::ResourceExhausted,
            "containerd ran out of a resource",
        ),
        Code::Unimplemented => (ErrorKind::Unsupported, "containerd cannot do it"),
        _ => TEXTS
            .iter()
            .find(|(text, ..)| status.message().contains(text))
            .map_or((ErrorKind::Internal, "containerd failed"), |found| {
                (found.1, found.2)
            }),
    }
}

/// containerd has no code for a full disk: `ENOSPC` and `EDQUOT` arrive with Go's text of the error
/// number, under several codes.
pub(crate) fn is_disk_full(status: &Status) -> bool {
    let text = status.message();
    text.contains("no space left on device") || text.contains("disk quota exceeded")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_decide_only_where_there_is_no_code() {
        let kind = |code, text: &str| kind_of(&Status::new(code, text)).0;
        for (code, text, expected) in [
            (
                Code::Unknown,
                "write x: no space left on device",
                ErrorKind::ResourceExhausted,
            ),
            (
                Code::Internal,
                "x: disk quota exceeded",
                ErrorKind::ResourceExhausted,
            ),
            (
                Code::Unknown,
                "cannot start a running process",
                ErrorKind::Conflict,
            ),
            (Code::Unknown, "transport error", ErrorKind::Unavailable),
            (Code::Cancelled, "Timeout expired", ErrorKind::Unavailable),
            (Code::AlreadyExists, "x not found", ErrorKind::AlreadyExists),
            (Code::Unknown, "something else", ErrorKind::Internal),
        ] {
            assert_eq!(kind(code, text), expected, "{text}");
        }
    }
}
