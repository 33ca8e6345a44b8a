//! Health, figures, the OpenAPI document and the page that renders it.

use crate::MetricsAccess;
use crate::auth::Caller;
use crate::monitoring::ProcessUsage;
use crate::problem::Problem;
use crate::state::SharedState;
use actix_web::http::StatusCode;
use actix_web::http::header;
use actix_web::{HttpResponse, get, web};
use botstead_authz::{Action, Decision, Resource, decide};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_actix_web::service_config::ServiceConfig;

pub(super) fn configure(config: &mut ServiceConfig<'_>) {
    config
        .service(healthz)
        .service(readyz)
        .service(metrics)
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
    /// The runtime's version.
    runtime_version: String,
}

/// Whether the database and the runtime answer.
#[utoipa::path(
    tag = "server",
    responses(
        (status = 200, body = ReadyReply),
        (status = 503, description = "`not_ready`: `unavailable` names what does not answer; or `shutting_down`."),
    ),
)]
#[get("/readyz")]
async fn readyz(state: web::Data<SharedState>) -> Result<HttpResponse, Problem> {
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
        Ok(runtime_version) if parts.is_empty() => Ok(HttpResponse::Ok().json(ReadyReply {
            status: "ready",
            database: "ok",
            runtime: "ok",
            runtime_version,
        })),
        _ => {
            let detail = format!("no answer from: {}", parts.join(", "));
            let cause = causes.join("; ");
            Err(Problem::new(unavailable, "not_ready", detail)
                .unavailable(parts)
                .caused_by(cause))
        }
    }
}

/// Figures for monitoring, in Prometheus' text format. Admin only, unless the server is configured
/// to let everyone read them.
#[utoipa::path(
    tag = "server",
    responses(
        (status = 200, description = "The figures.", content_type = "text/plain", body = String),
        (status = 403, description = "The caller is no admin."),
    ),
)]
#[get("/metrics")]
async fn metrics(
    caller: Option<Caller>,
    state: web::Data<SharedState>,
) -> Result<HttpResponse, Problem> {
    if state.config.metrics == MetricsAccess::Admin {
        let allowed = caller.is_some_and(|caller| {
            // The figures tell about the bots of all owners.
            let decision = decide(&caller.actor, Action::ListAllBots, &Resource::Server);
            decision == Decision::Allow
        });
        if !allowed {
            return Err(Problem::from_status(StatusCode::FORBIDDEN));
        }
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
