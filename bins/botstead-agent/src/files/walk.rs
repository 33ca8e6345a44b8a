//! Walking through a tree without leaving it: by single names relative to descriptors, in the order
//! of the bytes of paths, without recursion, with few descriptors and bounded memory.

use super::directory::{Item, chunk};
use super::path::resume;
use super::rights::Rights;
use super::root::{Id, is_virtual, open_name, stat_at, stat_fd, vanished};
use super::temporary::is_hidden_name;
use rustix::fd::OwnedFd;
use rustix::fs::{FileType, OFlags};
use rustix::io::{Errno, Result};
use std::collections::VecDeque;

/// Directories next to the top that stay open: a walk is not disturbed when one of them is moved.
const KEPT_OPEN: usize = 8;

/// Names that a walk keeps at most, about.
const KEPT_NAMES: usize = 100_000;

/// Names of one directory that are read at once, at least and at most.
const LEAST_NAMES: usize = 16;
const MOST_NAMES: usize = 50_000;

/// Directories on the way down from the top, at most: each takes memory.
const MOST_DEPTH: usize = 50_000;

/// Where a walk is in a tree: a chain of directories, of which the last and the first ones are open.
/// The way back up to the others is `..`, and the inode tells whether it led to the right one.
#[derive(Debug)]
pub(crate) struct Cursor {
    chain: Vec<(Id, Option<OwnedFd>)>,
    here: OwnedFd,
}

impl Cursor {
    pub(crate) fn new(top: OwnedFd) -> Result<Self> {
        Ok(Self {
            chain: vec![(Id::of(&stat_fd(&top)?), None)],
            here: top,
        })
    }

    /// The directory that the walk is in.
    pub(crate) fn here(&self) -> &OwnedFd {
        &self.here
    }

    /// How many directories down from the top, which is 0.
    pub(crate) fn depth(&self) -> usize {
        self.chain.len() - 1
    }

    /// Goes into a directory that was opened beneath this one.
    pub(crate) fn enter(&mut self, directory: OwnedFd) -> Result<()> {
        let id = Id::of(&stat_fd(&directory)?);
        let left = std::mem::replace(&mut self.here, directory);
        let keeps = self.chain.len() <= KEPT_OPEN;
        if let Some((_, kept)) = self.chain.last_mut() {
            *kept = keeps.then_some(left);
        }
        self.chain.push((id, None));
        Ok(())
    }

    /// Goes up; false at the top.
    ///
    /// # Errors
    /// `STALE` when the directory was moved elsewhere.
    pub(crate) fn leave(&mut self) -> Result<bool> {
        if self.depth() == 0 {
            return Ok(false);
        }
        self.chain.pop();
        let Some((id, kept)) = self.chain.last_mut() else {
            return Ok(false);
        };
        self.here = match kept.take() {
            Some(kept) => kept,
            None => {
                let up = open_name(&self.here, b"..", OFlags::RDONLY | OFlags::DIRECTORY)?;
                if Id::of(&stat_fd(&up)?) != *id {
                    return Err(Errno::STALE);
                }
                up
            }
        };
        Ok(true)
    }
}

/// What a walk comes to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// An entry of the directory that the walk is in.
    Entry(Vec<u8>, FileType),
    /// The place to go into a directory of this name, with [`Walk::enter`], or not to.
    Below(Vec<u8>),
    /// The walk is back from a directory of this name.
    Left(Vec<u8>),
    /// The end.
    End,
}

#[derive(Debug, Default)]
struct Frame {
    /// The directory's own name; empty for the top.
    name: Vec<u8>,
    items: VecDeque<Item>,
    /// After which item to read on; `None` where nothing was read yet.
    last: Option<Item>,
    more: bool,
    /// In a walk that is resumed: the directory to go into first, and after which path below it.
    resume: Option<(Vec<u8>, Vec<u8>)>,
}

/// A walk through a tree, from the inside of a directory.
#[derive(Debug)]
pub(crate) struct Walk {
    cursor: Cursor,
    frames: Vec<Frame>,
    /// Names that all frames keep.
    kept: usize,
    /// The path of the directory that the walk is in, below the top: `a/b`, empty for the top.
    path: Vec<u8>,
    /// Whether it began on one of the kernel's own filesystems; others do not go into those.
    in_virtual: bool,
    /// Names of one directory that are read at once, at most.
    most_names: usize,
    /// Shows also what is being written and has no name of its own yet.
    shows_hidden: bool,
}

impl Walk {
    /// A walk through a directory that is open for reading. With `after`, a path below it, the walk
    /// begins after that path; its components are plain names.
    pub(crate) fn new(top: OwnedFd, after: Option<&[u8]>) -> Result<Self> {
        let in_virtual = is_virtual(&top)?;
        let mut walk = Self {
            cursor: Cursor::new(top)?,
            frames: Vec::new(),
            kept: 0,
            path: Vec::new(),
            in_virtual,
            most_names: MOST_NAMES,
            shows_hidden: false,
        };
        walk.push(Vec::new(), after);
        Ok(walk)
    }

