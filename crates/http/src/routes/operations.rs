//! /bots/{bot_id}/operations: what is under way on a bot, and what was.

use crate::auth::Caller;
use crate::extract::{IdOf, PageQuery, QueryOf};
use crate::problem::Problem;
use crate::shapes::{Layer, List, word};
use crate::state::SharedState;
use actix_web::{HttpResponse, delete, get, web};
use botstead_types::{BotId, OperationId, PageRequest, VersionNumber};
use botstead_workspace::OperationInfo;
use chrono::{DateTime, Utc};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_actix_web::service_config::ServiceConfig;
use uuid::Uuid;

pub(super) fn configure(config: &mut ServiceConfig<'_>) {
    config
        .service(list_operations)
        .service(get_operation)
        .service(cancel_operation);
}

/// An operation of several steps.
#[derive(Serialize, ToSchema)]
struct Operation {
    /// Its id.
    id: Uuid,
    /// The bot.
    bot_id: Uuid,
    /// What it does: `create`, `start`, `stop`, `snapshot`, `rollback`, `recover`,
    /// `delete`, `delete_bot` and others.
    #[schema(example = "create")]
    kind: String,
    /// `running`, `succeeded`, `failed` or `cancelled`.
    #[schema(example = "running")]
    state: String,
    /// The last step that was recorded.
    step: String,
    /// The version that it makes.
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<u32>,
    /// How far a pull under way is.
    #[serde(skip_serializing_if = "Option::is_none")]
    progress: Option<Progress>,
    /// Whether it can be cancelled now.
    cancellable: bool,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<OperationFailure>,
    /// When it began.
    created_at: DateTime<Utc>,
    /// When it last went on.
    updated_at: DateTime<Utc>,
}

/// How far a pull is.
#[derive(Serialize, ToSchema)]
struct Progress {
    /// The layers of the image.
    layers: Vec<Layer>,
}

/// Why an operation failed.
#[derive(Serialize, ToSchema)]
struct OperationFailure {
    /// A stable machine word.
    code: String,
    /// Words for a person.
    message: String,
}

impl From<OperationInfo> for Operation {
    fn from(info: OperationInfo) -> Self {
        let operation = info.operation;
        Self {
            id: *operation.id.as_uuid(),
            bot_id: *operation.bot.as_uuid(),
            kind: word(&operation.kind),
            state: word(&operation.state),
            step: operation.step,
            version: operation.version.map(VersionNumber::get),
            progress: info.progress.map(|layers| Progress {
                layers: layers.iter().map(Layer::from).collect(),
            }),
            cancellable: info.cancellable,
            error: operation.error.map(|error| OperationFailure {
                code: error.code,
                message: error.message,
            }),
            created_at: operation.created_at,
            updated_at: operation.updated_at,
        }
    }
}

/// List a bot's operations, newest first.
///
/// Without `limit` a hundred.
#[utoipa::path(
    tag = "operations",
    params(("bot_id" = Uuid, Path, description = "The bot."), PageQuery),
    responses(
        (status = 200, body = List<Operation>),
        (status = 404, description = "`bot_not_found`."),
    ),
)]
#[get("/bots/{bot_id}/operations")]
async fn list_operations(
    caller: Caller,
    id: IdOf<BotId>,
    query: QueryOf<PageQuery>,
    state: web::Data<SharedState>,
) -> Result<HttpResponse, Problem> {
    let page = PageRequest::try_from(query.0)?;
    let workspaces = &state.services.workspaces;
    let operations = workspaces.operations(&caller.actor, id.0, &page).await?;
    Ok(HttpResponse::Ok().json(List::from(operations.map(Operation::from))))
}

/// An operation.
#[utoipa::path(
    tag = "operations",
    params(
        ("bot_id" = Uuid, Path, description = "The bot."),
        ("operation_id" = Uuid, Path, description = "The operation."),
    ),
    responses(
        (status = 200, body = Operation),
        (status = 404, description = "`bot_not_found` or `operation_not_found`."),
    ),
)]
#[get("/bots/{bot_id}/operations/{operation_id}")]
async fn get_operation(
    caller: Caller,
    bot: IdOf<BotId>,
    id: IdOf<OperationId>,
    state: web::Data<SharedState>,
) -> Result<HttpResponse, Problem> {
    let workspaces = &state.services.workspaces;
    let operation = workspaces.operation(&caller.actor, bot.0, id.0).await?;
    Ok(HttpResponse::Ok().json(Operation::from(operation)))
}

/// Cancel an operation where that is possible, such as during a pull.
#[utoipa::path(
    tag = "operations",
    params(
        ("bot_id" = Uuid, Path, description = "The bot."),
        ("operation_id" = Uuid, Path, description = "The operation."),
    ),
    responses(
        (status = 200, body = Operation, description = "The operation as it is now."),
        (status = 404, description = "`bot_not_found` or `operation_not_found`."),
        (status = 409, description = "`not_cancellable`: it ended, or is at a step that cannot be interrupted."),
    ),
)]
#[delete("/bots/{bot_id}/operations/{operation_id}")]
async fn cancel_operation(
    caller: Caller,
    bot: IdOf<BotId>,
    id: IdOf<OperationId>,
    state: web::Data<SharedState>,
) -> Result<HttpResponse, Problem> {
    let workspaces = &state.services.workspaces;
    let operation = workspaces
        .cancel_operation(&caller.actor, bot.0, id.0)
        .await?;
    Ok(HttpResponse::Ok().json(Operation::from(operation)))
}
