//! Files that appear under their name only when they are complete.
//!
//! Where the filesystem can, the file has no name at all until then, so that not even the sudden end
//! of the agent leaves it behind; elsewhere it has a hidden one next to its place.

use super::rights::Rights;
use rustix::fd::{AsRawFd, OwnedFd};
use rustix::fs::{
    Access, AtFlags, CWD, Mode, OFlags, RenameFlags, accessat, linkat, openat, renameat,
    renameat_with, unlinkat,
};
use rustix::io::{Errno, Result};
use std::hash::{BuildHasher, RandomState};

const PREFIX: &[u8] = b".botstead-";
const DIGITS: usize = 16;

/// How many names are tried before somebody must be making them on purpose.
const ATTEMPTS: u32 = 50;

/// A regular file on its way to a place.
#[derive(Debug)]
pub(crate) struct Temporary {
    directory: OwnedFd,
    file: OwnedFd,
    /// Absent while the file has no name, and once it has its own.
    name: Option<Vec<u8>>,
    /// With which it was made, and is removed.
    rights: Rights,
}

impl Temporary {
    /// A new, empty file that only root can read, to be published in this directory.
    pub(crate) fn new(directory: &OwnedFd) -> Result<Self> {
        match nameless(directory)? {
            Some(file) => Ok(Self {
                directory: again(directory)?,
                file,
                name: None,
                rights: Rights::current(),
            }),
            None => Self::named(directory),
        }
    }

    /// The same with a hidden name from the start.
    fn named(directory: &OwnedFd) -> Result<Self> {
        let directory = again(directory)?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
        let mode = Mode::RUSR | Mode::WUSR;
        let (name, file) =
            with_new_name(|name| openat(&directory, name, flags | OFlags::CLOEXEC, mode))?;
        Ok(Self {
            directory,
            file,
            name: Some(name),
            rights: Rights::current(),
        })
    }

    pub(crate) fn file(&self) -> &OwnedFd {
        &self.file
    }

    /// Gives the file its name, and replaces what has it only where told to: atomically.
    ///
    /// # Errors
    /// `EXIST` where something is there and must not be replaced.
    pub(crate) fn publish(mut self, name: &[u8], replace: bool) -> Result<()> {
        if self.name.is_none() {
            match link_nameless(&self.file, &self.directory, name) {
                Err(Errno::EXIST) if replace => {}
                done => return done,
            }
            let (hidden, ()) =
                with_new_name(|hidden| link_nameless(&self.file, &self.directory, hidden))?;
            self.name = Some(hidden);
        }
        if let Some(hidden) = &self.name {
            rename(&self.directory, hidden, &self.directory, name, replace)?;
            self.name = None;
        }
        Ok(())
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if let Some(name) = &self.name {
            // Nothing more can be done when this fails.
            let _ = self
                .rights
                .run(|| unlinkat(&self.directory, name.as_slice(), AtFlags::empty()));
        }
    }
}

/// Renames, and replaces only where told to.
pub(crate) fn rename(
    from: &OwnedFd,
    name: &[u8],
    to: &OwnedFd,
    new_name: &[u8],
    replace: bool,
) -> Result<()> {
    if replace {
        return renameat(from, name, to, new_name);
    }
    match renameat_with(from, name, to, new_name, RenameFlags::NOREPLACE) {
        // The filesystem does not know the flag; a link replaces nothing either. It says the same
        // when a directory would go into itself, which has no links.
        Err(Errno::INVAL | Errno::NOSYS) => {
            match linkat(from, name, to, new_name, AtFlags::empty()) {
                Err(Errno::PERM) => return Err(Errno::INVAL),
                linked => linked?,
            }
            unlinkat(from, name, AtFlags::empty())
        }
        done => done,
    }
}

/// Makes something under a hidden name that was free.
pub(crate) fn with_new_name<T>(mut make: impl FnMut(&[u8]) -> Result<T>) -> Result<(Vec<u8>, T)> {
    for attempt in 0..ATTEMPTS {
        // The standard library seeds every state anew from the kernel's randomness.
        let random = RandomState::new().hash_one(attempt);
        let name = [PREFIX, format!("{random:016x}").as_bytes()].concat();
        match make(&name) {
            Err(Errno::EXIST) => {}
            made => return Ok((name, made?)),
        }
    }
    Err(Errno::EXIST)
}

/// Whether a name is one of those that [`with_new_name`] gives.
pub(crate) fn is_hidden_name(name: &[u8]) -> bool {
    name.strip_prefix(PREFIX)
        .is_some_and(|rest| rest.len() == DIGITS && rest.iter().all(u8::is_ascii_hexdigit))
}

/// Another descriptor of the same directory.
fn again(directory: &OwnedFd) -> Result<OwnedFd> {
    let cloned = directory.try_clone();
    cloned.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::MFILE))
}

/// A file without a name, where the filesystem has such and it can be given one later.
fn nameless(directory: &OwnedFd) -> Result<Option<OwnedFd>> {
    if accessat(CWD, c"/proc/self/fd", Access::EXISTS, AtFlags::empty()).is_err() {
        return Ok(None);
    }
    let flags = OFlags::TMPFILE | OFlags::RDWR;
    match openat(
        directory,
        c".",
        flags | OFlags::CLOEXEC,
        Mode::RUSR | Mode::WUSR,
    ) {
        Ok(file) => Ok(Some(file)),
        Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL | Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno),
    }
}

fn link_nameless(file: &OwnedFd, directory: &OwnedFd, name: &[u8]) -> Result<()> {
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    linkat(CWD, path, directory, name, AtFlags::SYMLINK_FOLLOW)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn open(folder: &Path) -> OwnedFd {
        rustix::fs::open(folder, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap()
    }

    fn names(folder: &Path) -> Vec<String> {
        let names = folder.read_dir().unwrap();
        let mut names: Vec<String> = names
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    /// With and without a name from the start: filesystems differ, and the rules must not.
    #[test]
    fn files_appear_complete_or_not_at_all() {
        for make in [Temporary::new, Temporary::named] {
            let folder = tempfile::tempdir().unwrap();
            let directory = open(folder.path());
            let written = |text: &[u8]| {
                let temporary = make(&directory).unwrap();
                rustix::io::write(temporary.file(), text).unwrap();
                temporary
            };
            let read = |name| std::fs::read(folder.path().join(name)).unwrap();
            written(b"one").publish(b"f", false).unwrap();
            assert_eq!(written(b"two").publish(b"f", false), Err(Errno::EXIST));
            assert_eq!(read("f"), b"one");
            written(b"three").publish(b"f", true).unwrap();
            written(b"four").publish(b"g", true).unwrap();
            drop(written(b"five"));
            std::fs::create_dir(folder.path().join("d")).unwrap();
            assert_eq!(written(b"six").publish(b"d", true), Err(Errno::ISDIR));
            assert_eq!(
                (read("f"), read("g")),
                (b"three".to_vec(), b"four".to_vec())
            );
            assert_eq!(names(folder.path()), ["d", "f", "g"]);
        }
    }

    #[test]
    fn hidden_names_are_known_again() {
        let (name, ()) = with_new_name(|_| Ok(())).unwrap();
        assert!(is_hidden_name(&name));
        assert!(!is_hidden_name(b".botstead-"));
        assert!(!is_hidden_name(b".botstead-000000000000000g"));
        let (other, ()) = with_new_name(|_| Ok(())).unwrap();
        assert_ne!(name, other);
    }
}
