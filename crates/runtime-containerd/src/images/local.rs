//! What is local: names, what they point at, and what that consists of.

use super::ContainerdImages;
use super::content;
use super::tree::{self, Document, Documents, Resolved, Role, Stored, Tree};
use crate::op::Op;
use async_trait::async_trait;
use botstead_runtime::{ErrorKind, Image, Result};
use botstead_types::{ImageRef, LeaseId, ResolvedImage};
use bytes::Bytes;
use chrono::{DateTime, Utc};
use containerd_client::services::v1::{
    CreateImageRequest, DeleteImageRequest, GetImageRequest, Image as Record, ListImagesRequest,
    UpdateImageRequest,
};
use containerd_client::types::Descriptor;
use prost_types::{FieldMask, Timestamp};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use tonic::Code;

/// How many images' documents are remembered.
const CACHED: usize = 128;

/// How large the configurations of those may be together, as they were read.
const CACHED_BYTES: usize = 16 << 20;

/// What images consist of, by the digest of their top: content never changes under its digest, so that
/// nothing here can be out of date.
#[derive(Debug, Default)]
pub(super) struct Trees(Mutex<Cached>);

#[derive(Debug, Default)]
struct Cached {
    trees: BTreeMap<String, Arc<Tree>>,
    bytes: usize,
}

impl Trees {
    fn get(&self, digest: &str) -> Option<Arc<Tree>> {
        let cached = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        cached.trees.get(digest).cloned()
    }

    pub(super) fn put(&self, tree: &Arc<Tree>) {
        let bytes = usize::try_from(tree.config.size).unwrap_or(usize::MAX);
        let mut cached = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if cached.trees.len() >= CACHED || cached.bytes.saturating_add(bytes) > CACHED_BYTES {
            // Reading them again costs a millisecond each.
            *cached = Cached::default();
        }
        cached.bytes = cached.bytes.saturating_add(bytes);
        cached
            .trees
            .insert(tree.top().digest.clone(), Arc::clone(tree));
    }
}

struct Local<'a> {
    images: &'a ContainerdImages,
    op: &'a Op,
}

#[async_trait]
impl Documents for Local<'_> {
    async fn document(&self, digest: &str, _size: u64, _role: Role) -> Result<Bytes> {
        content::read(&self.images.client, self.op, digest)
            .await?
            .ok_or_else(|| incomplete(self.op, digest))
    }
}

fn incomplete(op: &Op, digest: &str) -> botstead_runtime::Error {
    op.corrupt(format!(
        "its local content is incomplete, {digest} is missing; pull it again"
    ))
}

impl ContainerdImages {
    /// The record of a name. One with a digest means content that never changes: it is found under any name
    /// of its repository, and so is what an index there holds for this machine.
    pub(super) async fn record(&self, op: &Op, reference: &ImageRef) -> Result<Record> {
        let request = GetImageRequest {
            name: reference.as_str().to_owned(),
        };
        match self.client.images().get(self.client.request(request)).await {
            Ok(response) => response.into_inner().image.ok_or_else(|| not_local(op)),
            Err(status) if status.code() == Code::NotFound => match reference.digest() {
                Some(digest) => self.record_of(op, reference, digest).await,
                None => Err(not_local(op)),
            },
            Err(status) => Err(op.status(status)),
        }
    }

    async fn record_of(&self, op: &Op, reference: &ImageRef, digest: &str) -> Result<Record> {
        let place = |name: &ImageRef| (name.registry().to_owned(), name.repository().to_owned());
        for record in self.records(op).await? {
            let name: Option<ImageRef> = record.name.parse().ok();
            if name.is_none_or(|name| place(&name) != place(reference)) {
                continue;
            }
            let target = record.target.as_ref();
            if target.is_some_and(|target| target.digest == digest) {
                return Ok(record);
            }
            // One that is broken is not the one.
            let Ok(tree) = self.tree_of(op, &record).await else {
                continue;
            };
            if tree.manifest.digest == digest {
                return Ok(Record {
                    target: Some(descriptor(&tree.manifest)),
                    ..record
                });
            }
        }
        Err(not_local(op))
    }

    /// All records of this namespace.
    pub(super) async fn records(&self, op: &Op) -> Result<Vec<Record>> {
        let request = self.client.request(ListImagesRequest::default());
        let response = self.client.images().list(request).await;
        Ok(response
            .map_err(|status| op.status(status))?
            .into_inner()
            .images)
    }

    /// What a record's image consists of.
    pub(super) async fn tree_of(&self, op: &Op, record: &Record) -> Result<Arc<Tree>> {
        let target = record.target.clone().unwrap_or_default();
        if let Some(tree) = self.trees.get(&target.digest) {
            return Ok(tree);
        }
        let bytes = content::read(&self.client, op, &target.digest)
            .await?
            .ok_or_else(|| incomplete(op, &target.digest))?;
        tree::check_bytes(op, &bytes, &target.digest)?;
        let top = Document::new(op, target.digest, target.media_type, bytes)?;
        let resolved = tree::resolve(op, &Local { images: self, op }, top, None).await?;
        let tree = Arc::new(resolved.tree);
        self.trees.put(&tree);
        Ok(tree)
    }

