//! Paths inside a workspace: bytes, because file names need not be text.

use crate::InvalidValue;
use std::fmt;

/// An absolute path inside a workspace. `..` is allowed: whoever resolves it stays beneath the root.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FilePath(Vec<u8>);

impl FilePath {
    /// The longest path that Linux takes, PATH_MAX without its terminating zero (limits.h).
    pub const MAX_BYTES: usize = 4095;

    /// Checks a path.
    ///
    /// # Errors
    /// When it is empty, relative, longer than [`FilePath::MAX_BYTES`] or contains a zero byte.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Result<Self, InvalidValue> {
        let bytes = bytes.into();
        let reason = if !bytes.starts_with(b"/") {
            "must be an absolute path inside the workspace"
        } else if bytes.len() > Self::MAX_BYTES {
            "must be at most 4095 bytes"
        } else if bytes.contains(&0) {
            "must not contain a zero byte"
        } else {
            return Ok(Self(bytes));
        };
        let shown = String::from_utf8_lossy(&bytes);
        Err(InvalidValue::new("path", &shown, reason))
    }

    /// The path as bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The last component; empty for the root.
    pub fn name(&self) -> &[u8] {
        let trimmed = self.0.strip_suffix(b"/").unwrap_or(&self.0);
        trimmed.rsplit(|byte| *byte == b'/').next().unwrap_or(b"")
    }

    /// Whether it is the root, however it is written without `..` and links.
    pub fn is_root(&self) -> bool {
        self.0
            .split(|byte| *byte == b'/')
            .all(|part| matches!(part, b"" | b"."))
    }
}

impl From<FilePath> for Vec<u8> {
    fn from(path: FilePath) -> Self {
        path.0
    }
}

impl fmt::Display for FilePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&escaped(&self.0))
    }
}

impl fmt::Debug for FilePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", escaped(&self.0))
    }
}

/// A file name or path as text: as it is where it is UTF-8; else every byte that is no printable
/// ASCII, and `%` itself, percent-escaped (RFC 3986, section 2.1).
pub fn escaped(bytes: &[u8]) -> String {
    if let Ok(text) = std::str::from_utf8(bytes) {
        return text.to_owned();
    }
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        match byte {
            b'%' => text.push_str("%25"),
            0x21..=0x7e => text.push(char::from(*byte)),
            _ => text.push_str(&format!("%{byte:02X}")),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_absolute_paths_without_zero_bytes_are_taken() {
        for good in ["/", "/data", "/a/../b", "/ with\nnewline"] {
            assert!(FilePath::new(good).is_ok(), "{good:?}");
        }
        for bad in ["", "data", "./x", "/a\0b", &"/x".repeat(3000)] {
            assert!(FilePath::new(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn names_and_roots() {
        let path = |text: &str| FilePath::new(text).unwrap();
        for (text, name) in [("/", ""), ("/a", "a"), ("/a/b.c", "b.c"), ("/a/b/", "b")] {
            assert_eq!(path(text).name(), name.as_bytes(), "{text}");
        }
        for (text, root) in [("/", true), ("//./", true), ("/a", false), ("/..", false)] {
            assert_eq!(path(text).is_root(), root, "{text}");
        }
    }

    #[test]
    fn what_is_not_text_is_escaped_and_text_is_not() {
        assert_eq!(escaped("/ä b%".as_bytes()), "/ä b%");
        assert_eq!(escaped(b"/a b%\xff"), "/a%20b%25%FF");
    }
}
