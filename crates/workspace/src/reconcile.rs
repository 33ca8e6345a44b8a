//! Reconciliation: what should run, runs and can be reached; what the user stopped stays stopped;
//! what an interrupted operation left is finished or undone.

use crate::Result;
use crate::locks::Holder;
use crate::service::Inner;
use botstead_runtime::TaskEvent;
use botstead_store::{ContainerRecord, ErrorKind as StoreErrorKind, Operation, OperationKind};
use botstead_types::{BotId, ContainerId, DesiredState, LeaseId, OperationId, TaskStatus};
use chrono::{Days, Utc};
use futures_util::stream::{self, StreamExt};
use serde_json::json;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How many workspaces are looked after at the same time.
const PARALLEL: usize = 8;
/// A workspace whose task ends again and again is started after growing pauses.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// How often operations that could not go on are tried again.
const RETRY_EVERY: Duration = Duration::from_secs(3);
/// How often terminals that nobody uses are looked for.
const TERMINALS_EVERY: Duration = Duration::from_secs(10 * 60);
/// An agent that takes longer to answer is silent.
const HEALTH_PATIENCE: Duration = Duration::from_secs(5);
/// The task of an agent that is silent so long is replaced.
const SILENCE: Duration = Duration::from_secs(30);
/// Finished operations are kept so long.
const KEEP_OPERATIONS_DAYS: u64 = 30;

