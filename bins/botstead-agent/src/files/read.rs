//! `Read`: a file's bytes or lines, some chunks at a time.

use super::buffers::Buffers;
use super::entry::{entry, kind};
use super::failure::{Result, changed, failed, refused};
use super::path::InsidePath;
use super::pieces::{Budget, Source};
use super::root::{Root, is_virtual, locate, stat_fd};
use botstead_bridge::FailureKind;
use botstead_bridge::proto::read_reply::{Head, Part};
use botstead_bridge::proto::read_request::Part as Wanted;
use botstead_bridge::proto::{Entry, ReadReply, ReadRequest};
use bytes::Bytes;
use rustix::buffer::spare_capacity;
use rustix::fd::OwnedFd;
use rustix::fs::{FileType, OFlags, SeekFrom, Statx, seek};
use rustix::io::{Errno, read};

/// Chunks that one piece reads, and so about half of what a call keeps in memory.
const CHUNKS: usize = 4;

/// A regular file that is open for reading.
pub(super) struct Opened {
    pub(super) fd: OwnedFd,
    pub(super) stat: Statx,
    pub(super) path: Vec<u8>,
    /// The kernel makes its content up while it is read: its size says nothing.
    pub(super) made_up: bool,
}

/// Opens a regular file, following links. Never waits for the other end of a pipe, and touches no
/// device.
pub(super) fn open_regular(root: &Root, path: &InsidePath) -> Result<Opened> {
    let failed = |errno| failed("read", path.absolute(), errno);
    let check = |fd: &OwnedFd| {
        let stat = stat_fd(fd).map_err(failed)?;
        match kind(&stat) {
            FileType::RegularFile => Ok(stat),
            FileType::Directory => Err(failed(Errno::ISDIR)),
            _ => Err(not_regular(path.absolute())),
        }
    };
    // First as a mere place: to open a device or a pipe can have effects.
    let place = root.open_at(path, OFlags::PATH).map_err(failed)?;
    check(&place)?;
    let made_up = is_virtual(&place).map_err(failed)?;
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
    let opened = root.open_at(path, flags);
    let fd = opened.map_err(|errno| unreadable("read", made_up, path.absolute(), errno))?;
    let stat = check(&fd)?;
    let path = root.path_of(&fd, path);
    Ok(Opened {
        fd,
        stat,
        path,
        made_up,
    })
}

/// The failure of reading a file. What the kernel makes up may refuse with any number; the disk is not
/// to blame there.
pub(super) fn unreadable(
    action: &str,
    made_up: bool,
    path: &[u8],
    errno: Errno,
) -> botstead_bridge::Failure {
    let failure = failed(action, path, errno);
    match failure.kind {
        FailureKind::TooLarge if made_up => {
            let words = "the kernel makes this file up, and there is too much of it";
            refused(FailureKind::TooLarge, path, words)
        }
        FailureKind::Internal | FailureKind::Limit | FailureKind::Invalid if made_up => {
            let words =
                format!("the kernel makes this file up and does not let it be read: {errno}");
            refused(FailureKind::NotRegular, path, &words).with_errno(errno.raw_os_error())
        }
        _ => failure,
    }
}

pub(super) fn not_regular(path: &[u8]) -> botstead_bridge::Failure {
    refused(
        FailureKind::NotRegular,
        path,
        "it is not a regular file but a pipe, a socket or a device",
    )
}

/// A read that has begun.
pub(super) struct Reading {
    fd: OwnedFd,
    path: Vec<u8>,
    made_up: bool,
    buffers: Buffers,
    /// Sent first.
    head: Option<Head>,
    /// Bytes that were read already.
    begun: Bytes,
    left: Left,
    /// How many bytes may still be sent.
    limit: Option<u64>,
}

enum Left {
    /// Exactly so many bytes.
    Bytes(u64),
    /// At most so many.
    AtMost(u64),
    /// Lines: so many to skip, then so many to send.
    Lines {
        skip: u64,
        send: u64,
        at: u64,
    },
    Nothing,
}

