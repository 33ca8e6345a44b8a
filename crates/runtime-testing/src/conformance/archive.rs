//! Image archives for tests of imports: small OCI layouts (OCI image specification,
//! image-layout.md), whole or damaged.

use flate2::{Compression, write::GzEncoder};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::io::{self, Write};
use tempfile::NamedTempFile;

/// How an archive is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packing {
    /// Not at all.
    Plain,
    /// With gzip.
    Gzip,
    /// With zstd.
    Zstd,
}

/// What can be wrong with an archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Damage {
    /// The layer's bytes are not those of its digest.
    Blob,
    /// The unpacked layer is not what the configuration says.
    DiffId,
}

/// An archive of one image, whose only layer has a file `/imported` with `text` in it.
#[derive(Debug, Clone)]
pub struct ImageArchive<'a> {
    /// The image's own name.
    pub name: Option<&'a str>,
    /// What the file says.
    pub text: &'a str,
    /// How the archive is compressed.
    pub packing: Packing,
    /// What is wrong with it.
    pub damage: Option<Damage>,
}

impl ImageArchive<'_> {
    /// Writes it to a temporary file.
    ///
    /// # Errors
    /// What the host's temporary directory answers.
    pub fn write(&self) -> io::Result<NamedTempFile> {
        let tar = self.tar()?;
        let packed = match self.packing {
            Packing::Plain => tar,
            Packing::Gzip => gzip(&tar)?,
            Packing::Zstd => zstd::encode_all(&tar[..], 0)?,
        };
        let mut file = NamedTempFile::new()?;
        file.write_all(&packed)?;
        file.flush()?;
        Ok(file)
    }

    fn tar(&self) -> io::Result<Vec<u8>> {
        let mut layer = tar::Builder::new(Vec::new());
        add(&mut layer, "imported", self.text.as_bytes())?;
        let layer = layer.into_inner()?;
        let mut blobs = Vec::new();
        let diff_id = match self.damage {
            Some(Damage::DiffId) => digest(b"another layer"),
            _ => digest(&layer),
        };
        let layer = self.blob(
            &mut blobs,
            "application/vnd.oci.image.layer.v1.tar+gzip",
            gzip(&layer)?,
        );
        let config = json!({
            "architecture": architecture(),
            "os": "linux",
            "config": { "Env": ["PATH=/bin", "IMPORTED=1"], "WorkingDir": "/" },
            "rootfs": { "type": "layers", "diff_ids": [diff_id] },
        });
        let config = self.blob(
            &mut blobs,
            "application/vnd.oci.image.config.v1+json",
            config.to_string().into_bytes(),
        );
        let manifest_type = "application/vnd.oci.image.manifest.v1+json";
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": manifest_type,
            "config": config,
            "layers": [layer],
        });
        let mut manifest = self.blob(&mut blobs, manifest_type, manifest.to_string().into_bytes());
        if let Some(name) = self.name {
            manifest["annotations"] = json!({
                "io.containerd.image.name": name,
                "org.opencontainers.image.ref.name": name,
            });
        }
        let index = json!({ "schemaVersion": 2, "manifests": [manifest] });
        if self.damage == Some(Damage::Blob)
            && let Some((_, layer)) = blobs.first_mut()
            && let Some(last) = layer.last_mut()
        {
            *last ^= 0xff;
        }
        let mut archive = tar::Builder::new(Vec::new());
        add(
            &mut archive,
            "oci-layout",
            br#"{"imageLayoutVersion":"1.0.0"}"#,
        )?;
        for (path, blob) in &blobs {
            add(&mut archive, path, blob)?;
        }
        add(&mut archive, "index.json", index.to_string().as_bytes())?;
        archive.into_inner()
    }

    /// Keeps a blob and describes it.
    fn blob(&self, blobs: &mut Vec<(String, Vec<u8>)>, media_type: &str, blob: Vec<u8>) -> Value {
        let digest = digest(&blob);
        let descriptor = json!({
            "mediaType": media_type,
            "digest": digest,
            "size": blob.len(),
        });
        blobs.push((format!("blobs/{}", digest.replace(':', "/")), blob));
        descriptor
    }
}

fn add(archive: &mut tar::Builder<Vec<u8>>, path: &str, content: &[u8]) -> io::Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    archive.append_data(&mut header, path, content)
}

fn gzip(bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes)?;
    encoder.finish()
}

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

/// This machine's architecture in Go's words, which images use.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
