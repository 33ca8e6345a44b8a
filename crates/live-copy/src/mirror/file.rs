//! Everything but directories: copying, linking what is known already, writing over an earlier copy.

use super::{Fault, Flagged, Mirror, now};
use crate::model::{DirId, Node, Seen, Trust};
use crate::sys::write_back;
use botstead_overlay::meta;
use botstead_overlay::tree::{Attributes, kind, open_file, stat_at, stat_fd};
use rustix::fd::{AsRawFd, OwnedFd};
use rustix::fs::{
    AtFlags, CWD, FileType, IFlags, Mode, OFlags, Statx, fchmod, fchown, futimens, ioctl_getflags,
    linkat, makedev, mknodat, openat, readlinkat, symlinkat, unlinkat,
};
use rustix::io::Errno;
use std::ffi::CStr;
use std::rc::Rc;

/// The identity of an overlay mount, which a copy of its upper directory must not have.
const MOUNT_UUID: &CStr = c"trusted.overlay.uuid";

/// The inode flags that are copied. Not those that say which project's quota a file counts for, which is
/// a matter of the target, or how the filesystem stores it.
const FLAGS: IFlags = IFlags::from_bits_retain(
    IFlags::APPEND.bits()
        | IFlags::COMPRESSED.bits()
        | IFlags::DIRSYNC.bits()
        | IFlags::IMMUTABLE.bits()
        | IFlags::JOURNALING.bits()
        | IFlags::NOATIME.bits()
        | IFlags::NODUMP.bits()
        | IFlags::NOTAIL.bits()
        | IFlags::SECURE_REMOVAL.bits()
        | IFlags::SYNC.bits()
        | IFlags::TOPDIR.bits()
        | IFlags::UNRM.bits(),
);

