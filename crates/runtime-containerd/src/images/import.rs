//! Importing archives: the OCI layout and that of `docker save`.

use super::ContainerdImages;
use super::archive::{Archive, Entry, Format};
use super::config::ImageLimits;
use super::content::{self, CHUNK, Ingest};
use super::index::Index;
use super::platform;
use super::size::Room;
use super::tree::{
    self, Document, Documents, LAYER_GZIP, LAYER_TAR, LAYER_ZSTD, MAX_DOCUMENT, Resolved, Role,
};
use crate::op::{self, Op};
use async_trait::async_trait;
use botstead_runtime::{ErrorKind, Image, Result};
use botstead_types::{ImageRef, LeaseId};
use bytes::Bytes;
use oci_spec::image::{Descriptor, ImageConfiguration};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use std::collections::{HashMap, HashSet};
use std::io;
use std::path::Path;
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// An image found in an archive.
struct Found {
    names: Vec<ImageRef>,
    resolved: Resolved,
}

/// An archive with what is known of its blobs.
struct Source {
    archive: Arc<Archive>,
    /// Blobs that do not stand under their digest: documents made here, and docker's layers.
    made: HashMap<String, Bytes>,
    layers: HashMap<String, Entry>,
}

impl ContainerdImages {
    pub(super) async fn import_archive(
        &self,
        op: &Op,
        lease: &LeaseId,
        path: &Path,
        name: Option<&ImageRef>,
    ) -> Result<Vec<Image>> {
        // Readings on other threads end when this future is dropped.
        let cancel = CancellationToken::new();
        let _cancel_on_drop = cancel.clone().drop_guard();
        let path = path.to_owned();
        let limits = &self.config.limits;
        let most = limits.unpacked_bytes;
        let archive = blocking(op, move || Archive::open(&path, most, cancel)).await?;
        let mut source = Source {
            archive: Arc::new(archive),
            made: HashMap::new(),
            layers: HashMap::new(),
        };
        let found = if source.archive.find("index.json").is_some() {
            oci(op, &source, name, limits).await?
        } else if source.archive.find("manifest.json").is_some() {
            docker(op, &mut source, name, limits).await?
        } else {
            return Err(op.invalid("it is neither an OCI archive nor one of docker save"));
        };
        if found.is_empty() {
            return Err(op.invalid("it has no images"));
        }
        for image in &found {
            limits.check(op, &image.resolved.tree)?;
        }
        self.ingest_layers(op, lease, &source, &found).await?;
        let mut images = Vec::new();
        for image in found {
            let room = Room::new(limits);
            let tree = self.store_documents(op, lease, image.resolved).await?;
            for name in &image.names {
                images.push(self.finish(op, lease, name, &tree, &room).await?);
            }
        }
        Ok(images)
    }

