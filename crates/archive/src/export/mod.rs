//! Writing a tree as an archive.
//!
//! The tree is hostile, and may even be changing: see `botstead_overlay::beneath` for how it is gone
//! through. Files of a directory come first, in the order of their inodes (which is the order on
//! disk), then its directories. Memory does not depend on the files' sizes or number: it is buffers,
//! the names of the directories still to be gone into, and [`links`].

mod count;
mod extents;
mod links;

use crate::attributes::{Attribute, classify};
use crate::compress::{Compression, READ, Sink};
use crate::error::{Error, escape};
use crate::format::{END, Extent, Head, Kind, MapText, Time, encode, padding};
use crate::limits::MOST_EXTENDED;
use crate::names::clean;
use crate::progress::Progress;
use botstead_overlay::beneath::{self, Cursor, Listed, Names, batches, reopen};
use botstead_overlay::tree::{Attributes, id, kind, names, stat_fd};
pub use count::require_importable;
use links::Links;
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{FileType, Statx, readlinkat};
use rustix::io::{Errno, pread};
use std::ffi::{CStr, CString};
use std::io::Write;
use std::num::NonZero;

/// How many names of a directory are put in order at once.
const BATCH: usize = 4096;

/// How a tree is written.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ExportOptions {
    /// The folder that everything is in within the archive, such as `data`. Empty for none: names then
    /// begin with `./`, as with `tar -C dir -c .`.
    pub folder: String,
    /// How it is compressed.
    pub compression: Compression,
    /// How many threads compress, next to the one that reads.
    pub threads: NonZero<usize>,
}

impl ExportOptions {
    /// With gzip at its usual level, and as many threads as there are cores.
    pub fn new(folder: impl Into<String>) -> Self {
        Self {
            folder: folder.into(),
            compression: Compression::GZIP,
            threads: std::thread::available_parallelism().unwrap_or(NonZero::<usize>::MIN),
        }
    }
}

/// What an export wrote, and what it left out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ExportReport {
    /// Regular files, each once.
    pub files: u64,
    /// Further names of files.
    pub hard_links: u64,
    /// Directories, with the root.
    pub directories: u64,
    /// Symbolic links.
    pub symlinks: u64,
    /// Named pipes. They are kept: a pipe in a workspace is there for its programs to meet at, holds
    /// no data, and can be made again without being opened.
    pub fifos: u64,
    /// Bytes of files' data, without holes.
    pub bytes: u64,
    /// Sockets left out: one without its program is of no use.
    pub sockets_left_out: u64,
    /// Device nodes left out.
    pub devices_left_out: u64,
    /// Places left out because something is mounted there.
    pub mounts_left_out: u64,
    /// Extended attributes left out because they belong to the host; overlayfs' own not counted.
    pub attributes_left_out: u64,
}

/// Writes what is beneath `tree`, itself included, to `out`; gives `out` back. A `tree` that is open
/// as a mere place (`O_PATH`) suffices.
///
/// Nothing is synced. After an error `out` has a stream that no reader takes for complete.
///
/// # Errors
/// [`Error::Changed`] when a file became shorter than it said, a name was gone when it was its turn, or a
/// directory moved. A file that grows is written with the size that it had.
pub fn export<W: Write>(
    tree: impl AsFd,
    out: W,
    options: &ExportOptions,
    progress: &Progress,
) -> Result<(W, ExportReport), Error> {
    let folder = match options.folder.as_bytes() {
        b"" => b".".to_vec(),
        folder => clean(folder)
            .ok()
            .filter(|folder| !folder.is_empty())
            .ok_or_else(|| Error::Folder(escape(folder)))?,
    };
    let sink = Sink::new(out, options.compression, options.threads);
    let mut exporter = Exporter {
        sink: sink.map_err(Error::WriteArchive)?,
        folder,
        links: Links::new(),
        progress,
        report: ExportReport::default(),
        headers: Vec::new(),
        buffer: vec![0; READ],
    };
    exporter.run(tree)?;
    let Exporter {
        mut sink, report, ..
    } = exporter;
    let out = sink.write_all(&END).and_then(|()| sink.finish());
    tracing::debug!(?report, "exported a tree");
    Ok((out.map_err(Error::WriteArchive)?, report))
}

struct Exporter<'a, W: Write> {
    sink: Sink<W>,
    /// What all names begin with, without the slash.
    folder: Vec<u8>,
    links: Links,
    progress: &'a Progress,
    report: ExportReport,
    headers: Vec<u8>,
    buffer: Vec<u8>,
}

/// What an entry that holds data has: the file, its size and, if it has holes, its pieces.
struct Data<'a> {
    file: &'a OwnedFd,
    size: u64,
    extents: Option<Vec<Extent>>,
}

