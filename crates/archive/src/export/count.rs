//! Whether a tree has more entries than an import takes: asked before the first byte is written.

use super::BATCH;
use crate::error::{Error, escape};
use crate::limits::Limits;
use botstead_overlay::beneath::{Cursor, Names, batches};
use rustix::fd::AsFd;
use rustix::fs::{FileType, fstatfs};
use rustix::io::Errno;

/// Refuses a tree with more entries than an import takes by its usual limit. Its names are gone through only
/// where its filesystem has as many files at all.
///
/// # Errors
/// [`Error::Excess`]; [`Error::Export`] when it cannot be read.
pub fn require_importable(tree: impl AsFd) -> Result<(), Error> {
    let tree = tree.as_fd();
    let most = Limits::default().entries;
    let fail = |errno| Error::export("look through", b".", errno);
    let all = fstatfs(tree).map_err(fail)?;
    // Some filesystems do not count.
    let few = all.f_files > 0 && all.f_files.saturating_sub(all.f_ffree) <= most;
    if few || !has_more(tree, most).map_err(fail)? {
        return Ok(());
    }
    Err(Error::Excess {
        path: escape(b"."),
        problem: "it has more than 8,388,608 entries, which no import takes: download its folders one by one",
    })
}

/// Whether there are more entries than this, the tree itself included. What goes meanwhile is passed over.
fn has_more(tree: impl AsFd, most: u64) -> Result<bool, Errno> {
    let mut cursor = Cursor::new(tree)?;
    let mut count = 1;
    let mut frames = vec![directories(&cursor, &mut count)?];
    while let Some(names) = frames.last_mut() {
        if count > most {
            return Ok(true);
        }
        let Some(name) = names.pop() else {
            frames.pop();
            cursor.leave()?;
            continue;
        };
        match cursor.enter(&name) {
            Ok(()) => frames.push(directories(&cursor, &mut count)?),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(count > most)
}

/// Counts what is in a directory; its directories.
fn directories(cursor: &Cursor, count: &mut u64) -> Result<Names, Errno> {
    let mut directories = Names::default();
    batches(cursor.dir(), BATCH, |batch| {
        *count += batch.len() as u64;
        for listed in batch {
            // Where the kind is not told it is tried.
            if matches!(listed.kind, FileType::Directory | FileType::Unknown) {
                directories.push(&listed.name);
            }
        }
        Ok::<_, Errno>(())
    })?;
    Ok(directories)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, File};

    #[test]
    fn entries_are_counted_to_the_last() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("a/b")).unwrap();
        for name in ["x", "a/y", "a/b/z"] {
            fs::write(dir.path().join(name), "").unwrap();
        }
        let tree = File::open(dir.path()).unwrap();
        assert!(has_more(&tree, 5).unwrap());
        assert!(!has_more(&tree, 6).unwrap());
        require_importable(&tree).unwrap();
    }
}
