//! Opening the files of snapshots on this host, by private mounts of their layers.

use crate::layers::{Leased, lower_directories};
use crate::op::Op;
use crate::snapshots::ContainerdSnapshots;
use botstead_overlay::PrivateMount;
use botstead_runtime::{Access, ErrorKind, Result, SnapshotMount, Snapshots, Tree};
use botstead_types::{LeaseId, SnapshotKey, SnapshotKind};
use std::io;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use uuid::Uuid;

/// The directories of a snapshot's layers, from the bottom up. Those of a committed one stay as long as
/// the lease: it may be released and collected while they are read.
pub(crate) async fn layers(
    snapshots: &ContainerdSnapshots,
    op: &Op,
    lease: &LeaseId,
    key: &SnapshotKey,
) -> Result<Vec<PathBuf>> {
    let found = snapshots.get(key).await?;
    if found.kind == SnapshotKind::Active {
        return active_layers(op, &snapshots.mounts(key).await?);
    }
    let client = &snapshots.client;
    let kind = format!("snapshots/{}", client.snapshotter);
    client.keep(op, lease, kind, key.as_str()).await?;
    let leased = Leased { client, op, lease };
    // Of its own, so that two who look at one snapshot do not meet.
    let view = format!("view-{}", Uuid::now_v7());
    let layers = leased.view(&view, key).await;
    leased.remove(&view).await;
    layers
}

/// The layers of an active snapshot, its upper directory last.
pub(crate) fn active_layers(op: &Op, mounts: &[SnapshotMount]) -> Result<Vec<PathBuf>> {
    let [mount] = mounts else {
        return Err(no_layers(op));
    };
    let Some(upper) = mount.upper_dir() else {
        return Ok(vec![PathBuf::from(&mount.source)]);
    };
    let mut layers = lower_directories(mount).ok_or_else(|| no_layers(op))?;
    layers.push(upper);
    Ok(layers)
}

fn no_layers(op: &Op) -> botstead_runtime::Error {
    op.fail(
        ErrorKind::Unsupported,
        "the snapshotter has no directories that can be looked into",
    )
}

/// What an active snapshot is written through: the layers below, its upper and its work directory.
async fn writable(
    snapshots: &ContainerdSnapshots,
    op: &Op,
    key: &SnapshotKey,
) -> Result<(Vec<PathBuf>, PathBuf, PathBuf)> {
    if snapshots.get(key).await?.kind != SnapshotKind::Active {
        return Err(op.invalid("it is not active"));
    }
    let mounts = snapshots.mounts(key).await?;
    let mut layers = active_layers(op, &mounts)?;
    let work = mounts.iter().find_map(|mount| mount.option("workdir="));
    match (layers.pop(), work) {
        (Some(upper), Some(work)) => Ok((layers, upper, PathBuf::from(work))),
        _ => Err(op.invalid("it is not active")),
    }
}

/// Opens a snapshot where nobody else sees it.
pub(crate) async fn open(
    snapshots: &ContainerdSnapshots,
    op: &Op,
    lease: &LeaseId,
    key: &SnapshotKey,
    access: Access,
) -> Result<Box<dyn Tree>> {
    let (layers, writable) = match access {
        Access::Read => (layers(snapshots, op, lease, key).await?, None),
        Access::Write => {
            let (below, upper, work) = writable(snapshots, op, key).await?;
            (below, Some((upper, work)))
        }
    };
    let mounted = tokio::task::spawn_blocking(move || match writable {
        None => PrivateMount::read_only(&layers),
        Some((upper, work)) => PrivateMount::writable(&layers, &upper, &work),
    });
    let mounted = mounted
        .await
        .map_err(|error| op.fail_with(ErrorKind::Internal, "mounting broke off", error))?;
    let mount = mounted
        .map_err(|error| op.fail_with(ErrorKind::Internal, "it cannot be mounted", error))?;
    Ok(Box::new(Mounted(mount)))
}

struct Mounted(PrivateMount);

impl Tree for Mounted {
    fn root(&self) -> BorrowedFd<'_> {
        self.0.root()
    }

    fn close(self: Box<Self>) -> io::Result<()> {
        self.0.close().map_err(|error| match error.is_disk_full() {
            true => io::Error::new(io::ErrorKind::StorageFull, error),
            false => io::Error::other(error),
        })
    }
}