    /// Stores the documents of an image, each with labels that keep what it refers to: the index
    /// keeps the chosen manifest, that the configuration and the layers, and the configuration the
    /// top layer's snapshot, which keeps those below. What they refer to need not be there yet.
    pub(super) async fn store_documents(
        &self,
        op: &Op,
        lease: &LeaseId,
        resolved: Resolved,
    ) -> Result<Arc<Tree>> {
        let Resolved {
            tree,
            indexes,
            manifest,
            config,
        } = resolved;
        let mut labels = HashMap::from([(
            format!("containerd.io/gc.ref.snapshot.{}", self.client.snapshotter),
            tree.chain_id().to_owned(),
        )]);
        self.store(op, lease, &tree.config, config, labels).await?;
        labels = HashMap::from([(
            "containerd.io/gc.ref.content.config".to_owned(),
            tree.config.digest.clone(),
        )]);
        for (number, layer) in tree.layers.iter().enumerate() {
            let key = format!("containerd.io/gc.ref.content.l.{number}");
            labels.insert(key, layer.digest.clone());
        }
        self.store(op, lease, &tree.manifest, manifest, labels)
            .await?;
        let mut below = &tree.manifest.digest;
        for ((index, entry), bytes) in tree.indexes.iter().zip(indexes).rev() {
            let key = format!("containerd.io/gc.ref.content.m.{entry}");
            let labels = HashMap::from([(key, below.clone())]);
            self.store(op, lease, index, bytes, labels).await?;
            below = &index.digest;
        }
        Ok(Arc::new(tree))
    }

    async fn store(
        &self,
        op: &Op,
        lease: &LeaseId,
        document: &Stored,
        bytes: Bytes,
        labels: HashMap<String, String>,
    ) -> Result<()> {
        let _one_at_a_time = self.locks.lock(&document.digest).await;
        content::store(&self.client, op, lease, document, bytes, labels).await
    }

    /// Lets a name point at an image whose content and snapshots are all there.
    pub(super) async fn point(
        &self,
        op: &Op,
        reference: &ImageRef,
        tree: &Arc<Tree>,
    ) -> Result<Image> {
        let top = tree.top();
        let record = Record {
            name: reference.as_str().to_owned(),
            target: Some(descriptor(top)),
            ..Record::default()
        };
        let mut images = self.client.images();
        let create = CreateImageRequest {
            image: Some(record.clone()),
            ..CreateImageRequest::default()
        };
        let stored = match images.create(self.client.request(create)).await {
            Ok(response) => response.into_inner().image,
            Err(status) if status.code() == Code::AlreadyExists => {
                let update = UpdateImageRequest {
                    image: Some(record),
                    update_mask: Some(FieldMask {
                        paths: vec!["target".to_owned()],
                    }),
                    ..UpdateImageRequest::default()
                };
                let response = images.update(self.client.request(update)).await;
                response
                    .map_err(|status| op.status(status))?
                    .into_inner()
                    .image
            }
            Err(status) => return Err(op.status(status)),
        };
        self.trees.put(tree);
        Ok(describe(
            reference.clone(),
            &stored.unwrap_or_default(),
            tree,
        ))
    }

    /// Removes a name.
    pub(super) async fn forget(&self, op: &Op, reference: &ImageRef) -> Result<()> {
        let request = DeleteImageRequest {
            name: reference.as_str().to_owned(),
            ..DeleteImageRequest::default()
        };
        match self
            .client
            .images()
            .delete(self.client.request(request))
            .await
        {
            Ok(_) => Ok(()),
            Err(status) if status.code() == Code::NotFound => Err(not_local(op)),
            Err(status) => Err(op.status(status)),
        }
    }
}

fn descriptor(document: &Stored) -> Descriptor {
    Descriptor {
        media_type: document.media_type.clone(),
        digest: document.digest.clone(),
        // At most `MAX_DOCUMENT`.
        size: i64::try_from(document.size).unwrap_or_default(),
        annotations: HashMap::new(),
    }
}

fn not_local(op: &Op) -> botstead_runtime::Error {
    op.fail(ErrorKind::NotFound, "it is not here")
}

/// An image as the port shows it.
pub(super) fn describe(reference: ImageRef, record: &Record, tree: &Tree) -> Image {
    Image {
        resolved: ResolvedImage {
            reference,
            digest: tree.top().digest.clone(),
            config: tree.parsed.clone(),
        },
        top: tree.chain_id().parse().ok(),
        size_bytes: tree.size(),
        created_at: time(record.updated_at.as_ref().or(record.created_at.as_ref())),
    }
}

fn time(timestamp: Option<&Timestamp>) -> DateTime<Utc> {
    timestamp
        .and_then(|at| DateTime::from_timestamp(at.seconds, u32::try_from(at.nanos).ok()?))
        .unwrap_or_default()
}
