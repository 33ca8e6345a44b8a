//! The bare containerd sequence: the calls that any service would have to make, and no others.
//!
//! It runs the server's own OCI spec, read from the record of a workspace, in the server's
//! containerd, with a namespace wired by the same network driver on a bridge of its own. As the
//! server does, it makes namespace and snapshot at the same time and wires while the task is
//! created. It keeps no records, takes no leases and checks nothing.

use anyhow::{Context, Result};
use botstead_network_bridge::{BridgeConfig, BridgeNetwork};
use botstead_runtime::{Endpoint, Network};
use botstead_types::ContainerId;
use containerd_client::Client;
use containerd_client::services::v1::snapshots::{
    CommitSnapshotRequest, PrepareSnapshotRequest, RemoveSnapshotRequest, StatSnapshotRequest,
};
use containerd_client::services::v1::{
    Container, CreateContainerRequest, CreateTaskRequest, DeleteContainerRequest,
    DeleteTaskRequest, GetContainerRequest, KillRequest, ListTasksRequest, StartRequest,
    UpdateContainerRequest, WaitRequest,
};
use containerd_client::types::Mount;
use nix::sys::signal::Signal;
use prost_types::FieldMask;
use serde_json::Value;
use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;
use tokio::try_join;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::{Code, Request};

/// How long a process may take to end after SIGTERM, as the server's default.
const GRACE: Duration = Duration::from_secs(10);

/// A container made without the server.
#[derive(Debug)]
pub(crate) struct BareContainer {
    record: Container,
    id: ContainerId,
    address: Ipv4Addr,
    mounts: Vec<Mount>,
}

/// A namespace of a containerd.
pub(crate) struct Daemon {
    client: Client,
    namespace: MetadataValue<Ascii>,
}

/// containerd, a network and what containers are made from.
pub(crate) struct Bare {
    daemon: Daemon,
    network: BridgeNetwork,
    /// A workspace's record: image, runtime, snapshotter and spec are taken from it.
    model: Container,
    spec: Value,
    /// The image's top snapshot.
    base: String,
    next: u32,
}

impl Bare {
    /// Takes `model`, a container of the server, as what to make.
    pub(crate) async fn new(
        socket: &Path,
        namespace: &str,
        model: &str,
        run_dir: &Path,
    ) -> Result<Self> {
        let daemon = Daemon::connect(socket, namespace).await?;
        let config = BridgeConfig::for_installation(
            &format!("bench-{}", std::process::id()),
            run_dir.join("bench-netns"),
        );
        let network = BridgeNetwork::new(config)?;
        network.ensure_host().await?;
        let mut bare = Self {
            daemon,
            network,
            model: Container::default(),
            spec: Value::Null,
            base: String::new(),
            next: 0,
        };
        let found = bare.request(GetContainerRequest {
            id: model.to_owned(),
        });
        let found = bare
            .daemon
            .client
            .containers()
            .get(found)
            .await?
            .into_inner();
        bare.model = found.container.context("containerd told no record")?;
        let spec = bare.model.spec.as_ref().context("the record has no spec")?;
        bare.spec = serde_json::from_slice(&spec.value)?;
        let snapshot = bare.request(StatSnapshotRequest {
            snapshotter: bare.model.snapshotter.clone(),
            key: bare.model.snapshot_key.clone(),
        });
        let snapshot = bare
            .daemon
            .client
            .snapshots()
            .stat(snapshot)
            .await?
            .into_inner();
        bare.base = snapshot.info.context("containerd told no snapshot")?.parent;
        Ok(bare)
    }

    fn request<T>(&self, message: T) -> Request<T> {
        self.daemon.request(message)
    }

    pub(crate) async fn version(&self) -> Result<String> {
        let version = self.request(());
        let version = self.daemon.client.version().version(version).await?;
        Ok(version.into_inner().version)
    }

    fn key(&mut self, what: &str) -> String {
        self.next += 1;
        format!("bare-{what}-{}", self.next)
    }

    async fn prepare(&self, key: &str, parent: &str) -> Result<Vec<Mount>> {
        let request = self.request(PrepareSnapshotRequest {
            snapshotter: self.model.snapshotter.clone(),
            key: key.to_owned(),
            parent: parent.to_owned(),
            labels: protected(),
        });
        Ok(self
            .daemon
            .client
            .snapshots()
            .prepare(request)
            .await?
            .into_inner()
            .mounts)
    }

