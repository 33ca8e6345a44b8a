//! /bots/{bot_id}/container/exec: run commands, wait for them, follow them.
//!
//! The shapes are fixed, because existing clients speak them.

mod detached;
mod events;

pub(super) use detached::SignalName;

use crate::auth::Caller;
use crate::context::RequestId;
use crate::extract::{Body, IdOf, wants_events};
use crate::problem::Problem;
use crate::sse;
use crate::state::SharedState;
use actix_web::{HttpRequest, HttpResponse, post, web};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use botstead_types::{BotId, InvalidValue, VersionNumber};
use botstead_workspace::{ExecOutcome, ExecRequest, OutputGap, TerminalSize};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::str::Utf8Error;
use std::time::Duration;
use utoipa::ToSchema;
use utoipa_actix_web::service_config::ServiceConfig;

pub(super) fn configure(config: &mut ServiceConfig<'_>) {
    config
        .service(run_command)
        .service(detached::list)
        .service(detached::get_exec)
        .service(detached::stdin)
        .service(detached::signal)
        .service(detached::delete);
}

/// A command to run.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Exec {
    /// The program and its arguments, or a line for `/bin/sh`.
    command: Command,
    /// The working directory; `/data` when absent.
    #[serde(default)]
    cwd: Option<String>,
    /// Variables beside the image's.
    #[serde(default)]
    env: Option<BTreeMap<String, String>>,
    /// Who runs it, such as `user`, `uid` or `uid:gid`; the image's user when absent, whose HOME is `/data`.
    /// Another one's is their own, as `/etc/passwd` has it, unless `env` says otherwise.
    #[serde(default)]
    user: Option<String>,
    /// What it reads, as text. Its input ends after that, also where nothing is given.
    #[serde(default)]
    stdin: Option<String>,
    /// Keep its input open after that, for `POST /exec/{exec_id}/stdin`.
    #[serde(default)]
    stdin_open: bool,
    /// Run it in a pseudo-terminal: `stdout` is then all that the terminal shows, with its own ends of lines and
    /// the input that it echoes, and `stderr` is empty. The end of its input is the terminal's character for
    /// that, and it is ended by hanging up.
    #[serde(default)]
    tty: bool,
    /// The terminal's columns, only with `tty`; 80 when absent.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 1000)]
    cols: Option<u32>,
    /// The terminal's rows, only with `tty`; 24 when absent.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 500)]
    rows: Option<u32>,
    /// After this many seconds it is ended with its children, by SIGTERM, or SIGHUP with `tty`, and 3 s later
    /// by SIGKILL; no limit when absent.
    #[serde(default)]
    #[schema(exclusive_minimum = 0)]
    timeout_seconds: Option<f64>,
    /// How `stdout` and `stderr` are given.
    #[serde(default)]
    encoding: Encoding,
    /// Make a version first.
    #[serde(default)]
    snapshot_before: bool,
    /// Answer 202 at once and let it go on without a client, also while the server restarts.
    #[serde(default)]
    detach: bool,
}

/// What to run.
#[derive(Deserialize, ToSchema)]
#[serde(untagged, expecting = "a list of strings or a shell line")]
pub(super) enum Command {
    /// The program and its arguments.
    Words(Vec<String>),
    /// A line for `/bin/sh -c`.
    Line(String),
}

impl Command {
    /// As a program and its arguments; empty for an empty line.
    pub(super) fn words(self) -> Vec<String> {
        match self {
            Self::Words(words) => words,
            Self::Line(line) if line.trim().is_empty() => Vec::new(),
            Self::Line(line) => vec!["/bin/sh".to_owned(), "-c".to_owned(), line],
        }
    }
}

/// How output is given.
#[derive(Debug, Clone, Copy, Default, Deserialize, ToSchema)]
enum Encoding {
    /// As text; what is not UTF-8 is replaced by U+FFFD.
    #[default]
    #[serde(rename = "utf-8")]
    Utf8,
    /// As base64 of the bytes.
    #[serde(rename = "base64")]
    Base64,
}

