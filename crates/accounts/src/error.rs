//! The error of every account operation: a stable code, a kind and words that a client may see.

use botstead_store as store;
use botstead_types::OutOfBounds;
use std::time::Duration;

/// What every operation of this crate returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The kind of a failure. Callers branch on it, never on text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The caller did not prove who they are.
    Unauthenticated,
    /// The caller may not do this, and may know that the thing exists.
    Forbidden,
    /// No such thing, or none that the caller may know of.
    NotFound,
    /// The state of things does not allow it.
    Conflict,
    /// The request can never work.
    InvalidArgument,
    /// What was given is larger than what is kept.
    TooLarge,
    /// Try again later; [`Error::retry_after`] says when.
    TooManyRequests,
    /// The database did not answer.
    Unavailable,
    /// None of the others; the cause is for the log only.
    Internal,
}

/// A failed operation on accounts. Display is fit for clients; causes are in `source()`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Wrong user name, wrong password or an inactive account: which of them is not told.
    #[error("user name or password is wrong")]
    InvalidCredentials,
    /// The token is malformed, forged, expired, or its user may not sign in any more.
    #[error("the access token is not valid or has expired")]
    InvalidToken,
    /// The ticket is unknown, used, expired or was made for another request.
    #[error("the ticket is not valid for this request or has been used")]
    InvalidTicket,
    /// The policy does not allow it.
    #[error("this needs a permission that you do not have")]
    Forbidden,
    /// No such account.
    #[error("no such user")]
    UserNotFound,
    /// No such bot, or none that the caller may know of.
    #[error("no such bot")]
    BotNotFound,
    /// The user name belongs to another account.
    #[error("the user name is taken")]
    UsernameTaken,
    /// Without this account nobody could administer the server.
    #[error("the last active admin cannot be removed, deactivated or made a member")]
    LastAdmin,
    /// The account still owns bots.
    #[error("the user still owns bots: delete them first")]
    UserOwnsBots,
    /// The bot is being deleted.
    #[error("the bot is being deleted")]
    BotDeleting,
    /// Too many failed sign-ins, or too many at once.
    #[error("too many sign-in attempts, try again in {} s", retry_after.as_secs().max(1))]
    TooManyAttempts {
        /// When the next attempt is looked at.
        retry_after: Duration,
    },
    /// The caller has too many unused tickets.
    #[error("too many unused tickets, use them or wait until they expire")]
    TooManyTickets {
        /// When the oldest of them expires.
        retry_after: Duration,
    },
    /// A field does not have the form that it needs.
    #[error("{field} is not valid: {reason}")]
    Invalid {
        /// The field, with dots for nested ones, such as `metadata.workspace.image`.
        field: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A preference is outside of what this server allows.
    #[error(transparent)]
    OutOfBounds(#[from] OutOfBounds),
    /// The metadata is larger than what is kept.
    #[error("the metadata has {size} bytes as JSON, at most {limit} are kept")]
    MetadataTooLarge {
        /// How large it is or would become.
        size: usize,
        /// How large it may be.
        limit: usize,
    },
    /// The database did not answer.
    #[error("the account database is not available")]
    Unavailable(#[source] store::Error),
    /// The database failed.
    #[error("the account database failed")]
    Store(#[source] store::Error),
    /// Hashing, signing or a task failed.
    #[error("{operation} failed")]
    Internal {
        /// What was being done.
        operation: &'static str,
        /// Why it failed.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl Error {
    pub(crate) fn invalid(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Invalid {
            field: field.into(),
            reason: reason.into(),
        }
    }

    pub(crate) fn internal(
        operation: &'static str,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self::Internal {
            operation,
            source: source.into(),
        }
    }

    /// A failure of the store that the operation at hand gives no meaning of its own.
    pub(crate) fn from_store(error: store::Error) -> Self {
        match error.kind() {
            store::ErrorKind::InvalidArgument => {
                Self::invalid("cursor", "no page of this list gave it")
            }
            store::ErrorKind::Unavailable => Self::Unavailable(error),
            _ => Self::Store(error),
        }
    }

    /// What kind of failure it is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::InvalidCredentials | Self::InvalidToken | Self::InvalidTicket => {
                ErrorKind::Unauthenticated
            }
            Self::Forbidden => ErrorKind::Forbidden,
            Self::UserNotFound | Self::BotNotFound => ErrorKind::NotFound,
            Self::UsernameTaken | Self::LastAdmin | Self::UserOwnsBots | Self::BotDeleting => {
                ErrorKind::Conflict
            }
            Self::TooManyAttempts { .. } | Self::TooManyTickets { .. } => {
                ErrorKind::TooManyRequests
            }
            Self::Invalid { .. } | Self::OutOfBounds(_) => ErrorKind::InvalidArgument,
            Self::MetadataTooLarge { .. } => ErrorKind::TooLarge,
            Self::Unavailable(_) => ErrorKind::Unavailable,
            Self::Store(_) | Self::Internal { .. } => ErrorKind::Internal,
        }
    }

    /// A stable machine word for clients.
    pub fn code(&self) -> &'static str {
        match self {
            Self::InvalidCredentials => "invalid_credentials",
            Self::InvalidToken => "invalid_token",
            Self::InvalidTicket => "invalid_ticket",
            Self::Forbidden => "forbidden",
            Self::UserNotFound => "user_not_found",
            Self::BotNotFound => "bot_not_found",
            Self::UsernameTaken => "username_taken",
            Self::LastAdmin => "last_admin",
            Self::UserOwnsBots => "user_owns_bots",
            Self::BotDeleting => "bot_deleting",
            Self::TooManyAttempts { .. } => "too_many_attempts",
            Self::TooManyTickets { .. } => "too_many_tickets",
            Self::Invalid { .. } => "invalid_request",
            Self::OutOfBounds(out) => out.code(),
            Self::MetadataTooLarge { .. } => "metadata_too_large",
            Self::Unavailable(_) => "database_unavailable",
            Self::Store(_) | Self::Internal { .. } => "internal",
        }
    }

    /// How long to wait before trying again, where that is known.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::TooManyAttempts { retry_after } | Self::TooManyTickets { retry_after } => {
                Some(*retry_after)
            }
            _ => None,
        }
    }
}
