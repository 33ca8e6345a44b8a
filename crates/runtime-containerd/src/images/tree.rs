//! What an image consists of: from the digest that its name points at, over indexes, to the
//! manifest, the configuration and the layers for this machine. Everything read here is hostile.

use super::config::ImageLimits;
use super::index::Index;
use super::platform;
use crate::op::Op;
use async_trait::async_trait;
use botstead_runtime::{ErrorKind, Result};
use botstead_types::ImageConfig;
use bytes::Bytes;
use oci_spec::image::{Descriptor, ImageConfiguration, ImageManifest};
use serde::Deserialize;
use serde::de::IgnoredAny;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The most bytes that an index, manifest or configuration may have, as containerd limits them.
pub(super) const MAX_DOCUMENT: u64 = 4 << 20;
/// The most that those of one image may have together: that much of memory each pull may need.
const MAX_DOCUMENTS: u64 = 2 * MAX_DOCUMENT;
/// The most characters of a media type (RFC 6838, 4.2).
const MAX_MEDIA_TYPE: usize = 255;
/// More layers than this leave no room in the mount options for versions above them.
const MAX_LAYERS: usize = 256;
const MAX_NESTED: usize = 3;
/// How many documents of indexes are looked at to find the image for this machine.
const MAX_TRIED: usize = 16;

/// What a document is, which decides how a registry is asked for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Manifest,
    Config,
}

/// Where the documents of an image come from.
#[async_trait]
pub(super) trait Documents: Sync {
    /// The bytes of a document of at most `size` bytes. They need not be checked.
    async fn document(&self, digest: &str, size: u64, role: Role) -> Result<Bytes>;
}

/// A document as it is stored: what is known of it without its bytes.
#[derive(Debug, Clone)]
pub(super) struct Stored {
    pub(super) digest: String,
    pub(super) media_type: String,
    pub(super) size: u64,
}

/// A document that was read.
#[derive(Debug)]
pub(super) struct Document {
    pub(super) stored: Stored,
    pub(super) bytes: Bytes,
}

impl Document {
    /// A document whose bytes were checked.
    pub(super) fn new(op: &Op, digest: String, media_type: String, bytes: Bytes) -> Result<Self> {
        if media_type.len() > MAX_MEDIA_TYPE {
            let reason =
                format!("{digest} has a media type of more than {MAX_MEDIA_TYPE} characters");
            return Err(op.corrupt(reason));
        }
        let size = bytes.len() as u64;
        let stored = Stored {
            digest,
            media_type,
            size,
        };
        Ok(Self { stored, bytes })
    }
}

/// A layer of an image.
#[derive(Debug, Clone)]
pub(super) struct Layer {
    pub(super) digest: String,
    pub(super) size: u64,
    /// The OCI media type of its format, whatever family the manifest uses: containerd 1.6 does not
    /// know Docker's name for zstd.
    pub(super) media_type: &'static str,
    pub(super) diff_id: String,
    /// The name of the committed snapshot that holds it and all below it.
    pub(super) chain_id: String,
}

/// An image for this machine.
#[derive(Debug)]
pub(super) struct Tree {
    /// The indexes on the way to the manifest, each with the entry that was chosen.
    pub(super) indexes: Vec<(Stored, usize)>,
    pub(super) manifest: Stored,
    pub(super) config: Stored,
    pub(super) layers: Vec<Layer>,
    pub(super) parsed: ImageConfig,
}

impl Tree {
    /// What the image's name points at.
    pub(super) fn top(&self) -> &Stored {
        self.indexes
            .first()
            .map_or(&self.manifest, |(index, _)| index)
    }

    /// The name of the top layer's snapshot. A tree has a layer: [`resolve`] sees to it.
    pub(super) fn chain_id(&self) -> &str {
        self.layers.last().map_or("", |layer| &layer.chain_id)
    }

    /// The size of the compressed layers, in bytes.
    pub(super) fn size(&self) -> u64 {
        let sizes = self.layers.iter().map(|layer| layer.size);
        sizes.fold(0, u64::saturating_add)
    }
}

/// An image with the bytes of its documents, until they are stored.
#[derive(Debug)]
pub(super) struct Resolved {
    pub(super) tree: Tree,
    pub(super) indexes: Vec<Bytes>,
    pub(super) manifest: Bytes,
    pub(super) config: Bytes,
}

