//! Which extended attributes an archive carries.
//!
//! Those that belong to the data: `user.*`, access lists, file capabilities, and `trusted.*`. Not
//! those that belong to the host that the data is on (labels of SELinux or IMA would be wrong on the
//! next one), and never overlayfs' own: they would make a file something that the archive does not
//! show, such as an empty shell with its content in another layer.

use crate::error::Refusal;
use botstead_overlay::tree::PREFIX as OVERLAY;
use rustix::fd::AsFd;
use rustix::fs::fstatvfs;
use rustix::io::Errno;

/// How PAX names an attribute (star's and GNU tar's convention).
pub(crate) const RECORD: &[u8] = b"SCHILY.xattr.";

/// What a name must not have in a record's key, and stands in its place there: GNU tar's way.
const ESCAPES: [(u8, &[u8]); 2] = [(b'%', b"%25"), (b'=', b"%3D")];

/// An attribute's name for a record's key.
pub(crate) fn encode(name: &[u8]) -> Vec<u8> {
    let mut encoded = Vec::with_capacity(name.len());
    for byte in name {
        match ESCAPES.iter().find(|(escaped, _)| escaped == byte) {
            Some((_, text)) => encoded.extend_from_slice(text),
            None => encoded.push(*byte),
        }
    }
    encoded
}

/// An attribute's name from a record's key.
pub(crate) fn decode(mut key: &[u8]) -> Vec<u8> {
    let mut name = Vec::with_capacity(key.len());
    while let [first, rest @ ..] = key {
        let escape = ESCAPES.iter().find(|(_, text)| key.starts_with(text));
        let (byte, rest) = match escape {
            Some((byte, text)) => (*byte, &key[text.len()..]),
            None => (*first, rest),
        };
        name.push(byte);
        key = rest;
    }
    name
}

pub(crate) const ACCESS_LIST: &[u8] = b"system.posix_acl_access";
pub(crate) const CAPABILITY: &[u8] = b"security.capability";
pub(crate) const DEFAULT_LIST: &[u8] = b"system.posix_acl_default";

/// What to do with an attribute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Attribute {
    /// A part of the data.
    Carried,
    /// The host's.
    LeftOut,
    /// Overlayfs'.
    Overlay,
}

pub(crate) fn classify(name: &[u8]) -> Attribute {
    let carried = match name {
        CAPABILITY | ACCESS_LIST | DEFAULT_LIST => true,
        _ if name.starts_with(OVERLAY) => return Attribute::Overlay,
        _ => [b"user.".as_slice(), b"trusted."]
            .iter()
            .any(|prefix| name.len() > prefix.len() && name.starts_with(prefix)),
    };
    if carried {
        Attribute::Carried
    } else {
        Attribute::LeftOut
    }
}

/// Whether the kernel takes this as an access list: the entries in their order, each with what it must
/// have (`posix_acl_valid` of Linux; the form is `linux/posix_acl_xattr.h`). One without entries removes
/// the list.
pub(crate) fn is_access_list(value: &[u8]) -> bool {
    const USER_OBJ: u16 = 0x01;
    const USER: u16 = 0x02;
    const GROUP_OBJ: u16 = 0x04;
    const GROUP: u16 = 0x08;
    const MASK: u16 = 0x10;
    const OTHER: u16 = 0x20;
    let Some(entries) = value.strip_prefix(&2_u32.to_le_bytes()) else {
        return false;
    };
    let (entries, rest) = entries.as_chunks::<8>();
    if !rest.is_empty() {
        return false;
    }
    if entries.is_empty() {
        return true;
    }
    let mut before = 0;
    let (mut named, mut has_mask) = (false, false);
    for [t0, t1, p0, p1, id @ ..] in entries {
        let (tag, permissions) = (
            u16::from_le_bytes([*t0, *t1]),
            u16::from_le_bytes([*p0, *p1]),
        );
        let fits = match tag {
            USER_OBJ => before == 0,
            USER => matches!(before, USER_OBJ | USER),
            GROUP_OBJ => matches!(before, USER_OBJ | USER),
            GROUP | MASK => matches!(before, GROUP_OBJ | GROUP),
            OTHER => matches!(before, GROUP_OBJ | GROUP | MASK),
            _ => false,
        };
        let is_named = matches!(tag, USER | GROUP);
        if !fits || permissions > 7 || (is_named && u32::from_le_bytes(*id) == u32::MAX) {
            return false;
        }
        named |= is_named;
        has_mask |= tag == MASK;
        before = tag;
    }
    before == OTHER && (has_mask || !named)
}

/// Whether the kernel takes this as a file's capabilities: version 2, or 3 with a user
/// (`linux/capability.h`), or nothing at all.
pub(crate) fn is_capability(value: &[u8]) -> bool {
    const EFFECTIVE: u32 = 1;
    if value.is_empty() {
        return true;
    }
    let Some((magic, rest)) = value.split_first_chunk() else {
        return false;
    };
    let version = u32::from_le_bytes(*magic) & !EFFECTIVE;
    match (version, rest.len()) {
        (0x0200_0000, 16) => true,
        (0x0300_0000, 20) => rest[16..] != [0xff; 4],
        _ => false,
    }
}