    /// From nothing to a running container.
    pub(crate) async fn create(&mut self) -> Result<BareContainer> {
        let (name, snapshot) = (self.key("container"), self.key("active"));
        let id: ContainerId = name.parse()?;
        let parent = self.base.clone();
        let namespace = async { anyhow::Ok(self.network.create_namespace(&id).await?) };
        let (mounts, namespace) = try_join!(self.prepare(&snapshot, &parent), namespace)?;
        let mut record = Container {
            id: name.clone(),
            snapshot_key: snapshot,
            labels: HashMap::new(),
            ..self.model.clone()
        };
        let spec = record.spec.as_mut().context("the record has no spec")?;
        spec.value = serde_json::to_vec(&self.spec_of(&name, &namespace)?)?;
        let request = CreateContainerRequest {
            container: Some(record.clone()),
        };
        self.daemon
            .client
            .containers()
            .create(self.request(request))
            .await?;
        // No two live at a time in more than the few scenarios; addresses need not be returned.
        let hosts = self.network.info().subnet.hosts().skip(1);
        let address = hosts.take(200).nth(self.next as usize % 200);
        let container = BareContainer {
            record,
            id,
            address: address.context("the subnet is too small")?,
            mounts,
        };
        self.run(&container).await?;
        Ok(container)
    }

    /// The server's spec in another namespace and control group.
    fn spec_of(&self, name: &str, namespace: &Path) -> Result<Value> {
        let mut spec = self.spec.clone();
        let linux = &mut spec["linux"];
        let group = linux["cgroupsPath"]
            .as_str()
            .context("the spec has no control group")?;
        let (parent, _) = group.rsplit_once('/').unwrap_or_default();
        linux["cgroupsPath"] = format!("{parent}/{name}").into();
        let namespaces = linux["namespaces"]
            .as_array_mut()
            .context("no namespaces")?;
        for entry in namespaces
            .iter_mut()
            .filter(|entry| entry["type"] == "network")
        {
            entry["path"] = namespace.to_string_lossy().into();
        }
        Ok(spec)
    }

    async fn run(&self, container: &BareContainer) -> Result<()> {
        let request = self.request(CreateTaskRequest {
            container_id: container.record.id.clone(),
            rootfs: container.mounts.clone(),
            options: container
                .record
                .runtime
                .as_ref()
                .and_then(|runtime| runtime.options.clone()),
            ..CreateTaskRequest::default()
        });
        let endpoint = Endpoint {
            address: container.address,
        };
        let mut tasks = self.daemon.client.tasks();
        try_join!(async { anyhow::Ok(tasks.create(request).await?) }, async {
            anyhow::Ok(self.network.attach(&container.id, &endpoint).await?)
        },)?;
        let request = StartRequest {
            container_id: container.record.id.clone(),
            ..StartRequest::default()
        };
        self.daemon
            .client
            .tasks()
            .start(self.request(request))
            .await?;
        Ok(())
    }

    /// Namespace and task again, for a stopped container.
    pub(crate) async fn start(&self, container: &BareContainer) -> Result<()> {
        self.network.create_namespace(&container.id).await?;
        self.run(container).await
    }

    /// Asks the process to end, waits, and removes task and network.
    pub(crate) async fn stop(&self, container: &BareContainer) -> Result<()> {
        let container_id = container.record.id.clone();
        self.daemon.end_task(container_id, Signal::SIGTERM).await?;
        Ok(self.network.remove(&container.id).await?)
    }

    /// Freezes a stopped container's snapshot and tells the new one's name.
    pub(crate) async fn commit(&mut self, container: &BareContainer) -> Result<String> {
        let name = self.key("version");
        let request = self.request(CommitSnapshotRequest {
            snapshotter: self.model.snapshotter.clone(),
            key: container.record.snapshot_key.clone(),
            name: name.clone(),
            labels: protected(),
        });
        self.daemon.client.snapshots().commit(request).await?;
        Ok(name)
    }

