//! Commands in running tasks.

use super::group::Group;
use super::pipes::{self, Output, Pipes};
use super::{ContainerdTasks, user};
use crate::client::Client;
use crate::op::Op;
use crate::spec::process;
use botstead_runtime::{Error, ErrorKind, Exec, ExecOutput, Result, Tasks};
use botstead_types::{ContainerId, TaskStatus};
use containerd_client::services::v1::{
    CloseIoRequest, DeleteProcessRequest, ExecProcessRequest, GetRequest, KillRequest,
    StartRequest, WaitRequest,
};
use prost_types::Any;
use std::time::Duration;
use tonic::{Code, Status};
use uuid::Uuid;

const PROCESS: &str = "types.containerd.io/opencontainers/runtime-spec/1/Process";
/// How long outputs are read after the exit, when a background child keeps them open.
const LINGER: Duration = Duration::from_millis(200);
/// How long a killed process may take to be gone.
const DEATH: Duration = Duration::from_secs(10);

/// How long a command is looked after that was dropped: its start may wait for many others'.
const DROPPED: Duration = Duration::from_secs(120);

/// When a process that still lives is killed again, at first and at most.
const AGAIN: Duration = Duration::from_millis(250);
const LONGEST_AGAIN: Duration = Duration::from_secs(4);

/// A command that containerd knows of. Dropping it kills what still runs and removes the record, in
/// the background: removing waits for the outputs, which children may keep open.
struct Running {
    client: Client,
    container: String,
    exec: String,
    ended: bool,
    group: Option<Group>,
    pipes: Option<Pipes>,
}

impl Running {
    /// Kills the command with its children, or where these cannot be reached at least itself.
    async fn kill(client: &Client, container: &str, exec: &str, group: Option<&Group>) {
        if group.is_some_and(Group::kill) {
            return;
        }
        let request = KillRequest {
            container_id: container.to_owned(),
            exec_id: exec.to_owned(),
            signal: 9,
            ..KillRequest::default()
        };
        let _ = client.tasks().kill(client.unary(request)).await;
    }

    /// Kills until it is gone. Its start may still be under way, behind others', and then nobody was
    /// told its process yet; killed by its name, it would leave the children that it has by then.
    async fn end(client: &Client, container: &str, exec: &str, mut group: Option<Group>) {
        let mut started = group.is_some();
        let mut again = AGAIN;
        let wait = Self::wait(client, container, exec);
        tokio::pin!(wait);
        loop {
            if !started && let Ok(pid @ 1..) = Self::process(client, container, exec).await {
                started = true;
                group = Group::of(pid);
            }
            if started {
                Self::kill(client, container, exec, group.as_ref()).await;
            }
            match tokio::time::timeout(again, &mut wait).await {
                Ok(Ok(_)) => return,
                Ok(Err(status)) if status.code() == Code::NotFound => return,
                Ok(Err(_)) => {
                    tokio::time::sleep(again).await;
                    wait.set(Self::wait(client, container, exec));
                }
                Err(_) => {}
            }
            again = LONGEST_AGAIN.min(again * 2);
        }
    }

    /// The id of its process, 0 before it was started.
    async fn process(client: &Client, container: &str, exec: &str) -> Result<u32, Status> {
        let request = GetRequest {
            container_id: container.to_owned(),
            exec_id: exec.to_owned(),
        };
        let answer = client.tasks().get(client.unary(request)).await?;
        Ok(answer.into_inner().process.map_or(0, |process| process.pid))
    }

    async fn wait(client: &Client, container: &str, exec: &str) -> Result<u32, Status> {
        let request = WaitRequest {
            container_id: container.to_owned(),
            exec_id: exec.to_owned(),
        };
        let ended = client.tasks().wait(client.request(request)).await?;
        Ok(ended.into_inner().exit_status)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let client = self.client.clone();
        let (container, exec) = (self.container.clone(), self.exec.clone());
        let (ended, group, mut pipes) = (self.ended, self.group.take(), self.pipes.take());
        // A runtime that ends takes its connection along; the task's own end removes the record.
        let Ok(handle) = tokio::runtime::Handle::try_current() else {
            return;
        };
        handle.spawn(async move {
            if !ended {
                let end = Self::end(&client, &container, &exec, group);
                let _ = tokio::time::timeout(DROPPED, end).await;
            }
            if let Some(pipes) = &mut pipes {
                pipes.started();
            }
            let request = DeleteProcessRequest {
                container_id: container,
                exec_id: exec,
            };
            let _ = client.tasks().delete_process(client.unary(request)).await;
            drop(pipes);
        });
    }
}

