//! Running containers.

use crate::{Error, ErrorKind, Result, SnapshotMount};
use async_trait::async_trait;
use botstead_types::{ContainerId, TaskStatus};
use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures_util::stream::BoxStream;
use std::time::Duration;

/// A signal by its number (signal(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Signal(pub i32);

impl Signal {
    /// Asks to end.
    pub const TERM: Self = Self(15);
    /// Lets what was stopped go on.
    pub const CONT: Self = Self(18);
    /// Ends at once.
    pub const KILL: Self = Self(9);
}

/// A task as the runtime has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Task {
    /// Its state.
    pub status: TaskStatus,
    /// The first process's id on the host; 0 once it ended.
    pub pid: u32,
    /// How it ended, once it did.
    pub exit: Option<ExitStatus>,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExitStatus {
    /// The exit code, or 128 + the number of the signal that ended it.
    pub code: u32,
    /// When it ended.
    pub exited_at: DateTime<Utc>,
}

/// What happened to a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TaskEvent {
    /// It started.
    Started(ContainerId),
    /// Its first process ended.
    Exited(ContainerId, ExitStatus),
    /// A process of it was killed because its memory limit was reached.
    OutOfMemory(ContainerId),
}

/// A command to run in a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exec {
    /// The program and its arguments; looked up in the PATH of `env` inside.
    pub args: Vec<String>,
    /// Its whole environment, `KEY=value` pairs.
    pub env: Vec<String>,
    /// The working directory, an absolute path inside.
    pub cwd: String,
    /// Who runs it.
    pub user: ExecUser,
    /// What it reads.
    pub stdin: Bytes,
    /// After this it is killed; `None` means never.
    pub timeout: Option<Duration>,
    /// At most so many bytes of each of its outputs are kept; the rest is read and dropped.
    pub output_limit: usize,
}

/// Who runs a command: `user`, `uid`, `user:group` or `uid:gid`, names looked up in the container's
/// own `/etc/passwd` and `/etc/group`; empty means 0:0.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExecUser(pub String);

/// What a command did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecOutput {
    /// The exit code, or 128 + the number of the signal that ended it; 127 when the program was not
    /// found and 126 when it could not be executed.
    pub exit_code: u32,
    /// What it wrote to its standard output, up to the limit.
    pub stdout: Bytes,
    /// What it wrote to its standard error, up to the limit.
    pub stderr: Bytes,
    /// Whether output was dropped.
    pub truncated: bool,
    /// Whether it was killed because its time was over.
    pub timed_out: bool,
}

/// Running containers. A task is `created`, then `running`, then `stopped`, and gone once it is
/// deleted.
#[async_trait]
pub trait Tasks: Send + Sync {
    /// Sets the container's process up without running it and returns its process id. On failure
    /// nothing is left. What is left of a task whose deletion was cut off is not in the way. Again:
    /// `AlreadyExists`.
    ///
    /// # Errors
    /// `NotFound` for the container or its snapshot, `AlreadyExists`, `InvalidArgument` when the
    /// program cannot be run.
    async fn create(&self, id: &ContainerId) -> Result<u32>;

    /// The same where the caller has just prepared the container's snapshot and was told how it is
    /// mounted ([`crate::Snapshots::prepare`]): nothing needs to be looked up. An empty `root` says
    /// nothing.
    ///
    /// # Errors
    /// Those of [`Tasks::create`].
    async fn create_on(&self, id: &ContainerId, root: &[SnapshotMount]) -> Result<u32> {
        let _ = root;
        self.create(id).await
    }

    /// Runs the process. Again: `Conflict`.
    ///
    /// # Errors
    /// `NotFound`; `Conflict` unless the task is `created`.
    async fn start(&self, id: &ContainerId) -> Result<()>;

    /// Sends a signal to the first process.
    ///
    /// # Errors
    /// `NotFound` when there is no task or it ended.
    async fn kill(&self, id: &ContainerId, signal: Signal) -> Result<()>;

