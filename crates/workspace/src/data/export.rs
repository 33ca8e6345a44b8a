//! Export: `/data` as an archive, as it was at one moment, while the workspace goes on.

use crate::notes::Note;
use crate::pools::{ExportPlace, on_thread};
use crate::replace::{blocking, existing_data};
use crate::service::{Inner, Workspaces};
use crate::spec::DATA_PATH;
use crate::{DataTrouble, Error, Result, disk};
use botstead_archive::{Compression, ExportOptions, ExportReport, Progress};
use botstead_authz::{Action, Actor};
use botstead_runtime::{Access, Tree};
use botstead_types::{BotId, FilePath, LeaseId, OperationId, SnapshotKey, SnapshotKind};
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::mpsc::error::SendTimeoutError;
use tokio::sync::{mpsc, oneshot};

/// The folder that everything is in within an archive.
pub(crate) const FOLDER: &str = "data";

/// Pieces of an archive between the thread that writes it and whoever reads it.
const QUEUE: usize = 8;
const PIECE: usize = 256 << 10;

/// How an archive of data is packed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ArchiveFormat {
    /// tar in gzip.
    #[default]
    TarGz,
    /// tar in zstd.
    TarZst,
}

impl ArchiveFormat {
    /// The end of a file name, such as `tar.gz`.
    pub fn extension(self) -> &'static str {
        match self {
            Self::TarGz => "tar.gz",
            Self::TarZst => "tar.zst",
        }
    }

    pub(crate) fn options(self) -> ExportOptions {
        let mut options = ExportOptions::new(FOLDER);
        options.compression = match self {
            // A third of the time of level 6 for some 3 % more bytes.
            Self::TarGz => Compression::Gzip { level: 2 },
            Self::TarZst => Compression::ZSTD,
        };
        options
    }
}

impl Workspaces {
    /// `/data` as an archive: what it was at one moment during this call. The workspace is not
    /// stopped, and nothing of it is held while the archive is read. Dropping the stream ends it, and
    /// so does taking nothing from it for [`crate::WorkspaceConfig::export_patience`]. An error in the
    /// stream means that the archive is not whole.
    ///
    /// Sockets and devices are left out; the log says how many.
    ///
    /// # Errors
    /// `BotNotFound`, `WorkspaceNotFound`, `PathNotFound` when there is no `/data`, `DataNotDirectory`,
    /// `Busy`, `InsufficientStorage`; `Archive` when there are more entries than an import takes; `TooManyExports` when as many are under way as there may be, of this
    /// user or of all; `Unsupported` where snapshots are no directories of this host.
    pub async fn export_data(
        &self,
        actor: &Actor,
        bot: BotId,
        format: ArchiveFormat,
    ) -> Result<BoxStream<'static, Result<Bytes>>> {
        let inner = &self.inner;
        inner.authorized(actor, Action::ReadWorkspace, bot).await?;
        inner.refuse_when_closing()?;
        let place = inner.pools.export(actor)?;
        let work = Arc::clone(inner);
        // The writer begins here too: when nobody is left to read, it is what clears up.
        inner
            .detached(async move {
                let picture = work.picture(bot).await?;
                Ok(work.stream_picture(bot, picture, format, place))
            })
            .await
    }
}

/// A workspace's files at one moment, kept until its lease goes.
pub(crate) struct Picture {
    pub(crate) operation: OperationId,
    /// `/data`, or what it leads to. Closed before its tree.
    pub(crate) data: OwnedFd,
    pub(crate) tree: Box<dyn Tree>,
    /// The writable snapshot that it is: no lease keeps that one, and somebody may discard it meanwhile.
    pub(crate) writable: Option<SnapshotKey>,
}

