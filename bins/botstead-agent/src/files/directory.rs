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
    show: impl FnMut(&[u8], FileType) -> Result<ControlFlow<()>>,
) -> Result<()> {
    seek(directory, SeekFrom::Start(0))?;
    each_from_here(directory, show, || false).map(drop)
}

/// Shows the entries that come next, until `pause` says so; false at the end.
fn each_from_here(
    directory: &OwnedFd,
    mut show: impl FnMut(&[u8], FileType) -> Result<ControlFlow<()>>,
    pause: impl Fn() -> bool,
) -> Result<bool> {
    let mut buffer: Vec<u8> = Vec::with_capacity(BUFFER);
    let mut entries = RawDir::new(directory, buffer.spare_capacity_mut());
    // What is in the buffer would be lost.
    while !(entries.is_buffer_empty() && pause()) {
        let Some(entry) = entries.next() else {
            return Ok(false);
        };
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if matches!(name, b"." | b"..") {
            continue;
        }
        if show(name, entry.file_type())?.is_break() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// What stands first in a directory after a point, sorted.
#[derive(Debug, Default)]
pub(crate) struct Chunk {
    pub(crate) items: Vec<Item>,
    /// Whether there is more after the last item.
    pub(crate) more: bool,
}

/// Chooses the first items after a point while a directory is read, in bounded memory.
#[derive(Debug)]
pub(crate) struct Choice {
    after: Option<Item>,
    limit: usize,
    /// Directories count twice: themselves, and what is below them.
    below: bool,
    /// The largest on top.
    first: BinaryHeap<Item>,
    more: bool,
}

impl Choice {
    pub(crate) fn new(after: Option<Item>, limit: usize, below: bool) -> Self {
        Self {
            after,
            limit,
            below,
            first: BinaryHeap::new(),
            more: false,
        }
    }

    /// Reads on in a directory that was opened for this, until `pause` says so; true when there is
    /// more to read.
    pub(crate) fn read(&mut self, directory: &OwnedFd, pause: impl Fn() -> bool) -> Result<bool> {
        let show = |name: &[u8], kind| {
            let kind = known(directory, name, kind);
            self.offer(name, kind, false);
            if self.below && kind == FileType::Directory {
                self.offer(name, kind, true);
            }
            Ok(ControlFlow::Continue(()))
        };
        each_from_here(directory, show, pause)
    }

    fn offer(&mut self, name: &[u8], kind: FileType, below: bool) {
        let key = Key { name, below };
        if self.after.as_ref().is_some_and(|after| key <= after.key()) {
            return;
        }
        if self.first.len() == self.limit {
            self.more = true;
            if self.first.peek().is_none_or(|largest| largest.key() <= key) {
                return;
            }
            self.first.pop();
        }
        let name = name.to_vec();
        self.first.push(Item { name, kind, below });
    }

    pub(crate) fn chosen(self) -> Chunk {
        Chunk {
            items: self.first.into_sorted_vec(),
            more: self.more,
        }
    }
}

/// Reads the first `limit` items after `after`; with what is `below` directories where that is wanted.
pub(crate) fn chunk(
    directory: &OwnedFd,
    after: Option<Item>,
    limit: usize,
    below: bool,
) -> Result<Chunk> {
    seek(directory, SeekFrom::Start(0))?;
    let mut choice = Choice::new(after, limit, below);
    choice.read(directory, || false)?;
    Ok(choice.chosen())
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
