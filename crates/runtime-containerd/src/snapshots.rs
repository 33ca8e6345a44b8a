//! Snapshots, and what protects the committed ones.

use crate::client::{Client, error, time};
use crate::commits::{self, Source};
use crate::copies::Copies;
use crate::flatten::flatten;
use crate::layers::{COMMIT, GC, GC_ROOT, Leased, as_mount, given, rooted, stat};
use crate::op::Op;
use crate::trees;
use async_trait::async_trait;
use botstead_runtime::{
    Access, CopyReport, ErrorKind, Result, Snapshot, SnapshotCopy, SnapshotMount, SnapshotUsage,
    Snapshots, Tree,
};
use botstead_types::{LeaseId, SnapshotKey, SnapshotKind};
use containerd_client::services::v1::snapshots::{
    Info, Kind, ListSnapshotsRequest, MountsRequest, PrepareSnapshotRequest, RemoveSnapshotRequest,
    StatSnapshotRequest, UpdateSnapshotRequest, UsageRequest,
};
use prost_types::FieldMask;
use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use tokio_util::sync::CancellationToken;

/// The [`Snapshots`] of a namespace's snapshotter.
///
/// Every snapshot gets [`GC_ROOT`] in the very call that makes it: a version must outlive the chain that
/// it was on, and an active one its container, should that be removed behind our back.
#[derive(Debug)]
pub(crate) struct ContainerdSnapshots {
    pub(crate) client: Client,
    pub(crate) copies: Copies,
}

fn snapshot(op: &Op, info: Info) -> Result<Snapshot> {
    let name = |name: String| {
        SnapshotKey::try_from(name)
            .map_err(|cause| op.fail_with(ErrorKind::Internal, "it has no right name", cause))
    };
    Ok(Snapshot {
        kind: match info.kind() {
            Kind::Committed => SnapshotKind::Committed,
            Kind::View => SnapshotKind::View,
            Kind::Active | Kind::Unknown => SnapshotKind::Active,
        },
        parent: match info.parent.is_empty() {
            true => None,
            false => Some(name(info.parent)?),
        },
        key: name(info.name)?,
        rooted: info.labels.contains_key(GC_ROOT),
        labels: info
            .labels
            .into_iter()
            .filter(|(key, _)| !key.starts_with(GC) && !key.starts_with(COMMIT))
            .collect(),
        created_at: time(info.created_at),
        updated_at: time(info.updated_at),
    })
}

impl ContainerdSnapshots {
    fn snapshotter(&self) -> String {
        self.client.snapshotter.clone()
    }

    async fn filtered(&self, filters: Vec<String>) -> Result<Vec<Snapshot>> {
        let op = Op::new("list", "snapshots");
        let request = ListSnapshotsRequest {
            snapshotter: self.snapshotter(),
            filters,
        };
        let mut service = self.client.snapshots();
        let parts = service.list(self.client.request(request));
        let mut parts = parts
            .await
            .map_err(|status| op.status(status))?
            .into_inner();
        let mut all = Vec::new();
        while let Some(part) = parts.message().await.map_err(|status| op.status(status))? {
            // One whose files have not come is none yet.
            let whole = part.info.into_iter();
            for info in whole.filter(|info| !commits::is_half_way(&info.labels)) {
                all.push(snapshot(&op, info)?);
            }
        }
        Ok(all)
    }

    /// Changes just these labels; those without a new value are removed.
    async fn relabel(
        &self,
        key: &SnapshotKey,
        changed: impl Iterator<Item = String>,
        labels: HashMap<String, String>,
    ) -> Result<(), tonic::Status> {
        let request = UpdateSnapshotRequest {
            snapshotter: self.snapshotter(),
            info: Some(Info {
                name: key.as_str().to_owned(),
                labels,
                ..Info::default()
            }),
            update_mask: Some(FieldMask {
                paths: changed.map(|label| format!("labels.{label}")).collect(),
            }),
        };
        let mut client = self.client.snapshots();
        client.update(self.client.unary(request)).await.map(drop)
    }
}

#[async_trait]
impl Snapshots for ContainerdSnapshots {
    async fn settle(&self) -> Result<()> {
        commits::settle_all(&self.client).await
    }

