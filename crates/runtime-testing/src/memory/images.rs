//! Images: local ones, and registries as scripts.

use super::Shared;
use super::faults::Op;
use super::files::of_image;
use super::leases::{lease_of, protect};
use super::state::State;
use super::state::in_snapshot;
use botstead_runtime::{ErrorKind, Image, Images, LayerProgress, PullProgress, Result};
use botstead_types::{
    ImageConfig, ImageRef, LeaseId, Page, PageRequest, ResolvedImage, SnapshotKey, SnapshotKind,
};
use bytes::Bytes;
use chrono::{DateTime, Utc};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// A local image by its name, or by its digest under any name of its repository.
fn local<'a>(
    images: &'a BTreeMap<ImageRef, LocalImage>,
    reference: &ImageRef,
) -> Option<&'a LocalImage> {
    images.get(reference).or_else(|| {
        let digest = reference.digest()?;
        let place = |name: &ImageRef| (name.registry().to_owned(), name.repository().to_owned());
        images
            .iter()
            .find(|(name, local)| {
                place(name) == place(reference) && local.image.resolved.digest == digest
            })
            .map(|(_, local)| local)
    })
}

/// What an image consists of.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageContent {
    /// Its layers, the base first: files by absolute path, `None` where a layer hides one.
    pub layers: Vec<BTreeMap<String, Option<Bytes>>>,
    /// Its configuration.
    pub config: ImageConfig,
}

impl ImageContent {
    /// An image of one layer.
    pub fn of_files<'a>(files: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        Self::default().with_layer(files)
    }

    /// The image with one more layer on top.
    #[must_use]
    pub fn with_layer<'a>(mut self, files: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let content = |text: &str| Some(Bytes::copy_from_slice(text.as_bytes()));
        let layer = files
            .into_iter()
            .map(|(path, text)| (in_snapshot(path).to_owned(), content(text)))
            .collect();
        self.layers.push(layer);
        self
    }

    /// The digest of the whole.
    fn digest(&self) -> String {
        let mut hash = Sha256::new();
        for digest in self.layer_digests() {
            hash.update(digest);
        }
        hash.update(format!("{:?}", self.config));
        name(hash)
    }

    fn layer_digests(&self) -> Vec<String> {
        self.layers.iter().map(layer_digest).collect()
    }

    fn layer_sizes(&self) -> Vec<u64> {
        let size = |layer: &BTreeMap<String, Option<Bytes>>| {
            let bytes: usize = layer.values().flatten().map(|file| file.len()).sum();
            512 + bytes as u64
        };
        self.layers.iter().map(size).collect()
    }

    /// The snapshots of its layers, the base first. The name of each comes from all layers
    /// beneath it, so that images share what they have in common (OCI image specification,
    /// config.md, "Layer ChainID").
    fn chain(&self) -> Vec<SnapshotKey> {
        let mut below = String::new();
        self.layer_digests()
            .into_iter()
            .map(|digest| {
                below = if below.is_empty() {
                    digest
                } else {
                    name(Sha256::new().chain_update(format!("{below} {digest}")))
                };
                below
                    .parse()
                    .expect("an algorithm and hexadecimal digits are a valid key")
            })
            .collect()
    }
}

fn layer_digest(layer: &BTreeMap<String, Option<Bytes>>) -> String {
    let mut hash = Sha256::new();
    for (path, content) in layer {
        hash.update((path.len() as u64).to_le_bytes());
        hash.update(path);
        match content {
            None => hash.update([0]),
            Some(bytes) => {
                hash.update([1]);
                hash.update((bytes.len() as u64).to_le_bytes());
                hash.update(bytes);
            }
        }
    }
    name(hash)
}

fn name(hash: Sha256) -> String {
    format!("sha256:{}", hex::encode(hash.finalize()))
}

