//! What vanishes behind the server's back, and operations that cannot go on.

use crate::common::{IMAGE, OTHER_IMAGE, World, image, noise, request};
use crate::{
    backup, begun_deletion, ended, lose_container, lose_row, lose_snapshot, restore,
    stop_and_start, version,
};
use async_trait::async_trait;
use botstead_authz::Actor;
use botstead_runtime::ErrorKind;
use botstead_store::{Change, ImageConfigs, OperationKind, OperationState, VersionPatch};
use botstead_types::{BotId, ImageConfig, LeaseId, PageRequest, SnapshotKey, VersionSource};
use botstead_workspace::{
    ArchiveFormat, CreateEvent, DeleteRequest, Error, ImportMode, SnapshotMode, VersionUpdate,
};
use futures_util::StreamExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

#[tokio::test]
async fn creating_what_the_runtime_still_has_adopts_it_and_brings_nothing_back() {
    let world = World::new().await;
    let bot = world.running().await;
    world.write(bot, "precious").await;
    let own = world.record(bot).await.snapshot;
    lose_row(&world, bot).await;
    let events = world.create(bot).await;
    let Some(CreateEvent::Complete(made)) = events.last() else {
        panic!("{events:?}");
    };
    assert!(!made.data_restored, "{made:?}");
    assert_eq!(world.record(bot).await.snapshot, own);
    stop_and_start(&world, bot).await;
    assert_eq!(world.read(bot).await.as_deref(), Some("precious"));
    world.check_whole().await;
}

#[tokio::test]
async fn an_adopted_workspace_refuses_another_image_and_keeps_its_limits() {
    let world = World::new().await;
    let bot = world.bot().await;
    let mut wanted = request(IMAGE);
    let limits = botstead_types::Limits {
        pids: Some(100),
        ..Default::default()
    };
    wanted.limits = Some(limits);
    let made = world.workspaces.create(&world.owner, bot, wanted).await;
    made.unwrap().collect::<Vec<_>>().await;
    lose_row(&world, bot).await;
    let other = request(OTHER_IMAGE);
    let events = world.workspaces.create(&world.owner, bot, other).await;
    let events: Vec<_> = events.unwrap().collect().await;
    let Some(CreateEvent::Failed(error)) = events.last() else {
        panic!("{events:?}");
    };
    assert_eq!(error.code(), "container_exists");
    let record = world.record(bot).await;
    assert_eq!(
        (record.image.reference, record.limits),
        (image(IMAGE), limits)
    );
    world.check_whole().await;
}

#[tokio::test]
async fn all_of_an_orphan_stays_when_its_data_is_in_a_new_workspace() {
    let world = World::new().await;
    let bot = world.running().await;
    world.write(bot, "precious").await;
    world.write_to(bot, "root/notes", "elsewhere").await;
    lose_row(&world, bot).await;
    lose_container(&world, bot).await;
    world.create(bot).await;
    assert_eq!(world.read(bot).await.as_deref(), Some("precious"));
    world.settled().await;
    let versions = world.store.versions.list(bot).await.unwrap();
    assert_eq!(versions[0].source, VersionSource::Recovered);
    let w = &world.workspaces;
    w.rollback(&world.owner, bot, version(1), false)
        .await
        .unwrap();
    let notes = world.read_from(bot, "root/notes").await;
    assert_eq!(notes.as_deref(), Some("elsewhere"));
    world.check_whole().await;
}

