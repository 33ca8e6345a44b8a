//! Snapshots and versions of a workspace, as lists and as a tree.

use crate::model::{ListedSnapshot, SnapshotList, VersionTree};
use crate::service::Workspaces;
use crate::{Error, Result};
use botstead_authz::{Action, Actor};
use botstead_lineage::{self as lineage, Source};
use botstead_runtime::Snapshot;
use botstead_store::VersionRecord;
use botstead_types::BotId;

impl Workspaces {
    /// The snapshots that the workspace builds on, and every recorded version that the runtime
    /// has, oldest first. Also for a bot whose workspace was deleted: then the versions alone.
    ///
    /// # Errors
    /// `BotNotFound`, `WorkspaceNotFound` when there is neither workspace nor version; a snapshotter other
    /// than the container's; the runtime does not answer.
    pub async fn snapshots(
        &self,
        actor: &Actor,
        bot: BotId,
        snapshotter: Option<&str>,
    ) -> Result<SnapshotList> {
        let inner = &self.inner;
        inner.authorized(actor, Action::ReadWorkspace, bot).await?;
        inner.refuse_unknown_snapshotter(snapshotter)?;
        let record = inner.record(bot).await?;
        let versions: Vec<_> = inner
            .store
            .versions
            .list(bot)
            .await?
            .iter()
            .map(as_version)
            .collect();
        if record.is_none() && versions.is_empty() {
            return Err(Error::WorkspaceNotFound(bot));
        }
        let all: Vec<_> = inner
            .runtime
            .snapshots
            .list()
            .await?
            .into_iter()
            .map(as_snapshot)
            .collect();
        let graph = lineage::Graph::new(&all);
        // Between a commit and the switch the recorded snapshot is missing: then the head version
        // stands for it, and the list is as it was a moment ago.
        let roots = record.iter().flat_map(|record| {
            let head = versions
                .iter()
                .rfind(|version| Some(version.number) == record.head_version);
            [
                Some(&record.snapshot),
                head.map(|version| &version.snapshot),
            ]
        });
        let chain = roots
            .flatten()
            .find_map(|root| lineage::lineage(root.as_str(), &graph).ok())
            .unwrap_or_default();
        let listing = lineage::listing(&chain, &graph, &versions);
        if !listing.missing.is_empty() {
            tracing::warn!(%bot, missing = ?listing.missing, "versions are missing in the runtime");
        }
        inner.losses.set_versions(bot, listing.missing.len() as u64);
        Ok(SnapshotList {
            snapshotter: inner.runtime.backend.capabilities().snapshotter.clone(),
            snapshots: listing.entries.iter().map(as_listed).collect(),
        })
    }

    /// The versions of a workspace and which of them its state came from.
    ///
    /// # Errors
    /// `BotNotFound`.
    pub async fn tree(&self, actor: &Actor, bot: BotId) -> Result<VersionTree> {
        let inner = &self.inner;
        inner.authorized(actor, Action::ReadWorkspace, bot).await?;
        let head = inner
            .record(bot)
            .await?
            .and_then(|record| record.head_version);
        let records = inner.store.versions.list(bot).await?;
        let versions: Vec<_> = records.iter().map(as_version).collect();
        let tree = lineage::tree(&versions, head);
        let versions = tree
            .nodes
            .iter()
            .filter_map(|node| {
                let record = records
                    .iter()
                    .find(|record| record.number == node.version.number)?;
                Some(VersionRecord {
                    parent: node.parent,
                    ..record.clone()
                })
            })
            .collect();
        Ok(VersionTree {
            head_version: tree.head,
            versions,
        })
    }
}

fn as_snapshot(snapshot: Snapshot) -> lineage::Snapshot {
    lineage::Snapshot {
        key: snapshot.key,
        parent: snapshot.parent,
        kind: snapshot.kind,
        labels: snapshot.labels,
        created_at: snapshot.created_at,
        updated_at: snapshot.updated_at,
    }
}

pub(crate) fn as_version(record: &VersionRecord) -> lineage::Version {
    lineage::Version {
        number: record.number,
        name: record.name.clone(),
        source: record.source,
        snapshot: record.snapshot.clone(),
        parent: record.parent,
        created_at: record.created_at,
        pinned: record.pinned,
        size_bytes: record.size_bytes,
    }
}

fn as_listed(entry: &lineage::Entry<'_>) -> ListedSnapshot {
    let snapshot = entry.snapshot;
    ListedSnapshot {
        name: entry.name.clone(),
        display_name: entry.display_name().map(str::to_owned),
        runtime_name: snapshot.key.clone(),
        parent: snapshot.parent.clone(),
        kind: snapshot.kind,
        created_at: snapshot.created_at,
        updated_at: snapshot.updated_at,
        labels: snapshot.labels.clone(),
        source: match entry.source() {
            Source::Version(source) => Some(source),
            _ => None,
        },
        version: entry.version.map(|version| version.number),
        managed: entry.managed(),
    }
}
