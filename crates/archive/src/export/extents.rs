//! Where a file has data and where it has holes.

use crate::error::{Error, escape};
use crate::format::Extent;
use crate::limits::MOST_EXTENTS;
use botstead_overlay::tree::stat_fd;
use rustix::fd::OwnedFd;
use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

/// Shorter files without a hole by their blocks are not asked where they have data.
const SMALL_FILE: u64 = 64 << 10;

/// Zeros that are written for holes at most, where a file has too many pieces: what an import takes, by its
/// usual limit.
const MOST_ZEROS: u64 = 64 << 30;

/// Whether it is worth to ask where a file has data. One that takes all its blocks may have been given them
/// without anything written into them, such as by fallocate(2).
pub(super) fn are_worth(size: u64, blocks: u64) -> bool {
    // 512 is the unit of the number, whatever the filesystem's blocks.
    size > SMALL_FILE || blocks.saturating_mul(512) < size
}

/// The pieces that hold data; none when all of it does, or the filesystem does not tell. Where there are too
/// many, the smallest holes count as data.
pub(super) fn find(file: &OwnedFd, size: u64, path: &[u8]) -> Result<Option<Vec<Extent>>, Error> {
    let failed = |errno| match errno {
        Errno::NXIO => Error::Changed { path: escape(path) },
        errno => Error::export("read", path, errno),
    };
    // One less than a reader takes: the map ends with an empty one where the file ends in a hole.
    let Some(pieces) = within(file, size, MOST_EXTENTS - 1).map_err(failed)? else {
        return Err(Error::Excess {
            path: escape(path),
            problem: "the sparse file has more than 1,048,576 pieces with large holes between them",
        });
    };
    // Where it became shorter there seems to be a hole.
    if stat_fd(file).map_err(failed)?.stx_size < size {
        return Err(failed(Errno::NXIO));
    }
    let all = Extent {
        start: 0,
        length: size,
    };
    Ok((pieces != [all]).then_some(pieces))
}

/// At most so many pieces; none where that takes too many zeros.
fn within(file: &OwnedFd, size: u64, most: usize) -> Result<Option<Vec<Extent>>, Errno> {
    if let Some(pieces) = pieces(file, size, 1, most)? {
        return Ok(Some(pieces));
    }
    match least_hole(file, size, most)? {
        (least, zeros) if zeros <= MOST_ZEROS => pieces(file, size, least, most),
        _ => Ok(None),
    }
}

/// Which holes are to be kept for at most so many pieces, a power of two, and how long all smaller ones are
/// together.
fn least_hole(file: &OwnedFd, size: u64, most: usize) -> Result<(u64, u64), Errno> {
    // How many there are between each power of two and the next, and how long they are.
    let mut holes = [(0_u64, 0_u64); 64];
    let (mut count, mut before) = (0_u64, None);
    each(file, size, |start, end| {
        if let Some(hole) = before.and_then(|before| start.checked_sub(before)) {
            let (number, bytes) = &mut holes[hole.checked_ilog2().unwrap_or(0) as usize];
            *number += 1;
            *bytes = bytes.saturating_add(hole);
        }
        before = Some(end);
        count += 1;
        true
    })?;
    let (mut excess, mut least, mut zeros) = (count.saturating_sub(most as u64), 1_u64, 0_u64);
    for (number, bytes) in holes {
        if excess == 0 {
            break;
        }
        excess = excess.saturating_sub(number);
        zeros = zeros.saturating_add(bytes);
        least = least.saturating_mul(2);
    }
    Ok((least, zeros))
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
    let complete = each(file, size, |start, end| {
        let full = pieces.len() == most;
        match pieces.last_mut() {
            Some(last) if start - (last.start + last.length) < least_hole => {
                last.length = end - last.start;
            }
            _ if full => return false,
            _ => pieces.push(Extent {
                start,
                length: end - start,
            }),
        }
        true
    })?;
    Ok(complete.then_some(pieces))
}

/// Gives each piece's beginning and end, until it is told to stop; false then.
fn each(file: &OwnedFd, size: u64, mut piece: impl FnMut(u64, u64) -> bool) -> Result<bool, Errno> {
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
        if !piece(start, end) {
            return Ok(false);
        }
    }
    Ok(true)
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
        assert_eq!(find(64 << 10, 8), Some(joined.to_vec()));
        // Holes of one block, of which as few as can be are filled.
        assert_eq!(least_hole(&file, 1 << 30, 8).unwrap(), (8192, 7 * 4096));
        assert_eq!(within(&file, 1 << 30, 8).unwrap(), Some(joined.to_vec()));
        assert_eq!(within(&file, 1 << 30, 9).unwrap().unwrap().len(), 9);
        let one = within(&file, 1 << 30, 1).unwrap().unwrap();
        let whole = Extent {
            start: 1 << 20,
            length: (512 << 20) + 4096 - (1 << 20),
        };
        assert_eq!(one, [whole]);
    }

    #[test]
    fn holes_that_are_too_large_together_are_not_filled() {
        let file = tempfile::tempfile().unwrap();
        let size = 200 << 30;
        file.set_len(size).unwrap();
        for number in 0..3 {
            file.write_all_at(&[1; 4096], number * (60 << 30)).unwrap();
        }
        let file = OwnedFd::from(file);
        assert_eq!(within(&file, size, 1).unwrap(), None);
        assert_eq!(within(&file, size, 3).unwrap().unwrap().len(), 3);
    }
}
