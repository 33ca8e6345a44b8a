//! Running blocking work: in pieces on tokio's blocking threads, of which there are few and none is
//! started later.
//!
//! A short piece is a system call or a few. Long jobs are cut into pieces of some milliseconds; of
//! those only [`LONG_PIECES`] run at once, so that short calls always find a thread, and the jobs
//! take turns. Between two pieces a job holds neither thread nor turn: a client that does not read
//! keeps nobody waiting. A call that is dropped ends at its next look at [`Budget::spent`], and what
//! it held is closed on a blocking thread.

use super::failure::Result;
use super::rights::Rights;
use botstead_bridge::{Failure, FailureKind};
use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use tokio_stream::Stream;
use tonic::Status;

/// Pieces of long jobs that run at once, and as many of searches.
const LONG_PIECES: usize = 2;

/// How long a piece of a long job goes on.
const PIECE: Duration = Duration::from_millis(20);

/// The turns of long jobs.
#[derive(Debug, Clone)]
pub(super) struct Turns(Arc<Semaphore>);

impl Default for Turns {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(LONG_PIECES)))
    }
}

/// How long a piece may go on.
#[derive(Debug)]
pub(crate) struct Budget {
    deadline: Instant,
    dropped: Arc<AtomicBool>,
}

impl Budget {
    fn new(dropped: &Arc<AtomicBool>) -> Self {
        Self {
            deadline: Instant::now() + PIECE,
            dropped: Arc::clone(dropped),
        }
    }

    /// Whether the piece must end now.
    pub(crate) fn spent(&self) -> bool {
        self.is_dropped() || Instant::now() >= self.deadline
    }

    /// One that is never spent but by its caller, who is given as well.
    #[cfg(test)]
    pub(crate) fn for_tests() -> (Self, Caller) {
        let caller = Caller::new(Rights::default());
        let budget = Self {
            deadline: Instant::now() + Duration::from_secs(3600),
            dropped: Arc::clone(&caller.dropped),
        };
        (budget, caller)
    }

    /// Whether nobody waits for the result any more.
    pub(crate) fn is_dropped(&self) -> bool {
        self.dropped.load(Ordering::Relaxed)
    }
}

/// Whose call a piece belongs to: with which rights it runs, and that the call was dropped.
#[derive(Debug)]
pub(crate) struct Caller {
    rights: Rights,
    dropped: Arc<AtomicBool>,
}

impl Caller {
    pub(super) fn new(rights: Rights) -> Self {
        Self {
            rights,
            dropped: Arc::default(),
        }
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        self.dropped.store(true, Ordering::Relaxed);
    }
}

/// Long work with one result.
pub(super) trait Job: Send + 'static {
    type Done: Send;

    /// Goes on until the budget is spent or it is done.
    fn step(&mut self, budget: &Budget) -> Result<Option<Self::Done>>;
}

/// Work whose results are sent one by one.
pub(super) trait Source: Send + 'static {
    type Item: Send + Unpin;

    /// Goes on until the budget is spent or there is some output; false at the end.
    fn step(&mut self, budget: &Budget, out: &mut Vec<Self::Item>) -> Result<bool>;
}

/// Runs a short piece.
pub(super) async fn short<T: Send + 'static>(
    rights: &Rights,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let rights = rights.clone();
    let running = spawn_blocking(move || rights.run(work)?);
    running.await.unwrap_or_else(|_| Err(ended()))
}

/// Runs one piece of work on a value, in turn where it is part of a long job, and gives the value
/// back.
pub(super) fn piece<T: Send + 'static, R: Send + 'static>(
    turns: Option<&Turns>,
    caller: &Caller,
    value: T,
    work: impl FnOnce(&mut T, &Budget) -> R + Send + 'static,
) -> Piece<(T, R)> {
    let turns = turns.cloned();
    let dropped = Arc::clone(&caller.dropped);
    let rights = caller.rights.clone();
    let mut value = Held::new(value);
    Box::pin(async move {
        let turn = match turns {
            Some(turns) => turns.0.acquire_owned().await.ok(),
            None => None,
        };
        let mut value = value.take().ok_or_else(ended)?;
        let running = spawn_blocking(move || {
            let result = rights.run(|| work(&mut value, &Budget::new(&dropped)));
            drop(turn);
            Ok((value, result?))
        });
        running.await.unwrap_or_else(|_| Err(ended()))
    })
}

/// A piece that runs or waits for its turn.
type Piece<T> = Pin<Box<dyn Future<Output = Result<T>> + Send>>;

