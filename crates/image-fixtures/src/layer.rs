//! Layers: tar files, perhaps compressed, with their digests.

use crate::digest_of;
use bytes::Bytes;
use rand::{RngCore, SeedableRng, rngs::StdRng};
use std::io::{self, Write};
use tar::{EntryType, Header};

/// How a layer's tar file is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// A plain tar file.
    None,
    /// gzip, what most registries hold.
    Gzip,
    /// zstd.
    Zstd,
}

/// A layer as a registry holds it.
#[derive(Debug, Clone)]
pub struct Layer {
    /// The blob, compressed or not.
    pub blob: Bytes,
    /// The uncompressed tar file.
    pub tar: Bytes,
    /// The blob's digest.
    pub digest: String,
    /// The digest of the uncompressed tar file.
    pub diff_id: String,
    /// How the blob is compressed.
    pub compression: Compression,
}

/// Builds a layer entry by entry. Paths are relative to the image's root, without a leading slash.
///
/// A failed entry is reported by [`LayerBuilder::build`].
pub struct LayerBuilder {
    tar: tar::Builder<Vec<u8>>,
    failed: Option<io::Error>,
}

impl std::fmt::Debug for LayerBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LayerBuilder")
            .field("bytes", &self.tar.get_ref().len())
            .field("failed", &self.failed)
            .finish()
    }
}

impl Default for LayerBuilder {
    fn default() -> Self {
        Self::new()
    }
}

impl LayerBuilder {
    /// An empty layer.
    pub fn new() -> Self {
        Self {
            tar: tar::Builder::new(Vec::new()),
            failed: None,
        }
    }

    /// A directory that belongs to root.
    #[must_use]
    pub fn dir(self, path: &str, mode: u32) -> Self {
        self.entry(EntryType::Directory, path, mode, (0, 0), &[])
    }

    /// A directory with an owner, as user and group id.
    #[must_use]
    pub fn owned_dir(self, path: &str, mode: u32, owner: (u64, u64)) -> Self {
        self.entry(EntryType::Directory, path, mode, owner, &[])
    }

    /// A file that belongs to root.
    #[must_use]
    pub fn file(self, path: &str, mode: u32, data: impl AsRef<[u8]>) -> Self {
        self.entry(EntryType::Regular, path, mode, (0, 0), data.as_ref())
    }

    /// A file of `size` bytes that do not compress, the same for the same `seed`.
    #[must_use]
    pub fn random_file(self, path: &str, size: usize, seed: u64) -> Self {
        let mut data = vec![0; size];
        StdRng::seed_from_u64(seed).fill_bytes(&mut data);
        self.file(path, 0o644, data)
    }

    /// A symbolic link.
    #[must_use]
    pub fn symlink(mut self, path: &str, target: &str) -> Self {
        let mut header = header(EntryType::Symlink, 0o777, (0, 0), 0);
        let result = self.tar.append_link(&mut header, path, target);
        self.note(result);
        self
    }

    /// Removes what lower layers have at `path` (OCI image specification, layer.md, whiteouts).
    #[must_use]
    pub fn whiteout(self, path: &str) -> Self {
        let marker = match path.rsplit_once('/') {
            Some((parent, name)) => format!("{parent}/.wh.{name}"),
            None => format!(".wh.{path}"),
        };
        self.file(&marker, 0o644, "")
    }

    /// Hides everything that lower layers have in the directory `path`.
    #[must_use]
    pub fn opaque(self, path: &str) -> Self {
        self.file(&format!("{path}/.wh..wh..opq"), 0o644, "")
    }

    /// Finishes the tar file and compresses it.
    ///
    /// # Errors
    /// When an entry's name does not fit, or the compressor fails.
    pub fn build(self, compression: Compression) -> io::Result<Layer> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        let tar = self.tar.into_inner()?;
        let blob = match compression {
            Compression::None => tar.clone(),
            Compression::Gzip => {
                let mut gzip =
                    flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                gzip.write_all(&tar)?;
                gzip.finish()?
            }
            Compression::Zstd => zstd::encode_all(tar.as_slice(), 1)?,
        };
        Ok(Layer {
            digest: digest_of(&blob),
            diff_id: digest_of(&tar),
            blob: blob.into(),
            tar: tar.into(),
            compression,
        })
    }

    fn entry(
        mut self,
        kind: EntryType,
        path: &str,
        mode: u32,
        owner: (u64, u64),
        data: &[u8],
    ) -> Self {
        let mut header = header(kind, mode, owner, data.len() as u64);
        let result = self.tar.append_data(&mut header, path, data);
        self.note(result);
        self
    }

    fn note(&mut self, result: io::Result<()>) {
        if let Err(error) = result {
            self.failed.get_or_insert(error);
        }
    }
}

/// A header with a fixed time, so that the same image always has the same digest.
fn header(kind: EntryType, mode: u32, owner: (u64, u64), size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(owner.0);
    header.set_gid(owner.1);
    header.set_size(size);
    header.set_mtime(1_700_000_000);
    header
}
