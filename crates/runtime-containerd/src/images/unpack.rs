//! Unpacking layers into committed snapshots, one on top of the other.

use super::ContainerdImages;
use super::size::{Measure, Room, Unmeasured};
use super::tree::{Layer, Tree};
use super::weight::Window;
use crate::op::Op;
use botstead_runtime::{ErrorKind, Result};
use botstead_types::LeaseId;
use containerd_client::services::v1::ApplyRequest;
use containerd_client::services::v1::snapshots::{
    CommitSnapshotRequest, PrepareSnapshotRequest, RemoveSnapshotRequest, StatSnapshotRequest,
};
use containerd_client::types::Descriptor;
use std::collections::HashMap;
use tonic::Code;
use uuid::Uuid;

impl ContainerdImages {
    /// Whether all layers of an image are unpacked: the top one holds those below.
    pub(super) async fn is_unpacked(&self, op: &Op, tree: &Tree) -> Result<bool> {
        self.is_committed(op, tree.chain_id()).await
    }

    /// Unpacks one layer on top of the one below, whose chain id is `parent` (empty for the lowest).
    /// The lease keeps the snapshot, also where it was there before.
    pub(super) async fn unpack_layer(
        &self,
        op: &Op,
        lease: &LeaseId,
        layer: &Layer,
        parent: &str,
        room: &Room,
    ) -> Result<()> {
        // With its digest: an image may claim that another content makes the same layer, and holds up none
        // but itself until that is refused.
        let name = format!("{} {}", layer.chain_id, layer.digest);
        let _one_at_a_time = self.locks.lock(&name).await;
        // Kept first, looked at then: so it cannot be collected in between.
        let kind = format!("snapshots/{}", self.client.snapshotter);
        self.client.keep(op, lease, kind, &layer.chain_id).await?;
        if self.is_committed(op, &layer.chain_id).await? {
            return Ok(());
        }
        let mut window = Window::Usual;
        loop {
            // Nothing unpacks that is not measured at the same time.
            let _place = match room.is_endless() {
                true => None,
                false => Some(self.measures.place(op, window).await?),
            };
            let key = format!("extract-{} {}", Uuid::new_v4(), layer.chain_id);
            let extracted = self.extract(op, lease, layer, parent, &key, Measure { room, window });
            let extracted = extracted.await;
            if !matches!(extracted, Ok(Extracted::Committed)) {
                self.remove(&key).await;
            }
            match extracted {
                // Another process may have been faster.
                Ok(Extracted::Committed | Extracted::Beaten) => return Ok(()),
                Err(Unmeasured::TooWide) => window = Window::Widest,
                Err(Unmeasured::Failed(error)) => return Err(error),
            }
        }
    }

    async fn extract(
        &self,
        op: &Op,
        lease: &LeaseId,
        layer: &Layer,
        parent: &str,
        key: &str,
        measure: Measure<'_>,
    ) -> Result<Extracted, Unmeasured> {
        let client = &self.client;
        let prepare = PrepareSnapshotRequest {
            snapshotter: client.snapshotter.clone(),
            key: key.to_owned(),
            parent: parent.to_owned(),
            labels: HashMap::new(),
        };
        let mounts = client
            .snapshots()
            .prepare(client.leased(op, lease, client.unary(prepare))?)
            .await
            .map_err(|status| op.status(status))?
            .into_inner()
            .mounts;
        let apply = ApplyRequest {
            diff: Some(Descriptor {
                media_type: layer.media_type.to_owned(),
                digest: layer.digest.clone(),
                // It was checked to fit when the manifest was read.
                size: i64::try_from(layer.size).unwrap_or_default(),
                annotations: HashMap::new(),
            }),
            mounts,
            ..ApplyRequest::default()
        };
        let mut differ = client.diff();
        let applying = differ.apply(client.leased(op, lease, client.request(apply))?);
        let applied = async {
            let applied = applying.await;
            Ok(applied.map_err(|status| unpack_failed(op, layer, status))?)
        };
        // Without room the unpacking ends, too.
        let measured = self.measure(op, layer, measure);
        let (applied, ()) = tokio::try_join!(applied, measured)?;
        let applied = applied.into_inner().applied.unwrap_or_default();
        if applied.digest != layer.diff_id {
            let reason = format!(
                "the layer {} holds {} where its configuration says {}",
                layer.digest, applied.digest, layer.diff_id
            );
            return Err(op.corrupt(reason).into());
        }
        let commit = CommitSnapshotRequest {
            snapshotter: client.snapshotter.clone(),
            name: layer.chain_id.clone(),
            key: key.to_owned(),
            ..CommitSnapshotRequest::default()
        };
        match client
            .snapshots()
            .commit(client.leased(op, lease, client.walk(commit))?)
            .await
        {
            Ok(_) => Ok(Extracted::Committed),
            Err(status) if status.code() == Code::AlreadyExists => Ok(Extracted::Beaten),
            Err(status) => Err(op.status(status).into()),
        }
    }

    async fn is_committed(&self, op: &Op, chain_id: &str) -> Result<bool> {
        let stat = StatSnapshotRequest {
            snapshotter: self.client.snapshotter.clone(),
            key: chain_id.to_owned(),
        };
        match self
            .client
            .snapshots()
            .stat(self.client.request(stat))
            .await
        {
            Ok(_) => Ok(true),
            Err(status) if status.code() == Code::NotFound => Ok(false),
            Err(status) => Err(op.status(status)),
        }
    }

    async fn remove(&self, key: &str) {
        let remove = RemoveSnapshotRequest {
            snapshotter: self.client.snapshotter.clone(),
            key: key.to_owned(),
        };
        let request = self.client.request(remove);
        if let Err(status) = self.client.snapshots().remove(request).await {
            // It may never have been made; else it goes with the lease.
            tracing::debug!(key, %status, "an extraction's snapshot was not removed");
        }
    }
}

enum Extracted {
    Committed,
    Beaten,
}

/// containerd reports a broken archive as `Unknown`, as it reports almost everything here. The disk
/// apart, nothing is left but the layer's own content.
fn unpack_failed(op: &Op, layer: &Layer, status: tonic::Status) -> botstead_runtime::Error {
    if status.code() == Code::NotFound {
        let reason = format!("its layer {} is not here", layer.digest);
        return op.fail_with(ErrorKind::Corrupt, reason, status);
    }
    if status.code() == Code::Unknown && !crate::op::is_disk_full(&status) {
        let reason = format!("its layer {} cannot be unpacked", layer.digest);
        return op.fail_with(ErrorKind::Corrupt, reason, status);
    }
    op.status(status)
}
