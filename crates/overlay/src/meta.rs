//! Giving an entry the metadata of another.

use crate::tree::{Attributes, Mark, OPAQUE, mark, names};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{
    AtFlags, Gid, Mode, RawMode, Statx, StatxAttributes, Timespec, Timestamps, Uid, chmodat,
    chownat, fchmod, fchown, futimens, utimensat,
};
use rustix::io::Result;
use std::ffi::CStr;

/// Whether nobody may change it, which a new entry would not have.
pub(crate) fn is_immutable(stat: &Statx) -> bool {
    let fixed = StatxAttributes::IMMUTABLE | StatxAttributes::APPEND;
    stat.stx_attributes.intersects(fixed)
}

fn owner(stat: &Statx) -> (Option<Uid>, Option<Gid>) {
    (
        Some(Uid::from_raw(stat.stx_uid)),
        Some(Gid::from_raw(stat.stx_gid)),
    )
}

fn mode(stat: &Statx) -> Mode {
    Mode::from_raw_mode(RawMode::from(stat.stx_mode) & 0o7777)
}

fn times(stat: &Statx) -> Timestamps {
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

/// Gives an open file or directory the owner, attributes, mode and times of another. In this order:
/// a change of owner takes away capabilities and set-id bits, access lists and modes change each
/// other, and all of it changes nothing in the times but the last does.
pub(crate) fn apply(source: &OwnedFd, stat: &Statx, target: &OwnedFd, opaque: bool) -> Result<()> {
    let (uid, gid) = owner(stat);
    fchown(target, uid, gid)?;
    let attributes = Attributes::of(target);
    copy_attributes(&Attributes::of(source), &attributes)?;
    if opaque {
        attributes.set(OPAQUE, b"y")?;
    }
    fchmod(target, mode(stat))?;
    futimens(target, &times(stat))
}

/// The same for what cannot be opened: links, devices, pipes, sockets. Both are open as places.
pub(crate) fn apply_to_place(
    source: &OwnedFd,
    stat: &Statx,
    target: &OwnedFd,
    parent: impl AsFd,
    name: &CStr,
    is_link: bool,
) -> Result<()> {
    let (uid, gid) = owner(stat);
    let parent = parent.as_fd();
    chownat(parent, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?;
    copy_attributes(&Attributes::of_place(source), &Attributes::of_place(target))?;
    if !is_link {
        // It was made just now in a directory that nobody else knows.
        chmodat(parent, name, mode(stat), AtFlags::empty())?;
    }
    utimensat(parent, name, &times(stat), AtFlags::SYMLINK_NOFOLLOW)
}

fn copy_attributes(source: &Attributes<'_>, target: &Attributes<'_>) -> Result<()> {
    let wanted = source.list()?;
    // What it inherited, such as a default access list.
    for name in names(&target.list()?) {
        if !names(&wanted).any(|wanted| wanted == name) {
            target.remove(name)?;
        }
    }
    for name in names(&wanted) {
        if mark(name.to_bytes()) == Mark::Foreign {
            target.set(name, &source.get(name)?)?;
        }
    }
    Ok(())
}
