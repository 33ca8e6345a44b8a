//! Operations: the journal's records and what this server knows of those that run in it.
//!
//! An operation is written to the journal before its first effect. Every step of it can be
//! repeated, and the names that it uses derive from its id, so a replay from any point ends the
//! same way. One that cannot go on (the runtime is away, the disk is full) after its point of no
//! return stays in the journal as running and is tried again: before the next operation on that
//! bot, by the watcher, and at the next start. One that will never be able to is given up with the
//! workspace as it is: nothing blocks a bot for ever.

use crate::model::{CopyStatistics, OperationInfo, OperationStatistics, Statistics};
use crate::replace::REVERTED;
use crate::service::{Inner, Workspaces};
use crate::standing::is_final;
use crate::{Error, ErrorKind, Result};
use botstead_authz::{Action, Actor};
use botstead_runtime::{CopyReport, PullProgress};
use botstead_store::{
    Change, ErrorKind as StoreErrorKind, NewEvent, Operation, OperationError, OperationKind,
    OperationState,
};
use botstead_types::{BotId, LeaseId, OperationId, Page, PageRequest, SnapshotKey};
use chrono::Utc;
use serde::Serialize;
use serde_json::json;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// The step from which on what an operation ends on is recorded: it goes forward, and has no more to do than
/// a start.
pub(crate) const RECORDED: &str = "recorded";

/// An operation whose failure nobody can explain is tried so often.
const MOST_ATTEMPTS: u32 = 20;

/// An operation that waits to be tried again.
struct Stuck {
    operation: Operation,
    attempts: u32,
}

/// What this server knows of the operations that run in it.
#[derive(Default)]
pub(crate) struct Running {
    live: Mutex<HashMap<OperationId, Arc<LiveOperation>>>,
    stuck: Mutex<HashMap<BotId, VecDeque<Stuck>>>,
    finished: Mutex<HashMap<(OperationKind, OperationState), (u64, f64)>>,
    copies: Mutex<CopyStatistics>,
}

impl Running {
    /// Counts a live snapshot.
    pub(crate) fn count_live_copy(&self, report: &CopyReport) {
        let mut copies = lock(&self.copies);
        copies.count += 1;
        copies.freeze_seconds += report.freeze.as_secs_f64();
        copies.total_seconds += report.total.as_secs_f64();
        copies.copied_bytes += report.copied_bytes;
    }
}

/// An operation that runs in this server.
pub(crate) struct LiveOperation {
    pub(crate) record: Operation,
    pub(crate) pull: watch::Sender<PullProgress>,
    /// Cancels what can be cancelled: a pull. Taken away when the pull is over.
    pub(crate) cancel: CancellationToken,
    pub(crate) cancellable: std::sync::atomic::AtomicBool,
    began: Instant,
}

/// The name of a kind of operation, as in the API.
pub(crate) fn kind_name(kind: OperationKind) -> &'static str {
    match kind {
        OperationKind::Create => "create",
        OperationKind::Start => "start",
        OperationKind::Stop => "stop",
        OperationKind::Snapshot => "snapshot",
        OperationKind::Rollback => "rollback",
        OperationKind::Fork => "fork",
        OperationKind::Import => "import",
        OperationKind::Restore => "restore",
        OperationKind::RestorePath => "restore_path",
        OperationKind::ChangeImage => "change_image",
        OperationKind::Recover => "recover",
        OperationKind::DeleteVersion => "delete_version",
        OperationKind::Delete => "delete",
        OperationKind::DeleteBot => "delete_bot",
    }
}

/// A new record for the journal.
pub(crate) fn new_operation(
    id: OperationId,
    bot: BotId,
    kind: OperationKind,
    input: &impl Serialize,
) -> Result<Operation> {
    let now = Utc::now();
    let input = encoded(id, input)?;
    Ok(Operation {
        id,
        bot,
        kind,
        state: OperationState::Running,
        step: "begun".to_owned(),
        version: None,
        input,
        error: None,
        created_at: now,
        updated_at: now,
    })
}

