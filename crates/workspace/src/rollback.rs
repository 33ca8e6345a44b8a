//! Rollback: bringing a version's files and image back, keeping the present state first.

use crate::faults::fault_point;
use crate::layers::unless_missing;
use crate::model::RollbackOutcome;
use crate::operations::new_operation;
use crate::replace::{Base, Edit, Replacement};
use crate::service::{Inner, Workspaces};
use crate::{Error, Result};
use botstead_authz::{Action, Actor};
use botstead_store::{
    Change, ContainerRecord, ErrorKind as StoreErrorKind, Operation, OperationKind, VersionRecord,
};
use botstead_types::{
    BotId, ContainerId, DesiredState, Limits, OperationId, SnapshotKey, VersionNumber,
    VersionSource,
};
use chrono::Utc;
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
                let record = work.record(bot).await?;
                let base = Base::Version(version);
                let what = match &record {
                    Some(record) => Replacement::of(record, VersionSource::Rollback, base, false),
                    None => Replacement {
                        active: None,
                        keep: None,
                        base,
                        edited: false,
                    },
                };
                let operation = new_operation(id, bot, OperationKind::Rollback, &what)?;
                let reserve = what.keep.is_some();
                let operation = work.store.operations.begin(&operation, reserve).await?;
                fault_point!("rollback", "begun");
                let live = work.register(operation);
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
        let capabilities = self.runtime.backend.capabilities();
        let now = Utc::now();
        ContainerRecord {
            bot,
            container: ContainerId::for_bot(bot),
            namespace: capabilities.namespace.clone(),
            snapshotter: target.snapshotter.clone(),
            image: target.image.clone(),
            snapshot: target.snapshot.clone(),
            head_version: Some(target.number),
            dirty: false,
            desired: DesiredState::Stopped,
            started: false,
            devices: Vec::new(),
            limits: Limits::default(),
            last_error: None,
            created_at: now,
            updated_at: now,
        }
    }

    /// Removes what making a deleted workspace again left. Can be repeated.
    pub(crate) async fn undo_remake(self: &Arc<Self>, operation: &Operation) -> Result<()> {
        let container = ContainerId::for_bot(operation.bot);
        let fresh = SnapshotKey::active(operation.id);
        if self.record(operation.bot).await?.is_some() {
            return Ok(());
        }
        match self.runtime.containers.get(&container).await {
            Ok(found) if found.snapshot == fresh.as_str() => {
                unless_missing(self.runtime.containers.delete(&container).await)?;
            }
            Ok(_) => {}
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error.into()),
        }
        unless_missing(self.runtime.snapshots.remove(&fresh).await)?;
        if let Err(error) = self.runtime.network.remove(&container).await {
            tracing::warn!(%container, error = %error.chain(), "cannot remove the network");
        }
        let released = vec![Change::ReleaseAddress(operation.bot)];
        self.store.transactions.apply(released).await?;
        self.drop_lease(operation.id);
        Ok(())
    }
}
