//! The operation under way, which every error of it names.

use botstead_runtime::{Error, ErrorKind};
use std::error::Error as StdError;
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

    /// What containerd's answer means.
    pub(crate) fn status(&self, status: Status) -> Error {
        let (kind, reason) = if is_disk_full(&status) {
            (ErrorKind::ResourceExhausted, "the disk is full")
        } else {
            match status.code() {
                Code::NotFound => (ErrorKind::NotFound, "containerd does not have it"),
                Code::AlreadyExists => (ErrorKind::AlreadyExists, "containerd has it already"),
                Code::InvalidArgument => (ErrorKind::InvalidArgument, "containerd refused it"),
                Code::FailedPrecondition => (ErrorKind::Conflict, "containerd refused it"),
                Code::Unavailable | Code::DeadlineExceeded => {
                    (ErrorKind::Unavailable, "containerd did not answer")
                }
                Code::ResourceExhausted => (
                    ErrorKind::ResourceExhausted,
                    "containerd ran out of a resource",
                ),
                Code::Cancelled => (ErrorKind::Cancelled, "it was cancelled"),
                Code::Unimplemented => (ErrorKind::Unsupported, "containerd cannot do it"),
                _ => (ErrorKind::Internal, "containerd failed"),
            }
        };
        self.fail_with(kind, reason, status)
    }
}

/// containerd has no code for a full disk: `ENOSPC` and `EDQUOT` arrive as `Unknown` with Go's text
/// of the error number, which is the one place where text has to decide.
pub(crate) fn is_disk_full(status: &Status) -> bool {
    let text = status.message();
    text.contains("no space left on device") || text.contains("disk quota exceeded")
}
