//! Databases that are older than what they describe, and things that vanish behind the server's back:
//! what a user wrote is still there, and can be reached.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod common;

use botstead_authz::Actor;
use botstead_runtime::{ErrorKind, Signal};
use botstead_store::{Change, OperationState};
use botstead_store_sql::{SqlConfig, SqlStore};
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

/// The folder of the test's data.
fn folder(world: &World) -> std::path::PathBuf {
    world.preserved().parent().unwrap().to_owned()
}

/// As `admin backup`: a copy of the database.
async fn backup(world: &World, name: &str) -> std::path::PathBuf {
    let copy = folder(world).join(name);
    let path = folder(world).join("botstead.db");
    let database = SqlStore::open(&SqlConfig::at(path)).await.unwrap();
    database.backup_to(&copy).await.unwrap();
    database.close().await;
    copy
}

/// As `admin restore` and a start: the server goes on with the copy.
async fn restore(world: &mut World, copy: &std::path::Path) {
    world.workspaces.close(Duration::from_secs(5)).await;
    let database = SqlStore::open(&SqlConfig::at(copy)).await.unwrap();
    world.store = database.store();
    let folder = folder(world);
    let opened = common::open(&world.memory, &world.store, &folder).await;
    world.workspaces = opened.unwrap();
}

#[tokio::test]
async fn an_older_database_takes_over_what_became_of_a_workspace() {
    let mut world = World::new().await;
    let bot = world.running().await;
    world.write(bot, "one").await;
    world.snapshot(bot).await;
    let copy = backup(&world, "older.db").await;

    world.write(bot, "two").await;
    let named = Some("second".to_owned());
    let w = world.workspaces.clone();
    w.snapshot(&world.owner, bot, named, SnapshotMode::Live)
        .await
        .unwrap();
    world.write(bot, "three").await;
    w.rollback(&world.owner, bot, version(1), false)
        .await
        .unwrap();
    world.write(bot, "four").await;
    world.settled().await;
    let tasks = world.memory.tasks();
    restore(&mut world, &copy).await;

    assert_eq!(world.memory.tasks(), tasks, "nothing was restarted");
    assert_eq!(world.read(bot).await.as_deref(), Some("four"));
    assert_eq!(world.record(bot).await.head_version, Some(version(1)));
    let versions = world.store.versions.list(bot).await.unwrap();
    let told: Vec<_> = versions
        .iter()
        .map(|one| {
            (
                one.number.get(),
                one.parent.map(VersionNumber::get),
                one.source,
            )
        })
        .collect();
    assert_eq!(
        told,
        [
            (1, None, VersionSource::Manual),
            (2, Some(1), VersionSource::Recovered),
            (3, Some(2), VersionSource::Recovered),
        ]
    );
    assert_eq!(versions[1].name.as_deref(), Some("second"));
    for (at, content) in [(1, "two"), (2, "three")] {
        let kept = world.memory.read_file(&versions[at].snapshot, "data/file");
        assert_eq!(kept.as_deref(), Some(content.as_bytes()));
        assert_eq!(versions[at].image, versions[0].image);
    }
    assert_eq!(world.snapshot(bot).await, 4, "numbers go on");
    stop_and_start(&world, bot).await;
    assert_eq!(world.read(bot).await.as_deref(), Some("four"));
    world.check_whole().await;
    restore(&mut world, &copy).await;
    world.check_whole().await;
    assert_eq!(world.store.versions.list(bot).await.unwrap().len(), 4);
}

#[tokio::test]
async fn workspaces_that_an_older_database_does_not_have_are_adopted_as_they_are() {
    let mut world = World::new().await;
    let (runs, stopped) = (world.bot().await, world.bot().await);
    let copy = backup(&world, "older.db").await;
    for bot in [runs, stopped] {
        world.create(bot).await;
        world.write(bot, "precious").await;
    }
    world.workspaces.stop(&world.owner, stopped).await.unwrap();
    let tasks = world.memory.tasks();
    restore(&mut world, &copy).await;
    assert_eq!(world.record(runs).await.desired, DesiredState::Running);
    assert_eq!(world.record(stopped).await.desired, DesiredState::Stopped);
    assert_eq!(world.memory.tasks(), tasks, "nothing was restarted");
    world.check_whole().await;
    for bot in [runs, stopped] {
        world.create(bot).await;
        stop_and_start(&world, bot).await;
        assert_eq!(world.read(bot).await.as_deref(), Some("precious"));
    }
    world.check_whole().await;
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Create,
    Snapshot,
    Live,
    Rollback,
    Import,
    Fork,
    Delete,
    DeleteVersion,
}