    /// Writes the layers that are not here yet, in the archive's order, one reading for all.
    async fn ingest_layers(
        &self,
        op: &Op,
        lease: &LeaseId,
        source: &Source,
        found: &[Found],
    ) -> Result<()> {
        let mut wanted: HashMap<usize, (String, u64)> = HashMap::new();
        let mut seen = HashSet::new();
        for layer in found.iter().flat_map(|image| &image.resolved.tree.layers) {
            if !seen.insert(&layer.digest) {
                continue;
            }
            if content::exists(&self.client, op, &layer.digest).await? {
                // Said to be there again, it is kept by the lease.
                let (digest, size) = (&layer.digest, layer.size);
                let opened =
                    Ingest::open(&self.client, op, lease, reference(digest), digest, size).await;
                if opened.map_err(|fault| fault.error)?.is_none() {
                    continue;
                }
            }
            let entry = source.blob(&layer.digest).ok_or_else(|| {
                op.fail(
                    ErrorKind::Corrupt,
                    format!("its layer {} is missing", layer.digest),
                )
            })?;
            if entry.size != layer.size {
                return Err(op.corrupt(format!(
                    "its layer {} has {} bytes where its manifest says {}",
                    layer.digest, entry.size, layer.size
                )));
            }
            wanted.insert(entry.position, (layer.digest.clone(), layer.size));
        }
        let (sender, mut pieces) = mpsc::channel::<Piece>(4);
        let archive = Arc::clone(&source.archive);
        let positions = wanted.keys().copied().collect();
        let reading = blocking(op, move || {
            archive.stream(positions, |position, reader| {
                send_all(&sender, position, reader)
            })
        });
        let writing = async {
            let mut open = None;
            let mut skipped = None;
            while let Some(piece) = pieces.recv().await {
                let (position, data) = match piece {
                    Piece::Data(position, data) => (position, Some(data)),
                    Piece::End(position) => (position, None),
                };
                if skipped == Some(position) {
                    continue;
                }
                if open.is_none() {
                    // Positions come from `wanted`.
                    let Some((digest, size)) = wanted.get(&position) else {
                        continue;
                    };
                    // Apart from those that wait for a registry.
                    let locked = self.locks.lock(&reference(digest)).await;
                    let opened =
                        Ingest::open(&self.client, op, lease, reference(digest), digest, *size)
                            .await;
                    match opened.map_err(|fault| fault.error)? {
                        Some(mut ingest) => {
                            ingest.restart();
                            open = Some((ingest, locked));
                        }
                        None => {
                            skipped = Some(position);
                            continue;
                        }
                    }
                }
                match (data, open.take()) {
                    (Some(data), Some((mut ingest, locked))) => {
                        ingest.write(data).await?;
                        open = Some((ingest, locked));
                    }
                    (None, Some((ingest, _locked))) => {
                        ingest.commit(HashMap::new()).await?;
                    }
                    (_, None) => {}
                }
            }
            Ok(())
        };
        tokio::try_join!(reading, writing)?;
        Ok(())
    }
}

/// What containerd knows the writing of a layer by.
fn reference(digest: &str) -> String {
    format!("botstead-archive {digest}")
}

enum Piece {
    Data(usize, Vec<u8>),
    End(usize),
}

fn send_all(
    sender: &mpsc::Sender<Piece>,
    position: usize,
    reader: &mut dyn io::Read,
) -> io::Result<()> {
    use io::Read;
    let gone = |_| io::Error::other("the import ended");
    loop {
        let mut data = Vec::with_capacity(CHUNK);
        Read::take(&mut *reader, CHUNK as u64).read_to_end(&mut data)?;
        if data.is_empty() {
            return sender.blocking_send(Piece::End(position)).map_err(gone);
        }
        sender
            .blocking_send(Piece::Data(position, data))
            .map_err(gone)?;
    }
}

impl Source {
    fn blob(&self, digest: &str) -> Option<&Entry> {
        self.layers
            .get(digest)
            .or_else(|| self.archive.find(&blob_path(digest)))
    }
}

#[async_trait]
impl Documents for (&Op, &Source) {
    async fn document(&self, digest: &str, _size: u64, _role: Role) -> Result<Bytes> {
        let (op, source) = *self;
        if let Some(made) = source.made.get(digest) {
            return Ok(made.clone());
        }
        small(op, source, &blob_path(digest)).await
    }
}

/// Images of an OCI layout (OCI image specification, image-layout.md).
async fn oci(
    op: &Op,
    source: &Source,
    name: Option<&ImageRef>,
    limits: &ImageLimits,
) -> Result<Vec<Found>> {
    let bytes = small(op, source, "index.json").await?;
    let index: Index =
        serde_json::from_slice(&bytes).map_err(|error| unreadable(op, "index.json", error))?;
    let mut images: Vec<Found> = Vec::new();
    let mut unnamed = Vec::new();
    for descriptor in index.entries() {
        match own_name(op, descriptor)? {
            Some(name) => oci_image(op, source, descriptor, name, limits, &mut images).await?,
            None => unnamed.push(descriptor.clone()),
        }
    }
    if unnamed.is_empty() {
        return Ok(images);
    }
    let name = name.ok_or_else(|| nameless(op))?;
    // A layout without names can list one image once per platform, and what is no image: the first that is
    // one for this machine is meant.
    let mut failed = None;
    for descriptor in platform::candidates(&unnamed) {
        let name = name.clone();
        match oci_image(op, source, descriptor, name, limits, &mut images).await {
            Ok(()) => return Ok(images),
            Err(error) => {
                failed.get_or_insert(error);
            }
        }
    }
    failed.map_or(Ok(images), Err)
}

