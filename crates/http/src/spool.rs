//! Uploads on their way: streamed to a file that only the server can read and that is always removed.

use crate::HttpConfig;
use crate::problem::Problem;
use actix_web::http::StatusCode;
use bytes::Bytes;
use futures_util::Stream;
use std::io;
use std::path::Path;
use tempfile::TempPath;
use tokio::io::{AsyncWriteExt, BufWriter};
use tokio_util::io::ReaderStream;

/// Few and large writes: each is a hop to a blocking thread.
const BUFFER_BYTES: usize = 1 << 20;

/// Why something could not be received.
#[derive(Debug)]
pub(crate) enum Error<E> {
    /// It did not come whole.
    Source(E),
    /// It could not be stored.
    Io(io::Error),
}

/// A received file; it is removed when this is dropped.
#[derive(Debug)]
pub(crate) struct Spooled {
    path: TempPath,
    /// Its size in bytes.
    pub(crate) size: u64,
}

impl Spooled {
    /// Receives chunks until there are none.
    pub(crate) async fn receive<E>(
        config: &HttpConfig,
        limit: u64,
        mut next: impl AsyncFnMut() -> Result<Option<Bytes>, E>,
    ) -> Result<Self, Error<E>>
    where
        E: From<TooLarge>,
    {
        let directory = config.spool_dir.clone();
        // Mode 0600, and a name that nobody can guess.
        let created = tokio::task::spawn_blocking(move || {
            tempfile::Builder::new()
                .prefix("upload-")
                .tempfile_in(directory)
        });
        let created = created.await.map_err(io::Error::other).map_err(Error::Io)?;
        let (file, path) = created.map_err(Error::Io)?.into_parts();
        let mut file = BufWriter::with_capacity(BUFFER_BYTES, tokio::fs::File::from_std(file));
        let mut size = 0u64;
        while let Some(chunk) = next().await.map_err(Error::Source)? {
            size += chunk.len() as u64;
            if size > limit {
                return Err(Error::Source(TooLarge(limit).into()));
            }
            file.write_all(&chunk).await.map_err(Error::Io)?;
        }
        file.flush().await.map_err(Error::Io)?;
        Ok(Self { path, size })
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Its content; the file is removed with the stream.
    pub(crate) async fn into_stream(
        self,
    ) -> io::Result<impl Stream<Item = io::Result<Bytes>> + Send + 'static> {
        let file = tokio::fs::File::open(&self.path).await?;
        // Open is enough to read it.
        drop(self.path);
        Ok(ReaderStream::with_capacity(file, BUFFER_BYTES))
    }
}

/// More was sent than is taken: this many bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TooLarge(pub(crate) u64);

/// What it means that a spooled file could not be written or read.
pub(crate) fn failed(error: io::Error) -> Problem {
    if matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    ) {
        Problem::new(
            StatusCode::INSUFFICIENT_STORAGE,
            "insufficient_storage",
            "the host is short of disk space for the upload",
        )
        .caused_by(error)
    } else {
        Problem::internal(error)
    }
}
