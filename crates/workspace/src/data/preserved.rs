//! Data that was preserved when its workspace was deleted: archives on the host, side by side, each
//! until it is back in a workspace or is discarded.
//!
//! An archive is named after the operation that wrote it and never written again, so that what is
//! removed is what was brought back or meant, whatever else happens to the bot. Everything that adds or
//! removes one holds the bot.

use super::archives::{Archives, PreservedArchive, file_name, is_missing, legacy};
use super::export::{ArchiveFormat, require_all};
use crate::notes::LABEL_BOT;
use crate::operations::event;
use crate::recovery::Seen;
use crate::replace::{Edit, blocking, existing_data, host};
use crate::service::{Inner, Workspaces};
use crate::{Error, Result};
use botstead_archive::{Checked, Limits, Progress};
use botstead_authz::{Action, Actor};
use botstead_runtime::Access;
use botstead_store::{ContainerRecord, Operation, OperationKind};
use botstead_types::{
    BotId, InvalidValue, LeaseId, OperationId, Page, PageRequest, PreservedId, SnapshotKey,
    SnapshotKind,
};
use serde_json::json;
use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::Arc;

impl Workspaces {
    /// The archives of the bot's preserved data, newest first.
    ///
    /// # Errors
    /// `BotNotFound`; an invalid cursor.
    pub async fn preserved(
        &self,
        actor: &Actor,
        bot: BotId,
        page: &PageRequest,
    ) -> Result<Page<PreservedArchive>> {
        let inner = &self.inner;
        inner.authorized(actor, Action::ReadWorkspace, bot).await?;
        let after: Option<PreservedId> = match &page.cursor {
            Some(cursor) => Some(cursor.parse().map_err(|_| {
                InvalidValue::new("cursor", cursor, "expected the next_cursor of a page")
            })?),
            None => None,
        };
        let mut items = inner.preserved_archives(bot).await?;
        items.retain(|archive| after.is_none_or(|after| archive.id < after));
        let more = items.len() > page.limit as usize;
        items.truncate(page.limit as usize);
        let last = items.last().filter(|_| more);
        Ok(Page {
            next_cursor: last.map(|last| last.id.to_string()),
            items,
        })
    }

    /// Brings preserved data back into the bot's workspace, the newest archive when none is named: what
    /// is in `/data` now is kept as a version and replaced. The archive goes once the data is on the
    /// disk; others stay.
    ///
    /// # Errors
    /// `NoPreservedData`, `PreservedNotFound`, `BotNotFound`, `WorkspaceNotFound`, `Busy`.
    pub async fn restore_data(
        &self,
        actor: &Actor,
        bot: BotId,
        archive: Option<PreservedId>,
    ) -> Result<()> {
        let inner = &self.inner;
        inner.authorized(actor, Action::WriteWorkspace, bot).await?;
        inner.refuse_when_closing()?;
        let work = Arc::clone(inner);
        let restored = inner.detached(async move { work.restore_archive(bot, archive).await });
        restored.await.map(drop)
    }

    /// Removes an archive of preserved data for good.
    ///
    /// # Errors
    /// `PreservedNotFound`, `BotNotFound`, `Busy`.
    pub async fn discard_preserved(
        &self,
        actor: &Actor,
        bot: BotId,
        archive: PreservedId,
    ) -> Result<()> {
        let inner = &self.inner;
        inner
            .authorized(actor, Action::DeleteWorkspace, bot)
            .await?;
        inner.refuse_when_closing()?;
        let work = Arc::clone(inner);
        inner
            .detached(async move {
                let id = OperationId::generate();
                let what = "discard_preserved";
                let _guard = work.lock_without_recovery(bot, id, what).await?;
                work.preserved_archive(bot, Some(archive)).await?;
                work.remove_preserved(bot, archive).await?;
                tracing::info!(%bot, %archive, "discarded preserved data");
                let event = event(bot, "preserved_discarded", json!({"id": archive}));
                Ok(work.store.transactions.apply(vec![event]).await?)
            })
            .await
    }
}

impl Inner {
    /// Where the bot's archives are. They are on a disk: looked at on a thread where that may block.
    pub(super) fn archives(&self, bot: BotId) -> Archives {
        Archives {
            root: self.config.preserved_dir.clone(),
            bot,
        }
    }

    /// The bot's archives, newest first.
    pub(crate) async fn preserved_archives(&self, bot: BotId) -> Result<Vec<PreservedArchive>> {
        let archives = self.archives(bot);
        blocking(move || archives.list()).await
    }

    /// Whether data of the bot is preserved.
    pub(crate) async fn has_preserved_data(&self, bot: BotId) -> bool {
        self.preserved_archives(bot).await.map_or_else(
            |error| {
                tracing::warn!(%bot, %error, "cannot tell whether data is preserved");
                false
            },
            |found| !found.is_empty(),
        )
    }

    /// Whether that archive is there.
    pub(crate) async fn is_preserved(&self, bot: BotId, archive: PreservedId) -> bool {
        self.preserved_archive(bot, Some(archive)).await.is_ok()
    }

    /// That archive, or the newest.
    pub(crate) async fn preserved_archive(
        &self,
        bot: BotId,
        archive: Option<PreservedId>,
    ) -> Result<PreservedId> {
        let found = self.preserved_archives(bot).await?;
        match archive {
            None => found.first().map(|newest| newest.id),
            Some(id) => found.iter().any(|found| found.id == id).then_some(id),
        }
        .ok_or_else(|| archive.map_or(Error::NoPreservedData, Error::PreservedNotFound))
    }

