//! What was half made or half undone: no archive goes whose data is nowhere else, and no workspace goes on
//! with half of anything.

use crate::common::World;
use crate::common::gated::Gated;
use crate::{
    MOST_CALLS, backup, bury, ended, lose_container, lose_snapshot, preserve, restore, version,
};
use botstead_runtime::ErrorKind;
use botstead_runtime_testing::InMemoryRuntime;
use botstead_store::{BotStatus, Change, Operation, OperationKind, OperationState, Transactions};
use botstead_types::{OperationId, SnapshotKind};
use botstead_workspace::{CreateEvent, DeleteRequest, ImportMode};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

#[tokio::test]
async fn a_creation_that_was_half_undone_keeps_the_archive_that_it_brought_back() {
    for (call, refused) in [
        ("snapshots.remove", false),
        ("snapshots.remove", true),
        ("containers.delete", false),
        ("containers.delete", true),
    ] {
        let mut world = World::new().await;
        let bot = world.running().await;
        preserve(&world, bot, "precious").await;
        let memory = &world.memory;
        memory.fail_next("tasks.create", ErrorKind::ResourceExhausted, 1);
        match refused {
            true => memory.fail_next(call, ErrorKind::Unavailable, 1),
            false => memory.lose_answer_next(call, ErrorKind::Unavailable, 1),
        }
        let events = world.create(bot).await;
        assert!(matches!(events.last(), Some(CreateEvent::Failed(_))));
        world.restart().await;
        world.workspaces.close(Duration::from_secs(5)).await;
        let there = match world.store.containers.get(bot).await {
            Ok(_) => world.read(bot).await,
            Err(_) => None,
        };
        let archived = !world.archives(bot).is_empty();
        assert!(
            archived || there.as_deref() == Some("precious"),
            "{call} {refused}: {there:?}"
        );
        let unfinished = world.store.operations.unfinished().await.unwrap();
        assert!(unfinished.is_empty(), "{unfinished:?}");
    }
}

#[tokio::test]
async fn a_creation_whose_workspace_is_gone_keeps_the_archive_that_it_brought_back() {
    let mut world = World::new().await;
    let bot = world.running().await;
    preserve(&world, bot, "precious").await;
    let kept = world.archives(bot).pop().unwrap();
    let aside = world.preserved().join("aside");
    std::fs::copy(&kept, &aside).unwrap();
    // Recorded, and not ended: as a server leaves it that is killed then.
    world.create(bot).await;
    world.settled().await;
    let own = world.record(bot).await.snapshot;
    let returned = ended(&world, bot, OperationKind::Create).await;
    world.workspaces.close(Duration::from_secs(5)).await;
    let again = OperationId::generate();
    let unfinished = Operation {
        id: again,
        state: OperationState::Running,
        ..returned
    };
    world
        .store
        .operations
        .begin(&unfinished, false)
        .await
        .unwrap();
    std::fs::create_dir_all(kept.parent().unwrap()).unwrap();
    std::fs::copy(&aside, &kept).unwrap();
    lose_container(&world, bot).await;
    lose_snapshot(&world, &own).await;
    world.restart().await;
    assert!(kept.exists(), "its data is nowhere else");
}

fn archive() -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for name in ["file", "new"] {
        let mut header = tar::Header::new_gnu();
        header.set_size(3);
        header.set_mode(0o644);
        tar.append_data(&mut header, name, &b"new"[..]).unwrap();
    }
    tar.into_inner().unwrap()
}

#[tokio::test]
async fn what_a_dead_creation_or_fork_prepared_is_nobodys_work() {
    for forked in [false, true] {
        for calls in 0..MOST_CALLS {
            let mut world = World::new().await;
            let other = world.running().await;
            world.write(other, "theirs").await;
            let bot = world.running().await;
            preserve(&world, bot, "precious").await;
            world.settled().await;
            let older = backup(&world, "older.db").await;
            world.memory.kill_after(calls);
            let w = world.workspaces.clone();
            match forked {
                true => drop(w.fork(&world.owner, bot, other, None).await),
                false => drop(world.create(bot).await),
            }
            bury(&world).await;
            let own = crate::common::container(bot);
            let made = world.memory.containers().iter().any(|one| one.id == own);
            restore(&mut world, &older).await;
            if made {
                assert!(calls > 3, "nothing was interrupted");
                break;
            }
            world.create(bot).await;
            let now = world.read(bot).await;
            let context = format!("forked {forked}, {calls} calls before");
            assert_eq!(now.as_deref(), Some("precious"), "{context}");
        }
    }
}

#[tokio::test]
async fn what_a_change_that_failed_made_is_nobodys_work_where_it_cannot_be_removed() {
    let mut gated = None;
    let world = World::with(InMemoryRuntime::new(), |runtime, _| {
        gated = Some(Gated::before(runtime));
    })
    .await;
    let gated = gated.unwrap();
    let bot = world.running().await;
    world.write(bot, "old").await;
    // Equal to its version: the workspace's own snapshot stays until it has the new one.
    world.workspaces.stop(&world.owner, bot).await.unwrap();
    world.snapshot(bot).await;
    gated.close();
    let memory = &world.memory;
    let archive = archive();
    let imported = world.import(bot, &archive, ImportMode::Merge);
    let meanwhile = async {
        gated.arrived.notified().await;
        memory.fail_next("containers.switch", ErrorKind::ResourceExhausted, 1);
        memory.fail_next("snapshots.remove", ErrorKind::Unavailable, 1);
        // Enough for whoever brings anything back later.
        gated.gate.add_permits(100);
    };
    let (imported, ()) = tokio::join!(imported, meanwhile);
    imported.unwrap_err();
    assert!(memory.pending_faults().is_empty());
    let w = &world.workspaces;
    let deletion = DeleteRequest::default();
    w.delete(&world.owner, bot, deletion).await.unwrap();
    world.create(bot).await;
    assert_eq!(world.read_from(bot, "data/new").await, None);
}

