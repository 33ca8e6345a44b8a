//! The second stage of an import: putting a checked archive's entries into a directory.
//!
//! Everything is made new beneath the destination, never written through what is there: no link is
//! followed, no existing file opened. All-or-nothing is the caller's, who gives a fresh mount and
//! drops it after an error.

mod place;

use crate::check::{Checked, attributes};
use crate::compress::{Ahead, unpack};
use crate::error::{Entry, Error, Refusal, escape};
use crate::format::{Extent, Kind, Member, Reader};
use crate::names::{Names, Node, Trail, clean, link_target};
use crate::progress::Progress;
use botstead_overlay::remove::empty;
use place::{Metadata, Places, Trouble, Way, times};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{ftruncate, futimens};
use rustix::io::{Errno, pwrite};
use std::io::{self, BufRead, Read, Seek};

/// What becomes of what the destination has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ApplyMode {
    /// It stays, but for what the archive has under the same names: those entries, directories
    /// included, become as the archive has them, also where they are of another kind. Directories
    /// merge, and take the archive's metadata; the destination itself keeps its own.
    Merge,
    /// It goes first. The destination itself stays, and takes the metadata of the archive's root if
    /// that has an entry.
    Replace,
}

/// A user and a group, as numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Owner {
    /// The user's.
    pub uid: u32,
    /// The group's.
    pub gid: u32,
}

/// Whom everything belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ownership {
    /// One owner for all entries; the numbers in the archive where there is none.
    pub entries: Option<Owner>,
    /// Of directories that the archive only names within longer names, where they are made.
    pub implied: Owner,
}

impl Ownership {
    /// The numbers in the archive, and root for what it only implies.
    pub const ARCHIVE: Self = Self {
        entries: None,
        implied: Owner { uid: 0, gid: 0 },
    };

    /// One owner for everything.
    pub fn all(owner: Owner) -> Self {
        Self {
            entries: Some(owner),
            implied: owner,
        }
    }
}

impl<R: Read + Seek + Send> Checked<R> {
    /// Puts everything beneath `destination`: content, modes, owners, times of modification,
    /// extended attributes, links, holes. Can be repeated. Nothing is synced.
    ///
    /// The destination is expected not to change meanwhile; nothing outside of it is reached even if
    /// it does.
    ///
    /// # Errors
    /// [`Error::Apply`] with the entry; [`Error::Refused`] when an entry lies beneath a symbolic link
    /// that the destination did not have when it was checked, or was not checked against;
    /// [`Error::Cancelled`]. The destination then holds a part of the archive.
    pub fn apply(
        &mut self,
        destination: impl AsFd,
        mode: ApplyMode,
        ownership: Ownership,
        progress: &Progress,
    ) -> Result<(), Error> {
        let destination = destination.as_fd();
        if mode == ApplyMode::Replace {
            empty(destination).map_err(|errno| Error::Destination(errno.into()))?;
        }
        let unpacked = unpack(&mut self.archive);
        let decoder = unpacked.map_err(Error::ReadArchive)?;
        let (names, top) = (&*self.names, self.top);
        std::thread::scope(|scope| {
            let ahead = Ahead::new(scope, decoder).map_err(Error::ReadArchive)?;
            let mut reader = Reader::new(ahead, &self.limits, progress);
            let places = Places::new(destination, ownership);
            let mut applier = Applier {
                places: places.map_err(|errno| Error::Destination(errno.into()))?,
                names,
                trail: Trail::default(),
                top,
                mode,
            };
            while let Some(member) = reader.next()? {
                applier.entry(&mut reader, &member)?;
                progress.entry();
            }
            Ok(())
        })?;
        let mut way = Way::new(destination).map_err(|errno| Error::Destination(errno.into()))?;
        for (node, time) in &self.times {
            let keeps_its_own = *node == top && mode == ApplyMode::Merge;
            // A later entry may have taken a directory's place.
            if keeps_its_own || !names.is_directory(*node) {
                continue;
            }
            let path = names.path(top, *node);
            let set = way.go(&path);
            let set = set.and_then(|directory| futimens(directory, &times(*time)));
            set.map_err(|errno| Error::Apply {
                operation: "set the time of",
                entry: Entry {
                    number: 0,
                    name: escape(&path),
                },
                source: errno.into(),
            })?;
        }
        tracing::debug!(entries = names.entries(), ?mode, "applied an archive");
        Ok(())
    }
}

