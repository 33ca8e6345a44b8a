//! Why an archive was not written, not accepted or not applied.

use crate::limits::Limit;
use rustix::io::Errno;
use std::fmt;
use std::io;

/// Why an archive was not written, not accepted or not applied.
///
/// Names are escaped and shortened: they may hold anything.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The archive is damaged, hostile or beyond a limit. Checking touches no destination.
    #[error("the archive is refused at {entry}")]
    Refused {
        /// Where.
        entry: Entry,
        /// Why.
        #[source]
        reason: Refusal,
    },
    /// The file that holds the archive cannot be read.
    #[error("cannot read the archive")]
    ReadArchive(#[source] io::Error),
    /// What the archive is written to failed.
    #[error("cannot write the archive")]
    WriteArchive(#[source] io::Error),
    /// The name of the folder to put into the archive is absolute, leads upwards or is too long.
    #[error("the folder {0:?} cannot be put into an archive")]
    Folder(String),
    /// The tree cannot be read.
    #[error("cannot {operation} {path}")]
    Export {
        /// What was tried.
        operation: &'static str,
        /// Where in the tree.
        path: String,
        /// The failure.
        #[source]
        source: io::Error,
    },
    /// The tree was changed while it was read: the archive would not be a picture of it.
    #[error("cannot export {path}: it was changed meanwhile")]
    Changed {
        /// Where in the tree.
        path: String,
    },
    /// The tree has something that is too much for an archive.
    #[error("cannot export {path}: {problem}")]
    Excess {
        /// Where in the tree.
        path: String,
        /// What there is too much of.
        problem: &'static str,
    },
    /// The destination itself could not be opened or emptied.
    #[error("cannot open and empty the destination")]
    Destination(#[source] io::Error),
    /// The destination failed; it holds a part of the archive.
    #[error("cannot {operation} {entry}")]
    Apply {
        /// What was tried.
        operation: &'static str,
        /// For which entry.
        entry: Entry,
        /// The failure.
        #[source]
        source: io::Error,
    },
    /// The archive's file cannot be put in its place; nothing is left of it.
    #[error("cannot {operation} the archive file {name}")]
    Save {
        /// What was tried.
        operation: &'static str,
        /// The file.
        name: String,
        /// The failure.
        #[source]
        source: io::Error,
    },
    /// [`Progress::cancel`](crate::Progress::cancel) was called.
    #[error("cancelled")]
    Cancelled,
}

impl Error {
    pub(crate) fn export(operation: &'static str, path: &[u8], errno: Errno) -> Self {
        Self::Export {
            operation,
            path: escape(path),
            source: errno.into(),
        }
    }

    /// Whether the disk or a quota is full.
    pub fn is_disk_full(&self) -> bool {
        let (Self::Apply { source, .. }
        | Self::Save { source, .. }
        | Self::WriteArchive(source)
        | Self::Destination(source)) = self
        else {
            return false;
        };
        botstead_overlay::is_disk_full(source)
    }
}

/// An entry of an archive, as messages name it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its number, from 1 on. Extended headers do not count; after the last entry it is one more.
    pub number: u64,
    /// Its name as the archive gives it, escaped and shortened; empty when it is not known yet.
    pub name: String,
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "entry {}", self.number)?;
        if self.name.is_empty() {
            return Ok(());
        }
        write!(f, " \"{}\"", self.name)
    }
}

