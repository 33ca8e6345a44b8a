//! Packed members one behind the other, as one stream, and the zeros that may fill up the last block.
//!
//! A tar that writes to a pipe or a tape fills up its last block, behind what packed the archive: bsdtar,
//! the `tar` of macOS, does so by default. Anything else behind the last member is refused. What unpacks
//! is used again for the next member: there may be one for every few bytes.

use bzip2::{Decompress, Status};
use flate2::bufread::GzDecoder;
use std::io::{self, BufRead, ErrorKind, Read};
use zstd::stream::raw::{self, InBuffer, Operation, OutBuffer};

/// The largest window of zstd that is taken: 128 MiB of memory, what `zstd --ultra` uses.
const WINDOW_LOG: u32 = 27;

/// Members of bzip2 that may be there whatever is in them, and bytes that each further one has at least: each
/// takes memory anew. pbzip2 makes one of 100 kB or more.
const FEW_MEMBERS: u64 = 1024;
const LEAST_OF_MEMBER: u64 = 4096;

/// The members of a gzip file.
pub(super) struct Gzip<R> {
    decoder: GzDecoder<Slot<R>>,
    ended: bool,
}

impl<R: BufRead> Gzip<R> {
    /// `input` stands at the beginning of a member.
    pub(super) fn new(input: R) -> Self {
        Self {
            decoder: GzDecoder::new(Slot(Some(input))),
            ended: false,
        }
    }
}

impl<R: BufRead> Read for Gzip<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        while !self.ended {
            let read = self.decoder.read(buffer)?;
            if read > 0 {
                return Ok(read);
            }
            let input = self.decoder.get_mut();
            if another(input, |byte| byte == 0x1f)? {
                let input = Slot(input.0.take());
                self.decoder.reset(input);
            } else {
                self.ended = true;
            }
        }
        Ok(0)
    }
}

/// The frames of a zstd file, those that are to be skipped among them.
pub(super) struct Zstd<R> {
    input: R,
    decoder: raw::Decoder<'static>,
    within: bool,
    ended: bool,
}

impl<R: BufRead> Zstd<R> {
    /// `input` stands at the beginning of a frame.
    pub(super) fn new(input: R) -> io::Result<Self> {
        let mut decoder = raw::Decoder::new()?;
        decoder.set_parameter(raw::DParameter::WindowLogMax(WINDOW_LOG))?;
        Ok(Self {
            input,
            decoder,
            within: true,
            ended: false,
        })
    }
}

impl<R: BufRead> Read for Zstd<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        while !self.ended {
            if !self.within && !another(&mut self.input, |byte| matches!(byte, 0x28 | 0x50..=0x5f))?
            {
                self.ended = true;
                break;
            }
            let input = self.input.fill_buf()?;
            if input.is_empty() {
                return Err(io::Error::new(
                    ErrorKind::UnexpectedEof,
                    "a zstd frame is cut off",
                ));
            }
            let mut from = InBuffer::around(input);
            let mut to = OutBuffer::around(&mut *buffer);
            let hint = self.decoder.run(&mut from, &mut to)?;
            let (taken, given) = (from.pos(), to.pos());
            self.input.consume(taken);
            self.within = hint != 0;
            if given > 0 {
                return Ok(given);
            }
        }
        Ok(0)
    }
}

/// The members of a bzip2 file.
pub(super) struct Bzip2<R> {
    input: R,
    decoder: Decompress,
    within: bool,
    ended: bool,
    members: u64,
    /// Bytes that were unpacked.
    given: u64,
}

impl<R: BufRead> Bzip2<R> {
    /// `input` stands at the beginning of a member.
    pub(super) fn new(input: R) -> Self {
        Self {
            input,
            decoder: Decompress::new(false),
            within: true,
            ended: false,
            members: 1,
            given: 0,
        }
    }

    /// Begins the next member; false at the end.
    fn next_member(&mut self) -> io::Result<bool> {
        if !another(&mut self.input, |byte| byte == b'B')? {
            return Ok(false);
        }
        self.members += 1;
        if self.members > FEW_MEMBERS + self.given / LEAST_OF_MEMBER {
            return Err(io::Error::new(
                ErrorKind::InvalidData,
                "it is packed in too many small pieces",
            ));
        }
        self.decoder = Decompress::new(false);
        Ok(true)
    }
}

