//! What the kernel tells, turned into what a client is told: names into paths, the two halves of a
//! rename into one, new directories into watches and their content.

use super::hub::Raw;
use super::scan::{Fresh, Scan, Told, Watches, path};
use super::tree::Watch;
use crate::files::failure::{Result, failed};
use crate::files::path::InsidePath;
use crate::files::pieces::Budget;
use crate::files::root::{Id, Root, open_beneath, stat_fd, vanished};
use crate::files::temporary::is_hidden_name;
use botstead_bridge::proto::WatchReply;
use botstead_bridge::proto::watch_reply::{Change, Event, Overflow, Part, Ready};
use rustix::fd::OwnedFd;
use rustix::fs::OFlags;
use rustix::fs::inotify::ReadFlags;
use rustix::io::Errno;
use std::collections::{HashSet, VecDeque};
use std::time::{Duration, Instant};

/// How long the second half of a rename is waited for. The kernel tells both in one go.
pub(super) const HALF: Duration = Duration::from_millis(50);

/// First halves that are waited for at once.
const MOST_HALVES: usize = 64;

/// How far back the same change of the same file is not told again.
const MERGED: usize = 32;

/// Replies of one piece.
const AT_ONCE: usize = 1000;

/// The first half of a rename.
#[derive(Debug)]
struct Half {
    cookie: u32,
    directory: Watch,
    name: Vec<u8>,
    is_directory: bool,
    until: Instant,
}

/// The way to the directory at the top. It is opened when it is needed: while somebody has it open,
/// the kernel does not tell that it was removed.
#[derive(Debug)]
pub(super) struct Top {
    /// Where the root of the request is.
    root: InsidePath,
    id: Id,
}

impl Top {
    pub(super) fn new(root: InsidePath, directory: &OwnedFd) -> Result<Self, Errno> {
        let id = Id::of(&stat_fd(directory)?);
        Ok(Self { root, id })
    }

    /// Opens the directory at its path; `None` when that is not it any more.
    fn open(&self, path: &[u8]) -> Result<Option<OwnedFd>> {
        let failed = |errno| failed("watch", path, errno);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let opened = Root::at(&self.root).and_then(|root| root.open_raw(path, flags));
        let directory = vanished(opened).map_err(failed)?;
        let is_it = |fd: &OwnedFd| stat_fd(fd).is_ok_and(|stat| Id::of(&stat) == self.id);
        Ok(directory.filter(is_it))
    }
}

/// The events of one call.
#[derive(Debug)]
pub(super) struct Events {
    watches: Watches,
    top: Top,
    base: Vec<u8>,
    /// The file in the directory that it is about; everything without.
    only: Option<Vec<u8>>,
    recursive: bool,
    raw: VecDeque<Raw>,
    scans: VecDeque<Scan>,
    told: Told,
    halves: VecDeque<Half>,
    /// The client was told that watching is not complete.
    told_truncated: bool,
    ready: bool,
    ended: bool,
}

/// How far a piece came.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// There is more to do at once.
    More,
    /// Nothing until the kernel tells more, or, where one is given, until then.
    Idle(Option<Instant>),
    /// The directory is gone.
    Ended,
}

impl Events {
    pub(super) fn new(watches: Watches, top: Top, base: Vec<u8>, recursive: bool) -> Result<Self> {
        let mut events = Self {
            watches,
            top,
            base,
            only: None,
            recursive,
            raw: VecDeque::new(),
            scans: VecDeque::new(),
            told: Told::default(),
            halves: VecDeque::new(),
            told_truncated: false,
            ready: false,
            ended: false,
        };
        events.rescan()?;
        Ok(events)
    }

    /// The events of one file in the directory, whoever replaces it.
    pub(super) fn of_file(
        watches: Watches,
        top: Top,
        base: Vec<u8>,
        name: Vec<u8>,
    ) -> Result<Self> {
        let events = Self::new(watches, top, base, false)?;
        Ok(Self {
            only: Some(name),
            ..events
        })
    }

