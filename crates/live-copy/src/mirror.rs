//! Making the target like the source, one name at a time, and the model with it.
//!
//! [`Mirror::reconcile`] is the whole of it: it looks at one name of the source and does to the target
//! what is needed for that name to be the same there. The first pass does so for every name, a round for
//! every name that was reported or found. All go by the model (see there): what is known by its inode is
//! moved or linked, not copied again.
//!
//! While the processes run, everything that is read may be outdated already. Then a change after the
//! reading is reported, or found, later; what went away while it was being copied is done again in the
//! next round. So one round after the freeze makes all of it right. This module owns the names and the
//! order of things, `file` and `folder` the entries themselves, `finish` what can wait for the thaw.

mod batch;
mod copier;
mod file;
mod finish;
mod folder;
mod open;
mod removal;
mod spread;

use crate::Error;
use crate::compare::{self, Finding};
use crate::dirs::is_gone;
use crate::feed::{Changes, Feed};
use crate::halt::{Halt, Step};
use crate::model::{DirId, Model, Node, Place};
use crate::report::{Reason, SecondPass};
use crate::scan::Found;
use crate::stop::Stop;
use crate::sys::{Handle, handle_at, open_handle};
use batch::Job;
use botstead_overlay::tree::{Id, is_whiteout, kind, open_dir, stat_at, stat_fd};
use copier::Copier;
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{FileType, IFlags, Statx};
use rustix::io::Errno;
use std::collections::{HashMap, HashSet};
use std::ffi::{CStr, CString};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

/// What was done so far, repetitions included.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Done {
    pub(crate) entries: u64,
    pub(crate) bytes: u64,
    /// Files whose content was copied.
    pub(crate) files: u64,
}

/// A name to look at.
pub(crate) type Name = (DirId, Box<CStr>);

/// Source, target and all that is known about them.
pub(crate) struct Mirror<'a> {
    pub(crate) model: Model,
    copier: Copier,
    /// The target's root as it was opened first: it sees the errors of all writing.
    pub(crate) target_root: OwnedFd,
    pub(crate) feed: Option<Feed>,
    pub(crate) second_pass: SecondPass,
    pub(crate) stop: Stop<'a>,
    /// See [`crate::Options::memory_limit`].
    pub(crate) memory_limit: u64,
    /// Nobody changes the source.
    pub(crate) is_frozen: bool,
    pub(crate) done: Done,
    progress: &'a dyn Fn(Done),
    /// Files to copy when all names are done.
    jobs: HashMap<u64, Job>,
    /// Directories to list, and whether also what is known below them.
    to_list: Vec<(DirId, bool)>,
    /// Names of files that were not there. Removed last: they may have got another name.
    absent: Vec<Name>,
    /// Directories whose own metadata may have changed.
    metadata: HashSet<DirId>,
    /// For the next round.
    again: HashSet<Name>,
    /// Directories that could not be listed where the model has them.
    unlisted: HashSet<DirId>,
    /// Every name that a round had to do with.
    touched: HashSet<Name>,
    /// Files that were changed since they were copied, and whether their content was, as far as this
    /// round has not met them.
    written: Written,
    /// Inodes whose content was copied in this round.
    copied: HashSet<u64>,
    /// Inodes whose content was copied without writing back their pages first, which only counts when
    /// the processes were frozen all the time. Else they are copied again.
    hasty: HashSet<u64>,
    /// Whether the handles of this filesystem show the numbers of inodes, as far as it was seen.
    has_readable_handles: bool,
    /// Inode flags to set at the end.
    flags: HashMap<Flagged, IFlags>,
    /// The name of our own directory in the target's root.
    limbo: Option<CString>,
    limbo_count: u64,
}

/// Files that were changed, and whether their content was.
#[derive(Debug, Default)]
struct Written {
    /// Where handles show it: a number that was given again only means that more is copied.
    by_ino: HashMap<u64, bool>,
    by_handle: HashMap<Handle, bool>,
}

/// What has inode flags.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Flagged {
    File(u64),
    Dir(DirId),
}

