//! Creations that were half undone: no archive goes whose data is nowhere else.

use crate::common::World;
use crate::{ended, lose_container, lose_snapshot, preserve};
use botstead_runtime::ErrorKind;
use botstead_store::{Operation, OperationKind, OperationState};
use botstead_types::OperationId;
use botstead_workspace::CreateEvent;
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
