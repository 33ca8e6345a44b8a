//! What lies about on a host and belongs to nothing: found, named, and on request removed.
//!
//! Everything that an operation makes is named after it, and made after it was written down. So this
//! can be asked while a server works: what belongs to an operation that is not finished is no leftover,
//! and what belongs to one that nobody knows, such as an export under way, is none until it is old.
//!
//! What may be the only copy of somebody's work is found too, and removed only where it is named
//! ([`discard_leftover`]): a database that does not know it may be the one that is wrong.

use crate::Result;
use crate::layers::unless_missing;
use crate::notes::{bot_of, operation_of};
use crate::recovery::{Fate, Seen, UnrecordedSnapshot, discard, unrecorded};
use crate::spec::is_workspace_of;
use botstead_runtime::{Runtime, Signal};
use botstead_store::{Change, Store};
use botstead_types::{BotId, ContainerId, LeaseId, OperationId, SnapshotKey, SnapshotKind};
use chrono::{DateTime, TimeDelta, Utc};
use std::collections::{HashMap, HashSet};
use std::net::Ipv4Addr;
use std::time::Duration;

/// Something that belongs to nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Leftover {
    /// A lease of an operation that ended or that nobody knows.
    Lease(String),
    /// A container of a workspace that is not recorded, and whose snapshot is gone, with its task.
    Container(ContainerId),
    /// A copy that an operation made for itself: it is released, and goes once nothing builds on it.
    Snapshot(SnapshotKey),
    /// A snapshot that no row names and that may be the only copy of somebody's work, with the container
    /// that has it. It is never removed unless it is named.
    Unrecorded(UnrecordedSnapshot),
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
            Self::Snapshot(key) => write!(f, "snapshot {key}, a copy that nothing needs"),
            Self::Unrecorded(found) => write_unrecorded(found, f),
            Self::Namespace(id) => write!(f, "network namespace of {id}, which is not recorded"),
            Self::Channel(id) => write!(f, "channel directory of {id}, which is not recorded"),
            Self::Address(bot, address) => {
                write!(f, "address {address} of bot {bot}, which has no workspace")
            }
        }
    }
}

fn write_unrecorded(
    found: &UnrecordedSnapshot,
    f: &mut std::fmt::Formatter<'_>,
) -> std::fmt::Result {
    let (name, bot) = (&found.name, found.bot);
    let what = match (found.kind, &found.container) {
        (SnapshotKind::Committed, _) => "version",
        (_, Some(_)) => "workspace",
        (_, None) => "writable snapshot",
    };
    match found.bot_exists {
        true => write!(f, "{what} {name} of bot {bot}, which no row names: ")?,
        false => write!(
            f,
            "{what} {name} of bot {bot}, whom the database does not know: "
        )?,
    }
    f.write_str(match found.fate() {
        Fate::RecordedAgain => "the next start of the server records it again",
        Fate::GivenToTheNext => "the bot's next workspace gets its /data",
        Fate::Stays => "it stays until it is discarded",
    })
}

impl Leftover {
    /// Whether [`remove_leftover`] removes it.
    pub fn is_removable(&self) -> bool {
        !matches!(self, Self::Unrecorded(_))
    }

    /// The name by which it is discarded, where it is not simply removed.
    pub fn name(&self) -> Option<&SnapshotKey> {
        match self {
            Self::Unrecorded(found) => Some(&found.name),
            Self::Lease(_)
            | Self::Container(_)
            | Self::Snapshot(_)
            | Self::Namespace(_)
            | Self::Channel(_)
            | Self::Address(..) => None,
        }
    }
}

