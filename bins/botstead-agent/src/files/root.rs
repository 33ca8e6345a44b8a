//! Resolving paths beneath a root. Every descriptor that a request leads to comes from here or is
//! opened relative to one that does, by a single name and without following links.
//!
//! The kernel resolves (openat2(2), `RESOLVE_IN_ROOT`): `..` and symlinks stay inside whatever
//! anybody moves meanwhile, and the magic links of /proc lead nowhere.

use super::failure::{Result, failed, refused};
use super::path::{InsidePath, child};
use botstead_bridge::{FailureKind, proto};
use rustix::fd::{AsFd, AsRawFd, OwnedFd};
use rustix::fs::{
    AtFlags, CWD, Mode, OFlags, ResolveFlags, Statx, StatxFlags, openat, openat2, readlinkat, statx,
};
use rustix::io::{self, Errno};

const INSIDE: ResolveFlags = ResolveFlags::IN_ROOT.union(ResolveFlags::NO_MAGICLINKS);

/// How often the kernel is asked again when something was renamed while it resolved `..`.
const ATTEMPTS: u32 = 200;

/// How many links a name may lead through, as in the kernel.
const MOST_LINKS: u32 = 40;

/// A directory that requests do not leave.
#[derive(Debug)]
pub(crate) struct Root {
    fd: OwnedFd,
    /// What the kernel says its path is; `None` when that cannot be told.
    path: Option<Vec<u8>>,
}

/// A name in a directory: what can be made, renamed or removed.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) directory: OwnedFd,
    pub(crate) name: Vec<u8>,
    /// The whole path inside the root.
    pub(crate) path: Vec<u8>,
}

impl Place {
    /// What is there, without following a link; `None` when nothing is.
    pub(crate) fn look(&self) -> Result<Option<Statx>> {
        match stat_at(&self.directory, &self.name) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(failed("look at", &self.path, errno)),
        }
    }
}

/// The path of the root that a request names.
pub(crate) fn root_path(root: &[u8]) -> Result<InsidePath> {
    match root {
        b"" => Ok(InsidePath::root()),
        root => parse(root),
    }
}

/// The root and path of a request.
pub(crate) fn locate(at: Option<proto::Location>) -> Result<(Root, InsidePath)> {
    let at = at.unwrap_or_default();
    let path = parse(&at.path)?;
    Ok((Root::open(&at.root)?, path))
}

pub(crate) fn parse(path: &[u8]) -> Result<InsidePath> {
    InsidePath::parse(path).map_err(|fault| fault.failure(path))
}

impl Root {
    /// Opens the root that a request names; an empty one is the workspace's own.
    pub(crate) fn open(root: &[u8]) -> Result<Self> {
        Self::at(&root_path(root)?).map_err(|errno| failed("open the root", root, errno))
    }

    /// Opens the root at this path.
    pub(crate) fn at(root: &InsidePath) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let own = openat(CWD, c"/", flags, Mode::empty())?;
        let fd = match root.is_root() {
            true => own,
            false => inside(&own, &root.for_kernel(), flags)?,
        };
        let path = path_of(&fd);
        Ok(Self { fd, path })
    }

    /// Opens what a path leads to, following links.
    pub(crate) fn open_at(&self, path: &InsidePath, flags: OFlags) -> io::Result<OwnedFd> {
        inside(&self.fd, &path.for_kernel(), flags | OFlags::CLOEXEC)
    }

    /// Opens what bytes of the kernel's own making lead to, such as a directory's path with a name.
    pub(crate) fn open_raw(&self, path: &[u8], flags: OFlags) -> io::Result<OwnedFd> {
        inside(&self.fd, path, flags | OFlags::CLOEXEC)
    }

    /// Opens a directory to read it, following links; with its path.
    pub(crate) fn open_directory(&self, path: &InsidePath) -> Result<(OwnedFd, Vec<u8>)> {
        let fd = self
            .open_at(path, OFlags::RDONLY | OFlags::DIRECTORY)
            .map_err(|errno| failed("open", path.absolute(), errno))?;
        let real = self.path_of(&fd, path);
        Ok((fd, real))
    }

    /// The place that a path names; a link at its end is not followed.
    pub(crate) fn place(&self, path: &InsidePath) -> Result<Place> {
        let Some((parent, name)) = path.split() else {
            return Err(match path.is_root() {
                true => refused(
                    FailureKind::PermissionDenied,
                    b"/",
                    "the root itself stays as it is",
                ),
                false => refused(
                    FailureKind::Invalid,
                    path.absolute(),
                    "a path that ends in .. names no entry",
                ),
            });
        };
        let directory = self
            .open_at(&parent, OFlags::PATH | OFlags::DIRECTORY)
            .map_err(|errno| failed("reach", path.absolute(), errno))?;
        Ok(Place {
            path: child(&self.path_of(&directory, &parent), name),
            name: name.to_vec(),
            directory,
        })
    }

    /// The place that a path leads to when links at its end are followed, also where nothing is
    /// there yet.
    pub(crate) fn place_behind_links(&self, path: &InsidePath) -> Result<Place> {
        let mut path = path.clone();
        for _ in 0..MOST_LINKS {
            let place = self.place(&path)?;
            let target = match readlinkat(&place.directory, place.name.as_slice(), Vec::new()) {
                Ok(target) => target,
                // No link, or nothing.
                Err(Errno::INVAL | Errno::NOENT) => return Ok(place),
                Err(errno) => return Err(failed("follow", &place.path, errno)),
            };
            let joined = match path.split() {
                Some((parent, _)) => parent.join(target.to_bytes()),
                None => return Ok(place),
            };
            path = joined.map_err(|fault| fault.failure(target.to_bytes()))?;
        }
        Err(failed("follow", path.absolute(), Errno::LOOP))
    }

    /// The path inside the root of an open file, for words and answers; `asked` where the kernel
    /// cannot tell.
    pub(crate) fn path_of(&self, fd: impl AsFd, asked: &InsidePath) -> Vec<u8> {
        let inside = || {
            let path = path_of(fd)?;
            let root = self.path.as_deref()?;
            if path == root {
                return Some(b"/".to_vec());
            }
            let rest = super::path::below(root, &path)?;
            Some(child(b"/", rest))
        };
        inside().unwrap_or_else(|| asked.absolute().to_vec())
    }

    pub(crate) fn id(&self) -> io::Result<Id> {
        Ok(Id::of(&stat_fd(&self.fd)?))
    }
}

