//! `MakeDirectory`, and the parents that other calls make.

use super::entry::entry;
use super::failure::{Result, failed, refused};
use super::meta::Owner;
use super::path::InsidePath;
use super::root::{Place, Root, locate, open_name, stat_fd};
use botstead_bridge::{FailureKind, proto};
use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags, RawMode, fchmod, mkdirat};
use rustix::io::{self, Errno};

const DIRECTORY_MODE: u32 = 0o755;

pub(super) fn make_directory(
    request: proto::MakeDirectoryRequest,
    owner: Owner,
) -> Result<proto::Entry> {
    let (root, path) = locate(request.at)?;
    let mode = permissions(request.mode.unwrap_or(DIRECTORY_MODE))?;
    let entry_of = |fd: &OwnedFd| {
        let stat = stat_fd(fd).map_err(|errno| failed("look at", path.absolute(), errno))?;
        Ok(entry(root.path_of(fd, &path), &stat))
    };
    if request.parents {
        match root.open_at(&path, OFlags::PATH | OFlags::DIRECTORY) {
            Ok(there) => return entry_of(&there),
            Err(Errno::NOENT) => {}
            Err(errno) => return Err(failed("make", path.absolute(), errno)),
        }
        make_parents(&root, &path, owner)?;
    }
    let place = root.place(&path)?;
    let made = make(&place.directory, &place.name, mode, owner);
    match made.map_err(|errno| failed("make", &place.path, errno))? {
        Made::New(directory) => entry_of(&directory),
        // Somebody else was faster, or it leads nowhere.
        Made::There(directory) if request.parents => entry_of(&directory),
        Made::There(_) => Err(failed("make", &place.path, Errno::EXIST)),
    }
}

/// Permission bits of a request.
pub(super) fn permissions(mode: u32) -> Result<Mode> {
    match mode {
        0..=0o7777 => Ok(Mode::from_raw_mode(mode as RawMode)),
        _ => Err(botstead_bridge::Failure::new(
            FailureKind::Invalid,
            "mode: permission bits are between 0 and 7777, octal",
        )),
    }
}

/// The place that a path names, with its directory made where that is missing.
pub(super) fn place_with_parents(root: &Root, path: &InsidePath, owner: Owner) -> Result<Place> {
    match root.place(path) {
        Err(failure) if failure.kind == FailureKind::NotFound => {
            make_parents(root, path, owner)?;
            root.place(path)
        }
        place => place,
    }
}

/// Makes the directories on the way to a path that are missing.
fn make_parents(root: &Root, path: &InsidePath, owner: Owner) -> Result<()> {
    let flags = OFlags::PATH | OFlags::DIRECTORY;
    let mut missing = Vec::new();
    let mut current = path.clone();
    let mut directory = loop {
        let Some((parent, name)) = current.split() else {
            // Beyond something that is missing, `..` leads nowhere.
            return Err(failed("make", current.absolute(), Errno::NOENT));
        };
        missing.push(name.to_vec());
        match root.open_at(&parent, flags) {
            Ok(directory) => break directory,
            Err(Errno::NOENT) => current = parent,
            Err(errno) => return Err(failed("make", parent.absolute(), errno)),
        }
    };
    // The first one is the path's own name.
    while let Some(name) = missing.pop().filter(|_| !missing.is_empty()) {
        let mode = Mode::from_raw_mode(DIRECTORY_MODE as RawMode);
        directory = match make(&directory, &name, mode, owner) {
            Ok(Made::New(directory) | Made::There(directory)) => directory,
            Err(Errno::EXIST) => {
                return Err(refused(
                    FailureKind::NotADirectory,
                    path.absolute(),
                    "a part of the path is a link that leads nowhere, or no directory",
                ));
            }
            Err(errno) => return Err(failed("make the directory of", path.absolute(), errno)),
        };
    }
    Ok(())
}

enum Made {
    New(OwnedFd),
    There(OwnedFd),
}

fn make(directory: &OwnedFd, name: &[u8], mode: Mode, owner: Owner) -> io::Result<Made> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    match mkdirat(directory, name, Mode::RWXU) {
        Ok(()) => {}
        Err(Errno::EXIST) => {
            return match open_name(directory, name, flags) {
                Ok(there) => Ok(Made::There(there)),
                Err(Errno::LOOP | Errno::NOTDIR) => Err(Errno::EXIST),
                Err(errno) => Err(errno),
            };
        }
        Err(errno) => return Err(errno),
    }
    let new = open_name(directory, name, flags)?;
    owner.give(&new, directory)?;
    // A directory that hands its group down makes its children do so as well.
    let inherited = RawMode::from(stat_fd(&new)?.stx_mode) & 0o2000;
    fchmod(&new, mode | Mode::from_raw_mode(inherited))?;
    Ok(Made::New(new))
}
