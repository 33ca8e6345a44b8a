//! Databases that are older than what they describe, and things that vanish behind the server's back:
//! what a user wrote is still there, and can be reached.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod common;

use botstead_runtime::{ErrorKind, Signal};
use botstead_store::{Change, OperationState};
use botstead_types::{BotId, DesiredState, PageRequest, SnapshotKey, VersionNumber, VersionSource};
use botstead_workspace::{
    ArchiveFormat, CreateEvent, DeleteRequest, Error, Leftover, SnapshotMode, VersionUpdate,
    discard_leftover, find_leftovers, remove_leftover,
};
use chrono::TimeDelta;
use common::{IMAGE, OTHER_IMAGE, World, container, image, request};
use futures_util::StreamExt;
use std::time::Duration;

fn version(number: i64) -> VersionNumber {
    number.try_into().unwrap()
}

/// Removes the row of the bot's workspace behind the server's back.
async fn lose_row(world: &World, bot: BotId) {
    let gone = vec![Change::DeleteContainer(bot), Change::ReleaseAddress(bot)];
    world.store.transactions.apply(gone).await.unwrap();
}

/// Removes the bot's container behind the server's back; its snapshot stays.
async fn lose_container(world: &World, bot: BotId) {
    let runtime = world.memory.runtime();
    let id = container(bot);
    let stopped = runtime.tasks.stop(&id, Signal::KILL, Duration::ZERO);
    stopped.await.unwrap();
    runtime.containers.delete(&id).await.unwrap();
}

async fn lose_snapshot(world: &World, key: &SnapshotKey) {
    world.memory.runtime().snapshots.remove(key).await.unwrap();
}

async fn stop_and_start(world: &World, bot: BotId) {
    world.workspaces.stop(&world.owner, bot).await.unwrap();
    world.workspaces.start(&world.owner, bot).await.unwrap();
}

#[tokio::test]
async fn creating_what_the_runtime_still_has_adopts_it_and_brings_nothing_back() {
    let world = World::new().await;
    let bot = world.running().await;
    world.write(bot, "precious").await;
    let own = world.record(bot).await.snapshot;
    lose_row(&world, bot).await;
    let events = world.create(bot).await;
    let Some(CreateEvent::Complete(made)) = events.last() else {
        panic!("{events:?}");
    };
    assert!(!made.data_restored, "{made:?}");
    assert_eq!(world.record(bot).await.snapshot, own);
    stop_and_start(&world, bot).await;
    assert_eq!(world.read(bot).await.as_deref(), Some("precious"));
    world.check_whole().await;
}

#[tokio::test]
async fn an_adopted_workspace_refuses_another_image_and_keeps_its_limits() {
    let world = World::new().await;
    let bot = world.bot().await;
    let mut wanted = request(IMAGE);
    let limits = botstead_types::Limits {
        pids: Some(100),
        ..Default::default()
    };
    wanted.limits = Some(limits);
    let made = world.workspaces.create(&world.owner, bot, wanted).await;
    made.unwrap().collect::<Vec<_>>().await;
    lose_row(&world, bot).await;
    let other = request(OTHER_IMAGE);
    let events = world.workspaces.create(&world.owner, bot, other).await;
    let events: Vec<_> = events.unwrap().collect().await;
    let Some(CreateEvent::Failed(error)) = events.last() else {
        panic!("{events:?}");
    };
    assert_eq!(error.code(), "container_exists");
    let record = world.record(bot).await;
    assert_eq!(
        (record.image.reference, record.limits),
        (image(IMAGE), limits)
    );
    world.check_whole().await;
}

#[tokio::test]
async fn all_of_an_orphan_stays_when_its_data_is_in_a_new_workspace() {
    let world = World::new().await;
    let bot = world.running().await;
    world.write(bot, "precious").await;
    world.write_to(bot, "root/notes", "elsewhere").await;
    lose_row(&world, bot).await;
    lose_container(&world, bot).await;
    world.create(bot).await;
    assert_eq!(world.read(bot).await.as_deref(), Some("precious"));
    world.settled().await;
    let versions = world.store.versions.list(bot).await.unwrap();
    assert_eq!(versions[0].source, VersionSource::Recovered);
    let w = &world.workspaces;
    w.rollback(&world.owner, bot, version(1), false)
        .await
        .unwrap();
    let notes = world.read_from(bot, "root/notes").await;
    assert_eq!(notes.as_deref(), Some("elsewhere"));
    world.check_whole().await;
}

/// A snapshot that froze the present state and cannot go on.
async fn stuck_snapshot(world: &World, bot: BotId) {
    let kind = ErrorKind::Unavailable;
    // The one for the new writable snapshot, and those of tries again.
    world.memory.fail_next("snapshots.prepare", kind, 1000);
    let made = world
        .workspaces
        .snapshot(&world.owner, bot, None, SnapshotMode::Stop)
        .await;
    made.unwrap_err();
}

#[tokio::test]
async fn a_deletion_that_preserves_beside_a_stuck_snapshot_strands_nothing() {
    let world = World::new().await;
    let bot = world.running().await;
    world.write(bot, "one").await;
    world.snapshot(bot).await;
    world.write(bot, "two").await;
    stuck_snapshot(&world, bot).await;
    let preserving = DeleteRequest {
        preserve_data: true,
        ..DeleteRequest::default()
    };
    let w = &world.workspaces;
    w.delete(&world.owner, bot, preserving).await.unwrap_err();
    world.memory.clear_faults();
    w.start(&world.owner, bot).await.unwrap();
    assert_eq!(world.read(bot).await.as_deref(), Some("two"));
    let kept = world.store.versions.get(bot, version(2)).await.unwrap();
    let kept = world.memory.read_file(&kept.snapshot, "data/file");
    assert_eq!(kept.as_deref(), Some(&b"two"[..]));
    world.check_whole().await;
}

