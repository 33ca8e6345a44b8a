//! Data in and out: export, import, what is preserved, and what is found again.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod common;

use botstead_runtime::{ErrorKind, Signal};
use botstead_runtime_testing::InMemoryRuntime;
use botstead_types::{DesiredState, VersionNumber, VersionSource};
use botstead_workspace::{
    ArchiveFormat, CreateEvent, CreateRequest, DeleteRequest, ImportMode, SnapshotMode,
};
use common::{IMAGE, World, container, noise, request};
use futures_util::StreamExt;
use std::path::PathBuf;
use std::time::Duration;

const PRESERVE: DeleteRequest = DeleteRequest {
    preserve_data: true,
    delete_versions: false,
};

#[tokio::test]
async fn an_export_of_a_running_workspace_is_imported_into_another() {
    let world = World::new().await;
    let (from, to) = (world.running().await, world.running().await);
    world.write(from, "mine").await;
    world.write_to(from, "etc/not-data", "x").await;
    for format in [ArchiveFormat::TarGz, ArchiveFormat::TarZst] {
        let tasks = world.memory.tasks();
        let archive = world.export(from, format).await;
        assert_eq!(world.memory.tasks(), tasks, "nobody was stopped");
        world.write(to, "old").await;
        let before = world.import(to, &archive, ImportMode::Merge).await.unwrap();
        assert_eq!(world.read(to).await.as_deref(), Some("mine"));
        assert_eq!(world.read_from(to, "etc/not-data").await, None);
        let kept = VersionNumber::try_from(i64::from(before.unwrap())).unwrap();
        let kept = world.store.versions.get(to, kept).await.unwrap();
        assert_eq!(kept.source, VersionSource::Import);
        let old = world.memory.read_file(&kept.snapshot, "data/file").unwrap();
        assert_eq!(old, "old");
        world.check_whole().await;
    }
    assert!(world.store.versions.list(from).await.unwrap().is_empty());
}

#[tokio::test]
async fn an_import_merges_or_replaces_and_a_stopped_workspace_stays_stopped() {
    let world = World::new().await;
    let bot = world.running().await;
    world.write(bot, "mine").await;
    let archive = world.export(bot, ArchiveFormat::TarGz).await;
    world.workspaces.stop(&world.owner, bot).await.unwrap();
    world.write_to(bot, "data/other", "other").await;
    world
        .import(bot, &archive, ImportMode::Merge)
        .await
        .unwrap();
    assert_eq!(
        world.read_from(bot, "data/other").await.as_deref(),
        Some("other")
    );
    world
        .import(bot, &archive, ImportMode::Replace)
        .await
        .unwrap();
    assert_eq!(world.read_from(bot, "data/other").await, None);
    assert_eq!(world.read(bot).await.as_deref(), Some("mine"));
    assert_eq!(world.record(bot).await.desired, DesiredState::Stopped);
    world.check_whole().await;
}

#[tokio::test]
async fn an_archive_that_is_damaged_changes_nothing() {
    let world = World::new().await;
    let bot = world.running().await;
    world.write(bot, "mine").await;
    let whole = world.export(bot, ArchiveFormat::TarGz).await;
    let tasks = world.memory.tasks();
    for length in [0, 1, whole.len() / 2, whole.len() - 1] {
        let refused = world
            .import(bot, &whole[..length], ImportMode::Replace)
            .await;
        assert_eq!(refused.unwrap_err().code(), "archive_refused", "{length}");
    }
    assert_eq!(world.read(bot).await.as_deref(), Some("mine"));
    assert_eq!(world.memory.tasks(), tasks, "nobody was stopped");
    assert!(world.store.versions.list(bot).await.unwrap().is_empty());
    world.check_whole().await;
}

#[tokio::test]
async fn preserved_data_goes_with_its_bot_unless_it_is_to_stay() {
    let world = World::new().await;
    for stays in [false, true] {
        let bot = world.running().await;
        world.write(bot, "mine").await;
        let w = &world.workspaces;
        w.delete(&world.owner, bot, PRESERVE).await.unwrap();
        w.delete_bot(&world.owner, bot, stays).await.unwrap();
        assert_eq!(!world.archives(bot).is_empty(), stays);
    }
}

