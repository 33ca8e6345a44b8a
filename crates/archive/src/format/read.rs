//! Reading entries from hostile bytes: one header after the other, and the data between them.
//!
//! It knows what the format says, and refuses what different programs read differently. What names
//! mean, and which entries may stand together, is `names`'.

use super::fields::{checksum, number, text, unsigned};
use super::sparse::{Lines, Map};
use super::{BLOCK, Kind, Member, Time, padding, pax};
use crate::attributes::{RECORD, decode};
use crate::error::{Entry, Error, Refusal, escape};
use crate::limits::{Limit, Limits, MOST_EXTENDED};
use crate::progress::Progress;
use crate::source;
use std::io::{self, BufRead, ErrorKind};
use tar::{GnuExtSparseHeader, Header};

type Block = [u8; BLOCK];

/// A directory of `tar -g`, with the names that it had as its data: they say what to delete from an
/// older state, which no import has.
const DIRECTORY_WITH_NAMES: u8 = b'D';

/// What extended headers say of the entry that follows.
#[derive(Debug, Default)]
struct Extended {
    /// From GNU's long names.
    long_name: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
    /// From PAX.
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    common: Common,
    attributes: Vec<(Vec<u8>, Vec<u8>)>,
    sparse: Sparse,
    has_pax: bool,
}

/// What one extended header may say of the next entry, or a global one of all that follow.
#[derive(Debug, Default)]
struct Common {
    uid: Option<u32>,
    gid: Option<u32>,
    modified: Option<Time>,
}

#[derive(Debug, Default)]
struct Sparse {
    major: Option<u64>,
    minor: Option<u64>,
    name: Option<Vec<u8>>,
    size: Option<u64>,
    pieces: Option<u64>,
    map: Option<Map>,
}

/// Reads an archive's entries in their order.
#[derive(Debug)]
pub(crate) struct Reader<'a, R> {
    input: R,
    limits: &'a Limits,
    progress: &'a Progress,
    /// From global headers.
    common: Common,
    /// How far the input was read, and how much of that was no file's data.
    position: u64,
    other: u64,
    /// Of the present entry.
    number: u64,
    name: Vec<u8>,
    /// Data that was not given out yet, what fills it up, and what was given out but not taken off.
    left: u64,
    padding: usize,
    given: usize,
    /// Whether that is a file's.
    is_content: bool,
}

impl<'a, R: BufRead> Reader<'a, R> {
    pub(crate) fn new(input: R, limits: &'a Limits, progress: &'a Progress) -> Self {
        Self {
            input,
            limits,
            progress,
            common: Common::default(),
            position: 0,
            other: 0,
            number: 0,
            name: Vec::new(),
            left: 0,
            padding: 0,
            given: 0,
            is_content: false,
        }
    }

    /// How messages name the present entry.
    pub(crate) fn entry(&self) -> Entry {
        Entry {
            number: self.number,
            name: escape(&self.name),
        }
    }

    pub(crate) fn refuse(&self, reason: Refusal) -> Error {
        Error::Refused {
            entry: self.entry(),
            reason,
        }
    }

