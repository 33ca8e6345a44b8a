//! What is held of a kept process's output: the end of each stream, in the order in which it came.

use bytes::Bytes;
use std::collections::VecDeque;

/// Small writes are joined up to this, so that a program that writes bytes costs bytes.
const CHUNK_BYTES: usize = 16 << 10;

/// Which output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stream {
    /// Standard output, and all that a terminal shows.
    Out = 0,
    /// Standard error.
    Err = 1,
}

const STREAMS: [Stream; 2] = [Stream::Out, Stream::Err];

/// A place in the output: how much of each stream lies before it.
pub(super) type Position = [u64; 2];

/// The end of both streams, of each at most a number of bytes.
#[derive(Debug)]
pub(super) struct Replay {
    most: usize,
    next: u64,
    streams: [Held; 2],
}

#[derive(Debug, Default)]
struct Held {
    chunks: VecDeque<Chunk>,
    bytes: usize,
    /// Bytes that ever came.
    end: u64,
}

#[derive(Debug)]
struct Chunk {
    /// Its place among the chunks of both streams.
    order: u64,
    /// How much of the stream lies before `data`.
    begin: u64,
    data: Vec<u8>,
    /// How much of `data` was dropped already.
    dropped: usize,
}

impl Chunk {
    fn end(&self) -> u64 {
        self.begin + self.data.len() as u64
    }
}

/// What comes next for a reader.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Next {
    /// Bytes that were dropped before it.
    pub(super) skipped: u64,
    pub(super) stream: Stream,
    pub(super) data: Bytes,
}

impl Replay {
    /// Holds at most `most` bytes of each stream.
    pub(super) fn new(most: usize) -> Self {
        Self {
            most,
            next: 0,
            streams: Default::default(),
        }
    }

    /// Adds output, and drops what is too old.
    pub(super) fn push(&mut self, stream: Stream, data: &[u8]) {
        let (next, most) = (self.next, self.most);
        let held = &mut self.streams[stream as usize];
        held.end += data.len() as u64;
        // More than all that is held at once: its end is what stays.
        let data = &data[data.len().saturating_sub(most)..];
        if data.is_empty() {
            return;
        }
        held.bytes += data.len();
        match held.chunks.back_mut() {
            Some(last)
                if last.order + 1 == next
                    && last.end() + data.len() as u64 == held.end
                    && last.data.len() + data.len() <= CHUNK_BYTES =>
            {
                last.data.extend_from_slice(data);
            }
            _ => {
                held.chunks.push_back(Chunk {
                    order: next,
                    begin: held.end - data.len() as u64,
                    data: data.to_vec(),
                    dropped: 0,
                });
                self.next += 1;
            }
        }
        while held.bytes > most {
            let Some(first) = held.chunks.front_mut() else {
                break;
            };
            let over = held.bytes - most;
            let left = first.data.len() - first.dropped;
            if left <= over {
                held.bytes -= left;
                held.chunks.pop_front();
            } else {
                first.dropped += over;
                held.bytes -= over;
            }
        }
    }

    /// Where the output ends now.
    pub(super) fn end(&self) -> Position {
        STREAMS.map(|stream| self.streams[stream as usize].end)
    }

    /// Bytes that are held.
    pub(super) fn bytes(&self) -> usize {
        self.streams.iter().map(|held| held.bytes).sum()
    }

    /// Whether anything that ever came is held no more.
    pub(super) fn is_cut(&self) -> bool {
        self.streams
            .iter()
            .any(|held| held.bytes as u64 != held.end)
    }

    /// How much lies between a place and the end.
    pub(super) fn behind(&self, position: Position) -> u64 {
        STREAMS
            .iter()
            .map(|stream| self.streams[*stream as usize].end - position[*stream as usize])
            .sum()
    }

