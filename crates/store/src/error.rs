//! The error of every store: a failed operation, its subject and its kind.

use std::error::Error as StdError;

/// What every repository returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The kind of a failure. Callers branch on it, never on text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// No such row.
    NotFound,
    /// A row with this key or unique name exists.
    AlreadyExists,
    /// A row is in a state in which this cannot be done.
    Conflict,
    /// The request can never work, such as a cursor that no page gave.
    InvalidArgument,
    /// Nothing is left to assign, or the disk is full.
    ResourceExhausted,
    /// The database did not answer or stayed locked.
    Unavailable,
    /// None of the others, such as a row that cannot be read.
    Internal,
}

/// A failed operation on the store.
#[derive(Debug, thiserror::Error)]
#[error("cannot {operation} {subject}")]
pub struct Error {
    kind: ErrorKind,
    operation: &'static str,
    subject: String,
    #[source]
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    /// A failure of `operation` (a verb phrase such as `read bot`) on `subject`.
    pub fn new(kind: ErrorKind, operation: &'static str, subject: impl ToString) -> Self {
        Self {
            kind,
            operation,
            subject: subject.to_string(),
            source: None,
        }
    }

    /// Adds the underlying error, for the log.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// What kind of failure it is.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }
}
