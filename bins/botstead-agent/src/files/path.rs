//! Paths of requests, as text: parsing, splitting, joining, and the order of listings. Pure; what a
//! path leads to is decided by the kernel, in [`super::root`].

use super::failure::shown;
use botstead_bridge::{Failure, FailureKind};
use std::cmp::Ordering;

/// The kernel's limit for a path, its final zero byte included.
const PATH_MAX: usize = 4096;

/// Why bytes are no path of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    Empty,
    Relative,
    Nul,
    TooLong,
}

impl Fault {
    /// The failure of a call that was given `bytes` as a path.
    pub(crate) fn failure(self, bytes: &[u8]) -> Failure {
        let words = match self {
            Self::Empty => "a path is missing".to_owned(),
            Self::Relative => format!("{} is not an absolute path: begin it with /", shown(bytes)),
            Self::Nul => format!("{} holds a zero byte, which no path can", shown(bytes)),
            Self::TooLong => "a path is longer than 4095 bytes".to_owned(),
        };
        Failure::new(FailureKind::Invalid, words)
    }
}

/// An absolute path inside a root, normalized as far as text alone allows: no empty and no `.`
/// component, and none that is `..` at the start, because a root is its own parent. Other `..` stay:
/// what they mean depends on symlinks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct InsidePath {
    /// Components with a slash before each; empty for the root itself.
    bytes: Vec<u8>,
    /// Whether it ended in a slash or `.`, and so can only name a directory.
    names_directory: bool,
}

impl InsidePath {
    /// Reads a path of a request.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, Fault> {
        match bytes.first() {
            None => return Err(Fault::Empty),
            Some(b'/') => {}
            Some(_) => return Err(Fault::Relative),
        }
        if bytes.contains(&0) {
            return Err(Fault::Nul);
        }
        if bytes.len() >= PATH_MAX {
            return Err(Fault::TooLong);
        }
        let mut normal = Vec::with_capacity(bytes.len());
        let mut names_directory = false;
        for component in bytes.split(|byte| *byte == b'/') {
            names_directory = matches!(component, b"" | b"." | b"..");
            let is_noise = matches!(component, b"" | b".");
            if is_noise || (component == b".." && normal.is_empty()) {
                continue;
            }
            normal.push(b'/');
            normal.extend_from_slice(component);
        }
        Ok(Self {
            bytes: normal,
            names_directory,
        })
    }

    /// The root itself.
    pub(crate) fn root() -> Self {
        Self {
            bytes: Vec::new(),
            names_directory: true,
        }
    }

    pub(crate) fn is_root(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Whether it can only name a directory: it ends in a slash, in `.` or in `..`.
    pub(crate) fn names_directory(&self) -> bool {
        self.names_directory
    }

    /// The absolute form, without a slash at the end.
    pub(crate) fn absolute(&self) -> &[u8] {
        if self.is_root() { b"/" } else { &self.bytes }
    }

    /// The form that the kernel gets: with a slash at the end where the path names a directory, so
    /// that the kernel insists on one.
    pub(crate) fn for_kernel(&self) -> Vec<u8> {
        let mut bytes = self.absolute().to_vec();
        if self.names_directory && !self.is_root() {
            bytes.push(b'/');
        }
        bytes
    }

    pub(crate) fn components(&self) -> impl Iterator<Item = &[u8]> {
        self.bytes.split(|byte| *byte == b'/').skip(1)
    }

    /// The directory and the name in it. `None` for the root and for a path that ends in `..`, which
    /// both name no entry that could be made, renamed or removed.
    pub(crate) fn split(&self) -> Option<(Self, &[u8])> {
        let slash = self.bytes.iter().rposition(|byte| *byte == b'/')?;
        let name = &self.bytes[slash + 1..];
        let parent = Self {
            bytes: self.bytes[..slash].to_vec(),
            names_directory: true,
        };
        (name != b"..").then_some((parent, name))
    }

    /// The path that a symlink in this directory stands for.
    pub(crate) fn join(&self, target: &[u8]) -> Result<Self, Fault> {
        match target.first() {
            None => Err(Fault::Empty),
            Some(b'/') => Self::parse(target),
            Some(_) => Self::parse(&[self.absolute(), b"/", target].concat()),
        }
    }
}

/// A directory's path with a name below it.
pub(crate) fn child(directory: &[u8], name: &[u8]) -> Vec<u8> {
    let mut path = Vec::with_capacity(directory.len() + 1 + name.len());
    path.extend_from_slice(directory);
    if path.last() != Some(&b'/') {
        path.push(b'/');
    }
    path.extend_from_slice(name);
    path
}

/// The part of a path below a directory: `b/c` of `/a/b/c` below `/a`. `None` when it is not below.
pub(crate) fn below<'a>(directory: &[u8], path: &'a [u8]) -> Option<&'a [u8]> {
    let rest = path.strip_prefix(directory)?;
    let rest = match directory.last() {
        Some(b'/') => rest,
        _ => rest.strip_prefix(b"/")?,
    };
    (!rest.is_empty()).then_some(rest)
}

/// Whether every component of a relative path is the plain name of an entry.
pub(crate) fn is_plain(path: &[u8]) -> bool {
    !path.contains(&0)
        && path
            .split(|byte| *byte == b'/')
            .all(|component| !matches!(component, b"" | b"." | b".."))
}