impl Inner {
    /// What has to be done before the first request: see [`crate::Workspaces::open`].
    pub(crate) async fn reconcile_at_start(self: &Arc<Self>) -> Result<()> {
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
        self.release_copies().await?;
        self.remove_unknown_leases().await?;
        let records = self.store.containers.list().await?;
        self.remove_unknown_networks(&records).await;
        stream::iter(records)
            .for_each_concurrent(
                PARALLEL,
                |record| async move { self.look_after(&record).await },
            )
            .await;
        let long_ago = Utc::now() - Days::new(KEEP_OPERATIONS_DAYS);
        let forgotten = self.store.operations.forget_finished(long_ago).await?;
        tracing::debug!(forgotten, "forgot finished operations");
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
        match operation.kind {
            OperationKind::Create => self.replay_creation(operation).await,
            OperationKind::Snapshot => self.replay_snapshot(operation).await,
            OperationKind::Rollback
            | OperationKind::Import
            | OperationKind::Restore
            | OperationKind::RestorePath
            | OperationKind::ChangeImage => self.replay_replacement(operation).await,
            OperationKind::Fork => self.replay_fork(operation).await,
            OperationKind::DeleteVersion => self.remove_version_steps(operation).await,
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

    /// Makes true what the user wants of one workspace, unless somebody is busy with it.
    async fn look_after(self: &Arc<Self>, record: &ContainerRecord) {
        let holder = Holder {
            operation: OperationId::generate(),
            what: "reconcile",
        };
        let Some(_guard) = self.locks.try_acquire(record.bot, holder) else {
            return;
        };
        if let Err(error) = self.recover_bot(record.bot).await {
            tracing::warn!(bot = %record.bot, %error, "an interrupted operation still cannot go on");
            return;
        }
        // Read again: it may have changed before the bot was free.
        let record = match self.record(record.bot).await {
            Ok(Some(record)) => record,
            Ok(None) => return,
            Err(error) => {
                tracing::warn!(bot = %record.bot, %error, "cannot read the workspace");
                return;
            }
        };
        let done = match record.desired {
            DesiredState::Running => self.bring_up(&record).await,
            DesiredState::Stopped => self.power_down(&record).await,
        };
        match done {
            Ok(()) if record.desired == DesiredState::Running => {
                self.samples.set_running(record.bot);
            }
            Ok(()) => {}
            Err(error) => {
                tracing::error!(bot = %record.bot, desired = %record.desired, %error,
                    "a workspace is not as it should be");
            }
        }
    }

    /// Watches, until the service closes, that what should run does.
    pub(crate) fn watch(self: &Arc<Self>) {
        let events = Arc::clone(self);
        self.handle.spawn(async move {
            let closed = events.background.clone();
            closed.run_until_cancelled(events.follow_events()).await;
        });
        let rounds = Arc::clone(self);
        self.handle.spawn(async move {
            let closed = rounds.background.clone();
            closed.run_until_cancelled(rounds.go_round()).await;
        });
        let network = Arc::clone(self);
        self.handle.spawn(async move {
            let closed = network.background.clone();
            closed
                .run_until_cancelled(network.keep_host_network())
                .await;
        });
        let sampler = Arc::clone(self);
        self.handle.spawn(async move {
            let closed = sampler.background.clone();
            closed.run_until_cancelled(sampler.sample_usage()).await;
        });
    }

    async fn follow_events(self: Arc<Self>) {
        loop {
            let mut events = self.runtime.tasks.events();
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
                }
                self.task_ended.notify_one();
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

    /// Compares what should run with what runs, again and again.
    async fn go_round(self: Arc<Self>) {
        let mut pauses = Pauses::default();
        let mut silent = HashMap::new();
        let mut terminals_seen = Instant::now();
        loop {
            let mut pause = self.config.reconcile_interval.min(pauses.next_due());
            if !self.stuck_bots().is_empty() {
                pause = pause.min(RETRY_EVERY);
            }
            // Whichever comes first; both mean the same.
            let _ = tokio::time::timeout(pause, self.task_ended.notified()).await;
            if terminals_seen.elapsed() > TERMINALS_EVERY {
                self.close_all_idle_terminals().await;
                terminals_seen = Instant::now();
            }
            if let Err(error) = self.round(&mut pauses, &mut silent).await {
                tracing::warn!(%error, "cannot compare what should run with what runs");
            }
        }
    }

    async fn round(
        self: &Arc<Self>,
        pauses: &mut Pauses,
        silent: &mut HashMap<BotId, Instant>,
    ) -> Result<()> {
        self.give_back_again();
        for bot in self.stuck_bots() {
            let holder = Holder {
                operation: OperationId::generate(),
                what: "recover",
            };
            if let Some(_guard) = self.locks.try_acquire(bot, holder)
                && let Err(error) = self.recover_bot(bot).await
            {
                tracing::warn!(%bot, %error, "an interrupted operation still cannot go on");
            }
        }
        let running: HashSet<ContainerId> = self
            .runtime
            .tasks
            .list()
            .await?
            .into_iter()
            .filter(|(_, task)| task.status == TaskStatus::Running)
            .map(|(id, _)| id)
            .collect();
        let records = self.store.containers.list().await?;
        let (mut due, mut running_records) = (Vec::new(), Vec::new());
        for record in records {
            if record.desired == DesiredState::Stopped {
                if running.contains(&record.container) {
                    due.push(record);
                }
            } else if running.contains(&record.container) {
                self.samples.set_running(record.bot);
                pauses.runs(record.bot);
                running_records.push(record);
            } else if pauses.may_start(record.bot) {
                due.push(record);
            }
        }
        due.extend(self.unreachable(running_records, silent).await);
        if !due.is_empty() {
            self.runtime.network.ensure_host().await?;
        }
        stream::iter(due)
            .for_each_concurrent(
                PARALLEL,
                |record| async move { self.look_after(&record).await },
            )
            .await;
        Ok(())
    }
}

impl Inner {
    /// Those that run and have no network, or whose agent has not answered for a while. A single
    /// silence is no reason to replace a task: it ends everything that the bot is doing.
    async fn unreachable(
        self: &Arc<Self>,
        records: Vec<ContainerRecord>,
        silent: &mut HashMap<BotId, Instant>,
    ) -> Vec<ContainerRecord> {
        let looked: Vec<_> = stream::iter(records)
            .map(|record| async move {
                let (network, agent) = tokio::join!(
                    self.network_up(&record),
                    self.agent_health(&record, HEALTH_PATIENCE)
                );
                (record, network, agent.is_ok())
            })
            .buffer_unordered(PARALLEL)
            .collect()
            .await;
        let now = Instant::now();
        let without_answer: HashSet<BotId> = looked
            .iter()
            .filter(|(_, _, agent)| !agent)
            .map(|(record, ..)| record.bot)
            .collect();
        silent.retain(|bot, _| without_answer.contains(bot));
        looked
            .into_iter()
            .filter(|(record, network, agent)| {
                let since = (!agent).then(|| *silent.entry(record.bot).or_insert(now));
                !network || since.is_some_and(|since| now - since >= SILENCE)
            })
            .map(|(record, ..)| record)
            .collect()
    }

    /// Ends terminals that nobody uses, in all workspaces that run. Best effort.
    async fn close_all_idle_terminals(&self) {
        if self.agents.is_none() {
            return;
        }
        let records = match self.store.containers.list().await {
            Ok(records) => records,
            Err(error) => {
                tracing::warn!(%error, "cannot look for idle terminals");
                return;
            }
        };
        for record in &records {
            if let Err(error) = self.close_idle_terminals(record).await {
                tracing::debug!(bot = %record.bot, %error, "cannot look for idle terminals");
            }
        }
    }
}

/// When to start a workspace again whose task ended by itself.
#[derive(Default)]
struct Pauses {
    bots: HashMap<BotId, Pause>,
}

struct Pause {
    length: Duration,
    not_before: Instant,
    running_since: Option<Instant>,
}

impl Pauses {
    fn may_start(&mut self, bot: BotId) -> bool {
        let now = Instant::now();
        let pause = self.bots.entry(bot).or_insert(Pause {
            length: FIRST_PAUSE,
            not_before: now,
            running_since: None,
        });
        pause.running_since = None;
        if now < pause.not_before {
            return false;
        }
        pause.not_before = now + pause.length;
        pause.length = (pause.length * 2).min(LONGEST_PAUSE);
        true
    }

    fn runs(&mut self, bot: BotId) {
        let Some(pause) = self.bots.get_mut(&bot) else {
            return;
        };
        let since = *pause.running_since.get_or_insert_with(Instant::now);
        if since.elapsed() > LONGEST_PAUSE {
            self.bots.remove(&bot);
        }
    }

    fn next_due(&self) -> Duration {
        let now = Instant::now();
        self.bots
            .values()
            .filter(|pause| pause.running_since.is_none())
            .map(|pause| pause.not_before.saturating_duration_since(now))
            .min()
            .map_or(LONGEST_PAUSE, |due| due.max(FIRST_PAUSE))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_that_ends_again_and_again_waits_longer_each_time() {
        let mut pauses = Pauses::default();
        let bot = BotId::generate();
        assert!(pauses.may_start(bot));
        assert!(!pauses.may_start(bot), "a pause follows the first start");
        assert!(pauses.next_due() <= FIRST_PAUSE * 2);
        pauses.runs(bot);
        assert_eq!(pauses.next_due(), LONGEST_PAUSE);
    }
}
