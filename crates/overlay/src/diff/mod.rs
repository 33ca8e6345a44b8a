//! What differs between two stacks of layers.

mod same;
mod walk;

use crate::{Error, PrivateMount};
use rustix::fs::{FileType, Statx};
use std::path::PathBuf;

/// How a path differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Change {
    /// Only the new tree has it.
    Added,
    /// Both have it, but not the same.
    Changed,
    /// Only the old tree has it.
    Removed,
}

/// What is at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
    /// A character device.
    CharacterDevice,
    /// A block device.
    BlockDevice,
}

/// One path that differs.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Difference {
    /// From the root, without a slash at the ends; any bytes.
    pub path: Vec<u8>,
    /// How it differs.
    pub change: Change,
    /// What it is in the new tree, or was in the old one if it is removed.
    pub kind: Kind,
    /// Its size in bytes there, if it is a regular file.
    pub size: Option<u64>,
}

/// Some of the differences.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Differences {
    /// In order.
    pub items: Vec<Difference>,
    /// Where to go on; absent when these are the last.
    pub next: Option<Vec<u8>>,
}

/// The differences from one stack of layers to another, each given from the bottom up: at most `most`
/// of them (at least one), after `after`, which is the `next` of an earlier call.
///
/// They come in the order of their paths, part by part and byte by byte: what is in a directory
/// follows it. Each path of an added or removed tree is one. The root itself is none.
///
/// **What is the same**: the kind, the permission bits, the owner, and
/// - of a file the size and either the time of modification, to the nanosecond, or the content. So
///   what was only touched is the same; and so is what was rewritten to the same size and given its
///   old time on purpose, which cannot be told without reading everything;
/// - of a symbolic link the target; of a device its number.
///
/// Times of other kinds and extended attributes are not compared.
///
/// **What is looked at**: where the stacks begin with the same layers, only paths that the others
/// have, and trees that those replace. Else both trees in whole. Memory: the page, and for each
/// directory on the way to the present one at most 16,384 names.
///
/// The layers are mounted privately, are hostile, and should not change meanwhile: those of something
/// that runs may give a wrong answer, or an error, but no harm.
///
/// # Errors
/// [`Error::Io`] when layers cannot be mounted or read.
pub fn diff(
    old: &[PathBuf],
    new: &[PathBuf],
    after: Option<&[u8]>,
    most: usize,
) -> Result<Differences, Error> {
    let common = old.iter().zip(new).take_while(|(a, b)| a == b).count();
    let above: Vec<_> = old[common..].iter().chain(&new[common..]).collect();
    if above.is_empty() && common > 0 {
        return Ok(Differences {
            items: Vec::new(),
            next: None,
        });
    }
    let sides = [PrivateMount::read_only(old)?, PrivateMount::read_only(new)?];
    let above = (common > 0).then_some(above);
    walk::walk(&sides, above.as_deref(), after, most.max(1))
}

impl Difference {
    fn new(path: &[u8], change: Change, stat: &Statx) -> Self {
        let (kind, size) = match crate::tree::kind(stat) {
            FileType::Directory => (Kind::Directory, None),
            FileType::Symlink => (Kind::Symlink, None),
            FileType::Fifo => (Kind::Fifo, None),
            FileType::Socket => (Kind::Socket, None),
            FileType::CharacterDevice => (Kind::CharacterDevice, None),
            FileType::BlockDevice => (Kind::BlockDevice, None),
            FileType::RegularFile | FileType::Unknown => (Kind::File, Some(stat.stx_size)),
        };
        Self {
            path: path.to_vec(),
            change,
            kind,
            size,
        }
    }
}
