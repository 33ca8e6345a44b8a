//! What use cases take and give.

use crate::agent::AgentInfo;
use botstead_runtime::{CopyReport, Image, LayerProgress, Usage};
use botstead_store::{Operation, OperationKind, OperationState, VersionRecord};
use botstead_types::{
    CdiDevice, ContainerId, ContainerStatus, ImageRef, Limits, SnapshotKey, SnapshotKind,
    VersionNumber, VersionSource,
};
use chrono::{DateTime, Utc};
use std::collections::BTreeMap;

/// When to ask the registry for an image.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum PullPolicy {
    /// Only when it is not local.
    #[default]
    IfNotPresent,
    /// Always: a moved tag is followed.
    Always,
}

/// Wishes for a new workspace. What is absent comes from the bot's preferences, then the server's
/// defaults.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CreateRequest {
    /// The snapshotter; anything but the backend's own is refused.
    pub snapshotter: Option<String>,
    /// Whether preserved data is brought back.
    pub restore_data: Option<bool>,
    /// The image.
    pub image: Option<ImageRef>,
    /// Devices; an empty list means none, whatever the bot prefers.
    pub devices: Option<Vec<CdiDevice>>,
    /// Limits.
    pub limits: Option<Limits>,
    /// When to ask the registry.
    pub pull: PullPolicy,
}

/// What a creation reports, in this order: `Pulling`, any number of `PullProgress`, `Creating`,
/// `Restoring` only when preserved data is brought back, and exactly one of `Complete` and `Failed`.
#[derive(Debug)]
pub enum CreateEvent {
    /// The image is being looked up or pulled.
    Pulling {
        /// The image.
        image: ImageRef,
    },
    /// How far the pull is.
    PullProgress {
        /// Its layers.
        layers: Vec<LayerProgress>,
    },
    /// The container is being made.
    Creating,
    /// Preserved data is being brought back.
    Restoring,
    /// The workspace is there.
    Complete(CreatedWorkspace),
    /// It failed and was undone.
    Failed(crate::Error),
}

/// A workspace that a creation made or found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreatedWorkspace {
    /// The container.
    pub container: ContainerId,
    /// Its image.
    pub image: ImageRef,
    /// The digest that the image's name stood for when the workspace was made from it, `sha256:...`.
    pub image_digest: String,
    /// Its snapshotter.
    pub snapshotter: String,
    /// Its devices.
    pub devices: Vec<CdiDevice>,
    /// Whether it runs.
    pub started: bool,
    /// Whether preserved data was brought back.
    pub data_restored: bool,
    /// Whether preserved data exists now.
    pub has_preserved_data: bool,
}

/// A workspace as it is.
#[derive(Debug, Clone, PartialEq)]
pub struct WorkspaceInfo {
    /// The container.
    pub container: ContainerId,
    /// Its image.
    pub image: ImageRef,
    /// The digest that the image's name stood for when the workspace was made from it, `sha256:...`.
    pub image_digest: String,
    /// What it is doing.
    pub status: ContainerStatus,
    /// The runtime's namespace.
    pub namespace: String,
    /// The container's path: where the bot's own files live inside.
    pub container_path: String,
    /// Its devices.
    pub devices: Vec<CdiDevice>,
    /// Its limits, defaults applied.
    pub limits: Limits,
    /// Whether its task runs.
    pub task_running: bool,
    /// Whether it can be reached: its task runs, its network is up and its agent answers.
    pub reachable: bool,
    /// Its agent, where it answers.
    pub agent: Option<AgentInfo>,
    /// Whether preserved data exists.
    pub has_preserved_data: bool,
    /// The version that its state came from.
    pub head_version: Option<VersionNumber>,
    /// Why the last operation failed.
    pub last_error: Option<String>,
    /// That processes of it were killed for lack of memory, where that happened.
    pub out_of_memory: Option<OutOfMemory>,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When it last changed.
    pub updated_at: DateTime<Utc>,
}

/// Processes that the kernel killed for lack of memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutOfMemory {
    /// How many of the task that runs; 0 also where the kernel does not count.
    pub kills: u64,
    /// When the last one was noticed, also of an earlier task.
    pub last_at: Option<DateTime<Utc>>,
}

/// What a workspace uses.
#[derive(Debug, Clone, PartialEq)]
pub struct WorkspaceMetrics {
    /// The backend's name.
    pub backend: String,
    /// Why there are no figures, where the backend or host cannot tell.
    pub unsupported_reason: Option<String>,
    /// Whether the bot has a workspace.
    pub exists: bool,
    /// Whether its task runs.
    pub task_running: bool,
    /// Usage of the running task.
    pub usage: Option<Usage>,
    /// Processor usage between the last two samples, 100 = one core; 0 with only one sample.
    pub cpu_percent: f64,
    /// When the usage was read.
    pub sampled_at: Option<DateTime<Utc>>,
    /// What the writable layer occupies.
    pub storage: Option<StorageUsage>,
}

