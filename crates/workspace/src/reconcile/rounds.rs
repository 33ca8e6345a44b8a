//! The reconcile loop. Everything that takes time runs beside it, each workspace on its own, so that
//! no workspace, however it behaves, holds up another.
//!
//! An event concerns its own workspace only. Nothing else is done while nothing happens but one sweep
//! in every [`crate::WorkspaceConfig::reconcile_interval`]: it compares the lists of what should run and
//! what runs, and spreads the looks at single workspaces over the time until the next one.

use super::schedule::{Found, Leave, RETRY_EVERY, Schedule};
use crate::Result;
use crate::agent::is_lost;
use crate::locks::Holder;
use crate::service::Inner;
use botstead_store::ContainerRecord;
use botstead_types::{BotId, ContainerId, DesiredState, OperationId, TaskStatus};
use futures_util::FutureExt;
use futures_util::stream::{self, StreamExt};
use std::collections::HashSet;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// How often the host's part of the network is looked after when nothing says that it changed.
const HOST_EVERY: Duration = Duration::from_secs(60);
/// How often terminals that nobody uses are looked for: as many times within the time after which they
/// are ended, and within these bounds.
const TERMINAL_LOOKS: u32 = 10;
const TERMINALS_AT_LEAST: Duration = Duration::from_secs(1);
const TERMINALS_AT_MOST: Duration = Duration::from_secs(10 * 60);
/// In how many workspaces at the same time, and for how long in each: an agent decides how many
/// terminals it names and how long it takes.
const TERMINALS_PARALLEL: usize = 8;
const TERMINALS_PATIENCE: Duration = Duration::from_secs(10);
/// After a sweep that failed.
const SWEEP_AGAIN: Duration = Duration::from_secs(5);
/// An agent that takes longer to answer is silent.
const HEALTH_PATIENCE: Duration = Duration::from_secs(5);

/// What should run beside what does.
#[derive(Debug, Default)]
struct Comparison {
    /// Not as they should be.
    differ: Vec<BotId>,
    /// Those that run and should.
    run: Vec<BotId>,
    /// Every bot with a workspace.
    known: HashSet<BotId>,
}

/// What ran beside the loop and ended.
enum Done {
    Look(BotId, Found),
    Sweep(Result<Comparison>),
    Host,
    Terminals,
}

/// Something that is done every now and then, one at a time.
#[derive(Debug)]
struct Chore {
    /// `None` while it runs.
    due: Option<Instant>,
    /// It was asked for while it ran.
    again: bool,
}

impl Chore {
    fn due(due: Instant) -> Self {
        Self {
            due: Some(due),
            again: false,
        }
    }

    fn ask(&mut self, now: Instant) {
        match &mut self.due {
            Some(due) => *due = now.min(*due),
            None => self.again = true,
        }
    }

    /// Whether it is to begin now.
    fn begin(&mut self, now: Instant) -> bool {
        let begins = self.due.is_some_and(|due| due <= now);
        if begins {
            self.due = None;
        }
        begins
    }

    fn ended(&mut self, now: Instant, next: Duration) {
        let again = std::mem::take(&mut self.again);
        self.due = Some(if again { now } else { now + next });
    }
}

struct Plan {
    looks: Schedule,
    sweep: Chore,
    host: Chore,
    terminals: Chore,
}

impl Plan {
    fn next_due(&self) -> Option<Instant> {
        [self.sweep.due, self.host.due, self.terminals.due]
            .into_iter()
            .chain([self.looks.next_due()])
            .flatten()
            .min()
    }
}

