//! Committing a snapshot whose files are nowhere else.
//!
//! containerd commits in two databases, first in its snapshotter's and then in its own. Where it dies in
//! between, it finds the snapshot under neither name any more, and its next collection removes the files.
//! So an empty snapshot is committed under the name, the two change their directories, and the emptied one
//! is removed, which is one step. Where that does not come about they change back, at the latest before
//! the next process looks at any: [`settle_all`].

use crate::client::Client;
use crate::layers::{Leased, as_mount, stat};
use crate::op::{Op, blocking};
use botstead_runtime::{ErrorKind, Result, SnapshotMount, SnapshotUsage};
use botstead_types::SnapshotKey;
use containerd_client::services::v1::snapshots::{
    Info, Kind, ListSnapshotsRequest, MountsRequest, RemoveSnapshotRequest, UpdateSnapshotRequest,
};
use nix::libc::{EINVAL, ENOSYS};
use prost_types::FieldMask;
use rustix::fs::{CWD, RenameFlags, renameat_with};
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tonic::{Code, Status};

/// Which snapshot one gets its files from; gone once it has them.
const OF: &str = "botstead.commit.of";
/// The directory of one that was committed empty, beside that of the other.
const DIRECTORY: &str = "botstead.commit.directory";
/// What containerd would have measured.
const SIZE: &str = "botstead.commit.size";
const INODES: &str = "botstead.commit.inodes";

/// How often containerd is asked again what became of it.
const AGAIN: Duration = Duration::from_millis(200);

/// What became of a committed snapshot that was found.
enum Settled {
    /// It is whole.
    Whole,
    /// It never got its files, and is removed.
    Removed,
}

/// An active snapshot, and where its files are.
pub(crate) struct Source<'a> {
    pub(crate) key: &'a SnapshotKey,
    pub(crate) parent: Option<&'a SnapshotKey>,
    pub(crate) upper: PathBuf,
    pub(crate) usage: SnapshotUsage,
}

/// Makes the source the committed snapshot `name`.
///
/// # Errors
/// `AlreadyExists` when there is one of that name; `Unsupported` where the filesystem cannot exchange two
/// directories. After any error the source is as it was, or is so after [`settle_all`].
pub(crate) async fn commit(
    leased: &Leased<'_>,
    source: Source<'_>,
    name: &SnapshotKey,
    labels: &BTreeMap<String, String>,
) -> Result<()> {
    let Leased { client, op, .. } = leased;
    let there = stat(client, name.as_str()).await;
    if let Some(there) = there.map_err(|status| op.status(status))?
        && matches!(settle(client, op, &there).await?, Settled::Whole)
    {
        return Err(op.fail(ErrorKind::AlreadyExists, "there is one of that name"));
    }
    let work = format!("{name}-committing");
    let empty = leased.prepare(&work, source.parent).await?;
    let directory = empty.parent().and_then(Path::file_name);
    let directory = directory.and_then(|name| name.to_str());
    let directory =
        directory.ok_or_else(|| op.fail(ErrorKind::Unsupported, "its directory has no name"))?;
    let mut labels = labels.clone();
    for (label, value) in [
        (OF, source.key.to_string()),
        (DIRECTORY, directory.to_owned()),
        (SIZE, source.usage.size_bytes.to_string()),
        (INODES, source.usage.inodes.to_string()),
    ] {
        labels.insert(label.to_owned(), value);
    }
    leased.commit_new(&work, name, &labels).await?;
    // From here to the end, whoever listens.
    let finish = finish(
        (*client).clone(),
        (*op).clone(),
        (source.key.to_string(), source.upper),
        (name.to_string(), empty),
    );
    let finished = tokio::spawn(finish).await;
    finished.unwrap_or_else(|cause| {
        Err(op.fail_with(ErrorKind::Internal, "committing broke off", cause))
    })
}

async fn finish(
    client: Client,
    op: Op,
    (key, upper): (String, PathBuf),
    (name, empty): (String, PathBuf),
) -> Result<()> {
    let (own, other) = (upper.clone(), empty.clone());
    let exchanged = blocking(move || exchange(&own, &other)).await;
    let mut failed = exchanged.err().map(|cause| {
        let reason = "the directories cannot be exchanged";
        match cause.raw_os_error() {
            Some(EINVAL | ENOSYS) => op.fail_with(ErrorKind::Unsupported, reason, cause),
            _ => op.io(reason, cause),
        }
    });
    let mut is_said = false;
    while failed.is_none() {
        let Err(status) = remove(&client, &key).await else {
            break;
        };
        match stat(&client, &key).await {
            Ok(None) => break,
            Ok(Some(_)) => failed = Some(op.status(status)),
            Err(status) => {
                if !is_said {
                    tracing::warn!(snapshot = key, error = %status,
                        "waiting for containerd to tell whether a snapshot is committed");
                    is_said = true;
                }
                tokio::time::sleep(AGAIN).await;
            }
        }
    }
    match failed {
        None => {
            // Otherwise the next process does.
            let _ = clear_labels(&client, &name).await;
            Ok(())
        }
        Some(failed) => {
            put_back(&op, upper, empty).await?;
            let _ = remove(&client, &name).await;
            Err(failed)
        }
    }
}

