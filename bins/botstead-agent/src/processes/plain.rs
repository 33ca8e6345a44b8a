//! A process that lives as long as its call: every byte goes to the caller, no faster than it takes
//! them, and when the caller leaves, the process is killed with its tree.

use super::Reply;
use super::control::{Control, Output};
use super::pump::{Outcome, Sink, pump};
use super::replay::Stream;
use super::stream::READ_BYTES;
use botstead_bridge::proto::RunOutput;
use botstead_bridge::proto::run_output::{self, Exit};
use bytes::Bytes;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// The one caller.
struct Caller(mpsc::Sender<Reply>);

impl Sink for Caller {
    async fn room(&self) {
        // The agent alone sends here, so room that is there stays there. No room that ever comes is
        // what `gone` is for.
        if self.0.reserve().await.is_err() {
            std::future::pending().await
        }
    }

    fn put(&self, stream: Stream, data: &[u8]) {
        // Called when there is room; a caller that left needs nothing.
        let _ = self
            .0
            .try_send(Ok(data_of(stream, Bytes::copy_from_slice(data))));
    }

    fn most(&self) -> usize {
        READ_BYTES
    }

    async fn gone(&self) {
        self.0.closed().await;
    }
}

/// Output as a message.
pub(super) fn data_of(stream: Stream, data: Bytes) -> RunOutput {
    message(match stream {
        Stream::Out => run_output::Output::Stdout(data),
        Stream::Err => run_output::Output::Stderr(data),
    })
}

/// A message of a part.
pub(super) fn message(output: run_output::Output) -> RunOutput {
    RunOutput {
        output: Some(output),
    }
}

/// How a process ended, as a message.
pub(super) fn exit(outcome: Outcome, began: Instant) -> Exit {
    Exit {
        code: outcome.code,
        timed_out: outcome.timed_out,
        truncated: false,
        duration_ms: u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
        message: String::new(),
        output_incomplete: outcome.incomplete,
    }
}

/// Follows a process to its end.
pub(super) async fn follow(
    control: Arc<Control>,
    output: Output,
    caller: mpsc::Sender<Reply>,
    timeout: Option<Duration>,
) {
    let began = Instant::now();
    let deadline = timeout.and_then(|timeout| began.checked_add(timeout));
    let caller = Caller(caller);
    let outcome = pump(&control, output, &caller, deadline).await;
    control.end().await;
    if let Some(outcome) = outcome {
        let exit = exit(outcome, began);
        // The caller may leave now.
        let _ = caller
            .0
            .send(Ok(message(run_output::Output::Exit(exit))))
            .await;
    }
}
