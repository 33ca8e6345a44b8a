//! Bringing one path of a tree back into another.

use crate::beneath::{self, Cursor, Listed, Names, batches};
use crate::error::shown;
use crate::remove::remove;
use crate::tree::{Id, foreign, id, kind, stat_at, stat_fd};
use crate::{Error, copy, meta};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, RenameFlags, Statx, fchmod, linkat, mkdirat, renameat,
    renameat_with,
};
use rustix::io::Errno;
use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::hash::{BuildHasher, Hasher, RandomState};

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY);
/// How many names of a directory are read before they are copied.
const BATCH: usize = 1024;

/// What was brought back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Restored {
    /// Entries, directories and further names of files included.
    pub entries: u64,
    /// Bytes of regular files, holes included.
    pub bytes: u64,
}

/// Copies what is at `path` in the tree `from`, be it a whole tree, to `target` in the tree `to`, in
/// place of what is there: content with holes, mode, owner, times, extended attributes, links among
/// each other. Both are roots of mounts, such as [`PrivateMount`](crate::PrivateMount)s, and not the
/// same; paths are from there, and slashes at their ends do not matter.
///
/// A complete copy is made next to the target first, and then takes its place: in one step, except
/// where overlayfs cannot move a directory that a lower layer has, which is removed just before. No
/// link is followed in either tree. Directories missing above the target are made like those above
/// `path`, the nearest like the nearest.
///
/// Nothing is synced. Memory: names of directories to be gone into, and for each file with several
/// names its path.
///
/// # Errors
/// [`Error::NoPath`], [`Error::NotFound`] and [`Error::InTheWay`] before anything is copied. After
/// another the target is as it was, unless the last step failed; directories made above it stay.
pub fn restore_path(
    from: impl AsFd,
    path: &[u8],
    to: impl AsFd,
    target: &[u8],
) -> Result<Restored, Error> {
    let (source_dirs, source) = split(path)?;
    let (target_dirs, name) = split(target)?;
    let (parent, stat) = find(&from, path, (&source_dirs, &source))?;
    let place = parents(&from, &source_dirs, &to, &target_dirs)?;
    copy_to(&place, &name, (path, target), |copier, copied| {
        if kind(&stat) == FileType::Directory {
            let directory = beneath::open(&parent, source.to_bytes(), DIRECTORY);
            copier.tree(&directory.map_err(|errno| (Vec::new(), errno))?, copied)
        } else {
            let made = copy::copy(&parent, &source, &stat, &place, copied);
            made.map(|()| copier.count(&stat))
                .map_err(|errno| (Vec::new(), errno))
        }
    })
}

/// Refuses what [`restore_path`] refuses before it copies anything. Looks only.
///
/// # Errors
/// [`Error::NoPath`], [`Error::NotFound`] and [`Error::InTheWay`].
pub fn check_restore(
    from: impl AsFd,
    path: &[u8],
    to: impl AsFd,
    target: &[u8],
) -> Result<(), Error> {
    let (source_dirs, source) = split(path)?;
    let (target_dirs, _) = split(target)?;
    find(&from, path, (&source_dirs, &source))?;
    let root = beneath::open(&to, b"", DIRECTORY);
    let mut place = root.map_err(|errno| Error::io("open", shown(b""), errno))?;
    for (number, part) in target_dirs.iter().enumerate() {
        let way = || shown(&target_dirs[..=number].join(&b'/'));
        place = match beneath::open(&place, part, DIRECTORY) {
            Err(Errno::NOENT) => return Ok(()),
            Err(Errno::NOTDIR | Errno::LOOP) => return Err(Error::InTheWay(way())),
            opened => opened.map_err(|errno| Error::io("open", way(), errno))?,
        };
    }
    Ok(())
}

/// The directory that an entry is in, and what the entry is.
fn find(
    from: impl AsFd,
    path: &[u8],
    (above, name): (&[&[u8]], &CStr),
) -> Result<(OwnedFd, Statx), Error> {
    let above = above.join(&b'/');
    let parent = match beneath::open(&from, &above, DIRECTORY) {
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {
            return Err(Error::NotFound(shown(path)));
        }
        parent => parent.map_err(|errno| Error::io("open", shown(&above), errno))?,
    };
    match stat_at(&parent, name) {
        Err(Errno::NOENT) => Err(Error::NotFound(shown(path))),
        stat => Ok((
            parent,
            stat.map_err(|errno| Error::io("look at", shown(path), errno))?,
        )),
    }
}

