//! How large an archive may be before it is refused.

use crate::format::{Kind, Member};
use std::fmt;

/// How large an archive may be before it is refused.
///
/// What counts is what lands on the disk, whatever it takes within the archive: zeros pack to nearly
/// nothing, and holes are as long as the filesystem lets them be. What lands nowhere (headers, what fills
/// up blocks) is limited by itself, as it takes time all the same.
///
/// Some things are limited whatever is set here, as they are held in memory: 8 MiB of extended header
/// and 1,048,576 pieces of one sparse file, 512 MiB of names in all.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Bytes that land on the disk, in blocks of 4 KiB, with those of directories, long links and
    /// extended attributes.
    pub disk_bytes: u64,
    /// Bytes of the unpacked archive that are no file's data.
    pub other_bytes: u64,
    /// Entries; directories that are only named within longer names count as well. Each takes some
    /// 40 bytes of memory and its name.
    pub entries: u64,
    /// Bytes of one file, holes included.
    pub file_bytes: u64,
    /// Bytes of one whole name.
    pub name_bytes: usize,
}

impl Default for Limits {
    /// For an archive from anywhere: what a disk of 64 GiB takes, 32 GiB of what is no data, 8,388,608
    /// entries; files and names of any length.
    fn default() -> Self {
        Self {
            disk_bytes: 64 << 30,
            other_bytes: 32 << 30,
            entries: 8 << 20,
            file_bytes: LARGEST_FILE,
            name_bytes: MOST_EXTENDED,
        }
    }
}

impl Limits {
    /// For an archive that the server wrote itself and kept where nobody else writes: it must come
    /// back whatever the tree was.
    pub fn own() -> Self {
        Self {
            disk_bytes: u64::MAX,
            other_bytes: u64::MAX,
            // Numbers of entries are 32 bits wide.
            entries: u64::from(u32::MAX),
            file_bytes: LARGEST_FILE,
            name_bytes: MOST_EXTENDED,
        }
    }
}

/// What Linux can address in a file.
const LARGEST_FILE: u64 = i64::MAX as u64;
/// The longest extended header, in bytes, written or read.
pub(crate) const MOST_EXTENDED: usize = 8 << 20;
/// The most pieces of a sparse file, written or read.
pub(crate) const MOST_EXTENTS: usize = 1 << 20;
/// The most names together, in bytes.
pub(crate) const MOST_NAMES: usize = 512 << 20;

/// A limit that an archive went beyond.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Limit {
    /// Bytes on the disk: what may be used, and what the archive needs so far.
    DiskBytes {
        /// What may be used.
        most: u64,
        /// What is needed up to the entry that does not fit, that included.
        needed: u64,
    },
    /// Unpacked bytes that are no file's data.
    OtherBytes(u64),
    /// Entries.
    Entries(u64),
    /// Bytes of one file.
    FileBytes(u64),
    /// Bytes of one name.
    NameBytes(usize),
    /// Bytes of one extended header.
    Extended(usize),
    /// Pieces of one sparse file.
    Extents(usize),
    /// Bytes of all names.
    Names(usize),
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DiskBytes { most, needed } => write!(
                f,
                "the archive needs {needed} bytes on the disk up to here, and may use {most}"
            ),
            Self::OtherBytes(most) => write!(
                f,
                "the archive has more than {most} bytes beside the content of files"
            ),
            Self::Entries(most) => write!(f, "the archive has more than {most} entries"),
            Self::FileBytes(most) => write!(f, "the file is larger than {most} bytes"),
            Self::NameBytes(most) => write!(f, "the name is longer than {most} bytes"),
            Self::Extended(most) => {
                write!(f, "an extended header is longer than {most} bytes")
            }
            Self::Extents(most) => write!(f, "the sparse file has more than {most} pieces"),
            Self::Names(most) => write!(f, "all names together are longer than {most} bytes"),
        }
    }
}

/// What is on the disk comes in such blocks.
const BLOCK: u64 = 4096;
/// What an entry takes by itself.
const INODE: u64 = 512;
/// What has room in an inode.
const SHORT: usize = 60;

/// Adds up what lands on a disk: the blocks of files' data, and what entries take besides. An estimate on
/// the safe side, of a filesystem with blocks of 4 KiB.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Landing(u64);

impl Landing {
    pub(crate) fn bytes(self) -> u64 {
        self.0
    }

    fn add(&mut self, bytes: u64) {
        self.0 = self.0.saturating_add(bytes);
    }

    /// An entry with its content and attributes.
    pub(crate) fn entry(&mut self, member: &Member, attributes: &[&(Vec<u8>, Vec<u8>)]) {
        self.add(INODE);
        match (member.kind, &member.extents) {
            (Kind::Directory, _) => self.directories(1),
            (Kind::Symlink, _) if member.link.len() >= SHORT => self.blocks(1),
            (Kind::File, None) => self.blocks(member.size),
            (Kind::File, Some(pieces)) => {
                self.pieces(pieces.iter().map(|piece| (piece.start, piece.length)));
            }
            _ => {}
        }
        let attributes = attributes.iter();
        let bytes: usize = attributes
            .map(|(name, value)| name.len() + value.len())
            .sum();
        match bytes {
            0..SHORT => self.add(bytes as u64),
            _ => self.blocks(bytes as u64),
        }
    }

    /// So many directories.
    pub(crate) fn directories(&mut self, count: usize) {
        self.add(BLOCK.saturating_mul(count as u64));
    }

    /// Something of this length in blocks of its own.
    fn blocks(&mut self, bytes: u64) {
        self.add(bytes.div_ceil(BLOCK).saturating_mul(BLOCK));
    }

    /// Pieces of a file, each with all blocks that it touches, also those that others touch: each is
    /// written by itself, so that a byte in every second place of a block takes time for a thousand.
    fn pieces(&mut self, pieces: impl Iterator<Item = (u64, u64)>) {
        for (start, length) in pieces.filter(|(_, length)| *length > 0) {
            self.blocks((start % BLOCK).saturating_add(length));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lands_is_counted_in_blocks() {
        let pieces = |pieces: &[(u64, u64)]| {
            let mut landing = Landing::default();
            landing.pieces(pieces.iter().copied());
            landing.bytes() / BLOCK
        };
        assert_eq!(pieces(&[]), 0);
        assert_eq!(pieces(&[(5, 0)]), 0);
        assert_eq!(pieces(&[(0, 1)]), 1);
        assert_eq!(pieces(&[(4095, 2)]), 2);
        assert_eq!(pieces(&[(0, 1), (2, 1), (4000, 1), (5000, 1)]), 4);
        assert_eq!(pieces(&[(1 << 40, 1), (1 << 41, 4096)]), 2);
        // A byte each in a million blocks of its own: 4 GiB.
        let scattered = (0..1 << 20).map(|number| (number * 8192, 1));
        let mut landing = Landing::default();
        landing.pieces(scattered);
        assert_eq!(landing.bytes(), 4 << 30);
        let mut landing = Landing::default();
        landing.blocks(u64::MAX);
        landing.blocks(u64::MAX);
        assert_eq!(landing.bytes(), u64::MAX);
    }
}
