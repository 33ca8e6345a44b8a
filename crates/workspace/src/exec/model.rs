//! What the use cases on commands take and give.

use crate::terminal::TerminalSize;
use botstead_types::{InvalidValue, VersionNumber};
use bytes::Bytes;
use chrono::{DateTime, Utc};
use std::collections::BTreeMap;
use std::time::Duration;

/// A command to run in a workspace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExecRequest {
    /// The program and its arguments.
    pub command: Vec<String>,
    /// The working directory; `/data` when absent.
    pub cwd: Option<String>,
    /// Variables beside the image's.
    pub env: BTreeMap<String, String>,
    /// Who runs it; the image's user when absent.
    pub user: Option<String>,
    /// What it reads.
    pub stdin: Bytes,
    /// Its input stays open after that, for [`crate::Workspaces::write_exec`]. Otherwise it ends there, also
    /// where nothing is given.
    pub stdin_open: bool,
    /// Run it in a terminal of this size. Its standard output is then all that the terminal shows, and
    /// nothing comes as standard error; the end of its input is the character that means it.
    pub terminal: Option<TerminalSize>,
    /// After this it is ended with its children: asked, in a terminal by hanging up, and killed 3 s later; no
    /// limit when absent.
    pub timeout: Option<Duration>,
    /// Make a version first.
    pub snapshot_before: bool,
}

/// How a command ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecExit {
    /// The exit code; 128 + the signal's number when one ended it, 127 when the program was not
    /// found, 126 when it could not be executed.
    pub code: u32,
    /// Whether it was ended because its time was over.
    pub timed_out: bool,
    /// Whether output was dropped.
    pub truncated: bool,
    /// Whether something that it started had an output of it open still when it had ended, so that more may
    /// have been written than was waited for.
    pub output_incomplete: bool,
    /// How long it ran.
    pub duration: Duration,
    /// Whether the kernel killed a process of the workspace for lack of memory while it ran. Not known
    /// of detached commands.
    pub out_of_memory: bool,
    /// Why it could not be started.
    pub message: Option<String>,
}

/// What a command did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecOutcome {
    /// Its id.
    pub exec_id: String,
    /// What it wrote to its standard output, up to the limit: of more what came first and what came last.
    pub stdout: Bytes,
    /// What it wrote to its standard error, in the same way.
    pub stderr: Bytes,
    /// What is left out of `stdout`, where that is known.
    pub stdout_gap: Option<OutputGap>,
    /// What is left out of `stderr`, where that is known.
    pub stderr_gap: Option<OutputGap>,
    /// How it ended; `None` while a detached one runs.
    pub exit: Option<ExecExit>,
    /// Whether output was dropped.
    pub truncated: bool,
    /// Where the outputs ended, with all that is left out of them.
    pub end: OutputPosition,
    /// The version that was made first, where that was asked for.
    pub version: Option<VersionNumber>,
}

/// What is left out of an output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutputGap {
    /// How many of the bytes that are kept come before it.
    pub at: usize,
    /// How many bytes are left out there.
    pub bytes: u64,
}

/// One of a command's outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutputStream {
    /// Standard output, and all that a terminal shows.
    Stdout,
    /// Standard error.
    Stderr,
}

/// What a command reports while it runs: `Started` first, `Exit` last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CommandEvent {
    /// It runs.
    Started {
        /// Its id.
        exec_id: String,
    },
    /// It wrote to its standard output.
    Stdout(Bytes),
    /// It wrote to its standard error.
    Stderr(Bytes),
    /// Output is missing here.
    Skipped {
        /// Of which output.
        stream: OutputStream,
        /// So many bytes.
        bytes: u64,
    },
    /// The terminal has another size than this viewer said last, or than it was told last.
    Resized(TerminalSize),
    /// So many bytes that this viewer of a terminal sent were not passed on: its program does not take them.
    InputRefused {
        /// So many.
        bytes: u64,
    },
    /// It ended.
    Exit(ExecExit),
}

/// A place in a command's outputs: how many bytes of each lie before it. As text `STDOUT-STDERR`, such as
/// `1024-0`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OutputPosition {
    /// Bytes of standard output, and of all that a terminal shows.
    pub stdout: u64,
    /// Bytes of standard error.
    pub stderr: u64,
}

impl OutputPosition {
    /// Moves behind what an event has or leaves out.
    pub fn pass(&mut self, event: &CommandEvent) {
        let (place, bytes) = match event {
            CommandEvent::Stdout(data) => (&mut self.stdout, data.len() as u64),
            CommandEvent::Stderr(data) => (&mut self.stderr, data.len() as u64),
            CommandEvent::Skipped {
                stream: OutputStream::Stdout,
                bytes,
            } => (&mut self.stdout, *bytes),
            CommandEvent::Skipped {
                stream: OutputStream::Stderr,
                bytes,
            } => (&mut self.stderr, *bytes),
            CommandEvent::Started { .. }
            | CommandEvent::Resized(_)
            | CommandEvent::InputRefused { .. }
            | CommandEvent::Exit(_) => return,
        };
        // The agent says how much is left out.
        *place = place.saturating_add(bytes);
    }
}

impl std::fmt::Display for OutputPosition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.stdout, self.stderr)
    }
}

impl std::str::FromStr for OutputPosition {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let number = |text: &str| {
            let digits = text.bytes().all(|byte| byte.is_ascii_digit());
            text.parse().ok().filter(|_| digits)
        };
        text.split_once('-')
            .and_then(|(stdout, stderr)| {
                Some(Self {
                    stdout: number(stdout)?,
                    stderr: number(stderr)?,
                })
            })
            .ok_or_else(|| {
                let reason = "it must be the bytes of stdout and of stderr, such as 1024-0";
                InvalidValue::new("offset", text, reason)
            })
    }
}

/// A list of what the agent tells, as much of it as is taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed<T> {
    /// The items.
    pub items: Vec<T>,
    /// Whether there were more.
    pub more: bool,
}

/// A detached command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecInfo {
    /// Its id.
    pub exec_id: String,
    /// The program and its arguments, as many as have 4 KiB together; any bytes.
    pub command: Vec<Vec<u8>>,
    /// Whether it runs.
    pub running: bool,
    /// When it was started.
    pub started_at: DateTime<Utc>,
    /// When it ended.
    pub ended_at: Option<DateTime<Utc>>,
    /// How it ended.
    pub exit: Option<ExecExit>,
}

/// A terminal in a workspace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TerminalInfo {
    /// Its id.
    pub session: String,
    /// The program and its arguments, as many as have 4 KiB together; any bytes.
    pub command: Vec<Vec<u8>>,
    /// Whether it runs.
    pub running: bool,
    /// When it was opened.
    pub started_at: DateTime<Utc>,
    /// Connections to it.
    pub viewers: u32,
    /// How long nothing was read or written.
    pub idle: Duration,
    /// Its exit code, once it ended.
    pub exit_code: Option<u32>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_is_two_numbers() {
        let position = |text: &str| text.parse::<OutputPosition>().ok();
        let expected = OutputPosition {
            stdout: 1024,
            stderr: 7,
        };
        assert_eq!(position("1024-7"), Some(expected));
        assert_eq!(position(&expected.to_string()), Some(expected));
        for bad in ["", "1", "-", "1-", "-1", "1-2-3", "+1-2", "a-b", "1 -2"] {
            assert_eq!(position(bad), None, "{bad:?}");
        }
        assert_eq!(position("18446744073709551616-0"), None);
    }
}