    /// Whether what comes next is a walk through directories.
    pub(super) fn is_scanning(&self) -> bool {
        !self.scans.is_empty()
    }

    /// Goes on until the budget is spent or there is nothing to do.
    pub(super) fn step(&mut self, budget: &Budget, out: &mut Vec<WatchReply>) -> Result<Progress> {
        while !budget.spent() && out.len() < AT_ONCE {
            if let Some(scan) = self.scans.pop_front() {
                self.scan(scan, budget, out)?;
            } else if !self.ready {
                self.ready = true;
                self.told_truncated = self.watches.truncated;
                out.push(reply(Part::Ready(Ready {
                    directories: self.watches.tree.len() as u64,
                    truncated: self.watches.truncated,
                })));
            } else if let Some(raw) = self.raw.pop_front() {
                self.handle(raw, out)?;
            } else if self.ended {
                return Ok(Progress::Ended);
            } else if !self.read()? {
                self.told.clear();
                self.settle_late(out);
                let next = self.halves.front().map(|half| half.until);
                return Ok(Progress::Idle(next));
            }
        }
        Ok(Progress::More)
    }

    /// Watches everything below the top that is not watched, and forgets what is there no more.
    fn rescan(&mut self) -> Result<()> {
        if !self.recursive {
            return Ok(());
        }
        self.scans.clear();
        // Where it is gone, the kernel tells.
        if let Some(top) = self.top.open(&self.base)? {
            let mut scan = Scan::new(top, self.watches.tree.top(), false)
                .map_err(|errno| failed("watch", &self.base, errno))?;
            scan.seen = Some(HashSet::new());
            self.scans.push_back(scan);
        }
        Ok(())
    }

    fn scan(&mut self, mut scan: Scan, budget: &Budget, out: &mut Vec<WatchReply>) -> Result<()> {
        let mut found = Vec::new();
        let done = scan
            .step(&mut self.watches, budget, &mut found)
            .map_err(|errno| failed("watch", &self.base, errno))?;
        for fresh in found {
            self.tell_fresh(&fresh, out);
        }
        if !done {
            self.scans.push_front(scan);
        } else if let Some(seen) = scan.seen {
            let gone = self.watches.tree.retain(&seen);
            self.watches.unwatch(gone);
        }
        self.tell_truncated(out);
        Ok(())
    }

    fn tell_fresh(&mut self, fresh: &Fresh, out: &mut Vec<WatchReply>) {
        self.told.add(fresh);
        let (directory, name) = (fresh.directory, fresh.name.as_slice());
        self.tell(Change::Created, directory, name, fresh.is_directory, out);
    }

    /// A new directory that cannot be watched is as good as lost events.
    fn tell_truncated(&mut self, out: &mut Vec<WatchReply>) {
        if self.ready && self.watches.truncated && !self.told_truncated {
            self.told_truncated = true;
            out.push(reply(Part::Overflow(Overflow {})));
        }
    }

    /// Reads what the kernel has; false when it has nothing.
    fn read(&mut self) -> Result<bool> {
        let taken = self.watches.subscription.take();
        self.raw = taken.map_err(|errno| failed("watch", &self.base, errno))?;
        Ok(!self.raw.is_empty())
    }