#[tokio::test]
async fn preserved_data_returns_with_the_next_workspace() {
    let world = World::new().await;
    let bot = world.running().await;
    world.write(bot, "mine").await;
    let w = &world.workspaces;
    w.delete(&world.owner, bot, PRESERVE).await.unwrap();
    world.check_whole().await;
    let archive = world.archives(bot).pop().unwrap();
    let mode = std::os::unix::fs::MetadataExt::mode(&archive.metadata().unwrap());
    assert_eq!(mode & 0o7777, 0o600);

    let without = CreateRequest {
        restore_data: Some(false),
        ..request(IMAGE)
    };
    let events = w.create(&world.owner, bot, without).await.unwrap();
    let events: Vec<_> = events.collect().await;
    let Some(CreateEvent::Complete(made)) = events.last() else {
        panic!("{events:?}");
    };
    assert!(!made.data_restored && made.has_preserved_data);
    assert_eq!(world.read(bot).await, None);
    assert!(w.get(&world.owner, bot).await.unwrap().has_preserved_data);
    w.delete(&world.owner, bot, DeleteRequest::default())
        .await
        .unwrap();

    let events = world.create(bot).await;
    let restoring = events
        .iter()
        .position(|e| matches!(e, CreateEvent::Restoring));
    let creating = events
        .iter()
        .position(|e| matches!(e, CreateEvent::Creating));
    assert_eq!(restoring, creating.map(|place| place + 1), "{events:?}");
    let Some(CreateEvent::Complete(made)) = events.last() else {
        panic!("{events:?}");
    };
    assert!(made.data_restored && !made.has_preserved_data);
    assert_eq!(world.read(bot).await.as_deref(), Some("mine"));
    assert!(!archive.exists());
    world.check_whole().await;
}

#[tokio::test]
async fn preserved_data_is_put_back_into_a_workspace_that_exists() {
    let world = World::new().await;
    let bot = world.running().await;
    world.write(bot, "mine").await;
    let w = &world.workspaces;
    let missing = w.restore_data(&world.owner, bot, None).await.unwrap_err();
    assert_eq!(missing.code(), "no_preserved_data");
    w.delete(&world.owner, bot, PRESERVE).await.unwrap();
    let missing = w.delete(&world.owner, bot, PRESERVE).await.unwrap_err();
    assert_eq!(missing.code(), "workspace_not_found");
    let without = CreateRequest {
        restore_data: Some(false),
        ..request(IMAGE)
    };
    w.create(&world.owner, bot, without)
        .await
        .unwrap()
        .collect::<Vec<_>>()
        .await;
    world.write_to(bot, "data/new", "new").await;
    w.restore_data(&world.owner, bot, None).await.unwrap();
    assert_eq!(world.read(bot).await.as_deref(), Some("mine"));
    assert_eq!(world.read_from(bot, "data/new").await, None);
    assert!(!w.get(&world.owner, bot).await.unwrap().has_preserved_data);
    assert_eq!(world.store.versions.list(bot).await.unwrap().len(), 1);
    world.check_whole().await;
}

#[tokio::test]
async fn nothing_is_deleted_when_data_cannot_be_preserved() {
    let world = World::new().await;
    let bot = world.running().await;
    world.write(bot, "mine").await;
    // Where the folder would be.
    std::fs::write(world.preserved(), "").unwrap();
    let w = &world.workspaces;
    let refused = w.delete(&world.owner, bot, PRESERVE).await;
    assert_eq!(refused.unwrap_err().code(), "internal");
    assert_eq!(world.read(bot).await.as_deref(), Some("mine"));
    assert!(w.get(&world.owner, bot).await.unwrap().task_running);
    world.check_whole().await;
}

#[tokio::test]
async fn an_orphan_gives_its_data_to_the_next_workspace() {
    let mut world = World::new().await;
    let bot = world.running().await;
    world.write(bot, "preserved").await;
    let w = &world.workspaces;
    w.delete(&world.owner, bot, PRESERVE).await.unwrap();
    let without = CreateRequest {
        restore_data: Some(false),
        ..request(IMAGE)
    };
    w.create(&world.owner, bot, without)
        .await
        .unwrap()
        .collect::<Vec<_>>()
        .await;
    world.write(bot, "orphaned").await;
    // Another program removes the container, and the database is an older copy.
    let orphan = world.record(bot).await.snapshot;
    let runtime = world.memory.runtime();
    let id = container(bot);
    let killed = runtime.tasks.stop(&id, Signal::KILL, Duration::ZERO).await;
    killed.unwrap();
    runtime.containers.delete(&id).await.unwrap();
    let gone = vec![botstead_store::Change::DeleteContainer(bot)];
    world.store.transactions.apply(gone).await.unwrap();
    world.restart().await;
    runtime.leases.collect().await.unwrap();

    let events = world.create(bot).await;
    let Some(CreateEvent::Complete(made)) = events.last() else {
        panic!("{events:?}");
    };
    assert!(
        made.data_restored && made.has_preserved_data,
        "the orphan wins"
    );
    assert_eq!(world.read(bot).await.as_deref(), Some("orphaned"));
    assert!(runtime.snapshots.get(&orphan).await.is_err());
    world.check_whole().await;
}

