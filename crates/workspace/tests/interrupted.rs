//! Operations interrupted between any two calls to the runtime: afterwards the workspace is in the
//! state before or the state after, nothing is orphaned, and no version is lost.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod common;

use botstead_runtime_testing::ImageContent;
use botstead_runtime_testing::memory::UNSTARTABLE;
use botstead_store::{OperationKind, OperationState};
use botstead_types::{BotId, DesiredState, FilePath, PageRequest, VersionNumber};
use botstead_workspace::{CreateEvent, DeleteRequest, ImportMode, SnapshotMode};
use common::{IMAGE, LONG, OTHER_IMAGE, World, image, request};
use futures_util::StreamExt;

/// What is interrupted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Create,
    /// With preserved data.
    Return,
    Live,
    Import,
    RestorePath,
    ChangeImage,
    Fork,
    DeleteVersion,
    Preserve,
    Snapshot,
    Rollback,
    /// To a version that cannot be started.
    VainRollback,
    /// To an image that cannot be started.
    VainImage,
    Delete,
    Stop,
}

/// In it no workspace starts.
const BROKEN_IMAGE: &str = "localhost/test/broken:1";

/// More calls than any operation makes.
const MOST_CALLS: usize = 60;

fn first() -> VersionNumber {
    VersionNumber::FIRST
}

/// A bot with version 1 holding `one`, and `two` in the present state.
async fn prepared(world: &World) -> BotId {
    let bot = world.running().await;
    world.write(bot, "one").await;
    world.snapshot(bot).await;
    world.write(bot, "two").await;
    bot
}

/// The same with a version 1 that cannot be started.
async fn beside_unstartable(world: &World) -> BotId {
    let content = ImageContent::of_files([(UNSTARTABLE, "")]);
    world.memory.add_image(&image(BROKEN_IMAGE), content);
    world.beside_unstartable().await
}

/// An archive that makes `/data/file` hold `new`.
fn archive() -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(3);
    header.set_mode(0o644);
    let name = "file";
    tar.append_data(&mut header, name, &b"new"[..]).unwrap();
    tar.into_inner().unwrap()
}

/// A bot with preserved data and no workspace.
async fn returning(world: &World) -> BotId {
    let bot = world.running().await;
    world.write(bot, "two").await;
    assert!(perform(world, bot, Step::Preserve).await);
    bot
}

/// A bot in the state before a step.
async fn before(world: &World, step: Step) -> BotId {
    match step {
        Step::Create => world.bot().await,
        Step::Return => returning(world).await,
        Step::VainRollback | Step::VainImage => beside_unstartable(world).await,
        _ => prepared(world).await,
    }
}

async fn perform(world: &World, bot: BotId, step: Step) -> bool {
    let (owner, w) = (&world.owner, &world.workspaces);
    match step {
        Step::Create | Step::Return => {
            let stream = w.create(owner, bot, request(IMAGE)).await.unwrap();
            let events: Vec<_> = stream.collect().await;
            matches!(events.last(), Some(CreateEvent::Complete(_)))
        }
        Step::Snapshot => w
            .snapshot(owner, bot, None, SnapshotMode::Stop)
            .await
            .is_ok(),
        Step::Live => w
            .snapshot(owner, bot, None, SnapshotMode::Live)
            .await
            .is_ok(),
        Step::Import => world
            .import(bot, &archive(), ImportMode::Merge)
            .await
            .is_ok(),
        Step::RestorePath => {
            let path = FilePath::new("/data/file").unwrap();
            let restored = w.restore_path(owner, bot, first(), path, None);
            restored.await.is_ok()
        }
        Step::ChangeImage => {
            let events = w.change_image(owner, bot, image(OTHER_IMAGE)).await;
            let events: Vec<_> = events.unwrap().collect().await;
            matches!(events.last(), Some(CreateEvent::Complete(_)))
        }
        Step::Fork => {
            let to = world.bot().await;
            w.fork(owner, to, bot, None).await.is_ok()
        }
        Step::DeleteVersion => w.delete_version(owner, bot, first()).await.is_ok(),
        Step::Preserve => {
            let request = DeleteRequest {
                preserve_data: true,
                delete_versions: false,
            };
            w.delete(owner, bot, request).await.is_ok()
        }
        Step::Rollback => w.rollback(owner, bot, first(), false).await.is_ok(),
        Step::VainRollback => {
            let error = w.rollback(owner, bot, first(), false).await.unwrap_err();
            error.code() == "cannot_start"
        }
        Step::VainImage => {
            let events = w.change_image(owner, bot, image(BROKEN_IMAGE)).await;
            let events: Vec<_> = events.unwrap().collect().await;
            matches!(events.last(), Some(CreateEvent::Failed(error)) if error.code() == "cannot_start")
        }
        Step::Delete => w.delete(owner, bot, DeleteRequest::default()).await.is_ok(),
        Step::Stop => w.stop(owner, bot).await.is_ok(),
    }
}

