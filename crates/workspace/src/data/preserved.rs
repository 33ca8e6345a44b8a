//! Data that was preserved when its workspace was deleted: archives on the host, side by side, each
//! until it is back in a workspace or is discarded.
//!
//! An archive is named after the operation that wrote it and never written again, so that what is
//! removed is what was brought back or meant, whatever else happens to the bot. Everything that adds or
//! removes one holds the bot.

use super::export::ArchiveFormat;
use crate::notes::LABEL_BOT;
use crate::operations::event;
use crate::recovery::Seen;
use crate::replace::{Edit, blocking, existing_data, host};
use crate::service::{Inner, Workspaces};
use crate::{DataTrouble, Error, Result};
use botstead_archive::{ApplyMode, Checked, Limits, Progress};
use botstead_authz::{Action, Actor};
use botstead_runtime::Access;
use botstead_store::{ContainerRecord, OperationKind};
use botstead_types::{
    BotId, InvalidValue, LeaseId, OperationId, Page, PageRequest, PreservedId, SnapshotKey,
    SnapshotKind,
};
use chrono::{DateTime, Utc};
use serde_json::json;
use std::fs::{DirBuilder, File, Metadata};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// An archive of preserved data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PreservedArchive {
    /// Its id.
    pub id: PreservedId,
    /// When it was written.
    pub created_at: DateTime<Utc>,
    /// What it occupies.
    pub size_bytes: u64,
}

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
        let checked = self.check_preserved(bot, archive).await?;
        let mode = ApplyMode::Replace;
        let edit = Edit::Archive { checked, mode };
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
        self.check_archive(file, Limits::own()).await
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
            if report.mounts_left_out > 0 {
                return Err(Error::DataNotDirectory(DataTrouble::Mounted));
            }
            if report.vanished > 0 {
                let reason = io::Error::other("some of it vanished meanwhile");
                return Err(host("save all of /data", reason));
            }
            Ok(())
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
        let seen = Seen::look(&self.runtime, &self.store).await?;
        let orphans = own
            .into_iter()
            .filter(|snapshot| !seen.is_named(&snapshot.key) && !seen.is_under_way(&snapshot.key));
        let newest = orphans.max_by_key(|snapshot| snapshot.created_at);
        Ok(newest.map(|snapshot| snapshot.key))
    }
}

/// The archives of a bot on the disk. Blocking.
#[derive(Debug)]
pub(super) struct Archives {
    root: PathBuf,
    bot: BotId,
}

impl Archives {
    fn folder(&self) -> PathBuf {
        self.root.join(self.bot.to_string())
    }

    /// Earlier servers kept one archive per bot, beside the folders. Its id is the bot's, which is older
    /// than that of any operation on the bot.
    fn path(&self, archive: PreservedId) -> PathBuf {
        if archive == legacy(self.bot) {
            self.root.join(file_name(archive))
        } else {
            self.folder().join(file_name(archive))
        }
    }

    /// Newest first.
    fn list(&self) -> Result<Vec<PreservedArchive>> {
        let failed = |error| host("list preserved data", error);
        let mut found = Vec::new();
        let id = legacy(self.bot);
        match self.path(id).symlink_metadata() {
            Ok(metadata) if metadata.is_file() => found.push(describe(id, &metadata)),
            Err(error) if !is_missing(&error) => return Err(failed(error)),
            _ => {}
        }
        let entries = match self.folder().read_dir() {
            Err(error) if is_missing(&error) => return Ok(found),
            entries => entries.map_err(failed)?,
        };
        for entry in entries {
            let entry = entry.map_err(failed)?;
            let Some(id) = archive_id(&entry.file_name().to_string_lossy()) else {
                continue;
            };
            match entry.metadata() {
                Ok(metadata) if metadata.is_file() => found.push(describe(id, &metadata)),
                Err(error) if !is_missing(&error) => return Err(failed(error)),
                _ => {}
            }
        }
        found.sort_by_key(|archive| std::cmp::Reverse(archive.id));
        Ok(found)
    }

    fn remove(&self, archive: PreservedId) -> Result<()> {
        let path = self.path(archive);
        let removed = std::fs::remove_file(&path);
        let synced = removed.and_then(|()| match path.parent() {
            Some(folder) => File::open(folder)?.sync_all(),
            None => Ok(()),
        });
        match synced {
            Err(error) if !is_missing(&error) => return Err(host("remove preserved data", error)),
            _ => {}
        }
        // When it was the last; anything that is left keeps it.
        let _ = std::fs::remove_dir(self.folder());
        Ok(())
    }

    fn remove_unfinished(&self) {
        let folder = self.folder();
        for entry in folder.read_dir().into_iter().flatten().flatten() {
            if archive_id(&entry.file_name().to_string_lossy()).is_none()
                && let Err(error) = std::fs::remove_file(entry.path())
            {
                tracing::warn!(path = %entry.path().display(), %error, "cannot remove");
            }
        }
        // Gone when it is empty.
        let _ = std::fs::remove_dir(folder);
    }
}

/// The archive of a deletion.
pub(crate) fn archive_of(operation: OperationId) -> PreservedId {
    PreservedId::from_uuid(*operation.as_uuid())
}

/// The archive that an earlier server wrote.
pub(crate) fn legacy(bot: BotId) -> PreservedId {
    PreservedId::from_uuid(*bot.as_uuid())
}

fn file_name(archive: PreservedId) -> String {
    format!("{archive}.{}", ArchiveFormat::TarZst.extension())
}

fn archive_id(name: &str) -> Option<PreservedId> {
    let id = name.strip_suffix(ArchiveFormat::TarZst.extension())?;
    id.strip_suffix('.')?.parse().ok()
}

fn describe(id: PreservedId, metadata: &Metadata) -> PreservedArchive {
    PreservedArchive {
        id,
        created_at: metadata.modified().unwrap_or(std::time::UNIX_EPOCH).into(),
        size_bytes: metadata.len(),
    }
}

/// It is not there; nor can it be, when what would hold it is no directory.
fn is_missing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

/// Makes a directory that only this server can read, and remembers it on the disk.
fn make_folder(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    match path.parent() {
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}
