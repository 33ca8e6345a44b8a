//! Maps of sparse files: written in PAX's format 1.0, read in all that GNU tar writes.

use super::fields::unsigned;
use super::pax::decimal;
use super::{BLOCK, Extent, padding};
use crate::error::Refusal;
use crate::limits::{Limit, MOST_EXTENTS};
use std::io::{self, Write};
use tar::GnuSparseHeader;

/// The map in front of a sparse file's data: decimal numbers, each on a line, filled up to a block.
#[derive(Debug)]
pub(crate) struct MapText<'a> {
    extents: &'a [Extent],
    size: u64,
}

impl<'a> MapText<'a> {
    /// `size` counts the holes as well.
    pub(crate) fn new(extents: &'a [Extent], size: u64) -> Self {
        Self { extents, size }
    }

    /// The numbers. An empty piece at the end gives the size where the file ends in a hole: GNU tar
    /// learns it from there.
    fn numbers(&self) -> impl Iterator<Item = u64> {
        let end = self
            .extents
            .last()
            .map_or(0, |last| last.start + last.length);
        let hole = (end < self.size || self.extents.is_empty()).then_some([self.size, 0]);
        let count = self.extents.len() + usize::from(hole.is_some());
        let pieces = self
            .extents
            .iter()
            .flat_map(|piece| [piece.start, piece.length]);
        std::iter::once(count as u64)
            .chain(pieces)
            .chain(hole.into_iter().flatten())
    }

    /// How long it is, a multiple of a block.
    pub(crate) fn length(&self) -> u64 {
        let text = self
            .numbers()
            .map(|number| u64::from(number.checked_ilog10().unwrap_or(0)) + 2);
        let text: u64 = text.sum();
        text + padding(text) as u64
    }

    /// Writes exactly that many bytes.
    pub(crate) fn write(&self, mut out: impl Write) -> io::Result<()> {
        let mut buffer = Vec::with_capacity(BLOCK);
        for number in self.numbers() {
            writeln!(buffer, "{number}")?;
            if buffer.len() > BLOCK {
                out.write_all(&buffer[..BLOCK])?;
                buffer.drain(..BLOCK);
            }
        }
        buffer.resize(BLOCK, 0);
        out.write_all(&buffer)
    }
}

/// A map that is being read, as numbers in the order in which all formats have them.
#[derive(Debug, Default)]
pub(super) struct Map {
    extents: Vec<Extent>,
    start: Option<u64>,
}

impl Map {
    pub(super) fn number(&mut self, number: u64) -> Result<(), Refusal> {
        let Some(start) = self.start.take() else {
            self.start = Some(number);
            return Ok(());
        };
        if self.extents.len() == MOST_EXTENTS {
            return Err(Refusal::Limit(Limit::Extents(MOST_EXTENTS)));
        }
        self.extents.push(Extent {
            start,
            length: number,
        });
        Ok(())
    }

    /// How many pieces there are.
    pub(super) fn len(&self) -> usize {
        self.extents.len()
    }

    /// A block's pieces in the old format of GNU, up to the first that is empty.
    pub(super) fn old(&mut self, pieces: &[GnuSparseHeader]) -> Result<(), Refusal> {
        for piece in pieces.iter().take_while(|piece| piece.numbytes[0] != 0) {
            for field in [&piece.offset, &piece.numbytes] {
                self.number(unsigned(field).ok_or(Refusal::SparseMap)?)?;
            }
        }
        Ok(())
    }

    /// The record `GNU.sparse.map`: all numbers, with commas.
    pub(super) fn commas(&mut self, text: &[u8]) -> Result<(), Refusal> {
        for number in text.split(|byte| *byte == b',') {
            self.number(decimal(number).ok_or(Refusal::SparseMap)?)?;
        }
        Ok(())
    }

