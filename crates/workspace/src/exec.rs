//! Commands in a running workspace, by its agent.
//!
//! A command does not hold the bot: other operations go on meanwhile, and a stop ends it. One that is
//! not detached lives as long as its caller listens; a detached one belongs to the workspace, outlives
//! the server, and what it writes can be read again within a bound.

mod model;
mod output;
mod run;
mod without_agent;

pub use model::{
    CommandEvent, ExecExit, ExecInfo, ExecOutcome, ExecRequest, Listed, OutputGap, OutputPosition,
    OutputStream, TerminalInfo,
};
pub(crate) use run::{RunInput, events, first_output, run};

use crate::agent::{self, AgentCall, answered, timed};
use crate::model::SnapshotMode;
use crate::service::{Inner, Workspaces};
use crate::terminal::TerminalSize;
use crate::{Error, Result};
use botstead_authz::{Action, Actor};
use botstead_bridge::{AgentClient, proto};
use botstead_types::{BotId, VersionNumber, VersionSource};
use bytes::Bytes;
use chrono::DateTime;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use output::collect;
use proto::run_input::{Attach, Input, Start};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The most processes that are taken from an agent: it keeps 512 that run and 1024 that ended.
const MOST_PROCESSES: usize = 2048;
/// The most bytes of a process's arguments.
const MOST_ARGUMENTS: usize = 4 << 10;

/// The most that a detached command is given with its start: it waits in the agent, and a message has 4 MiB.
const MOST_STDIN: usize = 3 << 20;

impl Workspaces {
    /// Runs a command and answers when it ended. Dropping the future ends it with its children. Of
    /// each output one MiB is kept: of a longer one what came first and what came last.
    ///
    /// # Errors
    /// `BotNotFound`, `WorkspaceNotFound`, `NotRunning`, `Unreachable`, `Stalled`, `TooManyCalls`; an empty
    /// command, a relative or missing working directory, a user that does not exist, `workspace_limit`.
    pub async fn exec(
        &self,
        actor: &Actor,
        bot: BotId,
        request: ExecRequest,
    ) -> Result<ExecOutcome> {
        self.exec_within(actor, bot, request, async |_, _| true)
            .await
    }

    /// The same for who holds outputs of many at once: `room` is asked for each piece of either output
    /// whether it may be kept, in place of another piece that is dropped for it. From the first no on an
    /// output has no more bytes than then. Where a backend gives no way to agents it is asked once, before the
    /// command starts, with as many NUL bytes as there can be output: no byte takes more.
    ///
    /// # Errors
    /// As [`Workspaces::exec`].
    pub async fn exec_within(
        &self,
        actor: &Actor,
        bot: BotId,
        request: ExecRequest,
        room: impl AsyncFnMut(&[u8], &[u8]) -> bool,
    ) -> Result<ExecOutcome> {
        let version = self.prepare_exec(actor, bot, &request).await?;
        if self.inner.agents.is_none() {
            return self.exec_without_agent(bot, request, version, room).await;
        }
        let events = self.run_command(bot, request).await?;
        let mut outcome = collect(events, OutputPosition::default(), room).await?;
        outcome.version = version;
        Ok(outcome)
    }

