//! Filesystem states.

use crate::{Access, Error, ErrorKind, Result, Tree};
use async_trait::async_trait;
use botstead_types::{ContainerId, LeaseId, SnapshotKey, SnapshotKind};
use chrono::{DateTime, Utc};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// A snapshot as the runtime has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Its key.
    pub key: SnapshotKey,
    /// The snapshot that it was prepared from; `None` for a base layer.
    pub parent: Option<SnapshotKey>,
    /// What it is.
    pub kind: SnapshotKind,
    /// Its labels, without those by which the adapter protects it.
    pub labels: BTreeMap<String, String>,
    /// Whether it is protected from collection by itself, and not only by what builds on it or by a
    /// lease. [`Snapshots::release`] ends that.
    pub rooted: bool,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When it last changed its kind or labels.
    pub updated_at: DateTime<Utc>,
}

/// How a snapshot is mounted on this host (the arguments of mount(2)).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotMount {
    /// The filesystem type: `overlay` or `bind`.
    pub kind: String,
    /// The device or directory.
    pub source: String,
    /// The options.
    pub options: Vec<String>,
}

impl SnapshotMount {
    /// The directory that holds what the active snapshot changed, where there is one.
    pub fn upper_dir(&self) -> Option<PathBuf> {
        self.option("upperdir=").map(PathBuf::from)
    }

    /// The rest of the first option that begins so.
    pub fn option(&self, prefix: &str) -> Option<&str> {
        self.options
            .iter()
            .find_map(|option| option.strip_prefix(prefix))
    }
}

/// What to copy, and how the copy is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotCopy {
    /// The active snapshot.
    pub source: SnapshotKey,
    /// The container whose task may be writing to it; `None` when nothing does.
    pub container: Option<ContainerId>,
    /// The name of the committed copy.
    pub name: SnapshotKey,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// This many bytes of the disk must be free afterwards.
    pub reserve_bytes: u64,
    /// Whether it is on the disk when this returns, as a version must be. One that is only read and goes
    /// soon need not be.
    pub durable: bool,
}

/// What a copy did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CopyReport {
    /// How long the task's processes stood still; zero when there was none.
    pub freeze: Duration,
    /// How long all of it took.
    pub total: Duration,
    /// Bytes of files that were copied, those copied again included.
    pub copied_bytes: u64,
    /// Files that were copied.
    pub files: u64,
}

/// What a snapshot occupies itself, without its parents.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SnapshotUsage {
    /// Bytes on disk.
    pub size_bytes: u64,
    /// Files and directories.
    pub inodes: u64,
}

/// Filesystem states.
///
/// An active snapshot is protected from collection until it is committed or removed: it may hold the
/// only copy of somebody's work. A snapshot made by [`Snapshots::commit`] is protected from that very
/// call on until [`Snapshots::release`]. A parent lives as long as anything builds on it.
#[async_trait]
pub trait Snapshots: Send + Sync {
    /// Ends what processes before this one left half-way. To be called at its start by whoever alone
    /// changes the namespace, before anything else: nobody else may, as what they found half-way could be
    /// under way.
    ///
    /// # Errors
    /// When something could not be ended: nothing may be started then.
    async fn settle(&self) -> Result<()> {
        Ok(())
    }

    /// Prepares an active snapshot on a committed parent, or an empty one, and tells how it is mounted
    /// where it can be, for [`crate::Tasks::create_on`]. Again: `AlreadyExists`.
    ///
    /// # Errors
    /// `NotFound` when there is no such parent, `InvalidArgument` when the parent is not
    /// committed.
    async fn prepare(
        &self,
        lease: &LeaseId,
        key: &SnapshotKey,
        parent: Option<&SnapshotKey>,
        labels: &BTreeMap<String, String>,
    ) -> Result<Vec<SnapshotMount>>;

    /// Freezes the active snapshot `key` under the name `name`; the key is free afterwards. The
    /// parent and the labels given here are the new one's. Again: `NotFound` for the key, and
    /// `AlreadyExists` when the key was prepared anew in between.
    ///
    /// The caller makes sure that nothing writes to it: a snapshot committed under a running task
    /// would go on changing.
    ///
    /// # Errors
    /// `NotFound` when there is no such active snapshot, `AlreadyExists` when the name is taken.
    async fn commit(
        &self,
        lease: &LeaseId,
        key: &SnapshotKey,
        name: &SnapshotKey,
        labels: &BTreeMap<String, String>,
    ) -> Result<()>;

    /// One snapshot.
    ///
    /// # Errors
    /// `NotFound`.
    async fn get(&self, key: &SnapshotKey) -> Result<Snapshot>;

    /// All snapshots of the backend's snapshotter, image layers included, in no order.
    ///
    /// # Errors
    /// `Unavailable` when the runtime does not answer.
    async fn list(&self) -> Result<Vec<Snapshot>>;

