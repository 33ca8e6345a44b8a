//! /auth: sign-in, the caller, one-time tickets.

use super::users::UserShape;
use crate::auth::{self, Caller};
use crate::client_address;
use crate::extract::{Body, SmallBody};
use crate::problem::Problem;
use crate::state::SharedState;
use actix_web::{HttpRequest, HttpResponse, get, post, web};
use botstead_accounts::{Login, Password};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_actix_web::service_config::ServiceConfig;

pub(super) fn configure(config: &mut ServiceConfig<'_>) {
    config.service(me).service(issue_ticket);
}

pub(super) fn configure_public(config: &mut ServiceConfig<'_>) {
    config.service(login);
}

/// A sign-in.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct LoginRequest {
    /// The user name, in any case.
    username: String,
    /// The password.
    #[schema(value_type = String, format = Password)]
    password: Password,
}

/// A successful sign-in.
#[derive(Serialize, ToSchema)]
struct LoginReply {
    /// The token for the header `Authorization: Bearer <token>`.
    access_token: String,
    /// Always `Bearer`.
    token_type: &'static str,
    /// When the token expires.
    expires_at: DateTime<Utc>,
    /// Who signed in.
    user: UserShape,
}

/// Sign in with user name and password.
///
/// An access token that the user got before, in the header `Authorization`, also one that expired in the
/// last 30 days, gives the attempt a place of its own, which others who try to sign in from the same
/// network cannot take.
#[utoipa::path(
    tag = "auth",
    request_body = LoginRequest,
    responses(
        (status = 200, body = LoginReply),
        (status = 401, description = "`invalid_credentials`: user name or password is wrong, or the account is inactive."),
        (status = 429, description = "`too_many_attempts`: `Retry-After` says when to try again."),
    ),
)]
#[post("/auth/login")]
async fn login(
    request: HttpRequest,
    body: SmallBody<LoginRequest>,
    state: web::Data<SharedState>,
) -> Result<HttpResponse, Problem> {
    let signed_in = state
        .services
        .accounts
        .login(Login {
            username: body.0.username,
            password: body.0.password,
            client: client_address::of(&request, &state.config),
            earlier_token: auth::token_of(&request),
        })
        .await?;
    Ok(HttpResponse::Ok().json(LoginReply {
        access_token: signed_in.access_token,
        token_type: "Bearer",
        expires_at: signed_in.expires_at,
        user: signed_in.user.into(),
    }))
}

/// The caller's own account.
#[utoipa::path(tag = "auth", responses((status = 200, body = UserShape)))]
#[get("/auth/me")]
async fn me(caller: Caller, state: web::Data<SharedState>) -> Result<HttpResponse, Problem> {
    let user = state.services.accounts.me(&caller.actor).await?;
    Ok(HttpResponse::Ok().json(UserShape::from(user)))
}

/// What a ticket is for.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct TicketRequest {
    /// The method of the request, such as `GET`.
    #[schema(example = "GET")]
    method: String,
    /// The path of the request. Of a download with its query, `path` above all, in any spelling; of a WebSocket
    /// without.
    #[schema(
        example = "/bots/0198a8a5-0000-7000-8000-000000000000/container/fs/download?path=/data/x"
    )]
    path: String,
}

/// A one-time ticket.
#[derive(Serialize, ToSchema)]
struct TicketReply {
    /// For the query parameter `ticket` of that one request.
    ticket: String,
    /// When it expires: 30 s from now.
    expires_at: DateTime<Utc>,
}

/// Get a one-time ticket for a download or a WebSocket of a browser, which cannot send headers.
#[utoipa::path(
    tag = "auth",
    request_body = TicketRequest,
    responses(
        (status = 201, body = TicketReply),
        (status = 429, description = "`too_many_tickets`: the caller has too many unused ones."),
    ),
)]
#[post("/auth/tickets")]
async fn issue_ticket(
    caller: Caller,
    body: Body<TicketRequest>,
    state: web::Data<SharedState>,
) -> Result<HttpResponse, Problem> {
    let TicketRequest { method, path } = body.0;
    let accounts = &state.services.accounts;
    let target = match path.split_once('?') {
        Some((path, query)) => auth::target(path, query),
        None => path,
    };
    let issued = accounts
        .issue_ticket(&caller.actor, &method, &target)
        .await?;
    Ok(HttpResponse::Created().json(TicketReply {
        ticket: issued.ticket,
        expires_at: issued.expires_at,
    }))
}
