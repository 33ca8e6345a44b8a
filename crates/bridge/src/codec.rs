//! How messages are coded: as prost does, but one with more fields than any honest message has is
//! refused before anything is made of it. A field takes two bytes on the wire and hundreds in memory,
//! so the size of a message alone bounds nothing.

use crate::proto;
use std::any::TypeId;
use std::marker::PhantomData;
use tonic::Status;
use tonic::codec::{self, BufferSettings, DecodeBuf};
use tonic_prost::{ProstDecoder, ProstEncoder};

use prost::bytes::Buf;

/// The most fields of a message, with those of the messages in it that there may be many of. A list of
/// 1000 entries has a sixth of it.
const MOST_FIELDS: usize = 64 << 10;

/// The fields of a message that are messages of which there may be many: those are looked into.
struct Within(&'static [(u64, Within)]);

const NOTHING: Within = Within(&[]);

/// What is looked into in a message of this type. By the numbers of agent.proto.
fn within<U: 'static>() -> &'static Within {
    const ENTRIES: Within = Within(&[(2, NOTHING)]);
    const PROCESSES: Within = Within(&[(1, NOTHING)]);
    const LINES: Within = Within(&[(1, Within(&[(3, NOTHING)]))]);
    let is = |other| TypeId::of::<U>() == other;
    if is(TypeId::of::<proto::ListReply>()) {
        &ENTRIES
    } else if is(TypeId::of::<proto::ListProcessesReply>()) {
        &PROCESSES
    } else if is(TypeId::of::<proto::SearchReply>()) {
        &LINES
    } else {
        &NOTHING
    }
}

/// The codec of both sides.
#[derive(Debug, Clone)]
pub(crate) struct Codec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for Codec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> codec::Codec for Codec<T, U>
where
    T: prost::Message + Send + 'static,
    U: prost::Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = Decoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstEncoder::new(BufferSettings::default())
    }

    fn decoder(&mut self) -> Self::Decoder {
        Decoder(ProstDecoder::new(BufferSettings::default()))
    }
}

/// Decodes messages with a bounded number of fields.
#[derive(Debug, Clone)]
pub(crate) struct Decoder<U>(ProstDecoder<U>);

impl<U: prost::Message + Default + 'static> codec::Decoder for Decoder<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, source: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        // One piece: the transport has put it together.
        if source.chunk().len() < source.remaining() || !is_bounded::<U>(source.chunk()) {
            return Err(Status::resource_exhausted(
                "the message has too many fields",
            ));
        }
        self.0.decode(source)
    }

    fn buffer_settings(&self) -> BufferSettings {
        self.0.buffer_settings()
    }
}

fn is_bounded<U: 'static>(message: &[u8]) -> bool {
    let mut left = MOST_FIELDS;
    count(message, within::<U>(), &mut left).is_ok()
}

/// There are too many fields.
struct TooMany;

/// Counts fields down to what cannot be read, where prost stops as well (protobuf.dev, "Encoding").
fn count(mut bytes: &[u8], within: &Within, left: &mut usize) -> Result<(), TooMany> {
    while let Some(tag) = varint(&mut bytes) {
        *left = left.checked_sub(1).ok_or(TooMany)?;
        let skip = match tag & 7 {
            0 => match varint(&mut bytes) {
                Some(_) => 0,
                None => return Ok(()),
            },
            1 => 8,
            2 => match varint(&mut bytes).map(usize::try_from) {
                Some(Ok(length)) => {
                    let inner = within.0.iter().find(|(number, _)| *number == tag >> 3);
                    if let Some((_, inner)) = inner {
                        count(&bytes[..length.min(bytes.len())], inner, left)?;
                    }
                    length
                }
                _ => return Ok(()),
            },
            // A group: its fields follow one after the other.
            3 | 4 => 0,
            5 => 4,
            _ => return Ok(()),
        };
        match bytes.get(skip..) {
            Some(rest) => bytes = rest,
            None => return Ok(()),
        }
    }
    Ok(())
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..70).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f).checked_shl(shift).unwrap_or(0);
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message;

    #[test]
    fn honest_messages_are_let_through() {
        let entry = proto::Entry {
            path: vec![b'x'; 200].into(),
            size: 1 << 40,
            mode: 0o644,
            modified_ns: -1,
            uid: 1,
            gid: 1,
            target: vec![b'y'; 200].into(),
            revision: "1-2".to_owned(),
            ..proto::Entry::default()
        };
        let list = proto::ListReply {
            path: "/data".into(),
            entries: vec![entry; 1000],
            more: true,
        };
        assert!(is_bounded::<proto::ListReply>(&list.encode_to_vec()));
        // Text that looks like as many fields as it can.
        let line = proto::search_reply::Line {
            number: 1,
            text: vec![b'x'; 4096].into(),
            spans: vec![proto::search_reply::Span { start: 1, end: 2 }; 256],
            left_out: 0,
        };
        let found = proto::SearchReply {
            part: Some(proto::search_reply::Part::Match(
                proto::search_reply::Match {
                    lines: vec![line; 41],
                    ..proto::search_reply::Match::default()
                },
            )),
        };
        assert!(is_bounded::<proto::SearchReply>(&found.encode_to_vec()));
        let process = proto::ProcessInfo {
            id: "x".repeat(64),
            args: vec!["xxxx".repeat(16).into(); 64],
            ..proto::ProcessInfo::default()
        };
        let processes = proto::ListProcessesReply {
            processes: vec![process; 576],
        };
        assert!(is_bounded::<proto::ListProcessesReply>(
            &processes.encode_to_vec()
        ));
    }

    #[test]
    fn a_flood_of_fields_is_refused_wherever_it_is() {
        let many = 1 << 17;
        let list = proto::ListReply {
            entries: vec![proto::Entry::default(); many],
            ..proto::ListReply::default()
        };
        let processes = proto::ListProcessesReply {
            processes: vec![proto::ProcessInfo {
                args: vec![Vec::new().into(); many],
                ..proto::ProcessInfo::default()
            }],
        };
        let found = proto::SearchReply {
            part: Some(proto::search_reply::Part::Match(
                proto::search_reply::Match {
                    lines: vec![proto::search_reply::Line {
                        spans: vec![proto::search_reply::Span::default(); many],
                        ..proto::search_reply::Line::default()
                    }],
                    ..proto::search_reply::Match::default()
                },
            )),
        };
        let mut behind_a_group = vec![0x7b, 0x7c];
        behind_a_group.extend(list.encode_to_vec());
        let mut cut = list.encode_to_vec();
        cut.push(0xff);
        for message in [list.encode_to_vec(), behind_a_group, cut] {
            assert!(!is_bounded::<proto::ListReply>(&message));
        }
        let message = processes.encode_to_vec();
        assert!(!is_bounded::<proto::ListProcessesReply>(&message));
        assert!(!is_bounded::<proto::SearchReply>(&found.encode_to_vec()));
    }
}
