//! Terminals in a running workspace, by its agent. A terminal belongs to the workspace: it outlives
//! its connections and the server, and ends with its shell or the workspace's task.

use crate::agent::{AgentCall, DEADLINE, answered, timed};
use crate::exec::{self, CommandEvent, ExecRequest, Listed, RunInput, TerminalInfo};
use crate::service::{Inner, Workspaces};
use crate::{Error, Result};
use botstead_authz::Actor;
use botstead_bridge::proto;
use botstead_store::ContainerRecord;
use botstead_types::{BotId, DesiredState, InvalidValue};
use bytes::Bytes;
use chrono::DateTime;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use proto::run_input::{Attach, Input, Start};
use std::collections::BTreeMap;
use std::time::Duration;

/// The size of a terminal in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TerminalSize {
    columns: u32,
    rows: u32,
}

impl TerminalSize {
    /// The usual size.
    pub const DEFAULT: Self = Self {
        columns: 80,
        rows: 24,
    };

    /// A size within 1 to 1000 columns and 1 to 500 rows.
    ///
    /// # Errors
    /// Names the value that is outside.
    pub fn new(columns: u32, rows: u32) -> Result<Self, InvalidValue> {
        let within = |what, value: u32, most: u32| match (1..=most).contains(&value) {
            true => Ok(()),
            false => {
                let reason = format!("1 to {most}");
                Err(InvalidValue::new(what, &value.to_string(), reason))
            }
        };
        within("cols", columns, 1000)?;
        within("rows", rows, 500)?;
        Ok(Self { columns, rows })
    }

    /// The number of columns.
    pub fn columns(self) -> u32 {
        self.columns
    }

    /// The number of rows.
    pub fn rows(self) -> u32 {
        self.rows
    }

    pub(crate) fn wire(self) -> proto::TerminalSize {
        proto::TerminalSize {
            columns: self.columns,
            rows: self.rows,
        }
    }
}

/// A terminal to start.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TerminalRequest {
    /// The program and its arguments; the user's shell when empty.
    pub command: Vec<String>,
    /// Where it begins; `/data` when absent, or `/` where that cannot be entered.
    pub cwd: Option<String>,
    /// Variables beside those of every command.
    pub env: BTreeMap<String, String>,
    /// Who runs it; the image's user when absent.
    pub user: Option<String>,
    /// Its size; [`TerminalSize::DEFAULT`] until a viewer says what it has room for.
    pub size: Option<TerminalSize>,
}

/// A connection to a terminal. Dropping it leaves the terminal running.
pub struct TerminalConnection {
    /// The terminal's id.
    pub session: String,
    /// The way in.
    pub input: TerminalInput,
    /// What the terminal shows: for one that was there before first its screen, then what comes, and
    /// [`CommandEvent::Exit`] last.
    pub output: BoxStream<'static, Result<CommandEvent>>,
}

impl std::fmt::Debug for TerminalConnection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TerminalConnection")
            .field("session", &self.session)
            .finish_non_exhaustive()
    }
}

/// The way into a terminal.
#[derive(Debug, Clone)]
pub struct TerminalInput(RunInput);

impl TerminalInput {
    /// Types; false when the terminal ended. What its program does not take in time is refused:
    /// [`CommandEvent::InputRefused`].
    pub async fn write(&self, data: Bytes) -> bool {
        self.0.write(data).await
    }

    /// Says what this viewer has room for; false when it ended. The terminal gets the smallest of what its
    /// viewers said, and [`CommandEvent::Resized`] tells where that is another.
    pub async fn resize(&self, size: TerminalSize) -> bool {
        self.0.send(Input::Resize(size.wire())).await
    }
}

impl Workspaces {
    /// The shell that a terminal would get, as a path inside; `None` when the image has none or the
    /// workspace does not run.
    ///
    /// # Errors
    /// `BotNotFound`, `WorkspaceNotFound`, `Unreachable`, `Stalled`, `TooManyCalls`.
    pub async fn terminal_shell(&self, actor: &Actor, bot: BotId) -> Result<Option<String>> {
        let call = match self.exec_call(actor, bot).await {
            Err(Error::NotRunning) => return Ok(None),
            call => call?,
        };
        let request = timed(proto::FindShellRequest {
            user: String::new(),
        });
        let found = answered(call.client.processes().find_shell(request)).await;
        let path = found?.path;
        // The kernel takes no longer one.
        let possible = (1..=4096).contains(&path.len());
        Ok(possible.then(|| botstead_types::escaped(&path)))
    }

    /// Starts a terminal that nobody looks at yet; its id.
    ///
    /// # Errors
    /// `shell_not_available`, `workspace_limit`, a working directory or user that does not exist, and those
    /// of [`Workspaces::terminals`].
    pub async fn start_terminal(
        &self,
        actor: &Actor,
        bot: BotId,
        request: TerminalRequest,
    ) -> Result<String> {
        let call = self.terminal_call(actor, bot, &request).await?;
        let id = exec::new_id();
        let first = Input::Start(as_start(id.clone(), request));
        self.inner
            .detached(async move {
                let (_input, mut outputs) = exec::run(&call.client, first).await?;
                exec::first_output(&mut outputs).await.map(drop)
            })
            .await?;
        Ok(id)
    }

