//! Mounts of layers that nobody else sees, and that cannot outlive the process.
//!
//! A thread of its own takes a mount namespace of its own, mounts there, opens the directory and
//! ends. What is read-only then lives in that descriptor alone. What is written to also keeps the
//! namespace (emptied of the host's mounts), so that unmounting can be done, waited for, and found
//! busy. All of it goes with the process, however that ends.
//!
//! The layers are named in the mount's options by short links in a small tmpfs of the namespace:
//! options have 4 KiB, so this takes the 500 layers that overlayfs allows at most, in paths of any
//! length with any characters. The newer calls (fsopen, fsmount) would need no namespace, but pass no
//! option over 255 bytes, and overlayfs takes its layers one by one only from Linux 6.8 on. One way
//! from 5.10 to today is better than two.
//!
//! Options are containerd's: `index=off`, everything else the host's defaults, so that a layer means
//! the same here as in a container. Nothing on such a mount can be run, or opened as a device.

use crate::Error;
use nix::sched::{CloneFlags, setns, unshare};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{CWD, Mode, OFlags, mkdir, open, symlinkat, syncfs};
use rustix::io::Errno;
use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind, mount_change,
    mount_remount, unmount,
};
use rustix::process::{chdir, pivot_root};
use std::ffi::{CStr, CString};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// What overlayfs allows (OVL_MAX_STACK).
const MOST_LAYERS: usize = 500;

/// How long something may still be open when a mount is closed. Another thread's child has our
/// descriptors for the moment between its fork and its exec.
const PATIENCE: Duration = Duration::from_secs(2);

/// Where the thread has its tmpfs: a directory that every host has, and that has no layers in it.
const SCRATCH: &CStr = c"/proc";

const FLAGS: MountFlags = MountFlags::NODEV
    .union(MountFlags::NOSUID)
    .union(MountFlags::NOEXEC)
    .union(MountFlags::NOATIME);

/// Layers as one tree, visible to the holder alone. Dropping it unmounts.
#[derive(Debug)]
pub struct PrivateMount {
    root: OwnedFd,
    writable: Option<Writable>,
}

#[derive(Debug)]
struct Writable {
    /// The upper directory on its own filesystem, opened before anything was written: it sees the
    /// errors of all writing.
    upper: OwnedFd,
    path: PathBuf,
    namespace: OwnedFd,
    at: &'static CStr,
}

/// What is mounted.
#[derive(Debug, Clone, Copy)]
struct Stack<'a> {
    /// From the bottom up.
    layers: &'a [PathBuf],
    /// The directory to write to, and the one that overlayfs works in.
    upper: Option<(&'a Path, &'a Path)>,
}

impl PrivateMount {
    /// Mounts layers, given from the bottom up, for reading. One alone is mounted as it is. The upper
    /// directory of something that is mounted nowhere can be the topmost.
    ///
    /// # Errors
    /// [`Error::NoLayers`]; [`Error::Io`] with the layer that is missing, or with what the kernel says:
    /// `EINVAL` for more than 500.
    pub fn read_only(layers: &[PathBuf]) -> Result<Self, Error> {
        if layers.is_empty() {
            return Err(Error::NoLayers);
        }
        mounted(Stack {
            layers,
            upper: None,
        })
    }

    /// Mounts layers, given from the bottom up, with `upper` on top to write to and `work` for
    /// overlayfs to work in (an empty directory next to it). Without layers `upper` is mounted as it
    /// is, and `work` not used: as containerd does.
    ///
    /// `upper` must be mounted nowhere else: the kernel does not refuse that.
    ///
    /// # Errors
    /// Like [`PrivateMount::read_only`].
    pub fn writable(layers: &[PathBuf], upper: &Path, work: &Path) -> Result<Self, Error> {
        mounted(Stack {
            layers,
            upper: Some((upper, work)),
        })
    }

    /// The tree's root. Whatever is opened beneath it keeps the mount busy.
    pub fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// Returns when all that was written is on disk. Can be repeated; nothing to do for a mount that
    /// is read-only.
    ///
    /// # Errors
    /// Also those of earlier writing that nobody was told.
    pub fn sync(&self) -> Result<(), Error> {
        let Some(writable) = &self.writable else {
            return Ok(());
        };
        syncfs(&writable.upper).map_err(|errno| Error::io("sync", writable.path.display(), errno))
    }

    /// Syncs and unmounts; when it returns, `upper` and `work` can be mounted again.
    ///
    /// # Errors
    /// [`Error::Busy`] when something beneath is still open. The mount then ends when that is closed.
    pub fn close(self) -> Result<(), Error> {
        self.sync()?;
        let Self { root, writable } = self;
        drop(root);
        let Some(writable) = writable else {
            return Ok(());
        };
        in_thread(|| writable.unmount())
    }
}

impl AsFd for PrivateMount {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.root()
    }
}

impl Writable {
    fn unmount(&self) -> Result<(), Error> {
        let failed = |errno| Error::io("unmount", self.path.display(), errno);
        unshare(CloneFlags::CLONE_FS)
            .map_err(from_nix)
            .map_err(failed)?;
        let entered = setns(&self.namespace, CloneFlags::CLONE_NEWNS);
        entered.map_err(from_nix).map_err(failed)?;
        let start = Instant::now();
        loop {
            match unmount(self.at, UnmountFlags::NOFOLLOW) {
                Err(Errno::BUSY) if start.elapsed() < PATIENCE => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                Err(Errno::BUSY) => {
                    return Err(Error::Busy(self.path.clone()));
                }
                unmounted => return unmounted.map_err(failed),
            }
        }
    }
}

