//! What only the destination's filesystem can say, asked before anything is touched: a file without name
//! takes an entry's length and attributes on trial, and a link that is removed at once its target.

use crate::attributes::{ACCESS_LIST, DEFAULT_LIST, refusal};
use crate::error::Refusal;
use botstead_overlay::tree::Attributes;
use rustix::fd::{BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, Mode, OFlags, fstatfs, ftruncate, openat, symlinkat, unlinkat};
use rustix::io::Errno;
use std::ffi::CString;
use std::hash::{BuildHasher, RandomState};

/// Targets that every filesystem takes; XFS takes 1,023 bytes.
const SHORT_TARGET: usize = 1000;

/// A file without name.
#[derive(Debug)]
pub(crate) struct Scratch {
    file: OwnedFd,
    directory: OwnedFd,
    largest: u64,
    longest_target: usize,
    most_links: u32,
}

impl Scratch {
    /// In a directory of that filesystem; none where it has no files without name.
    pub(crate) fn new(directory: BorrowedFd<'_>) -> Result<Option<Self>, Errno> {
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        match openat(directory, c".", flags, Mode::RUSR | Mode::WUSR) {
            Ok(file) => Ok(Some(Self {
                directory: openat(
                    directory,
                    c".",
                    OFlags::PATH | OFlags::CLOEXEC,
                    Mode::empty(),
                )?,
                largest: 0,
                longest_target: SHORT_TARGET,
                most_links: most_links(&file)?,
                file,
            })),
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

    /// Whether a symbolic link may lead there.
    pub(crate) fn target(&mut self, target: &[u8]) -> Result<(), Refusal> {
        if target.len() <= self.longest_target {
            return Ok(());
        }
        let number = RandomState::new().hash_one(target.len());
        let name = format!(".botstead-{number:016x}");
        match symlinkat(target, &self.directory, name.as_str()) {
            Err(Errno::NAMETOOLONG) => return Err(Refusal::LinkTarget),
            Ok(()) => {
                let _ = unlinkat(&self.directory, name.as_str(), AtFlags::empty());
            }
            // What else there may be is met again, and told, when it is written.
            Err(_) => {}
        }
        self.longest_target = target.len();
        Ok(())
    }

    /// Whether a file may have so many names.
    pub(crate) fn links(&self, count: u32) -> Result<(), Refusal> {
        match count <= self.most_links {
            true => Ok(()),
            false => Err(Refusal::ManyLinks),
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

/// The most names of a file: `EXT4_LINK_MAX` and `BTRFS_LINK_MAX` of the kernel. Others have more than an
/// archive has entries, or tell when they are made.
fn most_links(file: &OwnedFd) -> Result<u32, Errno> {
    // Its width and sign differ between machines; the magic numbers are 32 bits.
    Ok(match i128::from(fstatfs(file)?.f_type) & 0xffff_ffff {
        0xef53 => 65_000,
        0x9123_683e => 65_535,
        _ => u32::MAX,
    })
}
