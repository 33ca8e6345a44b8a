//! What the runtime has and no row names: listed for admins, exported, and discarded when they say so.

use super::Seen;
use super::versions::is_unrecorded;
use crate::data::{ArchiveFormat, Picture};
use crate::layers::unless_missing;
use crate::notes::{Note, Noted, bot_of};
use crate::service::{Inner, Workspaces};
use crate::{Error, Result, disk};
use botstead_authz::{Action, Actor};
use botstead_runtime::{Signal, Snapshot, SnapshotCopy};
use botstead_types::{
    BotId, ContainerId, ImageRef, LeaseId, OperationId, SnapshotKey, SnapshotKind, TaskStatus,
    VersionNumber,
};
use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures_util::stream::BoxStream;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// A snapshot that may hold the only copy of somebody's work and that no row names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnrecordedSnapshot {
    /// Its name in the runtime.
    pub name: SnapshotKey,
    /// Whether it is the writable one of a workspace, or a version.
    pub kind: SnapshotKind,
    /// Whose it is.
    pub bot: BotId,
    /// Whether the database knows the bot.
    pub bot_exists: bool,
    /// The container that has it, where one does.
    pub container: Option<ContainerId>,
    /// The number of the version that it was.
    pub version: Option<VersionNumber>,
    /// The image that it grew from, where that is known.
    pub image: Option<ImageRef>,
    /// When it was made.
    pub created_at: DateTime<Utc>,
}

/// What becomes of a snapshot that no row names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// The next start of the server records it again.
    RecordedAgain,
    /// The bot's next workspace gets its `/data`.
    GivenToTheNext,
    /// It stays until it is discarded.
    Stays,
}

impl UnrecordedSnapshot {
    /// What becomes of it.
    pub fn fate(&self) -> Fate {
        match (self.bot_exists, self.kind, &self.container) {
            (false, ..) => Fate::Stays,
            (true, SnapshotKind::Active, None) => Fate::GivenToTheNext,
            (true, ..) => Fate::RecordedAgain,
        }
    }
}

/// Whether it may hold the only copy of somebody's work and no row names it.
fn is_unknown(snapshot: &Snapshot, seen: &Seen) -> bool {
    let writable = snapshot.kind == SnapshotKind::Active
        && !seen.is_in_a_row(&snapshot.key)
        && !seen.is_under_way(&snapshot.key);
    bot_of(snapshot).is_some() && (writable || is_unrecorded(snapshot, seen))
}

/// All of them, by bot and time.
pub(crate) fn unrecorded(seen: &Seen, exists: &HashMap<BotId, bool>) -> Vec<UnrecordedSnapshot> {
    let mut found: Vec<_> = seen
        .all()
        .filter(|snapshot| is_unknown(snapshot, seen))
        .filter_map(|snapshot| {
            let (bot, noted) = (bot_of(snapshot)?, Noted::on(snapshot));
            let container = seen.container_with(&snapshot.key);
            let named = container.and_then(|one| one.image.parse().ok());
            Some(UnrecordedSnapshot {
                name: snapshot.key.clone(),
                kind: snapshot.kind,
                bot,
                bot_exists: exists.get(&bot).copied().unwrap_or_default(),
                container: container.map(|one| one.id.clone()),
                version: noted.version,
                image: noted.image.or(named),
                created_at: snapshot.created_at,
            })
        })
        .collect();
    found.sort_by(|a, b| (a.bot, a.created_at, &a.name).cmp(&(b.bot, b.created_at, &b.name)));
    found
}

impl Workspaces {
    /// Snapshots that the runtime has and no row names: those of bots that the database does not know,
    /// and writable ones that no workspace has. Each may be the only copy of somebody's work.
    ///
    /// # Errors
    /// `Forbidden`; the runtime does not answer.
    pub async fn unrecorded(&self, actor: &Actor) -> Result<Vec<UnrecordedSnapshot>> {
        let inner = &self.inner;
        let what = "see what the database does not know";
        inner.authorized_on_server(actor, Action::RecoverData, what)?;
        inner.unrecorded().await
    }

