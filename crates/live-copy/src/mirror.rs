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

mod file;
mod finish;
mod folder;

use crate::Error;
use crate::compare::{self, Finding};
use crate::content::Contents;
use crate::dirs::{Dirs, Side, is_gone};
use crate::feed::{Changes, Feed};
use crate::halt::{Halt, Step};
use crate::model::{DirId, File, Model, Node, Trust};
use crate::report::{Reason, SecondPass};
use crate::stop::Stop;
use crate::sys::{Handle, handle_at, open_handle};
use botstead_overlay::tree::{is_whiteout, kind, open_dir, stat_at, stat_fd};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{FileType, IFlags, Statx};
use rustix::io::Errno;
use std::collections::{HashMap, HashSet};
use std::ffi::{CStr, CString};
use std::rc::Rc;
use std::time::SystemTime;

/// What was done so far, repetitions included.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Done {
    pub(crate) entries: u64,
    pub(crate) bytes: u64,
    /// Files whose content was copied.
    pub(crate) files: u64,
}

/// A name to look at.
type Name = (DirId, Box<CStr>);

/// Source, target and all that is known about them.
pub(crate) struct Mirror<'a> {
    pub(crate) model: Model,
    source: Dirs,
    target: Dirs,
    /// The target's root as it was opened first: it sees the errors of all writing.
    pub(crate) target_root: OwnedFd,
    pub(crate) feed: Option<Feed>,
    pub(crate) second_pass: SecondPass,
    pub(crate) stop: Stop<'a>,
    /// Nobody changes the source.
    pub(crate) is_frozen: bool,
    pub(crate) done: Done,
    progress: &'a mut dyn FnMut(Done),
    contents: Contents,
    /// Directories to list, and whether also what is known below them.
    to_list: Vec<(DirId, bool)>,
    /// Names of files that were not there. Removed last: they may have got another name.
    absent: Vec<Name>,
    /// Directories whose own metadata may have changed.
    metadata: HashSet<DirId>,
    /// For the next round.
    again: HashSet<Name>,
    /// Every name that a round had to do with.
    touched: HashSet<Name>,
    /// Files whose content was changed since it was copied, as far as this round has not met them.
    written: HashMap<Handle, bool>,
    /// Inodes whose content was copied in this round.
    copied: HashSet<u64>,
    /// Inodes whose content was copied without writing back their pages first, which only counts when
    /// the processes were frozen all the time. Else they are copied again.
    hasty: HashSet<u64>,
    /// Inode flags to set at the end.
    flags: HashMap<Flagged, IFlags>,
    has_flags: bool,
    /// The name of our own directory in the target's root.
    limbo: Option<CString>,
    limbo_count: u64,
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

impl<'a> Mirror<'a> {
    /// `target` is empty.
    pub(crate) fn new(
        source: OwnedFd,
        target: OwnedFd,
        stop: Stop<'a>,
        progress: &'a mut dyn FnMut(Done),
    ) -> Result<Self, Errno> {
        let ino = stat_fd(&source)?.stx_ino;
        Ok(Self {
            model: Model::new(ino, handle_at(source.as_fd(), c"").ok()),
            target_root: open_dir(&target, c".")?,
            source: Dirs::new(Side::Source, source)?,
            target: Dirs::new(Side::Target, target)?,
            feed: None,
            second_pass: SecondPass::Walk {
                reason: Reason::Asked,
            },
            stop,
            is_frozen: false,
            done: Done::default(),
            progress,
            contents: Contents::new(),
            to_list: Vec::new(),
            absent: Vec::new(),
            metadata: HashSet::new(),
            again: HashSet::new(),
            touched: HashSet::new(),
            written: HashMap::new(),
            copied: HashSet::new(),
            hasty: HashSet::new(),
            flags: HashMap::new(),
            has_flags: true,
            limbo: None,
            limbo_count: 0,
        })
    }

    /// The source's root.
    pub(crate) fn source_root(&self) -> &OwnedFd {
        self.source.root()
    }

