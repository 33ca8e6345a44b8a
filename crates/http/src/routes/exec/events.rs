//! What a command reports while it runs, as events.

use super::milliseconds;
use crate::paths::to_base64;
use crate::sse::Step;
use botstead_workspace::{CommandEvent, OutputStream};
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use serde::Serialize;

/// An event of a command, besides `error`.
#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum Event {
    Started {
        exec_id: String,
    },
    Stdout {
        data: String,
    },
    Stderr {
        data: String,
    },
    Skipped {
        stream: &'static str,
        bytes: u64,
    },
    Resized {
        cols: u32,
        rows: u32,
    },
    Exit {
        exit_code: u32,
        timed_out: bool,
        truncated: bool,
        #[serde(skip_serializing_if = "super::is_false")]
        output_incomplete: bool,
        #[serde(skip_serializing_if = "super::is_false")]
        oom: bool,
        duration_ms: u64,
        #[serde(skip_serializing_if = "Option::is_none")]
        message: Option<String>,
    },
}

pub(super) fn steps(
    events: BoxStream<'static, botstead_workspace::Result<CommandEvent>>,
) -> BoxStream<'static, Step<Event>> {
    events
        .map(|event| match event {
            Ok(CommandEvent::Started { exec_id }) => Step::Event(Event::Started { exec_id }),
            Ok(CommandEvent::Stdout(data)) => Step::Event(Event::Stdout {
                data: to_base64(&data),
            }),
            Ok(CommandEvent::Stderr(data)) => Step::Event(Event::Stderr {
                data: to_base64(&data),
            }),
            Ok(CommandEvent::Skipped { stream, bytes }) => Step::Event(Event::Skipped {
                stream: match stream {
                    OutputStream::Stdout => "stdout",
                    OutputStream::Stderr => "stderr",
                },
                bytes,
            }),
            Ok(CommandEvent::Resized(size)) => Step::Event(Event::Resized {
                cols: size.columns(),
                rows: size.rows(),
            }),
            Ok(CommandEvent::Exit(exit)) => Step::Last(Event::Exit {
                exit_code: exit.code,
                timed_out: exit.timed_out,
                truncated: exit.truncated,
                output_incomplete: exit.output_incomplete,
                oom: exit.out_of_memory,
                duration_ms: milliseconds(exit.duration),
                message: exit.message,
            }),
            Err(error) => Step::Failed(error.into()),
        })
        .boxed()
}