/// Performs it on the bot; a fork is made of `other`.
async fn perform(world: &World, bot: BotId, other: BotId, step: Step) -> bool {
    let (owner, w) = (&world.owner, &world.workspaces);
    match step {
        Step::Create => matches!(
            world.create(bot).await.last(),
            Some(CreateEvent::Complete(_))
        ),
        Step::Snapshot => w
            .snapshot(owner, bot, None, SnapshotMode::Stop)
            .await
            .is_ok(),
        Step::Live => w
            .snapshot(owner, bot, None, SnapshotMode::Live)
            .await
            .is_ok(),
        Step::Rollback => w.rollback(owner, bot, version(1), false).await.is_ok(),
        Step::Import => {
            let mut tar = tar::Builder::new(Vec::new());
            let mut header = tar::Header::new_gnu();
            header.set_size(3);
            header.set_mode(0o644);
            tar.append_data(&mut header, "data/new", &b"new"[..])
                .unwrap();
            let archive = tar.into_inner().unwrap();
            let mode = botstead_workspace::ImportMode::Merge;
            world.import(bot, &archive, mode).await.is_ok()
        }
        Step::Fork => w.fork(owner, bot, other, None).await.is_ok(),
        Step::Delete => w.delete(owner, bot, DeleteRequest::default()).await.is_ok(),
        Step::DeleteVersion => w.delete_version(owner, bot, version(1)).await.is_ok(),
    }
}

/// A copy of the database is made in the middle of an operation, at every point of it; the operation
/// comes to its end, the workspace is written to, and the copy is put back.
async fn in_the_middle(step: Step) {
    for calls in 0..60 {
        let mut world = World::new().await;
        let other = world.running().await;
        let bot = match step {
            Step::Create | Step::Fork => world.bot().await,
            _ => {
                let bot = world.running().await;
                world.write(bot, "one").await;
                world.snapshot(bot).await;
                world.write(bot, "two").await;
                bot
            }
        };
        world.settled().await;
        world.memory.stop_answering_after(calls);
        let done = perform(&world, bot, other, step).await;
        let untouched = world.memory.is_answering();
        let copy = backup(&world, "middle.db").await;
        world.workspaces.close(Duration::from_secs(5)).await;
        world.memory.answer_again();
        world.restart().await;
        if world.store.containers.get(bot).await.is_err() {
            let _ = perform(&world, bot, other, Step::Create).await;
        }
        world.workspaces.start(&world.owner, bot).await.unwrap();
        world.write(bot, "newer").await;
        world.settled().await;
        let context = format!("{step:?}, {calls} calls before");
        restore(&mut world, &copy).await;
        assert_eq!(world.read(bot).await.as_deref(), Some("newer"), "{context}");
        world.workspaces.stop(&world.owner, bot).await.unwrap();
        world.workspaces.start(&world.owner, bot).await.unwrap();
        assert_eq!(world.read(bot).await.as_deref(), Some("newer"), "{context}");
        let unfinished = world.store.operations.unfinished().await.unwrap();
        assert!(unfinished.is_empty(), "{context}: {unfinished:?}");
        if done && untouched {
            return;
        }
    }
    panic!("{step:?} never came to its end");
}

#[tokio::test]
async fn a_creation_in_an_older_database_undoes_nothing() {
    in_the_middle(Step::Create).await;
}

#[tokio::test]
async fn a_snapshot_in_an_older_database_undoes_nothing() {
    in_the_middle(Step::Snapshot).await;
    in_the_middle(Step::Live).await;
}

#[tokio::test]
async fn a_replacement_in_an_older_database_undoes_nothing() {
    in_the_middle(Step::Rollback).await;
    in_the_middle(Step::Import).await;
}

#[tokio::test]
async fn a_fork_in_an_older_database_undoes_nothing() {
    in_the_middle(Step::Fork).await;
}

#[tokio::test]
async fn a_deletion_in_an_older_database_undoes_nothing() {
    in_the_middle(Step::Delete).await;
    in_the_middle(Step::DeleteVersion).await;
}

