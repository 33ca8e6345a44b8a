//! Deletions that a dead server left, in a database that is put back later: what came of the workspace
//! meanwhile is newer than they are.

use crate::common::World;
use crate::{MOST_CALLS, backup, bury, is_somewhere, kept_database, restore, version};
use botstead_runtime::ErrorKind;
use botstead_types::BotId;
use botstead_workspace::{ArchiveFormat, DeleteRequest, SnapshotMode, VersionUpdate};

async fn pin(world: &World, bot: BotId) {
    let update = VersionUpdate {
        pinned: Some(true),
        ..VersionUpdate::default()
    };
    let w = &world.workspaces;
    let pinned = w.update_version(&world.owner, bot, version(1), update);
    assert!(pinned.await.unwrap().pinned);
}

async fn check_pinned(world: &World, bot: BotId, context: &str) {
    world.settled().await;
    world.memory.runtime().leases.collect().await.unwrap();
    let found = world.store.versions.get(bot, version(1)).await;
    let found = found.unwrap_or_else(|error| panic!("{context}: {error}"));
    assert!(found.pinned, "{context}");
    let content = world.memory.read_file(&found.snapshot, "data/file");
    assert_eq!(content.as_deref(), Some("one".as_bytes()), "{context}");
}

#[derive(Debug, Clone, Copy)]
enum Deletion {
    Workspace,
    Versions,
    Preserving,
    Bot,
}

async fn delete(world: &World, bot: BotId, what: Deletion) -> bool {
    let (w, owner) = (&world.workspaces, &world.owner);
    let request = match what {
        Deletion::Bot => return w.delete_bot(owner, bot, false).await.is_ok(),
        Deletion::Workspace => DeleteRequest::default(),
        Deletion::Versions => DeleteRequest {
            delete_versions: true,
            ..DeleteRequest::default()
        },
        Deletion::Preserving => DeleteRequest {
            preserve_data: true,
            ..DeleteRequest::default()
        },
    };
    w.delete(owner, bot, request).await.is_ok()
}

async fn delete_and_go_on(what: Deletion) {
    for calls in 0..MOST_CALLS {
        let mut world = World::new().await;
        let bot = world.running().await;
        world.write(bot, "one").await;
        world.snapshot(bot).await;
        world.settled().await;
        let older = backup(&world, "older.db").await;
        world.memory.kill_after(calls);
        let done = delete(&world, bot, what).await;
        bury(&world).await;
        restore(&mut world, &older).await;
        let context = format!("{what:?} after {calls} calls");
        let versions = world.store.versions.list(bot).await.unwrap();
        let snapshots = world.memory.snapshots();
        let is_there = snapshots.iter().any(|one| one.key == versions[0].snapshot);
        if is_there {
            pin(&world, bot).await;
        }
        // As what is lost it has nothing to write to.
        let named = world.record(bot).await.snapshot;
        let written = snapshots.iter().any(|one| one.key == named);
        if written {
            world.write(bot, "two").await;
        }
        let kept = kept_database(&world);
        restore(&mut world, &kept).await;
        if world.store.bots.get(bot).await.is_err() {
            // Recorded as gone: what is there belongs to a bot that nobody knows.
            assert!(!written || is_somewhere(&world, "two"), "{context}");
            return;
        }
        if written {
            let now = world.read(bot).await;
            assert_eq!(now.as_deref(), Some("two"), "{context}");
        }
        if is_there {
            check_pinned(&world, bot, &context).await;
        }
        let unfinished = world.store.operations.unfinished().await.unwrap();
        assert!(unfinished.is_empty(), "{context}: {unfinished:?}");
        if done {
            return;
        }
    }
    panic!("it never came to its end");
}

#[tokio::test]
async fn a_deletion_that_is_put_back_removes_nothing_that_is_newer() {
    delete_and_go_on(Deletion::Workspace).await;
    delete_and_go_on(Deletion::Versions).await;
    delete_and_go_on(Deletion::Preserving).await;
}

#[tokio::test]
async fn a_deletion_of_a_bot_that_is_put_back_removes_nothing_that_is_newer() {
    delete_and_go_on(Deletion::Bot).await;
}

#[tokio::test]
async fn a_deletion_of_a_version_that_is_put_back_removes_none_that_was_pinned_since() {
    for calls in 0..MOST_CALLS {
        let mut world = World::new().await;
        let bot = world.running().await;
        world.write(bot, "one").await;
        world.snapshot(bot).await;
        world.settled().await;
        let older = backup(&world, "older.db").await;
        world.memory.kill_after(calls);
        let w = world.workspaces.clone();
        let deleted = w.delete_version(&world.owner, bot, version(1)).await;
        bury(&world).await;
        restore(&mut world, &older).await;
        let made = world.store.versions.get(bot, version(1)).await.unwrap();
        let snapshots = world.memory.snapshots();
        if snapshots.iter().any(|one| one.key == made.snapshot) {
            pin(&world, bot).await;
            let kept = kept_database(&world);
            restore(&mut world, &kept).await;
            check_pinned(&world, bot, &format!("after {calls} calls")).await;
        }
        if deleted.is_ok() {
            return;
        }
    }
    panic!("it never came to its end");
}

#[tokio::test]
async fn what_cannot_start_after_an_operation_is_exported_and_preserved() {
    let world = World::new().await;
    let bot = world.running().await;
    world.write(bot, "precious").await;
    let (w, owner) = (&world.workspaces, &world.owner);
    let kind = ErrorKind::Unavailable;
    world.memory.fail_next("tasks.create", kind, 1000);
    let taken = w.snapshot(owner, bot, None, SnapshotMode::Stop).await;
    taken.unwrap_err();
    assert!(!world.export(bot, ArchiveFormat::TarZst).await.is_empty());
    assert!(delete(&world, bot, Deletion::Preserving).await);
    assert_eq!(world.archives(bot).len(), 1);
    world.memory.clear_faults();
    world.create(bot).await;
    assert_eq!(world.read(bot).await.as_deref(), Some("precious"));
    world.check_whole().await;
}
