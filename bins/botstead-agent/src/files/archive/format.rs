//! The form of the entries in an archive: GNU's, which every tar reads, with long names and sparse
//! files as GNU has them and extended attributes as pax headers.

use super::sparse::Extent;
use crate::files::meta;
use rustix::fs::Statx;
use tar::{EntryType, GnuExtSparseHeader, GnuSparseHeader, Header};

pub(super) const BLOCK: usize = 512;

/// Extents in the header itself, and in each block that goes on with them.
const IN_HEADER: usize = 4;
const IN_BLOCK: usize = 21;

/// An entry to come.
#[derive(Debug)]
pub(super) struct Head<'a> {
    pub(super) path: &'a [u8],
    pub(super) kind: EntryType,
    /// What a link leads to.
    pub(super) link: &'a [u8],
    /// Bytes of content, or what stands on the disk of a sparse file.
    pub(super) size: u64,
    pub(super) stat: &'a Statx,
    /// Names and values, see [`attributes`].
    pub(super) attributes: &'a [u8],
    /// The extents of a sparse file.
    pub(super) extents: &'a [Extent],
}

/// Writes everything that stands before an entry's content.
pub(super) fn head(out: &mut Vec<u8>, head: &Head<'_>) {
    let mut records = head.attributes.to_vec();
    let modified = &head.stat.stx_mtime;
    if modified.tv_sec < 0 {
        let time = before_1970(modified.tv_sec, modified.tv_nsec);
        record(&mut records, b"mtime", time.as_bytes());
    }
    if !records.is_empty() {
        extra(out, EntryType::XHeader, b"././@PaxHeader", &records);
    }
    let long = |out: &mut Vec<u8>, kind, name: &[u8]| {
        extra(out, kind, b"././@LongLink", &[name, b"\0"].concat());
    };
    let mut header = Header::new_gnu();
    let old = header.as_old_mut();
    if head.link.len() > old.linkname.len() {
        long(out, EntryType::GNULongLink, head.link);
    }
    if head.path.len() > old.name.len() {
        long(out, EntryType::GNULongName, head.path);
    }
    fill(&mut old.name, head.path);
    fill(&mut old.linkname, head.link);
    header.set_entry_type(head.kind);
    header.set_mode(u32::from(head.stat.stx_mode) & 0o7777);
    header.set_uid(head.stat.stx_uid.into());
    header.set_gid(head.stat.stx_gid.into());
    // One before 1970 stands in a record of its own.
    header.set_mtime(u64::try_from(modified.tv_sec).unwrap_or(0));
    header.set_size(head.size);
    let (first, rest) = head.extents.split_at(head.extents.len().min(IN_HEADER));
    if head.kind == EntryType::GNUSparse
        && let Some(gnu) = header.as_gnu_mut()
    {
        describe(&mut gnu.sparse, first);
        gnu.isextended = [u8::from(!rest.is_empty())];
        number(&mut gnu.realsize, head.stat.stx_size);
    }
    header.set_cksum();
    out.extend_from_slice(header.as_bytes());
    let mut blocks = rest.chunks(IN_BLOCK).peekable();
    while let Some(extents) = blocks.next() {
        let mut block = GnuExtSparseHeader::new();
        describe(&mut block.sparse, extents);
        block.isextended = [u8::from(blocks.peek().is_some())];
        out.extend_from_slice(block.as_bytes());
    }
}

/// The end of an archive.
pub(super) fn end(out: &mut Vec<u8>) {
    out.resize(out.len() + 2 * BLOCK, 0);
}

/// The zeros after so many bytes of content.
pub(super) fn padding(size: u64) -> usize {
    let over = (size % BLOCK as u64) as usize;
    (BLOCK - over) % BLOCK
}

/// An extended attribute as a record of a pax header.
pub(super) fn attribute(records: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    record(records, &[b"SCHILY.xattr.", name].concat(), value);
}

