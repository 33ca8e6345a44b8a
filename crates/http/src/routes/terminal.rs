//! /bots/{bot_id}/container/terminal: terminals over WebSockets.
//!
//! The frames are fixed, because existing clients speak them.

pub(crate) mod frames;
mod origin;
mod socket;

use super::exec::Command;
use crate::auth::Caller;
use crate::extract::{Body, IdOf, QueryOf};
use crate::problem::Problem;
use crate::shapes::List;
use crate::state::SharedState;
use actix_web::{HttpRequest, HttpResponse, delete, get, post, web};
use botstead_types::{BotId, InvalidValue};
use botstead_workspace::{TerminalInfo, TerminalRequest, TerminalSize};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::{IntoParams, ToSchema};
use utoipa_actix_web::service_config::ServiceConfig;

pub(super) fn configure(config: &mut ServiceConfig<'_>) {
    config
        .service(get_terminal)
        .service(list_sessions)
        .service(start_session)
        .service(close_session)
        .service(open);
}

/// Whether a workspace has terminals.
#[derive(Serialize, ToSchema)]
struct Terminal {
    /// Whether one can be opened now.
    available: bool,
    /// The shell that it would get; empty when the image has none or the workspace does not run.
    shell: String,
}

/// Whether a terminal can be opened, and which shell it gets.
#[utoipa::path(
    tag = "terminal",
    params(("bot_id" = Uuid, Path, description = "The bot.")),
    responses(
        (status = 200, body = Terminal),
        (status = 404, description = "`bot_not_found` or `workspace_not_found`."),
        (status = 503, description = "`workspace_unreachable` or `workspace_stalled`."),
    ),
)]
#[get("/bots/{bot_id}/container/terminal")]
async fn get_terminal(
    caller: Caller,
    id: IdOf<BotId>,
    state: web::Data<SharedState>,
) -> Result<HttpResponse, Problem> {
    let workspaces = &state.services.workspaces;
    let shell = workspaces.terminal_shell(&caller.actor, id.0).await?;
    Ok(HttpResponse::Ok().json(Terminal {
        available: shell.is_some(),
        shell: shell.unwrap_or_default(),
    }))
}

/// A terminal.
#[derive(Serialize, ToSchema)]
struct Session {
    /// Its id, for `session=`.
    id: String,
    /// The program and its arguments; what is not UTF-8 is replaced by U+FFFD.
    command: Vec<String>,
    /// Whether it runs.
    running: bool,
    /// When it was opened.
    started_at: DateTime<Utc>,
    /// Connections to it.
    viewers: u32,
    /// Seconds since anything was read or written.
    idle_seconds: u64,
    /// Its exit code, once it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    exit_code: Option<u32>,
}

impl From<TerminalInfo> for Session {
    fn from(info: TerminalInfo) -> Self {
        let words = info.command.iter();
        Self {
            id: info.session,
            command: words
                .map(|word| String::from_utf8_lossy(word).into_owned())
                .collect(),
            running: info.running,
            started_at: info.started_at,
            viewers: info.viewers,
            idle_seconds: info.idle.as_secs(),
            exit_code: info.exit_code,
        }
    }
}

/// The terminals of a workspace.
#[utoipa::path(
    tag = "terminal",
    params(("bot_id" = Uuid, Path, description = "The bot.")),
    responses(
        (status = 200, body = List<Session>),
        (status = 404, description = "`bot_not_found` or `workspace_not_found`."),
        (status = 409, description = "`workspace_not_running`."),
        (status = 503, description = "`workspace_unreachable` or `workspace_stalled`."),
    ),
)]
#[get("/bots/{bot_id}/container/terminal/sessions")]
async fn list_sessions(
    caller: Caller,
    id: IdOf<BotId>,
    state: web::Data<SharedState>,
) -> Result<HttpResponse, Problem> {
    let workspaces = &state.services.workspaces;
    let terminals = workspaces.terminals(&caller.actor, id.0).await?;
    let items = terminals.items.into_iter().map(Session::from);
    Ok(HttpResponse::Ok().json(List::fitting(items, terminals.more, &state.config)))
}

