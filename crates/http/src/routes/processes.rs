//! /bots/{bot_id}/container/processes: all that runs in a workspace, and signals to it.

use crate::auth::Caller;
use crate::extract::{Body, IdOf, PageQuery, QueryOf};
use crate::problem::Problem;
use crate::routes::exec::SignalName;
use crate::shapes::{List, key_of_cursor, to_cursor};
use crate::state::SharedState;
use actix_web::{HttpResponse, get, post, web};
use botstead_types::{BotId, InvalidValue, PageRequest};
use botstead_workspace::{ProcessInfo, Signalled};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_actix_web::service_config::ServiceConfig;

/// Processes that one call signals.
const MOST_SIGNALLED: usize = 1000;

pub(super) fn configure(config: &mut ServiceConfig<'_>) {
    config.service(list).service(signal);
}

/// A process of a workspace.
#[derive(Serialize, ToSchema)]
struct ProcessShape {
    /// Its number in the workspace.
    pid: u32,
    /// That of its parent; 1 is the workspace's agent.
    parent_pid: u32,
    /// The number of its effective user.
    uid: u32,
    /// The kernel's letter for its state: `R` runs, `S` sleeps, `D` waits and cannot be interrupted, `T` or `t`
    /// is stopped, `Z` has ended and its parent has not asked for its exit code.
    #[schema(value_type = String)]
    state: char,
    /// The kernel's name of it, at most 15 bytes; what is not UTF-8 is replaced by U+FFFD.
    name: String,
    /// The program and its arguments as the process shows them, as many as have 1 KiB together; empty for one
    /// that has ended. What is not UTF-8 is replaced by U+FFFD.
    command: Vec<String>,
    /// `true` when arguments were left out; absent otherwise.
    #[serde(skip_serializing_if = "crate::shapes::is_false")]
    #[schema(required = false)]
    truncated: bool,
    /// When it was started.
    started_at: DateTime<Utc>,
    /// The time of processors that it took, in milliseconds.
    cpu_ms: u64,
    /// Its resident memory. What processes share is counted for each.
    memory_bytes: u64,
    /// Its threads. Each counts against the workspace's limit of processes.
    threads: u32,
    /// The command or terminal that it was started by; absent when it left the session of that, or that has
    /// ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    exec_id: Option<String>,
}

impl From<ProcessInfo> for ProcessShape {
    fn from(process: ProcessInfo) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Self {
            pid: process.pid,
            parent_pid: process.parent_pid,
            uid: process.uid,
            state: process.state,
            name: text(&process.name),
            command: process.command.iter().map(|word| text(word)).collect(),
            truncated: process.is_command_cut,
            started_at: process.started_at,
            cpu_ms: u64::try_from(process.cpu.as_millis()).unwrap_or(u64::MAX),
            memory_bytes: process.resident_bytes,
            threads: process.threads,
            exec_id: process.started_by,
        }
    }
}

/// All processes of a running workspace but its agent, whoever started them.
///
/// Works also at the limit of processes, when nothing can be started. Without `limit` a hundred.
#[utoipa::path(
    tag = "exec",
    params(("bot_id" = Uuid, Path, description = "The bot."), PageQuery),
    responses(
        (status = 200, body = List<ProcessShape>),
        (status = 404, description = "`bot_not_found` or `workspace_not_found`."),
        (status = 409, description = "`workspace_not_running`; `agent_outdated`: its agent is older than the server."),
        (status = 503, description = "`workspace_unreachable` or `workspace_stalled`."),
    ),
)]
#[get("/bots/{bot_id}/container/processes")]
async fn list(
    caller: Caller,
    id: IdOf<BotId>,
    query: QueryOf<PageQuery>,
    state: web::Data<SharedState>,
) -> Result<HttpResponse, Problem> {
    let after = key_of_cursor(query.0.cursor())?.unwrap_or(0);
    let limit = query.0.limit()?.and_then(|limit| u32::try_from(limit).ok());
    let limit = limit.unwrap_or(PageRequest::MAX_LIMIT);
    let room = state.memory.for_list(caller.user).await?;
    let workspaces = &state.services.workspaces;
    let found = workspaces
        .processes(&caller.actor, id.0, after, limit)
        .await?;
    let last = found.items.last().filter(|_| found.more);
    let next_cursor = last.map(|process| to_cursor(process.pid.to_string()));
    let items = found.items.into_iter().map(ProcessShape::from).collect();
    Ok(room.held_by(HttpResponse::Ok().json(List {
        items,
        next_cursor,
        truncated: false,
    })))
}

