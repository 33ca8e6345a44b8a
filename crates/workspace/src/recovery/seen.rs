//! What there is in the runtime and what the database knows of it, read once.

use crate::Result;
use crate::layers::base_of;
use crate::notes::{Noted, bot_of, is_version, operation_of};
use crate::spec::is_workspace_of;
use botstead_runtime::{Container, Runtime, Snapshot};
use botstead_store::Store;
use botstead_types::{BotId, ContainerId, OperationId, SnapshotKey, SnapshotKind, VersionNumber};
use std::collections::{BTreeSet, HashMap, HashSet};

/// Containers, snapshots, and which of them are recorded.
pub(crate) struct Seen {
    containers: HashMap<ContainerId, Container>,
    snapshots: HashMap<SnapshotKey, Snapshot>,
    /// The versions that rows name, by their snapshots.
    versions: HashMap<SnapshotKey, (BotId, VersionNumber)>,
    /// The writable snapshots that rows name.
    rows: HashMap<SnapshotKey, BotId>,
    /// Writable snapshots that containers name.
    named: HashSet<String>,
    unfinished: HashMap<OperationId, BotId>,
}

impl Seen {
    pub(crate) async fn look(runtime: &Runtime, store: &Store) -> Result<Self> {
        // First what there is, then who owns it: what is made meanwhile is not looked at, and what ends
        // meanwhile is found recorded.
        let (containers, snapshots) =
            tokio::try_join!(runtime.containers.list(), runtime.snapshots.list())?;
        let unfinished = store.operations.unfinished().await?;
        let rows = store.containers.list().await?;
        let versions = store.versions.snapshots().await?;
        Ok(Self {
            named: containers.iter().map(|one| one.snapshot.clone()).collect(),
            containers: containers
                .into_iter()
                .map(|one| (one.id.clone(), one))
                .collect(),
            snapshots: snapshots
                .into_iter()
                .map(|one| (one.key.clone(), one))
                .collect(),
            versions: versions
                .into_iter()
                .map(|one| (one.snapshot, (one.bot, one.number)))
                .collect(),
            rows: rows
                .into_iter()
                .map(|row| (row.snapshot, row.bot))
                .collect(),
            unfinished: unfinished
                .into_iter()
                .map(|one| (one.id, one.bot))
                .collect(),
        })
    }

    /// Every bot that a row, a container or a snapshot names.
    pub(crate) fn bots(&self) -> BTreeSet<BotId> {
        let containers = self.containers.values().filter_map(|one| {
            one.id
                .bot()
                .filter(|_| is_workspace_of(&one.labels, &one.id))
        });
        let snapshots = self.snapshots.values().filter_map(bot_of);
        let rows = self.rows.values().copied();
        containers.chain(snapshots).chain(rows).collect()
    }

    /// All containers of this installation.
    pub(crate) fn containers(&self) -> impl Iterator<Item = &Container> {
        self.containers.values()
    }

    /// Bots with a row of a workspace, or with an operation that is not finished: it may make or remove
    /// one just now.
    pub(crate) fn with_workspace(&self) -> HashSet<BotId> {
        let rows = self.rows.values().copied();
        rows.chain(self.unfinished.values().copied()).collect()
    }

    /// Whether the operation is not finished.
    pub(crate) fn is_unfinished(&self, operation: OperationId) -> bool {
        self.unfinished.contains_key(&operation)
    }

    /// Whether an operation of the bot's is not finished.
    pub(crate) fn is_busy(&self, bot: BotId) -> bool {
        self.unfinished.values().any(|busy| *busy == bot)
    }

    /// The bot's container, as this server makes it.
    pub(crate) fn container_of(&self, bot: BotId) -> Option<&Container> {
        let found = self.containers.get(&ContainerId::for_bot(bot))?;
        is_workspace_of(&found.labels, &found.id).then_some(found)
    }

