//! What lies about on a host and belongs to nothing: found, named, and on request removed.
//!
//! Everything that an operation makes is named after it, and its id tells when it began. What belongs
//! to an operation that is not finished, or that began a short while ago, is none: so this can be asked
//! while a server works.

use crate::Result;
use crate::layers::{LABEL_BOT, unless_missing};
use crate::spec::is_workspace_of;
use botstead_runtime::{Runtime, Signal};
use botstead_store::{Change, Store};
use botstead_types::{BotId, ContainerId, LeaseId, OperationId, SnapshotKey, SnapshotKind};
use chrono::{TimeDelta, Utc};
use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::net::Ipv4Addr;
use std::time::Duration;

/// What began longer ago than this is not about to be recorded.
const SETTLED: TimeDelta = TimeDelta::minutes(10);

/// Something that belongs to nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Leftover {
    /// A lease of an operation that ended or that nobody knows.
    Lease(String),
    /// A container of a workspace that is not recorded, with its task.
    Container(ContainerId),
    /// A committed snapshot of ours that is no version: it is released, and goes once nothing builds
    /// on it.
    Snapshot(SnapshotKey),
    /// A writable snapshot of a bot that is gone.
    ActiveSnapshot(SnapshotKey),
    /// A writable snapshot that no workspace has, of a bot that exists: it may hold work. It is never
    /// removed here; a new workspace of the bot takes its `/data` over.
    Orphan(BotId, SnapshotKey),
    /// A network namespace of a workspace that is not recorded.
    Namespace(ContainerId),
    /// A channel directory of a workspace that is not recorded.
    Channel(ContainerId),
    /// An address of a bot that has no workspace.
    Address(BotId, Ipv4Addr),
}

impl std::fmt::Display for Leftover {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Lease(id) => write!(f, "lease {id} of an operation that ended"),
            Self::Container(id) => write!(f, "container {id}, which is not recorded"),
            Self::Snapshot(key) => write!(f, "snapshot {key}, which is no version"),
            Self::ActiveSnapshot(key) => {
                write!(f, "writable snapshot {key} of a bot that does not exist")
            }
            Self::Orphan(bot, key) => write!(
                f,
                "writable snapshot {key} of bot {bot}, which no container has: kept, create the bot's \
                 workspace to get its /data back"
            ),
            Self::Namespace(id) => write!(f, "network namespace of {id}, which is not recorded"),
            Self::Channel(id) => write!(f, "channel directory of {id}, which is not recorded"),
            Self::Address(bot, address) => {
                write!(f, "address {address} of bot {bot}, which has no workspace")
            }
        }
    }
}

impl Leftover {
    /// Whether [`remove_leftover`] removes it.
    pub fn is_removable(&self) -> bool {
        !matches!(self, Self::Orphan(..))
    }
}