#[tokio::test]
async fn an_export_of_what_may_be_started_meanwhile_is_one_of_a_copy() {
    let world = World::new().await;
    let bot = world.running().await;
    world.write(bot, "precious").await;
    world.workspaces.stop(&world.owner, bot).await.unwrap();
    world.settled().await;
    let name = world.record(bot).await.snapshot;
    lose_row(&world, bot).await;
    world.memory.take_calls();
    let w = &world.workspaces;
    let export = w.export_unrecorded(&Actor::System, name.as_str(), ArchiveFormat::TarZst);
    let pieces: Vec<_> = export.await.unwrap().collect().await;
    assert!(pieces.iter().all(Result::is_ok));
    let calls = world.memory.take_calls();
    assert!(calls.contains(&"snapshots.commit_copy"), "{calls:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_of_what_is_discarded_meanwhile_ends_with_an_error() {
    let world = World::new().await;
    let bot = world.running().await;
    let name = world.record(bot).await.snapshot;
    world.memory.write_file(&name, "data/big", noise());
    world.workspaces.stop(&world.owner, bot).await.unwrap();
    world.settled().await;
    let gone = vec![Change::DeleteBot(bot)];
    world.store.transactions.apply(gone).await.unwrap();
    let w = &world.workspaces;
    let export = w.export_unrecorded(&Actor::System, name.as_str(), ArchiveFormat::TarZst);
    let mut export = export.await.unwrap();
    export.next().await.unwrap().unwrap();
    let discarded = w.discard_unrecorded(&Actor::System, name.as_str()).await;
    discarded.unwrap();
    let rest: Vec<_> = export.collect().await;
    let last = rest.last().unwrap().as_ref().unwrap_err();
    assert_eq!(last.code(), "nothing_to_recover");
}

/// A snapshot that froze the present state and cannot go on.
async fn stuck_snapshot(world: &World, bot: BotId) {
    let kind = ErrorKind::Unavailable;
    // The one for the new writable snapshot, and those of tries again.
    world.memory.fail_next("snapshots.prepare", kind, 1000);
    let made = world
        .workspaces
        .snapshot(&world.owner, bot, None, SnapshotMode::Stop)
        .await;
    made.unwrap_err();
}

#[tokio::test]
async fn a_deletion_that_preserves_beside_a_stuck_snapshot_strands_nothing() {
    let world = World::new().await;
    let bot = world.running().await;
    world.write(bot, "one").await;
    world.snapshot(bot).await;
    world.write(bot, "two").await;
    stuck_snapshot(&world, bot).await;
    let preserving = DeleteRequest {
        preserve_data: true,
        ..DeleteRequest::default()
    };
    let w = &world.workspaces;
    w.delete(&world.owner, bot, preserving).await.unwrap_err();
    world.memory.clear_faults();
    w.start(&world.owner, bot).await.unwrap();
    assert_eq!(world.read(bot).await.as_deref(), Some("two"));
    let kept = world.store.versions.get(bot, version(2)).await.unwrap();
    let kept = world.memory.read_file(&kept.snapshot, "data/file");
    assert_eq!(kept.as_deref(), Some(&b"two"[..]));
    world.check_whole().await;
}

#[tokio::test]
async fn a_deletion_beside_a_stuck_snapshot_keeps_the_version_that_was_made() {
    let world = World::new().await;
    let bot = world.running().await;
    world.write(bot, "two").await;
    stuck_snapshot(&world, bot).await;
    let plain = DeleteRequest::default();
    world
        .workspaces
        .delete(&world.owner, bot, plain)
        .await
        .unwrap();
    world.memory.clear_faults();
    let w = &world.workspaces;
    w.rollback(&world.owner, bot, version(1), false)
        .await
        .unwrap();
    assert_eq!(world.read(bot).await.as_deref(), Some("two"));
    world.check_whole().await;
}

#[tokio::test]
async fn a_replay_records_the_version_though_the_row_has_another_snapshot() {
    let mut world = World::new().await;
    let bot = world.running().await;
    world.write(bot, "two").await;
    stuck_snapshot(&world, bot).await;
    world.memory.clear_faults();
    world.workspaces.close(Duration::from_secs(5)).await;
    // As if the workspace had been made again from its image meanwhile.
    let unfinished = world.store.operations.unfinished().await.unwrap();
    let made = SnapshotKey::version(unfinished[0].id);
    let runtime = world.memory.runtime();
    let lease = "elsewhere".parse().unwrap();
    runtime.leases.create(&lease).await.unwrap();
    let other: SnapshotKey = "active-elsewhere".parse().unwrap();
    let labels = runtime.snapshots.get(&made).await.unwrap().labels;
    let base = runtime.images.unpack(&lease, &image(IMAGE)).await.unwrap();
    let prepared = runtime
        .snapshots
        .prepare(&lease, &other, Some(&base), &labels);
    prepared.await.unwrap();
    let patch = botstead_store::ContainerPatch {
        snapshot: Some(other),
        ..Default::default()
    };
    let change = Change::PatchContainer(bot, Box::new(patch));
    world.store.transactions.apply(vec![change]).await.unwrap();
    runtime.leases.delete(lease.as_str()).await.unwrap();
    world.restart().await;
    let versions = world.store.versions.list(bot).await.unwrap();
    let kept = versions.iter().find(|one| one.snapshot == made).unwrap();
    let kept = world.memory.read_file(&kept.snapshot, "data/file");
    assert_eq!(kept.as_deref(), Some(&b"two"[..]));
    world.workspaces.start(&world.owner, bot).await.unwrap();
}

#[tokio::test]
async fn a_workspace_is_rebuilt_on_its_own_snapshot_whatever_the_row_says() {
    let world = World::new().await;
    let bot = world.running().await;
    world.write(bot, "one").await;
    world.snapshot(bot).await;
    world.write(bot, "two").await;
    // The row names one that is gone, the container its own.
    let own = world.record(bot).await.snapshot;
    let patch = botstead_store::ContainerPatch {
        snapshot: Some("active-gone".parse().unwrap()),
        ..Default::default()
    };
    let change = Change::PatchContainer(bot, Box::new(patch));
    world.store.transactions.apply(vec![change]).await.unwrap();
    world
        .memory
        .fail_next("tasks.create", ErrorKind::NotFound, 1);
    stop_and_start(&world, bot).await;
    assert_eq!(world.record(bot).await.snapshot, own);
    assert_eq!(world.read(bot).await.as_deref(), Some("two"));
    world.check_whole().await;
}

#[tokio::test]
async fn a_pin_waits_for_what_deletes_versions() {
    let world = World::impatient().await;
    let bot = world.running().await;
    world.snapshot(bot).await;
    let slow = botstead_runtime_testing::PullScript {
        hangs_after: Some(0),
        ..Default::default()
    };
    let other = image("registry.test/slow:1");
    let content = botstead_runtime_testing::ImageContent::of_files([("a", "b")]);
    world.memory.add_remote_image(&other, content, slow);
    world
        .workspaces
        .delete(&world.owner, bot, DeleteRequest::default())
        .await
        .unwrap();
    let wanted = request(other.as_str());
    let creation = world.workspaces.create(&world.owner, bot, wanted).await;
    let pin = VersionUpdate {
        pinned: Some(true),
        ..VersionUpdate::default()
    };
    let w = &world.workspaces;
    // The creation holds the bot; where it does not yet, the pin is simply done.
    let busy = async {
        loop {
            let update = w.update_version(&world.owner, bot, version(1), pin.clone());
            if let Err(error) = update.await {
                break error;
            }
            tokio::task::yield_now().await;
        }
    };
    let busy = tokio::time::timeout(Duration::from_secs(10), busy).await;
    let Ok(Error::Busy { operation, .. }) = busy else {
        panic!("{busy:?}");
    };
    w.cancel_operation(&world.owner, bot, operation)
        .await
        .unwrap();
    creation.unwrap().collect::<Vec<_>>().await;
    w.update_version(&world.owner, bot, version(1), pin)
        .await
        .unwrap();
}

#[tokio::test]
async fn from_a_workspace_that_is_lost_there_is_always_a_way() {
    let world = World::new().await;
    for way in ["start", "rollback", "delete", "fork"] {
        let bot = world.running().await;
        if way == "rollback" {
            world.write(bot, "one").await;
            world.snapshot(bot).await;
            world.write(bot, "two").await;
        }
        let own = world.record(bot).await.snapshot;
        // Stopped, so that nobody starts it again between the two.
        world.workspaces.stop(&world.owner, bot).await.unwrap();
        lose_container(&world, bot).await;
        lose_snapshot(&world, &own).await;
        let (owner, w) = (&world.owner, &world.workspaces);
        if way != "rollback" {
            let archive = w.export_data(owner, bot, ArchiveFormat::TarGz).await;
            assert_eq!(archive.err().unwrap().code(), "workspace_lost");
            let made = w.snapshot(owner, bot, None, SnapshotMode::Stop).await;
            assert_eq!(made.unwrap_err().code(), "workspace_lost");
            let preserving = DeleteRequest {
                preserve_data: true,
                ..DeleteRequest::default()
            };
            let saved = w.delete(owner, bot, preserving).await;
            assert_eq!(saved.unwrap_err().code(), "workspace_lost");
            let info = w.get(owner, bot).await.unwrap();
            assert!(info.last_error.unwrap().contains("lost"));
            assert_eq!(w.statistics().await.unwrap().workspaces_lost, 1);
        }
        match way {
            "start" => w.start(owner, bot).await.unwrap(),
            "rollback" => {
                w.rollback(owner, bot, version(1), false).await.unwrap();
                assert_eq!(world.read(bot).await.as_deref(), Some("one"));
            }
            "delete" => {
                w.delete(owner, bot, DeleteRequest::default())
                    .await
                    .unwrap();
                world.create(bot).await;
            }
            _ => {
                let to = world.bot().await;
                let forked = w.fork(owner, to, bot, None).await;
                assert_eq!(forked.unwrap_err().code(), "workspace_lost");
                w.start(owner, bot).await.unwrap();
            }
        }
        let w = &world.workspaces;
        assert_eq!(w.statistics().await.unwrap().workspaces_lost, 0, "{way}");
        world.check_whole().await;
    }
}

#[tokio::test]
async fn a_version_that_is_gone_is_counted_and_the_others_are_reached() {
    let mut world = World::new().await;
    let bot = world.running().await;
    world.write(bot, "one").await;
    world.live_snapshot(bot).await;
    world.write(bot, "two").await;
    world.live_snapshot(bot).await;
    world.settled().await;
    let gone = world.store.versions.get(bot, version(2)).await.unwrap();
    lose_snapshot(&world, &gone.snapshot).await;
    world.restart().await;
    let (owner, w) = (&world.owner, &world.workspaces);
    assert_eq!(w.statistics().await.unwrap().versions_missing, 1);
    let missing = w.rollback(owner, bot, version(2), false).await;
    assert_eq!(missing.unwrap_err().code(), "version_missing");
    w.rollback(owner, bot, version(1), false).await.unwrap();
    assert_eq!(world.read(bot).await.as_deref(), Some("one"));
    w.delete_version(owner, bot, version(2)).await.unwrap();
    world.check_whole().await;
}

#[tokio::test]
async fn what_cannot_be_told_from_a_head_that_is_gone_is_kept() {
    let world = World::new().await;
    let bot = world.running().await;
    world.workspaces.stop(&world.owner, bot).await.unwrap();
    world.write(bot, "one").await;
    world.snapshot(bot).await;
    // Equal to version 1, and version 1 is no version any more.
    let gone = vec![Change::DeleteVersion(bot, version(1))];
    world.store.transactions.apply(gone).await.unwrap();
    let archive = world.export(bot, ArchiveFormat::TarGz).await;
    assert!(!archive.is_empty());
    let made = world.snapshot(bot).await;
    let kept = world.store.versions.get(bot, version(made.into())).await;
    let kept = world.memory.read_file(&kept.unwrap().snapshot, "data/file");
    assert_eq!(kept.as_deref(), Some(&b"one"[..]));
}

#[tokio::test]
async fn an_operation_that_can_go_neither_way_is_given_up_and_said() {
    let world = World::new().await;
    let bot = world.running().await;
    world.write(bot, "one").await;
    world.snapshot(bot).await;
    world.write(bot, "two").await;
    let kind = ErrorKind::InvalidArgument;
    world.memory.fail_next("snapshots.prepare", kind, 2);
    let (owner, w) = (&world.owner, &world.workspaces);
    let failed = w.snapshot(owner, bot, None, SnapshotMode::Stop).await;
    failed.unwrap_err();
    // Tried once more, and given up; what was kept is what it goes on from.
    w.stop(owner, bot).await.unwrap();
    let page = PageRequest::default();
    let operations = w.operations(owner, bot, &page).await.unwrap().items;
    let failed = operations
        .iter()
        .find(|one| one.operation.state == OperationState::Failed)
        .unwrap();
    assert_eq!(failed.operation.error.as_ref().unwrap().code, "given_up");
    let info = w.get(owner, bot).await.unwrap();
    assert!(info.last_error.unwrap().contains("left as it was"));
    w.start(owner, bot).await.unwrap();
    assert_eq!(world.read(bot).await.as_deref(), Some("two"));
    w.rollback(owner, bot, version(1), false).await.unwrap();
    assert_eq!(world.read(bot).await.as_deref(), Some("one"));
    world.check_whole().await;
}

#[tokio::test]
async fn an_image_that_cannot_be_read_keeps_nobody_from_their_data() {
    let mut world = World::new().await;
    let bot = world.bot().await;
    let copy = backup(&world, "older.db").await;
    world.create(bot).await;
    world.write(bot, "precious").await;
    world.settled().await;
    let kind = ErrorKind::Corrupt;
    world.memory.fail_next("images.get", kind, 1000);
    restore(&mut world, &copy).await;
    let archive = world.export(bot, ArchiveFormat::TarGz).await;
    world.memory.clear_faults();
    let to = world.running().await;
    world
        .import(to, &archive, ImportMode::Replace)
        .await
        .unwrap();
    assert_eq!(world.read(to).await.as_deref(), Some("precious"));
}

#[tokio::test]
async fn a_version_that_was_pinned_before_its_deletion_went_on_stays() {
    let mut world = World::new().await;
    let bot = world.running().await;
    world.write(bot, "one").await;
    world.snapshot(bot).await;
    world.settled().await;
    world.workspaces.close(Duration::from_secs(5)).await;
    let deletion = begun_deletion(&world, bot).await;
    let lease = LeaseId::for_operation(deletion.id);
    let leases = &world.memory.runtime().leases;
    leases.create(&lease).await.unwrap();
    let pinned = VersionPatch {
        pinned: Some(true),
        ..VersionPatch::default()
    };
    let pinned = vec![Change::PatchVersion(bot, version(1), pinned)];
    world.store.transactions.apply(pinned).await.unwrap();
    world.restart().await;
    let deletion = ended(&world, bot, OperationKind::DeleteVersion).await;
    assert_eq!(deletion.state, OperationState::Failed);
    assert_eq!(deletion.error.unwrap().code, "version_pinned");
    let versions = world.store.versions.list(bot).await.unwrap();
    assert_eq!(versions.len(), 1);
    world.check_whole().await;
}

/// Configurations of images beside a row that cannot be read.
struct Unreadable {
    images: Arc<dyn ImageConfigs>,
    asked: AtomicUsize,
}

#[async_trait]
impl ImageConfigs for Unreadable {
    async fn keep(&self, config: &ImageConfig) -> botstead_store::Result<String> {
        self.images.keep(config).await
    }

    async fn get(&self, digest: &str) -> botstead_store::Result<ImageConfig> {
        self.images.get(digest).await
    }

    async fn collect(&self) -> botstead_store::Result<u64> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let kind = botstead_store::ErrorKind::Internal;
        Err(botstead_store::Error::new(kind, "collect", "images"))
    }
}

