//! Short reads of small files, without allocating for each.

use rustix::fs::{Mode, OFlags, open};
use rustix::io::{Errno, read};
use std::io;
use std::os::fd::OwnedFd;

/// Longer than any of the files: `memory.stat`, the longest, has some 2 KiB.
const BUFFER: usize = 16 << 10;

/// The files of one cgroup after another.
pub(super) struct Files {
    path: String,
    dir: usize,
    buffer: [u8; BUFFER],
}

impl Files {
    pub(super) fn new() -> Self {
        Self {
            path: String::with_capacity(192),
            dir: 0,
            buffer: [0; BUFFER],
        }
    }

    /// Goes to a cgroup in a hierarchy.
    pub(super) fn enter(&mut self, mount: &str, cgroup: &str) {
        self.path.clear();
        for part in [mount, "/", cgroup, "/"] {
            self.path.push_str(part);
        }
        self.dir = self.path.len();
    }

    /// Reads a file and parses it; `None` when there is none.
    pub(super) fn read<T>(
        &mut self,
        name: &str,
        parse: impl FnOnce(&[u8]) -> Option<T>,
    ) -> io::Result<Option<T>> {
        let Some(file) = self.open(name)? else {
            return Ok(None);
        };
        // The kernel shows such a file whole in one read that has room for it.
        let Some(filled) = read_some(&file, &mut self.buffer)? else {
            return Ok(None);
        };
        parse(&self.buffer[..filled])
            .map(Some)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, self.path.clone()))
    }

    /// The number of lines of a file of any length; `None` when there is none.
    pub(super) fn count_lines(&mut self, name: &str) -> io::Result<Option<u64>> {
        let Some(file) = self.open(name)? else {
            return Ok(None);
        };
        let mut lines = 0;
        loop {
            match read_some(&file, &mut self.buffer)? {
                Some(0) => return Ok(Some(lines)),
                Some(count) => {
                    let found = self.buffer[..count].iter().filter(|byte| **byte == b'\n');
                    lines += found.count() as u64;
                }
                None => return Ok(None),
            }
        }
    }

    fn open(&mut self, name: &str) -> io::Result<Option<OwnedFd>> {
        self.path.truncate(self.dir);
        self.path.push_str(name);
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        match open(self.path.as_str(), flags, Mode::empty()) {
            Ok(file) => Ok(Some(file)),
            Err(Errno::NOENT | Errno::NODEV) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

/// `None` when the cgroup was removed while its file was open: the kernel then says `ENODEV`.
fn read_some(file: &OwnedFd, buffer: &mut [u8]) -> io::Result<Option<usize>> {
    loop {
        match read(file, &mut *buffer) {
            Ok(count) => return Ok(Some(count)),
            Err(Errno::INTR) => {}
            Err(Errno::NODEV) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
    }
}
