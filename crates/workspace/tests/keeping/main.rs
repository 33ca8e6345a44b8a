//! Databases that are older than what they describe, and things that vanish behind the server's back:
//! what a user wrote is still there, and can be reached.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod beside;
#[path = "../common/mod.rs"]
mod common;
mod deletions;
mod halfway;
mod lost;
mod older;
mod pins;
mod restored;
mod reverted;
mod superseded;
mod unsaved;
mod unstartable;

use botstead_runtime::Signal;
use botstead_store::{Change, Operation, OperationKind, OperationState};
use botstead_store_sql::{SqlConfig, SqlStore};
use botstead_types::{BotId, OperationId, PageRequest, SnapshotKey, SnapshotKind, VersionNumber};
use botstead_workspace::{CreateRequest, DeleteRequest};
use chrono::Utc;
use common::{IMAGE, LONG, World, container, request};
use futures_util::StreamExt;
use std::time::Duration;

pub(crate) fn version(number: i64) -> VersionNumber {
    number.try_into().unwrap()
}

/// Removes the row of the bot's workspace behind the server's back.
pub(crate) async fn lose_row(world: &World, bot: BotId) {
    let gone = vec![Change::DeleteContainer(bot), Change::ReleaseAddress(bot)];
    world.store.transactions.apply(gone).await.unwrap();
}

/// Removes the bot's container behind the server's back; its snapshot stays.
pub(crate) async fn lose_container(world: &World, bot: BotId) {
    let runtime = world.memory.runtime();
    let id = container(bot);
    let stopped = runtime.tasks.stop(&id, Signal::KILL, Duration::ZERO);
    stopped.await.unwrap();
    runtime.containers.delete(&id).await.unwrap();
}

pub(crate) async fn lose_snapshot(world: &World, key: &SnapshotKey) {
    world.memory.runtime().snapshots.remove(key).await.unwrap();
}

pub(crate) async fn stop_and_start(world: &World, bot: BotId) {
    world.workspaces.stop(&world.owner, bot).await.unwrap();
    world.workspaces.start(&world.owner, bot).await.unwrap();
}

/// The folder of the test's data.
fn folder(world: &World) -> std::path::PathBuf {
    world.preserved().parent().unwrap().to_owned()
}

/// As `admin backup`: a copy of the database.
pub(crate) async fn backup(world: &World, name: &str) -> std::path::PathBuf {
    let copy = folder(world).join(name);
    let path = folder(world).join("botstead.db");
    let database = SqlStore::open(&SqlConfig::at(path)).await.unwrap();
    database.backup_to(&copy).await.unwrap();
    database.close().await;
    copy
}

/// As `admin restore` and a start: the server goes on with the copy.
pub(crate) async fn restore(world: &mut World, copy: &std::path::Path) {
    world.workspaces.close(Duration::from_secs(5)).await;
    let database = SqlStore::open(&SqlConfig::at(copy)).await.unwrap();
    world.store = database.store();
    let folder = folder(world);
    let opened = common::open(&world.memory, &world.store, &folder).await;
    world.workspaces = opened.unwrap();
}

/// How the latest operation of that kind ended.
pub(crate) async fn ended(world: &World, bot: BotId, kind: OperationKind) -> Operation {
    let page = PageRequest::default();
    let listed = world.store.operations.list(bot, &page).await.unwrap();
    let mut all = listed.items.into_iter();
    all.find(|one| one.kind == kind).unwrap()
}

/// Preserves what the bot's workspace holds, and deletes that.
pub(crate) async fn preserve(world: &World, bot: BotId, content: &str) {
    world.write(bot, content).await;
    let preserving = DeleteRequest {
        preserve_data: true,
        ..DeleteRequest::default()
    };
    let w = &world.workspaces;
    w.delete(&world.owner, bot, preserving).await.unwrap();
}

/// A bot with an archive of "precious", and "present" in a workspace.
pub(crate) async fn with_archive(world: &World) -> BotId {
    let bot = world.running().await;
    preserve(world, bot, "precious").await;
    let without = CreateRequest {
        restore_data: Some(false),
        ..request(IMAGE)
    };
    let made = world.workspaces.create(&world.owner, bot, without).await;
    made.unwrap().collect::<Vec<_>>().await;
    world.write(bot, "present").await;
    world.settled().await;
    bot
}

/// The deletion of the bot's version 1, in the journal and no further.
pub(crate) async fn begun_deletion(world: &World, bot: BotId) -> Operation {
    let found = world.store.versions.get(bot, version(1)).await.unwrap();
    let now = Utc::now();
    let deletion = Operation {
        id: OperationId::generate(),
        bot,
        kind: OperationKind::DeleteVersion,
        state: OperationState::Running,
        step: "begun".to_owned(),
        version: None,
        input: serde_json::json!({"number": 1, "snapshot": found.snapshot}),
        error: None,
        created_at: now,
        updated_at: now,
    };
    let operations = &world.store.operations;
    operations.begin(&deletion, false).await.unwrap();
    deletion
}

/// More calls than any operation makes.
pub(crate) const MOST_CALLS: usize = 60;

/// Ends the server that was killed: the next one can be opened.
pub(crate) async fn bury(world: &World) {
    world.workspaces.close(LONG).await;
    world.memory.live_again();
}

/// The database that the server was killed with: `admin restore` keeps it.
pub(crate) fn kept_database(world: &World) -> std::path::PathBuf {
    folder(world).join("botstead.db")
}

/// Whether a workspace or a protected version holds that.
pub(crate) fn is_somewhere(world: &World, content: &str) -> bool {
    let containers = world.memory.containers();
    world.memory.snapshots().iter().any(|found| {
        let named = containers
            .iter()
            .any(|one| one.snapshot == found.key.as_str());
        let kept = named || (found.kind == SnapshotKind::Committed && found.rooted);
        let file = world.memory.read_file(&found.key, "data/file");
        kept && file.as_deref() == Some(content.as_bytes())
    })
}
