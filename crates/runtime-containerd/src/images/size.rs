//! How large an image may be: what its documents say is checked before anything is downloaded, and what
//! they do not say, how much its layers become unpacked, while they are.

use super::ContainerdImages;
use super::config::ImageLimits;
use super::tree::{Layer, Tree};
use super::weight::{TooWide, Window, weigh};
use crate::op::Op;
use botstead_runtime::{Error, ErrorKind, Result};
use bytes::{Buf, Bytes};
use containerd_client::services::v1::ReadContentRequest;
use std::io::{self, BufReader, Read};
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::{Semaphore, SemaphorePermit, mpsc};

/// How many layers are measured at once, of which each needs at most 8 MiB of memory: as good as all have
/// one, so that nobody's layers wait for other ones that take long.
const MEASURED_AT_ONCE: usize = 32;
/// The same of those that need up to 128 MiB, the widest window of Zstandard, which few do and every one
/// that wants to: they wait for each other alone.
const WIDE_AT_ONCE: usize = 2;
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

/// Places for measuring, which are places for unpacking, too.
#[derive(Debug)]
pub(super) struct Measures {
    usual: Semaphore,
    wide: Semaphore,
}

impl Default for Measures {
    fn default() -> Self {
        Self {
            usual: Semaphore::new(MEASURED_AT_ONCE),
            wide: Semaphore::new(WIDE_AT_ONCE),
        }
    }
}

impl Measures {
    /// A place for a layer that needs so much memory.
    pub(super) async fn place(&self, op: &Op, window: Window) -> Result<SemaphorePermit<'_>> {
        let places = match window {
            Window::Usual => &self.usual,
            Window::Widest => &self.wide,
        };
        places.acquire().await.map_err(|_| op.cancelled())
    }
}

/// How a layer is measured.
#[derive(Debug, Clone, Copy)]
pub(super) struct Measure<'a> {
    pub(super) room: &'a Room,
    /// What it has a place for.
    pub(super) window: Window,
}

/// Why a layer was not measured.
#[derive(Debug)]
pub(super) enum Unmeasured {
    /// It needs more memory than it had a place for.
    TooWide,
    Failed(Error),
}

impl From<Error> for Unmeasured {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// What the layers of one image may still become.
#[derive(Debug)]
pub(super) struct Room {
    limit: u64,
    left: AtomicU64,
}

impl Room {
    pub(super) fn new(limits: &ImageLimits) -> Self {
        let limit = limits.unpacked_bytes;
        Self {
            limit,
            left: AtomicU64::new(limit),
        }
    }

    /// For what is local already.
    pub(super) fn endless() -> Self {
        Self {
            limit: u64::MAX,
            left: AtomicU64::new(u64::MAX),
        }
    }

    pub(super) fn is_endless(&self) -> bool {
        self.limit == u64::MAX
    }

    fn left(&self) -> u64 {
        self.left.load(Ordering::Relaxed)
    }

    fn take(&self, op: &Op, bytes: u64) -> Result<()> {
        let take = |left: u64| left.checked_sub(bytes);
        self.left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take)
            .map(|_| ())
            .map_err(|_| self.exceeded(op))
    }

    fn exceeded(&self, op: &Op) -> Error {
        too_large(
            op,
            format!(
                "its layers have more than {} bytes unpacked, the most that this server takes \
                 (images.max_unpacked_bytes)",
                self.limit
            ),
        )
    }
}

impl ContainerdImages {
    /// Measures a layer of the content store beside its unpacking, which does not tell how far it is, and
    /// fails as soon as there is no room for it. Nothing that the image says about itself is trusted.
    pub(super) async fn measure(
        &self,
        op: &Op,
        layer: &Layer,
        Measure { room, window }: Measure<'_>,
    ) -> Result<(), Unmeasured> {
        if room.is_endless() {
            return Ok(());
        }
        let (sender, pieces) = mpsc::channel(WAITING);
        let left = room.left();
        let weighing =
            tokio::task::spawn_blocking(move || weigh(Pieces::reader(pieces), left, window));
        // When this future is dropped, so is the sender, and the thread sees the end.
        self.send_content(op, &layer.digest, sender).await?;
        let unreadable = || format!("its layer {} cannot be unpacked", layer.digest);
        let failed = match weighing.await {
            Ok(Ok(bytes)) => return Ok(room.take(op, bytes)?),
            Ok(Err(error)) if TooWide::is(&error) => return Err(Unmeasured::TooWide),
            Ok(Err(error)) if error.kind() == io::ErrorKind::FileTooLarge => room.exceeded(op),
            Ok(Err(error)) => op.fail_with(ErrorKind::Corrupt, unreadable(), error),
            Err(error) => op.fail_with(ErrorKind::Internal, "measuring it failed", error),
        };
        Err(failed.into())
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

/// Pieces as they arrive, as a reader.
struct Pieces {
    pieces: mpsc::Receiver<Bytes>,
    piece: Bytes,
}

impl Pieces {
    fn reader(pieces: mpsc::Receiver<Bytes>) -> BufReader<Self> {
        BufReader::new(Self {
            pieces,
            piece: Bytes::new(),
        })
    }
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