/// Which of the two trees a failure is about.
#[derive(Debug)]
enum Fault {
    Source(&'static str, Errno),
    Target(&'static str, Errno),
}

/// What a name costs beside the model, in bytes and roundly.
pub(crate) const NAME_COST: u64 = 128;
/// The part of the memory that each copy has for itself: some 80,000 entries of the usual limit.
const RESERVE: u64 = 64;

impl<'a> Mirror<'a> {
    /// `target` is empty.
    pub(crate) fn new(
        source: OwnedFd,
        target: OwnedFd,
        stop: Stop<'a>,
        progress: &'a dyn Fn(Done),
    ) -> Result<Self, Errno> {
        let ino = stat_fd(&source)?.stx_ino;
        let handle = handle_at(source.as_fd(), c"").ok();
        Ok(Self {
            has_readable_handles: handle.as_ref().and_then(Handle::ino) == Some(ino),
            model: Model::new(ino, handle),
            target_root: open_dir(&target, c".")?,
            copier: Copier::new(source, target)?,
            feed: None,
            second_pass: SecondPass::Walk {
                reason: Reason::Asked,
            },
            stop,
            memory_limit: u64::MAX,
            is_frozen: false,
            done: Done::default(),
            progress,
            jobs: HashMap::new(),
            to_list: Vec::new(),
            absent: Vec::new(),
            metadata: HashSet::new(),
            again: HashSet::new(),
            unlisted: HashSet::new(),
            touched: HashSet::new(),
            written: Written::default(),
            copied: HashSet::new(),
            hasty: HashSet::new(),
            flags: HashMap::new(),
            limbo: None,
            limbo_count: 0,
        })
    }

    /// The source's root.
    pub(crate) fn source_root(&self) -> &OwnedFd {
        self.copier.source.root()
    }

    /// What names the source's root.
    pub(crate) fn source_id(&self) -> Id {
        self.copier.source.root_id()
    }

    /// How many names would be looked at again after the freeze.
    pub(crate) fn count_touched(&self) -> usize {
        self.touched.len()
    }

    /// How many names and files were changed, and how many bytes those have that are known.
    pub(crate) fn size_of(&self, changes: &Changes) -> (usize, u64) {
        let mut count = 0;
        let mut bytes = 0;
        for (dir, names) in &changes.names {
            count += names.len();
            for name in names {
                if let Some(Node::File(ino)) = self.model.child(*dir, name) {
                    bytes += self.model.file(ino).map_or(0, |file| file.seen.size());
                }
            }
        }
        (count.max(changes.files.len()), bytes)
    }

    /// How many bytes the files have that would be copied because they are mapped.
    pub(crate) fn mapped_bytes(&self, found: &Found) -> u64 {
        let mapped = found.files.iter().filter(|file| file.is_mapped);
        mapped.map(|file| file.stat.size()).sum()
    }

    /// Copies everything. The feed, if any, must run already.
    pub(crate) fn first_pass(&mut self) -> Step<()> {
        if let (Some(feed), Some(handle)) = (&self.feed, &self.model.dir(DirId::ROOT).handle) {
            feed.register(handle.clone(), DirId::ROOT);
        }
        let target = self.copier.target.root();
        self.hide_from_feed(target, c"")
            .map_err(|errno| Error::io("look at", "the target", errno))?;
        spread::begin(&self.target_root);
        self.to_list.push((DirId::ROOT, false));
        self.settle()?;
        self.copy_waiting()
    }

    /// Does again what the feed reported.
    pub(crate) fn feed_round(&mut self, changes: Changes) -> Step<()> {
        self.copied.clear();
        for (handle, content) in changes.files {
            match handle.ino().filter(|_| self.has_readable_handles) {
                Some(ino) => *self.written.by_ino.entry(ino).or_default() |= content,
                None => *self.written.by_handle.entry(handle).or_default() |= content,
            }
        }
        let mut names = std::mem::take(&mut self.again);
        for (dir, found) in changes.names {
            names.extend(found.into_iter().map(|name| (dir, name)));
        }
        self.do_names(names, false)?;
        self.files_with_other_names()?;
        self.settle()?;
        self.copy_waiting()
    }

    /// Takes the names that rounds had to do with so far.
    pub(crate) fn take_touched(&mut self) -> HashSet<Name> {
        std::mem::take(&mut self.touched)
    }

    /// Puts back what [`take_touched`](Self::take_touched) took.
    pub(crate) fn put_touched(&mut self, names: HashSet<Name>) {
        self.touched.extend(names);
    }

    /// Looks again at names; returns how many were not as expected.
    pub(crate) fn verify(&mut self, names: HashSet<Name>) -> Step<u64> {
        let mut names: Vec<_> = names.into_iter().collect();
        names.sort_unstable();
        let root = self.copier.source.root().as_fd();
        let found = compare::names(&self.model, root, &names, self.stop);
        self.touched.extend(names);
        let found = found?;
        let count = found.len() as u64;
        let names = self.names_of(found);
        self.do_names(names, false)?;
        self.copy_waiting()?;
        Ok(count)
    }

    /// Looks at the whole tree and does again what is not as it was; returns how much that was, and how
    /// long looking took.
    pub(crate) fn walk_round(&mut self) -> Step<(usize, Duration)> {
        self.copied.clear();
        self.written = Written::default();
        let began = Instant::now();
        let root = self.copier.source.root().as_fd();
        let found = compare::walk(&self.model, root, self.memory_limit, self.stop)?;
        let took = began.elapsed();
        let is_change = |finding: &&Finding| !matches!(finding, Finding::PassedOver(_));
        let count = found.iter().filter(is_change).count();
        let names = self.names_of(found);
        self.do_names(names, true)?;
        let again = std::mem::take(&mut self.again);
        self.do_names(again, false)?;
        self.copy_waiting()?;
        Ok((count, took))
    }

    /// Has everything that was copied since the freeze copied again: it was no freeze.
    pub(crate) fn distrust_frozen(&mut self) {
        self.drop_waiting();
        for ino in self.hasty.drain() {
            let Some(file) = self.model.file_mut(ino) else {
                continue;
            };
            file.seen.is_torn = true;
            self.again.extend(file.places().map(Place::key));
        }
    }

    fn names_of(&mut self, found: Vec<Finding>) -> HashSet<Name> {
        let mut names = HashSet::new();
        for finding in found {
            match finding {
                Finding::Name(dir, name) => {
                    names.insert((dir, name));
                }
                Finding::Metadata(dir) => {
                    self.metadata.insert(dir);
                }
                // It may turn up when the feed reports that it was moved, which tells nothing of what was
                // changed in it when there was no feed.
                Finding::PassedOver(dir) if !self.is_frozen => {
                    self.unlisted.insert(dir);
                }
                // The walk found it elsewhere, or it has gone.
                Finding::PassedOver(_) => {}
            }
        }
        names
    }

    /// Reconciles names and all that follows from them.
    ///
    /// A directory may not be where the model has it, as its own name, or that of one above it, comes up
    /// later. What concerns it then waits.
    fn do_names(&mut self, mut names: HashSet<Name>, exactly: bool) -> Step<()> {
        let mut listed = HashSet::new();
        loop {
            if self.stop.is_due() {
                self.again.extend(names);
                return Err(Halt::stopped(self.stop));
            }
            let left = self.reconcile_all(names.clone(), exactly)?;
            self.settle()?;
            if !self.is_frozen {
                // What is still missing has been removed, or its coming is reported later.
                self.again.extend(left);
                return Ok(());
            }
            let mut next = std::mem::take(&mut self.again);
            next.extend(left);
            let model = &self.model;
            let here = self.unlisted.extract_if(|dir| model.is_attached(*dir));
            let here: HashSet<DirId> = here.collect();
            if next == names && here == listed {
                self.unlisted.extend(here);
                break;
            }
            self.to_list.extend(here.iter().map(|dir| (*dir, exactly)));
            (names, listed) = (next, here);
        }
        // Nothing leads any further: all of it has to be in what was removed.
        match names.iter().find(|(dir, _)| self.model.is_attached(*dir)) {
            Some((dir, name)) => Err(self.inconsistent(*dir, name, Errno::STALE)),
            None => Ok(()),
        }
    }

    /// Reconciles names, and returns those whose directory is not where the model has it.
    fn reconcile_all(&mut self, names: HashSet<Name>, exactly: bool) -> Step<HashSet<Name>> {
        let mut names: Vec<_> = names.into_iter().collect();
        // Those of one directory together, and parents mostly before what was made in them; from the end.
        names.sort_unstable_by(|one, other| other.cmp(one));
        let mut left = HashSet::new();
        while let Some((dir, name)) = names.pop() {
            let result = self.reconcile_one(dir, &name, exactly);
            if !matches!(result, Ok(true)) {
                left.insert((dir, name));
            }
            if let Err(halt) = result {
                // An attempt to come does them.
                self.again.extend(names);
                self.again.extend(left);
                return Err(halt);
            }
        }
        Ok(left)
    }

    /// Reconciles a name; false when its directory is not where the model has it.
    fn reconcile_one(&mut self, dir: DirId, name: &CStr, exactly: bool) -> Step<bool> {
        match self.copier.source.open(&self.model, dir) {
            Err(errno) if is_gone(errno) => return Ok(false),
            Err(errno) => return Err(self.failed("open", dir, c"", errno)),
            Ok(_) => {}
        }
        // Names that come and go change its times.
        self.metadata.insert(dir);
        if name != c"." {
            self.touched.insert((dir, name.into()));
            self.reconcile(dir, name, false, exactly)?;
        }
        Ok(true)
    }

    /// Does what reconciling left to be done.
    fn settle(&mut self) -> Step<()> {
        loop {
            if let Some((dir, known_too)) = self.to_list.pop() {
                let result = self.list(dir, known_too);
                // What ends early is done by an attempt to come.
                result.inspect_err(|_| self.to_list.push((dir, known_too)))?;
            } else if let Some((dir, name)) = self.absent.pop() {
                let result = self.remove_absent(dir, &name);
                result.inspect_err(|_| self.absent.push((dir, name)))?;
            } else if let Some(dir) = self.metadata.iter().next().copied() {
                self.refresh(dir)?;
                self.metadata.remove(&dir);
            } else {
                return Ok(());
            }
        }
    }

    /// Finds by their inodes the files that were changed under a name that is not theirs (any longer),
    /// and copies them.
    fn files_with_other_names(&mut self) -> Step<()> {
        // Most are of other trees.
        let model = &self.model;
        self.written
            .by_ino
            .retain(|ino, _| model.file(*ino).is_some());
        while let Some((ino, content)) = self.written.by_ino.iter().next() {
            let (ino, content) = (*ino, *content);
            self.file_with_another_name(ino, content)?;
            self.written.by_ino.remove(&ino);
        }
        while let Some((handle, content)) = self.written.by_handle.iter().next() {
            let (handle, content) = (handle.clone(), *content);
            let place = match open_handle(self.copier.source.root().as_fd(), &handle) {
                Ok(place) => Some(place),
                // It is gone for good.
                Err(Errno::STALE) => None,
                Err(errno) => return Err(self.failed("open", DirId::ROOT, c"", errno)),
            };
            if let Some(place) = place {
                let stat = stat_fd(&place);
                let stat = stat.map_err(|errno| self.failed("look at", DirId::ROOT, c"", errno))?;
                self.file_with_another_name(stat.stx_ino, content)?;
            }
            self.written.by_handle.remove(&handle);
        }
        Ok(())
    }

    fn file_with_another_name(&mut self, ino: u64, content: bool) -> Step<()> {
        let Some(file) = self.model.file_mut(ino) else {
            return Ok(());
        };
        // Until it is copied, by whatever name.
        file.seen.is_torn |= content;
        let places: Vec<_> = file.places().cloned().collect();
        for place in places {
            let name = place.key();
            if self.model.is_attached(place.dir) {
                self.reconcile(place.dir, &place.name, false, false)?;
                self.touched.insert(name);
            } else {
                self.again.insert(name);
            }
        }
        Ok(())
    }

    /// Makes one name of the target what it is in the source. `force` copies content that looks the
    /// same; `exactly` has a known directory that moved compared with all below it.
    pub(crate) fn reconcile(
        &mut self,
        dir: DirId,
        name: &CStr,
        force: bool,
        exactly: bool,
    ) -> Step<()> {
        if self.stop.is_due() {
            return Err(Halt::stopped(self.stop));
        }
        self.check_memory()?;
        let looked = self
            .copier
            .source
            .open(&self.model, dir)
            .map(|source| (stat_at(&*source, name), source));
        let (stat, source) = match looked {
            Ok((Ok(stat), source)) => (stat, source),
            Ok((Err(Errno::NOENT), _)) => return self.vanish(dir, name),
            Ok((Err(errno), _)) | Err(errno) => {
                return self.met(dir, name, Fault::Source("look at", errno));
            }
        };
        let (major, minor, _) = self.copier.source.root_id();
        if (stat.stx_dev_major, stat.stx_dev_minor) != (major, minor) {
            let path = self.model.path(dir, name);
            return Err(Error::ForeignFilesystem { path }.into());
        }
        let result = match kind(&stat) {
            FileType::Directory => self.directory(dir, name, &source, exactly),
            _ if is_whiteout(&stat) => self.whiteout(dir, name, &stat),
            _ => {
                let written = self.was_written(&source, name, &stat);
                let result = self.file(dir, name, &stat, force || written);
                if written && result.is_err() {
                    // If not by this name, it is found by its number.
                    self.written.by_ino.insert(stat.stx_ino, true);
                }
                result
            }
        };
        match result {
            Ok(()) => Ok(()),
            Err(fault) => self.met(dir, name, fault),
        }
    }

    /// Fails when no more may be remembered.
    fn check_memory(&self) -> Step<()> {
        if self.room() == 0 {
            let limit = self.memory_limit;
            return Err(Error::TooManyEntries { limit }.into());
        }
        Ok(())
    }

    /// How many bytes more may be remembered: what all copies leave of the limit, and a reserve that no
    /// other copy takes, so that a large tree does not fail the small ones beside it.
    pub(crate) fn room(&self) -> u64 {
        let names = (self.touched.len() + self.again.len() + self.absent.len()) as u64;
        let shared = (Model::cost_of_all() + names * NAME_COST, self.memory_limit);
        let own = (
            self.model.cost() + names * NAME_COST,
            self.memory_limit / RESERVE,
        );
        [shared, own]
            .map(|(cost, limit)| limit.saturating_sub(cost))
            .into_iter()
            .max()
            .unwrap_or(0)
    }

    /// Whether the feed reported a change of the content of what has this name now; only once.
    fn was_written(&mut self, source: &Arc<OwnedFd>, name: &CStr, stat: &Statx) -> bool {
        if let Some(content) = self.written.by_ino.remove(&stat.stx_ino) {
            return content;
        }
        if self.written.by_handle.is_empty() {
            return false;
        }
        // What has gone meanwhile is met by what comes next.
        let handle = handle_at(source.as_fd(), name);
        handle.is_ok_and(|handle| self.written.by_handle.remove(&handle) == Some(true))
    }

    /// A failure to do something for a name. What the source has lost since it was looked at, or has
    /// elsewhere, is no failure as yet.
    fn met(&mut self, dir: DirId, name: &CStr, fault: Fault) -> Step<()> {
        match fault {
            Fault::Source(_, errno) if is_gone(errno) => {
                self.again.insert((dir, name.into()));
                Ok(())
            }
            Fault::Source(operation, errno) | Fault::Target(operation, errno) => {
                Err(self.failed(operation, dir, name, errno))
            }
        }
    }

    /// What the feed or the model says contradicts a source that nobody changes.
    fn inconsistent(&self, dir: DirId, name: &CStr, errno: Errno) -> Halt {
        match self.feed {
            Some(_) => Halt::Feed(Reason::Inconsistent),
            None => self.failed("find", dir, name, errno),
        }
    }

    fn failed(&self, operation: &'static str, dir: DirId, name: &CStr, errno: Errno) -> Halt {
        if errno == Errno::CANCELED {
            return Halt::stopped(self.stop);
        }
        Error::io(operation, self.model.path(dir, name), errno).into()
    }

    fn count(&mut self, bytes: u64) {
        self.done.entries += 1;
        self.done.bytes += bytes;
        if !self.is_frozen {
            (self.progress)(self.done);
        }
    }
}

/// Nanoseconds since 1970, at or shortly after the kernel's coarse clock.
fn now() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    // A clock before 1970, like one past 2262, makes every copy one that has to be made again.
    since.map_or(0, |since| i64::try_from(since.as_nanos()).unwrap_or(0))
}

#[cfg(test)]
mod tests;
