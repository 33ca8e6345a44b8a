//! Changing a writable snapshot that no task has, where nobody sees it.

use crate::service::Inner;
use crate::spec::DATA_PATH;
use crate::{Error, Result};
use botstead_archive::{ApplyMode, Checked, Ownership, Progress};
use botstead_overlay::beneath;
use botstead_runtime::{Access, Tree};
use botstead_types::{FilePath, LeaseId, SnapshotKey};
use rustix::fs::{AtFlags, Mode, OFlags, mkdirat, openat, unlinkat};
use rustix::io::Errno;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};

/// A change of a writable snapshot.
pub(crate) enum Edit {
    /// None.
    Nothing,
    /// An archive that was found good is put into `/data`.
    Archive {
        /// The archive.
        checked: Box<Checked<File>>,
        /// What becomes of what is there.
        mode: ApplyMode,
    },
    /// A path of another snapshot is put in.
    Path {
        /// The snapshot.
        from: SnapshotKey,
        /// The path in it.
        path: FilePath,
        /// Where it goes.
        target: FilePath,
    },
    /// `/data` of the state before is put in.
    Data,
}

impl Inner {
    /// Makes the change; it is on the disk when this returns.
    pub(crate) async fn edit(
        &self,
        lease: &LeaseId,
        fresh: &SnapshotKey,
        edit: Edit,
        present: Option<&SnapshotKey>,
    ) -> Result<()> {
        let from = match (&edit, present) {
            (Edit::Nothing, _) => return Ok(()),
            (Edit::Archive { .. }, _) => None,
            (Edit::Path { from, .. }, _) => Some(from.clone()),
            (Edit::Data, present) => present.cloned(),
        };
        let snapshots = &self.runtime.snapshots;
        let source = match &from {
            Some(from) => Some(snapshots.open(lease, from, Access::Read).await?),
            None => None,
        };
        let tree = snapshots.open(lease, fresh, Access::Write).await?;
        blocking(move || {
            let done = change(tree.as_ref(), source.as_deref(), edit);
            // Closed either way; what is half done is thrown away by the caller.
            let closed = tree
                .close()
                .map_err(|error| host("write to the disk", error));
            done.and(closed)
        })
        .await
    }
}

fn change(tree: &dyn Tree, source: Option<&dyn Tree>, edit: Edit) -> Result<()> {
    match (edit, source) {
        (Edit::Archive { mut checked, mode }, _) => {
            let data = data_directory(tree)?;
            checked
                .apply(data, mode, Ownership::Archive, &Progress::new())
                .map_err(Error::from)
        }
        (Edit::Path { path, target, .. }, Some(source)) => copy(source, &path, tree, &target),
        (Edit::Data, Some(source)) => {
            let data = FilePath::new(DATA_PATH)?;
            match copy(source, &data, tree, &data) {
                // A workspace without `/data` has nothing to take along.
                Err(Error::PathNotFound(_)) => Ok(()),
                copied => copied,
            }
        }
        (Edit::Path { .. } | Edit::Data | Edit::Nothing, _) => Ok(()),
    }
}

fn copy(from: &dyn Tree, path: &FilePath, to: &dyn Tree, target: &FilePath) -> Result<()> {
    let copied =
        botstead_overlay::restore_path(from.root(), path.as_bytes(), to.root(), target.as_bytes());
    match copied {
        Err(botstead_overlay::Error::NotFound(_)) => Err(Error::PathNotFound(path.clone())),
        copied => Ok(copied.map(drop)?),
    }
}

/// `/data` as it is called in the root: beneath a root no path is absolute.
fn data_name() -> &'static str {
    DATA_PATH.trim_start_matches('/')
}

/// `/data` of a tree, made where it is missing or where something else is in its place.
pub(crate) fn data_directory(tree: &dyn Tree) -> Result<OwnedFd> {
    let name = data_name();
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let failed = |errno: Errno| host("open /data", errno.into());
    let root = tree.root();
    match openat(root, name, flags, Mode::empty()) {
        Err(Errno::NOENT) => {}
        Err(Errno::LOOP | Errno::NOTDIR) => {
            unlinkat(root, name, AtFlags::empty()).map_err(failed)?;
        }
        opened => return opened.map_err(failed),
    }
    let mode = Mode::RWXU | Mode::RGRP | Mode::XGRP | Mode::ROTH | Mode::XOTH;
    mkdirat(root, name, mode).map_err(failed)?;
    openat(root, name, flags, Mode::empty()).map_err(failed)
}

/// `/data` of a tree for looking; `None` where it has none.
pub(crate) fn existing_data(tree: &dyn Tree) -> Result<Option<OwnedFd>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    match beneath::open(tree.root().as_fd(), data_name().as_bytes(), flags) {
        Ok(data) => Ok(Some(data)),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
        Err(errno) => Err(host("open /data", errno.into())),
    }
}

/// A failure of the host's disk, or of what is on it.
pub(crate) fn host(what: &'static str, source: std::io::Error) -> Error {
    Error::Host { what, source }
}

/// Work that blocks, on a thread for that.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(Error::Aborted(error)))
}