impl<W: Write> Exporter<'_, W> {
    fn run(&mut self, tree: impl AsFd) -> Result<(), Error> {
        let cursor = Cursor::new(tree);
        let mut cursor = cursor.map_err(|errno| Error::export("open", b".", errno))?;
        let mut frames = vec![self.directory(&cursor)?];
        while let Some(directories) = frames.last_mut() {
            let Some(name) = directories.pop() else {
                frames.pop();
                let path = cursor.path().to_vec();
                cursor.leave().map_err(|errno| match errno {
                    Errno::STALE => changed(&path),
                    errno => Error::export("leave", &path, errno),
                })?;
                continue;
            };
            match cursor.enter(&name) {
                Ok(()) => frames.push(self.directory(&cursor)?),
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {
                    return Err(changed(&join(&cursor, &name)));
                }
                Err(Errno::XDEV) => self.report.mounts_left_out += 1,
                Err(errno) => return Err(Error::export("open", &join(&cursor, &name), errno)),
            }
        }
        Ok(())
    }

    /// Writes a directory and what is no directory in it; the names of the directories.
    fn directory(&mut self, cursor: &Cursor) -> Result<Names, Error> {
        let path = cursor.path();
        let stat = stat_fd(cursor.dir()).map_err(|errno| Error::export("look at", path, errno))?;
        let attributes = self.attributes(&Attributes::of(cursor.dir()), path)?;
        self.entry(path, &stat, Kind::Directory, b"", &attributes, None)?;
        self.report.directories += 1;
        self.links.enter();
        let mut directories = Names::default();
        batches(cursor.dir(), BATCH, |mut batch| {
            batch.sort_unstable_by_key(|entry| entry.inode);
            for listed in batch {
                if listed.kind == FileType::Directory || self.other(cursor, &listed)? {
                    directories.push(&listed.name);
                }
            }
            Ok(())
        })
        .map_err(|failure| match failure {
            Failure::Errno(errno) => Error::export("read", path, errno),
            Failure::Error(error) => error,
        })?;
        Ok(directories)
    }

    /// Writes an entry; true when it is a directory, which is not written.
    fn other(&mut self, cursor: &Cursor, listed: &Listed) -> Result<bool, Error> {
        let name = &*listed.name;
        let path = join(cursor, name);
        let (opened, stat) = match open(cursor.dir(), listed) {
            Ok(opened) => opened,
            Err(Errno::NOENT) => return Err(changed(&path)),
            Err(Errno::XDEV) => {
                self.report.mounts_left_out += 1;
                return Ok(false);
            }
            Err(errno) => return Err(Error::export("open", &path, errno)),
        };
        match kind(&stat) {
            FileType::Directory => return Ok(true),
            FileType::RegularFile | FileType::Symlink | FileType::Fifo => {}
            FileType::Socket => {
                self.report.sockets_left_out += 1;
                return Ok(false);
            }
            _ => {
                self.report.devices_left_out += 1;
                return Ok(false);
            }
        }
        if stat.stx_nlink > 1 {
            if let Some(first) = self.links.find(id(&stat)) {
                let first = self.name(&first);
                self.entry(&path, &stat, Kind::HardLink, &first, &[], None)?;
                self.report.hard_links += 1;
                return Ok(false);
            }
            let added = self.links.add(id(&stat), cursor.path(), name.to_bytes());
            added.map_err(|()| Error::Excess {
                path: escape(&path),
                problem: "too many files have several names",
            })?;
        }
        match kind(&stat) {
            FileType::RegularFile => self.file(opened, &stat, &path)?,
            FileType::Symlink => {
                let place = opened.fd();
                let target = readlinkat(place, c"", Vec::new())
                    .map_err(|errno| Error::export("read", &path, errno))?;
                let attributes = self.attributes(&Attributes::of_place(place), &path)?;
                let target = target.to_bytes();
                self.entry(&path, &stat, Kind::Symlink, target, &attributes, None)?;
                self.report.symlinks += 1;
            }
            _ => {
                let attributes = self.attributes(&Attributes::of_place(opened.fd()), &path)?;
                self.entry(&path, &stat, Kind::Fifo, b"", &attributes, None)?;
                self.report.fifos += 1;
            }
        }
        Ok(false)
    }

    fn file(&mut self, opened: Opened, stat: &Statx, path: &[u8]) -> Result<(), Error> {
        let file = match opened {
            Opened::File(file) => file,
            Opened::Place(place) => {
                reopen(place).map_err(|errno| Error::export("read", path, errno))?
            }
        };
        let attributes = self.attributes(&Attributes::of(&file), path)?;
        let size = stat.stx_size;
        let extents = if extents::are_worth(size, stat.stx_blocks) {
            extents::find(&file, size, path)?
        } else {
            None
        };
        let data = Data {
            file: &file,
            size,
            extents,
        };
        self.entry(path, stat, Kind::File, b"", &attributes, Some(data))?;
        self.report.files += 1;
        Ok(())
    }

    fn entry(
        &mut self,
        path: &[u8],
        stat: &Statx,
        kind: Kind,
        link: &[u8],
        attributes: &[(CString, Vec<u8>)],
        data: Option<Data<'_>>,
    ) -> Result<(), Error> {
        let map = data.as_ref().and_then(|data| {
            let extents = data.extents.as_ref()?;
            Some((extents, MapText::new(extents, data.size)))
        });
        let stored = match (&data, &map) {
            (_, Some((extents, map))) => {
                let pieces: u64 = extents.iter().map(|piece| piece.length).sum();
                map.length() + pieces
            }
            (Some(data), None) => data.size,
            (None, None) => 0,
        };
        let head = Head {
            name: &self.name(path),
            link,
            kind,
            mode: u32::from(stat.stx_mode) & 0o7777,
            uid: stat.stx_uid,
            gid: stat.stx_gid,
            modified: Time {
                seconds: stat.stx_mtime.tv_sec,
                nanoseconds: stat.stx_mtime.tv_nsec,
            },
            stored,
            sparse: map.is_some().then_some(stat.stx_size),
            attributes,
        };
        self.headers.clear();
        if encode(&head, &mut self.headers) > MOST_EXTENDED {
            return Err(too_much_extended(path));
        }
        self.sink
            .write_all(&self.headers)
            .map_err(Error::WriteArchive)?;
        if let Some((_, map)) = &map {
            map.write(&mut self.sink).map_err(Error::WriteArchive)?;
        }
        if let Some(data) = &data {
            match &data.extents {
                Some(extents) => {
                    for piece in extents {
                        self.copy(data.file, *piece, path)?;
                    }
                }
                None => {
                    let all = Extent {
                        start: 0,
                        length: data.size,
                    };
                    self.copy(data.file, all, path)?;
                }
            }
            let rest = padding(stored);
            self.sink
                .write_all(&END[..rest])
                .map_err(Error::WriteArchive)?;
        }
        self.progress.entry();
        self.progress.advance(0)
    }

    fn copy(&mut self, file: &OwnedFd, piece: Extent, path: &[u8]) -> Result<(), Error> {
        let mut left = piece.length;
        while left > 0 {
            let length = usize::try_from(left).map_or(READ, |left| left.min(READ));
            let at = piece.start + (piece.length - left);
            let read = match pread(file, &mut self.buffer[..length], at) {
                Err(Errno::INTR) => continue,
                read => read.map_err(|errno| Error::export("read", path, errno))?,
            };
            if read == 0 {
                return Err(changed(path));
            }
            let written = self.sink.write_all(&self.buffer[..read]);
            written.map_err(Error::WriteArchive)?;
            left -= read as u64;
            self.report.bytes += read as u64;
            self.progress.advance(read)?;
        }
        Ok(())
    }

    fn attributes(
        &mut self,
        of: &Attributes<'_>,
        path: &[u8],
    ) -> Result<Vec<(CString, Vec<u8>)>, Error> {
        let failed = |errno| Error::export("read the attributes of", path, errno);
        let mut attributes = Vec::new();
        let mut bytes = 0;
        for name in names(&of.list().map_err(failed)?) {
            match classify(name.to_bytes()) {
                Attribute::Carried => {}
                Attribute::LeftOut => {
                    self.report.attributes_left_out += 1;
                    continue;
                }
                Attribute::Overlay => continue,
            }
            let value = match of.get(name) {
                // It was removed meanwhile.
                Err(Errno::NODATA) => continue,
                value => value.map_err(failed)?,
            };
            bytes += name.count_bytes() + value.len();
            if bytes > MOST_EXTENDED {
                return Err(too_much_extended(path));
            }
            attributes.push((name.to_owned(), value));
        }
        Ok(attributes)
    }

    /// The name in the archive of a path in the tree.
    fn name(&self, path: &[u8]) -> Vec<u8> {
        if path.is_empty() {
            return self.folder.clone();
        }
        [&self.folder, path].join(&b'/')
    }
}

