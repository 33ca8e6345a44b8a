//! Tasks: the running process trees of containers. Commands in them are in `exec`, what happens to
//! them in `events`.

mod events;
mod exec;
mod first;
mod group;
mod pipes;
pub(crate) mod protect;
mod refusals;
mod root;
mod signal;
mod starts;
mod unfinished;
mod user;
mod writable;

use crate::cgroup::QuickMoves;
use crate::channels::{self, Folders};
use crate::client::{Client, error, time};
use crate::config::ContainerdConfig;
use crate::layers::{as_mount, to_mount};
use crate::op::{Op, blocking};
use crate::spec;
use crate::spec::files::EtcFiles;
use crate::spec::start::{self, KnownStarts, Start};
use crate::trees;
use async_trait::async_trait;
use botstead_runtime::{
    Error, ErrorKind, Exec, ExecOutput, ExitStatus, Result, Signal, SnapshotMount, Task, TaskEvent,
    Tasks,
};
use botstead_types::{ContainerId, TaskStatus};
use containerd_client::services::v1::snapshots::MountsRequest;
use containerd_client::services::v1::{
    Container as Record, CreateTaskRequest, DeleteTaskRequest, GetContainerRequest, GetRequest,
    KillRequest, ListTasksRequest, StartRequest, UpdateContainerRequest, WaitRequest,
};
use containerd_client::types::Mount;
use containerd_client::types::v1::{Process, Status};
pub(crate) use first::FirstProcesses;
use futures_util::stream::BoxStream;
use prost_types::{Any, FieldMask};
use protect::Protection;
pub(crate) use starts::Starts;
use std::io;
use std::sync::Arc;
use std::time::Instant;

/// The [`Tasks`] of a namespace. Their input and outputs are `/dev/null`.
#[derive(Debug)]
pub(crate) struct ContainerdTasks {
    pub(crate) client: Client,
    pub(crate) config: Arc<ContainerdConfig>,
    pub(crate) starts: Starts,
    pub(crate) known: Arc<KnownStarts>,
    pub(crate) protection: Protection,
    pub(crate) moves: QuickMoves,
    /// First processes of the tasks that were made here.
    pub(crate) first: Arc<FirstProcesses>,
}

fn task(process: &Process) -> Task {
    let status = match process.status() {
        Status::Running | Status::Unknown => TaskStatus::Running,
        Status::Created => TaskStatus::Created,
        Status::Paused | Status::Pausing => TaskStatus::Paused,
        Status::Stopped => TaskStatus::Stopped,
    };
    let stopped = status == TaskStatus::Stopped;
    Task {
        status,
        pid: if stopped { 0 } else { process.pid },
        exit: stopped.then(|| ExitStatus {
            code: process.exit_status,
            exited_at: time(process.exited_at),
        }),
    }
}

fn no_folders(op: &Op, cause: io::Error) -> Error {
    let reason = "its channel directory or its files for /etc cannot be made";
    op.fail_with(ErrorKind::Internal, reason, cause)
}

impl ContainerdTasks {
    /// What the container's record says is to be done at a start. A record of an older release is
    /// brought up to date first.
    async fn start_of(&self, op: &Op, id: &ContainerId, record: &mut Record) -> Result<Start> {
        let bad = |cause: serde_json::Error| {
            op.fail_with(ErrorKind::Internal, "its specification is not JSON", cause)
        };
        let recorded = record.spec.take().unwrap_or_default();
        let mut document = serde_json::from_slice(&recorded.value).map_err(bad)?;
        let changed = start::limit_terminals(&mut document) | start::uncover_zone(&mut document);
        let known = start::read(&document);
        let is_old = known.is_none();
        if let (Some(start), false) = (known, changed) {
            return Ok(start);
        }
        tracing::info!(%id, "bringing the specification of an older release up to date");
        if is_old {
            let etc = EtcFiles::new(&self.config.etc_root).of(id);
            start::renew(&mut document, &etc, spec::has_cgroup_namespaces())
                .map_err(|cause| op.io("its specification cannot be brought up to date", cause))?;
        }
        let request = UpdateContainerRequest {
            container: Some(Record {
                id: record.id.clone(),
                spec: Some(Any {
                    type_url: recorded.type_url,
                    value: serde_json::to_vec(&document).map_err(bad)?,
                }),
                ..Record::default()
            }),
            update_mask: Some(FieldMask {
                paths: vec!["spec".to_owned()],
            }),
        };
        let mut service = self.client.containers();
        let updated = service.update(self.client.unary(request)).await;
        updated.map_err(|status| op.status(status))?;
        start::read(&document)
            .ok_or_else(|| op.fail(ErrorKind::Internal, "its specification has no annotations"))
    }

