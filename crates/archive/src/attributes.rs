//! Which extended attributes an archive carries.
//!
//! Those that belong to the data: `user.*`, access lists, file capabilities, and `trusted.*`. Not
//! those that belong to the host that the data is on (labels of SELinux or IMA would be wrong on the
//! next one), and never overlayfs' own: they would make a file something that the archive does not
//! show, such as an empty shell with its content in another layer.

use botstead_overlay::tree::PREFIX as OVERLAY;

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
        b"security.capability" | ACCESS_LIST | DEFAULT_LIST => true,
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

#[cfg(test)]
mod tests {
    use super::*;

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
