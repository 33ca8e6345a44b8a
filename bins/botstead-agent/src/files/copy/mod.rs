//! `Copy`: one entry or a tree, complete before it appears under its name.

mod content;
mod tree;

use super::entry::kind;
use super::failure::{Result, failed, refused};
use super::make::place_with_parents;
use super::meta::{self, Owner};
use super::pieces::{Budget, Job, Turns, long};
use super::read::unreadable;
use super::remove::Removing;
use super::rights::Rights;
use super::root::{Id, Place, Root, is_virtual, is_within, open_name, parse, stat_fd};
use super::temporary::{Temporary, rename, with_new_name};
use super::write::write_into;
use botstead_bridge::{FailureKind, proto};
use content::Content;
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, Statx, makedev, mkdirat, mknodat, readlinkat, symlinkat,
    unlinkat,
};
use rustix::io::{self, Errno};
use tokio::runtime::Handle;
use tree::Tree;

/// What may happen in a copy.
#[derive(Debug, Clone, Copy)]
pub(super) struct Order {
    pub(super) recursive: bool,
    pub(super) replace: bool,
}

pub(super) fn begin(request: proto::CopyRequest, owner: Owner, turns: &Turns) -> Result<Copying> {
    let (from, to) = (parse(&request.from)?, parse(&request.to)?);
    let root = Root::open(&request.root)?;
    let from = root.place(&from)?;
    if from.look()?.is_none() {
        return Err(failed("copy", &from.path, Errno::NOENT));
    }
    let to = match request.parents {
        true => place_with_parents(&root, &to, owner)?,
        false => root.place(&to)?,
    };
    let order = Order {
        recursive: request.recursive,
        replace: request.replace,
    };
    Copying::begin(&root, &from, to, order, turns)
}

/// A copy that has begun. When it fails or its call is dropped, nothing of it stays.
#[derive(Debug)]
pub(super) struct Copying {
    to: Place,
    from_path: Vec<u8>,
    replace: bool,
    part: Option<Part>,
}

#[derive(Debug)]
enum Part {
    File(Box<FileCopy>, Temporary),
    Tree(Box<Tree>, Staged),
    /// A link, pipe, socket or device, which takes no time.
    Node(Staged),
}

impl Copying {
    pub(super) fn begin(
        root: &Root,
        from: &Place,
        to: Place,
        order: Order,
        turns: &Turns,
    ) -> Result<Self> {
        let source_failed = |errno| failed("copy", &from.path, errno);
        let stat = from.look()?.ok_or_else(|| source_failed(Errno::NOENT))?;
        let is_tree = kind(&stat) == FileType::Directory;
        if is_tree && !order.recursive {
            let words = "it is a directory: ask for a recursive copy";
            return Err(refused(FailureKind::IsADirectory, &from.path, words));
        }
        if let Some(there) = to.look()? {
            check_target(&stat, &there, &to, order.replace)?;
        }
        let part = match kind(&stat) {
            FileType::Directory => {
                let source = open_name(
                    &from.directory,
                    &from.name,
                    OFlags::RDONLY | OFlags::DIRECTORY,
                )
                .map_err(source_failed)?;
                let id = Id::of(&stat_fd(&source).map_err(source_failed)?);
                if is_within(root, &to.directory, id).map_err(source_failed)? {
                    let words = "a directory cannot go into itself";
                    return Err(refused(FailureKind::Invalid, &to.path, words));
                }
                let staged = Staged::new(&to, true, turns, |name| {
                    mkdirat(&to.directory, name, Mode::RWXU)
                })?;
                Part::Tree(Box::new(Tree::new(source, &staged, &from.path)?), staged)
            }
            FileType::RegularFile => {
                let temporary = Temporary::new(&to.directory)
                    .map_err(|errno| failed("write", &to.path, errno))?;
                let target = temporary
                    .file()
                    .try_clone()
                    .map_err(|_| source_failed(Errno::MFILE))?;
                let file =
                    FileCopy::new(&from.directory, &from.name, target).map_err(source_failed)?;
                Part::File(Box::new(file), temporary)
            }
            _ => Part::Node(Staged::new(&to, false, turns, |name| {
                copy_node(&from.directory, &from.name, &stat, &to.directory, name)
            })?),
        };
        Ok(Self {
            from_path: from.path.clone(),
            replace: order.replace,
            part: Some(part),
            to,
        })
    }

    fn publish(&self, part: Part) -> Result<proto::CopyReply> {
        let publish_failed = |errno| failed("copy to", &self.to.path, errno);
        let (entries, bytes) = match part {
            Part::File(file, temporary) => {
                let bytes = file.content.copied();
                match temporary.publish(&self.to.name, self.replace) {
                    // Something is mounted there, such as /etc/hosts, which nothing can take the place of.
                    Err(Errno::BUSY) if self.replace => {
                        let there = self.to.look()?;
                        write_into("copy to", &self.to, there.as_ref(), &file.target)?;
                    }
                    published => published.map_err(publish_failed)?,
                }
                (1, bytes)
            }
            Part::Tree(tree, staged) => {
                staged
                    .publish(&self.to, self.replace)
                    .map_err(publish_failed)?;
                (tree.entries, tree.bytes)
            }
            Part::Node(staged) => {
                staged
                    .publish(&self.to, self.replace)
                    .map_err(publish_failed)?;
                (1, 0)
            }
        };
        Ok(proto::CopyReply { entries, bytes })
    }
}

