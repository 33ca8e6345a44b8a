//! Keeping a copy's inodes away from those that were deleted just now.
//!
//! ext4 does not give the number of an inode again within a minute of its deletion, within six where the
//! deletion is not on the disk yet, and skips these numbers one by one for each new file of the same
//! block group (`recently_deleted` in fs/ext4/ialloc.c). Where an earlier copy left 20,000 of them, a
//! file takes 0.2 to 0.5 ms instead of 0.05. A new directory of one that has the flag `TOPDIR` gets a
//! block group far away, by its name (`find_group_orlov`), and what is made below it stays close to it.

use rustix::fd::OwnedFd;
use rustix::fs::{
    AtFlags, IFlags, Mode, ioctl_getflags, ioctl_setflags, mkdirat, renameat, unlinkat,
};
use rustix::io::Result;
use std::ffi::{CStr, CString};
use std::hash::{BuildHasher, RandomState};

/// Has the directories that are made in `root` from now on put far away. Only a hint: where it is not
/// known everything works without.
pub(super) fn begin(root: &OwnedFd) {
    set(root, |flags| flags | IFlags::TOPDIR);
}

/// Takes the hint away again.
pub(super) fn end(root: &OwnedFd) {
    set(root, |flags| flags - IFlags::TOPDIR);
}

fn set(root: &OwnedFd, change: impl Fn(IFlags) -> IFlags) {
    if let Ok(present) = ioctl_getflags(root)
        && change(present) != present
        && let Err(errno) = ioctl_setflags(root, change(present))
    {
        tracing::debug!(%errno, "directories of this copy are not spread");
    }
}

/// Makes a directory of the root, first under a name that no copy before it had.
pub(super) fn make(root: &OwnedFd, name: &CStr) -> Result<()> {
    let new = unused_name();
    mkdirat(root, &*new, Mode::RWXU)?;
    renameat(root, &*new, root, name).inspect_err(|_| {
        // What counts is why it failed.
        let _ = unlinkat(root, &*new, AtFlags::REMOVEDIR);
    })
}

/// Nobody can guess it, so that no name of a source is the same.
pub(super) fn unused_name() -> CString {
    let name = format!(".live-copy-{:016x}", RandomState::new().hash_one(0));
    CString::new(name).unwrap_or_default()
}
