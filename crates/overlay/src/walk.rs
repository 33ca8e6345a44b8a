//! The walk over all layers at once, and what each name becomes.
//!
//! Each tree (a layer, a layer below, the target) has one cursor, a descriptor of the directory that
//! the walk is in, or of the nearest one above that this tree has. Going up opens `..` and compares
//! the inode. So depth costs memory for names only, no descriptors.

use crate::beneath::batches;
use crate::tree::{
    Attributes, Id, Mark, OPAQUE, foreign, id, is_whiteout, kind, mark, names, open_dir, open_file,
    stat_at, stat_fd,
};
use crate::{Error, MergeReport, copy, meta};
use rustix::fd::OwnedFd;
use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, StatxFlags, linkat, mkdirat, openat, statx, syncfs,
};
use rustix::io::Errno;
use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::path::{Path, PathBuf};

/// Merges `layers`, given from the bottom up, into the empty directory `target`, which then takes
/// their place on top of `below`, the layers under them (also from the bottom up, such as an
/// image's). The result is on disk when it returns.
///
/// `below` is only read: to know which whiteouts still hide something.
///
/// # Errors
/// [`Error`]; the target may then hold a part of the result, which can be removed at will.
pub fn merge(layers: &[PathBuf], below: &[PathBuf], target: &Path) -> Result<MergeReport, Error> {
    if layers.is_empty() {
        return Err(Error::NoLayers);
    }
    let root = open_root(target)?;
    if !entries(&root)
        .map_err(|errno| Error::io("read", target.display(), errno))?
        .is_empty()
    {
        return Err(Error::TargetNotEmpty(target.to_owned()));
    }
    // From the top down from here on.
    let cursors = layers
        .iter()
        .rev()
        .chain(below.iter().rev())
        .map(|path| open_root(path))
        .collect::<Result<Vec<_>, _>>()?;
    let mut walk = Walk {
        layers: layers.len(),
        cursors,
        target: open_root(target)?,
        root,
        frames: Vec::new(),
        copies: HashMap::new(),
        report: MergeReport::default(),
    };
    walk.run()?;
    syncfs(&walk.root).map_err(|errno| Error::io("sync", target.display(), errno))?;
    tracing::debug!(target = %target.display(), report = ?walk.report, "merged layers");
    Ok(walk.report)
}

fn open_root(path: &Path) -> Result<OwnedFd, Error> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    openat(CWD, path, flags, Mode::empty())
        .map_err(|errno| Error::io("open", path.display(), errno))
}

/// All names in a directory that was opened just now.
fn entries(dir: &OwnedFd) -> Result<Vec<(CString, FileType)>, Errno> {
    let mut found = Vec::new();
    batches(dir, usize::MAX, |batch| {
        found.extend(batch.into_iter().map(|entry| (entry.name, entry.kind)));
        Ok::<_, Errno>(())
    })?;
    Ok(found)
}

/// What a layer has under a name.
enum Entry {
    Directory { opaque: bool },
    Whiteout,
    Other,
}

/// What is known of a name while a directory's layers are read from the top down.
enum Seen {
    /// Nothing further down matters.
    Decided,
    /// A directory, to which further layers may add.
    Directory { trees: Vec<usize>, cut: bool },
}

/// A directory to go into.
struct Child {
    name: CString,
    /// The trees that take part, from the top down.
    trees: Vec<usize>,
    opaque: bool,
}

/// A directory that the walk is in.
struct Frame {
    name: CString,
    places: Vec<(usize, Id)>,
    target: Id,
    opaque: bool,
    children: Vec<Child>,
}

struct Walk {
    /// The first so many trees are merged; the others are below.
    layers: usize,
    cursors: Vec<OwnedFd>,
    target: OwnedFd,
    /// The target's own directory, opened first: it sees the errors of all writing.
    root: OwnedFd,
    frames: Vec<Frame>,
    /// Where the copies are of files that have several names.
    copies: HashMap<Id, Vec<CString>>,
    report: MergeReport,
}

