//! What can be done to a process that runs: its input, its terminal's size, signals.

use super::launch::{Running, Streams};
use super::pty::{self, Size};
use super::replay::Stream;
use super::stream::{self, End};
use super::tree::Tree;
use crate::children::{Children, lock};
use crate::worker::Worker;
use botstead_bridge::{Failure, FailureKind};
use bytes::Bytes;
use rustix::process::{Pid, Signal, kill_process_group};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, sleep};

/// How long a process that is to end may take to put its things in order.
const GRACE: Duration = Duration::from_secs(3);
/// When to look whether it is gone: most are at once.
const FIRST_LOOK: Duration = Duration::from_millis(2);
const LONGEST_LOOK: Duration = Duration::from_millis(50);

/// A process that was started.
#[derive(Debug)]
pub(super) struct Control {
    pid: Pid,
    children: Arc<Children>,
    killer: Worker,
    /// One writer at a time, for a whole message: two never mix.
    input: Arc<tokio::sync::Mutex<Option<End>>>,
    terminal: Mutex<Option<End>>,
    /// The last byte that was written to its input.
    last_byte: AtomicU8,
    /// Bytes that its input took, from whoever.
    taken: Arc<AtomicU64>,
    /// How often all input that waited was discarded.
    discarded: watch::Sender<u64>,
    over: watch::Sender<bool>,
}

/// Input, and how often all input had been discarded when it came.
#[derive(Debug, Clone)]
pub(super) struct Typed {
    pub(super) data: Bytes,
    after: u64,
}

impl Typed {
    /// What came before an interrupt that this came after is discarded.
    pub(super) fn discards(&self, earlier: &Self) -> bool {
        self.after != earlier.after
    }
}

/// What is read from a process.
#[derive(Debug)]
pub(super) struct Output {
    pub(super) ends: Vec<(Stream, End)>,
    /// Tells how it ended.
    pub(super) ended: oneshot::Receiver<u32>,
    /// To be dropped then, see [`Streams::Terminal`].
    pub(super) slave: Option<OwnedFd>,
}

impl Control {
    /// Takes over a process that was started.
    pub(super) fn new(
        running: Running,
        children: Arc<Children>,
        killer: Worker,
    ) -> Result<(Self, Output), Failure> {
        let Running {
            pid,
            ended,
            streams,
        } = running;
        let on_runtime = || -> std::io::Result<_> {
            Ok(match streams {
                Streams::Pipes {
                    stdin,
                    stdout,
                    stderr,
                } => {
                    let ends = vec![
                        (Stream::Out, stream::end(stdout)?),
                        (Stream::Err, stream::end(stderr)?),
                    ];
                    (stdin.map(stream::end).transpose()?, None, ends, None)
                }
                Streams::Terminal { master, slave } => {
                    let master = stream::end(master)?;
                    (
                        Some(Arc::clone(&master)),
                        Some(Arc::clone(&master)),
                        vec![(Stream::Out, master)],
                        Some(slave),
                    )
                }
            })
        };
        let (input, terminal, ends, slave) = on_runtime().map_err(|error| {
            // Nobody could follow it, so it must not go on.
            let _ = children.signal(pid, Signal::KILL);
            Failure::new(
                FailureKind::Limit,
                format!("cannot watch the process's streams: {error}"),
            )
        })?;
        let control = Self {
            pid,
            children,
            killer,
            input: Arc::new(tokio::sync::Mutex::new(input)),
            terminal: Mutex::new(terminal),
            last_byte: AtomicU8::new(b'\n'),
            taken: Arc::default(),
            discarded: watch::Sender::new(0),
            over: watch::Sender::new(false),
        };
        let output = Output { ends, ended, slave };
        Ok((control, output))
    }

    pub(super) fn pid(&self) -> Pid {
        self.pid
    }

    /// Takes input in, to be written in its turn. In a terminal a character that sends a signal does
    /// not wait for a program that reads nothing: as typed to the kernel it discards all input before
    /// it, whoever typed that and wherever it waits. `waits` says that something of this caller does.
    pub(super) fn typed(&self, mut data: Bytes, waits: bool) -> Typed {
        if let Some(terminal) = &*lock(&self.terminal)
            && let Some(found) = pty::interrupt(terminal.as_fd(), &data)
            && (waits || self.input.try_lock().is_err() || pty::has_unread(terminal.as_fd()))
        {
            if found.discards {
                self.discarded.send_modify(|times| *times += 1);
                // Then it waits as everything else did before.
                let _ = pty::discard_input(terminal.as_fd());
                data = data.slice(found.at..);
            } else {
                if let (Some(group), Some(signal)) = (
                    pty::foreground(terminal.as_fd()),
                    Signal::from_named_raw(found.signal),
                ) {
                    // It may have ended just now.
                    let _ = kill_process_group(group, signal);
                }
                let mut rest = Vec::from(data);
                rest.remove(found.at);
                data = rest.into();
            }
        }
        let after = *self.discarded.borrow();
        Typed { data, after }
    }

    /// Writes to its input; done when the program's pipe or terminal took all of it, or it was
    /// discarded.
    ///
    /// # Errors
    /// `ENDED` when it ended or closed its input.
    pub(super) async fn write(&self, typed: &Typed) -> Result<(), Failure> {
        let data = &typed.data;
        let write = async {
            let mut input = self.input.lock().await;
            let end = input.as_ref().ok_or_else(no_input)?;
            let done = stream::write_all(end, data, &self.taken).await;
            self.wrote(data);
            done.map_err(|_| {
                *input = None;
                no_input()
            })
        };
        let mut over = self.over.subscribe();
        let mut discarded = self.discarded.subscribe();
        tokio::select! {
            biased;
            _ = discarded.wait_for(|times| *times != typed.after) => Ok(()),
            done = write => done,
            _ = over.wait_for(|over| *over) => Err(no_input()),
        }
    }

