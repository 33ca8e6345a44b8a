//! `Write`: a file's new content beside the old one, then in its place at once.

use super::entry::{entry, kind, revision};
use super::failure::{Result, changed, failed, refused};
use super::make::{permissions, place_with_parents};
use super::meta::{Owner, succeed};
use super::pieces::{Held, ended, short};
use super::read::{not_regular, stale};
use super::rights::Rights;
use super::root::{Id, Place, is_virtual, locate, open_name, stat_fd};
use super::temporary::Temporary;
use botstead_bridge::proto::write_request::{Head, Part};
use botstead_bridge::proto::{WriteReply, WriteRequest};
use botstead_bridge::{Failure, FailureKind};
use bytes::Bytes;
use rustix::fd::OwnedFd;
use rustix::fs::{
    Access, FallocateFlags, FileType, Mode, OFlags, Statx, fallocate, fchmod, ftruncate,
};
use rustix::io::{self, Errno, pread, pwrite, writev};
use std::io::IoSlice;
use std::sync::Arc;
use tokio::sync::Mutex;
use tokio::task::{JoinHandle, spawn_blocking};
use tonic::{Status, Streaming};

const NEW_FILE: u32 = 0o644;

/// Received and not yet written: how much makes a piece of work, and how much may wait while another
/// piece runs. To wake a thread for every chunk would cost more than to write it.
const PIECE: usize = 256 << 10;
const MOST_PENDING: usize = 2 * PIECE;

/// Chunks of a piece, and that the kernel takes at once: tiny ones weigh more than their bytes.
const MOST_SLICES: usize = 64;

/// Held while one file takes another's place, so that of several writes that expect the same
/// revision one wins.
pub(super) type Commits = Arc<Mutex<()>>;

pub(super) async fn write(
    mut stream: Streaming<WriteRequest>,
    owner: Owner,
    commits: Commits,
    rights: Rights,
) -> Result<WriteReply, Status> {
    let head = match stream.message().await?.and_then(|first| first.part) {
        Some(Part::Head(head)) => head,
        _ => return Err(invalid("a write begins with its head").into()),
    };
    let writing = short(&rights, move || Writing::begin(head, owner)).await?;
    let mut pipe = Pipe::new(writing, rights.clone());
    loop {
        match stream.message().await?.and_then(|message| message.part) {
            Some(Part::Data(data)) => pipe.take(data).await?,
            Some(Part::End(end)) => {
                let writing = pipe.finish().await?;
                let alone = commits.lock_owned().await;
                let done = short(&rights, move || {
                    let done = writing.finish(end.size);
                    drop(alone);
                    done
                });
                return Ok(done.await?);
            }
            Some(Part::Head(_)) => return Err(invalid("a write has one head").into()),
            None => return Err(invalid("the write was cut off before its end").into()),
        }
    }
}

fn invalid(words: &str) -> Failure {
    Failure::new(FailureKind::Invalid, words)
}

/// Receives while it writes: the chunks that come meanwhile are written together.
struct Pipe {
    rights: Rights,
    idle: Held<Writing>,
    running: Option<JoinHandle<Result<Writing>>>,
    pending: Vec<Bytes>,
    bytes: usize,
}

impl Pipe {
    fn new(writing: Writing, rights: Rights) -> Self {
        Self {
            rights,
            idle: Held::new(writing),
            running: None,
            pending: Vec::new(),
            bytes: 0,
        }
    }

    async fn take(&mut self, data: Bytes) -> Result<()> {
        self.bytes += data.len();
        self.pending.push(data);
        if self.bytes < PIECE && self.pending.len() < MOST_SLICES {
            return Ok(());
        }
        let finished = self.running.as_ref().is_none_or(JoinHandle::is_finished);
        if finished || self.bytes >= MOST_PENDING || self.pending.len() >= 2 * MOST_SLICES {
            self.wait().await?;
            self.start();
        }
        Ok(())
    }

    async fn finish(mut self) -> Result<Writing> {
        loop {
            self.wait().await?;
            if self.pending.is_empty() {
                return self.idle.take().ok_or_else(ended);
            }
            self.start();
        }
    }

    async fn wait(&mut self) -> Result<()> {
        if let Some(running) = self.running.take() {
            let writing = running.await.unwrap_or_else(|_| Err(ended()))?;
            self.idle.set(Some(writing));
        }
        Ok(())
    }

