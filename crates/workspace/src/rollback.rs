//! Rollback: bringing a version's files and image back, keeping the present state first.

use crate::faults::fault_point;
use crate::layers::unless_missing;
use crate::model::RollbackOutcome;
use crate::operations::{LiveOperation, event, finished, input, new_operation};
use crate::service::{Inner, Workspaces};
use crate::snapshot::{RECORDED, reserved};
use crate::{Error, Result};
use botstead_authz::{Action, Actor};
use botstead_store::{
    Change, ContainerPatch, ContainerRecord, ErrorKind as StoreErrorKind, Operation, OperationKind,
    OperationState, VersionRecord,
};
use botstead_types::{
    BotId, ContainerId, DesiredState, LeaseId, Limits, OperationId, SnapshotKey, VersionNumber,
    VersionSource,
};
use chrono::Utc;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::sync::Arc;

/// What a replay of a rollback needs.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct RollbackInput {
    target: VersionNumber,
    /// The active snapshot before; `None` when the workspace was deleted and is made again.
    active: Option<SnapshotKey>,
    /// Whether that state is kept as a version first.
    keep: bool,
}

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
                let keep = record.as_ref().is_some_and(|record| record.dirty);
                let input = RollbackInput {
                    target: version,
                    active: record.as_ref().map(|record| record.snapshot.clone()),
                    keep,
                };
                let operation = new_operation(id, bot, OperationKind::Rollback, &input)?;
                let operation = work.store.operations.begin(&operation, keep).await?;
                fault_point!("rollback.begun");
                let live = work.register(operation);
                work.rollback_or_undo(&live, record.as_ref(), &target).await
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

    async fn require_snapshot(&self, version: &VersionRecord) -> Result<()> {
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

    async fn rollback_or_undo(
        self: &Arc<Self>,
        live: &LiveOperation,
        record: Option<&ContainerRecord>,
        target: &VersionRecord,
    ) -> Result<RollbackOutcome> {
        let operation = &live.record;
        let done = self.rollback_steps(operation, target).await;
        let outcome = match (&done, record) {
            (Ok(outcome), _) => {
                self.drop_lease(operation.id);
                if let Some(safety) = outcome.safety_version
                    && let Ok(version) = self.version(operation.bot, safety).await
                {
                    self.measure_version(&version);
                }
                OperationState::Succeeded
            }
            (Err(error), Some(record)) => self.settle_failure(operation, record, error).await,
            (Err(error), None) => match self.undo_remake(operation).await {
                Ok(()) => self.finish_failed(operation, error).await,
                Err(undo) => {
                    self.keep_for_retry(operation, &undo);
                    OperationState::Running
                }
            },
        };
        self.unregister(live, outcome);
        done
    }

    /// The steps of a rollback that a dead server or a failure left.
    pub(crate) async fn replay_rollback(self: &Arc<Self>, operation: &Operation) -> Result<()> {
        let RollbackInput { target, .. } = input(operation)?;
        let target = self.version(operation.bot, target).await?;
        self.rollback_steps(operation, &target).await?;
        self.drop_lease(operation.id);
        Ok(())
    }

    /// The steps of a rollback; from any point, again from the beginning.
    async fn rollback_steps(
        self: &Arc<Self>,
        operation: &Operation,
        target: &VersionRecord,
    ) -> Result<RollbackOutcome> {
        let (id, bot) = (operation.id, operation.bot);
        let RollbackInput { active, keep, .. } = input(operation)?;
        let safety_version = if keep {
            Some(reserved(operation)?)
        } else {
            None
        };
        let fresh = SnapshotKey::active(id);
        let mut record = match self.record(bot).await? {
            Some(record) => record,
            None => self.remade_record(bot, target),
        };
        if record.snapshot != fresh || active.is_none() {
            let lease = LeaseId::for_operation(id);
            self.runtime.leases.create(&lease).await?;
            let mut changes = Vec::new();
            if let (Some(_), Some(number)) = (&active, safety_version) {
                let kept = SnapshotKey::version(id);
                self.capture(&lease, &record, &kept).await?;
                let source = VersionSource::Rollback;
                let version = self.version_record(&record, number, None, source, kept);
                changes.push(Change::InsertVersion(Box::new(version)));
            } else if active.is_some() {
                self.power_down(&record).await?;
                fault_point!("rollback.stopped");
            }
            fault_point!("rollback.committed");
            self.prepare_on_version(id, &fresh, &bot.to_string(), &target.snapshot)
                .await?;
            fault_point!("rollback.prepared");
            record.snapshot = fresh;
            record.image = target.image.clone();
            self.switch_to(&lease, &record).await?;
            fault_point!("rollback.switched");
            changes.push(
                self.rolled_back(&mut record, target.number, active.is_none())
                    .await?,
            );
            changes.push(Change::AdvanceOperation {
                id,
                step: RECORDED.to_owned(),
                input: None,
            });
            let detail = json!({"to": target.number, "safety_version": safety_version});
            changes.push(event(bot, "rollback", detail));
            self.store.transactions.apply(changes).await?;
            fault_point!("rollback.recorded");
        }
        if let (Some(old), false) = (&active, keep) {
            // Equal to its head version, so nothing is lost with it.
            unless_missing(self.runtime.snapshots.remove(old).await)?;
            fault_point!("rollback.removed");
        }
        if record.desired == DesiredState::Running {
            self.bring_up(&record).await?;
            fault_point!("rollback.started");
        }
        self.store
            .transactions
            .apply(vec![finished(operation)])
            .await?;
        fault_point!("rollback.finished");
        Ok(RollbackOutcome {
            rolled_back_to: target.number,
            safety_version,
        })
    }

    /// The change of the container's row that a rollback makes.
    async fn rolled_back(
        &self,
        record: &mut ContainerRecord,
        to: VersionNumber,
        remade: bool,
    ) -> Result<Change> {
        record.head_version = Some(to);
        record.dirty = false;
        if remade && self.record(record.bot).await?.is_none() {
            return Ok(Change::InsertContainer(Box::new(record.clone())));
        }
        let patch = ContainerPatch {
            snapshot: Some(record.snapshot.clone()),
            image: Some(record.image.clone()),
            head_version: Some(Some(to)),
            dirty: Some(false),
            ..ContainerPatch::default()
        };
        Ok(Change::PatchContainer(record.bot, Box::new(patch)))
    }

    /// A record for a workspace that was deleted and comes back from a version.
    fn remade_record(&self, bot: BotId, target: &VersionRecord) -> ContainerRecord {
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
    async fn undo_remake(self: &Arc<Self>, operation: &Operation) -> Result<()> {
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
