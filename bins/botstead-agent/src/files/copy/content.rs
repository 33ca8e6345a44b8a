//! The content of one file, from one descriptor to another: shared where the filesystem can, without
//! filling holes, some MiB at a time.

use crate::files::pieces::Budget;
use crate::files::root::is_virtual;
use rustix::buffer::spare_capacity;
use rustix::fd::OwnedFd;
use rustix::fs::{SeekFrom, copy_file_range, ftruncate, ioctl_ficlone, seek};
use rustix::io::{Errno, Result, pread, pwrite, read, write};

/// What one system call copies.
const AT_ONCE: u64 = 8 << 20;
const BUFFER: usize = 256 << 10;
/// What of a file that the kernel makes up is copied: `/proc/PID/pagemap` has hundreds of GiB.
const MADE_UP: u64 = 64 << 20;

/// How far a file's content is copied.
#[derive(Debug)]
pub(super) struct Content {
    size: u64,
    at: u64,
    /// Where the hole after `at` begins.
    hole: u64,
    way: Way,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Undecided,
    /// The kernel copies.
    Ranges,
    /// The kernel cannot, between these filesystems.
    Buffers,
    /// To the end, wherever that is.
    Stream,
    /// The same, of what the kernel makes up: some of that has no end.
    MadeUp,
}

impl Content {
    pub(super) fn new(size: u64) -> Self {
        Self {
            size,
            at: 0,
            hole: 0,
            way: Way::Undecided,
        }
    }

    /// Bytes that were copied, holes included.
    pub(super) fn copied(&self) -> u64 {
        self.at
    }

    /// Goes on; true when all of it is copied.
    pub(super) fn step(&mut self, from: &OwnedFd, to: &OwnedFd, budget: &Budget) -> Result<bool> {
        if self.way == Way::Undecided {
            if is_virtual(from)? {
                self.way = Way::MadeUp;
            } else if self.size == 0 {
                self.way = Way::Stream;
            } else if ioctl_ficlone(to, from).is_ok() {
                self.at = self.size;
                return Ok(true);
            } else {
                ftruncate(to, self.size)?;
                self.way = Way::Ranges;
            }
        }
        loop {
            let done = match self.way {
                Way::MadeUp if self.at >= MADE_UP => return Err(Errno::FBIG),
                Way::Stream | Way::MadeUp => self.stream(from, to)?,
                Way::Undecided | Way::Ranges | Way::Buffers => self.extent(from, to)?,
            };
            if done {
                return Ok(true);
            }
            if budget.spent() {
                return Ok(false);
            }
        }
    }

    fn extent(&mut self, from: &OwnedFd, to: &OwnedFd) -> Result<bool> {
        if self.at >= self.size {
            return Ok(true);
        }
        if self.at >= self.hole {
            self.at = match seek(from, SeekFrom::Data(self.at)) {
                // Nothing but a hole is left.
                Err(Errno::NXIO) => self.size,
                at => at?.min(self.size),
            };
            if self.at >= self.size {
                return Ok(true);
            }
            self.hole = seek(from, SeekFrom::Hole(self.at))?.min(self.size);
        }
        let length = (self.hole - self.at).min(AT_ONCE);
        let copied = match self.way {
            Way::Buffers => by_hand(from, to, self.at, length)?,
            _ => match self.range(from, to, length)? {
                Some(copied) => copied,
                None => return Ok(false),
            },
        };
        self.at += copied;
        match (copied, self.way) {
            // It was cut meanwhile.
            (0, Way::Buffers) => {
                ftruncate(to, self.at)?;
                Ok(true)
            }
            // Or the filesystem says nothing instead of refusing.
            (0, _) => {
                self.way = Way::Buffers;
                Ok(false)
            }
            _ => Ok(false),
        }
    }

    fn range(&mut self, from: &OwnedFd, to: &OwnedFd, length: u64) -> Result<Option<u64>> {
        let (mut read, mut written) = (self.at, self.at);
        let length = usize::try_from(length).unwrap_or(BUFFER);
        match copy_file_range(from, Some(&mut read), to, Some(&mut written), length) {
            Ok(copied) => Ok(Some(copied as u64)),
            Err(Errno::INTR) => Ok(None),
            Err(Errno::XDEV | Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP | Errno::BADF) => {
                self.way = Way::Buffers;
                Ok(None)
            }
            Err(errno) => Err(errno),
        }
    }

    fn stream(&mut self, from: &OwnedFd, to: &OwnedFd) -> Result<bool> {
        let mut buffer = Vec::with_capacity(BUFFER);
        match read(from, spare_capacity(&mut buffer)) {
            Ok(0) => return Ok(true),
            Ok(_) => {}
            Err(Errno::INTR) => return Ok(false),
            Err(errno) => return Err(errno),
        }
        let mut done = 0;
        while done < buffer.len() {
            done += write(to, &buffer[done..])?;
        }
        self.at += buffer.len() as u64;
        Ok(false)
    }
}

fn by_hand(from: &OwnedFd, to: &OwnedFd, at: u64, length: u64) -> Result<u64> {
    let mut buffer = Vec::with_capacity(usize::try_from(length).map_or(BUFFER, |l| l.min(BUFFER)));
    pread(from, spare_capacity(&mut buffer), at)?;
    let mut done = 0;
    while done < buffer.len() {
        done += pwrite(to, &buffer[done..], at + done as u64)?;
    }
    Ok(done as u64)
}