    async fn record(&self, op: &Op, id: &ContainerId) -> Result<Record> {
        let request = GetContainerRequest {
            id: id.as_str().to_owned(),
        };
        let mut service = self.client.containers();
        let found = service.get(self.client.unary(request)).await;
        let found = found.map_err(|status| op.status(status))?;
        Ok(found.into_inner().container.unwrap_or_default())
    }

    /// Refuses a root that would hold runc up, or lead it to the host's files. Where there are no layers to
    /// look at, as with other snapshotters, it is left to containerd.
    async fn refuse_hostile_root(
        &self,
        op: &Op,
        rootfs: &[Mount],
        mounted: Vec<String>,
    ) -> Result<()> {
        let mounts: Vec<SnapshotMount> = rootfs.iter().cloned().map(as_mount).collect();
        let Ok(layers) = trees::active_layers(op, &mounts) else {
            return Ok(());
        };
        let looked = blocking(move || root::refused(&layers, &mounted).map_err(io::Error::other));
        match looked.await {
            Ok(None) => Ok(()),
            Ok(Some(rule)) => Err(op.fail(ErrorKind::Unstartable, format!(
                "{rule}: it cannot be started; use another image, or go back to a version in which that is so"
            ))),
            Err(cause) => {
                Err(op.fail_with(ErrorKind::Internal, "its root cannot be looked at", cause))
            }
        }
    }

    async fn make_folders(&self, id: &ContainerId, start: &Start) -> io::Result<()> {
        let channels = Folders::new(&self.config.channel_root);
        let etc = EtcFiles::new(&self.config.etc_root);
        let (of, contents) = (id.clone(), start.etc.clone());
        let made = blocking(move || {
            channels.make(&of)?;
            let contents = contents.iter();
            etc.make(
                &of,
                contents.map(|(name, content)| (name.as_str(), content.as_str())),
            )
        });
        made.await
    }

    async fn create_once(
        &self,
        op: &Op,
        id: &ContainerId,
        request: &CreateTaskRequest,
    ) -> Result<u32> {
        let request = self.client.unary(request.clone());
        let created = self.client.tasks().create(request).await;
        let created = created.map_err(|status| refusals::error(op, id, status))?;
        Ok(created.into_inner().pid)
    }

