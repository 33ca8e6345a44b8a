//! Operations that lack a start or go back from one, and what comes after them: another operation, a restart, an
//! older database.

use crate::beside::{anywhere, archive, two_states};
use crate::common::World;
use crate::{MOST_CALLS, backup, bury, ended, is_somewhere, restore, version, with_archive};
use botstead_runtime::ErrorKind;
use botstead_runtime_testing::memory::UNSTARTABLE;
use botstead_store::{OperationKind, OperationState};
use botstead_workspace::{DeleteRequest, ImportMode};
use std::time::Duration;

/// A rollback to what cannot start, with the database of its middle put back later.
#[tokio::test]
async fn a_vain_rollback_in_an_older_database_undoes_nothing() {
    let mut lost = Vec::new();
    for killed in [false, true] {
        for calls in 0..MOST_CALLS {
            let mut world = World::new().await;
            let bot = world.running().await;
            world.write(bot, "one").await;
            world.write_to(bot, UNSTARTABLE, "").await;
            world.live_snapshot(bot).await;
            let active = world.record(bot).await.snapshot;
            world.memory.remove_file(&active, UNSTARTABLE);
            world.write(bot, "two").await;
            world.settled().await;
            match killed {
                true => world.memory.kill_after(calls),
                false => world.memory.stop_answering_after(calls),
            }
            let w = world.workspaces.clone();
            let done = w.rollback(&world.owner, bot, version(1), false).await;
            let untouched = world.memory.is_answering();
            let copy = backup(&world, "middle.db").await;
            let step = world
                .store
                .operations
                .unfinished()
                .await
                .unwrap()
                .first()
                .map(|one| one.step.clone());
            bury(&world).await;
            world.memory.answer_again();
            world.restart().await;
            let w = world.workspaces.clone();
            if w.start(&world.owner, bot).await.is_err() {
                let kept = world.store.versions.list(bot).await.unwrap();
                let kept = kept.last().unwrap().number;
                w.rollback(&world.owner, bot, kept, false).await.unwrap();
            }
            world.write(bot, "newer").await;
            world.settled().await;
            for crashed in [false, true] {
                if crashed {
                    world.memory.restart_host();
                    world
                        .memory
                        .fail_next("tasks.create", ErrorKind::Unstartable, 1);
                }
                restore(&mut world, &copy).await;
                world.settled().await;
                world.memory.runtime().leases.collect().await.unwrap();
                world.memory.clear_faults();
                let now = world.read(bot).await;
                if now.as_deref() != Some("newer") {
                    lost.push((
                        killed,
                        calls,
                        crashed,
                        step.clone(),
                        now,
                        is_somewhere(&world, "newer"),
                        anywhere(&world, "newer"),
                    ));
                }
                let left = world.store.operations.unfinished().await.unwrap();
                assert!(left.is_empty(), "{left:?}");
            }
            if !killed && untouched
                || killed && matches!(&done, Err(error) if error.code() == "cannot_start")
            {
                break;
            }
        }
    }
    assert!(
        lost.is_empty(),
        "(killed, calls, crashed, step, now, kept, anywhere): {lost:#?}"
    );
}

/// The database was not put back: the server was ended between the start and its record.
#[tokio::test]
async fn what_ran_is_kept_when_it_cannot_be_started_again() {
    let mut world = World::new().await;
    let bot = two_states(&world).await;
    let w = world.workspaces.clone();
    world
        .memory
        .fail_next("tasks.create", ErrorKind::Unavailable, 2);
    w.rollback(&world.owner, bot, version(1), false)
        .await
        .unwrap_err();
    // The user asks again: what waits is tried first and fails, then the start itself succeeds.
    w.start(&world.owner, bot).await.unwrap();
    world.write(bot, "precious").await;
    world.write_to(bot, UNSTARTABLE, "").await;
    let left = world.store.operations.unfinished().await.unwrap();
    eprintln!(
        "{:?}",
        left.iter()
            .map(|one| (one.kind, one.step.clone()))
            .collect::<Vec<_>>()
    );
    // The host goes down before anybody looked.
    world.memory.restart_host();
    world.restart().await;
    world.settled().await;
    world.memory.runtime().leases.collect().await.unwrap();
    assert!(
        is_somewhere(&world, "precious"),
        "lost; now {:?}, anywhere {}",
        world.read(bot).await,
        anywhere(&world, "precious")
    );
}

/// The start of a restore succeeded beside it, then another operation supersedes it.
#[tokio::test]
async fn a_restore_beside_others_keeps_or_returns() {
    let world = World::new().await;
    let bot = with_archive(&world).await;
    let w = world.workspaces.clone();
    world
        .memory
        .fail_next("tasks.create", ErrorKind::Unavailable, 2);
    w.restore_data(&world.owner, bot, None).await.unwrap_err();
    w.stop(&world.owner, bot).await.unwrap();
    world.memory.clear_faults();
    w.start(&world.owner, bot).await.unwrap();
    assert_eq!(world.read(bot).await.as_deref(), Some("precious"));
    let restored = ended(&world, bot, OperationKind::Restore).await;
    eprintln!(
        "{:?} archives {}",
        restored.state,
        world.archives(bot).len()
    );
    assert_eq!(restored.state, OperationState::Succeeded);
    world.check_whole().await;
    let _ = DeleteRequest::default();
}

