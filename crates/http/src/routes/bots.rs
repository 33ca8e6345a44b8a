//! /bots: bots themselves; their workspaces are in `container`.

use crate::auth::Caller;
use crate::extract::{Body, BodyOrDefault, IdOf, PageQuery, QueryOf, flag, nullable};
use crate::problem::Problem;
use crate::shapes::{List, word};
use crate::state::SharedState;
use actix_web::{HttpResponse, delete, get, patch, post, web};
use botstead_accounts::{Bot, BotUpdate, Metadata, NewBot};
use botstead_types::{BotId, PageRequest};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::{IntoParams, ToSchema};
use utoipa_actix_web::service_config::ServiceConfig;
use uuid::Uuid;

pub(super) fn configure(config: &mut ServiceConfig<'_>) {
    config
        .service(list_bots)
        .service(create_bot)
        .service(get_bot)
        .service(update_bot)
        .service(delete_bot);
}

/// A bot.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Bot)]
struct BotShape {
    /// Its id.
    id: Uuid,
    /// Who owns it.
    owner_user_id: Uuid,
    /// Its name; not unique.
    name: String,
    /// The name to show.
    #[serde(skip_serializing_if = "Option::is_none")]
    display_name: Option<String>,
    /// Whether its owner has it in use.
    is_active: bool,
    /// `creating`, `ready`, `deleting` or `error`.
    #[schema(example = "ready")]
    status: String,
    /// What clients keep with it. `workspace` in it holds the workspace's preferences: `image`,
    /// `gpu.devices`, `limits`, `skill_discovery_roots`.
    #[schema(value_type = Object)]
    metadata: Metadata,
    /// When it was made.
    created_at: DateTime<Utc>,
    /// When it last changed.
    updated_at: DateTime<Utc>,
}

impl From<Bot> for BotShape {
    fn from(bot: Bot) -> Self {
        Self {
            id: *bot.id.as_uuid(),
            owner_user_id: *bot.owner.as_uuid(),
            name: bot.name,
            display_name: bot.display_name,
            is_active: bot.is_active,
            status: word(&bot.status),
            metadata: bot.metadata,
            created_at: bot.created_at,
            updated_at: bot.updated_at,
        }
    }
}

/// List bots, oldest first: the caller's own, or all for an admin.
///
/// Without `limit` a hundred.
#[utoipa::path(
    tag = "bots",
    params(PageQuery),
    responses((status = 200, body = List<BotShape>)),
)]
#[get("/bots")]
async fn list_bots(
    caller: Caller,
    query: QueryOf<PageQuery>,
    state: web::Data<SharedState>,
) -> Result<HttpResponse, Problem> {
    let page = PageRequest::try_from(query.0)?;
    let room = state.memory.for_list(caller.user).await?;
    let bots = state.services.accounts.bots(&caller.actor, &page).await?;
    let reply = HttpResponse::Ok().json(List::from(bots.map(BotShape::from)));
    Ok(room.held_by(reply))
}

/// A bot to be made.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct CreateBot {
    /// Its name, at most 128 characters; one is made up when there is none.
    name: Option<String>,
    /// The name to show, at most 128 characters.
    display_name: Option<String>,
    /// What to keep with it, at most 65536 bytes as JSON.
    #[schema(value_type = Option<Object>)]
    metadata: Option<Map<String, Value>>,
}

/// Add a bot that the caller owns. It has no workspace yet.
#[utoipa::path(
    tag = "bots",
    request_body = CreateBot,
    responses(
        (status = 201, body = BotShape),
        (status = 413, description = "`metadata_too_large`."),
    ),
)]
#[post("/bots")]
async fn create_bot(
    caller: Caller,
    body: BodyOrDefault<CreateBot>,
    state: web::Data<SharedState>,
) -> Result<HttpResponse, Problem> {
    let bot = NewBot {
        name: body.0.name,
        display_name: body.0.display_name,
        metadata: body.0.metadata.unwrap_or_default(),
    };
    let accounts = &state.services.accounts;
    let bot = accounts.create_bot(&caller.actor, bot).await?;
    Ok(HttpResponse::Created().json(BotShape::from(bot)))
}

/// A bot.
#[utoipa::path(
    tag = "bots",
    params(("bot_id" = Uuid, Path, description = "The bot.")),
    responses(
        (status = 200, body = BotShape),
        (status = 404, description = "`bot_not_found`."),
    ),
)]
#[get("/bots/{bot_id}")]
async fn get_bot(
    caller: Caller,
    id: IdOf<BotId>,
    state: web::Data<SharedState>,
) -> Result<HttpResponse, Problem> {
    let bot = state.services.accounts.bot(&caller.actor, id.0).await?;
    Ok(HttpResponse::Ok().json(BotShape::from(bot)))
}

/// What changes in a bot; absent fields stay.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct PatchBot {
    /// A new name.
    name: Option<String>,
    /// A new name to show; `null` removes it.
    #[serde(default, deserialize_with = "nullable")]
    #[schema(value_type = Option<String>)]
    display_name: Option<Option<String>>,
    /// Whether it is in use.
    is_active: Option<bool>,
    /// Top-level keys of the metadata to set; `null` removes a key, other keys stay.
    #[schema(value_type = Option<Object>)]
    metadata: Option<Map<String, Value>>,
}

/// Change a bot.
#[utoipa::path(
    tag = "bots",
    params(("bot_id" = Uuid, Path, description = "The bot.")),
    request_body = PatchBot,
    responses(
        (status = 200, body = BotShape),
        (status = 404, description = "`bot_not_found`."),
        (status = 409, description = "`bot_deleting`."),
        (status = 413, description = "`metadata_too_large`."),
    ),
)]
#[patch("/bots/{bot_id}")]
async fn update_bot(
    caller: Caller,
    id: IdOf<BotId>,
    body: Body<PatchBot>,
    state: web::Data<SharedState>,
) -> Result<HttpResponse, Problem> {
    let update = BotUpdate {
        name: body.0.name,
        display_name: body.0.display_name,
        is_active: body.0.is_active,
        metadata: body.0.metadata,
    };
    let accounts = &state.services.accounts;
    let bot = accounts.update_bot(&caller.actor, id.0, update).await?;
    Ok(HttpResponse::Ok().json(BotShape::from(bot)))
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct DeleteBotQuery {
    /// Keep `/data` of its workspace as an archive.
    #[serde(default, deserialize_with = "flag")]
    #[param(required = false)]
    preserve_data: bool,
}

/// Remove a bot with its workspace, versions and history.
#[utoipa::path(
    tag = "bots",
    params(("bot_id" = Uuid, Path, description = "The bot."), DeleteBotQuery),
    responses(
        (status = 204, description = "The bot is gone."),
        (status = 404, description = "`bot_not_found`."),
        (status = 409, description = "`busy`: another operation is under way."),
    ),
)]
#[delete("/bots/{bot_id}")]
async fn delete_bot(
    caller: Caller,
    id: IdOf<BotId>,
    query: QueryOf<DeleteBotQuery>,
    state: web::Data<SharedState>,
) -> Result<HttpResponse, Problem> {
    let workspaces = &state.services.workspaces;
    workspaces
        .delete_bot(&caller.actor, id.0, query.0.preserve_data)
        .await?;
    Ok(HttpResponse::NoContent().finish())
}
