//! Tasks: a state machine without processes.

use super::Shared;
use super::faults::Op;
use super::state::State;
use botstead_runtime::{
    ErrorKind, Exec, ExecOutput, ExitStatus, Result, Signal, Task, TaskEvent, Tasks,
};
use botstead_types::{ContainerId, Limits, TaskStatus};
use chrono::{DateTime, Utc};
use futures_util::stream::{self, BoxStream, StreamExt};
use tokio::sync::watch;

/// Programs that a task in memory knows. Every other program runs until a signal ends it.
pub mod programs {
    /// Ends at once with the code that is its argument.
    pub const EXIT: &str = "/memory/exit";
    /// Ends at SIGKILL only.
    pub const STUBBORN: &str = "/memory/stubborn";
    /// Does not exist in any image.
    pub const MISSING: &str = "/memory/missing";
}

/// A file that keeps a container whose root has it from starting.
pub const UNSTARTABLE: &str = "etc/unstartable";

/// Process ids beyond what Linux can give (`PID_MAX_LIMIT`), so that a mistake never reaches a
/// process of the host.
const FIRST_PID: u32 = 1 << 23;

/// What goes through the event stream.
#[derive(Clone)]
pub(super) enum Notice {
    /// Something happened.
    Event(TaskEvent),
    /// The runtime went away, which ends the stream.
    Away,
}

/// A task.
pub(super) struct TaskRecord {
    pub(super) status: TaskStatus,
    pub(super) created_at: DateTime<Utc>,
    pub(super) limits: Limits,
    pid: u32,
    stubborn: bool,
    ends_with: Option<u32>,
    exit: watch::Sender<Option<ExitStatus>>,
}

impl TaskRecord {
    pub(super) fn view(&self) -> Task {
        let exit = *self.exit.borrow();
        Task {
            status: self.status,
            pid: if exit.is_some() { 0 } else { self.pid },
            exit,
        }
    }
}

impl Shared {
    /// Tells everybody who listens.
    pub(super) fn publish(&self, event: TaskEvent) {
        // Nobody may be listening.
        let _ = self.events.send(Notice::Event(event));
    }

    /// Ends a task's process, whoever ended it. False when there is none that could end.
    pub(super) fn end(&self, state: &mut State, id: &ContainerId, code: u32) -> bool {
        let exited_at = state.now();
        let exit = ExitStatus { code, exited_at };
        match state.tasks.get_mut(id) {
            Some(task) if task.status != TaskStatus::Stopped => {
                task.status = TaskStatus::Stopped;
                task.exit.send_replace(Some(exit));
                self.publish(TaskEvent::Exited(id.clone(), exit));
                true
            }
            _ => false,
        }
    }
}

#[async_trait::async_trait]
impl Tasks for Shared {
    async fn create(&self, id: &ContainerId) -> Result<u32> {
        let op = Op("tasks.create", "create task of");
        self.call(op, id, |state| {
            let refuse = |kind, reason: &str| Err(op.error(kind, id).because(reason));
            let Some(record) = state.containers.get(id) else {
                return refuse(ErrorKind::NotFound, "there is no such container");
            };
            if state.tasks.contains_key(id) {
                return Err(op.error(ErrorKind::AlreadyExists, id));
            }
            let spec = record.spec.clone();
            if !state.snapshots.contains_key(&spec.snapshot) {
                return refuse(ErrorKind::NotFound, "its snapshot does not exist");
            }
            if state.entry(&spec.snapshot, UNSTARTABLE).is_some() {
                return refuse(ErrorKind::Unstartable, "its root has /etc/unstartable");
            }
            let known = |path| state.namespaces.values().any(|n| n.path == path);
            if spec.network_namespace.is_some_and(|path| !known(path)) {
                return refuse(ErrorKind::NotFound, "its network namespace does not exist");
            }
            let program = spec.process.args.first().map(String::as_str);
            if program == Some(programs::MISSING) {
                return refuse(ErrorKind::Unstartable, "its program does not exist");
            }
            let ends_with = (program == Some(programs::EXIT)).then(|| {
                let code = spec.process.args.get(1);
                code.and_then(|code| code.parse().ok()).unwrap_or(0)
            });
            state.last_pid += 1;
            let pid = FIRST_PID + state.last_pid;
            let task = TaskRecord {
                status: TaskStatus::Created,
                created_at: state.now(),
                limits: spec.limits,
                pid,
                stubborn: program == Some(programs::STUBBORN),
                ends_with,
                exit: watch::channel(None).0,
            };
            state.tasks.insert(id.clone(), task);
            Ok(pid)
        })
    }

