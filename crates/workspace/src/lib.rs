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
mod compare;
mod config;
mod containers;
mod create;
mod data;
mod delete;
mod disk;
mod error;
mod exec;
mod faults;
mod files;
mod fork;
mod garbage;
mod host_network;
mod image_change;
mod images;
mod info;
mod layers;
mod leftovers;
mod listing;
mod locks;
mod metrics;
mod model;
mod notes;
mod operations;
mod out_of_memory;
mod pools;
mod power;
mod preferences;
mod processes;
mod pulls;
mod reconcile;
mod recovery;
mod registries;
mod replace;
mod resolve;
mod rollback;
mod service;
mod shares;
mod shutdown;
mod snapshot;
mod spec;
mod standing;
mod starts;
mod terminal;
mod users;
mod versions;

pub use agent::{AgentFailure, AgentInfo};
pub use compare::{PathChange, PathChanges, VersionOrCurrent};
pub use config::WorkspaceConfig;
pub use data::{
    ArchiveFormat, ImportMode, ImportOptions, PreservedArchive, UnclaimedArchive,
    unclaimed_archives,
};
pub use disk::Reserve;
pub use error::{Cause, Error, ErrorKind, Result};
pub use exec::{
    CommandEvent, ExecExit, ExecInfo, ExecOutcome, ExecRequest, Listed, OutputGap, OutputPosition,
    OutputStream, TerminalInfo,
};
pub use faults::FAULT_POINTS;
pub use files::{
    ChangeFile, FileActor, FileChange, FileContent, FileEntry, FileKind, FileList, FilePart,
    ListFiles, ReadFile, SearchEvent, SearchFiles, SearchLine, SkipReason, SkippedFile, WatchEvent,
    WriteFile,
};
pub use image_change::ImageChange;
pub use leftovers::{Leftover, discard_leftover, find_leftovers, remove_leftover};
pub use model::{
    CopyStatistics, CreateEvent, CreateRequest, CreatedVersion, CreatedWorkspace, DeleteRequest,
    Health, ImageEvent, ListedSnapshot, OperationInfo, OperationStatistics, OutOfMemory,
    PullPolicy, RollbackOutcome, SnapshotList, SnapshotMode, Statistics, StorageUsage, VersionTree,
    WorkspaceInfo, WorkspaceMetrics,
};
pub use processes::{ProcessInfo, Signalled};
pub use recovery::{Fate, UnrecordedSnapshot};
pub use replace::DataTrouble;
pub use service::Workspaces;
#[doc(hidden)]
pub use shares::{Share, Shares};
pub use terminal::{TerminalConnection, TerminalInput, TerminalRequest, TerminalSize};
pub use versions::VersionUpdate;

// What use cases give that belongs to another crate: callers need no dependency on those.
pub use botstead_lineage::RetentionRules;
pub use botstead_overlay::{Change as PathChangeKind, Kind as PathKind};
pub use botstead_runtime::{
    CopyReport, CpuUsage, Credentials, Image, LayerProgress, MemoryUsage, Registry,
    RegistrySettings, RegistrySource, SignedInBy, Usage,
};
pub use botstead_store::{Operation, OperationKind, OperationState, VersionRecord};
