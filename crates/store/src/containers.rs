//! Workspace containers: one row per bot.

use crate::Result;
use async_trait::async_trait;
use botstead_types::{
    BotId, CdiDevice, ContainerId, DesiredState, Limits, RecordedImage, SnapshotKey, VersionNumber,
};
use chrono::{DateTime, Utc};

/// What is recorded of a workspace's container: everything that is needed to make it again.
#[derive(Debug, Clone, PartialEq)]
pub struct ContainerRecord {
    /// The bot.
    pub bot: BotId,
    /// The container's id in the runtime.
    pub container: ContainerId,
    /// The runtime's namespace.
    pub namespace: String,
    /// The snapshotter of its snapshot.
    pub snapshotter: String,
    /// The image, resolved when the workspace was made from it.
    pub image: RecordedImage,
    /// The active snapshot.
    pub snapshot: SnapshotKey,
    /// The version that the active state came from.
    pub head_version: Option<VersionNumber>,
    /// Whether the active state may differ from the head version (or the image where there is
    /// none): set before every start, cleared by whatever makes them equal.
    pub dirty: bool,
    /// What the user wants.
    pub desired: DesiredState,
    /// Whether it ever ran.
    pub started: bool,
    /// Devices, by their CDI names.
    pub devices: Vec<CdiDevice>,
    /// Limits as asked for, without defaults.
    pub limits: Limits,
    /// Why the last operation or start failed, until one succeeds.
    pub last_error: Option<String>,
    /// When the workspace was made.
    pub created_at: DateTime<Utc>,
    /// When the row last changed.
    pub updated_at: DateTime<Utc>,
}

/// What changes in a container's row; absent fields stay.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ContainerPatch {
    /// Another image.
    pub image: Option<RecordedImage>,
    /// Another active snapshot.
    pub snapshot: Option<SnapshotKey>,
    /// Another head version, or none.
    pub head_version: Option<Option<VersionNumber>>,
    /// Whether the active state may differ from the head version.
    pub dirty: Option<bool>,
    /// What the user wants.
    pub desired: Option<DesiredState>,
    /// Whether it ever ran.
    pub started: Option<bool>,
    /// Other limits.
    pub limits: Option<Limits>,
    /// Why the last operation failed, or that it did not.
    pub last_error: Option<Option<String>>,
}

/// Workspace containers. They are changed by [`crate::Transactions::apply`].
#[async_trait]
pub trait Containers: Send + Sync {
    /// A bot's container.
    ///
    /// # Errors
    /// `NotFound`.
    async fn get(&self, bot: BotId) -> Result<ContainerRecord>;

    /// All containers, by bot.
    ///
    /// # Errors
    /// `Unavailable` when the database does not answer.
    async fn list(&self) -> Result<Vec<ContainerRecord>>;
}
