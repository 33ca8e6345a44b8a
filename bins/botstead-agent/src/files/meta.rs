//! Owners, modes, times and extended attributes of files.

use super::rights::Rights;
use super::root::stat_fd;
use rustix::buffer::spare_capacity;
use rustix::fd::{AsFd, AsRawFd};
use rustix::fs::{
    AtFlags, CWD, Gid, Mode, OFlags, RawMode, Statx, Timespec, Timestamps, Uid, XattrFlags,
    chmodat, chownat, fchmod, fchown, fgetxattr, flistxattr, fremovexattr, fsetxattr, futimens,
    openat, utimensat,
};
use rustix::io::{Errno, Result};
use std::ffi::CStr;

/// The kernel takes a program's capabilities away when its content changes.
const CAPABILITIES: &CStr = c"security.capability";

/// The kernel's limit for a list of attributes and for a value.
const XATTR_MAX: usize = 64 << 10;

/// Who new files and directories belong to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Owner {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

impl Owner {
    /// Gives a new file or directory to the owner. In a directory that hands its group down, the
    /// group stays as the kernel made it.
    pub(crate) fn give(self, new: impl AsFd, parent: impl AsFd) -> Result<()> {
        let hands_down = stat_fd(parent)?.stx_mode & 0o2000 != 0;
        let group = (!hands_down).then(|| Gid::from_raw(self.gid));
        fchown(new, Some(Uid::from_raw(self.uid)), group)
    }
}

pub(crate) fn mode(stat: &Statx) -> Mode {
    Mode::from_raw_mode(RawMode::from(stat.stx_mode) & 0o7777)
}

pub(crate) fn times(stat: &Statx) -> Timestamps {
    Timestamps {
        last_access: Timespec {
            tv_sec: stat.stx_atime.tv_sec,
            tv_nsec: stat.stx_atime.tv_nsec.into(),
        },
        last_modification: Timespec {
            tv_sec: stat.stx_mtime.tv_sec,
            tv_nsec: stat.stx_mtime.tv_nsec.into(),
        },
    }
}

fn owner(stat: &Statx) -> (Option<Uid>, Option<Gid>) {
    (
        Some(Uid::from_raw(stat.stx_uid)),
        Some(Gid::from_raw(stat.stx_gid)),
    )
}

/// Gives a copy the owner of what it is a copy of. One that a user makes is that user's, with the group
/// where they are in it; false when the copy has another owner then.
fn keep_owner(stat: &Statx, give: impl Fn(Option<Uid>, Option<Gid>) -> Result<()>) -> Result<bool> {
    let (uid, gid) = owner(stat);
    let rights = Rights::current();
    if !rights.are_limited() {
        return give(uid, gid).map(|()| true);
    }
    match give(None, gid) {
        Ok(()) => Ok(rights.make_files_of(stat.stx_uid, stat.stx_gid)),
        Err(Errno::PERM) => Ok(false),
        Err(errno) => Err(errno),
    }
}

/// What runs as its owner must not do so as another one.
fn mode_where(owner_is_kept: bool, stat: &Statx) -> Mode {
    match owner_is_kept {
        true => mode(stat),
        false => mode(stat).difference(Mode::SUID | Mode::SGID),
    }
}

/// Gives a file that replaces another one the other's owner, mode and extended attributes.
pub(crate) fn succeed(old: impl AsFd, stat: &Statx, new: impl AsFd) -> Result<()> {
    let new = new.as_fd();
    // In this order: a change of owner takes set-id bits away, access lists and modes change each
    // other.
    let (uid, gid) = owner(stat);
    fchown(new, uid, gid)?;
    copy_attributes(old, new, |name| name != CAPABILITIES)?;
    fchmod(new, mode(stat))
}

