//! The error of every use case: what failed, its kind and its stable code.

use crate::agent::AgentFailure;
use crate::replace::DataTrouble;
use botstead_runtime as runtime;
use botstead_store as store;
use botstead_types::{
    BotId, FilePath, ImageRef, InvalidValue, OperationId, OutOfBounds, PreservedId, RegistryName,
    VersionNumber,
};

/// What every use case returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The kind of a failure: what a caller can do about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// It does not exist, or not as far as this caller can tell.
    NotFound,
    /// The caller may not do it.
    Forbidden,
    /// Something else is under way or the state does not allow it.
    Conflict,
    /// The request is malformed.
    Invalid,
    /// The request is well-formed and can never work.
    Unprocessable,
    /// This backend cannot do it.
    Unsupported,
    /// The runtime, the database or a registry is not reachable; later it may be.
    Unavailable,
    /// Disk space, addresses or another resource of the host ran out.
    ResourceExhausted,
    /// The caller cancelled it.
    Cancelled,
    /// What was sent or asked for is larger than what is taken or given at once.
    TooLarge,
    /// The workspace is at a limit of its own.
    LimitReached,
    /// A bug or a broken host.
    Internal,
}

/// A failed use case. Its text may be shown to users; sources are for the log.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The bot does not exist, or not for this caller.
    #[error("bot {0} was not found")]
    BotNotFound(BotId),
    /// The bot has no workspace.
    #[error("bot {0} has no workspace; create one with POST on its container")]
    WorkspaceNotFound(BotId),
    /// No such version.
    #[error("bot {bot} has no version {version}")]
    VersionNotFound {
        /// The bot.
        bot: BotId,
        /// The version that was asked for.
        version: VersionNumber,
    },
    /// The version is recorded and the runtime does not have its files any more.
    #[error("version {version} of bot {bot} is recorded, but the runtime has lost its files")]
    VersionMissing {
        /// The bot.
        bot: BotId,
        /// The version.
        version: VersionNumber,
    },
    /// The workspace is recorded and the runtime has none of its files any more.
    #[error(
        "the runtime has lost the files of bot {0}'s workspace; roll back to a version, stop and start it to \
         begin anew from its head version or its image, or delete it"
    )]
    WorkspaceLost(BotId),
    /// The runtime has no such snapshot that the database does not know.
    #[error("there is no unrecorded snapshot {0:?}; list them for their names")]
    NothingToRecover(String),
    /// A pinned version is not deleted.
    #[error("version {0} is pinned; unpin it first")]
    VersionPinned(VersionNumber),
    /// The bot has a workspace already.
    #[error("bot {0} has a workspace; delete it first")]
    WorkspaceExists(BotId),
    /// There is no preserved data.
    #[error("no preserved data found")]
    NoPreservedData,
    /// There is no preserved archive of that id.
    #[error("there is no preserved archive {0}")]
    PreservedNotFound(PreservedId),
    /// `/data` is not a directory and does not lead to one, so that it can neither be saved nor sent.
    #[error("/data of the workspace {0}; make it a directory of its own, then try again")]
    DataNotDirectory(DataTrouble),
    /// The workspace has no such user, or group.
    #[error("the workspace has no user or group {0:?}")]
    NoSuchUser(String),
    /// A version, or a workspace, has no such path.
    #[error("there is no {0}")]
    PathNotFound(FilePath),
    /// The archive is damaged, hostile or too large; nothing was touched.
    #[error("{}", archive_words(.0))]
    Archive(#[source] botstead_archive::Error),
    /// Files of a snapshot could not be looked at or changed.
    #[error("{0}")]
    Overlay(#[source] botstead_overlay::Error),
    /// The host refused something.
    #[error("cannot {what}")]
    Host {
        /// What was tried.
        what: &'static str,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A copy of a running workspace does not fit on the disk.
    #[error(
        "{0}; a snapshot with mode \"stop\" copies nothing, and deleting versions, workspaces or \
         images makes room"
    )]
    CopyTooLarge(#[source] runtime::Error),
    /// No such operation.
    #[error("bot {bot} has no operation {operation}")]
    OperationNotFound {
        /// The bot.
        bot: BotId,
        /// The operation that was asked for.
        operation: OperationId,
    },
    /// The image is not local.
    #[error("image {0} is not local")]
    ImageNotFound(ImageRef),
    /// Nothing was set for the registry.
    #[error("nothing was set for {0} by this API; what is configured for it stays")]
    RegistryNotSet(RegistryName),
    /// The caller may see it, not do it.
    #[error("you are not allowed to {0}")]
    Forbidden(&'static str),
    /// The workspace exists and differs from what was asked for.
    #[error("the workspace exists with {0}")]
    ContainerExists(&'static str),
    /// A creation with other wishes is under way.
    #[error("a creation of this workspace with another request is under way: operation {0}")]
    CreationUnderWay(OperationId),
    /// Another operation holds the bot.
    #[error(
        "the bot is busy: operation {operation} ({what}) is under way; try again when it ended"
    )]
    Busy {
        /// What is under way.
        operation: OperationId,
        /// Its kind.
        what: &'static str,
    },
    /// The operation ended, or is at a step that cannot be interrupted.
    #[error("operation {0} cannot be cancelled any more")]
    NotCancellable(OperationId),
    /// The workspace must run for this.
    #[error("the workspace is not running; start it first")]
    NotRunning,
    /// A value of the request is not valid.
    #[error(transparent)]
    InvalidValue(#[from] InvalidValue),
    /// What was asked for, or is preferred, is outside of what this server allows.
    #[error(transparent)]
    OutOfBounds(#[from] OutOfBounds),
    /// The request cannot be right.
    #[error("{message}")]
    InvalidRequest {
        /// The stable code.
        code: &'static str,
        /// What is wrong.
        message: String,
    },
    /// The bot's recorded preferences cannot be read.
    #[error("the bot's metadata.workspace cannot be used: {0}")]
    PreferenceUnreadable(String),
    /// The workspace runs since before the server was replaced, and its agent does not know this.
    #[error(
        "the workspace's agent is older than the server and does not know {what}; stop and start the \
         workspace to get the server's"
    )]
    AgentOutdated {
        /// What was asked for.
        what: &'static str,
    },
    /// This backend, or this version of the server, cannot do it.
    #[error("{0}")]
    Unsupported(String),
    /// The host is short of disk space.
    #[error(
        "the host is short of disk space: {free_bytes} bytes are free and {needed_bytes} must stay \
         free; delete versions, workspaces or images, or enlarge the disk"
    )]
    InsufficientStorage {
        /// Free bytes on the filesystem of the data.
        free_bytes: u64,
        /// Bytes that must stay free.
        needed_bytes: u64,
    },
    /// The host's file system has hardly any inodes left, of which every file takes one.
    #[error(
        "the host is short of inodes, of which every file takes one: {free} are free and {needed} must stay \
         free; delete versions, workspaces or images, or make a file system with more of them"
    )]
    InsufficientInodes {
        /// Free inodes of the filesystem of the data.
        free: u64,
        /// Inodes that must stay free.
        needed: u64,
    },
    /// As many exports are under way as there may be, of all users or of this one.
    #[error("too many exports are under way; read those to their end, or try again later")]
    TooManyExports,
    /// Whoever reads an export took nothing of it for too long.
    #[error("the export was ended because nothing of it was taken for {} s", .0.as_secs())]
    ExportStalled(std::time::Duration),
    /// The server is shutting down.
    #[error("the server is shutting down; try again in a moment")]
    ShuttingDown,
    /// The server was restarted in the middle of it.
    #[error("the server was restarted before this was done; it was undone, ask again")]
    Interrupted,
    /// The database was older than the workspace, which had gone on since.
    #[error(
        "the workspace was newer than this operation when the server started, as after an older \
         database was put back; the workspace was left as it was"
    )]
    Superseded,
    /// What was read of the present state is not it any more.
    #[error("the workspace was given another state while it was read; ask again")]
    ReplacedMeanwhile,
    /// The operation could go neither forward nor back.
    #[error("this could be neither finished nor undone, and the workspace was left as it was: {0}")]
    GivenUp(String),
    /// The operation was cancelled and undone.
    #[error("the operation was cancelled and undone")]
    Cancelled,
    /// The pull took longer than its budget.
    #[error("pulling {image} took longer than {seconds} s and was given up")]
    PullTimedOut {
        /// The image.
        image: ImageRef,
        /// The budget in seconds.
        seconds: u64,
    },
    /// The pull was slow, others waited for its place, and there was no other one.
    #[error(
        "pulling {0} was given up: less than {mib} MiB in a second came from its registry or over this \
         host's line, and others waited for its place; try again later, or use another registry that has it",
        mib = crate::pulls::PACE >> 20
    )]
    PullGaveWay(ImageRef),
    /// The operation was joined by this caller and failed.
    #[error("{message}")]
    Joined {
        /// The kind of the failure.
        kind: ErrorKind,
        /// Its stable code.
        code: &'static str,
        /// Its text.
        message: String,
        /// What led to it.
        source: Option<Cause>,
    },
    /// The configuration of the image is larger than what is kept of one.
    #[error(
        "the configuration of image {image} has {bytes} bytes, and this server takes {most} \
         (images.max_config_bytes)"
    )]
    ImageConfigTooLarge {
        /// The image.
        image: ImageRef,
        /// How large it is.
        bytes: u64,
        /// How large it may be.
        most: u64,
    },
    /// No workspace can be made from the image.
    #[error("image {image} cannot be used: {reason}")]
    ImageUnusable {
        /// The image.
        image: ImageRef,
        /// What is wrong with it, and what to change.
        reason: String,
    },
    /// The image could not be pulled.
    #[error("{0}")]
    Pull(#[source] runtime::Error),
    /// A call to the runtime failed.
    #[error("{0}")]
    Runtime(#[source] runtime::Error),
    /// The workspace's agent refused it.
    #[error("{0}")]
    Agent(AgentFailure),
    /// The workspace has no such command or terminal.
    #[error("the workspace has no {what} {id}; it ended and was forgotten, or never was")]
    ProcessNotFound {
        /// `command` or `terminal`.
        what: &'static str,
        /// The id that was asked for.
        id: String,
    },
    /// The workspace should run and its agent does not answer.
    #[error(
        "the workspace does not answer; it may be starting or stopping, try again in a moment, and \
         restart it when that does not help"
    )]
    Unreachable(#[source] Option<botstead_bridge::Error>),
    /// The workspace's agent takes or answers nothing.
    #[error(
        "the workspace took and answered nothing for {} s; what was asked for may have been done in \
         part, so look before you try again, and restart the workspace when it stays like this",
        .0.as_secs()
    )]
    Stalled(std::time::Duration),
    /// As many calls to the bot's workspace are under way as there may be.
    #[error(
        "too many calls to this workspace are under way; try again when some ended, or end commands, \
         terminals, watches and transfers that are not needed"
    )]
    TooManyCalls,
    /// Files of an archive are not as they were or are.
    #[error("{0} files became shorter while they were archived; ask for the archive again")]
    FilesCut(u64),
    /// What the caller sent ended before it was whole.
    #[error("the data ended early; nothing was changed")]
    Interrupt(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A call to the store failed.
    #[error("{0}")]
    Store(#[source] store::Error),
    /// A task of the server ended abnormally.
    #[error("the operation ended abnormally")]
    Aborted(#[source] tokio::task::JoinError),
}

impl From<runtime::Error> for Error {
    fn from(error: runtime::Error) -> Self {
        Self::Runtime(error)
    }
}

impl From<store::Error> for Error {
    fn from(error: store::Error) -> Self {
        Self::Store(error)
    }
}

impl From<botstead_archive::Error> for Error {
    fn from(error: botstead_archive::Error) -> Self {
        use botstead_archive::{Error as Archive, Limit, Refusal};
        if let Archive::Refused { reason, .. } = &error
            && let Refusal::Limit(Limit::DiskBytes { most, needed }) = *reason
        {
            return Self::InsufficientStorage {
                free_bytes: most,
                needed_bytes: needed,
            };
        }
        Self::Archive(error)
    }
}

impl From<botstead_overlay::Error> for Error {
    fn from(error: botstead_overlay::Error) -> Self {
        Self::Overlay(error)
    }
}

/// What is wrong with an archive, with the reason: that is for the user, not for the log alone.
fn archive_words(error: &botstead_archive::Error) -> String {
    match error {
        botstead_archive::Error::Refused { reason, .. } => {
            format!("{error}: {reason}; nothing was changed")
        }
        error => error.to_string(),
    }
}

fn archive_kind(error: &botstead_archive::Error) -> ErrorKind {
    use botstead_archive::Error as Archive;
    match error {
        error if error.is_disk_full() => ErrorKind::ResourceExhausted,
        Archive::Refused { .. } | Archive::Excess { .. } => ErrorKind::Unprocessable,
        Archive::Cancelled => ErrorKind::Cancelled,
        _ => ErrorKind::Internal,
    }
}

impl Error {
    /// The kind of the failure.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::BotNotFound(_)
            | Self::WorkspaceNotFound(_)
            | Self::VersionNotFound { .. }
            | Self::OperationNotFound { .. }
            | Self::ProcessNotFound { .. }
            | Self::NoPreservedData
            | Self::PreservedNotFound(_)
            | Self::NothingToRecover(_)
            | Self::PathNotFound(_)
            | Self::RegistryNotSet(_)
            | Self::ImageNotFound(_) => ErrorKind::NotFound,
            Self::Forbidden(_) => ErrorKind::Forbidden,
            Self::ContainerExists(_)
            | Self::CreationUnderWay(_)
            | Self::Busy { .. }
            | Self::NotCancellable(_)
            | Self::VersionPinned(_)
            | Self::WorkspaceExists(_)
            | Self::Superseded
            | Self::ReplacedMeanwhile
            | Self::FilesCut(_)
            | Self::GivenUp(_)
            | Self::AgentOutdated { .. }
            | Self::NotRunning => ErrorKind::Conflict,
            Self::InvalidValue(_)
            | Self::OutOfBounds(_)
            | Self::InvalidRequest { .. }
            | Self::Interrupt(_) => ErrorKind::Invalid,
            Self::Agent(failure) => failure.kind(),
            Self::PreferenceUnreadable(_)
            | Self::VersionMissing { .. }
            | Self::WorkspaceLost(_)
            | Self::ImageUnusable { .. }
            | Self::DataNotDirectory(_)
            | Self::NoSuchUser(_) => ErrorKind::Unprocessable,
            Self::Unsupported(_) => ErrorKind::Unsupported,
            Self::InsufficientStorage { .. }
            | Self::InsufficientInodes { .. }
            | Self::CopyTooLarge(_) => ErrorKind::ResourceExhausted,
            Self::Archive(error) => archive_kind(error),
            Self::Overlay(error) if error.is_disk_full() => ErrorKind::ResourceExhausted,
            Self::Overlay(botstead_overlay::Error::NoPath(_)) => ErrorKind::Invalid,
            Self::Overlay(botstead_overlay::Error::InTheWay(_)) => ErrorKind::Unprocessable,
            Self::Overlay(botstead_overlay::Error::ChangedMeanwhile { .. }) => ErrorKind::Conflict,
            Self::Host { source, .. } if botstead_overlay::is_disk_full(source) => {
                ErrorKind::ResourceExhausted
            }
            Self::Overlay(_) | Self::Host { .. } => ErrorKind::Internal,
            Self::ShuttingDown
            | Self::Interrupted
            | Self::Unreachable(_)
            | Self::Stalled(_)
            | Self::PullTimedOut { .. }
            | Self::PullGaveWay(_) => ErrorKind::Unavailable,
            Self::Cancelled | Self::ExportStalled(_) => ErrorKind::Cancelled,
            Self::TooManyExports | Self::TooManyCalls => ErrorKind::LimitReached,
            Self::ImageConfigTooLarge { .. } => ErrorKind::TooLarge,
            Self::Joined { kind, .. } => *kind,
            Self::Runtime(error) | Self::Pull(error) => match error.kind() {
                runtime::ErrorKind::Conflict | runtime::ErrorKind::AlreadyExists => {
                    ErrorKind::Conflict
                }
                runtime::ErrorKind::NotFound
                | runtime::ErrorKind::InvalidArgument
                | runtime::ErrorKind::Unstartable
                | runtime::ErrorKind::PermissionDenied
                | runtime::ErrorKind::NotAllowed
                | runtime::ErrorKind::Corrupt => ErrorKind::Unprocessable,
                runtime::ErrorKind::TooLarge => ErrorKind::TooLarge,
                runtime::ErrorKind::Unsupported => ErrorKind::Unsupported,
                runtime::ErrorKind::Unavailable => ErrorKind::Unavailable,
                runtime::ErrorKind::ResourceExhausted => ErrorKind::ResourceExhausted,
                runtime::ErrorKind::Cancelled => ErrorKind::Cancelled,
                runtime::ErrorKind::Internal => ErrorKind::Internal,
            },
            Self::Store(error) => match error.kind() {
                store::ErrorKind::NotFound => ErrorKind::NotFound,
                store::ErrorKind::AlreadyExists | store::ErrorKind::Conflict => ErrorKind::Conflict,
                store::ErrorKind::InvalidArgument => ErrorKind::Invalid,
                store::ErrorKind::ResourceExhausted => ErrorKind::ResourceExhausted,
                store::ErrorKind::Unavailable => ErrorKind::Unavailable,
                store::ErrorKind::Internal => ErrorKind::Internal,
            },
            Self::Aborted(_) => ErrorKind::Internal,
        }
    }

    /// A stable machine word for the failure.
    pub fn code(&self) -> &'static str {
        match self {
            Self::BotNotFound(_) => "bot_not_found",
            Self::WorkspaceNotFound(_) => "workspace_not_found",
            Self::VersionNotFound { .. } => "version_not_found",
            Self::VersionMissing { .. } => "version_missing",
            Self::OperationNotFound { .. } => "operation_not_found",
            Self::ImageNotFound(_) => "image_not_found",
            Self::RegistryNotSet(_) => "registry_not_set",
            Self::ProcessNotFound {
                what: "terminal", ..
            } => "session_not_found",
            Self::ProcessNotFound { .. } => "exec_not_found",
            Self::Agent(failure) => failure.code(),
            Self::Unreachable(_) => "workspace_unreachable",
            Self::Stalled(_) => "workspace_stalled",
            Self::TooManyCalls => "too_many_calls",
            Self::Interrupt(_) => "incomplete_body",
            Self::Forbidden(_) => "forbidden",
            Self::ContainerExists(_) => "container_exists",
            Self::CreationUnderWay(_) => "creation_under_way",
            Self::Busy { .. } => "busy",
            Self::NotCancellable(_) => "not_cancellable",
            Self::NotRunning => "workspace_not_running",
            Self::InvalidValue(_) => "invalid_value",
            Self::OutOfBounds(out) => out.code(),
            Self::InvalidRequest { code, .. } | Self::Joined { code, .. } => code,
            Self::PreferenceUnreadable(_) => "preference_unreadable",
            Self::Unsupported(_) => "unsupported",
            Self::AgentOutdated { .. } => "agent_outdated",
            Self::VersionPinned(_) => "version_pinned",
            Self::WorkspaceExists(_) => "container_exists",
            Self::NoPreservedData | Self::PreservedNotFound(_) => "no_preserved_data",
            Self::DataNotDirectory(_) => "data_not_a_directory",
            Self::NoSuchUser(_) => "no_such_user",
            Self::WorkspaceLost(_) => "workspace_lost",
            Self::NothingToRecover(_) => "nothing_to_recover",
            Self::Superseded => "superseded",
            Self::ReplacedMeanwhile => "replaced_meanwhile",
            Self::FilesCut(_) => "files_cut",
            Self::GivenUp(_) => "given_up",
            Self::PathNotFound(_) => "path_not_found",
            Self::InsufficientStorage { .. }
            | Self::InsufficientInodes { .. }
            | Self::CopyTooLarge(_) => "insufficient_storage",
            Self::Archive(error) => match archive_kind(error) {
                ErrorKind::ResourceExhausted => "insufficient_storage",
                ErrorKind::Unprocessable => "archive_refused",
                ErrorKind::Cancelled => "cancelled",
                _ => "internal",
            },
            Self::Overlay(_) | Self::Host { .. } => match self.kind() {
                ErrorKind::ResourceExhausted => "insufficient_storage",
                ErrorKind::Invalid => "invalid_value",
                ErrorKind::Unprocessable => "path_in_the_way",
                ErrorKind::Conflict => "changed_meanwhile",
                _ => "internal",
            },
            Self::TooManyExports => "too_many_exports",
            Self::ExportStalled(_) => "export_stalled",
            Self::ShuttingDown => "shutting_down",
            Self::Interrupted => "interrupted",
            Self::Cancelled => "cancelled",
            Self::PullTimedOut { .. } => "pull_timed_out",
            Self::PullGaveWay(_) => "pull_gave_way",
            Self::ImageConfigTooLarge { .. } => "image_too_large",
            Self::ImageUnusable { .. } => "image_unusable",
            Self::Pull(error) if error.kind() == runtime::ErrorKind::NotFound => "image_not_found",
            Self::Pull(error) if error.kind() == runtime::ErrorKind::Unavailable => {
                "registry_unreachable"
            }
            Self::Runtime(error) | Self::Pull(error) => match error.kind() {
                runtime::ErrorKind::NotFound => "runtime_not_found",
                runtime::ErrorKind::AlreadyExists | runtime::ErrorKind::Conflict => {
                    "runtime_conflict"
                }
                runtime::ErrorKind::InvalidArgument => "invalid_value",
                runtime::ErrorKind::Unstartable => "cannot_start",
                runtime::ErrorKind::Unsupported => "unsupported",
                runtime::ErrorKind::Unavailable => "runtime_unavailable",
                runtime::ErrorKind::ResourceExhausted => "insufficient_storage",
                runtime::ErrorKind::PermissionDenied => "registry_denied",
                runtime::ErrorKind::NotAllowed => "registry_not_allowed",
                runtime::ErrorKind::TooLarge => "image_too_large",
                runtime::ErrorKind::Corrupt => "content_corrupt",
                runtime::ErrorKind::Cancelled => "cancelled",
                runtime::ErrorKind::Internal => "runtime_failed",
            },
            Self::Store(error) => match error.kind() {
                store::ErrorKind::Unavailable => "database_unavailable",
                store::ErrorKind::ResourceExhausted => "insufficient_storage",
                store::ErrorKind::InvalidArgument => "invalid_cursor",
                store::ErrorKind::NotFound => "not_found",
                store::ErrorKind::AlreadyExists | store::ErrorKind::Conflict => "conflict",
                store::ErrorKind::Internal => "internal",
            },
            Self::Aborted(_) => "internal",
        }
    }

    /// A copy of the failure for another caller who waited for the same operation.
    pub fn to_joined(&self) -> Self {
        Self::Joined {
            kind: self.kind(),
            code: self.code(),
            message: self.to_string(),
            source: std::error::Error::source(self).map(|error| Cause(runtime::chain(error))),
        }
    }

    /// The text with the texts of all its sources, for the log.
    pub(crate) fn chain(&self) -> String {
        runtime::chain(self)
    }
}

/// An error with all its sources, as text.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Cause(String);
