//! The use cases of a bot's workspace: the crate that other services embed.
//!
//! [`Workspaces`] creates, starts, stops, measures, snapshots, rolls back and deletes workspaces on
//! any [`botstead_runtime::Runtime`], keeps its records in any [`botstead_store::Store`], and asks
//! `botstead-authz` beside each effect. It promises what `docs/ARCHITECTURE.md` calls crash
//! safety: whatever takes several steps is written to the journal first, and killing the process
//! at any point ends, after the next [`Workspaces::open`], in the state before or the state after.
//!
//! What is deliberately absent: HTTP, users and passwords, and any knowledge of which runtime or
//! database it works on. `examples/embed.rs` is a complete program.

mod agent;
mod config;
mod create;
mod delete;
mod disk;
mod error;
mod exec;
mod faults;
mod files;
mod images;
mod info;
mod layers;
mod listing;
mod locks;
mod metrics;
mod model;
mod operations;
mod power;
mod preferences;
mod reconcile;
mod rollback;
mod service;
mod snapshot;
mod spec;
mod terminal;

pub use agent::{AgentFailure, AgentInfo};
pub use config::WorkspaceConfig;
pub use error::{Error, ErrorKind, Result};
pub use exec::{CommandEvent, ExecExit, ExecInfo, ExecOutcome, ExecRequest, TerminalInfo};
pub use faults::FAULT_POINTS;
pub use files::{
    FileChange, FileContent, FileEntry, FileKind, FileList, FilePart, ListFiles, ReadFile,
    SearchEvent, SearchFiles, SearchLine, WatchEvent, WriteFile,
};
pub use model::{
    CreateEvent, CreateRequest, CreatedVersion, CreatedWorkspace, DeleteRequest, Health,
    ImageEvent, ListedSnapshot, OperationInfo, OperationStatistics, PullPolicy, RollbackOutcome,
    SnapshotList, Statistics, StorageUsage, VersionTree, WorkspaceInfo, WorkspaceMetrics,
};
pub use service::Workspaces;
pub use terminal::{TerminalConnection, TerminalInput, TerminalSize};

// What use cases give that belongs to a port or the store: callers need no dependency on those.
pub use botstead_runtime::{CpuUsage, Image, LayerProgress, MemoryUsage, Usage};
pub use botstead_store::{Operation, OperationKind, OperationState, VersionRecord};
