//! A process that outlives its call: its output is held to its end, any number of viewers look on,
//! and none of them can hold up the process or another viewer for long.

use super::arguments::shown;
use super::control::{Control, Output, Typed};
use super::plain;
use super::pty::Size;
use super::pump::{Sink, pump};
use super::replay::{Next, Position, Replay, Stream};
use super::screen::Screen;
use super::stream::READ_BYTES;
use crate::children::lock;
use crate::log::report;
use botstead_bridge::proto::ProcessInfo;
use botstead_bridge::proto::run_output::Exit;
use botstead_bridge::{Failure, FailureKind};
use bytes::Bytes;
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::Notify;
use tokio::sync::futures::Notified;
use tokio::time::{Instant, timeout_at};

/// What is held of each output where the caller does not say.
const REPLAY_BYTES: usize = 1 << 20;
/// The most that a caller can ask for.
const MOST_REPLAY_BYTES: u64 = 16 << 20;
/// What is held of a terminal's output for viewers that are behind; those further behind get the
/// screen.
const TERMINAL_BYTES: usize = 128 << 10;
/// A terminal's program waits while a viewer is further behind than this,
const LAG_BYTES: u64 = 64 << 10;
/// but not for a viewer that takes nothing for so long.
const STALL: Duration = Duration::from_secs(1);

/// A kept process.
#[derive(Debug)]
pub(super) struct Kept {
    id: String,
    args: Vec<Bytes>,
    terminal: bool,
    started_at: SystemTime,
    began: Instant,
    /// Absent for one that could not be started.
    control: Option<Arc<Control>>,
    state: Mutex<State>,
    /// There is something new for viewers.
    changed: Notify,
    /// A viewer took something, or left.
    taken: Notify,
}

#[derive(Debug)]
struct State {
    replay: Replay,
    /// Of a terminal that runs.
    screen: Option<Screen>,
    /// What its viewers agreed on.
    size: Option<Size>,
    /// What its screen was at the end.
    last_screen: Bytes,
    viewers: HashMap<u64, Viewer>,
    next_viewer: u64,
    exit: Option<Exit>,
    ended_at: Option<SystemTime>,
    active: Instant,
    /// When somebody had first seen its output to its end.
    read: Option<Instant>,
}

/// How far a viewer is.
#[derive(Debug)]
struct Viewer {
    position: Position,
    progressed: Instant,
    stalled: bool,
    /// What it has room for; nothing where it did not say.
    room: Option<Size>,
    /// The size that it takes the terminal to have.
    believed: Option<Size>,
    /// Bytes of its input that were refused, and that it was not told of yet.
    refused: u64,
}

/// What a viewer is to be sent next.
#[derive(Debug)]
pub(super) enum Step {
    Output(Next),
    /// The whole screen, after so many bytes that the viewer missed.
    Screen {
        skipped: u64,
        screen: Bytes,
    },
    /// The terminal has another size than the viewer takes it to have.
    Resized(Size),
    /// So many bytes of its input were refused.
    Refused(u64),
    /// There is no more.
    Done(Option<Exit>),
    /// There will be more; see [`Kept::changed`].
    Wait,
}

/// What a viewer wants to see.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted {
    pub(super) replay: bool,
    /// Where a replay begins; see [`Kept::reaches`].
    pub(super) from: Position,
    pub(super) follow: bool,
    /// What the viewer has room for, of a terminal.
    pub(super) room: Option<Size>,
    /// Whether the viewer reads what it gets, and did not only start the process.
    pub(super) reads: bool,
}

/// What a caller said about a process, for those who look at it later.
#[derive(Debug)]
pub(super) struct About {
    pub(super) id: String,
    pub(super) args: Vec<Bytes>,
    pub(super) terminal: Option<Size>,
    /// 0 is the default.
    pub(super) replay_bytes: u64,
}

