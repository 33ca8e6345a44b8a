//! `Archive`: a tree or a file as a tar stream, written while it is read.

mod format;
mod sparse;

use super::buffers::Buffers;
use super::entry::kind;
use super::failure::{Result, failed};
use super::links::Links;
use super::path::child;
use super::pieces::{Budget, Source};
use super::read::open_regular;
use super::root::{Id, locate, open_name, stat_at, stat_fd, vanished};
use super::walk::{Step, Walk};
use botstead_bridge::proto::archive_reply::Done;
use botstead_bridge::proto::{ArchiveReply, ArchiveRequest};
use botstead_bridge::{CHUNK_BYTES, Failure};
use bytes::Bytes;
use format::Head;
use rustix::buffer::spare_capacity;
use rustix::fd::OwnedFd;
use rustix::fs::{FileType, OFlags, Statx, readlinkat};
use rustix::io::{self, Errno, pread};
use sparse::Extent;
use std::collections::VecDeque;
use tar::EntryType;

/// Chunks of one piece.
const CHUNKS: usize = 4;

/// Room for the headers of an entry.
const ROOM: usize = 4 * format::BLOCK;

/// The content that is being sent.
#[derive(Debug)]
struct Body {
    file: OwnedFd,
    extents: VecDeque<Extent>,
    /// Zeros after it.
    padding: usize,
    /// The file ended early, and zeros stand for the rest.
    was_cut: bool,
}

/// An archive that has begun.
#[derive(Debug)]
pub(super) struct Archiving {
    path: Vec<u8>,
    /// What every name in the archive begins with.
    prefix: Vec<u8>,
    walk: Option<Walk>,
    body: Option<Body>,
    /// Under which name files are that have several.
    links: Links,
    buffers: Buffers,
    buffer: Vec<u8>,
    done: Done,
}

pub(super) fn begin(request: ArchiveRequest) -> Result<Archiving> {
    let (root, path) = locate(request.at)?;
    let fail = |errno| failed("archive", path.absolute(), errno);
    let place = root.open_at(&path, OFlags::PATH).map_err(fail)?;
    let is_directory = kind(&stat_fd(&place).map_err(fail)?) == FileType::Directory;
    let buffers = Buffers::default();
    let mut archiving = Archiving {
        path: root.path_of(&place, &path),
        prefix: Vec::new(),
        walk: None,
        body: None,
        links: Links::default(),
        buffer: buffers.take(),
        buffers,
        done: Done::default(),
    };
    // The name as it was asked for, also where that is a link's.
    let name = path.split().map_or(&b""[..], |(_, name)| name).to_vec();
    if !is_directory {
        let opened = open_regular(&root, &path)?;
        archiving
            .file(&name, opened.fd, &opened.stat)
            .map_err(fail)?;
        return Ok(archiving);
    }
    let (directory, _) = root.open_directory(&path)?;
    archiving.prefix = name;
    if !archiving.prefix.is_empty() {
        let stat = stat_fd(&directory).map_err(fail)?;
        archiving.directory(b"", &directory, &stat).map_err(fail)?;
    }
    archiving.walk = Some(Walk::new(directory, None).map_err(fail)?);
    Ok(archiving)
}

impl Archiving {
    fn failed(&self, below: &[u8], errno: Errno) -> Failure {
        match below.is_empty() {
            true => failed("archive", &self.path, errno),
            false => failed("archive", &child(&self.path, below), errno),
        }
    }

    /// The name in the archive of what is below the place.
    fn name(&self, below: &[u8]) -> Vec<u8> {
        match (self.prefix.is_empty(), below.is_empty()) {
            (true, _) => below.to_vec(),
            (false, true) => self.prefix.clone(),
            (false, false) => child(&self.prefix, below),
        }
    }

    fn directory(&mut self, below: &[u8], directory: &OwnedFd, stat: &Statx) -> io::Result<()> {
        let mut name = self.name(below);
        name.push(b'/');
        let attributes = format::attributes(directory)?;
        self.head(&name, EntryType::Directory, stat, b"", &attributes);
        Ok(())
    }

    /// An entry without content.
    fn head(&mut self, name: &[u8], kind: EntryType, stat: &Statx, link: &[u8], attributes: &[u8]) {
        let head = Head {
            path: name,
            kind,
            link,
            size: 0,
            stat,
            attributes,
            extents: &[],
        };
        format::head(&mut self.buffer, &head);
        self.done.entries += 1;
    }

    /// Begins a regular file under a name in the archive.
    fn file(&mut self, name: &[u8], file: OwnedFd, stat: &Statx) -> io::Result<()> {
        let attributes = format::attributes(&file)?;
        let extents = sparse::extents(&file, stat)?;
        let (kind, extents) = match extents {
            Some(extents) => (EntryType::GNUSparse, extents),
            None => {
                let whole = Extent {
                    offset: 0,
                    length: stat.stx_size,
                };
                (EntryType::Regular, vec![whole])
            }
        };
        let size = extents.iter().map(|extent| extent.length).sum();
        let head = Head {
            path: name,
            kind,
            link: b"",
            size,
            stat,
            attributes: &attributes,
            extents: &extents,
        };
        format::head(&mut self.buffer, &head);
        self.done.entries += 1;
        self.body = Some(Body {
            file,
            extents: extents.into(),
            padding: format::padding(size),
            was_cut: false,
        });
        Ok(())
    }

