//! The end of a rename that is a copy: what was copied is removed. What came or changed since the copy read
//! it is in no copy, and stays.
//!
//! Between the look at an entry and its removal some microseconds pass, as in all programs that move files
//! between filesystems.

use super::entry::kind;
use super::failure::{Result, failed, refused};
use super::path::child;
use super::pieces::{Budget, Job};
use super::root::{Id, Place, open_name, stat_at, vanished};
use super::walk::{Cursor, Step, Walk};
use botstead_bridge::{Failure, FailureKind};
use rustix::fd::OwnedFd;
use rustix::fs::{AtFlags, FileType, OFlags, Statx, StatxTimestamp, unlinkat};
use rustix::io::{self, Errno};
use rustix::time::{ClockId, clock_gettime};
use std::time::Duration;

/// The kernel's clock for the times of files goes on in steps of at most 10 ms.
const TICK: Duration = Duration::from_millis(10);
/// A directory of the copy is a place to look from.
const COPY: OFlags = OFlags::PATH.union(OFlags::DIRECTORY);

/// When a move begins: what was changed before has an earlier time, what is changed from now on has not.
#[derive(Debug, Clone, Copy)]
pub(super) struct Began(i64, u32);

impl Began {
    pub(super) fn now() -> Self {
        // On a blocking thread, and only where the filesystem cannot rename.
        std::thread::sleep(TICK + TICK / 2);
        let now = clock_gettime(ClockId::RealtimeCoarse);
        Self(now.tv_sec, u32::try_from(now.tv_nsec).unwrap_or(0))
    }

    /// Whether something was last changed before. Anybody may set the time of a change of its content, and
    /// the removal of one of its names changes the other time: a change sets both to now.
    fn is_after(self, stat: &Statx) -> bool {
        let pair = |time: StatxTimestamp| (time.tv_sec, time.tv_nsec);
        pair(stat.stx_mtime).min(pair(stat.stx_ctime)) < (self.0, self.1)
    }
}

/// Whether two looks were at the same content.
fn is_same(one: &Statx, other: &Statx) -> bool {
    let time = |stat: &Statx| (stat.stx_mtime.tv_sec, stat.stx_mtime.tv_nsec);
    kind(one) == kind(other) && one.stx_size == other.stx_size && time(one) == time(other)
}

/// A removal of what was copied.
#[derive(Debug)]
pub(super) struct Clearing {
    from: Place,
    began: Began,
    tree: Option<Tree>,
    /// The first path that stays.
    kept: Option<Vec<u8>>,
}

#[derive(Debug)]
struct Tree {
    walk: Walk,
    /// Where the copy has what the walk is in.
    copy: Cursor,
}

impl Clearing {
    /// Of what was at a place before it was copied to another one.
    pub(super) fn begin(from: Place, before: &Statx, began: Began, to: &Place) -> Result<Self> {
        let mut clearing = Self {
            began,
            tree: None,
            kept: None,
            from,
        };
        let Some(stat) = clearing.from.look()? else {
            // Somebody else removed it.
            return Ok(clearing);
        };
        let same = Id::of(&stat) == Id::of(before);
        let is_directory = kind(&stat) == FileType::Directory;
        if same && is_directory {
            clearing.tree = Some(clearing.open(to)?);
        } else if same && is_same(&stat, before) && began.is_after(&stat) {
            let (directory, name) = (&clearing.from.directory, clearing.from.name.as_slice());
            vanished(unlinkat(directory, name, AtFlags::empty()))
                .map_err(|errno| clearing.failed(b"", errno))?;
        } else {
            clearing.keep(b"");
        }
        Ok(clearing)
    }

    fn open(&self, to: &Place) -> Result<Tree> {
        let open = || {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY;
            let source = open_name(&self.from.directory, &self.from.name, flags)?;
            Ok(Tree {
                walk: Walk::new(source, None)?,
                copy: Cursor::new(open_name(&to.directory, &to.name, COPY)?)?,
            })
        };
        open().map_err(|errno| self.failed(b"", errno))
    }

    fn path(&self, below: &[u8]) -> Vec<u8> {
        match below.is_empty() {
            true => self.from.path.clone(),
            false => child(&self.from.path, below),
        }
    }

    fn failed(&self, below: &[u8], errno: Errno) -> Failure {
        failed("remove", &self.path(below), errno)
    }

    fn keep(&mut self, below: &[u8]) {
        if self.kept.is_none() {
            self.kept = Some(self.path(below));
        }
    }
}

impl Tree {
    /// Removes an entry that is no directory; false when it stays.
    fn remove(&self, name: &[u8], began: Began) -> io::Result<bool> {
        let here = self.walk.cursor().here();
        let Some(stat) = vanished(stat_at(here, name))? else {
            return Ok(true);
        };
        if kind(&stat) == FileType::Directory {
            return Ok(true);
        }
        let copy = vanished(stat_at(self.copy.here(), name))?;
        if !began.is_after(&stat) || !copy.is_some_and(|copy| is_same(&stat, &copy)) {
            return Ok(false);
        }
        vanished(unlinkat(here, name, AtFlags::empty())).map(|_| true)
    }

    /// Goes into a directory; false when it stays, as the copy does not have it.
    fn enter(&mut self, name: Vec<u8>) -> io::Result<bool> {
        let Some(copy) = vanished(open_name(self.copy.here(), &name, COPY))? else {
            return Ok(false);
        };
        if self.walk.enter(name)? {
            self.copy.enter(copy)?;
        }
        Ok(true)
    }

    /// Removes a directory that the walk is back from; false when something is left in it.
    fn leave(&mut self, name: &[u8]) -> io::Result<bool> {
        self.copy.leave()?;
        remove_directory(self.walk.cursor().here(), name)
    }
}

fn remove_directory(directory: &OwnedFd, name: &[u8]) -> io::Result<bool> {
    match unlinkat(directory, name, AtFlags::REMOVEDIR) {
        Err(Errno::NOTEMPTY | Errno::EXIST) => Ok(false),
        removed => vanished(removed).map(|_| true),
    }
}

impl Job for Clearing {
    type Done = ();

    fn step(&mut self, budget: &Budget) -> Result<Option<()>> {
        while let Some(mut tree) = self.tree.take() {
            if budget.spent() {
                self.tree = Some(tree);
                return Ok(None);
            }
            let step = tree.walk.next();
            let step = step.map_err(|errno| self.failed(tree.walk.path(), errno))?;
            let is_end = step == Step::End;
            let (below, gone) = match step {
                Step::Entry(_, FileType::Directory) => (Vec::new(), Ok(true)),
                Step::Entry(name, _) => (tree.walk.path_to(&name), tree.remove(&name, self.began)),
                Step::Below(name) => (tree.walk.path_to(&name), tree.enter(name)),
                Step::Left(name) => (tree.walk.path_to(&name), tree.leave(&name)),
                Step::End => {
                    let gone = remove_directory(&self.from.directory, &self.from.name);
                    (Vec::new(), gone)
                }
            };
            if !gone.map_err(|errno| self.failed(&below, errno))? {
                self.keep(&below);
            }
            if !is_end {
                self.tree = Some(tree);
            }
        }
        match self.kept.take() {
            None => Ok(Some(())),
            Some(path) => Err(refused(
                FailureKind::Changed,
                &path,
                "it came, or may have changed, while it was moved by a copy, and stays; what was copied is at \
                 the new path",
            )),
        }
    }
}
