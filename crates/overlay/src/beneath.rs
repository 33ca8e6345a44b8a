//! Going through a hostile tree by open directories: opening beneath a root, up and down without
//! recursion, reading directories of any size.
//!
//! Nothing here but [`open_in_root`] follows a symbolic link, and nothing crosses a mount point or leaves the root, and nothing opens a
//! pipe or a device: what a name is gets looked at on a mere place (`O_PATH`), and [`reopen`] opens
//! that very inode. One descriptor serves any depth. What a tree's entries mean is not known here.

use crate::tree::{Id, id, open_dir, stat_fd};
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use rustix::fs::{FileType, Mode, OFlags, RawDir, ResolveFlags, openat2};
use rustix::io::{Errno, Result};
use rustix::path::Arg;
use std::ffi::{CStr, CString};

/// What the kernel takes as one path, without the zero byte.
const PATH_MAX: usize = 4095;
/// Holds many names; the kernel's longest record is 280 bytes.
const READ_BUFFER: usize = 64 << 10;

/// How often the kernel is asked before its refusal is passed on.
const ATTEMPTS: usize = 1000;

const RESOLVE: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_MAGICLINKS)
    .union(ResolveFlags::NO_XDEV);

/// Opens a path beneath a directory; the empty path is the directory itself. Any length is taken.
///
/// # Errors
/// `ELOOP` where a part of the path is a symbolic link (the last one too, unless `flags` asks for its
/// place with `O_PATH`, or for a directory: `ENOTDIR`), `ENOTDIR` where it is another thing than a
/// directory, `EXDEV` where it leads upwards or onto another mount.
pub fn open(root: impl AsFd, path: &[u8], flags: OFlags) -> Result<OwnedFd> {
    let mut held: Option<OwnedFd> = None;
    let mut rest = if path.is_empty() { b"." } else { path };
    loop {
        let (part, after) = cut(rest)?;
        let flags = match after {
            Some(_) => OFlags::PATH | OFlags::DIRECTORY,
            None => flags,
        };
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = match &held {
            Some(held) => open_beneath(held.as_fd(), part, flags)?,
            None => open_beneath(root.as_fd(), part, flags)?,
        };
        match after {
            Some(after) => rest = after,
            None => return Ok(opened),
        }
        held = Some(opened);
    }
}

/// Opens a path in a directory as a process would whose root that directory is: links are followed, and
/// neither an absolute one nor `..` leads out of it.
///
/// # Errors
/// `ENOENT` where the path, or a link, leads nowhere, `ELOOP` where links lead in a circle, `EXDEV` where
/// they lead onto another mount.
pub fn open_in_root(root: impl AsFd, path: &[u8], flags: OFlags) -> Result<OwnedFd> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
    let flags = flags | OFlags::CLOEXEC;
    for _ in 0..ATTEMPTS {
        match openat2(root.as_fd(), path, flags, Mode::empty(), resolve) {
            Err(Errno::AGAIN) => {}
            opened => return opened,
        }
    }
    Err(Errno::AGAIN)
}

/// Beneath a directory. The kernel gives up on `..` when something is renamed or mounted anywhere
/// meanwhile (openat2(2), EAGAIN); then it is asked again, for a while.
fn open_beneath(from: BorrowedFd<'_>, path: impl Arg + Copy, flags: OFlags) -> Result<OwnedFd> {
    for _ in 0..ATTEMPTS {
        match openat2(from, path, flags, Mode::empty(), RESOLVE) {
            Err(Errno::AGAIN) => {}
            opened => return opened,
        }
    }
    Err(Errno::AGAIN)
}

/// The parts of a path that the kernel takes at once, and the rest.
fn cut(path: &[u8]) -> Result<(&[u8], Option<&[u8]>)> {
    if path.len() <= PATH_MAX {
        return Ok((path, None));
    }
    let end = path[..PATH_MAX].iter().rposition(|byte| *byte == b'/');
    match end {
        Some(end) if end > 0 => Ok((&path[..end], Some(&path[end + 1..]))),
        _ => Err(Errno::NAMETOOLONG),
    }
}

/// Opens the place of a name in a directory: the entry itself, whatever it is, without acting on it.
///
/// # Errors
/// `EXDEV` when something is mounted there.
pub fn place(parent: impl AsFd, name: &CStr) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    open_beneath(parent.as_fd(), name, flags)
}

/// How what holds data is read: a lease that someone holds on the file must not stop us.
const READ: OFlags = OFlags::RDONLY
    .union(OFlags::CLOEXEC)
    .union(OFlags::NOATIME)
    .union(OFlags::NONBLOCK);