    /// Copies everything. The feed, if any, must run already.
    pub(crate) fn first_pass(&mut self) -> Step<()> {
        if let (Some(feed), Some(handle)) = (&self.feed, &self.model.dir(DirId::ROOT).handle) {
            feed.register(handle.clone(), DirId::ROOT);
        }
        self.to_list.push((DirId::ROOT, false));
        self.settle()
    }

    /// Does again what the feed reported.
    pub(crate) fn feed_round(&mut self, changes: Changes) -> Step<()> {
        self.copied.clear();
        for (handle, content) in changes.files {
            *self.written.entry(handle).or_default() |= content;
        }
        let mut names = std::mem::take(&mut self.again);
        for (dir, found) in changes.names {
            names.extend(found.into_iter().map(|name| (dir, name)));
        }
        self.do_names(names, false)?;
        while let Some(handle) = self.written.keys().next().cloned() {
            self.file_with_another_name(&handle)?;
            self.written.remove(&handle);
        }
        self.settle()
    }

    /// Looks again at every name that rounds had to do with; returns how many were not as expected.
    pub(crate) fn verify(&mut self) -> Step<u64> {
        let mut names: Vec<_> = self.touched.drain().collect();
        names.sort_unstable();
        let root = self.source.root().as_fd();
        let found = compare::names(&self.model, root, &names, self.stop);
        self.touched.extend(names);
        let found = found?;
        let count = found.len() as u64;
        let names = self.names_of(found);
        self.do_names(names, false)?;
        Ok(count)
    }

    /// Looks at the whole tree and does again what is not as it was; returns how much that was.
    pub(crate) fn walk_round(&mut self) -> Step<usize> {
        self.copied.clear();
        self.written.clear();
        let root = self.source.root().as_fd();
        let found = compare::walk(&self.model, root, self.stop)?;
        let count = found.len();
        let names = self.names_of(found);
        self.do_names(names, true)?;
        let again = std::mem::take(&mut self.again);
        self.do_names(again, false)?;
        Ok(count)
    }