impl Kept {
    pub(super) fn new(about: About, control: Option<Arc<Control>>) -> Self {
        let now = Instant::now();
        let replay_bytes = match (about.terminal, about.replay_bytes) {
            (Some(_), _) => TERMINAL_BYTES,
            (None, 0) => REPLAY_BYTES,
            // Cut to what surely fits.
            (None, bytes) => usize::try_from(bytes.min(MOST_REPLAY_BYTES)).unwrap_or(REPLAY_BYTES),
        };
        Self {
            id: about.id,
            args: shown(&about.args),
            terminal: about.terminal.is_some(),
            started_at: SystemTime::now(),
            began: now,
            control,
            state: Mutex::new(State {
                replay: Replay::new(replay_bytes),
                screen: about.terminal.map(Screen::new),
                size: about.terminal,
                last_screen: Bytes::new(),
                viewers: HashMap::new(),
                next_viewer: 0,
                exit: None,
                ended_at: None,
                active: now,
                read: None,
            }),
            changed: Notify::new(),
            taken: Notify::new(),
        }
    }

    pub(super) fn id(&self) -> &str {
        &self.id
    }

    /// Its number inside; 0 when it ended.
    pub(super) fn pid(&self) -> u32 {
        let running = lock(&self.state).exit.is_none();
        let control = self.control.as_ref().filter(|_| running);
        control.map_or(0, |control| {
            control.pid().as_raw_nonzero().get().unsigned_abs()
        })
    }

    /// How it ended, once it has.
    pub(super) fn exit(&self) -> Option<Exit> {
        lock(&self.state).exit.clone()
    }

    /// Memory that it holds.
    pub(super) fn bytes(&self) -> usize {
        let state = lock(&self.state);
        let args: usize = self.args.iter().map(Bytes::len).sum();
        state.replay.bytes() + state.last_screen.len() + args
    }

    /// Somebody has seen its output to its end.
    pub(super) fn read_to_end(&self) {
        lock(&self.state).read.get_or_insert_with(Instant::now);
    }

    /// When that was first.
    pub(super) fn read_at(&self) -> Option<Instant> {
        lock(&self.state).read
    }

    /// What can be done to it.
    ///
    /// # Errors
    /// `ENDED`.
    pub(super) fn control(&self) -> Result<&Arc<Control>, Failure> {
        self.control
            .as_ref()
            .filter(|_| lock(&self.state).exit.is_none())
            .ok_or_else(|| Failure::new(FailureKind::Ended, "the process has ended"))
    }

    /// Writes to its input.
    pub(super) async fn write(&self, typed: &Typed) -> Result<(), Failure> {
        let control = self.control()?;
        lock(&self.state).active = Instant::now();
        control.write(typed).await
    }

    /// A viewer has room for so much from now on.
    pub(super) fn resize(&self, viewer: u64, room: Size) {
        let mut state = lock(&self.state);
        if let Some(viewer) = state.viewers.get_mut(&viewer) {
            viewer.room = Some(room);
            viewer.believed = Some(room);
        }
        self.agree(&mut state);
        drop(state);
        self.changed.notify_waiters();
    }

    /// Whether it has a terminal to look at.
    pub(super) fn is_terminal(&self) -> bool {
        self.terminal
    }

    /// So many bytes of a viewer's input were refused.
    pub(super) fn refuse(&self, viewer: u64, bytes: u64) {
        if let Some(viewer) = lock(&self.state).viewers.get_mut(&viewer) {
            viewer.refused += bytes;
        }
        self.changed.notify_waiters();
    }

    /// Gives its terminal the largest size that every viewer has room for. Without one that said what it
    /// has, it keeps its size.
    fn agree(&self, state: &mut State) {
        let rooms = state.viewers.values().filter_map(|viewer| viewer.room);
        let size = rooms.reduce(|one, other| Size {
            columns: one.columns.min(other.columns),
            rows: one.rows.min(other.rows),
        });
        let (Some(size), Some(control), Some(_)) = (size, &self.control, &state.screen) else {
            return;
        };
        if state.size != Some(size) {
            state.size = Some(size);
            control.resize(size);
            state.on_screen(|screen| screen.resize(size));
        }
    }

    pub(super) fn info(&self) -> ProcessInfo {
        let pid = self.pid();
        let state = lock(&self.state);
        let milliseconds = |time: SystemTime| {
            let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
            i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
        };
        ProcessInfo {
            id: self.id.clone(),
            args: self.args.clone(),
            pid,
            running: state.exit.is_none(),
            terminal: self.terminal,
            started_at_ms: milliseconds(self.started_at),
            exit: state.exit.clone(),
            ended_at_ms: state.ended_at.map_or(0, milliseconds),
            viewers: u32::try_from(state.viewers.len()).unwrap_or(u32::MAX),
            idle_ms: u64::try_from(state.active.elapsed().as_millis()).unwrap_or(u64::MAX),
        }
    }