impl Inner {
    /// `/data` of a picture as an archive.
    pub(crate) fn stream_picture(
        self: &Arc<Self>,
        bot: BotId,
        picture: Picture,
        format: ArchiveFormat,
        place: ExportPlace,
    ) -> BoxStream<'static, Result<Bytes>> {
        let (sender, mut receiver) = mpsc::channel(QUEUE);
        let (ended, outcome) = oneshot::channel();
        let work = Arc::clone(self);
        self.spawn(async move {
            let _place = place;
            work.write_archive(bot, picture, format, sender, ended)
                .await;
        });
        async_stream::stream! {
            while let Some(piece) = receiver.recv().await {
                yield Ok(piece);
            }
            // Without an outcome the server ended before the archive did.
            if let Err(error) = outcome.await.unwrap_or(Err(Error::ShuttingDown)) {
                yield Err(error);
            }
        }
        .boxed()
    }

    /// The files as they are now. Where the workspace runs, or may differ from its head version, they
    /// are copied; else the head version is looked at.
    async fn picture(self: &Arc<Self>, bot: BotId) -> Result<Picture> {
        let id = OperationId::generate();
        let _guard = self.lock(bot, id, "export").await?;
        let record = self.present_record(bot).await?;
        let lease = LeaseId::for_operation(id);
        self.runtime.leases.create(&lease).await?;
        let opened = async {
            let snapshot = match record.head_version.filter(|_| !record.dirty) {
                Some(head) => self.version(bot, head).await?.snapshot,
                None => {
                    disk::require_free_space(&self.config)?;
                    let copied = SnapshotKey::copied(id);
                    let note = Note::of(bot, &record.image, record.head_version);
                    self.copy_live(&lease, &record, &copied, &note, false)
                        .await?;
                    // From here on the lease alone keeps it: it goes with the export.
                    self.runtime.snapshots.release(&copied).await?;
                    copied
                }
            };
            self.open_picture(id, &lease, &snapshot).await
        };
        let opened = opened.await;
        self.keep_picture(id, opened).await
    }

    /// The picture that a snapshot is. Nobody writes to it any more.
    pub(crate) async fn open_picture(
        &self,
        operation: OperationId,
        lease: &LeaseId,
        snapshot: &SnapshotKey,
    ) -> Result<Picture> {
        let snapshots = &self.runtime.snapshots;
        let kind = snapshots.get(snapshot).await?.kind;
        let writable = (kind == SnapshotKind::Active).then(|| snapshot.clone());
        let tree = snapshots.open(lease, snapshot, Access::Read).await?;
        blocking(move || match existing_data(tree.as_ref())? {
            Some(data) => {
                // What an export makes, an import takes.
                botstead_archive::require_importable(&data)?;
                Ok(Picture {
                    operation,
                    data,
                    tree,
                    writable,
                })
            }
            None => Err(Error::PathNotFound(FilePath::new(DATA_PATH)?)),
        })
        .await
    }

    /// Clears up after a picture that could not be made.
    pub(crate) async fn keep_picture<T>(
        self: &Arc<Self>,
        operation: OperationId,
        made: Result<T>,
    ) -> Result<T> {
        if made.is_err() {
            let copied = SnapshotKey::copied(operation);
            if let Err(release) = self.runtime.snapshots.release(&copied).await {
                // The next start does it.
                tracing::warn!(%copied, error = %release.chain(), "cannot release");
            }
            self.drop_lease(operation);
        }
        made
    }

    async fn write_archive(
        self: Arc<Self>,
        bot: BotId,
        picture: Picture,
        format: ArchiveFormat,
        sender: mpsc::Sender<Bytes>,
        ended: oneshot::Sender<Result<()>>,
    ) {
        let Picture {
            operation,
            data,
            tree,
            writable,
        } = picture;
        let patience = self.config.export_patience;
        let out = Pieces::new(sender.clone(), self.handle.clone(), patience);
        let stalled = Arc::clone(&out.stalled);
        let written = on_thread("export", move || {
            let written = write(data, format, out);
            Ok((tree, written))
        });
        let (tree, outcome) = match written.await {
            Ok((tree, written)) => (Some(tree), written),
            Err(error) => (None, Err(error)),
        };
        let outcome = match outcome {
            Err(_) if stalled.load(Ordering::Relaxed) => Err(Error::ExportStalled(patience)),
            outcome => outcome,
        };
        let outcome = match (outcome, writable) {
            // Its files went after its name.
            (Ok(()), Some(writable)) => match self.snapshot_exists(&writable).await {
                Ok(true) => Ok(()),
                Ok(false) => Err(Error::NothingToRecover(writable.into())),
                Err(error) => Err(error),
            },
            (outcome, _) => outcome,
        };
        match &outcome {
            Err(_) if sender.is_closed() => {
                tracing::info!(%bot, "an export ended because its reader left");
            }
            Err(error) => tracing::warn!(%bot, %error, "an export failed"),
            Ok(()) => {}
        }
        // Nobody may be there any more; whoever is has all of it before its picture is cleared away.
        let _ = ended.send(outcome);
        drop(sender);
        let cleared = on_thread("export", move || {
            drop(tree);
            Ok(())
        });
        if let Err(error) = cleared.await {
            tracing::warn!(%bot, %error, "what an export was read from stays mounted");
        }
        self.drop_lease(operation);
        self.collect_released();
    }
}

