//! Operations that lack a start or go back from one, in every order with others, with kills, restarts and
//! older databases: nothing that was written is lost.

use crate::common::{World, container};
use crate::{MOST_CALLS, backup, bury, is_somewhere, restore, version, with_archive};
use botstead_runtime::ErrorKind;
use botstead_runtime_testing::memory::UNSTARTABLE;
use botstead_store::OperationKind;
use botstead_types::BotId;
use botstead_workspace::{ImportMode, SnapshotMode};
use std::time::Duration;

pub(crate) fn archive(content: &str) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    tar.append_data(&mut header, "file", content.as_bytes())
        .unwrap();
    tar.into_inner().unwrap()
}

/// Anywhere at all, named or not.
pub(crate) fn anywhere(world: &World, content: &str) -> bool {
    world.memory.snapshots().iter().any(|found| {
        let file = world.memory.read_file(&found.key, "data/file");
        file.as_deref() == Some(content.as_bytes())
    })
}

pub(crate) async fn two_states(world: &World) -> BotId {
    let bot = world.running().await;
    world.write(bot, "one").await;
    world.snapshot(bot).await;
    world.write(bot, "two").await;
    world.settled().await;
    bot
}

/// An older database, and what became of the new state cannot be started now.
#[tokio::test]
async fn a_way_back_with_an_older_database_loses_nothing_written_since() {
    let mut lost = Vec::new();
    for import in [false, true] {
        for calls in 0..MOST_CALLS {
            let mut world = World::new().await;
            let bot = two_states(&world).await;
            world.memory.stop_answering_after(calls);
            let w = world.workspaces.clone();
            let done = match import {
                true => world
                    .import(bot, &archive("new"), ImportMode::Merge)
                    .await
                    .is_ok(),
                false => w
                    .rollback(&world.owner, bot, version(1), false)
                    .await
                    .is_ok(),
            };
            let untouched = world.memory.is_answering();
            let copy = backup(&world, "middle.db").await;
            world.workspaces.close(Duration::from_secs(5)).await;
            world.memory.answer_again();
            world.restart().await;
            world.workspaces.start(&world.owner, bot).await.unwrap();
            world.write(bot, "newer").await;
            world.write_to(bot, UNSTARTABLE, "").await;
            world.settled().await;
            world.memory.restart_host();
            let steps: Vec<_> = world.store.operations.unfinished().await.unwrap();
            assert!(steps.is_empty());
            restore(&mut world, &copy).await;
            world.settled().await;
            world.memory.runtime().leases.collect().await.unwrap();
            let row = world.read(bot).await;
            if row.as_deref() != Some("newer") {
                lost.push((
                    import,
                    calls,
                    row,
                    is_somewhere(&world, "newer"),
                    anywhere(&world, "newer"),
                ));
            }
            if done && untouched {
                break;
            }
        }
    }
    assert!(
        lost.is_empty(),
        "(import, calls, now, kept, anywhere): {lost:#?}"
    );
}

/// The journal of the release before: the archive went before the start.
#[tokio::test]
async fn a_restore_of_the_release_before_that_cannot_start_keeps_what_was_preserved() {
    let mut world = World::new().await;
    let bot = with_archive(&world).await;
    world
        .memory
        .fail_next("tasks.create", ErrorKind::ResourceExhausted, 1000);
    let w = world.workspaces.clone();
    w.restore_data(&world.owner, bot, None).await.unwrap_err();
    world.workspaces.close(Duration::from_secs(5)).await;
    let left = world.store.operations.unfinished().await.unwrap();
    assert_eq!(left[0].step, "recorded");
    // That release removed the archive before it started the workspace.
    std::fs::remove_file(world.archives(bot).pop().unwrap()).unwrap();
    world.memory.clear_faults();
    world
        .memory
        .fail_next("tasks.create", ErrorKind::Unstartable, 1);
    world.restart().await;
    world.settled().await;
    world.memory.runtime().leases.collect().await.unwrap();
    assert!(
        !world.archives(bot).is_empty() || is_somewhere(&world, "precious"),
        "lost; the workspace has {:?}, anywhere: {}",
        world.read(bot).await,
        anywhere(&world, "precious")
    );
}

/// The row of an older database, and a container that is several operations further.
#[tokio::test]
async fn a_way_back_leaves_a_workspace_that_moved_on() {
    let mut world = World::new().await;
    let bot = two_states(&world).await;
    world
        .memory
        .fail_next("tasks.create", ErrorKind::Unavailable, 1);
    let w = world.workspaces.clone();
    w.rollback(&world.owner, bot, version(1), false)
        .await
        .unwrap_err();
    let copy = backup(&world, "middle.db").await;
    world.restart().await;
    world.workspaces.start(&world.owner, bot).await.unwrap();
    world.write(bot, "newer").await;
    world.snapshot(bot).await;
    world.write(bot, "newest").await;
    world.settled().await;
    world.memory.restart_host();
    world
        .memory
        .fail_next("tasks.create", ErrorKind::Unstartable, 1);
    restore(&mut world, &copy).await;
    world.settled().await;
    world.memory.runtime().leases.collect().await.unwrap();
    let now = world.read(bot).await;
    assert_eq!(
        now.as_deref(),
        Some("newest"),
        "kept: {}, anywhere: {}",
        is_somewhere(&world, "newest"),
        anywhere(&world, "newest")
    );
}