impl Walk {
    fn run(&mut self) -> Result<(), Error> {
        let mut places = Vec::new();
        for tree in 0..self.cursors.len() {
            // The kernel merges the roots of all layers, opaque or not.
            self.opaque(&self.cursors[tree], c"")?;
            places.push((tree, self.id(&self.cursors[tree])?));
        }
        self.push(CString::default(), places, false)?;
        while let Some(frame) = self.frames.last_mut() {
            match frame.children.pop() {
                Some(child) => self.enter(child)?,
                None => self.leave()?,
            }
        }
        Ok(())
    }

    fn enter(&mut self, child: Child) -> Result<(), Error> {
        let mut places = Vec::with_capacity(child.trees.len());
        for tree in child.trees {
            let directory = open_dir(&self.cursors[tree], &child.name)
                .map_err(|errno| self.failed("open", &child.name, errno))?;
            places.push((tree, self.id(&directory)?));
            self.cursors[tree] = directory;
        }
        mkdirat(&self.target, &child.name, Mode::RWXU)
            .map_err(|errno| self.failed("make", &child.name, errno))?;
        self.target = open_dir(&self.target, &child.name)
            .map_err(|errno| self.failed("open", &child.name, errno))?;
        self.report.directories += 1;
        self.push(child.name, places, child.opaque)
    }

    fn push(&mut self, name: CString, places: Vec<(usize, Id)>, opaque: bool) -> Result<(), Error> {
        let frame = Frame {
            target: self.id(&self.target)?,
            name,
            opaque,
            children: Vec::new(),
            places,
        };
        let trees: Vec<usize> = frame.places.iter().map(|(tree, _)| *tree).collect();
        self.frames.push(frame);
        let children = self.read(&trees)?;
        if let Some(frame) = self.frames.last_mut() {
            frame.children = children;
        }
        Ok(())
    }

    /// Finishes a directory and goes up.
    fn leave(&mut self) -> Result<(), Error> {
        let Some(frame) = self.frames.last() else {
            return Ok(());
        };
        // The first place is always a merged layer's: nothing else gives rise to a frame.
        let source = &self.cursors[frame.places[0].0];
        let finish = || {
            let stat = stat_fd(source)?;
            if !meta::is_immutable(&stat) {
                meta::apply(source, &stat, &self.target, foreign)?;
                if frame.opaque {
                    Attributes::of(&self.target).set(OPAQUE, b"y")?;
                }
                return Ok(false);
            }
            Ok(true)
        };
        let immutable = finish().map_err(|errno| self.failed("finish", c"", errno))?;
        if immutable {
            return Err(Error::Immutable {
                path: self.path(c""),
            });
        }
        let left = self.frames.pop();
        if let (Some(left), Some(parent)) = (left, self.frames.last()) {
            self.target = self.up(&self.target, parent.target)?;
            for (tree, _) in left.places {
                let expected = parent.places.iter().find(|(other, _)| *other == tree);
                if let Some((_, expected)) = expected {
                    self.cursors[tree] = self.up(&self.cursors[tree], *expected)?;
                }
            }
        }
        Ok(())
    }

    fn up(&self, cursor: &OwnedFd, expected: Id) -> Result<OwnedFd, Error> {
        let parent = open_dir(cursor, c"..").map_err(|errno| self.failed("open", c"", errno))?;
        if self.id(&parent)? != expected {
            return Err(Error::Changed {
                path: self.path(c""),
            });
        }
        Ok(parent)
    }

