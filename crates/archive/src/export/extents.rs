//! Where a file has data and where it has holes.

use crate::error::{Error, escape};
use crate::format::Extent;
use crate::limits::MOST_EXTENTS;
use botstead_overlay::tree::stat_fd;
use rustix::fd::OwnedFd;
use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

/// Holes that are stored as zeros where a file has too many pieces, in bytes: at worst each piece of
/// 4 KiB is written with that much more.
const SMALL_HOLE: u64 = 64 << 10;

/// Whether it is worth to ask where a file has data. One that takes all its blocks may have been given them
/// without anything written into them, such as by fallocate(2).
pub(super) fn are_worth(size: u64, blocks: u64) -> bool {
    // 512 is the unit of the number, whatever the filesystem's blocks.
    size > SMALL_HOLE || blocks.saturating_mul(512) < size
}

/// The pieces that hold data; none when all of it does, or the filesystem does not tell.
pub(super) fn find(file: &OwnedFd, size: u64, path: &[u8]) -> Result<Option<Vec<Extent>>, Error> {
    for least_hole in [1, SMALL_HOLE] {
        let failed = |errno| match errno {
            Errno::NXIO => Error::Changed { path: escape(path) },
            errno => Error::export("read", path, errno),
        };
        let Some(pieces) = pieces(file, size, least_hole, MOST_EXTENTS).map_err(failed)? else {
            continue;
        };
        // Where it became shorter there seems to be a hole.
        if stat_fd(file).map_err(failed)?.stx_size < size {
            return Err(failed(Errno::NXIO));
        }
        let all = Extent {
            start: 0,
            length: size,
        };
        return Ok((pieces != [all]).then_some(pieces));
    }
    Err(Error::Excess {
        path: escape(path),
        problem: "the sparse file has too many pieces",
    })
}

/// The pieces, those with smaller holes between them as one; none when there are more than `most`.
/// `ENXIO` when the file became shorter.
fn pieces(
    file: &OwnedFd,
    size: u64,
    least_hole: u64,
    most: usize,
) -> Result<Option<Vec<Extent>>, Errno> {
    let mut pieces: Vec<Extent> = Vec::new();
    let mut end = 0;
    while end < size {
        let start = match seek(file, SeekFrom::Data(end)) {
            // Nothing but a hole is left.
            Err(Errno::NXIO) => break,
            start => start?,
        };
        if start >= size {
            break;
        }
        // A file that changes must not make us run in circles.
        end = seek(file, SeekFrom::Hole(start))?.clamp(start + 1, size);
        let full = pieces.len() == most;
        match pieces.last_mut() {
            Some(last) if start < last.start + last.length + least_hole => {
                last.length = end - last.start;
            }
            _ if full => return Ok(None),
            _ => pieces.push(Extent {
                start,
                length: end - start,
            }),
        }
    }
    Ok(Some(pieces))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;

    #[test]
    fn small_holes_are_joined_where_there_are_too_many_pieces() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(1 << 30).unwrap();
        for number in 0..8 {
            file.write_all_at(&[1; 4096], (1 << 20) + number * 8192)
                .unwrap();
        }
        file.write_all_at(&[1; 4096], 512 << 20).unwrap();
        let file = OwnedFd::from(file);
        let find = |least_hole, most| pieces(&file, 1 << 30, least_hole, most).unwrap();
        assert_eq!(find(1, 9).map(|pieces| pieces.len()), Some(9));
        assert_eq!(find(1, 8), None);
        let joined = [(1 << 20, 7 * 8192 + 4096), (512 << 20, 4096)];
        let joined = joined.map(|(start, length)| Extent { start, length });
        assert_eq!(find(SMALL_HOLE, 8), Some(joined.to_vec()));
    }
}
