//! Carries a process's output to whoever wants it, until the process ends, its time is over, or
//! nobody wants it any more.

use super::control::{Control, Output};
use super::replay::Stream;
use super::stream::{self, READ_BYTES, Read};
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

/// How long to wait for what is still coming after the program ended. A child of it that goes on in
/// the background may hold its pipes open for ever.
const GRACE: Duration = Duration::from_millis(100);
/// More than what a pipe or terminal can hold when the program ends: after that much, what still
/// comes is a background child's.
const AFTER_END: usize = 1 << 20;

/// Where the output goes.
pub(super) trait Sink: Sync {
    /// Resolves when more is wanted. Until then nothing is read, so the program waits.
    fn room(&self) -> impl Future<Output = ()> + Send;
    /// Takes output; called after [`Sink::room`].
    fn put(&self, stream: Stream, data: &[u8]);
    /// The most that it takes at once.
    fn most(&self) -> usize;
    /// Resolves when nobody wants the process any more.
    fn gone(&self) -> impl Future<Output = ()> + Send;
}

/// How it came to its end.
#[derive(Debug, Clone, Copy)]
pub(super) struct Outcome {
    pub(super) code: u32,
    pub(super) timed_out: bool,
    /// An output was open still when what came after the end was not waited for any more.
    pub(super) incomplete: bool,
}

/// Carries output until the end. `None`: nobody wanted the process any more, and it was killed.
pub(super) async fn pump(
    control: &Arc<Control>,
    output: Output,
    sink: &impl Sink,
    deadline: Option<Instant>,
) -> Option<Outcome> {
    let Output {
        mut ends,
        mut ended,
        mut slave,
    } = output;
    let mut code = None;
    let mut timed_out = false;
    let mut grace_ends = None;
    let mut after_end = 0;
    while code.is_none() || !ends.is_empty() {
        let next = async {
            sink.room().await;
            readable(&ends).await
        };
        let index = tokio::select! {
            biased;
            () = sink.gone() => {
                drain(&mut ends, control.end_tree()).await;
                return None;
            }
            result = &mut ended, if code.is_none() => {
                // The sender never goes away silently.
                code = Some(result.unwrap_or(128 + 9));
                grace_ends = Some(Instant::now() + GRACE);
                slave.take();
                continue;
            }
            () = at(deadline), if !timed_out && code.is_none() => {
                timed_out = true;
                let control = Arc::clone(control);
                tokio::spawn(async move { control.end_tree().await });
                continue;
            }
            () = at(grace_ends) => break,
            index = next, if !ends.is_empty() => index,
        };
        let (stream, end) = &ends[index];
        match stream::read(end, sink.most(), |data| sink.put(*stream, data)) {
            Read::Data(count) if code.is_some() => after_end += count,
            Read::Data(_) | Read::Nothing => {}
            Read::End => {
                ends.swap_remove(index);
            }
        }
        // One busy program must not keep the others waiting.
        tokio::task::yield_now().await;
    }
    // The grace is over. What lies there now still belongs to the program: it waited for room.
    let mut incomplete = false;
    while after_end < AFTER_END && !ends.is_empty() {
        tokio::select! {
            () = sink.gone() => break,
            () = sink.room() => {}
        }
        let (stream, end) = &ends[0];
        match stream::read(end, sink.most(), |data| sink.put(*stream, data)) {
            Read::Data(count) => after_end += count,
            read @ (Read::Nothing | Read::End) => {
                incomplete |= read == Read::Nothing;
                ends.swap_remove(0);
            }
        }
        tokio::task::yield_now().await;
    }
    incomplete |= !ends.is_empty();
    code.map(|code| Outcome {
        code,
        timed_out,
        incomplete,
    })
}

/// Drops what still comes while the process is being ended: one that waits for room could not put its
/// things in order.
async fn drain(ends: &mut Vec<(Stream, stream::End)>, ended: impl Future<Output = ()>) {
    let mut ended = pin!(ended);
    loop {
        let index = tokio::select! {
            () = &mut ended => return,
            index = readable(ends) => index,
        };
        if stream::read(&ends[index].1, READ_BYTES, |_| {}) == Read::End {
            ends.swap_remove(index);
        }
        tokio::task::yield_now().await;
    }
}

/// The index of one that may have something to read.
async fn readable(ends: &[(Stream, stream::End)]) -> usize {
    match ends {
        [(_, first), (_, second)] => tokio::select! {
            () = stream::readable(first) => 0,
            () = stream::readable(second) => 1,
        },
        [(_, only), ..] => {
            stream::readable(only).await;
            0
        }
        [] => std::future::pending().await,
    }
}

async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}