/// A workspace that runs, and whose way back is taken for something else than a start.
#[tokio::test]
async fn a_workspace_that_runs_is_not_left_because_its_network_is_refused() {
    let mut world = World::new().await;
    let bot = two_states(&world).await;
    let w = world.workspaces.clone();
    world
        .memory
        .fail_next("tasks.create", ErrorKind::Unavailable, 2);
    w.rollback(&world.owner, bot, version(1), false)
        .await
        .unwrap_err();
    w.start(&world.owner, bot).await.unwrap();
    world.write(bot, "precious").await;
    world
        .memory
        .fail_next("network.status", ErrorKind::Conflict, 1);
    world.restart().await;
    world.settled().await;
    world.memory.runtime().leases.collect().await.unwrap();
    assert!(
        is_somewhere(&world, "precious"),
        "lost; now {:?}, anywhere {}",
        world.read(bot).await,
        anywhere(&world, "precious")
    );
}

/// The same kind on the way through the recorded restore of this release: its archive goes after the start.
#[tokio::test]
async fn a_restore_that_ended_keeps_its_data_in_an_older_database() {
    let mut world = World::new().await;
    let bot = with_archive(&world).await;
    let w = world.workspaces.clone();
    world
        .memory
        .fail_next("tasks.create", ErrorKind::Unavailable, 1);
    w.restore_data(&world.owner, bot, None).await.unwrap_err();
    let copy = backup(&world, "middle.db").await;
    // It ends by itself, and its archive goes.
    w.start(&world.owner, bot).await.unwrap();
    assert_eq!(
        (world.archives(bot).len(), world.read(bot).await.as_deref()),
        (0, Some("precious"))
    );
    world.settled().await;
    world.memory.restart_host();
    world
        .memory
        .fail_next("tasks.create", ErrorKind::Unstartable, 1);
    restore(&mut world, &copy).await;
    world.settled().await;
    world.memory.runtime().leases.collect().await.unwrap();
    assert!(
        is_somewhere(&world, "precious"),
        "lost; now {:?}, anywhere {}",
        world.read(bot).await,
        anywhere(&world, "precious")
    );
}

/// What stays beside: a restore that another operation supersedes keeps its archive.
#[tokio::test]
async fn what_supersedes_a_restore_loses_nothing() {
    for calls in 0..MOST_CALLS {
        let mut world = World::new().await;
        let bot = with_archive(&world).await;
        let w = world.workspaces.clone();
        world
            .memory
            .fail_next("tasks.create", ErrorKind::ResourceExhausted, 2);
        w.restore_data(&world.owner, bot, None).await.unwrap_err();
        world.memory.kill_after(calls);
        let done = world
            .import(bot, &archive("imported"), ImportMode::Merge)
            .await;
        bury(&world).await;
        world.memory.clear_faults();
        // What the killed server had handed to its database's thread.
        tokio::time::sleep(Duration::from_millis(500)).await;
        world.restart().await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        let ops = world
            .store
            .operations
            .list(bot, &Default::default())
            .await
            .unwrap()
            .items;
        let told: Vec<_> = ops
            .iter()
            .map(|one| (one.id, one.kind, one.state, one.step.clone()))
            .collect();
        assert!(
            world.memory.leases().is_empty(),
            "{calls}: leases {:?}, ops {told:?}, now {:?}",
            world.memory.leases(),
            world.read(bot).await
        );
        world.settled().await;
        world.memory.runtime().leases.collect().await.unwrap();
        let context = format!(
            "{calls}: now {:?}, archives {}, left {:?}",
            world.read(bot).await,
            world.archives(bot).len(),
            world.store.operations.unfinished().await.unwrap()
        );
        assert!(is_somewhere(&world, "present"), "{context}");
        assert!(
            is_somewhere(&world, "precious") || !world.archives(bot).is_empty(),
            "{context}"
        );
        assert!(
            world
                .store
                .operations
                .unfinished()
                .await
                .unwrap()
                .is_empty(),
            "{context}"
        );
        world.check_whole().await;
        if done.is_ok() {
            return;
        }
    }
}

/// An archive goes although what it was brought back into is gone.
#[tokio::test]
async fn an_archive_stays_when_what_it_was_put_into_is_gone() {
    let mut lost = Vec::new();
    for by_deletion in [false, true] {
        let world = World::new().await;
        let bot = with_archive(&world).await;
        let w = world.workspaces.clone();
        world
            .memory
            .fail_next("tasks.create", ErrorKind::ResourceExhausted, 1000);
        w.restore_data(&world.owner, bot, None).await.unwrap_err();
        match by_deletion {
            true => {
                world
                    .memory
                    .fail_next("snapshots.release", ErrorKind::Unavailable, 1);
                let all = DeleteRequest {
                    delete_versions: true,
                    ..DeleteRequest::default()
                };
                w.delete(&world.owner, bot, all).await.unwrap_err();
            }
            false => {
                let active = world.record(bot).await.snapshot;
                crate::lose_snapshot(&world, &active).await;
            }
        }
        world.memory.clear_faults();
        let _ = w.start(&world.owner, bot).await;
        world.settled().await;
        world.memory.runtime().leases.collect().await.unwrap();
        if world.archives(bot).is_empty() && !is_somewhere(&world, "precious") {
            lost.push((
                by_deletion,
                world.read(bot).await,
                anywhere(&world, "precious"),
            ));
        }
    }
    assert!(lost.is_empty(), "(by a deletion, now, anywhere): {lost:?}");
}