    /// For a walk that ends after so many entries, and shows also what is being written under a
    /// hidden name.
    pub(crate) fn for_listing(mut self, count: usize) -> Self {
        self.shows_hidden = true;
        // A directory is two items: itself and what is below.
        self.most_names = (2 * count + 2).clamp(LEAST_NAMES, MOST_NAMES);
        self
    }

    pub(crate) fn cursor(&self) -> &Cursor {
        &self.cursor
    }

    /// The path of the directory that the walk is in, below the top.
    pub(crate) fn path(&self) -> &[u8] {
        &self.path
    }

    /// The path of a name in the directory that the walk is in, below the top.
    pub(crate) fn path_to(&self, name: &[u8]) -> Vec<u8> {
        match self.path.is_empty() {
            true => name.to_vec(),
            false => [&self.path, b"/".as_slice(), name].concat(),
        }
    }

    /// Goes on.
    ///
    /// # Errors
    /// Those of reading the directory that the walk is in, which [`Walk::give_up`] skips; `STALE`
    /// when it was moved away, which ends the walk.
    pub(crate) fn next(&mut self) -> Result<Step> {
        let Some(frame) = self.frames.last_mut() else {
            return Ok(Step::End);
        };
        while let Some(item) = frame.items.pop_front() {
            self.kept = self.kept.saturating_sub(1);
            if !self.shows_hidden && is_hidden_name(&item.name) {
                continue;
            }
            return Ok(match item.below {
                true => Step::Below(item.name),
                false => Step::Entry(item.name, item.kind),
            });
        }
        if frame.more {
            let limit =
                (KEPT_NAMES.saturating_sub(self.kept) / 2).clamp(LEAST_NAMES, self.most_names);
            let after = frame.last.take();
            let chunk = chunk(self.cursor.here(), after, limit, true)?;
            frame.more = chunk.more;
            frame.last = match chunk.more {
                true => chunk.items.last().cloned(),
                false => None,
            };
            self.kept += chunk.items.len();
            frame.items = chunk.items.into();
            return self.next_of_read();
        }
        self.leave()
    }

    fn next_of_read(&mut self) -> Result<Step> {
        match self
            .frames
            .last()
            .is_some_and(|frame| frame.items.is_empty())
        {
            true => self.leave(),
            false => self.next(),
        }
    }

    /// Goes into the directory that [`Step::Below`] named; false when it is there no more, or is a
    /// filesystem of the kernel's own.
    pub(crate) fn enter(&mut self, name: Vec<u8>) -> Result<bool> {
        if self.cursor.depth() == MOST_DEPTH {
            return Err(Errno::NAMETOOLONG);
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let Some(directory) = vanished(open_name(self.cursor.here(), &name, flags))? else {
            return Ok(false);
        };
        if !self.in_virtual && is_virtual(&directory)? {
            return Ok(false);
        }
        if Rights::current().are_limited() {
            // One that may be read and not be gone through has names only, and no way back up.
            stat_at(&directory, b".")?;
        }
        self.cursor.enter(directory)?;
        self.path = self.path_to(&name);
        let resume = self.frames.last_mut().and_then(|frame| frame.resume.take());
        let after = resume.filter(|(first, _)| *first == name);
        self.push(name, after.as_ref().map(|(_, after)| after.as_slice()));
        Ok(true)
    }

    /// Skips the rest of the directory that the walk is in.
    pub(crate) fn give_up(&mut self) {
        if let Some(frame) = self.frames.last_mut() {
            self.kept = self.kept.saturating_sub(frame.items.len());
            frame.items.clear();
            frame.more = false;
        }
    }

    fn push(&mut self, name: Vec<u8>, after: Option<&[u8]>) {
        let mut frame = Frame {
            name,
            more: true,
            ..Frame::default()
        };
        if let Some(after) = after {
            let (key, deeper) = resume(after);
            let item = Item {
                name: key.name.to_vec(),
                kind: FileType::Directory,
                below: key.below,
            };
            if let Some(deeper) = deeper {
                // First what is left below this one.
                frame.resume = Some((item.name.clone(), deeper.to_vec()));
                frame.items.push_back(item.clone());
                self.kept += 1;
            }
            frame.last = Some(item);
        }
        self.frames.push(frame);
    }

    fn leave(&mut self) -> Result<Step> {
        let Some(frame) = self.frames.pop() else {
            return Ok(Step::End);
        };
        if !self.cursor.leave()? {
            return Ok(Step::End);
        }
        let end = self.path.len() - frame.name.len();
        // With the slash, which a name directly below the top has not.
        self.path.truncate(end.saturating_sub(1));
        Ok(Step::Left(frame.name))
    }
}