/// An operation beside one that lacks only a start is cut off itself.
#[tokio::test]
async fn what_is_cut_off_beside_one_that_lacks_a_start_loses_no_state() {
    let mut lost = Vec::new();
    for restarted in [false, true] {
        for stop_mode in [false, true] {
            let mut world = World::new().await;
            let bot = two_states(&world).await;
            let w = world.workspaces.clone();
            world
                .memory
                .fail_next("tasks.create", ErrorKind::ResourceExhausted, 1000);
            world
                .import(bot, &archive("imported"), ImportMode::Merge)
                .await
                .unwrap_err();
            assert_eq!(world.read(bot).await.as_deref(), Some("imported"));
            // Beside it; the disk is full.
            world
                .memory
                .fail_next("snapshots.prepare", ErrorKind::ResourceExhausted, 1000);
            let failed = match stop_mode {
                true => w
                    .snapshot(&world.owner, bot, None, SnapshotMode::Stop)
                    .await
                    .map(drop),
                false => w
                    .rollback(&world.owner, bot, version(1), false)
                    .await
                    .map(drop),
            };
            failed.unwrap_err();
            let left: Vec<_> = world
                .store
                .operations
                .unfinished()
                .await
                .unwrap()
                .into_iter()
                .map(|one| (one.kind, one.step))
                .collect();
            world.memory.clear_faults();
            match restarted {
                true => world.restart().await,
                false => {
                    let _ = world.workspaces.start(&world.owner, bot).await;
                }
            }
            world.settled().await;
            let now = world.read(bot).await;
            let page = botstead_types::PageRequest::default();
            let ops: Vec<_> = world
                .store
                .operations
                .list(bot, &page)
                .await
                .unwrap()
                .items
                .into_iter()
                .map(|one| (one.kind, one.state, one.step))
                .collect();
            let expected = if stop_mode { "imported" } else { "one" };
            if now.as_deref() != Some(expected) {
                lost.push(format!("restarted {restarted}, stop {stop_mode}: has {now:?}, not {expected}; left {left:?}, ops {ops:?}, kept {}",
                    is_somewhere(&world, "imported")));
            }
        }
    }
    assert!(lost.is_empty(), "{lost:#?}");
}

/// A deletion beside one that lacks only a start.
#[tokio::test]
async fn a_deletion_beside_one_that_lacks_a_start_goes_forward() {
    for restarted in [false, true] {
        let mut world = World::new().await;
        let bot = two_states(&world).await;
        let w = world.workspaces.clone();
        world
            .memory
            .fail_next("tasks.create", ErrorKind::ResourceExhausted, 1000);
        w.rollback(&world.owner, bot, version(1), false)
            .await
            .unwrap_err();
        world
            .memory
            .fail_next("snapshots.release", ErrorKind::Unavailable, 1);
        w.delete_bot(&world.owner, bot, false).await.unwrap_err();
        world.memory.clear_faults();
        match restarted {
            true => world.restart().await,
            false => {
                let _ = w.start(&world.owner, bot).await;
            }
        }
        world.settled().await;
        assert!(
            world.store.bots.get(bot).await.is_err(),
            "restarted {restarted}: the bot is there again, with {:?}",
            world
                .store
                .containers
                .get(bot)
                .await
                .ok()
                .map(|row| (row.desired, row.snapshot))
        );
        world.check_whole().await;
    }
}

/// The removal of a fork in an older database.
#[tokio::test]
async fn the_removal_of_a_fork_in_an_older_database_leaves_a_newer_workspace() {
    let mut tried = 0;
    for calls in 0..MOST_CALLS {
        let mut world = World::new().await;
        let from = world.running().await;
        world.write_to(from, UNSTARTABLE, "").await;
        world.live_snapshot(from).await;
        let to = world.bot().await;
        world.settled().await;
        world.memory.stop_answering_after(calls);
        let w = world.workspaces.clone();
        let forked = w.fork(&world.owner, to, from, Some(version(1))).await;
        let untouched = world.memory.is_answering();
        let copy = backup(&world, "middle.db").await;
        let left = world.store.operations.unfinished().await.unwrap();
        let removing = left.iter().any(|one| one.step == "removing");
        world.memory.answer_again();
        if removing {
            tried += 1;
            world.restart().await;
            assert!(world.store.containers.get(to).await.is_err());
            world.create(to).await;
            world.write(to, "newer").await;
            world.settled().await;
            // The address is what the database says.
            let networks = |world: &World| {
                let all = world.memory.namespaces().into_iter();
                let all = all.map(|(id, endpoint)| (id, endpoint.is_some()));
                all.collect::<Vec<_>>()
            };
            let (tasks, before) = (world.memory.tasks(), networks(&world));
            restore(&mut world, &copy).await;
            world.settled().await;
            assert_eq!(world.read(to).await.as_deref(), Some("newer"));
            assert_eq!(networks(&world), before, "{calls}: its network is gone");
            assert_eq!(world.memory.tasks(), tasks, "{calls}: it was restarted");
        }
        if untouched {
            assert_eq!(forked.unwrap_err().code(), "cannot_start");
            break;
        }
    }
    assert!(tried > 0);
}

