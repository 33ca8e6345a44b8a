//! `Remove`: an entry, or a tree from its leaves up.

use super::directory::each;
use super::entry::kind;
use super::failure::{Result, failed, refused};
use super::path::{InsidePath, child};
use super::pieces::{Budget, Job};
use super::root::{Place, Root, locate, open_name, stat_at, vanished};
use super::walk::Cursor;
use botstead_bridge::{Failure, FailureKind, proto};
use rustix::fd::OwnedFd;
use rustix::fs::{AtFlags, FileType, OFlags, Statx, StatxAttributes, unlinkat};
use rustix::io::{self, Errno};
use std::ops::ControlFlow;

/// Names of directories that are kept at once for each directory on the way, and in all.
const NAMES: usize = 1000;
const ALL_NAMES: usize = 50_000;

/// How often a tree is emptied that somebody fills again.
const ATTEMPTS: u32 = 10;

pub(super) fn begin(request: proto::RemoveRequest) -> Result<Removing> {
    let (root, path) = locate(request.at)?;
    Removing::begin(&root, &path, request.recursive)
}

/// A directory that is being emptied.
#[derive(Debug, Default)]
struct Frame {
    name: Vec<u8>,
    /// Directories in it that were seen and are there still.
    directories: Vec<Vec<u8>>,
}

/// A removal that has begun. What is gone is gone, also when it fails or its call is dropped.
#[derive(Debug)]
pub(super) struct Removing {
    place: Place,
    /// Within a tree. Without it, everything is done at the first step.
    cursor: Option<Cursor>,
    /// How often the tree may be found filled again before that is somebody's intention.
    attempts: u32,
    frames: Vec<Frame>,
    /// Names that all frames keep.
    kept: usize,
    removed: u64,
}

impl Removing {
    pub(super) fn begin(root: &Root, path: &InsidePath, recursive: bool) -> Result<Self> {
        let place = root.place(path)?;
        let stat = place
            .look()?
            .ok_or_else(|| failed("remove", &place.path, Errno::NOENT))?;
        let is_tree = recursive && kind(&stat) == FileType::Directory;
        Self::of_place(place, is_tree)
    }

    /// The removal of what is at a place.
    pub(super) fn of_place(place: Place, is_tree: bool) -> Result<Self> {
        let mut removing = Self {
            cursor: None,
            attempts: if is_tree { ATTEMPTS } else { 0 },
            frames: vec![Frame::default()],
            kept: 0,
            removed: 0,
            place,
        };
        if is_tree {
            removing.open()?;
        }
        Ok(removing)
    }

    fn open(&mut self) -> Result<()> {
        let top = open(&self.place.directory, &self.place.name)
            .map_err(|refusal| self.refusal(refusal))?;
        self.cursor = Some(Cursor::new(top).map_err(|errno| self.failed(b"", errno))?);
        Ok(())
    }

    /// Where the walk is, for words.
    fn path(&self, name: &[u8]) -> Vec<u8> {
        let mut path = self.place.path.clone();
        for frame in self.frames.iter().skip(1) {
            path = child(&path, &frame.name);
        }
        match name.is_empty() {
            true => path,
            false => child(&path, name),
        }
    }

    fn failed(&self, name: &[u8], errno: Errno) -> Failure {
        failed("remove", &self.path(name), errno)
    }

    fn refusal(&self, refusal: Refusal) -> Failure {
        match refusal {
            Refusal::MountPoint => refused(
                FailureKind::Busy,
                &self.path(b""),
                "something is mounted there, which only the server can take away",
            ),
            Refusal::Errno(errno) => self.failed(b"", errno),
        }
    }

    /// Removes what is no directory in the directory that the walk is in, and notes the directories.
    /// False when there may be more.
    fn sweep(&mut self, cursor: &Cursor, budget: &Budget) -> Result<bool> {
        let mut removed = 0;
        let mut complete = true;
        let mut directories = Vec::new();
        let mut culprit = Vec::new();
        let room = ALL_NAMES.saturating_sub(self.kept).clamp(1, NAMES);
        let result = each(cursor.here(), |name, kind| {
            if budget.spent() || directories.len() == room {
                complete = false;
                return Ok(ControlFlow::Break(()));
            }
            match remove_or_tell(cursor.here(), name, kind) {
                Ok(true) => removed += 1,
                Ok(false) => directories.push(name.to_vec()),
                // Somebody else removed it.
                Err(Errno::NOENT) => {}
                Err(errno) => {
                    culprit = name.to_vec();
                    return Err(errno);
                }
            }
            Ok(ControlFlow::Continue(()))
        });
        self.removed += removed;
        result.map_err(|errno| self.failed(&culprit, errno))?;
        self.kept += directories.len();
        if let Some(frame) = self.frames.last_mut() {
            frame.directories = directories;
        }
        Ok(complete)
    }