    /// How many bytes of the unpacked archive were read.
    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    /// The next entry, behind what is left of the present one; none at the end, when nothing but
    /// zeros follows.
    pub(crate) fn next(&mut self) -> Result<Option<Member>, Error> {
        self.pass()?;
        self.number += 1;
        self.name.clear();
        let mut extended = Extended::default();
        let mut pending = false;
        loop {
            let block = self.block()?;
            if block == [0; BLOCK] {
                if pending {
                    return Err(self.refuse(Refusal::Extension("no entry follows")));
                }
                self.end()?;
                return Ok(None);
            }
            if !checksum(&block) {
                let first = self.position == BLOCK as u64;
                return Err(self.refuse(match first {
                    true => Refusal::NotAnArchive,
                    false => Refusal::Checksum,
                }));
            }
            match block[156] {
                // Solaris' tar calls it X.
                b'x' | b'X' => {
                    if extended.has_pax {
                        return Err(self.refuse(Refusal::Extension("two follow each other")));
                    }
                    let records = self.extended(&block)?;
                    let read = extended.records(&records);
                    read.map_err(|reason| self.refuse(reason))?;
                    extended.has_pax = true;
                }
                b'g' => {
                    let records = self.extended(&block)?;
                    let read = self.common.global(&records);
                    read.map_err(|reason| self.refuse(reason))?;
                }
                // The volume's label, from `tar -V`.
                b'V' => {
                    let size = unsigned(&Header::from_byte_slice(&block).as_old().size);
                    self.left = size.ok_or_else(|| self.refuse(Refusal::Field("size")))?;
                    self.padding = padding(self.left);
                    self.is_content = false;
                    self.pass()?;
                    extended = Extended::default();
                    pending = false;
                    continue;
                }
                flag @ (b'L' | b'K') => {
                    let mut long = self.extended(&block)?;
                    let end = long.iter().rposition(|byte| *byte != 0);
                    long.truncate(end.map_or(0, |end| end + 1));
                    let place = match flag {
                        b'L' => &mut extended.long_name,
                        _ => &mut extended.long_link,
                    };
                    if place.replace(long).is_some() {
                        return Err(self.refuse(Refusal::Extension("two long names")));
                    }
                }
                _ => return self.member(&block, extended).map(Some),
            }
            pending = true;
        }
    }

    /// Passes over what is left of the present entry.
    fn pass(&mut self) -> Result<(), Error> {
        while !self.data(u64::MAX)?.is_empty() {}
        let padding = std::mem::take(&mut self.padding);
        self.skip(padding)
    }

    /// The next piece of the present entry's data, of at most so many bytes; empty at its end. Pieces
    /// of sparse files follow each other without their holes.
    pub(crate) fn data(&mut self, most: u64) -> Result<&[u8], Error> {
        self.input.consume(std::mem::take(&mut self.given));
        let most = self.left.min(most);
        if most == 0 {
            return Ok(&[]);
        }
        let available = self.fill()?;
        let length = usize::try_from(most).map_or(available, |most| most.min(available));
        self.took(length, self.is_content)?;
        self.left -= length as u64;
        self.given = length;
        // What was filled above is still there.
        let data = self.input.fill_buf().map_err(Error::ReadArchive)?;
        Ok(&data[..length])
    }

    fn member(&mut self, block: &Block, extended: Extended) -> Result<Member, Error> {
        let header = Header::from_byte_slice(block);
        self.name = extended
            .name(header)
            .map_err(|reason| self.refuse(reason))?;
        let mut member = self
            .fields(header, &extended)
            .map_err(|reason| self.refuse(reason))?;
        self.left = member.size;
        self.padding = padding(self.left);
        self.is_content = member.kind == Kind::File;
        if !self.is_content {
            member.size = 0;
        }
        if let Some((map, size)) = self.map(header, extended.sparse)? {
            // The map of format 1.0 is a part of the data.
            let extents = map.finish(size, self.left);
            member.extents = Some(extents.map_err(|reason| self.refuse(reason))?);
            member.size = size;
        }
        if member.size > self.limits.file_bytes {
            let limit = Limit::FileBytes(self.limits.file_bytes);
            return Err(self.refuse(Refusal::Limit(limit)));
        }
        member.attributes = extended.attributes;
        Ok(member)
    }

