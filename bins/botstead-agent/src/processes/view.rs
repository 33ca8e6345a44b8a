//! A viewer of a kept process: gets what is held and what comes, at its own pace.

use super::input::{self, Target};
use super::kept::{Step, Watch};
use super::plain::{data_of, message};
use super::replay::{Next, Stream};
use super::{AbortOnDrop, Reply, started};
use botstead_bridge::CHUNK_BYTES;
use botstead_bridge::proto::RunInput;
use botstead_bridge::proto::run_output::Output;
use std::pin::pin;
use std::sync::Arc;
use tokio::sync::mpsc;
use tonic::Streaming;

/// The viewer left.
struct Left;

/// Sends everything until the end or until the viewer leaves, and passes on what it sends.
pub(super) async fn view(watch: Watch, viewer: mpsc::Sender<Reply>, input: Streaming<RunInput>) {
    let target = Target::Kept(Arc::clone(watch.kept()), watch.number());
    let input = AbortOnDrop(tokio::spawn(input::pass_on(input, target)));
    // Leaving is no failure.
    let _ = send_all(watch, &viewer).await;
    drop(input);
}

async fn send_all(mut watch: Watch, viewer: &mpsc::Sender<Reply>) -> Result<(), Left> {
    let kept = Arc::clone(watch.kept());
    let send = async |output| viewer.send(Ok(output)).await.map_err(|_| Left);
    send(started(kept.id().to_owned(), kept.pid())).await?;
    let mut truncated = false;
    loop {
        let mut changed = pin!(kept.changed());
        changed.as_mut().enable();
        match watch.step(CHUNK_BYTES) {
            Step::Output(Next {
                skipped,
                stream,
                data,
            }) => {
                if skipped > 0 {
                    truncated = true;
                    let skipped = match stream {
                        Stream::Out => Output::Skipped(skipped),
                        Stream::Err => Output::SkippedStderr(skipped),
                    };
                    send(message(skipped)).await?;
                }
                if !data.is_empty() {
                    send(data_of(stream, data)).await?;
                }
                watch.took();
            }
            Step::Screen { skipped, screen } => {
                if skipped > 0 {
                    truncated = true;
                    send(message(Output::Skipped(skipped))).await?;
                }
                let mut rest = screen;
                while !rest.is_empty() {
                    let part = rest.split_to(rest.len().min(CHUNK_BYTES));
                    send(data_of(Stream::Out, part)).await?;
                }
                watch.took();
            }
            Step::Resized(size) => send(message(Output::Resized(size.into()))).await?,
            Step::Refused(bytes) => send(message(Output::Refused(bytes))).await?,
            Step::Done(exit) => {
                if let Some(mut exit) = exit {
                    exit.truncated |= truncated;
                    send(message(Output::Exit(exit))).await?;
                    watch.saw_end();
                }
                return Ok(());
            }
            Step::Wait => tokio::select! {
                () = changed => {}
                () = viewer.closed() => return Err(Left),
            },
        }
    }
}