    /// Removes what is left where a creation or deletion of the task was cut off, as by the end of the
    /// server that asked for it: a shim without a container. Of that containerd tells nothing, makes no
    /// other task beside it, and only a deletion removes it. Whether there was no task.
    async fn remove_half(&self, id: &ContainerId) -> Result<bool> {
        match self.get(id).await {
            Ok(_) => return Ok(false),
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error),
        }
        tracing::warn!(%id, "removing what is left of a task");
        match self.delete(id).await {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(true),
        }
    }

    /// [`Self::create_once`] where an earlier creation may have been cut off: containerd removes what is left
    /// of that itself, and where it has not after a while nobody does any more.
    async fn create_beside_unfinished(
        &self,
        op: &Op,
        request: &CreateTaskRequest,
        id: &ContainerId,
    ) -> Result<u32> {
        let mut until = Instant::now() + unfinished::REMOVED_AFTER;
        loop {
            let (created, has_ended) = self.create_unless_forgotten(op, id, request).await;
            let failed = match created {
                Ok(pid) => return Ok(pid),
                Err(failed) => failed,
            };
            if has_ended {
                until = Instant::now() + unfinished::REMOVED_AFTER;
                continue;
            }
            let folder = unfinished::folder(&failed, self.client.namespace(), id);
            let is_left = folder.is_some() || unfinished::is_removed_meanwhile(&failed);
            if is_left && Instant::now() < until {
                tokio::time::sleep(unfinished::LOOK).await;
                continue;
            }
            let Some(folder) = folder else {
                return Err(failed);
            };
            let cleared = blocking(move || unfinished::clear(&folder)).await;
            let reason = "what is left of an earlier task is in the way";
            cleared.map_err(|cause| op.io(reason, cause))?;
            return self.create_once(op, id, request).await;
        }
    }

    /// Creates a task, and ends a forgotten shim that containerd waits for, after which this fails: told
    /// besides.
    async fn create_unless_forgotten(
        &self,
        op: &Op,
        id: &ContainerId,
        request: &CreateTaskRequest,
    ) -> (Result<u32>, bool) {
        let create = self.create_once(op, id, request);
        tokio::pin!(create);
        if let Ok(created) = tokio::time::timeout(unfinished::UNANSWERED, &mut create).await {
            return (created, false);
        }
        let (namespace, of) = (self.client.namespace().to_owned(), id.clone());
        let ended = blocking(move || unfinished::end_forgotten(&namespace, &of)).await;
        let has_ended = ended.unwrap_or_else(|error| {
            tracing::warn!(%id, %error, "cannot look for shims that were forgotten");
            false
        });
        (create.await, has_ended)
    }

    async fn create_with(
        &self,
        op: &Op,
        id: &ContainerId,
        rootfs: Vec<Mount>,
        start: &Start,
    ) -> Result<u32> {
        let request = CreateTaskRequest {
            container_id: id.as_str().to_owned(),
            rootfs,
            options: Some(self.config.runtime_options()),
            ..CreateTaskRequest::default()
        };
        self.moves.begin();
        let (readable, made) = tokio::join!(
            self.refuse_hostile_root(op, &request.rootfs, start.mounts.clone()),
            self.make_folders(id, start)
        );
        made.map_err(|cause| no_folders(op, cause))?;
        if let Err(refused) = readable {
            // Of a task that there is, they are in use.
            let task = self.get(id).await;
            if task.is_err_and(|error| error.is_not_found()) {
                channels::remove_all(&self.config, id).await;
            }
            return Err(refused);
        }
        let mut created = self.create_beside_unfinished(op, &request, id).await;
        if let Err(failed) = &created
            && failed.is_already_exists()
            && self.remove_half(id).await?
        {
            // They went with it.
            let made = self.make_folders(id, start).await;
            made.map_err(|cause| no_folders(op, cause))?;
            created = self.create_once(op, id, &request).await;
        }
        if let Ok(pid) = created
            && blocking(move || writable::is_read_only(pid))
                .await
                .unwrap_or(false)
        {
            created = Err(op.disk_full("its root can be read only"));
        }
        match created {
            Ok(pid) => {
                self.first.made(id, pid);
                self.protection.first_process(id, pid, start.oom_score_adj);
                Ok(pid)
            }
            Err(failed) => {
                // containerd itself ends the shim of a task that it could not create; what is
                // left, if anything is, is a task that never ran.
                if !failed.is_already_exists() {
                    let _ = self.delete(id).await;
                    channels::remove_all(&self.config, id).await;
                }
                Err(failed)
            }
        }
    }
}

#[async_trait]
impl Tasks for ContainerdTasks {
    async fn create(&self, id: &ContainerId) -> Result<u32> {
        let op = Op::new("create task", id);
        let mut record = self.record(&op, id).await?;
        let start = self.start_of(&op, id, &mut record).await?;
        let request = MountsRequest {
            snapshotter: record.snapshotter,
            key: record.snapshot_key,
        };
        let mut service = self.client.snapshots();
        let mounts = service.mounts(self.client.unary(request));
        let mounts = mounts.await.map_err(|status| op.status(status))?;
        let mounts = mounts.into_inner().mounts;
        self.create_with(&op, id, mounts, &start).await
    }

