//! How large an archive may be before it is refused.

use std::fmt;

/// How large an archive may be before it is refused.
///
/// Some things are limited whatever is set here, as they are held in memory: 8 MiB of extended header
/// and 1,048,576 pieces of one sparse file, 512 MiB of names in all.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Bytes of the unpacked archive, headers included. The files' data is a part of it; the holes
    /// of sparse files are not.
    pub bytes: u64,
    /// Entries; directories that are only named within longer names count as well. Each takes some
    /// 40 bytes of memory and its name.
    pub entries: u64,
    /// How many times the archive's own length the unpacked bytes may be. The first 64 MiB are free.
    pub ratio: u64,
    /// Bytes of one file, holes included.
    pub file_bytes: u64,
    /// Bytes of one whole name.
    pub name_bytes: usize,
}

impl Default for Limits {
    /// For an archive from anywhere: 64 GiB, 2,000,000 entries, a ratio of 500, files of 1 TiB, names
    /// of 16 KiB.
    fn default() -> Self {
        Self {
            bytes: 64 << 30,
            entries: 2_000_000,
            ratio: 500,
            file_bytes: 1 << 40,
            name_bytes: 16 << 10,
        }
    }
}

impl Limits {
    /// For an archive that the server wrote itself and kept where nobody else writes: it must come
    /// back whatever the tree was.
    pub fn own() -> Self {
        Self {
            bytes: u64::MAX,
            // Numbers of entries are 32 bits wide.
            entries: u64::from(u32::MAX),
            ratio: u64::MAX,
            file_bytes: i64::MAX as u64,
            name_bytes: MOST_EXTENDED,
        }
    }

    /// What an archive of this length may unpack to, and which limit says so.
    pub(crate) fn unpacked(&self, length: u64) -> (u64, Limit) {
        let ratio = length.saturating_mul(self.ratio).saturating_add(RATIO_FREE);
        if ratio < self.bytes {
            (ratio, Limit::Ratio(self.ratio))
        } else {
            (self.bytes, Limit::Bytes(self.bytes))
        }
    }
}

/// What may always be unpacked, whatever the ratio, in bytes.
const RATIO_FREE: u64 = 64 << 20;
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
    /// Unpacked bytes.
    Bytes(u64),
    /// Entries.
    Entries(u64),
    /// Unpacked bytes for each packed one.
    Ratio(u64),
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
            Self::Bytes(most) => write!(f, "the archive unpacks to more than {most} bytes"),
            Self::Entries(most) => write!(f, "the archive has more than {most} entries"),
            Self::Ratio(most) => write!(
                f,
                "the archive unpacks to more than {most} times its own length"
            ),
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
