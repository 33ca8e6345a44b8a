//! The one place that starts and waits for children.
//!
//! As PID 1 the agent is the parent of every orphan beside its own commands, so it waits for all
//! children with one call, and tells by the table here whose status it got. Two rules keep every
//! status where it belongs:
//!
//! - While a command is started, nobody waits: `std`'s spawn itself waits for a child whose exec
//!   failed, and a child may end before it stands in the table.
//! - A process is signalled only while it stands in the table, under the table's lock: its number
//!   cannot have gone to another process before it was waited for.

use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions, kill_process, kill_process_group, wait};
use std::collections::HashMap;
use std::io;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};
use tokio::sync::{Notify, oneshot};

/// How a child ended: 0 to 255, or 128 + the number of the signal that killed it.
pub(crate) type Code = u32;

/// A child that runs.
#[derive(Debug)]
pub(crate) struct Child {
    pub(crate) pid: Pid,
    /// Tells how it ended.
    pub(crate) ended: oneshot::Receiver<Code>,
}

/// All children of the agent.
#[derive(Debug, Default)]
pub(crate) struct Children {
    /// Held from before a fork until the child stands in the table, and while waiting.
    starting: Mutex<()>,
    table: Mutex<Table>,
    look: Notify,
}

#[derive(Debug, Default)]
struct Table {
    running: HashMap<Pid, oneshot::Sender<Code>>,
    closed: bool,
}

impl Children {
    /// Starts a command. Blocks until its program runs or could not be executed.
    ///
    /// # Errors
    /// Those of [`Command::spawn`]; `ECANCELED` once the workspace is ending.
    pub(crate) fn spawn(&self, command: &mut Command) -> io::Result<Child> {
        let result = {
            let _starting = lock(&self.starting);
            if self.table().closed {
                return Err(Errno::CANCELED.into());
            }
            command.spawn().map(|handle| {
                let (tell, ended) = oneshot::channel();
                let pid = Pid::from_child(&handle);
                let mut table = self.table();
                table.running.insert(pid, tell);
                if table.closed {
                    // The end began meanwhile, and its SIGTERM may have missed this one.
                    let _ = kill_process_group(pid, Signal::KILL);
                }
                Child { pid, ended }
            })
        };
        // Whoever wanted to wait meanwhile went away.
        self.look.notify_one();
        result
    }

    /// Refuses to start anything from now on.
    pub(crate) fn close(&self) {
        self.table().closed = true;
    }

    /// How many commands run.
    pub(crate) fn running(&self) -> usize {
        self.table().running.len()
    }

    /// Sends a signal to a command and its process group.
    ///
    /// # Errors
    /// `ESRCH` when it ended.
    pub(crate) fn signal(&self, pid: Pid, signal: Signal) -> rustix::io::Result<()> {
        let table = self.table();
        if !table.running.contains_key(&pid) {
            return Err(Errno::SRCH);
        }
        match kill_process_group(pid, signal) {
            // It left its group, which is its right.
            Err(Errno::SRCH) => kill_process(pid, signal),
            done => done,
        }
    }

    /// Resolves when [`Children::reap`] was put off by a start and should be called again.
    pub(crate) async fn look(&self) {
        self.look.notified().await;
    }

    /// Collects the status of every child that has ended, unless a command is being started: then
    /// [`Children::look`] tells when. Signals of one kind merge while they are pending, so one
    /// SIGCHLD may stand for many children.
    ///
    /// # Errors
    /// None that `wait` is documented to give here.
    pub(crate) fn reap(&self) -> rustix::io::Result<()> {
        // Not waited for: an exec from a filesystem that hangs must not stop the agent.
        let _starting = match self.starting.try_lock() {
            Ok(guard) => guard,
            Err(TryLockError::Poisoned(error)) => error.into_inner(),
            Err(TryLockError::WouldBlock) => return Ok(()),
        };
        let mut table = self.table();
        loop {
            let (pid, status) = match wait(WaitOptions::NOHANG) {
                Ok(Some(found)) => found,
                Ok(None) | Err(Errno::CHILD) => return Ok(()),
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error),
            };
            let code = match (status.exit_status(), status.terminating_signal()) {
                (Some(code), _) => code.unsigned_abs(),
                (_, Some(signal)) => 128 + signal.unsigned_abs(),
                // Neither: it was stopped or continued, which was not asked for.
                (None, None) => continue,
            };
            if let Some(tell) = table.running.remove(&pid) {
                // Nobody listens when the call has ended.
                let _ = tell.send(code);
            }
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        lock(&self.table)
    }
}

/// A lock whose holder panicked still guards whole values here.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
