//! Opening the directories of a tree by the model: dirfd-relative, never through a link, never out of
//! the tree, at any depth with few descriptors.

use crate::model::{DirId, Model};
use crate::sys::handle_at;
use botstead_overlay::tree::{Id, id, open_dir, stat_fd};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{Mode, OFlags, ResolveFlags, openat, openat2};
use rustix::io::{Errno, Result};
use std::collections::{HashMap, VecDeque};
use std::ffi::CString;
use std::sync::Arc;

/// Directories kept open. Walks go depth first, so that a few are enough.
const KEPT: usize = 32;
/// The kernel takes paths of 4096 bytes, a name has 255 at most.
const PATH_PIECE: usize = 3800;
/// From here on a way up from where we were may be shorter than the way down from the root.
const LONG_WAY: usize = 16;

/// Which of the two trees, and what is known of changes in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    /// Others change it: what was opened is checked to be what the model means.
    Source,
    /// Nobody else changes it.
    Target,
}

/// The directories of one tree.
#[derive(Debug)]
pub(crate) struct Dirs {
    side: Side,
    root: Arc<OwnedFd>,
    root_id: Id,
    /// The one used last is in front.
    recent: VecDeque<(DirId, Arc<OwnedFd>)>,
}

impl Dirs {
    pub(crate) fn new(side: Side, root: OwnedFd) -> Result<Self> {
        Ok(Self {
            side,
            root_id: id(&stat_fd(&root)?),
            root: Arc::new(root),
            recent: VecDeque::with_capacity(KEPT + 1),
        })
    }

    /// The source's directories once more, from any descriptor of its root, such as for another thread.
    pub(crate) fn source(root: BorrowedFd<'_>) -> Result<Self> {
        Self::new(Side::Source, open_dir(root, c".")?)
    }

    /// The root itself.
    pub(crate) fn root(&self) -> &OwnedFd {
        &self.root
    }

    /// What names the root.
    pub(crate) fn root_id(&self) -> Id {
        self.root_id
    }

    /// Opens a directory.
    ///
    /// In the source this fails with one of [`is_gone`] when it is not where the model has it.
    pub(crate) fn open(&mut self, model: &Model, wanted: DirId) -> Result<Arc<OwnedFd>> {
        if wanted == DirId::ROOT {
            return Ok(Arc::clone(&self.root));
        }
        if let Some(at) = self.recent.iter().position(|(id, _)| *id == wanted) {
            // It is there.
            if let Some(found) = self.recent.remove(at) {
                self.recent.push_front(found);
            }
            return Ok(Arc::clone(&self.recent[0].1));
        }
        let fd = Arc::new(self.find(model, wanted)?);
        self.recent.push_front((wanted, Arc::clone(&fd)));
        self.recent.truncate(KEPT);
        Ok(fd)
    }

    fn find(&self, model: &Model, wanted: DirId) -> Result<OwnedFd> {
        // From `wanted` up to what is open.
        let mut down = Vec::new();
        let mut start = Arc::clone(&self.root);
        for above in model.ancestors(wanted) {
            if above == DirId::ROOT {
                break;
            }
            if let Some((_, fd)) = self.recent.iter().find(|(id, _)| *id == above) {
                start = Arc::clone(fd);
                break;
            }
            if above == DirId::LIMBO && self.side == Side::Source {
                return Err(Errno::NOENT);
            }
            down.push(above);
        }
        let mut found = None;
        if down.len() > LONG_WAY
            && let Some((last, fd)) = self.recent.front()
            && let Some((up, common)) = way_up(model, *last, &down)
            && up + common < down.len()
        {
            let above = climb(fd, up)?;
            let reached = down.get(common).copied();
            if let Some(reached) = reached {
                self.check(model, reached, &above)?;
            }
            down.truncate(common);
            found = Some(above);
        }
        let mut path = Vec::new();
        for (left, id) in down.iter().enumerate().rev() {
            path.extend_from_slice(model.dir(*id).name.to_bytes());
            if left > 0 && path.len() < PATH_PIECE - 256 {
                path.push(b'/');
                continue;
            }
            found = Some(descend(found.as_ref().unwrap_or(&start), path)?);
            path = Vec::new();
        }
        let found = match found {
            Some(found) => found,
            None => open_dir(&*start, c".")?,
        };
        self.check(model, wanted, &found)?;
        Ok(found)
    }

    fn check(&self, model: &Model, id: DirId, fd: &OwnedFd) -> Result<()> {
        if self.side == Side::Target {
            return Ok(());
        }
        let known = model.dir(id);
        let is_it = match &known.handle {
            // Its number may be another's by now.
            Some(handle) => handle_at(fd.as_fd(), c"")? == *handle,
            None => stat_fd(fd)?.stx_ino == known.ino,
        };
        if is_it { Ok(()) } else { Err(Errno::STALE) }
    }
}

/// How many steps up from `from` lead to one of `down`, and the position of that.
fn way_up(model: &Model, from: DirId, down: &[DirId]) -> Option<(usize, usize)> {
    let positions: HashMap<DirId, usize> =
        down.iter().enumerate().map(|(at, id)| (*id, at)).collect();
    model
        .ancestors(from)
        .enumerate()
        .take(down.len())
        .find_map(|(up, id)| Some((up, *positions.get(&id)?)))
}

