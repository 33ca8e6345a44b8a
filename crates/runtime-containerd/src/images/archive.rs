//! Reading tar files, plain or compressed, from front to back as often as needed. Nothing is ever
//! unpacked to disk, and names in it are keys of a table, never paths of this host.

use bytes::Bytes;
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek};
use std::ops::ControlFlow;
use std::path::{Component, Path, PathBuf};
use tokio_util::sync::CancellationToken;

/// More entries than this has no image.
const MAX_ENTRIES: usize = 100_000;
/// Files up to this size are kept from the first reading, as manifests and configurations are small.
const KEEP: u64 = 256 << 10;
/// All that is kept, at most.
const KEEP_ALL: usize = 32 << 20;
const MAX_LINKS: usize = 8;
/// How many bytes of something tell its format.
const START: u64 = 10;

/// What unpacking xz may take of memory: `xz -9` needs 65 MiB.
const XZ_MEMORY: u64 = 128 << 20;

/// How something is compressed, by its first bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Plain,
    Gzip,
    Zstd,
    Xz,
    Bzip2,
}

impl Format {
    /// RFC 1952 and RFC 8878; The .xz File Format, 2.1.1.1; bzip2's own manual.
    pub(super) fn of(start: &[u8]) -> Self {
        match start {
            [0x1f, 0x8b, ..] => Self::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Self::Zstd,
            // A frame that is skipped.
            [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Self::Xz,
            // With the beginning of a block: a tar file may begin with a name like the rest.
            [
                b'B',
                b'Z',
                b'h',
                b'1'..=b'9',
                0x31,
                0x41,
                0x59,
                0x26,
                0x53,
                0x59,
                ..,
            ] => Self::Bzip2,
            _ => Self::Plain,
        }
    }
}

/// A file of an archive.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    /// Its place among all entries, which names it even where a name stands twice.
    pub(super) position: usize,
    pub(super) size: u64,
    pub(super) format: Format,
    kept: Option<Bytes>,
}

#[derive(Debug)]
enum Found {
    File(Entry),
    /// The names that it may lead to: the first that is there counts.
    Link(Vec<String>),
}

/// An archive and the table of its files.
#[derive(Debug)]
pub(super) struct Archive {
    path: PathBuf,
    format: Format,
    entries: HashMap<String, Found>,
    /// The most bytes that it may have uncompressed.
    most: u64,
    cancel: CancellationToken,
}

impl Archive {
    /// Reads the archive once. Blocks; ends early with an error when `cancel` is cancelled, as every
    /// later reading does. One that has more than `most` bytes uncompressed is `FileTooLarge`.
    pub(super) fn open(path: &Path, most: u64, cancel: CancellationToken) -> io::Result<Self> {
        let mut start = Vec::new();
        File::open(path)?.take(START).read_to_end(&mut start)?;
        let mut archive = Self {
            path: path.to_owned(),
            format: Format::of(&start),
            entries: HashMap::new(),
            most,
            cancel,
        };
        let mut entries = HashMap::new();
        let mut kept_bytes = 0;
        archive.each(|position, entry| {
            if position >= MAX_ENTRIES {
                return Err(invalid("it has too many entries"));
            }
            let Some(name) = name_of(&entry.path()?) else {
                return Ok(ControlFlow::Continue(()));
            };
            let kind = entry.header().entry_type();
            let found = if kind.is_file() {
                let size = entry.size();
                let mut data = Vec::new();
                let keep = size <= KEEP && kept_bytes + size as usize <= KEEP_ALL;
                let wanted = if keep { size } else { START };
                entry.take(wanted).read_to_end(&mut data)?;
                let format = Format::of(&data);
                if keep {
                    kept_bytes += data.len();
                }
                Found::File(Entry {
                    position,
                    size,
                    format,
                    kept: keep.then(|| data.into()),
                })
            } else if kind.is_symlink() || kind.is_hard_link() {
                let Some(target) = entry.link_name()? else {
                    return Ok(ControlFlow::Continue(()));
                };
                // Tools write targets as seen from the archive's root, too, with a slash or without.
                let from_root = target.strip_prefix("/").unwrap_or(&target);
                let mut targets = Vec::new();
                if kind.is_symlink() && target.is_relative() {
                    let parent = Path::new(&name).parent().unwrap_or(Path::new(""));
                    targets.extend(name_of(&parent.join(&target)));
                }
                targets.extend(name_of(from_root));
                Found::Link(targets)
            } else {
                return Ok(ControlFlow::Continue(()));
            };
            entries.entry(name).or_insert(found);
            Ok(ControlFlow::Continue(()))
        })?;
        archive.entries = entries;
        Ok(archive)
    }