/// Opens for reading what is open as a mere place, a regular file or a directory. Needs /proc.
pub fn reopen(place: impl AsFd) -> Result<OwnedFd> {
    let path = format!("/proc/self/fd/{}", place.as_fd().as_raw_fd());
    rustix::fs::open(path, READ, Mode::empty())
}

/// Opens for reading, in one step, a name that its directory says is a regular file. Whether it still was
/// one is for the caller to see by its status: to open a pipe is to act on it, which is harmless, but not
/// a device, so that the mount should have none (`nodev`) where others change the tree.
///
/// # Errors
/// The kernel's. [`place`] tells more of what cannot be opened.
pub fn file(parent: impl AsFd, name: &CStr) -> Result<OwnedFd> {
    let flags = READ | OFlags::NOFOLLOW | OFlags::NOCTTY;
    open_beneath(parent.as_fd(), name, flags)
}

/// A place in a tree: the directory that it is in, open for reading, and the way back.
#[derive(Debug)]
pub struct Cursor {
    dir: OwnedFd,
    above: Vec<(Id, usize)>,
    path: Vec<u8>,
}

impl Cursor {
    /// Begins at a directory, which may be open as a mere place.
    pub fn new(root: impl AsFd) -> Result<Self> {
        Ok(Self {
            dir: open_dir(root, c".")?,
            above: Vec::new(),
            path: Vec::new(),
        })
    }

    /// The directory.
    pub fn dir(&self) -> &OwnedFd {
        &self.dir
    }

    /// The way from the root, without slashes at the ends; empty at the root.
    pub fn path(&self) -> &[u8] {
        &self.path
    }

    /// How many directories are above, up to the root.
    pub fn depth(&self) -> usize {
        self.above.len()
    }

    /// Goes into a directory of the present one.
    ///
    /// # Errors
    /// `ENOTDIR` when it is none, `EXDEV` when something is mounted there.
    pub fn enter(&mut self, name: &CStr) -> Result<()> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let flags = flags | OFlags::NOATIME;
        let child = open_beneath(self.dir.as_fd(), name, flags)?;
        self.above.push((id(&stat_fd(&self.dir)?), self.path.len()));
        if !self.path.is_empty() {
            self.path.push(b'/');
        }
        self.path.extend_from_slice(name.to_bytes());
        self.dir = child;
        Ok(())
    }

    /// Goes back up; stays at the root.
    ///
    /// # Errors
    /// `ESTALE` when the directory was moved meanwhile.
    pub fn leave(&mut self) -> Result<()> {
        let Some((expected, length)) = self.above.pop() else {
            return Ok(());
        };
        let parent = open_dir(&self.dir, c"..")?;
        if id(&stat_fd(&parent)?) != expected {
            return Err(Errno::STALE);
        }
        self.dir = parent;
        self.path.truncate(length);
        Ok(())
    }
}

/// What a directory says of one of its names.
#[derive(Debug)]
pub struct Listed {
    /// The name, never `.` or `..`.
    pub name: CString,
    /// What it is; unknown on some filesystems.
    pub kind: FileType,
    /// The number of its inode.
    pub inode: u64,
}

/// Reads an open directory from where it stands and gives its entries on in batches of at most
/// `most`: memory does not depend on the directory's size.
///
/// # Errors
/// What reading or `visit` says.
pub fn batches<E: From<Errno>>(
    dir: impl AsFd,
    most: usize,
    mut visit: impl FnMut(Vec<Listed>) -> std::result::Result<(), E>,
) -> std::result::Result<(), E> {
    let mut buffer: Vec<u8> = Vec::with_capacity(READ_BUFFER);
    let mut reader = RawDir::new(dir, buffer.spare_capacity_mut());
    let mut batch = Vec::new();
    while let Some(entry) = reader.next() {
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        batch.push(Listed {
            name: name.to_owned(),
            kind: entry.file_type(),
            inode: entry.ino(),
        });
        if batch.len() >= most {
            visit(std::mem::take(&mut batch))?;
        }
    }
    if batch.is_empty() {
        return Ok(());
    }
    visit(batch)
}

/// Names to be gone through later, last in, first out, in as little memory as they take: a directory
/// may have millions.
#[derive(Debug, Default)]
pub struct Names(Vec<u8>);

impl Names {
    /// Adds one.
    pub fn push(&mut self, name: &CStr) {
        self.0.extend_from_slice(name.to_bytes_with_nul());
    }

