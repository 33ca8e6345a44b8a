//! Committing a snapshot whose files are nowhere else.
//!
//! containerd commits in two databases, first in its snapshotter's and then in its own. Where it dies in
//! between, it finds the snapshot under neither name any more, and its next collection removes the files.
//! So an empty snapshot is committed under the name, the two exchange their directories, and the emptied one
//! is removed, which is one step. Before the removal is asked for, a failure exchanges them again; from then
//! on there is only forward, as containerd may still do what it did not answer. What a process leaves
//! half-way the next one ends in the same sense, see [`settle_all`]. No directory with files is removed.

use crate::client::Client;
use crate::layers::{Leased, as_mount, stat};
use crate::op::{Op, blocking};
use botstead_runtime::{Error, ErrorKind, Result, SnapshotMount, SnapshotUsage};
use botstead_types::SnapshotKey;
use containerd_client::services::v1::snapshots::{
    Info, Kind, ListSnapshotsRequest, MountsRequest, RemoveSnapshotRequest, UpdateSnapshotRequest,
};
use nix::libc::{EINVAL, ENOSYS, EXDEV};
use prost_types::FieldMask;
use rustix::fs::{CWD, RenameFlags, renameat_with};
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tonic::{Code, Status};

/// Which snapshot one gets its files from; gone once it has them.
const OF: &str = "botstead.commit.of";
/// The directory of one that was committed empty, beside that of the other.
const DIRECTORY: &str = "botstead.commit.directory";
/// The inode of the directory that it gets.
const INODE: &str = "botstead.commit.inode";
/// What containerd would have measured.
const SIZE: &str = "botstead.commit.size";
const INODES: &str = "botstead.commit.inodes";

/// How often containerd is asked again what became of it.
const AGAIN: Duration = Duration::from_millis(200);
/// How long a start waits for it. What is lost by not starting is less than what a start could lose.
const PATIENCE: Duration = Duration::from_secs(180);

/// What became of a committed snapshot that was found.
#[derive(PartialEq)]
enum Settled {
    /// It is whole.
    Whole,
    /// It never got its files, and is removed.
    Removed,
}

/// Whether a snapshot was committed and waits for its files, or may do so.
pub(crate) fn is_half_way(labels: &HashMap<String, String>) -> bool {
    labels.contains_key(OF)
}

/// An active snapshot, and where its files are.
pub(crate) struct Source<'a> {
    pub(crate) key: &'a str,
    pub(crate) parent: Option<&'a SnapshotKey>,
    pub(crate) upper: PathBuf,
    pub(crate) usage: SnapshotUsage,
}

/// Whether containerd failed on a file whose path is longer than a system call takes: it measures a snapshot
/// by absolute names.
pub(crate) fn is_too_deep(failed: &Error) -> bool {
    failed.chain().contains("file name too long")
}

/// What a directory occupies, of any depth.
pub(crate) async fn measure(op: &Op, directory: PathBuf) -> Result<SnapshotUsage> {
    let measured = blocking(move || Ok(botstead_overlay::measure(File::open(directory)?)?)).await;
    let measured = measured.map_err(|cause| op.io("its files cannot be measured", cause))?;
    Ok(SnapshotUsage {
        size_bytes: measured.bytes,
        inodes: measured.inodes,
    })
}

/// Commits a snapshot that was filled here; it is protected from that moment on. Where there is one of that
/// name, that is what was wanted.
pub(crate) async fn commit_filled(
    leased: &Leased<'_>,
    (key, upper): (&str, PathBuf),
    parent: Option<&SnapshotKey>,
    name: &SnapshotKey,
    labels: &BTreeMap<String, String>,
) -> Result<()> {
    let committed = match leased.commit_new(key, name, labels).await {
        Err(error) if is_too_deep(&error) => {
            let source = Source {
                key,
                parent,
                usage: measure(leased.op, upper.clone()).await?,
                upper,
            };
            commit(leased, source, name, labels).await
        }
        committed => committed,
    };
    match committed {
        Err(error) if error.is_already_exists() => {
            leased.remove(key).await;
            Ok(())
        }
        committed => committed,
    }
}

