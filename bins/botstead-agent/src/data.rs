//! `/data`, the folder of the bot's own files: made when it is missing, and filled from a template
//! at the first start.
//!
//! That the template was applied is remembered outside of `/data`, so that what the user deleted
//! stays away, also after `/data` was emptied or replaced.

use crate::identity::Identity;
use rustix::fs::{
    AtFlags, CWD, Gid, Mode, OFlags, RenameFlags, Uid, chownat, fchmod, fchown, fstat, mkdirat,
    open, openat, renameat_with, statat, symlinkat, unlinkat,
};
use rustix::io::Errno;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// What a file is called until it is whole.
const UNFINISHED: &str = ".botstead-seed";

/// Never follows a link at the path's end.
const FOLDER: OFlags = OFlags::DIRECTORY
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// Makes the folder, readable by everybody and owned by `owner`. One that exists keeps its mode, and its owner
/// too unless that is root: an image may have it so, and its user could not write there. Returns whether it was
/// made.
///
/// # Errors
/// Those of mkdir(2) and chown(2); something else than a folder stands there.
pub(crate) fn make(folder: &Path, owner: &Identity) -> io::Result<bool> {
    match mkdirat(CWD, folder, Mode::from_raw_mode(0o755)) {
        Ok(()) => {
            let made = open(folder, FOLDER | OFlags::RDONLY, Mode::empty())?;
            own(made.as_fd(), owner)?;
            // Whatever the umask is.
            fchmod(&made, Mode::from_raw_mode(0o755))?;
            Ok(true)
        }
        Err(Errno::EXIST) if folder.is_dir() => {
            // One that is elsewhere is as its user made it.
            if let Ok(found) = open(folder, FOLDER | OFlags::RDONLY, Mode::empty())
                && fstat(&found)?.st_uid == 0
                && owner.uid != 0
            {
                own(found.as_fd(), owner)?;
            }
            Ok(false)
        }
        Err(error) => Err(error.into()),
    }
}

/// Copies what is missing in the folder from the template, unless the marker is there, and makes the
/// marker. Replaces nothing and follows no link. What is copied belongs to `owner`. Returns how many
/// entries were made.
///
/// # Errors
/// Something could not be read or made. The marker is missing then, and the next start goes on.
pub(crate) fn seed(
    template: &Path,
    folder: &Path,
    marker: &Path,
    owner: &Identity,
) -> io::Result<u64> {
    if marker.try_exists()? {
        return Ok(0);
    }
    let target = open(folder, FOLDER | OFlags::RDONLY, Mode::empty())?;
    let made = copy_folder(template, target.as_fd(), owner)?;
    if let Some(parent) = marker.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::write(marker, "")?;
    Ok(made)
}

fn copy_folder(template: &Path, target: BorrowedFd<'_>, owner: &Identity) -> io::Result<u64> {
    let mut made = 0;
    for entry in fs::read_dir(template)? {
        let entry = entry?;
        let (path, name) = (entry.path(), entry.file_name());
        let kind = entry.file_type()?;
        if kind.is_dir() {
            if let Some((folder, new)) = enter(&path, target, &name, owner)? {
                made += u64::from(new) + copy_folder(&path, folder.as_fd(), owner)?;
            }
        } else if is_there(target, &name)? {
            // The user's own.
        } else if kind.is_symlink() {
            made += u64::from(copy_link(&path, target, &name, owner)?);
        } else if kind.is_file() {
            made += u64::from(copy_file(&path, target, &name, owner)?);
        }
    }
    Ok(made)
}

