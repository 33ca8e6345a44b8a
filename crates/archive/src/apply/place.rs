//! Making one entry beneath the destination, in place of whatever is there, with its metadata.

use super::{Owner, Ownership};
use crate::attributes::{ACCESS_LIST, Attribute, DEFAULT_LIST, classify, refusal};
use crate::error::Refusal;
use crate::format::Time;
use botstead_overlay::beneath;
use botstead_overlay::remove::remove;
use botstead_overlay::tree::{Attributes, kind, names, stat_at};
use rustix::fd::{AsRawFd, BorrowedFd, OwnedFd};
use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, RawMode, Timespec, Timestamps, UTIME_OMIT, Uid, chmod,
    chownat, fchmod, fchown, futimens, linkat, mkdirat, mknodat, openat, symlinkat, utimensat,
};
use rustix::io::Errno;
use std::ffi::{CStr, CString};

/// Why an entry could not be made.
#[derive(Debug)]
pub(super) enum Trouble {
    /// The destination cannot have it.
    Refused(Refusal),
    Failed(&'static str, Errno),
}

type Result<T> = std::result::Result<T, Trouble>;

/// `map_err` with what was tried.
fn trying<T>(operation: &'static str, result: rustix::io::Result<T>) -> Result<T> {
    result.map_err(|errno| Trouble::Failed(operation, errno))
}

/// What an entry gets besides its content.
pub(super) struct Metadata<'a> {
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) modified: Time,
    pub(super) attributes: Vec<&'a (Vec<u8>, Vec<u8>)>,
}

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY);
const NEW: OFlags = OFlags::WRONLY
    .union(OFlags::CREATE)
    .union(OFlags::EXCL)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);
const PLACE: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Directories beneath a root, of which the next is mostly near the last.
pub(super) struct Way<'a> {
    root: BorrowedFd<'a>,
    path: Vec<u8>,
    here: OwnedFd,
}

impl<'a> Way<'a> {
    pub(super) fn new(root: BorrowedFd<'a>) -> rustix::io::Result<Self> {
        Ok(Self {
            root,
            path: Vec::new(),
            here: beneath::open(root, b"", DIRECTORY)?,
        })
    }

    /// Opens a directory.
    pub(super) fn go(&mut self, path: &[u8]) -> rustix::io::Result<&OwnedFd> {
        if path != self.path {
            let below = path.strip_prefix(self.path.as_slice());
            self.here = match below.and_then(|below| below.strip_prefix(b"/")) {
                Some(below) if !self.path.is_empty() => beneath::open(&self.here, below, DIRECTORY),
                _ => beneath::open(self.root, path, DIRECTORY),
            }?;
            self.path = path.to_vec();
        }
        Ok(&self.here)
    }
}

/// The destination, and the directories that were written to and linked from last.
pub(super) struct Places<'a> {
    way: Way<'a>,
    targets: Way<'a>,
    ownership: Ownership,
    /// Whether new entries of that directory inherit an access list.
    inherits: bool,
}

impl<'a> Places<'a> {
    pub(super) fn new(root: BorrowedFd<'a>, ownership: Ownership) -> rustix::io::Result<Self> {
        let way = Way::new(root)?;
        Ok(Self {
            inherits: has_default_list(&way.here),
            way,
            targets: Way::new(root)?,
            ownership,
        })
    }

    /// The destination itself takes metadata, and keeps none of its attributes.
    pub(super) fn root(&mut self, metadata: &Metadata<'_>) -> Result<()> {
        let root = trying("open", beneath::open(self.way.root, b"", DIRECTORY))?;
        let attributes = Attributes::of(&root);
        let list = trying("read the attributes of", attributes.list())?;
        for name in names(&list) {
            if classify(name.to_bytes()) == Attribute::Carried {
                trying("remove an attribute of", attributes.remove(name))?;
            }
        }
        self.finish(&root, metadata)?;
        self.way.path.clear();
        self.inherits = has_default_list(&root);
        self.way.here = root;
        Ok(())
    }

    pub(super) fn directory(&mut self, path: &[u8], metadata: &Metadata<'_>) -> Result<()> {
        let name = self.enter(path)?;
        let parent = &self.way.here;
        let mut new = true;
        match mkdirat(parent, &name, Mode::RWXU) {
            Err(Errno::EXIST) => match kind(&trying("look at", stat_at(parent, &name))?) {
                FileType::Directory => new = false,
                _ => {
                    trying("replace", remove(parent, &name))?;
                    trying("make", mkdirat(parent, &name, Mode::RWXU))?;
                }
            },
            made => trying("make", made)?,
        }
        let directory = trying("open", beneath::open(parent, name.to_bytes(), DIRECTORY))?;
        if new {
            self.disinherit(&Attributes::of(&directory), true)?;
        }
        self.finish(&directory, metadata)
    }

