//! Rollback: bringing a version's files and image back, keeping the present state first.

use crate::model::RollbackOutcome;
use crate::replace::{Base, Edit, Replacement};
use crate::service::{Inner, Workspaces};
use crate::{Error, Result};
use botstead_authz::{Action, Actor};
use botstead_store::{
    Change, ContainerRecord, ErrorKind as StoreErrorKind, Operation, OperationKind, VersionRecord,
};
use botstead_types::{BotId, ContainerId, OperationId, SnapshotKey, VersionNumber, VersionSource};
use std::sync::Arc;

impl Workspaces {
    /// Brings a version back: its files and its image. The present state is kept as a version with
    /// source `rollback` first, unless it cannot differ from its head version. A workspace that
    /// runs, runs again afterwards; one that was deleted is made again, stopped. With `dry_run`
    /// nothing changes.
    ///
    /// # Errors
    /// `BotNotFound`, `VersionNotFound`, `Busy`, what the runtime refuses.
    pub async fn rollback(
        &self,
        actor: &Actor,
        bot: BotId,
        version: VersionNumber,
        dry_run: bool,
    ) -> Result<RollbackOutcome> {
        let inner = &self.inner;
        inner.authorized(actor, Action::WriteWorkspace, bot).await?;
        if dry_run {
            return inner.foresee_rollback(bot, version).await;
        }
        inner.refuse_when_closing()?;
        let work = Arc::clone(inner);
        inner
            .detached(async move {
                let id = OperationId::generate();
                let _guard = work.lock(bot, id, "rollback").await?;
                let target = work.version(bot, version).await?;
                work.require_snapshot(&target).await?;
                // A workspace whose files are lost has nothing to keep: it is made again.
                let record = match work.found_record(bot).await? {
                    Some(record) => work.with_files(record).await?,
                    None => None,
                };
                let base = Base::Version(version);
                let what = match &record {
                    Some(record) => Replacement::of(record, VersionSource::Rollback, base, false),
                    None => Replacement {
                        active: None,
                        keep: None,
                        base,
                        edited: false,
                        preserved: None,
                        head: None,
                    },
                };
                let live = work
                    .begin_replacement(id, bot, OperationKind::Rollback, &what)
                    .await?;
                let replaced = work
                    .replace_or_undo(&live, record.as_ref(), &what, Edit::Nothing)
                    .await?;
                Ok(RollbackOutcome {
                    rolled_back_to: version,
                    safety_version: replaced.kept,
                })
            })
            .await
    }
}

impl Inner {
    /// A version of the bot.
    pub(crate) async fn version(
        &self,
        bot: BotId,
        version: VersionNumber,
    ) -> Result<VersionRecord> {
        match self.store.versions.get(bot, version).await {
            Err(error) if error.kind() == StoreErrorKind::NotFound => {
                Err(Error::VersionNotFound { bot, version })
            }
            version => Ok(version?),
        }
    }

    pub(crate) async fn require_snapshot(&self, version: &VersionRecord) -> Result<()> {
        if self.snapshot_exists(&version.snapshot).await? {
            return Ok(());
        }
        Err(Error::VersionMissing {
            bot: version.bot,
            version: version.number,
        })
    }

    async fn foresee_rollback(
        &self,
        bot: BotId,
        version: VersionNumber,
    ) -> Result<RollbackOutcome> {
        let target = self.version(bot, version).await?;
        self.require_snapshot(&target).await?;
        let keep = self.record(bot).await?.is_some_and(|record| record.dirty);
        let last = self
            .store
            .versions
            .list(bot)
            .await?
            .last()
            .map(|version| version.number);
        let next = last.map_or(1, |last| i64::from(last.get()) + 1);
        Ok(RollbackOutcome {
            rolled_back_to: version,
            safety_version: keep.then(|| next.try_into()).transpose()?,
        })
    }

    /// A record for a workspace that was deleted and comes back from a version.
    pub(crate) fn remade_record(&self, bot: BotId, target: &VersionRecord) -> ContainerRecord {
        ContainerRecord {
            snapshotter: target.snapshotter.clone(),
            head_version: Some(target.number),
            ..self.new_record(bot, target.image.clone(), target.snapshot.clone())
        }
    }

    /// Removes what making a deleted workspace again left. Can be repeated.
    pub(crate) async fn undo_remake(self: &Arc<Self>, operation: &Operation) -> Result<()> {
        let fresh = SnapshotKey::active(operation.id);
        if self.record(operation.bot).await?.is_some() {
            // Of a workspace whose files are lost; what its container got is found again.
            self.remove_unnamed(&fresh).await?;
            self.drop_lease(operation.id);
            return Ok(());
        }
        let container = ContainerId::for_bot(operation.bot);
        self.remove_made(&container, &fresh).await?;
        self.remove_network(&container).await;
        let released = vec![Change::ReleaseAddress(operation.bot)];
        self.store.transactions.apply(released).await?;
        self.drop_lease(operation.id);
        Ok(())
    }
}
