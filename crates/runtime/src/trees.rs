//! The files of a snapshot, opened on this host.

use std::os::fd::BorrowedFd;

/// What an opened snapshot is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Looking.
    Read,
    /// Changing.
    Write,
}

/// The files of a snapshot as one tree. They are hostile: whoever uses them goes by open directories
/// beneath the root and never follows a link out. Dropping it closes it without waiting for the disk.
pub trait Tree: Send + Sync {
    /// The root directory.
    fn root(&self) -> BorrowedFd<'_>;

    /// Closes it; what was written is on the disk when this returns. Blocks.
    ///
    /// # Errors
    /// What the disk refused: then the snapshot is not what was written to it.
    fn close(self: Box<Self>) -> std::io::Result<()>;
}
