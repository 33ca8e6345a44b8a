//! Container records.

use crate::Result;
use async_trait::async_trait;
use botstead_types::{CdiDevice, ContainerId, LeaseId, Limits, ResolvedImage, SnapshotKey};
use chrono::{DateTime, Utc};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

/// How to run a container. The adapter turns it into what its runtime reads.
#[derive(Debug, Clone, PartialEq)]
pub struct ContainerSpec {
    /// Its id.
    pub id: ContainerId,
    /// The image, resolved; its environment is the base of the process's.
    pub image: ResolvedImage,
    /// The active snapshot that is its root filesystem.
    pub snapshot: SnapshotKey,
    /// The process that the task runs.
    pub process: Process,
    /// The host name inside.
    pub hostname: String,
    /// Lines of `/etc/hosts` beside those for localhost and the host name.
    pub hosts: Vec<(IpAddr, String)>,
    /// The contents of `/etc/resolv.conf`.
    pub dns: Dns,
    /// An IANA time zone such as `Europe/Berlin`; `None` leaves the image's own.
    pub timezone: Option<String>,
    /// Directories and files of the host that appear inside.
    pub mounts: Vec<Mount>,
    /// The directory inside for the sockets by which the host reaches the process, an absolute path;
    /// see [`crate::Channels`]. `None` for none.
    pub channel: Option<String>,
    /// The network namespace, as a path on the host. It need not exist yet when the container is
    /// created, but must when its task is. `None` gives a namespace with nothing but loopback.
    pub network_namespace: Option<PathBuf>,
    /// The address inside, for `/etc/hosts`.
    pub address: Option<IpAddr>,
    /// Limits, with defaults applied.
    pub limits: Limits,
    /// The most bytes in `/dev/shm`, which count as the container's memory.
    pub shared_memory_bytes: u64,
    /// Devices, by their CDI names.
    pub devices: Vec<CdiDevice>,
    /// Labels of the record.
    pub labels: BTreeMap<String, String>,
}

/// The process of a container's task. It runs as 0:0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// The program and its arguments; the program is an absolute path inside.
    pub args: Vec<String>,
    /// `KEY=value` pairs that override those of the image.
    pub env: Vec<String>,
    /// The working directory, an absolute path inside.
    pub cwd: String,
    /// How readily the kernel kills it when memory runs out, -1000 (never) to 1000
    /// (proc_pid_oom_score_adj(5)); processes that it starts inherit it, and may give it up. A value
    /// below zero is this process's own: none that gave it up, or never had it, can take it.
    pub oom_score_adj: i32,
}

/// Name resolution inside a container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Dns {
    /// Addresses of name servers. Never a loopback address: that would be the container itself.
    pub nameservers: Vec<IpAddr>,
    /// Search domains.
    pub search: Vec<String>,
    /// Resolver options, such as `ndots:1`.
    pub options: Vec<String>,
}

/// A file or directory of the host inside the container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Where it is on the host.
    pub source: PathBuf,
    /// Where it appears, an absolute path inside.
    pub destination: String,
    /// Whether it can only be read.
    pub read_only: bool,
}

/// A container record as the runtime has it.
#[derive(Debug, Clone, PartialEq)]
pub struct Container {
    /// Its id.
    pub id: ContainerId,
    /// The image reference that it names; the image need not exist any more.
    pub image: String,
    /// The snapshot that it names; between a commit and a switch that snapshot may be missing.
    pub snapshot: String,
    /// The snapshotter of that snapshot.
    pub snapshotter: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// When the record was made.
    pub created_at: DateTime<Utc>,
    /// When the record last changed.
    pub updated_at: DateTime<Utc>,
}

/// Container records. A record protects the snapshot that it names from garbage collection.
#[async_trait]
pub trait Containers: Send + Sync {
    /// Makes a record. Again: `AlreadyExists`.
    ///
    /// # Errors
    /// `InvalidArgument` for a spec that cannot run, `Unsupported` for devices without CDI,
    /// `NotFound` for a device that the host does not have.
    async fn create(&self, lease: &LeaseId, spec: &ContainerSpec) -> Result<()>;

    /// Refuses devices that no container could be given. Looks only.
    ///
    /// # Errors
    /// `Unsupported` for devices without CDI, or for one that needs more than can be given; `NotFound` for
    /// a device that the host does not have.
    async fn check_devices(&self, devices: &[CdiDevice]) -> Result<()>;

    /// Replaces everything in the record of `spec.id` but its id, runtime and snapshotter, in one
    /// step: afterwards it names the other snapshot, image, labels and way to run. Never
    /// delete-then-create: no moment exists at which the record is missing. Again: no change.
    ///
    /// # Errors
    /// `NotFound` when there is no record; `Conflict` when it has a task.
    async fn switch(&self, lease: &LeaseId, spec: &ContainerSpec) -> Result<()>;

    /// The record.
    ///
    /// # Errors
    /// `NotFound`.
    async fn get(&self, id: &ContainerId) -> Result<Container>;

    /// All records of this installation, by id.
    ///
    /// # Errors
    /// `Unavailable` when the runtime does not answer.
    async fn list(&self) -> Result<Vec<Container>>;

    /// Removes the record and the host files that belong to it, not its snapshot. Again:
    /// `NotFound`.
    ///
    /// # Errors
    /// `Conflict` when it has a task, also an exited one: deleting a record under a task would
    /// orphan the task's processes.
    async fn delete(&self, id: &ContainerId) -> Result<()>;
}
