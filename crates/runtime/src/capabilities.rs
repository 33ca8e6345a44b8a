//! Whether a backend is there and what it can do.

use crate::Result;
use async_trait::async_trait;

/// What a backend can do. What it cannot do, it answers with
/// [`crate::ErrorKind::Unsupported`]; nobody compares backend names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Capabilities {
    /// The backend's name, for people: `containerd`.
    pub backend: String,
    /// The namespace in which its records live.
    pub namespace: String,
    /// The snapshotter that it uses, such as `overlayfs`.
    pub snapshotter: String,
    /// Commands can be run in a task ([`crate::Tasks::exec`]).
    pub exec: bool,
    /// Usage of running containers can be read ([`crate::Metrics`]).
    pub metrics: bool,
    /// Images can be pulled from registries and imported from archives.
    pub images: bool,
    /// The host can connect to a socket inside a task ([`crate::Channels`]).
    pub channels: bool,
    /// An active snapshot can be copied while its task runs ([`crate::Snapshots::commit_copy`]).
    pub live_copies: bool,
    /// Devices can be given to containers by CDI names.
    pub cdi_devices: bool,
    /// Snapshots can be opened as directories of this host ([`crate::Snapshots::open`],
    /// [`crate::Snapshots::layers`]).
    pub files: bool,
    /// Active snapshots tell how this host mounts them ([`crate::Snapshots::mounts`]).
    pub host_mounts: bool,
}

/// A backend as a whole.
#[async_trait]
pub trait Backend: Send + Sync {
    /// What it can do. Constant over the life of the backend.
    fn capabilities(&self) -> &Capabilities;

    /// Asks the backend for its version, such as `1.6.20`.
    ///
    /// # Errors
    /// `Unavailable` when it does not answer within a few seconds.
    async fn version(&self) -> Result<String>;
}
