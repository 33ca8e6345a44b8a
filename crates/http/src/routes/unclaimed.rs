//! /recovery/archives: preserved data of bots that the database does not know, for admins.

use super::data::archive_reply;
use crate::archives::Packing;
use crate::auth::Caller;
use crate::extract::{IdOf, PageQuery, QueryOf};
use crate::problem::Problem;
use crate::shapes::{List, Paged};
use crate::state::SharedState;
use actix_web::{HttpResponse, delete, get, web};
use botstead_types::{BotId, PreservedId};
use botstead_workspace::UnclaimedArchive;
use chrono::{DateTime, Utc};
use serde::Serialize;
use std::cmp::Reverse;
use utoipa::ToSchema;
use utoipa_actix_web::service_config::ServiceConfig;

pub(super) fn configure(config: &mut ServiceConfig<'_>) {
    config.service(list).service(download).service(discard);
}

/// An archive whose bot is gone.
#[derive(Serialize, ToSchema)]
struct Unclaimed {
    /// Whose it was.
    #[schema(value_type = Uuid)]
    bot_id: BotId,
    /// Its id.
    #[schema(value_type = Uuid)]
    id: PreservedId,
    /// When it was written.
    created_at: DateTime<Utc>,
    /// What it occupies.
    size_bytes: u64,
}

impl From<UnclaimedArchive> for Unclaimed {
    fn from(found: UnclaimedArchive) -> Self {
        Self {
            bot_id: found.bot,
            id: found.archive.id,
            created_at: found.archive.created_at,
            size_bytes: found.archive.size_bytes,
        }
    }
}

/// The requests that list them and that discard one, for messages outside the API, such as doctor's.
pub fn requests(bot: BotId, archive: PreservedId) -> [String; 2] {
    let path = "/recovery/archives";
    [
        format!("GET {path}"),
        format!("DELETE {path}/{bot}/{archive}"),
    ]
}

/// List archives of bots that do not exist, by bot, newest first: they were deleted with their data
/// preserved, or an older database was put back.
///
/// Without `limit` as many as fit into a reply.
#[utoipa::path(
    tag = "recovery",
    params(PageQuery),
    responses(
        (status = 200, body = List<Unclaimed>),
        (status = 403, description = "The caller is not an admin."),
    ),
)]
#[get("/recovery/archives")]
async fn list(
    caller: Caller,
    query: QueryOf<PageQuery>,
    state: web::Data<SharedState>,
) -> Result<HttpResponse, Problem> {
    let workspaces = &state.services.workspaces;
    let room = state.memory.for_list(caller.user).await?;
    let found = workspaces.unclaimed_archives(&caller.actor).await?;
    let key = |one: &UnclaimedArchive| (*one.bot.as_uuid(), Reverse(*one.archive.id.as_uuid()));
    let page = Paged::of(found, key, Unclaimed::from, &query.0, &state.config)?;
    Ok(room.held_by(HttpResponse::Ok().json(List::from(page))))
}

/// Download one of them.
#[utoipa::path(
    tag = "recovery",
    params(
        ("bot_id" = Uuid, Path, description = "Whose it was."),
        ("preserved_id" = Uuid, Path, description = "The archive."),
    ),
    responses(
        (status = 200, description = "The archive.", content_type = "application/zstd", body = Vec<u8>),
        (status = 403, description = "The caller is not an admin."),
        (status = 404, description = "`no_preserved_data`: there is none, or its bot exists."),
    ),
)]
#[get("/recovery/archives/{bot_id}/{preserved_id}")]
async fn download(
    caller: Caller,
    bot: IdOf<BotId>,
    id: IdOf<PreservedId>,
    state: web::Data<SharedState>,
) -> Result<HttpResponse, Problem> {
    let workspaces = &state.services.workspaces;
    let archive = workspaces
        .export_unclaimed(&caller.actor, bot.0, id.0)
        .await?;
    let name = format!("{}-data.tar.zst", bot.0);
    Ok(archive_reply(&name, Packing::Zstd, archive))
}

/// Discard one of them for good.
#[utoipa::path(
    tag = "recovery",
    params(
        ("bot_id" = Uuid, Path, description = "Whose it was."),
        ("preserved_id" = Uuid, Path, description = "The archive."),
    ),
    responses(
        (status = 204, description = "It is gone."),
        (status = 403, description = "The caller is not an admin."),
        (status = 404, description = "`no_preserved_data`: there is none, or its bot exists."),
    ),
)]
#[delete("/recovery/archives/{bot_id}/{preserved_id}")]
async fn discard(
    caller: Caller,
    bot: IdOf<BotId>,
    id: IdOf<PreservedId>,
    state: web::Data<SharedState>,
) -> Result<HttpResponse, Problem> {
    let workspaces = &state.services.workspaces;
    workspaces
        .discard_unclaimed(&caller.actor, bot.0, id.0)
        .await?;
    Ok(HttpResponse::NoContent().finish())
}
