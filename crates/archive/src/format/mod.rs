//! The tar format: what an entry is, and how it is written and read. Knows no filesystem.
//!
//! The blocks' layout and the encoding of fields on writing are the `tar` crate's. Its reader is not
//! used: it splits extended headers at newlines (the values of attributes are binary), does not know
//! the sparse formats of PAX, and takes an archive that is cut off between two entries for complete.
//! Nor is its writer: it takes attributes' names as text only and follows paths itself.

mod fields;
mod pax;
mod read;
mod sparse;
mod write;

pub(crate) use read::Reader;
pub(crate) use sparse::MapText;
pub(crate) use write::{END, Head, encode};

/// Everything in an archive is a multiple of this long.
pub(crate) const BLOCK: usize = 512;

/// What fills the last block of so many bytes.
pub(crate) fn padding(bytes: u64) -> usize {
    // Below 512, so that it fits.
    (bytes.wrapping_neg() % BLOCK as u64) as usize
}

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    HardLink,
    Symlink,
    Directory,
    Fifo,
}

/// A time: seconds since 1970, perhaps negative, and nanoseconds after them, below 1,000,000,000.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Time {
    pub(crate) seconds: i64,
    pub(crate) nanoseconds: u32,
}

/// A piece of a sparse file that is no hole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Extent {
    pub(crate) start: u64,
    pub(crate) length: u64,
}

/// An entry that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Member {
    /// As the archive gives it.
    pub(crate) name: Vec<u8>,
    /// The target of a link.
    pub(crate) link: Vec<u8>,
    pub(crate) kind: Kind,
    /// Permission bits, with set-id and sticky.
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) modified: Time,
    /// Of the file, holes included.
    pub(crate) size: u64,
    /// Where the data goes, when it is not simply all of the file.
    pub(crate) extents: Option<Vec<Extent>>,
    /// Names and values, without `SCHILY.xattr.`.
    pub(crate) attributes: Vec<(Vec<u8>, Vec<u8>)>,
}
