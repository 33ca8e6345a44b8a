//! Channels: a small tmpfs per container, shared with it, in which its process makes sockets.
//!
//! The container's root can do anything in that directory. So a socket is opened as a place beneath
//! the open directory, never through a link, checked to be a socket, and connected to through
//! `/proc/self/fd`; and who answers is checked to be the task's first process by the credentials that
//! the kernel took when it began to listen (unix(7), SO_PEERCRED).

use crate::config::ContainerdConfig;
use crate::op::{Op, blocking};
use crate::spec::files::EtcFiles;
use crate::tasks::ContainerdTasks;
use async_trait::async_trait;
use botstead_runtime::{ByteStream, Channels, ErrorKind, Result, Tasks};
use botstead_types::ContainerId;
use rustix::fs::{CWD, FileType, Mode, OFlags, fstat, openat};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use std::fs::DirBuilder;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::net::UnixStream;

/// Room for a few sockets and nothing else: it is memory of the host.
const LIMITS: &std::ffi::CStr = c"size=64k,nr_inodes=16,mode=0700";

/// Where the channel directories of an installation are on the host.
#[derive(Debug, Clone)]
pub(crate) struct Folders {
    root: PathBuf,
}

impl Folders {
    pub(crate) fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
        }
    }

    pub(crate) fn of(&self, id: &ContainerId) -> PathBuf {
        self.root.join(id.as_str())
    }

    /// A channel directory for a task that is about to be made. One that is there stays: it is a
    /// running task's, or was left by one that vanished and goes with the next.
    pub(crate) fn make(&self, id: &ContainerId) -> io::Result<()> {
        let folder = self.of(id);
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&folder)?;
        let device = |path: &Path| Ok::<_, io::Error>(std::fs::symlink_metadata(path)?.dev());
        if device(&folder)? != device(&self.root)? {
            return Ok(());
        }
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        mount("botstead", &folder, "tmpfs", flags, LIMITS)?;
        Ok(())
    }

    /// Removes the channel directory; one that is missing is no error.
    pub(crate) fn remove(&self, id: &ContainerId) -> io::Result<()> {
        let folder = self.of(id);
        // More than one when the host's tools mounted something over it.
        while unmount(&folder, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW).is_ok() {}
        match std::fs::remove_dir(&folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

/// Removes what the host has for a container's task. Best effort: what stays is found by
/// [`Channels::list`].
pub(crate) async fn remove_all(config: &ContainerdConfig, id: &ContainerId) {
    let channels = Folders::new(&config.channel_root);
    let etc = EtcFiles::new(&config.etc_root);
    let of = id.clone();
    let removed = blocking(move || {
        let channel = channels.remove(&of);
        etc.remove(&of).and(channel)
    });
    if let Err(error) = removed.await {
        tracing::warn!(%id, %error, "cannot remove its channel directory or its files for /etc");
    }
}

/// The [`Channels`] of an installation.
#[derive(Debug)]
pub(crate) struct ContainerdChannels {
    pub(crate) folders: Folders,
    /// Left together with a channel, and found and removed with it.
    pub(crate) etc: EtcFiles,
    pub(crate) tasks: Arc<ContainerdTasks>,
}

#[async_trait]
impl Channels for ContainerdChannels {
    async fn connect(&self, id: &ContainerId, socket: &str) -> Result<Box<dyn ByteStream>> {
        let op = Op::new("connect to task", id);
        let failed = |error: io::Error| match error.kind() {
            io::ErrorKind::NotFound => op.fail(ErrorKind::NotFound, "it has no such socket yet"),
            io::ErrorKind::InvalidData => op.fail(ErrorKind::Conflict, error.to_string()),
            // connect(2) on a unix socket: its queue is full, so somebody listens.
            io::ErrorKind::WouldBlock => {
                op.fail(ErrorKind::ResourceExhausted, "its socket's queue is full")
            }
            _ => op.fail_with(ErrorKind::Unavailable, "its socket does not accept", error),
        };
        let place = open(&self.folders.of(id), socket).map_err(failed)?;
        let path = format!("/proc/self/fd/{}", place.as_raw_fd());
        let stream = UnixStream::connect(path).await.map_err(failed)?;
        let listener = stream.peer_cred().map_err(failed)?.pid();
        let is = |pid: u32| {
            let own = i32::try_from(pid).ok().filter(|pid| *pid > 0);
            own.is_some() && listener == own
        };
        if !self.tasks.first.of(id).is_some_and(is) && !is(self.tasks.get(id).await?.pid) {
            return Err(op.fail(
                ErrorKind::Conflict,
                "another process than its first one listens there",
            ));
        }
        Ok(Box::new(stream))
    }

    async fn list(&self) -> Result<Vec<ContainerId>> {
        let (folders, etc) = (self.folders.clone(), self.etc.clone());
        let all = blocking(move || {
            let mut all = folders.all()?;
            all.extend(etc.all()?);
            all.sort();
            all.dedup();
            Ok(all)
        });
        all.await.map_err(|error| {
            let op = Op::new("list", "channel directories");
            op.fail_with(ErrorKind::Internal, "the folder cannot be read", error)
        })
    }

    async fn remove(&self, id: &ContainerId) -> Result<()> {
        let op = Op::new("remove channel directory of", id);
        let (folders, etc, id) = (self.folders.clone(), self.etc.clone(), id.clone());
        blocking(move || folders.remove(&id).and(etc.remove(&id)))
            .await
            .map_err(|error| op.fail_with(ErrorKind::Internal, "it cannot be removed", error))
    }
}

impl Folders {
    /// The containers that have a directory here.
    pub(crate) fn all(&self) -> io::Result<Vec<ContainerId>> {
        match std::fs::read_dir(&self.root) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            entries => Ok(entries?
                .flatten()
                .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
                .collect()),
        }
    }
}

/// The socket as a place, without following anything.
fn open(folder: &Path, socket: &str) -> io::Result<OwnedFd> {
    if socket.is_empty() || socket.contains('/') {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let place = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let folder = openat(CWD, folder, place | OFlags::DIRECTORY, Mode::empty())?;
    let found = match openat(&folder, socket, place, Mode::empty()) {
        Err(Errno::LOOP) => return Err(no_socket()),
        found => found?,
    };
    if FileType::from_raw_mode(fstat(&found)?.st_mode) != FileType::Socket {
        return Err(no_socket());
    }
    Ok(found)
}

fn no_socket() -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        "what stands there is not a socket",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use botstead_types::BotId;
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

    #[test]
    fn only_a_socket_in_the_directory_itself_is_opened() {
        let folder = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        let _host = UnixListener::bind(outside.path().join("host.sock")).unwrap();
        symlink(outside.path().join("host.sock"), folder.path().join("link")).unwrap();
        std::fs::write(folder.path().join("file"), "").unwrap();
        let _own = UnixListener::bind(folder.path().join("own")).unwrap();
        assert!(open(folder.path(), "own").is_ok());
        for (name, kind) in [
            ("link", io::ErrorKind::InvalidData),
            ("file", io::ErrorKind::InvalidData),
            ("missing", io::ErrorKind::NotFound),
            ("../x", io::ErrorKind::InvalidInput),
            ("", io::ErrorKind::InvalidInput),
        ] {
            let error = open(folder.path(), name).unwrap_err();
            assert_eq!(error.kind(), kind, "{name}");
        }
        assert!(open(&folder.path().join("gone"), "own").is_err());
    }

    #[test]
    fn a_channel_is_small_new_for_every_task_and_gone_afterwards() {
        let root = tempfile::tempdir().unwrap();
        let folders = Folders::new(root.path());
        let id = ContainerId::for_bot(BotId::generate());
        folders.make(&id).unwrap();
        let folder = folders.of(&id);
        let _left = UnixListener::bind(folder.join("left")).unwrap();
        let full = std::fs::write(folder.join("big"), vec![0; 1 << 20]).unwrap_err();
        assert_eq!(full.kind(), io::ErrorKind::StorageFull);
        let many = (0..20).map(|n| std::fs::write(folder.join(n.to_string()), ""));
        assert!(many.into_iter().any(|made| made.is_err()));
        folders.make(&id).unwrap();
        assert!(folder.join("left").exists(), "a running task keeps its own");
        folders.remove(&id).unwrap();
        folders.make(&id).unwrap();
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 0);
        folders.remove(&id).unwrap();
        folders.remove(&id).unwrap();
        assert!(!folder.exists());
    }
}
