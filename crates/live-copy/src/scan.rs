//! Which files processes have open for writing, or mapped so that stores reach the file, from /proc.
//! What they are in the tree is found out elsewhere.
//!
//! Meant for processes that are frozen. Threads that share a table of descriptors, as nearly all do, are
//! looked at once; a table of a thread's own is not forgotten, nor that of a process whose first thread
//! has ended.

pub(crate) mod mounts;

use crate::stop::Stop;
use crate::sys::same_descriptors;
use botstead_overlay::tree::{kind, stat_at};
use mounts::Mounts;
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, RawDir, Statx, StatxFlags, openat, readlinkat, statx,
};
use rustix::io::{Errno, Result, read};
use std::collections::{HashMap, HashSet};
use std::ffi::{CStr, CString};
use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

/// Processes that a thread takes at once.
const AT_ONCE: usize = 4;

/// A file that may change without an event, or has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OpenFile {
    /// What its own process would see.
    pub(crate) stat: Looks,
    /// It is on the tree's own filesystem, so that its number is the tree's; else on an overlay mount.
    pub(crate) is_direct: bool,
    /// As the kernel names it, from the root of the mount namespace of its process.
    pub(crate) path: Vec<u8>,
    /// Stores may reach it.
    pub(crate) is_mapped: bool,
}

/// What tells a file from nearly all others, on an overlay mount as below it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Looks {
    pub(crate) ino: u64,
    size: u64,
    ctime: (i64, u32),
    mtime: (i64, u32),
}

impl Looks {
    pub(crate) fn new(stat: &Statx) -> Self {
        Self {
            ino: stat.stx_ino,
            size: stat.stx_size,
            ctime: (stat.stx_ctime.tv_sec, stat.stx_ctime.tv_nsec),
            mtime: (stat.stx_mtime.tv_sec, stat.stx_mtime.tv_nsec),
        }
    }

    /// In bytes.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// Whether it may be the same file: an overlay mount gives some files other numbers.
    pub(crate) fn may_be(&self, other: &Self) -> bool {
        Self { ino: 0, ..*self } == Self { ino: 0, ..*other }
    }
}

/// What was found.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) files: Vec<OpenFile>,
    /// Descriptors exist that no process lists.
    pub(crate) has_hidden: bool,
}

/// A scan of several processes, in as many threads as call [`work`](Self::work).
#[derive(Debug)]
pub(crate) struct Scan<'a> {
    pids: &'a [u32],
    mounts: &'a Mounts,
    stop: Stop<'a>,
    next: AtomicUsize,
    found: Mutex<Found>,
}

impl<'a> Scan<'a> {
    pub(crate) fn new(pids: &'a [u32], mounts: &'a Mounts, stop: Stop<'a>) -> Self {
        Self {
            pids,
            mounts,
            stop,
            next: AtomicUsize::new(0),
            found: Mutex::default(),
        }
    }

    /// Does a share of it, until nothing is left to begin or it has to stop.
    ///
    /// Fails when a process cannot be looked at. One that has ended is none.
    pub(crate) fn work(&self) -> Result<()> {
        let mut own = Looker {
            mounts: self.mounts,
            found: Found::default(),
            seen: HashMap::new(),
        };
        loop {
            let start = self.next.fetch_add(AT_ONCE, Ordering::Relaxed);
            let Some(part) = self.pids.get(start..self.pids.len().min(start + AT_ONCE)) else {
                break;
            };
            for pid in part {
                // Those that run, and fork all the time, are slow to look at.
                if self.stop.is_due() {
                    break;
                }
                match own.process(*pid) {
                    Err(Errno::NOENT | Errno::SRCH) => {}
                    result => result?,
                }
            }
        }
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        found.files.append(&mut own.found.files);
        found.has_hidden |= own.found.has_hidden;
        Ok(())
    }

