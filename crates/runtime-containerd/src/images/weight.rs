//! How much a layer takes unpacked: its tar file is walked as containerd's reader, that of Go, walks
//! it, because what two readers see differently is where one of them can be deceived. Where this one
//! is in doubt it fails.

use super::archive::{Format, invalid};
use std::io::{self, BufRead, Cursor, ErrorKind, Read};

/// What every entry takes besides its data: an inode, a name, a block that is not full.
const ENTRY: u64 = 4 << 10;
/// The size of a tar file's blocks.
const BLOCK: usize = 512;
/// The most that Go's reader takes as extended header or long name.
const MAX_SPECIAL: u64 = 1 << 20;

/// The bytes of a layer's tar file, those that its sparse files have besides, and [`ENTRY`] for each
/// entry. More than `limit` is `FileTooLarge`. What it is compressed with, its first bytes tell, as
/// they do containerd: its media type is only a claim.
///
/// A Zstandard window that is wider than `window` is [`TooWide`].
pub(super) fn weigh(mut layer: impl BufRead, limit: u64, window: Window) -> io::Result<u64> {
    let mut start = Vec::new();
    layer.by_ref().take(4).read_to_end(&mut start)?;
    let format = Format::of(&start);
    let layer = Cursor::new(start).chain(layer);
    match format {
        // Nothing else is unpacked by containerd.
        Format::Plain | Format::Xz | Format::Bzip2 => walk(layer, limit),
        Format::Gzip => walk(flate2::bufread::MultiGzDecoder::new(layer), limit),
        Format::Zstd => {
            let mut decoder = zstd::Decoder::with_buffer(layer)?;
            decoder.window_log_max(window.log())?;
            walk(decoder, limit).map_err(|error| match is_too_wide(&error) {
                true if window == Window::Usual => io::Error::other(TooWide),
                _ => error,
            })
        }
    }
}

/// How much memory the reading of Zstandard may take: it looks back so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Window {
    /// 8 MiB, which no level of compression goes beyond that was not asked to: RFC 8878 recommends to
    /// read that much at least, and to write no more.
    Usual,
    /// 128 MiB, the most that containerd reads.
    Widest,
}

impl Window {
    fn log(self) -> u32 {
        match self {
            Self::Usual => 23,
            Self::Widest => 27,
        }
    }
}

/// It needs [`Window::Widest`].
#[derive(Debug, thiserror::Error)]
#[error("its window is wider than usual")]
pub(super) struct TooWide;

impl TooWide {
    /// Whether an error is this one.
    pub(super) fn is(error: &io::Error) -> bool {
        error.get_ref().is_some_and(|inner| inner.is::<Self>())
    }
}

/// The library has no kind for it.
fn is_too_wide(error: &io::Error) -> bool {
    error.to_string().contains("requires too much memory")
}

fn walk(tar: impl Read, limit: u64) -> io::Result<u64> {
    let mut walk = Walk { tar, left: limit };
    let mut pax = Pax::default();
    let mut long_name = Vec::new();
    while let Some(header) = walk.header()? {
        let size = number(&header[124..136])?;
        let kind = header[156];
        match kind {
            b'x' => {
                pax = Pax::parse(&walk.special(size)?)?;
                continue;
            }
            b'L' => {
                long_name = walk.special(size)?;
                continue;
            }
            b'K' => {
                walk.special(size)?;
                continue;
            }
            _ => {}
        }
        let pax = std::mem::take(&mut pax);
        let long_name = std::mem::take(&mut long_name);
        // The size of a global header is its own.
        let size = pax.size.filter(|_| kind != b'g').unwrap_or(size);
        let mut real = pax.real_size;
        if kind == b'S' {
            real = real.max(number(&header[483..495])?);
            let mut more = header[482];
            while more != 0 {
                more = walk.block()?[504];
            }
        }
        walk.take(ENTRY.saturating_add(real.saturating_sub(size)))?;
        // Links, devices, directories and pipes have no data, whatever their size says.
        if matches!(kind, b'1'..=b'6') {
            continue;
        }
        // An old file with the name of a directory is one, without data, and the last name counts.
        let names = [text(&header[..100]), &pax.path, text(&long_name)];
        let is_dir = |name: &[u8]| name.ends_with(b"/");
        if kind == 0 && size > 0 && (names[0].is_empty() || names.into_iter().any(is_dir)) {
            return Err(invalid("it has a directory with data"));
        }
        walk.skip(size)?;
    }
    walk.rest()?;
    Ok(limit - walk.left)
}

