//! Steps on snapshots that a larger step of ours is made of: views, snapshots under work, what they are
//! made of. All under the lease of the operation, by which they go when it is cut off.

use crate::client::Client;
use crate::op::Op;
use botstead_runtime::{ErrorKind, Result, SnapshotMount};
use botstead_types::{LeaseId, SnapshotKey};
use containerd_client::services::v1::snapshots::{
    CommitSnapshotRequest, Info, Kind, PrepareSnapshotRequest, RemoveSnapshotRequest,
    StatSnapshotRequest, ViewSnapshotRequest,
};
use containerd_client::types::Mount;
use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use tonic::{Code, Status};

/// The label by which containerd's collector keeps a snapshot without anything naming it.
pub(crate) const GC_ROOT: &str = "containerd.io/gc.root";
/// Labels that steer the collector are this adapter's alone.
pub(crate) const GC: &str = "containerd.io/gc.";

/// So are those of [`commits`](crate::commits).
pub(crate) const COMMIT: &str = "botstead.commit.";

/// The labels that a caller gives, without those that steer the collector.
pub(crate) fn given(labels: &BTreeMap<String, String>) -> HashMap<String, String> {
    labels
        .iter()
        .filter(|(key, _)| !key.starts_with(GC))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}

/// The same with the one that protects the snapshot.
pub(crate) fn rooted(labels: &BTreeMap<String, String>) -> HashMap<String, String> {
    let mut labels = given(labels);
    labels.insert(GC_ROOT.to_owned(), "botstead".to_owned());
    labels
}

/// What containerd knows of a snapshot, if there is one.
pub(crate) async fn stat(client: &Client, key: &str) -> Result<Option<Info>, Status> {
    let request = StatSnapshotRequest {
        snapshotter: client.snapshotter.clone(),
        key: key.to_owned(),
    };
    match client.snapshots().stat(client.unary(request)).await {
        Ok(found) => Ok(found.into_inner().info),
        Err(status) if status.code() == Code::NotFound => Ok(None),
        Err(status) => Err(status),
    }
}

/// The operation under way, its lease and the connection.
pub(crate) struct Leased<'a> {
    pub(crate) client: &'a Client,
    pub(crate) op: &'a Op,
    pub(crate) lease: &'a LeaseId,
}

impl Leased<'_> {
    /// Whether a committed snapshot of that name exists.
    pub(crate) async fn is_committed(&self, name: &str) -> Result<bool> {
        let found = stat(self.client, name).await;
        let found = found.map_err(|status| self.op.status(status))?;
        Ok(found.is_some_and(|info| info.kind() == Kind::Committed))
    }

    /// The directories of a committed snapshot and its parents, from the bottom up.
    pub(crate) async fn view(&self, key: &str, of: &SnapshotKey) -> Result<Vec<PathBuf>> {
        let view = || ViewSnapshotRequest {
            snapshotter: self.client.snapshotter.clone(),
            key: key.to_owned(),
            parent: of.as_str().to_owned(),
            labels: HashMap::new(),
        };
        let mut service = self.client.snapshots();
        let request = self
            .client
            .leased(self.op, self.lease, self.client.unary(view()))?;
        let mut viewed = service.view(request).await;
        if matches!(&viewed, Err(status) if status.code() == Code::AlreadyExists) {
            // Of an attempt that was cut off.
            self.remove(key).await;
            let request = self
                .client
                .leased(self.op, self.lease, self.client.unary(view()))?;
            viewed = service.view(request).await;
        }
        let viewed = viewed.map_err(|status| self.op.status(status))?;
        let mounts = viewed.into_inner().mounts;
        let mounts: Vec<_> = mounts.into_iter().map(as_mount).collect();
        directories(&mounts).ok_or_else(|| {
            self.op.fail(
                ErrorKind::Unsupported,
                "the snapshotter has no overlay layers that can be merged",
            )
        })
    }

    /// Prepares a snapshot to be filled and returns its upper directory.
    pub(crate) async fn prepare(&self, key: &str, base: Option<&SnapshotKey>) -> Result<PathBuf> {
        let prepare = || PrepareSnapshotRequest {
            snapshotter: self.client.snapshotter.clone(),
            key: key.to_owned(),
            parent: base.map_or_else(String::new, |base| base.as_str().to_owned()),
            labels: HashMap::new(),
        };
        let mut service = self.client.snapshots();
        let request = self
            .client
            .leased(self.op, self.lease, self.client.unary(prepare()))?;
        let mut prepared = service.prepare(request).await;
        if matches!(&prepared, Err(status) if status.code() == Code::AlreadyExists) {
            // Of an attempt that was cut off, with who knows what in it.
            self.remove(key).await;
            let request = self
                .client
                .leased(self.op, self.lease, self.client.unary(prepare()))?;
            prepared = service.prepare(request).await;
        }
        let prepared = prepared.map_err(|status| self.op.status(status))?;
        let mut mounts = prepared.into_inner().mounts.into_iter().map(as_mount);
        let upper = mounts.find_map(|mount| mount.upper_dir());
        upper.ok_or_else(|| {
            let reason = "the snapshotter tells no upper directory";
            self.op.fail(ErrorKind::Unsupported, reason)
        })
    }

    /// Commits a snapshot; it is protected from that moment on. `AlreadyExists` where there is one of that
    /// name.
    pub(crate) async fn commit_new(
        &self,
        key: &str,
        name: &SnapshotKey,
        labels: &BTreeMap<String, String>,
    ) -> Result<()> {
        let commit = CommitSnapshotRequest {
            snapshotter: self.client.snapshotter.clone(),
            name: name.as_str().to_owned(),
            key: key.to_owned(),
            labels: rooted(labels),
        };
        let request = self.client.walk(commit);
        let request = self.client.leased(self.op, self.lease, request)?;
        let committed = self.client.snapshots().commit(request).await;
        committed.map(drop).map_err(|status| self.op.status(status))
    }

    /// Removes what was under work. Best effort: it goes with the lease.
    pub(crate) async fn remove(&self, key: &str) {
        let remove = RemoveSnapshotRequest {
            snapshotter: self.client.snapshotter.clone(),
            key: key.to_owned(),
        };
        let request = self.client.unary(remove);
        if let Err(status) = self.client.snapshots().remove(request).await {
            // It may never have been made; else it goes with the lease.
            tracing::debug!(key, %status, "a snapshot under work was not removed");
        }
    }
}

