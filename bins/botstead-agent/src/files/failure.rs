//! How the kernel's errors become failures of calls: kind, words, path.

use super::rights::Rights;
use botstead_bridge::{Failure, FailureKind};
use rustix::io::Errno;
use std::fmt::Write as _;

/// The most of a path that an error's words show.
const SHOWN: usize = 300;

/// The most of a path that goes with a failure: it travels in a header, and no request can name a
/// longer one.
const KEPT: usize = 4096;

pub(crate) type Result<T, E = Failure> = std::result::Result<T, E>;

/// A path in words: what is no printable text is escaped, what is long is cut.
pub(crate) fn shown(path: &[u8]) -> String {
    let (start, cut) = match path.get(..SHOWN) {
        Some(start) if path.len() > SHOWN => (start, true),
        _ => (path, false),
    };
    let mut words = String::with_capacity(start.len());
    for chunk in start.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character.is_control() {
                true => words.extend(character.escape_default()),
                false => words.push(character),
            }
        }
        for byte in chunk.invalid() {
            // Writing into a string cannot fail.
            let _ = write!(words, "\\x{byte:02x}");
        }
    }
    if cut {
        words.push_str("...");
    }
    words
}

/// The failure of doing something (`read`, `write`) with a path.
pub(crate) fn failed(action: &str, path: &[u8], errno: Errno) -> Failure {
    let (kind, reason) = meaning(errno);
    let path_words = shown(path);
    // What was done as a user is refused to that user.
    let user = match kind {
        FailureKind::PermissionDenied => Rights::current().user(),
        _ => None,
    };
    let words = match (user, reason) {
        (Some(user), _) => {
            format!("cannot {action} {path_words}: the user {user} may not do that")
        }
        (None, Some(reason)) => format!("cannot {action} {path_words}: {reason}"),
        (None, None) => format!("cannot {action} {path_words}: the kernel says {errno}"),
    };
    Failure::new(kind, words)
        .at(cut(path))
        .with_errno(errno.raw_os_error())
}

/// A failure that the agent itself finds, about a path.
pub(crate) fn refused(kind: FailureKind, path: &[u8], reason: &str) -> Failure {
    Failure::new(kind, format!("{}: {reason}", shown(path))).at(cut(path))
}

fn cut(path: &[u8]) -> &[u8] {
    path.get(..KEPT).unwrap_or(path)
}

/// Somebody changed what the call was working on.
pub(crate) fn changed(path: &[u8]) -> Failure {
    refused(
        FailureKind::Changed,
        path,
        "it was changed by somebody else meanwhile; try again",
    )
}

fn meaning(errno: Errno) -> (FailureKind, Option<&'static str>) {
    use FailureKind as Kind;
    let (kind, reason) = match errno {
        Errno::NOENT => (Kind::NotFound, "there is no such file or directory"),
        Errno::EXIST => (Kind::AlreadyExists, "it is there already"),
        Errno::NOTDIR => (Kind::NotADirectory, "a part of the path is not a directory"),
        Errno::ISDIR => (Kind::IsADirectory, "it is a directory"),
        Errno::NOTEMPTY => (Kind::NotEmpty, "the directory is not empty"),
        // Opening a socket, or a device that nothing drives.
        Errno::NXIO | Errno::NODEV => (Kind::NotRegular, "it is not a regular file"),
        Errno::LOOP => (Kind::Loop, "there are too many symlinks in the path"),
        Errno::NAMETOOLONG => (
            Kind::NameTooLong,
            "a name has at most 255 bytes, a path 4095",
        ),
        Errno::ACCESS | Errno::PERM => (Kind::PermissionDenied, "the workspace does not allow it"),
        Errno::ROFS => (Kind::ReadOnly, "the filesystem is read-only"),
        Errno::XDEV => (Kind::CrossDevice, "it would cross two filesystems"),
        Errno::NOSPC | Errno::DQUOT => (
            Kind::NoSpace,
            "the disk is full: remove something or raise the limit",
        ),
        Errno::FBIG | Errno::OVERFLOW => (
            Kind::TooLarge,
            "the file is larger than the filesystem takes",
        ),
        Errno::INVAL => (Kind::Invalid, "the filesystem takes no such name or change"),
        Errno::AGAIN | Errno::NOMEM | Errno::MFILE | Errno::NFILE | Errno::NOBUFS => (
            Kind::Limit,
            "the workspace is at its limit of memory or open files: try again later",
        ),
        Errno::MLINK => (Kind::Limit, "there are too many links"),
        Errno::BUSY | Errno::TXTBSY => (
            Kind::Busy,
            "it is in use, such as a mount point or a running program",
        ),
        Errno::NOSYS | Errno::OPNOTSUPP => (Kind::Unsupported, "the filesystem cannot do that"),
        Errno::STALE => (Kind::Changed, "it was removed meanwhile"),
        _ => return (Kind::Internal, None),
    };
    (kind, Some(reason))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_printable_and_short() {
        assert_eq!(shown(b"/a \xc3\xa4"), "/a \u{e4}");
        assert_eq!(shown(b"/a\n\xff"), "/a\\n\\xff");
        assert!(shown(&[b'a'; 5000]).len() < 310);
    }

    #[test]
    fn a_failure_names_path_and_reason() {
        let failure = failed("write", b"/data/x", Errno::NOSPC);
        assert_eq!(failure.kind, FailureKind::NoSpace);
        assert_eq!(failure.path, b"/data/x");
        assert_eq!(failure.errno, 28);
        assert!(
            failure
                .message
                .starts_with("cannot write /data/x: the disk is full")
        );
        let unknown = failed("read", b"/x", Errno::IO);
        assert_eq!(unknown.kind, FailureKind::Internal);
    }
}
