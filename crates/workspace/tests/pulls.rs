//! Pulls of several users at once.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod common;

use botstead_authz::Actor;
use botstead_runtime_testing::{ImageContent, InMemoryRuntime, PullScript};
use botstead_types::{BotId, PageRequest, Role, UserId};
use botstead_workspace::{CreateEvent, ImageEvent};
use common::{LONG, World, image, request};
use futures_util::StreamExt;
use std::time::Duration;

/// How many pulls a user may have at once.
const OWN: usize = 8;

/// Waits until so many of these calls were made to the runtime; all that were made until then.
async fn made(world: &World, call: &str, count: usize) -> Vec<&'static str> {
    let mut calls = Vec::new();
    while calls.iter().filter(|made| **made == call).count() < count {
        tokio::time::sleep(Duration::from_millis(5)).await;
        calls.extend(world.memory.take_calls());
    }
    calls
}

async fn cancel(world: &World, bot: BotId) {
    let page = PageRequest::default();
    loop {
        let shown = world.workspaces.operations(&world.owner, bot, &page).await;
        if let Some(shown) = shown.unwrap().items.first()
            && shown.cancellable
        {
            let operation = shown.operation.id;
            let cancelled = world
                .workspaces
                .cancel_operation(&world.owner, bot, operation);
            cancelled.await.unwrap();
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_user_has_half_of_the_pulls_and_who_waits_takes_what_came_meanwhile() {
    let world = World::new().await;
    let (hung, good) = (image("registry.test/hung:1"), image("registry.test/good:1"));
    let content = || ImageContent::of_files([("a", "b")]);
    let hangs = PullScript {
        hangs_after: Some(0),
        ..PullScript::default()
    };
    world.memory.add_remote_image(&hung, content(), hangs);
    world
        .memory
        .add_remote_image(&good, content(), PullScript::default());
    let begin = async |name: &str| {
        let bot = world.bot().await;
        let events = world
            .workspaces
            .create(&world.owner, bot, request(name))
            .await;
        (bot, events.unwrap())
    };
    let mut pulling = Vec::new();
    for _ in 0..OWN {
        pulling.push(begin(hung.as_str()).await);
    }
    made(&world, "images.pull", OWN).await;

    let (given_up, gives_up) = begin(hung.as_str()).await;
    cancel(&world, given_up).await;
    let events: Vec<_> = gives_up.collect().await;
    let Some(CreateEvent::Failed(error)) = events.last() else {
        panic!("{events:?}");
    };
    assert_eq!(error.code(), "cancelled");
    let (_, waits) = begin(good.as_str()).await;
    let calls = made(&world, "images.get", 2).await;
    assert!(!calls.contains(&"images.pull"), "{calls:?}");

    let other = Actor::User {
        id: UserId::generate(),
        role: Role::Admin,
    };
    let pulled = world.workspaces.pull_image(&other, good.clone()).await;
    let pulled: Vec<_> = pulled.unwrap().collect().await;
    assert!(matches!(pulled.last(), Some(ImageEvent::Complete(_))));
    made(&world, "images.pull", 1).await;

    cancel(&world, pulling[0].0).await;
    let events: Vec<_> = waits.collect().await;
    assert!(
        matches!(events.last(), Some(CreateEvent::Complete(_))),
        "{events:?}"
    );
    assert!(!world.memory.take_calls().contains(&"images.pull"));
    for (bot, _) in &pulling[1..] {
        cancel(&world, *bot).await;
    }
    for (_, events) in pulling {
        events.collect::<Vec<_>>().await;
    }
    world.check_whole().await;
}

#[tokio::test]
async fn two_users_with_slow_registries_do_not_keep_others_from_pulling() {
    let mut world = World::with(InMemoryRuntime::new(), |_, config| {
        config.pull_turn = Duration::from_millis(100);
    })
    .await;
    let (slow, good) = (image("registry.test/slow:1"), image("registry.test/good:1"));
    let content = || ImageContent::of_files([("a", "b")]);
    let hangs = PullScript {
        hangs_after: Some(0),
        ..PullScript::default()
    };
    world.memory.add_remote_image(&slow, content(), hangs);
    let answers = PullScript::default();
    world.memory.add_remote_image(&good, content(), answers);
    let mut pulling = Vec::new();
    for _ in 0..2 {
        // One more than there are places for.
        for _ in 0..=OWN {
            let bot = world.bot().await;
            let request = request(slow.as_str());
            let events = world.workspaces.create(&world.owner, bot, request).await;
            pulling.push(events.unwrap());
        }
        world.change_owner().await;
    }
    made(&world, "images.pull", 2 * OWN).await;
    let bot = world.bot().await;
    let request = request(good.as_str());
    let events = world.workspaces.create(&world.owner, bot, request).await;
    let pulled = tokio::time::timeout(LONG, events.unwrap().collect::<Vec<_>>()).await;
    let pulled = pulled.expect("the places are not given back");
    assert!(matches!(pulled.last(), Some(CreateEvent::Complete(_))));
    // One of theirs ended for it.
    let ended = pulling.into_iter().map(|events| events.collect::<Vec<_>>());
    let (ended, _, _) = futures_util::future::select_all(ended.map(Box::pin)).await;
    let Some(CreateEvent::Failed(error)) = ended.last() else {
        panic!("{ended:?}");
    };
    assert_eq!(error.code(), "pull_gave_way");
}