    fn fields(&self, header: &Header, extended: &Extended) -> Result<Member, Refusal> {
        let old = header.as_old();
        let kind = match old.linkflag[0] {
            0 | b'0' | b'7' if self.name.ends_with(b"/") => Kind::Directory,
            0 | b'0' | b'7' | b'S' => Kind::File,
            b'1' => Kind::HardLink,
            b'2' => Kind::Symlink,
            b'3' | b'4' => return Err(Refusal::Device),
            b'5' | DIRECTORY_WITH_NAMES => Kind::Directory,
            b'6' => Kind::Fifo,
            flag => return Err(Refusal::UnknownType(flag.into())),
        };
        let size = match extended.size {
            Some(size) => size,
            None => unsigned(&old.size).ok_or(Refusal::Field("size"))?,
        };
        let has_data = kind == Kind::File || old.linkflag[0] == DIRECTORY_WITH_NAMES;
        if size > 0 && !has_data {
            return Err(Refusal::UnexpectedData);
        }
        let (own, all) = (&extended.common, &self.common);
        let owner = |given: Option<u32>, field: &[u8], name| match given {
            Some(owner) => Ok(owner),
            None => unsigned(field).and_then(id).ok_or(Refusal::Field(name)),
        };
        let modified = match own.modified.or(all.modified) {
            Some(time) => time,
            None => Time {
                seconds: number(&old.mtime).ok_or(Refusal::Field("mtime"))?,
                nanoseconds: 0,
            },
        };
        // Some programs write the type's bits as well.
        let mode = unsigned(&old.mode).ok_or(Refusal::Field("mode"))? & 0o7777;
        Ok(Member {
            name: self.name.clone(),
            link: extended.link(header)?,
            kind,
            // Twelve bits.
            mode: u32::try_from(mode).unwrap_or(0),
            uid: owner(own.uid.or(all.uid), &old.uid, "uid")?,
            gid: owner(own.gid.or(all.gid), &old.gid, "gid")?,
            modified,
            size,
            extents: None,
            attributes: Vec::new(),
        })
    }

    /// The map and whole size of a sparse file, if this is one.
    fn map(&mut self, header: &Header, sparse: Sparse) -> Result<Option<(Map, u64)>, Error> {
        let old = header.as_old().linkflag[0] == b'S';
        let version = (sparse.major, sparse.minor);
        let broken = || Refusal::SparseMap;
        if old {
            let (Some(gnu), (None, None), None) = (header.as_gnu(), version, &sparse.map) else {
                return Err(self.refuse(Refusal::SparseMap));
            };
            let size = unsigned(&gnu.realsize);
            let mut map = Map::default();
            let pieces = map.old(&gnu.sparse);
            pieces.map_err(|reason| self.refuse(reason))?;
            let mut more = gnu.isextended[0] != 0;
            while more {
                let mut further = GnuExtSparseHeader::new();
                *further.as_mut_bytes() = self.block()?;
                let pieces = map.old(further.sparse());
                pieces.map_err(|reason| self.refuse(reason))?;
                more = further.isextended[0] != 0;
            }
            let size = size.ok_or_else(|| self.refuse(Refusal::SparseMap))?;
            return Ok(Some((map, size)));
        }
        let found = match (version, sparse.map) {
            ((None, None), None) => return Ok(None),
            ((Some(1), Some(0)), None) => {
                let mut lines = Lines::default();
                loop {
                    if self.left < BLOCK as u64 {
                        return Err(self.refuse(Refusal::SparseMap));
                    }
                    let block = self.block()?;
                    self.left -= BLOCK as u64;
                    let map = lines.block(&block);
                    if let Some(map) = map.map_err(|reason| self.refuse(reason))? {
                        break map;
                    }
                }
            }
            // Formats 0.0 and 0.1, of which the latter may say so.
            ((None, None) | (Some(0), Some(0 | 1)), Some(map))
                if sparse
                    .pieces
                    .is_none_or(|pieces| pieces == map.len() as u64) =>
            {
                map
            }
            _ => return Err(self.refuse(broken())),
        };
        let size = sparse.size.ok_or_else(|| self.refuse(broken()))?;
        Ok(Some((found, size)))
    }

    /// The content of an extended header or long name.
    fn extended(&mut self, block: &Block) -> Result<Vec<u8>, Error> {
        let size = unsigned(&Header::from_byte_slice(block).as_old().size);
        let size = size.ok_or_else(|| self.refuse(Refusal::Field("size")))?;
        let size = usize::try_from(size)
            .ok()
            .filter(|size| *size <= MOST_EXTENDED);
        let size =
            size.ok_or_else(|| self.refuse(Refusal::Limit(Limit::Extended(MOST_EXTENDED))))?;
        let mut content = Vec::new();
        while content.len() < size {
            let available = self.fill()?.min(size - content.len());
            let piece = self.input.fill_buf().map_err(Error::ReadArchive)?;
            content.extend_from_slice(&piece[..available]);
            self.input.consume(available);
            self.took(available, false)?;
        }
        self.skip(padding(size as u64))?;
        Ok(content)
    }