    async fn prepare(
        &self,
        lease: &LeaseId,
        key: &SnapshotKey,
        parent: Option<&SnapshotKey>,
        labels: &BTreeMap<String, String>,
    ) -> Result<Vec<SnapshotMount>> {
        let op = Op::new("prepare snapshot", key);
        let request = PrepareSnapshotRequest {
            snapshotter: self.snapshotter(),
            key: key.as_str().to_owned(),
            parent: parent.map_or_else(String::new, |parent| parent.as_str().to_owned()),
            labels: rooted(labels),
        };
        let request = self.client.leased(&op, lease, self.client.unary(request))?;
        let prepared = self.client.snapshots().prepare(request).await;
        let prepared = prepared.map_err(|status| op.status(status))?;
        let mounts = prepared.into_inner().mounts;
        // The port has no word for a mount that has a place of its own within the others.
        if mounts.iter().any(|mount| !mount.target.is_empty()) {
            return Ok(Vec::new());
        }
        Ok(mounts.into_iter().map(as_mount).collect())
    }

    async fn commit(
        &self,
        lease: &LeaseId,
        key: &SnapshotKey,
        name: &SnapshotKey,
        labels: &BTreeMap<String, String>,
    ) -> Result<()> {
        let op = Op::new("commit snapshot", key);
        let source = self.get(key).await?;
        let leased = Leased {
            client: &self.client,
            op: &op,
            lease,
        };
        let upper = match source.kind {
            SnapshotKind::Active => commits::upper(&self.client, key.as_str()).await,
            SnapshotKind::Committed | SnapshotKind::View => Ok(None),
        };
        // Without one, containerd has the snapshot in another way, and commits it itself.
        let Some(upper) = upper.map_err(|status| op.status(status))? else {
            return leased.commit_new(key.as_str(), name, labels).await;
        };
        let source = Source {
            key: key.as_str(),
            parent: source.parent.as_ref(),
            upper,
            usage: self.usage(key).await?,
        };
        match commits::commit(&leased, source, name, labels).await {
            Err(error) if error.kind() == ErrorKind::Unsupported => {
                tracing::debug!(%name, error = %error.chain(), "containerd commits it itself");
                leased.commit_new(key.as_str(), name, labels).await
            }
            committed => committed,
        }
    }

    async fn get(&self, key: &SnapshotKey) -> Result<Snapshot> {
        let op = Op::new("find snapshot", key);
        let request = StatSnapshotRequest {
            snapshotter: self.snapshotter(),
            key: key.as_str().to_owned(),
        };
        let mut service = self.client.snapshots();
        let found = service.stat(self.client.unary(request));
        let found = found.await.map_err(|status| op.status(status))?;
        let info = found.into_inner().info;
        let info = info.ok_or_else(|| op.fail(ErrorKind::Internal, "containerd told nothing"))?;
        if commits::is_half_way(&info.labels) {
            return Err(op.fail(ErrorKind::Unavailable, "it is being committed"));
        }
        snapshot(&op, info)
    }

    async fn list(&self) -> Result<Vec<Snapshot>> {
        self.filtered(Vec::new()).await
    }

    async fn labelled(&self, label: &str, value: &str) -> Result<Vec<Snapshot>> {
        // containerd's own syntax (its package filters); quoted as a Go string, of which JSON's are
        // some.
        let quoted = |text: &str| serde_json::Value::from(text).to_string();
        let filter = format!("labels.{}=={}", quoted(label), quoted(value));
        self.filtered(vec![filter]).await
    }

    async fn flatten(
        &self,
        lease: &LeaseId,
        source: &SnapshotKey,
        base: &SnapshotKey,
        name: &SnapshotKey,
        labels: &BTreeMap<String, String>,
    ) -> Result<()> {
        let op = Op::new("flatten snapshot", source);
        flatten(&self.client, &op, lease, source, base, name, labels).await
    }

    async fn commit_copy(
        &self,
        lease: &LeaseId,
        copy: &SnapshotCopy,
        cancel: &CancellationToken,
    ) -> Result<CopyReport> {
        let op = Op::new("copy snapshot", &copy.source);
        let source = self.get(&copy.source).await;
        let snapshots = Leased {
            client: &self.client,
            op: &op,
            lease,
        };
        if snapshots.is_committed(copy.name.as_str()).await? {
            return Ok(CopyReport::default());
        }
        let source = source?;
        if source.kind != SnapshotKind::Active {
            return Err(op.fail(ErrorKind::NotFound, "it is not active"));
        }
        let mounts = self.mounts(&copy.source).await?;
        let upper = mounts.iter().find_map(SnapshotMount::upper_dir);
        let upper = upper.ok_or_else(|| {
            op.fail(
                ErrorKind::Unsupported,
                "the snapshotter tells no upper directory",
            )
        })?;
        let estimate = async { Ok(self.usage(&copy.source).await?.size_bytes) };
        self.copies
            .commit(
                &snapshots,
                copy,
                source.parent.as_ref(),
                upper,
                estimate,
                cancel,
            )
            .await
    }