    fn handle(&mut self, raw: Raw, out: &mut Vec<WatchReply>) -> Result<()> {
        let flags = raw.flags;
        if flags.contains(ReadFlags::QUEUE_OVERFLOW) {
            self.settle_all(out);
            out.push(reply(Part::Overflow(Overflow {})));
            return self.rescan();
        }
        if !self.watches.tree.contains(raw.watch) {
            return Ok(());
        }
        if raw.name.is_empty() {
            self.handle_self(raw.watch, flags, out);
            return Ok(());
        }
        let other = self.only.as_ref().is_some_and(|name| *name != raw.name);
        if other || is_hidden_name(&raw.name) {
            return Ok(());
        }
        let is_directory = flags.contains(ReadFlags::ISDIR);
        if flags.contains(ReadFlags::MOVED_TO) {
            return self.arrived(&raw, is_directory, out);
        }
        // Nothing else happens to a name between the halves: the second one does not come.
        let conflict = |half: &Half| (half.directory, &half.name) == (raw.watch, &raw.name);
        if let Some(at) = self.halves.iter().position(conflict) {
            self.settle(at, out);
        }
        if flags.contains(ReadFlags::MOVED_FROM) {
            self.told.take(raw.watch, &raw.name);
            if self.halves.len() == MOST_HALVES {
                self.settle(0, out);
            }
            self.halves.push_back(Half {
                cookie: raw.cookie,
                directory: raw.watch,
                name: raw.name,
                is_directory,
                until: Instant::now() + HALF,
            });
        } else if flags.contains(ReadFlags::CREATE) {
            // What a scan told of, it also went into.
            if !self.told.take(raw.watch, &raw.name) {
                self.tell(Change::Created, raw.watch, &raw.name, is_directory, out);
                if is_directory {
                    self.watch_new(raw.watch, &raw.name, out)?;
                }
            }
        } else if flags.contains(ReadFlags::DELETE) {
            self.told.take(raw.watch, &raw.name);
            self.tell(Change::Removed, raw.watch, &raw.name, is_directory, out);
            self.forget(raw.watch, &raw.name);
        } else if flags.intersects(ReadFlags::MODIFY | ReadFlags::CLOSE_WRITE) {
            self.tell(Change::Modified, raw.watch, &raw.name, is_directory, out);
        } else if flags.contains(ReadFlags::ATTRIB) && !self.is_nameless(&raw)? {
            self.tell(Change::Attributes, raw.watch, &raw.name, is_directory, out);
        }
        Ok(())
    }

    /// Whether an event is about a file without a name: the kernel makes one up from its number.
    fn is_nameless(&self, raw: &Raw) -> Result<bool> {
        let made_up = raw
            .name
            .strip_prefix(b"#")
            .is_some_and(|rest| !rest.is_empty() && rest.iter().all(u8::is_ascii_digit));
        if !made_up {
            return Ok(false);
        }
        let path = self.watches.tree.path(raw.watch, &raw.name);
        let (Some(path), Some(top)) = (path, self.top.open(&self.base)?) else {
            return Ok(true);
        };
        Ok(open_beneath(&top, &path, OFlags::PATH | OFlags::NOFOLLOW).is_err())
    }

    /// What a directory is told about itself. Others than the top are told of by their parents.
    fn handle_self(&mut self, watch: Watch, flags: ReadFlags, out: &mut Vec<WatchReply>) {
        let over = ReadFlags::DELETE_SELF | ReadFlags::UNMOUNT | ReadFlags::IGNORED;
        if watch != self.watches.tree.top() {
            if flags.intersects(over) {
                let gone = self.watches.tree.remove(watch);
                self.watches.unwatch(gone);
            }
        } else if flags.intersects(over | ReadFlags::MOVE_SELF) {
            if !self.ended {
                self.settle_all(out);
                match &self.only {
                    Some(name) => self.tell(Change::Removed, watch, name, false, out),
                    None => self.tell(Change::Removed, watch, b"", true, out),
                }
            }
            self.ended = true;
            self.raw.clear();
            self.scans.clear();
        } else if flags.contains(ReadFlags::ATTRIB) && self.only.is_none() {
            self.tell(Change::Attributes, watch, b"", true, out);
        }
    }