    /// Puts an archive back under the bot's lock, from its choice to its removal.
    async fn restore_archive(
        self: &Arc<Self>,
        bot: BotId,
        archive: Option<PreservedId>,
    ) -> Result<()> {
        let kind = OperationKind::Restore;
        let id = OperationId::generate();
        let _guard = self.lock(bot, id, "restore").await?;
        let archive = self.preserved_archive(bot, archive).await?;
        self.present_record(bot).await?;
        let edit = Edit::returned(self.check_preserved(bot, archive).await?);
        self.apply_archive(id, bot, edit, kind, Some(archive))
            .await
            .map(drop)
    }

    /// A preserved archive, judged as one of ours.
    pub(crate) async fn check_preserved(
        &self,
        bot: BotId,
        archive: PreservedId,
    ) -> Result<Box<Checked<File>>> {
        let file = self.open_preserved(bot, archive).await?;
        // Whoever asked: a replay knows it no more.
        let owner = self.store.bots.get(bot).await.ok().map(|bot| bot.owner);
        self.check_archive(owner, file, Limits::own()).await
    }

    pub(super) async fn open_preserved(&self, bot: BotId, archive: PreservedId) -> Result<File> {
        let path = self.archives(bot).path(archive);
        blocking(move || match File::open(path) {
            Err(error) if is_missing(&error) => Err(Error::PreservedNotFound(archive)),
            file => file.map_err(|error| host("open preserved data", error)),
        })
        .await
    }

    /// Removes an archive: its data is in a workspace and on the disk, or nobody wants it. Again: no
    /// change.
    pub(crate) async fn remove_preserved(&self, bot: BotId, archive: PreservedId) -> Result<()> {
        let archives = self.archives(bot);
        blocking(move || archives.remove(archive)).await
    }

    /// Removes the archive that an operation brought back. One that an earlier server wrote is called like
    /// those before it: the journal of an older database may mean one that is gone, and then a newer one
    /// that nobody brought back stays.
    pub(crate) async fn remove_returned(
        &self,
        operation: &Operation,
        archive: PreservedId,
    ) -> Result<()> {
        let bot = operation.bot;
        if archive == legacy(bot) {
            let archives = self.archives(bot);
            let written = blocking(move || archives.written(archive)).await?;
            if let Some(written) = written
                && written >= operation.created_at
            {
                tracing::warn!(operation = %operation.id, %bot, %written,
                    "an archive is newer than the operation that is to remove it, and stays");
                return Ok(());
            }
        }
        self.remove_preserved(bot, archive).await
    }

    /// Removes all of the bot's archives, and what a killed server left of one.
    pub(crate) async fn remove_all_preserved(&self, bot: BotId) -> Result<()> {
        let archives = self.archives(bot);
        blocking(move || {
            let found = archives.list()?;
            archives.remove_unfinished();
            for archive in found {
                tracing::info!(%bot, archive = %archive.id, "preserved data goes with its bot");
                archives.remove(archive.id)?;
            }
            Ok(())
        })
        .await
    }

    /// Removes what a killed server left of an archive that it wrote. Best effort. The caller holds the
    /// bot, so nobody writes one.
    pub(crate) async fn remove_unfinished_archives(&self, bot: BotId) {
        let archives = self.archives(bot);
        let removed = blocking(move || {
            archives.remove_unfinished();
            Ok(())
        });
        if let Err(error) = removed.await {
            tracing::warn!(%bot, %error, "cannot remove what is left of archives");
        }
    }

    /// Saves `/data` of a workspace whose task ended, beside what was preserved before. When this
    /// returns, the archive is whole and on the disk. A workspace without `/data` has nothing to save.
    ///
    /// # Errors
    /// `DataNotDirectory` when there is something, and it cannot be saved.
    pub(crate) async fn preserve(
        &self,
        lease: &LeaseId,
        record: &ContainerRecord,
        archive: PreservedId,
    ) -> Result<()> {
        let snapshots = &self.runtime.snapshots;
        let tree = snapshots
            .open(lease, &record.snapshot, Access::Read)
            .await?;
        let archives = self.archives(record.bot);
        blocking(move || {
            archives.remove_unfinished();
            let folder = archives.folder();
            let Some(data) = existing_data(tree.as_ref())? else {
                return Ok(());
            };
            let failed = |error| host("make the folder of preserved data", error);
            make_folder(&archives.root).map_err(failed)?;
            make_folder(&folder).map_err(failed)?;
            let folder = File::open(&folder).map_err(failed)?;
            let options = ArchiveFormat::TarZst.options();
            let name = file_name(archive);
            let report = botstead_archive::save(&folder, &name, |file| {
                let exported = botstead_archive::export(data, file, &options, &Progress::new());
                exported.map(|(_, report)| report)
            })?;
            require_all(&report)
        })
        .await
    }

    /// A writable snapshot of the bot's that no container and no row names: somebody's work.
    pub(crate) async fn orphan(
        &self,
        bot: BotId,
        not: &SnapshotKey,
    ) -> Result<Option<SnapshotKey>> {
        let snapshots = &self.runtime.snapshots;
        let mut own = snapshots.labelled(LABEL_BOT, &bot.to_string()).await?;
        own.retain(|snapshot| snapshot.kind == SnapshotKind::Active && snapshot.key != *not);
        if own.is_empty() {
            return Ok(None);
        }
        // The one of the operation that asks is under way.
        let seen = Seen::look(&self.runtime, &self.store).await?;
        let orphan = seen.orphan(&self.runtime, bot).await;
        Ok(orphan.map(|orphan| orphan.key.clone()))
    }
}

/// The archive of a deletion.
pub(crate) fn archive_of(operation: OperationId) -> PreservedId {
    PreservedId::from_uuid(*operation.as_uuid())
}

/// Makes a directory that only this server can read, and remembers it on the disk.
fn make_folder(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    match path.parent() {
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}