/// Opens a file and decides what is sent of it.
pub(super) fn begin(request: ReadRequest) -> Result<Reading> {
    let (root, path) = locate(request.at)?;
    let Opened {
        fd,
        stat,
        path,
        made_up,
    } = open_regular(&root, &path)?;
    let mut entry = entry(path.clone(), &stat);
    if made_up {
        entry.revision.clear();
    }
    let expected = request.expected_revision;
    if !expected.is_empty() && expected != entry.revision {
        return Err(stale(&path));
    }
    let limit = (request.limit > 0).then_some(request.limit);
    let reading = Reading {
        fd,
        path,
        made_up,
        buffers: Buffers::default(),
        head: None,
        begun: Bytes::new(),
        left: Left::Nothing,
        limit,
    };
    match request.part {
        Some(Wanted::Lines(lines)) => reading.lines(entry, lines.first, lines.count),
        Some(Wanted::Range(range)) => {
            let most = if range.length == 0 {
                u64::MAX
            } else {
                range.length
            };
            reading.range(entry, range.offset, most)
        }
        Some(Wanted::Last(length)) => {
            let offset = entry.size.saturating_sub(length);
            reading.range(entry, offset, length)
        }
        None => reading.range(entry, 0, u64::MAX),
    }
}

pub(super) fn stale(path: &[u8]) -> botstead_bridge::Failure {
    refused(
        FailureKind::StaleRevision,
        path,
        "it is not the file that was read before: read it again",
    )
}

impl Reading {
    fn range(mut self, mut entry: Entry, offset: u64, most: u64) -> Result<Self> {
        let size = entry.size;
        let start = self.seek_to(offset)?;
        // What the kernel makes up while it is read has no size that means anything; such a file may
        // also stand on a filesystem that is not known to make things up.
        if self.made_up || size == 0 {
            self.begun = self.chunk(most)?;
        }
        let known = match (self.made_up, size) {
            (false, 0) => self.begun.is_empty().then_some(0),
            (false, size) => Some(size.saturating_sub(offset).min(most)),
            (true, _) => None,
        };
        self.left = match known {
            Some(length) => {
                if self.limit.is_some_and(|limit| length > limit) {
                    return Err(self.too_large());
                }
                Left::Bytes(length)
            }
            None => {
                entry.revision.clear();
                Left::AtMost(most)
            }
        };
        self.head = Some(Head {
            entry: Some(entry),
            offset: start,
            length: known,
        });
        Ok(self)
    }

    fn lines(mut self, entry: Entry, first: u64, count: u64) -> Result<Self> {
        self.left = Left::Lines {
            skip: first.saturating_sub(1),
            send: if count == 0 { u64::MAX } else { count },
            at: 0,
        };
        self.head = Some(Head {
            entry: Some(entry),
            offset: 0,
            length: None,
        });
        Ok(self)
    }

    fn seek_to(&self, offset: u64) -> Result<u64> {
        let offset = offset.min(i64::MAX as u64);
        let sought = match offset {
            0 => Ok(0),
            offset => seek(&self.fd, SeekFrom::Start(offset)),
        };
        match sought {
            // Further on than any file of this filesystem.
            Err(Errno::INVAL) => seek(&self.fd, SeekFrom::End(0)),
            sought => sought,
        }
        .map_err(|errno| self.failed(errno))?;
        Ok(offset)
    }

    fn failed(&self, errno: Errno) -> botstead_bridge::Failure {
        unreadable("read", self.made_up, &self.path, errno)
    }

    fn too_large(&self) -> botstead_bridge::Failure {
        refused(
            FailureKind::TooLarge,
            &self.path,
            "it is larger than the limit of this call: ask for a part, or download it",
        )
    }

    /// Reads the next chunk; empty at the end.
    fn chunk(&self, most: u64) -> Result<Bytes> {
        let mut chunk = self.buffers.take();
        loop {
            match read(&self.fd, spare_capacity(&mut chunk)) {
                Ok(_) => {
                    chunk.truncate(usize::try_from(most).unwrap_or(usize::MAX));
                    return Ok(self.buffers.data(chunk));
                }
                Err(Errno::INTR) => {}
                Err(errno) => return Err(self.failed(errno)),
            }
        }
    }