    /// Those with this label, in no order: what one of many workspaces has must not cost what all of
    /// them do.
    ///
    /// # Errors
    /// `Unavailable` when the runtime does not answer.
    async fn labelled(&self, label: &str, value: &str) -> Result<Vec<Snapshot>>;

    /// Makes `name`, a committed snapshot on `base` with the files that `source` has: the layers
    /// between them become one. `base` is an ancestor of `source`, and both are committed. The new
    /// one is protected as one made by [`Snapshots::commit`]. Again: no change.
    ///
    /// # Errors
    /// `NotFound` for `source` or `base`, `InvalidArgument` when `base` is no ancestor,
    /// `ResourceExhausted` when the disk is full, `Unsupported` where layers cannot be merged.
    async fn flatten(
        &self,
        lease: &LeaseId,
        source: &SnapshotKey,
        base: &SnapshotKey,
        name: &SnapshotKey,
        labels: &BTreeMap<String, String>,
    ) -> Result<()> {
        let _ = (lease, base, name, labels);
        Err(Error::new(
            ErrorKind::Unsupported,
            "flatten snapshot",
            source,
        ))
    }

    /// Commits a copy of what an active snapshot holds now, on the same parent; the active one stays
    /// as it is. A task that writes to it goes on: its processes stand still for some milliseconds,
    /// whatever happens to the caller meanwhile, and what they had written before is in the copy.
    /// The copy is protected as one made by [`Snapshots::commit`]. Again: no change, and a report of
    /// zeros.
    ///
    /// # Errors
    /// `NotFound` when there is no such active snapshot, `ResourceExhausted` when less than the
    /// reserve would stay free (nothing was copied then) or the disk is full, `Unavailable` when the
    /// processes cannot be made to stand still, `Cancelled`, `Unsupported` where
    /// [`crate::Capabilities::live_copies`] is false.
    async fn commit_copy(
        &self,
        lease: &LeaseId,
        copy: &SnapshotCopy,
        cancel: &CancellationToken,
    ) -> Result<CopyReport> {
        let _ = (lease, cancel);
        Err(Error::new(
            ErrorKind::Unsupported,
            "copy snapshot",
            &copy.source,
        ))
    }

    /// The directories of a snapshot's layers, from the bottom up; the last one of an active snapshot
    /// is its writable one. They stay as long as the snapshot does, and a committed one as long as the
    /// lease, also when it is released meanwhile.
    ///
    /// # Errors
    /// `NotFound`; `Unsupported` where [`crate::Capabilities::files`] is false.
    async fn layers(&self, lease: &LeaseId, key: &SnapshotKey) -> Result<Vec<PathBuf>> {
        let _ = lease;
        Err(Error::new(ErrorKind::Unsupported, "find layers of", key))
    }

    /// Opens the files of a snapshot on this host, where nobody else sees them. For writing it must
    /// be active, with no task and no other opening of it. A committed one stays as long as the lease,
    /// also when it is released meanwhile.
    ///
    /// # Errors
    /// `NotFound`; `InvalidArgument` for writing to a committed one; `Unsupported` where
    /// [`crate::Capabilities::files`] is false.
    async fn open(
        &self,
        lease: &LeaseId,
        key: &SnapshotKey,
        access: Access,
    ) -> Result<Box<dyn Tree>> {
        let _ = (lease, access);
        Err(Error::new(ErrorKind::Unsupported, "open snapshot", key))
    }

    /// How an active snapshot is mounted.
    ///
    /// # Errors
    /// `NotFound`; `Unsupported` where [`crate::Capabilities::host_mounts`] is false.
    async fn mounts(&self, key: &SnapshotKey) -> Result<Vec<SnapshotMount>>;

    /// What it occupies. Walks the files of an active one: not for a request's path.
    ///
    /// # Errors
    /// `NotFound`.
    async fn usage(&self, key: &SnapshotKey) -> Result<SnapshotUsage>;

    /// Replaces its labels, without those by which the adapter protects it.
    ///
    /// # Errors
    /// `NotFound`.
    async fn set_labels(&self, key: &SnapshotKey, labels: &BTreeMap<String, String>) -> Result<()>;

    /// Removes an active snapshot and its files. Again: `NotFound`.
    ///
    /// # Errors
    /// `NotFound`; `Conflict` for one on which others build.
    async fn remove(&self, key: &SnapshotKey) -> Result<()>;

    /// Gives up the protection of a committed snapshot: it is collected once nothing builds on it.
    /// Again: no change, also when it was collected.
    ///
    /// # Errors
    /// `Unavailable` when the runtime does not answer.
    async fn release(&self, key: &SnapshotKey) -> Result<()>;

    /// Protects a committed snapshot again that was released and is still there. Again: no change.
    ///
    /// # Errors
    /// `NotFound`.
    async fn protect(&self, key: &SnapshotKey) -> Result<()>;
}
