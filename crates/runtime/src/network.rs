//! Network namespaces and their wiring.

use crate::{Dns, Result};
use async_trait::async_trait;
use botstead_types::ContainerId;
use ipnet::Ipv4Net;
use std::net::Ipv4Addr;
use std::path::PathBuf;

/// What is the same for every workspace of this installation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkInfo {
    /// Addresses are assigned from it, by the caller, who records them.
    pub subnet: Ipv4Net,
    /// The host's own address in it, never assigned.
    pub gateway: Ipv4Addr,
    /// The largest packet, in bytes: that of the host's way out.
    pub mtu: u32,
    /// Name resolution for workspaces.
    pub dns: Dns,
}

/// A container's connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Endpoint {
    /// Its address, from [`NetworkInfo::subnet`], used by no other container.
    pub address: Ipv4Addr,
}

/// Whether a container can be reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EndpointStatus {
    /// Namespace, link, address and routes are there.
    Up,
    /// Something is missing, in words for the log.
    Broken(String),
}

/// Network namespaces and their wiring. Set-up can be repeated and teardown is best effort;
/// nothing done for one container ever interrupts another's connections.
#[async_trait]
pub trait Network: Send + Sync {
    /// What is the same for every workspace.
    fn info(&self) -> &NetworkInfo;

    /// Makes what the host needs once: the bridge, forwarding, address translation. Again: mends
    /// what is missing, such as rules that somebody flushed, and touches nothing else.
    ///
    /// # Errors
    /// `PermissionDenied` or `Unavailable` with what the host lacks.
    async fn ensure_host(&self) -> Result<()>;

    /// Waits until somebody else may have changed what [`Network::ensure_host`] made, such as a
    /// firewall that was reloaded; the first call returns at once. Any number of changes between two
    /// calls are one. A backend that cannot notice waits for ever. May be cancelled.
    ///
    /// # Errors
    /// `Unavailable` when the host does not tell; a later call may be told.
    async fn host_changed(&self) -> Result<()> {
        std::future::pending().await
    }

    /// Makes an empty namespace for a container and tells its path. Again: the same namespace,
    /// unless the host was restarted since, which leaves a new one.
    ///
    /// # Errors
    /// `Internal` with what the kernel refused.
    async fn create_namespace(&self, id: &ContainerId) -> Result<PathBuf>;

    /// Connects the namespace: link, address, default route. May run while the container's task
    /// is being created. Again: mends what is missing.
    ///
    /// # Errors
    /// `NotFound` when the namespace does not exist, `InvalidArgument` for an address outside the
    /// subnet.
    async fn attach(&self, id: &ContainerId, endpoint: &Endpoint) -> Result<()>;

    /// Whether the container can be reached at that address.
    ///
    /// # Errors
    /// `Unavailable` when the kernel does not answer.
    async fn status(&self, id: &ContainerId, endpoint: &Endpoint) -> Result<EndpointStatus>;

    /// Removes the link and the namespace, as much of them as there is. Again: no change.
    ///
    /// # Errors
    /// What could not be removed; everything that could be, was.
    async fn remove(&self, id: &ContainerId) -> Result<()>;

    /// The containers that have a namespace.
    ///
    /// # Errors
    /// `Internal` when the namespaces cannot be listed.
    async fn list(&self) -> Result<Vec<ContainerId>>;
}