/// An entry that is open.
enum Opened {
    /// As a mere place.
    Place(OwnedFd),
    /// A regular file, for reading.
    File(OwnedFd),
}

impl Opened {
    fn fd(&self) -> &OwnedFd {
        match self {
            Self::Place(fd) | Self::File(fd) => fd,
        }
    }
}

/// Opens an entry, whatever it is: a regular file at once for reading, as there are mostly many and the
/// way over its place takes two openings.
fn open(dir: &OwnedFd, listed: &Listed) -> Result<(Opened, Statx), Errno> {
    if listed.kind == FileType::RegularFile
        && let Ok(file) = beneath::file(dir, &listed.name)
    {
        let stat = stat_fd(&file)?;
        if kind(&stat) == FileType::RegularFile {
            return Ok((Opened::File(file), stat));
        }
    }
    let place = beneath::place(dir, &listed.name)?;
    let stat = stat_fd(&place)?;
    Ok((Opened::Place(place), stat))
}

fn join(cursor: &Cursor, name: &CStr) -> Vec<u8> {
    match cursor.path() {
        b"" => name.to_bytes().to_vec(),
        path => [path, name.to_bytes()].join(&b'/'),
    }
}

fn changed(path: &[u8]) -> Error {
    Error::Changed { path: escape(path) }
}

fn too_much_extended(path: &[u8]) -> Error {
    Error::Excess {
        path: escape(path),
        problem: "its extended attributes are longer than 8 MiB",
    }
}

/// What ends the reading of a directory: its own failure, or that of an entry.
enum Failure {
    Errno(Errno),
    Error(Error),
}

impl From<Errno> for Failure {
    fn from(errno: Errno) -> Self {
        Self::Errno(errno)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}
