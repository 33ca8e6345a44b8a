//! `/data` of a tree that no task writes to: where it is, and what can stand in its place.
//!
//! A bot may put its data elsewhere and leave a symbolic link behind. What the link leads to beneath
//! the workspace's root is its data then. Only where there is nothing at all is there no data: anything
//! else that cannot be read as a directory is refused, because whoever asks may be about to delete it.

use super::edit::host;
use crate::spec::DATA_PATH;
use crate::{Error, Result};
use botstead_archive::{ApplyMode, Owner};
use botstead_overlay::{beneath, tree};
use botstead_runtime::Tree;
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Uid, fchown, mkdirat, unlinkat};
use rustix::io::Errno;
use std::ffi::CStr;
use std::os::fd::{AsFd, OwnedFd};

/// Why `/data` cannot be taken for a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DataTrouble {
    /// It is something else.
    NotADirectory,
    /// It is a symbolic link to nothing, or in a circle.
    Dangling,
    /// It is a symbolic link to something else than a directory.
    LeadsToFile,
    /// It is a symbolic link to the root: all of the filesystem, itself included.
    LeadsToRoot,
    /// It is a mount point, or leads to one.
    Mounted,
}

impl std::fmt::Display for DataTrouble {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::NotADirectory => "is not a directory",
            Self::Dangling => "is a symbolic link that leads nowhere",
            Self::LeadsToFile => "is a symbolic link to something that is not a directory",
            Self::LeadsToRoot => "is a symbolic link to the root directory",
            Self::Mounted => "is on another mount",
        })
    }
}

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY);

/// `/data` as it is called in the root: beneath a root no path is absolute.
pub(crate) fn data_name() -> &'static str {
    DATA_PATH.trim_start_matches('/')
}

fn c_name() -> Result<std::ffi::CString> {
    std::ffi::CString::new(data_name()).map_err(|error| host("name /data", error.into()))
}

/// `/data` of a tree for looking, or the directory that it leads to; `None` where there is nothing.
///
/// # Errors
/// [`Error::DataNotDirectory`] for anything else; what the kernel refuses.
pub(crate) fn existing_data(tree: &dyn Tree) -> Result<Option<OwnedFd>> {
    let root = tree.root();
    let name = c_name()?;
    let Some(kind) = kind_of(root, &name)? else {
        return Ok(None);
    };
    let is_link = kind == FileType::Symlink;
    let trouble = match beneath::open_in_root(root, name.to_bytes(), DIRECTORY) {
        Ok(data) if is_link && is_same(&data, root)? => DataTrouble::LeadsToRoot,
        Ok(data) => return Ok(Some(data)),
        Err(Errno::NOENT | Errno::LOOP) => DataTrouble::Dangling,
        Err(Errno::NOTDIR) if is_link => DataTrouble::LeadsToFile,
        Err(Errno::NOTDIR) => DataTrouble::NotADirectory,
        Err(Errno::XDEV) => DataTrouble::Mounted,
        Err(errno) => return Err(host("open /data", errno.into())),
    };
    Err(Error::DataNotDirectory(trouble))
}

/// `/data` of a tree for an archive, made for this owner where it is missing. One that is to be replaced makes way
/// when it is not a directory; one that is to be kept must be a directory, or lead to one.
pub(crate) fn data_directory(tree: &dyn Tree, mode: ApplyMode, owner: Owner) -> Result<OwnedFd> {
    let failed = |errno: Errno| host("open /data", errno.into());
    let root = tree.root();
    let name = c_name()?;
    match mode {
        ApplyMode::Merge => {
            if let Some(data) = existing_data(tree)? {
                return Ok(data);
            }
        }
        ApplyMode::Replace => match kind_of(root, &name)? {
            None => {}
            Some(FileType::Directory) => {
                return beneath::open(root, name.to_bytes(), DIRECTORY).map_err(failed);
            }
            // What a link leads to stays where it is.
            Some(_) => unlinkat(root, &name, AtFlags::empty()).map_err(failed)?,
        },
    }
    let mode = Mode::RWXU | Mode::RGRP | Mode::XGRP | Mode::ROTH | Mode::XOTH;
    mkdirat(root, &name, mode).map_err(failed)?;
    let data = beneath::open(root, name.to_bytes(), DIRECTORY).map_err(failed)?;
    let (uid, gid) = (Uid::from_raw(owner.uid), Gid::from_raw(owner.gid));
    fchown(&data, Some(uid), Some(gid)).map_err(failed)?;
    Ok(data)
}

fn kind_of(root: impl AsFd, name: &CStr) -> Result<Option<FileType>> {
    match tree::stat_at(root, name) {
        Ok(stat) => Ok(Some(tree::kind(&stat))),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(host("look at /data", errno.into())),
    }
}

fn is_same(one: impl AsFd, other: impl AsFd) -> Result<bool> {
    let id = |fd| tree::stat_fd(fd).map(|stat| tree::id(&stat));
    let ids = id(one.as_fd()).and_then(|one| Ok((one, id(other.as_fd())?)));
    let (one, other) = ids.map_err(|errno| host("look at /data", errno.into()))?;
    Ok(one == other)
}