impl Inner {
    /// Compares what should run with what runs, again and again.
    pub(super) async fn reconcile_loop(self: Arc<Self>) {
        let now = Instant::now();
        let mut plan = Plan {
            looks: Schedule::default(),
            sweep: Chore::due(now + self.config.reconcile_interval),
            host: Chore::due(now + HOST_EVERY),
            terminals: Chore::due(now + self.terminals_every()),
        };
        let mut jobs = JoinSet::new();
        loop {
            self.begin_due(&mut plan, &mut jobs);
            let due = plan.next_due();
            let sleep = async {
                match due {
                    Some(due) => tokio::time::sleep_until(due.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = self.wake.woken() => self.take_wanted(&mut plan),
                Some(done) = jobs.join_next() => match done {
                    Ok(done) => self.take_done(&mut plan, done),
                    // Each catches its own panics, and nobody aborts one.
                    Err(error) => tracing::error!(%error, "a reconcile job broke off"),
                },
                () = sleep => {}
            }
        }
    }

    fn begin_due(self: &Arc<Self>, plan: &mut Plan, jobs: &mut JoinSet<Done>) {
        let now = Instant::now();
        for (bot, leave) in plan.looks.take_due(now) {
            let inner = Arc::clone(self);
            jobs.spawn(async move {
                let look = AssertUnwindSafe(inner.look(bot, leave)).catch_unwind();
                Done::Look(bot, look.await.unwrap_or(Found::Failed))
            });
        }
        if plan.sweep.begin(now) {
            self.give_back_again();
            let inner = Arc::clone(self);
            jobs.spawn(async move {
                let work = Arc::clone(&inner);
                // A panic is an error there.
                Done::Sweep(
                    inner
                        .detached(async move { work.compare_all().await })
                        .await,
                )
            });
        }
        if plan.host.begin(now) {
            let inner = Arc::clone(self);
            jobs.spawn(async move {
                // Docker or a firewall may have started or reloaded since.
                let ensured = AssertUnwindSafe(inner.runtime.network.ensure_host()).catch_unwind();
                if let Ok(Err(error)) = ensured.await {
                    tracing::warn!(error = %error.chain(), "cannot mend the host's network");
                }
                Done::Host
            });
        }
        if plan.terminals.begin(now) {
            let inner = Arc::clone(self);
            jobs.spawn(async move {
                let closed = AssertUnwindSafe(inner.close_all_idle_terminals()).catch_unwind();
                // A panic is in the log already; the next time is as planned.
                let _ = closed.await;
                Done::Terminals
            });
        }
    }

    fn take_wanted(&self, plan: &mut Plan) {
        let (wanted, now) = (self.wake.take(), Instant::now());
        for bot in wanted.bots {
            plan.looks.look_by(bot, now);
        }
        for bot in wanted.stuck {
            plan.looks.look_by(bot, now + RETRY_EVERY);
        }
        if wanted.all {
            plan.sweep.ask(now);
        }
        if wanted.host {
            plan.host.ask(now);
        }
    }

    fn take_done(&self, plan: &mut Plan, done: Done) {
        let now = Instant::now();
        match done {
            Done::Look(bot, found) => plan.looks.found(bot, found, now),
            Done::Host => plan.host.ended(now, HOST_EVERY),
            Done::Terminals => plan.terminals.ended(now, self.terminals_every()),
            Done::Sweep(Err(error)) => {
                tracing::warn!(%error, "cannot compare what should run with what runs");
                plan.sweep
                    .ended(now, SWEEP_AGAIN.min(self.config.reconcile_interval));
            }
            Done::Sweep(Ok(found)) => {
                let interval = self.config.reconcile_interval;
                let mut known = found.known;
                known.extend(self.stuck_bots());
                plan.looks.keep(&known);
                for bot in found.differ.into_iter().chain(self.stuck_bots()) {
                    plan.looks.look_by(bot, now);
                }
                plan.looks.spread(&found.run, now, interval);
                plan.sweep.ended(now, interval);
            }
        }
    }

    async fn compare_all(&self) -> Result<Comparison> {
        let running: HashSet<ContainerId> = self
            .runtime
            .tasks
            .list()
            .await?
            .into_iter()
            .filter(|(_, task)| task.status == TaskStatus::Running)
            .map(|(id, _)| id)
            .collect();
        let mut found = Comparison::default();
        for record in self.store.containers.list().await? {
            found.known.insert(record.bot);
            let runs = running.contains(&record.container);
            match (record.desired, runs) {
                (DesiredState::Running, true) => found.run.push(record.bot),
                (DesiredState::Stopped, false) => {}
                (DesiredState::Running, false) | (DesiredState::Stopped, true) => {
                    found.differ.push(record.bot);
                }
            }
        }
        for bot in &found.run {
            self.samples.set_running(*bot);
        }
        self.samples.keep(&found.known);
        Ok(found)
    }

    /// Looks at one workspace, and does what it may where it is not as it should be.
    pub(super) async fn look(self: &Arc<Self>, bot: BotId, leave: Leave) -> Found {
        if self.locks.is_held(bot) {
            return Found::Busy;
        }
        if self.is_stuck(bot) {
            let holder = Holder {
                operation: OperationId::generate(),
                what: "recover",
            };
            let Some(_guard) = self.locks.try_acquire(bot, holder) else {
                return Found::Busy;
            };
            if let Err(error) = self.recover_bot(bot).await {
                tracing::warn!(%bot, %error, "an interrupted operation still cannot go on");
                return Found::Stuck;
            }
        }
        let record = match self.record(bot).await {
            Ok(Some(record)) => record,
            Ok(None) => {
                self.samples.forget(bot);
                return Found::AtRest;
            }
            Err(error) => {
                tracing::warn!(%bot, %error, "cannot read the workspace");
                return Found::Unknown;
            }
        };
        let status = match self.runtime.tasks.get(&record.container).await {
            Ok(task) => Some(task.status),
            Err(error) if error.is_not_found() => None,
            Err(error) => {
                tracing::warn!(%bot, error = %error.chain(), "cannot tell whether it runs");
                return Found::Unknown;
            }
        };
        match (record.desired, status) {
            (DesiredState::Stopped, None) => return Found::AtRest,
            (DesiredState::Running, Some(TaskStatus::Running)) => {
                self.samples.set_running(bot);
                match self.reach(&record, leave).await {
                    Reach::Up => return Found::Fine,
                    Reach::Silent { lost } if !(lost && leave.repair_silent) => {
                        if leave.tell_silent {
                            self.tell_silent(bot).await;
                        }
                        return Found::Silent;
                    }
                    Reach::Silent { .. } | Reach::NoNetwork => {}
                }
            }
            (DesiredState::Stopped, Some(_)) | (DesiredState::Running, _) => {}
        }
        if !leave.act {
            Found::Waiting
        } else if self.look_after(&record).await {
            Found::Acted
        } else {
            Found::Failed
        }
    }

    async fn reach(&self, record: &ContainerRecord, leave: Leave) -> Reach {
        let agent = async {
            match leave.repair_silent {
                true => self.wake_agent(record).await,
                false => self.agent_health(record, HEALTH_PATIENCE).await.map(drop),
            }
        };
        match tokio::join!(self.network_up(record), agent) {
            (false, _) => Reach::NoNetwork,
            (true, Err(error)) => Reach::Silent {
                lost: is_lost(&error),
            },
            (true, Ok(())) => Reach::Up,
        }
    }

    async fn tell_silent(&self, bot: BotId) {
        tracing::warn!(%bot, "a workspace's agent has not answered for long; what it runs is left alone");
        let told = crate::operations::event(bot, "agent_silent", serde_json::json!({}));
        if let Err(error) = self.store.transactions.apply(vec![told]).await {
            tracing::warn!(%bot, %error, "cannot record an event");
        }
    }

    fn terminals_every(&self) -> Duration {
        match self.config.terminal_idle {
            // They are never ended.
            Duration::ZERO => TERMINALS_AT_MOST,
            idle => (idle / TERMINAL_LOOKS).clamp(TERMINALS_AT_LEAST, TERMINALS_AT_MOST),
        }
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
        stream::iter(records)
            .for_each_concurrent(TERMINALS_PARALLEL, |record| async move {
                let closing = self.close_idle_terminals(&record);
                match tokio::time::timeout(TERMINALS_PATIENCE, closing).await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => {
                        tracing::debug!(bot = %record.bot, %error, "cannot look for idle terminals");
                    }
                    Err(_) => tracing::warn!(bot = %record.bot,
                        "a workspace's agent takes too long about its terminals; they are left"),
                }
            })
            .await;
    }
}

/// Whether a workspace that runs can be reached.
enum Reach {
    Up,
    Silent {
        /// There is no agent that could answer later.
        lost: bool,
    },
    NoNetwork,
}
