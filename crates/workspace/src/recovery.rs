//! Database and runtime, compared and made to agree again, always towards keeping.
//!
//! They part when an older database is put back, or when something is removed behind the server's back.
//! What is in the runtime wins over what is written, and nothing is removed here:
//! - a workspace's container and the snapshot that it names are taken over into the row, or into a new
//!   row where there is none;
//! - versions that no row names are recorded again, with source `recovered` and, where it is free, the
//!   number that they had;
//! - a row that takes the workspace for its head version is not believed when it may differ from it;
//! - a row whose snapshot is gone gets the nearest state of the bot's that is left;
//! - what belongs to bots that the database does not know stays, and is listed (`recovery/unknown.rs`).
//!
//! All bots are compared at start, a single one where an operation finds something missing.

mod images;
mod seen;
mod state;
mod unknown;
mod versions;

pub(crate) use seen::Seen;
pub use unknown::{Fate, UnrecordedSnapshot};
pub(crate) use unknown::{discard, unrecorded};

use crate::layers::unless_missing;
use crate::service::Inner;
use crate::spec::is_workspace_of;
use crate::{Error, Result};
use botstead_store::{ContainerPatch, ContainerRecord};
use botstead_types::{BotId, SnapshotKey, TaskStatus};
use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

/// What is recorded and lost, for who counts.
#[derive(Debug, Default)]
pub(crate) struct Losses {
    versions: Mutex<HashMap<BotId, u64>>,
    workspaces: Mutex<BTreeSet<BotId>>,
}

impl Losses {
    pub(crate) fn set_versions(&self, bot: BotId, missing: u64) {
        let mut versions = lock(&self.versions);
        match missing {
            0 => versions.remove(&bot),
            missing => versions.insert(bot, missing),
        };
    }

    pub(crate) fn set_workspace(&self, bot: BotId, lost: bool) {
        let mut workspaces = lock(&self.workspaces);
        match lost {
            true => workspaces.insert(bot),
            false => workspaces.remove(&bot),
        };
    }

    pub(crate) fn forget(&self, bot: BotId) {
        self.set_versions(bot, 0);
        self.set_workspace(bot, false);
    }

    pub(crate) fn versions(&self) -> u64 {
        lock(&self.versions).values().sum()
    }

    pub(crate) fn workspaces(&self) -> u64 {
        lock(&self.workspaces).len() as u64
    }
}

/// Bots whose rows could not be compared with the runtime: what they say is not acted upon before that.
#[derive(Debug, Default)]
pub(crate) struct Uncompared(Mutex<BTreeSet<BotId>>);

impl Uncompared {
    fn set(&self, bot: BotId, uncompared: bool) {
        let mut bots = lock(&self.0);
        match uncompared {
            true => bots.insert(bot),
            false => bots.remove(&bot),
        };
    }

