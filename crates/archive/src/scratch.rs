//! What only the destination's filesystem can say, asked before anything is touched: a file without name
//! takes an entry's length and attributes on trial.

use crate::attributes::{ACCESS_LIST, DEFAULT_LIST, refusal};
use crate::error::Refusal;
use botstead_overlay::tree::Attributes;
use rustix::fd::{BorrowedFd, OwnedFd};
use rustix::fs::{Mode, OFlags, ftruncate, openat};
use rustix::io::Errno;
use std::ffi::CString;

/// A file without name.
#[derive(Debug)]
pub(crate) struct Scratch {
    file: OwnedFd,
    largest: u64,
}

impl Scratch {
    /// In a directory of that filesystem; none where it has no files without name.
    pub(crate) fn new(directory: BorrowedFd<'_>) -> Result<Option<Self>, Errno> {
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        match openat(directory, c".", flags, Mode::RUSR | Mode::WUSR) {
            Ok(file) => Ok(Some(Self { file, largest: 0 })),
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => Ok(None),
            Err(errno) => Err(errno),
        }
    }

    /// Whether a file may be so long, holes included.
    pub(crate) fn length(&mut self, length: u64) -> Result<(), Refusal> {
        if length <= self.largest {
            return Ok(());
        }
        match ftruncate(&self.file, length) {
            Err(Errno::FBIG | Errno::INVAL) => Err(Refusal::TooLong),
            // What else there may be is met again, and told, when it is written.
            _ => {
                self.largest = length;
                Ok(())
            }
        }
    }

    /// Whether an entry may have these attributes.
    pub(crate) fn attributes<'a>(
        &self,
        wanted: impl Iterator<Item = &'a (Vec<u8>, Vec<u8>)>,
    ) -> Result<(), Refusal> {
        let attributes = Attributes::of(&self.file);
        let mut set = Vec::new();
        let mut result = Ok(());
        for (name, value) in wanted {
            // A file has none for what is made in it; what counts is the length.
            let name = match name.as_slice() {
                DEFAULT_LIST => ACCESS_LIST,
                name => name,
            };
            let Ok(name) = CString::new(name) else {
                return Err(Refusal::Attribute);
            };
            match attributes.set(&name, value) {
                Ok(()) => set.push(name),
                Err(errno) => {
                    result = refusal(errno, &self.file).map_or(Ok(()), Err);
                    break;
                }
            }
        }
        for name in set {
            // The next trial replaces one that stays.
            let _ = attributes.remove(&name);
        }
        result
    }
}