    /// Has everything that was copied since the freeze copied again: it was no freeze.
    pub(crate) fn distrust_frozen(&mut self) {
        for ino in self.hasty.drain() {
            let Some(file) = self.model.file_mut(ino) else {
                continue;
            };
            file.seen.is_torn = true;
            let place = file.place();
            self.again.insert((place.dir, (&*place.name).into()));
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
            }
        }
        names
    }

    /// Reconciles names and all that follows from them.
    fn do_names(&mut self, mut names: HashSet<Name>, exactly: bool) -> Step<()> {
        loop {
            let before = names.len();
            names = self.reconcile_all(names, exactly)?;
            self.settle()?;
            // A directory that had moved is where the model has it by now.
            if names.is_empty() || names.len() == before {
                break;
            }
        }
        // What is left belongs to directories that have been removed, or whose coming is reported later.
        if !self.is_frozen {
            self.again.extend(names);
        } else if let Some((dir, name)) = names.iter().find(|(dir, _)| self.model.is_attached(*dir))
        {
            return Err(self.inconsistent(*dir, name, Errno::STALE));
        }
        Ok(())
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
        match self.source.open(&self.model, dir) {
            Err(errno) if is_gone(errno) => return Ok(false),
            Err(errno) => return Err(self.failed("open", dir, c"", errno)),
            Ok(_) => {}
        }
        if name == c"." {
            self.metadata.insert(dir);
        } else {
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

    /// Finds by its inode a file that was changed under a name that is not its (any longer), and copies
    /// it.
    fn file_with_another_name(&mut self, handle: &Handle) -> Step<()> {
        let root = self.source.root().as_fd();
        let place = match open_handle(root, handle) {
            Ok(place) => place,
            // It is gone for good.
            Err(Errno::STALE) => return Ok(()),
            Err(errno) => return Err(self.failed("open", DirId::ROOT, c"", errno)),
        };
        let stat =
            stat_fd(&place).map_err(|errno| self.failed("look at", DirId::ROOT, c"", errno))?;
        let Some(file) = self.model.file_mut(stat.stx_ino) else {
            return Ok(());
        };
        // Also when its name cannot be looked at now.
        file.seen.is_torn |= self.written.get(handle) == Some(&true);
        let place = file.place().clone();
        self.touched.insert((place.dir, (&*place.name).into()));
        self.reconcile(place.dir, &place.name, false, false)
    }

    /// Makes one name of the target what it is in the source. `force` copies content that looks the
    /// same; `exactly` goes by the looks alone, and compares all that is below a directory that moved.
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
        let looked = self
            .source
            .open(&self.model, dir)
            .and_then(|source| Ok((stat_at(&*source, name), source)));
        let (stat, source) = match looked {
            Ok((Ok(stat), source)) => (stat, source),
            Ok((Err(Errno::NOENT), _)) => return self.vanish(dir, name),
            Ok((Err(errno), _)) | Err(errno) => {
                return self.met(dir, name, Fault::Source("look at", errno));
            }
        };
        let (major, minor, _) = self.source.root_id();
        if (stat.stx_dev_major, stat.stx_dev_minor) != (major, minor) {
            let path = self.model.path(dir, name);
            return Err(Error::ForeignFilesystem { path }.into());
        }
        let result = match kind(&stat) {
            FileType::Directory => self.directory(dir, name, &stat, &source, exactly),
            _ if is_whiteout(&stat) => self.whiteout(dir, name, &stat),
            _ => {
                let force = force || self.was_written(&source, name, &stat);
                let trust = if exactly || self.feed.is_none() {
                    Trust::Looks
                } else {
                    Trust::Events
                };
                self.file(dir, name, &stat, force, trust)
            }
        };
        match result {
            Ok(()) => Ok(()),
            Err(fault) => self.met(dir, name, fault),
        }
    }

    /// Whether the feed reported a change of the content of what has this name now.
    fn was_written(&mut self, source: &Rc<OwnedFd>, name: &CStr, stat: &Statx) -> bool {
        if self.written.is_empty() || self.copied.contains(&stat.stx_ino) {
            return false;
        }
        // What has gone meanwhile is met by what comes next.
        let handle = handle_at(source.as_fd(), name);
        handle.is_ok_and(|handle| self.written.remove(&handle) == Some(true))
    }

    /// A name that the source does not have.
    fn vanish(&mut self, dir: DirId, name: &CStr) -> Step<()> {
        match self.model.child(dir, name) {
            None => Ok(()),
            Some(Node::Dir(id)) => match self.to_limbo(id) {
                Ok(()) => Ok(()),
                Err(fault) => self.met(dir, name, fault),
            },
            Some(_) => {
                self.absent.push((dir, name.into()));
                Ok(())
            }
        }
    }

    fn remove_absent(&mut self, dir: DirId, name: &CStr) -> Step<()> {
        let looked = self
            .source
            .open(&self.model, dir)
            .and_then(|source| stat_at(&*source, name));
        match looked {
            Ok(_) => self.reconcile(dir, name, false, false),
            Err(Errno::NOENT) => match self.clear(dir, name) {
                Ok(()) => Ok(()),
                Err(fault) => self.met(dir, name, fault),
            },
            Err(errno) => self.met(dir, name, Fault::Source("look at", errno)),
        }
    }

    /// Takes away what the target has under a name.
    fn clear(&mut self, dir: DirId, name: &CStr) -> Result<(), Fault> {
        match self.model.child(dir, name) {
            None => Ok(()),
            Some(Node::Dir(id)) => self.to_limbo(id),
            Some(Node::File(_) | Node::Whiteout) => {
                self.unlink(dir, name)?;
                self.model.unlink(dir, name);
                Ok(())
            }
        }
    }

    /// A failure to do something for a name: while the source changes, what it has lost since it was
    /// looked at is no failure.
    fn met(&mut self, dir: DirId, name: &CStr, fault: Fault) -> Step<()> {
        match fault {
            Fault::Source(_, errno) if !self.is_frozen && is_gone(errno) => {
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
        (self.progress)(self.done);
    }
}

/// Nanoseconds since 1970, at or shortly after the kernel's coarse clock.
fn now() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    // A clock before 1970, like one past 2262, makes every copy one that has to be made again.
    since.map_or(0, |since| i64::try_from(since.as_nanos()).unwrap_or(0))
}
