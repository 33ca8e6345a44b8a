//! Detached commands: list, follow, write to, signal, remove.

use super::events::{self, Place};
use super::{Encoding, ExecReply, milliseconds};
use crate::auth::Caller;
use crate::context::RequestId;
use crate::extract::{Body, IdOf, QueryOf, flag, wants_events};
use crate::problem::Problem;
use crate::shapes::List;
use crate::sse::{self, Step};
use crate::state::SharedState;
use actix_web::{HttpRequest, HttpResponse, delete, get, post, web};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use botstead_types::{BotId, InvalidValue};
use botstead_workspace::{ExecInfo, OutputPosition};
use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures_util::{StreamExt, stream};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

/// A detached command.
#[derive(Serialize, ToSchema)]
pub(super) struct ExecShape {
    /// Its id.
    exec_id: String,
    /// The program and its arguments, as many as have 4 KiB together; what is not UTF-8 is replaced by
    /// U+FFFD.
    command: Vec<String>,
    /// Whether it runs.
    running: bool,
    /// When it was started.
    started_at: DateTime<Utc>,
    /// When it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    ended_at: Option<DateTime<Utc>>,
    /// Its exit code, once it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    exit_code: Option<u32>,
    /// Whether it was ended because its time was over.
    timed_out: bool,
    /// How long it ran, in milliseconds, once it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    duration_ms: Option<u64>,
}

impl From<ExecInfo> for ExecShape {
    fn from(info: ExecInfo) -> Self {
        let exit = info.exit.as_ref();
        Self {
            exec_id: info.exec_id,
            command: info
                .command
                .iter()
                .map(|argument| String::from_utf8_lossy(argument).into_owned())
                .collect(),
            running: info.running,
            started_at: info.started_at,
            ended_at: info.ended_at,
            exit_code: exit.map(|exit| exit.code),
            timed_out: exit.is_some_and(|exit| exit.timed_out),
            duration_ms: exit.map(|exit| milliseconds(exit.duration)),
        }
    }
}

/// The detached commands of a workspace: those that run, and those that ended.
///
/// One that ended is kept for a day, or for an hour after somebody first read its output to its end. Outputs of
/// ended ones have 64 MiB together and there are at most 1,024: those that were read make room first.
#[utoipa::path(
    tag = "exec",
    params(("bot_id" = Uuid, Path, description = "The bot.")),
    responses(
        (status = 200, body = List<ExecShape>),
        (status = 404, description = "`bot_not_found` or `workspace_not_found`."),
        (status = 409, description = "`workspace_not_running`."),
        (status = 503, description = "`workspace_unreachable` or `workspace_stalled`."),
    ),
)]
#[get("/bots/{bot_id}/container/exec")]
pub(super) async fn list(
    caller: Caller,
    id: IdOf<BotId>,
    state: web::Data<SharedState>,
) -> Result<HttpResponse, Problem> {
    let room = state.memory.for_list(caller.user).await?;
    let execs = state.services.workspaces.execs(&caller.actor, id.0).await?;
    let items = execs.items.into_iter().map(ExecShape::from);
    let list = List::fitting(items, execs.more, &state.config);
    Ok(room.held_by(HttpResponse::Ok().json(list)))
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct FollowQuery {
    /// Go on until the command ends.
    #[serde(default, deserialize_with = "flag")]
    #[param(required = false)]
    follow: bool,
    /// Begin after so many bytes of standard output and of standard error, such as `1024-0`: the `id` of an
    /// event, or the `next_offset` of a reply. Output that is not kept any more is counted as left out.
    #[serde(default)]
    #[param(required = false)]
    offset: Option<String>,
    /// How `stdout` and `stderr` are given: `utf-8` or `base64`. An event stream is always base64.
    #[serde(default)]
    #[param(inline)]
    encoding: Encoding,
}

/// What is held of a detached command's output.
///
/// With `follow` the reply comes when it ended. With `Accept: text/event-stream` the output is a
/// stream of events as that of a command that is run; `{"type":"skipped","stream":"stdout"|"stderr","bytes"}`
/// stands where output was dropped because too much came before anybody looked. Each event has an `id`, and a
/// request with that as `Last-Event-ID` goes on behind it: nothing comes twice, and nothing is left out untold.
/// `Last-Event-ID` comes before `offset`.
#[utoipa::path(
    tag = "exec",
    params(
        ("bot_id" = Uuid, Path, description = "The bot."),
        ("exec_id" = String, Path, description = "The command."),
        ("Last-Event-ID" = Option<String>, Header, description = "Only for events: the `id` of the last one that the client has."),
        FollowQuery
    ),
    responses(
        (status = 200, body = ExecReply),
        (status = 204, description = "Only for events: the client has had the last one."),
        (status = 400, description = "`invalid_value`: the offset has not the form of one, or is beyond the output."),
        (status = 404, description = "`bot_not_found`, `workspace_not_found` or `exec_not_found`."),
        (status = 409, description = "`workspace_not_running`; `agent_outdated`: its agent is older than the server and knows no offsets."),
        (status = 503, description = "`workspace_unreachable` or `workspace_stalled`."),
    ),
)]
#[get("/bots/{bot_id}/container/exec/{exec_id}")]
pub(super) async fn get_exec(
    caller: Caller,
    id: IdOf<BotId>,
    request_id: RequestId,
    request: HttpRequest,
    query: QueryOf<FollowQuery>,
    state: web::Data<SharedState>,
) -> Result<HttpResponse, Problem> {
    let exec = exec_id(&request);
    let FollowQuery {
        follow,
        offset,
        encoding,
    } = query.0;
    let offset = offset.filter(|offset| !offset.is_empty());
    let from: OutputPosition = offset.map_or(Ok(OutputPosition::default()), |it| it.parse())?;
    let workspaces = &state.services.workspaces;
    if wants_events(&request) {
        let last: Option<Place> = last_event_id(&request)?;
        let place = last.unwrap_or(Place {
            output: from,
            ended: false,
        });
        let follow = follow && !place.ended;
        let events = workspaces
            .follow_exec(&caller.actor, id.0, exec, place.output, follow)
            .await?;
        if place.ended {
            return Ok(HttpResponse::NoContent().finish());
        }
        // Of a command that runs, without `follow`, there is no last event.
        let steps = events::steps_from(events, place, last.is_some())
            .chain(stream::once(async { Step::End }));
        return Ok(sse::reply(&state, &caller, request_id, steps.boxed()));
    }
    let mut room = state.memory.room(Some(caller.user));
    let growing = room.growing(|data| encoding.most(data));
    let outcome = workspaces
        .exec_outcome(&caller.actor, id.0, exec, from, follow, growing)
        .await?;
    // It can be asked for again, and must not look like output that is lost.
    if let Some(problem) = room.refused() {
        return Err(problem);
    }
    let next_offset = Some(outcome.end.to_string());
    let reply = ExecReply {
        next_offset,
        ..ExecReply::new(outcome, encoding)
    };
    Ok(room.held_by(HttpResponse::Ok().json(reply)))
}