/// Runs a long job to its end.
pub(super) async fn long<J: Job>(turns: &Turns, rights: &Rights, job: J) -> Result<J::Done>
where
    J::Done: 'static,
{
    run(turns, rights, job, false).await
}

/// Runs a job that mostly is done with its first piece, which waits for no turn.
pub(super) async fn brief<J: Job>(turns: &Turns, rights: &Rights, job: J) -> Result<J::Done>
where
    J::Done: 'static,
{
    run(turns, rights, job, true).await
}

async fn run<J: Job>(turns: &Turns, rights: &Rights, job: J, mut is_first: bool) -> Result<J::Done>
where
    J::Done: 'static,
{
    let caller = Caller::new(rights.clone());
    let mut job = Held::new(job);
    while let Some(value) = job.take() {
        let turns = (!std::mem::take(&mut is_first)).then_some(turns);
        let (value, done) = piece(turns, &caller, value, J::step).await?;
        match done.transpose() {
            None => job.set(Some(value)),
            Some(done) => {
                discard(value);
                return done;
            }
        }
    }
    Err(ended())
}

/// Drops something on a blocking thread: the last descriptor of a removed file takes its time.
pub(super) fn discard<T: Send + 'static>(value: T) {
    if let Ok(runtime) = Handle::try_current() {
        runtime.spawn_blocking(move || drop(value));
    }
}

/// Something that a call keeps between two pieces; discarded with the call.
#[derive(Debug)]
pub(super) struct Held<T: Send + 'static>(Option<T>);

impl<T: Send + 'static> Held<T> {
    pub(super) fn new(value: T) -> Self {
        Self(Some(value))
    }

    pub(super) fn take(&mut self) -> Option<T> {
        self.0.take()
    }

    pub(super) fn set(&mut self, value: Option<T>) {
        self.0 = value;
    }
}

impl<T: Send + 'static> Drop for Held<T> {
    fn drop(&mut self) {
        if let Some(value) = self.0.take() {
            discard(value);
        }
    }
}

/// What a piece of a source gives: whether there is more, and its output.
type Output<S> = (Result<bool>, Vec<<S as Source>::Item>);

/// What a source gives, as the stream of a call. While one piece's output is sent, the next piece
/// runs; there is never more than that in memory.
pub(super) struct Pieces<S: Source> {
    ready: VecDeque<S::Item>,
    idle: Held<S>,
    running: Option<Piece<(S, Output<S>)>>,
    failure: Option<Failure>,
    /// Where the source is a long job.
    turns: Option<Turns>,
    caller: Caller,
}

impl<S: Source> Pieces<S> {
    pub(super) fn short(rights: Rights, source: S) -> Self {
        Self {
            ready: VecDeque::new(),
            idle: Held::new(source),
            running: None,
            failure: None,
            turns: None,
            caller: Caller::new(rights),
        }
    }

    pub(super) fn long(turns: &Turns, rights: Rights, source: S) -> Self {
        Self {
            turns: Some(turns.clone()),
            ..Self::short(rights, source)
        }
    }

    fn start(&mut self, source: S) {
        let turns = self.turns.as_ref();
        self.running = Some(piece(turns, &self.caller, source, |source, budget| {
            let mut out = Vec::new();
            (source.step(budget, &mut out), out)
        }));
    }

    fn finish(&mut self, piece: Result<(S, Output<S>)>) {
        self.running = None;
        match piece {
            Err(failure) => self.failure = Some(failure),
            Ok((source, (more, out))) => {
                self.ready = out.into();
                match more {
                    Ok(true) => self.idle.set(Some(source)),
                    Ok(false) => discard(source),
                    Err(failure) => {
                        self.failure = Some(failure);
                        discard(source);
                    }
                }
            }
        }
    }
}

impl<S: Source + Unpin> Stream for Pieces<S> {
    type Item = Result<S::Item, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(source) = self.idle.take() {
                self.start(source);
            }
            if let Some(item) = self.ready.pop_front() {
                return Poll::Ready(Some(Ok(item)));
            }
            let Some(running) = self.running.as_mut() else {
                let failure = self.failure.take();
                return Poll::Ready(failure.map(|failure| Err(failure.into())));
            };
            let piece = ready!(running.as_mut().poll(context));
            self.finish(piece);
        }
    }
}

/// The runtime ends, or a piece of work panicked.
pub(super) fn ended() -> Failure {
    Failure::new(FailureKind::Internal, "the agent is ending")
}
