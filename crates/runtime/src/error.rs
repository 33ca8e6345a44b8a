//! The error of every port: a failed operation, its subject and what kind of failure it is.

use std::error::Error as StdError;

/// What every port returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The kind of a failure. Callers branch on it, never on text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The subject does not exist.
    NotFound,
    /// The subject exists already.
    AlreadyExists,
    /// The subject is in a state in which this cannot be done.
    Conflict,
    /// The request can never work.
    InvalidArgument,
    /// What a container is made of does not let it start: another image or state of its files may.
    Unstartable,
    /// This backend cannot do it; see [`crate::Capabilities`].
    Unsupported,
    /// The runtime, a registry or the network did not answer; later it may.
    Unavailable,
    /// Disk, memory, addresses or another resource ran out.
    ResourceExhausted,
    /// A registry refused the caller.
    PermissionDenied,
    /// The configuration does not allow it.
    NotAllowed,
    /// It is larger than the configuration allows.
    TooLarge,
    /// What was received is not what its digest or format says.
    Corrupt,
    /// The caller cancelled it.
    Cancelled,
    /// None of the others: a bug or a broken host.
    Internal,
}

/// A failed operation on a runtime.
///
/// Its text says what failed and why, in words that may be shown to a user; the source holds the
/// technology's own error for the log.
#[derive(Debug, thiserror::Error)]
#[error("cannot {operation} {subject}{}", .reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default())]
pub struct Error {
    kind: ErrorKind,
    operation: &'static str,
    subject: String,
    reason: Option<String>,
    #[source]
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    /// A failure of `operation` (a verb phrase such as `pull image`) on `subject`.
    pub fn new(kind: ErrorKind, operation: &'static str, subject: impl ToString) -> Self {
        Self {
            kind,
            operation,
            subject: subject.to_string(),
            reason: None,
            source: None,
        }
    }

    /// Adds why it failed, in words for the user.
    #[must_use]
    pub fn because(mut self, reason: impl Into<String>) -> Self {
        self.reason = Some(reason.into());
        self
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

    /// Whether the subject does not exist.
    pub fn is_not_found(&self) -> bool {
        self.kind == ErrorKind::NotFound
    }

    /// Whether the subject exists already.
    pub fn is_already_exists(&self) -> bool {
        self.kind == ErrorKind::AlreadyExists
    }

    /// The text with the texts of all its sources, for the log.
    pub fn chain(&self) -> String {
        chain(self)
    }
}

/// The text of any error with the texts of all its sources, for the log.
pub fn chain(error: &(dyn StdError + 'static)) -> String {
    let all = std::iter::successors(Some(error), |error| (**error).source());
    let all: Vec<_> = all.map(ToString::to_string).collect();
    all.join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_has_the_operation_and_subject_but_not_the_source() {
        let error = Error::new(ErrorKind::NotFound, "pull image", "a/b:c")
            .because("the registry does not have it")
            .with_source(std::io::Error::other("404"));
        assert_eq!(
            error.to_string(),
            "cannot pull image a/b:c: the registry does not have it"
        );
        assert!(error.chain().ends_with("have it: 404"));
        assert!(error.is_not_found());
    }
}