#[tokio::test]
async fn a_rollback_that_kept_nothing_keeps_what_was_written_since() {
    let mut world = World::new().await;
    let bot = world.running().await;
    world.write(bot, "one").await;
    world.snapshot(bot).await;
    world.workspaces.stop(&world.owner, bot).await.unwrap();
    world.snapshot(bot).await;
    // It equals version 2 and is not kept; it ends before anything was done.
    world.memory.stop_answering_after(2);
    let w = world.workspaces.clone();
    w.rollback(&world.owner, bot, version(1), false)
        .await
        .unwrap_err();
    let copy = backup(&world, "middle.db").await;
    world.memory.answer_again();
    world.restart().await;
    world.workspaces.start(&world.owner, bot).await.unwrap();
    world.write(bot, "newer").await;
    restore(&mut world, &copy).await;
    assert_eq!(world.read(bot).await.as_deref(), Some("newer"));
}

#[tokio::test]
async fn versions_of_earlier_releases_are_recorded_again_as_far_as_they_tell() {
    let mut world = World::new().await;
    let bot = world.running().await;
    world.write(bot, "one").await;
    world.snapshot(bot).await;
    let copy = backup(&world, "older.db").await;
    world.write(bot, "two").await;
    world.snapshot(bot).await;
    world.settled().await;
    let runtime = world.memory.runtime();
    for snapshot in world.memory.snapshots() {
        let mut labels = snapshot.labels;
        labels.retain(|key, _| {
            ["botstead.bot_id", "botstead.layers", "botstead.base"].contains(&key.as_str())
        });
        let told = runtime.snapshots.set_labels(&snapshot.key, &labels).await;
        told.unwrap();
    }
    restore(&mut world, &copy).await;
    let versions = world.store.versions.list(bot).await.unwrap();
    assert_eq!(versions.len(), 2);
    let found = &versions[1];
    assert_eq!((found.number, found.parent), (version(2), Some(version(1))));
    assert_eq!(found.image, versions[0].image);
    assert_eq!(found.source, VersionSource::Recovered);
    assert_eq!(world.record(bot).await.head_version, Some(version(2)));
    assert_eq!(world.read(bot).await.as_deref(), Some("two"));
    world.check_whole().await;
}

#[tokio::test]
async fn a_row_whose_snapshot_is_gone_gets_the_nearest_state_that_is_left() {
    let mut world = World::new().await;
    let bot = world.running().await;
    world.write(bot, "one").await;
    world.snapshot(bot).await;
    let copy = backup(&world, "older.db").await;
    // The row of the copy names what became version 2; the container of the later one is gone.
    world.write(bot, "two").await;
    world.snapshot(bot).await;
    world.write(bot, "three").await;
    // Stopped, so that nobody starts it again meanwhile.
    world.workspaces.stop(&world.owner, bot).await.unwrap();
    lose_container(&world, bot).await;
    restore(&mut world, &copy).await;
    assert_eq!(world.read(bot).await.as_deref(), Some("three"));
    world.check_whole().await;
    // Without the writable one: the version that was made of what the row names.
    let own = world.record(bot).await.snapshot;
    world.workspaces.stop(&world.owner, bot).await.unwrap();
    lose_container(&world, bot).await;
    lose_snapshot(&world, &own).await;
    world.workspaces.start(&world.owner, bot).await.unwrap();
    assert_eq!(world.read(bot).await.as_deref(), Some("two"));
    world.check_whole().await;
}