    /// Reads a directory in all trees that have it, links what is to be linked and returns the
    /// directories in it.
    fn read(&mut self, trees: &[usize]) -> Result<Vec<Child>, Error> {
        let (merged, below): (Vec<usize>, Vec<usize>) =
            trees.iter().partition(|tree| **tree < self.layers);
        let mut seen: HashMap<CString, Seen> = HashMap::new();
        for tree in merged {
            let found =
                entries(&self.cursors[tree]).map_err(|errno| self.failed("read", c"", errno))?;
            for (name, kind) in found {
                match seen.get_mut(&name) {
                    Some(Seen::Decided | Seen::Directory { cut: true, .. }) => {}
                    Some(Seen::Directory { trees, cut }) => match self.look(tree, &name, kind)? {
                        Entry::Directory { opaque } => {
                            trees.push(tree);
                            *cut = opaque;
                        }
                        Entry::Whiteout | Entry::Other => *cut = true,
                    },
                    None => {
                        let first = self.first(tree, &name, kind, &below)?;
                        seen.insert(name, first);
                    }
                }
            }
        }
        let mut children = Vec::new();
        for (name, seen) in seen {
            if let Seen::Directory { mut trees, cut } = seen {
                if !cut {
                    self.add_below(&name, &below, &mut trees)?;
                }
                children.push(Child {
                    name,
                    trees,
                    opaque: cut,
                });
            }
        }
        Ok(children)
    }

    /// What the topmost entry of a name means.
    fn first(
        &mut self,
        tree: usize,
        name: &CStr,
        kind: FileType,
        below: &[usize],
    ) -> Result<Seen, Error> {
        match self.look(tree, name, kind)? {
            Entry::Directory { opaque } => {
                return Ok(Seen::Directory {
                    trees: vec![tree],
                    cut: opaque,
                });
            }
            Entry::Whiteout => {
                if self.is_visible(name, below)? {
                    self.link(tree, name)?;
                    self.report.whiteouts += 1;
                }
            }
            Entry::Other => self.link(tree, name)?,
        }
        Ok(Seen::Decided)
    }

    /// Looks at an entry, opening nothing that could block or act.
    fn look(&self, tree: usize, name: &CStr, kind: FileType) -> Result<Entry, Error> {
        let cursor = &self.cursors[tree];
        let failed = |errno| self.failed("look at", name, errno);
        let kind = match kind {
            FileType::Unknown => self::kind(&stat_at(cursor, name).map_err(failed)?),
            known => known,
        };
        match kind {
            FileType::Directory => {
                let directory = open_dir(cursor, name).map_err(failed)?;
                let opaque = self.opaque(&directory, name)?;
                Ok(Entry::Directory { opaque })
            }
            FileType::RegularFile => {
                let file = open_file(cursor, name).map_err(failed)?;
                self.opaque(&file, name)?;
                Ok(Entry::Other)
            }
            FileType::CharacterDevice => {
                let stat = stat_at(cursor, name).map_err(failed)?;
                Ok(match is_whiteout(&stat) {
                    true => Entry::Whiteout,
                    false => Entry::Other,
                })
            }
            _ => Ok(Entry::Other),
        }
    }

    /// Reads overlayfs' marks of an entry: whether it is opaque, and nothing that is unsupported.
    fn opaque(&self, fd: &OwnedFd, name: &CStr) -> Result<bool, Error> {
        let failed = |errno| self.failed("read the attributes of", name, errno);
        let attributes = Attributes::of(fd);
        let mut opaque = false;
        for attribute in names(&attributes.list().map_err(failed)?) {
            let supported = match mark(attribute.to_bytes()) {
                Mark::Foreign | Mark::Bookkeeping => true,
                Mark::Opaque => {
                    opaque = attributes.get(OPAQUE).map_err(failed)? == b"y";
                    opaque
                }
                Mark::Unsupported => false,
            };
            if !supported {
                return Err(Error::Unsupported {
                    path: self.path(name),
                    mark: attribute.to_string_lossy().into_owned(),
                });
            }
        }
        Ok(opaque)
    }