    pub(crate) fn has(&self, bot: BotId) -> bool {
        lock(&self.0).contains(&bot)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Inner {
    /// Compares all bots, before the first request. Bots with an operation that waits to be retried are
    /// left to it.
    pub(crate) async fn compare_at_start(self: &Arc<Self>) -> Result<()> {
        let seen = Seen::look(&self.runtime, &self.store).await?;
        let mut unknown = 0;
        for bot in seen.bots() {
            if seen.is_busy(bot) {
                continue;
            }
            if !self.bot_exists(bot).await? {
                unknown += 1;
                continue;
            }
            let compared = self.compare_bot(bot, &seen).await;
            self.uncompared.set(bot, compared.is_err());
            if let Err(error) = compared {
                tracing::error!(%bot, %error, "cannot compare the database with the runtime");
            }
        }
        if unknown > 0 {
            tracing::warn!(
                bots = unknown,
                "the runtime has snapshots or containers of bots that the database does not know; they \
                 stay until an admin exports or discards them"
            );
        }
        self.look_for_versions().await
    }

    /// Compares one bot. The caller holds it.
    pub(crate) async fn keep_what_is_there(self: &Arc<Self>, bot: BotId) -> Result<()> {
        let compared = async {
            if !self.bot_exists(bot).await? {
                return Ok(());
            }
            let seen = Seen::look(&self.runtime, &self.store).await?;
            self.compare_bot(bot, &seen).await
        };
        let compared = compared.await;
        self.uncompared.set(bot, compared.is_err());
        compared
    }

    async fn compare_bot(self: &Arc<Self>, bot: BotId, seen: &Seen) -> Result<()> {
        self.record_versions(bot, seen).await?;
        let container = seen.container_of(bot);
        let theirs = container.and_then(|found| seen.active(&found.snapshot));
        let Some(record) = self.record(bot).await? else {
            return match (container, theirs) {
                (Some(container), Some(active)) => self.adopt(bot, container, active, seen).await,
                _ => Ok(()),
            };
        };
        let lost = match theirs {
            Some(active) if active.key == record.snapshot => {
                self.doubt(&record).await?;
                false
            }
            Some(active) => {
                self.take_over(&record, active, seen).await?;
                false
            }
            None if seen.active(record.snapshot.as_str()).is_some() => {
                self.doubt(&record).await?;
                false
            }
            None => !self.find_state(&record, seen).await?,
        };
        self.losses.set_workspace(bot, lost);
        Ok(())
    }

    /// A row of an older database says that the workspace equals its head version, and it may have run
    /// since: where it runs, or something was written, it counts as the only copy.
    async fn doubt(&self, record: &ContainerRecord) -> Result<()> {
        if record.dirty || !self.may_differ(record).await {
            return Ok(());
        }
        tracing::warn!(bot = %record.bot, snapshot = %record.snapshot,
            "the database takes a workspace for its head version, and it may differ from it");
        let patch = ContainerPatch {
            dirty: Some(true),
            ..ContainerPatch::default()
        };
        self.patch(record, patch).await
    }

    /// Whether the workspace's writable snapshot may have something of its own. What cannot be told may.
    async fn may_differ(&self, record: &ContainerRecord) -> bool {
        match self.runtime.tasks.get(&record.container).await {
            Ok(task) if matches!(task.status, TaskStatus::Running | TaskStatus::Paused) => true,
            Err(error) if !error.is_not_found() => true,
            // An empty one has its own directory only.
            Ok(_) | Err(_) => match self.runtime.snapshots.usage(&record.snapshot).await {
                Ok(usage) => usage.inodes > 1,
                Err(error) => {
                    tracing::warn!(bot = %record.bot, error = %error.chain(),
                        "cannot tell whether a workspace has anything of its own");
                    true
                }
            },
        }
    }

    /// The row of the bot's workspace; a container that no row has is recorded first. The caller holds
    /// the bot.
    pub(crate) async fn found_record(
        self: &Arc<Self>,
        bot: BotId,
    ) -> Result<Option<ContainerRecord>> {
        if let Some(record) = self.record(bot).await? {
            return Ok(Some(record));
        }
        match self.container(bot).await? {
            Some(found) if is_workspace_of(&found.labels, &found.id) => {
                self.keep_what_is_there(bot).await?;
                self.record(bot).await
            }
            _ => Ok(None),
        }
    }

    /// The row of the bot's workspace, whose files are there: what is missing is looked for first. The
    /// caller holds the bot.
    ///
    /// # Errors
    /// `WorkspaceNotFound`; `WorkspaceLost` when nothing is left of it.
    pub(crate) async fn present_record(self: &Arc<Self>, bot: BotId) -> Result<ContainerRecord> {
        let record = self.found_record(bot).await?;
        let record = record.ok_or(Error::WorkspaceNotFound(bot))?;
        self.with_files(record)
            .await?
            .ok_or(Error::WorkspaceLost(bot))
    }

    /// The same row, or what became of it when its files had to be looked for; `None` when nothing is
    /// left of them. The caller holds the bot.
    pub(crate) async fn with_files(
        self: &Arc<Self>,
        mut record: ContainerRecord,
    ) -> Result<Option<ContainerRecord>> {
        let bot = record.bot;
        if !self.snapshot_exists(&record.snapshot).await? {
            self.keep_what_is_there(bot).await?;
            record = self.required_record(bot).await?;
            if !self.snapshot_exists(&record.snapshot).await? {
                return Ok(None);
            }
        }
        if !record.dirty && !self.head_is_there(&record).await? {
            // What it equals is gone: it is the only copy now.
            let patch = ContainerPatch {
                dirty: Some(true),
                ..ContainerPatch::default()
            };
            self.patch(&record, patch).await?;
            record.dirty = true;
        }
        Ok(Some(record))
    }

    async fn head_is_there(&self, record: &ContainerRecord) -> Result<bool> {
        let Some(head) = record.head_version else {
            return Ok(false);
        };
        match self.version(record.bot, head).await {
            Ok(version) => self.snapshot_exists(&version.snapshot).await,
            Err(Error::VersionNotFound { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Removes a writable snapshot unless a container or a row names it: that one is in use, whatever
    /// anybody else believes. Tells whether it is gone. Can be repeated.
    pub(crate) async fn remove_unnamed(&self, key: &SnapshotKey) -> Result<bool> {
        if !self.snapshot_exists(key).await? {
            return Ok(true);
        }
        let containers = self.runtime.containers.list().await?;
        let rows = self.store.containers.list().await?;
        if containers.iter().any(|one| one.snapshot == key.as_str())
            || rows.iter().any(|row| row.snapshot == *key)
        {
            tracing::warn!(%key, "a snapshot that was to be removed is in use and stays");
            return Ok(false);
        }
        unless_missing(self.runtime.snapshots.remove(key).await)?;
        Ok(true)
    }
}
