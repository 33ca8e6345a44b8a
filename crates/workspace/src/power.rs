//! Start and stop: what the user wants is recorded first, then made true.

use crate::agent::is_lost;
use crate::layers::unless_missing;
use crate::model::CreateRequest;
use crate::notes::Note;
use crate::operations::{event, new_operation};
use crate::service::{Inner, Workspaces};
use crate::starts::Cause;
use crate::{Error, Result};
use botstead_authz::{Action, Actor};
use botstead_runtime::{Endpoint, EndpointStatus, Signal, SnapshotMount};
use botstead_store::{Change, ContainerPatch, ContainerRecord, OperationKind, OperationState};
use botstead_types::{
    BotId, ContainerId, DesiredState, LeaseId, OperationId, SnapshotKey, TaskStatus,
};
use serde_json::json;
use std::net::Ipv4Addr;
use std::sync::Arc;

impl Workspaces {
    /// Starts the workspace; one that runs and can be reached is left alone. A bot without one
    /// gets a workspace from what it prefers, or the default.
    ///
    /// # Errors
    /// `BotNotFound`, `Busy`, what the runtime refuses.
    pub async fn start(&self, actor: &Actor, bot: BotId) -> Result<()> {
        let inner = &self.inner;
        inner.authorized(actor, Action::WriteWorkspace, bot).await?;
        inner.refuse_when_closing()?;
        let work = Arc::clone(inner);
        let found = inner
            .detached(async move {
                let id = OperationId::generate();
                let _guard = work.lock(bot, id, "start").await?;
                let Some(record) = work.found_record(bot).await? else {
                    return Ok(false);
                };
                let live = work.register(new_operation(id, bot, OperationKind::Start, &())?);
                let done = work.bring_up(&record, Cause::Asked).await;
                work.unregister(&live, outcome(&done));
                done.map(|()| true)
            })
            .await?;
        if found {
            return Ok(());
        }
        self.create_and_wait(actor, bot, CreateRequest::default())
            .await
    }

    /// Stops the workspace; it stays stopped until it is started, whatever restarts meanwhile. One
    /// that is stopped is left alone.
    ///
    /// # Errors
    /// `BotNotFound`, `WorkspaceNotFound`, `Busy`, what the runtime refuses.
    pub async fn stop(&self, actor: &Actor, bot: BotId) -> Result<()> {
        let inner = &self.inner;
        inner.authorized(actor, Action::WriteWorkspace, bot).await?;
        inner.refuse_when_closing()?;
        let work = Arc::clone(inner);
        inner
            .detached(async move {
                let id = OperationId::generate();
                let _guard = work.lock(bot, id, "stop").await?;
                let record = work.found_record(bot).await?;
                let record = record.ok_or(Error::WorkspaceNotFound(bot))?;
                let live = work.register(new_operation(id, bot, OperationKind::Stop, &())?);
                let done = work.stop_for_good(&record).await;
                work.unregister(&live, outcome(&done));
                done
            })
            .await
    }
}

fn outcome<T>(done: &Result<T>) -> OperationState {
    match done {
        Ok(_) => OperationState::Succeeded,
        Err(_) => OperationState::Failed,
    }
}

impl Inner {
    async fn stop_for_good(&self, record: &ContainerRecord) -> Result<()> {
        let patch = ContainerPatch {
            desired: Some(DesiredState::Stopped),
            ..ContainerPatch::default()
        };
        self.store
            .transactions
            .apply(vec![
                Change::PatchContainer(record.bot, Box::new(patch)),
                event(record.bot, "stopped", json!({})),
            ])
            .await?;
        self.power_down(record).await
    }

    /// Makes the workspace run and be reachable, whatever state it is in, and records that it
    /// should. The caller holds the bot.
    pub(crate) async fn bring_up(
        self: &Arc<Self>,
        record: &ContainerRecord,
        cause: Cause,
    ) -> Result<()> {
        let done = self.try_bring_up(record, cause).await;
        self.note_start(record, done).await
    }

    /// The same for a workspace whose task the caller has just ended and whose snapshot it has just
    /// prepared: neither is looked up again.
    pub(crate) async fn bring_up_on(
        self: &Arc<Self>,
        record: &ContainerRecord,
        root: &[SnapshotMount],
        cause: Cause,
    ) -> Result<()> {
        let done = self.start_stopped(record, root, cause).await;
        self.note_start(record, done).await
    }