    /// `/data` of one of them as an archive. A workspace that runs on it goes on.
    ///
    /// # Errors
    /// `Forbidden`, `NothingToRecover`, `PathNotFound` when it has no `/data`, `InsufficientStorage`;
    /// `Unsupported` where snapshots are no directories of this host.
    pub async fn export_unrecorded(
        &self,
        actor: &Actor,
        name: &str,
        format: ArchiveFormat,
    ) -> Result<BoxStream<'static, Result<Bytes>>> {
        let inner = &self.inner;
        let what = "export what the database does not know";
        inner.authorized_on_server(actor, Action::RecoverData, what)?;
        inner.refuse_when_closing()?;
        let place = inner.pools.export(actor)?;
        let (work, name) = (Arc::clone(inner), name.to_owned());
        inner
            .detached(async move {
                let (bot, picture) = work.picture_unrecorded(&name).await?;
                Ok(work.stream_picture(bot, picture, format, place))
            })
            .await
    }

    /// Removes one of them for good, and the container that runs on it.
    ///
    /// # Errors
    /// `Forbidden`, `NothingToRecover`, `Busy`.
    pub async fn discard_unrecorded(&self, actor: &Actor, name: &str) -> Result<()> {
        let inner = &self.inner;
        let what = "discard what the database does not know";
        inner.authorized_on_server(actor, Action::RecoverData, what)?;
        inner.refuse_when_closing()?;
        let (work, name) = (Arc::clone(inner), name.to_owned());
        inner
            .detached(async move {
                let bot = work.find_unrecorded(&name).await?.bot;
                let id = OperationId::generate();
                let _guard = work.lock_without_recovery(bot, id, "discard").await?;
                // It may have been recorded before the bot was free.
                let found = work.find_unrecorded(&name).await?;
                tracing::warn!(%bot, snapshot = %found.name, "discarding what the database does not know");
                discard(&work.runtime, &found).await?;
                work.collect_released();
                Ok(())
            })
            .await
    }
}

/// Removes an unrecorded snapshot and the container that has it. Can be repeated.
pub(crate) async fn discard(
    runtime: &botstead_runtime::Runtime,
    found: &UnrecordedSnapshot,
) -> Result<()> {
    if let Some(container) = &found.container {
        let now = Duration::ZERO;
        runtime.tasks.stop(container, Signal::KILL, now).await?;
        if let Err(error) = runtime.network.remove(container).await {
            tracing::warn!(%container, error = %error.chain(), "cannot remove the network");
        }
        unless_missing(runtime.containers.delete(container).await)?;
    }
    match found.kind {
        SnapshotKind::Committed => Ok(runtime.snapshots.release(&found.name).await?),
        SnapshotKind::Active | SnapshotKind::View => {
            Ok(unless_missing(runtime.snapshots.remove(&found.name).await)?)
        }
    }
}

impl Inner {
    async fn unrecorded(&self) -> Result<Vec<UnrecordedSnapshot>> {
        let seen = Seen::look(&self.runtime, &self.store).await?;
        let mut exists = HashMap::new();
        for bot in seen.bots() {
            exists.insert(bot, self.bot_exists(bot).await?);
        }
        Ok(unrecorded(&seen, &exists))
    }

    async fn find_unrecorded(&self, name: &str) -> Result<UnrecordedSnapshot> {
        let all = self.unrecorded().await?;
        let found = all.into_iter().find(|one| one.name.as_str() == name);
        found.ok_or_else(|| Error::NothingToRecover(name.to_owned()))
    }

    async fn picture_unrecorded(self: &Arc<Self>, name: &str) -> Result<(BotId, Picture)> {
        let bot = self.find_unrecorded(name).await?.bot;
        let id = OperationId::generate();
        let _guard = self.lock_without_recovery(bot, id, "export").await?;
        let found = self.find_unrecorded(name).await?;
        let lease = LeaseId::for_operation(id);
        self.runtime.leases.create(&lease).await?;
        let copied = SnapshotKey::copied(id);
        let opened = async {
            let snapshots = &self.runtime.snapshots;
            let mut source = found.name.clone();
            // Whoever knows the bot may start it meanwhile.
            let changes = found.bot_exists || self.is_in_use(&found).await?;
            if found.kind == SnapshotKind::Active && changes {
                disk::require_free_space(&self.config)?;
                let copy = self.copy_of(&found, &copied).await?;
                let cancel = CancellationToken::new();
                snapshots.commit_copy(&lease, &copy, &cancel).await?;
                // From here on the lease alone keeps it: it goes with the export.
                snapshots.release(&copied).await?;
                source = copied.clone();
            }
            Ok((bot, self.open_picture(id, &lease, &source).await?))
        };
        let opened = opened.await;
        self.keep_picture(id, opened).await
    }

    /// Whether processes may be writing to it.
    async fn is_in_use(&self, found: &UnrecordedSnapshot) -> Result<bool> {
        let Some(container) = &found.container else {
            return Ok(false);
        };
        match self.runtime.tasks.get(container).await {
            Ok(task) => Ok(task.status != TaskStatus::Stopped),
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    async fn copy_of(
        &self,
        found: &UnrecordedSnapshot,
        name: &SnapshotKey,
    ) -> Result<SnapshotCopy> {
        let seen = Seen::look(&self.runtime, &self.store).await?;
        let snapshot = self.runtime.snapshots.get(&found.name).await?;
        let noted = Noted::on(&snapshot);
        let image = self.image_of(found.bot, &noted, &snapshot, &seen).await?;
        let note = Note::of(found.bot, &image, noted.parent);
        Ok(SnapshotCopy {
            source: found.name.clone(),
            container: found.container.clone(),
            name: name.clone(),
            labels: self.labels_above(&found.name, &note).await?,
            reserve_bytes: disk::reserve(&self.config),
            durable: false,
        })
    }
}
