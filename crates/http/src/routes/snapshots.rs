//! /bots/{bot_id}/container/snapshots: versions of a workspace.
//!
//! The shapes are fixed, because existing clients speak them.

use crate::HttpConfig;
use crate::auth::Caller;
use crate::extract::{Body, BodyOrDefault, IdOf, PageQuery, QueryOf};
use crate::problem::Problem;
use crate::shapes::Paged;
use crate::state::SharedState;
use actix_web::{HttpResponse, get, post, web};
use botstead_types::{BotId, VersionNumber};
use botstead_workspace::VersionRecord;
use botstead_workspace::{
    CreatedVersion, ListedSnapshot, RollbackOutcome, SnapshotList, SnapshotMode, VersionTree,
};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;
use utoipa::{IntoParams, ToSchema};
use utoipa_actix_web::service_config::ServiceConfig;

mod versions;

/// The source of a snapshot that is no version.
const IMAGE_LAYER: &str = "image_layer";

pub(super) fn configure(config: &mut ServiceConfig<'_>) {
    config
        .service(create_snapshot)
        .service(list_snapshots)
        .service(rollback)
        .service(get_tree)
        .service(versions::update)
        .service(versions::delete)
        .service(versions::diff)
        .service(versions::restore_path);
}

/// A version to be made.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct CreateSnapshot {
    /// A name for it.
    snapshot_name: Option<String>,
    /// How the state of a workspace that runs is kept; `live` when absent.
    mode: Option<Mode>,
}

/// How the state of a workspace that runs is kept.
#[derive(Clone, Copy, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = SnapshotMode)]
enum Mode {
    /// It is copied while the workspace goes on; processes stand still for milliseconds.
    Live,
    /// The workspace is stopped and started again, and nothing is copied.
    Stop,
}

impl From<Mode> for SnapshotMode {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::Live => Self::Live,
            Mode::Stop => Self::Stop,
        }
    }
}

/// The version that was made.
#[derive(Serialize, ToSchema)]
struct CreatedSnapshot {
    /// The container's id.
    container_id: String,
    /// The name that was asked for, else `Version <number>`.
    snapshot_name: String,
    /// The runtime's name of the snapshot.
    runtime_snapshot_name: String,
    /// The same as `snapshot_name`.
    display_name: String,
    /// The snapshotter.
    snapshotter: String,
    /// Its number.
    version: u32,
    /// Why it was made.
    #[schema(example = "manual")]
    source: &'static str,
    /// How long the workspace's processes stood still, in milliseconds; only of a live snapshot.
    #[serde(skip_serializing_if = "Option::is_none")]
    freeze_ms: Option<f64>,
    /// Bytes of files that were copied; only of a live snapshot.
    #[serde(skip_serializing_if = "Option::is_none")]
    copied_bytes: Option<u64>,
    /// How long the copy took, in milliseconds; only of a live snapshot.
    #[serde(skip_serializing_if = "Option::is_none")]
    total_ms: Option<f64>,
}

impl From<CreatedVersion> for CreatedSnapshot {
    fn from(created: CreatedVersion) -> Self {
        let version = created.version;
        let report = created.report.as_ref();
        let ms = |duration: Duration| (duration.as_secs_f64() * 1e6).round() / 1e3;
        let name = name_of(&version);
        Self {
            container_id: created.container.into(),
            snapshot_name: name.clone(),
            runtime_snapshot_name: version.snapshot.into(),
            display_name: name,
            snapshotter: version.snapshotter,
            version: version.number.get(),
            source: version.source.as_str(),
            freeze_ms: report.map(|report| ms(report.freeze)),
            copied_bytes: report.map(|report| report.copied_bytes),
            total_ms: report.map(|report| ms(report.total)),
        }
    }
}

/// A version's name: the user's, else one from its number, as in listings.
fn name_of(version: &VersionRecord) -> String {
    match &version.name {
        Some(name) => name.clone(),
        None => format!("Version {}", version.number),
    }
}

