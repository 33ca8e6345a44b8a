//! Removing entries and whole trees beneath an open directory, whatever their depth and size.

use crate::beneath::{Cursor, Listed, Names, batches};
use crate::tree::{kind, stat_at};
use rustix::fd::AsFd;
use rustix::fs::{AtFlags, FileType, unlinkat};
use rustix::io::{Errno, Result};
use std::ffi::{CStr, CString};

/// How many names are read before they are removed.
const BATCH: usize = 4096;

/// Removes a name of a directory, a whole tree if it is one. Nothing when it is not there.
///
/// # Errors
/// What the filesystem says; a part of a tree may then be gone.
pub fn remove(parent: impl AsFd, name: &CStr) -> Result<()> {
    let parent = parent.as_fd();
    match unlinkat(parent, name, AtFlags::empty()) {
        Err(Errno::NOENT) => return Ok(()),
        // Linux says the first, POSIX the second.
        Err(Errno::ISDIR | Errno::PERM) => {}
        removed => return removed,
    }
    if kind(&stat_at(parent, name)?) != FileType::Directory {
        return Err(Errno::PERM);
    }
    match unlinkat(parent, name, AtFlags::REMOVEDIR) {
        Err(Errno::NOTEMPTY) => {}
        removed => return removed,
    }
    let mut cursor = Cursor::new(parent)?;
    cursor.enter(name)?;
    empty(cursor.dir())?;
    unlinkat(parent, name, AtFlags::REMOVEDIR)
}

/// Removes all that a directory has, and keeps it.
///
/// # Errors
/// What the filesystem says; a part may then be gone. `ENOTEMPTY` when somebody adds meanwhile.
pub fn empty(dir: impl AsFd) -> Result<()> {
    let mut cursor = Cursor::new(dir)?;
    let mut frames = vec![(CString::default(), files(&cursor)?)];
    while let Some((_, directories)) = frames.last_mut() {
        if let Some(name) = directories.pop() {
            cursor.enter(&name)?;
            frames.push((name, files(&cursor)?));
            continue;
        }
        cursor.leave()?;
        if let Some((name, _)) = frames.pop()
            && !frames.is_empty()
        {
            unlinkat(cursor.dir(), &name, AtFlags::REMOVEDIR)?;
        }
    }
    Ok(())
}

/// Removes what is no directory or is an empty one; the other directories' names.
fn files(cursor: &Cursor) -> Result<Names> {
    let mut directories = Names::default();
    batches(cursor.dir(), BATCH, |batch| {
        for Listed { name, kind, .. } in batch {
            let mut removed = Err(Errno::ISDIR);
            if kind != FileType::Directory {
                removed = unlinkat(cursor.dir(), &name, AtFlags::empty());
            }
            if removed == Err(Errno::ISDIR) {
                removed = unlinkat(cursor.dir(), &name, AtFlags::REMOVEDIR);
            }
            match removed {
                Err(Errno::NOTEMPTY) => directories.push(&name),
                Ok(()) | Err(Errno::NOENT) => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(())
    })?;
    Ok(directories)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{Mode, OFlags, mkdirat};
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn trees_go_and_what_links_point_to_stays() {
        let dir = tempfile::tempdir().unwrap();
        let at = |path: &str| dir.path().join(path);
        fs::create_dir_all(at("tree/a/b/c")).unwrap();
        fs::create_dir_all(at("tree/empty")).unwrap();
        fs::create_dir_all(at("outside")).unwrap();
        fs::write(at("outside/kept"), "x").unwrap();
        symlink(at("outside"), at("tree/a/link")).unwrap();
        symlink(at("outside"), at("link")).unwrap();
        for number in 0..300 {
            fs::write(at(&format!("tree/a/b/{number}")), "x").unwrap();
        }
        let root = rustix::fs::open(dir.path(), OFlags::PATH, Mode::empty()).unwrap();
        remove(&root, c"tree").unwrap();
        remove(&root, c"link").unwrap();
        remove(&root, c"missing").unwrap();
        assert!(at("outside/kept").exists());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn depth_takes_no_stack_and_no_descriptors() {
        let dir = tempfile::tempdir().unwrap();
        let root = rustix::fs::open(dir.path(), OFlags::PATH, Mode::empty()).unwrap();
        let mut cursor = Cursor::new(&root).unwrap();
        for _ in 0..3000 {
            mkdirat(cursor.dir(), c"d", Mode::RWXU).unwrap();
            cursor.enter(c"d").unwrap();
        }
        empty(&root).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
