//! Operations interrupted between any two calls to the runtime: afterwards the workspace is in the
//! state before or the state after, nothing is orphaned, and no version is lost.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod common;

use botstead_types::{BotId, DesiredState, VersionNumber};
use botstead_workspace::{DeleteRequest, SnapshotMode};
use common::{IMAGE, World, request};
use futures_util::StreamExt;
use std::time::Duration;

/// What is interrupted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Create,
    Snapshot,
    Rollback,
    Delete,
    Stop,
}

/// More calls than any operation makes.
const MOST_CALLS: usize = 40;

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

async fn perform(world: &World, bot: BotId, step: Step) -> bool {
    let (owner, w) = (&world.owner, &world.workspaces);
    match step {
        Step::Create => {
            let stream = w.create(owner, bot, request(IMAGE)).await.unwrap();
            let events: Vec<_> = stream.collect().await;
            matches!(
                events.last(),
                Some(botstead_workspace::CreateEvent::Complete(_))
            )
        }
        Step::Snapshot => w
            .snapshot(owner, bot, None, SnapshotMode::Stop)
            .await
            .is_ok(),
        Step::Rollback => w.rollback(owner, bot, first(), false).await.is_ok(),
        Step::Delete => w.delete(owner, bot, DeleteRequest::default()).await.is_ok(),
        Step::Stop => w.stop(owner, bot).await.is_ok(),
    }
}

async fn check(world: &World, bot: BotId, step: Step, calls: usize) {
    let context = format!("{step:?} interrupted after {calls} calls");
    world.check_whole().await;
    let versions = world.store.versions.list(bot).await.unwrap();
    match step {
        Step::Create => {}
        Step::Snapshot => {
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
        let bot = match step {
            Step::Create => world.bot().await,
            _ => prepared(&world).await,
        };
        world.settled().await;
        world.memory.collect_always(true);
        world.memory.stop_answering_after(calls);
        let done = perform(&world, bot, step).await;
        let untouched = world.memory.is_answering();
        world.workspaces.close(Duration::from_secs(5)).await;
        world.memory.answer_again();
        world.restart().await;
        check(&world, bot, step, calls).await;
        if done && untouched {
            assert!(calls > 3, "{step:?} made only {calls} calls");
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
        let bot = match step {
            Step::Create => world.bot().await,
            _ => prepared(&world).await,
        };
        world.settled().await;
        world.memory.stop_answering_after(calls);
        let done = perform(&world, bot, step).await;
        let untouched = world.memory.is_answering();
        world.memory.answer_again();
        if step == Step::Delete && world.store.containers.get(bot).await.is_err() {
            world
                .workspaces
                .delete(&world.owner, bot, DeleteRequest::default())
                .await
                .unwrap();
        } else {
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
