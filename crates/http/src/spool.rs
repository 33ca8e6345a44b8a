//! Uploads on their way: streamed to a file that only the server can read and that is always removed:
//! with what received it, or, after a server that was killed, by the next one.

use crate::HttpConfig;
use crate::problem::Problem;
use actix_web::http::StatusCode;
use botstead_workspace as workspace;
use botstead_workspace::Workspaces;
use bytes::Bytes;
use futures_util::Stream;
use std::fs::File;
use std::io;
use std::path::Path;
use tempfile::TempPath;
use tokio::io::{AsyncWriteExt, BufWriter};
use tokio_util::io::ReaderStream;

/// Few and large writes: each is a hop to a blocking thread.
const BUFFER_BYTES: usize = 1 << 20;

/// What names of spooled files begin with.
const PREFIX: &str = "upload-";

/// Free space is looked at whenever so much more came.
pub(crate) const LOOK_BYTES: u64 = 64 << 20;

/// Why something could not be received.
#[derive(Debug)]
pub(crate) enum Error<E> {
    /// It did not come whole.
    Source(E),
    /// It is larger than this.
    TooLarge(u64),
    /// The disk is too full for it.
    Space(workspace::Error),
    /// It could not be stored.
    Io(io::Error),
}

impl<E: Into<Problem>> Error<E> {
    /// The reply; `too_large` names what is, in a code and words.
    pub(crate) fn into_problem(self, code: &'static str, too_large: &str) -> Problem {
        match self {
            Self::Source(error) => error.into(),
            Self::TooLarge(limit) => Problem::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                code,
                format!("{too_large} is larger than {limit} bytes"),
            ),
            Self::Space(error) => error.into(),
            Self::Io(error) => failed(error),
        }
    }
}

/// Makes the folder for uploads, and removes what a server that was killed left in it.
pub(crate) fn prepare(folder: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)?;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let ours = entry
            .file_name()
            .to_str()
            .is_some_and(|name| name.starts_with(PREFIX));
        if ours && entry.file_type()?.is_file() {
            std::fs::remove_file(entry.path())?;
            tracing::info!(file = ?entry.file_name(), "removed an upload that was left behind");
        }
    }
    Ok(())
}

/// A received file; it is removed when this is dropped.
#[derive(Debug)]
pub(crate) struct Spooled {
    path: TempPath,
    /// Its size in bytes.
    pub(crate) size: u64,
}

impl Spooled {
    /// Receives chunks until there are none, as long as the disk has room for them. The caller has
    /// looked who sends them.
    pub(crate) async fn receive<E>(
        config: &HttpConfig,
        workspaces: &Workspaces,
        limit: u64,
        mut next: impl AsyncFnMut() -> Result<Option<Bytes>, E>,
    ) -> Result<Self, Error<E>> {
        let directory = config.spool_dir.clone();
        // Mode 0600, and a name that nobody can guess.
        let created = tokio::task::spawn_blocking(move || {
            tempfile::Builder::new()
                .prefix(PREFIX)
                .tempfile_in(directory)
        });
        let created = created.await.map_err(io::Error::other).map_err(Error::Io)?;
        let (file, path) = created.map_err(Error::Io)?.into_parts();
        let mut file = BufWriter::with_capacity(BUFFER_BYTES, tokio::fs::File::from_std(file));
        let (mut size, mut looked) = (0u64, 0u64);
        while let Some(chunk) = next().await.map_err(Error::Source)? {
            size += chunk.len() as u64;
            if size > limit {
                return Err(Error::TooLarge(limit));
            }
            if size - looked >= LOOK_BYTES {
                workspaces.require_space(LOOK_BYTES).map_err(Error::Space)?;
                looked = size;
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
        let file = tokio::fs::File::from_std(self.into_file().await?);
        Ok(ReaderStream::with_capacity(file, BUFFER_BYTES))
    }

    /// Opens the file and removes its name; the handle alone keeps it.
    pub(crate) async fn into_file(self) -> io::Result<File> {
        let opened = tokio::task::spawn_blocking(move || {
            let file = File::open(&self.path)?;
            // Open is enough to read it.
            drop(self.path);
            Ok(file)
        });
        opened.await.map_err(io::Error::other)?
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_left_behind_goes() {
        let folder = tempfile::tempdir().unwrap();
        let spool = folder.path().join("spool");
        prepare(&spool).unwrap();
        for name in ["upload-a1", "upload-b2", "kept"] {
            std::fs::write(spool.join(name), "x").unwrap();
        }
        std::fs::create_dir(spool.join("upload-dir")).unwrap();
        prepare(&spool).unwrap();
        let left = std::fs::read_dir(&spool).unwrap();
        let mut left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["kept", "upload-dir"]);
    }
}
