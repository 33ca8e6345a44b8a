//! What can wait until the processes run again: it needs nothing of the source but what is remembered.

use super::{Flagged, Mirror, spread};
use crate::Error;
use crate::halt::Step;
use crate::model::{DirId, File};
use botstead_overlay::tree::{entries, open_dir};
use rustix::fd::OwnedFd;
use rustix::fs::{
    AtFlags, FileType, IFlags, Mode, OFlags, futimens, ioctl_getflags, ioctl_setflags, openat,
    renameat, syncfs, unlinkat,
};
use rustix::io::{Errno, Result};
use std::ffi::CString;
use std::sync::Arc;

impl Mirror<'_> {
    /// Removes what has gone, sets the times of directories and the inode flags, and waits until all of
    /// it is on disk.
    pub(crate) fn finish(&mut self) -> Step<()> {
        if let Some(limbo) = self.limbo.take() {
            self.model.dir_mut(DirId::ROOT).times_due = true;
            let removed = remove_tree(self.copier.target.root(), limbo);
            removed.map_err(|errno| self.failed("empty", DirId::LIMBO, c"", errno))?;
        }
        let due: Vec<_> = self
            .model
            .dirs()
            .filter(|id| self.model.dir(*id).times_due && self.model.is_attached(*id))
            .collect();
        for id in due {
            let Some(times) = &self.model.dir(id).times else {
                continue;
            };
            let target = self.copier.target.open(&self.model, id);
            target
                .and_then(|target| futimens(&*target, times))
                .map_err(|errno| self.failed("set the times of", id, c"", errno))?;
            self.model.dir_mut(id).times_due = false;
        }
        // Before the source's own flags, of which it may be one.
        spread::end(&self.target_root);
        for (whose, flags) in std::mem::take(&mut self.flags) {
            self.set_flags(whose, flags)?;
        }
        Ok(())
    }

    /// Puts all of it on the disk.
    pub(crate) fn sync(&self) -> Step<()> {
        syncfs(&self.target_root).map_err(|errno| Error::io("sync", "the target", errno).into())
    }

    fn set_flags(&mut self, whose: Flagged, flags: IFlags) -> Step<()> {
        let (dir, name) = match whose {
            Flagged::Dir(id) if self.model.is_attached(id) => (id, None),
            Flagged::Dir(_) => return Ok(()),
            Flagged::File(ino) => {
                let mut places = self.model.file(ino).into_iter().flat_map(File::places);
                match places.find(|place| self.model.is_attached(place.dir)) {
                    Some(place) => (place.dir, Some(Arc::clone(&place.name))),
                    None => return Ok(()),
                }
            }
        };
        let set = self
            .copier
            .target
            .open(&self.model, dir)
            .and_then(|target| {
                let Some(name) = &name else {
                    return add_flags(&target, flags);
                };
                let read = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                add_flags(&openat(&*target, &**name, read, Mode::empty())?, flags)
            });
        let name = name.as_deref().unwrap_or(c"");
        set.map_err(|errno| self.failed("set the flags of", dir, name, errno))
    }
}

fn add_flags(target: &OwnedFd, flags: IFlags) -> Result<()> {
    let present = match ioctl_getflags(target) {
        Ok(present) => present,
        // The source's filesystem has them, the target's has not.
        Err(Errno::NOTTY | Errno::OPNOTSUPP) => return Ok(()),
        Err(errno) => return Err(errno),
    };
    match ioctl_setflags(target, present | flags) {
        // One that this filesystem does not know.
        Err(Errno::OPNOTSUPP | Errno::INVAL) => Ok(()),
        set => set,
    }
}

/// Removes a directory of ours with all that is in it, at any depth: what is found deeper is moved up
/// first.
fn remove_tree(parent: &OwnedFd, name: CString) -> Result<()> {
    let top = open_dir(parent, &name)?;
    let mut moved = 0_u64;
    loop {
        let listed = entries(open_dir(&top, c".")?)?;
        if listed.is_empty() {
            return unlinkat(parent, &*name, AtFlags::REMOVEDIR);
        }
        for (entry, kind) in listed {
            if kind != FileType::Directory {
                unlinkat(&top, &*entry, AtFlags::empty())?;
                continue;
            }
            let dir = open_dir(&top, &entry)?;
            for (below, kind) in entries(open_dir(&dir, c".")?)? {
                if kind != FileType::Directory {
                    unlinkat(&dir, &*below, AtFlags::empty())?;
                } else if unlinkat(&dir, &*below, AtFlags::REMOVEDIR).is_err() {
                    moved += 1;
                    let free = CString::new(format!("moved-{moved}")).unwrap_or_default();
                    renameat(&dir, &*below, &top, &*free)?;
                }
            }
            unlinkat(&top, &*entry, AtFlags::REMOVEDIR)?;
        }
    }
}