/// An input as the journal has it.
pub(crate) fn encoded(id: OperationId, input: &impl Serialize) -> Result<serde_json::Value> {
    serde_json::to_value(input).map_err(|error| {
        botstead_store::Error::new(StoreErrorKind::Internal, "encode operation", id)
            .with_source(error)
            .into()
    })
}

/// The input of an operation as its use case wrote it.
pub(crate) fn input<T: serde::de::DeserializeOwned>(operation: &Operation) -> Result<T> {
    serde_json::from_value(operation.input.clone()).map_err(|error| {
        botstead_store::Error::new(StoreErrorKind::Internal, "decode operation", operation.id)
            .with_source(error)
            .into()
    })
}

impl Inner {
    /// Writes an operation down, with its lease: that is there from before the first step to the end. The
    /// caller holds the bot.
    pub(crate) async fn begin_leased(
        self: &Arc<Self>,
        operation: Operation,
        reserve: bool,
    ) -> Result<Operation> {
        let id = operation.id;
        let lease = LeaseId::for_operation(id);
        // Side by side: start-up removes a lease whose operation the journal does not have.
        let (begun, leased) = tokio::join!(
            self.store.operations.begin(&operation, reserve),
            self.runtime.leases.create(&lease)
        );
        let operation = match begun {
            Ok(operation) => operation,
            Err(error) => {
                self.drop_lease(id);
                return Err(error.into());
            }
        };
        if let Err(error) = leased {
            let error = error.into();
            self.drop_lease(id);
            self.finish_failed(&operation, &error).await;
            return Err(error);
        }
        Ok(operation)
    }

    /// Shows an operation as running in this server.
    pub(crate) fn register(&self, record: Operation) -> Arc<LiveOperation> {
        let live = Arc::new(LiveOperation {
            record,
            pull: watch::Sender::default(),
            cancel: CancellationToken::new(),
            cancellable: false.into(),
            began: Instant::now(),
        });
        lock(&self.running.live).insert(live.record.id, Arc::clone(&live));
        live
    }

    /// Ends what [`Inner::register`] began and counts the outcome.
    pub(crate) fn unregister(&self, live: &LiveOperation, outcome: OperationState) {
        // One that was registered again under its id is counted once.
        let known = lock(&self.running.live).remove(&live.record.id).is_some();
        if known && outcome != OperationState::Running {
            let mut finished = lock(&self.running.finished);
            let entry = finished.entry((live.record.kind, outcome)).or_default();
            entry.0 += 1;
            entry.1 += live.began.elapsed().as_secs_f64();
        }
    }

    /// Writes the end of an operation that did what it should.
    pub(crate) async fn finish_succeeded(&self, operation: &Operation) -> Result<()> {
        let ended = vec![finished(operation)];
        Ok(self.store.transactions.apply(ended).await?)
    }

    /// Writes the end of a failed operation, which was undone; where that fails, it is tried again.
    pub(crate) async fn finish_failed(
        &self,
        operation: &Operation,
        error: &Error,
    ) -> OperationState {
        let state = failed_state(error);
        let changes = finish(operation, Some(error));
        if let Err(store) = self.store.transactions.apply(changes).await {
            self.keep_for_retry(operation, &store.into());
        }
        state
    }

    /// Writes the end of an operation that a dead server left and that was undone.
    pub(crate) async fn finish_interrupted(&self, operation: &Operation) -> Result<()> {
        let changes = finish(operation, Some(&Error::Interrupted));
        Ok(self.store.transactions.apply(changes).await?)
    }

    /// Keeps an operation that must go forward and cannot now.
    pub(crate) fn keep_for_retry(&self, operation: &Operation, error: &Error) {
        tracing::error!(operation = %operation.id, bot = %operation.bot,
            kind = kind_name(operation.kind), %error, "operation cannot go on and will be retried");
        let mut stuck = lock(&self.running.stuck);
        let waiting = stuck.entry(operation.bot).or_default();
        if waiting
            .iter()
            .all(|other| other.operation.id != operation.id)
        {
            waiting.push_back(Stuck {
                operation: operation.clone(),
                attempts: 0,
            });
        }
        drop(stuck);
        self.wake.stuck(operation.bot);
    }