/// Keep the workspace's present state as a version.
///
/// A workspace that runs goes on: the same processes, terminals and connections. What they had
/// written before is in the version.
#[utoipa::path(
    tag = "snapshots",
    params(("bot_id" = Uuid, Path, description = "The bot.")),
    request_body = CreateSnapshot,
    responses(
        (status = 201, body = CreatedSnapshot),
        (status = 404, description = "`bot_not_found`, or `workspace_not_found` when it has none."),
        (status = 409, description = "`busy`: another operation is under way."),
        (status = 501, description = "`unsupported`: this snapshotter cannot do `live`."),
        (status = 507, description = "`insufficient_storage`: `stop` copies nothing."),
    ),
)]
#[post("/bots/{bot_id}/container/snapshots")]
async fn create_snapshot(
    caller: Caller,
    id: IdOf<BotId>,
    body: BodyOrDefault<CreateSnapshot>,
    state: web::Data<SharedState>,
) -> Result<HttpResponse, Problem> {
    let name = body.0.snapshot_name.filter(|name| !name.trim().is_empty());
    let workspaces = &state.services.workspaces;
    let mode = body.0.mode.map_or(SnapshotMode::Live, SnapshotMode::from);
    let created = workspaces.snapshot(&caller.actor, id.0, name, mode).await?;
    Ok(HttpResponse::Created().json(CreatedSnapshot::from(created)))
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct SnapshotsQuery {
    /// The container's snapshotter; any other is refused.
    snapshotter: Option<String>,
}

/// A bot's snapshots.
#[derive(Serialize, ToSchema)]
struct Snapshots {
    /// The container's snapshotter.
    snapshotter: String,
    /// The snapshots that the workspace's state is made of, and its other versions; oldest first.
    snapshots: Vec<Snapshot>,
    /// Where the next page begins; absent on the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    next_cursor: Option<String>,
    /// Whether newer ones follow on the next page; absent otherwise.
    #[serde(skip_serializing_if = "crate::shapes::is_false")]
    #[schema(required = false)]
    truncated: bool,
}

/// A snapshot in the list.
#[derive(Serialize, ToSchema)]
struct Snapshot {
    /// The snapshotter.
    snapshotter: String,
    /// The name to show.
    name: String,
    /// The name that the user gave.
    #[serde(skip_serializing_if = "Option::is_none")]
    display_name: Option<String>,
    /// The runtime's name.
    runtime_snapshot_name: String,
    /// The runtime's name of the parent.
    #[serde(skip_serializing_if = "Option::is_none")]
    parent: Option<String>,
    /// `Active`, `Committed` or `View`.
    #[schema(example = "Committed")]
    kind: &'static str,
    /// When it was made.
    created_at: DateTime<Utc>,
    /// When it last changed.
    updated_at: DateTime<Utc>,
    /// Its labels.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schema(required = false)]
    labels: BTreeMap<String, String>,
    /// Why a version was made: `manual`, `pre_exec`, `rollback`, `import`, `image`, `inherited`,
    /// `recovered`;
    /// `image_layer` for a snapshot that is no version.
    #[schema(example = "manual")]
    source: &'static str,
    /// Whether it is a recorded version.
    managed: bool,
    /// The version that it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<u32>,
}

impl Snapshots {
    fn page(list: SnapshotList, page: &PageQuery, config: &HttpConfig) -> Result<Self, Problem> {
        let shape = |snapshot: ListedSnapshot| Snapshot {
            snapshotter: list.snapshotter.clone(),
            name: snapshot.name,
            display_name: snapshot.display_name,
            runtime_snapshot_name: snapshot.runtime_name.into(),
            parent: snapshot.parent.map(String::from),
            kind: snapshot.kind.as_str(),
            created_at: snapshot.created_at,
            updated_at: snapshot.updated_at,
            labels: snapshot.labels,
            source: snapshot
                .source
                .map_or(IMAGE_LAYER, |source| source.as_str()),
            managed: snapshot.managed,
            version: snapshot.version.map(VersionNumber::get),
        };
        let key = |one: &ListedSnapshot| {
            let version = one.version.map(VersionNumber::get);
            let runtime_name = one.runtime_name.to_string();
            (one.created_at, one.name.clone(), runtime_name, version)
        };
        let page = Paged::of(list.snapshots, key, shape, page, config)?;
        Ok(Self {
            snapshots: page.items,
            truncated: page.next_cursor.is_some(),
            next_cursor: page.next_cursor,
            snapshotter: list.snapshotter,
        })
    }
}

/// List a bot's snapshots.
///
/// Without `limit` as many as fit into a reply.
#[utoipa::path(
    tag = "snapshots",
    params(("bot_id" = Uuid, Path, description = "The bot."), SnapshotsQuery, PageQuery),
    responses(
        (status = 200, body = Snapshots),
        (status = 400, description = "Another snapshotter than the container's."),
        (status = 404, description = "`bot_not_found`, or `workspace_not_found` when it has none."),
    ),
)]
#[get("/bots/{bot_id}/container/snapshots")]
async fn list_snapshots(
    caller: Caller,
    id: IdOf<BotId>,
    query: QueryOf<SnapshotsQuery>,
    page: QueryOf<PageQuery>,
    state: web::Data<SharedState>,
) -> Result<HttpResponse, Problem> {
    let snapshotter = query
        .0
        .snapshotter
        .as_deref()
        .filter(|name| !name.is_empty());
    let workspaces = &state.services.workspaces;
    let room = state.memory.for_list(caller.user).await?;
    let list = workspaces
        .snapshots(&caller.actor, id.0, snapshotter)
        .await?;
    let page = Snapshots::page(list, &page.0, &state.config)?;
    Ok(room.held_by(HttpResponse::Ok().json(page)))
}

