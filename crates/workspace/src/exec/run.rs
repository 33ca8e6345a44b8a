//! A call of the agent's `Run`: what goes to a process and what comes from it.

use super::model::{CommandEvent, ExecExit, OutputStream};
use crate::agent::{DEADLINE, answered, failed};
use crate::files::chunks;
use crate::terminal::TerminalSize;
use crate::{Error, Result};
use botstead_bridge::{AgentClient, proto};
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use proto::run_input::Input;
use proto::run_output::Output;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Streaming};

/// Inputs under way beside what the stream's window holds.
const QUEUE: usize = 4;

/// The way to a process's input. Dropping it ends nothing.
#[derive(Debug, Clone)]
pub(crate) struct RunInput {
    sender: mpsc::Sender<proto::RunInput>,
}

impl RunInput {
    /// Passes one message on; false when the process ended.
    pub(crate) async fn send(&self, input: Input) -> bool {
        let message = proto::RunInput { input: Some(input) };
        self.sender.send(message).await.is_ok()
    }

    /// Writes to the process's input; false when it ended.
    pub(crate) async fn write(&self, data: Bytes) -> bool {
        for chunk in chunks(data) {
            if !self.send(Input::Stdin(chunk)).await {
                return false;
            }
        }
        true
    }
}

/// Begins a call with its first message.
pub(crate) async fn run(
    client: &AgentClient,
    first: Input,
) -> Result<(RunInput, Streaming<proto::RunOutput>)> {
    let (sender, receiver) = mpsc::channel(QUEUE);
    let input = RunInput { sender };
    input.send(first).await;
    let request = Request::new(ReceiverStream::new(receiver));
    let outputs = answered(client.processes().run(request)).await?;
    Ok((input, outputs))
}

/// The first thing that comes from a process, which tells whether there is one.
pub(crate) async fn first_output(
    outputs: &mut Streaming<proto::RunOutput>,
) -> Result<Option<proto::RunOutput>> {
    match tokio::time::timeout(DEADLINE, outputs.message()).await {
        Ok(first) => first.map_err(failed),
        Err(_) => Err(Error::Stalled(DEADLINE)),
    }
}

/// What comes from the process. `keep` lives as long as the stream: where it is the way to the
/// input, the call goes on without more input.
pub(crate) fn events<K: Send + 'static>(
    outputs: Streaming<proto::RunOutput>,
    keep: K,
) -> BoxStream<'static, Result<CommandEvent>> {
    outputs
        .filter_map(move |output| {
            let _ = &keep;
            let event = match output {
                Ok(output) => output.output.and_then(event).map(Ok),
                Err(status) => Some(Err(failed(status))),
            };
            std::future::ready(event)
        })
        .boxed()
}

/// An id that is none is nobody's.
fn event(output: Output) -> Option<CommandEvent> {
    Some(match output {
        Output::Started(started) if !super::is_id(&started.id) => return None,
        Output::Started(started) => CommandEvent::Started {
            exec_id: started.id,
        },
        Output::Stdout(data) => CommandEvent::Stdout(data),
        Output::Stderr(data) => CommandEvent::Stderr(data),
        Output::Skipped(bytes) => CommandEvent::Skipped {
            stream: OutputStream::Stdout,
            bytes,
        },
        Output::SkippedStderr(bytes) => CommandEvent::Skipped {
            stream: OutputStream::Stderr,
            bytes,
        },
        // A size that none is, is no news.
        Output::Resized(size) => {
            CommandEvent::Resized(TerminalSize::new(size.columns, size.rows).ok()?)
        }
        Output::Refused(bytes) => CommandEvent::InputRefused { bytes },
        Output::Exit(exit) => CommandEvent::Exit(exit.into()),
    })
}

impl From<proto::run_output::Exit> for ExecExit {
    fn from(exit: proto::run_output::Exit) -> Self {
        let mut message = exit.message;
        message.retain(|c| !c.is_control());
        let end = message.floor_char_boundary(500);
        message.truncate(end);
        Self {
            code: exit.code,
            timed_out: exit.timed_out,
            truncated: exit.truncated,
            output_incomplete: exit.output_incomplete,
            duration: std::time::Duration::from_millis(exit.duration_ms),
            out_of_memory: false,
            message: (!message.is_empty()).then_some(message),
        }
    }
}