/// What is at the target already may be replaced by what is copied.
fn check_target(from: &Statx, there: &Statx, to: &Place, replace: bool) -> Result<()> {
    let is_directory = |stat| kind(stat) == FileType::Directory;
    let refused = |kind, words| Err(refused(kind, &to.path, words));
    if Id::of(from) == Id::of(there) {
        return refused(FailureKind::Invalid, "source and target are the same file");
    }
    if !replace {
        return refused(FailureKind::AlreadyExists, "it is there already");
    }
    match (is_directory(from), is_directory(there)) {
        (true, false) => refused(FailureKind::NotADirectory, "a directory replaces no file"),
        (false, true) => refused(FailureKind::IsADirectory, "a file replaces no directory"),
        _ => Ok(()),
    }
}

impl Job for Copying {
    type Done = proto::CopyReply;

    fn step(&mut self, budget: &Budget) -> Result<Option<proto::CopyReply>> {
        let Some(mut part) = self.part.take() else {
            return Ok(None);
        };
        let done = match &mut part {
            Part::File(file, _) => file.step(budget).map_err(|errno| {
                let made_up = is_virtual(&file.source).unwrap_or(false);
                unreadable("copy", made_up, &self.from_path, errno)
            })?,
            Part::Tree(tree, _) => tree.step(budget)?,
            Part::Node(_) => true,
        };
        match done {
            true => self.publish(part).map(Some),
            false => {
                self.part = Some(part);
                Ok(None)
            }
        }
    }
}

/// Something under a hidden name next to its place; removed unless it is published.
#[derive(Debug)]
struct Staged {
    place: Option<Place>,
    is_tree: bool,
    turns: Turns,
    /// With which it was made, and is removed.
    rights: Rights,
}

impl Staged {
    fn new(
        to: &Place,
        is_tree: bool,
        turns: &Turns,
        make: impl FnMut(&[u8]) -> io::Result<()>,
    ) -> Result<Self> {
        let failed = |errno| failed("write", &to.path, errno);
        let directory = to.directory.try_clone().map_err(|_| failed(Errno::MFILE))?;
        let (name, ()) = with_new_name(make).map_err(failed)?;
        let place = Place {
            directory,
            name,
            path: to.path.clone(),
        };
        Ok(Self {
            place: Some(place),
            is_tree,
            turns: turns.clone(),
            rights: Rights::current(),
        })
    }

    /// Opens a staged directory.
    fn open(&self) -> io::Result<OwnedFd> {
        match &self.place {
            Some(place) => open_name(
                &place.directory,
                &place.name,
                OFlags::RDONLY | OFlags::DIRECTORY,
            ),
            None => Err(Errno::NOENT),
        }
    }

    fn publish(mut self, to: &Place, replace: bool) -> io::Result<()> {
        if let Some(place) = &self.place {
            rename(
                &place.directory,
                &place.name,
                &to.directory,
                &to.name,
                replace,
            )?;
            self.place = None;
        }
        Ok(())
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        let Some(place) = self.place.take() else {
            return;
        };
        if !self.is_tree {
            // Nothing more can be done when this fails.
            let _ = self
                .rights
                .run(|| unlinkat(&place.directory, place.name.as_slice(), AtFlags::empty()));
            return;
        }
        let (turns, rights) = (self.turns.clone(), self.rights.clone());
        let removing = rights.run(|| Removing::of_place(place, true));
        if let (Ok(Ok(removing)), Ok(runtime)) = (removing, Handle::try_current()) {
            runtime.spawn(async move { long(&turns, &rights, removing).await });
        }
    }
}

/// A regular file that is being copied.
#[derive(Debug)]
struct FileCopy {
    source: OwnedFd,
    stat: Statx,
    target: OwnedFd,
    content: Content,
}

impl FileCopy {
    fn new(directory: &OwnedFd, name: &[u8], target: OwnedFd) -> io::Result<Self> {
        let source = open_name(directory, name, OFlags::RDONLY)?;
        Self::of(source, target)
    }

    fn of(source: OwnedFd, target: OwnedFd) -> io::Result<Self> {
        let stat = stat_fd(&source)?;
        if kind(&stat) != FileType::RegularFile {
            return Err(Errno::STALE);
        }
        Ok(Self {
            content: Content::new(stat.stx_size),
            source,
            stat,
            target,
        })
    }

    /// Goes on; true when it is complete with everything that belongs to it.
    fn step(&mut self, budget: &Budget) -> io::Result<bool> {
        let done = self.content.step(&self.source, &self.target, budget)?;
        if done {
            meta::copy(&self.source, &self.stat, &self.target)?;
        }
        Ok(done)
    }
}

/// Copies what has no content to read: a link, pipe, socket or device.
fn copy_node(
    from: impl AsFd,
    name: &[u8],
    stat: &Statx,
    to: impl AsFd,
    new_name: &[u8],
) -> io::Result<()> {
    let to = to.as_fd();
    let kind = kind(stat);
    match kind {
        FileType::Symlink => symlinkat(readlinkat(from, name, Vec::new())?, to, new_name)?,
        kind => {
            let device = makedev(stat.stx_rdev_major, stat.stx_rdev_minor);
            mknodat(to, new_name, kind, Mode::RUSR | Mode::WUSR, device)?;
        }
    }
    meta::copy_to_place(stat, to, new_name, kind == FileType::Symlink)
}