/// The last event that the client has; the header of a browser that has none is empty.
fn last_event_id(request: &HttpRequest) -> Result<Option<Place>, InvalidValue> {
    let Some(value) = request.headers().get("Last-Event-ID") else {
        return Ok(None);
    };
    let text = String::from_utf8_lossy(value.as_bytes());
    match text.is_empty() {
        true => Ok(None),
        false => text.parse().map(Some),
    }
}

fn exec_id(request: &HttpRequest) -> &str {
    request.match_info().get("exec_id").unwrap_or_default()
}

/// Input for a command.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Stdin {
    /// What it reads.
    #[serde(default)]
    data: String,
    /// How `data` is given.
    #[serde(default)]
    encoding: Encoding,
    /// Nothing follows.
    #[serde(default)]
    close: bool,
}

/// The reply of a change.
#[derive(Serialize, ToSchema)]
pub(super) struct Done {
    /// Always `true`.
    ok: bool,
}

/// Write to the input of a command that was started with `stdin_open`, while it runs. The reply comes when
/// it was taken.
#[utoipa::path(
    tag = "exec",
    params(
        ("bot_id" = Uuid, Path, description = "The bot."),
        ("exec_id" = String, Path, description = "The command."),
    ),
    request_body = Stdin,
    responses(
        (status = 200, body = Done),
        (status = 404, description = "`bot_not_found`, `workspace_not_found` or `exec_not_found`."),
        (status = 409, description = "`process_ended`: it ended or its input is closed; `workspace_not_running`."),
        (status = 503, description = "`workspace_unreachable` or `workspace_stalled`."),
    ),
)]
#[post("/bots/{bot_id}/container/exec/{exec_id}/stdin")]
pub(super) async fn stdin(
    caller: Caller,
    id: IdOf<BotId>,
    request: HttpRequest,
    body: Body<Stdin>,
    state: web::Data<SharedState>,
) -> Result<HttpResponse, Problem> {
    let body = body.0;
    let data = match body.encoding {
        Encoding::Utf8 => Bytes::from(body.data),
        Encoding::Base64 => STANDARD
            .decode(&body.data)
            .map(Bytes::from)
            .map_err(|_| Problem::invalid("invalid_body", "data: it is not base64"))?,
    };
    let workspaces = &state.services.workspaces;
    workspaces
        .write_exec(&caller.actor, id.0, exec_id(&request), data, body.close)
        .await?;
    Ok(HttpResponse::Ok().json(Done { ok: true }))
}

