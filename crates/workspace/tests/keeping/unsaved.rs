//! Databases that were put back and say of a workspace that it equals its head version.

use crate::common::{OTHER_IMAGE, World, image};
use crate::{backup, restore, version};
use botstead_types::BotId;
use botstead_workspace::{ArchiveFormat, CreateEvent, ImportMode, SnapshotMode};
use futures_util::StreamExt;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum From {
    /// A version of the stopped workspace.
    Snapshot,
    /// A fork of a stopped workspace.
    Fork,
}

/// A workspace that equals its version 1 in the database that was put back, and holds `newer`.
async fn believed_clean(from: From, runs: bool) -> (World, BotId) {
    let mut world = World::new().await;
    let bot = world.running().await;
    world.write(bot, "one").await;
    let w = world.workspaces.clone();
    w.stop(&world.owner, bot).await.unwrap();
    let bot = match from {
        From::Snapshot => {
            w.snapshot(&world.owner, bot, None, SnapshotMode::Stop)
                .await
                .unwrap();
            bot
        }
        From::Fork => {
            let to = world.bot().await;
            w.fork(&world.owner, to, bot, None).await.unwrap();
            to
        }
    };
    world.settled().await;
    assert!(!world.record(bot).await.dirty);
    let copy = backup(&world, "older.db").await;
    w.start(&world.owner, bot).await.unwrap();
    world.write(bot, "newer").await;
    if !runs {
        w.stop(&world.owner, bot).await.unwrap();
    }
    restore(&mut world, &copy).await;
    assert_eq!(world.read(bot).await.as_deref(), Some("newer"));
    (world, bot)
}

/// What versions of the bot's hold.
async fn kept(world: &World, bot: BotId) -> Vec<String> {
    let versions = world.store.versions.list(bot).await.unwrap();
    let content = |key| world.memory.read_file(key, "data/file").unwrap();
    versions
        .iter()
        .map(|one| String::from_utf8(content(&one.snapshot).to_vec()).unwrap())
        .collect()
}

#[tokio::test]
async fn a_rollback_keeps_what_an_older_database_does_not_know_of() {
    for from in [From::Snapshot, From::Fork] {
        for runs in [false, true] {
            let (world, bot) = believed_clean(from, runs).await;
            let w = &world.workspaces;
            w.rollback(&world.owner, bot, version(1), false)
                .await
                .unwrap();
            assert_eq!(kept(&world, bot).await, ["one", "newer"], "{from:?} {runs}");
            world.check_whole().await;
        }
    }
}

#[tokio::test]
async fn an_import_and_another_image_keep_what_an_older_database_does_not_know_of() {
    for from in [From::Snapshot, From::Fork] {
        let (world, bot) = believed_clean(from, false).await;
        let other = world.running().await;
        world.write(other, "other").await;
        let archive = world.export(other, ArchiveFormat::TarGz).await;
        world
            .import(bot, &archive, ImportMode::Replace)
            .await
            .unwrap();
        assert_eq!(kept(&world, bot).await, ["one", "newer"], "{from:?}");

        let (world, bot) = believed_clean(from, false).await;
        let changed = world
            .workspaces
            .change_image(&world.owner, bot, image(OTHER_IMAGE))
            .await;
        let events: Vec<_> = changed.unwrap().collect().await;
        assert!(matches!(events.last(), Some(CreateEvent::Complete(_))));
        assert_eq!(kept(&world, bot).await, ["one", "newer"], "{from:?}");
        assert_eq!(world.read(bot).await.as_deref(), Some("newer"));
        world.check_whole().await;
    }
}

#[tokio::test]
async fn an_export_is_of_what_is_there_whatever_an_older_database_says() {
    for from in [From::Snapshot, From::Fork] {
        let (world, bot) = believed_clean(from, false).await;
        let archive = world.export(bot, ArchiveFormat::TarGz).await;
        let to = world.running().await;
        world
            .import(to, &archive, ImportMode::Replace)
            .await
            .unwrap();
        assert_eq!(world.read(to).await.as_deref(), Some("newer"), "{from:?}");
    }
}

#[tokio::test]
async fn a_restart_doubts_nothing_that_was_not_written_to() {
    let mut world = World::new().await;
    let bot = world.running().await;
    world.write(bot, "one").await;
    world.workspaces.stop(&world.owner, bot).await.unwrap();
    world.snapshot(bot).await;
    world.restart().await;
    assert!(!world.record(bot).await.dirty);
    let w = &world.workspaces;
    let rolled = w.rollback(&world.owner, bot, version(1), false).await;
    assert_eq!(rolled.unwrap().safety_version, None);
}