/// A server that comes later does not know whether the new state was used, and leaves it: what was before is
/// a version.
async fn leave_unstartable(world: &World, bot: BotId, context: &str) {
    world.settled().await;
    let unfinished = world.store.operations.unfinished().await.unwrap();
    assert!(unfinished.is_empty(), "{context}: {unfinished:?}");
    let record = world.record(bot).await;
    assert_eq!(record.desired, DesiredState::Running, "{context}");
    if world.read_from(bot, UNSTARTABLE).await.is_none() {
        return;
    }
    let versions = world.store.versions.list(bot).await.unwrap();
    let kept = versions.last().unwrap();
    let content = world.memory.read_file(&kept.snapshot, "data/file");
    assert_eq!(content.unwrap(), "two", "{context}: the safety version");
    let (w, owner) = (&world.workspaces, &world.owner);
    w.rollback(owner, bot, kept.number, false).await.unwrap();
}

async fn check(world: &World, bot: BotId, step: Step, calls: usize) {
    let context = format!("{step:?} interrupted after {calls} calls");
    if matches!(step, Step::VainRollback | Step::VainImage) {
        leave_unstartable(world, bot, &context).await;
    }
    world.check_whole().await;
    let versions = world.store.versions.list(bot).await.unwrap();
    match step {
        Step::Create => {}
        Step::Return => {
            // The data is in the workspace, or still preserved for it.
            if world.store.containers.get(bot).await.is_err() {
                assert!(perform(world, bot, Step::Return).await, "{context}");
            }
            assert_eq!(world.read(bot).await.as_deref(), Some("two"), "{context}");
        }
        Step::Import => {
            let now = world.read(bot).await.unwrap();
            assert!(now == "new" || now == "two", "{context}: {now}");
            if now == "new" {
                let kept = &versions.last().unwrap().snapshot;
                let kept = world.memory.read_file(kept, "data/file").unwrap();
                assert_eq!(kept, "two", "{context}: the safety version");
            }
        }
        Step::RestorePath => {
            let now = world.read(bot).await.unwrap();
            assert!(now == "one" || now == "two", "{context}: {now}");
        }
        Step::ChangeImage => {
            assert_eq!(world.read(bot).await.as_deref(), Some("two"), "{context}");
        }
        Step::Fork => {
            assert_eq!(world.read(bot).await.as_deref(), Some("two"), "{context}");
            for record in world.store.containers.list().await.unwrap() {
                let now = world.read(record.bot).await;
                assert_eq!(now.as_deref(), Some("two"), "{context}");
            }
        }
        Step::DeleteVersion => {
            let page = PageRequest::default();
            let operations = world.store.operations.list(bot, &page).await.unwrap();
            let mut operations = operations.items.iter();
            // Without its lease it ends before it begins.
            let begun = operations.any(|one| {
                one.kind == OperationKind::DeleteVersion && one.state != OperationState::Failed
            });
            assert!(versions.is_empty() || !begun, "{context}: it goes forward");
        }
        Step::Preserve => {
            let exists = world.store.containers.get(bot).await.is_ok();
            let preserved = !world.archives(bot).is_empty();
            assert!(exists || preserved, "{context}: the data is lost");
            if !exists {
                return;
            }
            assert_eq!(world.read(bot).await.as_deref(), Some("two"), "{context}");
        }
        Step::Live | Step::Snapshot => {
            assert_eq!(world.read(bot).await.as_deref(), Some("two"), "{context}");
            assert!((1..=2).contains(&versions.len()), "{context}");
        }
        Step::Rollback => {
            let now = world.read(bot).await.unwrap();
            assert!(now == "one" || now == "two", "{context}: {now}");
            if now == "one" {
                let last = versions.last().unwrap();
                let kept = world.memory.read_file(&last.snapshot, "data/file").unwrap();
                assert_eq!(kept, "two", "{context}: the safety version");
            }
        }
        Step::VainRollback | Step::VainImage => {
            assert_eq!(world.read(bot).await.as_deref(), Some("two"), "{context}");
            let record = world.record(bot).await;
            assert_eq!(record.image.reference, image(IMAGE), "{context}");
        }
        Step::Delete => assert_eq!(versions.len(), 1, "{context}"),
        Step::Stop => {
            let desired = world.record(bot).await.desired;
            assert_eq!(desired, DesiredState::Stopped, "{context}");
        }
    }
    if step == Step::Delete {
        return;
    }
    if let Some(version) = versions.first() {
        let one = world
            .memory
            .read_file(&version.snapshot, "data/file")
            .unwrap();
        assert_eq!(one, "one", "{context}");
    }
    world.workspaces.start(&world.owner, bot).await.unwrap();
    world.check_whole().await;
}