    /// A file by its name, through links inside the archive.
    pub(super) fn find(&self, name: &str) -> Option<&Entry> {
        let mut name = name_of(Path::new(name))?;
        for _ in 0..MAX_LINKS {
            match self.entries.get(&name)? {
                Found::File(entry) => return Some(entry),
                Found::Link(targets) => {
                    let there = |target: &&String| self.entries.contains_key(*target);
                    name.clone_from(targets.iter().find(there)?);
                }
            }
        }
        None
    }

    /// The bytes of a file of at most `limit` bytes; none when it is not there.
    pub(super) fn read(&self, name: &str, limit: u64) -> io::Result<Option<Bytes>> {
        let Some(entry) = self.find(name) else {
            return Ok(None);
        };
        if let Some(kept) = &entry.kept {
            return Ok(Some(kept.clone()));
        }
        if entry.size > limit {
            return Err(invalid("a manifest or configuration in it is too large"));
        }
        let wanted = entry.position;
        let mut data = Vec::new();
        self.each(|position, entry| {
            if position < wanted {
                return Ok(ControlFlow::Continue(()));
            }
            entry.take(limit).read_to_end(&mut data)?;
            Ok(ControlFlow::Break(()))
        })?;
        Ok(Some(data.into()))
    }

    /// Calls `visit` with every file that `wanted` names by position, in the archive's order.
    pub(super) fn stream(
        &self,
        mut wanted: Vec<usize>,
        mut visit: impl FnMut(usize, &mut dyn Read) -> io::Result<()>,
    ) -> io::Result<()> {
        wanted.sort_unstable();
        wanted.dedup();
        let mut left = wanted.into_iter().peekable();
        if left.peek().is_none() {
            return Ok(());
        }
        self.each(|position, entry| {
            if left.peek() == Some(&position) {
                left.next();
                visit(position, entry)?;
            }
            Ok(match left.peek() {
                Some(_) => ControlFlow::Continue(()),
                None => ControlFlow::Break(()),
            })
        })
    }