    /// Bots with operations that wait to be retried.
    pub(crate) fn stuck_bots(&self) -> Vec<BotId> {
        lock(&self.running.stuck).keys().copied().collect()
    }

    /// Whether an operation on the bot waits to be retried.
    pub(crate) fn is_stuck(&self, bot: BotId) -> bool {
        lock(&self.running.stuck).contains_key(&bot)
    }

    fn take_stuck(&self, bot: BotId) -> Option<Stuck> {
        let mut stuck = lock(&self.running.stuck);
        let waiting = stuck.get_mut(&bot)?;
        let next = waiting.pop_front();
        if waiting.is_empty() {
            stuck.remove(&bot);
        }
        next
    }

    fn put_stuck_back(&self, stuck: Stuck) {
        let bot = stuck.operation.bot;
        let mut all = lock(&self.running.stuck);
        all.entry(bot).or_default().push_front(stuck);
    }

    /// Tries again what earlier operations on the bot could not finish, and gives up what can never be.
    /// The caller holds the bot.
    pub(crate) async fn recover_bot(self: &Arc<Self>, bot: BotId) -> Result<()> {
        let mut ended_one = false;
        // Taken out first: what it becomes may have to be retried as well.
        while let Some(mut stuck) = self.take_stuck(bot) {
            ended_one = true;
            let Err(error) = self.replay(&stuck.operation).await else {
                continue;
            };
            stuck.attempts += 1;
            let hopeless = error.kind() == ErrorKind::Internal && stuck.attempts >= MOST_ATTEMPTS;
            let ended = match is_final(&error) || hopeless {
                true => self.give_up(&stuck.operation, &error).await,
                false => Err(error),
            };
            if let Err(error) = ended {
                self.put_stuck_back(stuck);
                return Err(error);
            }
        }
        // At start a bot with such an operation was not compared, or could not be.
        if ended_one || self.uncompared.has(bot) {
            self.keep_what_is_there(bot).await?;
        }
        Ok(())
    }

    /// The same for an operation that needs the bot's files and not that it runs. What earlier ones left and
    /// lacks only a start is ended as it is recorded: replayed later, it would not know of this one.
    pub(crate) async fn recover_enough(self: &Arc<Self>, bot: BotId) -> Result<()> {
        let Err(error) = self.recover_bot(bot).await else {
            return Ok(());
        };
        if !self.lacks_only_a_start(bot).await? {
            return Err(error);
        }
        tracing::warn!(%bot, %error, "going on with a workspace that could not be started");
        while let Some(stuck) = self.take_stuck(bot) {
            // With the step that it came to.
            let operation = self.store.operations.get(bot, stuck.operation.id).await;
            let ended = match operation {
                Ok(operation) if operation.state != OperationState::Running => Ok(()),
                Ok(operation) => {
                    let undone = (operation.step == REVERTED).then_some(&error);
                    let ended = finish(&operation, undone);
                    self.store.transactions.apply(ended).await
                }
                Err(error) => Err(error),
            };
            if let Err(error) = ended {
                self.put_stuck_back(stuck);
                return Err(error.into());
            }
            self.drop_lease(stuck.operation.id);
        }
        Ok(())
    }

    /// Whether [`Inner::recover_bot`] failed because of a start alone: the bot has operations that are not
    /// finished, all are written down with the state that they end on, and its row was not found to be in
    /// doubt. The files are whole then, and are those that the row names.
    async fn lacks_only_a_start(&self, bot: BotId) -> Result<bool> {
        let unfinished = self.store.operations.unfinished().await?;
        let mut own = unfinished.iter().filter(|one| one.bot == bot).peekable();
        let has_one = own.peek().is_some();
        let recorded = own.all(|one| one.step == RECORDED || one.step == REVERTED);
        Ok(has_one && recorded && !self.uncompared.has(bot))
    }

