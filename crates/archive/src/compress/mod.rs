//! Compression: what an archive is written through, and read through.

mod ahead;
mod gzip;
mod members;

pub(crate) use ahead::Ahead;

use crate::source::Source;
use gzip::ParallelGzip;
use liblzma::bufread::XzDecoder;
use liblzma::stream::{CONCATENATED, Stream};
use members::{Bzip2, Gzip, Zstd};
use std::io::{self, BufReader, Read, Seek, Write};
use std::num::NonZero;

/// What is read from a file or a decoder at once.
pub(crate) const READ: usize = 256 << 10;

/// What unpacking xz may take of memory: `xz -9` needs 65 MiB.
const XZ_MEMORY: u64 = 128 << 20;

/// A bzip2 file with its first block: a tar archive may begin with a name like the rest.
const BZIP2_BLOCK: [u8; 6] = [0x31, 0x41, 0x59, 0x26, 0x53, 0x59];

/// How an archive is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Compression {
    /// Not at all.
    None,
    /// gzip, of one member, as every program reads it. Blocks of 512 KiB are compressed side by side.
    Gzip {
        /// 0 (none) to 9 (smallest).
        level: u32,
    },
    /// zstd, with a checksum.
    Zstd {
        /// 1 (fastest) to 19; beyond, a reader needs much memory.
        level: i32,
    },
}

impl Compression {
    /// gzip at its usual level, 6.
    pub const GZIP: Self = Self::Gzip { level: 6 };
    /// zstd at its usual level, 3.
    pub const ZSTD: Self = Self::Zstd { level: 3 };
}

/// Where an archive is written to. Dropped unfinished, it leaves a stream that no reader takes for
/// complete.
pub(crate) enum Sink<W: Write> {
    Plain(W),
    Gzip(ParallelGzip<W>),
    Zstd(zstd::Encoder<'static, W>),
}

impl<W: Write> Sink<W> {
    /// `threads` compress, next to the caller's own.
    pub(crate) fn new(
        out: W,
        compression: Compression,
        threads: NonZero<usize>,
    ) -> io::Result<Self> {
        match compression {
            Compression::None => Ok(Self::Plain(out)),
            Compression::Gzip { level } => ParallelGzip::new(out, level, threads).map(Self::Gzip),
            Compression::Zstd { level } => {
                let mut encoder = zstd::Encoder::new(out, level)?;
                encoder.include_checksum(true)?;
                // zstd takes no more than 256.
                encoder.multithread(u32::try_from(threads.get()).unwrap_or(256).min(256))?;
                Ok(Self::Zstd(encoder))
            }
        }
    }

    /// Ends the stream.
    pub(crate) fn finish(self) -> io::Result<W> {
        match self {
            Self::Plain(mut out) => out.flush().map(|()| out),
            Self::Gzip(encoder) => encoder.finish(),
            Self::Zstd(encoder) => {
                let mut out = encoder.finish()?;
                out.flush().map(|()| out)
            }
        }
    }
}

impl<W: Write> Write for Sink<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(out) => out.write(bytes),
            Self::Gzip(encoder) => encoder.write(bytes),
            Self::Zstd(encoder) => encoder.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(out) => out.flush(),
            Self::Gzip(encoder) => encoder.flush(),
            Self::Zstd(encoder) => encoder.flush(),
        }
    }
}

/// What unpacks an archive, by how it begins, from its start.
pub(crate) fn unpack<'a, R>(file: &'a mut R) -> io::Result<Box<dyn Read + Send + 'a>>
where
    R: Read + Seek + Send,
{
    file.rewind()?;
    let mut magic = Vec::new();
    file.by_ref().take(10).read_to_end(&mut magic)?;
    file.rewind()?;
    let source = BufReader::with_capacity(READ, Source(file));
    Ok(match magic[..] {
        [0x1f, 0x8b, ..] => Box::new(Gzip::new(source)),
        // A frame, or one that is to be skipped, as pzstd begins with.
        [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => {
            Box::new(Zstd::new(source)?)
        }
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => {
            let stream = Stream::new_stream_decoder(XZ_MEMORY, CONCATENATED)?;
            Box::new(XzDecoder::new_stream(source, stream))
        }
        [b'B', b'Z', b'h', b'1'..=b'9', ref block @ ..] if block == BZIP2_BLOCK => {
            Box::new(Bzip2::new(source))
        }
        _ => Box::new(source),
    })
}
