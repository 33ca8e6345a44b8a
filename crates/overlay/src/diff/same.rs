//! Whether two entries are the same, by the rules of [`super::diff`].

use crate::beneath::file;
use crate::tree::kind;
use rustix::fd::OwnedFd;
use rustix::fs::{FileType, SeekFrom, Statx, readlinkat, seek};
use rustix::io::{Errno, Result, pread};
use std::ffi::CStr;

const BUFFER: usize = 256 << 10;

/// Compares the entries of one name in two directories.
pub(super) fn same(dirs: [&OwnedFd; 2], name: &CStr, stats: [&Statx; 2]) -> Result<bool> {
    let [old, new] = stats;
    let facts = |stat: &Statx| (stat.stx_mode, stat.stx_uid, stat.stx_gid);
    if facts(old) != facts(new) {
        return Ok(false);
    }
    let time = |stat: &Statx| (stat.stx_mtime.tv_sec, stat.stx_mtime.tv_nsec);
    let device = |stat: &Statx| (stat.stx_rdev_major, stat.stx_rdev_minor);
    match kind(old) {
        FileType::RegularFile if old.stx_size != new.stx_size => Ok(false),
        FileType::RegularFile if time(old) == time(new) => Ok(true),
        FileType::RegularFile => content(file(dirs[0], name)?, file(dirs[1], name)?, old.stx_size),
        FileType::Symlink => {
            let target = |dir: &OwnedFd| readlinkat(dir, name, Vec::new());
            Ok(target(dirs[0])? == target(dirs[1])?)
        }
        FileType::CharacterDevice | FileType::BlockDevice => Ok(device(old) == device(new)),
        _ => Ok(true),
    }
}

/// Compares two files of one size, but not where both have a hole: a hole can be immense.
fn content(old: OwnedFd, new: OwnedFd, size: u64) -> Result<bool> {
    let files = [old, new];
    let mut buffers = [vec![0; BUFFER], vec![0; BUFFER]];
    let mut at = 0;
    while at < size {
        let [old, new] = [data(&files[0], at, size)?, data(&files[1], at, size)?];
        at = old.min(new);
        let length = usize::try_from(size - at).map_or(BUFFER, |left| left.min(BUFFER));
        for (file, buffer) in files.iter().zip(&mut buffers) {
            fill(file, &mut buffer[..length], at)?;
        }
        if buffers[0][..length] != buffers[1][..length] {
            return Ok(false);
        }
        at += length as u64;
    }
    Ok(true)
}

/// Where data begins from there on.
fn data(file: &OwnedFd, at: u64, size: u64) -> Result<u64> {
    match seek(file, SeekFrom::Data(at)) {
        Err(Errno::NXIO) => Ok(size),
        start => Ok(start?.clamp(at, size)),
    }
}

/// Reads; zeros where the file has become shorter.
fn fill(file: &OwnedFd, buffer: &mut [u8], at: u64) -> Result<()> {
    let mut filled = 0;
    while filled < buffer.len() {
        match pread(file, &mut buffer[filled..], at + filled as u64) {
            Err(Errno::INTR) => {}
            Ok(0) => {
                buffer[filled..].fill(0);
                break;
            }
            read => filled += read?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::os::unix::fs::FileExt;

    #[test]
    fn contents_are_compared_without_reading_holes() {
        let file = |size: u64, pieces: &[(u64, &[u8])]| {
            let file: File = tempfile::tempfile().unwrap();
            file.set_len(size).unwrap();
            for (at, bytes) in pieces {
                file.write_all_at(bytes, *at).unwrap();
            }
            OwnedFd::from(file)
        };
        const SIZE: u64 = 8 << 40;
        let zeros: &[u8] = &[0; 5000];
        for (old, new, expected) in [
            (vec![], vec![], true),
            (
                vec![(SIZE / 2, &b"x"[..])],
                vec![(SIZE / 2, &b"x"[..])],
                true,
            ),
            (vec![(SIZE / 2, b"x")], vec![(SIZE / 2, b"y")], false),
            (vec![(SIZE / 2, b"x")], vec![], false),
            (vec![(SIZE - 1, b"x")], vec![], false),
            (vec![(SIZE / 4, zeros)], vec![], true),
            (
                vec![(0, zeros), (1 << 30, b"z")],
                vec![(1 << 30, b"z")],
                true,
            ),
        ] {
            let same = content(file(SIZE, &old), file(SIZE, &new), SIZE);
            assert_eq!(same, Ok(expected));
        }
        let long = vec![7; BUFFER + 1];
        let mut other = long.clone();
        other[BUFFER] = 8;
        let length = long.len() as u64;
        let same = |new: &[u8]| {
            content(
                file(length, &[(0, &long)]),
                file(length, &[(0, new)]),
                length,
            )
        };
        assert_eq!((same(&long), same(&other)), (Ok(true), Ok(false)));
    }
}