/// `sha256:<hex>` of some bytes.
pub(super) fn digest_of(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

/// Checks that a digest is one that containerd can verify, and nothing else: digests become names
/// of files, labels and URLs.
pub(super) fn check_digest(op: &Op, digest: &str) -> Result<()> {
    let right = digest.strip_prefix("sha256:").is_some_and(|hex| {
        hex.len() == 64 && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    });
    if right {
        return Ok(());
    }
    let shown: String = digest.chars().take(80).collect();
    Err(op.invalid(format!("the digest {shown:?} is not a sha256 digest")))
}

/// Checks that bytes are those that a descriptor promised.
pub(super) fn check_bytes(op: &Op, bytes: &[u8], digest: &str) -> Result<()> {
    let actual = digest_of(bytes);
    if actual == digest {
        return Ok(());
    }
    Err(op.corrupt(format!("{digest} was asked for and {actual} received")))
}

/// Follows indexes down to the image for this machine, and reads its configuration, which is held to
/// `limits` where it is not local yet, as is how large its documents are together. What is parsed of one
/// is dropped before the next one comes: that is many times as large, and the next one can take long.
///
/// An entry of an index that names no platform says what it is in its configuration only, and one may be
/// no image at all: where one proves wrong, the next is tried.
pub(super) async fn resolve(
    op: &Op,
    source: &dyn Documents,
    top: Document,
    limits: Option<&ImageLimits>,
) -> Result<Resolved> {
    let mut left = match limits {
        Some(_) => MAX_DOCUMENTS.saturating_sub(top.stored.size),
        None => u64::MAX,
    };
    let mut todo = vec![(Above::new(), Next::Document(top))];
    let mut first_failure = None;
    for _ in 0..=MAX_TRIED {
        let Some((above, next)) = todo.pop() else {
            break;
        };
        match look(op, source, next, above.len(), limits, &mut left).await {
            Ok(Look::Image(image)) => return Ok(image.below(above)),
            Ok(Look::Index(index, entries)) => {
                let index = Arc::new(index);
                // The best is taken first.
                for (place, descriptor) in entries.into_iter().rev() {
                    let mut above = above.clone();
                    above.push((Arc::clone(&index), place));
                    todo.push((above, Next::Entry(Box::new(descriptor))));
                }
            }
            Err(error) if says_what_it_is(&error) => {
                first_failure.get_or_insert(error);
            }
            Err(error) => return Err(error),
        }
    }
    Err(first_failure.unwrap_or_else(|| nothing_for_us(op)))
}

/// The indexes on the way to a document, each with the place of the entry that was chosen.
type Above = Vec<(Arc<Document>, usize)>;

/// What is looked at next.
enum Next {
    Document(Document),
    Entry(Box<Descriptor>),
}

/// What was found there.
enum Look {
    Image(Box<Single>),
    /// An index, and its entries that may be for this machine, the best first.
    Index(Document, Vec<(usize, Descriptor)>),
}

/// Whether a failure is about what a document is, and not about getting it: another may be right.
fn says_what_it_is(error: &botstead_runtime::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::Corrupt | ErrorKind::InvalidArgument | ErrorKind::NotFound
    )
}

async fn look(
    op: &Op,
    source: &dyn Documents,
    next: Next,
    depth: usize,
    limits: Option<&ImageLimits>,
    left: &mut u64,
) -> Result<Look> {
    let document = match next {
        Next::Document(document) => document,
        Next::Entry(descriptor) => {
            let wanted = Wanted::new(op, &descriptor, left)?;
            fetch(op, source, wanted, Role::Manifest).await?
        }
    };
    let config = match parse(op, &document.bytes)? {
        Parsed::Index(_) if depth == MAX_NESTED => {
            return Err(op.invalid("its indexes are nested too deeply"));
        }
        Parsed::Index(index) => return Ok(Look::Index(document, index.candidates(MAX_TRIED))),
        Parsed::Manifest(manifest) => Wanted::new(op, manifest.config(), left)?,
    };
    if let Some(limits) = limits {
        limits.check_config(op, config.size)?;
    }
    let config = fetch(op, source, config, Role::Config).await?;
    let Parsed::Manifest(manifest) = parse(op, &document.bytes)? else {
        return Err(op.corrupt("its manifest claims to be an index, too"));
    };
    let (parsed, layers) = read_config(op, &manifest, &config.bytes)?;
    Ok(Look::Image(Box::new(Single {
        manifest: document,
        config,
        parsed,
        layers,
    })))
}

