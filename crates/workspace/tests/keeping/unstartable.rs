//! States that cannot be started: an operation that would lead to one leads back, and from one every other
//! can be reached.

use crate::common::{World, container};
use crate::{ended, version};
use botstead_runtime_testing::memory::UNSTARTABLE;
use botstead_store::{OperationKind, OperationState};
use botstead_types::{BotId, FilePath, TaskStatus, VersionNumber};
use botstead_workspace::{ArchiveFormat, CreateEvent, Error, ImportMode};

fn runs(world: &World, bot: BotId) -> bool {
    let tasks = world.memory.tasks();
    tasks
        .iter()
        .any(|(id, task)| *id == container(bot) && task.status == TaskStatus::Running)
}

async fn versions(world: &World, bot: BotId) -> Vec<VersionNumber> {
    let versions = world.store.versions.list(bot).await.unwrap();
    versions.iter().map(|version| version.number).collect()
}

#[tokio::test]
async fn a_rollback_to_what_cannot_start_leaves_the_state_before_running() {
    let world = World::new().await;
    let bot = world.beside_unstartable().await;
    let w = &world.workspaces;
    let refused = w.rollback(&world.owner, bot, version(1), false).await;
    let refused = refused.unwrap_err();
    assert_eq!(refused.code(), "cannot_start", "{refused}");
    assert!(
        refused.to_string().contains("/etc/unstartable"),
        "{refused}"
    );
    assert!(runs(&world, bot));
    assert_eq!(world.read(bot).await.as_deref(), Some("two"));
    let rollback = ended(&world, bot, OperationKind::Rollback).await;
    assert_eq!(rollback.state, OperationState::Failed);
    assert_eq!(rollback.error.unwrap().code, "cannot_start");
    // Nothing waits, and everything can be done.
    world.snapshot(bot).await;
    world.export(bot, ArchiveFormat::TarZst).await;
    w.stop(&world.owner, bot).await.unwrap();
    w.start(&world.owner, bot).await.unwrap();
    assert_eq!(world.record(bot).await.last_error, None);
    world.check_whole().await;
}

#[tokio::test]
async fn the_return_of_a_path_with_which_nothing_starts_is_undone() {
    let world = World::new().await;
    let bot = world.beside_unstartable().await;
    let path = FilePath::new(format!("/{UNSTARTABLE}")).unwrap();
    let restored = world
        .workspaces
        .restore_path(&world.owner, bot, version(1), path, None)
        .await;
    assert_eq!(restored.unwrap_err().code(), "cannot_start");
    assert!(runs(&world, bot));
    assert_eq!(world.read(bot).await.as_deref(), Some("two"));
    world.check_whole().await;
}

#[tokio::test]
async fn a_stopped_workspace_takes_a_state_that_cannot_start_and_leaves_it_again() {
    let world = World::new().await;
    let bot = world.beside_unstartable().await;
    let (w, owner) = (&world.workspaces, &world.owner);
    w.stop(owner, bot).await.unwrap();
    let done = w.rollback(owner, bot, version(1), false).await.unwrap();
    let safety = done.safety_version.unwrap();
    assert_eq!(
        w.start(owner, bot).await.unwrap_err().code(),
        "cannot_start"
    );
    let told = world.record(bot).await.last_error.unwrap();
    assert!(told.contains("/etc/unstartable"), "{told}");
    world.export(bot, ArchiveFormat::TarZst).await;
    w.stop(owner, bot).await.unwrap();
    w.rollback(owner, bot, safety, false).await.unwrap();
    w.start(owner, bot).await.unwrap();
    assert_eq!(world.read(bot).await.as_deref(), Some("two"));
    world.check_whole().await;
}

#[tokio::test]
async fn a_fork_that_cannot_start_leaves_nothing() {
    let mut world = World::new().await;
    let from = world.beside_unstartable().await;
    let to = world.bot().await;
    let before = world.memory.snapshots().len();
    let w = &world.workspaces;
    let forked = w.fork(&world.owner, to, from, Some(version(1))).await;
    assert_eq!(forked.unwrap_err().code(), "cannot_start");
    let fork = ended(&world, to, OperationKind::Fork).await;
    assert_eq!(fork.state, OperationState::Failed);
    assert!(versions(&world, to).await.is_empty());
    assert!(world.store.containers.get(to).await.is_err());
    world.restart().await;
    world.settled().await;
    assert_eq!(world.memory.snapshots().len(), before);
    assert_eq!(world.memory.containers().len(), 1);
    world.check_whole().await;
    // It can be made from another state.
    let (w, owner) = (&world.workspaces, &world.owner);
    w.fork(owner, to, from, None).await.unwrap();
    assert!(runs(&world, to));
}

#[tokio::test]
async fn a_creation_that_cannot_start_says_why() {
    let world = World::new().await;
    let bot = world.bot().await;
    world
        .memory
        .fail_next("tasks.create", botstead_runtime::ErrorKind::Unstartable, 1);
    let events = world.create(bot).await;
    let Some(CreateEvent::Failed(error)) = events.last() else {
        panic!("it did not fail");
    };
    assert_eq!(error.code(), "cannot_start");
    assert!(world.store.containers.get(bot).await.is_err());
    world.check_whole().await;
}

#[tokio::test]
async fn what_cannot_be_done_costs_a_running_workspace_nothing() {
    let world = World::new().await;
    let bot = world.running().await;
    world.write(bot, "one").await;
    world.write_to(bot, "etc/file", "").await;
    world.live_snapshot(bot).await;
    world.write(bot, "two").await;
    let before = (versions(&world, bot).await, world.memory.tasks());
    let (w, owner) = (&world.workspaces, &world.owner);
    let path = |path: &str| FilePath::new(path).unwrap();
    let missing = w.restore_path(owner, bot, version(1), path("/data/mistyped"), None);
    assert_eq!(missing.await.unwrap_err().code(), "path_not_found");
    let target = Some(path("/etc/file/below"));
    let blocked = w.restore_path(owner, bot, version(1), path("/data/file"), target);
    assert_eq!(blocked.await.unwrap_err().code(), "path_in_the_way");
    // An import that keeps what is there, into something that is no directory.
    let active = world.record(bot).await.snapshot;
    world.memory.remove_file(&active, "data");
    world.memory.write_file(&active, "data", "a file");
    let mut archive = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(0);
    archive.append_data(&mut header, "file", &b""[..]).unwrap();
    let archive = archive.into_inner().unwrap();
    let refused = world.import(bot, &archive, ImportMode::Merge).await;
    assert!(
        matches!(refused, Err(Error::DataNotDirectory(_))),
        "{refused:?}"
    );
    let after = (versions(&world, bot).await, world.memory.tasks());
    assert_eq!(before, after);
    let page = botstead_types::PageRequest::default();
    let operations = world.store.operations.list(bot, &page).await.unwrap();
    assert!(
        operations
            .items
            .iter()
            .all(|one| !matches!(one.kind, OperationKind::Import | OperationKind::RestorePath)),
        "{operations:?}"
    );
    world.check_whole().await;
}