struct Applier<'a> {
    places: Places<'a>,
    names: &'a Names,
    trail: Trail,
    top: Node,
    mode: ApplyMode,
}

impl Applier<'_> {
    fn entry<B: BufRead>(
        &mut self,
        reader: &mut Reader<'_, B>,
        member: &Member,
    ) -> Result<(), Error> {
        let path = self.path(clean(&member.name))?;
        let target = match member.kind {
            Kind::HardLink => self.path(link_target(&member.link))?,
            _ => Vec::new(),
        };
        let attributes = attributes(member).map_err(|reason| reader.refuse(reason))?;
        let metadata = Metadata {
            mode: member.mode,
            uid: member.uid,
            gid: member.gid,
            modified: member.modified,
            attributes: attributes.collect(),
        };
        let failed = |trouble, entry| match trouble {
            Trouble::Refused(reason) => Error::Refused { entry, reason },
            Trouble::Failed(operation, errno) => Error::Apply {
                operation,
                entry,
                source: io::Error::from(errno),
            },
        };
        let places = &mut self.places;
        let made = match member.kind {
            Kind::Directory if path.is_empty() => match self.mode {
                ApplyMode::Merge => Ok(()),
                ApplyMode::Replace => places.root(&metadata),
            },
            Kind::Directory => places.directory(&path, &metadata),
            Kind::HardLink => places.hard_link(&path, &target),
            Kind::Symlink => places.symlink(&path, &member.link, &metadata),
            Kind::Fifo => places.fifo(&path, &metadata),
            Kind::File => match places.file(&path) {
                Ok(file) => {
                    content(reader, member, &file)?;
                    places.finish(&file, &metadata)
                }
                Err(trouble) => Err(trouble),
            },
        };
        made.map_err(|trouble| failed(trouble, reader.entry()))
    }

    /// The path beneath the destination of a clean name in the archive.
    fn path(&mut self, name: Result<Vec<u8>, Refusal>) -> Result<Vec<u8>, Error> {
        let changed = || Error::ReadArchive(io::Error::other("it changed after it was checked"));
        let name = name.map_err(|_| changed())?;
        let node = self
            .names
            .find(&name, &mut self.trail)
            .ok_or_else(changed)?;
        Ok(self.names.path(self.top, node))
    }
}

/// Writes a file's data.
fn content<B: BufRead>(
    reader: &mut Reader<'_, B>,
    member: &Member,
    file: &OwnedFd,
) -> Result<(), Error> {
    let all = [Extent {
        start: 0,
        length: member.size,
    }];
    let entry = reader.entry();
    let failed = |errno: Errno| Error::Apply {
        operation: "write",
        entry: entry.clone(),
        source: errno.into(),
    };
    if member.extents.is_some() {
        ftruncate(file, member.size).map_err(|errno| match errno {
            Errno::FBIG | Errno::INVAL => reader.refuse(Refusal::TooLong),
            errno => failed(errno),
        })?;
    }
    for piece in member.extents.as_deref().unwrap_or(&all) {
        let (mut at, end) = (piece.start, piece.start + piece.length);
        while at < end {
            let data = reader.data(end - at)?;
            if data.is_empty() {
                // The map was compared with the data's length: it cannot be.
                return Err(reader.refuse(Refusal::SparseMap));
            }
            let mut written = 0;
            while written < data.len() {
                match pwrite(file, &data[written..], at) {
                    Err(Errno::INTR) => {}
                    Err(Errno::FBIG) => {
                        return Err(Error::Refused {
                            entry,
                            reason: Refusal::TooLong,
                        });
                    }
                    wrote => {
                        let wrote = wrote.map_err(failed)?;
                        written += wrote;
                        at += wrote as u64;
                    }
                }
            }
        }
    }
    Ok(())
}