/// End a terminal with everything that runs in it.
#[utoipa::path(
    tag = "terminal",
    params(
        ("bot_id" = Uuid, Path, description = "The bot."),
        ("session" = String, Path, description = "The terminal."),
    ),
    responses(
        (status = 204, description = "It is gone."),
        (status = 404, description = "`bot_not_found`, `workspace_not_found` or `session_not_found`."),
        (status = 409, description = "`workspace_not_running`."),
        (status = 503, description = "`workspace_unreachable` or `workspace_stalled`."),
    ),
)]
#[delete("/bots/{bot_id}/container/terminal/sessions/{session}")]
async fn close_session(
    caller: Caller,
    id: IdOf<BotId>,
    request: HttpRequest,
    state: web::Data<SharedState>,
) -> Result<HttpResponse, Problem> {
    let session = request.match_info().get("session").unwrap_or_default();
    let workspaces = &state.services.workspaces;
    workspaces
        .close_terminal(&caller.actor, id.0, session)
        .await?;
    Ok(HttpResponse::NoContent().finish())
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct OpenQuery {
    /// Columns that the client has room for, 1 to 1000. Without both, a new terminal has 80 x 24, and one
    /// that is there keeps its size.
    #[param(minimum = 1, maximum = 1000)]
    cols: Option<u32>,
    /// Rows that the client has room for, 1 to 500.
    #[param(minimum = 1, maximum = 500)]
    rows: Option<u32>,
    /// The terminal to connect to; a new one when empty. With this parameter the server sends text
    /// frames too.
    session: Option<String>,
    /// Where a new terminal begins; `/data` when absent.
    cwd: Option<String>,
    /// Who runs a new terminal, such as `user`, `uid` or `uid:gid`; the image's user when absent.
    user: Option<String>,
    /// A line for `/bin/sh -c` that runs in a new terminal; the user's shell when absent.
    command: Option<String>,
}

fn size(cols: Option<u32>, rows: Option<u32>) -> Result<Option<TerminalSize>, InvalidValue> {
    if (cols, rows) == (None, None) {
        return Ok(None);
    }
    let usual = TerminalSize::DEFAULT;
    let (cols, rows) = (
        cols.unwrap_or(usual.columns()),
        rows.unwrap_or(usual.rows()),
    );
    TerminalSize::new(cols, rows).map(Some)
}

fn given(text: Option<String>) -> Option<String> {
    text.filter(|text| !text.is_empty())
}

/// A terminal to start.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewSession {
    /// The program and its arguments, or a line for `/bin/sh`; the user's shell when absent.
    #[serde(default)]
    command: Option<Command>,
    /// Where it begins; when absent `/data`, or `/` where that cannot be entered.
    #[serde(default)]
    cwd: Option<String>,
    /// Variables beside those that every command has.
    #[serde(default)]
    env: Option<BTreeMap<String, String>>,
    /// Who runs it, such as `user`, `uid` or `uid:gid`; the image's user when absent.
    #[serde(default)]
    user: Option<String>,
    /// Columns, 1 to 1000; 80 when absent.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 1000)]
    cols: Option<u32>,
    /// Rows, 1 to 500; 24 when absent.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 500)]
    rows: Option<u32>,
}

/// A terminal that was started.
#[derive(Serialize, ToSchema)]
#[schema(as = SessionStarted)]
struct Started {
    /// Its id, for `session=`.
    id: String,
}

/// Start a terminal. It runs without a client; connect to it with its id.
#[utoipa::path(
    tag = "terminal",
    params(("bot_id" = Uuid, Path, description = "The bot.")),
    request_body = NewSession,
    responses(
        (status = 201, body = Started),
        (status = 404, description = "`bot_not_found`, `workspace_not_found`, or `path_not_found`: the working directory."),
        (status = 409, description = "`workspace_not_running`."),
        (status = 422, description = "`no_such_user`, or `shell_not_available`: the image has none."),
        (status = 429, description = "`workspace_limit`: too many terminals or processes."),
        (status = 503, description = "`workspace_unreachable` or `workspace_stalled`."),
    ),
)]
#[post("/bots/{bot_id}/container/terminal/sessions")]
async fn start_session(
    caller: Caller,
    id: IdOf<BotId>,
    body: Body<NewSession>,
    state: web::Data<SharedState>,
) -> Result<HttpResponse, Problem> {
    let body = body.0;
    let request = TerminalRequest {
        command: body.command.map(Command::words).unwrap_or_default(),
        cwd: given(body.cwd),
        env: body.env.unwrap_or_default(),
        user: given(body.user),
        size: size(body.cols, body.rows)?,
    };
    let workspaces = &state.services.workspaces;
    let id = workspaces
        .start_terminal(&caller.actor, id.0, request)
        .await?;
    Ok(HttpResponse::Created().json(Started { id }))
}