    /// The next output after a place, at most `most` bytes of it; moves the place behind it.
    pub(super) fn next(&self, position: &mut Position, most: usize) -> Option<Next> {
        let first = |stream: Stream| {
            let chunks = &self.streams[stream as usize].chunks;
            let at = position[stream as usize];
            let index = chunks.partition_point(|chunk| chunk.end() <= at);
            chunks.get(index).map(|chunk| (stream, chunk))
        };
        let (stream, chunk) = STREAMS
            .into_iter()
            .filter_map(first)
            .min_by_key(|(_, chunk)| chunk.order)?;
        let at = &mut position[stream as usize];
        let begin = (chunk.begin + chunk.dropped as u64).max(*at);
        let skipped = begin - *at;
        // In range: `begin` is inside the chunk.
        let data = &chunk.data[usize::try_from(begin - chunk.begin).unwrap_or(0)..];
        let data = Bytes::copy_from_slice(&data[..data.len().min(most)]);
        *at = begin + data.len() as u64;
        Some(Next {
            skipped,
            stream,
            data,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn all(replay: &Replay, mut position: Position) -> Vec<(u64, Stream, Vec<u8>)> {
        std::iter::from_fn(|| replay.next(&mut position, 1 << 20))
            .map(|next| (next.skipped, next.stream, next.data.to_vec()))
            .collect()
    }

    #[test]
    fn keeps_the_order_of_both_streams() {
        let mut replay = Replay::new(100);
        replay.push(Stream::Out, b"a");
        replay.push(Stream::Out, b"b");
        replay.push(Stream::Err, b"E");
        replay.push(Stream::Out, b"c");
        let expected = [
            (0, Stream::Out, b"ab".to_vec()),
            (0, Stream::Err, b"E".to_vec()),
            (0, Stream::Out, b"c".to_vec()),
        ];
        assert_eq!(all(&replay, [0, 0]), expected);
        assert_eq!(
            all(&replay, [1, 1]),
            [
                (0, Stream::Out, b"b".to_vec()),
                (0, Stream::Out, b"c".to_vec()),
            ]
        );
        assert_eq!(all(&replay, replay.end()), []);
        assert!(!replay.is_cut());
    }

    #[test]
    fn one_stream_does_not_push_out_the_other() {
        let mut replay = Replay::new(10);
        replay.push(Stream::Err, b"error");
        for _ in 0..100 {
            replay.push(Stream::Out, b"0123456789");
        }
        assert_eq!(
            all(&replay, [0, 0]),
            [
                (0, Stream::Err, b"error".to_vec()),
                (990, Stream::Out, b"0123456789".to_vec()),
            ]
        );
        assert_eq!(replay.bytes(), 15);
        assert!(replay.is_cut());
    }

    #[test]
    fn a_write_larger_than_all_leaves_its_end() {
        let mut replay = Replay::new(4);
        replay.push(Stream::Out, b"0123456789");
        assert_eq!(all(&replay, [0, 0]), [(6, Stream::Out, b"6789".to_vec())]);
        replay.push(Stream::Out, b"x");
        assert_eq!(all(&replay, [8, 0]), [(0, Stream::Out, b"89x".to_vec())]);
    }

    proptest! {
        /// A reader gets the bytes that were written, less those that it is told it missed.
        #[test]
        fn nothing_is_lost_untold(
            writes in prop::collection::vec((any::<bool>(), 0usize..40, 0usize..3), 0..60),
            most in 1usize..60,
            piece in 1usize..20,
        ) {
            let mut replay = Replay::new(most);
            let mut whole = [Vec::new(), Vec::new()];
            let (mut position, mut told) = ([0, 0], 0);
            let read = |replay: &Replay, whole: &[Vec<u8>; 2], position: &mut Position| {
                let next = replay.next(position, piece)?;
                let stream = next.stream as usize;
                let at = usize::try_from(position[stream]).unwrap();
                assert_eq!(&next.data[..], &whole[stream][at - next.data.len()..at]);
                Some(next.skipped + next.data.len() as u64)
            };
            for (number, (err, length, reads)) in writes.into_iter().enumerate() {
                let stream = if err { Stream::Err } else { Stream::Out };
                let data: Vec<u8> = (0..length).map(|i| (number + i) as u8).collect();
                replay.push(stream, &data);
                whole[stream as usize].extend_from_slice(&data);
                prop_assert!(replay.streams.iter().all(|held| held.bytes <= most));
                for _ in 0..reads {
                    told += read(&replay, &whole, &mut position).unwrap_or(0);
                }
            }
            while let Some(more) = read(&replay, &whole, &mut position) {
                told += more;
            }
            prop_assert_eq!(told, whole.iter().map(|stream| stream.len() as u64).sum::<u64>());
            prop_assert_eq!(position, replay.end());
            prop_assert_eq!(replay.behind(position), 0);
        }
    }
}
