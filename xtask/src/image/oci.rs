//! Writes an OCI image archive of one layer (OCI image specification, image-layout.md).

use anyhow::{Context, Result};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::Path;

const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// Turns a root filesystem in a tar file into an image archive that names itself `name`.
pub(crate) fn write_archive(rootfs: &Path, archive: &Path, name: &str) -> Result<()> {
    let compressed = archive.with_extension("layer");
    let (diff_id, layer) = compress(rootfs, &compressed)?;
    let config = config(&diff_id).to_string();
    let config_blob = Blob::of(config.as_bytes());
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": config_blob.descriptor(CONFIG),
        "layers": [layer.descriptor(LAYER)],
    })
    .to_string();
    let manifest_blob = Blob::of(manifest.as_bytes());
    let mut entry = manifest_blob.descriptor(MANIFEST);
    entry["annotations"] = json!({
        // The first is read by containerd, the second is the specification's.
        "io.containerd.image.name": name,
        "org.opencontainers.image.ref.name": name.rsplit_once(':').map_or("latest", |(_, tag)| tag),
    });
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [entry]}).to_string();

    let file = File::create(archive).context("cannot create the image archive")?;
    let mut tar = tar::Builder::new(BufWriter::new(file));
    add(&mut tar, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    add(&mut tar, "index.json", index.as_bytes())?;
    add(&mut tar, &manifest_blob.path(), manifest.as_bytes())?;
    add(&mut tar, &config_blob.path(), config.as_bytes())?;
    let mut header = header(layer.size);
    let content = BufReader::new(File::open(&compressed).context("cannot read the layer")?);
    tar.append_data(&mut header, layer.path(), content)
        .context("cannot add the layer to the archive")?;
    let file = tar.into_inner()?.into_inner()?;
    file.sync_all().context("cannot write the image archive")?;
    fs::remove_file(&compressed).context("cannot remove the layer's own file")
}

struct Blob {
    digest: String,
    size: u64,
}

impl Blob {
    fn of(content: &[u8]) -> Self {
        Self {
            digest: hex::encode(Sha256::digest(content)),
            size: content.len() as u64,
        }
    }

    fn descriptor(&self, media_type: &str) -> Value {
        json!({
            "mediaType": media_type,
            "digest": format!("sha256:{}", self.digest),
            "size": self.size,
        })
    }

    fn path(&self) -> String {
        format!("blobs/sha256/{}", self.digest)
    }
}

/// Compresses the layer and gives the digest of its content with the blob that came out.
fn compress(rootfs: &Path, target: &Path) -> Result<(String, Blob)> {
    let mut input = File::open(rootfs).context("cannot read the root filesystem")?;
    let output = Hashed::new(BufWriter::new(
        File::create(target).context("cannot create the layer")?,
    ));
    let mut encoder = zstd::Encoder::new(output, 3)?;
    let mut content = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let count = input
            .read(&mut buffer)
            .context("cannot read the root filesystem")?;
        if count == 0 {
            break;
        }
        content.update(&buffer[..count]);
        encoder
            .write_all(&buffer[..count])
            .context("cannot write the layer")?;
    }
    let mut output = encoder.finish().context("cannot write the layer")?;
    output.flush().context("cannot write the layer")?;
    let blob = Blob {
        digest: hex::encode(output.hash.finalize()),
        size: output.size,
    };
    Ok((hex::encode(content.finalize()), blob))
}

/// A writer that knows the digest and size of what went through it.
struct Hashed<W> {
    inner: W,
    hash: Sha256,
    size: u64,
}

impl<W> Hashed<W> {
    fn new(inner: W) -> Self {
        Self {
            inner,
            hash: Sha256::new(),
            size: 0,
        }
    }
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(data)?;
        self.hash.update(&data[..count]);
        self.size += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// The image's configuration (image specification, config.md).
fn config(diff_id: &str) -> Value {
    json!({
        "architecture": architecture(),
        "os": "linux",
        "config": {
            "Env": [
                "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                "LANG=C.UTF-8",
            ],
            "Cmd": ["bash"],
            "WorkingDir": "/data",
        },
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{diff_id}")]},
        "history": [{"created_by": "cargo xtask image"}],
    })
}

/// The processor's name in the image specification, which follows Go's.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn header(size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_size(size);
    header.set_mode(0o644);
    header
}

fn add(tar: &mut tar::Builder<impl Write>, path: &str, content: &[u8]) -> Result<()> {
    let mut header = header(content.len() as u64);
    tar.append_data(&mut header, path, content)
        .with_context(|| format!("cannot add {path} to the archive"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn entries(archive: &Path) -> BTreeMap<String, Vec<u8>> {
        tar::Archive::new(File::open(archive).unwrap())
            .entries()
            .unwrap()
            .map(|entry| {
                let mut entry = entry.unwrap();
                let path = entry.path().unwrap().display().to_string();
                let mut content = Vec::new();
                entry.read_to_end(&mut content).unwrap();
                (path, content)
            })
            .collect()
    }

    #[test]
    fn every_descriptor_leads_to_a_blob_of_its_digest_and_size() {
        let folder = tempfile::tempdir().unwrap();
        let rootfs = folder.path().join("rootfs.tar");
        let mut tar = tar::Builder::new(File::create(&rootfs).unwrap());
        add(&mut tar, "etc/motd", &[b'x'; 100_000]).unwrap();
        tar.into_inner().unwrap();
        let archive = folder.path().join("image.tar");
        write_archive(&rootfs, &archive, "localhost/a/b:v2").unwrap();

        let files = entries(&archive);
        let resolve = |descriptor: &Value| {
            let digest = descriptor["digest"].as_str().unwrap();
            let content = &files[&format!("blobs/{}", digest.replace(':', "/"))];
            assert_eq!(
                digest,
                format!("sha256:{}", hex::encode(Sha256::digest(content)))
            );
            assert_eq!(descriptor["size"], content.len());
            content.clone()
        };
        let parse = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).unwrap();
        let index = parse(&files["index.json"]);
        let entry = &index["manifests"][0];
        assert_eq!(
            entry["annotations"]["io.containerd.image.name"],
            "localhost/a/b:v2"
        );
        assert_eq!(
            entry["annotations"]["org.opencontainers.image.ref.name"],
            "v2"
        );
        let manifest = parse(&resolve(entry));
        let config = parse(&resolve(&manifest["config"]));
        let layer = zstd::decode_all(&resolve(&manifest["layers"][0])[..]).unwrap();
        assert_eq!(layer, fs::read(&rootfs).unwrap());
        assert_eq!(
            config["rootfs"]["diff_ids"][0],
            format!("sha256:{}", hex::encode(Sha256::digest(&layer)))
        );
        assert!(!archive.with_extension("layer").exists());
    }
}