    /// Runs a command and gives what it writes as it comes; nothing is dropped: a command that writes
    /// faster than the caller reads waits. Dropping the stream ends it with its children.
    ///
    /// # Errors
    /// As [`Workspaces::exec`].
    pub async fn exec_stream(
        &self,
        actor: &Actor,
        bot: BotId,
        request: ExecRequest,
    ) -> Result<BoxStream<'static, Result<CommandEvent>>> {
        self.prepare_exec(actor, bot, &request).await?;
        self.run_command(bot, request).await
    }

    /// Starts a command and watches whether the kernel kills for lack of memory while it runs.
    async fn run_command(
        &self,
        bot: BotId,
        request: ExecRequest,
    ) -> Result<BoxStream<'static, Result<CommandEvent>>> {
        let AgentCall { client, place } = self.inner.agent_for_long(bot).await?;
        let kills = self.inner.out_of_memory_kills(bot).await;
        let events = start(&client, new_id(), request, false).await?;
        let inner = Arc::clone(&self.inner);
        Ok(events
            .then(move |event| {
                let _ = &place;
                let inner = Arc::clone(&inner);
                async move {
                    let mut event = event;
                    if let Ok(CommandEvent::Exit(exit)) = &mut event {
                        exit.out_of_memory = inner.killed_since(bot, kills).await;
                    }
                    event
                }
            })
            .boxed())
    }

    /// Starts a command that goes on when nobody listens, also while the server restarts, and tells
    /// its id. It ends with the workspace's task.
    ///
    /// # Errors
    /// As [`Workspaces::exec`].
    pub async fn exec_detached(
        &self,
        actor: &Actor,
        bot: BotId,
        request: ExecRequest,
    ) -> Result<String> {
        if request.stdin.len() > MOST_STDIN {
            return Err(Error::InvalidRequest {
                code: "stdin_too_large",
                message: format!(
                    "stdin of a detached command must be at most {MOST_STDIN} bytes; start it with \
                     stdin_open and write the rest afterwards"
                ),
            });
        }
        self.prepare_exec(actor, bot, &request).await?;
        let call = self.inner.agent_for_long(bot).await?;
        if request.terminal.is_some() {
            agent::require(&call.client, 1, "tty of a detached command").await?;
        }
        let id = new_id();
        let start_id = id.clone();
        self.inner
            .detached(async move {
                let first = Input::Start(as_start(start_id, &request, true));
                let (_input, mut outputs) = run(&call.client, first).await?;
                // Whether it started is known with the first message.
                first_output(&mut outputs).await.map(drop)
            })
            .await?;
        Ok(id)
    }

    /// The detached commands of a workspace: those that run, and for a while those that ended.
    ///
    /// # Errors
    /// `BotNotFound`, `WorkspaceNotFound`, `NotRunning`, `Unreachable`, `Stalled`, `TooManyCalls`.
    pub async fn execs(&self, actor: &Actor, bot: BotId) -> Result<Listed<ExecInfo>> {
        let call = self.exec_call(actor, bot).await?;
        let all = processes(&call.client).await?;
        let commands = all.items.into_iter().filter(|process| !process.terminal);
        Ok(Listed {
            items: commands.map(exec_info).collect(),
            more: all.more,
        })
    }

    /// What is held of a detached command's output behind a place in it, then, with `follow`, what comes
    /// until it ends. [`OutputPosition::pass`] tells where the caller is after each event.
    ///
    /// # Errors
    /// `ProcessNotFound`; a place behind the end of the output; `AgentOutdated` for one other than the
    /// beginning.
    pub async fn follow_exec(
        &self,
        actor: &Actor,
        bot: BotId,
        id: &str,
        from: OutputPosition,
        follow: bool,
    ) -> Result<BoxStream<'static, Result<CommandEvent>>> {
        let AgentCall { client, place } = self.exec_stream_call(actor, bot).await?;
        if from != OutputPosition::default() {
            agent::require(&client, 1, "offset").await?;
        }
        let attach = Attach {
            id: id.to_owned(),
            replay: true,
            follow,
            terminal: None,
            stdout_offset: from.stdout,
            stderr_offset: from.stderr,
        };
        let (input, outputs) = run(&client, Input::Attach(attach))
            .await
            .map_err(|error| not_found("command", id, error))?;
        let id = id.to_owned();
        Ok(events(outputs, (input, place))
            .map(move |event| event.map_err(|error| not_found("command", &id, error)))
            .boxed())
    }

    /// The same, collected: with `follow` it answers when the command ended. `room` is as in
    /// [`Workspaces::exec_within`].
    ///
    /// # Errors
    /// As [`Workspaces::follow_exec`].
    pub async fn exec_outcome(
        &self,
        actor: &Actor,
        bot: BotId,
        id: &str,
        from: OutputPosition,
        follow: bool,
        room: impl AsyncFnMut(&[u8], &[u8]) -> bool,
    ) -> Result<ExecOutcome> {
        let events = self.follow_exec(actor, bot, id, from, follow).await?;
        let mut outcome = collect(events, from, room).await?;
        id.clone_into(&mut outcome.exec_id);
        Ok(outcome)
    }

    /// Writes to the input of a command that was started with [`ExecRequest::stdin_open`] and answers when it
    /// was taken; `close` ends it.
    ///
    /// # Errors
    /// `ProcessNotFound`, `process_ended`.
    pub async fn write_exec(
        &self,
        actor: &Actor,
        bot: BotId,
        id: &str,
        data: Bytes,
        close: bool,
    ) -> Result<()> {
        let call = self.exec_call(actor, bot).await?;
        let request = proto::WriteInputRequest {
            id: id.to_owned(),
            data,
            close,
        };
        let written = answered(call.client.processes().write_input(timed(request))).await;
        written
            .map(drop)
            .map_err(|error| not_found("command", id, error))
    }

    /// Sends a signal to a detached command and its group.
    ///
    /// # Errors
    /// `ProcessNotFound`, `process_ended`.
    pub async fn signal_exec(
        &self,
        actor: &Actor,
        bot: BotId,
        id: &str,
        signal: i32,
    ) -> Result<()> {
        let call = self.exec_call(actor, bot).await?;
        let request = proto::SignalRequest {
            id: id.to_owned(),
            signal,
        };
        let sent = answered(call.client.processes().signal(timed(request))).await;
        sent.map(drop)
            .map_err(|error| not_found("command", id, error))
    }

    /// Kills a detached command with its children, where it runs, and forgets it.
    ///
    /// # Errors
    /// `ProcessNotFound`.
    pub async fn remove_exec(&self, actor: &Actor, bot: BotId, id: &str) -> Result<()> {
        let call = self.exec_call(actor, bot).await?;
        remove(&call.client, "command", id).await
    }

    async fn prepare_exec(
        &self,
        actor: &Actor,
        bot: BotId,
        request: &ExecRequest,
    ) -> Result<Option<VersionNumber>> {
        let inner = &self.inner;
        inner.authorized(actor, Action::ExecWorkspace, bot).await?;
        inner.refuse_when_closing()?;
        if request.command.is_empty() {
            return Err(Error::InvalidRequest {
                code: "invalid_command",
                message: "command must not be empty".to_owned(),
            });
        }
        check(&request.command, &request.env, request.cwd.as_deref())?;
        if !request.snapshot_before {
            return Ok(None);
        }
        let made = self
            .snapshot_from(actor, bot, None, VersionSource::PreExec, SnapshotMode::Live)
            .await?;
        Ok(Some(made.version.number))
    }

    pub(crate) async fn exec_call(&self, actor: &Actor, bot: BotId) -> Result<AgentCall> {
        let inner: &Inner = &self.inner;
        inner.authorized(actor, Action::ExecWorkspace, bot).await?;
        inner.agent(bot).await
    }

    /// The same for a call that lasts.
    pub(crate) async fn exec_stream_call(&self, actor: &Actor, bot: BotId) -> Result<AgentCall> {
        let inner: &Inner = &self.inner;
        inner.authorized(actor, Action::ExecWorkspace, bot).await?;
        inner.agent_for_long(bot).await
    }
}