/// Makes the source the committed snapshot `name`.
///
/// # Errors
/// `AlreadyExists` when there is one of that name; `Unsupported` where the filesystem cannot exchange two
/// directories. After any error the source is as it was.
pub(crate) async fn commit(
    leased: &Leased<'_>,
    source: Source<'_>,
    name: &SnapshotKey,
    labels: &BTreeMap<String, String>,
) -> Result<()> {
    let Leased { client, op, .. } = leased;
    let there = stat(client, name.as_str()).await;
    if let Some(there) = there.map_err(|status| op.status(status))?
        && settle(client, op, &there).await? == Settled::Whole
    {
        return Err(op.fail(ErrorKind::AlreadyExists, "there is one of that name"));
    }
    let work = format!("{name}-committing");
    let empty = leased.prepare(&work, source.parent).await?;
    let directory = empty.parent().and_then(Path::file_name);
    let directory = directory.and_then(|name| name.to_str());
    let directory =
        directory.ok_or_else(|| op.fail(ErrorKind::Unsupported, "its directory has no name"))?;
    let inode = inode_of(&source.upper)
        .await
        .map_err(|cause| op.io("its directory cannot be looked at", cause))?;
    let mut labels = labels.clone();
    for (label, value) in [
        (OF, source.key.to_string()),
        (INODE, inode.to_string()),
        (DIRECTORY, directory.to_owned()),
        (SIZE, source.usage.size_bytes.to_string()),
        (INODES, source.usage.inodes.to_string()),
    ] {
        labels.insert(label.to_owned(), value);
    }
    if let Err(error) = leased.commit_new(&work, name, &labels).await {
        // It may have taken effect all the same.
        if let Ok(Some(there)) = stat(client, name.as_str()).await {
            settle(client, op, &there).await?;
        }
        return Err(error);
    }
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
    if let Err(cause) = blocking(move || exchange(&upper, &empty)).await {
        let reason = "the directories cannot be exchanged";
        let failed = match cause.raw_os_error() {
            Some(EINVAL | ENOSYS | EXDEV) => op.fail_with(ErrorKind::Unsupported, reason, cause),
            _ => op.io(reason, cause),
        };
        let _ = remove(&client, &name).await;
        return Err(failed);
    }
    let mut is_said = false;
    while let Err(status) = remove(&client, &key).await {
        if !is_said {
            tracing::warn!(snapshot = key, error = %status, "waiting for containerd to end a commit");
            is_said = true;
        }
        tokio::time::sleep(AGAIN).await;
    }
    // Otherwise the next process does.
    let _ = clear_labels(&client, &name).await;
    Ok(())
}

/// Ends what processes before this one left half-way: nothing may be looked at before.
///
/// # Errors
/// When it cannot be told where the files of one are, or containerd does not end it for long.
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
    let until = Instant::now() + PATIENCE;
    for info in all {
        while let Err(error) = settle(client, &op, &info).await {
            if Instant::now() > until {
                return Err(error);
            }
            tracing::warn!(snapshot = info.name, error = %error.chain(),
                "a commit that was cut off cannot be ended yet");
            tokio::time::sleep(AGAIN * 5).await;
        }
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
    let upper = upper(client, of).await.map_err(refused)?;
    let upper = upper.ok_or_else(|| op.fail(ErrorKind::Internal, "it has no upper directory"))?;
    let beside = upper.parent().and_then(Path::parent);
    let beside = beside.ok_or_else(|| op.fail(ErrorKind::Internal, "its directory has none"))?;
    let other = beside.join(directory).join("fs");
    let inode = found.labels.get(INODE).and_then(|text| text.parse().ok());
    let has_files = blocking(move || has_files(&upper, &other, inode)).await;
    let has_files =
        has_files.map_err(|cause| op.io("its directories cannot be looked at", cause))?;
    match has_files {
        HasFiles::Active => {
            tracing::info!(snapshot = of, "undoing a commit that was cut off");
            // It is empty, and is told to nobody as long as it is there.
            if let Err(error) = remove(client, &found.name).await {
                tracing::warn!(snapshot = found.name, %error, "an empty snapshot cannot be removed");
            }
            Ok(Settled::Removed)
        }
        HasFiles::Committed => {
            tracing::info!(snapshot = of, "ending a commit that was cut off");
            remove(client, of).await.map_err(refused)?;
            clear_labels(client, &found.name).await.map_err(refused)?;
            Ok(Settled::Whole)
        }
        HasFiles::Both => {
            tracing::warn!(
                snapshot = of,
                version = found.name,
                "a commit was cut off and both have files; both are kept"
            );
            clear_labels(client, &found.name).await.map_err(refused)?;
            Ok(Settled::Whole)
        }
    }
}

