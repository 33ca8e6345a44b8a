//! Container records.

use crate::channels::{self, Folders};
use crate::client::{Client, error, time};
use crate::config::ContainerdConfig;
use crate::op::{Op, blocking};
use crate::spec::files::EtcFiles;
use crate::spec::start::KnownStarts;
use crate::tasks::FirstProcesses;
use crate::{cdi, spec};
use async_trait::async_trait;
use botstead_runtime::{Container, ContainerSpec, Containers, ErrorKind, Result};
use botstead_types::{CdiDevice, ContainerId, LeaseId};
use containerd_client::services::v1::{
    Container as Record, CreateContainerRequest, DeleteContainerRequest, GetContainerRequest,
    GetRequest, ListContainersRequest, UpdateContainerRequest, container::Runtime,
};
use prost_types::{Any, FieldMask};
use std::path::PathBuf;
use std::sync::Arc;
use tonic::Code;

const SPEC: &str = "types.containerd.io/opencontainers/runtime-spec/1/Spec";

/// The [`Containers`] of a namespace.
#[derive(Debug)]
pub(crate) struct ContainerdContainers {
    pub(crate) client: Client,
    pub(crate) config: Arc<ContainerdConfig>,
    pub(crate) known: Arc<KnownStarts>,
    pub(crate) first: Arc<FirstProcesses>,
}

/// The specification in a record.
fn value_of(record: &Record) -> Vec<u8> {
    let spec = record.spec.as_ref();
    spec.map(|spec| spec.value.clone()).unwrap_or_default()
}

fn container(record: Record) -> Option<Container> {
    Some(Container {
        // Other tools' containers in the namespace are none of ours.
        id: record.id.parse().ok()?,
        image: record.image,
        snapshot: record.snapshot_key,
        snapshotter: record.snapshotter,
        labels: record.labels.into_iter().collect(),
        created_at: time(record.created_at),
        updated_at: time(record.updated_at),
    })
}

impl ContainerdContainers {
    /// What older releases had on the host's disk for a container.
    fn old_folder(&self, id: &ContainerId) -> PathBuf {
        self.config.state_root.join("containers").join(id.as_str())
    }

    async fn record(&self, op: &Op, spec: &ContainerSpec) -> Result<Record> {
        spec::check(spec)?;
        let edits = self.edits(op, &spec.devices).await?;
        let cgroup = self.config.cgroup(&spec.id);
        let channel = Folders::new(&self.config.channel_root).of(&spec.id);
        let host = spec::Host {
            etc: &EtcFiles::new(&self.config.etc_root).of(&spec.id),
            cgroup: &cgroup,
            cgroup_namespace: spec::has_cgroup_namespaces(),
            channel: &channel,
            oom_floor: spec::oom_floor(),
        };
        let value = spec::build(spec, &host, &edits)
            .map_err(|cause| op.fail_with(ErrorKind::InvalidArgument, "it cannot be run", cause))?;
        Ok(Record {
            id: spec.id.as_str().to_owned(),
            labels: spec.labels.clone().into_iter().collect(),
            image: spec.image.reference.as_str().to_owned(),
            runtime: Some(Runtime {
                name: self.config.runtime.clone(),
                options: Some(self.config.runtime_options()),
            }),
            spec: Some(Any {
                type_url: SPEC.to_owned(),
                value,
            }),
            snapshotter: self.client.snapshotter.clone(),
            snapshot_key: spec.snapshot.as_str().to_owned(),
            ..Record::default()
        })
    }

    /// What devices need, by files of the host's disk.
    async fn edits(&self, op: &Op, devices: &[CdiDevice]) -> Result<cdi::Edits> {
        let (devices, config) = (devices.to_vec(), Arc::clone(&self.config));
        let resolved = blocking(move || Ok(cdi::resolve(&devices, &config.cdi_folders)));
        resolved
            .await
            .map_err(|cause| op.io("its devices cannot be looked up", cause))?
    }