/// Open a terminal, or connect to one, as a WebSocket.
///
/// Binary frames carry bytes both ways. Text frames are JSON: from the client
/// `{"type":"resize","cols","rows"}`, what it has room for: the terminal gets the smallest of what its
/// clients said. From the server, only when the request has the parameter `session`,
/// `{"type":"session","id"}` first, `{"type":"resize","cols","rows"}` where the terminal has another size
/// than the client said or was told last, `{"type":"input_refused","bytes"}` where so many bytes that the
/// client sent were not passed on, and `{"type":"exit","code"}` last. When 1 MiB of a client's input waits and
/// the program takes less than 64 KiB a second for two seconds, what the client types is refused until what
/// waits is taken. Sizes behind it are not held up, and Ctrl-C discards what waits. Closes with 1000 when
/// the shell ended, 1001 when neither side sent anything for 30 minutes, 1007 for a text frame that
/// is no JSON with a `type`, 1008 when the session ended, 1009 for a message of more than 262144
/// bytes, 1011 when the workspace stopped, 1012 when the server restarts. A connection that drops
/// leaves the shell running; connecting with its `session` shows its screen and goes on. A browser
/// gives `?ticket=` or `?token=`, and its `Origin` must be the server's own or a configured one.
#[utoipa::path(
    tag = "terminal",
    params(("bot_id" = Uuid, Path, description = "The bot."), OpenQuery),
    responses(
        (status = 101, description = "The WebSocket."),
        (status = 400, description = "The request is not a WebSocket upgrade, or a size is not valid."),
        (status = 403, description = "`origin_not_allowed`."),
        (status = 404, description = "`bot_not_found`, `workspace_not_found` or `session_not_found`."),
        (status = 409, description = "`workspace_not_running`."),
        (status = 422, description = "`shell_not_available`: the image has none."),
        (status = 429, description = "`workspace_limit`: too many terminals or processes."),
        (status = 503, description = "`workspace_unreachable` or `workspace_stalled`."),
    ),
)]
#[get("/bots/{bot_id}/container/terminal/ws")]
async fn open(
    caller: Caller,
    id: IdOf<BotId>,
    query: QueryOf<OpenQuery>,
    request: HttpRequest,
    body: web::Payload,
    state: web::Data<SharedState>,
) -> Result<HttpResponse, Problem> {
    origin::check(&request, &state.config.allowed_origins)?;
    let query = query.0;
    let room = size(query.cols, query.rows)?;
    let new = TerminalRequest {
        command: given(query.command)
            .map(|line| Command::Line(line).words())
            .unwrap_or_default(),
        cwd: given(query.cwd),
        user: given(query.user),
        size: room,
        ..TerminalRequest::default()
    };
    let known = query.session.as_deref().filter(|id| !id.is_empty());
    let plain = TerminalRequest {
        size: room,
        ..TerminalRequest::default()
    };
    if known.is_some() && new != plain {
        let words = "cwd, user and command are for a new terminal, without a session";
        return Err(Problem::invalid("invalid_query", words));
    }
    // Refused before a shell is started for it.
    let (response, session, stream) = actix_ws::handle(&request, body).map_err(|error| {
        Problem::invalid(
            "not_a_websocket",
            "this path takes a WebSocket upgrade (RFC 6455)",
        )
        .caused_by(error)
    })?;
    let workspaces = &state.services.workspaces;
    let terminal = match known {
        Some(known) => {
            workspaces
                .join_terminal(&caller.actor, id.0, known, room)
                .await?
        }
        None => workspaces.open_terminal(&caller.actor, id.0, new).await?,
    };
    let socket = socket::Socket {
        terminal,
        session,
        with_text: query.session.is_some(),
        shutdown: state.shutdown.clone(),
        ended: caller.ended,
    };
    actix_web::rt::spawn(socket.run(stream));
    Ok(response)
}
