//! How large an image may be: what its documents say is checked before anything is downloaded, and what
//! they do not say, how much its layers become unpacked, while they are.

use super::ContainerdImages;
use super::config::ImageLimits;
use super::tree::{LAYER_GZIP, LAYER_TAR, LAYER_ZSTD, Layer, Tree};
use crate::op::Op;
use botstead_runtime::{Error, ErrorKind, Result};
use bytes::{Buf, Bytes};
use containerd_client::services::v1::ReadContentRequest;
use std::io::{self, BufReader, Read};
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::mpsc;

/// No decoder of DEFLATE makes more of a byte: 258 bytes from two bits (RFC 1951).
const MOST_OF_GZIP: u64 = 1032;
/// Nor of Zstandard: a block of 128 KiB from four bytes (RFC 8878).
const MOST_OF_ZSTD: u64 = 32 << 10;
/// How many layers are measured at once; each may need the 128 MiB of a Zstandard window.
pub(super) const MEASURED_AT_ONCE: usize = 2;
/// How many pieces wait to be measured.
const WAITING: usize = 2;

fn too_large(op: &Op, reason: impl Into<String>) -> Error {
    op.fail(ErrorKind::TooLarge, reason)
}

impl ImageLimits {
    /// Refuses a configuration by what its descriptor says.
    pub(super) fn check_config(&self, op: &Op, bytes: u64) -> Result<()> {
        if bytes <= self.config_bytes {
            return Ok(());
        }
        Err(too_large(
            op,
            format!(
                "its configuration has {bytes} bytes, and this server takes {} (images.max_config_bytes)",
                self.config_bytes
            ),
        ))
    }

    /// Refuses an image by what its documents say.
    pub(super) fn check(&self, op: &Op, tree: &Tree) -> Result<()> {
        let layers = &tree.layers;
        if layers.len() > self.layers {
            let reason = format!(
                "it has {} layers, and this server takes {} (images.max_layers)",
                layers.len(),
                self.layers
            );
            return Err(too_large(op, reason));
        }
        if let Some(layer) = layers.iter().find(|layer| layer.size > self.layer_bytes) {
            let reason = format!(
                "its layer {} has {} bytes, and this server takes {} (images.max_layer_bytes)",
                layer.digest, layer.size, self.layer_bytes
            );
            return Err(too_large(op, reason));
        }
        if tree.size() > self.bytes {
            let reason = format!(
                "its layers have {} bytes, and this server takes {} (images.max_bytes)",
                tree.size(),
                self.bytes
            );
            return Err(too_large(op, reason));
        }
        Ok(())
    }
}

/// What the layers of one image may still become.
#[derive(Debug)]
pub(super) struct Room {
    limit: u64,
    left: AtomicU64,
    /// Whether no decoder could make more of the layers than there is room for.
    sure: bool,
}

impl Room {
    pub(super) fn new(limits: &ImageLimits, layers: &[Layer]) -> Self {
        let limit = limits.unpacked_bytes;
        let most = layers.iter().map(most).fold(0, u64::saturating_add);
        Self {
            limit,
            left: AtomicU64::new(limit),
            sure: most <= limit,
        }
    }

    /// For what is local already.
    pub(super) fn endless() -> Self {
        Self {
            limit: u64::MAX,
            left: AtomicU64::new(u64::MAX),
            sure: true,
        }
    }

    fn left(&self) -> u64 {
        self.left.load(Ordering::Relaxed)
    }

    fn take(&self, op: &Op, bytes: u64) -> Result<()> {
        let take = |left: u64| left.checked_sub(bytes);
        let taken = self
            .left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take);
        match taken {
            Ok(_) => Ok(()),
            Err(_) => Err(too_large(
                op,
                format!(
                    "its layers have more than {} bytes unpacked, the most that this server takes \
                     (images.max_unpacked_bytes)",
                    self.limit
                ),
            )),
        }
    }
}

/// The most bytes that a layer can become.
fn most(layer: &Layer) -> u64 {
    let times = match layer.media_type {
        LAYER_TAR => 1,
        LAYER_GZIP => MOST_OF_GZIP,
        _ => MOST_OF_ZSTD,
    };
    layer.size.saturating_mul(times)
}