    /// Handles an entry of the directory `here`.
    fn entry(&mut self, here: &OwnedFd, name: &[u8], below: &[u8]) -> io::Result<()> {
        let Some(stat) = vanished(stat_at(here, name))? else {
            return Ok(());
        };
        match kind(&stat) {
            FileType::Directory => {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY;
                if let Some(directory) = vanished(open_name(here, name, flags))? {
                    self.directory(below, &directory, &stat)?;
                }
            }
            FileType::RegularFile => {
                let Some(file) = vanished(open_name(here, name, OFlags::RDONLY))? else {
                    return Ok(());
                };
                let stat = stat_fd(&file)?;
                if kind(&stat) != FileType::RegularFile {
                    return Ok(());
                }
                let archived = self.name(below);
                if stat.stx_nlink > 1 {
                    if let Some(first) = self.links.first(Id::of(&stat)).map(<[u8]>::to_vec) {
                        self.head(&archived, EntryType::Link, &stat, &first, b"");
                        return Ok(());
                    }
                    self.links.remember(Id::of(&stat), archived.clone());
                }
                self.file(&archived, file, &stat)?;
            }
            FileType::Symlink => {
                if let Some(target) = vanished(readlinkat(here, name, Vec::new()))? {
                    let archived = self.name(below);
                    self.head(&archived, EntryType::Symlink, &stat, target.to_bytes(), b"");
                }
            }
            _ => self.done.skipped += 1,
        }
        Ok(())
    }

    /// Goes on with the walk until there is something to send; false at its end.
    fn walk(&mut self, budget: &Budget) -> Result<bool> {
        let Some(mut walk) = self.walk.take() else {
            return Ok(false);
        };
        while self.body.is_none() && self.buffer.len() + ROOM <= CHUNK_BYTES && !budget.spent() {
            match walk
                .next()
                .map_err(|errno| self.failed(walk.path(), errno))?
            {
                Step::Entry(name, _) => {
                    let below = walk.path_to(&name);
                    let handled = self.entry(walk.cursor().here(), &name, &below);
                    handled.map_err(|errno| self.failed(&below, errno))?;
                }
                Step::Below(name) => {
                    let below = walk.path_to(&name);
                    walk.enter(name)
                        .map_err(|errno| self.failed(&below, errno))?;
                }
                Step::Left(_) => {}
                Step::End => return Ok(false),
            }
        }
        self.walk = Some(walk);
        Ok(true)
    }

    /// Reads content into the buffer.
    fn fill(&mut self) -> io::Result<()> {
        let Some(body) = &mut self.body else {
            return Ok(());
        };
        while let Some(extent) = body.extents.front_mut() {
            if extent.length == 0 {
                body.extents.pop_front();
                continue;
            }
            let begin = self.buffer.len();
            let room = CHUNK_BYTES.saturating_sub(begin);
            if room == 0 {
                return Ok(());
            }
            let most = usize::try_from(extent.length).map_or(room, |length| length.min(room));
            if body.was_cut {
                self.buffer.resize(begin + most, 0);
            } else if pread(&body.file, spare_capacity(&mut self.buffer), extent.offset)? > 0 {
                self.buffer.truncate(begin + most);
            } else {
                // Its length was announced: zeros stand for what is gone.
                body.was_cut = true;
                self.done.cut += 1;
            }
            let filled = (self.buffer.len() - begin) as u64;
            extent.offset += filled;
            extent.length -= filled;
        }
        self.buffer.resize(self.buffer.len() + body.padding, 0);
        self.body = None;
        Ok(())
    }

    fn flush(&mut self, out: &mut Vec<ArchiveReply>) {
        let full = std::mem::replace(&mut self.buffer, self.buffers.take());
        let mut data = self.buffers.data(full);
        while !data.is_empty() {
            let chunk = data.split_to(data.len().min(CHUNK_BYTES));
            out.push(ArchiveReply {
                data: chunk,
                done: None,
            });
        }
    }
}

impl Source for Archiving {
    type Item = ArchiveReply;

    fn step(&mut self, budget: &Budget, out: &mut Vec<ArchiveReply>) -> Result<bool> {
        while out.len() < CHUNKS {
            let path = |this: &Self| match &this.walk {
                Some(walk) => walk.path().to_vec(),
                None => Vec::new(),
            };
            self.fill()
                .map_err(|errno| self.failed(&path(self), errno))?;
            let more = self.body.is_some() || self.walk(budget)?;
            if !more {
                format::end(&mut self.buffer);
                self.flush(out);
                out.push(ArchiveReply {
                    data: Bytes::new(),
                    done: Some(std::mem::take(&mut self.done)),
                });
                return Ok(false);
            }
            // The next header fits as a rule, and if not, the buffer grows.
            if self.buffer.len() + ROOM > CHUNK_BYTES {
                self.flush(out);
            }
            if budget.spent() {
                break;
            }
        }
        Ok(true)
    }
}