/// What a workspace's writable layer occupies. Measured off the request, at most once a minute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StorageUsage {
    /// Bytes on disk.
    pub used_bytes: u64,
    /// When it was measured.
    pub sampled_at: DateTime<Utc>,
}

/// Wishes for the end of a workspace.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DeleteRequest {
    /// Keep `/data` as an archive; nothing is deleted unless that was done.
    pub preserve_data: bool,
    /// Remove the versions too.
    pub delete_versions: bool,
}

/// How the state of a workspace that runs is kept.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum SnapshotMode {
    /// It is copied while the workspace goes on.
    #[default]
    Live,
    /// The workspace is stopped for it, and nothing is copied.
    Stop,
}

/// A version that was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreatedVersion {
    /// The container.
    pub container: ContainerId,
    /// The version as it was recorded.
    pub version: VersionRecord,
    /// What copying it took, where the workspace went on meanwhile.
    pub report: Option<CopyReport>,
}

/// A bot's snapshots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotList {
    /// The snapshotter of the container.
    pub snapshotter: String,
    /// The snapshots, oldest first.
    pub snapshots: Vec<ListedSnapshot>,
}

/// A snapshot in the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedSnapshot {
    /// The name to show.
    pub name: String,
    /// The name that the user gave.
    pub display_name: Option<String>,
    /// The runtime's name.
    pub runtime_name: SnapshotKey,
    /// The runtime's name of the parent.
    pub parent: Option<SnapshotKey>,
    /// What it is.
    pub kind: SnapshotKind,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When it last changed.
    pub updated_at: DateTime<Utc>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Why it was made; `None` for a layer of an image or the active snapshot.
    pub source: Option<VersionSource>,
    /// The version that it is.
    pub version: Option<VersionNumber>,
    /// Whether it is a recorded version.
    pub managed: bool,
}

/// What a rollback did or would do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RollbackOutcome {
    /// The version whose state the workspace has now.
    pub rolled_back_to: VersionNumber,
    /// The version that keeps the state before, where that differed from every version. In a dry
    /// run the number that it would get.
    pub safety_version: Option<VersionNumber>,
}

/// The versions of a workspace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VersionTree {
    /// The version that the present state came from.
    pub head_version: Option<VersionNumber>,
    /// All versions, parents before children.
    pub versions: Vec<VersionRecord>,
}

/// An operation, with how far it is where it runs in this server.
#[derive(Debug, Clone, PartialEq)]
pub struct OperationInfo {
    /// The journal's record.
    pub operation: Operation,
    /// The layers of a pull under way.
    pub progress: Option<Vec<LayerProgress>>,
    /// Whether it can be cancelled now.
    pub cancellable: bool,
}

/// What a pull of an image reports: `Pulling`, any number of `PullProgress`, and exactly one of
/// `Complete` and `Failed`.
#[derive(Debug)]
pub enum ImageEvent {
    /// The image is being looked up or pulled.
    Pulling {
        /// The image.
        image: ImageRef,
    },
    /// How far the pull is.
    PullProgress {
        /// Its layers.
        layers: Vec<LayerProgress>,
    },
    /// The image is local.
    Complete(Box<Image>),
    /// It failed; nothing changed.
    Failed(crate::Error),
}

/// Whether what the use cases depend on answers; `Err` says what does not, for the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// The database.
    pub database: Result<(), String>,
    /// The runtime, with its version.
    pub runtime: Result<String, String>,
}

/// Counts since the server started, for monitoring.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Statistics {
    /// Finished operations.
    pub operations: Vec<OperationStatistics>,
    /// Live snapshots.
    pub live_copies: CopyStatistics,
    /// Operations under way.
    pub operations_running: u64,
    /// Workspaces that exist.
    pub workspaces: u64,
    /// Workspaces whose task runs, as far as the server knows.
    pub workspaces_running: u64,
    /// Recorded versions that the runtime does not have, seen at start and in listings.
    pub versions_missing: u64,
    /// Processes of workspaces that were killed for lack of memory.
    pub out_of_memory_kills: u64,
    /// Workspaces that are recorded and of which the runtime has no files any more.
    pub workspaces_lost: u64,
}

/// Counts of live snapshots.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct CopyStatistics {
    /// How many there were.
    pub count: u64,
    /// How long workspaces stood still for them together, in seconds.
    pub freeze_seconds: f64,
    /// How long they took together, in seconds.
    pub total_seconds: f64,
    /// Bytes that were copied.
    pub copied_bytes: u64,
}

/// Counts of one kind of operation with one outcome.
#[derive(Debug, Clone, PartialEq)]
pub struct OperationStatistics {
    /// The kind.
    pub kind: OperationKind,
    /// The outcome.
    pub outcome: OperationState,
    /// How many ended so.
    pub count: u64,
    /// Their time together, in seconds.
    pub seconds: f64,
}