    async fn start(&self, id: &ContainerId) -> Result<()> {
        let op = Op("tasks.start", "start task of");
        self.call(op, id, |state| {
            let Some(task) = state.tasks.get_mut(id) else {
                return Err(op.error(ErrorKind::NotFound, id));
            };
            if task.status != TaskStatus::Created {
                return Err(op
                    .error(ErrorKind::Conflict, id)
                    .because(format!("it is {}", task.status)));
            }
            task.status = TaskStatus::Running;
            let ends_with = task.ends_with;
            self.publish(TaskEvent::Started(id.clone()));
            if let Some(code) = ends_with {
                self.end(state, id, code);
            }
            Ok(())
        })
    }

    async fn kill(&self, id: &ContainerId, signal: Signal) -> Result<()> {
        let op = Op("tasks.kill", "signal task of");
        self.call(op, id, |state| {
            let Some(task) = state
                .tasks
                .get(id)
                .filter(|task| task.status != TaskStatus::Stopped)
            else {
                return Err(op.error(ErrorKind::NotFound, id));
            };
            let ends = signal == Signal::KILL || (signal == Signal::TERM && !task.stubborn);
            if ends {
                self.end(state, id, 128 + signal.0.unsigned_abs());
            }
            Ok(())
        })
    }

    async fn wait(&self, id: &ContainerId) -> Result<ExitStatus> {
        let op = Op("tasks.wait", "wait for task of");
        let mut exit = self.call(op, id, |state| {
            let task = state.tasks.get(id);
            task.map(|task| task.exit.subscribe())
                .ok_or_else(|| op.error(ErrorKind::NotFound, id))
        })?;
        let mut answering = self.answering.subscribe();
        tokio::select! {
            biased;
            _ = answering.wait_for(|answering| !answering) => {
                Err(op.error(ErrorKind::Unavailable, id).because("the runtime went away"))
            }
            ended = exit.wait_for(Option::is_some) => match ended.as_deref() {
                Ok(Some(exit)) => Ok(*exit),
                _ => Err(op.error(ErrorKind::NotFound, id)),
            },
        }
    }

    async fn delete(&self, id: &ContainerId) -> Result<ExitStatus> {
        let op = Op("tasks.delete", "delete task of");
        self.call(op, id, |state| {
            let status = state.tasks.get(id).map(|task| task.status);
            match status {
                None => return Err(op.error(ErrorKind::NotFound, id)),
                Some(TaskStatus::Running | TaskStatus::Paused) => {
                    return Err(op.error(ErrorKind::Conflict, id).because("it runs"));
                }
                Some(TaskStatus::Created) => {
                    self.end(state, id, 128 + 9);
                }
                Some(TaskStatus::Stopped) => {}
            }
            let task = state.tasks.remove(id);
            task.and_then(|task| *task.exit.borrow())
                .ok_or_else(|| op.error(ErrorKind::Internal, id))
        })
    }

    async fn get(&self, id: &ContainerId) -> Result<Task> {
        let op = Op("tasks.get", "read task of");
        self.call(op, id, |state| {
            let task = state.tasks.get(id);
            task.map(TaskRecord::view)
                .ok_or_else(|| op.error(ErrorKind::NotFound, id))
        })
    }

    async fn list(&self) -> Result<Vec<(ContainerId, Task)>> {
        self.call(Op("tasks.list", "list"), "tasks", |state| Ok(list(state)))
    }

    async fn exec(&self, id: &ContainerId, _exec: Exec) -> Result<ExecOutput> {
        let op = Op("tasks.exec", "run a command in");
        self.call(op, id, |_| {
            Err(op
                .error(ErrorKind::Unsupported, id)
                .because("there are no processes in memory"))
        })
    }

    fn events(&self) -> BoxStream<'static, Result<TaskEvent>> {
        let events = self.events.subscribe();
        if !*self.answering.borrow() {
            let error = Op("tasks.events", "follow").error(ErrorKind::Unavailable, "task events");
            return stream::once(async { Err(error) }).boxed();
        }
        stream::unfold(events, |mut events| async {
            match events.recv().await {
                Ok(Notice::Event(event)) => Some((Ok(event), events)),
                // Who reads too slowly misses events, and with them the reason to trust the
                // stream: it ends, and the reader looks at the state again.
                Ok(Notice::Away) | Err(_) => None,
            }
        })
        .boxed()
    }
}

pub(super) fn list(state: &State) -> Vec<(ContainerId, Task)> {
    let view = |(id, task): (&ContainerId, &TaskRecord)| (id.clone(), task.view());
    state.tasks.iter().map(view).collect()
}
