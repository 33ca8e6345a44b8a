//! Network namespaces: made, mounted at a path, entered, removed. What is inside is `link`'s.
//!
//! A thread cannot safely go back to the namespace it came from when something fails halfway, so
//! whatever enters a namespace runs on a thread of its own that ends there. Threads begin in the
//! namespace of the thread that starts them: that one is "the host" for this driver.

use crate::netlink::Netlink;
use botstead_runtime::{Error, ErrorKind, Result};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::statfs::{NSFS_MAGIC, fstatfs, statfs};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::Mutex;

const NOTHING: Option<&str> = None;

/// Two that make the same namespace at the same time must not mount one over the other.
static MOUNTING: Mutex<()> = Mutex::new(());

/// Runs blocking work on a thread of its own, in the caller's namespace.
pub(crate) async fn on_thread<T: Send + 'static>(
    operation: &'static str,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let failed = || Error::new(ErrorKind::Internal, operation, "the network");
    let (send, receive) = tokio::sync::oneshot::channel();
    std::thread::Builder::new()
        .name("botstead-net".to_owned())
        .spawn(move || {
            // Nobody waits for it when the caller was cancelled.
            let _ = send.send(work());
        })
        .map_err(|error| failed().with_source(error))?;
    receive
        .await
        .map_err(|_| failed().because("its thread panicked"))?
}

/// Whether a namespace is mounted there.
pub(crate) fn is_mounted(path: &Path) -> io::Result<bool> {
    match statfs(path) {
        Ok(found) => Ok(found.filesystem_type() == NSFS_MAGIC),
        Err(nix::Error::ENOENT) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Makes the directory a mount of its own that passes mounts on, as `ip netns` does: otherwise a
/// process with a mount namespace of its own would keep removed namespaces alive.
fn prepare_directory(directory: &Path) -> io::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(directory)?;
    let share = || {
        mount(
            Some(""),
            directory,
            Some("none"),
            MsFlags::MS_SHARED | MsFlags::MS_REC,
            NOTHING,
        )
    };
    match share() {
        // Not a mount point yet.
        Err(nix::Error::EINVAL) => {
            let bind = MsFlags::MS_BIND | MsFlags::MS_REC;
            mount(Some(directory), directory, Some("none"), bind, NOTHING)?;
            share()?;
        }
        other => other?,
    }
    Ok(())
}

/// Makes a namespace with nothing but its loopback link and mounts it. The calling thread ends up
/// in it.
pub(crate) fn create(path: &Path) -> io::Result<()> {
    unshare(CloneFlags::CLONE_NEWNET)?;
    // Links get no IPv6 address, so that nothing announces itself on the bridge or waits for
    // duplicates; the loopback keeps `::1`. Without IPv6 in the kernel there is no such file.
    ignore_missing(fs::write(
        "/proc/sys/net/ipv6/conf/default/disable_ipv6",
        "1",
    ))?;
    crate::link::loopback_up(&mut Netlink::open()?)?;

    let _mounting = MOUNTING
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner());
    if is_mounted(path)? {
        return Ok(());
    }
    if let Some(directory) = path.parent() {
        prepare_directory(directory)?;
    }
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)?;
    let own = Some("/proc/thread-self/ns/net");
    mount(own, path, Some("none"), MsFlags::MS_BIND, NOTHING)?;
    Ok(())
}

/// Opens a namespace, or `None` when none is mounted there.
pub(crate) fn open(path: &Path) -> io::Result<Option<File>> {
    match File::open(path) {
        // Of what was opened, so that it cannot be another file by now.
        Ok(file) if fstatfs(&file)?.filesystem_type() == NSFS_MAGIC => Ok(Some(file)),
        Ok(_) => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Moves the calling thread into a namespace, for good.
pub(crate) fn enter(namespace: &File) -> io::Result<()> {
    Ok(setns(namespace, CloneFlags::CLONE_NEWNET)?)
}

/// Unmounts a namespace and removes its file, as much of it as there is.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    let _mounting = MOUNTING
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner());
    while is_mounted(path)? {
        umount2(path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW)?;
    }
    ignore_missing(fs::remove_file(path))
}

/// Unmounts the directory and removes it, when no namespace is left in it.
pub(crate) fn remove_directory(directory: &Path) -> io::Result<()> {
    match umount2(directory, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
        Ok(()) | Err(nix::Error::EINVAL | nix::Error::ENOENT) => {}
        Err(error) => return Err(error.into()),
    }
    ignore_missing(fs::remove_dir(directory))
}

/// A file or directory that is not there is as good as removed.
pub(crate) fn ignore_missing(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