    /// Whether the layers below show something under a name.
    fn is_visible(&self, name: &CStr, below: &[usize]) -> Result<bool, Error> {
        for &tree in below {
            match stat_at(&self.cursors[tree], name) {
                Err(Errno::NOENT) => {}
                Ok(stat) => return Ok(!is_whiteout(&stat)),
                Err(errno) => return Err(self.failed("look at", name, errno)),
            }
        }
        Ok(false)
    }

    /// Adds the layers below whose directories of this name show through.
    fn add_below(&self, name: &CStr, below: &[usize], trees: &mut Vec<usize>) -> Result<(), Error> {
        for &tree in below {
            match open_dir(&self.cursors[tree], name) {
                Err(Errno::NOENT) => {}
                Ok(directory) => {
                    trees.push(tree);
                    if self.opaque(&directory, name)? {
                        return Ok(());
                    }
                }
                // No directory: it hides those further down.
                Err(Errno::NOTDIR | Errno::LOOP) => return Ok(()),
                Err(errno) => return Err(self.failed("open", name, errno)),
            }
        }
        Ok(())
    }

    fn link(&mut self, tree: usize, name: &CStr) -> Result<(), Error> {
        match linkat(
            &self.cursors[tree],
            name,
            &self.target,
            name,
            AtFlags::empty(),
        ) {
            Ok(()) => {
                self.report.linked += 1;
                Ok(())
            }
            Err(Errno::XDEV | Errno::MLINK | Errno::PERM) => self.copy(tree, name),
            Err(errno) => Err(self.failed("link", name, errno)),
        }
    }

    fn copy(&mut self, tree: usize, name: &CStr) -> Result<(), Error> {
        let failed = |errno| self.failed("copy", name, errno);
        let from = &self.cursors[tree];
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        let stat = statx(from, name, flags, StatxFlags::BASIC_STATS).map_err(failed)?;
        if meta::is_immutable(&stat) {
            return Err(Error::Immutable {
                path: self.path(name),
            });
        }
        let several = stat.stx_nlink > 1;
        if several && self.link_copy(id(&stat), name).map_err(failed)? {
            self.report.linked += 1;
            return Ok(());
        }
        copy::copy(from, name, &stat, &self.target, name).map_err(failed)?;
        self.report.copied += 1;
        if several {
            let names = self.frames.iter().skip(1).map(|frame| frame.name.clone());
            let path = names.chain([name.to_owned()]).collect();
            self.copies.insert(id(&stat), path);
        }
        Ok(())
    }

    /// Links an earlier copy of the same file; false when there is none that takes a further link.
    fn link_copy(&self, file: Id, name: &CStr) -> Result<bool, Errno> {
        let Some((last, directories)) = self.copies.get(&file).and_then(|path| path.split_last())
        else {
            return Ok(false);
        };
        let mut directory = open_dir(&self.root, c".")?;
        for name in directories {
            directory = open_dir(&directory, name)?;
        }
        match linkat(&directory, last, &self.target, name, AtFlags::empty()) {
            Err(Errno::MLINK) => Ok(false),
            linked => linked.map(|()| true),
        }
    }

    fn id(&self, fd: &OwnedFd) -> Result<Id, Error> {
        let stat = stat_fd(fd).map_err(|errno| self.failed("look at", c"", errno))?;
        Ok(id(&stat))
    }

    fn failed(&self, operation: &'static str, name: &CStr, errno: Errno) -> Error {
        Error::io(operation, self.path(name), errno)
    }

    /// The place of a name in the present directory, for messages: the last parts of it.
    fn path(&self, name: &CStr) -> String {
        const SHOWN: usize = 8;
        let hidden = self.frames.len().saturating_sub(SHOWN);
        let mut path = String::from(if hidden > 1 { "..." } else { "" });
        let names = self.frames.iter().skip(hidden.max(1));
        for part in names.map(|frame| frame.name.as_c_str()).chain([name]) {
            path.push('/');
            path.push_str(&part.to_string_lossy());
        }
        path
    }
}
