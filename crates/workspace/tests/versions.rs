//! What is done with versions: live snapshots, names, pins, deletion, retention, forks, another image,
//! comparison, and single paths.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod common;

use botstead_runtime_testing::InMemoryRuntime;
use botstead_types::{BotId, DesiredState, FilePath, VersionNumber, VersionSource};
use botstead_workspace::{
    CreateEvent, DeleteRequest, PathChangeKind, RetentionRules, VersionOrCurrent, VersionUpdate,
};
use common::gated::Gated;
use common::{IMAGE, OTHER_IMAGE, World, image};
use futures_util::StreamExt;
use std::time::Duration;

fn version(number: u32) -> VersionNumber {
    i64::from(number).try_into().unwrap()
}

async fn numbers(world: &World, bot: BotId) -> Vec<u32> {
    let versions = world.store.versions.list(bot).await.unwrap();
    versions
        .iter()
        .map(|version| version.number.get())
        .collect()
}

#[tokio::test]
async fn live_snapshots_leave_the_task_alone_and_can_be_rolled_back_to() {
    let world = World::new().await;
    let bot = world.running().await;
    let tasks = world.memory.tasks();
    for number in 1..=3 {
        world.write(bot, &number.to_string()).await;
        assert_eq!(world.live_snapshot(bot).await, number);
    }
    assert_eq!(world.memory.tasks(), tasks);
    let tree = world.workspaces.tree(&world.owner, bot).await.unwrap();
    assert_eq!(tree.head_version, Some(version(3)));
    let parents: Vec<_> = tree.versions.iter().map(|version| version.parent).collect();
    assert_eq!(parents, [None, Some(version(1)), Some(version(2))]);
    let statistics = world.workspaces.statistics().await.unwrap();
    assert_eq!(statistics.live_copies.count, 3);
    assert!(statistics.live_copies.copied_bytes >= 3);
    for number in [1, 3, 2] {
        let w = &world.workspaces;
        w.rollback(&world.owner, bot, version(number), false)
            .await
            .unwrap();
        assert_eq!(world.read(bot).await, Some(number.to_string()));
    }
    world.check_whole().await;
}

#[tokio::test]
async fn versions_are_renamed_and_pinned_and_a_pinned_one_is_not_deleted() {
    let world = World::new().await;
    let bot = world.running().await;
    world.live_snapshot(bot).await;
    let w = &world.workspaces;
    let update = async |name: Option<Option<&str>>, pinned| {
        let update = VersionUpdate {
            name: name.map(|name| name.map(str::to_owned)),
            pinned,
        };
        w.update_version(&world.owner, bot, version(1), update)
            .await
    };
    let updated = update(Some(Some(" good ")), Some(true)).await.unwrap();
    assert_eq!(
        (updated.name.as_deref(), updated.pinned),
        (Some("good"), true)
    );
    let delete = async || w.delete_version(&world.owner, bot, version(1)).await;
    assert_eq!(delete().await.unwrap_err().code(), "version_pinned");
    let updated = update(None, Some(false)).await.unwrap();
    assert_eq!(
        (updated.name.as_deref(), updated.pinned),
        (Some("good"), false)
    );
    assert_eq!(update(Some(None), None).await.unwrap().name, None);
    let refused = update(Some(Some("a\nb")), None).await.unwrap_err();
    assert_eq!(refused.code(), "invalid_snapshot_name");
    delete().await.unwrap();
    assert_eq!(delete().await.unwrap_err().code(), "version_not_found");
    let missing = update(None, Some(true)).await.unwrap_err();
    assert_eq!(missing.code(), "version_not_found");
    world.check_whole().await;
}

