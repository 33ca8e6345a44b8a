//! Forks: a new workspace that begins as another's, without copying what they share.
//!
//! The fork's first version, with source `inherited`, is a thin layer of the fork's own on the other's
//! snapshot. It holds what must differ between two computers, and protects what lies below it: the
//! other bot may go.

mod identity;

use crate::faults::fault_point;
use crate::layers::unless_missing;
use crate::model::WorkspaceInfo;
use crate::notes::Note;
use crate::operations::{LiveOperation, RECORDED, advanced, event, input, new_operation};
use crate::replace::blocking;
use crate::service::{Inner, Workspaces};
use crate::standing::{Standing, is_final};
use crate::starts::Cause;
use crate::{Error, Result, disk};
use botstead_authz::{Action, Actor};
use botstead_runtime::Access;
use botstead_store::{
    BotPatch, BotStatus, Change, ContainerRecord, Operation, OperationKind, OperationState,
};
use botstead_types::{
    BotId, CdiDevice, ContainerId, DesiredState, LeaseId, Limits, OperationId, RecordedImage,
    SnapshotKey, VersionNumber, VersionSource,
};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::sync::Arc;

/// The step from which on a fork that is recorded and cannot be started is removed again.
const REMOVING: &str = "removing";

/// What a replay of a fork needs.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct ForkInput {
    /// The other bot.
    from: BotId,
    /// Its version; `None` is its present state.
    version: Option<VersionNumber>,
    /// The snapshot that the fork begins on.
    snapshot: SnapshotKey,
    image: RecordedImage,
    devices: Vec<CdiDevice>,
    limits: Limits,
    /// Whether it runs: the other does.
    desired: DesiredState,
}

impl Workspaces {
    /// Makes the bot's workspace from a version of another bot's, or from its present state. The other
    /// goes on untouched; its versions do not show as this bot's own. The fork runs when the other
    /// does.
    ///
    /// # Errors
    /// `BotNotFound` for either, `VersionNotFound`, `ContainerExists` when the bot has a workspace,
    /// `WorkspaceNotFound` when the other has none and no version was named, `OutOfBounds` when its
    /// image or devices are not allowed any more.
    pub async fn fork(
        &self,
        actor: &Actor,
        bot: BotId,
        from: BotId,
        version: Option<VersionNumber>,
    ) -> Result<WorkspaceInfo> {
        let inner = &self.inner;
        inner.authorized(actor, Action::WriteWorkspace, bot).await?;
        inner.authorized(actor, Action::ReadWorkspace, from).await?;
        inner.refuse_when_closing()?;
        disk::require_free_space(&inner.config)?;
        if bot == from {
            return Err(Error::InvalidRequest {
                code: "same_bot",
                message: "a workspace cannot be forked into itself; roll back instead".to_owned(),
            });
        }
        let work = Arc::clone(inner);
        let record = inner
            .detached(async move { work.fork_or_undo(bot, from, version).await })
            .await?;
        Ok(inner.info(record).await)
    }
}

impl Inner {
    async fn fork_or_undo(
        self: &Arc<Self>,
        bot: BotId,
        from: BotId,
        version: Option<VersionNumber>,
    ) -> Result<ContainerRecord> {
        let id = OperationId::generate();
        let _guard = self.lock(bot, id, "fork").await?;
        if self.found_record(bot).await?.is_some() {
            return Err(Error::WorkspaceExists(bot));
        }
        let lease = LeaseId::for_operation(id);
        let other = self.record(from).await?;
        let (snapshot, image) = match version {
            Some(number) => {
                let version = self.version(from, number).await?;
                self.require_snapshot(&version).await?;
                (version.snapshot, version.image)
            }
            None => {
                let other = other.as_ref().ok_or(Error::WorkspaceNotFound(from))?;
                (SnapshotKey::copied(id), other.image.clone())
            }
        };
        let input = ForkInput {
            from,
            version,
            snapshot,
            image,
            devices: other
                .iter()
                .flat_map(|other| other.devices.clone())
                .collect(),
            limits: other
                .as_ref()
                .map_or(Limits::default(), |other| other.limits),
            desired: other
                .as_ref()
                .map_or(DesiredState::Stopped, |other| other.desired),
        };
        // Its limits are held to their maximum wherever it is run.
        self.config.bounds.check_image(&input.image.reference)?;
        self.config.bounds.check_devices(&input.devices)?;
        let operation = new_operation(id, bot, OperationKind::Fork, &input)?;
        let operation = self.begin_leased(operation, true).await?;
        fault_point!("fork", "begun");
        let live = self.register(operation);
        let done = self.fork_steps(&live, &lease, &input).await;
        let outcome = match &done {
            Ok(_) => {
                self.drop_lease(id);
                self.after_version(bot, live.record.version);
                OperationState::Succeeded
            }
            Err(error) => match self.undo_fork(&live.record).await {
                // It stands, and only its start failed: it is tried again as any that should run.
                Ok(false) => self.finish_fork(&live.record).await,
                Ok(true) => self.finish_failed(&live.record, error).await,
                Err(undo) => {
                    self.keep_for_retry(&live.record, &undo);
                    OperationState::Running
                }
            },
        };
        self.unregister(&live, outcome);
        done
    }