/// Adds an image of an OCI layout, or its name to what is there already.
async fn oci_image(
    op: &Op,
    source: &Source,
    descriptor: &Descriptor,
    name: ImageRef,
    limits: &ImageLimits,
    images: &mut Vec<Found>,
) -> Result<()> {
    let digest = descriptor.digest().to_string();
    if let Some(same) = images
        .iter_mut()
        .find(|found| found.resolved.tree.top().digest == digest)
    {
        same.names.push(name);
        return Ok(());
    }
    tree::check_digest(op, &digest)?;
    let bytes = small(op, source, &blob_path(&digest)).await?;
    tree::check_bytes(op, &bytes, &digest)?;
    let media_type = tree::parse(op, &bytes)?.media_type();
    let top = Document::new(op, digest, media_type, bytes)?;
    images.push(Found {
        names: vec![name],
        resolved: tree::resolve(op, &(op, source), top, Some(limits)).await?,
    });
    Ok(())
}

/// The name that an entry of an OCI layout gives itself: a full name in containerd's annotation or
/// in the specification's. A bare tag there (`latest`) is no name.
fn own_name(op: &Op, descriptor: &Descriptor) -> Result<Option<ImageRef>> {
    let annotation = |key: &str| descriptor.annotations().as_ref()?.get(key);
    let named = annotation("io.containerd.image.name").or_else(|| {
        annotation("org.opencontainers.image.ref.name").filter(|name| name.contains(['/', ':']))
    });
    named.map(|name| parse_name(op, name)).transpose()
}

fn parse_name(op: &Op, name: &str) -> Result<ImageRef> {
    name.parse().map_err(|error| {
        op.fail_with(
            ErrorKind::InvalidArgument,
            "an image in it has a name that is no image reference",
            error,
        )
    })
}

fn nameless(op: &Op) -> botstead_runtime::Error {
    op.invalid("an image in it has no name, and none was given")
}

/// One image of `manifest.json`, as `docker save` writes it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

/// Images of `docker save`: they have no manifest of their own, so one is made.
async fn docker(
    op: &Op,
    source: &mut Source,
    name: Option<&ImageRef>,
    limits: &ImageLimits,
) -> Result<Vec<Found>> {
    let bytes = small(op, source, "manifest.json").await?;
    let saved: Vec<Saved> =
        serde_json::from_slice(&bytes).map_err(|error| unreadable(op, "manifest.json", error))?;
    let mut images = Vec::new();
    for image in saved {
        let mut names = Vec::new();
        for tag in image.repo_tags.iter().flatten() {
            names.push(parse_name(op, tag)?);
        }
        if names.is_empty() {
            names.push(name.ok_or_else(|| nameless(op))?.clone());
        }
        let top = make_manifest(op, source, &image).await?;
        let resolved = tree::resolve(op, &(op, &*source), top, Some(limits)).await?;
        images.push(Found { names, resolved });
    }
    Ok(images)
}