/// A mount as the port has it.
pub(crate) fn as_mount(mount: Mount) -> SnapshotMount {
    SnapshotMount {
        kind: mount.r#type,
        source: mount.source,
        options: mount.options,
    }
}

pub(crate) fn to_mount(mount: &SnapshotMount) -> Mount {
    Mount {
        r#type: mount.kind.clone(),
        source: mount.source.clone(),
        target: String::new(),
        options: mount.options.clone(),
    }
}

/// The lower directories of an overlay, from the bottom up.
pub(crate) fn lower_directories(mount: &SnapshotMount) -> Option<Vec<PathBuf>> {
    let lower = mount.option("lowerdir=")?;
    Some(lower.rsplit(':').map(PathBuf::from).collect())
}

/// The layers of a view, from the bottom up: an overlay of several, or a bind mount of the only one.
/// None for anything else, also for overlays whose marks are attributes of users.
fn directories(mounts: &[SnapshotMount]) -> Option<Vec<PathBuf>> {
    let [mount] = mounts else {
        return None;
    };
    match mount.kind.as_str() {
        "bind" => Some(vec![PathBuf::from(&mount.source)]),
        "overlay" if !mount.options.iter().any(|option| option == "userxattr") => {
            lower_directories(mount)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(kind: &str, source: &str, options: &[&str]) -> SnapshotMount {
        SnapshotMount {
            kind: kind.to_owned(),
            source: source.to_owned(),
            options: options.iter().map(ToString::to_string).collect(),
        }
    }

    #[test]
    fn layers_are_read_from_the_bottom_up() {
        let one = mount("bind", "/s/1/fs", &["ro", "rbind"]);
        assert_eq!(directories(&[one]), Some(vec!["/s/1/fs".into()]));
        let two = mount(
            "overlay",
            "overlay",
            &["index=off", "lowerdir=/s/2/fs:/s/1/fs"],
        );
        let expected = vec!["/s/1/fs".into(), "/s/2/fs".into()];
        assert_eq!(directories(std::slice::from_ref(&two)), Some(expected));
        let user = mount(
            "overlay",
            "overlay",
            &["userxattr", "lowerdir=/s/2/fs:/s/1/fs"],
        );
        assert_eq!(directories(&[user]), None);
        assert_eq!(directories(&[two.clone(), two]), None);
        assert_eq!(directories(&[mount("ext4", "/dev/loop0", &[])]), None);
    }
}
