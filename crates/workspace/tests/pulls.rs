//! Pulls of several users at once.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod common;

use botstead_authz::Actor;
use botstead_runtime_testing::{ImageContent, InMemoryRuntime, PullScript};
use botstead_types::{BotId, ImageRef, PageRequest, Role, UserId};
use botstead_workspace::{CreateEvent, ImageEvent};
use common::{LONG, World, image, request};
use futures_util::future::{BoxFuture, FutureExt};
use futures_util::stream::{BoxStream, StreamExt};
use std::time::Duration;

/// How many pulls a user may have at once.
const OWN: usize = 8;

fn content() -> ImageContent {
    ImageContent::of_files([("a", "b")])
}

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

/// Two users with slow registries, who have all of the places, and one pull more each.
async fn two_slow(pull_timeout: Duration) -> (World, ImageRef, Ends) {
    let mut world = World::with(InMemoryRuntime::new(), |_, config| {
        config.pull_turn = Duration::from_millis(100);
        config.pull_timeout = pull_timeout;
    })
    .await;
    let slow = image("registry.test/slow:1");
    let hangs = PullScript {
        hangs_after: Some(0),
        ..PullScript::default()
    };
    world.memory.add_remote_image(&slow, content(), hangs);
    let mut pulling = Vec::new();
    for _ in 0..2 {
        for _ in 0..=OWN {
            pulling.push(begin(&world, &slow).await.collect().boxed());
            // The first one gives way first, and its time is over before that of others.
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        world.change_owner().await;
    }
    made(&world, "images.pull", 2 * OWN).await;
    (world, slow, pulling)
}

async fn begin(world: &World, image: &ImageRef) -> BoxStream<'static, CreateEvent> {
    let bot = world.bot().await;
    let request = request(image.as_str());
    let events = world.workspaces.create(&world.owner, bot, request).await;
    events.unwrap()
}

type Ends = Vec<BoxFuture<'static, Vec<CreateEvent>>>;

/// The last event of the first that ends, and the others.
async fn first_end(pulling: Ends) -> (CreateEvent, Ends) {
    let ended = futures_util::future::select_all(pulling);
    let (mut ended, _, others) = tokio::time::timeout(LONG, ended).await.unwrap();
    (ended.pop().unwrap(), others)
}

#[tokio::test]
async fn two_users_with_slow_registries_do_not_keep_others_from_pulling() {
    let (world, slow, pulling) = two_slow(LONG).await;
    let good = image("registry.test/good:1");
    let answers = PullScript::default();
    world.memory.add_remote_image(&good, content(), answers);
    world.memory.add_image(&slow, content());
    let pulled = begin(&world, &good).await;
    let pulled = tokio::time::timeout(LONG, pulled.collect::<Vec<_>>()).await;
    let pulled = pulled.expect("the places are not given back");
    assert!(matches!(pulled.last(), Some(CreateEvent::Complete(_))));
    // Who waited takes what came meanwhile: the one of hers that gave way, and the one that had no place.
    let mut pulling = pulling;
    for _ in 0..2 {
        let (ended, others) = first_end(pulling).await;
        assert!(matches!(ended, CreateEvent::Complete(_)), "{ended:?}");
        pulling = others;
    }
}

#[tokio::test]
async fn a_pull_that_gave_way_and_gets_no_place_again_is_given_up() {
    let (world, slow, pulling) = two_slow(Duration::from_secs(6)).await;
    let _holds_on = begin(&world, &slow).await;
    let (ended, _) = first_end(pulling).await;
    let CreateEvent::Failed(error) = ended else {
        panic!("{ended:?}");
    };
    assert_eq!(error.code(), "pull_gave_way");
    let said = error.to_string();
    assert!(said.contains("less than 1 MiB in a second"), "{said}");
}