/// How a pull from a scripted registry goes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PullScript {
    /// In how many steps each layer arrives; 0 is one.
    pub steps: u32,
    /// How long each step takes.
    pub step_time: Duration,
    /// After so many steps nothing arrives any more until the pull is cancelled.
    pub hangs_after: Option<u32>,
    /// After so many steps the pull fails.
    pub fails_after: Option<(u32, ErrorKind)>,
}

/// An image in a registry.
#[derive(Clone)]
pub(super) struct Remote {
    pub(super) content: ImageContent,
    pub(super) script: PullScript,
}

/// An image that is here.
pub(super) struct LocalImage {
    pub(super) image: Image,
    /// The snapshot of its top layer; an image without layers has none.
    pub(super) top: Option<SnapshotKey>,
    content: ImageContent,
}

impl State {
    /// Makes an image local. Its snapshots are protected by the lease where there is one.
    pub(super) fn put_image(
        &mut self,
        op: Op,
        lease: Option<&LeaseId>,
        reference: &ImageRef,
        content: ImageContent,
    ) -> Result<Image> {
        let chain = content.chain();
        self.unpack_chain(op, lease, &content, &chain)?;
        let digest = content.digest();
        let created_at = match self.images.get(reference) {
            Some(local) if local.image.resolved.digest == digest => local.image.created_at,
            _ => self.now(),
        };
        let image = describe(reference, &content, digest, created_at);
        let local = LocalImage {
            image: image.clone(),
            top: chain.last().cloned(),
            content,
        };
        self.images.insert(reference.clone(), local);
        self.changed();
        Ok(image)
    }

    fn unpack_chain(
        &mut self,
        op: Op,
        lease: Option<&LeaseId>,
        content: &ImageContent,
        chain: &[SnapshotKey],
    ) -> Result<()> {
        let mut parent: Option<&SnapshotKey> = None;
        for (key, layer) in chain.iter().zip(&content.layers) {
            if let Some(lease) = lease {
                protect(self, op, lease, key)?;
            }
            if !self.snapshots.contains_key(key) {
                self.insert_snapshot(
                    key.clone(),
                    parent.cloned(),
                    SnapshotKind::Committed,
                    BTreeMap::new(),
                    of_image(layer.clone()),
                    false,
                );
            }
            parent = Some(key);
        }
        Ok(())
    }
}

fn describe(
    reference: &ImageRef,
    content: &ImageContent,
    digest: String,
    created_at: DateTime<Utc>,
) -> Image {
    Image {
        resolved: ResolvedImage {
            reference: reference.clone(),
            digest,
            config: content.config.clone(),
        },
        top: content.chain().last().cloned(),
        size_bytes: content.layer_sizes().iter().sum(),
        created_at,
    }
}

/// Lets the layers arrive as the script says.
async fn transfer(
    op: Op,
    reference: &ImageRef,
    remote: &Remote,
    progress: &watch::Sender<PullProgress>,
) -> Result<()> {
    let script = &remote.script;
    let layer = |(digest, total)| LayerProgress {
        digest,
        offset: 0,
        total,
    };
    let content = &remote.content;
    let layers = content
        .layer_digests()
        .into_iter()
        .zip(content.layer_sizes());
    let mut now = PullProgress {
        layers: layers.map(layer).collect(),
    };
    progress.send_replace(now.clone());
    let steps = script.steps.max(1);
    let mut done = 0;
    for index in 0..now.layers.len() {
        for step in 1..=steps {
            interrupt(op, reference, script, done).await?;
            tokio::time::sleep(script.step_time).await;
            let layer = &mut now.layers[index];
            layer.offset = layer.total * u64::from(step) / u64::from(steps);
            progress.send_replace(now.clone());
            done += 1;
        }
    }
    interrupt(op, reference, script, done).await
}

/// Fails or hangs when the script says so after this many steps.
async fn interrupt(op: Op, reference: &ImageRef, script: &PullScript, done: u32) -> Result<()> {
    if let Some((after, kind)) = script.fails_after
        && done >= after
    {
        return Err(op
            .error(kind, reference)
            .because("the script of the registry says so"));
    }
    if script.hangs_after.is_some_and(|after| done >= after) {
        std::future::pending::<()>().await;
    }
    Ok(())
}