    async fn fork_steps(
        self: &Arc<Self>,
        live: &LiveOperation,
        lease: &LeaseId,
        input: &ForkInput,
    ) -> Result<ContainerRecord> {
        let operation = &live.record;
        let (id, bot) = (operation.id, operation.bot);
        if input.version.is_none() {
            // Its own lock, for the moment of the copy only.
            let _other = self
                .lock(input.from, OperationId::generate(), "fork")
                .await?;
            let other = self.present_record(input.from).await?;
            let note = Note::of(input.from, &other.image, other.head_version);
            self.copy_live(lease, &other, &input.snapshot, &note, true)
                .await?;
        }
        fault_point!("fork", "copied");
        let first = SnapshotKey::active(id);
        let note = Note::of(bot, &input.image, None);
        // Until it is a version it is no workspace of this bot's.
        let half = note.unfinished(true);
        self.prepare_on_version(id, &first, &half, &input.snapshot)
            .await?;
        if input.version.is_none() {
            // What builds on it protects it from now on.
            self.runtime.snapshots.release(&input.snapshot).await?;
        }
        let tree = self
            .runtime
            .snapshots
            .open(lease, &first, Access::Write)
            .await?;
        blocking(move || {
            let done = identity::renew(tree.root());
            let closed = tree.close();
            done.and(closed.map_err(|error| crate::replace::host("write to the disk", error)))
        })
        .await?;
        fault_point!("fork", "changed");
        let version = SnapshotKey::version(id);
        let number = crate::snapshot::reserved(operation)?;
        let note = note.version(number, None, &first);
        self.commit(lease, &first, &version, &note).await?;
        fault_point!("fork", "committed");
        let active = SnapshotKey::forked(id);
        let note = Note::of(bot, &input.image, Some(number));
        self.prepare_on_version(id, &active, &note, &version)
            .await?;
        fault_point!("fork", "prepared");
        let record = self.forked_record(operation, input);
        self.switch_to(lease, &record).await?;
        fault_point!("fork", "switched");
        self.record_fork(operation, input, record).await?;
        let record = self.required_record(bot).await?;
        if record.desired == DesiredState::Running {
            match self.bring_up(&record, Cause::Asked).await {
                Err(error) if is_final(&error) => {
                    self.forget_fork(operation).await?;
                    return Err(error);
                }
                started => started?,
            }
            fault_point!("fork", "started");
        }
        self.finish_succeeded(operation).await?;
        self.required_record(bot).await
    }

    /// Writes the end of a fork that stands.
    async fn finish_fork(&self, operation: &Operation) -> OperationState {
        if let Err(error) = self.finish_succeeded(operation).await {
            self.keep_for_retry(operation, &error);
            return OperationState::Running;
        }
        OperationState::Succeeded
    }

    /// Takes back what is recorded of a fork that cannot be started, so that it is undone.
    async fn forget_fork(&self, operation: &Operation) -> Result<()> {
        let number = crate::snapshot::reserved(operation)?;
        let forgotten = vec![
            Change::DeleteContainer(operation.bot),
            Change::DeleteVersion(operation.bot, number),
            advanced(operation.id, REMOVING),
        ];
        Ok(self.store.transactions.apply(forgotten).await?)
    }