    fn block(&mut self) -> Result<Block, Error> {
        let mut block = [0; BLOCK];
        let mut filled = 0;
        while filled < BLOCK {
            let available = self.fill()?.min(BLOCK - filled);
            let piece = self.input.fill_buf().map_err(Error::ReadArchive)?;
            block[filled..filled + available].copy_from_slice(&piece[..available]);
            self.input.consume(available);
            self.took(available, false)?;
            filled += available;
        }
        Ok(block)
    }

    fn skip(&mut self, mut bytes: usize) -> Result<(), Error> {
        while bytes > 0 {
            let available = self.fill()?.min(bytes);
            self.input.consume(available);
            self.took(available, false)?;
            bytes -= available;
        }
        Ok(())
    }

    /// After one block of zeros there must be another, and then zeros only.
    fn end(&mut self) -> Result<(), Error> {
        if self.block()? != [0; BLOCK] {
            return Err(self.refuse(Refusal::Checksum));
        }
        loop {
            let piece = self.input.fill_buf();
            let length = match piece {
                Ok([]) => return Ok(()),
                Ok(piece) if piece.iter().all(|byte| *byte == 0) => piece.len(),
                Ok(_) => return Err(self.refuse(Refusal::TrailingData)),
                Err(error) => return Err(self.unreadable(error)),
            };
            self.input.consume(length);
            self.took(length, false)?;
        }
    }

    /// How many bytes can be had at once, at least one.
    fn fill(&mut self) -> Result<usize, Error> {
        match self.input.fill_buf().map(<[u8]>::len) {
            Ok(0) => Err(self.refuse(Refusal::Truncated)),
            Ok(length) => Ok(length),
            Err(error) => Err(self.unreadable(error)),
        }
    }

    fn took(&mut self, bytes: usize, is_content: bool) -> Result<(), Error> {
        self.position += bytes as u64;
        self.progress.advance(bytes)?;
        if is_content {
            return Ok(());
        }
        self.other += bytes as u64;
        if self.other > self.limits.other_bytes {
            let limit = Limit::OtherBytes(self.limits.other_bytes);
            return Err(self.refuse(Refusal::Limit(limit)));
        }
        Ok(())
    }

    fn unreadable(&self, error: io::Error) -> Error {
        match source::failure(error) {
            Ok(failure) => Error::ReadArchive(failure),
            Err(damage) if damage.kind() == ErrorKind::UnexpectedEof => {
                self.refuse(Refusal::Truncated)
            }
            Err(damage) => self.refuse(Refusal::Corrupt(escape(damage.to_string().as_bytes()))),
        }
    }
}

/// A user's or group's number; the highest means "none" to the kernel.
fn id(number: u64) -> Option<u32> {
    u32::try_from(number).ok().filter(|id| *id != u32::MAX)
}

impl Extended {
    fn records(&mut self, data: &[u8]) -> Result<(), Refusal> {
        for record in pax::records(data) {
            let (key, value) = record.ok_or(Refusal::Extension("a record is malformed"))?;
            self.record(key, value)?;
        }
        Ok(())
    }