#[tokio::test]
async fn from_a_workspace_that_is_lost_there_is_always_a_way() {
    let world = World::new().await;
    for way in ["start", "rollback", "delete", "fork"] {
        let bot = world.running().await;
        if way == "rollback" {
            world.write(bot, "one").await;
            world.snapshot(bot).await;
            world.write(bot, "two").await;
        }
        let own = world.record(bot).await.snapshot;
        // Stopped, so that nobody starts it again between the two.
        world.workspaces.stop(&world.owner, bot).await.unwrap();
        lose_container(&world, bot).await;
        lose_snapshot(&world, &own).await;
        let (owner, w) = (&world.owner, &world.workspaces);
        if way != "rollback" {
            let archive = w.export_data(owner, bot, ArchiveFormat::TarGz).await;
            assert_eq!(archive.err().unwrap().code(), "workspace_lost");
            let made = w.snapshot(owner, bot, None, SnapshotMode::Stop).await;
            assert_eq!(made.unwrap_err().code(), "workspace_lost");
            let preserving = DeleteRequest {
                preserve_data: true,
                ..DeleteRequest::default()
            };
            let saved = w.delete(owner, bot, preserving).await;
            assert_eq!(saved.unwrap_err().code(), "workspace_lost");
            let info = w.get(owner, bot).await.unwrap();
            assert!(info.last_error.unwrap().contains("lost"));
            assert_eq!(w.statistics().await.unwrap().workspaces_lost, 1);
        }
        match way {
            "start" => w.start(owner, bot).await.unwrap(),
            "rollback" => {
                w.rollback(owner, bot, version(1), false).await.unwrap();
                assert_eq!(world.read(bot).await.as_deref(), Some("one"));
            }
            "delete" => {
                w.delete(owner, bot, DeleteRequest::default())
                    .await
                    .unwrap();
                world.create(bot).await;
            }
            _ => {
                let to = world.bot().await;
                let forked = w.fork(owner, to, bot, None).await;
                assert_eq!(forked.unwrap_err().code(), "workspace_lost");
                w.start(owner, bot).await.unwrap();
            }
        }
        let w = &world.workspaces;
        assert_eq!(w.statistics().await.unwrap().workspaces_lost, 0, "{way}");
        world.check_whole().await;
    }
}

#[tokio::test]
async fn a_version_that_is_gone_is_counted_and_the_others_are_reached() {
    let mut world = World::new().await;
    let bot = world.running().await;
    world.write(bot, "one").await;
    world.live_snapshot(bot).await;
    world.write(bot, "two").await;
    world.live_snapshot(bot).await;
    world.settled().await;
    let gone = world.store.versions.get(bot, version(2)).await.unwrap();
    lose_snapshot(&world, &gone.snapshot).await;
    world.restart().await;
    let (owner, w) = (&world.owner, &world.workspaces);
    assert_eq!(w.statistics().await.unwrap().versions_missing, 1);
    let missing = w.rollback(owner, bot, version(2), false).await;
    assert_eq!(missing.unwrap_err().code(), "version_missing");
    w.rollback(owner, bot, version(1), false).await.unwrap();
    assert_eq!(world.read(bot).await.as_deref(), Some("one"));
    w.delete_version(owner, bot, version(2)).await.unwrap();
    world.check_whole().await;
}

#[tokio::test]
async fn what_cannot_be_told_from_a_head_that_is_gone_is_kept() {
    let world = World::new().await;
    let bot = world.running().await;
    world.workspaces.stop(&world.owner, bot).await.unwrap();
    world.write(bot, "one").await;
    world.snapshot(bot).await;
    // Equal to version 1, and version 1 is no version any more.
    let gone = vec![Change::DeleteVersion(bot, version(1))];
    world.store.transactions.apply(gone).await.unwrap();
    let archive = world.export(bot, ArchiveFormat::TarGz).await;
    assert!(!archive.is_empty());
    let made = world.snapshot(bot).await;
    let kept = world.store.versions.get(bot, version(made.into())).await;
    let kept = world.memory.read_file(&kept.unwrap().snapshot, "data/file");
    assert_eq!(kept.as_deref(), Some(&b"one"[..]));
}

#[tokio::test]
async fn a_version_that_an_older_database_still_has_is_protected_again() {
    let mut world = World::new().await;
    let bot = world.running().await;
    world.write(bot, "one").await;
    world.snapshot(bot).await;
    let copy = backup(&world, "older.db").await;
    let w = world.workspaces.clone();
    w.delete_version(&world.owner, bot, version(1))
        .await
        .unwrap();
    world.settled().await;
    restore(&mut world, &copy).await;
    let all = DeleteRequest::default();
    world
        .workspaces
        .delete(&world.owner, bot, all)
        .await
        .unwrap();
    world.settled().await;
    let w = world.workspaces.clone();
    w.rollback(&world.owner, bot, version(1), false)
        .await
        .unwrap();
    assert_eq!(world.read(bot).await.as_deref(), Some("one"));
}

