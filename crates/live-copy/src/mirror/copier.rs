//! Copying one entry that is no directory: where from and where to is given, what the model says of it
//! afterwards is elsewhere. Several threads may each have one.

use super::{Fault, now};
use crate::content::Contents;
use crate::dirs::{Dirs, Side};
use crate::model::{DirId, Model, Seen};
use crate::stop::Stop;
use crate::sys::write_back;
use botstead_overlay::meta;
use botstead_overlay::tree::{Attributes, kind, open_dir, open_file, stat_at, stat_fd};
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use rustix::fs::{
    AtFlags, CWD, FileType, IFlags, Mode, OFlags, Statx, fchmod, fchown, futimens, ioctl_getflags,
    makedev, mknodat, openat, readlinkat, symlinkat, unlinkat,
};
use rustix::io::{Errno, Result};
use std::ffi::{CStr, CString};

/// The identity of an overlay mount, which a copy of its upper directory must not have.
const MOUNT_UUID: &CStr = c"trusted.overlay.uuid";

/// The inode flags that are copied. Not those that say which project's quota a file counts for, which is
/// a matter of the target, or how the filesystem stores it.
const FLAGS: IFlags = IFlags::from_bits_retain(
    IFlags::APPEND.bits()
        | IFlags::COMPRESSED.bits()
        | IFlags::DIRSYNC.bits()
        | IFlags::IMMUTABLE.bits()
        | IFlags::JOURNALING.bits()
        | IFlags::NOATIME.bits()
        | IFlags::NODUMP.bits()
        | IFlags::NOTAIL.bits()
        | IFlags::SECURE_REMOVAL.bits()
        | IFlags::SYNC.bits()
        | IFlags::TOPDIR.bits()
        | IFlags::UNRM.bits(),
);

/// Whether an extended attribute is part of a copy.
fn is_copied(attribute: &CStr) -> bool {
    attribute != MOUNT_UUID
}

/// Gives a directory the metadata of another, but for the times.
pub(super) fn copy_metadata(source: &OwnedFd, stat: &Statx, target: &OwnedFd) -> Result<()> {
    let (uid, gid) = meta::owner(stat);
    fchown(target, uid, gid)?;
    let attributes = Attributes::of(target);
    meta::copy_attributes(&Attributes::of(source), &attributes, is_copied)?;
    fchmod(target, meta::mode(stat))
}

/// The inode flags of an open file or directory that a copy has.
pub(super) fn flags_of(source: &OwnedFd) -> IFlags {
    // Some filesystems have none.
    ioctl_getflags(source).unwrap_or(IFlags::empty()) & FLAGS
}

/// How a file is copied.
#[derive(Debug, Clone, Copy)]
pub(super) struct How {
    /// Nobody changes the source.
    pub(super) is_frozen: bool,
    /// The target has nothing of that name.
    pub(super) is_new: bool,
}

/// A copy.
#[derive(Debug, Clone, Copy)]
pub(super) struct Copied {
    /// What the source looked like before.
    pub(super) seen: Seen,
    pub(super) bytes: u64,
    /// Inode flags to set in the end: some forbid any change.
    pub(super) flags: IFlags,
}

/// Copies entries.
#[derive(Debug)]
pub(super) struct Copier {
    pub(super) source: Dirs,
    pub(super) target: Dirs,
    contents: Contents,
}

impl Copier {
    pub(super) fn new(source: OwnedFd, target: OwnedFd) -> Result<Self> {
        Ok(Self {
            source: Dirs::new(Side::Source, source)?,
            target: Dirs::new(Side::Target, target)?,
            contents: Contents::new(),
        })
    }

    /// The same for another thread, from any descriptors of the roots.
    pub(super) fn again(source: BorrowedFd<'_>, target: BorrowedFd<'_>) -> Result<Self> {
        Self::new(open_dir(source, c".")?, open_dir(target, c".")?)
    }

    /// Copies a regular file, metadata and all, over the earlier copy if there is one. If it fails, there
    /// is none of a new one, and no good one of an old one.
    pub(super) fn regular(
        &mut self,
        model: &Model,
        (dir, name): (DirId, &CStr),
        stat: &Statx,
        how: How,
        stop: &Stop<'_>,
    ) -> std::result::Result<Copied, Fault> {
        let (source, stat, seen) = self.open_regular(model, (dir, name), stat, how)?;
        let failed = |errno| Fault::Target("open", errno);
        let target_dir = self.target.open(model, dir).map_err(failed)?;
        let (flags, mode) = if how.is_new {
            (OFlags::CREATE | OFlags::EXCL, Mode::RUSR | Mode::WUSR)
        } else {
            (OFlags::empty(), Mode::empty())
        };
        let flags = flags | OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let target = openat(&*target_dir, name, flags, mode).map_err(failed)?;
        let filled = self.fill(&source, &stat, &target, how, stop);
        if filled.is_err() && how.is_new {
            unlinkat(&*target_dir, name, AtFlags::empty()).map_err(failed)?;
        }
        Ok(Copied {
            seen,
            bytes: filled?,
            flags: flags_of(&source),
        })
    }