    /// Starts a terminal and connects to it. See [`Workspaces::start_terminal`].
    ///
    /// # Errors
    /// As there.
    pub async fn open_terminal(
        &self,
        actor: &Actor,
        bot: BotId,
        request: TerminalRequest,
    ) -> Result<TerminalConnection> {
        let call = self.terminal_call(actor, bot, &request).await?;
        let id = exec::new_id();
        let first = Input::Start(as_start(id.clone(), request));
        connect(call, id, first).await
    }

    /// Connects to a terminal that is there. `room` is what the viewer has room for; without it the
    /// terminal keeps its size.
    ///
    /// # Errors
    /// `ProcessNotFound`, and those of [`Workspaces::terminals`].
    pub async fn join_terminal(
        &self,
        actor: &Actor,
        bot: BotId,
        session: &str,
        room: Option<TerminalSize>,
    ) -> Result<TerminalConnection> {
        self.inner.refuse_when_closing()?;
        let call = self.exec_stream_call(actor, bot).await?;
        let first = Input::Attach(Attach {
            id: session.to_owned(),
            replay: true,
            follow: true,
            terminal: room.map(TerminalSize::wire),
            ..Attach::default()
        });
        connect(call, session.to_owned(), first).await
    }

    async fn terminal_call(
        &self,
        actor: &Actor,
        bot: BotId,
        request: &TerminalRequest,
    ) -> Result<AgentCall> {
        self.inner.refuse_when_closing()?;
        let call = self.exec_stream_call(actor, bot).await?;
        exec::check(&request.command, &request.env, request.cwd.as_deref())?;
        Ok(call)
    }

    /// The terminals of a workspace.
    ///
    /// # Errors
    /// `BotNotFound`, `WorkspaceNotFound`, `NotRunning`, `Unreachable`, `Stalled`, `TooManyCalls`.
    pub async fn terminals(&self, actor: &Actor, bot: BotId) -> Result<Listed<TerminalInfo>> {
        let call = self.exec_call(actor, bot).await?;
        let all = exec::processes(&call.client).await?;
        Ok(Listed {
            items: all.items.into_iter().filter_map(terminal_info).collect(),
            more: all.more,
        })
    }

    /// Ends a terminal with everything that runs in it.
    ///
    /// # Errors
    /// `ProcessNotFound`.
    pub async fn close_terminal(&self, actor: &Actor, bot: BotId, session: &str) -> Result<()> {
        let call = self.exec_call(actor, bot).await?;
        exec::remove(&call.client, "terminal", session).await
    }
}

fn as_start(id: String, request: TerminalRequest) -> Start {
    let size = request.size;
    let command = ExecRequest {
        command: request.command,
        cwd: request.cwd,
        env: request.env,
        user: request.user,
        ..ExecRequest::default()
    };
    Start {
        // No size is the agent's default.
        terminal: Some(size.map_or_else(proto::TerminalSize::default, TerminalSize::wire)),
        no_stdin: false,
        terminal_output: false,
        ..exec::as_start(id, &command, true)
    }
}

/// Begins a call to a terminal. One that cannot be had is told before anything else.
async fn connect(call: AgentCall, id: String, first: Input) -> Result<TerminalConnection> {
    let AgentCall { client, place } = call;
    let opened = exec::run(&client, first).await;
    let (input, outputs) = opened.map_err(|error| exec::not_found("terminal", &id, error))?;
    let mut output = exec::events(outputs, (input.clone(), place));
    let first = tokio::time::timeout(DEADLINE, output.next()).await;
    match first.map_err(|_| Error::Stalled(DEADLINE))? {
        Some(Ok(CommandEvent::Started { .. })) => {}
        Some(Ok(_)) | None => return Err(Error::Unreachable(None)),
        Some(Err(error)) => return Err(exec::not_found("terminal", &id, error)),
    }
    Ok(TerminalConnection {
        session: id,
        input: TerminalInput(input),
        output,
    })
}

impl Inner {
    /// Ends terminals that nobody looked at and nothing happened in for as long as is allowed.
    pub(crate) async fn close_idle_terminals(&self, record: &ContainerRecord) -> Result<()> {
        let limit = self.config.terminal_idle;
        if limit.is_zero() || record.desired != DesiredState::Running {
            return Ok(());
        }
        let client = self.agent_of(record)?;
        for terminal in exec::processes(&client).await?.items {
            let idle = Duration::from_millis(terminal.idle_ms);
            if terminal.terminal && terminal.running && terminal.viewers == 0 && idle > limit {
                let session: String = terminal
                    .id
                    .chars()
                    .filter(|c| c.is_ascii_graphic())
                    .take(64)
                    .collect();
                tracing::info!(bot = %record.bot, session, ?idle, "closing a terminal that nobody uses");
                exec::remove(&client, "terminal", &terminal.id).await?;
            }
        }
        Ok(())
    }
}

fn terminal_info(process: proto::ProcessInfo) -> Option<TerminalInfo> {
    process.terminal.then(|| TerminalInfo {
        session: process.id,
        command: process.args.iter().map(|arg| arg.to_vec()).collect(),
        running: process.running,
        started_at: DateTime::from_timestamp_millis(process.started_at_ms).unwrap_or_default(),
        viewers: process.viewers,
        idle: Duration::from_millis(process.idle_ms),
        exit_code: process.exit.map(|exit| exit.code),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_bounded() {
        assert!(TerminalSize::new(80, 24).is_ok());
        for (columns, rows) in [(0, 24), (80, 0), (1001, 24), (80, 501), (u32::MAX, 24)] {
            assert!(TerminalSize::new(columns, rows).is_err());
        }
    }
}
