//! Which parts of a file hold data.

use rustix::fd::OwnedFd;
use rustix::fs::{SeekFrom, Statx, seek};
use rustix::io::{Errno, Result};

/// More parts than this are not worth telling apart: the file is sent with its holes as zeros.
const MOST: usize = 8192;

/// Holes of less than this are not worth it either.
const LEAST_SAVED: u64 = 64 << 10;

/// A part of a file that holds data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Extent {
    pub(super) offset: u64,
    pub(super) length: u64,
}

/// The parts of a file that hold data, and at last an empty one at its end; `None` when the whole file
/// does.
pub(super) fn extents(file: &OwnedFd, stat: &Statx) -> Result<Option<Vec<Extent>>> {
    let size = stat.stx_size;
    // Blocks that a file was given, such as by fallocate(2), may hold nothing: only asking tells.
    if size < LEAST_SAVED {
        return Ok(None);
    }
    let mut found = Vec::new();
    let mut end = 0;
    while end < size {
        let offset = match seek(file, SeekFrom::Data(end)) {
            Err(Errno::NXIO) => break,
            // The filesystem does not tell.
            Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok(None),
            offset => offset?,
        };
        if offset >= size {
            break;
        }
        end = seek(file, SeekFrom::Hole(offset))?.clamp(offset, size);
        let length = end - offset;
        if length == 0 || found.len() == MOST {
            return Ok(None);
        }
        found.push(Extent { offset, length });
    }
    let data: u64 = found.iter().map(|extent| extent.length).sum();
    if size - data < LEAST_SAVED {
        return Ok(None);
    }
    found.push(Extent {
        offset: size,
        length: 0,
    });
    Ok(Some(found))
}