/// An image without the indexes above it.
struct Single {
    manifest: Document,
    config: Document,
    parsed: ImageConfig,
    layers: Vec<Layer>,
}

impl Single {
    fn below(self, above: Above) -> Resolved {
        let bytes = above.iter().map(|(index, _)| index.bytes.clone());
        Resolved {
            indexes: bytes.collect(),
            tree: Tree {
                indexes: above
                    .into_iter()
                    .map(|(index, entry)| (index.stored.clone(), entry))
                    .collect(),
                manifest: self.manifest.stored,
                config: self.config.stored,
                layers: self.layers,
                parsed: self.parsed,
            },
            manifest: self.manifest.bytes,
            config: self.config.bytes,
        }
    }
}

/// A document that is to be read.
struct Wanted {
    digest: String,
    media_type: String,
    size: u64,
}

impl Wanted {
    /// What a descriptor names, when no more than so many bytes are `left`.
    fn new(op: &Op, descriptor: &Descriptor, left: &mut u64) -> Result<Self> {
        let digest = descriptor.digest().to_string();
        check_digest(op, &digest)?;
        let size = descriptor.size();
        if size > MAX_DOCUMENT {
            return Err(op.corrupt(format!(
                "a manifest or configuration of {size} bytes is too large"
            )));
        }
        *left = left.checked_sub(size).ok_or_else(|| {
            op.corrupt(format!(
                "its manifests and configuration have more than {MAX_DOCUMENTS} bytes together"
            ))
        })?;
        Ok(Self {
            digest,
            media_type: descriptor.media_type().to_string(),
            size,
        })
    }
}

async fn fetch(op: &Op, source: &dyn Documents, wanted: Wanted, role: Role) -> Result<Document> {
    let Wanted {
        digest,
        media_type,
        size,
    } = wanted;
    let bytes = source.document(&digest, size, role).await?;
    if bytes.len() as u64 > size {
        return Err(op.corrupt(format!("{digest} is longer than its descriptor says")));
    }
    check_bytes(op, &bytes, &digest)?;
    Document::new(op, digest, media_type, bytes)
}

/// An index or a manifest.
#[derive(Debug)]
pub(super) enum Parsed {
    Index(Box<Index>),
    Manifest(Box<ImageManifest>),
}

impl Parsed {
    /// The media type to store it under, where the sender names none.
    pub(super) fn media_type(&self) -> String {
        let (named, default) = match self {
            Self::Index(index) => (
                index.media_type(),
                "application/vnd.oci.image.index.v1+json",
            ),
            Self::Manifest(manifest) => (
                manifest.media_type(),
                "application/vnd.oci.image.manifest.v1+json",
            ),
        };
        named
            .as_ref()
            .map_or_else(|| default.to_owned(), ToString::to_string)
    }
}

/// Reads an index or a manifest; which of them it is, its fields say, never the sender.
pub(super) fn parse(op: &Op, bytes: &[u8]) -> Result<Parsed> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Probe {
        schema_version: Option<u64>,
        manifests: Option<IgnoredAny>,
        layers: Option<IgnoredAny>,
        config: Option<IgnoredAny>,
    }
    let unreadable = |error: serde_json::Error| {
        op.fail_with(ErrorKind::Corrupt, "its manifest cannot be read", error)
    };
    let probe: Probe = serde_json::from_slice(bytes).map_err(unreadable)?;
    match probe {
        Probe {
            manifests: Some(_),
            layers: Some(_),
            ..
        }
        | Probe {
            manifests: Some(_),
            config: Some(_),
            ..
        } => Err(op.corrupt("its manifest claims to be an index, too")),
        Probe {
            manifests: Some(_), ..
        } => serde_json::from_slice(bytes)
            .map(Parsed::Index)
            .map_err(unreadable),
        Probe {
            config: Some(_), ..
        } => serde_json::from_slice(bytes)
            .map(Parsed::Manifest)
            .map_err(unreadable),
        Probe {
            schema_version: Some(1),
            ..
        } => Err(op.invalid("its manifest has Docker's schema 1, which is no longer in use")),
        _ => Err(op.invalid("it is not a container image")),
    }
}

