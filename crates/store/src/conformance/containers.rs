//! Promises of [`crate::Containers`] and of the changes that concern them.

use super::samples::{add_bot, apply, container, image, number};
use super::{Fixture, assert_kind};
use crate::{Change, ContainerPatch, ErrorKind};
use botstead_types::{BotId, DesiredState, Limits};

fn insert(record: &crate::ContainerRecord) -> Change {
    Change::InsertContainer(Box::new(record.clone()))
}

/// What was written is what is read.
pub async fn a_container_reads_back(fixture: &mut dyn Fixture) {
    let store = fixture.store();
    let full = container(add_bot(&store).await.id);
    let mut bare = container(add_bot(&store).await.id);
    bare.head_version = None;
    bare.dirty = false;
    bare.desired = DesiredState::Stopped;
    bare.started = false;
    bare.devices = Vec::new();
    bare.limits = Limits::default();
    bare.last_error = None;
    for written in [full, bare] {
        apply(&store, insert(&written)).await.unwrap();
        assert_eq!(store.containers.get(written.bot).await.unwrap(), written);
    }
}

/// `AlreadyExists` for a second row, and the first stays as it was.
pub async fn a_bot_has_one_container(fixture: &mut dyn Fixture) {
    let store = fixture.store();
    let first = container(add_bot(&store).await.id);
    apply(&store, insert(&first)).await.unwrap();
    assert_kind(
        apply(&store, insert(&container(first.bot))).await,
        ErrorKind::AlreadyExists,
    );
    assert_eq!(store.containers.get(first.bot).await.unwrap(), first);
}

/// `NotFound` when the bot does not exist.
pub async fn a_container_needs_its_bot(fixture: &mut dyn Fixture) {
    let store = fixture.store();
    let orphan = container(BotId::generate());
    assert_kind(apply(&store, insert(&orphan)).await, ErrorKind::NotFound);
    assert_eq!(store.containers.list().await.unwrap(), Vec::new());
}

/// `NotFound` for a bot without a container.
pub async fn what_is_missing_is_not_found(fixture: &mut dyn Fixture) {
    let store = fixture.store();
    let bot = add_bot(&store).await.id;
    assert_kind(store.containers.get(bot).await, ErrorKind::NotFound);
    assert_kind(
        apply(&store, Change::PatchContainer(bot, Box::default())).await,
        ErrorKind::NotFound,
    );
}

/// A patch touches the fields that it names and no other: a start that records itself must not
/// forget the image, the devices or the limits.
pub async fn updates_are_partial(fixture: &mut dyn Fixture) {
    let store = fixture.store();
    let mut expected = container(add_bot(&store).await.id);
    apply(&store, insert(&expected)).await.unwrap();
    let patches = [
        ContainerPatch {
            image: Some(image("alpine")),
            ..ContainerPatch::default()
        },
        ContainerPatch {
            snapshot: Some("sha256:other".parse().unwrap()),
            ..ContainerPatch::default()
        },
        ContainerPatch {
            head_version: Some(Some(number(9))),
            ..ContainerPatch::default()
        },
        ContainerPatch {
            dirty: Some(false),
            ..ContainerPatch::default()
        },
        ContainerPatch {
            desired: Some(DesiredState::Stopped),
            ..ContainerPatch::default()
        },
        ContainerPatch {
            started: Some(false),
            ..ContainerPatch::default()
        },
        ContainerPatch {
            limits: Some(Limits::default()),
            ..ContainerPatch::default()
        },
        ContainerPatch {
            last_error: Some(None),
            ..ContainerPatch::default()
        },
        ContainerPatch {
            head_version: Some(None),
            ..ContainerPatch::default()
        },
        ContainerPatch::default(),
    ];
    for patch in patches {
        apply(
            &store,
            Change::PatchContainer(expected.bot, Box::new(patch.clone())),
        )
        .await
        .unwrap();
        expected.image = patch.image.unwrap_or(expected.image);
        expected.snapshot = patch.snapshot.unwrap_or(expected.snapshot);
        expected.head_version = patch.head_version.unwrap_or(expected.head_version);
        expected.dirty = patch.dirty.unwrap_or(expected.dirty);
        expected.desired = patch.desired.unwrap_or(expected.desired);
        expected.started = patch.started.unwrap_or(expected.started);
        expected.limits = patch.limits.unwrap_or(expected.limits);
        expected.last_error = patch.last_error.unwrap_or(expected.last_error);
        let read = store.containers.get(expected.bot).await.unwrap();
        assert!(read.updated_at >= expected.updated_at);
        expected.updated_at = read.updated_at;
        assert_eq!(read, expected);
    }
}

/// Deleting is done when there is nothing, also the second time.
pub async fn deleting_what_is_not_there_is_no_failure(fixture: &mut dyn Fixture) {
    let store = fixture.store();
    let record = container(add_bot(&store).await.id);
    apply(&store, insert(&record)).await.unwrap();
    for _ in 0..2 {
        apply(&store, Change::DeleteContainer(record.bot))
            .await
            .unwrap();
        assert_kind(store.containers.get(record.bot).await, ErrorKind::NotFound);
    }
    apply(&store, insert(&record)).await.unwrap();
}

/// All containers, by bot.
pub async fn containers_are_listed_by_bot(fixture: &mut dyn Fixture) {
    let store = fixture.store();
    let mut expected = Vec::new();
    for _ in 0..5 {
        expected.push(container(add_bot(&store).await.id));
    }
    for record in expected.iter().rev() {
        apply(&store, insert(record)).await.unwrap();
    }
    expected.sort_by_key(|record| record.bot);
    assert_eq!(store.containers.list().await.unwrap(), expected);
}
