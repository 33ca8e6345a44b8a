//! Images as tar files: the layout of the OCI image specification, and that of `docker save`.

use crate::{Image, Index};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::io::{self, Write};

/// Writes an OCI archive: `oci-layout`, `index.json` and `blobs/sha256/*`.
///
/// Each of `images` gets its name as the annotation `org.opencontainers.image.ref.name`, none when
/// it has no name. `index` adds a nested index (a multi-platform image) under a name.
///
/// # Errors
/// When `out` cannot be written.
pub fn oci_archive(
    out: impl Write,
    images: &[(Option<&str>, &Image)],
    index: Option<(&str, &Index)>,
) -> io::Result<()> {
    let mut tar = tar::Builder::new(out);
    let mut seen = BTreeSet::new();
    append(&mut tar, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    let mut manifests = Vec::new();
    for (name, image) in images {
        append_blobs(&mut tar, &mut seen, image)?;
        let mut descriptor = image.descriptor();
        if let Some(name) = name {
            descriptor["annotations"] = ref_name(name);
        }
        manifests.push(descriptor);
    }
    if let Some((name, index)) = index {
        for image in &index.images {
            append_blobs(&mut tar, &mut seen, image)?;
        }
        append(&mut tar, &blob_path(&index.digest()), &index.bytes)?;
        manifests.push(json!({
            "mediaType": index.media_type,
            "digest": index.digest(),
            "size": index.bytes.len(),
            "annotations": ref_name(name),
        }));
    }
    let top = json!({ "schemaVersion": 2, "manifests": manifests }).to_string();
    append(&mut tar, "index.json", top.as_bytes())?;
    tar.into_inner()?.flush()
}

/// Writes an archive as `docker save` does: `manifest.json`, one `<hex>.json` per image and one
/// uncompressed `<hex>/layer.tar` per layer. `tags` may be empty.
///
/// # Errors
/// When `out` cannot be written.
pub fn docker_archive(out: impl Write, images: &[(&[&str], &Image)]) -> io::Result<()> {
    let mut tar = tar::Builder::new(out);
    let mut seen = BTreeSet::new();
    let mut entries = Vec::new();
    for (tags, image) in images {
        let config = format!("{}.json", hex_of(&image.config_digest()));
        append(&mut tar, &config, &image.config)?;
        let mut layers = Vec::new();
        for layer in &image.layers {
            let path = format!("{}/layer.tar", hex_of(&layer.diff_id));
            if seen.insert(path.clone()) {
                append(&mut tar, &path, &layer.tar)?;
            }
            layers.push(path);
        }
        entries.push(json!({ "Config": config, "RepoTags": tags, "Layers": layers }));
    }
    let manifest = Value::Array(entries).to_string();
    append(&mut tar, "manifest.json", manifest.as_bytes())?;
    tar.into_inner()?.flush()
}

fn ref_name(name: &str) -> Value {
    json!({ "org.opencontainers.image.ref.name": name })
}

fn hex_of(digest: &str) -> &str {
    digest.split_once(':').map_or(digest, |(_, hex)| hex)
}

fn blob_path(digest: &str) -> String {
    format!("blobs/sha256/{}", hex_of(digest))
}

fn append_blobs(
    tar: &mut tar::Builder<impl Write>,
    seen: &mut BTreeSet<String>,
    image: &Image,
) -> io::Result<()> {
    for (digest, bytes) in image.blobs() {
        if seen.insert(digest.clone()) {
            append(tar, &blob_path(&digest), &bytes)?;
        }
    }
    Ok(())
}

fn append(tar: &mut tar::Builder<impl Write>, path: &str, data: &[u8]) -> io::Result<()> {
    let mut header = tar::Header::new_ustar();
    header.set_mode(0o644);
    header.set_size(data.len() as u64);
    tar.append_data(&mut header, path, data)
}