/// Goes up so many steps. Nothing on the way is a link.
fn climb(from: &OwnedFd, steps: usize) -> Result<OwnedFd> {
    const AT_ONCE: usize = 1000;
    let mut left = steps;
    let mut at = None;
    loop {
        let now = left.min(AT_ONCE);
        let path = if now == 0 {
            ".".to_owned()
        } else {
            "../".repeat(now)
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let above = openat(
            at.as_ref().unwrap_or(from),
            path,
            flags | OFlags::NOATIME,
            Mode::empty(),
        )?;
        left -= now;
        if left == 0 {
            return Ok(above);
        }
        at = Some(above);
    }
}

fn descend(from: &OwnedFd, path: Vec<u8>) -> Result<OwnedFd> {
    let path = CString::new(path).map_err(|_| Errno::INVAL)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let inside = ResolveFlags::BENEATH
        | ResolveFlags::NO_SYMLINKS
        | ResolveFlags::NO_MAGICLINKS
        | ResolveFlags::NO_XDEV;
    loop {
        match openat2(from, &*path, flags | OFlags::NOATIME, Mode::empty(), inside) {
            // The kernel could not tell because of a rename elsewhere (openat2(2)).
            Err(Errno::AGAIN) => {}
            // It was moved out of `from` in the meantime (`complete_walk` in fs/namei.c).
            Err(Errno::XDEV) => return Err(Errno::STALE),
            opened => return opened,
        }
    }
}

/// Whether a failure means that the entry is not, or no longer, what was meant: others change the tree.
pub(crate) fn is_gone(errno: Errno) -> bool {
    matches!(
        errno,
        Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::STALE | Errno::ISDIR
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{CWD, mkdirat};
    use std::os::unix::fs::symlink;

    fn open(path: &std::path::Path) -> OwnedFd {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        openat(CWD, path, flags, Mode::empty()).unwrap()
    }

    fn ino(fd: &OwnedFd) -> u64 {
        stat_fd(fd).unwrap().stx_ino
    }

    /// A chain of directories with a side branch at each, in both a folder and a model.
    fn comb(root: &std::path::Path, depth: usize) -> (Model, Vec<DirId>, Vec<DirId>) {
        let mut fd = open(root);
        let mut model = Model::new(ino(&fd), None);
        let (mut chain, mut branches) = (Vec::new(), Vec::new());
        let mut at = DirId::ROOT;
        for _ in 0..depth {
            for name in [
                c"branch",
                c"a-long-name-so-that-the-path-has-several-pieces",
            ] {
                mkdirat(&fd, name, Mode::RWXU).unwrap();
                let below = open_dir(&fd, name).unwrap();
                let id = model.add_dir(at, name, ino(&below), None);
                if name == c"branch" {
                    branches.push(id);
                } else {
                    chain.push(id);
                    (fd, at) = (below, id);
                    break;
                }
            }
        }
        (model, chain, branches)
    }

    #[test]
    fn every_depth_is_reached_from_anywhere() {
        let dir = tempfile::tempdir().unwrap();
        let depth = 600;
        let (model, chain, branches) = comb(dir.path(), depth);
        let mut dirs = Dirs::new(Side::Source, open(dir.path())).unwrap();
        // Down and up again as a walk does, and from end to end.
        let all = chain.iter().chain(branches.iter().rev());
        let jumps = [chain[depth - 1], branches[0], branches[depth - 1], chain[0]];
        for id in all.chain(&jumps) {
            let fd = dirs.open(&model, *id).unwrap();
            assert_eq!(ino(&fd), model.dir(*id).ino);
        }
        assert!(dirs.recent.len() <= KEPT);
        // Deeper than the standard library can remove.
        let status = std::process::Command::new("rm")
            .arg("-rf")
            .arg(dir.path())
            .status();
        assert!(status.unwrap().success());
    }

    #[test]
    fn what_was_replaced_is_gone_and_no_link_is_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (model, chain, _) = comb(dir.path(), 3);
        let top = dir
            .path()
            .join("a-long-name-so-that-the-path-has-several-pieces");
        let mut dirs = Dirs::new(Side::Source, open(dir.path())).unwrap();
        std::fs::rename(&top, dir.path().join("moved")).unwrap();
        let errno = dirs.open(&model, chain[2]).unwrap_err();
        assert_eq!(errno, Errno::NOENT);
        // The same inode, but by a link.
        symlink("moved", &top).unwrap();
        let errno = dirs.open(&model, chain[2]).unwrap_err();
        assert!(is_gone(errno), "{errno}");
        std::fs::remove_file(&top).unwrap();
        std::fs::create_dir(&top).unwrap();
        let errno = dirs.open(&model, chain[0]).unwrap_err();
        assert_eq!(errno, Errno::STALE);
    }

    #[test]
    fn limbo_is_a_place_of_the_target_only() {
        let dir = tempfile::tempdir().unwrap();
        let (mut model, chain, _) = comb(dir.path(), 1);
        model.move_dir(chain[0], DirId::LIMBO, c"1");
        let mut source = Dirs::new(Side::Source, open(dir.path())).unwrap();
        assert_eq!(source.open(&model, chain[0]).unwrap_err(), Errno::NOENT);
    }
}