    /// Writes what is pending, unless it writes already.
    fn start(&mut self) {
        if let Some(mut writing) = self.idle.take() {
            let chunks = std::mem::take(&mut self.pending);
            self.bytes = 0;
            let rights = self.rights.clone();
            self.running = Some(spawn_blocking(move || {
                rights.run(|| writing.append(&chunks))??;
                Ok(writing)
            }));
        }
    }
}

/// A file that is being written.
struct Writing {
    place: Place,
    temporary: Temporary,
    /// It cannot take the file's place: its content goes into the file that is there.
    in_place: bool,
    size: u64,
    mode: Mode,
    owner: Owner,
    create_new: bool,
    expected: String,
}

impl Writing {
    fn begin(head: Head, owner: Owner) -> Result<Self> {
        let (root, path) = locate(head.at)?;
        if path.names_directory() {
            let words = "it names a directory: a file's path does not end in a slash";
            return Err(refused(FailureKind::IsADirectory, path.absolute(), words));
        }
        let mode = permissions(head.mode.unwrap_or(NEW_FILE))?;
        let place = || match head.create_new {
            true => root.place(&path),
            false => root.place_behind_links(&path),
        };
        let place = match place() {
            Err(failure) if head.parents && failure.kind == FailureKind::NotFound => {
                // Of the path itself: those of a link's target are not asked for.
                drop(place_with_parents(&root, &path, owner)?);
                place()?
            }
            found => found?,
        };
        if is_virtual(&place.directory).unwrap_or(false) {
            let words = "the kernel makes this file up: change it with a command";
            return Err(refused(FailureKind::PermissionDenied, &place.path, words));
        }
        let fail = |errno| failed("write", &place.path, errno);
        let (temporary, in_place) = match Temporary::new(&place.directory) {
            // Who may not make files there may well write to one. Where the filesystem
            // knows files without a name, what comes has none there; else a hidden one, which is removed.
            Err(Errno::ACCESS) if Rights::current().are_limited() && place.look()?.is_some() => {
                let ours = Rights::default().run(|| Temporary::new(&place.directory))?;
                (ours.map_err(fail)?, true)
            }
            temporary => (temporary.map_err(fail)?, false),
        };
        let writing = Self {
            place,
            temporary,
            in_place,
            size: 0,
            mode,
            owner,
            create_new: head.create_new,
            expected: head.expected_revision,
        };
        // Before anything is sent in vain.
        writing.present()?;
        Ok(writing)
    }

    /// What will be replaced, where that is as the request expects.
    fn present(&self) -> Result<Option<Statx>> {
        let Some(stat) = self.place.look()? else {
            return match self.expected.is_empty() {
                true => Ok(None),
                false => Err(stale(&self.place.path)),
            };
        };
        if self.create_new {
            return Err(failed("create", &self.place.path, Errno::EXIST));
        }
        match kind(&stat) {
            FileType::RegularFile => {}
            FileType::Directory => return Err(failed("write", &self.place.path, Errno::ISDIR)),
            // It was followed before: somebody put it there.
            FileType::Symlink => return Err(changed(&self.place.path)),
            _ => return Err(not_regular(&self.place.path)),
        }
        if !self.expected.is_empty() && self.expected != revision(&stat) {
            return Err(stale(&self.place.path));
        }
        // To replace a file takes rights on its directory only, to write to it those on itself.
        Rights::require(&self.place.directory, &self.place.name, Access::WRITE_OK)
            .map_err(|errno| failed("write", &self.place.path, errno))?;
        Ok(Some(stat))
    }

    fn append(&mut self, chunks: &[Bytes]) -> Result<()> {
        for chunks in chunks.chunks(MOST_SLICES) {
            let mut slices: Vec<IoSlice<'_>> = chunks.iter().map(|c| IoSlice::new(c)).collect();
            let mut left = slices.as_mut_slice();
            IoSlice::advance_slices(&mut left, 0);
            while !left.is_empty() {
                match writev(self.temporary.file(), left) {
                    Ok(written) => {
                        self.size += written as u64;
                        IoSlice::advance_slices(&mut left, written);
                    }
                    Err(Errno::INTR) => {}
                    Err(errno) => return Err(failed("write", &self.place.path, errno)),
                }
            }
        }
        Ok(())
    }

