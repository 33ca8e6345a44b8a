//! Making one layer of those between two committed snapshots.

use crate::client::Client;
use crate::commits::commit_filled;
use crate::layers::Leased;
use crate::op::Op;
use botstead_runtime::{ErrorKind, Result};
use botstead_types::{LeaseId, SnapshotKey};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// What [`botstead_runtime::Snapshots::flatten`] promises.
pub(crate) async fn flatten(
    client: &Client,
    op: &Op,
    lease: &LeaseId,
    source: &SnapshotKey,
    base: &SnapshotKey,
    name: &SnapshotKey,
    labels: &BTreeMap<String, String>,
) -> Result<()> {
    let snapshots = Leased { client, op, lease };
    if snapshots.is_committed(name.as_str()).await? {
        return Ok(());
    }
    // Views of both also keep the collector from them while they are read.
    let source_view = format!("{name}-source");
    let base_view = format!("{name}-base");
    let merging = format!("{name}-merging");
    let result = async {
        let layers = snapshots.view(&source_view, source).await?;
        let below = snapshots.view(&base_view, base).await?;
        let layers = above(op, layers, &below)?;
        let target = snapshots.prepare(&merging, Some(base)).await?;
        let filled = (merging.as_str(), target.clone());
        merge(op, layers, below, target).await?;
        commit_filled(&snapshots, filled, Some(base), name, labels).await
    }
    .await;
    if result.is_err() {
        snapshots.remove(&merging).await;
    }
    snapshots.remove(&source_view).await;
    snapshots.remove(&base_view).await;
    result
}

/// The layers of the source that are above those of the base.
fn above(op: &Op, mut layers: Vec<PathBuf>, below: &[PathBuf]) -> Result<Vec<PathBuf>> {
    if layers.len() <= below.len() || !layers.starts_with(below) {
        return Err(op.invalid("the base is no ancestor of it"));
    }
    Ok(layers.split_off(below.len()))
}

async fn merge(op: &Op, layers: Vec<PathBuf>, below: Vec<PathBuf>, target: PathBuf) -> Result<()> {
    let merge = move || botstead_overlay::merge(&layers, &below, &target);
    let merged = tokio::task::spawn_blocking(merge)
        .await
        .map_err(|error| op.fail_with(ErrorKind::Internal, "merging broke off", error))?;
    merged.map(drop).map_err(|error| {
        use botstead_overlay::Error;
        let (kind, reason) = match &error {
            full if full.is_disk_full() => return op.disk_full(error),
            Error::Unsupported { .. } | Error::Immutable { .. } => {
                (ErrorKind::Unsupported, error.to_string())
            }
            _ => (ErrorKind::Internal, "merging failed".to_owned()),
        };
        op.fail_with(kind, reason, error)
    })
}