    async fn create_on(&self, id: &ContainerId, root: &[SnapshotMount]) -> Result<u32> {
        if root.is_empty() {
            return self.create(id).await;
        }
        let op = Op::new("create task", id);
        let start = match self.known.get(id) {
            Some(known) => known,
            None => {
                let mut record = self.record(&op, id).await?;
                Arc::new(self.start_of(&op, id, &mut record).await?)
            }
        };
        let root = root.iter().map(to_mount).collect();
        self.create_with(&op, id, root, &start).await
    }

    async fn start(&self, id: &ContainerId) -> Result<()> {
        let request = StartRequest {
            container_id: id.as_str().to_owned(),
            ..StartRequest::default()
        };
        let op = Op::new("start task", id);
        let started = self.client.tasks().start(self.client.unary(request)).await;
        started
            .map(drop)
            .map_err(|status| refusals::error(&op, id, status))
    }

    async fn kill(&self, id: &ContainerId, signal: Signal) -> Result<()> {
        let op = Op::new("signal task", id);
        let task = self.get(id).await?;
        if task.status == TaskStatus::Running
            && signal::send(task.pid, &self.config.cgroup(id), signal.0)
        {
            return Ok(());
        }
        let signal = u32::try_from(signal.0)
            .map_err(|cause| op.fail_with(ErrorKind::InvalidArgument, "no signal", cause))?;
        let request = KillRequest {
            container_id: id.as_str().to_owned(),
            signal,
            ..KillRequest::default()
        };
        let killed = self.client.tasks().kill(self.client.unary(request)).await;
        killed.map(drop).map_err(|status| op.status(status))
    }

    async fn wait(&self, id: &ContainerId) -> Result<ExitStatus> {
        let request = WaitRequest {
            container_id: id.as_str().to_owned(),
            ..WaitRequest::default()
        };
        let ended = self.client.tasks().wait(self.client.request(request)).await;
        let ended = ended.map_err(|status| error("wait for task", id, status))?;
        let ended = ended.into_inner();
        Ok(ExitStatus {
            code: ended.exit_status,
            exited_at: time(ended.exited_at),
        })
    }

    async fn delete(&self, id: &ContainerId) -> Result<ExitStatus> {
        let request = DeleteTaskRequest {
            container_id: id.as_str().to_owned(),
        };
        let deleted = self.client.tasks().delete(self.client.unary(request)).await;
        let deleted = deleted.map_err(|status| error("delete task", id, status))?;
        let deleted = deleted.into_inner();
        self.first.gone(id);
        channels::remove_all(&self.config, id).await;
        Ok(ExitStatus {
            code: deleted.exit_status,
            exited_at: time(deleted.exited_at),
        })
    }

    async fn get(&self, id: &ContainerId) -> Result<Task> {
        let op = Op::new("find task", id);
        let request = GetRequest {
            container_id: id.as_str().to_owned(),
            ..GetRequest::default()
        };
        let found = self.client.tasks().get(self.client.unary(request)).await;
        let found = found.map_err(|status| op.status(status))?;
        let process = found.into_inner().process;
        let process =
            process.ok_or_else(|| op.fail(ErrorKind::Internal, "containerd told nothing"))?;
        Ok(task(&process))
    }

    async fn list(&self) -> Result<Vec<(ContainerId, Task)>> {
        let request = ListTasksRequest::default();
        let listed = self.client.tasks().list(self.client.unary(request)).await;
        let listed = listed.map_err(|status| error("list", "tasks", status))?;
        let found = listed.into_inner().tasks;
        let all = found
            .iter()
            .filter_map(|process| Some((process.id.parse().ok()?, task(process))));
        Ok(all.collect())
    }

    async fn exec(&self, id: &ContainerId, exec: Exec) -> Result<ExecOutput> {
        self.run(id, exec).await
    }

    fn events(&self) -> BoxStream<'static, Result<TaskEvent>> {
        events::subscribe(self.client.clone())
    }
}
