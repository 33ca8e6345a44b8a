//! What can be done to a process that runs: its input, its terminal's size, signals.

use super::launch::{Running, Streams};
use super::pty::{self, Size};
use super::replay::Stream;
use super::stream::{self, End};
use crate::children::{Children, lock};
use crate::worker::Worker;
use botstead_bridge::{Failure, FailureKind};
use bytes::Bytes;
use rustix::process::{Pid, Signal, kill_process_group};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex};
use tokio::sync::{oneshot, watch};

/// A process that was started.
#[derive(Debug)]
pub(super) struct Control {
    pid: Pid,
    children: Arc<Children>,
    killer: Worker,
    /// One writer at a time, for a whole message: two never mix.
    input: Arc<tokio::sync::Mutex<Option<End>>>,
    terminal: Mutex<Option<End>>,
    over: watch::Sender<bool>,
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
            over: watch::Sender::new(false),
        };
        let output = Output { ends, ended, slave };
        Ok((control, output))
    }

    pub(super) fn pid(&self) -> Pid {
        self.pid
    }

    /// Writes to its input; done when the program's pipe or terminal took all of it.
    ///
    /// # Errors
    /// `ENDED` when it ended or closed its input.
    pub(super) async fn write(&self, data: &[u8]) -> Result<(), Failure> {
        let write = async {
            let mut input = self.input.lock().await;
            let end = input.as_ref().ok_or_else(no_input)?;
            let done = stream::write_all(end, data).await;
            done.map_err(|_| {
                *input = None;
                no_input()
            })
        };
        let mut over = self.over.subscribe();
        tokio::select! {
            done = write => done,
            _ = over.wait_for(|over| *over) => Err(no_input()),
        }
    }

    /// Writes what it is to read first, beside everything else and before what others write, and then
    /// ends its input unless that stays open. To be called before anybody else knows it.
    pub(super) fn begin_input(&self, data: Bytes, stays_open: bool) {
        let Ok(mut input) = Arc::clone(&self.input).try_lock_owned() else {
            return;
        };
        let mut over = self.over.subscribe();
        tokio::spawn(async move {
            let write = async {
                if let Some(end) = input.as_ref() {
                    let done = stream::write_all(end, &data).await;
                    if done.is_err() || !stays_open {
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
        let terminal = lock(&self.terminal).clone();
        if let Some(terminal) = terminal {
            if let Ok(character) = pty::end_of_input(terminal.as_fd()) {
                // That it has none any more is what is wanted.
                let _ = self.write(&[character]).await;
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

    /// Kills it with everything that it started, and returns when that is gone.
    pub(super) async fn kill(&self) {
        let pid = self.pid;
        // A panic was told of; there is nothing else to do about it.
        let _ = self.killer.run(move || super::tree::kill(pid)).await;
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