/// A record of a pax header: `LENGTH KEY=VALUE` and a line break, with a length that counts itself.
fn record(records: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = " =\n".len() + key.len() + value.len();
    let mut length = rest;
    while length.to_string().len() + rest != length {
        length = length.to_string().len() + rest;
    }
    records.extend_from_slice(length.to_string().as_bytes());
    records.push(b' ');
    records.extend_from_slice(key);
    records.push(b'=');
    records.extend_from_slice(value);
    records.push(b'\n');
}

/// A time before 1970 in decimal seconds. The kernel counts nanoseconds forward from the second before.
fn before_1970(seconds: i64, nanoseconds: u32) -> String {
    let total = i128::from(seconds) * 1_000_000_000 + i128::from(nanoseconds);
    let before = total.unsigned_abs();
    format!("-{}.{:09}", before / 1_000_000_000, before % 1_000_000_000)
}

/// Attributes that mean something elsewhere: not the labels of this machine's security modules.
pub(super) fn attributes(fd: impl rustix::fd::AsFd) -> rustix::io::Result<Vec<u8>> {
    let fd = fd.as_fd();
    let mut records = Vec::new();
    for name in meta::names(&meta::attributes(fd)?) {
        let bytes = name.to_bytes();
        let foreign = bytes.starts_with(b"security.") && bytes != b"security.capability";
        // A name with this sign could not be told from its value.
        if foreign || bytes.contains(&b'=') {
            continue;
        }
        // One that went away meanwhile.
        if let Ok(value) = meta::attribute(fd, name) {
            attribute(&mut records, bytes, &value);
        }
    }
    Ok(records)
}

/// An entry of which the next one needs something.
fn extra(out: &mut Vec<u8>, kind: EntryType, name: &[u8], data: &[u8]) {
    let mut header = Header::new_gnu();
    fill(&mut header.as_old_mut().name, name);
    header.set_entry_type(kind);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(data.len() as u64);
    header.set_cksum();
    out.extend_from_slice(header.as_bytes());
    out.extend_from_slice(data);
    out.resize(out.len() + padding(data.len() as u64), 0);
}

fn fill(field: &mut [u8; 100], name: &[u8]) {
    let length = name.len().min(field.len());
    field[..length].copy_from_slice(&name[..length]);
}

fn describe(slots: &mut [GnuSparseHeader], extents: &[Extent]) {
    for (slot, extent) in slots.iter_mut().zip(extents) {
        number(&mut slot.offset, extent.offset);
        number(&mut slot.numbytes, extent.length);
    }
}

/// Octal digits, or GNU's binary form where those do not suffice.
fn number(field: &mut [u8; 12], value: u64) {
    if value < 1 << 33 {
        field[..11].copy_from_slice(format!("{value:011o}").as_bytes());
        field[11] = 0;
    } else {
        field[..4].copy_from_slice(&[0x80, 0, 0, 0]);
        field[4..].copy_from_slice(&value.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_counts_its_own_length() {
        for value in [0, 1, 70, 75, 76, 77, 78, 79, 80, 960, 970, 980, 5000] {
            let mut records = Vec::new();
            attribute(&mut records, b"user.a", &vec![b'x'; value]);
            let digits: Vec<u8> = records.iter().copied().take_while(|b| *b != b' ').collect();
            let length: usize = String::from_utf8(digits).unwrap().parse().unwrap();
            assert_eq!(length, records.len(), "{value}");
        }
    }

    #[test]
    fn times_before_1970_are_decimal_seconds() {
        for (seconds, nanoseconds, expected) in [
            (-1, 0, "-1.000000000"),
            (-2, 500_000_000, "-1.500000000"),
            (-1, 999_999_999, "-0.000000001"),
            (i64::MIN, 0, "-9223372036854775808.000000000"),
        ] {
            assert_eq!(before_1970(seconds, nanoseconds), expected);
        }
    }

    #[test]
    fn numbers_of_any_size_fit() {
        let mut field = [0; 12];
        number(&mut field, 0o1234);
        assert_eq!(&field, b"00000001234\0");
        number(&mut field, 1 << 40);
        assert_eq!(field[0], 0x80);
        assert_eq!(field[6], 1);
        assert_eq!([padding(0), padding(1), padding(512)], [0, 511, 0]);
    }
}
