//! Changing a writable snapshot that no task has, where nobody sees it.

use super::folder::{DataTrouble, data_directory, data_name, existing_data};
use crate::service::Inner;
use crate::spec::DATA_PATH;
use crate::users::Accounts;
use crate::{Error, Result};
use botstead_archive::{ApplyMode, Checked, Ownership, Progress};
use botstead_runtime::{Access, Tree};
use botstead_types::{FilePath, LeaseId, OperationId, SnapshotKey};
use std::fs::File;
use std::sync::Arc;

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
        /// Whom it belongs to.
        ownership: Ownership,
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
    Data {
        /// The user of the image before.
        from: String,
        /// That of the new one, whom what belonged to the other belongs to.
        to: String,
    },
    /// `/data` of another snapshot is put in.
    DataOf(SnapshotKey),
}

impl Edit {
    /// Preserved data is brought back: an archive of ours, which names every directory.
    pub(crate) fn returned(checked: Box<Checked<File>>) -> Self {
        Self::Archive {
            checked,
            mode: ApplyMode::Replace,
            ownership: Ownership::ARCHIVE,
        }
    }
}

impl Inner {
    /// Refuses a change that the workspace's files as they are do not allow, before anything is stopped for
    /// it. What is changed inside afterwards is met by the change itself. The operation has its lease
    /// afterwards, which goes where this fails.
    pub(crate) async fn check_edit(
        self: &Arc<Self>,
        operation: OperationId,
        present: &SnapshotKey,
        edit: &Edit,
    ) -> Result<()> {
        let mut outline = None;
        let (source, paths) = match edit {
            Edit::Path { from, path, target } => (Some(from), Some((path.clone(), target.clone()))),
            Edit::Archive { mode, checked, .. } if *mode == ApplyMode::Merge => {
                outline = Some(checked.outline());
                (None, None)
            }
            Edit::Archive { .. } | Edit::Nothing | Edit::Data { .. } | Edit::DataOf(_) => {
                return Ok(());
            }
        };
        let lease = LeaseId::for_operation(operation);
        self.runtime.leases.create(&lease).await?;
        let checked = async {
            let snapshots = &self.runtime.snapshots;
            let source = match source {
                Some(source) => Some(snapshots.open(&lease, source, Access::Read).await?),
                None => None,
            };
            let tree = snapshots.open(&lease, present, Access::Read).await?;
            blocking(move || match (source, paths) {
                (Some(source), Some((path, target))) => {
                    let (from, to) = (path.as_bytes(), target.as_bytes());
                    let checked =
                        botstead_overlay::check_restore(source.root(), from, tree.root(), to);
                    checked.map_err(|error| not_found(error, &path))
                }
                _ => match (existing_data(tree.as_ref())?, outline) {
                    (Some(data), Some(outline)) => Ok(outline.fits(data)?),
                    _ => Ok(()),
                },
            })
            .await
        };
        let checked = checked.await;
        if checked.is_err() {
            self.drop_lease(operation);
        }
        checked
    }

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
            (Edit::Path { from, .. } | Edit::DataOf(from), _) => Some(from.clone()),
            (Edit::Data { .. }, present) => present.cloned(),
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
        (
            Edit::Archive {
                mut checked,
                mode,
                ownership,
            },
            _,
        ) => {
            let data = data_directory(tree, mode, ownership.implied)?;
            checked
                .apply(data, mode, ownership, &Progress::new())
                .map_err(Error::from)
        }
        (Edit::Path { path, target, .. }, Some(source)) => copy(source, &path, tree, &target),
        (Edit::DataOf(_), Some(source)) => take_data(source, tree),
        (Edit::Data { from, to }, Some(source)) => {
            take_data(source, tree)?;
            pass_on(source, &from, tree, &to)
        }
        (Edit::Path { .. } | Edit::Data { .. } | Edit::DataOf(_) | Edit::Nothing, _) => Ok(()),
    }
}

/// Takes `/data` along, or what it leads to. One that is a file, or a link to nothing, comes as it is;
/// a workspace without `/data` has nothing to take along.
fn take_data(from: &dyn Tree, to: &dyn Tree) -> Result<()> {
    match existing_data(from) {
        Ok(None) => Ok(()),
        Ok(Some(data)) => {
            let name = data_name().as_bytes();
            Ok(botstead_overlay::restore_directory(data, to.root(), name).map(drop)?)
        }
        Err(Error::DataNotDirectory(DataTrouble::NotADirectory | DataTrouble::Dangling)) => {
            let data = FilePath::new(DATA_PATH)?;
            copy(from, &data, to, &data)
        }
        Err(error) => Err(error),
    }
}

/// What belongs to the one user in `/data` belongs to the other from now on.
fn pass_on(before: &dyn Tree, from: &str, after: &dyn Tree, to: &str) -> Result<()> {
    let from = Accounts::read(before)?.owner(from);
    let to = Accounts::read(after)?.owner(to);
    let (Some(from), Some(to)) = (from, to) else {
        return Ok(());
    };
    let Ok(Some(data)) = existing_data(after) else {
        return Ok(());
    };
    let (from, to) = ((from.uid, from.gid), (to.uid, to.gid));
    botstead_overlay::pass_on(data, from, to)
        .map_err(|errno| host("give /data to the image's user", errno.into()))
}

fn copy(from: &dyn Tree, path: &FilePath, to: &dyn Tree, target: &FilePath) -> Result<()> {
    let copied =
        botstead_overlay::restore_path(from.root(), path.as_bytes(), to.root(), target.as_bytes());
    copied.map(drop).map_err(|error| not_found(error, path))
}

fn not_found(error: botstead_overlay::Error, path: &FilePath) -> Error {
    match error {
        botstead_overlay::Error::NotFound(_) => Error::PathNotFound(path.clone()),
        error => error.into(),
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