    /// Lets a stopped container have a new writable snapshot on `parent`.
    pub(crate) async fn switch(
        &mut self,
        container: &mut BareContainer,
        parent: &str,
    ) -> Result<()> {
        let key = self.key("active");
        container.mounts = self.prepare(&key, parent).await?;
        container.record.snapshot_key = key;
        let request = self.request(UpdateContainerRequest {
            container: Some(container.record.clone()),
            update_mask: Some(FieldMask {
                paths: vec!["snapshotkey".to_owned()],
            }),
        });
        self.daemon.client.containers().update(request).await?;
        Ok(())
    }

    /// Removes a snapshot that nothing uses.
    pub(crate) async fn remove_snapshot(&self, key: &str) -> Result<()> {
        let request = self.request(RemoveSnapshotRequest {
            snapshotter: self.model.snapshotter.clone(),
            key: key.to_owned(),
        });
        self.daemon.client.snapshots().remove(request).await?;
        Ok(())
    }

    /// The key of a container's writable snapshot.
    pub(crate) fn active(container: &BareContainer) -> &str {
        &container.record.snapshot_key
    }

    /// Stops and removes a container; not measured.
    pub(crate) async fn delete(&self, container: BareContainer) -> Result<()> {
        let container_id = container.record.id.clone();
        self.daemon.end_task(container_id, Signal::SIGKILL).await?;
        self.network.remove(&container.id).await?;
        self.delete_stopped(container).await
    }

    pub(crate) async fn delete_stopped(&self, container: BareContainer) -> Result<()> {
        let request = DeleteContainerRequest {
            id: container.record.id.clone(),
        };
        self.daemon
            .client
            .containers()
            .delete(self.request(request))
            .await?;
        self.remove_snapshot(&container.record.snapshot_key).await
    }

    /// Takes its network away, after its tasks have ended: the last thing before containerd is.
    pub(crate) async fn clear(&self) -> Result<()> {
        for id in self.network.list().await? {
            self.network.remove(&id).await?;
        }
        Ok(self.network.teardown_host().await?)
    }
}

impl Daemon {
    pub(crate) async fn connect(socket: &Path, namespace: &str) -> Result<Self> {
        let client = Client::from_path(socket)
            .await
            .context("cannot connect to containerd")?;
        let namespace = namespace.parse()?;
        Ok(Self { client, namespace })
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request
            .metadata_mut()
            .insert("containerd-namespace", self.namespace.clone());
        request
    }

    async fn end_task(&self, container_id: String, signal: Signal) -> Result<()> {
        let wait = self.request(WaitRequest {
            container_id: container_id.clone(),
            ..WaitRequest::default()
        });
        let mut waiting = self.client.tasks();
        let ended = waiting.wait(wait);
        tokio::pin!(ended);
        self.signal(&container_id, signal).await?;
        // PID 1 never sees a signal that arrives before it asked for it, so it is not waited for
        // without end.
        match tokio::time::timeout(GRACE, &mut ended).await {
            Ok(ended) => drop(ended?),
            Err(_) => {
                self.signal(&container_id, Signal::SIGKILL).await?;
                ended.await?;
            }
        }
        let request = self.request(DeleteTaskRequest { container_id });
        self.client.tasks().delete(request).await?;
        Ok(())
    }

    async fn signal(&self, container_id: &str, signal: Signal) -> Result<()> {
        let request = self.request(KillRequest {
            container_id: container_id.to_owned(),
            signal: signal as u32,
            ..KillRequest::default()
        });
        self.client.tasks().kill(request).await?;
        Ok(())
    }

    /// Ends every task of the namespace, also the server's.
    pub(crate) async fn end_all(&self) -> Result<()> {
        let request = self.request(ListTasksRequest::default());
        let listed = self.client.tasks().list(request).await?;
        for task in listed.into_inner().tasks {
            let name = if task.container_id.is_empty() {
                task.id
            } else {
                task.container_id
            };
            match self.end_task(name, Signal::SIGKILL).await {
                Err(error) if is_missing(&error) => {}
                done => done?,
            }
        }
        Ok(())
    }
}

/// Keeps what the sequence makes from the collector, at no cost.
fn protected() -> HashMap<String, String> {
    HashMap::from([("containerd.io/gc.root".to_owned(), "bench".to_owned())])
}

fn is_missing(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<tonic::Status>()
        .is_some_and(|status| status.code() == Code::NotFound)
}