fn mounted(stack: Stack<'_>) -> Result<PrivateMount, Error> {
    in_thread(|| stack.mount())
}

/// A namespace belongs to a thread, and must not become that of others.
fn in_thread<T: Send>(work: impl FnOnce() -> Result<T, Error> + Send) -> Result<T, Error> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("mount".to_owned());
        let thread = thread.spawn_scoped(scope, work);
        let thread = thread.map_err(|source| Error::Io {
            operation: "start a thread to mount",
            path: String::new(),
            source,
        })?;
        match thread.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

impl Stack<'_> {
    /// Runs on a thread that ends after it.
    fn mount(self) -> Result<PrivateMount, Error> {
        let failed =
            |operation| move |errno| Error::io(operation, SCRATCH.to_string_lossy(), errno);
        unshare(CloneFlags::CLONE_NEWNS)
            .map_err(from_nix)
            .map_err(failed("leave the mount namespace for one over"))?;
        // Nothing goes out from here; what the host unmounts meanwhile is unmounted here as well.
        let propagation = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
        mount_change(c"/", propagation).map_err(failed("part the mounts for one over"))?;
        let namespace = open(
            c"/proc/thread-self/ns/mnt",
            OFlags::RDONLY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .map_err(failed("open the namespace in"))?;
        let layers = self.layers.iter().map(PathBuf::as_path);
        let above = self.upper.iter().flat_map(|(upper, work)| [*upper, *work]);
        let paths = layers
            .chain(above)
            .map(absolute)
            .collect::<Result<Vec<_>, _>>()?;
        let upper = match self.upper {
            None => None,
            Some((path, _)) => Some((directory(path)?, path)),
        };
        mount(
            c"none",
            SCRATCH,
            c"tmpfs",
            MountFlags::empty(),
            c"mode=0700,size=16m,nr_inodes=2k",
        )
        .and_then(|()| chdir(SCRATCH))
        .map_err(failed("mount a tmpfs on"))?;
        for at in [c"m", c"old"] {
            mkdir(at, Mode::RWXU).map_err(failed("make a directory in"))?;
        }
        self.mount_on(c"m", &paths)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = open(c"m", flags, Mode::empty()).map_err(failed("open the mount in"))?;
        let writable = match upper {
            None => None,
            Some((upper, path)) => Some(Writable {
                upper,
                path: path.to_owned(),
                namespace,
                at: leave_host().map_err(failed("leave the host's mounts over"))?,
            }),
        };
        Ok(PrivateMount { root, writable })
    }

    fn mount_on(self, at: &CStr, paths: &[PathBuf]) -> Result<(), Error> {
        let (only, flags) = match (self.layers, self.upper) {
            ([only], None) => (Some(only.as_path()), FLAGS | MountFlags::RDONLY),
            ([], Some((upper, _))) => (Some(upper), FLAGS),
            (_, None) => (None, FLAGS | MountFlags::RDONLY),
            (_, Some(_)) => (None, FLAGS),
        };
        if let Some(only) = only {
            return mount_bind(only, at)
                .and_then(|()| mount_remount(at, flags | MountFlags::BIND, c""))
                .map_err(|errno| Error::io("mount", only.display(), errno));
        }
        let (layers, above) = paths.split_at(self.layers.len());
        let mut options = String::from("index=off,lowerdir=");
        for (number, layer) in layers.iter().enumerate().rev() {
            link(layer, &number.to_string())?;
            // Writing to a string cannot fail.
            let _ = write!(options, "{number}{}", if number == 0 { "" } else { ":" });
        }
        if let [upper, work] = above {
            link(upper, "u")?;
            link(work, "w")?;
            options += ",upperdir=u,workdir=w";
        }
        let path = self
            .upper
            .map_or_else(|| layers[layers.len() - 1].as_path(), |(upper, _)| upper);
        let failed = |errno| Error::io("mount an overlay with", path.display(), errno);
        if layers.len() > MOST_LAYERS {
            return Err(failed(Errno::INVAL));
        }
        // Digits, letters and commas only.
        let options = CString::new(options).map_err(|_| failed(Errno::INVAL))?;
        mount(c"overlay", at, c"overlay", flags, options.as_c_str()).map_err(failed)
    }
}

/// Makes the tmpfs the namespace's root and takes the host's mounts out of it, which would be kept
/// from ending otherwise; where the mount then is. A host whose root is its initramfs cannot be left:
/// its mounts then stay for as long as this one does.
fn leave_host() -> Result<&'static CStr, Errno> {
    match pivot_root(c".", c"old") {
        Ok(()) => {
            chdir(c"/")?;
            unmount(c"/old", UnmountFlags::DETACH)?;
            Ok(c"/m")
        }
        Err(Errno::INVAL) => Ok(c"/proc/m"),
        Err(errno) => Err(errno),
    }
}

/// A path that a link in another directory can lead to, of a directory that is there.
fn absolute(path: &Path) -> Result<PathBuf, Error> {
    directory(path)?;
    std::path::absolute(path).map_err(|source| Error::Io {
        operation: "find",
        path: path.display().to_string(),
        source,
    })
}

fn directory(path: &Path) -> Result<OwnedFd, Error> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    open(path, flags, Mode::empty()).map_err(|errno| Error::io("open", path.display(), errno))
}

fn link(to: &Path, name: &str) -> Result<(), Error> {
    symlinkat(to, CWD, name).map_err(|errno| Error::io("link to", to.display(), errno))
}

fn from_nix(errno: nix::errno::Errno) -> Errno {
    Errno::from_raw_os_error(errno as i32)
}