/// What a refused start tells of the program, as shells do.
fn refused(status: &Status) -> Option<u32> {
    let text = status.message();
    let has = |part: &str| text.contains(part);
    if has("cwd") {
        None
    } else if has("executable file not found") || has("no such file or directory") {
        Some(127)
    } else if has("permission denied") || has("exec format error") || has("is a directory") {
        Some(126)
    } else {
        None
    }
}

impl ContainerdTasks {
    pub(super) async fn run(&self, id: &ContainerId, exec: Exec) -> Result<ExecOutput> {
        let op = Op::new("run command in", id);
        if exec.args.is_empty() || !exec.cwd.starts_with('/') {
            return Err(op.invalid("it needs a program and an absolute working directory"));
        }
        // Names are those of the container and need its process; with numbers one round trip less.
        let number = user::number(&exec.user);
        let user = match number {
            Some(user) => user,
            None => self.look_up(&op, id, &exec).await?,
        };
        let name = Uuid::now_v7().simple().to_string();
        let folder = pipes::folder(&self.config.state_root, &name);
        let (mut pipes, out, err) = Pipes::make(folder, !exec.stdin.is_empty())
            .map_err(|cause| op.fail_with(ErrorKind::Internal, "no pipes", cause))?;
        let request = self.request(&op, id, &exec, &name, user, &pipes)?;
        let input = pipes.take_input();
        let tasks = self.client.tasks();
        let mut running = Running {
            client: self.client.clone(),
            container: id.as_str().to_owned(),
            exec: name.clone(),
            // Nothing runs before its start.
            ended: true,
            group: None,
            pipes: Some(pipes),
        };
        let turn = self.starts.turn(id).await;
        let mut service = tasks.clone();
        let made = service.exec(self.client.unary(request));
        let made = if number.is_some() {
            let (runs, made) = tokio::join!(self.runs(&op, id), made);
            runs?;
            made
        } else {
            made.await
        };
        made.map_err(|status| op.status(status))?;
        let request = StartRequest {
            container_id: id.as_str().to_owned(),
            exec_id: name.clone(),
        };
        running.ended = false;
        match tasks.clone().start(self.client.unary(request)).await {
            Ok(started) => {
                running.group = Group::of(started.into_inner().pid);
                if let Some(pipes) = &mut running.pipes {
                    pipes.started();
                }
            }
            Err(status) => {
                // Without an answer it may start yet.
                running.ended = !matches!(
                    status.code(),
                    Code::DeadlineExceeded | Code::Cancelled | Code::Unavailable
                );
                return self.not_started(&op, id, status).await;
            }
        }
        drop(turn);
        let (mut stdout, mut stderr) = (Output::default(), Output::default());
        let waited = {
            let feed = async {
                if let Some(input) = input {
                    let _ = pipes::write(input, &exec.stdin).await;
                    let request = CloseIoRequest {
                        container_id: id.as_str().to_owned(),
                        exec_id: name.clone(),
                        stdin: true,
                    };
                    let _ = tasks.clone().close_io(self.client.unary(request)).await;
                }
                std::future::pending::<()>().await;
            };
            let read = async {
                tokio::join!(
                    pipes::read(out, exec.output_limit, &mut stdout),
                    pipes::read(err, exec.output_limit, &mut stderr),
                );
            };
            let end = self.end(id, &name, exec.timeout, running.group.as_ref());
            tokio::pin!(feed, read, end);
            let mut read_all = false;
            let ended = loop {
                tokio::select! {
                    ended = &mut end => break ended,
                    () = &mut read, if !read_all => read_all = true,
                    () = &mut feed => {}
                }
            };
            if !read_all {
                let _ = tokio::time::timeout(LINGER, &mut read).await;
            }
            ended
        };
        let (exit_code, timed_out) = waited.map_err(|status| op.status(status))?;
        running.ended = true;
        Ok(ExecOutput {
            exit_code,
            truncated: stdout.truncated || stderr.truncated,
            stdout: stdout.kept.into(),
            stderr: stderr.kept.into(),
            timed_out,
        })
    }