/// The version to bring back.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Rollback {
    /// Its number, at least 1.
    #[schema(minimum = 1)]
    version: i64,
    /// Only tell what would be done.
    #[serde(default)]
    dry_run: bool,
}

/// What a rollback did or would do.
#[derive(Serialize, ToSchema)]
struct RolledBack {
    /// The version whose state the workspace has now.
    rolled_back_to: u32,
    /// The version that keeps the state before, where that differed from every version.
    #[serde(skip_serializing_if = "Option::is_none")]
    safety_version: Option<u32>,
}

impl From<RollbackOutcome> for RolledBack {
    fn from(outcome: RollbackOutcome) -> Self {
        Self {
            rolled_back_to: outcome.rolled_back_to.get(),
            safety_version: outcome.safety_version.map(VersionNumber::get),
        }
    }
}

/// Bring a version back. The present state is kept as a version first, and a running workspace
/// runs again afterwards.
#[utoipa::path(
    tag = "snapshots",
    params(("bot_id" = Uuid, Path, description = "The bot.")),
    request_body = Rollback,
    responses(
        (status = 200, body = RolledBack),
        (status = 400, description = "A version below 1."),
        (status = 404, description = "`bot_not_found` or `version_not_found`."),
        (status = 409, description = "`busy`: another operation is under way."),
        (status = 507, description = "`insufficient_storage`."),
    ),
)]
#[post("/bots/{bot_id}/container/snapshots/rollback")]
async fn rollback(
    caller: Caller,
    id: IdOf<BotId>,
    body: Body<Rollback>,
    state: web::Data<SharedState>,
) -> Result<HttpResponse, Problem> {
    let version = VersionNumber::try_from(body.0.version)?;
    let workspaces = &state.services.workspaces;
    let outcome = workspaces
        .rollback(&caller.actor, id.0, version, body.0.dry_run)
        .await?;
    Ok(HttpResponse::Ok().json(RolledBack::from(outcome)))
}

/// The versions of a workspace and how they grew from each other.
#[derive(Serialize, ToSchema)]
struct Tree {
    /// The version that the present state came from.
    #[serde(skip_serializing_if = "Option::is_none")]
    head_version: Option<u32>,
    /// All versions, parents before children.
    versions: Vec<Version>,
    /// Where the next page begins; absent on the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    next_cursor: Option<String>,
    /// Whether others follow on the next page; absent otherwise.
    #[serde(skip_serializing_if = "crate::shapes::is_false")]
    #[schema(required = false)]
    truncated: bool,
}

/// A version.
#[derive(Serialize, ToSchema)]
struct Version {
    /// Its number.
    version: u32,
    /// The version that its state grew from.
    #[serde(skip_serializing_if = "Option::is_none")]
    parent_version: Option<u32>,
    /// The user's name for it, else `Version <number>`.
    name: String,
    /// Why it was made.
    #[schema(example = "manual")]
    source: &'static str,
    /// When it was made.
    created_at: DateTime<Utc>,
    /// What it occupies without its parents, in bytes; 0 until that was measured.
    size_bytes: u64,
    /// A pinned version is not deleted.
    pinned: bool,
}

impl From<VersionRecord> for Version {
    fn from(version: VersionRecord) -> Self {
        Self {
            version: version.number.get(),
            parent_version: version.parent.map(VersionNumber::get),
            name: name_of(&version),
            source: version.source.as_str(),
            created_at: version.created_at,
            size_bytes: version.size_bytes.unwrap_or(0),
            pinned: version.pinned,
        }
    }
}

impl Tree {
    fn page(tree: VersionTree, page: &PageQuery, config: &HttpConfig) -> Result<Self, Problem> {
        let key = |version: &VersionRecord| version.number.get();
        let page = Paged::of(tree.versions, key, Version::from, page, config)?;
        Ok(Self {
            head_version: tree.head_version.map(VersionNumber::get),
            versions: page.items,
            truncated: page.next_cursor.is_some(),
            next_cursor: page.next_cursor,
        })
    }
}

/// The versions of a workspace as a tree: a rollback makes a branch.
///
/// Without `limit` as many as fit into a reply.
#[utoipa::path(
    tag = "snapshots",
    params(("bot_id" = Uuid, Path, description = "The bot."), PageQuery),
    responses(
        (status = 200, body = Tree),
        (status = 404, description = "`bot_not_found`."),
    ),
)]
#[get("/bots/{bot_id}/container/snapshots/tree")]
async fn get_tree(
    caller: Caller,
    id: IdOf<BotId>,
    page: QueryOf<PageQuery>,
    state: web::Data<SharedState>,
) -> Result<HttpResponse, Problem> {
    let room = state.memory.for_list(caller.user).await?;
    let tree = state.services.workspaces.tree(&caller.actor, id.0).await?;
    let page = Tree::page(tree, &page.0, &state.config)?;
    Ok(room.held_by(HttpResponse::Ok().json(page)))
}