    /// The pieces, if they are in order and hold exactly the data that is there.
    pub(super) fn finish(mut self, size: u64, stored: u64) -> Result<Vec<Extent>, Refusal> {
        let (mut end, mut data) = (0, 0_u64);
        for piece in &self.extents {
            if piece.start < end {
                return Err(Refusal::SparseMap);
            }
            end = piece
                .start
                .checked_add(piece.length)
                .ok_or(Refusal::SparseMap)?;
            data = data.checked_add(piece.length).ok_or(Refusal::SparseMap)?;
        }
        if self.start.is_some() || end > size || data != stored {
            return Err(Refusal::SparseMap);
        }
        self.extents.retain(|piece| piece.length > 0);
        Ok(self.extents)
    }
}

/// Reads the lines of a map of format 1.0 from its blocks.
#[derive(Debug, Default)]
pub(super) struct Lines {
    map: Map,
    line: Vec<u8>,
    count: Option<u64>,
}

impl Lines {
    /// Takes the next block; the map when it ended there.
    pub(super) fn block(&mut self, block: &[u8; BLOCK]) -> Result<Option<Map>, Refusal> {
        for &byte in block {
            if byte != b'\n' {
                // As many digits as the largest number has.
                if self.line.len() == 20 {
                    return Err(Refusal::SparseMap);
                }
                self.line.push(byte);
                continue;
            }
            let number = decimal(&self.line).ok_or(Refusal::SparseMap)?;
            self.line.clear();
            match self.count {
                None => self.count = Some(number),
                Some(_) => self.map.number(number)?,
            }
            let complete = self.map.start.is_none() && self.count == Some(self.map.len() as u64);
            if complete {
                return Ok(Some(std::mem::take(&mut self.map)));
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extents(pieces: &[(u64, u64)]) -> Vec<Extent> {
        let piece = |&(start, length): &(u64, u64)| Extent { start, length };
        pieces.iter().map(piece).collect()
    }

    fn text(pieces: &[(u64, u64)], size: u64) -> Vec<u8> {
        let extents = extents(pieces);
        let map = MapText::new(&extents, size);
        let mut text = Vec::new();
        map.write(&mut text).unwrap();
        assert_eq!(text.len() as u64, map.length());
        text
    }

    #[test]
    fn a_written_map_is_read_back() {
        let many: Vec<_> = (0..500).map(|n| (n * 10_000, 4096)).collect();
        // Text of exactly one block: 4 bytes for the count, then pairs.
        let exact: Vec<_> = (0..127).map(|n| (n * 2 % 10, 1)).collect();
        for (pieces, size) in [
            (vec![], 0),
            (vec![], 1 << 40),
            (vec![(0, 5)], 5),
            (vec![(4096, 4096)], 1 << 30),
            (many.clone(), 499 * 10_000 + 4096),
        ] {
            let mut lines = Lines::default();
            let text = text(&pieces, size);
            let mut blocks = text
                .chunks_exact(BLOCK)
                .map(|block| block.try_into().unwrap());
            let map = blocks
                .find_map(|block| lines.block(block).unwrap())
                .unwrap();
            assert!(blocks.next().is_none());
            let stored = pieces.iter().map(|(_, length)| length).sum();
            assert_eq!(map.finish(size, stored), Ok(extents(&pieces)));
        }
        assert_eq!(text(&exact, 3).len(), BLOCK);
    }

    #[test]
    fn maps_that_make_no_sense() {
        for (text, size, stored) in [
            ("5,5,4,1", 100, 6),
            ("0,5", 4, 5),
            ("0,5", 5, 4),
            ("0,5,7", 10, 5),
            ("18446744073709551615,5", u64::MAX, 5),
            ("0,18446744073709551615,18446744073709551615,1", u64::MAX, 0),
        ] {
            let mut map = Map::default();
            map.commas(text.as_bytes()).unwrap();
            assert_eq!(map.finish(size, stored), Err(Refusal::SparseMap), "{text}");
        }
        assert!(Map::default().commas(b"0,x").is_err());
        assert!(Map::default().commas(b"").is_err());
    }

    #[test]
    fn lines_that_make_no_sense() {
        for text in ["x\n", "\n", "111111111111111111111111\n", "1\n5\n\n"] {
            let mut block = [b'1'; BLOCK];
            block[..text.len()].copy_from_slice(text.as_bytes());
            assert_eq!(
                Lines::default().block(&block).err(),
                Some(Refusal::SparseMap),
                "{text}"
            );
        }
    }
}
