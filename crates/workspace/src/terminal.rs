//! Terminals in a running workspace, by its agent. A terminal belongs to the workspace: it outlives
//! its connections and the server, and ends with its shell or the workspace's task.

use crate::agent::{AgentCall, DEADLINE, answered, timed};
use crate::exec::{self, CommandEvent, Listed, RunInput, TerminalInfo};
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

    fn wire(self) -> proto::TerminalSize {
        proto::TerminalSize {
            columns: self.columns,
            rows: self.rows,
        }
    }
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
    /// Types; false when the terminal ended.
    pub async fn write(&self, data: Bytes) -> bool {
        self.0.write(data).await
    }

    /// Changes its size, for all who look at it; false when it ended.
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

    /// Opens a terminal with the user's shell, or connects to one that is there.
    ///
    /// # Errors
    /// `ProcessNotFound` when there is no such session, `shell_not_available`, `workspace_limit`, and those of
    /// [`Workspaces::terminals`].
    pub async fn open_terminal(
        &self,
        actor: &Actor,
        bot: BotId,
        session: Option<&str>,
        size: TerminalSize,
    ) -> Result<TerminalConnection> {
        self.inner.refuse_when_closing()?;
        let AgentCall { client, place } = self.exec_stream_call(actor, bot).await?;
        let id = session.map_or_else(exec::new_id, str::to_owned);
        let terminal = Some(size.wire());
        let first = if session.is_some() {
            Input::Attach(Attach {
                id: id.clone(),
                replay: true,
                follow: true,
                terminal,
            })
        } else {
            Input::Start(Start {
                id: id.clone(),
                keep: true,
                terminal,
                ..Start::default()
            })
        };
        let opened = exec::run(&client, first).await;
        let (input, outputs) = opened.map_err(|error| exec::not_found("terminal", &id, error))?;
        let mut output = exec::events(outputs, (input.clone(), place));
        // A terminal that cannot be had is told before anything else.
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
