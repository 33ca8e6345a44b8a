//! Reconciliation: what should run, runs and can be reached; what the user stopped stays stopped;
//! what an interrupted operation left is finished or undone.
//!
//! Here is what happens at start, to one workspace, and with the runtime's events. The loop is in
//! `rounds`, when it looks at what in `schedule`, what wakes it in `wake`.

mod rounds;
mod schedule;
mod wake;

pub(crate) use wake::Wake;

use crate::Result;
use crate::locks::Holder;
use crate::service::Inner;
use crate::starts::Cause;
use botstead_runtime::TaskEvent;
use botstead_store::{ContainerRecord, ErrorKind as StoreErrorKind, Operation, OperationKind};
use botstead_types::{ContainerId, DesiredState, LeaseId, OperationId};
use chrono::{Days, Utc};
use futures_util::stream::{self, BoxStream, StreamExt};
use schedule::{Found, Leave};
use serde_json::json;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

/// How many workspaces are looked after at the same time at start. Those whose agent does not answer
/// are left to the loop, so that none of them holds up the server.
const PARALLEL: usize = 32;
/// Finished operations are kept so long.
const KEEP_OPERATIONS_DAYS: u64 = 30;

impl Inner {
    /// What has to be done before the first request: see [`crate::Workspaces::open`].
    pub(crate) async fn reconcile_at_start(self: &Arc<Self>) -> Result<()> {
        self.runtime.snapshots.settle().await?;
        self.runtime.network.ensure_host().await?;
        let unfinished = self.store.operations.unfinished().await?;
        for operation in &unfinished {
            tracing::info!(operation = %operation.id, bot = %operation.bot,
                kind = crate::operations::kind_name(operation.kind), step = operation.step,
                "finishing an interrupted operation");
            if let Err(error) = self.replay(operation).await {
                self.keep_for_retry(operation, &error);
            }
        }
        self.compare_at_start().await?;
        self.release_copies().await?;
        self.remove_unknown_leases().await?;
        let records = self.store.containers.list().await?;
        self.remove_unknown_networks(&records).await;
        let leave = Leave {
            act: true,
            repair_silent: false,
            tell_silent: false,
        };
        stream::iter(records)
            .for_each_concurrent(PARALLEL, |record| async move {
                match record.desired {
                    DesiredState::Running => match self.look(record.bot, leave).await {
                        Found::AtRest | Found::Fine | Found::Acted => {}
                        Found::Silent
                        | Found::Busy
                        | Found::Stuck
                        | Found::Waiting
                        | Found::Failed
                        | Found::Unknown => self.wake.bot(record.bot),
                    },
                    // What a server that died in a stop left of task and network goes.
                    DesiredState::Stopped => {
                        if !self.look_after(&record).await {
                            self.wake.bot(record.bot);
                        }
                    }
                }
            })
            .await;
        let long_ago = Utc::now() - Days::new(KEEP_OPERATIONS_DAYS);
        let forgotten = self.store.operations.forget_finished(long_ago).await?;
        tracing::debug!(forgotten, "forgot finished operations");
        // An operation that waits may have kept one for what it will record.
        if self.store.operations.unfinished().await?.is_empty() {
            match self.store.images.collect().await {
                Ok(unused) => tracing::debug!(unused, "forgot configurations of images"),
                // They are in nobody's way; a row that cannot be read is no reason not to start.
                Err(error) => {
                    tracing::warn!(%error, "cannot forget unused configurations of images");
                }
            }
        }
        Ok(())
    }

    /// Finishes or undoes an operation that a dead server, or a failure after its point of no
    /// return, left. The caller holds the bot, or nobody else does anything yet.
    pub(crate) async fn replay(self: &Arc<Self>, operation: &Operation) -> Result<()> {
        // The journal knows the step; what is in memory may be older.
        let operation = &match self.store.operations.get(operation.bot, operation.id).await {
            Err(error) if error.kind() == StoreErrorKind::NotFound => return Ok(()),
            operation => operation?,
        };
        let cause = Cause::Reconcile;
        match operation.kind {
            OperationKind::Create => self.replay_creation(operation).await,
            OperationKind::Snapshot => self.replay_snapshot(operation, cause).await,
            OperationKind::Rollback
            | OperationKind::Import
            | OperationKind::Restore
            | OperationKind::RestorePath
            | OperationKind::ChangeImage => self.replay_replacement(operation, cause).await,
            OperationKind::Fork => self.replay_fork(operation).await,
            // What the number was for is found again.
            OperationKind::Recover => self.finish_interrupted(operation).await,
            OperationKind::DeleteVersion => self.replay_version_deletion(operation).await,
            OperationKind::Delete | OperationKind::DeleteBot => {
                self.replay_deletion(operation).await
            }
            // What they want is recorded with the workspace and made true below.
            OperationKind::Start | OperationKind::Stop => Ok(()),
        }
    }

    /// Copies that exports and forks of a dead server made for themselves.
    async fn release_copies(&self) -> Result<()> {
        let unfinished = self.store.operations.unfinished().await?;
        for snapshot in self.runtime.snapshots.list().await? {
            let of = snapshot.key.copied_by();
            if of.is_some_and(|id| unfinished.iter().all(|operation| operation.id != id)) {
                self.runtime.snapshots.release(&snapshot.key).await?;
            }
        }
        Ok(())
    }