    fn forked_record(&self, operation: &Operation, input: &ForkInput) -> ContainerRecord {
        let active = SnapshotKey::forked(operation.id);
        ContainerRecord {
            desired: input.desired,
            devices: input.devices.clone(),
            limits: input.limits,
            ..self.new_record(operation.bot, input.image.clone(), active)
        }
    }

    /// Writes a fork down whose container is there.
    async fn record_fork(
        &self,
        operation: &Operation,
        input: &ForkInput,
        mut record: ContainerRecord,
    ) -> Result<()> {
        let (id, bot) = (operation.id, operation.bot);
        let number = crate::snapshot::reserved(operation)?;
        let version = SnapshotKey::version(id);
        let first = self.version_record(&record, number, None, VersionSource::Inherited, version);
        record.head_version = Some(number);
        let detail = json!({"from": input.from, "version": input.version});
        self.store
            .transactions
            .apply(vec![
                Change::InsertContainer(Box::new(record.clone())),
                Change::InsertVersion(Box::new(first)),
                Change::PatchBot(
                    bot,
                    BotPatch {
                        status: Some(BotStatus::Ready),
                        ..BotPatch::default()
                    },
                ),
                event(bot, "forked", detail),
                advanced(id, RECORDED),
            ])
            .await?;
        fault_point!("fork", "recorded");
        Ok(())
    }

    /// Ends a fork that a dead server left: one whose container is there stands, any other is undone.
    pub(crate) async fn replay_fork(self: &Arc<Self>, operation: &Operation) -> Result<()> {
        let active = SnapshotKey::forked(operation.id);
        if let Some(row) = self.record(operation.bot).await? {
            if operation.step == RECORDED && row.snapshot == active {
                // Where it should run, it is started as any other.
                self.finish_succeeded(operation).await?;
                self.drop_lease(operation.id);
                return Ok(());
            }
            // Another one is there.
            return self.end_superseded(operation).await;
        }
        if operation.step == REMOVING {
            let container = self.container(operation.bot).await?;
            if container.is_some_and(|found| found.snapshot != active.as_str()) {
                return self.end_superseded(operation).await;
            }
            self.undo_fork(operation).await?;
            return self.finish_interrupted(operation).await;
        }
        match self.standing(operation, None, &active).await? {
            Standing::Switched => {
                let input: ForkInput = input(operation)?;
                let mut record = self.forked_record(operation, &input);
                // It may have run since.
                (record.dirty, record.started) = (true, true);
                self.record_fork(operation, &input, record).await?;
                self.finish_succeeded(operation).await?;
                self.drop_lease(operation.id);
                Ok(())
            }
            Standing::Untouched | Standing::Between => {
                self.undo_fork(operation).await?;
                self.finish_interrupted(operation).await
            }
            Standing::MovedOn => self.end_superseded(operation).await,
        }
    }

    /// Removes everything that a fork made, unless it was recorded: then it stands. Tells whether it
    /// was undone. Can be repeated.
    async fn undo_fork(self: &Arc<Self>, operation: &Operation) -> Result<bool> {
        let (id, bot) = (operation.id, operation.bot);
        let ForkInput {
            snapshot, version, ..
        } = input(operation)?;
        if self.record(bot).await?.is_some() {
            self.drop_lease(id);
            return Ok(false);
        }
        let container = ContainerId::for_bot(bot);
        let active = SnapshotKey::forked(id);
        self.remove_made(&container, &active).await?;
        unless_missing(
            self.runtime
                .snapshots
                .remove(&SnapshotKey::active(id))
                .await,
        )?;
        self.runtime
            .snapshots
            .release(&SnapshotKey::version(id))
            .await?;
        if version.is_none() {
            self.runtime.snapshots.release(&snapshot).await?;
        }
        self.remove_network(&container).await;
        let released = vec![Change::ReleaseAddress(bot)];
        self.store.transactions.apply(released).await?;
        self.drop_lease(id);
        self.collect_released();
        Ok(true)
    }
}