    /// Follows it to its end.
    pub(super) async fn follow(self: &Arc<Self>, output: Output, timeout: Option<Duration>) {
        let Some(control) = &self.control else {
            return;
        };
        let deadline = timeout.and_then(|timeout| self.began.checked_add(timeout));
        let outcome = pump(control, output, &**self, deadline).await;
        if let Some(outcome) = outcome {
            self.end(plain::exit(outcome, self.began));
        }
        control.end().await;
    }

    /// It ended so.
    pub(super) fn end(&self, mut exit: Exit) {
        let mut state = lock(&self.state);
        exit.truncated = !self.terminal && state.replay.is_cut();
        if state.screen.is_some() {
            state.last_screen = state.render();
            state.screen = None;
        }
        state.exit = Some(exit);
        state.ended_at = Some(SystemTime::now());
        drop(state);
        self.changed.notify_waiters();
    }

    /// Resolves with how it ended.
    pub(super) async fn ended(&self) -> Exit {
        loop {
            let mut changed = pin!(self.changed.notified());
            changed.as_mut().enable();
            if let Some(exit) = self.exit() {
                return exit;
            }
            changed.await;
        }
    }

    /// Whether its output has come so far that a replay can begin there.
    ///
    /// # Errors
    /// `INVALID`.
    pub(super) fn reaches(&self, position: Position) -> Result<(), Failure> {
        let [out, err] = lock(&self.state).replay.end();
        if position == [0, 0] || !self.terminal && position[0] <= out && position[1] <= err {
            return Ok(());
        }
        let words = if self.terminal {
            "the output of a terminal has no offsets".to_owned()
        } else {
            format!(
                "offset is beyond the output, which has {out} bytes of stdout and {err} of stderr"
            )
        };
        Err(Failure::new(FailureKind::Invalid, words))
    }

    /// Lets a viewer in, from the beginning of what is held or from now on.
    pub(super) fn watch(self: &Arc<Self>, wanted: Wanted) -> Watch {
        let mut state = lock(&self.state);
        let end = state.replay.end();
        let position = if wanted.replay && !self.terminal {
            wanted.from
        } else {
            end
        };
        let number = state.next_viewer;
        state.next_viewer += 1;
        let viewer = Viewer {
            position,
            progressed: Instant::now(),
            stalled: false,
            room: wanted.room,
            believed: wanted.room,
            refused: 0,
        };
        state.viewers.insert(number, viewer);
        self.agree(&mut state);
        drop(state);
        self.changed.notify_waiters();
        Watch {
            kept: Arc::clone(self),
            number,
            position,
            stop_at: (!wanted.follow).then_some(end),
            // Its screen is empty and its bytes are all still to come.
            wants_screen: wanted.replay && self.terminal && end != [0, 0],
            reads: wanted.reads,
        }
    }

    /// Resolves when something changed after it was enabled.
    pub(super) fn changed(&self) -> Notified<'_> {
        self.changed.notified()
    }

    /// Waits while a viewer that is alive is too far behind.
    async fn wait_for_viewers(&self) {
        loop {
            let mut taken = pin!(self.taken.notified());
            taken.as_mut().enable();
            let Some(until) = lock(&self.state).wait_until() else {
                return;
            };
            // Either way the next look decides.
            let _ = timeout_at(until, taken).await;
        }
    }
}

impl State {
    /// When the first viewer that is too far behind will count no more; `None` when there is none.
    fn wait_until(&mut self) -> Option<Instant> {
        let now = Instant::now();
        let mut until = None;
        for viewer in self.viewers.values_mut() {
            if viewer.stalled || self.replay.behind(viewer.position) <= LAG_BYTES {
                continue;
            }
            let limit = viewer.progressed + STALL;
            if limit <= now {
                viewer.stalled = true;
            } else {
                until = Some(until.map_or(limit, |until: Instant| until.min(limit)));
            }
        }
        until
    }

    /// Does something to the screen. A terminal whose screen's model fails goes on with an empty
    /// one: its program and its viewers are worth more than a replay.
    fn on_screen(&mut self, act: impl FnOnce(&mut Screen)) {
        let Some(screen) = &mut self.screen else {
            return;
        };
        let size = screen.size();
        if catch_unwind(AssertUnwindSafe(|| act(screen))).is_err() {
            report!("the model of a terminal's screen failed and begins anew");
            self.screen = Some(Screen::new(size));
        }
    }
}