#[tokio::test]
async fn a_deletion_beside_a_stuck_snapshot_keeps_the_version_that_was_made() {
    let world = World::new().await;
    let bot = world.running().await;
    world.write(bot, "two").await;
    stuck_snapshot(&world, bot).await;
    let plain = DeleteRequest::default();
    world
        .workspaces
        .delete(&world.owner, bot, plain)
        .await
        .unwrap();
    world.memory.clear_faults();
    let w = &world.workspaces;
    w.rollback(&world.owner, bot, version(1), false)
        .await
        .unwrap();
    assert_eq!(world.read(bot).await.as_deref(), Some("two"));
    world.check_whole().await;
}

#[tokio::test]
async fn a_replay_records_the_version_though_the_row_has_another_snapshot() {
    let mut world = World::new().await;
    let bot = world.running().await;
    world.write(bot, "two").await;
    stuck_snapshot(&world, bot).await;
    world.memory.clear_faults();
    world.workspaces.close(Duration::from_secs(5)).await;
    // As if the workspace had been made again from its image meanwhile.
    let unfinished = world.store.operations.unfinished().await.unwrap();
    let made = SnapshotKey::version(unfinished[0].id);
    let runtime = world.memory.runtime();
    let lease = "elsewhere".parse().unwrap();
    runtime.leases.create(&lease).await.unwrap();
    let other: SnapshotKey = "active-elsewhere".parse().unwrap();
    let labels = runtime.snapshots.get(&made).await.unwrap().labels;
    let base = runtime.images.unpack(&lease, &image(IMAGE)).await.unwrap();
    let prepared = runtime
        .snapshots
        .prepare(&lease, &other, Some(&base), &labels);
    prepared.await.unwrap();
    let patch = botstead_store::ContainerPatch {
        snapshot: Some(other),
        ..Default::default()
    };
    let change = Change::PatchContainer(bot, Box::new(patch));
    world.store.transactions.apply(vec![change]).await.unwrap();
    runtime.leases.delete(lease.as_str()).await.unwrap();
    world.restart().await;
    let versions = world.store.versions.list(bot).await.unwrap();
    let kept = versions.iter().find(|one| one.snapshot == made).unwrap();
    let kept = world.memory.read_file(&kept.snapshot, "data/file");
    assert_eq!(kept.as_deref(), Some(&b"two"[..]));
    world.workspaces.start(&world.owner, bot).await.unwrap();
}

#[tokio::test]
async fn a_workspace_is_rebuilt_on_its_own_snapshot_whatever_the_row_says() {
    let world = World::new().await;
    let bot = world.running().await;
    world.write(bot, "one").await;
    world.snapshot(bot).await;
    world.write(bot, "two").await;
    // The row names one that is gone, the container its own.
    let own = world.record(bot).await.snapshot;
    let patch = botstead_store::ContainerPatch {
        snapshot: Some("active-gone".parse().unwrap()),
        ..Default::default()
    };
    let change = Change::PatchContainer(bot, Box::new(patch));
    world.store.transactions.apply(vec![change]).await.unwrap();
    world
        .memory
        .fail_next("tasks.create", ErrorKind::NotFound, 1);
    stop_and_start(&world, bot).await;
    assert_eq!(world.record(bot).await.snapshot, own);
    assert_eq!(world.read(bot).await.as_deref(), Some("two"));
    world.check_whole().await;
}

#[tokio::test]
async fn a_pin_waits_for_what_deletes_versions() {
    let world = World::new().await;
    let bot = world.running().await;
    world.snapshot(bot).await;
    let slow = botstead_runtime_testing::PullScript {
        hangs_after: Some(0),
        ..Default::default()
    };
    let other = image("registry.test/slow:1");
    let content = botstead_runtime_testing::ImageContent::of_files([("a", "b")]);
    world.memory.add_remote_image(&other, content, slow);
    world
        .workspaces
        .delete(&world.owner, bot, DeleteRequest::default())
        .await
        .unwrap();
    let wanted = request(other.as_str());
    let creation = world.workspaces.create(&world.owner, bot, wanted).await;
    let pin = VersionUpdate {
        pinned: Some(true),
        ..VersionUpdate::default()
    };
    let w = &world.workspaces;
    // The creation holds the bot; where it does not yet, the pin is simply done.
    let busy = async {
        loop {
            let update = w.update_version(&world.owner, bot, version(1), pin.clone());
            if let Err(error) = update.await {
                break error;
            }
            tokio::task::yield_now().await;
        }
    };
    let busy = tokio::time::timeout(Duration::from_secs(10), busy).await;
    let Ok(Error::Busy { operation, .. }) = busy else {
        panic!("{busy:?}");
    };
    w.cancel_operation(&world.owner, bot, operation)
        .await
        .unwrap();
    creation.unwrap().collect::<Vec<_>>().await;
    w.update_version(&world.owner, bot, version(1), pin)
        .await
        .unwrap();
}