#[tokio::test]
async fn what_a_backend_cannot_do_is_unsupported_and_the_rest_works() {
    let memory = InMemoryRuntime::limited(|capabilities| {
        capabilities.live_copies = false;
        capabilities.files = false;
    });
    let world = World::on(memory).await;
    // Nothing is looked for that could not be brought back.
    world
        .memory
        .fail_next("snapshots.labelled", ErrorKind::Unavailable, 1);
    let bot = world.running().await;
    world.memory.clear_faults();
    let w = &world.workspaces;
    let live = w
        .snapshot(&world.owner, bot, None, SnapshotMode::Live)
        .await;
    assert_eq!(live.unwrap_err().code(), "unsupported");
    let export = w.export_data(&world.owner, bot, ArchiveFormat::TarGz).await;
    assert_eq!(export.err().map(|error| error.code()), Some("unsupported"));
    let deleted = w.delete(&world.owner, bot, PRESERVE).await;
    assert_eq!(deleted.unwrap_err().code(), "unsupported");
    assert!(w.get(&world.owner, bot).await.unwrap().task_running);
    assert_eq!(world.snapshot(bot).await, 1);
    world.check_whole().await;
}

/// The folder that somebody has open in which there is a file of this name.
fn opened_with(name: &str) -> PathBuf {
    let all = std::fs::read_dir("/proc/self/fd").unwrap();
    let mut open = all.filter_map(|fd| std::fs::read_link(fd.unwrap().path()).ok());
    open.find(|path| path.join(name).exists()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_whose_files_go_meanwhile_ends_with_an_error() {
    let world = World::new().await;
    let bot = world.running().await;
    let (key, name) = (world.record(bot).await.snapshot, format!("big-{bot}"));
    world
        .memory
        .write_file(&key, &format!("data/{name}"), noise());
    world.write_to(bot, "data/later/file", "precious").await;
    let format = ArchiveFormat::TarGz;
    let export = world
        .workspaces
        .export_data(&world.owner, bot, format)
        .await;
    let mut export = export.unwrap();
    export.next().await.unwrap().unwrap();
    std::fs::remove_dir_all(opened_with(&name).join("later")).unwrap();
    let rest: Vec<_> = export.collect().await;
    let last = rest.last().unwrap().as_ref().unwrap_err();
    assert!(last.to_string().contains("changed meanwhile"), "{last}");
    world.check_whole().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_is_deleted_while_it_is_exported_stays_until_then() {
    let world = World::new().await;
    let bot = world.running().await;
    let key = world.record(bot).await.snapshot;
    world.memory.write_file(&key, "data/big", noise());
    world.workspaces.stop(&world.owner, bot).await.unwrap();
    world.snapshot(bot).await;
    world.settled().await;
    let version = VersionNumber::FIRST;
    let key = world.store.versions.get(bot, version).await.unwrap();
    let is_there = || {
        let all = world.memory.snapshots();
        all.iter().any(|found| found.key == key.snapshot)
    };
    let (w, format) = (&world.workspaces, ArchiveFormat::TarGz);
    let export = w.export_data(&world.owner, bot, format).await;
    let mut export = export.unwrap();
    export.next().await.unwrap().unwrap();
    w.delete_version(&world.owner, bot, version).await.unwrap();
    w.delete(&world.owner, bot, DeleteRequest::default())
        .await
        .unwrap();
    world.memory.runtime().leases.collect().await.unwrap();
    assert!(is_there());
    let rest: Vec<_> = export.collect().await;
    assert!(rest.iter().all(Result::is_ok));
    world.settled().await;
    assert!(!is_there());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_that_is_left_while_its_data_is_copied_leaves_nothing() {
    let world = World::new().await;
    let bot = world.running().await;
    world.settled().await;
    let (workspaces, owner) = (world.workspaces.clone(), world.owner);
    let export = tokio::spawn(async move {
        let export = workspaces.export_data(&owner, bot, ArchiveFormat::TarGz);
        export.await.map(drop)
    });
    while !world.memory.take_calls().contains(&"snapshots.commit_copy") {
        tokio::task::yield_now().await;
    }
    export.abort();
    world.check_whole().await;
}