    /// Goes into the next directory that was noted.
    fn descend(&mut self, cursor: &mut Cursor) -> Result<bool> {
        while let Some(name) = self.frames.last_mut().and_then(|f| f.directories.pop()) {
            self.kept = self.kept.saturating_sub(1);
            let opened = match open(cursor.here(), &name) {
                Err(Refusal::Errno(errno)) => vanished(Err(errno)),
                Ok(directory) => Ok(Some(directory)),
                Err(Refusal::MountPoint) => {
                    self.frames.push(Frame {
                        name,
                        ..Frame::default()
                    });
                    return Err(self.refusal(Refusal::MountPoint));
                }
            };
            let Some(directory) = opened.map_err(|errno| self.failed(&name, errno))? else {
                continue;
            };
            cursor
                .enter(directory)
                .map_err(|errno| self.failed(&name, errno))?;
            self.frames.push(Frame {
                name,
                ..Frame::default()
            });
            return Ok(true);
        }
        Ok(false)
    }

    /// Removes the directory that the walk is in, which is empty, and goes up; false at the top.
    fn ascend(&mut self, cursor: &mut Cursor) -> Result<bool> {
        let went_up = cursor.leave().map_err(|errno| self.failed(b"", errno))?;
        if !went_up {
            return Ok(false);
        }
        let Some(frame) = self.frames.last() else {
            return Ok(false);
        };
        match unlinkat(cursor.here(), frame.name.as_slice(), AtFlags::REMOVEDIR) {
            Ok(()) => self.removed += 1,
            Err(Errno::NOENT) => {}
            // Somebody filled it again: it is found and emptied once more.
            Err(Errno::NOTEMPTY) => {}
            Err(errno) => return Err(self.failed(b"", errno)),
        }
        self.frames.pop();
        Ok(true)
    }
}

impl Job for Removing {
    type Done = proto::RemoveReply;

    fn step(&mut self, budget: &Budget) -> Result<Option<proto::RemoveReply>> {
        if let Some(mut cursor) = self.cursor.take() {
            loop {
                if budget.spent() {
                    self.cursor = Some(cursor);
                    return Ok(None);
                }
                if self.descend(&mut cursor)? {
                    continue;
                }
                let complete = self.sweep(&cursor, budget)?;
                let has_directories = self
                    .frames
                    .last()
                    .is_some_and(|f| !f.directories.is_empty());
                if complete && !has_directories && !self.ascend(&mut cursor)? {
                    break;
                }
            }
        }
        let (directory, name) = (&self.place.directory, self.place.name.as_slice());
        let stat = stat_at(directory, name).map_err(|errno| self.failed(b"", errno))?;
        let flags = match kind(&stat) {
            FileType::Directory => AtFlags::REMOVEDIR,
            _ => AtFlags::empty(),
        };
        match unlinkat(directory, name, flags) {
            Ok(()) => Ok(Some(proto::RemoveReply {
                removed: self.removed + 1,
            })),
            Err(Errno::NOTEMPTY | Errno::EXIST) if self.attempts > 0 => {
                self.attempts -= 1;
                self.open()?;
                Ok(None)
            }
            Err(Errno::NOTEMPTY | Errno::EXIST) => Err(refused(
                FailureKind::NotEmpty,
                &self.place.path,
                "the directory is not empty: ask for a recursive removal",
            )),
            Err(errno) => Err(self.failed(b"", errno)),
        }
    }
}

/// Removes an entry that is no directory; false when it is one.
fn remove_or_tell(directory: &OwnedFd, name: &[u8], kind: FileType) -> io::Result<bool> {
    if kind == FileType::Directory {
        return Ok(false);
    }
    match unlinkat(directory, name, AtFlags::empty()) {
        Ok(()) => Ok(true),
        // It is a directory by now, or the filesystem does not tell kinds.
        Err(Errno::ISDIR) => Ok(false),
        Err(errno) => Err(errno),
    }
}

enum Refusal {
    MountPoint,
    Errno(Errno),
}

impl From<Errno> for Refusal {
    fn from(errno: Errno) -> Self {
        Self::Errno(errno)
    }
}

/// Opens a directory to empty it, unless something is mounted on it: that could not be removed, and
/// what is in it belongs to somebody else.
fn open(directory: &OwnedFd, name: &[u8]) -> Result<OwnedFd, Refusal> {
    let opened = open_name(directory, name, OFlags::RDONLY | OFlags::DIRECTORY)?;
    match is_mounted(&super::root::stat_fd(&opened)?) {
        true => Err(Refusal::MountPoint),
        false => Ok(opened),
    }
}

/// Whether it is the root of a mount (`STATX_ATTR_MOUNT_ROOT`, kernel 5.8).
pub(super) fn is_mounted(stat: &Statx) -> bool {
    const MOUNT_ROOT: StatxAttributes = StatxAttributes::from_bits_retain(0x2000);
    stat.stx_attributes.contains(MOUNT_ROOT)
}
