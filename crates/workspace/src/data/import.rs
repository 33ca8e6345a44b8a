//! Import: an archive into `/data`, all of it or nothing.

use super::export::FOLDER;
use crate::pools;
use crate::replace::{Base, Edit, Replacement, fault_name};
use crate::service::{Inner, Workspaces};
use crate::{Error, Result, disk};
use botstead_archive::{ApplyMode, CheckOptions, Checked, Limits, Progress};
use botstead_authz::{Action, Actor};
use botstead_store::OperationKind;
use botstead_types::{BotId, OperationId, PreservedId, UserId, VersionNumber, VersionSource};
use std::fs::File;
use std::os::fd::AsFd;
use std::sync::Arc;

/// What becomes of what is in `/data`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ImportMode {
    /// It stays, but for what the archive has under the same names.
    #[default]
    Merge,
    /// It goes.
    Replace,
}

/// How an archive is put in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ImportOptions {
    /// What becomes of what is in `/data`.
    pub mode: ImportMode,
    /// Whom everything shall belong to, as a command's user is given: `user`, `uid`, `user:group` or
    /// `uid:gid`; empty for the workspace's own user. The numbers in the archive when absent.
    pub as_user: Option<String>,
}

impl From<ImportMode> for ImportOptions {
    fn from(mode: ImportMode) -> Self {
        Self {
            mode,
            as_user: None,
        }
    }
}

impl Workspaces {
    /// Refuses what an import of so many bytes would refuse, before they are received: whoever may not
    /// import, a bot without workspace, a disk without room.
    ///
    /// # Errors
    /// `BotNotFound`, `WorkspaceNotFound`, `InsufficientStorage`.
    pub async fn before_import(&self, actor: &Actor, bot: BotId, bytes: u64) -> Result<()> {
        let inner = &self.inner;
        inner.authorized(actor, Action::WriteWorkspace, bot).await?;
        inner.refuse_when_closing()?;
        inner.required_record(bot).await?;
        self.require_space(bytes)
    }

    /// Puts an archive (tar, also in gzip or zstd) into `/data`. The whole archive is read and judged
    /// first; then the present state is kept as a version with source `import`, the archive is
    /// unpacked where nobody sees it, and the workspace gets the result in one step. One that runs is
    /// stopped meanwhile and runs again afterwards. Tells the version that the state before is.
    ///
    /// # Errors
    /// `Archive` with the entry, before anything was touched; `NoSuchUser`, `BotNotFound`,
    /// `WorkspaceNotFound`, `Busy`, `InsufficientStorage`, `InsufficientInodes`. Whatever fails, `/data`
    /// is as it was.
    pub async fn import_data(
        &self,
        actor: &Actor,
        bot: BotId,
        archive: File,
        options: ImportOptions,
    ) -> Result<Option<VersionNumber>> {
        let inner = &self.inner;
        inner.authorized(actor, Action::WriteWorkspace, bot).await?;
        inner.refuse_when_closing()?;
        inner.required_record(bot).await?;
        let checked = inner
            .check_archive(pools::user(actor), archive, Limits::default())
            .await?;
        let apply = match options.mode {
            ImportMode::Merge => ApplyMode::Merge,
            ImportMode::Replace => ApplyMode::Replace,
        };
        let work = Arc::clone(inner);
        inner
            .detached(async move {
                let (id, kind) = (OperationId::generate(), OperationKind::Import);
                let _guard = work.lock(bot, id, fault_name(kind)).await?;
                let record = work.present_record(bot).await?;
                let as_user = options.as_user.as_deref();
                let edit = Edit::Archive {
                    checked,
                    mode: apply,
                    ownership: work.ownership(&record, as_user).await?,
                };
                work.apply_archive(id, bot, edit, kind, None).await
            })
            .await
    }
}

impl Inner {
    /// Reads an archive to its end and refuses it, or tells what it holds; in a place of this user.
    pub(super) async fn check_archive(
        &self,
        user: Option<UserId>,
        archive: File,
        limits: Limits,
    ) -> Result<Box<Checked<File>>> {
        let free_bytes = disk::free_beyond_reserve(&self.config)?;
        let free_inodes = disk::inodes_beyond_reserve(&self.config);
        let storage = self.config.storage_path.clone();
        let judged = self.pools.judgements.run(user, move || {
            // The workspaces' own filesystem is asked what it takes, where it can be.
            let storage = File::open(storage).ok();
            let mut options = CheckOptions::new();
            options.limits = limits;
            options.limits.disk_bytes = free_bytes;
            options.folder = Some(FOLDER.to_owned());
            options.scratch = storage.as_ref().map(AsFd::as_fd);
            let checked = botstead_archive::check(archive, &options, &Progress::new())?;
            let needed = checked.content().inodes;
            if needed > free_inodes {
                return Err(Error::InsufficientInodes {
                    free: free_inodes,
                    needed,
                });
            }
            Ok(Box::new(checked))
        });
        judged.await
    }

    /// Gives the workspace a state with an archive in it; `preserved` is the one that goes afterwards.
    /// The caller holds the bot.
    pub(super) async fn apply_archive(
        self: &Arc<Self>,
        id: OperationId,
        bot: BotId,
        edit: Edit,
        kind: OperationKind,
        preserved: Option<PreservedId>,
    ) -> Result<Option<VersionNumber>> {
        let record = self.present_record(bot).await?;
        self.check_edit(id, &record.snapshot, &edit).await?;
        let what = Replacement {
            preserved,
            ..Replacement::of(&record, VersionSource::Import, Base::Present, true)
        };
        let live = self.begin_replacement(id, bot, kind, &what).await?;
        let replaced = self
            .replace_or_undo(&live, Some(&record), &what, edit)
            .await?;
        Ok(replaced.before)
    }
}
