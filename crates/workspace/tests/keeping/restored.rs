//! Preserved data that is brought back: its archive goes when its data is in the workspace, and never
//! because an older database takes something else for that.

use crate::common::World;
use crate::{MOST_CALLS, backup, bury, ended, is_somewhere, kept_database, restore, with_archive};
use botstead_store::{Change, ContainerPatch, OperationKind, OperationState};
use botstead_types::BotId;

async fn check_restored(world: &World, bot: BotId, context: &str) {
    world.settled().await;
    world.memory.runtime().leases.collect().await.unwrap();
    let precious = !world.archives(bot).is_empty() || is_somewhere(world, "precious");
    assert!(precious, "{context}: what was preserved is gone");
    assert!(is_somewhere(world, "present"), "{context}");
    let unfinished = world.store.operations.unfinished().await.unwrap();
    assert!(unfinished.is_empty(), "{context}: {unfinished:?}");
}

#[tokio::test]
async fn a_restore_that_went_back_keeps_its_archive_whatever_database_is_put_back() {
    for calls in 0..MOST_CALLS {
        let mut world = World::new().await;
        let bot = with_archive(&world).await;
        world.memory.kill_after(calls);
        let w = world.workspaces.clone();
        let done = w.restore_data(&world.owner, bot, None).await.is_ok();
        let copy = backup(&world, "middle.db").await;
        bury(&world).await;
        world.restart().await;
        check_restored(&world, bot, &format!("started after {calls} calls")).await;
        restore(&mut world, &copy).await;
        check_restored(&world, bot, &format!("put back after {calls} calls")).await;
        if done {
            return;
        }
    }
    panic!("it never came to its end");
}

#[tokio::test]
async fn a_restore_that_an_older_database_does_not_know_keeps_its_archive() {
    for calls in 0..MOST_CALLS {
        let mut world = World::new().await;
        let bot = with_archive(&world).await;
        let older = backup(&world, "older.db").await;
        world.memory.kill_after(calls);
        let w = world.workspaces.clone();
        let done = w.restore_data(&world.owner, bot, None).await.is_ok();
        bury(&world).await;
        restore(&mut world, &older).await;
        check_restored(&world, bot, &format!("older after {calls} calls")).await;
        let kept = kept_database(&world);
        restore(&mut world, &kept).await;
        check_restored(&world, bot, &format!("kept after {calls} calls")).await;
        if done {
            return;
        }
    }
    panic!("it never came to its end");
}

#[tokio::test]
async fn a_way_back_that_an_earlier_release_left_is_ended_as_one() {
    for calls in 0..MOST_CALLS {
        let mut world = World::new().await;
        let bot = with_archive(&world).await;
        let before = world.record(bot).await.snapshot;
        let archive = world.archives(bot).pop().unwrap();
        let aside = world.preserved().join("aside");
        std::fs::copy(&archive, &aside).unwrap();
        world.memory.kill_after(calls);
        let w = world.workspaces.clone();
        let restored = w.restore_data(&world.owner, bot, None).await;
        bury(&world).await;
        let containers = world.memory.containers();
        if containers.iter().all(|one| one.snapshot == before.as_str()) {
            continue;
        }
        // They gave the state before the name of the new one. It is switched to, and not recorded yet.
        restored.unwrap_err();
        let left = world.store.operations.unfinished().await.unwrap();
        let row = ContainerPatch {
            snapshot: Some(before),
            ..ContainerPatch::default()
        };
        let reverting = vec![
            Change::PatchContainer(bot, Box::new(row)),
            Change::AdvanceOperation {
                id: left[0].id,
                step: "reverting".to_owned(),
                input: None,
            },
        ];
        std::fs::create_dir_all(archive.parent().unwrap()).unwrap();
        std::fs::copy(&aside, &archive).unwrap();
        world.store.transactions.apply(reverting).await.unwrap();
        world.restart().await;
        let ended = ended(&world, bot, OperationKind::Restore).await;
        assert_eq!(ended.state, OperationState::Failed);
        assert!(archive.exists());
        check_restored(&world, bot, "reverting").await;
        world.check_whole().await;
        return;
    }
    panic!("it was never switched");
}