/// A signal for processes.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct SignalProcesses {
    /// Its number, 1 to 31, or its name such as `SIGKILL` or `KILL`.
    signal: SignalName,
    /// The numbers of the processes, at most 1,000.
    #[serde(default)]
    #[schema(max_items = 1000)]
    pids: Vec<u32>,
    /// All processes but the workspace's agent, at one stroke: what starts others all the time does not
    /// outrun it. Commands and terminals end by it too.
    #[serde(default)]
    all: bool,
}

impl SignalProcesses {
    fn which(self) -> Result<Signalled, InvalidValue> {
        let refused =
            |field, given: &str, reason: &'static str| Err(InvalidValue::new(field, given, reason));
        match (self.all, self.pids.len()) {
            (true, 0) => Ok(Signalled::All),
            (true, _) => refused("all", "true", "pids and all exclude each other"),
            (false, 0) => refused("pids", "", "pids or all must be given"),
            (false, count) if count > MOST_SIGNALLED => {
                refused("pids", &count.to_string(), "must be 1 to 1,000 numbers")
            }
            (false, _) if self.pids.contains(&0) => refused(
                "pids",
                "0",
                "must be numbers of processes, which begin at 1",
            ),
            (false, _) if self.pids.contains(&1) => refused(
                "pids",
                "1",
                "process 1 is the workspace's agent: stop the workspace instead",
            ),
            (false, _) => Ok(Signalled::These(self.pids)),
        }
    }
}

/// The reply of a signal.
#[derive(Serialize, ToSchema)]
struct SignalSent {
    /// The processes that ran and were reached; those that are missing had ended. With `all`, those that were
    /// seen just before: what was started between is reached too.
    pids: Vec<u32>,
}

/// Send a signal to processes of a running workspace, whoever started them.
///
/// Works also at the limit of processes, when nothing can be started.
#[utoipa::path(
    tag = "exec",
    params(("bot_id" = Uuid, Path, description = "The bot.")),
    request_body = SignalProcesses,
    responses(
        (status = 200, body = SignalSent),
        (status = 400, description = "`invalid_value`: no such signal, no processes, or process 1."),
        (status = 404, description = "`bot_not_found` or `workspace_not_found`."),
        (status = 409, description = "`workspace_not_running`; `agent_outdated`: its agent is older than the server."),
        (status = 503, description = "`workspace_unreachable` or `workspace_stalled`."),
    ),
)]
#[post("/bots/{bot_id}/container/processes/signal")]
async fn signal(
    caller: Caller,
    id: IdOf<BotId>,
    body: Body<SignalProcesses>,
    state: web::Data<SharedState>,
) -> Result<HttpResponse, Problem> {
    let signal = body.0.signal.number()?;
    let which = body.0.which()?;
    let workspaces = &state.services.workspaces;
    let pids = workspaces
        .signal_processes(&caller.actor, id.0, which, signal)
        .await?;
    Ok(HttpResponse::Ok().json(SignalSent { pids }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_is_for_some_processes_or_for_all() {
        let which = |json: &str| {
            let given: SignalProcesses = serde_json::from_str(json).unwrap();
            given.which().map_err(|error| error.to_string())
        };
        assert_eq!(which(r#"{"signal":9,"all":true}"#), Ok(Signalled::All));
        let these = which(r#"{"signal":9,"pids":[2,7]}"#);
        assert_eq!(these, Ok(Signalled::These(vec![2, 7])));
        let many = format!(r#"{{"signal":9,"pids":{:?}}}"#, vec![7; 1001]);
        for (json, reason) in [
            (r#"{"signal":9}"#, "pids or all"),
            (r#"{"signal":9,"pids":[3],"all":true}"#, "exclude"),
            (r#"{"signal":9,"pids":[3,1]}"#, "agent"),
            (many.as_str(), "must be 1 to 1,000"),
        ] {
            let error = which(json).unwrap_err();
            assert!(error.contains(reason), "{error}");
        }
    }
}