    /// How many bytes its input took in all.
    pub(super) fn taken(&self) -> u64 {
        self.taken.load(Ordering::Relaxed)
    }

    /// Writes what it is to read first, beside everything else and before what others write, and then
    /// ends its input unless that stays open. To be called before anybody else knows it.
    pub(super) fn begin_input(&self, data: Bytes, stays_open: bool) {
        let Ok(mut input) = Arc::clone(&self.input).try_lock_owned() else {
            return;
        };
        let mut over = self.over.subscribe();
        let taken = Arc::clone(&self.taken);
        self.wrote(&data);
        let end_of_input = match stays_open {
            true => None,
            false => self.end_of_terminal_input(),
        };
        tokio::spawn(async move {
            let write = async {
                if let Some(end) = input.as_ref() {
                    let done = stream::write_all(end, &data, &taken).await;
                    if let (Ok(()), Some(characters)) = (done, end_of_input) {
                        // One that ended needs none.
                        let _ = stream::write_all(end, &characters, &taken).await;
                    } else if done.is_err() || !stays_open {
                        *input = None;
                    }
                }
            };
            tokio::select! {
                () = write => {}
                _ = over.wait_for(|over| *over) => {}
            }
        });
    }

    /// Ends its input. A terminal is sent the character that means it.
    pub(super) async fn close_input(&self) {
        if lock(&self.terminal).is_some() {
            if let Some(characters) = self.end_of_terminal_input() {
                // That it has none any more is what is wanted.
                let typed = self.typed(characters, false);
                let _ = self.write(&typed).await;
            }
            return;
        }
        let close = async { self.input.lock().await.take() };
        let mut over = self.over.subscribe();
        tokio::select! {
            _ = close => {}
            _ = over.wait_for(|over| *over) => {}
        }
    }

    fn wrote(&self, data: &[u8]) {
        if let Some(last) = data.last() {
            self.last_byte.store(*last, Ordering::Relaxed);
        }
    }

    /// What ends a terminal's input. Within a line the character passes on what there is of that, and only
    /// the next one means the end (termios(3), VEOF).
    fn end_of_terminal_input(&self) -> Option<Bytes> {
        let terminal = lock(&self.terminal);
        let character = pty::end_of_input(terminal.as_ref()?.as_fd()).ok()?;
        let last = self.last_byte.load(Ordering::Relaxed);
        let count = match last == character || matches!(last, b'\n' | b'\r') {
            true => 1,
            false => 2,
        };
        Some(vec![character; count].into())
    }

    /// Gives its terminal another size, where it has one.
    pub(super) fn resize(&self, size: Size) {
        if let Some(terminal) = &*lock(&self.terminal) {
            // One that was just closed has no size.
            let _ = pty::resize(terminal.as_fd(), size);
        }
    }

    /// Sends a signal to it and its group, and to the group in its terminal's foreground.
    ///
    /// # Errors
    /// `INVALID` for what is no signal, `ENDED` when it ended.
    pub(super) fn signal(&self, number: i32) -> Result<(), Failure> {
        let signal = Signal::from_named_raw(number).ok_or_else(|| {
            Failure::new(FailureKind::Invalid, format!("{number} is not a signal"))
        })?;
        self.children.signal(self.pid, signal).map_err(|errno| {
            Failure::new(FailureKind::Ended, "the process has ended")
                .with_errno(errno.raw_os_error())
        })?;
        if let Some(terminal) = &*lock(&self.terminal)
            && let Some(group) = pty::foreground(terminal.as_fd())
            && group != self.pid
        {
            // It may have ended just now.
            let _ = kill_process_group(group, signal);
        }
        Ok(())
    }

    /// Ends it with everything that it started, and returns when that is gone: asks by SIGTERM, or by
    /// hanging a terminal up, and kills what is left after [`GRACE`].
    pub(super) async fn end_tree(&self) {
        let has_terminal = lock(&self.terminal).is_some();
        let signal = if has_terminal {
            Signal::HUP
        } else {
            Signal::TERM
        };
        let mut tree = Tree::of(self.pid);
        let deadline = Instant::now() + GRACE;
        let mut pause = FIRST_LOOK;
        let asked = self.killer.run(move || {
            tree.ask(signal);
            tree
        });
        // A panic was told of; there is nothing else to do about it.
        let Ok(asked) = asked.await else { return };
        tree = asked;
        while Instant::now() < deadline {
            sleep(pause).await;
            pause = (pause * 2).min(LONGEST_LOOK);
            // Others are ended meanwhile: each look is a job of its own.
            let look = self.killer.run(move || {
                let gone = tree.is_gone();
                (tree, gone)
            });
            let Ok((looked, gone)) = look.await else {
                return;
            };
            if gone {
                return;
            }
            tree = looked;
        }
        let _ = self.killer.run(move || tree.kill()).await;
    }

    /// Tells a shell and what runs in front of it that their terminal is gone.
    pub(super) fn hang_up(&self) {
        if lock(&self.terminal).is_some() {
            // That it ended is what is wanted.
            let _ = self.signal(Signal::HUP.as_raw());
            let _ = self.signal(Signal::CONT.as_raw());
        }
    }

    /// Lets go of its streams: it ended.
    pub(super) async fn end(&self) {
        self.over.send_replace(true);
        lock(&self.terminal).take();
        self.input.lock().await.take();
    }
}

fn no_input() -> Failure {
    Failure::new(
        FailureKind::Ended,
        "the process has ended, or its input is closed",
    )
}