/// What is wrong with an archive.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// No tar, plain or packed by what is known here.
    #[error("this is not a tar archive, nor one packed by gzip, zstd, xz or bzip2")]
    NotAnArchive,
    /// Applied in place of a tree it would only delete.
    #[error("the archive has no entries")]
    NoEntries,
    /// It ends too early.
    #[error("the archive is cut off")]
    Truncated,
    /// The compressed data is damaged.
    #[error("the compressed data is damaged: {0}")]
    Corrupt(String),
    /// A header's sum is wrong.
    #[error("a header is damaged: its checksum is wrong")]
    Checksum,
    /// A field of a header is no number, or one that has no meaning here.
    #[error("the field {0} of a header is not valid")]
    Field(&'static str),
    /// An extended header is malformed or contradicts another.
    #[error("an extended header is not valid: {0}")]
    Extension(&'static str),
    /// There is something behind the end.
    #[error("there is something behind the end of the archive")]
    TrailingData,
    /// It has no name.
    #[error("the name is empty")]
    EmptyName,
    /// A name holds a zero byte.
    #[error("a name holds a zero byte")]
    ZeroInName,
    /// A name begins with a slash.
    #[error("the name is absolute")]
    AbsoluteName,
    /// A name has a part `..`.
    #[error("the name leads upwards")]
    UpwardName,
    /// A part of a name is longer than any filesystem takes.
    #[error("a part of the name is longer than 255 bytes")]
    LongName,
    /// The name came before as a directory that has entries, and is something else now.
    #[error("the name is that of a directory with entries before, and of something else here")]
    Duplicate,
    /// A directory in its name is a symbolic link, of the archive or of the destination.
    #[error("it lies beneath a symbolic link")]
    BeneathLink,
    /// A directory in its name is no directory in the archive.
    #[error("it lies beneath an entry that is not a directory")]
    BeneathFile,
    /// A hard link to something outside.
    #[error("it is a hard link to something outside of the archive")]
    LinkOutside,
    /// A hard link to a name that no earlier file of the archive has.
    #[error("it is a hard link to a file that the archive does not have before it")]
    LinkMissing,
    /// The target of a symbolic link is empty or longer than any filesystem takes.
    #[error("the target of the symbolic link is empty or too long")]
    LinkTarget,
    /// A device node.
    #[error("it is a device node")]
    Device,
    /// Of a type that is not known, by its flag.
    #[error("it is of the unknown type {0:?}")]
    UnknownType(char),
    /// Data where the type has none.
    #[error("it carries data, which its type does not have")]
    UnexpectedData,
    /// The map of a sparse file makes no sense.
    #[error("the map of the sparse file is not valid")]
    SparseMap,
    /// An extended attribute that overlayfs gives a meaning to.
    #[error("it has an attribute of overlayfs")]
    OverlayMark,
    /// An extended attribute that such an entry cannot have.
    #[error("it has an extended attribute that is not valid for it")]
    Attribute,
    /// Extended attributes that are too much for the filesystem.
    #[error("its extended attributes are larger than the filesystem takes")]
    AttributeSpace,
    /// A file longer than the filesystem takes.
    #[error("the file is longer than the filesystem takes")]
    TooLong,
    /// More hard links to one file than the filesystem takes.
    #[error("the file has more names than the filesystem takes")]
    ManyLinks,
    /// Beyond a limit.
    #[error("{0}")]
    Limit(Limit),
}

/// The longest name in a message, in bytes.
const SHOWN: usize = 200;

/// Bytes from outside, for messages: one line, no control characters, not too long.
pub(crate) fn escape(bytes: &[u8]) -> String {
    let cut = &bytes[bytes.len().saturating_sub(SHOWN)..];
    let mut text = String::from(if cut.len() < bytes.len() { "..." } else { "" });
    for chunk in cut.utf8_chunks() {
        text.extend(chunk.valid().chars().flat_map(char::escape_debug));
        text.extend(chunk.invalid().escape_ascii().map(char::from));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_escaped_and_shortened() {
        for (bytes, expected) in [
            (b"a/b".as_slice(), "a/b"),
            (b"\xff\n\"", "\\xff\\n\\\""),
            ("gr\u{fc}n\u{202e}".as_bytes(), "gr\u{fc}n\\u{202e}"),
        ] {
            assert_eq!(escape(bytes), expected);
        }
        assert_eq!(escape(&[b'x'; 1000]).len(), SHOWN + 3);
    }
}
