//! The life of a workspace on the in-memory runtime: what each use case promises.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod common;

use botstead_authz::Actor;
use botstead_runtime_testing::{ImageContent, PullScript};
use botstead_types::{
    BotId, ContainerStatus, DesiredState, PageRequest, Role, UserId, VersionNumber, VersionSource,
};
use botstead_workspace::{
    CreateEvent, CreateRequest, DeleteRequest, Error, ExecRequest, SnapshotMode,
};
use common::{IMAGE, OTHER_IMAGE, World, container, image, request};
use futures_util::StreamExt;
use std::time::Duration;

fn version(number: i64) -> VersionNumber {
    number.try_into().unwrap()
}

#[tokio::test]
async fn create_reports_its_steps_in_order_and_the_workspace_runs() {
    let world = World::new().await;
    let bot = world.bot().await;
    let events = world.create(bot).await;
    assert!(matches!(&events[0], CreateEvent::Pulling { image: i } if *i == image(IMAGE)));
    assert!(matches!(&events[1], CreateEvent::Creating));
    assert!(matches!(&events[2], CreateEvent::Complete(made) if made.started));
    assert_eq!(events.len(), 3);
    let info = world.workspaces.get(&world.owner, bot).await.unwrap();
    assert_eq!(info.status, ContainerStatus::Running);
    assert!(info.reachable && info.task_running);
    world.check_whole().await;
}

#[tokio::test]
async fn a_second_creation_that_fits_starts_the_workspace_and_others_are_refused() {
    let world = World::new().await;
    let bot = world.running().await;
    world.workspaces.stop(&world.owner, bot).await.unwrap();
    assert!(matches!(
        world.create(bot).await.last(),
        Some(CreateEvent::Complete(_))
    ));
    let other = world
        .workspaces
        .create(&world.owner, bot, request(OTHER_IMAGE))
        .await;
    assert!(matches!(other.err(), Some(Error::ContainerExists(what)) if what.contains("image")));
    world.check_whole().await;
}

