//! A tree that is being copied: a walk through the source, a cursor in the target.

use super::{FileCopy, Staged, copy_node};
use crate::files::entry::kind;
use crate::files::failure::{Result, failed};
use crate::files::links::Links;
use crate::files::meta;
use crate::files::path::child;
use crate::files::pieces::Budget;
use crate::files::rights::Rights;
use crate::files::root::{Id, open_beneath, open_name, stat_at, stat_fd, vanished};
use crate::files::walk::{Cursor, Step, Walk};
use botstead_bridge::Failure;
use rustix::fd::OwnedFd;
use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, Timestamps, fchmod, futimens, linkat, mkdirat, openat,
};
use rustix::io::{self, Errno};

#[derive(Debug)]
pub(super) struct Tree {
    path: Vec<u8>,
    walk: Walk,
    target: Cursor,
    /// The target's top, from which earlier copies are linked.
    top: OwnedFd,
    top_id: Id,
    /// What the directories that the walk is in get last.
    last: Vec<Last>,
    current: Option<FileCopy>,
    /// Where the copies of files are that have several names.
    copies: Links,
    pub(super) entries: u64,
    pub(super) bytes: u64,
}

impl Tree {
    pub(super) fn new(source: OwnedFd, staged: &Staged, path: &[u8]) -> Result<Self> {
        let begin = || {
            let target = staged.open()?;
            let top = target.try_clone().map_err(|_| Errno::MFILE)?;
            let last = copy_directory(&source, &target)?;
            Ok(Self {
                path: path.to_vec(),
                top_id: Id::of(&stat_fd(&top)?),
                walk: Walk::new(source, None)?,
                target: Cursor::new(target)?,
                top,
                last: vec![last],
                current: None,
                copies: Links::default(),
                entries: 1,
                bytes: 0,
            })
        };
        begin().map_err(|errno| failed("copy", path, errno))
    }

    fn failed(&self, name: &[u8], errno: Errno) -> Failure {
        let below = self.walk.path_to(name);
        let path = match below.is_empty() {
            true => self.path.clone(),
            false => child(&self.path, &below),
        };
        failed("copy", &path, errno)
    }

    /// Goes on; true when the tree is complete.
    pub(super) fn step(&mut self, budget: &Budget) -> Result<bool> {
        while !budget.spent() {
            if let Some(file) = &mut self.current {
                let done = file.step(budget);
                let bytes = file.content.copied();
                if !done.map_err(|errno| self.failed(b"", errno))? {
                    return Ok(false);
                }
                self.bytes += bytes;
                self.current = None;
            }
            match self.walk.next().map_err(|errno| self.failed(b"", errno))? {
                Step::Entry(_, FileType::Directory) => {}
                Step::Entry(name, _) => {
                    self.entry(&name)
                        .map_err(|errno| self.failed(&name, errno))?;
                }
                Step::Below(name) => {
                    let shown = name.clone();
                    self.enter(name)
                        .map_err(|errno| self.failed(&shown, errno))?;
                }
                Step::Left(name) => {
                    self.leave().map_err(|errno| self.failed(&name, errno))?;
                }
                Step::End => {
                    self.finish().map_err(|errno| self.failed(b"", errno))?;
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    fn enter(&mut self, name: Vec<u8>) -> io::Result<()> {
        let here = self.walk.cursor().here();
        match vanished(stat_at(here, &name))? {
            // What somebody moves the target into does not become a part of itself.
            Some(stat) if Id::of(&stat) != self.top_id => {}
            _ => return Ok(()),
        }
        if !self.walk.enter(name.clone())? {
            return Ok(());
        }
        mkdirat(self.target.here(), name.as_slice(), Mode::RWXU)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let directory = open_name(self.target.here(), &name, flags)?;
        let last = copy_directory(self.walk.cursor().here(), &directory)?;
        self.target.enter(directory)?;
        self.last.push(last);
        self.entries += 1;
        Ok(())
    }

    fn leave(&mut self) -> io::Result<()> {
        self.finish()?;
        self.target.leave().map(drop)
    }

    fn finish(&mut self) -> io::Result<()> {
        let Some(last) = self.last.pop() else {
            return Ok(());
        };
        if let Some(mode) = last.mode {
            fchmod(self.target.here(), mode)?;
        }
        futimens(self.target.here(), &last.times)
    }

    /// Copies what is no directory, or begins to.
    fn entry(&mut self, name: &[u8]) -> io::Result<()> {
        let here = self.walk.cursor().here();
        let Some(stat) = vanished(stat_at(here, name))? else {
            return Ok(());
        };
        match kind(&stat) {
            FileType::Directory => return Ok(()),
            FileType::RegularFile => {
                let Some(source) = vanished(open_name(here, name, OFlags::RDONLY))? else {
                    return Ok(());
                };
                let stat = stat_fd(&source)?;
                let several = stat.stx_nlink > 1;
                if !(several && self.link(Id::of(&stat), name)?) {
                    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
                    let target = openat(
                        self.target.here(),
                        name,
                        flags | OFlags::CLOEXEC,
                        Mode::RUSR | Mode::WUSR,
                    )?;
                    self.current = Some(FileCopy::of(source, target)?);
                    if several {
                        self.copies.remember(Id::of(&stat), self.walk.path_to(name));
                    }
                }
            }
            _ => match vanished(copy_node(here, name, &stat, self.target.here(), name))? {
                Some(()) => {}
                None => return Ok(()),
            },
        }
        self.entries += 1;
        Ok(())
    }

    /// Links an earlier copy of the same file; false when there is none that can be linked.
    fn link(&self, file: Id, name: &[u8]) -> io::Result<bool> {
        let Some(copy) = self.copies.first(file) else {
            return Ok(false);
        };
        let (directory, copy) = match copy.iter().rposition(|byte| *byte == b'/') {
            None => (&b"."[..], copy),
            Some(slash) => (&copy[..slash], &copy[slash + 1..]),
        };
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let linked = open_beneath(&self.top, directory, flags).and_then(|directory| {
            linkat(directory, copy, self.target.here(), name, AtFlags::empty())
        });
        match linked {
            Ok(()) => Ok(true),
            // As a file of its own, then.
            Err(Errno::MLINK | Errno::PERM | Errno::NAMETOOLONG | Errno::NOENT) => Ok(false),
            Err(errno) => Err(errno),
        }
    }
}

/// What a directory gets when all that is in it is there.
#[derive(Debug)]
struct Last {
    /// What is put into it changes them.
    times: Timestamps,
    /// Where nothing could be put into it with its own.
    mode: Option<Mode>,
}

/// Gives a new directory everything of another but what is in it, and what is for later.
fn copy_directory(from: &OwnedFd, to: &OwnedFd) -> io::Result<Last> {
    let stat = stat_fd(from)?;
    meta::copy(from, &stat, to)?;
    let mut last = Last {
        times: meta::times(&stat),
        mode: None,
    };
    let mode = meta::mode(&stat_fd(to)?);
    if Rights::current().are_limited() && !mode.contains(Mode::RWXU) {
        fchmod(to, mode | Mode::RWXU)?;
        last.mode = Some(mode);
    }
    Ok(last)
}
