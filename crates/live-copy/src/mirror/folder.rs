//! Directories: making, finding again, listing, their metadata; and limbo, where those wait that have
//! left their place.

use super::copier::{copy_metadata, flags_of};
use super::{Fault, Flagged, Mirror, now, spread};
use crate::Error;
use crate::dirs::is_gone;
use crate::halt::Step;
use crate::model::{DirId, Node, Seen, Trust, times};
use crate::sys::{Handle, handle_at};
use botstead_overlay::tree::{open_dir, stat_fd};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{Mode, RawDir, SeekFrom, Statx, mkdirat, renameat, seek};
use rustix::io::Errno;
use std::collections::HashSet;
use std::ffi::{CStr, CString};
use std::sync::Arc;

/// Holds many entries.
const LIST_BUFFER: usize = 64 << 10;

impl Mirror<'_> {
    /// A name that is a directory in the source.
    pub(super) fn directory(
        &mut self,
        dir: DirId,
        name: &CStr,
        source: &Arc<OwnedFd>,
        exactly: bool,
    ) -> Result<(), Fault> {
        // Number and handle of one and the same: the name may be another's a moment later.
        let failed = |errno| Fault::Source("look at", errno);
        let own = open_dir(&**source, name).map_err(failed)?;
        let stat = &stat_fd(&own).map_err(failed)?;
        let handle = match &self.feed {
            None => None,
            Some(_) => Some(handle_at(own.as_fd(), c"").map_err(failed)?),
        };
        if let Some(handle) = &handle {
            self.has_readable_handles &= handle.ino() == Some(stat.stx_ino);
        }
        if let Some(Node::Dir(id)) = self.model.child(dir, name)
            && self.is_it(id, stat, handle.as_ref())
        {
            self.metadata.insert(id);
            if exactly || self.unlisted.remove(&id) {
                self.to_list.push((id, exactly));
            }
            return Ok(());
        }
        self.clear(dir, name)?;
        let known = self.model.dir_by_ino(stat.stx_ino);
        match known.filter(|id| self.is_it(*id, stat, handle.as_ref())) {
            // The root is no child of anything: its number was taken over, or it is being looked at
            // from below.
            Some(id) if id != DirId::ROOT => self.adopt(id, dir, name, exactly),
            _ => self.make(dir, name, stat, handle),
        }
    }

    /// Whether the model's directory is the one that was looked at. Numbers are given again, handles are
    /// not.
    fn is_it(&self, id: DirId, stat: &Statx, handle: Option<&Handle>) -> bool {
        let known = self.model.dir(id);
        known.ino == stat.stx_ino && (handle.is_none() || known.handle.as_ref() == handle)
    }

    /// Moves a directory of the target to where the source has it.
    fn adopt(&mut self, id: DirId, dir: DirId, name: &CStr, exactly: bool) -> Result<(), Fault> {
        // What is to hold it may be below it as yet. Then that has moved as well, and waits in limbo for
        // its own name to be looked at.
        if self.model.is_within(dir, id) {
            let between = self.model.ancestors(dir).find(|above| {
                let parent = self.model.dir(*above).parent;
                parent == id
            });
            if let Some(between) = between {
                self.put_into_limbo(between)?;
            }
        }
        self.rename_to(id, dir, name)?;
        self.metadata.insert(id);
        // With a feed, all that changed below it was reported wherever it was.
        if exactly || self.feed.is_none() {
            self.to_list.push((id, true));
        }
        let model = &self.model;
        let here = self
            .unlisted
            .extract_if(|below| model.is_within(*below, id));
        self.to_list.extend(here.map(|below| (below, false)));
        Ok(())
    }

    fn rename_to(&mut self, id: DirId, dir: DirId, name: &CStr) -> Result<(), Fault> {
        let failed = |errno| Fault::Target("move", errno);
        let (old_dir, old_name) = {
            let known = self.model.dir(id);
            (known.parent, Arc::clone(&known.name))
        };
        let from = self
            .copier
            .target
            .open(&self.model, old_dir)
            .map_err(failed)?;
        let to = self.copier.target.open(&self.model, dir).map_err(failed)?;
        renameat(&*from, &*old_name, &*to, name).map_err(failed)?;
        self.model.move_dir(id, dir, name);
        for changed in [old_dir, dir] {
            self.model.dir_mut(changed).times_due = true;
        }
        Ok(())
    }

    /// Moves a directory of the target out of the tree, where it can be found again.
    pub(super) fn put_into_limbo(&mut self, id: DirId) -> Result<(), Fault> {
        if self.limbo.is_none() {
            let name = spread::unused_name();
            let root = self.copier.target.root();
            mkdirat(root, &*name, Mode::RWXU).map_err(|errno| Fault::Target("make", errno))?;
            self.model.dir_mut(DirId::LIMBO).name = name.as_c_str().into();
            self.model.dir_mut(DirId::ROOT).times_due = true;
            self.limbo = Some(name);
        }
        self.limbo_count += 1;
        let name = CString::new(self.limbo_count.to_string()).unwrap_or_default();
        self.rename_to(id, DirId::LIMBO, &name)
    }

    fn make(
        &mut self,
        dir: DirId,
        name: &CStr,
        stat: &Statx,
        handle: Option<Handle>,
    ) -> Result<(), Fault> {
        let failed = |errno| Fault::Target("make", errno);
        let parent = self.copier.target.open(&self.model, dir).map_err(failed)?;
        let made = match dir {
            DirId::ROOT => spread::make(&parent, name),
            _ => mkdirat(&*parent, name, Mode::RWXU),
        };
        made.map_err(failed)?;
        self.hide_from_feed(&parent, name).map_err(failed)?;
        let id = self.model.add_dir(dir, name, stat.stx_ino, handle.clone());
        self.model.dir_mut(dir).times_due = true;
        if let (Some(feed), Some(handle)) = (&self.feed, handle) {
            feed.register(handle, id);
        }
        self.to_list.push((id, false));
        self.count(0);
        Ok(())
    }

    /// What the copy writes is no change, and would be more than the feed remembers.
    pub(super) fn hide_from_feed(&self, parent: &OwnedFd, name: &CStr) -> rustix::io::Result<()> {
        if let Some(feed) = &self.feed {
            feed.hide(handle_at(parent.as_fd(), name)?);
        }
        Ok(())
    }

    /// Reconciles every name in a directory.
    pub(super) fn list(&mut self, dir: DirId, known_too: bool) -> Step<()> {
        if !self.model.is_attached(dir) {
            // If it turns up again, it is listed then.
            self.unlisted.insert(dir);
            return Ok(());
        }
        let room = self.room();
        let listed = self
            .copier
            .source
            .open(&self.model, dir)
            .and_then(|source| names_in(&source, room));
        let listed = match listed {
            Ok(listed) => listed,
            Err(Errno::NOBUFS) => {
                let limit = self.memory_limit;
                return Err(Error::TooManyEntries { limit }.into());
            }
            Err(errno) => {
                self.unlisted.insert(dir);
                return self.lost(dir, errno);
            }
        };
        self.refresh(dir)?;
        let was_empty = self.model.dir(dir).children.is_empty();
        for name in &listed {
            self.reconcile(dir, name, false, known_too)?;
            self.copy_many_waiting()?;
        }
        if !was_empty {
            let listed: HashSet<&CStr> = listed.iter().map(CString::as_c_str).collect();
            let children = self.model.dir(dir).children.keys();
            let gone: Vec<_> = children
                .filter(|name| !listed.contains(&***name))
                .cloned()
                .collect();
            for name in gone {
                self.reconcile(dir, &name, false, known_too)?;
            }
        }
        Ok(())
    }

    /// Copies a directory's own metadata if it is not as it was. Its times are set at the end.
    pub(super) fn refresh(&mut self, dir: DirId) -> Step<()> {
        if !self.model.is_attached(dir) {
            // If it turns up again, or what it is in.
            self.again.insert((dir, c".".into()));
            return Ok(());
        }
        let looked_at = now();
        let looked = self
            .copier
            .source
            .open(&self.model, dir)
            .and_then(|source| Ok((stat_fd(&*source)?, source)));
        let (stat, source) = match looked {
            Ok(looked) => looked,
            Err(errno) => return self.lost(dir, errno),
        };
        if self
            .model
            .dir(dir)
            .seen
            .is_some_and(|seen| seen.still(&stat, Trust::Looks))
        {
            return Ok(());
        }
        let own = self.copier.target.open(&self.model, dir);
        let target = own.map_err(|errno| self.failed("open", dir, c"", errno))?;
        if let Err(errno) = copy_metadata(&source, &stat, &target) {
            return Err(self.failed("copy the metadata of", dir, c"", errno));
        }
        let flags = flags_of(&source);
        if flags.is_empty() {
            self.flags.remove(&Flagged::Dir(dir));
        } else {
            self.flags.insert(Flagged::Dir(dir), flags);
        }
        let known = self.model.dir_mut(dir);
        known.seen = Some(Seen::new(&stat, looked_at));
        known.times = Some(times(&stat));
        known.times_due = true;
        Ok(())
    }

    /// A directory is not where the model has it.
    fn lost(&mut self, dir: DirId, errno: Errno) -> Step<()> {
        if !is_gone(errno) || dir == DirId::ROOT {
            return Err(self.failed("open", dir, c"", errno));
        }
        let known = self.model.dir(dir);
        let name = (known.parent, (&*known.name).into());
        self.again.insert(name);
        self.again.insert((dir, c".".into()));
        Ok(())
    }
}

/// The names in a directory from its beginning; `NOBUFS` when they take more memory than there is room.
fn names_in(dir: &OwnedFd, room: u64) -> rustix::io::Result<Vec<CString>> {
    seek(dir, SeekFrom::Start(0))?;
    let mut buffer = Vec::with_capacity(LIST_BUFFER);
    let mut entries = RawDir::new(dir, buffer.spare_capacity_mut());
    let (mut names, mut cost) = (Vec::new(), 0);
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        cost += 32 + name.count_bytes() as u64;
        if cost > room {
            return Err(Errno::NOBUFS);
        }
        names.push(name.to_owned());
    }
    Ok(names)
}
