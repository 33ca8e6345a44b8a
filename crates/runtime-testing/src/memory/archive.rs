//! Import of image archives: OCI layouts and what `docker save` writes, which holds the same
//! kind of manifest in other words.

use super::Shared;
use super::faults::Op;
use super::images::ImageContent;
use botstead_runtime::{ErrorKind, Image, Result};
use botstead_types::{ImageConfig, ImageRef, LeaseId};
use bytes::Bytes;
use oci_spec::image::{ImageConfiguration, ImageIndex, ImageManifest};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::io::{self, Cursor, Read};
use std::path::Path;
use tokio_util::sync::CancellationToken;

const OP: Op = Op("images.import", "import image");

/// The most that an archive may hold; what is in memory must fit there.
const MAX_BYTES: u64 = 256 << 20;

/// The annotation that names an image (OCI image specification, annotations.md), and the one in
/// which containerd and docker put the full reference.
const NAMES: [&str; 2] = [
    "io.containerd.image.name",
    "org.opencontainers.image.ref.name",
];

type Files = BTreeMap<String, Bytes>;

/// Imports every image of the archive.
pub(super) async fn import(
    shared: &Shared,
    lease: &LeaseId,
    archive: &Path,
    name: Option<&ImageRef>,
    cancel: &CancellationToken,
) -> Result<Vec<Image>> {
    let subject = archive.display();
    shared.admit(&mut shared.state(), OP, &subject)?;
    if cancel.is_cancelled() {
        return Err(OP.error(ErrorKind::Cancelled, &subject));
    }
    let bytes = tokio::fs::read(archive).await.map_err(|error| {
        OP.error(ErrorKind::InvalidArgument, &subject)
            .because("it cannot be read")
            .with_source(error)
    })?;
    let found = read(&bytes, name).map_err(|(kind, reason)| {
        let error = OP.error(kind, &subject);
        error.because(reason)
    })?;
    let mut state = shared.state();
    let put = |(reference, content)| state.put_image(OP, Some(lease), &reference, content);
    found.into_iter().map(put).collect()
}

type Refusal = (ErrorKind, String);

fn invalid(reason: impl ToString) -> Refusal {
    (ErrorKind::InvalidArgument, reason.to_string())
}

fn corrupt(reason: impl ToString) -> Refusal {
    (ErrorKind::Corrupt, reason.to_string())
}

/// All images of an archive with their names.
fn read(
    bytes: &[u8],
    name: Option<&ImageRef>,
) -> std::result::Result<Vec<(ImageRef, ImageContent)>, Refusal> {
    let files = unpack(bytes).map_err(|error| invalid(format!("it is no tar file: {error}")))?;
    let index = files
        .get("index.json")
        .ok_or_else(|| invalid("it has no index.json"))?;
    let index: ImageIndex = serde_json::from_slice(index).map_err(invalid)?;
    let mut images = Vec::new();
    for descriptor in index.manifests() {
        let annotations = descriptor.annotations().as_ref();
        let own = annotations
            .and_then(|all| NAMES.iter().find_map(|key| all.get(*key)))
            // A bare tag is no name.
            .filter(|name| name.contains('/') || name.contains(':'))
            .and_then(|name| name.parse().ok());
        let reference = own
            .or_else(|| name.cloned())
            .ok_or_else(|| invalid("an image has no name"))?;
        images.push((reference, image(&files, descriptor.digest().as_ref())?));
    }
    if images.is_empty() {
        return Err(invalid("it holds no image"));
    }
    Ok(images)
}