/// As [`restore_path`], from a directory that is open for reading, to a name at the root of the tree
/// `to`.
///
/// # Errors
/// [`Error::NoPath`] when the target is not a single name; otherwise those of [`restore_path`].
pub fn restore_directory(
    directory: impl AsFd,
    to: impl AsFd,
    target: &[u8],
) -> Result<Restored, Error> {
    let (above, name) = split(target)?;
    if !above.is_empty() {
        return Err(Error::NoPath(shown(target)));
    }
    let opened = |fd| beneath::open(fd, b"", DIRECTORY);
    let failed = |path| move |errno| Error::io("open", shown(path), errno);
    let directory = opened(directory.as_fd()).map_err(failed(target))?;
    let place = opened(to.as_fd()).map_err(failed(b"/"))?;
    copy_to(&place, &name, (target, target), |copier, copied| {
        copier.tree(&directory, copied)
    })
}

/// Makes a complete copy beside a name, and puts it in its place. `paths` are what is copied and where
/// it goes, for errors.
fn copy_to(
    place: &OwnedFd,
    name: &CStr,
    paths: (&[u8], &[u8]),
    make: impl FnOnce(&mut Copier<'_>, &CStr) -> Result<(), Failed>,
) -> Result<Restored, Error> {
    let (path, target) = paths;
    let copied = temporary();
    let mut copier = Copier {
        links: HashMap::new(),
        place,
        restored: Restored::default(),
    };
    let made = make(&mut copier, &copied)
        .map_err(|(below, errno)| Error::io("copy", shown(&[path, &below].join(&b'/')), errno))
        .and_then(|()| {
            put(place, &copied, name).map_err(|errno| Error::io("replace", shown(target), errno))
        });
    if let Err(error) = made {
        // The error that is told is the first.
        let _ = remove(place, &copied);
        return Err(error);
    }
    tracing::debug!(restored = ?copier.restored, "restored a path");
    Ok(copier.restored)
}

/// The directories of a path, and its last part.
fn split(path: &[u8]) -> Result<(Vec<&[u8]>, CString), Error> {
    let parts = path.split(|byte| *byte == b'/');
    let mut parts: Vec<_> = parts.filter(|part| !part.is_empty()).collect();
    let no_path = || Error::NoPath(shown(path));
    if path.contains(&0)
        || parts
            .iter()
            .any(|part| matches!(part, [b'.'] | [b'.', b'.']))
    {
        return Err(no_path());
    }
    let last = parts.pop().and_then(|last| CString::new(last).ok());
    Ok((parts, last.ok_or_else(no_path)?))
}

/// Opens the directory that the target is in, and makes what is missing on the way.
fn parents(
    from: impl AsFd,
    source: &[&[u8]],
    to: impl AsFd,
    target: &[&[u8]],
) -> Result<OwnedFd, Error> {
    let path = |parts: usize| shown(&target[..parts].join(&b'/'));
    let root = beneath::open(&to, b"", DIRECTORY);
    let mut place = root.map_err(|errno| Error::io("open", path(0), errno))?;
    for (number, part) in target.iter().enumerate() {
        place = match beneath::open(&place, part, DIRECTORY) {
            Err(Errno::NOTDIR | Errno::LOOP) => return Err(Error::InTheWay(path(number + 1))),
            Err(Errno::NOENT) => {
                // The source's directory that is as far above its entry as this one is.
                let like = (source.len() + number).checked_sub(target.len());
                let like = like.map(|number| source[..=number].join(&b'/'));
                make(&from, like.as_deref(), &place, part)
                    .map_err(|errno| Error::io("make", path(number + 1), errno))?
            }
            opened => opened.map_err(|errno| Error::io("open", path(number + 1), errno))?,
        };
    }
    Ok(place)
}

fn make(
    from: impl AsFd,
    like: Option<&[u8]>,
    parent: &OwnedFd,
    part: &[u8],
) -> Result<OwnedFd, Errno> {
    let name = CString::new(part).map_err(|_| Errno::INVAL)?;
    mkdirat(parent, &name, Mode::RWXU)?;
    let made = beneath::open(parent, part, DIRECTORY)?;
    match like {
        Some(like) => {
            let like = beneath::open(from, like, DIRECTORY)?;
            meta::apply(&like, &stat_fd(&like)?, &made, foreign)?;
        }
        None => fchmod(&made, Mode::from_raw_mode(0o755))?,
    }
    Ok(made)
}

/// A name that nobody has, nor guesses.
fn temporary() -> CString {
    let random = RandomState::new().build_hasher().finish();
    // Digits and letters only.
    CString::new(format!(".botstead-{random:016x}")).unwrap_or_default()
}

/// Puts a complete copy in its place.
fn put(place: &OwnedFd, copied: &CStr, name: &CStr) -> Result<(), Errno> {
    let is_directory = |name| match stat_at(place, name) {
        Err(Errno::NOENT) => Ok(None),
        stat => stat.map(|stat| Some(kind(&stat) == FileType::Directory)),
    };
    match (is_directory(copied)?, is_directory(name)?) {
        (_, None) => return renameat_with(place, copied, place, name, RenameFlags::NOREPLACE),
        (Some(false), Some(false)) => return renameat(place, copied, place, name),
        _ => {}
    }
    match renameat_with(place, copied, place, name, RenameFlags::EXCHANGE) {
        Ok(()) => remove(place, copied),
        // Overlayfs moves no directory that a lower layer has; some filesystems exchange nothing.
        Err(Errno::XDEV | Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
            remove(place, name)?;
            renameat_with(place, copied, place, name, RenameFlags::NOREPLACE)
        }
        Err(errno) => Err(errno),
    }
}

/// Where it failed, beneath the source, and how.
type Failed = (Vec<u8>, Errno);

struct Copier<'a> {
    /// Where the copies of files with several names are, beneath the copy's root.
    links: HashMap<Id, (Vec<u8>, CString)>,
    /// The directory that the copy is made in.
    place: &'a OwnedFd,
    restored: Restored,
}