    fn send(&mut self, data: Bytes, out: &mut Vec<ReadReply>) -> Result<()> {
        if let Some(limit) = &mut self.limit {
            match limit.checked_sub(data.len() as u64) {
                Some(left) => *limit = left,
                None => return Err(self.too_large()),
            }
        }
        if !data.is_empty() {
            out.push(reply(Part::Data(data)));
        }
        Ok(())
    }

    /// Handles one chunk; false at the end.
    fn go_on(&mut self, out: &mut Vec<ReadReply>) -> Result<bool> {
        let most = match self.left {
            Left::Nothing | Left::Bytes(0) | Left::AtMost(0) => return Ok(false),
            Left::Bytes(left) | Left::AtMost(left) => left,
            Left::Lines { .. } => u64::MAX,
        };
        let chunk = match self.begun.is_empty() {
            true => self.chunk(most)?,
            false => std::mem::take(&mut self.begun),
        };
        let length = chunk.len() as u64;
        match &mut self.left {
            Left::Nothing => Ok(false),
            Left::Bytes(_) if length == 0 => Err(changed(&self.path)),
            Left::Bytes(left) => {
                *left -= length.min(*left);
                self.send(chunk, out)?;
                Ok(true)
            }
            Left::AtMost(left) => {
                *left -= length.min(*left);
                self.send(chunk, out)?;
                Ok(length > 0)
            }
            Left::Lines { skip, send, at } => {
                let start = skip_lines(&chunk, skip);
                if *skip > 0 && length > 0 {
                    *at += length;
                    return Ok(true);
                }
                let end = start + take_lines(&chunk[start..], send);
                let (begins, done) = (*at + start as u64, *send == 0);
                self.send_head(begins, out);
                self.send(chunk.slice(start..end), out)?;
                Ok(length > 0 && !done)
            }
        }
    }

    fn send_head(&mut self, offset: u64, out: &mut Vec<ReadReply>) {
        if let Some(head) = self.head.take() {
            out.push(reply(Part::Head(Head { offset, ..head })));
        }
    }
}

impl Source for Reading {
    type Item = ReadReply;

    fn step(&mut self, budget: &Budget, out: &mut Vec<ReadReply>) -> Result<bool> {
        if !matches!(self.left, Left::Lines { .. })
            && let Some(head) = self.head.take()
        {
            out.push(reply(Part::Head(head)));
        }
        while out.len() < CHUNKS {
            if !self.go_on(out)? {
                return Ok(false);
            }
            if budget.spent() {
                break;
            }
        }
        Ok(true)
    }
}

fn reply(part: Part) -> ReadReply {
    ReadReply { part: Some(part) }
}

/// Where the wanted lines begin in a chunk; its end where that is further on.
fn skip_lines(chunk: &[u8], skip: &mut u64) -> usize {
    let mut start = 0;
    while *skip > 0 {
        match memchr::memchr(b'\n', &chunk[start..]) {
            Some(end) => start += end + 1,
            None => return chunk.len(),
        }
        *skip -= 1;
    }
    start
}

/// How much of a chunk the wanted lines are.
fn take_lines(chunk: &[u8], send: &mut u64) -> usize {
    if *send == u64::MAX {
        return chunk.len();
    }
    let mut end = 0;
    while *send > 0 {
        match memchr::memchr(b'\n', &chunk[end..]) {
            Some(line) => end += line + 1,
            None => return chunk.len(),
        }
        *send -= 1;
    }
    end
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_counted_across_chunks() {
        let mut skip = 2;
        assert_eq!(skip_lines(b"a\nb", &mut skip), 3);
        assert_eq!(skip, 1);
        assert_eq!(skip_lines(b"c\nd\n", &mut skip), 2);
        let mut send = 2;
        assert_eq!(take_lines(b"d\ne", &mut send), 3);
        assert_eq!(take_lines(b"f\ng\n", &mut send), 2);
        assert_eq!(send, 0);
        assert_eq!(take_lines(b"x", &mut 0), 0);
    }
}