/// Why a file cannot have an attribute, where the kernel's answer says that; none where the disk failed or
/// is full.
pub(crate) fn refusal(errno: Errno, file: impl AsFd) -> Option<Refusal> {
    match errno {
        Errno::TOOBIG | Errno::RANGE => Some(Refusal::AttributeSpace),
        // ext4 says so when the attributes of one file have no room beside each other.
        Errno::NOSPC => match fstatvfs(file) {
            Ok(stat) if stat.f_bavail > 256 => Some(Refusal::AttributeSpace),
            _ => None,
        },
        Errno::INVAL | Errno::PERM | Errno::OPNOTSUPP => Some(Refusal::Attribute),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(entries: &[(u16, u16, u32)]) -> Vec<u8> {
        let mut value = 2_u32.to_le_bytes().to_vec();
        for (tag, permissions, id) in entries {
            value.extend(tag.to_le_bytes());
            value.extend(permissions.to_le_bytes());
            value.extend(id.to_le_bytes());
        }
        value
    }

    /// Whether the kernel takes a value, of a real file; `None` where it has no such attributes at all, as
    /// without access lists.
    fn kernel_takes(name: &str, value: &[u8]) -> Option<bool> {
        let file = tempfile::NamedTempFile::new_in(".").unwrap();
        let flags = rustix::fs::XattrFlags::empty();
        match rustix::fs::fsetxattr(file.as_file(), name, value, flags) {
            Ok(()) => Some(true),
            Err(Errno::INVAL) => Some(false),
            Err(Errno::OPNOTSUPP) => None,
            Err(errno) => panic!("{name}: {errno}; these tests need root and a real filesystem"),
        }
    }

    #[test]
    fn access_lists_are_judged_as_the_kernel_does() {
        const NONE: u32 = u32::MAX;
        let minimal = [(1, 7, NONE), (4, 5, NONE), (0x20, 5, NONE)];
        let named = [
            (1, 7, NONE),
            (2, 5, 7),
            (2, 5, 7),
            (4, 5, NONE),
            (8, 4, 9),
            (0x10, 5, NONE),
            (0x20, 4, 0),
        ];
        for (entries, expected) in [
            (&minimal[..], true),
            (&named, true),
            (&[], true),
            (&minimal[..2], false),
            (&[(1, 7, 0), (0x20, 5, 0), (4, 5, 0)], false),
            (&[(1, 8, 0), (4, 5, 0), (0x20, 5, 0)], false),
            (&[(1, 7, 0), (2, 5, 7), (4, 5, 0), (0x20, 5, 0)], false),
            (
                &[
                    (1, 7, 0),
                    (2, 5, NONE),
                    (4, 5, 0),
                    (0x10, 5, 0),
                    (0x20, 5, 0),
                ],
                false,
            ),
            (&[(1, 7, 0), (4, 5, 0), (0x10, 5, 0), (0x20, 5, 0)], true),
            (
                &[(1, 7, 0), (4, 5, 0), (0x10, 5, 0), (8, 5, 3), (0x20, 5, 0)],
                false,
            ),
            (&[(1, 7, 0), (1, 7, 0), (4, 5, 0), (0x20, 5, 0)], false),
            (&[(1, 7, 0), (4, 5, 0), (0x20, 5, 0), (0x20, 5, 0)], false),
            (&[(3, 7, 0)], false),
        ] {
            let value = list(entries);
            assert_eq!(is_access_list(&value), expected, "{entries:?}");
            let taken = kernel_takes("system.posix_acl_access", &value);
            assert_eq!(
                taken.unwrap_or(expected),
                expected,
                "the kernel: {entries:?}"
            );
        }
        let cut = &list(&minimal)[..27];
        for value in [&b"\x02\0\0"[..], b"\x01\0\0\0", b"\x02\0\0\0x", cut] {
            let taken = kernel_takes("system.posix_acl_access", value);
            assert_ne!(taken, Some(true), "{value:?}");
            assert!(!is_access_list(value), "{value:?}");
        }
    }

    #[test]
    fn capabilities_are_judged_as_the_kernel_does() {
        let value = |magic: u32, length: usize| {
            let mut value = magic.to_le_bytes().to_vec();
            value.resize(length, 0);
            value
        };
        let nobodys = [&value(0x0300_0000, 20)[..], &[0xff; 4]].concat();
        for (value, expected) in [
            (value(0x0200_0000, 20), true),
            (value(0x0200_0001, 20), true),
            (value(0x0300_0001, 24), true),
            (nobodys, false),
            (value(0x0100_0000, 12), false),
            (value(0x0200_0000, 12), false),
            (value(0x0200_0000, 24), false),
            (value(0x0200_0002, 20), false),
            (value(0x0400_0000, 20), false),
            (vec![1, 2, 3], false),
            (vec![], true),
        ] {
            assert_eq!(is_capability(&value), expected, "{value:?}");
            let taken = kernel_takes("security.capability", &value);
            assert_eq!(taken, Some(expected), "the kernel: {value:?}");
        }
    }

    #[test]
    fn names_come_back_from_keys() {
        for name in [
            b"user.a".as_slice(),
            b"user.a=b",
            b"user.%3D%25%",
            b"user.\xff=",
        ] {
            assert!(!encode(name).contains(&b'='));
            assert_eq!(decode(&encode(name)), name);
        }
        // What other programs leave as it is.
        assert_eq!(decode(b"user.100%"), b"user.100%");
        assert_eq!(decode(b"user.%41"), b"user.%41");
    }

    #[test]
    fn what_is_carried() {
        for (name, expected) in [
            ("user.a", Attribute::Carried),
            ("user.", Attribute::LeftOut),
            ("trusted.a", Attribute::Carried),
            ("trusted.overlay.opaque", Attribute::Overlay),
            ("security.capability", Attribute::Carried),
            ("security.selinux", Attribute::LeftOut),
            ("system.posix_acl_access", Attribute::Carried),
            ("system.nfs4_acl", Attribute::LeftOut),
        ] {
            assert_eq!(classify(name.as_bytes()), expected, "{name}");
        }
    }
}
