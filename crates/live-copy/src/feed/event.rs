//! The records that a fanotify group delivers (linux/fanotify.h, fanotify(7)), and nothing of what they
//! mean to a copy.

use std::ffi::CStr;

/// Content was written or shortened.
pub(crate) const MODIFY: u64 = 0x2;
/// The last user of an opening for writing is gone, mappings included.
pub(crate) const CLOSE_WRITE: u64 = 0x8;
/// A name was made.
pub(crate) const CREATE: u64 = 0x100;
/// Events were lost.
const OVERFLOW: u64 = 0x4000;

const METADATA: usize = 24;
const METADATA_VERSION: u8 = 3;
const INFO_FID: u8 = 1;
const INFO_DFID_NAME: u8 = 2;

/// What happened, borrowed from the buffer that it was read into.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Event<'a> {
    pub(crate) mask: u64,
    /// The directory, as its handle's bytes, and the name in it; `.` is the directory itself. Absent for
    /// a file that has no name that the kernel remembers.
    pub(crate) place: Option<(&'a [u8], &'a CStr)>,
    /// The file, as its handle's bytes. Absent when the event is about the name.
    pub(crate) file: Option<&'a [u8]>,
}

/// What was read is no sequence of events, or says that some were lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Broken {
    Overflow,
    Malformed,
}

/// The events in what one read delivered, up to the first that is broken.
pub(crate) fn events(buffer: &[u8]) -> impl Iterator<Item = Result<Event<'_>, Broken>> {
    let mut rest = buffer;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let event = split_event(&mut rest).unwrap_or(Err(Broken::Malformed));
        if event.is_err() {
            rest = &[];
        }
        Some(event)
    })
}

/// `None` when it is malformed.
fn split_event<'a>(rest: &mut &'a [u8]) -> Option<Result<Event<'a>, Broken>> {
    let length = read_u32(rest, 0)?;
    let header = usize::from(read_u16(rest, 6)?);
    let mask = u64::from_ne_bytes(*rest.get(8..)?.first_chunk()?);
    if rest[4] != METADATA_VERSION || header < METADATA || length < header {
        return None;
    }
    let (record, others) = rest.split_at_checked(length)?;
    *rest = others;
    if mask & OVERFLOW != 0 {
        return Some(Err(Broken::Overflow));
    }
    let mut event = Event {
        mask,
        place: None,
        file: None,
    };
    let mut infos = &record[header..];
    while !infos.is_empty() {
        let length = usize::from(read_u16(infos, 2)?);
        if length < 4 {
            return None;
        }
        let (info, others) = infos.split_at_checked(length)?;
        infos = others;
        match info[0] {
            INFO_FID => event.file = Some(handle(info)?.0),
            INFO_DFID_NAME => {
                let (dir, name) = handle(info)?;
                event.place = Some((dir, CStr::from_bytes_until_nul(name).ok()?));
            }
            // Kernels to come may add some.
            _ => {}
        }
    }
    Some(Ok(event))
}

/// The handle, its type first, and what follows it.
fn handle(info: &[u8]) -> Option<(&[u8], &[u8])> {
    // Behind the header is the filesystem's id, of 8 bytes.
    let length = read_u32(info, 12)?;
    info.get(16..)?.split_at_checked(length.checked_add(4)?)
}

fn read_u16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn read_u32(bytes: &[u8], at: usize) -> Option<usize> {
    usize::try_from(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Metadata was changed.
    const ATTRIB: u64 = 0x4;

    fn record(mask: u64, infos: &[(u8, &[u8], &[u8])]) -> Vec<u8> {
        let mut body = Vec::new();
        for (kind, handle, name) in infos {
            let length = 4 + 8 + 4 + handle.len() + name.len();
            body.extend_from_slice(&[*kind, 0]);
            body.extend_from_slice(&u16::try_from(length).unwrap().to_ne_bytes());
            body.extend_from_slice(&[9; 8]);
            let content = u32::try_from(handle.len() - 4).unwrap();
            body.extend_from_slice(&content.to_ne_bytes());
            body.extend_from_slice(handle);
            body.extend_from_slice(name);
        }
        let mut all = Vec::new();
        all.extend_from_slice(&u32::try_from(METADATA + body.len()).unwrap().to_ne_bytes());
        all.extend_from_slice(&[METADATA_VERSION, 0]);
        all.extend_from_slice(&24_u16.to_ne_bytes());
        all.extend_from_slice(&mask.to_ne_bytes());
        all.extend_from_slice(&(-1_i32).to_ne_bytes());
        all.extend_from_slice(&7_i32.to_ne_bytes());
        all.extend(body);
        all
    }

    const DIR: &[u8] = b"\x01\0\0\0directory";
    const FILE: &[u8] = b"\x01\0\0\0file";

    #[test]
    fn reads_names_files_and_what_has_no_name() {
        let mut buffer = record(
            MODIFY,
            &[
                (INFO_DFID_NAME, DIR, b"a\xff b\0\0\0"),
                (INFO_FID, FILE, b""),
            ],
        );
        buffer.extend(record(MODIFY, &[(INFO_FID, FILE, b"")]));
        buffer.extend(record(CREATE, &[(INFO_DFID_NAME, DIR, b"c\0")]));
        // A kind of record that is to come.
        buffer.extend(record(
            ATTRIB,
            &[(99, FILE, b"new"), (INFO_DFID_NAME, DIR, b".\0")],
        ));
        let all: Vec<_> = events(&buffer).map(Result::unwrap).collect();
        let expected = [
            (MODIFY, Some((DIR, c"a\xff b")), Some(FILE)),
            (MODIFY, None, Some(FILE)),
            (CREATE, Some((DIR, c"c")), None),
            (ATTRIB, Some((DIR, c".")), None),
        ];
        let expected = expected.map(|(mask, place, file)| Event { mask, place, file });
        assert_eq!(all, expected);
    }

    #[test]
    fn an_overflow_ends_it() {
        let mut buffer = record(CREATE, &[(INFO_DFID_NAME, DIR, b"c\0")]);
        buffer.extend(record(OVERFLOW, &[]));
        buffer.extend(record(CREATE, &[(INFO_DFID_NAME, DIR, b"d\0")]));
        let all: Vec<_> = events(&buffer).collect();
        assert_eq!(all.len(), 2);
        assert!(all[0].is_ok());
        assert_eq!(all[1], Err(Broken::Overflow));
    }

    #[test]
    fn a_cut_record_is_malformed() {
        let whole = record(
            MODIFY,
            &[(INFO_DFID_NAME, DIR, b"a\0"), (INFO_FID, FILE, b"")],
        );
        for length in 1..whole.len() {
            let all: Vec<_> = events(&whole[..length]).collect();
            assert_eq!(all, [Err(Broken::Malformed)], "{length} bytes");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic_or_run_on(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(events(&bytes).count() <= 1 + bytes.len() / METADATA);
        }

        #[test]
        fn no_changed_record_makes_it_panic(at in 0_usize..80, value in any::<u8>()) {
            let mut bytes = record(
                MODIFY,
                &[(INFO_DFID_NAME, DIR, b"abc\0"), (INFO_FID, FILE, b"")],
            );
            let length = bytes.len();
            bytes[at % length] = value;
            prop_assert!(events(&bytes).count() <= 2 + length / METADATA);
        }
    }
}
