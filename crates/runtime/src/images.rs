//! Images.

use crate::Result;
use async_trait::async_trait;
use botstead_types::{ImageRef, LeaseId, Page, PageRequest, ResolvedImage, SnapshotKey};
use chrono::{DateTime, Utc};
use std::path::Path;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// An image that is local.
#[derive(Debug, Clone, PartialEq)]
pub struct Image {
    /// Reference, digest and configuration.
    pub resolved: ResolvedImage,
    /// The snapshot that its top layer has once it is unpacked, where the backend knows it beforehand:
    /// what is prepared on it needs [`Images::unpack`] only when it is not there.
    pub top: Option<SnapshotKey>,
    /// The size of its compressed layers for this platform, in bytes.
    pub size_bytes: u64,
    /// When it was pulled or imported.
    pub created_at: DateTime<Utc>,
}

/// How far a pull is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PullProgress {
    /// Every layer known so far, in the manifest's order; empty until the manifest was read.
    pub layers: Vec<LayerProgress>,
}

/// How far one layer is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerProgress {
    /// The layer's digest.
    pub digest: String,
    /// Bytes that are here already, at most `total`.
    pub offset: u64,
    /// The layer's size in bytes.
    pub total: u64,
}

/// Images of the runtime.
#[async_trait]
pub trait Images: Send + Sync {
    /// Pulls an image from its registry, all layers for this machine's platform, checks every
    /// digest, unpacks it, and only then lets the name point at it. Tries again with back-off what
    /// can succeed later. Again: takes what is local already, and follows a moved tag.
    ///
    /// Progress is sent whenever it changes, the latest value only. `cancel` ends it within a
    /// second; what was downloaded completely may stay until it is collected.
    ///
    /// # Errors
    /// `NotFound` when the registry does not have it, `PermissionDenied` when it wants a sign-in,
    /// `Unavailable` when it cannot be reached, `Corrupt` when a digest does not match,
    /// `ResourceExhausted` when the disk is full, `Cancelled`, `InvalidArgument` when it has
    /// nothing for this platform, `NotAllowed` when the registry is where none may be, `TooLarge`.
    async fn pull(
        &self,
        lease: &LeaseId,
        reference: &ImageRef,
        progress: &watch::Sender<PullProgress>,
        cancel: &CancellationToken,
    ) -> Result<Image>;

    /// Imports every image of an OCI or docker archive (a tar file, perhaps compressed with gzip
    /// or zstd). An image without a name of its own gets `name`. Again: no change.
    ///
    /// # Errors
    /// `InvalidArgument` for what is no such archive or an image without any name, `Corrupt` when
    /// a digest does not match, `ResourceExhausted` when the disk is full, `Cancelled`, `TooLarge`.
    async fn import(
        &self,
        lease: &LeaseId,
        archive: &Path,
        name: Option<&ImageRef>,
        cancel: &CancellationToken,
    ) -> Result<Vec<Image>>;

    /// A local image. Never asks a registry. One that is asked for with its digest is found under any
    /// name of its repository.
    ///
    /// # Errors
    /// `NotFound`.
    async fn get(&self, reference: &ImageRef) -> Result<Image>;

    /// Local images, by name; a cursor is the name that the page before ended with.
    ///
    /// # Errors
    /// `Unavailable` when the runtime does not answer.
    async fn list(&self, page: &PageRequest) -> Result<Page<Image>>;

    /// The committed snapshot of the image's top layer, unpacking it first where it is not.
    ///
    /// # Errors
    /// `NotFound` when the image is not local, `Corrupt` when its content is incomplete.
    async fn unpack(&self, lease: &LeaseId, reference: &ImageRef) -> Result<SnapshotKey>;

    /// Removes the name; content that nothing else uses is collected. Workspaces that were made
    /// from it go on. Again: `NotFound`.
    ///
    /// # Errors
    /// `NotFound`.
    async fn delete(&self, reference: &ImageRef) -> Result<()>;
}
