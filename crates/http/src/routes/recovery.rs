//! /recovery: what the runtime has and the database does not know, for admins.

use super::data::{ExportQuery, archive_reply};
use crate::auth::Caller;
use crate::extract::{PageQuery, QueryOf};
use crate::problem::Problem;
use crate::shapes::{List, Paged, word};
use crate::state::SharedState;
use actix_web::{HttpResponse, delete, get, post, web};
use botstead_types::VersionNumber;
use botstead_workspace::UnrecordedSnapshot;
use chrono::{DateTime, Utc};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_actix_web::service_config::ServiceConfig;
use uuid::Uuid;

/// The request that gives the `/data` of one of them, for messages outside the API, such as doctor's.
pub fn export_request(name: &str) -> String {
    format!("POST /recovery/{name}/export")
}

pub(super) fn configure(config: &mut ServiceConfig<'_>) {
    config
        .service(list_unrecorded)
        .service(export_unrecorded)
        .service(discard_unrecorded);
}

/// A snapshot that no workspace and no version names. It may be the only copy of somebody's work.
#[derive(Serialize, ToSchema)]
struct Unrecorded {
    /// Its name in the runtime.
    name: String,
    /// `Active`, the writable one of a workspace, or `Committed`, a version.
    #[schema(example = "Active")]
    kind: String,
    /// Whose it is.
    bot_id: Uuid,
    /// Whether the bot exists here. What exists is recorded again at the server's start, or given to the
    /// bot's next workspace.
    bot_exists: bool,
    /// The container that has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    container_id: Option<String>,
    /// The number of the version that it was.
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<u32>,
    /// The image that it grew from.
    #[serde(skip_serializing_if = "Option::is_none")]
    image: Option<String>,
    /// When it was made.
    created_at: DateTime<Utc>,
}

impl From<UnrecordedSnapshot> for Unrecorded {
    fn from(found: UnrecordedSnapshot) -> Self {
        Self {
            name: found.name.into(),
            kind: word(&found.kind),
            bot_id: *found.bot.as_uuid(),
            bot_exists: found.bot_exists,
            container_id: found.container.map(String::from),
            version: found.version.map(VersionNumber::get),
            image: found.image.map(String::from),
            created_at: found.created_at,
        }
    }
}

/// List snapshots that the runtime has and the database does not know, as after an older database was
/// put back.
///
/// Without `limit` as many as fit into a reply.
#[utoipa::path(
    tag = "recovery",
    params(PageQuery),
    responses(
        (status = 200, body = List<Unrecorded>),
        (status = 403, description = "The caller is not an admin."),
    ),
)]
#[get("/recovery")]
async fn list_unrecorded(
    caller: Caller,
    query: QueryOf<PageQuery>,
    state: web::Data<SharedState>,
) -> Result<HttpResponse, Problem> {
    let room = state.memory.for_list(caller.user).await?;
    let found = state.services.workspaces.unrecorded(&caller.actor).await?;
    let key = |one: &UnrecordedSnapshot| {
        let bot = *one.bot.as_uuid();
        (bot, one.created_at, one.name.to_string())
    };
    let page = Paged::of(found, key, Unrecorded::from, &query.0, &state.config)?;
    Ok(room.held_by(HttpResponse::Ok().json(List::from(page))))
}

/// Download `/data` of one of them as an archive. A workspace that runs on it goes on.
#[utoipa::path(
    tag = "recovery",
    params(("name" = String, Path, description = "Its name."), ExportQuery),
    responses(
        (status = 200, description = "The archive.", content_type = "application/gzip", body = Vec<u8>),
        (status = 403, description = "The caller is not an admin."),
        (status = 404, description = "`nothing_to_recover`, or `path_not_found` when it has no `/data`."),
        (status = 409, description = "`busy`: another operation is under way."),
        (status = 429, description = "`too_many_exports`: read those that are under way first."),
        (status = 501, description = "`unsupported`: this backend's snapshots cannot be looked into."),
        (status = 507, description = "`insufficient_storage`."),
    ),
)]
#[post("/recovery/{name}/export")]
async fn export_unrecorded(
    caller: Caller,
    name: web::Path<String>,
    query: QueryOf<ExportQuery>,
    state: web::Data<SharedState>,
) -> Result<HttpResponse, Problem> {
    let (format, packing) = query.0.format();
    let workspaces = &state.services.workspaces;
    let archive = workspaces
        .export_unrecorded(&caller.actor, &name, format)
        .await?;
    // The name is a snapshot's that exists, but not necessarily one of ours.
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-';
    let name: String = name.chars().filter(|c| plain(*c)).collect();
    let name = format!("{name}-data.{}", format.extension());
    Ok(archive_reply(&name, packing, archive))
}

/// Remove one of them for good, and the container that runs on it.
#[utoipa::path(
    tag = "recovery",
    params(("name" = String, Path, description = "Its name.")),
    responses(
        (status = 204, description = "It is gone."),
        (status = 403, description = "The caller is not an admin."),
        (status = 404, description = "`nothing_to_recover`."),
        (status = 409, description = "`busy`: another operation is under way."),
    ),
)]
#[delete("/recovery/{name}")]
async fn discard_unrecorded(
    caller: Caller,
    name: web::Path<String>,
    state: web::Data<SharedState>,
) -> Result<HttpResponse, Problem> {
    let workspaces = &state.services.workspaces;
    workspaces.discard_unrecorded(&caller.actor, &name).await?;
    Ok(HttpResponse::NoContent().finish())
}
