//! The self-test of the change feed: whether this kernel reports what happens on an overlay mount to
//! whoever watches the filesystem below it.

use super::event::{CLOSE_WRITE, MODIFY, events};
use super::group;
use crate::report::Reason;
use crate::sys::{SharedPage, handle_at};
use nix::sys::fanotify::{Fanotify, MarkFlags, MaskFlags};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{Mode, OFlags, openat};
use rustix::io::{Errno, read, write};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount,
    fsopen,
};
use std::collections::HashMap;
use std::ffi::CString;
use std::fs;
use std::path::{Path, PathBuf};

/// The oldest kernel on which overlayfs lets changes be seen on the filesystem below.
const OLDEST: (u32, u32) = (6, 5);

/// Whether the change feed works.
#[derive(Debug)]
pub struct ChangeFeed;

impl ChangeFeed {
    /// Tries it on an overlay mount of its own, in a new folder of `scratch`, which has to be on the
    /// filesystem that the copied trees are on. To be called once, at start; takes some milliseconds and
    /// leaves nothing behind.
    ///
    /// # Errors
    /// Why the feed cannot be used; copies then take [`SecondPass::Walk`](crate::SecondPass).
    pub fn probe(scratch: &Path) -> Result<(), Reason> {
        check_kernel(&rustix::system::uname().release().to_string_lossy())?;
        let mut folder = Folder(scratch.join(format!("feed-probe-{}", std::process::id())));
        // Left by one that was killed, with the same number.
        folder.remove();
        let answer = try_out(&folder.0);
        folder.remove();
        answer
    }
}

fn check_kernel(release: &str) -> Result<(), Reason> {
    let mut numbers = release.split(|letter: char| !letter.is_ascii_digit());
    let mut number = || numbers.next().and_then(|number| number.parse().ok());
    match (number(), number()) {
        (Some(major), Some(minor)) if (major, minor) >= OLDEST => Ok(()),
        _ => Err(Reason::OldKernel(release.to_owned())),
    }
}

struct Folder(PathBuf);

impl Folder {
    fn remove(&mut self) {
        // What cannot be removed is found by whoever looks after the folder; it is tiny.
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn try_out(folder: &Path) -> Result<(), Reason> {
    let io = |error: std::io::Error| Reason::Feed(format!("the self-test: {error}"));
    let failed = |errno: Errno| Reason::Feed(format!("the self-test: {errno}"));
    for name in ["lower", "upper", "work"] {
        fs::create_dir_all(folder.join(name)).map_err(io)?;
    }
    fs::write(folder.join("lower/below"), "x").map_err(io)?;
    let mount = overlay(folder).map_err(failed)?;
    let upper = fs::File::open(folder.join("upper")).map_err(io)?;
    let group = group()?;
    let wanted = MaskFlags::FAN_MODIFY | MaskFlags::FAN_CLOSE_WRITE | MaskFlags::FAN_CREATE;
    let flags = MarkFlags::FAN_MARK_ADD | MarkFlags::FAN_MARK_FILESYSTEM;
    group
        .mark(flags, wanted, upper.as_fd(), Some("."))
        .map_err(|errno| Reason::Feed(format!("cannot watch: {errno}")))?;
    let watch = Watch {
        group,
        dir: handle_at(upper.as_fd(), c"").map_err(failed)?,
    };
    let open = |name: &str| {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC;
        openat(&mount, name, flags, Mode::RUSR | Mode::WUSR).map_err(failed)
    };
    let file = open("file")?;
    watch.expect("the making of a file", "file", super::event::CREATE)?;
    write(&file, b"x").map_err(failed)?;
    watch.expect("a write", "file", MODIFY)?;
    let page = SharedPage::map(file.as_fd()).map_err(failed)?;
    drop(file);
    page.store(1);
    watch.expect_nothing("file")?;
    drop(page);
    watch.expect("the end of a mapping", "file", CLOSE_WRITE)?;
    let file = open("below")?;
    watch.expect("the copying up of a file", "below", super::event::CREATE)?;
    write(&file, b"y").map_err(failed)?;
    watch.expect("a write to a file that was copied up", "below", MODIFY)
}

/// An overlay mount that is nowhere, and ends with its descriptor.
fn overlay(folder: &Path) -> Result<OwnedFd, Errno> {
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (key, name) in [
        ("lowerdir", "lower"),
        ("upperdir", "upper"),
        ("workdir", "work"),
    ] {
        fsconfig_set_string(context.as_fd(), key, folder.join(name))?;
    }
    fsconfig_create(context.as_fd())?;
    let flags = FsMountFlags::FSMOUNT_CLOEXEC;
    fsmount(context.as_fd(), flags, MountAttrFlags::empty())
}

struct Watch {
    group: Fanotify,
    dir: crate::sys::Handle,
}

impl Watch {
    /// The events of each name of the folder since the last time.
    fn read(&self) -> Result<HashMap<CString, u64>, Reason> {
        let mut buffer = vec![0; super::BUFFER];
        let mut masks = HashMap::<CString, u64>::new();
        loop {
            let length = match read(&self.group, &mut buffer[..]) {
                Ok(length) => length,
                Err(Errno::AGAIN) => return Ok(masks),
                Err(errno) => return Err(Reason::Feed(format!("cannot read: {errno}"))),
            };
            for event in events(&buffer[..length]) {
                let event = event.map_err(|_| Reason::Feed("a broken event".to_owned()))?;
                if let Some((dir, name)) = event.place
                    && dir == std::borrow::Borrow::<[u8]>::borrow(&self.dir)
                {
                    *masks.entry(name.to_owned()).or_default() |= event.mask;
                }
            }
        }
    }

    fn expect(&self, what: &'static str, name: &str, mask: u64) -> Result<(), Reason> {
        let seen = self.read()?;
        let name = CString::new(name).unwrap_or_default();
        match seen.get(&name) {
            Some(seen) if seen & mask != 0 => Ok(()),
            _ => Err(Reason::NotSeen(what)),
        }
    }

    /// A file that is mapped is not closed.
    fn expect_nothing(&self, name: &str) -> Result<(), Reason> {
        let name = CString::new(name).unwrap_or_default();
        match self.read()?.get(&name) {
            Some(mask) if mask & CLOSE_WRITE != 0 => {
                Err(Reason::NotSeen("how long a mapping lives"))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_feed_works_here_and_its_test_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let answer = ChangeFeed::probe(dir.path());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        let release = rustix::system::uname()
            .release()
            .to_string_lossy()
            .into_owned();
        match check_kernel(&release) {
            Ok(()) => assert_eq!(answer, Ok(()), "these tests need root"),
            Err(reason) => assert_eq!(answer, Err(reason)),
        }
    }

    #[test]
    fn old_kernels_and_strange_ones_are_refused() {
        for release in ["6.5", "6.5.0-1-amd64", "6.18.44-fc", "10.0"] {
            assert_eq!(check_kernel(release), Ok(()), "{release}");
        }
        for release in ["6.4.16", "5.10.0-32-amd64", "", "unknown"] {
            let refused = Err(Reason::OldKernel(release.to_owned()));
            assert_eq!(check_kernel(release), refused);
        }
    }

    #[test]
    fn a_folder_that_is_not_there_is_a_reason() {
        let answer = try_out(Path::new("/proc/self/no-such-folder"));
        assert!(matches!(answer, Err(Reason::Feed(_))), "{answer:?}");
    }
}