/// A tar file, and for how many bytes there is room.
struct Walk<R> {
    tar: R,
    left: u64,
}

impl<R: Read> Walk<R> {
    fn take(&mut self, bytes: u64) -> io::Result<()> {
        let left = self.left.checked_sub(bytes);
        self.left = left.ok_or(ErrorKind::FileTooLarge)?;
        Ok(())
    }

    /// Fills the buffer as far as there is something.
    fn fill(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.tar.read(&mut buffer[filled..])? {
                0 => break,
                read => {
                    self.take(read as u64)?;
                    filled += read;
                }
            }
        }
        Ok(filled)
    }

    fn block(&mut self) -> io::Result<[u8; BLOCK]> {
        let mut block = [0; BLOCK];
        match self.fill(&mut block)? {
            BLOCK => Ok(block),
            _ => Err(ErrorKind::UnexpectedEof.into()),
        }
    }

    /// The next header; none at the end.
    fn header(&mut self) -> io::Result<Option<[u8; BLOCK]>> {
        let mut header = [0; BLOCK];
        match self.fill(&mut header)? {
            0 => return Ok(None),
            BLOCK if header == [0; BLOCK] => return Ok(None),
            BLOCK => {}
            _ => return Err(ErrorKind::UnexpectedEof.into()),
        }
        // The checksum counts as spaces in itself. Some have it of signed bytes.
        let mut summed = header;
        summed[148..156].fill(b' ');
        let unsigned: i64 = summed.iter().map(|byte| i64::from(*byte)).sum();
        let signed: i64 = summed.iter().map(|byte| i64::from(*byte as i8)).sum();
        let sum = i64::try_from(number(&header[148..156])?).unwrap_or(-1);
        if sum != unsigned && sum != signed {
            return Err(invalid("a header's checksum is wrong"));
        }
        Ok(Some(header))
    }

    /// The data of an entry that describes the next one.
    fn special(&mut self, size: u64) -> io::Result<Vec<u8>> {
        if size > MAX_SPECIAL {
            return Err(invalid("an extended header is too large"));
        }
        let mut data = vec![0; size as usize];
        if self.fill(&mut data)? < data.len() {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        self.padding(size)?;
        Ok(data)
    }

    /// Goes on behind data.
    fn skip(&mut self, size: u64) -> io::Result<()> {
        let mut buffer = [0; 32 << 10];
        let mut left = size;
        while left > 0 {
            let wanted = left.min(buffer.len() as u64) as usize;
            if self.fill(&mut buffer[..wanted])? < wanted {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            left -= wanted as u64;
        }
        self.padding(size)
    }

    /// Data ends with its block, the last one's perhaps not.
    fn padding(&mut self, size: u64) -> io::Result<()> {
        let padding = size.wrapping_neg() as usize % BLOCK;
        self.fill(&mut [0; BLOCK][..padding])?;
        Ok(())
    }

    /// What stands behind the end is not unpacked, but read.
    fn rest(&mut self) -> io::Result<()> {
        let mut buffer = [0; 32 << 10];
        while self.fill(&mut buffer)? > 0 {}
        Ok(())
    }
}

/// What matters of the records of an extended header.
#[derive(Default)]
struct Pax {
    size: Option<u64>,
    /// The largest that any record gives a sparse file.
    real_size: u64,
    path: Vec<u8>,
}

impl Pax {
    /// Records are `LENGTH KEY=VALUE\n`, the length that of all of it. The last one of a key counts.
    fn parse(mut records: &[u8]) -> io::Result<Self> {
        let mut pax = Self::default();
        while !records.is_empty() {
            let wrong = || invalid("an extended header cannot be read");
            let space = records.iter().position(|byte| *byte == b' ');
            let space = space.ok_or_else(wrong)?;
            let length = decimal(&records[..space])? as usize;
            let record = records.get(space + 1..length).ok_or_else(wrong)?;
            let record = record.strip_suffix(b"\n").ok_or_else(wrong)?;
            records = &records[length..];
            let equals = record.iter().position(|byte| *byte == b'=');
            let (key, value) = record.split_at(equals.ok_or_else(wrong)?);
            let value = &value[1..];
            match key {
                b"size" if value.is_empty() => pax.size = None,
                b"size" => pax.size = Some(decimal(value)?),
                b"path" => pax.path = value.to_vec(),
                b"GNU.sparse.size" | b"GNU.sparse.realsize" if !value.is_empty() => {
                    pax.real_size = pax.real_size.max(decimal(value)?);
                }
                _ => {}
            }
        }
        Ok(pax)
    }
}

/// What stands before the first NUL.
fn text(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}

fn decimal(digits: &[u8]) -> io::Result<u64> {
    parsed(digits, 10)
}

fn parsed(digits: &[u8], radix: u32) -> io::Result<u64> {
    let digits = std::str::from_utf8(digits).ok();
    let number = digits.and_then(|digits| i64::from_str_radix(digits, radix).ok());
    let number = number.and_then(|number| u64::try_from(number).ok());
    number.ok_or_else(|| invalid("a number is out of range"))
}

/// A number of a header: octal digits, or binary when its first bit is set.
fn number(field: &[u8]) -> io::Result<u64> {
    match field {
        [first, rest @ ..] if first & 0x80 != 0 => {
            let mut number = i64::from(first & 0x7f);
            for byte in rest {
                let shifted = number.checked_mul(256);
                let shifted = shifted.ok_or_else(|| invalid("a number is out of range"))?;
                number = shifted | i64::from(*byte);
            }
            Ok(number as u64)
        }
        _ => {
            let blank = |byte: &u8| matches!(byte, b' ' | 0);
            let Some(start) = field.iter().position(|byte| !blank(byte)) else {
                return Ok(0);
            };
            let digits = text(&field[start..]).trim_ascii_end();
            parsed(digits, 8)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    const LIMIT: u64 = 1 << 20;

    fn header(kind: u8, name: &str, size: u64) -> tar::Header {
        let mut header = tar::Header::new_gnu();
        header.as_old_mut().linkflag = [kind];
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_size(size);
        header.set_cksum();
        header
    }

    fn sparse(key: &str, real: &str) -> Vec<u8> {
        let mut tar = tar::Builder::new(Vec::new());
        let records = [
            ("GNU.sparse.major", "1"),
            ("GNU.sparse.minor", "0"),
            (key, real),
        ];
        let records = records.map(|(key, value)| (key, value.as_bytes()));
        tar.append_pax_extensions(records).unwrap();
        tar.append(&header(b'0', "a", 512), &[0; 512][..]).unwrap();
        tar.into_inner().unwrap()
    }

    fn weigh(layer: impl BufRead, limit: u64) -> io::Result<u64> {
        super::weigh(layer, limit, Window::Usual)
    }

    fn too_large(tar: &[u8]) -> bool {
        match weigh(tar, LIMIT) {
            Ok(weight) => {
                assert!(weight <= LIMIT);
                false
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::FileTooLarge, "{error}");
                true
            }
        }
    }

    #[test]
    fn layers_are_weighed_by_their_first_bytes_up_to_a_limit() {
        let mut tar = tar::Builder::new(Vec::new());
        let data = vec![7; 10 << 20];
        tar.append(&header(b'0', "a", 10 << 20), data.as_slice())
            .unwrap();
        let tar = tar.into_inner().unwrap();
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        gzip.write_all(&tar).unwrap();
        let gzip = gzip.finish().unwrap();
        let zstd = zstd::encode_all(tar.as_slice(), 19).unwrap();
        // A frame that is skipped may come first (RFC 8878).
        let skippable = [b"\x5a\x2a\x4d\x18\x02\0\0\0ab", zstd.as_slice()].concat();
        for layer in [&tar, &gzip, &zstd, &skippable] {
            let weight = weigh(layer.as_slice(), u64::MAX).unwrap();
            assert_eq!(weight, tar.len() as u64 + ENTRY);
            assert!(too_large(layer));
            assert!(weigh(&layer[..layer.len() / 2], u64::MAX).is_err());
        }
        // Members one after the other are one stream; the second is behind the end.
        let twice = [gzip.as_slice(), gzip.as_slice()].concat();
        let weight = weigh(twice.as_slice(), u64::MAX).unwrap();
        assert_eq!(weight, 2 * tar.len() as u64 + ENTRY);
        assert_eq!(weigh(&b""[..], 0).unwrap(), 0);
    }

    #[test]
    fn what_needs_more_memory_than_usual_is_told_apart() {
        let mut tar = tar::Builder::new(Vec::new());
        tar.append(&header(b'0', "a", 64), &[7; 64][..]).unwrap();
        let tar = tar.into_inner().unwrap();
        let compressed = |log| {
            let mut zstd = zstd::Encoder::new(Vec::new(), 3).unwrap();
            zstd.window_log(log).unwrap();
            zstd.write_all(&tar).unwrap();
            zstd.finish().unwrap()
        };
        let (usual, wide) = (compressed(23), compressed(27));
        assert!(weigh(usual.as_slice(), LIMIT).is_ok());
        let refused = weigh(wide.as_slice(), LIMIT).unwrap_err();
        assert!(TooWide::is(&refused), "{refused}");
        let weight = super::weigh(wide.as_slice(), LIMIT, Window::Widest);
        assert_eq!(weight.unwrap(), tar.len() as u64 + ENTRY);
        // Behind a frame that is not.
        let both = [usual, wide].concat();
        assert!(TooWide::is(&weigh(both.as_slice(), LIMIT).unwrap_err()));
        let widest = super::weigh(compressed(28).as_slice(), LIMIT, Window::Widest).unwrap_err();
        assert!(!TooWide::is(&widest), "{widest}");
    }

    #[test]
    fn sparse_files_weigh_what_they_become() {
        for key in ["GNU.sparse.size", "GNU.sparse.realsize"] {
            assert!(too_large(&sparse(key, "2000000")), "{key}");
            assert!(!too_large(&sparse(key, "20000")), "{key}");
            assert!(weigh(sparse(key, "-1").as_slice(), LIMIT).is_err());
        }
        // The old form, with a block of more places before the data.
        let mut old = header(b'S', "a", 512);
        let gnu = old.as_gnu_mut().unwrap();
        gnu.isextended = [1];
        gnu.realsize = *b"00007500000\0";
        old.set_cksum();
        let mut tar = old.as_bytes().to_vec();
        tar.extend([0; 1024]);
        assert!(too_large(&tar));
    }

    #[test]
    fn entries_weigh_without_data() {
        let mut tar = tar::Builder::new(Vec::new());
        for _ in 0..256 {
            tar.append(&header(b'0', "a", 0), io::empty()).unwrap();
        }
        assert!(too_large(&tar.into_inner().unwrap()));
    }

    #[test]
    fn nothing_hides_a_sparse_file() {
        let bomb = sparse("GNU.sparse.realsize", "2000000");
        // Links have no data: what stands there is the next entry.
        let mut tar = header(b'2', "link", 2 << 10).as_bytes().to_vec();
        tar.extend(&bomb);
        assert!(too_large(&tar));
        // Nor have directories of an old form.
        let mut tar = header(0, "dir/", 2 << 10).as_bytes().to_vec();
        tar.extend(&bomb);
        assert!(weigh(tar.as_slice(), LIMIT).is_err());
        // The last record of a size counts, and an empty one does not.
        for last in ["0", ""] {
            let mut tar = tar::Builder::new(Vec::new());
            tar.append_pax_extensions([("size", &b"2048"[..]), ("size", last.as_bytes())])
                .unwrap();
            let mut tar = tar.get_ref().clone();
            tar.extend(header(b'0', "a", 0).as_bytes());
            tar.extend(&bomb);
            assert!(too_large(&tar), "{last:?}");
        }
        // Numbers may begin with NUL.
        let mut link = header(b'0', "a", 0);
        link.as_old_mut().size = *b"\x00\x00000000100\0";
        link.set_cksum();
        let mut tar = link.as_bytes().to_vec();
        tar.extend([0; 512]);
        tar.extend(&bomb);
        assert!(too_large(&tar));
        // And may be binary.
        assert_eq!(number(b"\x80\0\0\0\0\0\0\0\0\0\x01\x02").unwrap(), 258);
        assert!(number(&[0xff; 12]).is_err());
    }
}
