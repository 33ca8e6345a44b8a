//! What the agent refused, as an error of this crate: its kind, its code, words for the user.

use crate::ErrorKind;
use botstead_bridge::{Failure, FailureKind};
use botstead_types::escaped;

/// Words from inside a workspace are cut to this.
const MAX_WORDS: usize = 500;

/// What the agent of a workspace refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentFailure {
    kind: FailureKind,
    message: String,
}

impl AgentFailure {
    /// Whether what was asked for does not exist.
    pub(crate) fn is_not_found(&self) -> bool {
        self.kind == FailureKind::NotFound
    }

    pub(crate) fn kind(&self) -> ErrorKind {
        use FailureKind as Kind;
        match self.kind {
            Kind::NotFound => ErrorKind::NotFound,
            Kind::AlreadyExists
            | Kind::NotEmpty
            | Kind::StaleRevision
            | Kind::Busy
            | Kind::Changed
            | Kind::Ended => ErrorKind::Conflict,
            Kind::NotADirectory
            | Kind::IsADirectory
            | Kind::NotRegular
            | Kind::Loop
            | Kind::CrossDevice
            | Kind::NoSuchUser
            | Kind::NoShell => ErrorKind::Unprocessable,
            Kind::NameTooLong | Kind::Invalid => ErrorKind::Invalid,
            Kind::PermissionDenied | Kind::ReadOnly => ErrorKind::Forbidden,
            Kind::NoSpace => ErrorKind::ResourceExhausted,
            Kind::TooLarge => ErrorKind::TooLarge,
            Kind::Limit => ErrorKind::LimitReached,
            Kind::Unsupported => ErrorKind::Unsupported,
            Kind::Internal => ErrorKind::Internal,
        }
    }

    pub(crate) fn code(&self) -> &'static str {
        use FailureKind as Kind;
        match self.kind {
            Kind::NotFound => "path_not_found",
            Kind::AlreadyExists => "path_exists",
            Kind::NotADirectory => "not_a_directory",
            Kind::IsADirectory => "is_a_directory",
            Kind::NotEmpty => "directory_not_empty",
            Kind::NotRegular => "not_a_regular_file",
            Kind::Loop => "too_many_links",
            Kind::NameTooLong => "name_too_long",
            Kind::PermissionDenied => "permission_denied",
            Kind::ReadOnly => "read_only_filesystem",
            Kind::CrossDevice => "other_filesystem",
            Kind::StaleRevision => "stale_revision",
            Kind::NoSpace => "insufficient_storage",
            Kind::TooLarge => "file_too_large",
            Kind::Invalid => "invalid_value",
            Kind::Limit => "workspace_limit",
            Kind::Busy => "path_busy",
            Kind::Unsupported => "unsupported",
            Kind::Changed => "changed_meanwhile",
            Kind::Ended => "process_ended",
            Kind::NoSuchUser => "no_such_user",
            Kind::NoShell => "shell_not_available",
            Kind::Internal => "agent_failed",
        }
    }
}

impl std::fmt::Display for AgentFailure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<Failure> for AgentFailure {
    fn from(failure: Failure) -> Self {
        let mut message: String = failure
            .message
            .chars()
            .filter(|c| !c.is_control())
            .take(MAX_WORDS)
            .collect();
        let path = escaped(&failure.path);
        if !path.is_empty() && !message.contains(&path) {
            let shown: String = path
                .chars()
                .filter(|c| !c.is_control())
                .take(MAX_WORDS)
                .collect();
            message = format!("{shown}: {message}");
        }
        Self {
            kind: failure.kind,
            message,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_from_inside_are_cut_and_name_the_path() {
        let failure = Failure::new(FailureKind::NotFound, "there is no such file\n").at("/data/x");
        let failure = AgentFailure::from(failure);
        assert_eq!(failure.to_string(), "/data/x: there is no such file");
        assert_eq!(failure.code(), "path_not_found");
        let long = AgentFailure::from(Failure::new(FailureKind::Internal, "x".repeat(9999)));
        assert_eq!(long.to_string().len(), MAX_WORDS);
    }
}