impl Encoding {
    fn encode(self, bytes: &[u8]) -> String {
        match self {
            Self::Utf8 => String::from_utf8_lossy(bytes).into_owned(),
            Self::Base64 => STANDARD.encode(bytes),
        }
    }

    /// The same with a gap: where that is in what is given, and how much it leaves out. Characters that it
    /// cuts are left out whole.
    fn encode_around(self, bytes: &[u8], gap: Option<OutputGap>) -> (String, Option<OutputGap>) {
        let (Self::Utf8, Some(gap)) = (self, gap) else {
            return (self.encode(bytes), gap);
        };
        let (before, after) = bytes.split_at(gap.at.min(bytes.len()));
        let cut = before.utf8_chunks().last().map_or(0, |last| {
            let invalid = last.invalid();
            let is_cut = |error: Utf8Error| error.error_len().is_none();
            match str::from_utf8(invalid).is_err_and(is_cut) {
                true => invalid.len(),
                false => 0,
            }
        });
        let rest = after
            .iter()
            .take(3)
            .take_while(|byte| **byte & 0xc0 == 0x80);
        let rest = rest.count();
        let mut text = self.encode(&before[..before.len() - cut]);
        let at = text.len();
        text.push_str(&String::from_utf8_lossy(&after[rest..]));
        let bytes = gap.bytes.saturating_add((cut + rest) as u64);
        (text, Some(OutputGap { at, bytes }))
    }

    /// The most memory that output takes until it is sent: as it comes, as text and in the reply, where a
    /// control character takes six bytes and what is not UTF-8 three.
    fn most(self, data: &[u8]) -> usize {
        let encoded = |byte: &u8| match (self, byte) {
            (Self::Base64, _) => 4,
            (Self::Utf8, b'\t' | b'\n' | b'\r' | b'"' | b'\\') => 4,
            (Self::Utf8, 0..b' ') => 8,
            (Self::Utf8, b' '..=0x7f) => 3,
            // Part of a character, or what is put in its place.
            (Self::Utf8, _) => 7,
        };
        data.iter().map(encoded).sum()
    }
}

impl TryFrom<Exec> for ExecRequest {
    type Error = InvalidValue;

    fn try_from(body: Exec) -> Result<Self, InvalidValue> {
        let command = body.command.words();
        if command.first().is_none_or(|program| program.is_empty()) {
            return Err(InvalidValue::new("command", "", "it names no program"));
        }
        let timeout = body.timeout_seconds.map(|seconds| {
            Duration::try_from_secs_f64(seconds)
                .ok()
                .filter(|timeout| !timeout.is_zero())
                .ok_or_else(|| {
                    let given = format!("{seconds:e}");
                    let reason = match seconds > 1.0 {
                        true => "it is too large; leave it out for no limit",
                        false => "more than 0 is expected",
                    };
                    InvalidValue::new("timeout_seconds", &given, reason)
                })
        });
        let terminal = match (body.tty, body.cols, body.rows) {
            (false, None, None) => None,
            (false, Some(size), _) => return Err(only_with_tty("cols", size)),
            (false, None, Some(size)) => return Err(only_with_tty("rows", size)),
            (true, cols, rows) => {
                let cols = cols.unwrap_or(TerminalSize::DEFAULT.columns());
                let rows = rows.unwrap_or(TerminalSize::DEFAULT.rows());
                Some(TerminalSize::new(cols, rows)?)
            }
        };
        Ok(Self {
            command,
            terminal,
            cwd: body.cwd.filter(|cwd| !cwd.is_empty()),
            env: body.env.unwrap_or_default(),
            user: body.user.filter(|user| !user.is_empty()),
            stdin: Bytes::from(body.stdin.unwrap_or_default()),
            stdin_open: body.stdin_open,
            timeout: timeout.transpose()?,
            snapshot_before: body.snapshot_before,
        })
    }
}

fn only_with_tty(field: &'static str, size: u32) -> InvalidValue {
    InvalidValue::new(field, &size.to_string(), "it must only be given with tty")
}