    /// Ends operations that waited to be retried on a workspace that was deleted. What they had kept as
    /// versions is recorded, unless those were deleted too.
    pub(crate) async fn end_stuck(self: &Arc<Self>, bot: BotId, versions_too: bool) {
        while let Some(stuck) = self.take_stuck(bot) {
            let operation = stuck.operation;
            self.drop_lease(operation.id);
            if let Err(error) = self.discard_leavings(&operation, versions_too).await {
                tracing::warn!(operation = %operation.id, %bot, %error, "cannot clear away");
            }
            // Not tried again: there is nothing that it could be replayed on.
            let ended = finish(&operation, Some(&Error::WorkspaceNotFound(bot)));
            if let Err(error) = self.store.transactions.apply(ended).await {
                tracing::error!(operation = %operation.id, %error, "cannot record a failure");
            }
        }
    }

    /// Removes what an operation prepared for a workspace that was deleted.
    async fn discard_leavings(&self, operation: &Operation, versions_too: bool) -> Result<()> {
        let deletes = matches!(
            operation.kind,
            OperationKind::Delete | OperationKind::DeleteBot
        );
        if deletes {
            return Ok(());
        }
        let (id, snapshots) = (operation.id, &self.runtime.snapshots);
        let made = [
            SnapshotKey::active(id),
            SnapshotKey::forked(id),
            SnapshotKey::reverted(id),
        ];
        for key in made {
            self.remove_unnamed(&key).await?;
        }
        snapshots.release(&SnapshotKey::flattened(id)).await?;
        let version = SnapshotKey::version(id);
        let recorded = self.store.versions.list(operation.bot).await?;
        if versions_too && recorded.iter().all(|found| found.snapshot != version) {
            snapshots.release(&version).await?;
        }
        Ok(())
    }

    /// Cancels what pulls an image for the bot: it is about to be deleted.
    pub(crate) fn cancel_pulls(&self, bot: BotId) {
        for live in lock(&self.running.live).values() {
            let pulls = matches!(
                live.record.kind,
                OperationKind::Create | OperationKind::ChangeImage
            );
            if pulls && live.record.bot == bot {
                live.cancel.cancel();
            }
        }
    }

    pub(crate) fn running_operation(&self, id: OperationId) -> Option<Arc<LiveOperation>> {
        lock(&self.running.live).get(&id).cloned()
    }

    fn operation_info(&self, operation: Operation) -> OperationInfo {
        use std::sync::atomic::Ordering;
        let live = self.running_operation(operation.id);
        OperationInfo {
            progress: live.as_ref().and_then(|live| {
                let layers = live.pull.borrow().layers.clone();
                (!layers.is_empty()).then_some(layers)
            }),
            cancellable: live.is_some_and(|live| live.cancellable.load(Ordering::SeqCst)),
            operation,
        }
    }
}

impl Workspaces {
    /// Operations of a bot, newest first. Starts and stops are shown while they run only: what
    /// they want is recorded with the workspace.
    ///
    /// # Errors
    /// `BotNotFound`; an invalid cursor.
    pub async fn operations(
        &self,
        actor: &Actor,
        bot: BotId,
        page: &PageRequest,
    ) -> Result<Page<OperationInfo>> {
        let inner = &self.inner;
        inner.authorized(actor, Action::ReadWorkspace, bot).await?;
        let mut recorded = inner.store.operations.list(bot, page).await?;
        if page.cursor.is_none() {
            let mut live: Vec<Operation> = lock(&inner.running.live)
                .values()
                .filter(|live| live.record.bot == bot)
                .map(|live| live.record.clone())
                .filter(|live| recorded.items.iter().all(|item| item.id != live.id))
                .collect();
            live.append(&mut recorded.items);
            recorded.items = live;
        }
        Ok(recorded.map(|operation| inner.operation_info(operation)))
    }