    fn each<F>(&self, visit: F) -> io::Result<()>
    where
        F: FnMut(usize, &mut tar::Entry<'_, &mut dyn Read>) -> io::Result<ControlFlow<()>>,
    {
        let file = Cancellable {
            file: File::open(&self.path)?,
            cancel: self.cancel.clone(),
        };
        match self.format {
            // A plain file's data is skipped by seeking.
            Format::Plain => self.each_seek(file, visit),
            Format::Gzip => {
                let reader = flate2::read::MultiGzDecoder::new(BufReader::new(file));
                walk(&mut Bounded(reader, self.most), visit)
            }
            Format::Zstd => walk(&mut Bounded(zstd::Decoder::new(file)?, self.most), visit),
            Format::Xz => {
                let flags = liblzma::stream::CONCATENATED;
                let stream = liblzma::stream::Stream::new_stream_decoder(XZ_MEMORY, flags)?;
                let reader = liblzma::bufread::XzDecoder::new_stream(BufReader::new(file), stream);
                walk(&mut Bounded(reader, self.most), visit)
            }
            Format::Bzip2 => {
                let reader = bzip2::bufread::MultiBzDecoder::new(BufReader::new(file));
                walk(&mut Bounded(reader, self.most), visit)
            }
        }
    }

    fn each_seek<F>(&self, mut file: Cancellable, mut visit: F) -> io::Result<()>
    where
        F: FnMut(usize, &mut tar::Entry<'_, &mut dyn Read>) -> io::Result<ControlFlow<()>>,
    {
        // `tar` gives seeking archives another entry type; positions of data are enough to hop.
        let mut at = 0;
        let mut position = 0;
        loop {
            file.seek(io::SeekFrom::Start(at))?;
            let mut reader: &mut dyn Read = &mut file;
            let mut archive = tar::Archive::new(&mut reader as &mut dyn Read);
            let mut entries = archive.entries()?;
            let Some(entry) = entries.next() else {
                return Ok(());
            };
            let mut entry = entry?;
            if entry.header().entry_type().is_gnu_sparse() {
                // Its size here is not its size in the archive, and no image tool writes it.
                return Err(invalid("it has a sparse entry"));
            }
            let data = at + entry.raw_file_position();
            let next = data
                .checked_add(entry.size())
                .and_then(|end| end.checked_next_multiple_of(512))
                .ok_or_else(|| invalid("an entry's size is out of range"))?;
            if visit(position, &mut entry)?.is_break() {
                return Ok(());
            }
            at = next;
            position += 1;
        }
    }
}

fn walk<F>(reader: &mut dyn Read, mut visit: F) -> io::Result<()>
where
    F: FnMut(usize, &mut tar::Entry<'_, &mut dyn Read>) -> io::Result<ControlFlow<()>>,
{
    let mut archive = tar::Archive::new(reader);
    for (position, entry) in archive.entries()?.enumerate() {
        if visit(position, &mut entry?)?.is_break() {
            break;
        }
    }
    Ok(())
}

/// A name in the archive without `.` parts; none for one that leaves it.
fn name_of(path: &Path) -> Option<String> {
    let mut parts: Vec<&str> = Vec::new();
    for component in path.components() {
        match component {
            Component::Normal(part) => parts.push(part.to_str()?),
            Component::CurDir => {}
            Component::ParentDir => {
                parts.pop()?;
            }
            Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    (!parts.is_empty()).then(|| parts.join("/"))
}

pub(super) fn invalid(reason: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

/// A reader that fails after so many bytes.
struct Bounded<R>(R, u64);

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.0.read(buffer)?;
        self.1 = self
            .1
            .checked_sub(read as u64)
            .ok_or(io::ErrorKind::FileTooLarge)?;
        Ok(read)
    }
}

/// A file whose reading ends when it is cancelled: dropping a future does not end a thread.
struct Cancellable {
    file: File,
    cancel: CancellationToken,
}

impl Read for Cancellable {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.cancel.is_cancelled() {
            // Not `Interrupted`: readers try that again.
            return Err(io::Error::other("cancelled"));
        }
        self.file.read(buffer)
    }
}

impl Seek for Cancellable {
    fn seek(&mut self, to: io::SeekFrom) -> io::Result<u64> {
        self.file.seek(to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn archive(write: impl FnOnce(&mut tar::Builder<Vec<u8>>)) -> Vec<u8> {
        let mut tar = tar::Builder::new(Vec::new());
        write(&mut tar);
        tar.into_inner().unwrap()
    }

    fn file(tar: &mut tar::Builder<Vec<u8>>, name: &str, data: &[u8]) {
        let mut header = tar::Header::new_gnu();
        header.set_size(data.len() as u64);
        // Written raw: the library refuses the names that hostile archives have.
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_cksum();
        tar.append(&header, data).unwrap();
    }

    fn opened(bytes: &[u8]) -> (tempfile::NamedTempFile, io::Result<Archive>) {
        let mut temporary = tempfile::NamedTempFile::new().unwrap();
        temporary.write_all(bytes).unwrap();
        let archive = Archive::open(temporary.path(), 1 << 20, CancellationToken::new());
        (temporary, archive)
    }

    #[test]
    fn all_formats_read_alike() {
        let large = vec![7; 600 << 10];
        let plain = archive(|tar| {
            file(tar, "./a", b"first");
            file(tar, "large", &large);
            file(tar, "dir/b", b"second");
        });
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&plain).unwrap();
        let gzip = gzip.finish().unwrap();
        let zstd = zstd::encode_all(plain.as_slice(), 1).unwrap();
        let mut bzip2 = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
        bzip2.write_all(&plain).unwrap();
        let bzip2 = bzip2.finish().unwrap();
        // Several members, as pbzip2 and pixz write them.
        let (first, second) = plain.split_at(1000);
        let xz = |bytes: &[u8]| liblzma::encode_all(bytes, 6).unwrap();
        let xz = [xz(first), xz(second)].concat();
        for bytes in [plain, gzip, zstd, bzip2, xz] {
            let (_file, archive) = opened(&bytes);
            let archive = archive.unwrap();
            assert_eq!(archive.read("a", 10).unwrap().unwrap(), "first");
            assert_eq!(archive.read("large", 1 << 20).unwrap().unwrap(), large);
            assert!(archive.read("large", 10).is_err());
            assert!(archive.read("nothing", 10).unwrap().is_none());
            let position = archive.find("dir/b").unwrap().position;
            let mut seen = Vec::new();
            archive
                .stream(vec![position], |_, reader| {
                    reader.read_to_end(&mut seen).map(|_| ())
                })
                .unwrap();
            assert_eq!(seen, b"second");
        }
    }

    #[test]
    fn names_that_leave_the_archive_are_not_found() {
        let bytes = archive(|tar| {
            file(tar, "../out", b"x");
            file(tar, "/absolute", b"x");
            file(tar, "ok/../inside", b"x");
        });
        let (_file, archive) = opened(&bytes);
        let archive = archive.unwrap();
        for name in ["../out", "out", "/absolute", "absolute"] {
            assert!(archive.find(name).is_none(), "{name}");
        }
        assert!(archive.find("inside").is_some());
    }

    #[test]
    fn links_are_followed_inside_and_not_for_ever() {
        let bytes = archive(|tar| {
            file(tar, "x/layer.tar", b"data");
            for (name, target) in [
                ("y/layer.tar", "../x/layer.tar"),
                ("loop", "loop"),
                ("out", "../../etc/passwd"),
                ("z/from_root", "x/layer.tar"),
                ("z/absolute", "/x/layer.tar"),
                ("z/above", "/../x/layer.tar"),
            ] {
                let mut header = tar::Header::new_gnu();
                header.set_entry_type(tar::EntryType::Symlink);
                header.set_size(0);
                header.set_path(name).unwrap();
                header.set_link_name_literal(target).unwrap();
                header.set_cksum();
                tar.append(&header, &b""[..]).unwrap();
            }
        });
        let (_file, archive) = opened(&bytes);
        let archive = archive.unwrap();
        assert_eq!(archive.read("y/layer.tar", 10).unwrap().unwrap(), "data");
        for name in ["z/from_root", "z/absolute"] {
            assert_eq!(archive.read(name, 10).unwrap().unwrap(), "data", "{name}");
        }
        assert!(archive.find("z/above").is_none());
        assert!(archive.find("loop").is_none());
        assert!(archive.find("out").is_none());
    }

    #[test]
    fn a_small_archive_of_much_data_is_too_large() {
        let plain = archive(|tar| file(tar, "zeros", &vec![0; 2 << 20]));
        let zstd = zstd::encode_all(plain.as_slice(), 1).unwrap();
        let (_file, archive) = opened(&zstd);
        assert_eq!(archive.unwrap_err().kind(), io::ErrorKind::FileTooLarge);
    }

    #[test]
    fn xz_and_bzip2_have_limits_of_data_and_memory() {
        let plain = archive(|tar| file(tar, "zeros", &vec![0; 2 << 20]));
        let xz = liblzma::encode_all(plain.as_slice(), 1).unwrap();
        let mut bzip2 = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::best());
        bzip2.write_all(&plain).unwrap();
        for bytes in [xz, bzip2.finish().unwrap()] {
            let (_file, archive) = opened(&bytes);
            assert_eq!(archive.unwrap_err().kind(), io::ErrorKind::FileTooLarge);
        }
        // A dictionary of 1 GiB would take as much memory.
        let mut options = liblzma::stream::LzmaOptions::new_preset(0).unwrap();
        options.dict_size(1 << 30);
        let mut filters = liblzma::stream::Filters::new();
        filters.lzma2(&options);
        let check = liblzma::stream::Check::Crc64;
        let stream = liblzma::stream::Stream::new_stream_encoder(&filters, check).unwrap();
        let mut encoder = liblzma::write::XzEncoder::new_stream(Vec::new(), stream);
        encoder
            .write_all(&archive(|tar| file(tar, "a", b"x")))
            .unwrap();
        let (_file, archive) = opened(&encoder.finish().unwrap());
        assert!(archive.is_err());
    }

    #[test]
    fn what_is_no_tar_file_is_an_error() {
        let (_file, archive) = opened(&[b'x'; 2000]);
        assert!(archive.is_err());
    }

    #[test]
    fn a_cancelled_reading_ends() {
        let bytes = archive(|tar| file(tar, "a", b"x"));
        let (file, archive) = opened(&bytes);
        let archive = archive.unwrap();
        archive.cancel.cancel();
        assert!(archive.each(|_, _| Ok(ControlFlow::Continue(()))).is_err());
        drop(file);
    }
}
