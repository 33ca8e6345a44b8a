//! Reading directories: the smallest names after a point, in bounded memory however many there are.

use super::path::Key;
use super::root::stat_at;
use rustix::fd::OwnedFd;
use rustix::fs::{FileType, RawDir, SeekFrom, seek};
use rustix::io::Result;
use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::ops::ControlFlow;

/// Holds some thousand names.
const BUFFER: usize = 64 << 10;

/// A step of a walk through a directory: an entry of it, or what is below that entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Item {
    pub(crate) name: Vec<u8>,
    pub(crate) kind: FileType,
    /// What is below, not the entry itself.
    pub(crate) below: bool,
}

impl Item {
    pub(crate) fn key(&self) -> Key<'_> {
        Key {
            name: &self.name,
            below: self.below,
        }
    }
}

impl Ord for Item {
    fn cmp(&self, other: &Self) -> Ordering {
        self.key().cmp(&other.key())
    }
}

impl PartialOrd for Item {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Shows every entry of a directory, `.` and `..` excepted, from its beginning.
pub(crate) fn each(
    directory: &OwnedFd,
    mut show: impl FnMut(&[u8], FileType) -> Result<ControlFlow<()>>,
) -> Result<()> {
    seek(directory, SeekFrom::Start(0))?;
    let mut buffer: Vec<u8> = Vec::with_capacity(BUFFER);
    let mut entries = RawDir::new(directory, buffer.spare_capacity_mut());
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if matches!(name, b"." | b"..") {
            continue;
        }
        if show(name, entry.file_type())?.is_break() {
            break;
        }
    }
    Ok(())
}

/// What stands first in a directory after a point, sorted.
#[derive(Debug, Default)]
pub(crate) struct Chunk {
    pub(crate) items: Vec<Item>,
    /// Whether there is more after the last item.
    pub(crate) more: bool,
}

/// Reads the first `limit` items after `after`. Directories count twice where what is `below` them is
/// wanted.
pub(crate) fn chunk(
    directory: &OwnedFd,
    after: Option<Key<'_>>,
    limit: usize,
    below: bool,
) -> Result<Chunk> {
    // The largest on top.
    let mut first: BinaryHeap<Item> = BinaryHeap::new();
    let mut more = false;
    let mut offer = |name: &[u8], kind, below| {
        let key = Key { name, below };
        if after.is_some_and(|after| key <= after) {
            return;
        }
        if first.len() == limit {
            more = true;
            if first.peek().is_none_or(|largest| largest.key() <= key) {
                return;
            }
            first.pop();
        }
        let name = name.to_vec();
        first.push(Item { name, kind, below });
    };
    each(directory, |name, kind| {
        let kind = known(directory, name, kind);
        offer(name, kind, false);
        if below && kind == FileType::Directory {
            offer(name, kind, true);
        }
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(Chunk {
        items: first.into_sorted_vec(),
        more,
    })
}

/// The kind of an entry also on a filesystem whose directories do not tell it.
fn known(directory: &OwnedFd, name: &[u8], kind: FileType) -> FileType {
    match kind {
        FileType::Unknown => {
            stat_at(directory, name).map_or(FileType::Unknown, |stat| super::entry::kind(&stat))
        }
        known => known,
    }
}