/// Looks for what belongs to nothing. Changes nothing. What nobody knows counts when it is older than
/// `settled`: longer than an export takes while a server may run, zero when none does.
///
/// # Errors
/// When the runtime or the database does not answer.
pub async fn find_leftovers(
    runtime: &Runtime,
    store: &Store,
    settled: TimeDelta,
) -> Result<Vec<Leftover>> {
    // First what there is, then who owns it: what is made meanwhile is not looked at, and what ends
    // meanwhile is found recorded.
    let leases = runtime.leases.list().await?;
    let namespaces = runtime.network.list().await?;
    let channels = runtime.channels.list().await?;
    let addresses = store.addresses.list().await?;
    let seen = Seen::look(runtime, store).await?;
    let bots = seen.with_workspace();
    let mut known: HashSet<ContainerId> = bots.iter().copied().map(ContainerId::for_bot).collect();
    let settled_before = Utc::now() - settled;
    let mut found = Vec::new();

    for lease in leases {
        let operation = lease
            .id
            .parse::<LeaseId>()
            .ok()
            .and_then(|id| id.operation());
        if operation.is_some_and(|id| !seen.is_unfinished(id)) && lease.created_at < settled_before
        {
            found.push(Leftover::Lease(lease.id));
        }
    }
    for container in seen.containers() {
        if !is_workspace_of(&container.labels, &container.id) || known.contains(&container.id) {
            continue;
        }
        if seen.active(&container.snapshot).is_some() {
            // It goes, or is recorded again, with its snapshot.
            known.insert(container.id.clone());
        } else if container.created_at < settled_before {
            found.push(Leftover::Container(container.id.clone()));
        }
    }
    let mut exists = HashMap::new();
    for bot in seen.bots() {
        exists.insert(bot, bot_exists(store, bot).await?);
    }
    for one in unrecorded(&seen, &exists) {
        // With what belongs to a bot that is gone nothing can be under way.
        if !one.bot_exists
            || is_settled(store, one.bot, &one.name, one.created_at, settled_before).await?
        {
            found.push(Leftover::Unrecorded(one));
        }
    }
    for snapshot in seen.all() {
        let Some(bot) = bot_of(snapshot) else {
            continue;
        };
        // One that was released is there for what builds on it.
        let is_copy = snapshot.kind == SnapshotKind::Committed
            && snapshot.rooted
            && !crate::notes::is_version(snapshot)
            && !seen.is_under_way(&snapshot.key)
            && seen.version(&snapshot.key).is_none();
        let (key, made) = (&snapshot.key, snapshot.created_at);
        if is_copy && is_settled(store, bot, key, made, settled_before).await? {
            found.push(Leftover::Snapshot(key.clone()));
        }
    }
    for id in namespaces {
        if !known.contains(&id) {
            found.push(Leftover::Namespace(id));
        }
    }
    for id in channels {
        if !known.contains(&id) {
            found.push(Leftover::Channel(id));
        }
    }
    for assigned in addresses {
        if !bots.contains(&assigned.bot) {
            found.push(Leftover::Address(assigned.bot, assigned.address));
        }
    }
    Ok(found)
}

/// Whether nothing can be under way with a snapshot: it is old, or its operation is in the journal and
/// ended.
async fn is_settled(
    store: &Store,
    bot: BotId,
    key: &SnapshotKey,
    made: DateTime<Utc>,
    settled_before: DateTime<Utc>,
) -> Result<bool> {
    Ok(made < settled_before || is_recorded(store, bot, operation_of(key)).await?)
}

/// Whether the journal has the operation.
async fn is_recorded(store: &Store, bot: BotId, operation: Option<OperationId>) -> Result<bool> {
    let Some(operation) = operation else {
        return Ok(false);
    };
    match store.operations.get(bot, operation).await {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == botstead_store::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Whether the database knows the bot.
pub(crate) async fn bot_exists(store: &Store, bot: BotId) -> Result<bool> {
    match store.bots.get(bot).await {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == botstead_store::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error.into()),
    }
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
        Leftover::Unrecorded(_) => Ok(()),
        Leftover::Namespace(id) => Ok(runtime.network.remove(id).await?),
        Leftover::Channel(id) => Ok(runtime.channels.remove(id).await?),
        Leftover::Address(bot, _) => {
            let released = vec![Change::ReleaseAddress(*bot)];
            Ok(store.transactions.apply(released).await?)
        }
    }
}

/// Removes for good what may be the only copy of somebody's work, because somebody named it. Anything
/// else is left alone. Again: no change.
///
/// # Errors
/// What the runtime refuses.
pub async fn discard_leftover(runtime: &Runtime, leftover: &Leftover) -> Result<()> {
    match leftover {
        Leftover::Unrecorded(found) => discard(runtime, found).await,
        Leftover::Lease(_)
        | Leftover::Container(_)
        | Leftover::Snapshot(_)
        | Leftover::Namespace(_)
        | Leftover::Channel(_)
        | Leftover::Address(..) => Ok(()),
    }
}
