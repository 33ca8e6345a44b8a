//! The use cases of a bot's workspace: the crate that other services embed.

mod error;
mod model;

pub use error::{Error, ErrorKind, Result};
pub use model::{
    CreateEvent, CreateRequest, CreatedVersion, CreatedWorkspace, DeleteRequest, ExecOutcome,
    ExecRequest, Health, ImageEvent, ListedSnapshot, OperationInfo, OperationStatistics,
    PullPolicy, RollbackOutcome, SnapshotList, Statistics, StorageUsage, VersionTree,
    WorkspaceInfo, WorkspaceMetrics,
};