#[tokio::test]
async fn the_same_creation_is_joined_and_another_is_refused_while_it_runs() {
    let world = World::new().await;
    let bot = world.bot().await;
    let name = image("registry.test/slow:1");
    let slow = PullScript {
        hangs_after: Some(0),
        ..PullScript::default()
    };
    world
        .memory
        .add_remote_image(&name, ImageContent::of_files([("a", "b")]), slow);
    let wanted = request(name.as_str());
    let first = world
        .workspaces
        .create(&world.owner, bot, wanted.clone())
        .await
        .unwrap();
    let second = world
        .workspaces
        .create(&world.owner, bot, wanted)
        .await
        .unwrap();
    let other = world
        .workspaces
        .create(&world.owner, bot, request(IMAGE))
        .await
        .err()
        .unwrap();
    let Error::CreationUnderWay(id) = other else {
        panic!("{other:?}");
    };
    let cancelled = async {
        loop {
            let info = world
                .workspaces
                .operation(&world.owner, bot, id)
                .await
                .unwrap();
            if info.cancellable {
                break world
                    .workspaces
                    .cancel_operation(&world.owner, bot, id)
                    .await
                    .unwrap();
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let (first, second, _) = tokio::join!(
        first.collect::<Vec<_>>(),
        second.collect::<Vec<_>>(),
        cancelled
    );
    for events in [first, second] {
        assert!(matches!(events.first(), Some(CreateEvent::Pulling { .. })));
        let Some(CreateEvent::Failed(error)) = events.last() else {
            panic!("{events:?}");
        };
        assert_eq!(error.code(), "cancelled");
    }
    let gone = world.workspaces.get(&world.owner, bot).await.unwrap_err();
    assert_eq!(gone.code(), "workspace_not_found");
    world.check_whole().await;
}

#[tokio::test]
async fn a_creation_goes_on_when_nobody_listens() {
    let world = World::new().await;
    let bot = world.bot().await;
    drop(
        world
            .workspaces
            .create(&world.owner, bot, request(IMAGE))
            .await
            .unwrap(),
    );
    for _ in 0..500 {
        if world
            .workspaces
            .get(&world.owner, bot)
            .await
            .is_ok_and(|info| info.task_running)
        {
            return world.check_whole().await;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the creation stopped with its listener");
}

#[tokio::test]
async fn a_failed_creation_leaves_nothing_but_the_bot() {
    let world = World::new().await;
    for (nth, operation) in [
        "images.pull",
        "snapshots.prepare",
        "containers.create",
        "tasks.create",
        "tasks.start",
        "network.attach",
    ]
    .into_iter()
    .enumerate()
    {
        let bot = world.bot().await;
        let kind = botstead_runtime::ErrorKind::Internal;
        world.memory.fail_next(operation, kind, 1);
        let wanted = if nth == 0 { "registry.test/x:1" } else { IMAGE };
        let events: Vec<_> = world
            .workspaces
            .create(&world.owner, bot, request(wanted))
            .await
            .unwrap()
            .collect()
            .await;
        assert!(
            matches!(events.last(), Some(CreateEvent::Failed(_))),
            "{operation}: {events:?}"
        );
        assert!(
            world.store.containers.get(bot).await.is_err(),
            "{operation}"
        );
        world.check_whole().await;
    }
}

#[tokio::test]
async fn what_a_request_leaves_open_comes_from_the_bot_then_from_the_server() {
    let world = World::new().await;
    let bot = world.bot().await;
    let metadata = serde_json::json!({"workspace": {"image": OTHER_IMAGE}});
    let patch = botstead_store::BotPatch {
        metadata: metadata.as_object().cloned(),
        ..Default::default()
    };
    world.store.bots.update(bot, &patch).await.unwrap();
    world.workspaces.start(&world.owner, bot).await.unwrap();
    assert_eq!(world.record(bot).await.image.reference, image(OTHER_IMAGE));

    let unreadable = serde_json::json!({"workspace": {"image": 7}});
    let patch = botstead_store::BotPatch {
        metadata: unreadable.as_object().cloned(),
        ..Default::default()
    };
    world.store.bots.update(bot, &patch).await.unwrap();
    let refused = world
        .workspaces
        .create(&world.owner, bot, CreateRequest::default())
        .await;
    assert_eq!(refused.err().unwrap().code(), "preference_unreadable");
}

#[tokio::test]
async fn stop_and_start_keep_the_files_and_stopped_stays_stopped() {
    let mut world = World::new().await;
    let bot = world.running().await;
    world.write(bot, "kept").await;
    world.workspaces.stop(&world.owner, bot).await.unwrap();
    world.workspaces.stop(&world.owner, bot).await.unwrap();
    world.restart().await;
    assert_eq!(world.record(bot).await.desired, DesiredState::Stopped);
    world.check_whole().await;
    world.workspaces.start(&world.owner, bot).await.unwrap();
    assert_eq!(world.read(bot).await.as_deref(), Some("kept"));
    world.check_whole().await;
}

#[tokio::test]
async fn snapshot_and_rollback_and_roll_forward() {
    let world = World::new().await;
    let bot = world.running().await;
    world.write(bot, "one").await;
    assert_eq!(world.snapshot(bot).await, 1);
    world.write(bot, "two").await;
    assert_eq!(world.snapshot(bot).await, 2);
    world.write(bot, "three").await;

    let foreseen = world
        .workspaces
        .rollback(&world.owner, bot, version(1), true)
        .await
        .unwrap();
    let done = world
        .workspaces
        .rollback(&world.owner, bot, version(1), false)
        .await
        .unwrap();
    assert_eq!(foreseen, done);
    assert_eq!(done.safety_version, Some(version(3)));
    assert_eq!(world.read(bot).await.as_deref(), Some("one"));
    world.memory.runtime().leases.collect().await.unwrap();
    world
        .workspaces
        .rollback(&world.owner, bot, version(3), false)
        .await
        .unwrap();
    assert_eq!(world.read(bot).await.as_deref(), Some("three"));

    let tree = world.workspaces.tree(&world.owner, bot).await.unwrap();
    assert_eq!(tree.head_version, Some(version(3)));
    let parents: Vec<_> = tree
        .versions
        .iter()
        .map(|v| (v.number.get(), v.parent))
        .collect();
    assert!(parents.contains(&(2, Some(version(1)))));
    assert!(parents.contains(&(3, Some(version(2)))));
    assert!(
        parents.contains(&(4, Some(version(1)))),
        "the state before rolling forward"
    );
    let kept = world.store.versions.get(bot, version(3)).await.unwrap();
    assert_eq!(kept.source, VersionSource::Rollback);
    world.check_whole().await;
}

#[tokio::test]
async fn a_rollback_keeps_no_second_copy_of_a_state_that_cannot_have_changed() {
    let world = World::new().await;
    let bot = world.running().await;
    world.workspaces.stop(&world.owner, bot).await.unwrap();
    world.snapshot(bot).await;
    for _ in 0..3 {
        let done = world
            .workspaces
            .rollback(&world.owner, bot, version(1), false)
            .await
            .unwrap();
        assert_eq!(done.safety_version, None);
    }
    assert_eq!(world.store.versions.list(bot).await.unwrap().len(), 1);
    world.check_whole().await;
}

#[tokio::test]
async fn versions_survive_deletion_and_a_rollback_makes_the_workspace_again() {
    let world = World::new().await;
    let bot = world.running().await;
    world.write(bot, "kept").await;
    world.snapshot(bot).await;
    world
        .workspaces
        .delete(&world.owner, bot, DeleteRequest::default())
        .await
        .unwrap();
    world
        .workspaces
        .delete(&world.owner, bot, DeleteRequest::default())
        .await
        .unwrap();
    world.check_whole().await;
    let listed = world
        .workspaces
        .snapshots(&world.owner, bot, None)
        .await
        .unwrap();
    assert_eq!(listed.snapshots.iter().filter(|s| s.managed).count(), 1);

    world
        .workspaces
        .rollback(&world.owner, bot, version(1), false)
        .await
        .unwrap();
    assert_eq!(world.record(bot).await.desired, DesiredState::Stopped);
    assert_eq!(world.read(bot).await.as_deref(), Some("kept"));
    assert_eq!(world.snapshot(bot).await, 2, "numbers go on");
    let all = DeleteRequest {
        delete_versions: true,
        ..DeleteRequest::default()
    };
    world
        .workspaces
        .delete(&world.owner, bot, all)
        .await
        .unwrap();
    assert!(world.store.versions.list(bot).await.unwrap().is_empty());
    // Before anybody here asks for a collection: a deletion gives the disk back by itself.
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    while world
        .memory
        .snapshots()
        .iter()
        .any(|left| !left.key.as_str().starts_with("sha256:"))
    {
        assert!(
            std::time::Instant::now() < deadline,
            "{:?}",
            world.memory.snapshots()
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    world.check_whole().await;
    let left = world.memory.snapshots();
    let layers = left
        .iter()
        .filter(|left| left.key.as_str().starts_with("sha256:"));
    assert_eq!(
        layers.count(),
        left.len(),
        "only layers of local images stay"
    );
}

#[tokio::test]
async fn deleting_a_bot_removes_everything_that_it_had() {
    let world = World::new().await;
    let bot = world.running().await;
    world.snapshot(bot).await;
    world
        .workspaces
        .delete_bot(&world.owner, bot, false)
        .await
        .unwrap();
    let gone = world.workspaces.get(&world.owner, bot).await.unwrap_err();
    assert!(matches!(gone, Error::BotNotFound(_)));
    world.check_whole().await;
    assert!(world.memory.containers().is_empty());
}

#[tokio::test]
async fn a_strangers_bot_does_not_exist() {
    let world = World::new().await;
    let bot = world.running().await;
    let stranger = Actor::User {
        id: UserId::generate(),
        role: Role::Member,
    };
    let w = &world.workspaces;
    let codes = [
        w.get(&stranger, bot).await.unwrap_err().code(),
        w.stop(&stranger, bot).await.unwrap_err().code(),
        w.snapshot(&stranger, bot, None, SnapshotMode::Stop)
            .await
            .unwrap_err()
            .code(),
        w.delete(&stranger, bot, DeleteRequest::default())
            .await
            .unwrap_err()
            .code(),
        w.rollback(&stranger, bot, version(1), true)
            .await
            .unwrap_err()
            .code(),
        w.metrics(&stranger, bot).await.unwrap_err().code(),
        w.get(&stranger, BotId::generate())
            .await
            .unwrap_err()
            .code(),
    ];
    assert_eq!(codes, ["bot_not_found"; 7]);
    let page = PageRequest::default();
    let refused = w.images(&stranger, &page).await;
    assert_eq!(refused.unwrap_err().code(), "forbidden");
}

#[tokio::test]
async fn a_busy_bot_names_what_it_is_busy_with_and_another_bot_is_not_delayed() {
    let world = World::impatient().await;
    let (busy, free) = (world.bot().await, world.running().await);
    let name = image("registry.test/slow:1");
    let slow = PullScript {
        hangs_after: Some(0),
        ..PullScript::default()
    };
    world
        .memory
        .add_remote_image(&name, ImageContent::of_files([("a", "b")]), slow);
    let creation = world
        .workspaces
        .create(&world.owner, busy, request(name.as_str()))
        .await
        .unwrap();
    while !world.memory.take_calls().contains(&"images.pull") {
        tokio::task::yield_now().await;
    }
    let refused = world.workspaces.stop(&world.owner, busy).await.unwrap_err();
    let Error::Busy {
        operation,
        what: "create",
    } = refused
    else {
        panic!("{refused:?}");
    };
    world.workspaces.stop(&world.owner, free).await.unwrap();
    let page = botstead_types::PageRequest::default();
    let shown = world
        .workspaces
        .operations(&world.owner, busy, &page)
        .await
        .unwrap();
    assert_eq!(shown.items[0].operation.id, operation);
    world
        .workspaces
        .cancel_operation(&world.owner, busy, operation)
        .await
        .unwrap();
    let events: Vec<_> = creation.collect().await;
    assert!(matches!(events.last(), Some(CreateEvent::Failed(_))));
    world.check_whole().await;
}

#[tokio::test]
async fn what_should_run_runs_again_after_the_host_was_restarted() {
    let mut world = World::new().await;
    let (runs, stopped) = (world.running().await, world.running().await);
    world.workspaces.stop(&world.owner, stopped).await.unwrap();
    world.write(runs, "kept").await;
    world.workspaces.close(Duration::from_secs(5)).await;
    world.memory.restart_host();
    world.restart().await;
    world.check_whole().await;
    assert_eq!(world.read(runs).await.as_deref(), Some("kept"));
    assert_eq!(world.record(stopped).await.desired, DesiredState::Stopped);
}

#[tokio::test]
async fn a_broken_network_is_shown_and_mended_without_touching_the_task() {
    let mut world = World::new().await;
    let bot = world.running().await;
    let before = world.memory.tasks();
    world.memory.break_endpoint(&container(bot));
    assert!(
        !world
            .workspaces
            .get(&world.owner, bot)
            .await
            .unwrap()
            .reachable
    );
    world.restart().await;
    assert!(
        world
            .workspaces
            .get(&world.owner, bot)
            .await
            .unwrap()
            .reachable
    );
    assert_eq!(world.memory.tasks(), before, "the task went on");
}

#[tokio::test]
async fn a_container_that_vanished_is_made_again_with_its_files() {
    let mut world = World::new().await;
    let bot = world.running().await;
    world.write(bot, "kept").await;
    let runtime = world.memory.runtime();
    let id = container(bot);
    let grace = Duration::ZERO;
    let lease = "keep".parse().unwrap();
    // Another tool removed the container; its snapshot is not collected yet.
    runtime.leases.create(&lease).await.unwrap();
    let active = world.record(bot).await.snapshot;
    world
        .workspaces
        .snapshot(&world.owner, bot, None, SnapshotMode::Stop)
        .await
        .unwrap();
    runtime
        .tasks
        .stop(&id, botstead_runtime::Signal::KILL, grace)
        .await
        .unwrap();
    runtime.containers.delete(&id).await.unwrap();
    runtime.leases.delete(lease.as_str()).await.unwrap();
    world.restart().await;
    assert_eq!(world.read(bot).await.as_deref(), Some("kept"));
    assert_ne!(world.record(bot).await.snapshot, active);
    world.check_whole().await;
}

#[tokio::test]
async fn a_task_that_ends_by_itself_is_started_again() {
    let world = World::new().await;
    let bot = world.running().await;
    world.write(bot, "kept").await;
    // The watcher follows events from its own task; let it begin.
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(world.memory.exit_task(&container(bot), 137));
    for _ in 0..500 {
        let info = world.workspaces.get(&world.owner, bot).await.unwrap();
        if info.reachable {
            assert_eq!(world.read(bot).await.as_deref(), Some("kept"));
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("the workspace was not started again");
}

#[tokio::test]
async fn outputs_that_come_at_the_end_are_counted_before_a_command_starts() {
    let world = World::new().await;
    let bot = world.running().await;
    world.memory.take_calls();
    let command = ExecRequest {
        command: vec!["ls".to_owned()],
        ..ExecRequest::default()
    };
    let mut asked = Vec::new();
    let w = &world.workspaces;
    let room = async |data: &[u8], _: &[u8]| {
        asked.push((
            data.len(),
            world.memory.take_calls().contains(&"tasks.exec"),
        ));
        true
    };
    // There are no processes in memory.
    let ran = w.exec_within(&world.owner, bot, command, room).await;
    assert_eq!(ran.unwrap_err().code(), "unsupported");
    assert_eq!(asked, [(2 << 20, false)]);
}