#[async_trait::async_trait]
impl Images for Shared {
    async fn pull(
        &self,
        lease: &LeaseId,
        reference: &ImageRef,
        progress: &watch::Sender<PullProgress>,
        cancel: &CancellationToken,
    ) -> Result<Image> {
        let op = Op("images.pull", "pull image");
        let remote = {
            let mut state = self.state();
            self.admit(&mut state, op, reference)?;
            lease_of(&mut state, op, lease)?;
            let remote = state.remotes.get(reference).cloned();
            remote.ok_or_else(|| {
                op.error(ErrorKind::NotFound, reference)
                    .because("the registry does not have it")
            })?
        };
        let mut answering = self.answering.subscribe();
        tokio::select! {
            biased;
            () = cancel.cancelled() => Err(op.error(ErrorKind::Cancelled, reference)),
            _ = answering.wait_for(|answering| !answering) => {
                Err(op.error(ErrorKind::Unavailable, reference).because("the runtime went away"))
            }
            moved = transfer(op, reference, &remote, progress) => moved,
        }?;
        let mut state = self.state();
        let image = state.put_image(op, Some(lease), reference, remote.content)?;
        match state.faults.answer(op) {
            Some(kind) => Err(op.error(kind, reference).because("the answer was lost")),
            None => Ok(image),
        }
    }

    async fn import(
        &self,
        lease: &LeaseId,
        archive: &Path,
        name: Option<&ImageRef>,
        cancel: &CancellationToken,
    ) -> Result<Vec<Image>> {
        super::archive::import(self, lease, archive, name, cancel).await
    }

    async fn get(&self, reference: &ImageRef) -> Result<Image> {
        let op = Op("images.get", "read image");
        self.call(op, reference, |state| {
            local(&state.images, reference)
                .map(|local| Image {
                    resolved: ResolvedImage {
                        reference: reference.clone(),
                        ..local.image.resolved.clone()
                    },
                    ..local.image.clone()
                })
                .ok_or_else(|| op.error(ErrorKind::NotFound, reference))
        })
    }

    async fn list(&self, page: &PageRequest) -> Result<Page<Image>> {
        self.call(Op("images.list", "list"), "images", |state| {
            let after = |name: &&ImageRef| {
                let end = page.cursor.as_deref();
                end.is_none_or(|end| name.as_str() > end)
            };
            let names: Vec<_> = state.images.keys().filter(after).collect();
            let shown = &names[..names.len().min(page.limit as usize)];
            let last = shown.last().map(|name| name.to_string());
            Ok(Page {
                items: shown
                    .iter()
                    .filter_map(|name| Some(state.images.get(*name)?.image.clone()))
                    .collect(),
                next_cursor: last.filter(|_| shown.len() < names.len()),
            })
        })
    }

    async fn unpack(&self, lease: &LeaseId, reference: &ImageRef) -> Result<SnapshotKey> {
        let op = Op("images.unpack", "unpack image");
        self.call(op, reference, |state| {
            let Some(local) = local(&state.images, reference) else {
                return Err(op.error(ErrorKind::NotFound, reference));
            };
            let content = local.content.clone();
            let chain = content.chain();
            state.unpack_chain(op, Some(lease), &content, &chain)?;
            chain.last().cloned().ok_or_else(|| {
                op.error(ErrorKind::Corrupt, reference)
                    .because("it has no layers")
            })
        })
    }

    async fn delete(&self, reference: &ImageRef) -> Result<()> {
        let op = Op("images.delete", "delete image");
        self.call(op, reference, |state| {
            state
                .images
                .remove(reference)
                .ok_or_else(|| op.error(ErrorKind::NotFound, reference))?;
            state.collect();
            Ok(())
        })
    }
}