#[tokio::test]
async fn deleting_a_version_keeps_those_that_grew_from_it_and_its_number_is_not_used_again() {
    let world = World::new().await;
    let bot = world.running().await;
    for content in ["one", "two", "three"] {
        world.write(bot, content).await;
        world.snapshot(bot).await;
    }
    let w = &world.workspaces;
    w.delete_version(&world.owner, bot, version(2))
        .await
        .unwrap();
    let tree = w.tree(&world.owner, bot).await.unwrap();
    let parents: Vec<_> = tree
        .versions
        .iter()
        .map(|v| (v.number.get(), v.parent))
        .collect();
    assert_eq!(parents, [(1, None), (3, Some(version(1)))]);
    w.delete_version(&world.owner, bot, version(3))
        .await
        .unwrap();
    assert_eq!(world.record(bot).await.head_version, Some(version(1)));
    world.check_whole().await;
    assert_eq!(world.read(bot).await.as_deref(), Some("three"));
    assert_eq!(world.live_snapshot(bot).await, 4);
    w.rollback(&world.owner, bot, version(1), false)
        .await
        .unwrap();
    assert_eq!(world.read(bot).await.as_deref(), Some("one"));
    world.check_whole().await;
}

#[tokio::test]
async fn versions_that_nobody_asked_for_go_by_the_bots_rules() {
    let world = World::new().await;
    let bot = world.running().await;
    world.write(bot, "kept").await;
    world.snapshot(bot).await;
    let rules = RetentionRules {
        rollback: 2,
        ..RetentionRules::default()
    };
    let workspace = serde_json::json!({"workspace": {"retention": rules}});
    let patch = botstead_store::BotPatch {
        metadata: Some(workspace.as_object().unwrap().clone()),
        ..botstead_store::BotPatch::default()
    };
    let change = vec![botstead_store::Change::PatchBot(bot, patch)];
    world.store.transactions.apply(change).await.unwrap();
    for _ in 0..6 {
        world.write(bot, "changed").await;
        let w = &world.workspaces;
        w.rollback(&world.owner, bot, version(1), false)
            .await
            .unwrap();
    }
    let expected = [1, 6, 7];
    for _ in 0..200 {
        let unfinished = world.store.operations.unfinished().await.unwrap();
        if numbers(&world, bot).await == expected && unfinished.is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(numbers(&world, bot).await, expected);
    assert_eq!(world.read(bot).await.as_deref(), Some("kept"));
    world.check_whole().await;
}

#[tokio::test]
async fn a_fork_of_a_version_outlives_the_other_bot() {
    let world = World::new().await;
    let (from, to, stopped) = (world.running().await, world.bot().await, world.bot().await);
    world.write_to(from, "etc/machine-id", "0123\n").await;
    world.write(from, "one").await;
    world.snapshot(from).await;
    world.write(from, "two").await;
    let w = &world.workspaces;
    let fork = async |to, version| w.fork(&world.owner, to, from, version).await;
    let missing = fork(to, Some(version(9))).await.unwrap_err();
    assert_eq!(missing.code(), "version_not_found");
    let info = fork(to, Some(version(1))).await.unwrap();
    assert!(info.task_running);
    assert_eq!(fork(to, None).await.unwrap_err().code(), "container_exists");
    let itself = w.fork(&world.owner, from, from, None).await.unwrap_err();
    assert_eq!(itself.code(), "same_bot");
    w.stop(&world.owner, from).await.unwrap();
    let info = fork(stopped, None).await.unwrap();
    assert!(!info.task_running);
    assert_eq!(world.record(stopped).await.desired, DesiredState::Stopped);
    world.check_whole().await;

    let all = DeleteRequest {
        delete_versions: true,
        ..DeleteRequest::default()
    };
    w.delete(&world.owner, from, all).await.unwrap();
    w.delete_bot(&world.owner, from, false).await.unwrap();
    world.check_whole().await;
    assert_eq!(world.read(to).await.as_deref(), Some("one"));
    assert_eq!(world.read(stopped).await.as_deref(), Some("two"));
    for fork in [to, stopped] {
        let id = world.read_from(fork, "etc/machine-id").await.unwrap();
        assert_eq!(id.trim().len(), 32, "{id}");
        let versions = world.store.versions.list(fork).await.unwrap();
        let [first] = versions.as_slice() else {
            panic!("{versions:?}");
        };
        assert_eq!(first.source, VersionSource::Inherited);
        assert_eq!((first.number, first.parent), (version(1), None));
    }
    world.write(to, "changed").await;
    w.rollback(&world.owner, to, version(1), false)
        .await
        .unwrap();
    assert_eq!(world.read(to).await.as_deref(), Some("one"));
    world.check_whole().await;
}

#[tokio::test]
async fn another_image_keeps_the_data_and_a_rollback_brings_the_old_one_back() {
    let world = World::new().await;
    let bot = world.running().await;
    world.write(bot, "mine").await;
    world.write_to(bot, "etc/changed", "x").await;
    let w = &world.workspaces;
    let change = async |name| {
        let events = w
            .change_image(&world.owner, bot, image(name))
            .await
            .unwrap();
        events.collect::<Vec<_>>().await
    };
    let events = change(OTHER_IMAGE).await;
    let Some(CreateEvent::Complete(made)) = events.last() else {
        panic!("{events:?}");
    };
    assert_eq!(made.image, image(OTHER_IMAGE));
    assert!(made.started);
    let read = async |path: &'static str| world.read_from(bot, path).await;
    assert_eq!(read("data/file").await.as_deref(), Some("mine"));
    assert_eq!(read("etc/image").await.as_deref(), Some(OTHER_IMAGE));
    assert_eq!(read("etc/changed").await, None);
    world.check_whole().await;
    let kept = world.store.versions.get(bot, version(1)).await.unwrap();
    assert_eq!(kept.source, VersionSource::Image);

    w.rollback(&world.owner, bot, version(1), false)
        .await
        .unwrap();
    assert_eq!(read("etc/image").await.as_deref(), Some(IMAGE));
    assert_eq!(read("etc/changed").await.as_deref(), Some("x"));
    assert_eq!(world.record(bot).await.image.reference, image(IMAGE));

    let events = change("localhost/test/missing:1").await;
    assert!(
        matches!(events.last(), Some(CreateEvent::Failed(_))),
        "{events:?}"
    );
    assert_eq!(read("data/file").await.as_deref(), Some("mine"));
    world.check_whole().await;
}

#[tokio::test]
async fn a_fork_that_cannot_begin_is_over() {
    let world = World::new().await;
    let (from, to) = (world.running().await, world.bot().await);
    world.write(from, "mine").await;
    world.settled().await;
    let kind = botstead_runtime::ErrorKind::Unavailable;
    world.memory.fail_next("leases.create", kind, 1);
    world.memory.take_calls();
    let w = &world.workspaces;
    w.fork(&world.owner, to, from, None).await.unwrap_err();
    // Nothing was made that would have to be undone.
    let calls = world.memory.take_calls();
    assert!(!calls.contains(&"snapshots.remove"), "{calls:?}");
    assert_eq!(w.statistics().await.unwrap().operations_running, 0);
    world.check_whole().await;
    w.fork(&world.owner, to, from, None).await.unwrap();
    assert_eq!(world.read(to).await.as_deref(), Some("mine"));
    world.check_whole().await;
}

#[tokio::test]
async fn versions_are_compared_in_pages() {
    let world = World::new().await;
    let bot = world.running().await;
    world.write(bot, "one").await;
    world.write_to(bot, "data/gone", "x").await;
    world.live_snapshot(bot).await;
    world.write(bot, "other").await;
    let key = world.record(bot).await.snapshot;
    world.memory.remove_file(&key, "data/gone");
    world.write_to(bot, "data/new", "1234").await;
    world.live_snapshot(bot).await;
    let w = &world.workspaces;
    let diff = async |to, after, limit| {
        w.diff(&world.owner, bot, version(1), to, after, limit)
            .await
    };
    let expected = [
        ("/data/file", PathChangeKind::Changed, Some(5)),
        ("/data/gone", PathChangeKind::Removed, Some(1)),
        ("/data/new", PathChangeKind::Added, Some(4)),
    ];
    for to in [
        VersionOrCurrent::Version(version(2)),
        VersionOrCurrent::Current,
    ] {
        let (mut found, mut after) = (Vec::new(), None);
        loop {
            let page = diff(to, after, 1).await.unwrap();
            // Directories differ where their times do.
            found.extend(page.items.into_iter().filter(|item| item.size.is_some()));
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        let found: Vec<_> = found
            .iter()
            .map(|item| {
                (
                    std::str::from_utf8(&item.path).unwrap(),
                    item.change,
                    item.size,
                )
            })
            .collect();
        assert_eq!(found, expected);
    }
    let itself = diff(VersionOrCurrent::Version(version(1)), None, 100)
        .await
        .unwrap();
    assert!(
        itself.items.iter().all(|item| item.size.is_none()),
        "{itself:?}"
    );
    let missing = diff(VersionOrCurrent::Version(version(9)), None, 1).await;
    assert_eq!(missing.unwrap_err().code(), "version_not_found");
    world.check_whole().await;
}

#[tokio::test]
async fn what_is_deleted_while_it_is_compared_is_no_comparison() {
    let mut gated = None;
    let world = World::with(InMemoryRuntime::new(), |runtime, _| {
        gated = Some(Gated::before(runtime));
    })
    .await;
    let gated = gated.unwrap();
    let w = &world.workspaces;
    for (deleted, early) in [(false, false), (true, false), (false, true), (true, true)] {
        let bot = world.running().await;
        world.write(bot, "one").await;
        world.snapshot(bot).await;
        gated.close();
        gated.stand_early(early);
        let to = VersionOrCurrent::Current;
        let compared = w.diff(&world.owner, bot, version(1), to, None, 100);
        let meanwhile = async {
            gated.arrived.notified().await;
            match deleted {
                true => {
                    let request = DeleteRequest::default();
                    w.delete(&world.owner, bot, request).await.unwrap();
                }
                false => drop(world.snapshot(bot).await),
            }
            gated.gate.add_permits(2);
        };
        let (compared, ()) = tokio::join!(compared, meanwhile);
        let expected = match deleted {
            true => "workspace_not_found",
            false => "replaced_meanwhile",
        };
        assert_eq!(compared.unwrap_err().code(), expected, "early: {early}");
    }
    world.settled().await;
}

#[tokio::test]
async fn a_single_path_is_brought_back() {
    let world = World::new().await;
    let bot = world.running().await;
    world.write(bot, "one").await;
    world.live_snapshot(bot).await;
    world.write(bot, "two").await;
    world.write_to(bot, "data/later", "later").await;
    let w = &world.workspaces;
    let path = |text: &str| FilePath::new(text).unwrap();
    let restore = async |from: &str, target: Option<&str>| {
        let target = target.map(path);
        w.restore_path(&world.owner, bot, version(1), path(from), target)
            .await
    };
    let before = restore("/data/file", Some("/data/deep/copy"))
        .await
        .unwrap();
    assert_eq!(
        world.read_from(bot, "data/deep/copy").await.as_deref(),
        Some("one")
    );
    assert_eq!(world.read(bot).await.as_deref(), Some("two"));
    restore("/data/file", None).await.unwrap();
    assert_eq!(world.read(bot).await.as_deref(), Some("one"));
    assert_eq!(
        world.read_from(bot, "data/later").await.as_deref(),
        Some("later")
    );
    w.rollback(&world.owner, bot, before.unwrap(), false)
        .await
        .unwrap();
    assert_eq!(world.read(bot).await.as_deref(), Some("two"));
    let versions = numbers(&world, bot).await;
    for (from, target, code) in [
        ("/data/later", None, "path_not_found"),
        ("/", None, "forbidden"),
        ("/data/file", Some("/"), "forbidden"),
        ("/data/file", Some("/data/file/below"), "path_in_the_way"),
    ] {
        let refused = restore(from, target).await.unwrap_err();
        assert_eq!(refused.code(), code, "{from} {target:?}");
        assert_eq!(world.read(bot).await.as_deref(), Some("two"));
        assert!(w.get(&world.owner, bot).await.unwrap().task_running);
    }
    assert!(versions.len() <= numbers(&world, bot).await.len());
    world.check_whole().await;
}