    /// Leases of operations that ended, or that nobody knows.
    async fn remove_unknown_leases(&self) -> Result<()> {
        let unfinished: HashSet<OperationId> = self
            .store
            .operations
            .unfinished()
            .await?
            .iter()
            .map(|operation| operation.id)
            .collect();
        for lease in self.runtime.leases.list().await? {
            let operation = lease
                .id
                .parse::<LeaseId>()
                .ok()
                .and_then(|id| id.operation());
            if operation.is_some_and(|operation| !unfinished.contains(&operation)) {
                tracing::info!(
                    lease = lease.id,
                    "removing the lease of an operation that ended"
                );
                self.runtime.leases.delete(&lease.id).await?;
            }
        }
        Ok(())
    }

    /// Namespaces of workspaces that do not exist. Best effort.
    async fn remove_unknown_networks(&self, records: &[ContainerRecord]) {
        let known: HashSet<&ContainerId> = records.iter().map(|record| &record.container).collect();
        let namespaces = match self.runtime.network.list().await {
            Ok(namespaces) => namespaces,
            Err(error) => {
                tracing::warn!(error = %error.chain(), "cannot list network namespaces");
                return;
            }
        };
        for id in namespaces.iter().filter(|id| !known.contains(id)) {
            if let Err(error) = self.runtime.network.remove(id).await {
                tracing::warn!(%id, error = %error.chain(), "cannot remove a leftover network");
            }
        }
    }

    /// Makes true what the user wants of one workspace, unless somebody is busy with it. Tells whether
    /// it is so now.
    async fn look_after(self: &Arc<Self>, record: &ContainerRecord) -> bool {
        let holder = Holder {
            operation: OperationId::generate(),
            what: "reconcile",
        };
        let Some(_guard) = self.locks.try_acquire(record.bot, holder) else {
            return false;
        };
        if let Err(error) = self.recover_bot(record.bot).await {
            tracing::warn!(bot = %record.bot, %error, "an interrupted operation still cannot go on");
            return false;
        }
        // Read again: it may have changed before the bot was free.
        let record = match self.record(record.bot).await {
            Ok(Some(record)) => record,
            Ok(None) => return true,
            Err(error) => {
                tracing::warn!(bot = %record.bot, %error, "cannot read the workspace");
                return false;
            }
        };
        let done = match record.desired {
            DesiredState::Running => self.bring_up(&record, Cause::Reconcile).await,
            DesiredState::Stopped => self.power_down(&record).await,
        };
        match &done {
            Ok(()) if record.desired == DesiredState::Running => {
                self.samples.set_running(record.bot);
            }
            Ok(()) => {}
            Err(error) => {
                tracing::error!(bot = %record.bot, desired = %record.desired, %error,
                    "a workspace is not as it should be");
                // The bridge may be what is missing.
                self.wake.host();
            }
        }
        done.is_ok()
    }

    /// Watches, until the service closes, that what should run does.
    pub(crate) fn watch(self: &Arc<Self>) {
        let events = Arc::clone(self);
        // From now on, and not from when the task first runs: an end in between would be missed.
        let first = self.runtime.tasks.events();
        self.handle.spawn(async move {
            let closed = events.background.clone();
            closed
                .run_until_cancelled(events.follow_events(first))
                .await;
        });
        let rounds = Arc::clone(self);
        self.handle.spawn(async move {
            let closed = rounds.background.clone();
            closed.run_until_cancelled(rounds.reconcile_loop()).await;
        });
        let network = Arc::clone(self);
        self.handle.spawn(async move {
            let closed = network.background.clone();
            closed
                .run_until_cancelled(network.follow_host_network())
                .await;
        });
        let sampler = Arc::clone(self);
        self.handle.spawn(async move {
            let closed = sampler.background.clone();
            closed.run_until_cancelled(sampler.sample_usage()).await;
        });
    }

    async fn follow_events(
        self: Arc<Self>,
        mut events: BoxStream<'static, botstead_runtime::Result<TaskEvent>>,
    ) {
        loop {
            while let Some(event) = events.next().await {
                match event {
                    Ok(event) => self.note(&event).await,
                    Err(error) => {
                        tracing::warn!(error = %error.chain(), "lost the runtime's events");
                        break;
                    }
                }
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
            events = self.runtime.tasks.events();
            self.wake.all();
        }
    }

    async fn note(self: &Arc<Self>, event: &TaskEvent) {
        let (id, kind, detail) = match event {
            TaskEvent::Started(id) => {
                if let Some(bot) = id.bot() {
                    self.samples.set_running(bot);
                }
                return;
            }
            TaskEvent::Exited(id, exit) => {
                if let Some(bot) = id.bot() {
                    self.samples.forget_task(bot);
                    self.kills.forget_task(bot);
                    self.wake.bot(bot);
                }
                (id, "task_exited", json!({"exit_code": exit.code}))
            }
            TaskEvent::OutOfMemory(id) => {
                if let Some(bot) = id.bot() {
                    self.note_out_of_memory(bot);
                }
                return;
            }
        };
        if let Some(bot) = id.bot() {
            let event = crate::operations::event(bot, kind, detail);
            if let Err(error) = self.store.transactions.apply(vec![event]).await {
                tracing::warn!(%bot, %error, "cannot record an event");
            }
        }
    }
}
