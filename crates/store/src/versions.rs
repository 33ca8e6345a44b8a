//! Versions of workspaces.

use crate::Result;
use async_trait::async_trait;
use botstead_types::{BotId, RecordedImage, SnapshotKey, VersionNumber, VersionSource};
use chrono::{DateTime, Utc};

/// A version of a workspace: a committed snapshot that the server made and recorded. It outlives
/// the container's row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VersionRecord {
    /// The bot.
    pub bot: BotId,
    /// Its number.
    pub number: VersionNumber,
    /// The name that the user gave it.
    pub name: Option<String>,
    /// Why it was made.
    pub source: VersionSource,
    /// The committed snapshot.
    pub snapshot: SnapshotKey,
    /// The snapshotter of that snapshot.
    pub snapshotter: String,
    /// The version that its state grew from. Recorded, never derived from the runtime.
    pub parent: Option<VersionNumber>,
    /// The image of the workspace at that time: a rollback brings it back too.
    pub image: RecordedImage,
    /// What the snapshot occupies without its parents, in bytes, once that was measured.
    pub size_bytes: Option<u64>,
    /// A pinned version is not deleted.
    pub pinned: bool,
    /// When it was made.
    pub created_at: DateTime<Utc>,
}

/// What changes in a version; absent fields stay.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VersionPatch {
    /// A new name, or none.
    pub name: Option<Option<String>>,
    /// Whether it is pinned.
    pub pinned: Option<bool>,
    /// What it occupies, in bytes.
    pub size_bytes: Option<u64>,
    /// Another version that its state grew from, or none: its own was deleted.
    pub parent: Option<Option<VersionNumber>>,
}

/// Which snapshot a version is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VersionSnapshot {
    /// Whose it is.
    pub bot: BotId,
    /// Its number.
    pub number: VersionNumber,
    /// The snapshot.
    pub snapshot: SnapshotKey,
    /// Whether it is pinned.
    pub pinned: bool,
}

/// Versions. They are added and removed by [`crate::Transactions::apply`].
#[async_trait]
pub trait Versions: Send + Sync {
    /// A version.
    ///
    /// # Errors
    /// `NotFound`.
    async fn get(&self, bot: BotId, number: VersionNumber) -> Result<VersionRecord>;

    /// All versions of a bot, by number; empty for a bot that has none or does not exist.
    ///
    /// # Errors
    /// `Unavailable` when the database does not answer.
    async fn list(&self, bot: BotId) -> Result<Vec<VersionRecord>>;

    /// The snapshots of all versions of all bots, in no order.
    ///
    /// # Errors
    /// `Unavailable` when the database does not answer.
    async fn snapshots(&self) -> Result<Vec<VersionSnapshot>>;
}