/// Where the files are of a commit that was cut off.
#[derive(Debug, PartialEq)]
enum HasFiles {
    Active,
    Committed,
    Both,
}

/// `inode` is that of the directory with the files; processes before this release did not note it. What is
/// found is on the disk.
fn has_files(upper: &Path, other: &Path, inode: Option<u64>) -> io::Result<HasFiles> {
    if !other.try_exists()? {
        // What the labels say is not so: nothing is done to either.
        return Ok(HasFiles::Both);
    }
    let is_exchanged = match inode {
        Some(inode) => other.metadata()?.ino() == inode,
        None => is_empty(upper)? && !is_empty(other)?,
    };
    Ok(match is_exchanged {
        true if is_empty(upper)? => {
            sync(&parents(upper, other)?)?;
            HasFiles::Committed
        }
        false if is_empty(other)? => HasFiles::Active,
        _ => HasFiles::Both,
    })
}

fn is_empty(directory: &Path) -> io::Result<bool> {
    Ok(std::fs::read_dir(directory)?.next().is_none())
}

async fn inode_of(directory: &Path) -> io::Result<u64> {
    Ok(tokio::fs::metadata(directory).await?.ino())
}

/// In one step, and on the disk before anything else is. After an error they are as they were.
fn exchange(one: &Path, other: &Path) -> io::Result<()> {
    let parents = parents(one, other)?;
    let exchange = || renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE);
    exchange()?;
    let Err(failed) = sync(&parents) else {
        return Ok(());
    };
    // A change of names needs no more room on the disk than the one before it.
    while let Err(error) = exchange() {
        tracing::error!(%error, "the directories of a commit cannot be exchanged back");
        std::thread::sleep(AGAIN);
    }
    Err(failed)
}

fn parents(one: &Path, other: &Path) -> io::Result<[File; 2]> {
    let parent = |directory: &Path| File::open(directory.parent().unwrap_or(directory));
    Ok([parent(one)?, parent(other)?])
}

fn sync(parents: &[File]) -> io::Result<()> {
    parents.iter().try_for_each(File::sync_all)
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
            paths: [OF, DIRECTORY, INODE]
                .map(|label| format!("labels.{label}"))
                .to_vec(),
        }),
    };
    client.snapshots().update(client.unary(request)).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn files_are_found_wherever_a_commit_was_cut_off() {
        let folder = tempfile::tempdir().unwrap();
        let [upper, other] = ["1/fs", "2/fs"].map(|path| folder.path().join(path));
        for directory in [&upper, &other] {
            fs::create_dir_all(directory).unwrap();
        }
        let inode = Some(upper.metadata().unwrap().ino());
        // Empty ones are told apart by what was noted.
        assert_eq!(has_files(&upper, &other, inode).unwrap(), HasFiles::Active);
        fs::write(upper.join("kept"), "kept").unwrap();
        for inode in [inode, None] {
            assert_eq!(has_files(&upper, &other, inode).unwrap(), HasFiles::Active);
            exchange(&upper, &other).unwrap();
            assert_eq!(
                has_files(&upper, &other, inode).unwrap(),
                HasFiles::Committed
            );
            exchange(&upper, &other).unwrap();
        }
        for directory in [&upper, &other] {
            fs::write(directory.join("more"), "").unwrap();
        }
        for inode in [inode, None, Some(0)] {
            assert_eq!(has_files(&upper, &other, inode).unwrap(), HasFiles::Both);
        }
        fs::remove_dir_all(&other).unwrap();
        assert_eq!(has_files(&upper, &other, None).unwrap(), HasFiles::Both);
        assert!(exchange(&upper, &other).is_err());
        assert!(upper.join("kept").exists());
    }
}
