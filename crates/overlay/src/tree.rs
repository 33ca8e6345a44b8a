//! Reading one entry at a time: what it is, its extended attributes, overlayfs' marks on it.
//!
//! Going through trees is `beneath`'s.

use rustix::buffer::spare_capacity;
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, Statx, StatxFlags, fgetxattr, flistxattr, fremovexattr,
    fsetxattr, getxattr, listxattr, openat, removexattr, setxattr, statx,
};
use rustix::fs::{RawDir, RawMode, XattrFlags};
use rustix::io::{Errno, Result};
use std::ffi::{CStr, CString};

/// The kernel's limit for a list of attributes and for a value.
const XATTR_MAX: usize = 64 << 10;
/// Holds many names; the kernel's longest record is 280 bytes.
const READ_BUFFER: usize = 64 << 10;

/// What the names of overlayfs' own attributes begin with.
pub const PREFIX: &[u8] = b"trusted.overlay.";
/// The attribute of an opaque directory.
pub const OPAQUE: &CStr = c"trusted.overlay.opaque";

/// What names an inode on this host: the two halves of the device's number, and the inode's.
pub type Id = (u32, u32, u64);

/// What names the inode.
pub fn id(stat: &Statx) -> Id {
    (stat.stx_dev_major, stat.stx_dev_minor, stat.stx_ino)
}

/// What kind of entry it is.
pub fn kind(stat: &Statx) -> FileType {
    FileType::from_raw_mode(RawMode::from(stat.stx_mode))
}

/// A whiteout has the kind that it has and the device number 0:0.
pub fn is_whiteout(stat: &Statx) -> bool {
    kind(stat) == FileType::CharacterDevice && (stat.stx_rdev_major, stat.stx_rdev_minor) == (0, 0)
}

/// Opens a directory for reading, without a trace in its access time.
///
/// # Errors
/// The kernel's; `LOOP` or `NOTDIR` for what is no directory.
pub fn open_dir(parent: impl AsFd, name: &CStr) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    // Layers are not to be written, not even their access times.
    openat(parent, name, flags | OFlags::NOATIME, Mode::empty())
}

/// Opens a regular file for reading, without a trace in its access time and without waiting for anyone.
/// The caller knows that it is a regular file: to open a pipe or a device is to act on it.
///
/// # Errors
/// The kernel's; `LOOP` for a symbolic link.
pub fn open_file(parent: impl AsFd, name: &CStr) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    openat(parent, name, flags | OFlags::NOATIME, Mode::empty())
}

/// What the kernel says of an open file or place.
///
/// # Errors
/// The kernel's.
pub fn stat_fd(fd: impl AsFd) -> Result<Statx> {
    statx(fd, c"", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS)
}

/// What the kernel says of a name, of a link itself.
///
/// # Errors
/// The kernel's.
pub fn stat_at(parent: impl AsFd, name: &CStr) -> Result<Statx> {
    let flags = AtFlags::SYMLINK_NOFOLLOW;
    statx(parent, name, flags, StatxFlags::BASIC_STATS)
}

/// All names in a directory that was opened just now, with what each is as far as the filesystem tells.
///
/// # Errors
/// The kernel's.
pub fn entries(dir: impl AsFd) -> Result<Vec<(CString, FileType)>> {
    let mut buffer = Vec::with_capacity(READ_BUFFER);
    let mut found = Vec::new();
    let mut reader = RawDir::new(dir, buffer.spare_capacity_mut());
    while let Some(entry) = reader.next() {
        let entry = entry?;
        let name = entry.file_name();
        if name != c"." && name != c".." {
            found.push((name.to_owned(), entry.file_type()));
        }
    }
    Ok(found)
}

/// What an attribute of overlayfs on an entry of a layer means for merging.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mark {
    /// None of overlayfs': it belongs to the file. So do those that overlayfs keeps escaped for an
    /// overlay inside the container.
    Foreign,
    /// Means something in the topmost, writable layer alone.
    Bookkeeping,
    /// An opaque directory, or one with whiteouts in the form of attributes: the value tells.
    Opaque,
    /// Cannot be merged.
    Unsupported,
}