    /// What all of them found.
    pub(crate) fn into_found(self) -> Found {
        self.found
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a descriptor leads to, as far as it matters.
enum Kind {
    Ours {
        is_direct: bool,
    },
    /// May hold descriptors of its own.
    Holder,
    Other,
}

struct Looker<'a> {
    mounts: &'a Mounts,
    found: Found,
    /// Files found already, and their place in the list.
    seen: HashMap<(bool, Looks), usize>,
}

impl Looker<'_> {
    fn process(&mut self, pid: u32) -> Result<()> {
        let root = CString::new(format!("/proc/{pid}")).unwrap_or_default();
        let root = open_folder(CWD, &root)?;
        let mut tables: Vec<u32> = Vec::new();
        let mut has_memory = false;
        let tasks = open_folder(&root, c"task")?;
        let mut threads = Vec::new();
        each_name(&tasks, |name| {
            threads.extend(name.to_str().ok().and_then(|name| name.parse::<u32>().ok()));
            Ok(())
        })?;
        for thread in threads {
            let name = CString::new(thread.to_string()).unwrap_or_default();
            let task = match open_folder(&tasks, &name) {
                Err(Errno::NOENT | Errno::SRCH) => continue,
                task => task?,
            };
            // They are mostly the first one's.
            let shared = |known: &u32| same_descriptors(*known, thread) == Some(true);
            if !tables.iter().any(shared) {
                self.descriptors(&task)?;
                tables.push(thread);
            }
            if !has_memory {
                has_memory = self.mappings(&root, &task)?;
            }
        }
        Ok(())
    }

    fn descriptors(&mut self, task: &OwnedFd) -> Result<()> {
        let table = open_folder(task, c"fd")?;
        each_name(&table, |name| match self.descriptor(task, &table, name) {
            // It is of a task that is ending.
            Err(Errno::NOENT | Errno::SRCH) => Ok(()),
            result => result,
        })
    }

    fn descriptor(&mut self, task: &OwnedFd, table: &OwnedFd, name: &CStr) -> Result<()> {
        if !is_writable(&stat_at(table, name)?) {
            return Ok(());
        }
        let stat = follow(table, name)?;
        match self.kind(table, name, &stat)? {
            Kind::Other => Ok(()),
            Kind::Holder => {
                self.found.has_hidden |= holds_descriptors(task, name)?;
                Ok(())
            }
            Kind::Ours { is_direct } => self.add(table, name, &stat, is_direct, false),
        }
    }

    fn kind(&self, table: &OwnedFd, name: &CStr, stat: &Statx) -> Result<Kind> {
        match kind(stat) {
            FileType::Socket => return Ok(Kind::Holder),
            FileType::Fifo
            | FileType::CharacterDevice
            | FileType::BlockDevice
            | FileType::Directory
            | FileType::Symlink => return Ok(Kind::Other),
            // Anonymous ones are of an unknown kind.
            FileType::RegularFile | FileType::Unknown => {}
        }
        let device = (stat.stx_dev_major, stat.stx_dev_minor);
        if device == self.mounts.source {
            return Ok(Kind::Ours { is_direct: true });
        }
        if self.mounts.is_overlay(device) {
            return Ok(Kind::Ours { is_direct: false });
        }
        let link = readlinkat(table, name, Vec::new())?;
        if link.to_bytes() == b"anon_inode:[io_uring]" {
            return Ok(Kind::Holder);
        }
        Ok(Kind::Other)
    }

    /// Finds the shared mappings of a process; false when this task has no memory (any longer).
    fn mappings(&mut self, process: &OwnedFd, task: &OwnedFd) -> Result<bool> {
        let maps = read_file(task, c"maps")?;
        if maps.is_empty() {
            return Ok(false);
        }
        let mut folder = None;
        let mut names = HashSet::new();
        for line in maps.split(|byte| *byte == b'\n') {
            let Some(range) = shared_mapping(line) else {
                continue;
            };
            // Several mappings of one file are one.
            if !names.insert(mapped_file(line)) {
                continue;
            }
            if folder.is_none() {
                folder = Some(open_folder(process, c"map_files")?);
            }
            let (Some(folder), Ok(name)) = (&folder, CString::new(range)) else {
                continue;
            };
            match self.mapping(folder, &name) {
                Err(Errno::NOENT) => {}
                result => result?,
            }
        }
        Ok(true)
    }

    fn mapping(&mut self, folder: &OwnedFd, name: &CStr) -> Result<()> {
        // Of a file that was opened for reading only, which may be one of the image.
        if !is_writable(&stat_at(folder, name)?) {
            return Ok(());
        }
        let stat = follow(folder, name)?;
        match self.kind(folder, name, &stat)? {
            Kind::Ours { is_direct } => self.add(folder, name, &stat, is_direct, true),
            Kind::Holder | Kind::Other => Ok(()),
        }
    }