    /// A new, empty file; [`Places::finish`] follows when it has its content.
    pub(super) fn file(&mut self, path: &[u8]) -> Result<OwnedFd> {
        let owner_only = Mode::RUSR | Mode::WUSR;
        let (_, file) = self.make(path, |parent, name| openat(parent, name, NEW, owner_only))?;
        self.disinherit(&Attributes::of(&file), false)?;
        Ok(file)
    }

    pub(super) fn hard_link(&mut self, path: &[u8], target: &[u8]) -> Result<()> {
        if path == target {
            return Ok(());
        }
        let (directory, name) = split(target)?;
        let new = self.enter(path)?;
        let from = trying("link", self.targets.go(directory))?;
        let link = |to: &OwnedFd, new: &CStr| linkat(from, &name, to, new, AtFlags::empty());
        make(&self.way.here, &new, link).map_err(|trouble| match trouble {
            Trouble::Failed(_, Errno::MLINK) => Trouble::Refused(Refusal::ManyLinks),
            trouble => trouble,
        })
    }

    pub(super) fn symlink(
        &mut self,
        path: &[u8],
        target: &[u8],
        metadata: &Metadata<'_>,
    ) -> Result<()> {
        let made = self.make(path, |parent, name| symlinkat(target, parent, name));
        let (name, ()) = made.map_err(|trouble| match trouble {
            // Some filesystems take less than the kernel: XFS 1,024 bytes.
            Trouble::Failed(_, Errno::NAMETOOLONG) => Trouble::Refused(Refusal::LinkTarget),
            trouble => trouble,
        })?;
        self.finish_place(&name, metadata, false)
    }

    pub(super) fn fifo(&mut self, path: &[u8], metadata: &Metadata<'_>) -> Result<()> {
        let (name, ()) = self.make(path, |parent, name| {
            mknodat(parent, name, FileType::Fifo, Mode::RUSR, 0)
        })?;
        self.finish_place(&name, metadata, true)
    }

    /// Gives an open file or directory its metadata, in this order: a change of owner takes away
    /// capabilities and set-id bits, access lists and modes change each other, and all of it changes
    /// the times.
    pub(super) fn finish(&self, file: &OwnedFd, metadata: &Metadata<'_>) -> Result<()> {
        let (uid, gid) = self.owner(metadata);
        trying("set the owner of", fchown(file, uid, gid))?;
        set_attributes(&Attributes::of(file), metadata, file)?;
        trying("set the mode of", fchmod(file, mode(metadata.mode)))?;
        trying("set the time of", futimens(file, &times(metadata.modified)))
    }

    /// The same for a link or a pipe of the present directory, which cannot be opened.
    fn finish_place(&self, name: &CStr, metadata: &Metadata<'_>, with_mode: bool) -> Result<()> {
        let place = trying("open", openat(&self.way.here, name, PLACE, Mode::empty()))?;
        let (uid, gid) = self.owner(metadata);
        let owned = chownat(&place, c"", uid, gid, AtFlags::EMPTY_PATH);
        trying("set the owner of", owned)?;
        let attributes = Attributes::of_place(&place);
        if with_mode {
            self.disinherit(&attributes, false)?;
        }
        set_attributes(&attributes, metadata, &self.way.here)?;
        if with_mode {
            let path = format!("/proc/self/fd/{}", place.as_raw_fd());
            trying("set the mode of", chmod(path, mode(metadata.mode)))?;
        }
        let times = times(metadata.modified);
        let set = utimensat(&self.way.here, name, &times, AtFlags::SYMLINK_NOFOLLOW);
        trying("set the time of", set)
    }

    /// Makes an entry that must be new, in place of what is there; its last part.
    fn make<T>(
        &mut self,
        path: &[u8],
        make: impl Fn(&OwnedFd, &CStr) -> rustix::io::Result<T>,
    ) -> Result<(CString, T)> {
        let name = self.enter(path)?;
        let made = self::make(&self.way.here, &name, make)?;
        Ok((name, made))
    }

    /// Goes to the directory of a path, makes it where it is missing, and gives the last part.
    fn enter(&mut self, path: &[u8]) -> Result<CString> {
        let (directory, name) = split(path)?;
        if directory == self.way.path {
            return Ok(name);
        }
        match self.way.go(directory).map(drop) {
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {
                self.way.here = self.make_all(directory)?;
                self.way.path = directory.to_vec();
            }
            opened => trying("open the directory of", opened)?,
        }
        self.inherits = has_default_list(&self.way.here);
        Ok(name)
    }

