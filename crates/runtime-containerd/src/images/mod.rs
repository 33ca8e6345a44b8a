//! Images on containerd, the way that works alike on 1.6, 1.7 and 2.x: this process downloads into
//! containerd's content store, lets containerd unpack layer by layer, and sets the name last.
//!
//! - `registry` talks to registries and `sign_in` signs in with `credentials`, over `http`, which reaches
//!   what `reach` lets it, finds by `lookup` and trusts `authorities` beside the system's; `pace` ends what
//!   comes too slowly, `retry` decides what is tried again, `fetch` downloads a layer, and `locks` keeps
//!   two from downloading it twice;
//! - `mirrors` are asked before the registry that an image names; `registries` has what admins set while
//!   the server runs;
//! - `size` refuses images that are too large;
//! - `tree` reads what an image consists of and refuses what is wrong with it, `index` reads lists of
//!   images, `platform` chooses;
//! - `content` writes and reads containerd's content store, `unpack` makes snapshots of layers;
//! - `archive` reads tar files, `import` imports them;
//! - `local` is what is here already.
//!
//! Everything is made under the caller's lease and hangs together by garbage collection labels, so
//! that a failed pull leaves nothing when its lease ends, and a complete one is kept by its name
//! alone: name, index, manifest, configuration, snapshot of the top layer and those below it.
//!
//! What is deliberately absent: containerd's transfer service (1.6 does not have it) and any copy of
//! a layer outside of containerd.

mod archive;
mod authorities;
mod config;
mod content;
mod credentials;
mod fetch;
mod hosts;
mod http;
mod import;
mod index;
mod local;
mod locks;
mod lookup;
mod mirrors;
mod pace;
mod platform;
mod progress;
mod pull;
mod reach;
mod registries;
mod registry;
mod retry;
mod sign_in;
mod size;
mod tree;
mod unpack;
mod weight;

pub use authorities::{Authorities, UnusableAuthorities};
pub use config::{ImageLimits, RegistryConfig};
pub use hosts::HostPattern;

use crate::client::Client;
use crate::op::Op;
use async_trait::async_trait;
use botstead_runtime::{Image, Images, PullProgress, Result};
use botstead_types::{ImageRef, LeaseId, Page, PageRequest, SnapshotKey};
use credentials::SignIns;
use local::{Trees, describe};
use locks::Locks;
use progress::Progress;
use registries::SetRegistries;
use size::{Measures, Room};
use std::path::Path;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

/// The [`Images`] of a containerd namespace.
#[derive(Debug)]
pub struct ContainerdImages {
    client: Client,
    config: RegistryConfig,
    sign_ins: SignIns,
    set_registries: SetRegistries,
    measures: Measures,
    locks: Locks,
    trees: Trees,
}

impl ContainerdImages {
    /// Images of `namespace`, unpacked with `snapshotter`. Nothing is asked of containerd yet.
    ///
    /// # Errors
    /// `InvalidArgument` for a namespace that is no name or a file of sign-ins or settings that is not in order,
    /// `Internal` when TLS cannot be set up.
    pub fn new(
        channel: Channel,
        namespace: &str,
        snapshotter: &str,
        config: RegistryConfig,
    ) -> Result<Self> {
        Ok(Self {
            client: Client::new(channel, namespace, snapshotter)?,
            sign_ins: SignIns::new(&config)?,
            set_registries: SetRegistries::new(&config)?,
            measures: Measures::default(),
            config,
            locks: Locks::default(),
            trees: Trees::default(),
        })
    }
}

#[async_trait]
impl Images for ContainerdImages {
    async fn pull(
        &self,
        lease: &LeaseId,
        reference: &ImageRef,
        progress: &watch::Sender<PullProgress>,
        cancel: &CancellationToken,
    ) -> Result<Image> {
        let op = Op::new("pull image", reference);
        let pull = self.pull_image(&op, lease, reference, Progress::to(progress));
        tokio::select! {
            biased;
            () = cancel.cancelled() => Err(op.cancelled()),
            image = pull => image,
        }
    }

    async fn import(
        &self,
        lease: &LeaseId,
        archive: &Path,
        name: Option<&ImageRef>,
        cancel: &CancellationToken,
    ) -> Result<Vec<Image>> {
        let op = Op::new("import images from", "the archive");
        tokio::select! {
            biased;
            () = cancel.cancelled() => Err(op.cancelled()),
            images = self.import_archive(&op, lease, archive, name) => images,
        }
    }

    async fn get(&self, reference: &ImageRef) -> Result<Image> {
        let op = Op::new("find image", reference);
        let record = self.record(&op, reference).await?;
        let tree = self.tree_of(&op, &record).await?;
        Ok(describe(reference.clone(), &record, &tree))
    }

    async fn list(&self, page: &PageRequest) -> Result<Page<Image>> {
        let op = Op::new("list", "images");
        let mut named = Vec::new();
        for record in self.records(&op).await? {
            // Names that others gave in a form of their own cannot be asked for here.
            let Ok(reference) = record.name.parse::<ImageRef>() else {
                continue;
            };
            let after = page
                .cursor
                .as_deref()
                .is_none_or(|end| record.name.as_str() > end);
            if reference.as_str() == record.name && after {
                named.push((reference, record));
            }
        }
        named.sort_by(|(a, _), (b, _)| a.cmp(b));
        let limit = page.limit as usize;
        let more = named.len() > limit;
        named.truncate(limit);
        let last = named.last().map(|(reference, _)| reference.to_string());
        let mut items = Vec::new();
        for (reference, record) in named {
            match self.tree_of(&op, &record).await {
                Ok(tree) => items.push(describe(reference, &record, &tree)),
                // One broken image does not hide the others.
                Err(error) => {
                    tracing::warn!(image = record.name, error = error.chain(), "skipped");
                }
            }
        }
        Ok(Page {
            items,
            next_cursor: last.filter(|_| more),
        })
    }

    async fn unpack(&self, lease: &LeaseId, reference: &ImageRef) -> Result<SnapshotKey> {
        let op = Op::new("unpack image", reference);
        let record = self.record(&op, reference).await?;
        let tree = self.tree_of(&op, &record).await?;
        self.unpack_tree(&op, lease, &tree, &Room::endless())
            .await?;
        tree.chain_id().parse().map_err(|error| {
            op.fail_with(
                botstead_runtime::ErrorKind::Internal,
                "its snapshot has no right name",
                error,
            )
        })
    }

    async fn delete(&self, reference: &ImageRef) -> Result<()> {
        let op = Op::new("delete image", reference);
        self.forget(&op, reference).await
    }
}
