//! The service: what all use cases share.

use crate::agent::{self, Calls};
use crate::config::WorkspaceConfig;
use crate::create::Creation;
use crate::garbage::Garbage;
use crate::locks::{BotGuard, BotLocks, Holder};
use crate::metrics::Samples;
use crate::operations::Running;
use crate::out_of_memory::Kills;
use crate::pools::Pools;
use crate::pulls::Pulls;
use crate::reconcile::Wake;
use crate::recovery::{Losses, Uncompared};
use crate::starts::Starts;
use crate::{Error, Result};
use botstead_authz::{Action, Actor, Decision, Resource, decide};
use botstead_bridge::AgentPool;
use botstead_runtime::Runtime;
use botstead_store::{Bot, ContainerRecord, ErrorKind as StoreErrorKind, Store};
use botstead_types::{BotId, OperationId};
use std::collections::HashMap;
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The use cases of bots' workspaces. Cheap to clone; every clone is the same service.
///
/// Every call that changes something runs to its end on the runtime whose handle was given, also
/// when the caller stops waiting.
#[derive(Clone)]
pub struct Workspaces {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) runtime: Runtime,
    pub(crate) store: Store,
    pub(crate) config: WorkspaceConfig,
    pub(crate) handle: Handle,
    pub(crate) locks: Arc<BotLocks>,
    pub(crate) running: Running,
    pub(crate) garbage: Garbage,
    pub(crate) creations: Mutex<HashMap<BotId, Arc<Creation>>>,
    pub(crate) samples: Samples,
    pub(crate) kills: Kills,
    pub(crate) starts: Starts,
    pub(crate) pools: Pools,
    pub(crate) pulls: Pulls,
    pub(crate) losses: Losses,
    pub(crate) uncompared: Uncompared,
    tracker: TaskTracker,
    closing: AtomicBool,
    pub(crate) background: CancellationToken,
    /// Connections to the workspaces' agents, on a backend that has channels.
    pub(crate) agents: Option<AgentPool>,
    /// Calls to them.
    pub(crate) calls: Calls,
    /// Wakes the reconcile loop before its time.
    pub(crate) wake: Wake,
}

impl std::fmt::Debug for Workspaces {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Workspaces").finish_non_exhaustive()
    }
}

impl Workspaces {
    /// Opens the service: prepares the host's network, finishes or undoes what a server that died
    /// left in the journal, and brings up what should run. Then it watches that it stays so, until
    /// [`Workspaces::close`].
    ///
    /// # Errors
    /// When the journal cannot be read or the runtime does not answer: without them nothing can be
    /// promised. What is wrong with a single workspace is recorded there and does not fail this.
    pub async fn open(
        runtime: Runtime,
        store: Store,
        config: WorkspaceConfig,
        handle: Handle,
    ) -> Result<Self> {
        let starts = Starts::new(config.max_concurrent_starts);
        let pulls = Pulls::new(config.pull_turn);
        let pools = Pools::new(config.max_concurrent_exports);
        let calls = Calls::new(config.max_calls_per_bot, config.max_streams_per_bot);
        let inner = Arc::new(Inner {
            calls,
            agents: agent::pool(&runtime),
            runtime,
            store,
            config,
            handle,
            locks: Arc::default(),
            running: Running::default(),
            garbage: Garbage::default(),
            creations: Mutex::default(),
            samples: Samples::default(),
            kills: Kills::default(),
            starts,
            pools,
            pulls,
            losses: Losses::default(),
            uncompared: Uncompared::default(),
            tracker: TaskTracker::new(),
            closing: AtomicBool::new(false),
            background: CancellationToken::new(),
            wake: Wake::default(),
        });
        let start_up = Arc::clone(&inner);
        inner
            .detached(async move { start_up.reconcile_at_start().await })
            .await?;
        Inner::watch(&inner);
        Ok(Self { inner })
    }

    /// Refuses whoever may not know of the bot, before anything that they send is received.
    ///
    /// # Errors
    /// `BotNotFound`.
    pub async fn before_body(&self, actor: &Actor, bot: BotId) -> Result<()> {
        let seen = self.inner.authorized(actor, Action::ReadBot, bot).await;
        seen.map(drop)
    }