impl Copier<'_> {
    fn count(&mut self, stat: &rustix::fs::Statx) {
        self.restored.entries += 1;
        if kind(stat) == FileType::RegularFile {
            self.restored.bytes += stat.stx_size;
        }
    }

    /// Copies a directory with all that is in it.
    fn tree(&mut self, directory: &OwnedFd, copied: &CStr) -> Result<(), Failed> {
        let at_root = |errno| (Vec::new(), errno);
        mkdirat(self.place, copied, Mode::RWXU).map_err(at_root)?;
        let root = beneath::open(self.place, copied.to_bytes(), DIRECTORY).map_err(at_root)?;
        let mut from = Cursor::new(directory).map_err(at_root)?;
        let mut to = Cursor::new(&root).map_err(at_root)?;
        let mut frames = vec![self.files(&from, &to, &root)?];
        while let Some(directories) = frames.last_mut() {
            let mut step = || {
                let Some(name) = directories.pop() else {
                    // Now that nothing is added to it any more.
                    let stat = stat_fd(from.dir())?;
                    meta::apply(from.dir(), &stat, to.dir(), foreign)?;
                    self.count(&stat);
                    from.leave()?;
                    to.leave()?;
                    return Ok(false);
                };
                from.enter(&name)?;
                mkdirat(to.dir(), &name, Mode::RWXU)?;
                to.enter(&name)?;
                Ok(true)
            };
            match step() {
                Ok(true) => frames.push(self.files(&from, &to, &root)?),
                Ok(false) => drop(frames.pop()),
                Err(errno) => return Err((from.path().to_vec(), errno)),
            }
        }
        Ok(())
    }

    /// Copies what is no directory; the directories' names.
    fn files(&mut self, from: &Cursor, to: &Cursor, root: &OwnedFd) -> Result<Names, Failed> {
        let mut directories = Names::default();
        let copied = batches(from.dir(), BATCH, |batch| {
            for Listed { name, .. } in batch {
                let stat = stat_at(from.dir(), &name)?;
                if kind(&stat) == FileType::Directory {
                    directories.push(&name);
                    continue;
                }
                self.file(from, to, root, &name, &stat)?;
                self.count(&stat);
            }
            Ok::<_, Errno>(())
        });
        match copied {
            Ok(()) => Ok(directories),
            Err(errno) => Err((from.path().to_vec(), errno)),
        }
    }

    fn file(
        &mut self,
        from: &Cursor,
        to: &Cursor,
        root: &OwnedFd,
        name: &CStr,
        stat: &rustix::fs::Statx,
    ) -> Result<(), Errno> {
        if stat.stx_nlink > 1 {
            if let Some((path, first)) = self.links.get(&id(stat)) {
                let directory = beneath::open(root, path, OFlags::PATH | OFlags::DIRECTORY)?;
                match linkat(&directory, first, to.dir(), name, AtFlags::empty()) {
                    Err(Errno::MLINK) => {}
                    linked => return linked,
                }
            }
            let first = (to.path().to_vec(), name.to_owned());
            self.links.insert(id(stat), first);
        }
        copy::copy(from.dir(), name, stat, to.dir(), name)
    }
}
