//! Why something was not done with layers.

use crate::copy::CHANGED;
use rustix::io::Errno;
use std::io;
use std::path::PathBuf;

/// Why something was not done with layers. They themselves are as they were.
///
/// Paths are relative to the layers, shortened, and not exact where a name is not UTF-8.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is nothing to merge or mount.
    #[error("there are no layers")]
    NoLayers,
    /// The target has entries already.
    #[error("the target {} is not empty", .0.display())]
    TargetNotEmpty(PathBuf),
    /// A layer uses a feature of overlayfs that cannot be merged: a redirected directory, a file
    /// whose content is in another layer, a whiteout in the form of an attribute.
    #[error("cannot merge {path}: it has the overlay mark {mark}")]
    Unsupported {
        /// Where.
        path: String,
        /// The name of the extended attribute.
        mark: String,
    },
    /// A file or directory is immutable or append-only: neither a link nor a copy would be the same.
    #[error("cannot merge {path}: it is immutable or append-only")]
    Immutable {
        /// Where.
        path: String,
    },
    /// A layer or the target was changed by someone else.
    #[error("cannot merge {path}: it was changed meanwhile")]
    Changed {
        /// Where.
        path: String,
    },
    /// What was copied was changed by someone else.
    #[error("cannot {operation} {path}: it changed while it was copied; ask again")]
    ChangedMeanwhile {
        /// What was tried.
        operation: &'static str,
        /// Where.
        path: String,
    },
    /// Something beneath a mount that is to be closed is still open.
    #[error("cannot unmount the overlay that writes to {}: something in it is still open", .0.display())]
    Busy(PathBuf),
    /// It is no path of something that can be restored: empty, the root, with parts `.` or `..`, or
    /// with a zero byte.
    #[error("{0} cannot be restored: it must name something beneath the root")]
    NoPath(String),
    /// There is nothing to restore.
    #[error("cannot restore {0}: the tree does not have it")]
    NotFound(String),
    /// Where a directory would have to be there is something else, such as a symbolic link.
    #[error("cannot restore anything beneath {0}: it is not a directory")]
    InTheWay(String),
    /// The filesystem failed.
    #[error("cannot {operation} {path}")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// Where.
        path: String,
        /// The failure.
        #[source]
        source: io::Error,
    },
}

impl Error {
    pub(crate) fn io(operation: &'static str, path: impl ToString, errno: Errno) -> Self {
        let path = path.to_string();
        match errno {
            CHANGED => Self::ChangedMeanwhile { operation, path },
            errno => Self::Io {
                operation,
                path,
                source: errno.into(),
            },
        }
    }

    /// Whether the disk or a quota is full.
    pub fn is_disk_full(&self) -> bool {
        let Self::Io { source, .. } = self else {
            return false;
        };
        is_disk_full(source)
    }
}

/// Whether a failure says that the disk or a quota is full.
pub fn is_disk_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

/// A path from outside, for messages: the last part of it, on one line.
pub(crate) fn shown(path: &[u8]) -> String {
    const SHOWN: usize = 200;
    let cut = &path[path.len().saturating_sub(SHOWN)..];
    let text = String::from_utf8_lossy(cut);
    let dots = if cut.len() < path.len() { "..." } else { "/" };
    format!("{dots}{}", text.escape_debug())
}