/// Whether an extended attribute is part of a copy.
pub(super) fn is_copied(attribute: &CStr) -> bool {
    attribute != MOUNT_UUID
}

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
        }
        let Some(file) = self.model.file(ino) else {
            return self.first_copy(dir, name, stat);
        };
        // By the looks alone: an event may mean that the number was given to a new file, in the same tick.
        let is_same = !force && file.seen.still(stat, Trust::Looks);
        let was_just_copied = self.copied.contains(&ino) && file.seen.still(stat, Trust::Events);
        if !is_here {
            self.link(ino, dir, name)?;
        }
        if is_same || was_just_copied {
            return Ok(());
        }
        if kind(stat) != FileType::RegularFile && !self.is_alike(dir, name, stat)? {
            // These never change, so that it is another with the number of one that has gone.
            self.forget(ino)?;
            return self.first_copy(dir, name, stat);
        }
        self.copy_again(ino, dir, name, stat)
    }

    /// Whether source and target have the same link, device, pipe or socket under a name.
    fn is_alike(&mut self, dir: DirId, name: &CStr, stat: &Statx) -> Result<bool, Fault> {
        let failed = |errno| Fault::Target("look at", errno);
        let target = self.target.open(&self.model, dir).map_err(failed)?;
        let own = stat_at(&*target, name).map_err(failed)?;
        let device = |stat: &Statx| (stat.stx_rdev_major, stat.stx_rdev_minor);
        if kind(stat) != FileType::Symlink {
            return Ok(device(&own) == device(stat));
        }
        let failed_source = |errno| Fault::Source("read", errno);
        let source = self.source.open(&self.model, dir).map_err(failed_source)?;
        let wanted = readlinkat(&*source, name, Vec::new()).map_err(failed_source)?;
        Ok(readlinkat(&*target, name, Vec::new()).map_err(failed)? == wanted)
    }

    /// A whiteout in the source.
    pub(super) fn whiteout(&mut self, dir: DirId, name: &CStr, stat: &Statx) -> Result<(), Fault> {
        if self.model.child(dir, name) == Some(Node::Whiteout) {
            return Ok(());
        }
        self.clear(dir, name)?;
        self.make_special(dir, name, stat)?;
        self.model.add_whiteout(dir, name);
        self.count(0);
        Ok(())
    }

    pub(super) fn unlink(&mut self, dir: DirId, name: &CStr) -> Result<(), Fault> {
        let failed = |errno| Fault::Target("remove", errno);
        let target = self.target.open(&self.model, dir).map_err(failed)?;
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
        let from = self.target.open(&self.model, place.dir).map_err(failed)?;
        let to = self.target.open(&self.model, dir).map_err(failed)?;
        linkat(&*from, &*place.name, &*to, name, AtFlags::empty()).map_err(failed)?;
        self.model.link(ino, dir, name, || seen);
        self.model.dir_mut(dir).times_due = true;
        Ok(())
    }

    fn first_copy(&mut self, dir: DirId, name: &CStr, stat: &Statx) -> Result<(), Fault> {
        let (seen, bytes) = if kind(stat) == FileType::RegularFile {
            self.make_regular(dir, name, stat)?
        } else {
            (self.make_special(dir, name, stat)?, 0)
        };
        self.model.link(stat.stx_ino, dir, name, || seen);
        self.note_copied(stat.stx_ino, bytes);
        Ok(())
    }

    fn copy_again(&mut self, ino: u64, dir: DirId, name: &CStr, stat: &Statx) -> Result<(), Fault> {
        // Until every step has succeeded.
        if let Some(file) = self.model.file_mut(ino) {
            file.seen.is_torn = true;
        }
        let failed = |errno| Fault::Target("open", errno);
        let target_dir = self.target.open(&self.model, dir).map_err(failed)?;
        let (seen, bytes) = if kind(stat) == FileType::RegularFile {
            let (source, stat, seen) = self.open_regular(dir, name, stat)?;
            let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let target = openat(&*target_dir, name, flags, Mode::empty()).map_err(failed)?;
            (seen, self.fill(&source, &stat, &target, ino)?)
        } else {
            (self.special_metadata(dir, name, stat)?, 0)
        };
        if let Some(file) = self.model.file_mut(ino) {
            file.seen = seen;
        }
        self.note_copied(ino, bytes);
        Ok(())
    }

    fn note_copied(&mut self, ino: u64, bytes: u64) {
        self.copied.insert(ino);
        if self.is_frozen {
            self.hasty.insert(ino);
        }
        self.done.files += 1;
        self.count(bytes);
    }

    fn make_regular(
        &mut self,
        dir: DirId,
        name: &CStr,
        stat: &Statx,
    ) -> Result<(Seen, u64), Fault> {
        let ino = stat.stx_ino;
        let (source, stat, seen) = self.open_regular(dir, name, stat)?;
        let failed = |errno| Fault::Target("make", errno);
        let target_dir = self.target.open(&self.model, dir).map_err(failed)?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
        let owner_only = Mode::RUSR | Mode::WUSR;
        let target = openat(&*target_dir, name, flags | OFlags::CLOEXEC, owner_only);
        let target = target.map_err(failed)?;
        self.model.dir_mut(dir).times_due = true;
        match self.fill(&source, &stat, &target, ino) {
            Ok(bytes) => Ok((seen, bytes)),
            Err(fault) => {
                // The model knows nothing of it.
                unlinkat(&*target_dir, name, AtFlags::empty()).map_err(failed)?;
                Err(fault)
            }
        }
    }

    /// Opens a regular file of the source, looks at it, then writes back its pages: see [`Seen`]. Only
    /// a file that was looked at in between is opened for reading, for to open a pipe or a device is to
    /// act on it.
    fn open_regular(
        &mut self,
        dir: DirId,
        name: &CStr,
        stat: &Statx,
    ) -> Result<(OwnedFd, Statx, Seen), Fault> {
        let failed = |errno| Fault::Source("open", errno);
        let source_dir = self.source.open(&self.model, dir).map_err(failed)?;
        if self.is_frozen {
            let source = open_file(&*source_dir, name).map_err(failed)?;
            return Ok((source, *stat, Seen::new(stat, now())));
        }
        let place = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let place = openat(&*source_dir, name, place, Mode::empty()).map_err(failed)?;
        let looked_at = now();
        let seen = stat_fd(&place).map_err(failed)?;
        if kind(&seen) != FileType::RegularFile || seen.stx_ino != stat.stx_ino {
            return Err(failed(Errno::STALE));
        }
        let path = format!("/proc/self/fd/{}", place.as_raw_fd());
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOATIME | OFlags::CLOEXEC;
        let source = openat(CWD, path, flags, Mode::empty()).map_err(failed)?;
        write_back(rustix::fd::AsFd::as_fd(&source))
            .map_err(|errno| Fault::Source("write back", errno))?;
        Ok((source, seen, Seen::new(&seen, looked_at)))
    }

    /// Copies content and metadata into an open file; the times last.
    fn fill(
        &mut self,
        source: &OwnedFd,
        stat: &Statx,
        target: &OwnedFd,
        ino: u64,
    ) -> Result<u64, Fault> {
        let failed = |errno| Fault::Target("write", errno);
        let before = stat_fd(target).map_err(failed)?;
        let bytes = self.contents.copy(
            source,
            stat,
            target,
            before.stx_size,
            !self.is_frozen,
            &self.stop,
        );
        let bytes = bytes.map_err(|errno| Fault::Target("copy", errno))?;
        let failed = |errno| Fault::Target("copy the metadata of", errno);
        let owner_differs = (before.stx_uid, before.stx_gid) != (stat.stx_uid, stat.stx_gid);
        if owner_differs {
            let (uid, gid) = meta::owner(stat);
            fchown(target, uid, gid).map_err(failed)?;
        }
        // After the content and the owner: changing either takes capabilities away.
        let attributes = Attributes::of(target);
        meta::copy_attributes(&Attributes::of(source), &attributes, is_copied).map_err(failed)?;
        if owner_differs || before.stx_mode != stat.stx_mode {
            fchmod(target, meta::mode(stat)).map_err(failed)?;
        }
        futimens(target, &meta::times(stat)).map_err(failed)?;
        self.note_flags(Flagged::File(ino), source);
        Ok(bytes)
    }

    /// Makes a link, a device, a pipe or a socket, with its metadata.
    fn make_special(&mut self, dir: DirId, name: &CStr, stat: &Statx) -> Result<Seen, Fault> {
        let failed = |errno| Fault::Target("make", errno);
        let target = self.target.open(&self.model, dir).map_err(failed)?;
        if kind(stat) == FileType::Symlink {
            let failed_source = |errno| Fault::Source("read", errno);
            let source = self.source.open(&self.model, dir).map_err(failed_source)?;
            let goal = readlinkat(&*source, name, Vec::new()).map_err(failed_source)?;
            symlinkat(goal, &*target, name).map_err(failed)?;
        } else {
            let device = makedev(stat.stx_rdev_major, stat.stx_rdev_minor);
            let owner_only = Mode::RUSR | Mode::WUSR;
            mknodat(&*target, name, kind(stat), owner_only, device).map_err(failed)?;
        }
        self.model.dir_mut(dir).times_due = true;
        match self.special_metadata(dir, name, stat) {
            Ok(seen) => Ok(seen),
            Err(fault) => {
                unlinkat(&*target, name, AtFlags::empty()).map_err(failed)?;
                Err(fault)
            }
        }
    }

    fn special_metadata(&mut self, dir: DirId, name: &CStr, stat: &Statx) -> Result<Seen, Fault> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let open = |dir: Rc<OwnedFd>| openat(&*dir, name, flags, Mode::empty());
        let source = self.source.open(&self.model, dir).and_then(open);
        let source = source.map_err(|errno| Fault::Source("open", errno))?;
        let looked_at = now();
        let seen = stat_fd(&source).map_err(|errno| Fault::Source("look at", errno))?;
        if kind(&seen) != kind(stat) || seen.stx_ino != stat.stx_ino {
            return Err(Fault::Source("look at", Errno::STALE));
        }
        let failed = |errno| Fault::Target("copy the metadata of", errno);
        let parent = self.target.open(&self.model, dir).map_err(failed)?;
        let target = openat(&*parent, name, flags, Mode::empty()).map_err(failed)?;
        let is_link = kind(stat) == FileType::Symlink;
        meta::apply_to_place(&source, &seen, &target, &*parent, name, is_link, is_copied)
            .map_err(failed)?;
        Ok(Seen::new(&seen, looked_at))
    }

    /// Remembers the inode flags of an open file or directory for the end: some forbid any change.
    pub(super) fn note_flags(&mut self, whose: Flagged, source: &OwnedFd) {
        if !self.has_flags {
            return;
        }
        match ioctl_getflags(source) {
            Ok(flags) if flags.intersects(FLAGS) => {
                self.flags.insert(whose, flags & FLAGS);
            }
            Ok(_) => {
                self.flags.remove(&whose);
            }
            // The filesystem has none.
            Err(_) => self.has_flags = false,
        }
    }
}