/// Gives an open file or directory everything of another but its content.
pub(crate) fn copy(from: impl AsFd, stat: &Statx, to: impl AsFd) -> Result<()> {
    let to = to.as_fd();
    let kept = keep_owner(stat, |uid, gid| fchown(to, uid, gid))?;
    copy_attributes(from, to, |name| kept || name != CAPABILITIES)?;
    fchmod(to, mode_where(kept, stat))?;
    futimens(to, &times(stat))
}

/// The same for a new entry that cannot be opened: a link, device, pipe or socket. Such have no
/// attributes of a user's.
pub(crate) fn copy_to_place(
    stat: &Statx,
    directory: impl AsFd,
    name: &[u8],
    is_link: bool,
) -> Result<()> {
    let directory = directory.as_fd();
    let kept = keep_owner(stat, |uid, gid| {
        chownat(directory, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)
    })?;
    if !is_link {
        // There is no chmod that never follows a link before kernel 6.6, but one by descriptor.
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let node = openat(directory, name, flags, Mode::empty())?;
        let path = format!("/proc/self/fd/{}", node.as_raw_fd());
        chmodat(CWD, path, mode_where(kept, stat), AtFlags::empty())?;
    }
    utimensat(directory, name, &times(stat), AtFlags::SYMLINK_NOFOLLOW)
}

fn copy_attributes(from: impl AsFd, to: impl AsFd, wanted: impl Fn(&CStr) -> bool) -> Result<()> {
    let (from, to) = (from.as_fd(), to.as_fd());
    let list = attributes(from)?;
    // What it inherited, such as a default access list.
    let inherited = attributes(to)?;
    for name in names(&inherited) {
        if !names(&list).any(|kept| kept == name) {
            tolerate(name, fremovexattr(to, name))?;
        }
    }
    for name in names(&list).filter(|name| wanted(name)) {
        let value = match attribute(from, name) {
            // Removed meanwhile.
            Err(Errno::NODATA) => continue,
            value => value?,
        };
        tolerate(name, fsetxattr(to, name, &value, XattrFlags::empty()))?;
    }
    Ok(())
}

/// Labels of security modules and marks of root's may not be for a container to set; the kernel
/// gives a new file its own.
fn tolerate(name: &CStr, result: Result<()>) -> Result<()> {
    let name = name.to_bytes();
    let privileged = name.starts_with(b"security.") || name.starts_with(b"trusted.");
    match result {
        Err(Errno::PERM | Errno::ACCESS | Errno::INVAL) if privileged => Ok(()),
        // The filesystem has no attributes, or the attribute is gone.
        Err(Errno::OPNOTSUPP | Errno::NODATA) => Ok(()),
        result => result,
    }
}

/// The names of a file's extended attributes, each ended by a zero byte.
pub(crate) fn attributes(fd: impl AsFd) -> Result<Vec<u8>> {
    let fd = fd.as_fd();
    match grow(|list| flistxattr(fd, spare_capacity(list))) {
        Err(Errno::OPNOTSUPP) => Ok(Vec::new()),
        list => list,
    }
}

/// The value of an extended attribute.
pub(crate) fn attribute(fd: impl AsFd, name: &CStr) -> Result<Vec<u8>> {
    let fd = fd.as_fd();
    grow(|value| fgetxattr(fd, name, spare_capacity(value)))
}

/// The names in a list of attributes.
pub(crate) fn names(list: &[u8]) -> impl Iterator<Item = &CStr> {
    list.split_inclusive(|byte| *byte == 0)
        .filter_map(|name| CStr::from_bytes_with_nul(name).ok())
}

fn grow(mut read: impl FnMut(&mut Vec<u8>) -> Result<usize>) -> Result<Vec<u8>> {
    let mut buffer = Vec::with_capacity(512);
    loop {
        match read(&mut buffer) {
            Err(Errno::RANGE) if buffer.capacity() < XATTR_MAX => {
                buffer = Vec::with_capacity(XATTR_MAX);
            }
            result => return result.map(|_| buffer),
        }
    }
}