    /// Opens a directory, and makes it and those above it where they are missing.
    fn make_all(&self, path: &[u8]) -> Result<OwnedFd> {
        const OPERATION: &str = "make the directory of";
        let mut directory = trying(OPERATION, beneath::open(self.way.root, b"", DIRECTORY))?;
        for part in path.split(|byte| *byte == b'/') {
            let name = cstring(part)?;
            let next = match beneath::open(&directory, part, DIRECTORY) {
                Err(Errno::NOENT) => self.make_one(&directory, &name),
                Err(Errno::NOTDIR) => {
                    let stat = trying(OPERATION, stat_at(&directory, &name))?;
                    if kind(&stat) == FileType::Symlink {
                        return Err(Trouble::Refused(Refusal::BeneathLink));
                    }
                    remove(&directory, &name).and_then(|()| self.make_one(&directory, &name))
                }
                next => next,
            };
            directory = trying(OPERATION, next)?;
        }
        Ok(directory)
    }

    fn make_one(&self, parent: &OwnedFd, name: &CStr) -> rustix::io::Result<OwnedFd> {
        mkdirat(parent, name, Mode::RWXU)?;
        let directory = beneath::open(parent, name.to_bytes(), DIRECTORY)?;
        let Owner { uid, gid } = self.ownership.implied;
        fchown(
            &directory,
            Some(Uid::from_raw(uid)),
            Some(Gid::from_raw(gid)),
        )?;
        fchmod(&directory, mode(0o755))?;
        Ok(directory)
    }

    /// Takes from a new entry the access lists that it inherited.
    fn disinherit(&self, attributes: &Attributes<'_>, directory: bool) -> Result<()> {
        if !self.inherits {
            return Ok(());
        }
        let lists = match directory {
            true => &[ACCESS_LIST, DEFAULT_LIST][..],
            false => &[ACCESS_LIST],
        };
        for list in lists {
            match attributes.remove(&cstring(list)?) {
                Err(Errno::NODATA | Errno::NOTSUP) => {}
                removed => trying("remove an attribute of", removed)?,
            }
        }
        Ok(())
    }

    fn owner(&self, metadata: &Metadata<'_>) -> (Option<Uid>, Option<Gid>) {
        let Owner { uid, gid } = self.ownership.entries.unwrap_or(Owner {
            uid: metadata.uid,
            gid: metadata.gid,
        });
        (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))
    }
}

fn make<T>(
    parent: &OwnedFd,
    name: &CStr,
    make: impl Fn(&OwnedFd, &CStr) -> rustix::io::Result<T>,
) -> Result<T> {
    let mut made = make(parent, name);
    if matches!(made, Err(Errno::EXIST)) {
        trying("replace", remove(parent, name))?;
        made = make(parent, name);
    }
    trying("make", made)
}

fn has_default_list(directory: &OwnedFd) -> bool {
    let list = CString::new(DEFAULT_LIST);
    list.is_ok_and(|list| Attributes::of(directory).get(&list).is_ok())
}

/// `disk` is on the same filesystem.
fn set_attributes(
    attributes: &Attributes<'_>,
    metadata: &Metadata<'_>,
    disk: &OwnedFd,
) -> Result<()> {
    for (name, value) in &metadata.attributes {
        attributes.set(&cstring(name)?, value).map_err(|errno| {
            let failed = || Trouble::Failed("set an attribute of", errno);
            refusal(errno, disk).map_or_else(failed, Trouble::Refused)
        })?;
    }
    Ok(())
}

fn mode(bits: u32) -> Mode {
    Mode::from_raw_mode(RawMode::from(bits & 0o7777))
}

/// The time of modification; that of access is left as it is.
pub(super) fn times(modified: Time) -> Timestamps {
    Timestamps {
        last_access: Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_OMIT,
        },
        last_modification: Timespec {
            tv_sec: modified.seconds,
            tv_nsec: modified.nanoseconds.into(),
        },
    }
}

fn split(path: &[u8]) -> Result<(&[u8], CString)> {
    let slash = path.iter().rposition(|byte| *byte == b'/');
    let (directory, name) = match slash {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (&[] as &[u8], path),
    };
    Ok((directory, cstring(name)?))
}

/// Names were checked; a zero byte would be a change since then.
fn cstring(bytes: &[u8]) -> Result<CString> {
    CString::new(bytes).map_err(|_| Trouble::Failed("name", Errno::INVAL))
}
