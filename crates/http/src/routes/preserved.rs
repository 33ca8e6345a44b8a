//! /bots/{bot_id}/container/preserved: archives of data whose workspace was deleted, and their return.

use crate::auth::Caller;
use crate::extract::{BodyOrDefault, IdOf, PageQuery, PathId, QueryOf};
use crate::problem::Problem;
use crate::shapes::List;
use crate::state::SharedState;
use actix_web::{HttpResponse, delete, get, post, web};
use botstead_types::{BotId, PreservedId};
use botstead_workspace::PreservedArchive;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_actix_web::service_config::ServiceConfig;

pub(super) fn configure(config: &mut ServiceConfig<'_>) {
    config.service(list).service(discard).service(restore);
}

impl PathId for PreservedId {
    const SEGMENT: &'static str = "preserved_id";
}

/// An archive of preserved data.
#[derive(Serialize, ToSchema)]
struct Preserved {
    /// Its id.
    #[schema(value_type = Uuid)]
    id: PreservedId,
    /// When it was written.
    created_at: DateTime<Utc>,
    /// What it occupies.
    size_bytes: u64,
}

impl From<PreservedArchive> for Preserved {
    fn from(archive: PreservedArchive) -> Self {
        Self {
            id: archive.id,
            created_at: archive.created_at,
            size_bytes: archive.size_bytes,
        }
    }
}

/// The archives of preserved data, newest first. Each deletion with `preserve_data=true` adds one; it stays
/// until it is restored or discarded.
///
/// Without `limit` a hundred.
#[utoipa::path(
    tag = "container",
    params(("bot_id" = Uuid, Path, description = "The bot."), PageQuery),
    responses(
        (status = 200, body = List<Preserved>),
        (status = 404, description = "`bot_not_found`."),
    ),
)]
#[get("/bots/{bot_id}/container/preserved")]
async fn list(
    caller: Caller,
    id: IdOf<BotId>,
    query: QueryOf<PageQuery>,
    state: web::Data<SharedState>,
) -> Result<HttpResponse, Problem> {
    let page = query.0.try_into()?;
    let workspaces = &state.services.workspaces;
    let found = workspaces.preserved(&caller.actor, id.0, &page).await?;
    Ok(HttpResponse::Ok().json(List::from(found.map(Preserved::from))))
}

/// Discard an archive of preserved data for good.
#[utoipa::path(
    tag = "container",
    params(
        ("bot_id" = Uuid, Path, description = "The bot."),
        ("preserved_id" = Uuid, Path, description = "The archive."),
    ),
    responses(
        (status = 204, description = "It is gone."),
        (status = 404, description = "`bot_not_found` or `no_preserved_data`."),
        (status = 409, description = "`busy`: another operation is under way."),
    ),
)]
#[delete("/bots/{bot_id}/container/preserved/{preserved_id}")]
async fn discard(
    caller: Caller,
    id: IdOf<BotId>,
    archive: IdOf<PreservedId>,
    state: web::Data<SharedState>,
) -> Result<HttpResponse, Problem> {
    let workspaces = &state.services.workspaces;
    workspaces
        .discard_preserved(&caller.actor, id.0, archive.0)
        .await?;
    Ok(HttpResponse::NoContent().finish())
}

/// Which archive to bring back.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct RestoreData {
    /// The archive's id; the newest when absent.
    #[schema(value_type = Option<Uuid>)]
    id: Option<String>,
}

/// The reply of a restore.
#[derive(Serialize, ToSchema)]
struct Restored {
    /// Always `true`.
    restored: bool,
}

/// Bring preserved data back into a workspace. What is in `/data` now is kept as a version first; the
/// archive goes once its data is there, others stay.
#[utoipa::path(
    tag = "container",
    params(("bot_id" = Uuid, Path, description = "The bot.")),
    request_body = RestoreData,
    responses(
        (status = 200, body = Restored),
        (status = 400, description = "`invalid_value`: the id is not an id."),
        (status = 404, description = "`bot_not_found`, `workspace_not_found` or `no_preserved_data`."),
        (status = 409, description = "`busy`: another operation is under way."),
        (status = 507, description = "`insufficient_storage`."),
    ),
)]
#[post("/bots/{bot_id}/container/data/restore")]
async fn restore(
    caller: Caller,
    id: IdOf<BotId>,
    body: BodyOrDefault<RestoreData>,
    state: web::Data<SharedState>,
) -> Result<HttpResponse, Problem> {
    let archive = body.0.id.map(|id| id.parse()).transpose()?;
    let workspaces = &state.services.workspaces;
    workspaces
        .restore_data(&caller.actor, id.0, archive)
        .await?;
    Ok(HttpResponse::Ok().json(Restored { restored: true }))
}