/// A signal for a command.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Signal {
    /// Its number, 1 to 64, or its name such as `SIGINT` or `INT`.
    signal: SignalName,
}

/// A signal by number or name.
#[derive(Deserialize, ToSchema)]
#[serde(untagged, expecting = "a number or a name such as SIGINT")]
pub(in crate::routes) enum SignalName {
    /// Its number.
    Number(i32),
    /// Its name.
    Name(String),
}

/// The signals that have one number on every architecture that containers run on (signal(7)).
const SIGNALS: &[(&str, i32)] = &[
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("ABRT", 6),
    ("KILL", 9),
    ("USR1", 10),
    ("USR2", 12),
    ("PIPE", 13),
    ("ALRM", 14),
    ("TERM", 15),
    ("CONT", 18),
    ("STOP", 19),
    ("TSTP", 20),
    ("WINCH", 28),
];

impl SignalName {
    pub(in crate::routes) fn number(&self) -> Result<i32, InvalidValue> {
        let (given, found) = match self {
            Self::Number(number) => (
                number.to_string(),
                (1..=64).contains(number).then_some(*number),
            ),
            Self::Name(name) => {
                let upper = name.to_ascii_uppercase();
                let short = upper.strip_prefix("SIG").unwrap_or(&upper);
                let found = SIGNALS.iter().find(|(known, _)| *known == short);
                (name.clone(), found.map(|(_, number)| *number))
            }
        };
        found.ok_or_else(|| {
            InvalidValue::new("signal", &given, "1 to 64, or a name such as SIGTERM")
        })
    }
}

/// Send a signal to a detached command and its process group.
#[utoipa::path(
    tag = "exec",
    params(
        ("bot_id" = Uuid, Path, description = "The bot."),
        ("exec_id" = String, Path, description = "The command."),
    ),
    request_body = Signal,
    responses(
        (status = 200, body = Done),
        (status = 404, description = "`bot_not_found`, `workspace_not_found` or `exec_not_found`."),
        (status = 409, description = "`process_ended`; `workspace_not_running`."),
        (status = 503, description = "`workspace_unreachable` or `workspace_stalled`."),
    ),
)]
#[post("/bots/{bot_id}/container/exec/{exec_id}/signal")]
pub(super) async fn signal(
    caller: Caller,
    id: IdOf<BotId>,
    request: HttpRequest,
    body: Body<Signal>,
    state: web::Data<SharedState>,
) -> Result<HttpResponse, Problem> {
    let number = body.0.signal.number()?;
    let workspaces = &state.services.workspaces;
    workspaces
        .signal_exec(&caller.actor, id.0, exec_id(&request), number)
        .await?;
    Ok(HttpResponse::Ok().json(Done { ok: true }))
}

/// End a detached command with its children, where it runs, and forget it: by SIGTERM, and 3 s later by
/// SIGKILL.
#[utoipa::path(
    tag = "exec",
    params(
        ("bot_id" = Uuid, Path, description = "The bot."),
        ("exec_id" = String, Path, description = "The command."),
    ),
    responses(
        (status = 204, description = "It is gone."),
        (status = 404, description = "`bot_not_found`, `workspace_not_found` or `exec_not_found`."),
        (status = 409, description = "`workspace_not_running`."),
        (status = 503, description = "`workspace_unreachable` or `workspace_stalled`."),
    ),
)]
#[delete("/bots/{bot_id}/container/exec/{exec_id}")]
pub(super) async fn delete(
    caller: Caller,
    id: IdOf<BotId>,
    request: HttpRequest,
    state: web::Data<SharedState>,
) -> Result<HttpResponse, Problem> {
    let workspaces = &state.services.workspaces;
    workspaces
        .remove_exec(&caller.actor, id.0, exec_id(&request))
        .await?;
    Ok(HttpResponse::NoContent().finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_numbers_and_names() {
        let number = |json: &str| {
            let given: Signal = serde_json::from_str(json).unwrap();
            given.signal.number().ok()
        };
        for (json, expected) in [
            (r#"{"signal":9}"#, Some(9)),
            (r#"{"signal":"SIGTERM"}"#, Some(15)),
            (r#"{"signal":"int"}"#, Some(2)),
            (r#"{"signal":0}"#, None),
            (r#"{"signal":65}"#, None),
            (r#"{"signal":"SIGNOPE"}"#, None),
        ] {
            assert_eq!(number(json), expected, "{json}");
        }
    }
}
