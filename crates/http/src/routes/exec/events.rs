//! What a command reports while it runs, as events.

use super::milliseconds;
use crate::paths::to_base64;
use crate::sse::Step;
use botstead_types::InvalidValue;
use botstead_workspace::{CommandEvent, OutputPosition, OutputStream};
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use serde::Serialize;
use std::fmt;
use std::str::FromStr;

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
    InputRefused {
        bytes: u64,
    },
    Exit {
        exit_code: u32,
        timed_out: bool,
        truncated: bool,
        #[serde(skip_serializing_if = "crate::shapes::is_false")]
        output_incomplete: bool,
        #[serde(skip_serializing_if = "crate::shapes::is_false")]
        oom: bool,
        duration_ms: u64,
        #[serde(skip_serializing_if = "Option::is_none")]
        message: Option<String>,
    },
}

type Events = BoxStream<'static, botstead_workspace::Result<CommandEvent>>;

pub(super) fn steps(events: Events) -> BoxStream<'static, Step<Event>> {
    events.map(step).boxed()
}

/// Where a client is that follows a detached command: the id of the last event that it has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) output: OutputPosition,
    /// It knows how the command ended.
    pub(super) ended: bool,
}

const ENDED: &str = "-end";

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ended = if self.ended { ENDED } else { "" };
        write!(f, "{}{ended}", self.output)
    }
}

impl FromStr for Place {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let place = text.strip_suffix(ENDED);
        Ok(Self {
            output: place.unwrap_or(text).parse()?,
            ended: place.is_some(),
        })
    }
}

/// The events behind a place, each with the id of the place behind it.
pub(super) fn steps_from(
    events: Events,
    mut at: Place,
    resumed: bool,
) -> BoxStream<'static, Step<Event>> {
    events
        .filter_map(move |event| {
            if let Ok(event) = &event {
                at.output.pass(event);
                at.ended = matches!(event, CommandEvent::Exit(_));
            }
            // A client that goes on knows that it was started.
            let known = resumed && matches!(event, Ok(CommandEvent::Started { .. }));
            let step = (!known).then(|| match step(event) {
                Step::Event(event) => Step::EventAt(at.to_string(), event),
                Step::Last(event) => Step::LastAt(at.to_string(), event),
                step => step,
            });
            std::future::ready(step)
        })
        .boxed()
}

fn step(event: botstead_workspace::Result<CommandEvent>) -> Step<Event> {
    match event {
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
        Ok(CommandEvent::InputRefused { bytes }) => Step::Event(Event::InputRefused { bytes }),
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
    }
}