    async fn note_start(&self, record: &ContainerRecord, done: Result<()>) -> Result<()> {
        let last_error = match &done {
            Ok(()) if record.last_error.is_none() => return Ok(()),
            Ok(()) => None,
            // It runs, and may answer at any moment.
            Err(Error::Unreachable(_)) => return done,
            Err(error) => Some(error.to_string()),
        };
        let patch = ContainerPatch {
            last_error: Some(last_error),
            ..ContainerPatch::default()
        };
        let patched = self.patch(record, patch).await;
        done.and(patched)
    }

    async fn try_bring_up(self: &Arc<Self>, record: &ContainerRecord, cause: Cause) -> Result<()> {
        let id = &record.container;
        match self.runtime.tasks.get(id).await {
            Ok(task) if task.status == TaskStatus::Running => {
                let wanted = ContainerPatch {
                    desired: Some(DesiredState::Running),
                    ..ContainerPatch::default()
                };
                if record.desired != DesiredState::Running {
                    self.patch(record, wanted).await?;
                }
                let address = self.address(record.bot).await?;
                let reason = if self.mend_network(record, address).await? {
                    match self.wake_agent(record).await {
                        Err(error) if is_lost(&error) => "its agent is gone",
                        done => return done,
                    }
                } else {
                    "its network is gone"
                };
                tracing::error!(bot = %record.bot, reason, "replacing a task that cannot be reached");
                let told = event(record.bot, "task_replaced", json!({"reason": reason}));
                self.store.transactions.apply(vec![told]).await?;
                self.power_down(record).await?;
            }
            Ok(_) => self.power_down(record).await?,
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error.into()),
        }
        self.start_stopped(record, &[], cause).await
    }

    async fn start_stopped(
        self: &Arc<Self>,
        record: &ContainerRecord,
        root: &[SnapshotMount],
        cause: Cause,
    ) -> Result<()> {
        let turn = self.start_turn(record.bot, cause).await?;
        match self.run_task(record, root).await {
            Err(Error::Runtime(error)) if error.is_not_found() => {
                tracing::warn!(bot = %record.bot, error = %error.chain(),
                    "the runtime lost this workspace's container or snapshot; making it again");
                // That may unpack an image.
                drop(turn);
                let record = self.rebuild(record).await?;
                let _turn = self.start_turn(record.bot, cause).await?;
                self.run_task(&record, &[]).await
            }
            done => done,
        }
    }

    /// Sets task and network up side by side and starts the task when both are ready, so that a
    /// workspace has its network from its first instruction.
    async fn run_task(&self, record: &ContainerRecord, root: &[SnapshotMount]) -> Result<()> {
        let address = self.address(record.bot).await?;
        let id = &record.container;
        self.runtime.network.create_namespace(id).await?;
        let about_to_run = ContainerPatch {
            desired: Some(DesiredState::Running),
            dirty: Some(true),
            started: Some(true),
            ..ContainerPatch::default()
        };
        let endpoint = Endpoint { address };
        let set_up = async {
            let (task, network, recorded) = tokio::join!(
                self.runtime.tasks.create_on(id, root),
                self.runtime.network.attach(id, &endpoint),
                self.store.transactions.apply(vec![
                    Change::PatchContainer(record.bot, Box::new(about_to_run)),
                    event(record.bot, "started", json!({})),
                ]),
            );
            task?;
            network?;
            recorded?;
            self.greet_agent(id);
            self.runtime.tasks.start(id).await?;
            Ok(())
        };
        match set_up.await {
            Ok(()) => Ok(()),
            Err(error) => {
                self.remove_task_and_network(record).await;
                Err(error)
            }
        }
    }

    /// Ends the task however it is and takes the network away. The caller holds the bot.
    pub(crate) async fn power_down(&self, record: &ContainerRecord) -> Result<()> {
        let id = &record.container;
        let there = self.end_task(record).await?;
        let (deleted, ()) = tokio::join!(self.delete_task(id, there), self.remove_network(id));
        deleted
    }

    /// The same for a workspace that is about to get another snapshot: what will run again keeps its
    /// network, so that it need not be made anew.
    pub(crate) async fn power_down_to_replace(&self, record: &ContainerRecord) -> Result<()> {
        if record.desired != DesiredState::Running {
            return self.power_down(record).await;
        }
        let there = self.end_task(record).await?;
        self.delete_task(&record.container, there).await
    }

    /// Ends the task's processes; whether there is a task to delete.
    async fn end_task(&self, record: &ContainerRecord) -> Result<bool> {
        let (id, grace) = (&record.container, self.config.stop_grace);
        let there = self.runtime.tasks.end(id, Signal::TERM, grace).await?;
        self.forget_agent(id);
        self.samples.forget_task(record.bot);
        self.kills.forget_task(record.bot);
        Ok(there)
    }

    async fn delete_task(&self, id: &ContainerId, there: bool) -> Result<()> {
        if there {
            let deleted = self.runtime.tasks.delete(id).await;
            unless_missing(deleted.map(drop))?;
        }
        Ok(())
    }

    /// Best effort, after a failure that is reported already.
    async fn remove_task_and_network(&self, record: &ContainerRecord) {
        let id = &record.container;
        let stopped = self
            .runtime
            .tasks
            .stop(id, Signal::KILL, std::time::Duration::ZERO)
            .await;
        if let Err(error) = stopped {
            tracing::warn!(%id, error = %error.chain(), "cannot remove the task");
        }
        self.remove_network(id).await;
    }

    /// Whether a running task's network is up, after trying to mend it without touching the task.
    async fn mend_network(&self, record: &ContainerRecord, address: Ipv4Addr) -> Result<bool> {
        let id = &record.container;
        let endpoint = Endpoint { address };
        let status = self.runtime.network.status(id, &endpoint).await?;
        let EndpointStatus::Broken(reason) = status else {
            return Ok(true);
        };
        tracing::warn!(%id, reason, "the workspace's network is broken; mending it");
        self.runtime.network.ensure_host().await?;
        match self.runtime.network.attach(id, &endpoint).await {
            Ok(()) => {}
            Err(error) if error.is_not_found() => return Ok(false),
            Err(error) => return Err(error.into()),
        }
        let status = self.runtime.network.status(id, &endpoint).await?;
        Ok(status == EndpointStatus::Up)
    }

    /// The workspace's address, assigned where it has none.
    pub(crate) async fn address(&self, bot: BotId) -> Result<Ipv4Addr> {
        let info = self.runtime.network.info();
        Ok(self
            .store
            .addresses
            .assign(bot, info.subnet, info.gateway)
            .await?)
    }

    /// Makes the container again after the runtime lost it or its snapshot: on the workspace's own
    /// writable snapshot while there is any, whether the container or the row names it; else on the
    /// nearest state that is left; else from the image.
    pub(crate) async fn rebuild(
        self: &Arc<Self>,
        record: &ContainerRecord,
    ) -> Result<ContainerRecord> {
        self.keep_what_is_there(record.bot).await?;
        let record = self.required_record(record.bot).await?;
        let operation = OperationId::generate();
        let lease = LeaseId::for_operation(operation);
        self.runtime.leases.create(&lease).await?;
        let done = self.rebuild_under(operation, &lease, record).await;
        self.drop_lease(operation);
        done
    }

    async fn rebuild_under(
        self: &Arc<Self>,
        operation: OperationId,
        lease: &LeaseId,
        mut record: ContainerRecord,
    ) -> Result<ContainerRecord> {
        let bot = record.bot;
        let from = if self.snapshot_exists(&record.snapshot).await? {
            "snapshot"
        } else {
            record.snapshot = SnapshotKey::active(operation);
            record.head_version = None;
            let image = &record.image;
            let base = self.unpacked_image(lease, &image.reference).await?;
            let note = Note::of(bot, image, None);
            self.prepare_on_image(lease, &record.snapshot, &note, &base)
                .await?;
            tracing::error!(%bot, "nothing was left of the workspace; it begins anew from its image");
            "image"
        };
        self.switch_to(lease, &record).await?;
        let patch = ContainerPatch {
            snapshot: Some(record.snapshot.clone()),
            head_version: Some(record.head_version),
            ..ContainerPatch::default()
        };
        self.store
            .transactions
            .apply(vec![
                Change::PatchContainer(bot, Box::new(patch)),
                event(bot, "rebuilt", json!({"from": from})),
            ])
            .await?;
        self.losses.set_workspace(bot, false);
        Ok(record)
    }

    pub(crate) async fn patch(
        &self,
        record: &ContainerRecord,
        patch: ContainerPatch,
    ) -> Result<()> {
        let change = Change::PatchContainer(record.bot, Box::new(patch));
        Ok(self.store.transactions.apply(vec![change]).await?)
    }
}
