//! Going through all entries of a tree, whatever its depth and size.

use crate::beneath::{Cursor, Listed, Names, batches};
use crate::tree::{kind, stat_at};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{FileType, Statx};
use rustix::io::{Errno, Result};
use std::ffi::CStr;

/// How many names are read before they are looked at.
const BATCH: usize = 4096;

/// Shows every entry beneath an open directory, with the directory that it is in, before what is beneath it.
/// What goes meanwhile is not shown.
///
/// Memory: names of directories to be gone into.
///
/// # Errors
/// What the filesystem or `visit` says.
pub(crate) fn each(
    dir: impl AsFd,
    mut visit: impl FnMut(&OwnedFd, &CStr, &Statx) -> Result<()>,
) -> Result<()> {
    let mut cursor = Cursor::new(dir)?;
    let mut frames = vec![entries(&cursor, &mut visit)?];
    while let Some(directories) = frames.last_mut() {
        let Some(name) = directories.pop() else {
            cursor.leave()?;
            frames.pop();
            continue;
        };
        match cursor.enter(&name) {
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => continue,
            entered => entered?,
        }
        frames.push(entries(&cursor, &mut visit)?);
    }
    Ok(())
}

/// Shows a directory's entries; the names of those that are directories.
fn entries(
    cursor: &Cursor,
    visit: &mut impl FnMut(&OwnedFd, &CStr, &Statx) -> Result<()>,
) -> Result<Names> {
    let mut directories = Names::default();
    batches(cursor.dir(), BATCH, |batch| {
        for Listed { name, .. } in batch {
            let stat = match stat_at(cursor.dir(), &name) {
                Err(Errno::NOENT) => continue,
                stat => stat?,
            };
            visit(cursor.dir(), &name, &stat)?;
            if kind(&stat) == FileType::Directory {
                directories.push(&name);
            }
        }
        Ok(())
    })?;
    Ok(directories)
}
