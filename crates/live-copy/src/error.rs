//! Why a copy was not made.

use rustix::io::Errno;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// Why a copy was not made. After any of them the target may hold a part of it, never a copy that looks
/// complete; it can be removed like any directory. Nobody is left frozen.
///
/// Paths are relative to the tree, shortened, and not exact where a name is not UTF-8.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The target has entries already.
    #[error("the target {} is not empty", .0.display())]
    TargetNotEmpty(PathBuf),
    /// Another filesystem is mounted inside of the source.
    #[error("cannot copy {path}: another filesystem is mounted there")]
    ForeignFilesystem {
        /// Where.
        path: String,
    },
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
    /// The control group's files could not be read or written.
    #[error("cannot {operation} the control group at {}", .group.display())]
    Group {
        /// What was tried.
        operation: &'static str,
        /// Where.
        group: PathBuf,
        /// The failure.
        #[source]
        source: io::Error,
    },
    /// The processes did not all stand still in time, though it was tried several times. One in an
    /// uninterruptible wait, such as for a slow disk, makes this happen. Trying later may help.
    #[error("the processes did not freeze within {waited:?}, in {attempts} attempts")]
    FreezeTimedOut {
        /// How long the last attempt waited.
        waited: Duration,
        /// How many attempts there were.
        attempts: u32,
    },
    /// What changes faster than it can be copied would keep the processes frozen for longer than
    /// allowed. Trying when the workspace is quieter may help.
    #[error("the processes would be frozen for longer than {limit:?}")]
    FreezeTooLong {
        /// How long they may be frozen.
        limit: Duration,
        /// How many attempts were made and thrown away.
        attempts: u32,
    },
    /// Someone else thawed the processes while they were being copied, each time.
    #[error("someone else thawed the processes meanwhile, in {attempts} attempts")]
    Thawed {
        /// How many attempts there were.
        attempts: u32,
    },
    /// The helper that thaws the processes if this program dies does not work, so that nobody was
    /// frozen.
    #[error("the thaw guard {} does not work", .program.display())]
    Guard {
        /// The program.
        program: PathBuf,
        /// The failure.
        #[source]
        source: io::Error,
    },
    /// The tree has more entries than can be remembered while it is copied. One that nobody writes to
    /// need not be copied.
    #[error(
        "the tree has too many entries to be copied while it is written to: they would take more than {limit} bytes of memory"
    )]
    TooManyEntries {
        /// See [`Options::memory_limit`](crate::Options::memory_limit).
        limit: u64,
    },
    /// The caller's hook failed.
    #[error("the caller's work on the frozen tree failed")]
    BeforeThaw(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The caller cancelled.
    #[error("cancelled")]
    Cancelled,
}

impl Error {
    pub(crate) fn io(operation: &'static str, path: impl ToString, errno: Errno) -> Self {
        Self::Io {
            operation,
            path: path.to_string(),
            source: errno.into(),
        }
    }

    /// Whether the disk or a quota is full.
    pub fn is_disk_full(&self) -> bool {
        matches!(self, Self::Io { source, .. } if botstead_overlay::is_disk_full(source))
    }

    /// Whether the same call may succeed later without anyone's doing: the workspace was too busy.
    pub fn is_temporary(&self) -> bool {
        matches!(
            self,
            Self::FreezeTimedOut { .. } | Self::FreezeTooLong { .. } | Self::Thawed { .. }
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_and_a_full_quota_are_told_apart_from_other_failures() {
        assert!(Error::io("write", "a", Errno::NOSPC).is_disk_full());
        assert!(Error::io("write", "a", Errno::DQUOT).is_disk_full());
        assert!(!Error::io("write", "a", Errno::IO).is_disk_full());
        assert!(!Error::Cancelled.is_disk_full());
    }
}