impl ContainerdImages {
    /// Measures a layer of the content store beside its unpacking, which does not tell how far it is, and
    /// fails as soon as there is no room for it.
    pub(super) async fn measure(&self, op: &Op, layer: &Layer, room: &Room) -> Result<()> {
        if room.sure {
            return Ok(());
        }
        if layer.media_type == LAYER_TAR {
            return room.take(op, layer.size);
        }
        let _turn = self.measures.acquire().await.map_err(|_| op.cancelled())?;
        let (sender, pieces) = mpsc::channel(WAITING);
        let (media_type, left) = (layer.media_type, room.left());
        let counting = tokio::task::spawn_blocking(move || count(media_type, pieces, left));
        // When this future is dropped, so is the sender, and the thread sees the end.
        self.send_content(op, &layer.digest, sender).await?;
        let unreadable = || format!("its layer {} cannot be unpacked", layer.digest);
        match counting.await {
            Ok(Ok(bytes)) => room.take(op, bytes),
            Ok(Err(error)) => Err(op.fail_with(ErrorKind::Corrupt, unreadable(), error)),
            Err(error) => Err(op.fail_with(ErrorKind::Internal, "measuring it failed", error)),
        }
    }

    /// Sends content piece by piece to whoever takes it, as long as they do.
    async fn send_content(&self, op: &Op, digest: &str, sender: mpsc::Sender<Bytes>) -> Result<()> {
        let request = ReadContentRequest {
            digest: digest.to_owned(),
            ..ReadContentRequest::default()
        };
        let mut content = self.client.content();
        let answer = content.read(self.client.request(request)).await;
        let mut parts = answer.map_err(|status| op.status(status))?.into_inner();
        while let Some(part) = parts.message().await.map_err(|status| op.status(status))? {
            if sender.send(part.data.into()).await.is_err() {
                break;
            }
        }
        Ok(())
    }
}

/// How many bytes the pieces become, at least; not much more than `limit` are looked at.
fn count(media_type: &str, pieces: mpsc::Receiver<Bytes>, limit: u64) -> io::Result<u64> {
    let pieces = BufReader::new(Pieces {
        pieces,
        piece: Bytes::new(),
    });
    let mut reader: Box<dyn Read> = match media_type {
        LAYER_ZSTD => Box::new(zstd::Decoder::with_buffer(pieces)?),
        _ => Box::new(flate2::bufread::MultiGzDecoder::new(pieces)),
    };
    let mut buffer = vec![0; 64 << 10];
    let mut bytes = 0;
    loop {
        match reader.read(&mut buffer)? {
            0 => return Ok(bytes),
            read => bytes += read as u64,
        }
        if bytes > limit {
            return Ok(bytes);
        }
    }
}

/// Pieces as they arrive, as a reader.
struct Pieces {
    pieces: mpsc::Receiver<Bytes>,
    piece: Bytes,
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            match self.pieces.blocking_recv() {
                Some(piece) => self.piece = piece,
                None => return Ok(0),
            }
        }
        let taken = buffer.len().min(self.piece.len());
        self.piece.copy_to_slice(&mut buffer[..taken]);
        Ok(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn counted(media_type: &str, bytes: &[u8], limit: u64) -> io::Result<u64> {
        let (sender, pieces) = mpsc::channel(1000);
        for piece in bytes.chunks(1000) {
            sender.try_send(Bytes::copy_from_slice(piece)).unwrap();
        }
        drop(sender);
        count(media_type, pieces, limit)
    }

    #[test]
    fn what_layers_become_is_counted_up_to_a_limit() {
        let data = vec![0; 10 << 20];
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        gzip.write_all(&data).unwrap();
        let gzip = gzip.finish().unwrap();
        let zstd = zstd::encode_all(data.as_slice(), 19).unwrap();
        for (media_type, bytes, most) in [
            (LAYER_GZIP, &gzip, MOST_OF_GZIP),
            (LAYER_ZSTD, &zstd, MOST_OF_ZSTD),
        ] {
            let all = counted(media_type, bytes, u64::MAX).unwrap();
            assert_eq!(all, 10 << 20);
            assert!(all <= bytes.len() as u64 * most, "{media_type}");
            let some = counted(media_type, bytes, 1 << 20).unwrap();
            assert!(some > 1 << 20 && some < 2 << 20, "{some}");
            assert!(counted(media_type, &bytes[..bytes.len() / 2], u64::MAX).is_err());
        }
        // Members one after the other are one stream.
        let twice = [gzip.as_slice(), gzip.as_slice()].concat();
        assert_eq!(counted(LAYER_GZIP, &twice, u64::MAX).unwrap(), 20 << 20);
    }
}