    /// Fails with `Conflict` when the container has a task, also an exited one.
    async fn without_task(&self, op: &Op, id: &ContainerId) -> Result<()> {
        let request = GetRequest {
            container_id: id.as_str().to_owned(),
            ..GetRequest::default()
        };
        match self.client.tasks().get(self.client.unary(request)).await {
            Ok(_) => Err(op.fail(ErrorKind::Conflict, "it has a task")),
            Err(status) if status.code() == Code::NotFound => Ok(()),
            Err(status) => Err(op.status(status)),
        }
    }
}

#[async_trait]
impl Containers for ContainerdContainers {
    async fn create(&self, lease: &LeaseId, spec: &ContainerSpec) -> Result<()> {
        let op = Op::new("create container", &spec.id);
        let record = self.record(&op, spec).await?;
        let written = value_of(&record);
        let request = CreateContainerRequest {
            container: Some(record),
        };
        let request = self.client.leased(&op, lease, self.client.unary(request))?;
        let created = self.client.containers().create(request).await;
        self.known.written(&spec.id, &written, created.is_ok());
        created.map(drop).map_err(|status| op.status(status))
    }

    async fn check_devices(&self, devices: &[CdiDevice]) -> Result<()> {
        let op = Op::new("find", "devices");
        self.edits(&op, devices).await.map(drop)
    }

    async fn switch(&self, lease: &LeaseId, spec: &ContainerSpec) -> Result<()> {
        let op = Op::new("switch container", &spec.id);
        self.without_task(&op, &spec.id).await?;
        let record = self.record(&op, spec).await?;
        let written = value_of(&record);
        let paths = ["snapshotkey", "spec", "image", "labels"];
        let request = UpdateContainerRequest {
            container: Some(record),
            update_mask: Some(FieldMask {
                paths: paths.map(str::to_owned).to_vec(),
            }),
        };
        let request = self.client.leased(&op, lease, self.client.unary(request))?;
        let updated = self.client.containers().update(request).await;
        self.known.written(&spec.id, &written, updated.is_ok());
        updated.map_err(|status| op.status(status))?;
        let old = self.old_folder(&spec.id);
        let _ = blocking(move || std::fs::remove_dir_all(old)).await;
        Ok(())
    }

    async fn get(&self, id: &ContainerId) -> Result<Container> {
        let op = Op::new("find container", id);
        let request = GetContainerRequest {
            id: id.as_str().to_owned(),
        };
        let mut service = self.client.containers();
        let found = service.get(self.client.unary(request));
        let found = found.await.map_err(|status| op.status(status))?;
        let found = found.into_inner().container.and_then(container);
        found.ok_or_else(|| op.fail(ErrorKind::Internal, "containerd told nothing"))
    }

    async fn list(&self) -> Result<Vec<Container>> {
        let request = ListContainersRequest {
            filters: Vec::new(),
        };
        let mut service = self.client.containers();
        let listed = service.list(self.client.unary(request));
        let listed = listed
            .await
            .map_err(|status| error("list", "containers", status))?;
        let records = listed.into_inner().containers;
        let mut all: Vec<Container> = records.into_iter().filter_map(container).collect();
        all.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(all)
    }

    async fn delete(&self, id: &ContainerId) -> Result<()> {
        let op = Op::new("delete container", id);
        self.without_task(&op, id).await?;
        let request = DeleteContainerRequest {
            id: id.as_str().to_owned(),
        };
        let mut service = self.client.containers();
        let deleted = service.delete(self.client.unary(request));
        deleted.await.map_err(|status| op.status(status))?;
        self.known.forget(id);
        self.first.gone(id);
        // Where a task vanished instead of being deleted.
        channels::remove_all(&self.config, id).await;
        let old = self.old_folder(id);
        match blocking(move || std::fs::remove_dir_all(old)).await {
            Err(cause) if cause.kind() != std::io::ErrorKind::NotFound => Err(op.fail_with(
                ErrorKind::Internal,
                "its host files cannot be removed",
                cause,
            )),
            _ => Ok(()),
        }
    }
}
