//! Health, figures, the OpenAPI document and the page that renders it.

use crate::MetricsAccess;
use crate::auth::{self, Caller};
use crate::monitoring::ProcessUsage;
use crate::problem::Problem;
use crate::state::SharedState;
use actix_web::http::StatusCode;
use actix_web::http::header;
use actix_web::{HttpRequest, HttpResponse, get, web};
use botstead_authz::{Action, Actor, Decision, Resource, decide};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_actix_web::service_config::ServiceConfig;

pub(super) fn configure_public(config: &mut ServiceConfig<'_>) {
    config
        .service(healthz)
        .service(readyz)
        .service(openapi_json)
        .service(docs);
}

/// That all is well.
#[derive(Serialize, ToSchema)]
struct HealthReply {
    /// `ok`.
    status: &'static str,
}

/// Whether the process is up.
#[utoipa::path(tag = "server", responses((status = 200, body = HealthReply)))]
#[get("/healthz")]
async fn healthz() -> HttpResponse {
    HttpResponse::Ok().json(HealthReply { status: "ok" })
}

/// What answers.
#[derive(Serialize, ToSchema)]
struct ReadyReply {
    /// `ready`.
    status: &'static str,
    /// `ok`.
    database: &'static str,
    /// `ok`.
    runtime: &'static str,
    /// The runtime's version; only to an admin.
    #[serde(skip_serializing_if = "Option::is_none")]
    runtime_version: Option<String>,
}

/// Whether the database and the runtime answer. An admin's token is not needed, and tells more.
#[utoipa::path(
    tag = "server",
    responses(
        (status = 200, body = ReadyReply),
        (status = 503, description = "`not_ready`: `unavailable` names what does not answer; or `shutting_down`."),
    ),
)]
#[get("/readyz")]
async fn readyz(
    request: HttpRequest,
    state: web::Data<SharedState>,
) -> Result<HttpResponse, Problem> {
    let unavailable = StatusCode::SERVICE_UNAVAILABLE;
    if state.shutdown.is_cancelled() {
        let detail = "the server is shutting down";
        return Err(Problem::new(unavailable, "shutting_down", detail));
    }
    let health = state.services.workspaces.health().await;
    let mut parts = Vec::new();
    let mut causes = Vec::new();
    if let Err(cause) = &health.database {
        parts.push("database");
        causes.push(cause.as_str());
    }
    if let Err(cause) = &health.runtime {
        parts.push("runtime");
        causes.push(cause.as_str());
    }
    match health.runtime {
        Ok(version) if parts.is_empty() => {
            let asks = auth::if_any(&request, &state).await;
            Ok(HttpResponse::Ok().json(ReadyReply {
                status: "ready",
                database: "ok",
                runtime: "ok",
                runtime_version: Some(version)
                    .filter(|_| asks.is_some_and(|actor| is_admin(&actor))),
            }))
        }
        _ => {
            let detail = format!("no answer from: {}", parts.join(", "));
            let cause = causes.join("; ");
            Err(Problem::new(unavailable, "not_ready", detail)
                .unavailable(parts)
                .caused_by(cause))
        }
    }
}

/// Whether the actor may know what concerns the bots of all owners.
fn is_admin(actor: &Actor) -> bool {
    decide(actor, Action::ListAllBots, &Resource::Server) == Decision::Allow
}

/// Figures for monitoring, in Prometheus' text format. Admin only, unless the server is configured
/// to let everyone read them.
#[utoipa::path(
    tag = "server",
    responses(
        (status = 200, description = "The figures.", content_type = "text/plain", body = String),
        (status = 403, description = "The caller is not an admin."),
    ),
)]
#[get("/metrics")]
pub(super) async fn metrics(
    caller: Option<Caller>,
    state: web::Data<SharedState>,
) -> Result<HttpResponse, Problem> {
    if state.config.metrics == MetricsAccess::Admin
        && !caller.is_some_and(|caller| is_admin(&caller.actor))
    {
        return Err(Problem::from_status(StatusCode::FORBIDDEN));
    }
    let statistics = state.services.workspaces.statistics().await?;
    let process = web::block(ProcessUsage::read).await;
    let process = process.map_err(Problem::internal)?;
    let text = state.monitoring.text(&statistics, process.as_ref());
    Ok(HttpResponse::Ok()
        .content_type("text/plain; version=0.0.4; charset=utf-8")
        .body(text.map_err(Problem::internal)?))
}

/// This document.
#[utoipa::path(
    tag = "server",
    responses((status = 200, description = "The OpenAPI document.", content_type = "application/json", body = Object)),
)]
#[get("/openapi.json")]
async fn openapi_json(state: web::Data<SharedState>) -> HttpResponse {
    HttpResponse::Ok()
        .content_type("application/json")
        .body(state.openapi.clone())
}

/// A page that renders this document. It loads nothing from elsewhere and runs no script.
#[utoipa::path(
    tag = "server",
    responses((status = 200, description = "The page.", content_type = "text/html", body = String)),
)]
#[get("/docs")]
async fn docs(state: web::Data<SharedState>) -> HttpResponse {
    HttpResponse::Ok()
        .content_type("text/html; charset=utf-8")
        .insert_header((
            header::CONTENT_SECURITY_POLICY,
            "default-src 'none'; style-src 'unsafe-inline'",
        ))
        .body(state.docs.clone())
}