    /// Puts the file in its place.
    fn finish(self, size: u64) -> Result<WriteReply> {
        if size != self.size {
            return Err(invalid(&format!(
                "{} bytes were announced at the end of the write and {} came",
                size, self.size
            )));
        }
        let old = self.present()?;
        let failed = |errno| failed("write", &self.place.path, errno);
        let file = self
            .temporary
            .file()
            .try_clone()
            .map_err(|_| failed(Errno::MFILE))?;
        // A file of somebody else's stays theirs.
        let in_place = old.as_ref().filter(|stat| {
            self.in_place || !Rights::current().make_files_of(stat.stx_uid, stat.stx_gid)
        });
        if let Some(stat) = in_place {
            let there = write_into("write", &self.place, Some(stat), &file)?;
            let stat = stat_fd(&there).map_err(failed)?;
            return Ok(WriteReply {
                entry: Some(entry(self.place.path, &stat)),
                created: false,
            });
        }
        if self.in_place {
            // It was removed meanwhile, and a new one cannot be made.
            return Err(changed(&self.place.path));
        }
        match &old {
            Some(stat) => {
                let replaced = open_same(&self.place, Some(stat), OFlags::RDONLY)?;
                succeed(&replaced, stat, &file).map_err(failed)?;
            }
            None => {
                self.owner
                    .give(&file, &self.place.directory)
                    .map_err(failed)?;
                fchmod(&file, self.mode).map_err(failed)?;
            }
        }
        let replace = old.is_some() || !self.create_new;
        let (place, owner) = (&self.place, old.as_ref());
        let file = match self.temporary.publish(&place.name, replace) {
            // Something is mounted there, such as /etc/hosts, which nothing can take the place of.
            Err(Errno::BUSY) if owner.is_some() => write_into("write", place, owner, &file)?,
            published => published.map(|()| file).map_err(failed)?,
        };
        let stat = stat_fd(&file).map_err(failed)?;
        Ok(WriteReply {
            entry: Some(entry(self.place.path, &stat)),
            created: old.is_none(),
        })
    }
}

/// Opens what is at a place, where that is the file that was there before.
fn open_same(place: &Place, before: Option<&Statx>, flags: OFlags) -> Result<OwnedFd> {
    let opened =
        open_name(&place.directory, &place.name, flags).and_then(|fd| Ok((stat_fd(&fd)?, fd)));
    match opened {
        Ok((now, fd)) if before.is_some_and(|before| Id::of(&now) == Id::of(before)) => Ok(fd),
        Ok(_) | Err(Errno::NOENT | Errno::LOOP) => Err(changed(&place.path)),
        Err(errno) => Err(failed("write", &place.path, errno)),
    }
}

/// Gives a regular file that was there before the content of another one, in place. Gives it, open.
pub(super) fn write_into(
    action: &str,
    place: &Place,
    before: Option<&Statx>,
    content: &OwnedFd,
) -> Result<OwnedFd> {
    if before.is_some_and(|stat| kind(stat) != FileType::RegularFile) {
        return Err(not_regular(&place.path));
    }
    let there = open_same(place, before, OFlags::WRONLY | OFlags::NONBLOCK)?;
    overwrite(&there, content).map_err(|errno| failed(action, &place.path, errno))?;
    Ok(there)
}

/// Gives a file the content of another one. Whoever reads it meanwhile sees some of both. Where there is no
/// room it stays as it was, on filesystems that write to a block in its place.
fn overwrite(file: &OwnedFd, content: &OwnedFd) -> io::Result<()> {
    let size = stat_fd(content)?.stx_size;
    if size > 0 {
        match fallocate(file, FallocateFlags::KEEP_SIZE, 0, size) {
            // Not every filesystem can say beforehand.
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INTR) => {}
            Err(errno) => {
                // What was taken of the disk until then is given back.
                ftruncate(file, stat_fd(file)?.stx_size)?;
                return Err(errno);
            }
        }
    }
    let mut buffer = vec![0; PIECE];
    let mut at = 0;
    loop {
        let length = match pread(content, &mut buffer, at) {
            Ok(0) => return ftruncate(file, at),
            Err(Errno::INTR) => continue,
            length => length?,
        };
        let mut left = &buffer[..length];
        while !left.is_empty() {
            match pwrite(file, left, at) {
                Err(Errno::INTR) => {}
                written => {
                    let written = written?;
                    left = &left[written..];
                    at += written as u64;
                }
            }
        }
    }
}