    /// The second half of a rename, or something from outside.
    fn arrived(&mut self, raw: &Raw, is_directory: bool, out: &mut Vec<WatchReply>) -> Result<()> {
        let told = self.told.take(raw.watch, &raw.name);
        let first = self
            .halves
            .iter()
            .position(|half| half.cookie == raw.cookie);
        let Some(half) = first.and_then(|at| self.halves.remove(at)) else {
            if told {
                return Ok(());
            }
            self.forget(raw.watch, &raw.name);
            self.tell(Change::MovedTo, raw.watch, &raw.name, is_directory, out);
            return match is_directory {
                true => self.watch_new(raw.watch, &raw.name, out),
                false => Ok(()),
            };
        };
        let from = self.path(half.directory, &half.name);
        let to = self.path(raw.watch, &raw.name);
        if let (Some(from), Some(to)) = (from, to) {
            out.push(reply(Part::Event(Event {
                change: Change::Renamed.into(),
                path: from.into(),
                to: to.into(),
                is_directory,
            })));
        }
        match self.watches.tree.child(half.directory, &half.name) {
            Some(moved) => {
                let replaced = self.watches.tree.insert(raw.watch, &raw.name, moved);
                self.watches.unwatch(replaced);
                Ok(())
            }
            None if told => Ok(()),
            None if is_directory => self.watch_new(raw.watch, &raw.name, out),
            None => {
                self.forget(raw.watch, &raw.name);
                Ok(())
            }
        }
    }

    /// Watches a directory that appeared, and tells what is in it already.
    fn watch_new(&mut self, parent: Watch, name: &[u8], out: &mut Vec<WatchReply>) -> Result<()> {
        let Some(below) = self
            .watches
            .tree
            .path(parent, name)
            .filter(|_| self.recursive)
        else {
            return Ok(());
        };
        let Some(top) = self.top.open(&self.base)? else {
            return Ok(());
        };
        let mut begin = || {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY;
            match open_beneath(&top, &below, flags) {
                Err(Errno::NAMETOOLONG) => {
                    self.watches.truncated = true;
                    Ok(None)
                }
                opened => match vanished(opened)? {
                    Some(new) => Scan::of_new(&mut self.watches, parent, name, new),
                    None => Ok(None),
                },
            }
        };
        let scan = begin().map_err(|errno| failed("watch", &self.base, errno))?;
        self.scans.extend(scan);
        self.tell_truncated(out);
        Ok(())
    }

    fn forget(&mut self, parent: Watch, name: &[u8]) {
        if let Some(watch) = self.watches.tree.child(parent, name) {
            let gone = self.watches.tree.remove(watch);
            self.watches.unwatch(gone);
        }
    }

    /// Gives a first half up: it went out of what is watched.
    fn settle(&mut self, at: usize, out: &mut Vec<WatchReply>) {
        if let Some(half) = self.halves.remove(at) {
            let (directory, name) = (half.directory, half.name.as_slice());
            self.tell(Change::MovedFrom, directory, name, half.is_directory, out);
            self.forget(directory, name);
        }
    }

    fn settle_late(&mut self, out: &mut Vec<WatchReply>) {
        let now = Instant::now();
        while self.halves.front().is_some_and(|half| half.until <= now) {
            self.settle(0, out);
        }
    }

    fn settle_all(&mut self, out: &mut Vec<WatchReply>) {
        while !self.halves.is_empty() {
            self.settle(0, out);
        }
    }

    fn path(&self, directory: Watch, name: &[u8]) -> Option<Vec<u8>> {
        path(&self.watches.tree, &self.base, directory, name)
    }

    fn tell(
        &self,
        change: Change,
        directory: Watch,
        name: &[u8],
        is_directory: bool,
        out: &mut Vec<WatchReply>,
    ) {
        let Some(path) = self.path(directory, name) else {
            return;
        };
        let event = Event {
            change: change.into(),
            path: path.into(),
            to: Default::default(),
            is_directory,
        };
        let merges = matches!(change, Change::Modified | Change::Attributes);
        if !(merges && is_told(out, &event)) {
            out.push(reply(Part::Event(event)));
        }
    }
}

/// Whether the last thing that was told of a file a moment ago is the same.
fn is_told(out: &[WatchReply], event: &Event) -> bool {
    for told in out.iter().rev().take(MERGED) {
        match &told.part {
            Some(Part::Event(told)) if told.path == event.path || told.to == event.path => {
                return told == event;
            }
            Some(Part::Event(_)) => {}
            _ => return false,
        }
    }
    false
}

pub(super) fn reply(part: Part) -> WatchReply {
    WatchReply { part: Some(part) }
}
