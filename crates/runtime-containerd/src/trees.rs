//! Opening the files of snapshots on this host, by private mounts of their layers.

use crate::layers::Leased;
use crate::op::Op;
use crate::snapshots::ContainerdSnapshots;
use botstead_overlay::PrivateMount;
use botstead_runtime::{Access, ErrorKind, Result, Snapshots, Tree};
use botstead_types::{LeaseId, SnapshotKey, SnapshotKind};
use std::io;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use uuid::Uuid;

/// The directories of a snapshot's layers, from the bottom up.
pub(crate) async fn layers(
    snapshots: &ContainerdSnapshots,
    op: &Op,
    lease: &LeaseId,
    key: &SnapshotKey,
) -> Result<Vec<PathBuf>> {
    let found = snapshots.get(key).await?;
    if found.kind == SnapshotKind::Active {
        let mounts = snapshots.mounts(key).await?;
        let [mount] = mounts.as_slice() else {
            return Err(no_layers(op));
        };
        let Some(upper) = mount.upper_dir() else {
            return Ok(vec![PathBuf::from(&mount.source)]);
        };
        let lower = mount
            .options
            .iter()
            .find_map(|o| o.strip_prefix("lowerdir="));
        let lower = lower.ok_or_else(|| no_layers(op))?;
        let mut layers: Vec<PathBuf> = lower.rsplit(':').map(PathBuf::from).collect();
        layers.push(upper);
        return Ok(layers);
    }
    let leased = Leased {
        client: &snapshots.client,
        op,
        lease,
    };
    // Of its own, so that two who look at one snapshot do not meet.
    let view = format!("view-{}", Uuid::now_v7());
    let layers = leased.view(&view, key).await;
    leased.remove(&view).await;
    layers
}

fn no_layers(op: &Op) -> botstead_runtime::Error {
    op.fail(
        ErrorKind::Unsupported,
        "the snapshotter has no directories that can be looked into",
    )
}

/// Opens a snapshot where nobody else sees it.
pub(crate) async fn open(
    snapshots: &ContainerdSnapshots,
    op: &Op,
    lease: &LeaseId,
    key: &SnapshotKey,
    access: Access,
) -> Result<Box<dyn Tree>> {
    if access == Access::Write && snapshots.get(key).await?.kind != SnapshotKind::Active {
        return Err(op.invalid("it is not active"));
    }
    let mut layers = layers(snapshots, op, lease, key).await?;
    let mut writable = None;
    if access == Access::Write {
        let mounts = snapshots.mounts(key).await?;
        let work = mounts
            .iter()
            .flat_map(|mount| &mount.options)
            .find_map(|option| option.strip_prefix("workdir="));
        let (Some(work), Some(upper)) = (work, layers.pop()) else {
            return Err(op.invalid("it is not active"));
        };
        writable = Some((upper, PathBuf::from(work)));
    }
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
        self.0.close().map_err(io::Error::other)
    }
}