    /// Waits until the task ended.
    ///
    /// # Errors
    /// `NotFound`.
    async fn wait(&self, id: &ContainerId) -> Result<ExitStatus>;

    /// Removes an ended or never started task. Again: `NotFound`.
    ///
    /// # Errors
    /// `NotFound`; `Conflict` while it runs.
    async fn delete(&self, id: &ContainerId) -> Result<ExitStatus>;

    /// The task of a container.
    ///
    /// # Errors
    /// `NotFound` when it has none.
    async fn get(&self, id: &ContainerId) -> Result<Task>;

    /// All tasks of this installation.
    ///
    /// # Errors
    /// `Unavailable` when the runtime does not answer.
    async fn list(&self) -> Result<Vec<(ContainerId, Task)>>;

    /// Runs a command in a running task and waits for its end. Dropping the future kills it. An
    /// exit is reported also when a background child keeps the outputs open: what arrives within a
    /// short grace after the exit belongs to the output.
    ///
    /// # Errors
    /// `NotFound` when no task runs, `Unsupported` where [`crate::Capabilities::exec`] is false,
    /// `InvalidArgument` for a user that does not exist.
    async fn exec(&self, id: &ContainerId, exec: Exec) -> Result<ExecOutput>;

    /// What happens from now on to tasks of this installation. The stream ends when the runtime
    /// goes away; the caller then subscribes again and looks at the state.
    fn events(&self) -> BoxStream<'static, Result<TaskEvent>>;

    /// Ends the task however it is, asking with `signal` and killing after `grace`, and leaves it for
    /// [`Tasks::delete`]. Tells whether there is one; where there is none, what is left of one goes.
    /// Again: no change.
    ///
    /// # Errors
    /// `Unavailable` when the processes do not die or the runtime does not answer.
    async fn end(&self, id: &ContainerId, signal: Signal, grace: Duration) -> Result<bool> {
        const KILL_WAIT: Duration = Duration::from_secs(30);
        let gone = |error: &Error| error.kind() == ErrorKind::NotFound;
        let task = match self.get(id).await {
            Err(error) if gone(&error) => {
                // What a deletion left that was cut off, only another one finds.
                return match self.delete(id).await {
                    Err(error) if !gone(&error) => Err(error),
                    _ => Ok(false),
                };
            }
            task => task?,
        };
        if matches!(task.status, TaskStatus::Running | TaskStatus::Paused) {
            let ended = self.wait(id);
            tokio::pin!(ended);
            let mut waited = None;
            if !grace.is_zero() && signal != Signal::KILL {
                match self.kill(id, signal).await {
                    Err(error) if !gone(&error) => return Err(error),
                    _ => waited = tokio::time::timeout(grace, &mut ended).await.ok(),
                }
            }
            if waited.is_none() {
                match self.kill(id, Signal::KILL).await {
                    Err(error) if !gone(&error) => return Err(error),
                    _ => waited = tokio::time::timeout(KILL_WAIT, &mut ended).await.ok(),
                }
            }
            match waited {
                Some(Err(error)) if !gone(&error) => return Err(error),
                Some(_) => {}
                None => {
                    return Err(Error::new(ErrorKind::Unavailable, "stop task", id)
                        .because("its processes did not end within 30 s of SIGKILL"));
                }
            }
        }
        Ok(true)
    }

    /// Ends the task and deletes it. Again: `Ok(None)`, as for a container without a task.
    ///
    /// # Errors
    /// Those of [`Tasks::end`].
    async fn stop(
        &self,
        id: &ContainerId,
        signal: Signal,
        grace: Duration,
    ) -> Result<Option<ExitStatus>> {
        if !self.end(id, signal, grace).await? {
            return Ok(None);
        }
        match self.delete(id).await {
            Ok(exit) => Ok(Some(exit)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}
