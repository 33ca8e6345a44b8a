//! Names that are no directories: whether to link what is known already, to copy, or to copy again. How
//! to copy is in `copier`.

use super::batch::{Job, LARGE};
use super::copier::{Copied, How};
use super::{Fault, Flagged, Mirror, now};
use crate::model::{DirId, Node, Seen, Trust};
use botstead_overlay::tree::kind;
use rustix::fs::{AtFlags, FileType, Statx, linkat, unlinkat};
use rustix::io::Errno;
use std::ffi::CStr;

impl Mirror<'_> {
    /// A name that is neither directory nor whiteout in the source.
    pub(super) fn file(
        &mut self,
        dir: DirId,
        name: &CStr,
        stat: &Statx,
        force: bool,
    ) -> Result<(), Fault> {
        let ino = stat.stx_ino;
        if self
            .model
            .file(ino)
            .is_some_and(|file| file.seen.kind() != kind(stat))
        {
            // The number belongs to another file by now; the names of the old one are all outdated.
            self.forget(ino)?;
        }
        let is_here = self.model.child(dir, name) == Some(Node::File(ino));
        if !is_here {
            self.clear(dir, name)?;
            if self.is_to_come(ino) {
                // Under another name, from which there is nothing to link. It may have that still.
                if let Some(file) = self.model.file(ino).filter(|_| !self.is_frozen) {
                    self.again.insert(file.place().key());
                }
                self.forget(ino)?;
            }
        }
        let Some(file) = self.model.file(ino) else {
            return self.first_copy(dir, name, stat);
        };
        // By the looks alone: an event may mean that the number was given to a new file, in the same tick.
        let is_same = !force && file.seen.still(stat, Trust::Looks);
        // Or waits to be.
        let was_just_copied =
            self.copied.contains(&ino) && (self.is_frozen || file.seen.still(stat, Trust::Events));
        if !is_here {
            self.link(ino, dir, name)?;
        }
        if is_same || was_just_copied {
            return Ok(());
        }
        if kind(stat) != FileType::RegularFile
            && !self.copier.is_alike(&self.model, (dir, name), stat)?
        {
            // These never change, so that it is another with the number of one that has gone.
            self.forget(ino)?;
            return self.first_copy(dir, name, stat);
        }
        self.copy_again(ino, dir, name, stat)
    }

    /// A whiteout in the source.
    pub(super) fn whiteout(&mut self, dir: DirId, name: &CStr, stat: &Statx) -> Result<(), Fault> {
        if self.model.child(dir, name) == Some(Node::Whiteout) {
            return Ok(());
        }
        self.clear(dir, name)?;
        self.copier.make_special(&self.model, (dir, name), stat)?;
        self.model.add_whiteout(dir, name);
        self.model.dir_mut(dir).times_due = true;
        self.count(0);
        Ok(())
    }

    /// Removes a file's name from the target; the model does not know of it yet.
    pub(super) fn unlink(&mut self, dir: DirId, name: &CStr) -> Result<(), Fault> {
        if let Some(Node::File(ino)) = self.model.child(dir, name)
            && self.is_to_come(ino)
        {
            self.jobs.remove(&ino);
            self.copied.remove(&ino);
            return Ok(());
        }
        let failed = |errno| Fault::Target("remove", errno);
        let target = self.copier.target.open(&self.model, dir).map_err(failed)?;
        unlinkat(&*target, name, AtFlags::empty()).map_err(failed)?;
        self.model.dir_mut(dir).times_due = true;
        Ok(())
    }

    /// Removes a file of the target with all its names.
    fn forget(&mut self, ino: u64) -> Result<(), Fault> {
        while let Some(place) = self.model.file(ino).map(|file| file.place().clone()) {
            self.unlink(place.dir, &place.name)?;
            self.model.unlink(place.dir, &place.name);
        }
        Ok(())
    }

    /// Gives a file of the target one more name.
    fn link(&mut self, ino: u64, dir: DirId, name: &CStr) -> Result<(), Fault> {
        let failed = |errno| Fault::Target("link", errno);
        let Some(file) = self.model.file(ino) else {
            return Err(failed(Errno::NOENT));
        };
        let (place, seen) = (file.place().clone(), file.seen);
        let from = self
            .copier
            .target
            .open(&self.model, place.dir)
            .map_err(failed)?;
        let to = self.copier.target.open(&self.model, dir).map_err(failed)?;
        linkat(&*from, &*place.name, &*to, name, AtFlags::empty()).map_err(failed)?;
        self.model.link(ino, dir, name, || seen);
        self.model.dir_mut(dir).times_due = true;
        Ok(())
    }

    fn first_copy(&mut self, dir: DirId, name: &CStr, stat: &Statx) -> Result<(), Fault> {
        let ino = stat.stx_ino;
        let place = (dir, name);
        if kind(stat) != FileType::RegularFile {
            let copied = self.copier.make_special(&self.model, place, stat)?;
            self.model.link(ino, dir, name, || copied.seen);
            self.note_copied(ino, copied);
        } else if stat.stx_nlink == 1 && (self.is_frozen || stat.stx_size < LARGE) {
            let mut seen = Seen::new(stat, now());
            seen.is_torn = true;
            self.model.link(ino, dir, name, || seen);
            self.copied.insert(ino);
            self.jobs.insert(ino, Job::new(dir, name, stat, true));
        } else {
            let how = How {
                is_frozen: self.is_frozen,
                is_new: true,
            };
            let copied = self
                .copier
                .regular(&self.model, place, stat, how, &self.stop)?;
            self.model.link(ino, dir, name, || copied.seen);
            self.note_copied(ino, copied);
        }
        self.model.dir_mut(dir).times_due = true;
        Ok(())
    }

    fn copy_again(&mut self, ino: u64, dir: DirId, name: &CStr, stat: &Statx) -> Result<(), Fault> {
        // Until every step has succeeded.
        if let Some(file) = self.model.file_mut(ino) {
            file.seen.is_torn = true;
        }
        let place = (dir, name);
        let is_to_come = self.is_to_come(ino);
        let copied = if kind(stat) != FileType::RegularFile {
            self.copier.special_metadata(&self.model, place, stat)?
        } else if self.is_frozen || is_to_come {
            self.copied.insert(ino);
            self.jobs.insert(ino, Job::new(dir, name, stat, is_to_come));
            return Ok(());
        } else {
            let how = How {
                is_frozen: false,
                is_new: false,
            };
            self.copier
                .regular(&self.model, place, stat, how, &self.stop)?
        };
        if let Some(file) = self.model.file_mut(ino) {
            file.seen = copied.seen;
        }
        self.note_copied(ino, copied);
        Ok(())
    }

    pub(super) fn note_copied(&mut self, ino: u64, copied: Copied) {
        if copied.flags.is_empty() {
            // A file that had the number before may have had some.
            self.flags.remove(&Flagged::File(ino));
        } else {
            self.flags.insert(Flagged::File(ino), copied.flags);
        }
        self.copied.insert(ino);
        if self.is_frozen {
            self.hasty.insert(ino);
        }
        self.done.files += 1;
        self.count(copied.bytes);
    }
}