/// Opens a folder in the target, made where it is missing, and tells whether it was. `None` when
/// something else stands there.
fn enter(
    template: &Path,
    target: BorrowedFd<'_>,
    name: &std::ffi::OsStr,
    owner: &Identity,
) -> io::Result<Option<(OwnedFd, bool)>> {
    let new = match mkdirat(target, name, Mode::from_raw_mode(0o700)) {
        Ok(()) => true,
        Err(Errno::EXIST) => false,
        Err(error) => return Err(error.into()),
    };
    let folder = match openat(target, name, FOLDER | OFlags::RDONLY, Mode::empty()) {
        Ok(folder) => folder,
        Err(Errno::NOTDIR | Errno::LOOP) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    if new {
        own(folder.as_fd(), owner)?;
        fchmod(&folder, mode_of(template)?)?;
    }
    Ok(Some((folder, new)))
}

/// Copies a file under another name first: one that is cut would never be repaired.
fn copy_file(
    template: &Path,
    target: BorrowedFd<'_>,
    name: &std::ffi::OsStr,
    owner: &Identity,
) -> io::Result<bool> {
    match unlinkat(target, UNFINISHED, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(error) => return Err(error.into()),
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let new = openat(target, UNFINISHED, flags, Mode::RUSR | Mode::WUSR)?;
    let mut new = File::from(new);
    io::copy(&mut File::open(template)?, &mut new)?;
    own(new.as_fd(), owner)?;
    fchmod(&new, mode_of(template)?)?;
    match renameat_with(target, UNFINISHED, target, name, RenameFlags::NOREPLACE) {
        Ok(()) => Ok(true),
        Err(error) => {
            unlinkat(target, UNFINISHED, AtFlags::empty())?;
            if error == Errno::EXIST {
                return Ok(false);
            }
            Err(error.into())
        }
    }
}

fn copy_link(
    template: &Path,
    target: BorrowedFd<'_>,
    name: &std::ffi::OsStr,
    owner: &Identity,
) -> io::Result<bool> {
    match symlinkat(fs::read_link(template)?, target, name) {
        Ok(()) => {}
        Err(Errno::EXIST) => return Ok(false),
        Err(error) => return Err(error.into()),
    }
    let (uid, gid) = (Uid::from_raw(owner.uid), Gid::from_raw(owner.gid));
    chownat(
        target,
        name,
        Some(uid),
        Some(gid),
        AtFlags::SYMLINK_NOFOLLOW,
    )?;
    Ok(true)
}

fn is_there(target: BorrowedFd<'_>, name: &std::ffi::OsStr) -> io::Result<bool> {
    match statat(target, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(_) => Ok(true),
        Err(Errno::NOENT) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Permissions without set-id bits: the owner is another one.
fn mode_of(template: &Path) -> io::Result<Mode> {
    Ok(Mode::from_raw_mode(
        fs::symlink_metadata(template)?.mode() & 0o777,
    ))
}

fn own(descriptor: BorrowedFd<'_>, owner: &Identity) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(owner.uid), Gid::from_raw(owner.gid));
    Ok(fchown(descriptor, Some(uid), Some(gid))?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn bot() -> Identity {
        Identity {
            uid: 1000,
            gid: 1001,
            ..Identity::default()
        }
    }

    struct Place {
        folder: tempfile::TempDir,
    }

    impl Place {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let template = folder.path().join("template");
            fs::create_dir_all(template.join("notes/deep")).unwrap();
            fs::write(template.join("README"), "new").unwrap();
            fs::write(template.join("notes/deep/a"), "a").unwrap();
            fs::write(template.join("run"), "#!").unwrap();
            fs::set_permissions(template.join("run"), fs::Permissions::from_mode(0o4750)).unwrap();
            symlink("README", template.join("link")).unwrap();
            let place = Self { folder };
            assert!(make(&place.data(), &bot()).unwrap());
            place
        }

        fn data(&self) -> std::path::PathBuf {
            self.folder.path().join("data")
        }

        fn seed(&self) -> u64 {
            let path = self.folder.path();
            let marker = path.join("state/seeded");
            seed(&path.join("template"), &self.data(), &marker, &bot()).unwrap()
        }

        fn text(&self, name: &str) -> Option<String> {
            fs::read_to_string(self.data().join(name)).ok()
        }
    }

    fn owner(path: &Path) -> (u32, u32, u32) {
        let found = fs::symlink_metadata(path).unwrap();
        (found.uid(), found.gid(), found.mode() & 0o7777)
    }

    #[test]
    fn fills_what_is_missing_once() {
        let place = Place::new();
        let data = place.data();
        assert_eq!(owner(&data), (1000, 1001, 0o755));
        fs::write(data.join("README"), "the user's").unwrap();
        fs::write(data.join(UNFINISHED), "of an agent that was killed").unwrap();
        assert_eq!(place.seed(), 5);
        assert_eq!(place.text("README").unwrap(), "the user's");
        assert_eq!(place.text("notes/deep/a").unwrap(), "a");
        assert_eq!(owner(&data.join("run")), (1000, 1001, 0o750));
        assert_eq!(
            fs::read_link(data.join("link")).unwrap(),
            Path::new("README")
        );
        assert_eq!(owner(&data.join("link")).0, 1000);
        assert_eq!(place.text(UNFINISHED), None);
        // What the user deletes stays away.
        fs::remove_file(data.join("run")).unwrap();
        assert_eq!(place.seed(), 0);
        assert_eq!(place.text("run"), None);
    }

    #[test]
    fn follows_no_link_out() {
        let place = Place::new();
        let outside = place.folder.path().join("outside");
        fs::create_dir(&outside).unwrap();
        symlink(&outside, place.data().join("notes")).unwrap();
        symlink(outside.join("created"), place.data().join("README")).unwrap();
        symlink(outside.join("created"), place.data().join(UNFINISHED)).unwrap();
        assert_eq!(place.seed(), 2);
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
    }

    #[test]
    fn a_folder_that_is_there_keeps_its_mode_and_its_owner_unless_that_is_root() {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o700)).unwrap();
        assert!(!make(folder.path(), &bot()).unwrap());
        // An image has it as root's.
        assert_eq!(owner(folder.path()), (1000, 1001, 0o700));
        let other = Identity {
            uid: 7,
            ..Identity::default()
        };
        assert!(!make(folder.path(), &other).unwrap());
        assert_eq!(owner(folder.path()), (1000, 1001, 0o700));
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(make(&file, &bot()).is_err());
    }
}
