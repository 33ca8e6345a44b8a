//! The ports: what Botstead asks of a container runtime.
//!
//! A backend implements these small traits; everything above it uses a [`Runtime`], which bundles
//! them. This crate is mostly contract: the states, what each call promises, and when which
//! [`ErrorKind`] comes back. The conformance suite in `botstead-runtime-testing` has one named test
//! per promise and runs on every backend.
//!
//! What is deliberately absent: types of any technology, database, HTTP, and any knowledge of
//! bots' versions or users.
//!
//! # Vocabulary
//! A *container* is a record: an image, a snapshot and how to run them. A *task* is the running
//! process tree of a container; a container has one task or none. A *snapshot* is a filesystem
//! state: *active* (writable) or *committed* (frozen, can be a parent). A *lease* keeps what is
//! made under it from garbage collection until the lease is deleted.
//!
//! # Cancellation
//! Dropping the future of a call may leave its effect done or not done; every call that changes
//! something can be repeated (see each one's "again" sentence).

mod capabilities;
mod channels;
mod containers;
mod error;
mod images;
mod leases;
mod metrics;
mod network;
mod registries;
mod snapshots;
mod tasks;
mod trees;

pub use capabilities::{Backend, Capabilities};
pub use channels::{ByteStream, Channels};
pub use containers::{Container, ContainerSpec, Containers, Dns, Mount, Process};
pub use error::{Error, ErrorKind, Result, chain};
pub use images::{Image, Images, LayerProgress, PullProgress};
pub use leases::{Lease, Leases};
pub use metrics::{CpuUsage, MemoryUsage, Metrics, Usage};
pub use network::{Endpoint, EndpointStatus, Network, NetworkInfo};
pub use registries::{
    Credentials, Registries, Registry, RegistrySettings, RegistrySource, SignedInBy,
};
pub use snapshots::{CopyReport, Snapshot, SnapshotCopy, SnapshotMount, SnapshotUsage, Snapshots};
pub use tasks::{Exec, ExecOutput, ExecUser, ExitStatus, Signal, Task, TaskEvent, Tasks};
pub use trees::{Access, Tree};

use std::sync::Arc;

/// A backend: all its ports. Cheap to clone.
#[derive(Clone)]
pub struct Runtime {
    /// Whether it is there and what it can do.
    pub backend: Arc<dyn Backend>,
    /// Images.
    pub images: Arc<dyn Images>,
    /// What is known of registries.
    pub registries: Arc<dyn Registries>,
    /// Container records.
    pub containers: Arc<dyn Containers>,
    /// Byte streams into running containers.
    pub channels: Arc<dyn Channels>,
    /// Running containers.
    pub tasks: Arc<dyn Tasks>,
    /// Filesystem states.
    pub snapshots: Arc<dyn Snapshots>,
    /// Protection from garbage collection.
    pub leases: Arc<dyn Leases>,
    /// What running containers use.
    pub metrics: Arc<dyn Metrics>,
    /// Network namespaces and their wiring.
    pub network: Arc<dyn Network>,
}

impl std::fmt::Debug for Runtime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Runtime")
            .field("capabilities", self.backend.capabilities())
            .finish_non_exhaustive()
    }
}
