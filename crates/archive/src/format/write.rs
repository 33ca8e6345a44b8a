//! Encoding an entry's headers: ustar, with extended headers for what does not fit.

use super::{BLOCK, Kind, Time, padding, pax};
use crate::attributes::{RECORD, encode as encode_name};
use std::ffi::CString;
use tar::{EntryType, Header};

/// What an archive ends with.
pub(crate) const END: [u8; 2 * BLOCK] = [0; 2 * BLOCK];

/// What the headers of an entry say.
#[derive(Debug)]
pub(crate) struct Head<'a> {
    /// The whole name, without a slash at the end.
    pub(crate) name: &'a [u8],
    /// The target of a link.
    pub(crate) link: &'a [u8],
    pub(crate) kind: Kind,
    /// Permission bits, with set-id and sticky.
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) modified: Time,
    /// Bytes that follow: the data, and the map of a sparse file.
    pub(crate) stored: u64,
    /// Of a sparse file, with its holes.
    pub(crate) sparse: Option<u64>,
    pub(crate) attributes: &'a [(CString, Vec<u8>)],
}

/// Adds an entry's headers to `out`; the length of its extended header. Data follows, and then
/// [`padding`].
pub(crate) fn encode(head: &Head<'_>, out: &mut Vec<u8>) -> usize {
    let mut records = Vec::new();
    let mut header = Header::new_ustar();
    let directory = head.kind == Kind::Directory;
    let mut name = head.name.to_vec();
    if directory {
        name.push(b'/');
    }
    if head.sparse.is_some() {
        // What a program that does not know sparse files shall call what it unpacks.
        let base = name
            .iter()
            .rposition(|byte| *byte == b'/')
            .map_or(0, |at| at + 1);
        name.splice(base..base, *b"GNUSparseFile.0/");
    }
    if !set_name(&mut header, &name) && head.sparse.is_none() {
        pax::record(&mut records, &[b"path"], &name);
    }
    if let Some(size) = head.sparse {
        for (key, value) in [("major", "1"), ("minor", "0")] {
            let key = [b"GNU.sparse.", key.as_bytes()];
            pax::record(&mut records, &key, value.as_bytes());
        }
        pax::record(&mut records, &[b"GNU.sparse.name"], head.name);
        let size = size.to_string();
        pax::record(&mut records, &[b"GNU.sparse.realsize"], size.as_bytes());
    }
    if !set(&mut fields(&mut header).linkname, head.link) {
        pax::record(&mut records, &[b"linkpath"], head.link);
    }
    header.set_entry_type(match head.kind {
        Kind::File => EntryType::Regular,
        Kind::HardLink => EntryType::Link,
        Kind::Symlink => EntryType::Symlink,
        Kind::Directory => EntryType::Directory,
        Kind::Fifo => EntryType::Fifo,
    });
    header.set_mode(head.mode);
    // The crate writes GNU's binary form where octal digits do not suffice; the record is POSIX'.
    for (key, value) in [(b"uid", head.uid), (b"gid", head.gid)] {
        if value > 0o7_777_777 {
            pax::record(&mut records, &[key], value.to_string().as_bytes());
        }
    }
    header.set_uid(head.uid.into());
    header.set_gid(head.gid.into());
    if head.stored > 0o77_777_777_777 {
        pax::record(&mut records, &[b"size"], head.stored.to_string().as_bytes());
    }
    header.set_size(head.stored);
    let seconds = u64::try_from(head.modified.seconds).unwrap_or(0);
    header.set_mtime(seconds.min(0o77_777_777_777));
    if head.modified.nanoseconds > 0 || !(0..=0o77_777_777_777).contains(&head.modified.seconds) {
        pax::record(
            &mut records,
            &[b"mtime"],
            pax::time(head.modified).as_bytes(),
        );
    }
    for (name, value) in head.attributes {
        pax::record(
            &mut records,
            &[RECORD, &encode_name(name.to_bytes())],
            value,
        );
    }
    header.set_cksum();
    if !records.is_empty() {
        extended(&records, out);
    }
    out.extend_from_slice(header.as_bytes());
    records.len()
}

fn extended(records: &[u8], out: &mut Vec<u8>) {
    let mut header = Header::new_ustar();
    set(&mut fields(&mut header).name, b"././@PaxHeader");
    header.set_entry_type(EntryType::XHeader);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(records.len() as u64);
    header.set_cksum();
    out.extend_from_slice(header.as_bytes());
    out.extend_from_slice(records);
    out.resize(out.len() + padding(records.len() as u64), 0);
}

/// The header's fields that are texts, in place.
fn fields(header: &mut Header) -> &mut tar::OldHeader {
    header.as_old_mut()
}

/// Sets a text field; false when it does not fit, and then to its beginning.
fn set(field: &mut [u8], text: &[u8]) -> bool {
    let length = text.len().min(field.len());
    field[..length].copy_from_slice(&text[..length]);
    length == text.len()
}

/// Sets the name, divided in two at a slash if it is too long for one field; false when it does not
/// fit in both, and then to its beginning.
fn set_name(header: &mut Header, name: &[u8]) -> bool {
    if set(&mut fields(header).name, name) {
        return true;
    }
    let Some(ustar) = header.as_ustar_mut() else {
        return false;
    };
    // A slash at the very end belongs to the name.
    let longest = name.len().saturating_sub(1).min(ustar.prefix.len() + 1);
    let slash = name[..longest].iter().rposition(|byte| *byte == b'/');
    let Some(slash) = slash.filter(|slash| *slash > 0) else {
        return false;
    };
    let (prefix, rest) = (&name[..slash], &name[slash + 1..]);
    if rest.len() > ustar.name.len() {
        return false;
    }
    ustar.name.fill(0);
    set(&mut ustar.name, rest) && set(&mut ustar.prefix, prefix)
}