/// The runtime goes away after so many calls, the server is restarted, the runtime is back.
async fn interrupt(step: Step) {
    for calls in 0..MOST_CALLS {
        let mut world = World::new().await;
        let bot = before(&world, step).await;
        world.settled().await;
        world.memory.collect_always(true);
        world.memory.stop_answering_after(calls);
        let done = perform(&world, bot, step).await;
        let untouched = world.memory.is_answering();
        let closed = world.workspaces.close(LONG).await;
        assert!(closed, "{step:?} does not end after {calls} calls");
        world.memory.answer_again();
        world.restart().await;
        check(&world, bot, step, calls).await;
        if done && untouched {
            let least = if step == Step::DeleteVersion { 1 } else { 3 };
            assert!(calls > least, "{step:?} made only {calls} calls");
            return;
        }
    }
    panic!("{step:?} never came to its end");
}

/// The runtime goes away after so many calls and comes back; the server lives on and finishes what
/// it could not before the next operation on the bot.
async fn outlast(step: Step) {
    for calls in 0..MOST_CALLS {
        let world = World::new().await;
        let bot = before(&world, step).await;
        world.settled().await;
        world.memory.stop_answering_after(calls);
        let done = perform(&world, bot, step).await;
        let untouched = world.memory.is_answering();
        world.memory.answer_again();
        if matches!(step, Step::Delete | Step::Preserve)
            && world.store.containers.get(bot).await.is_err()
        {
            world
                .workspaces
                .delete(&world.owner, bot, DeleteRequest::default())
                .await
                .unwrap();
        } else {
            if matches!(step, Step::VainRollback | Step::VainImage) {
                // What an earlier operation left is ended first.
                let _ = world.workspaces.start(&world.owner, bot).await;
                let context = format!("{step:?} unanswered after {calls} calls");
                leave_unstartable(&world, bot, &context).await;
            }
            world.workspaces.start(&world.owner, bot).await.unwrap();
            assert!(
                world
                    .workspaces
                    .get(&world.owner, bot)
                    .await
                    .unwrap()
                    .reachable
            );
        }
        if done && untouched {
            return;
        }
    }
    panic!("{step:?} never came to its end");
}

#[tokio::test]
async fn create_survives_an_interruption_anywhere() {
    interrupt(Step::Create).await;
}

#[tokio::test]
async fn snapshot_survives_an_interruption_anywhere() {
    interrupt(Step::Snapshot).await;
}

#[tokio::test]
async fn rollback_survives_an_interruption_anywhere() {
    interrupt(Step::Rollback).await;
}

#[tokio::test]
async fn a_rollback_to_what_cannot_start_goes_back_from_anywhere() {
    interrupt(Step::VainRollback).await;
    outlast(Step::VainRollback).await;
}

#[tokio::test]
async fn a_change_to_an_image_that_cannot_start_goes_back_from_anywhere() {
    interrupt(Step::VainImage).await;
    outlast(Step::VainImage).await;
}

#[tokio::test]
async fn delete_survives_an_interruption_anywhere() {
    interrupt(Step::Delete).await;
}

#[tokio::test]
async fn stop_survives_an_interruption_anywhere() {
    interrupt(Step::Stop).await;
}

#[tokio::test]
async fn a_runtime_that_went_away_is_outlasted() {
    for step in [Step::Create, Step::Snapshot, Step::Rollback, Step::Delete] {
        outlast(step).await;
    }
}

#[tokio::test]
async fn a_return_of_preserved_data_survives_an_interruption_anywhere() {
    interrupt(Step::Return).await;
}

#[tokio::test]
async fn a_live_snapshot_survives_an_interruption_anywhere() {
    interrupt(Step::Live).await;
}

#[tokio::test]
async fn an_import_survives_an_interruption_anywhere() {
    interrupt(Step::Import).await;
}

#[tokio::test]
async fn the_return_of_a_path_survives_an_interruption_anywhere() {
    interrupt(Step::RestorePath).await;
}

#[tokio::test]
async fn a_change_of_image_survives_an_interruption_anywhere() {
    interrupt(Step::ChangeImage).await;
}

#[tokio::test]
async fn a_fork_survives_an_interruption_anywhere() {
    interrupt(Step::Fork).await;
}

#[tokio::test]
async fn the_deletion_of_a_version_survives_an_interruption_anywhere() {
    interrupt(Step::DeleteVersion).await;
}

#[tokio::test]
async fn a_deletion_that_preserves_data_survives_an_interruption_anywhere() {
    interrupt(Step::Preserve).await;
}

#[tokio::test]
async fn data_in_and_out_outlasts_a_runtime_that_comes_back() {
    for step in [Step::Return, Step::Import, Step::Preserve] {
        outlast(step).await;
    }
}

#[tokio::test]
async fn versions_and_forks_outlast_a_runtime_that_comes_back() {
    for step in [
        Step::Live,
        Step::ChangeImage,
        Step::Fork,
        Step::DeleteVersion,
    ] {
        outlast(step).await;
    }
}