/// One step of a walk through a directory in the order of the bytes of paths: an entry, or what is
/// below it. The two are apart because names may stand between them: `a`, `a-b`, `a/c`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Key<'a> {
    pub(crate) name: &'a [u8],
    pub(crate) below: bool,
}

impl Ord for Key<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        // As if what is below had a slash at the end of its name, which no name has.
        let length = self.name.len().min(other.name.len());
        self.name[..length]
            .cmp(&other.name[..length])
            .then_with(|| self.after(length).cmp(&other.after(length)))
            .then_with(|| self.name[length..].cmp(&other.name[length..]))
            .then_with(|| self.below.cmp(&other.below))
    }
}

impl PartialOrd for Key<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Key<'_> {
    /// The byte at a position that is at most the name's length.
    fn after(&self, position: usize) -> Option<u8> {
        let slash = self.below.then_some(b'/');
        self.name.get(position).copied().or(slash)
    }
}

/// Where a walk through a directory begins that goes on after a path below it: what is handled
/// already, and with it the rest of the path where the walk first goes on below that.
pub(crate) fn resume(after: &[u8]) -> (Key<'_>, Option<&[u8]>) {
    match after.iter().position(|byte| *byte == b'/') {
        None => (
            Key {
                name: after,
                below: false,
            },
            None,
        ),
        Some(slash) => (
            Key {
                name: &after[..slash],
                below: true,
            },
            Some(&after[slash + 1..]),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(bytes: &[u8]) -> InsidePath {
        InsidePath::parse(bytes).unwrap()
    }

    #[test]
    fn paths_are_normalized() {
        for (given, absolute, directory) in [
            (&b"/"[..], &b"/"[..], true),
            (b"//", b"/", true),
            (b"/.", b"/", true),
            (b"/..", b"/", true),
            (b"/../../a", b"/a", false),
            (b"/a", b"/a", false),
            (b"/a/", b"/a", true),
            (b"/a/.", b"/a", true),
            (b"//a//./b", b"/a/b", false),
            (b"/a/../b", b"/a/../b", false),
            (b"/a/..", b"/a/..", true),
            (b"/\xff\n", b"/\xff\n", false),
            (b"/...", b"/...", false),
        ] {
            let path = parsed(given);
            assert_eq!(path.absolute(), absolute, "{given:?}");
            assert_eq!(path.names_directory(), directory, "{given:?}");
        }
    }

    #[test]
    fn what_is_no_path_is_refused() {
        let long = [b"/".as_slice(), &[b'a'; 4095]].concat();
        for (given, fault) in [
            (&b""[..], Fault::Empty),
            (b"a", Fault::Relative),
            (b"./a", Fault::Relative),
            (b"/a\0b", Fault::Nul),
            (&long, Fault::TooLong),
        ] {
            assert_eq!(InsidePath::parse(given), Err(fault));
            assert_eq!(fault.failure(given).kind, FailureKind::Invalid);
        }
        assert!(InsidePath::parse(&long[..4095]).is_ok());
    }

    #[test]
    fn paths_split_into_directory_and_name() {
        let split = |path: &[u8]| {
            let path = parsed(path);
            let (parent, name) = path.split()?;
            Some((parent.absolute().to_vec(), name.to_vec()))
        };
        assert_eq!(split(b"/a"), Some((b"/".to_vec(), b"a".to_vec())));
        assert_eq!(split(b"/a/../b/"), Some((b"/a/..".to_vec(), b"b".to_vec())));
        assert_eq!(split(b"/"), None);
        assert_eq!(split(b"/a/.."), None);
    }

    #[test]
    fn links_are_joined() {
        let join = |path: &[u8], target: &[u8]| parsed(path).join(target);
        assert_eq!(join(b"/a", b"b/../c").unwrap().absolute(), b"/a/b/../c");
        assert_eq!(join(b"/a", b"/b").unwrap().absolute(), b"/b");
        assert_eq!(join(b"/", b"../b").unwrap().absolute(), b"/b");
        assert_eq!(join(b"/a", b"../b").unwrap().absolute(), b"/a/../b");
        assert_eq!(join(b"/a", b""), Err(Fault::Empty));
    }

    #[test]
    fn what_is_below_a_directory_is_told() {
        assert_eq!(below(b"/a", b"/a/b/c"), Some(&b"b/c"[..]));
        assert_eq!(below(b"/", b"/b"), Some(&b"b"[..]));
        for outside in [&b"/a"[..], b"/a/", b"/ab", b"/", b"/b/a"] {
            assert_eq!(below(b"/a", outside), None, "{outside:?}");
        }
        assert!(is_plain(b"a/b\n/..."));
        for odd in [&b""[..], b"a/..", b"../a", b"a//b", b"a/", b"./a", b"a\0"] {
            assert!(!is_plain(odd), "{odd:?}");
        }
        assert_eq!(child(b"/", b"a"), b"/a");
        assert_eq!(child(b"/a", b"b"), b"/a/b");
    }

    #[test]
    fn keys_have_the_order_of_paths() {
        let names = [&b"a"[..], b"a-", b"a-b", b"a.", b"a/", b"a0", b"b", b"b/"];
        let key = |name: &'static [u8]| match name.strip_suffix(b"/") {
            None => Key { name, below: false },
            Some(name) => Key { name, below: true },
        };
        for one in names {
            for other in names {
                assert_eq!(
                    key(one).cmp(&key(other)),
                    one.cmp(other),
                    "{one:?} {other:?}"
                );
            }
        }
    }
}
