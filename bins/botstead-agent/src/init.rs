//! The duties of an init: reap what is orphaned to it, and end the namespace in order.
//!
//! Children are waited for in [`reap`] only. Two processes are told apart here: those that became
//! children of PID 1 (orphans), and those that the runtime's exec put into the namespace, whose
//! parent is outside and which give no SIGCHLD. Both are seen by `kill(-1, 0)`.

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

/// While ending, how often to look whether the processes that give no SIGCHLD are gone.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// How long to wait for killed processes. When PID 1 exits, the kernel kills what is left.
const AFTER_KILL: Duration = Duration::from_secs(1);

const EVERYBODY: Pid = Pid::from_raw(-1);

/// Runs until SIGTERM or SIGINT, then ends every other process of the namespace: SIGTERM, `grace`,
/// SIGKILL.
///
/// `prepare` runs once signals are held: before that the kernel drops those to PID 1, and one that
/// asks to end would be lost.
pub(crate) fn run(grace: Duration, prepare: impl FnOnce()) -> Result<(), Errno> {
    let mut signals = Signals::open()?;
    prepare();
    loop {
        reap()?;
        if signals.next(None)? == Event::End {
            break;
        }
    }
    end_others(&mut signals, grace)
}

/// What a signal asks for.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
enum Event {
    /// SIGTERM or SIGINT.
    End,
    /// A child changed its state, or the time given is over.
    Look,
}

/// The signals that matter, blocked and read from a descriptor.
///
/// The kernel discards every other signal whose action is the default when it is sent to the init of
/// a namespace, SIGKILL and SIGSTOP from outside excepted; Rust's start-up code ignores SIGPIPE.
struct Signals(SignalFd);

impl Signals {
    fn open() -> Result<Self, Errno> {
        let mask: SigSet = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGCHLD]
            .into_iter()
            .collect();
        mask.thread_block()?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        Ok(Self(SignalFd::with_flags(&mask, flags)?))
    }

    /// Sleeps until a signal arrives or `limit` is over. A signal to end wins over the others.
    fn next(&mut self, limit: Option<Duration>) -> Result<Event, Errno> {
        let timeout = match limit {
            None => PollTimeout::NONE,
            Some(limit) => PollTimeout::try_from(limit).unwrap_or(PollTimeout::MAX),
        };
        match poll(
            &mut [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)],
            timeout,
        ) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error),
        }
        let mut event = Event::Look;
        while let Some(signal) = self.0.read_signal()? {
            if signal.ssi_signo != Signal::SIGCHLD as u32 {
                event = Event::End;
            }
        }
        Ok(event)
    }
}

/// Collects the status of every child that has ended. Signals of one kind merge while they are
/// pending, so one SIGCHLD may stand for many children.
fn reap() -> Result<(), Errno> {
    loop {
        match waitpid(EVERYBODY, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return Ok(()),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error),
        }
    }
}

/// Sends a signal to every other process of the namespace and tells whether there was one.
fn signal_others(signal: Option<Signal>) -> Result<bool, Errno> {
    match kill(EVERYBODY, signal) {
        // Some process was there; a security module may refuse a signal to one of them.
        Ok(()) | Err(Errno::EPERM) => Ok(true),
        Err(Errno::ESRCH) => Ok(false),
        Err(error) => Err(error),
    }
}

fn end_others(signals: &mut Signals, grace: Duration) -> Result<(), Errno> {
    signal_others(Some(Signal::SIGTERM))?;
    // A stopped process acts on SIGTERM only after it was continued.
    signal_others(Some(Signal::SIGCONT))?;
    if wait_until_alone(signals, grace)? {
        return Ok(());
    }
    signal_others(Some(Signal::SIGKILL))?;
    wait_until_alone(signals, AFTER_KILL)?;
    Ok(())
}

/// Reaps until no other process is left, `limit` is over or a signal asks to hurry, and tells
/// whether none is left.
fn wait_until_alone(signals: &mut Signals, limit: Duration) -> Result<bool, Errno> {
    let deadline = Instant::now() + limit;
    loop {
        reap()?;
        if !signal_others(None)? {
            return Ok(true);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() || signals.next(Some(left.min(LOOK_AGAIN)))? == Event::End {
            return Ok(false);
        }
    }
}
