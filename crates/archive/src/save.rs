//! A file that is either whole and on disk, or not there.

use crate::error::{Error, escape};
use rustix::fd::{AsFd, BorrowedFd};
use rustix::fs::{
    AtFlags, FlockOperation, Mode, OFlags, fchmod, flock, fsync, openat, renameat, unlinkat,
};
use rustix::io::Errno;
use std::ffi::CString;
use std::fs::File;

/// Writes a file of this name in `folder` so that it is there whole, on disk and readable by its
/// owner alone (0600), or not at all: what was there under the name stays until then.
///
/// `write` is given a hidden file of the folder. What a killed process left of one is thrown away by
/// the next that writes the same name. `folder` must be open for reading.
///
/// # Errors
/// What `write` says, or [`Error::Save`]; then nothing is left of the new file. `EBUSY` when another
/// writes the same name just now.
pub fn save<T>(
    folder: impl AsFd,
    name: &str,
    write: impl FnOnce(&mut File) -> Result<T, Error>,
) -> Result<T, Error> {
    let folder = folder.as_fd();
    let failed = |operation| {
        move |errno: Errno| Error::Save {
            operation,
            name: escape(name.as_bytes()),
            source: errno.into(),
        }
    };
    let hidden = cstring(&format!(".{name}.partial")).map_err(failed("name"))?;
    let final_name = cstring(name).map_err(failed("name"))?;
    let mut file = create(folder, &hidden).map_err(failed("make"))?;
    let written = write(&mut file).and_then(|value| {
        fsync(&file).map_err(failed("sync"))?;
        renameat(folder, &hidden, folder, &final_name).map_err(failed("rename"))?;
        Ok(value)
    });
    if written.is_err() {
        // The error that is told is the first.
        let _ = unlinkat(folder, &hidden, AtFlags::empty());
    }
    let value = written?;
    fsync(folder).map_err(failed("sync the folder of"))?;
    Ok(value)
}

/// A new file that this process alone writes.
fn create(folder: BorrowedFd<'_>, name: &CString) -> Result<File, Errno> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mode = Mode::RUSR | Mode::WUSR;
    if let Ok(left) = openat(
        folder,
        name,
        OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        mode,
    ) {
        // Its writer holds a lock on it as long as it lives.
        match flock(&left, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => return Err(Errno::BUSY),
            locked => locked?,
        }
        unlinkat(folder, name, AtFlags::empty())?;
    }
    let file = match openat(folder, name, flags | OFlags::EXCL, mode) {
        Err(Errno::EXIST) => return Err(Errno::BUSY),
        file => file?,
    };
    flock(&file, FlockOperation::NonBlockingLockExclusive)?;
    // Whatever the mask of the process is.
    fchmod(&file, mode)?;
    Ok(File::from(file))
}

fn cstring(name: &str) -> Result<CString, Errno> {
    if name.is_empty() || name.contains('/') {
        return Err(Errno::INVAL);
    }
    CString::new(name).map_err(|_| Errno::INVAL)
}
