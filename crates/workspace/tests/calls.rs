//! What an operation asks of runtime and database: each call is a round trip, and each transaction
//! waits for the disk.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod common;

use async_trait::async_trait;
use botstead_store::{
    Addresses, AssignedAddress, Change, Operation, Operations, Result, Store, Transactions,
};
use botstead_types::{BotId, OperationId, Page, PageRequest, VersionNumber};
use chrono::{DateTime, Utc};
use common::World;
use ipnet::Ipv4Net;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A store that counts what it commits.
struct Counting {
    store: Store,
    commits: Arc<AtomicUsize>,
}

impl Counting {
    fn count(&self) {
        self.commits.fetch_add(1, Ordering::SeqCst);
    }
}

#[async_trait]
impl Transactions for Counting {
    async fn apply(&self, changes: Vec<Change>) -> Result<()> {
        self.count();
        self.store.transactions.apply(changes).await
    }
}

#[async_trait]
impl Operations for Counting {
    async fn begin_with(
        &self,
        operation: &Operation,
        reserve: bool,
        changes: Vec<Change>,
    ) -> Result<Operation> {
        self.count();
        let operations = &self.store.operations;
        operations.begin_with(operation, reserve, changes).await
    }
    async fn get(&self, bot: BotId, id: OperationId) -> Result<Operation> {
        self.store.operations.get(bot, id).await
    }
    async fn list(&self, bot: BotId, page: &PageRequest) -> Result<Page<Operation>> {
        self.store.operations.list(bot, page).await
    }
    async fn unfinished(&self) -> Result<Vec<Operation>> {
        self.store.operations.unfinished().await
    }
    async fn forget_finished(&self, before: DateTime<Utc>) -> Result<u64> {
        self.store.operations.forget_finished(before).await
    }
}

#[async_trait]
impl Addresses for Counting {
    async fn assign(&self, bot: BotId, subnet: Ipv4Net, gateway: Ipv4Addr) -> Result<Ipv4Addr> {
        let addresses = &self.store.addresses;
        if addresses.list().await?.iter().all(|known| known.bot != bot) {
            self.count();
        }
        addresses.assign(bot, subnet, gateway).await
    }
    async fn list(&self) -> Result<Vec<AssignedAddress>> {
        self.store.addresses.list().await
    }
}

/// A service that counts its transactions.
async fn counting() -> (World, Arc<AtomicUsize>) {
    let mut world = World::new().await;
    let commits = Arc::new(AtomicUsize::new(0));
    let counting = Arc::new(Counting {
        store: world.store.clone(),
        commits: Arc::clone(&commits),
    });
    world.store.transactions = Arc::clone(&counting) as _;
    world.store.operations = Arc::clone(&counting) as _;
    world.store.addresses = counting;
    world.restart().await;
    (world, commits)
}

/// How often each of the calls was made.
fn times(calls: &[&str], name: &str) -> usize {
    calls.iter().filter(|call| **call == name).count()
}

#[tokio::test]
async fn a_creation_asks_nothing_twice_and_waits_for_three_transactions() {
    let (world, commits) = counting().await;
    // What others have makes no difference.
    world.running().await;
    world.settled().await;
    let bot = world.bot().await;
    commits.store(0, Ordering::SeqCst);
    world.memory.take_calls();
    world.create(bot).await;
    let calls = world.memory.take_calls();
    world.settled().await;
    for (name, most) in [
        ("images.get", 1),
        ("images.unpack", 0),
        ("snapshots.list", 0),
        ("snapshots.mounts", 0),
        ("containers.list", 0),
        ("snapshots.prepare", 1),
        ("network.create_namespace", 1),
        ("network.attach", 1),
        ("network.ensure_host", 0),
        ("tasks.create", 1),
        ("tasks.get", 0),
    ] {
        assert!(times(&calls, name) <= most, "{name} in {calls:?}");
    }
    // It begins with status and address; it is recorded; it ends.
    assert_eq!(commits.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn a_creation_unpacks_an_image_whose_snapshots_are_gone() {
    let (world, _) = counting().await;
    let first = world.running().await;
    world.memory.take_calls();
    let missing = botstead_runtime::ErrorKind::NotFound;
    world.memory.fail_next("snapshots.prepare", missing, 1);
    let second = world.running().await;
    let calls = world.memory.take_calls();
    assert_eq!(times(&calls, "images.unpack"), 1, "{calls:?}");
    assert_eq!(times(&calls, "snapshots.prepare"), 2, "{calls:?}");
    assert_ne!(
        world.record(first).await.snapshot,
        world.record(second).await.snapshot
    );
    world.check_whole().await;
}

#[tokio::test]
async fn what_runs_again_after_a_replacement_keeps_its_network() {
    let world = World::new().await;
    let bot = world.running().await;
    world.write(bot, "one").await;
    for rollback in [false, true] {
        let first = VersionNumber::FIRST;
        world.memory.take_calls();
        if rollback {
            let rolled_back = world.workspaces.rollback(&world.owner, bot, first, false);
            rolled_back.await.unwrap();
        } else {
            world.snapshot(bot).await;
        }
        let calls = world.memory.take_calls();
        assert_eq!(times(&calls, "network.remove"), 0, "{calls:?}");
        // Once to end the task: that there is none any more needs no question.
        assert_eq!(times(&calls, "tasks.get"), 1, "{calls:?}");
    }
    world.check_whole().await;
    // What is not to run again has none.
    world.workspaces.stop(&world.owner, bot).await.unwrap();
    assert_eq!(world.memory.namespaces(), []);
    let first = VersionNumber::FIRST;
    let rolled_back = world.workspaces.rollback(&world.owner, bot, first, false);
    rolled_back.await.unwrap();
    world.workspaces.stop(&world.owner, bot).await.unwrap();
    assert_eq!(world.memory.namespaces(), []);
    world.check_whole().await;
}