/// One image, by the digest of its manifest.
fn image(files: &Files, digest: &str) -> std::result::Result<ImageContent, Refusal> {
    let manifest: ImageManifest = serde_json::from_slice(blob(files, digest)?).map_err(invalid)?;
    let config = blob(files, manifest.config().digest().as_ref())?;
    let configuration: ImageConfiguration = serde_json::from_slice(config).map_err(invalid)?;
    let diff_ids = configuration.rootfs().diff_ids();
    if diff_ids.len() != manifest.layers().len() {
        return Err(corrupt("its layers are not those of its configuration"));
    }
    let mut layers = Vec::new();
    for (layer, diff_id) in manifest.layers().iter().zip(diff_ids) {
        let blob = blob(files, layer.digest().as_ref())?;
        let tar = decompress(blob).map_err(corrupt)?;
        if digest_of(&tar) != *diff_id {
            return Err(corrupt(format!("a layer is not {diff_id}")));
        }
        let content = entries(&tar).map_err(corrupt)?;
        layers.push(content.into_iter().map(whiteout).collect());
    }
    Ok(ImageContent {
        layers,
        config: config_of(&configuration),
    })
}

/// What a layer's entry means: `.wh.name` hides `name` (OCI image specification, layer.md).
fn whiteout((path, content): (String, Bytes)) -> (String, Option<Bytes>) {
    let (folder, name) = path.rsplit_once('/').unwrap_or(("", &path));
    match name.strip_prefix(".wh.") {
        Some(hidden) if folder.is_empty() => (hidden.to_owned(), None),
        Some(hidden) => (format!("{folder}/{hidden}"), None),
        None => (path.clone(), Some(content)),
    }
}

fn config_of(configuration: &ImageConfiguration) -> ImageConfig {
    let config = configuration.config().clone().unwrap_or_default();
    ImageConfig {
        env: config.env().clone().unwrap_or_default(),
        entrypoint: config.entrypoint().clone().unwrap_or_default(),
        cmd: config.cmd().clone().unwrap_or_default(),
        user: config.user().clone().unwrap_or_default(),
        working_dir: config.working_dir().clone().unwrap_or_default(),
        labels: config
            .labels()
            .clone()
            .unwrap_or_default()
            .into_iter()
            .collect(),
        architecture: configuration.architecture().to_string(),
        stop_signal: config.stop_signal().clone(),
    }
}

/// A blob, checked against its digest.
fn blob<'a>(files: &'a Files, digest: &str) -> std::result::Result<&'a Bytes, Refusal> {
    let path = format!("blobs/{}", digest.replacen(':', "/", 1));
    let blob = files
        .get(&path)
        .ok_or_else(|| corrupt(format!("{digest} is missing")))?;
    if digest_of(blob) == digest {
        Ok(blob)
    } else {
        Err(corrupt(format!("{path} is not what its name says")))
    }
}

fn digest_of(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

fn unpack(bytes: &[u8]) -> io::Result<Files> {
    entries(&decompress(bytes)?)
}

/// The regular files of a tar file.
fn entries(tar: &[u8]) -> io::Result<Files> {
    let mut files = Files::new();
    for entry in tar::Archive::new(tar).entries()? {
        let mut entry = entry?;
        if !entry.header().entry_type().is_file() {
            continue;
        }
        let path = entry.path()?.to_string_lossy().into_owned();
        let path = path
            .trim_start_matches("./")
            .trim_start_matches('/')
            .to_owned();
        let mut content = Vec::new();
        entry.read_to_end(&mut content)?;
        files.insert(path, content.into());
    }
    Ok(files)
}

/// Undoes the compression that the first bytes tell of.
fn decompress(bytes: &[u8]) -> io::Result<Vec<u8>> {
    let reader: Box<dyn Read + '_> = match bytes {
        [0x1f, 0x8b, ..] => Box::new(flate2::read::MultiGzDecoder::new(bytes)),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Box::new(zstd::Decoder::new(bytes)?),
        _ => Box::new(Cursor::new(bytes)),
    };
    let mut plain = Vec::new();
    reader.take(MAX_BYTES + 1).read_to_end(&mut plain)?;
    if plain.len() as u64 > MAX_BYTES {
        return Err(io::Error::other("it is larger than 256 MiB"));
    }
    Ok(plain)
}