/// What a command did.
#[derive(Serialize, ToSchema)]
struct ExecReply {
    /// The command's id.
    exec_id: String,
    /// The exit code; 128 + the signal's number when one ended it, 127 when the program was not
    /// found, 126 when it could not be executed. Absent while a detached command runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    exit_code: Option<u32>,
    /// What it wrote to its standard output, up to one MiB, or less when memory is short. Of more it has
    /// what came first and what came last; `stdout_omitted_at` says where one ends and the other begins.
    stdout: String,
    /// What it wrote to its standard error, in the same way.
    stderr: String,
    /// Whether output was dropped.
    truncated: bool,
    /// How many bytes of standard output are left out of `stdout`, all in one place; absent for none.
    #[serde(skip_serializing_if = "Option::is_none")]
    stdout_omitted_bytes: Option<u64>,
    /// Where they are left out: after so many bytes of `stdout`, counted in its UTF-8, or decoded from
    /// base64.
    #[serde(skip_serializing_if = "Option::is_none")]
    stdout_omitted_at: Option<u64>,
    /// How many bytes of standard error are left out of `stderr`, all in one place; absent for none.
    #[serde(skip_serializing_if = "Option::is_none")]
    stderr_omitted_bytes: Option<u64>,
    /// Where they are left out: after so many bytes of `stderr`, counted in its UTF-8, or decoded from
    /// base64.
    #[serde(skip_serializing_if = "Option::is_none")]
    stderr_omitted_at: Option<u64>,
    /// `true` when something that it started held its output open after its end, so that more may have been
    /// written than was waited for; absent otherwise.
    #[serde(skip_serializing_if = "crate::shapes::is_false")]
    #[schema(required = false)]
    output_incomplete: bool,
    /// Whether it was ended because its time was over.
    timed_out: bool,
    /// `true` when the kernel killed a process of the workspace for lack of memory while it ran; absent
    /// otherwise, and for detached commands.
    #[serde(skip_serializing_if = "crate::shapes::is_false")]
    #[schema(required = false)]
    oom: bool,
    /// How long it ran, in milliseconds.
    duration_ms: u64,
    /// Whether it runs still: only ever true for a detached command.
    #[serde(skip_serializing_if = "crate::shapes::is_false")]
    #[schema(required = false)]
    running: bool,
    /// The version that was made first, where that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<u32>,
    /// Only of a detached command: given as `offset`, only what comes after this reply is given.
    #[serde(skip_serializing_if = "Option::is_none")]
    next_offset: Option<String>,
}