/// Opens a path beneath a directory through which no link leads.
pub(crate) fn open_beneath(top: &OwnedFd, path: &[u8], flags: OFlags) -> io::Result<OwnedFd> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    resolved(top, path, flags | OFlags::CLOEXEC, resolve)
}

fn inside(root: &OwnedFd, path: &[u8], flags: OFlags) -> io::Result<OwnedFd> {
    resolved(root, path, flags, INSIDE)
}

/// Asks again while renames disturb the kernel.
fn resolved(
    top: &OwnedFd,
    path: &[u8],
    flags: OFlags,
    resolve: ResolveFlags,
) -> io::Result<OwnedFd> {
    for _ in 0..ATTEMPTS {
        match openat2(top, path, flags, Mode::empty(), resolve) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            done => return done,
        }
    }
    openat2(top, path, flags, Mode::empty(), resolve)
}

/// What the kernel says the path of an open file is. `None` without /proc, and for what was removed
/// or lies outside of the agent's own root.
fn path_of(fd: impl AsFd) -> Option<Vec<u8>> {
    let link = format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd());
    let path = readlinkat(CWD, link, Vec::new()).ok()?.into_bytes();
    (path.first() == Some(&b'/') && !path.ends_with(b" (deleted)")).then_some(path)
}

/// What names an inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Id(u32, u32, u64);

impl Id {
    pub(crate) fn of(stat: &Statx) -> Self {
        Self(stat.stx_dev_major, stat.stx_dev_minor, stat.stx_ino)
    }
}

pub(crate) fn stat_fd(fd: impl AsFd) -> io::Result<Statx> {
    statx(fd, c"", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS)
}

/// What a name in a directory is; a link is not followed.
pub(crate) fn stat_at(directory: impl AsFd, name: &[u8]) -> io::Result<Statx> {
    let flags = AtFlags::SYMLINK_NOFOLLOW;
    statx(directory, name, flags, StatxFlags::BASIC_STATS)
}

/// Opens a name in a directory for reading; never through a link, never waiting for anybody.
pub(crate) fn open_name(directory: impl AsFd, name: &[u8], flags: OFlags) -> io::Result<OwnedFd> {
    let careful = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    openat(directory, name, flags | careful, Mode::empty())
}

/// A directory that was opened by name just now and may have been replaced by something else since
/// its name was read: `None` then.
pub(crate) fn vanished<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NXIO | Errno::STALE) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// The kernel's own filesystems (statfs(2)): files whose size says nothing, trees without end.
pub(crate) fn is_virtual(fd: impl AsFd) -> io::Result<bool> {
    const MAGIC: [u32; 15] = [
        0x9fa0,      // proc
        0x6265_6572, // sysfs
        0x0027_e0eb, // cgroup
        0x6367_7270, // cgroup2
        0x6462_6720, // debugfs
        0x7472_6163, // tracefs
        0x7363_6673, // securityfs
        0xf97c_ff8c, // selinuxfs
        0x6265_6570, // configfs
        0xcafe_4a11, // bpf
        0x6165_676c, // pstore
        0xde5e_81e4, // efivarfs
        0x4249_4e4d, // binfmt_misc
        0x1cd1,      // devpts
        0x1980_0202, // mqueue
    ];
    let kind = rustix::fs::fstatfs(fd)?.f_type;
    // The kernel's type differs in width and sign between machines; the magic numbers are 32 bits.
    Ok(MAGIC
        .iter()
        .any(|magic| i128::from(kind) & 0xffff_ffff == i128::from(*magic)))
}

/// Whether one directory is another or lies beneath it, going up to the root.
pub(crate) fn is_within(root: &Root, directory: &OwnedFd, ancestor: Id) -> io::Result<bool> {
    let top = root.id()?;
    let up = |fd: &OwnedFd| open_name(fd, b"..", OFlags::PATH | OFlags::DIRECTORY);
    let mut id = Id::of(&stat_fd(directory)?);
    let mut current: Option<OwnedFd> = None;
    loop {
        if id == ancestor {
            return Ok(true);
        }
        if id == top {
            return Ok(false);
        }
        let parent = up(current.as_ref().unwrap_or(directory))?;
        let above = Id::of(&stat_fd(&parent)?);
        if above == id {
            return Ok(false);
        }
        (id, current) = (above, Some(parent));
    }
}