#[tokio::test]
async fn no_workspace_goes_on_with_half_an_import() {
    let mut halves = 0;
    for calls in 0..MOST_CALLS {
        let mut world = World::new().await;
        let bot = world.running().await;
        world.write(bot, "old").await;
        world.settled().await;
        let older = backup(&world, "older.db").await;
        let before = world.record(bot).await.snapshot;
        world.memory.kill_after(calls);
        let done = world.import(bot, &archive(), ImportMode::Merge).await;
        bury(&world).await;
        // Killed in the middle of the change.
        for found in world.memory.snapshots() {
            let changed = world.memory.read_file(&found.key, "data/new").is_some();
            if found.kind == SnapshotKind::Active && found.key != before && !changed {
                world.memory.write_file(&found.key, "data/half", "half");
                halves += 1;
            }
        }
        restore(&mut world, &older).await;
        let context = format!("after {calls} calls");
        assert_eq!(world.read_from(bot, "data/half").await, None, "{context}");
        let now = world.read(bot).await.unwrap();
        let whole = world.read_from(bot, "data/new").await.is_some();
        assert_eq!(now, if whole { "new" } else { "old" }, "{context}");
        if done.is_ok() {
            assert!(halves > 0, "nothing was interrupted in its change");
            return;
        }
    }
    panic!("it never came to its end");
}

/// Transactions of which the one that says that a workspace was created fails once.
struct Unready {
    inner: Arc<dyn Transactions>,
    failed: AtomicBool,
}

#[async_trait::async_trait]
impl Transactions for Unready {
    async fn apply(&self, changes: Vec<Change>) -> botstead_store::Result<()> {
        let created = |change: &Change| matches!(change, Change::AppendEvent(event) if event.kind == "created");
        if changes.iter().any(created) && !self.failed.swap(true, Ordering::SeqCst) {
            let kind = botstead_store::ErrorKind::Unavailable;
            return Err(botstead_store::Error::new(kind, "apply", "changes"));
        }
        self.inner.apply(changes).await
    }
}

#[tokio::test]
async fn a_workspace_that_runs_stays_where_its_creation_cannot_be_ended() {
    for archived in [false, true] {
        let mut world = World::new().await;
        let bot = world.running().await;
        preserve(&world, bot, "precious").await;
        if !archived {
            std::fs::remove_file(world.archives(bot).pop().unwrap()).unwrap();
        }
        world.workspaces.close(Duration::from_secs(5)).await;
        let unready = Arc::new(Unready {
            inner: Arc::clone(&world.store.transactions),
            failed: false.into(),
        });
        world.store.transactions = Arc::clone(&unready) as Arc<dyn Transactions>;
        world.restart().await;
        let events = world.create(bot).await;
        assert!(unready.failed.load(Ordering::SeqCst));
        assert!(
            matches!(events.last(), Some(CreateEvent::Complete(_))),
            "{events:?}"
        );
        // What it is asked to do meanwhile is done in the workspace that ran.
        let ran = world.record(bot).await.snapshot;
        world.write(bot, "answered").await;
        world.workspaces.start(&world.owner, bot).await.unwrap();
        assert_eq!(world.record(bot).await.snapshot, ran);
        assert_eq!(world.read(bot).await.as_deref(), Some("answered"));
        let status = world.store.bots.get(bot).await.unwrap().status;
        assert_eq!(status, BotStatus::Ready);
        let created = ended(&world, bot, OperationKind::Create).await;
        assert_eq!(created.state, OperationState::Succeeded);
        assert!(world.archives(bot).is_empty());
        world.check_whole().await;
    }
}

#[tokio::test]
async fn a_rollback_that_a_deletion_left_behind_makes_no_workspace_again() {
    let mut world = World::new().await;
    let bot = world.running().await;
    world.write(bot, "one").await;
    world.snapshot(bot).await;
    let (w, owner) = (&world.workspaces, &world.owner);
    let delete = async || {
        w.delete(owner, bot, DeleteRequest::default())
            .await
            .unwrap()
    };
    delete().await;
    w.rollback(owner, bot, version(1), false).await.unwrap();
    world.settled().await;
    let done = ended(&world, bot, OperationKind::Rollback).await;
    assert_eq!(done.step, "recorded");
    delete().await;
    world.workspaces.close(Duration::from_secs(5)).await;
    // Recorded and not started, as a server leaves it that dies right after the deletion.
    let left = Operation {
        id: OperationId::generate(),
        state: OperationState::Running,
        ..done
    };
    world.store.operations.begin(&left, false).await.unwrap();
    world.restart().await;
    let record = world.store.containers.get(bot).await;
    assert!(record.is_err(), "{record:?}");
    world.check_whole().await;
}