#[tokio::test]
async fn a_row_that_cannot_be_read_is_no_reason_not_to_start() {
    let mut world = World::new().await;
    let bot = world.running().await;
    world.write(bot, "one").await;
    let unreadable = Arc::new(Unreadable {
        images: Arc::clone(&world.store.images),
        asked: AtomicUsize::new(0),
    });
    world.store.images = Arc::<Unreadable>::clone(&unreadable);
    world.restart().await;
    assert_eq!(unreadable.asked.load(Ordering::SeqCst), 1);
    // While an operation waits, what it needs is not looked for.
    stuck_snapshot(&world, bot).await;
    world.restart().await;
    assert_eq!(unreadable.asked.load(Ordering::SeqCst), 1);
    world.memory.clear_faults();
    world.workspaces.stop(&world.owner, bot).await.unwrap();
    assert_eq!(world.read(bot).await.as_deref(), Some("one"));
}

#[tokio::test]
async fn a_change_of_image_of_what_is_lost_leaves_no_lease() {
    let world = World::new().await;
    let bot = world.running().await;
    let w = &world.workspaces;
    w.stop(&world.owner, bot).await.unwrap();
    let own = world.record(bot).await.snapshot;
    lose_container(&world, bot).await;
    lose_snapshot(&world, &own).await;
    let other = image(OTHER_IMAGE);
    let changed = w.change_image(&world.owner, bot, other).await;
    let events: Vec<_> = changed.unwrap().collect().await;
    assert!(matches!(events.last(), Some(CreateEvent::Failed(_))));
    world.settled().await;
}
