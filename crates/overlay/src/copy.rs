//! Copying an entry of a layer faithfully where it cannot be linked.

use crate::meta;
use crate::tree::{foreign, kind, open_file};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{
    FileType, Mode, OFlags, SeekFrom, Statx, copy_file_range, fstat, ftruncate, ioctl_ficlone,
    makedev, mknodat, openat, readlinkat, seek, symlinkat,
};
use rustix::io::{Errno, Result, pread, pwrite};
use std::ffi::CStr;

/// Said of a file that became shorter while it was copied: as NFS does of one that is another now.
pub(crate) const CHANGED: Errno = Errno::STALE;

/// Copies what is no directory, with all its metadata, to a name that is not there.
pub(crate) fn copy(
    from: impl AsFd,
    name: &CStr,
    stat: &Statx,
    to: impl AsFd,
    new: &CStr,
) -> Result<()> {
    let (from, to) = (from.as_fd(), to.as_fd());
    let owner_only = Mode::RUSR | Mode::WUSR;
    match kind(stat) {
        FileType::RegularFile => {
            let source = open_file(from, name)?;
            let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
            let target = openat(to, new, flags | OFlags::CLOEXEC, owner_only)?;
            content(&source, stat.stx_size, &target)?;
            return meta::apply(&source, stat, &target, foreign);
        }
        FileType::Symlink => symlinkat(readlinkat(from, name, Vec::new())?, to, new)?,
        other => {
            let device = makedev(stat.stx_rdev_major, stat.stx_rdev_minor);
            mknodat(to, new, other, owner_only, device)?;
        }
    }
    let place = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let source = openat(from, name, place, Mode::empty())?;
    let target = openat(to, new, place, Mode::empty())?;
    let is_link = kind(stat) == FileType::Symlink;
    meta::apply_to_place(&source, stat, &target, to, new, is_link, foreign)
}

fn content(source: &OwnedFd, size: u64, target: &OwnedFd) -> Result<()> {
    if ioctl_ficlone(target, source).is_err() {
        ftruncate(target, size)?;
        let mut end = 0;
        while end < size {
            let start = match seek(source, SeekFrom::Data(end)) {
                // Nothing but a hole is left.
                Err(Errno::NXIO) => break,
                start => start?,
            };
            end = seek(source, SeekFrom::Hole(start))?.min(size);
            range(source, target, start, end)?;
        }
    }
    // The end of one that became shorter looks like a hole.
    match fstat(source)?.st_size.cast_unsigned() {
        now if now < size => Err(CHANGED),
        _ => Ok(()),
    }
}

/// Copies the bytes from `start` to `end`, or to where the source ends, without holes.
///
/// # Errors
/// The kernel's; a part may then be copied.
pub fn range(source: &OwnedFd, target: &OwnedFd, start: u64, end: u64) -> Result<()> {
    let (mut read, mut written) = (start, start);
    while read < end {
        // A length that is a usize everywhere.
        let length = usize::try_from(end - read).unwrap_or(1 << 30).min(1 << 30);
        match copy_file_range(source, Some(&mut read), target, Some(&mut written), length) {
            Ok(0) => return Ok(()),
            Ok(_) | Err(Errno::INTR) => {}
            Err(Errno::XDEV | Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
                return by_hand(source, target, read, end);
            }
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

fn by_hand(source: &OwnedFd, target: &OwnedFd, mut at: u64, end: u64) -> Result<()> {
    let mut buffer = vec![0; 256 << 10];
    while at < end {
        let length = usize::try_from(end - at).map_or(buffer.len(), |left| left.min(buffer.len()));
        let read = pread(source, &mut buffer[..length], at)?;
        if read == 0 {
            break;
        }
        let mut done = 0;
        while done < read {
            let written = pwrite(target, &buffer[done..read], at)?;
            done += written;
            at += written as u64;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, File};

    #[test]
    fn a_file_that_became_shorter_is_no_file_with_a_hole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("source");
        fs::write(&path, vec![b'x'; 100 << 10]).unwrap();
        let copy = |size| {
            let source = OwnedFd::from(File::open(&path).unwrap());
            let target = File::create(folder.path().join("target")).unwrap();
            content(&source, size, &target.into())
        };
        copy(100 << 10).unwrap();
        for size in [(100 << 10) + 1, 1 << 30] {
            assert_eq!(copy(size), Err(CHANGED), "{size}");
        }
        let said = crate::Error::io("copy", "/a", CHANGED).to_string();
        assert!(
            said.ends_with("changed while it was copied; ask again"),
            "{said}"
        );
        // A hole at the end is none.
        let file = File::options().write(true).open(&path).unwrap();
        file.set_len(1 << 20).unwrap();
        copy(1 << 20).unwrap();
        assert_eq!(
            fs::metadata(folder.path().join("target")).unwrap().len(),
            1 << 20
        );
    }
}