    /// The process id of the task, which runs.
    async fn runs(&self, op: &Op, id: &ContainerId) -> Result<u32> {
        let task = self.get(id).await?;
        match task.status {
            TaskStatus::Running => Ok(task.pid),
            TaskStatus::Paused => Err(op.fail(ErrorKind::Conflict, "it is paused")),
            _ => Err(op.fail(ErrorKind::NotFound, "it does not run")),
        }
    }

    async fn look_up(&self, op: &Op, id: &ContainerId, exec: &Exec) -> Result<(u32, u32)> {
        let pid = self.runs(op, id).await?;
        let (user, own) = (exec.user.clone(), op.clone());
        let looked = tokio::task::spawn_blocking(move || user::resolve(&own, &user, pid));
        looked
            .await
            .map_err(|cause| op.fail_with(ErrorKind::Internal, "the lookup failed", cause))?
    }

    fn request(
        &self,
        op: &Op,
        id: &ContainerId,
        exec: &Exec,
        name: &str,
        user: (u32, u32),
        pipes: &Pipes,
    ) -> Result<ExecProcessRequest> {
        let process = process::command(exec, user);
        let process = process
            .map_err(|cause| op.fail_with(ErrorKind::InvalidArgument, "it cannot be run", cause))?;
        Ok(ExecProcessRequest {
            container_id: id.as_str().to_owned(),
            stdin: pipes.path("in"),
            stdout: pipes.path("out"),
            stderr: pipes.path("err"),
            terminal: false,
            spec: Some(Any {
                type_url: PROCESS.to_owned(),
                value: process,
            }),
            exec_id: name.to_owned(),
        })
    }

    /// The exit code, and whether it was killed because its time was over.
    async fn end(
        &self,
        id: &ContainerId,
        exec: &str,
        timeout: Option<Duration>,
        group: Option<&Group>,
    ) -> Result<(u32, bool), Status> {
        let wait = Running::wait(&self.client, id.as_str(), exec);
        let Some(timeout) = timeout else {
            return Ok((wait.await?, false));
        };
        tokio::pin!(wait);
        match tokio::time::timeout(timeout, &mut wait).await {
            Ok(ended) => Ok((ended?, false)),
            Err(_) => {
                Running::kill(&self.client, id.as_str(), exec, group).await;
                let late = tokio::time::timeout(DEATH, wait).await;
                let late = late.map_err(|_| Status::deadline_exceeded("it does not die"))?;
                Ok((late?, true))
            }
        }
    }

    async fn not_started(
        &self,
        op: &Op,
        id: &ContainerId,
        status: Status,
    ) -> Result<ExecOutput, Error> {
        if let Some(exit_code) = refused(&status) {
            return Ok(ExecOutput {
                exit_code,
                stdout: Default::default(),
                stderr: Default::default(),
                truncated: false,
                timed_out: false,
            });
        }
        // It may have ended in between.
        let runs = matches!(self.get(id).await, Ok(task) if task.status == TaskStatus::Running);
        if !runs {
            return Err(op.fail(ErrorKind::NotFound, "it does not run"));
        }
        let chdir = status.message().contains("cwd");
        let error = op.status(status);
        // The runtime itself works: what is left is in the workspace.
        Err(match error.kind() {
            ErrorKind::Internal if chdir => op
                .fail(
                    ErrorKind::InvalidArgument,
                    "its working directory cannot be entered",
                )
                .with_source(error),
            ErrorKind::Internal => {
                let reason =
                    "the workspace cannot start it, as at its limit of memory or processes";
                op.fail(ErrorKind::Conflict, reason).with_source(error)
            }
            _ => error,
        })
    }
}