pub(crate) fn new_id() -> String {
    uuid::Uuid::new_v4().to_string()
}

/// The processes that an agent keeps: no more than there can be, with ids that can be asked for.
pub(crate) async fn processes(client: &AgentClient) -> Result<Listed<proto::ProcessInfo>> {
    let request = timed(proto::ListProcessesRequest {});
    let listed = answered(client.processes().list(request)).await?;
    Ok(bounded(listed.processes))
}

fn bounded(mut processes: Vec<proto::ProcessInfo>) -> Listed<proto::ProcessInfo> {
    processes.retain(|process| is_id(&process.id));
    let more = processes.len() > MOST_PROCESSES;
    processes.truncate(MOST_PROCESSES);
    for process in &mut processes {
        let mut left = MOST_ARGUMENTS;
        let fits = |argument: &&Bytes| {
            let rest = left.checked_sub(argument.len() + 1);
            left = rest.unwrap_or(0);
            rest.is_some()
        };
        let count = process.args.iter().take_while(fits).count();
        process.args.truncate(count);
    }
    Listed {
        items: processes,
        more,
    }
}

/// The ids that the protocol has: 1 to 64 letters, digits and hyphens.
pub(crate) fn is_id(id: &str) -> bool {
    (1..=64).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

pub(crate) async fn remove(client: &AgentClient, what: &'static str, id: &str) -> Result<()> {
    let request = timed(proto::RemoveProcessRequest { id: id.to_owned() });
    let removed = answered(client.processes().remove(request)).await;
    removed
        .map(drop)
        .map_err(|error| not_found(what, id, error))
}

/// What the agent does not find here is a process, not a path.
pub(crate) fn not_found(what: &'static str, id: &str, error: Error) -> Error {
    match error {
        Error::Agent(failure) if failure.is_not_found() => Error::ProcessNotFound {
            what,
            id: id.chars().filter(|c| !c.is_control()).take(64).collect(),
        },
        error => error,
    }
}

/// Starts a command and passes its input on beside its output.
async fn start(
    client: &AgentClient,
    id: String,
    request: ExecRequest,
    keep: bool,
) -> Result<BoxStream<'static, Result<CommandEvent>>> {
    let first = Input::Start(as_start(id, &request, keep));
    let (input, outputs) = run(client, first).await?;
    let mut events = events(outputs, input.clone());
    // A terminal's input is open until it is told to end.
    if request.stdin.is_empty() && (request.terminal.is_none() || request.stdin_open) {
        return Ok(events);
    }
    let (stdin, stays_open) = (request.stdin, request.stdin_open);
    Ok(async_stream::stream! {
        let feed = async {
            input.write(stdin).await;
            if !stays_open {
                input.send(Input::CloseStdin(true)).await;
            }
        };
        let mut feed = std::pin::pin!(feed);
        let mut fed = false;
        loop {
            let event = tokio::select! {
                () = &mut feed, if !fed => { fed = true; continue; }
                event = events.next() => event,
            };
            let Some(event) = event else { break };
            yield event;
        }
    }
    .boxed())
}