    fn record(&mut self, key: &[u8], value: &[u8]) -> Result<(), Refusal> {
        let decimal = || pax::decimal(value).ok_or(Refusal::Extension("no number"));
        if self.common.record(key, value)? {
            return Ok(());
        }
        if let Some(name) = key.strip_prefix(RECORD) {
            self.attributes.push((decode(name), value.to_vec()));
            return Ok(());
        }
        match key {
            b"path" => self.name = Some(value.to_vec()),
            b"linkpath" => self.link = Some(value.to_vec()),
            b"size" => self.size = Some(decimal()?),
            b"GNU.sparse.major" => self.sparse.major = Some(decimal()?),
            b"GNU.sparse.minor" => self.sparse.minor = Some(decimal()?),
            b"GNU.sparse.name" => self.sparse.name = Some(value.to_vec()),
            b"GNU.sparse.size" | b"GNU.sparse.realsize" => self.sparse.size = Some(decimal()?),
            b"GNU.sparse.numblocks" => self.sparse.pieces = Some(decimal()?),
            b"GNU.sparse.offset" | b"GNU.sparse.numbytes" => {
                self.sparse.map.get_or_insert_default().number(decimal()?)?;
            }
            b"GNU.sparse.map" => self.sparse.map.get_or_insert_default().commas(value)?,
            b"hdrcharset" => charset(value)?,
            // Times of access, names of owners, comments, other programs' own.
            _ => {}
        }
        Ok(())
    }

    /// The entry's name. Where two are given, programs differ in which they take.
    fn name(&self, header: &Header) -> Result<Vec<u8>, Refusal> {
        let pax = self.sparse.name.as_ref().or(self.name.as_ref());
        match (&self.long_name, pax) {
            (Some(long), Some(pax)) if long != pax => Err(Refusal::Extension("two names")),
            (Some(name), _) | (_, Some(name)) => Ok(name.clone()),
            (None, None) => {
                let name = text(&header.as_old().name);
                let prefix = header.as_ustar().map(|ustar| text(&ustar.prefix));
                Ok(match prefix {
                    Some(prefix) if !prefix.is_empty() => [prefix, b"/", name].concat(),
                    _ => name.to_vec(),
                })
            }
        }
    }

    fn link(&self, header: &Header) -> Result<Vec<u8>, Refusal> {
        match (&self.long_link, &self.link) {
            (Some(long), Some(pax)) if long != pax => Err(Refusal::Extension("two link targets")),
            (Some(link), _) | (_, Some(link)) => Ok(link.clone()),
            (None, None) => Ok(text(&header.as_old().linkname).to_vec()),
        }
    }
}

/// Names are taken as they are, which both of these mean here.
fn charset(name: &[u8]) -> Result<(), Refusal> {
    match name {
        b"BINARY" | b"ISO-IR 10646 2000 UTF-8" => Ok(()),
        _ => Err(Refusal::Extension("an unknown character set")),
    }
}

impl Common {
    /// Takes a record that may be for all entries; false when it is none of these. One without value
    /// takes back what was said before.
    fn record(&mut self, key: &[u8], value: &[u8]) -> Result<bool, Refusal> {
        let owner = || match value {
            b"" => Ok(None),
            value => match pax::decimal(value).and_then(id) {
                Some(id) => Ok(Some(id)),
                None => Err(Refusal::Extension("no user's or group's number")),
            },
        };
        match key {
            b"uid" => self.uid = owner()?,
            b"gid" => self.gid = owner()?,
            b"mtime" if value.is_empty() => self.modified = None,
            b"mtime" => {
                let time = pax::parse_time(value).ok_or(Refusal::Extension("no time"))?;
                self.modified = Some(time);
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// A global header: owners and times for all entries that follow and say nothing else, and what does
    /// not matter here, such as git's comment. What would give all entries one name, size or content is
    /// refused.
    fn global(&mut self, data: &[u8]) -> Result<(), Refusal> {
        for record in pax::records(data) {
            let (key, value) = record.ok_or(Refusal::Extension("a record is malformed"))?;
            if self.record(key, value)? {
                continue;
            }
            match key {
                b"hdrcharset" => charset(value)?,
                b"path" | b"linkpath" | b"size" => {
                    return Err(Refusal::Extension("it is for all entries"));
                }
                _ if key.starts_with(RECORD) || key.starts_with(b"GNU.sparse.") => {
                    return Err(Refusal::Extension("it is for all entries"));
                }
                _ => {}
            }
        }
        Ok(())
    }
}