impl ExecReply {
    fn new(outcome: ExecOutcome, encoding: Encoding) -> Self {
        let exit = outcome.exit.as_ref();
        let (stdout, out_gap) = encoding.encode_around(&outcome.stdout, outcome.stdout_gap);
        let (stderr, err_gap) = encoding.encode_around(&outcome.stderr, outcome.stderr_gap);
        Self {
            exec_id: outcome.exec_id,
            exit_code: exit.map(|exit| exit.code),
            stdout,
            stderr,
            truncated: outcome.truncated,
            stdout_omitted_bytes: out_gap.map(|gap| gap.bytes),
            stdout_omitted_at: out_gap.map(|gap| gap.at as u64),
            stderr_omitted_bytes: err_gap.map(|gap| gap.bytes),
            stderr_omitted_at: err_gap.map(|gap| gap.at as u64),
            output_incomplete: exit.is_some_and(|exit| exit.output_incomplete),
            timed_out: exit.is_some_and(|exit| exit.timed_out),
            oom: exit.is_some_and(|exit| exit.out_of_memory),
            duration_ms: exit.map_or(0, |exit| milliseconds(exit.duration)),
            running: exit.is_none(),
            version: outcome.version.map(VersionNumber::get),
            next_offset: None,
        }
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// A detached command that was started.
#[derive(Serialize, ToSchema)]
struct Detached {
    /// Its id.
    exec_id: String,
}

/// Run a command in a running workspace.
///
/// The reply comes when it ended. With `Accept: text/event-stream` it is a stream of events, one JSON
/// object per `data:` line: `{"type":"started","exec_id"}`, then `{"type":"stdout","data"}` and
/// `{"type":"stderr","data"}` with base64 as they come, then `{"type":"exit","exit_code","timed_out",
/// "truncated","output_incomplete"?,"oom"?,"duration_ms"}` or `{"type":"error",..}`; nothing is dropped: a
/// command that writes faster than the client reads waits. A client that leaves, or a timeout, ends the command with its
/// children: by SIGTERM, and 3 s later by SIGKILL.
///
/// With `detach` the reply is 202 with the id at once, and the command goes on by itself.
#[utoipa::path(
    tag = "exec",
    params(("bot_id" = Uuid, Path, description = "The bot.")),
    request_body = Exec,
    responses(
        (status = 200, body = ExecReply, description = "The command ran, whatever its exit code."),
        (status = 202, body = Detached, description = "It was started; only with `detach`."),
        (status = 404, description = "`bot_not_found`, `workspace_not_found` when it has none, or `path_not_found`: the working directory."),
        (status = 409, description = "`workspace_not_running`."),
        (status = 422, description = "`no_such_user`."),
        (status = 429, description = "`workspace_limit`: the workspace is at its limit of processes; `GET /bots/{bot_id}/container/processes` lists them, `POST` on its `/signal` ends some."),
        (status = 503, description = "`workspace_unreachable` or `workspace_stalled`."),
    ),
)]
#[post("/bots/{bot_id}/container/exec")]
async fn run_command(
    caller: Caller,
    id: IdOf<BotId>,
    request_id: RequestId,
    request: HttpRequest,
    body: Body<Exec>,
    state: web::Data<SharedState>,
) -> Result<HttpResponse, Problem> {
    let (encoding, detach) = (body.0.encoding, body.0.detach);
    let command = ExecRequest::try_from(body.0)?;
    let workspaces = &state.services.workspaces;
    if detach {
        let exec_id = workspaces
            .exec_detached(&caller.actor, id.0, command)
            .await?;
        return Ok(HttpResponse::Accepted().json(Detached { exec_id }));
    }
    if wants_events(&request) {
        let events = workspaces.exec_stream(&caller.actor, id.0, command).await?;
        return Ok(sse::reply(
            &state,
            &caller,
            request_id,
            events::steps(events),
        ));
    }
    // What it did cannot be refused any more.
    let mut room = state.memory.room(Some(caller.user));
    room.reserve_any().await?;
    let growing = room.growing(|data| encoding.most(data));
    let outcome = workspaces
        .exec_within(&caller.actor, id.0, command, growing)
        .await?;
    Ok(room.held_by(HttpResponse::Ok().json(ExecReply::new(outcome, encoding))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn request(body: Value) -> Result<ExecRequest, String> {
        let exec: Exec = serde_json::from_value(body).map_err(|error| error.to_string())?;
        ExecRequest::try_from(exec).map_err(|error| error.to_string())
    }

    #[test]
    fn a_command_is_words_or_a_shell_line() {
        for (command, expected) in [
            (json!(["ls", "-l"]), vec!["ls", "-l"]),
            (json!("echo $HOME"), vec!["/bin/sh", "-c", "echo $HOME"]),
        ] {
            let taken = request(json!({"command": command})).unwrap();
            assert_eq!(taken.command, expected);
            request(json!({"command": command, "some_other_field": 1})).unwrap_err();
        }
        for bad in [json!([]), json!([""]), json!(" "), json!(7), json!([1])] {
            assert!(request(json!({"command": bad})).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_timeout_is_more_than_nothing() {
        let timeout = |seconds| request(json!({"command": "x", "timeout_seconds": seconds}));
        assert_eq!(
            timeout(json!(1.5)).unwrap().timeout,
            Some(Duration::from_millis(1500))
        );
        for bad in [json!(0), json!(-1), json!(1e300), json!("1")] {
            assert!(timeout(bad.clone()).is_err(), "{bad}");
        }
        let large = timeout(json!(1e300)).err().unwrap();
        assert!(
            large.contains("1e300") && large.contains("too large"),
            "{large}"
        );
    }

    #[test]
    fn a_terminal_has_a_size() {
        let size = |body: Value| {
            let mut all = json!({"command": "x"});
            all.as_object_mut()
                .unwrap()
                .extend(body.as_object().unwrap().clone());
            let terminal = request(all)?.terminal;
            Ok::<_, String>(terminal.map(|size| (size.columns(), size.rows())))
        };
        assert_eq!(size(json!({})), Ok(None));
        assert_eq!(size(json!({"tty": false})), Ok(None));
        assert_eq!(size(json!({"tty": true})), Ok(Some((80, 24))));
        assert_eq!(size(json!({"tty": true, "cols": 100})), Ok(Some((100, 24))));
        assert_eq!(size(json!({"tty": true, "rows": 5})), Ok(Some((80, 5))));
        let refused = size(json!({"cols": 100})).unwrap_err();
        assert!(
            refused.contains("cols") && refused.contains("with tty"),
            "{refused}"
        );
        for bad in [
            json!({"rows": 5}),
            json!({"tty": true, "cols": 0}),
            json!({"tty": true, "rows": 501}),
        ] {
            assert!(size(bad.clone()).is_err(), "{bad}");
        }
    }

    #[test]
    fn no_output_takes_more_than_is_counted() {
        let every: Vec<u8> = (0..=u8::MAX).collect();
        let texts = [
            "plain",
            "\u{1}\u{1f}\n\"\\\u{7f}",
            "\u{e4}\u{4e16}\u{1f600}",
        ];
        let wrong = [&b"a\xffb"[..], b"\xe4\xb8", b"\xf0\x9f\x98", &every];
        for data in texts.map(str::as_bytes).into_iter().chain(wrong) {
            for encoding in [Encoding::Utf8, Encoding::Base64] {
                // Quotes and padding are once in a reply, and not in each piece of an output.
                let data = data.repeat(30);
                let text = encoding.encode(&data);
                let json = serde_json::to_string(&text).unwrap();
                let taken = data.len() + text.len() + json.len() - 2;
                let most = encoding.most(&data);
                assert!(
                    taken <= most && most <= 3 * taken,
                    "{taken} {most} {data:?}"
                );
            }
        }
    }

    #[test]
    fn a_gap_cuts_no_character_and_is_where_it_is_said_to_be() {
        let around = |encoding: Encoding, before: &[u8], after: &[u8]| {
            let gap = OutputGap {
                at: before.len(),
                bytes: 100,
            };
            let (text, gap) = encoding.encode_around(&[before, after].concat(), Some(gap));
            let gap = gap.unwrap();
            (text, gap.at, gap.bytes)
        };
        let utf8 = |before: &[u8], after: &[u8]| around(Encoding::Utf8, before, after);
        let text = |text: &str| text.to_owned();
        assert_eq!(utf8(b"one", b"two"), (text("onetwo"), 3, 100));
        assert_eq!(utf8(b"", b"two"), (text("two"), 0, 100));
        assert_eq!(utf8("\u{e4}".as_bytes(), b"x"), (text("\u{e4}x"), 2, 100));
        assert_eq!(utf8(b"a\xf0\x9f\x98", b"\x80b"), (text("ab"), 1, 104));
        assert_eq!(utf8(b"a\xe4", b"\xb8\x96b"), (text("ab"), 1, 103));
        // What is not UTF-8 is replaced, and the place is that in what is given.
        assert_eq!(
            utf8(b"\xffa\xff", b"b"),
            (text("\u{fffd}a\u{fffd}b"), 7, 100)
        );
        let base64 = around(Encoding::Base64, b"a\xe4", b"\xb8");
        assert_eq!(base64, (STANDARD.encode(b"a\xe4\xb8"), 2, 100));
    }

    #[test]
    fn output_that_is_no_text_survives_as_base64() {
        assert_eq!(Encoding::Utf8.encode(b"a\xffb"), "a\u{fffd}b");
        assert_eq!(Encoding::Base64.encode(b"a\xffb"), "Yf9i");
    }
}