    /// Takes the one that was added last.
    pub fn pop(&mut self) -> Option<CString> {
        let last = self.0.len().checked_sub(1)?;
        let zero = self.0[..last].iter().rposition(|byte| *byte == 0);
        let name = self.0.split_off(zero.map_or(0, |zero| zero + 1));
        CString::from_vec_with_nul(name).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn names_come_back_in_reverse() {
        let mut names = Names::default();
        for name in [c"a", c"bb", c"c"] {
            names.push(name);
        }
        let all: Vec<_> = std::iter::from_fn(|| names.pop()).collect();
        assert_eq!(all, [c"c", c"bb", c"a"].map(CStr::to_owned));
    }

    #[test]
    fn links_and_ways_out_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("a/b")).unwrap();
        symlink("b", dir.path().join("a/link")).unwrap();
        fs::write(dir.path().join("a/file"), "x").unwrap();
        let root = open_dir(rustix::fs::CWD, c"/").unwrap();
        let path = dir.path().as_os_str().as_encoded_bytes();
        let root = open(root, &path[1..], OFlags::PATH | OFlags::DIRECTORY).unwrap();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        for (path, expected) in [
            ("a/b", None),
            ("", None),
            ("a/link", Some(Errno::NOTDIR)),
            ("a/link/x", Some(Errno::LOOP)),
            ("a/file/x", Some(Errno::NOTDIR)),
            ("a/../..", Some(Errno::XDEV)),
            ("/", Some(Errno::XDEV)),
            ("none", Some(Errno::NOENT)),
        ] {
            let opened = open(&root, path.as_bytes(), flags);
            assert_eq!(opened.err(), expected, "{path}");
        }
        assert!(open(&root, b"a/link", OFlags::PATH).is_ok());
    }

    #[test]
    fn links_are_followed_within_a_root_and_never_out_of_it() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        fs::create_dir_all(root.join("a/b")).unwrap();
        fs::create_dir(dir.path().join("a")).unwrap();
        fs::write(root.join("a/b/inside"), "x").unwrap();
        fs::write(dir.path().join("a/outside"), "x").unwrap();
        let opened_root = open_dir(
            rustix::fs::CWD,
            &CString::new(root.as_os_str().as_encoded_bytes()).unwrap(),
        );
        let opened_root = opened_root.unwrap();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        for target in ["a/b", "/a/b", "../../a/b", "/../a/./b"] {
            symlink(target, root.join("link")).unwrap();
            let found = open_in_root(&opened_root, b"link", flags).unwrap();
            let names = crate::tree::entries(found).unwrap();
            assert_eq!(names[0].0, c"inside".to_owned(), "{target}");
            fs::remove_file(root.join("link")).unwrap();
        }
        for (target, expected) in [
            ("link", Errno::LOOP),
            ("none", Errno::NOENT),
            ("a/b/inside", Errno::NOTDIR),
            ("/proc/self/root", Errno::NOENT),
        ] {
            symlink(target, root.join("link")).unwrap();
            let refused = open_in_root(&opened_root, b"link", flags);
            assert_eq!(refused.err(), Some(expected), "{target}");
            fs::remove_file(root.join("link")).unwrap();
        }
    }

    #[test]
    fn paths_longer_than_the_kernel_takes() {
        let dir = tempfile::tempdir().unwrap();
        let name = CString::new(vec![b'n'; 200]).unwrap();
        let root = open_dir(rustix::fs::CWD, c"/").unwrap();
        let path = dir.path().as_os_str().as_encoded_bytes();
        let root = open(root, &path[1..], OFlags::PATH).unwrap();
        let mut cursor = Cursor::new(&root).unwrap();
        for _ in 0..50 {
            rustix::fs::mkdirat(cursor.dir(), &name, Mode::RWXU).unwrap();
            cursor.enter(&name).unwrap();
        }
        let deepest = id(&stat_fd(cursor.dir()).unwrap());
        let opened = open(&root, cursor.path(), OFlags::PATH).unwrap();
        assert_eq!(id(&stat_fd(&opened).unwrap()), deepest);
        for _ in 0..50 {
            cursor.leave().unwrap();
        }
        assert_eq!((cursor.path(), cursor.depth()), (b"".as_slice(), 0));
        crate::remove::empty(&root).unwrap();
    }

    #[test]
    fn a_directory_that_moved_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("a/b")).unwrap();
        let root = rustix::fs::open(dir.path(), OFlags::PATH, Mode::empty()).unwrap();
        let mut cursor = Cursor::new(&root).unwrap();
        cursor.enter(c"a").unwrap();
        cursor.enter(c"b").unwrap();
        fs::rename(dir.path().join("a/b"), dir.path().join("b")).unwrap();
        assert_eq!(cursor.leave(), Err(Errno::STALE));
    }
}