async fn make_manifest(op: &Op, source: &mut Source, image: &Saved) -> Result<Document> {
    let config = small(op, source, &image.config).await?;
    let config_digest = tree::digest_of(&config);
    // The file is named by its digest: `<hex>.json`, or `blobs/sha256/<hex>` since Docker 25.
    let named = image.config.rsplit('/').next().unwrap_or_default();
    let named = named.strip_suffix(".json").unwrap_or(named);
    if named.len() == 64 && !config_digest.ends_with(named) {
        return Err(op.corrupt(format!(
            "the configuration {} is not what its name says",
            image.config
        )));
    }
    let parsed: ImageConfiguration = serde_json::from_slice(&config)
        .map_err(|error| unreadable(op, "an image's configuration", error))?;
    let diff_ids = parsed.rootfs().diff_ids();
    if diff_ids.len() != image.layers.len() {
        return Err(op.corrupt("manifest.json and a configuration name different layers"));
    }
    let mut layers = Vec::new();
    for (path, diff_id) in image.layers.iter().zip(diff_ids) {
        let entry = source
            .archive
            .find(path)
            .ok_or_else(|| op.corrupt("a layer that manifest.json names is missing"))?
            .clone();
        let (digest, media_type) = match entry.format {
            // A plain layer's digest is its diff id; writing it compares them.
            Format::Plain => (diff_id.clone(), LAYER_TAR),
            Format::Gzip => (hash(op, source, &entry).await?, LAYER_GZIP),
            Format::Zstd => (hash(op, source, &entry).await?, LAYER_ZSTD),
            Format::Xz | Format::Bzip2 => {
                return Err(op.invalid("a layer in it is packed by xz or bzip2, which none may be"));
            }
        };
        layers.push(serde_json::json!({
            "mediaType": media_type, "digest": digest, "size": entry.size,
        }));
        source.layers.insert(digest, entry);
    }
    let media_type = "application/vnd.oci.image.manifest.v1+json";
    let manifest = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": media_type,
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": config_digest,
            "size": config.len(),
        },
        "layers": layers,
    });
    source.made.insert(config_digest, config);
    let bytes = Bytes::from(manifest.to_string());
    let digest = tree::digest_of(&bytes);
    Document::new(op, digest, media_type.to_owned(), bytes)
}

/// The digest of a compressed layer, which its name does not tell.
async fn hash(op: &Op, source: &Source, entry: &Entry) -> Result<String> {
    let archive = Arc::clone(&source.archive);
    let position = entry.position;
    blocking(op, move || {
        let mut hasher = Sha256::new();
        let mut buffer = vec![0; 128 << 10];
        archive.stream(vec![position], |_, reader| {
            loop {
                match reader.read(&mut buffer)? {
                    0 => return Ok(()),
                    read => hasher.update(&buffer[..read]),
                }
            }
        })?;
        Ok(format!("sha256:{}", hex::encode(hasher.finalize())))
    })
    .await
}

async fn small(op: &Op, source: &Source, name: &str) -> Result<Bytes> {
    let archive = Arc::clone(&source.archive);
    let wanted = name.to_owned();
    blocking(op, move || archive.read(&wanted, MAX_DOCUMENT))
        .await?
        .ok_or_else(|| {
            let shown: String = name.chars().take(160).collect();
            op.corrupt(format!("{shown:?} is missing in it"))
        })
}

/// Runs a reading on a thread where it may block.
async fn blocking<T: Send + 'static>(
    op: &Op,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T> {
    op::blocking(work)
        .await
        .map_err(|error| unreadable_file(op, error))
}

fn unreadable_file(op: &Op, error: io::Error) -> botstead_runtime::Error {
    match error.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::NotFound => {
            op.fail_with(ErrorKind::InvalidArgument, "it cannot be opened", error)
        }
        io::ErrorKind::FileTooLarge => {
            let reason = "it has more bytes unpacked than this server takes \
                          (images.max_unpacked_bytes)";
            op.fail_with(ErrorKind::TooLarge, reason, error)
        }
        _ => op.fail_with(
            ErrorKind::InvalidArgument,
            "it is not a readable archive",
            error,
        ),
    }
}

fn unreadable(op: &Op, what: &str, error: serde_json::Error) -> botstead_runtime::Error {
    op.fail_with(
        ErrorKind::InvalidArgument,
        format!("{what} cannot be read"),
        error,
    )
}

fn blob_path(digest: &str) -> String {
    format!("blobs/{}", digest.replacen(':', "/", 1))
}