/// On a full disk, on the way back.
#[tokio::test]
async fn on_a_full_disk_a_way_back_keeps_nobody_from_exporting_and_deleting_versions() {
    let world = World::new().await;
    let bot = two_states(&world).await;
    let w = world.workspaces.clone();
    world
        .memory
        .fail_next("tasks.create", ErrorKind::ResourceExhausted, 1);
    w.rollback(&world.owner, bot, version(1), false)
        .await
        .unwrap_err();
    world
        .memory
        .fail_next("tasks.create", ErrorKind::Unstartable, 1);
    world
        .memory
        .fail_next("snapshots.prepare", ErrorKind::ResourceExhausted, 1000);
    let _ = w.start(&world.owner, bot).await;
    let left = world.store.operations.unfinished().await.unwrap();
    eprintln!(
        "{:?}",
        left.iter()
            .map(|one| (one.kind, one.step.clone()))
            .collect::<Vec<_>>()
    );
    let exported = w
        .export_data(&world.owner, bot, botstead_workspace::ArchiveFormat::TarZst)
        .await
        .map(drop);
    let deleted = w.delete_version(&world.owner, bot, version(1)).await;
    assert!(
        exported.is_ok() && deleted.is_ok(),
        "{exported:?} {deleted:?}"
    );
}

/// Sweeps: killed at every call, then also with that database put back later.
#[tokio::test]
async fn a_restore_that_cannot_start_keeps_both_whatever_is_killed() {
    for calls in 0..MOST_CALLS {
        let mut world = World::new().await;
        let bot = with_archive(&world).await;
        world
            .memory
            .fail_next("tasks.create", ErrorKind::Unstartable, 1);
        world.memory.kill_after(calls);
        let w = world.workspaces.clone();
        let done = w.restore_data(&world.owner, bot, None).await;
        let copy = backup(&world, "middle.db").await;
        bury(&world).await;
        for put_back in [false, true] {
            if put_back {
                // The host was restarted, and the workspace does not start this time.
                world.memory.restart_host();
                world
                    .memory
                    .fail_next("tasks.create", ErrorKind::Unstartable, 1);
            }
            match put_back {
                false => world.restart().await,
                true => restore(&mut world, &copy).await,
            }
            world.settled().await;
            world.memory.runtime().leases.collect().await.unwrap();
            let ops = world
                .store
                .operations
                .list(bot, &Default::default())
                .await
                .unwrap()
                .items;
            let context = format!(
                "{calls} put back {put_back}, workspace {:?}, precious anywhere {}, op {:?}",
                world.read(bot).await,
                anywhere(&world, "precious"),
                ops.iter()
                    .find(|one| one.kind == OperationKind::Restore)
                    .map(|one| (one.state, one.step.clone()))
            );
            assert!(
                !world.archives(bot).is_empty() || is_somewhere(&world, "precious"),
                "{context}"
            );
            assert!(is_somewhere(&world, "present"), "{context}");
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
        }
        if matches!(&done, Err(error) if error.code() == "cannot_start")
            && world.memory.pending_faults().is_empty()
            && calls > 30
        {
            return;
        }
    }
}

#[tokio::test]
async fn a_fork_that_cannot_start_ends_whatever_is_killed() {
    for killed in [false, true] {
        for calls in 0..MOST_CALLS {
            let mut world = World::new().await;
            let from = world.running().await;
            world.write(from, "theirs").await;
            world.write_to(from, UNSTARTABLE, "").await;
            world.live_snapshot(from).await;
            let to = world.bot().await;
            world.settled().await;
            let before = world.memory.snapshots().len();
            match killed {
                true => world.memory.kill_after(calls),
                false => world.memory.stop_answering_after(calls),
            }
            let w = world.workspaces.clone();
            let forked = w.fork(&world.owner, to, from, Some(version(1))).await;
            let copy = backup(&world, "middle.db").await;
            let untouched = world.memory.is_answering();
            bury(&world).await;
            world.memory.answer_again();
            for put_back in [false, true] {
                match put_back {
                    false => world.restart().await,
                    true => restore(&mut world, &copy).await,
                }
                world.settled().await;
                let context = format!("{killed} {calls} {put_back}");
                world.memory.runtime().leases.collect().await.unwrap();
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
                assert!(is_somewhere(&world, "theirs"), "{context}");
                if world.store.containers.get(to).await.is_err() {
                    assert!(
                        world.store.versions.list(to).await.unwrap().is_empty(),
                        "{context}"
                    );
                    assert_eq!(world.memory.snapshots().len(), before, "{context}");
                    assert!(
                        world
                            .memory
                            .containers()
                            .iter()
                            .all(|one| one.id != container(to)),
                        "{context}"
                    );
                }
            }
            if !killed && untouched
                || killed && matches!(&forked, Err(error) if error.code() == "cannot_start")
            {
                break;
            }
        }
    }
}