pub(crate) fn as_start(id: String, request: &ExecRequest, keep: bool) -> Start {
    let text = |text: &str| Bytes::copy_from_slice(text.as_bytes());
    Start {
        id,
        args: request.command.iter().map(|arg| text(arg)).collect(),
        cwd: request.cwd.as_deref().map(text).unwrap_or_default(),
        env: request
            .env
            .iter()
            .map(|(name, value)| proto::Variable {
                name: text(name),
                value: text(value),
            })
            .collect(),
        user: request.user.clone().unwrap_or_default(),
        terminal: request.terminal.map(TerminalSize::wire),
        keep,
        timeout_ms: request.timeout.map_or(0, |timeout| {
            u64::try_from(timeout.as_millis())
                .unwrap_or(u64::MAX)
                .max(1)
        }),
        no_stdin: request.terminal.is_none() && request.stdin.is_empty() && !request.stdin_open,
        replay_bytes: 0,
        // Another one's comes beside its output, as it takes it.
        stdin: match keep {
            true => request.stdin.clone(),
            false => Bytes::new(),
        },
        stdin_open: request.stdin_open,
        terminal_output: keep && request.terminal.is_some(),
    }
}

fn exec_info(process: proto::ProcessInfo) -> ExecInfo {
    let time = |ms| DateTime::from_timestamp_millis(ms).unwrap_or_default();
    ExecInfo {
        exec_id: process.id,
        command: process.args.iter().map(|arg| arg.to_vec()).collect(),
        running: process.running,
        started_at: time(process.started_at_ms),
        ended_at: (!process.running).then(|| time(process.ended_at_ms)),
        exit: process.exit.map(ExecExit::from),
    }
}

/// What a process can be started with. An empty command is none here.
pub(crate) fn check(
    command: &[String],
    env: &BTreeMap<String, String>,
    cwd: Option<&str>,
) -> Result<()> {
    let invalid = |code, message: &str| {
        Err(Error::InvalidRequest {
            code,
            message: message.to_owned(),
        })
    };
    let nul = |text: &String| text.contains('\0');
    if command.first().is_some_and(String::is_empty) {
        return invalid("invalid_command", "the program's name must not be empty");
    }
    if command.iter().any(nul) || env.iter().any(|(k, v)| nul(k) || nul(v)) {
        return invalid(
            "invalid_command",
            "command and environment must not contain NUL",
        );
    }
    if env.keys().any(|key| key.is_empty() || key.contains('=')) {
        return invalid(
            "invalid_env",
            "environment variable names must be non-empty and must not contain '='",
        );
    }
    if cwd.is_some_and(|cwd| !cwd.starts_with('/') || cwd.contains('\0')) {
        return invalid("invalid_cwd", "cwd must be an absolute path");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_has_no_more_processes_and_arguments_than_there_can_be() {
        let process = |id: &str, args: &[usize]| proto::ProcessInfo {
            id: id.to_owned(),
            args: args.iter().map(|len| vec![b'x'; *len].into()).collect(),
            ..proto::ProcessInfo::default()
        };
        let mut all = vec![
            process("", &[]),
            process("a/b", &[]),
            process(&"x".repeat(65), &[]),
        ];
        all.extend((0..MOST_PROCESSES + 5).map(|n| process(&format!("p{n}"), &[10, 5000, 10])));
        let listed = bounded(all);
        assert!(listed.more);
        assert_eq!(listed.items.len(), MOST_PROCESSES);
        assert_eq!(listed.items[0].id, "p0");
        assert_eq!(listed.items[0].args.len(), 1);
        let listed = bounded(vec![process("a", &[10, 20])]);
        assert!(!listed.more);
        assert_eq!(listed.items[0].args.len(), 2);
    }
}
