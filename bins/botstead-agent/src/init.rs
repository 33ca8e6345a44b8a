//! The duties of an init: reap what is orphaned to it, and end the namespace in order.
//!
//! Two kinds of processes are told apart here: those that are children of PID 1 (commands and
//! orphans), and those that the runtime's exec put into the namespace, whose parent is outside and
//! which give no SIGCHLD. Both are seen by `kill(-1, 0)`. Who waits for children is
//! [`crate::children`].

use crate::children::Children;
use crate::descriptor;
use nix::errno::Errno;
use nix::libc::{SIGRTMAX, SIGRTMIN};
use nix::sys::signal::{SigHandler, SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::Pid;
use std::io;
use std::time::Duration;
use tokio::io::unix::AsyncFd;
use tokio::time::{Instant, timeout_at};

/// While ending, how often to look whether the processes that give no SIGCHLD are gone.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// How long to wait for killed processes. When PID 1 exits, the kernel kills what is left.
const AFTER_KILL: Duration = Duration::from_secs(1);

const EVERYBODY: Pid = Pid::from_raw(-1);

/// What a signal asks for.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
enum Event {
    /// SIGTERM or SIGINT.
    End,
    /// A child changed its state.
    Look,
}

/// The signals that matter, blocked and read from a descriptor.
///
/// The kernel discards every other signal whose action is the default when it is sent to the init of
/// a namespace, SIGKILL and SIGSTOP from outside excepted; Rust's start-up code ignores SIGPIPE.
#[derive(Debug)]
pub(crate) struct HeldSignals(SignalFd);

impl HeldSignals {
    /// Holds the signals from now on. Before that the kernel drops those to PID 1, and one that asks
    /// to end would be lost. To be called before any thread is started: threads inherit the mask.
    ///
    /// # Errors
    /// The kernel refused, which it is not documented to do.
    pub(crate) fn hold() -> Result<Self, Errno> {
        default_dispositions();
        let mask: SigSet = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGCHLD]
            .into_iter()
            .collect();
        mask.thread_block()?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        Ok(Self(SignalFd::with_flags(&mask, flags)?))
    }
}

/// What starts the agent may have ignored signals, as `nohup` does. Commands would inherit that, and
/// with SIGCHLD ignored no status would ever be seen.
fn default_dispositions() {
    for signal in Signal::iterator() {
        use Signal::{SIGBUS, SIGKILL, SIGPIPE, SIGSEGV, SIGSTOP};
        // Rust's start-up code handles these, and `std` resets SIGPIPE in every child; two cannot
        // be changed.
        if matches!(signal, SIGBUS | SIGKILL | SIGPIPE | SIGSEGV | SIGSTOP) {
            continue;
        }
        // SAFETY: no handler is installed, so no code can run in one.
        #[allow(unsafe_code, reason = "the default disposition has no safe wrapper")]
        let _ = unsafe { nix::sys::signal::signal(signal, SigHandler::SigDfl) };
    }
    // Those that have no names. The two below are the C library's own.
    for signal in SIGRTMIN()..=SIGRTMAX() {
        // SAFETY: as above.
        #[allow(unsafe_code, reason = "nix does not know real-time signals")]
        let _ = unsafe { nix::libc::signal(signal, nix::libc::SIG_DFL) };
    }
}

/// The signals, on the runtime.
struct Signals(AsyncFd<SignalFd>);

impl Signals {
    /// Sleeps until a signal arrives. A signal to end wins over the others.
    async fn next(&mut self) -> io::Result<Event> {
        loop {
            let mut guard = self.0.readable_mut().await?;
            let mut event = None;
            while let Some(signal) = guard.get_inner_mut().read_signal()? {
                if signal.ssi_signo != Signal::SIGCHLD as u32 {
                    event = Some(Event::End);
                } else {
                    event = event.or(Some(Event::Look));
                }
            }
            guard.clear_ready();
            if let Some(event) = event {
                return Ok(event);
            }
        }
    }
}

/// Runs until SIGTERM or SIGINT, then ends every other process of the namespace: SIGTERM, `grace`,
/// SIGKILL. `stop` runs before that, when nothing has been asked to end yet.
///
/// # Errors
/// The kernel refused what it is not documented to refuse.
pub(crate) async fn run(
    signals: HeldSignals,
    children: &Children,
    grace: Duration,
    stop: impl FnOnce(),
) -> io::Result<()> {
    let mut signals = Signals(descriptor::register(signals.0)?);
    loop {
        children.reap()?;
        tokio::select! {
            event = signals.next() => if event? == Event::End { break },
            () = children.look() => {}
        }
    }
    stop();
    children.close();
    end_others(&mut signals, children, grace).await
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

async fn end_others(signals: &mut Signals, children: &Children, grace: Duration) -> io::Result<()> {
    signal_others(Some(Signal::SIGTERM))?;
    // A stopped process acts on SIGTERM only after it was continued.
    signal_others(Some(Signal::SIGCONT))?;
    if wait_until_alone(signals, children, grace).await? {
        return Ok(());
    }
    signal_others(Some(Signal::SIGKILL))?;
    wait_until_alone(signals, children, AFTER_KILL).await?;
    Ok(())
}

/// Reaps until no other process is left, `limit` is over or a signal asks to hurry, and tells
/// whether none is left.
async fn wait_until_alone(
    signals: &mut Signals,
    children: &Children,
    limit: Duration,
) -> io::Result<bool> {
    let now = Instant::now();
    // A grace of centuries is as good as one of a day.
    let deadline = now + limit.min(Duration::from_secs(24 * 3600));
    loop {
        children.reap()?;
        if !signal_others(None)? {
            return Ok(true);
        }
        let look = deadline.min(Instant::now() + LOOK_AGAIN);
        if let Ok(event) = timeout_at(look, signals.next()).await
            && event? == Event::End
        {
            return Ok(false);
        }
        if Instant::now() >= deadline {
            return Ok(false);
        }
    }
}
