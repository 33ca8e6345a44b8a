//! Giving an entry the metadata of another: owner, mode, times, extended attributes. Not its inode
//! flags (`chattr`), which have no one right answer.

use crate::tree::{Attributes, names};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{
    AtFlags, Gid, Mode, RawMode, Statx, StatxAttributes, Timespec, Timestamps, Uid, chmodat,
    chownat, fchmod, fchown, futimens, utimensat,
};
use rustix::io::{Errno, Result};
use std::ffi::CStr;

/// Whether nobody may change it, which a new entry would not have.
pub fn is_immutable(stat: &Statx) -> bool {
    let fixed = StatxAttributes::IMMUTABLE | StatxAttributes::APPEND;
    stat.stx_attributes.intersects(fixed)
}

/// The owner and the group.
pub fn owner(stat: &Statx) -> (Option<Uid>, Option<Gid>) {
    (
        Some(Uid::from_raw(stat.stx_uid)),
        Some(Gid::from_raw(stat.stx_gid)),
    )
}

/// The permissions, set-id bits included.
pub fn mode(stat: &Statx) -> Mode {
    Mode::from_raw_mode(RawMode::from(stat.stx_mode) & 0o7777)
}

/// The times of access and modification.
pub fn times(stat: &Statx) -> Timestamps {
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

/// Gives an open file or directory the owner, attributes, mode and times of another; of the attributes
/// those that `wanted` picks, and no others. In this order: a change of owner takes away capabilities
/// and set-id bits, access lists and modes change each other, and only the last of it sets the times.
///
/// # Errors
/// The kernel's; a part may then be done. It can be repeated.
pub fn apply(
    source: &OwnedFd,
    stat: &Statx,
    target: &OwnedFd,
    wanted: impl Fn(&CStr) -> bool,
) -> Result<()> {
    let (uid, gid) = owner(stat);
    fchown(target, uid, gid)?;
    copy_attributes(&Attributes::of(source), &Attributes::of(target), wanted)?;
    fchmod(target, mode(stat))?;
    futimens(target, &times(stat))
}

/// The same for what cannot be opened: links, devices, pipes, sockets. Both are open as places.
///
/// # Errors
/// The kernel's; a part may then be done. It can be repeated.
pub fn apply_to_place(
    source: &OwnedFd,
    stat: &Statx,
    target: &OwnedFd,
    parent: impl AsFd,
    name: &CStr,
    is_link: bool,
    wanted: impl Fn(&CStr) -> bool,
) -> Result<()> {
    let (uid, gid) = owner(stat);
    let parent = parent.as_fd();
    chownat(parent, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?;
    copy_attributes(
        &Attributes::of_place(source),
        &Attributes::of_place(target),
        wanted,
    )?;
    if !is_link {
        // It was made just now in a directory that nobody else knows.
        chmodat(parent, name, mode(stat), AtFlags::empty())?;
    }
    utimensat(parent, name, &times(stat), AtFlags::SYMLINK_NOFOLLOW)
}

/// Makes the attributes of the target those of the source that `wanted` picks.
///
/// # Errors
/// The kernel's; a part may then be done. It can be repeated.
pub fn copy_attributes(
    source: &Attributes<'_>,
    target: &Attributes<'_>,
    wanted: impl Fn(&CStr) -> bool,
) -> Result<()> {
    let list = source.list()?;
    // What it inherited, such as a default access list, or had before.
    for name in names(&target.list()?) {
        if !wanted(name) || !names(&list).any(|listed| listed == name) {
            match target.remove(name) {
                // XFS lists an access list by two names, and both are gone with one.
                Ok(()) | Err(Errno::NODATA) => {}
                Err(errno) => return Err(errno),
            }
        }
    }
    for name in names(&list) {
        if !wanted(name) {
            continue;
        }
        match source.get(name) {
            // Someone removed it meanwhile.
            Err(Errno::NODATA) => {}
            value => target.set(name, &value?)?,
        }
    }
    Ok(())
}