#[tokio::test]
async fn an_operation_that_can_go_neither_way_is_given_up_and_said() {
    let world = World::new().await;
    let bot = world.running().await;
    world.write(bot, "one").await;
    world.snapshot(bot).await;
    world.write(bot, "two").await;
    let kind = ErrorKind::InvalidArgument;
    world.memory.fail_next("snapshots.prepare", kind, 2);
    let (owner, w) = (&world.owner, &world.workspaces);
    let failed = w.snapshot(owner, bot, None, SnapshotMode::Stop).await;
    failed.unwrap_err();
    // Tried once more, and given up; what was kept is what it goes on from.
    w.stop(owner, bot).await.unwrap();
    let page = PageRequest::default();
    let operations = w.operations(owner, bot, &page).await.unwrap().items;
    let failed = operations
        .iter()
        .find(|one| one.operation.state == OperationState::Failed)
        .unwrap();
    assert_eq!(failed.operation.error.as_ref().unwrap().code, "given_up");
    let info = w.get(owner, bot).await.unwrap();
    assert!(info.last_error.unwrap().contains("left as it was"));
    w.start(owner, bot).await.unwrap();
    assert_eq!(world.read(bot).await.as_deref(), Some("two"));
    w.rollback(owner, bot, version(1), false).await.unwrap();
    assert_eq!(world.read(bot).await.as_deref(), Some("one"));
    world.check_whole().await;
}

#[tokio::test]
async fn what_belongs_to_bots_that_the_database_does_not_know_can_be_exported() {
    let mut world = World::new().await;
    let copy = backup(&world, "older.db").await;
    let bot = world.running().await;
    world.write(bot, "one").await;
    world.snapshot(bot).await;
    world.write(bot, "two").await;
    world.settled().await;
    restore(&mut world, &copy).await;
    let (owner, w) = (&world.owner, &world.workspaces);
    assert_eq!(w.unrecorded(owner).await.unwrap_err().code(), "forbidden");
    let found = w.unrecorded(&Actor::System).await.unwrap();
    assert_eq!(found.len(), 2, "{found:?}");
    for one in &found {
        assert!(!one.bot_exists && one.bot == bot, "{one:?}");
        let name = one.name.as_str();
        let refused = w.export_unrecorded(owner, name, ArchiveFormat::TarGz).await;
        assert_eq!(refused.err().unwrap().code(), "forbidden");
        let archive = w
            .export_unrecorded(&Actor::System, name, ArchiveFormat::TarGz)
            .await
            .unwrap();
        let archive: Vec<_> = archive.map(Result::unwrap).collect().await;
        let expected = if one.container.is_some() {
            "two"
        } else {
            "one"
        };
        let to = world.running().await;
        let mode = botstead_workspace::ImportMode::Replace;
        world.import(to, &archive.concat(), mode).await.unwrap();
        assert_eq!(world.read(to).await.as_deref(), Some(expected));
    }
    let none = w.export_unrecorded(&Actor::System, "active-none", ArchiveFormat::TarGz);
    assert_eq!(none.await.err().unwrap().code(), "nothing_to_recover");

    // A repair removes none of it, unless it is named.
    let runtime = world.memory.runtime();
    let look = || find_leftovers(&runtime, &world.store, TimeDelta::zero());
    world.settled().await;
    for leftover in look().await.unwrap() {
        remove_leftover(&runtime, &world.store, &leftover)
            .await
            .unwrap();
    }
    runtime.leases.collect().await.unwrap();
    assert_eq!(w.unrecorded(&Actor::System).await.unwrap(), found);
    let of_container =
        |one: &Leftover| matches!(one, Leftover::Unrecorded(found) if found.container.is_some());
    let named = look()
        .await
        .unwrap()
        .into_iter()
        .find(of_container)
        .unwrap();
    discard_leftover(&runtime, &named).await.unwrap();
    let left = w.unrecorded(&Actor::System).await.unwrap();
    assert_eq!(left.len(), 1);
    let name = left[0].name.as_str();
    let refused = w.discard_unrecorded(owner, name).await;
    assert_eq!(refused.unwrap_err().code(), "forbidden");
    w.discard_unrecorded(&Actor::System, name).await.unwrap();
    assert_eq!(w.unrecorded(&Actor::System).await.unwrap(), []);
    world.check_whole().await;
}