    /// The container that names the snapshot, whoever's it is.
    pub(crate) fn container_with(&self, key: &SnapshotKey) -> Option<&Container> {
        let mut all = self.containers.values();
        all.find(|one| one.snapshot == key.as_str())
    }

    /// The writable snapshot of that name.
    pub(crate) fn active(&self, key: &str) -> Option<&Snapshot> {
        self.snapshot(&key.parse().ok()?)
            .filter(|found| found.kind == SnapshotKind::Active)
    }

    pub(crate) fn snapshot(&self, key: &SnapshotKey) -> Option<&Snapshot> {
        self.snapshots.get(key)
    }

    /// The snapshots that say that they are the bot's.
    pub(crate) fn of_bot(&self, bot: BotId) -> impl Iterator<Item = &Snapshot> {
        self.all().filter(move |found| bot_of(found) == Some(bot))
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = &Snapshot> {
        self.snapshots.values()
    }

    /// The version that a row says the snapshot is.
    pub(crate) fn version(&self, key: &SnapshotKey) -> Option<(BotId, VersionNumber)> {
        self.versions.get(key).copied()
    }

    /// Whether a workspace's row names it.
    pub(crate) fn is_in_a_row(&self, key: &SnapshotKey) -> bool {
        self.rows.contains_key(key)
    }

    /// Whether a container or a row names it as a workspace's.
    pub(crate) fn is_named(&self, key: &SnapshotKey) -> bool {
        self.named.contains(key.as_str()) || self.is_in_a_row(key)
    }

    /// Whether it is named after an operation that is not finished.
    pub(crate) fn is_under_way(&self, key: &SnapshotKey) -> bool {
        operation_of(key).is_some_and(|operation| self.unfinished.contains_key(&operation))
    }

    /// The writable snapshots of the bot's that no container, no row and no operation under way has,
    /// newest first. One that an operation was still to change is left out: it was nobody's yet.
    fn unnamed(&self, bot: BotId) -> Vec<&Snapshot> {
        let own = self.of_bot(bot).filter(|found| {
            found.kind == SnapshotKind::Active
                && !self.is_named(&found.key)
                && !self.is_under_way(&found.key)
                && !Noted::on(found).unfinished
        });
        let mut own: Vec<_> = own.collect();
        own.sort_by_key(|found| std::cmp::Reverse(found.created_at));
        own
    }

    /// Whether what the snapshot was prepared on stays without it: an image, or a version.
    fn lies_on_what_stays(&self, snapshot: &Snapshot) -> bool {
        let Some(parent) = &snapshot.parent else {
            return true;
        };
        base_of(&snapshot.labels).as_ref() == Some(parent)
            || self.version(parent).is_some()
            || (self.snapshot(parent)).is_some_and(|found| found.rooted && is_version(found))
    }

    /// The newest writable snapshot of the bot's that may be somebody's work and that nothing names. One
    /// with nothing of its own is what an operation prepared and nobody used.
    pub(crate) async fn orphan(&self, runtime: &Runtime, bot: BotId) -> Option<&Snapshot> {
        for found in self.unnamed(bot) {
            if !self.lies_on_what_stays(found) {
                return Some(found);
            }
            match runtime.snapshots.usage(&found.key).await {
                // Its own directory only.
                Ok(usage) if usage.inodes <= 1 => {}
                Ok(_) => return Some(found),
                Err(error) => {
                    tracing::warn!(%bot, snapshot = %found.key, error = %error.chain(),
                        "cannot tell whether a workspace that was found has anything of its own");
                    return Some(found);
                }
            }
        }
        None
    }

    /// The snapshots that one was prepared from, nearest first.
    pub(crate) fn ancestors(&self, of: &Snapshot) -> Vec<&Snapshot> {
        let mut chain: Vec<&Snapshot> = Vec::new();
        let mut next = of.parent.as_ref();
        while let Some(found) = next.and_then(|key| self.snapshots.get(key)) {
            if chain.len() > self.snapshots.len() {
                break;
            }
            chain.push(found);
            next = found.parent.as_ref();
        }
        chain
    }
}