    /// One operation of a bot.
    ///
    /// # Errors
    /// `BotNotFound`, `OperationNotFound`.
    pub async fn operation(
        &self,
        actor: &Actor,
        bot: BotId,
        id: OperationId,
    ) -> Result<OperationInfo> {
        let inner = &self.inner;
        inner.authorized(actor, Action::ReadWorkspace, bot).await?;
        inner.find_operation(bot, id).await
    }

    /// Cancels what can be cancelled, a pull, and returns at once; the operation then ends as
    /// `cancelled` and undone.
    ///
    /// # Errors
    /// `BotNotFound`, `OperationNotFound`; `NotCancellable` when it ended or is past its pull.
    pub async fn cancel_operation(
        &self,
        actor: &Actor,
        bot: BotId,
        id: OperationId,
    ) -> Result<OperationInfo> {
        let inner = &self.inner;
        inner.authorized(actor, Action::WriteWorkspace, bot).await?;
        let info = inner.find_operation(bot, id).await?;
        match inner.running_operation(id) {
            Some(live) if info.cancellable => {
                live.cancel.cancel();
                Ok(info)
            }
            _ => Err(Error::NotCancellable(id)),
        }
    }

    /// Counts since the server started.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn statistics(&self) -> Result<Statistics> {
        let inner = &self.inner;
        let workspaces = inner.store.containers.list().await?.len() as u64;
        let mut operations: Vec<_> = lock(&inner.running.finished)
            .iter()
            .map(
                |(&(kind, outcome), &(count, seconds))| OperationStatistics {
                    kind,
                    outcome,
                    count,
                    seconds,
                },
            )
            .collect();
        operations.sort_by_key(|entry| (kind_name(entry.kind), entry.outcome as u8));
        Ok(Statistics {
            operations,
            live_copies: *lock(&inner.running.copies),
            operations_running: lock(&inner.running.live).len() as u64,
            workspaces,
            workspaces_running: inner.samples.running(),
            versions_missing: inner.losses.versions(),
            workspaces_lost: inner.losses.workspaces(),
            out_of_memory_kills: inner.kills.total(),
        })
    }
}

impl Inner {
    async fn find_operation(&self, bot: BotId, id: OperationId) -> Result<OperationInfo> {
        match self.store.operations.get(bot, id).await {
            Ok(operation) => Ok(self.operation_info(operation)),
            Err(error) if error.kind() == StoreErrorKind::NotFound => self
                .running_operation(id)
                .filter(|live| live.record.bot == bot)
                .map(|live| self.operation_info(live.record.clone()))
                .ok_or(Error::OperationNotFound { bot, operation: id }),
            Err(error) => Err(error.into()),
        }
    }
}

/// The end of an operation: that it did what it should, or why it failed and was undone.
pub(crate) fn finish(operation: &Operation, failed: Option<&Error>) -> Vec<Change> {
    let Some(error) = failed else {
        return vec![finished(operation)];
    };
    let detail = json!({"operation": operation.id, "kind": kind_name(operation.kind),
                        "code": error.code()});
    vec![
        Change::FinishOperation {
            id: operation.id,
            state: failed_state(error),
            error: Some(OperationError {
                code: error.code().to_owned(),
                message: error.to_string(),
            }),
        },
        event(operation.bot, "operation_failed", detail),
    ]
}

fn failed_state(error: &Error) -> OperationState {
    match error {
        Error::Cancelled => OperationState::Cancelled,
        _ => OperationState::Failed,
    }
}

/// The end of an operation that did what it should.
pub(crate) fn finished(operation: &Operation) -> Change {
    Change::FinishOperation {
        id: operation.id,
        state: OperationState::Succeeded,
        error: None,
    }
}

/// An operation that came to this step; its input is as it was.
pub(crate) fn advanced(id: OperationId, step: &str) -> Change {
    Change::AdvanceOperation {
        id,
        step: step.to_owned(),
        input: None,
    }
}

/// An event that happened now.
pub(crate) fn event(bot: BotId, kind: &str, detail: serde_json::Value) -> Change {
    Change::AppendEvent(NewEvent {
        bot,
        kind: kind.to_owned(),
        detail,
        at: Utc::now(),
    })
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