fn nothing_for_us(op: &Op) -> botstead_runtime::Error {
    op.invalid(format!(
        "it has nothing for this machine's platform, linux/{}",
        platform::architecture()
    ))
}

fn read_config(
    op: &Op,
    manifest: &ImageManifest,
    bytes: &[u8],
) -> Result<(ImageConfig, Vec<Layer>)> {
    let config: ImageConfiguration = serde_json::from_slice(bytes).map_err(|error| {
        op.fail_with(
            ErrorKind::InvalidArgument,
            "it is not a container image: its configuration cannot be read",
            error,
        )
    })?;
    if !platform::can_run(&config) {
        return Err(nothing_for_us(op));
    }
    let diff_ids = config.rootfs().diff_ids();
    if manifest.layers().is_empty() {
        return Err(op.invalid("it has no layers"));
    }
    if manifest.layers().len() > MAX_LAYERS {
        return Err(op.invalid(format!("it has more than {MAX_LAYERS} layers")));
    }
    if manifest.layers().len() != diff_ids.len() {
        return Err(op.corrupt("its manifest and its configuration name different layers"));
    }
    let mut layers: Vec<Layer> = Vec::with_capacity(diff_ids.len());
    for (descriptor, diff_id) in manifest.layers().iter().zip(diff_ids) {
        check_digest(op, diff_id)?;
        let chain_id = match layers.last() {
            None => diff_id.clone(),
            // OCI image specification, config.md, "Layer ChainID".
            Some(below) => digest_of(format!("{} {diff_id}", below.chain_id).as_bytes()),
        };
        layers.push(read_layer(op, descriptor, diff_id, chain_id)?);
    }
    Ok((convert(&config), layers))
}

fn read_layer(op: &Op, descriptor: &Descriptor, diff_id: &str, chain_id: String) -> Result<Layer> {
    let digest = descriptor.digest().to_string();
    check_digest(op, &digest)?;
    if i64::try_from(descriptor.size()).is_err() {
        return Err(op.corrupt("a layer's size is out of range"));
    }
    let named = descriptor.media_type().to_string();
    let foreign = named.contains("nondistributable") || named.contains("foreign");
    if foreign
        || descriptor
            .urls()
            .as_ref()
            .is_some_and(|urls| !urls.is_empty())
    {
        return Err(op.invalid(format!(
            "its layer {digest} is a foreign layer, kept outside of the registry, which is not \
             supported"
        )));
    }
    let media_type = layer_type(&named)
        .ok_or_else(|| op.invalid(format!("its layer type {named:?} is not supported")))?;
    Ok(Layer {
        digest,
        size: descriptor.size(),
        media_type,
        diff_id: diff_id.to_owned(),
        chain_id,
    })
}

/// The OCI media type for a layer's format.
fn layer_type(named: &str) -> Option<&'static str> {
    Some(match named {
        "application/vnd.oci.image.layer.v1.tar"
        | "application/vnd.docker.image.rootfs.diff.tar" => LAYER_TAR,
        "application/vnd.oci.image.layer.v1.tar+gzip"
        | "application/vnd.docker.image.rootfs.diff.tar.gzip" => LAYER_GZIP,
        "application/vnd.oci.image.layer.v1.tar+zstd"
        | "application/vnd.docker.image.rootfs.diff.tar.zstd" => LAYER_ZSTD,
        _ => return None,
    })
}

pub(super) const LAYER_TAR: &str = "application/vnd.oci.image.layer.v1.tar";
pub(super) const LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
pub(super) const LAYER_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";

fn convert(config: &ImageConfiguration) -> ImageConfig {
    let architecture = config.architecture().to_string();
    let Some(inner) = config.config() else {
        return ImageConfig {
            architecture,
            ..ImageConfig::default()
        };
    };
    let labels: BTreeMap<String, String> = inner
        .labels()
        .iter()
        .flatten()
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    ImageConfig {
        env: inner.env().clone().unwrap_or_default(),
        entrypoint: inner.entrypoint().clone().unwrap_or_default(),
        cmd: inner.cmd().clone().unwrap_or_default(),
        user: inner.user().clone().unwrap_or_default(),
        working_dir: inner.working_dir().clone().unwrap_or_default(),
        labels,
        architecture,
        stop_signal: inner.stop_signal().clone(),
    }
}

#[cfg(test)]
mod tests;
