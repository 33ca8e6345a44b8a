//! Pins: one that was made holds, whatever the database says of it later.

use crate::common::{LONG, World};
use crate::{backup, begun_deletion, restore, version};
use botstead_store::{Change, OperationState, VersionPatch};
use botstead_types::BotId;
use botstead_workspace::VersionUpdate;

async fn pin(world: &World, bot: BotId, number: i64, pinned: bool) {
    let update = VersionUpdate {
        pinned: Some(pinned),
        ..VersionUpdate::default()
    };
    let w = &world.workspaces;
    let updated = w.update_version(&world.owner, bot, version(number), update);
    assert_eq!(updated.await.unwrap().pinned, pinned);
}

async fn pins(world: &World, bot: BotId) -> Vec<bool> {
    let versions = world.store.versions.list(bot).await.unwrap();
    versions.iter().map(|one| one.pinned).collect()
}

#[tokio::test]
async fn pins_that_an_older_database_does_not_have_hold() {
    let mut world = World::new().await;
    let bot = world.running().await;
    world.write(bot, "one").await;
    world.snapshot(bot).await;
    let copy = backup(&world, "older.db").await;
    world.snapshot(bot).await;
    world.snapshot(bot).await;
    let named = VersionUpdate {
        name: Some(Some("renamed".to_owned())),
        ..VersionUpdate::default()
    };
    let w = world.workspaces.clone();
    w.update_version(&world.owner, bot, version(2), named)
        .await
        .unwrap();
    pin(&world, bot, 1, true).await;
    pin(&world, bot, 2, true).await;
    pin(&world, bot, 3, true).await;
    pin(&world, bot, 3, false).await;
    world.settled().await;
    restore(&mut world, &copy).await;
    assert_eq!(pins(&world, bot).await, [true, true, false]);
    let versions = world.store.versions.list(bot).await.unwrap();
    assert_eq!(versions[1].name.as_deref(), Some("renamed"));
    let w = &world.workspaces;
    let refused = w.delete_version(&world.owner, bot, version(1)).await;
    assert_eq!(refused.unwrap_err().code(), "version_pinned");
    // An older database is believed where it says that one is pinned.
    let copy = backup(&world, "pinned.db").await;
    pin(&world, bot, 1, false).await;
    restore(&mut world, &copy).await;
    assert_eq!(pins(&world, bot).await, [true, true, false]);
    world.check_whole().await;
}

#[tokio::test]
async fn a_pin_of_an_earlier_release_is_written_down_at_the_start() {
    let mut world = World::new().await;
    let bot = world.running().await;
    world.snapshot(bot).await;
    let copy = backup(&world, "older.db").await;
    let pinned = VersionPatch {
        pinned: Some(true),
        ..VersionPatch::default()
    };
    let pinned = vec![Change::PatchVersion(bot, version(1), pinned)];
    world.store.transactions.apply(pinned).await.unwrap();
    world.restart().await;
    restore(&mut world, &copy).await;
    assert_eq!(pins(&world, bot).await, [true]);
}

#[tokio::test]
async fn a_deletion_in_an_older_database_removes_no_version_that_was_pinned_since() {
    let mut world = World::new().await;
    let bot = world.running().await;
    world.snapshot(bot).await;
    world.settled().await;
    world.workspaces.close(LONG).await;
    let deletion = begun_deletion(&world, bot).await;
    let copy = backup(&world, "older.db").await;
    let ended = vec![Change::FinishOperation {
        id: deletion.id,
        state: OperationState::Failed,
        error: None,
    }];
    world.store.transactions.apply(ended).await.unwrap();
    world.restart().await;
    pin(&world, bot, 1, true).await;
    restore(&mut world, &copy).await;
    assert_eq!(pins(&world, bot).await, [true]);
    world.check_whole().await;
}