/// Looks for what belongs to nothing. Changes nothing.
///
/// # Errors
/// When the runtime or the database does not answer.
pub async fn find_leftovers(runtime: &Runtime, store: &Store) -> Result<Vec<Leftover>> {
    let unfinished: HashSet<OperationId> = store
        .operations
        .unfinished()
        .await?
        .iter()
        .map(|operation| operation.id)
        .collect();
    let records = store.containers.list().await?;
    let known: HashSet<&ContainerId> = records.iter().map(|record| &record.container).collect();
    let active: HashSet<&SnapshotKey> = records.iter().map(|record| &record.snapshot).collect();
    let settled_before = Utc::now() - SETTLED;
    let mut found = Vec::new();

    for lease in runtime.leases.list().await? {
        let operation = lease
            .id
            .parse::<LeaseId>()
            .ok()
            .and_then(|id| id.operation());
        if operation.is_some_and(|id| !unfinished.contains(&id))
            && lease.created_at < settled_before
        {
            found.push(Leftover::Lease(lease.id));
        }
    }
    for container in runtime.containers.list().await? {
        if is_workspace_of(&container.labels, &container.id)
            && !known.contains(&container.id)
            && container.created_at < settled_before
        {
            found.push(Leftover::Container(container.id));
        }
    }
    let mut bots: HashMap<BotId, Option<HashSet<SnapshotKey>>> = HashMap::new();
    for snapshot in runtime.snapshots.list().await? {
        let Some(bot) = snapshot
            .labels
            .get(LABEL_BOT)
            .and_then(|bot| bot.parse().ok())
        else {
            continue;
        };
        let busy = operation_of(&snapshot.key).is_some_and(|id| unfinished.contains(&id));
        if busy || snapshot.created_at >= settled_before || active.contains(&snapshot.key) {
            continue;
        }
        let versions = match bots.entry(bot) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => new.insert(versions_of(store, bot).await?),
        };
        match (snapshot.kind, versions.as_ref()) {
            (SnapshotKind::Active, None) => found.push(Leftover::ActiveSnapshot(snapshot.key)),
            (SnapshotKind::Active, Some(_)) => found.push(Leftover::Orphan(bot, snapshot.key)),
            (SnapshotKind::Committed, versions) => {
                if !versions.is_some_and(|versions| versions.contains(&snapshot.key)) {
                    found.push(Leftover::Snapshot(snapshot.key));
                }
            }
            (SnapshotKind::View, _) => {}
        }
    }
    for id in runtime.network.list().await? {
        if !known.contains(&id) {
            found.push(Leftover::Namespace(id));
        }
    }
    for id in runtime.channels.list().await? {
        if !known.contains(&id) {
            found.push(Leftover::Channel(id));
        }
    }
    let with_workspace: HashSet<BotId> = records.iter().map(|record| record.bot).collect();
    for assigned in store.addresses.list().await? {
        if !with_workspace.contains(&assigned.bot) {
            found.push(Leftover::Address(assigned.bot, assigned.address));
        }
    }
    Ok(found)
}

/// The snapshots of a bot's versions; `None` when there is no such bot.
async fn versions_of(store: &Store, bot: BotId) -> Result<Option<HashSet<SnapshotKey>>> {
    match store.bots.get(bot).await {
        Err(error) if error.kind() == botstead_store::ErrorKind::NotFound => return Ok(None),
        found => drop(found?),
    }
    let versions = store.versions.list(bot).await?;
    Ok(Some(
        versions
            .into_iter()
            .map(|version| version.snapshot)
            .collect(),
    ))
}

/// The operation that a snapshot is named after.
fn operation_of(key: &SnapshotKey) -> Option<OperationId> {
    // `<what>-<operation>`, and perhaps a suffix for what is under work.
    let (_, rest) = key.as_str().split_once('-')?;
    rest.get(..36)?.parse().ok()
}

/// Removes what was found. Again: no change. One that is never removed is left alone.
///
/// # Errors
/// What the runtime or the database refuses.
pub async fn remove_leftover(runtime: &Runtime, store: &Store, leftover: &Leftover) -> Result<()> {
    match leftover {
        Leftover::Lease(id) => Ok(runtime.leases.delete(id).await?),
        Leftover::Container(id) => {
            runtime.tasks.stop(id, Signal::KILL, Duration::ZERO).await?;
            Ok(unless_missing(runtime.containers.delete(id).await)?)
        }
        Leftover::Snapshot(key) => Ok(runtime.snapshots.release(key).await?),
        Leftover::ActiveSnapshot(key) => Ok(unless_missing(runtime.snapshots.remove(key).await)?),
        Leftover::Orphan(..) => Ok(()),
        Leftover::Namespace(id) => Ok(runtime.network.remove(id).await?),
        Leftover::Channel(id) => Ok(runtime.channels.remove(id).await?),
        Leftover::Address(bot, _) => {
            let released = vec![Change::ReleaseAddress(*bot)];
            Ok(store.transactions.apply(released).await?)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn snapshots_tell_their_operation() {
        let id = OperationId::generate();
        assert_eq!(operation_of(&SnapshotKey::version(id)), Some(id));
        let copying: SnapshotKey = format!("{}-copying", SnapshotKey::copied(id))
            .parse()
            .unwrap();
        assert_eq!(operation_of(&copying), Some(id));
        assert_eq!(operation_of(&"sha256:abc".parse().unwrap()), None);
    }
}
