//! Databases that were put back.

use crate::common::World;
use crate::{
    backup, is_somewhere, lose_container, lose_row, lose_snapshot, restore, stop_and_start, version,
};
use botstead_authz::Actor;
use botstead_runtime::ErrorKind;
use botstead_types::{BotId, DesiredState, VersionNumber, VersionSource};
use botstead_workspace::{
    ArchiveFormat, CreateEvent, DeleteRequest, Leftover, SnapshotMode, discard_leftover,
    find_leftovers, remove_leftover,
};
use chrono::TimeDelta;
use futures_util::StreamExt;
use std::time::Duration;

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
async fn what_was_kept_of_an_orphan_is_the_nearest_state_of_a_row_that_names_it() {
    let mut world = World::new().await;
    let bot = world.running().await;
    world.write(bot, "one").await;
    world.snapshot(bot).await;
    world.write(bot, "precious").await;
    let copy = backup(&world, "older.db").await;
    lose_row(&world, bot).await;
    lose_container(&world, bot).await;
    world.create(bot).await;
    world.settled().await;
    let own = world.record(bot).await.snapshot;
    world.workspaces.stop(&world.owner, bot).await.unwrap();
    lose_container(&world, bot).await;
    lose_snapshot(&world, &own).await;
    restore(&mut world, &copy).await;
    assert_eq!(world.read(bot).await.as_deref(), Some("precious"));
    world.check_whole().await;
}

#[tokio::test]
async fn a_copy_of_an_earlier_release_is_older_than_what_it_is_of() {
    let mut world = World::new().await;
    let bot = world.running().await;
    let copy = backup(&world, "older.db").await;
    world.write(bot, "one").await;
    world.snapshot(bot).await;
    world.write(bot, "two").await;
    world.live_snapshot(bot).await;
    world.write(bot, "three").await;
    world.settled().await;
    world.workspaces.stop(&world.owner, bot).await.unwrap();
    lose_container(&world, bot).await;
    let runtime = world.memory.runtime();
    for mut snapshot in world.memory.snapshots() {
        snapshot.labels.remove("botstead.made_of");
        let told = runtime
            .snapshots
            .set_labels(&snapshot.key, &snapshot.labels);
        told.await.unwrap();
    }
    restore(&mut world, &copy).await;
    assert_eq!(world.read(bot).await.as_deref(), Some("three"));
    world.check_whole().await;
}

/// A bot whose database says that the workspace equals version 1, "one", and could not be compared at the
/// start: it holds "precious". So many attempts fail.
async fn uncompared(attempts: usize) -> (World, BotId) {
    let mut world = World::new().await;
    let bot = world.running().await;
    let w = world.workspaces.clone();
    w.stop(&world.owner, bot).await.unwrap();
    world.write(bot, "one").await;
    world.snapshot(bot).await;
    let copy = backup(&world, "older.db").await;
    w.start(&world.owner, bot).await.unwrap();
    world.live_snapshot(bot).await;
    world.write(bot, "precious").await;
    w.stop(&world.owner, bot).await.unwrap();
    world.settled().await;
    // As one of an image that the older database does not know.
    let made = world.store.versions.get(bot, version(2)).await.unwrap();
    let snapshots = world.memory.runtime().snapshots;
    let mut labels = snapshots.get(&made.snapshot).await.unwrap().labels;
    labels.remove("botstead.image_digest");
    snapshots.set_labels(&made.snapshot, &labels).await.unwrap();
    let kind = ErrorKind::Unavailable;
    world.memory.fail_next("images.get", kind, attempts);
    restore(&mut world, &copy).await;
    (world, bot)
}

#[tokio::test]
async fn what_cannot_be_compared_is_neither_exported_nor_preserved_and_deleted() {
    let (world, bot) = uncompared(usize::MAX).await;
    let w = &world.workspaces;
    let exported = w.export_data(&world.owner, bot, ArchiveFormat::TarGz).await;
    assert_eq!(exported.err().unwrap().code(), "runtime_unavailable");
    let preserving = DeleteRequest {
        preserve_data: true,
        ..DeleteRequest::default()
    };
    let deleted = w.delete(&world.owner, bot, preserving).await;
    assert_eq!(deleted.unwrap_err().code(), "runtime_unavailable");
    assert!(is_somewhere(&world, "precious"));
    world.memory.clear_faults();
    // It can be compared again.
    w.delete(&world.owner, bot, preserving).await.unwrap();
    world.create(bot).await;
    assert_eq!(world.read(bot).await.as_deref(), Some("precious"));
}

#[tokio::test]
async fn what_could_not_be_compared_at_the_start_is_compared_before_it_is_acted_upon() {
    let (world, bot) = uncompared(1).await;
    assert!(world.memory.pending_faults().is_empty());
    let w = world.workspaces.clone();
    w.rollback(&world.owner, bot, version(1), false)
        .await
        .unwrap();
    let versions = world.store.versions.list(bot).await.unwrap();
    let kept = versions.last().unwrap();
    let kept = world.memory.read_file(&kept.snapshot, "data/file");
    assert_eq!(kept.as_deref(), Some("precious".as_bytes()));
    world.check_whole().await;
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

#[tokio::test]
async fn a_creation_in_an_older_database_does_not_remove_what_lost_its_container() {
    let mut world = World::new().await;
    let bot = world.bot().await;
    // The container is made, nobody hears of it, and nothing can be undone.
    let kind = ErrorKind::Unavailable;
    world.memory.lose_answer_next("containers.create", kind, 1);
    for call in ["tasks.get", "tasks.kill", "tasks.delete"] {
        world.memory.fail_next(call, kind, 1000);
    }
    world.create(bot).await;
    let copy = backup(&world, "middle.db").await;
    world.workspaces.close(Duration::from_secs(5)).await;
    world.memory.clear_faults();
    world.restart().await;
    world.write(bot, "newer").await;
    world.workspaces.stop(&world.owner, bot).await.unwrap();
    world.settled().await;
    lose_container(&world, bot).await;
    restore(&mut world, &copy).await;
    world.create(bot).await;
    assert_eq!(world.read(bot).await.as_deref(), Some("newer"));
}
