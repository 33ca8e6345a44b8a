//! Data that was preserved when its workspace was deleted: an archive on the host, until it is back
//! in a workspace.

use super::export::ArchiveFormat;
use crate::notes::LABEL_BOT;
use crate::recovery::Seen;
use crate::replace::{blocking, existing_data, host};
use crate::service::{Inner, Workspaces};
use crate::{Error, Result};
use botstead_archive::{ApplyMode, Checked, Limits, Progress};
use botstead_authz::{Action, Actor};
use botstead_runtime::Access;
use botstead_store::{ContainerRecord, OperationKind};
use botstead_types::{BotId, LeaseId, SnapshotKey, SnapshotKind};
use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::sync::Arc;

impl Workspaces {
    /// Brings preserved data back into the bot's workspace: what is in `/data` now is kept as a
    /// version and replaced. The archive goes once the data is on the disk.
    ///
    /// # Errors
    /// `NoPreservedData`, `BotNotFound`, `WorkspaceNotFound`, `Busy`.
    pub async fn restore_data(&self, actor: &Actor, bot: BotId) -> Result<()> {
        let inner = &self.inner;
        inner.authorized(actor, Action::WriteWorkspace, bot).await?;
        inner.refuse_when_closing()?;
        if !inner.has_preserved_data(bot) {
            return Err(Error::NoPreservedData);
        }
        inner.required_record(bot).await?;
        let checked = inner.check_preserved(bot).await?;
        let work = Arc::clone(inner);
        inner
            .detached(async move {
                work.apply_archive(bot, checked, ApplyMode::Replace, OperationKind::Restore)
                    .await
            })
            .await
            .map(drop)
    }
}

impl Inner {
    fn preserved_path(&self, bot: BotId) -> PathBuf {
        self.config.preserved_dir.join(file_name(bot))
    }

    /// Whether data of the bot is preserved.
    pub(crate) fn has_preserved_data(&self, bot: BotId) -> bool {
        self.preserved_path(bot).is_file()
    }

    /// The preserved archive, judged as one of ours.
    pub(crate) async fn check_preserved(&self, bot: BotId) -> Result<Box<Checked<File>>> {
        let archive = match File::open(self.preserved_path(bot)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(Error::NoPreservedData);
            }
            archive => archive.map_err(|error| host("open preserved data", error))?,
        };
        self.check_archive(archive, Limits::own()).await
    }

    /// Removes the archive, after its data is in a workspace and on the disk.
    pub(crate) fn remove_preserved(&self, bot: BotId) -> Result<()> {
        let removed = std::fs::remove_file(self.preserved_path(bot));
        let synced = removed.and_then(|()| File::open(&self.config.preserved_dir)?.sync_all());
        match synced {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(host("remove preserved data", error))
            }
            _ => Ok(()),
        }
    }

    /// Saves `/data` of a workspace whose task ended. When this returns, the archive is whole and on
    /// the disk; what was preserved before is replaced then and not sooner. A workspace without
    /// `/data` has nothing to save.
    pub(crate) async fn preserve(&self, lease: &LeaseId, record: &ContainerRecord) -> Result<()> {
        let snapshots = &self.runtime.snapshots;
        let tree = snapshots
            .open(lease, &record.snapshot, Access::Read)
            .await?;
        let (folder, name) = (self.config.preserved_dir.clone(), file_name(record.bot));
        blocking(move || {
            let Some(data) = existing_data(tree.as_ref())? else {
                return Ok(());
            };
            let failed = |error| host("make the folder of preserved data", error);
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&folder)
                .map_err(failed)?;
            let folder = File::open(&folder).map_err(failed)?;
            let options = ArchiveFormat::TarZst.options();
            botstead_archive::save(&folder, &name, |file| {
                botstead_archive::export(data, file, &options, &Progress::new()).map(drop)
            })?;
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

fn file_name(bot: BotId) -> String {
    format!("{bot}.{}", ArchiveFormat::TarZst.extension())
}