impl<R: BufRead> Read for Bzip2<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        while !self.ended {
            if !self.within && !self.next_member()? {
                self.ended = true;
                break;
            }
            let input = self.input.fill_buf()?;
            let at_end = input.is_empty();
            let before = (self.decoder.total_in(), self.decoder.total_out());
            let status = self.decoder.decompress(input, buffer);
            let status = status.map_err(|error| io::Error::new(ErrorKind::InvalidData, error))?;
            // Neither is more than the buffer that it was given.
            let moved = |now: u64, before| usize::try_from(now - before).unwrap_or(0);
            let taken = moved(self.decoder.total_in(), before.0);
            let given = moved(self.decoder.total_out(), before.1);
            self.input.consume(taken);
            self.given += given as u64;
            self.within = status != Status::StreamEnd;
            if given > 0 {
                return Ok(given);
            }
            if at_end && self.within {
                return Err(io::Error::new(
                    ErrorKind::UnexpectedEof,
                    "a bzip2 file is cut off",
                ));
            }
        }
        Ok(0)
    }
}

/// Whether another member follows the one that ended; else there is nothing, or zeros.
fn another(input: &mut impl BufRead, begins: impl Fn(u8) -> bool) -> io::Result<bool> {
    let first = input.fill_buf()?.first().copied();
    if first.is_some_and(begins) {
        return Ok(true);
    }
    loop {
        let piece = input.fill_buf()?;
        if piece.iter().any(|byte| *byte != 0) {
            return Err(io::Error::new(
                ErrorKind::InvalidData,
                "something else follows the packed data",
            ));
        }
        match piece.len() {
            0 => return Ok(false),
            length => input.consume(length),
        }
    }
}

/// An input that can be taken out of a decoder and put back.
struct Slot<R>(Option<R>);

impl<R: BufRead> Read for Slot<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.as_mut().map_or(Ok(0), |input| input.read(buffer))
    }
}

impl<R: BufRead> BufRead for Slot<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.0.as_mut().map_or(Ok(&[]), BufRead::fill_buf)
    }

    fn consume(&mut self, bytes: usize) {
        if let Some(input) = &mut self.0 {
            input.consume(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn zstd(bytes: &[u8]) -> Vec<u8> {
        zstd::encode_all(bytes, 1).unwrap()
    }

    fn bzip2(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[derive(Debug, Clone, Copy)]
    enum Packed {
        Gzip,
        Zstd,
        Bzip2,
    }

    fn unpacked(packed: &[u8], by: Packed) -> io::Result<Vec<u8>> {
        let mut all = Vec::new();
        // Buffers of one byte: every boundary is met.
        let input = io::BufReader::with_capacity(1, packed);
        match by {
            Packed::Gzip => Gzip::new(input).read_to_end(&mut all)?,
            Packed::Zstd => Zstd::new(input)?.read_to_end(&mut all)?,
            Packed::Bzip2 => Bzip2::new(input).read_to_end(&mut all)?,
        };
        Ok(all)
    }

    #[test]
    fn many_small_members_of_bzip2_are_refused_and_many_large_ones_are_not() {
        let few = bzip2(b"x").repeat(1024);
        assert_eq!(unpacked(&few, Packed::Bzip2).unwrap().len(), 1024);
        let error = unpacked(&bzip2(b"x").repeat(1026), Packed::Bzip2).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidData);
        let large = bzip2(&[7; 4096]).repeat(1500);
        assert_eq!(unpacked(&large, Packed::Bzip2).unwrap().len(), 1500 * 4096);
    }

    #[test]
    fn members_are_one_stream_and_only_zeros_follow_them() {
        for (by, pack) in [
            (Packed::Gzip, gzip as fn(&[u8]) -> Vec<u8>),
            (Packed::Zstd, zstd),
            (Packed::Bzip2, bzip2),
        ] {
            let (one, two) = (pack(b"one "), pack(b"two"));
            let both = [&one[..], &pack(b""), &two].concat();
            for behind in [&[][..], &[0], &[0; 10_000]] {
                let padded = [&both, behind].concat();
                assert_eq!(unpacked(&padded, by).unwrap(), b"one two");
            }
            for behind in [&b"x"[..], b"\0\0x", b"\0\x1f\x8b", b"\0\x28\xb5\x2f\xfd"] {
                let followed = [&both, behind].concat();
                let error = unpacked(&followed, by).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::InvalidData, "{behind:?}");
            }
            for end in 1..both.len() {
                // Whole members are all right; that the archive is not is seen by what reads it.
                if let Ok(part) = unpacked(&both[..end], by) {
                    assert!(b"one two".starts_with(&part) && part.len() < 7);
                }
            }
        }
        let skipped = [b"\x50\x2a\x4d\x18\x03\0\0\0abc".as_slice(), &zstd(b"x")].concat();
        assert_eq!(unpacked(&skipped, Packed::Zstd).unwrap(), b"x");
    }
}