    fn add(
        &mut self,
        folder: &OwnedFd,
        name: &CStr,
        stat: &Statx,
        is_direct: bool,
        is_mapped: bool,
    ) -> Result<()> {
        if stat.stx_nlink == 0 {
            // It has no name, so that it is no part of a copy.
            return Ok(());
        }
        let looks = Looks::new(stat);
        if let Some(at) = self.seen.get(&(is_direct, looks)) {
            self.found.files[*at].is_mapped |= is_mapped;
            return Ok(());
        }
        self.seen.insert((is_direct, looks), self.found.files.len());
        self.found.files.push(OpenFile {
            stat: looks,
            is_direct,
            path: readlinkat(folder, name, Vec::new())?.into_bytes(),
            is_mapped,
        });
        Ok(())
    }
}

/// Looks at what a link of /proc leads to, going by what the kernel knows: the daemon of a filesystem in
/// user space may itself be frozen.
fn follow(folder: &OwnedFd, name: &CStr) -> Result<Statx> {
    statx(
        folder,
        name,
        AtFlags::STATX_DONT_SYNC,
        StatxFlags::BASIC_STATS,
    )
}

/// Links of /proc to files show by their permissions how they were opened.
fn is_writable(stat: &Statx) -> bool {
    stat.stx_mode & 0o200 != 0
}

/// Whether a socket or a ring holds descriptors that no process lists.
fn holds_descriptors(task: &OwnedFd, name: &CStr) -> Result<bool> {
    let info = open_folder(task, c"fdinfo")?;
    Ok(counts_descriptors(&read_file(&info, name)?))
}

fn counts_descriptors(info: &[u8]) -> bool {
    let mut is_ring = false;
    for line in info.split(|byte| *byte == b'\n') {
        let mut words = line
            .split(u8::is_ascii_whitespace)
            .filter(|word| !word.is_empty());
        match words.next() {
            // Of sockets of other families it is missing.
            Some(b"scm_fds:") => return words.next() != Some(b"0"),
            Some(b"UserFiles:") => return words.next() != Some(b"0"),
            Some(b"SqMask:") => is_ring = true,
            _ => {}
        }
    }
    // A ring that is in use just now does not tell.
    is_ring
}

/// The range of addresses of a line of `maps` that is a shared mapping of a file with a path.
fn shared_mapping(line: &[u8]) -> Option<&[u8]> {
    let mut words = line.split(|byte| *byte == b' ');
    let range = words.next()?;
    let is_shared = words.next()?.get(3) == Some(&b's');
    let has_path = line.windows(2).any(|pair| pair == b" /");
    (is_shared && has_path).then_some(range)
}

/// Device and inode of a line of `maps`, and how it is mapped.
fn mapped_file(line: &[u8]) -> Vec<&[u8]> {
    let words = line.split(|byte| *byte == b' ');
    let mut words: Vec<_> = words.skip(1).take(4).collect();
    // The offset does not matter.
    if words.len() > 1 {
        words.remove(1);
    }
    words
}

fn open_folder(parent: impl AsFd, name: &CStr) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat(parent, name, flags, Mode::empty())
}

fn each_name(folder: &OwnedFd, mut act: impl FnMut(&CStr) -> Result<()>) -> Result<()> {
    let mut buffer = [MaybeUninit::uninit(); 8192];
    let mut entries = RawDir::new(folder, &mut buffer);
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name();
        if name != c"." && name != c".." {
            act(name)?;
        }
    }
    Ok(())
}

fn read_file(folder: &OwnedFd, name: &CStr) -> Result<Vec<u8>> {
    let file = openat(
        folder,
        name,
        OFlags::RDONLY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    let mut content = vec![0; 16 << 10];
    let mut length = 0;
    loop {
        if length == content.len() {
            content.resize(2 * length, 0);
        }
        match read(&file, &mut content[length..]) {
            Ok(0) => break,
            Ok(more) => length += more,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    content.truncate(length);
    Ok(content)
}

#[cfg(test)]
mod tests;