impl Sink for Kept {
    async fn room(&self) {
        if self.terminal {
            self.wait_for_viewers().await;
        }
    }

    fn put(&self, stream: Stream, data: &[u8]) {
        let mut state = lock(&self.state);
        let now = Instant::now();
        let state = &mut *state;
        for viewer in state.viewers.values_mut() {
            // One that has seen everything starts to be late only now.
            if state.replay.behind(viewer.position) == 0 {
                viewer.progressed = now;
            }
        }
        state.replay.push(stream, data);
        state.active = now;
        state.on_screen(|screen| screen.feed(data));
        self.changed.notify_waiters();
    }

    fn most(&self) -> usize {
        let state = lock(&self.state);
        let screen = state.screen.as_ref();
        screen.map_or(READ_BYTES, Screen::turn_bytes)
    }

    async fn gone(&self) {
        std::future::pending().await
    }
}

/// A viewer's place. Leaves with it.
#[derive(Debug)]
pub(super) struct Watch {
    kept: Arc<Kept>,
    number: u64,
    position: Position,
    stop_at: Option<Position>,
    wants_screen: bool,
    reads: bool,
}

impl Watch {
    pub(super) fn kept(&self) -> &Arc<Kept> {
        &self.kept
    }

    /// The viewer, for [`Kept::resize`].
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// What comes next; counts as taken with [`Watch::took`].
    pub(super) fn step(&mut self, most: usize) -> Step {
        let mut state = lock(&self.kept.state);
        let state = &mut *state;
        if let Some(size) = state.size
            && let Some(viewer) = state.viewers.get_mut(&self.number)
            && viewer.believed != Some(size)
        {
            viewer.believed = Some(size);
            return Step::Resized(size);
        }
        if let Some(viewer) = state.viewers.get_mut(&self.number)
            && viewer.refused > 0
        {
            return Step::Refused(std::mem::take(&mut viewer.refused));
        }
        let end = state.replay.end();
        let mut after = self.position;
        let mut next = state.replay.next(&mut after, most);
        // A terminal's output is of no use with a part missing.
        let lost = self.kept.terminal && next.as_ref().is_some_and(|next| next.skipped > 0);
        if self.wants_screen || lost {
            let skipped = if lost {
                state.replay.behind(self.position)
            } else {
                0
            };
            self.wants_screen = false;
            self.position = end;
            let screen = state.render();
            return Step::Screen { skipped, screen };
        }
        if let Some(stop) = self.stop_at {
            let place = [0, 1].map(|stream| self.position[stream] >= stop[stream]);
            if place == [true, true] {
                return Step::Done(state.exit.clone());
            }
            // The other stream may have gone on since.
            if let Some(next) = &mut next {
                let stream = next.stream as usize;
                let over = after[stream].saturating_sub(stop[stream]);
                let left = (next.data.len() as u64).saturating_sub(over);
                next.data
                    .truncate(usize::try_from(left).unwrap_or(usize::MAX));
            }
        }
        match (next, &state.exit) {
            (Some(next), _) => {
                self.position = after;
                Step::Output(next)
            }
            (None, Some(exit)) => Step::Done(Some(exit.clone())),
            (None, None) => Step::Wait,
        }
    }

    /// It was told how the process ended, after all of its output.
    pub(super) fn saw_end(&self) {
        if self.reads {
            self.kept.read_to_end();
        }
    }

    /// The last step was taken: the viewer is alive.
    pub(super) fn took(&self) {
        if let Some(viewer) = lock(&self.kept.state).viewers.get_mut(&self.number) {
            viewer.position = self.position;
            viewer.progressed = Instant::now();
            viewer.stalled = false;
        }
        self.kept.taken.notify_waiters();
    }
}

impl State {
    fn render(&mut self) -> Bytes {
        let mut screen = Bytes::new();
        self.on_screen(|model| screen = model.render().into());
        if self.screen.is_none() {
            screen = self.last_screen.clone();
        }
        screen
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut state = lock(&self.kept.state);
        state.viewers.remove(&self.number);
        self.kept.agree(&mut state);
        drop(state);
        self.kept.taken.notify_waiters();
        self.kept.changed.notify_waiters();
    }
}