    async fn layers(&self, lease: &LeaseId, key: &SnapshotKey) -> Result<Vec<PathBuf>> {
        let op = Op::new("find layers of", key);
        trees::layers(self, &op, lease, key).await
    }

    async fn open(
        &self,
        lease: &LeaseId,
        key: &SnapshotKey,
        access: Access,
    ) -> Result<Box<dyn Tree>> {
        let op = Op::new("open snapshot", key);
        trees::open(self, &op, lease, key, access).await
    }

    async fn mounts(&self, key: &SnapshotKey) -> Result<Vec<SnapshotMount>> {
        let request = MountsRequest {
            snapshotter: self.snapshotter(),
            key: key.as_str().to_owned(),
        };
        let mut service = self.client.snapshots();
        let mounts = service.mounts(self.client.unary(request));
        let mounts = mounts
            .await
            .map_err(|status| error("find mounts of snapshot", key, status))?;
        let mounts = mounts.into_inner().mounts;
        Ok(mounts.into_iter().map(as_mount).collect())
    }

    async fn usage(&self, key: &SnapshotKey) -> Result<SnapshotUsage> {
        let failed = |status| error("measure snapshot", key, status);
        let found = stat(&self.client, key.as_str()).await.map_err(failed)?;
        if let Some(usage) = found.as_ref().and_then(commits::usage) {
            return Ok(usage);
        }
        // containerd would walk through it by absolute names, and fail where a path is too long or a name
        // goes meanwhile.
        let is_active = found.is_some_and(|found| found.kind() == Kind::Active);
        if is_active {
            let upper = commits::upper(&self.client, key.as_str()).await;
            if let Some(upper) = upper.map_err(failed)? {
                return commits::measure(&Op::new("measure snapshot", key), upper).await;
            }
        }
        let request = UsageRequest {
            snapshotter: self.snapshotter(),
            key: key.as_str().to_owned(),
        };
        let mut service = self.client.snapshots();
        let usage = service.usage(self.client.walk(request));
        let usage = usage.await.map_err(failed)?.into_inner();
        Ok(SnapshotUsage {
            size_bytes: u64::try_from(usage.size).unwrap_or(0),
            inodes: u64::try_from(usage.inodes).unwrap_or(0),
        })
    }

    async fn set_labels(&self, key: &SnapshotKey, labels: &BTreeMap<String, String>) -> Result<()> {
        let old = self.get(key).await?.labels;
        let labels = given(labels);
        // One path per label, never all of them: what protects it stays whatever happens between.
        let changed: std::collections::BTreeSet<String> =
            old.into_keys().chain(labels.keys().cloned()).collect();
        if changed.is_empty() {
            return Ok(());
        }
        self.relabel(key, changed.into_iter(), labels)
            .await
            .map_err(|status| error("label snapshot", key, status))
    }

    async fn remove(&self, key: &SnapshotKey) -> Result<()> {
        let request = RemoveSnapshotRequest {
            snapshotter: self.snapshotter(),
            key: key.as_str().to_owned(),
        };
        let mut service = self.client.snapshots();
        let removed = service.remove(self.client.unary(request));
        removed
            .await
            .map(drop)
            .map_err(|status| error("remove snapshot", key, status))
    }

    async fn release(&self, key: &SnapshotKey) -> Result<()> {
        let label = std::iter::once(GC_ROOT.to_owned());
        match self.relabel(key, label, HashMap::new()).await {
            Err(status) if status.code() != tonic::Code::NotFound => {
                Err(error("release snapshot", key, status))
            }
            _ => Ok(()),
        }
    }

    async fn protect(&self, key: &SnapshotKey) -> Result<()> {
        let root = rooted(&BTreeMap::new());
        self.relabel(key, std::iter::once(GC_ROOT.to_owned()), root)
            .await
            .map_err(|status| error("protect snapshot", key, status))
    }
}