    /// Refuses new work, waits at most `grace` for what is under way, and stops watching.
    /// Workspaces go on. What is not finished by then stays in the journal and is finished or
    /// undone by the next [`Workspaces::open`]. Tells whether everything was finished.
    pub async fn close(&self, grace: Duration) -> bool {
        self.inner.stop_accepting();
        let deadline = tokio::time::Instant::now() + grace;
        self.inner.finish_work(deadline).await
    }
}

impl Inner {
    /// Runs a use case to its end on the service's runtime, whether or not the caller stays.
    pub(crate) async fn detached<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        self.spawn(work)
            .await
            .unwrap_or_else(|error| Err(Error::Aborted(error)))
    }

    /// Starts work that [`Workspaces::close`] waits for.
    pub(crate) fn spawn<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> tokio::task::JoinHandle<T> {
        self.tracker.spawn_on(work, &self.handle)
    }

    /// Refuses new work and stops watching.
    pub(crate) fn stop_accepting(&self) {
        self.closing.store(true, Ordering::SeqCst);
        self.background.cancel();
    }

    /// Waits for what is under way. Tells whether all of it was finished.
    pub(crate) async fn finish_work(&self, deadline: tokio::time::Instant) -> bool {
        self.tracker.close();
        tokio::time::timeout_at(deadline, self.tracker.wait())
            .await
            .is_ok()
    }

    pub(crate) fn refuse_when_closing(&self) -> Result<()> {
        if self.closing.load(Ordering::SeqCst) {
            return Err(Error::ShuttingDown);
        }
        Ok(())
    }

    /// The bot, when the actor may do this to it.
    pub(crate) async fn authorized(
        &self,
        actor: &Actor,
        action: Action,
        bot: BotId,
    ) -> Result<Bot> {
        let bot = match self.store.bots.get(bot).await {
            Err(error) if error.kind() == StoreErrorKind::NotFound => {
                return Err(Error::BotNotFound(bot));
            }
            bot => bot?,
        };
        match decide(actor, action, &Resource::Bot { owner: bot.owner }) {
            Decision::Allow => Ok(bot),
            Decision::Forbid => Err(Error::Forbidden("do this to this bot")),
            Decision::Hide => Err(Error::BotNotFound(bot.id)),
        }
    }

    /// Refuses an actor who may not do this to the server as a whole.
    pub(crate) fn authorized_on_server(
        &self,
        actor: &Actor,
        action: Action,
        what: &'static str,
    ) -> Result<()> {
        match decide(actor, action, &Resource::Server) {
            Decision::Allow => Ok(()),
            Decision::Forbid | Decision::Hide => Err(Error::Forbidden(what)),
        }
    }

    /// Waits for the bot; what an earlier operation could not finish is tried again first.
    pub(crate) async fn lock(
        self: &Arc<Self>,
        bot: BotId,
        operation: OperationId,
        what: &'static str,
    ) -> Result<BotGuard> {
        let guard = self.lock_without_recovery(bot, operation, what).await?;
        self.recover_enough(bot).await?;
        Ok(guard)
    }

    /// Waits for the bot, for an operation that does not care what an earlier one left.
    pub(crate) async fn lock_without_recovery(
        &self,
        bot: BotId,
        operation: OperationId,
        what: &'static str,
    ) -> Result<BotGuard> {
        let holder = Holder { operation, what };
        self.locks.acquire(bot, holder, self.config.busy_wait).await
    }

    /// The row of the bot's container, where it has one.
    pub(crate) async fn record(&self, bot: BotId) -> Result<Option<ContainerRecord>> {
        match self.store.containers.get(bot).await {
            Ok(record) => Ok(Some(record)),
            Err(error) if error.kind() == StoreErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The row of the bot's container.
    pub(crate) async fn required_record(&self, bot: BotId) -> Result<ContainerRecord> {
        self.record(bot).await?.ok_or(Error::WorkspaceNotFound(bot))
    }
}