    /// Opens a regular file of the source, looks at it, then writes back its pages: see [`Seen`]. Only
    /// what was seen to be one is opened for reading, for to open a pipe or a device is to act on it.
    fn open_regular(
        &mut self,
        model: &Model,
        (dir, name): (DirId, &CStr),
        stat: &Statx,
        how: How,
    ) -> std::result::Result<(OwnedFd, Statx, Seen), Fault> {
        let failed = |errno| Fault::Source("open", errno);
        let source_dir = self.source.open(model, dir).map_err(failed)?;
        if how.is_frozen {
            let source = open_file(&*source_dir, name).map_err(failed)?;
            return Ok((source, *stat, Seen::new(stat, now())));
        }
        let place = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let place = openat(&*source_dir, name, place, Mode::empty()).map_err(failed)?;
        let looked_at = now();
        let seen = stat_fd(&place).map_err(failed)?;
        if kind(&seen) != FileType::RegularFile || seen.stx_ino != stat.stx_ino {
            return Err(failed(Errno::STALE));
        }
        let path = format!("/proc/self/fd/{}", place.as_raw_fd());
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOATIME | OFlags::CLOEXEC;
        let source = openat(CWD, path, flags, Mode::empty()).map_err(failed)?;
        write_back(source.as_fd()).map_err(|errno| Fault::Source("write back", errno))?;
        Ok((source, seen, Seen::new(&seen, looked_at)))
    }

    /// Copies content and metadata into an open file; the times last.
    fn fill(
        &mut self,
        source: &OwnedFd,
        stat: &Statx,
        target: &OwnedFd,
        how: How,
        stop: &Stop<'_>,
    ) -> std::result::Result<u64, Fault> {
        let failed = |errno| Fault::Target("copy", errno);
        let before = stat_fd(target).map_err(failed)?;
        let (present, is_clean) = (before.stx_size, !how.is_frozen);
        let bytes = self
            .contents
            .copy(source, stat, target, present, is_clean, stop);
        let bytes = bytes.map_err(failed)?;
        let failed = |errno| Fault::Target("copy the metadata of", errno);
        let owner_differs = (before.stx_uid, before.stx_gid) != (stat.stx_uid, stat.stx_gid);
        if owner_differs {
            let (uid, gid) = meta::owner(stat);
            fchown(target, uid, gid).map_err(failed)?;
        }
        // After the content and the owner: changing either takes capabilities away.
        let attributes = Attributes::of(target);
        meta::copy_attributes(&Attributes::of(source), &attributes, is_copied).map_err(failed)?;
        if owner_differs || before.stx_mode != stat.stx_mode {
            fchmod(target, meta::mode(stat)).map_err(failed)?;
        }
        futimens(target, &meta::times(stat)).map_err(failed)?;
        Ok(bytes)
    }

    /// Makes a link, a device, a pipe or a socket, with its metadata. If it fails, there is none.
    pub(super) fn make_special(
        &mut self,
        model: &Model,
        (dir, name): (DirId, &CStr),
        stat: &Statx,
    ) -> std::result::Result<Copied, Fault> {
        let failed = |errno| Fault::Target("make", errno);
        let target = self.target.open(model, dir).map_err(failed)?;
        if kind(stat) == FileType::Symlink {
            let goal = self.read_link(model, (dir, name))?;
            symlinkat(goal, &*target, name).map_err(failed)?;
        } else {
            let device = makedev(stat.stx_rdev_major, stat.stx_rdev_minor);
            let owner_only = Mode::RUSR | Mode::WUSR;
            mknodat(&*target, name, kind(stat), owner_only, device).map_err(failed)?;
        }
        let copied = self.special_metadata(model, (dir, name), stat);
        if copied.is_err() {
            unlinkat(&*target, name, AtFlags::empty()).map_err(failed)?;
        }
        copied
    }

    /// Copies the metadata of a link, a device, a pipe or a socket.
    pub(super) fn special_metadata(
        &mut self,
        model: &Model,
        (dir, name): (DirId, &CStr),
        stat: &Statx,
    ) -> std::result::Result<Copied, Fault> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let source = self.source.open(model, dir);
        let source = source.and_then(|dir| openat(&*dir, name, flags, Mode::empty()));
        let source = source.map_err(|errno| Fault::Source("open", errno))?;
        let looked_at = now();
        let seen = stat_fd(&source).map_err(|errno| Fault::Source("look at", errno))?;
        if kind(&seen) != kind(stat) || seen.stx_ino != stat.stx_ino {
            return Err(Fault::Source("look at", Errno::STALE));
        }
        let failed = |errno| Fault::Target("copy the metadata of", errno);
        let parent = self.target.open(model, dir).map_err(failed)?;
        let target = openat(&*parent, name, flags, Mode::empty()).map_err(failed)?;
        let is_link = kind(stat) == FileType::Symlink;
        meta::apply_to_place(&source, &seen, &target, &*parent, name, is_link, is_copied)
            .map_err(failed)?;
        Ok(Copied {
            seen: Seen::new(&seen, looked_at),
            bytes: 0,
            flags: IFlags::empty(),
        })
    }

    /// Whether source and target have the same link, device, pipe or socket under a name.
    pub(super) fn is_alike(
        &mut self,
        model: &Model,
        (dir, name): (DirId, &CStr),
        stat: &Statx,
    ) -> std::result::Result<bool, Fault> {
        let failed = |errno| Fault::Target("look at", errno);
        let target = self.target.open(model, dir).map_err(failed)?;
        let own = stat_at(&*target, name).map_err(failed)?;
        let device = |stat: &Statx| (stat.stx_rdev_major, stat.stx_rdev_minor);
        if kind(stat) != FileType::Symlink {
            return Ok(device(&own) == device(stat));
        }
        let wanted = self.read_link(model, (dir, name))?;
        Ok(readlinkat(&*target, name, Vec::new()).map_err(failed)? == wanted)
    }

    fn read_link(
        &mut self,
        model: &Model,
        (dir, name): (DirId, &CStr),
    ) -> std::result::Result<CString, Fault> {
        let source = self.source.open(model, dir);
        let read = source.and_then(|source| readlinkat(&*source, name, Vec::new()));
        read.map_err(|errno| match errno {
            // It is no link any longer.
            Errno::INVAL => Fault::Source("read", Errno::STALE),
            errno => Fault::Source("read", errno),
        })
    }
}