fn write(data: OwnedFd, format: ArchiveFormat, out: Pieces) -> Result<()> {
    let (mut out, report) =
        botstead_archive::export(data, out, &format.options(), &Progress::new())?;
    require_all(&report)?;
    let failed = |error| crate::replace::host("send the archive", error);
    out.flush().map_err(failed)?;
    let left_out = report.sockets_left_out + report.devices_left_out;
    if left_out > 0 {
        tracing::info!(
            sockets = report.sockets_left_out,
            devices = report.devices_left_out,
            "left out of an export"
        );
    }
    Ok(())
}

/// Refuses an archive that lacks what is mounted within the tree.
pub(super) fn require_all(report: &ExportReport) -> Result<()> {
    match report.mounts_left_out {
        0 => Ok(()),
        _ => Err(Error::DataNotDirectory(DataTrouble::Mounted)),
    }
}

/// The way from the thread that writes to whoever reads; it waits for them.
struct Pieces {
    sender: mpsc::Sender<Bytes>,
    handle: Handle,
    /// How long it waits for them.
    patience: Duration,
    /// Set when that was too long.
    stalled: Arc<AtomicBool>,
    /// The piece that is being filled.
    piece: BytesMut,
}

impl Pieces {
    fn new(sender: mpsc::Sender<Bytes>, handle: Handle, patience: Duration) -> Self {
        Self {
            sender,
            handle,
            patience,
            stalled: Arc::default(),
            piece: BytesMut::new(),
        }
    }
}

impl Write for Pieces {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        if self.piece.capacity() == 0 {
            self.piece.reserve(PIECE);
        }
        let length = data.len().min(PIECE - self.piece.len());
        self.piece.extend_from_slice(&data[..length]);
        if self.piece.len() == PIECE {
            self.flush()?;
        }
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.piece.is_empty() {
            return Ok(());
        }
        let piece = std::mem::take(&mut self.piece).freeze();
        let sent = self.sender.send_timeout(piece, self.patience);
        self.handle.block_on(sent).map_err(|error| match error {
            SendTimeoutError::Closed(_) => io::ErrorKind::BrokenPipe.into(),
            SendTimeoutError::Timeout(_) => {
                self.stalled.store(true, Ordering::Relaxed);
                io::ErrorKind::TimedOut.into()
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(patience: Duration) -> (Pieces, mpsc::Receiver<Bytes>) {
        let (sender, receiver) = mpsc::channel(QUEUE);
        (Pieces::new(sender, Handle::current(), patience), receiver)
    }

    #[tokio::test]
    async fn pieces_are_full_but_the_last_and_never_empty() {
        let (mut pieces, mut receiver) = pieces(Duration::from_secs(60));
        let written = on_thread("test", move || {
            pieces.write_all(&[7; 2 * PIECE + 1]).unwrap();
            pieces.flush().unwrap();
            pieces.flush().unwrap();
            Ok(())
        });
        written.await.unwrap();
        let mut lengths = Vec::new();
        while let Some(piece) = receiver.recv().await {
            lengths.push(piece.len());
        }
        assert_eq!(lengths, [PIECE, PIECE, 1]);
    }

    #[tokio::test]
    async fn a_reader_who_takes_nothing_is_not_waited_for() {
        let (mut pieces, receiver) = pieces(Duration::from_millis(20));
        let stalled = Arc::clone(&pieces.stalled);
        let kind = on_thread("test", move || {
            let full = vec![7; (QUEUE + 1) * PIECE];
            Ok(pieces.write_all(&full).unwrap_err().kind())
        });
        assert_eq!(kind.await.unwrap(), io::ErrorKind::TimedOut);
        assert!(stalled.load(Ordering::Relaxed));
        drop(receiver);
    }
}