pub(crate) fn mark(attribute: &[u8]) -> Mark {
    let Some(name) = attribute.strip_prefix(PREFIX) else {
        return Mark::Foreign;
    };
    if name.starts_with(b"overlay.") {
        return Mark::Foreign;
    }
    match name {
        b"opaque" => Mark::Opaque,
        b"origin" | b"impure" | b"nlink" | b"upper" | b"uuid" | b"protattr" => Mark::Bookkeeping,
        // redirect, metacopy, verity, whiteout, and what kernels to come may add.
        _ => Mark::Unsupported,
    }
}

/// Whether an attribute belongs to the file and not to overlayfs.
pub(crate) fn foreign(attribute: &CStr) -> bool {
    mark(attribute.to_bytes()) == Mark::Foreign
}

/// The extended attributes of one open file.
#[derive(Debug)]
pub struct Attributes<'a> {
    fd: BorrowedFd<'a>,
    /// The way to one that is open as a mere place (`O_PATH`), such as a symbolic link's.
    place: Option<String>,
}

impl<'a> Attributes<'a> {
    /// Of a file or directory that is open for reading or writing.
    pub fn of(fd: &'a OwnedFd) -> Self {
        Self {
            fd: fd.as_fd(),
            place: None,
        }
    }

    /// Of what is open as a mere place (`O_PATH`): a link, a device, a pipe, a socket.
    pub fn of_place(fd: &'a OwnedFd) -> Self {
        Self {
            fd: fd.as_fd(),
            place: Some(format!("/proc/self/fd/{}", fd.as_raw_fd())),
        }
    }

    /// The names, each ended by a zero byte; see [`names`]. Empty where the filesystem has no attributes.
    ///
    /// # Errors
    /// The kernel's.
    pub fn list(&self) -> Result<Vec<u8>> {
        let listed = grow(|list| match &self.place {
            None => flistxattr(self.fd, spare_capacity(list)),
            Some(place) => listxattr(place, spare_capacity(list)),
        });
        match listed {
            Err(Errno::NOTSUP) => Ok(Vec::new()),
            listed => listed,
        }
    }

    /// A value.
    ///
    /// # Errors
    /// The kernel's; `NODATA` when there is none of that name.
    pub fn get(&self, name: &CStr) -> Result<Vec<u8>> {
        grow(|value| match &self.place {
            None => fgetxattr(self.fd, name, spare_capacity(value)),
            Some(place) => getxattr(place, name, spare_capacity(value)),
        })
    }

    /// Sets or replaces a value.
    ///
    /// # Errors
    /// The kernel's.
    pub fn set(&self, name: &CStr, value: &[u8]) -> Result<()> {
        match &self.place {
            None => fsetxattr(self.fd, name, value, XattrFlags::empty()),
            Some(place) => setxattr(place, name, value, XattrFlags::empty()),
        }
    }

    /// Removes one.
    ///
    /// # Errors
    /// The kernel's; `NODATA` when there is none of that name.
    pub fn remove(&self, name: &CStr) -> Result<()> {
        match &self.place {
            None => fremovexattr(self.fd, name),
            Some(place) => removexattr(place, name),
        }
    }
}

/// The names of a list of attributes.
pub fn names(list: &[u8]) -> impl Iterator<Item = &CStr> {
    list.split_inclusive(|byte| *byte == 0)
        .filter_map(|name| CStr::from_bytes_with_nul(name).ok())
}

fn grow(mut read: impl FnMut(&mut Vec<u8>) -> Result<usize>) -> Result<Vec<u8>> {
    let mut buffer = Vec::with_capacity(512);
    loop {
        match read(&mut buffer) {
            Err(Errno::RANGE) if buffer.capacity() < XATTR_MAX => {
                buffer = Vec::with_capacity(XATTR_MAX);
            }
            result => return result.map(|_| buffer),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_of_overlays_in_the_container_are_its_own() {
        assert_eq!(mark(b"user.a"), Mark::Foreign);
        assert_eq!(mark(b"trusted.a"), Mark::Foreign);
        assert_eq!(mark(b"trusted.overlay.overlay.redirect"), Mark::Foreign);
        assert_eq!(mark(b"trusted.overlay.opaque"), Mark::Opaque);
        assert_eq!(mark(b"trusted.overlay.origin"), Mark::Bookkeeping);
        for name in ["redirect", "metacopy", "whiteout", "verity", "new"] {
            let name = format!("trusted.overlay.{name}");
            assert_eq!(mark(name.as_bytes()), Mark::Unsupported, "{name}");
        }
    }
}