/// Settles what processes before this one left half-way.
pub(crate) async fn settle_all(client: &Client) -> Result<()> {
    let op = Op::new("settle", "commits");
    let request = ListSnapshotsRequest {
        snapshotter: client.snapshotter.clone(),
        filters: vec![format!("labels.{OF:?}")],
    };
    let mut service = client.snapshots();
    let listed = service.list(client.unary(request)).await;
    let mut parts = listed.map_err(|status| op.status(status))?.into_inner();
    let mut all = Vec::new();
    while let Some(part) = parts.message().await.map_err(|status| op.status(status))? {
        all.extend(part.info);
    }
    for info in all {
        settle(client, &op, &info).await?;
    }
    Ok(())
}

async fn settle(client: &Client, op: &Op, found: &Info) -> Result<Settled> {
    let (Some(of), Some(directory)) = (found.labels.get(OF), found.labels.get(DIRECTORY)) else {
        return Ok(Settled::Whole);
    };
    let refused = |status| op.status(status);
    if found.kind() != Kind::Committed || stat(client, of).await.map_err(refused)?.is_none() {
        clear_labels(client, &found.name).await.map_err(refused)?;
        return Ok(Settled::Whole);
    }
    tracing::info!(snapshot = of, "undoing a commit that was cut off");
    let upper = upper(client, of).await.map_err(refused)?;
    let upper = upper.ok_or_else(|| op.fail(ErrorKind::Internal, "it has no upper directory"))?;
    let beside = upper.parent().and_then(Path::parent);
    let beside = beside.ok_or_else(|| op.fail(ErrorKind::Internal, "its directory has none"))?;
    let other = beside.join(directory).join("fs");
    put_back(op, upper, other).await?;
    remove(client, &found.name).await.map_err(refused)?;
    Ok(Settled::Removed)
}

/// Gives the active snapshot its files again, where the other one has them.
async fn put_back(op: &Op, upper: PathBuf, other: PathBuf) -> Result<()> {
    let done = blocking(move || match is_empty(&upper)? && !is_empty(&other)? {
        true => exchange(&upper, &other),
        false => Ok(()),
    });
    done.await
        .map_err(|cause| op.io("the directories cannot be exchanged back", cause))
}

fn is_empty(directory: &Path) -> io::Result<bool> {
    Ok(std::fs::read_dir(directory)?.next().is_none())
}

/// In one step, and on the disk before anything else is.
fn exchange(one: &Path, other: &Path) -> io::Result<()> {
    renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE)?;
    for directory in [one, other] {
        let parent = directory.parent().unwrap_or(directory);
        File::open(parent)?.sync_all()?;
    }
    Ok(())
}

/// What a snapshot that was committed here occupies.
pub(crate) fn usage(info: &Info) -> Option<SnapshotUsage> {
    let number = |label: &str| info.labels.get(label)?.parse().ok();
    Some(SnapshotUsage {
        size_bytes: number(SIZE)?,
        inodes: number(INODES)?,
    })
}

pub(crate) async fn upper(client: &Client, key: &str) -> Result<Option<PathBuf>, Status> {
    let request = MountsRequest {
        snapshotter: client.snapshotter.clone(),
        key: key.to_owned(),
    };
    let mounts = client.snapshots().mounts(client.unary(request)).await?;
    let mut mounts = mounts.into_inner().mounts.into_iter().map(as_mount);
    Ok(mounts.find_map(|mount: SnapshotMount| mount.upper_dir()))
}

async fn remove(client: &Client, key: &str) -> Result<(), Status> {
    let request = RemoveSnapshotRequest {
        snapshotter: client.snapshotter.clone(),
        key: key.to_owned(),
    };
    match client.snapshots().remove(client.unary(request)).await {
        Err(status) if status.code() != Code::NotFound => Err(status),
        _ => Ok(()),
    }
}

/// Takes away what tells of a commit under way.
async fn clear_labels(client: &Client, name: &str) -> Result<(), Status> {
    let request = UpdateSnapshotRequest {
        snapshotter: client.snapshotter.clone(),
        info: Some(Info {
            name: name.to_owned(),
            labels: HashMap::new(),
            ..Info::default()
        }),
        update_mask: Some(FieldMask {
            paths: [OF, DIRECTORY]
                .map(|label| format!("labels.{label}"))
                .to_vec(),
        }),
    };
    client.snapshots().update(client.unary(request)).await?;
    Ok(())
}
