//! Copying the bytes of regular files: sharing blocks where the filesystem can, keeping holes, writing
//! over an earlier copy in place. Metadata is elsewhere.

use crate::stop::Stop;
use botstead_overlay::copy::range;
use rustix::fd::OwnedFd;
use rustix::fs::{SeekFrom, Statx, ftruncate, ioctl_ficlone, seek};
use rustix::io::{Errno, Result, pread, pwrite};

/// Up to here one read and one write are cheaper than asking for anything cleverer.
const SMALL: u64 = 256 << 10;
/// The most to copy before asking whether to stop.
const PIECE: u64 = 32 << 20;

/// Copies contents, and remembers what the filesystem cannot do.
#[derive(Debug)]
pub(crate) struct Contents {
    buffer: Vec<u8>,
    can_share: bool,
}

impl Contents {
    pub(crate) fn new() -> Self {
        Self {
            buffer: vec![0; SMALL as usize],
            can_share: true,
        }
    }

    /// Makes the content of `target`, now `present` bytes long, that of `source`, and returns how many
    /// bytes were written or shared. A source that changes meanwhile gives a mixture.
    ///
    /// `is_clean` says that the source's pages were written back just now: to share blocks writes them
    /// back first, which is slower than copying a small file.
    pub(crate) fn copy(
        &mut self,
        source: &OwnedFd,
        stat: &Statx,
        target: &OwnedFd,
        present: u64,
        is_clean: bool,
        stop: &Stop<'_>,
    ) -> Result<u64> {
        let size = stat.stx_size;
        if size < present {
            ftruncate(target, size)?;
        }
        if size == 0 {
            return Ok(0);
        }
        if (is_clean || size > SMALL) && self.share(source, target)? {
            return Ok(size);
        }
        // Blocks that a file was given, such as by fallocate(2), may hold nothing either.
        let may_have_holes = size > SMALL && present == 0;
        if may_have_holes || stat.stx_blocks.saturating_mul(512) < size {
            return sparse(source, size, target, present, stop);
        }
        if size > SMALL {
            return pieces(source, target, 0, size, stop);
        }
        self.at_once(source, size, target)
    }

    fn share(&mut self, source: &OwnedFd, target: &OwnedFd) -> Result<bool> {
        if !self.can_share {
            return Ok(false);
        }
        match ioctl_ficlone(target, source) {
            Ok(()) => Ok(true),
            // About this file: it or its target may not be shared (btrfs: one is without checksums).
            Err(Errno::INVAL | Errno::PERM | Errno::TXTBSY) => Ok(false),
            Err(Errno::OPNOTSUPP | Errno::XDEV | Errno::NOTTY | Errno::NOSYS) => {
                self.can_share = false;
                Ok(false)
            }
            Err(errno) => Err(errno),
        }
    }

    fn at_once(&mut self, source: &OwnedFd, size: u64, target: &OwnedFd) -> Result<u64> {
        // `size` is at most that of the buffer.
        let wanted = &mut self.buffer[..size as usize];
        let mut read = 0;
        while read < wanted.len() {
            match pread(source, &mut wanted[read..], read as u64)? {
                0 => break,
                more => read += more,
            }
        }
        let mut written = 0;
        while written < read {
            written += pwrite(target, &wanted[written..read], written as u64)?;
        }
        Ok(read as u64)
    }
}

fn sparse(
    source: &OwnedFd,
    size: u64,
    target: &OwnedFd,
    present: u64,
    stop: &Stop<'_>,
) -> Result<u64> {
    if present > 0 {
        // What was there would show in the holes.
        ftruncate(target, 0)?;
    }
    ftruncate(target, size)?;
    let (mut end, mut copied) = (0, 0);
    while end < size {
        let start = match seek(source, SeekFrom::Data(end)) {
            // Nothing but a hole is left.
            Err(Errno::NXIO) => break,
            start => start?,
        };
        end = match seek(source, SeekFrom::Hole(start)) {
            // It was shortened meanwhile.
            Err(Errno::NXIO) => break,
            end => end?.min(size),
        };
        copied += pieces(source, target, start, end, stop)?;
    }
    Ok(copied)
}

fn pieces(
    source: &OwnedFd,
    target: &OwnedFd,
    start: u64,
    end: u64,
    stop: &Stop<'_>,
) -> Result<u64> {
    let mut at = start;
    while at < end {
        if stop.is_due() {
            return Err(Errno::CANCELED);
        }
        let piece_end = end.min(at + PIECE);
        range(source, target, at, piece_end)?;
        at = piece_end;
    }
    Ok(end.saturating_sub(start))
}

#[cfg(test)]
mod tests {
    use super::*;
    use botstead_overlay::tree::stat_fd;
    use std::fs::{self, File, OpenOptions};
    use std::os::unix::fs::{FileExt, MetadataExt};
    use std::path::Path;
    use std::sync::atomic::AtomicBool;

    fn open(path: &Path) -> OwnedFd {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path);
        file.unwrap().into()
    }

    fn copy(dir: &Path) {
        let never = AtomicBool::new(false);
        let (source, target) = (open(&dir.join("s")), open(&dir.join("t")));
        let stat = stat_fd(&source).unwrap();
        let present = stat_fd(&target).unwrap().stx_size;
        Contents::new()
            .copy(&source, &stat, &target, present, false, &Stop::new(&never))
            .unwrap();
        assert!(fs::read(dir.join("s")).unwrap() == fs::read(dir.join("t")).unwrap());
    }

    #[test]
    fn every_size_is_copied_over_every_other() {
        let dir = tempfile::tempdir().unwrap();
        let sizes = [0, 1, 4096, SMALL - 1, SMALL, SMALL + 1, 3 * SMALL + 5];
        for (number, size) in sizes.into_iter().enumerate() {
            for present in sizes {
                let fill = number as u8 + 1;
                fs::write(dir.path().join("s"), vec![fill; size as usize]).unwrap();
                fs::write(dir.path().join("t"), vec![0xee; present as usize]).unwrap();
                copy(dir.path());
            }
        }
    }

    #[test]
    fn holes_stay_holes_and_hide_what_was_there() {
        let dir = tempfile::tempdir().unwrap();
        for total in [64 << 10, 64 << 20] {
            let source = File::create(dir.path().join("s")).unwrap();
            source.set_len(total).unwrap();
            source.write_all_at(b"middle", total / 2).unwrap();
            fs::write(dir.path().join("t"), vec![0xee; 100_000]).unwrap();
            copy(dir.path());
            let blocks = |name: &str| fs::metadata(dir.path().join(name)).unwrap().blocks();
            assert!(blocks("t") <= blocks("s") + 8, "{} blocks", blocks("t"));
        }
    }

    #[test]
    fn a_long_copy_is_stopped() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("s"), vec![1; 1 << 20]).unwrap();
        let (source, target) = (open(&dir.path().join("s")), open(&dir.path().join("t")));
        let stat = stat_fd(&source).unwrap();
        let now = AtomicBool::new(true);
        let mut contents = Contents::new();
        contents.can_share = false;
        let copied = contents.copy(&source, &stat, &target, 0, false, &Stop::new(&now));
        assert_eq!(copied, Err(Errno::CANCELED));
    }
}
