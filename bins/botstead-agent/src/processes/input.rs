//! What a caller sends while its process runs: input in its order, and beside it sizes and signals,
//! also those that are typed, which do not wait for a program that reads nothing.

use super::control::{Control, Typed};
use super::kept::Kept;
use super::pty::Size;
use botstead_bridge::proto::RunInput;
use botstead_bridge::proto::run_input::Input;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use std::collections::VecDeque;
use std::sync::Arc;
use tonic::Streaming;

/// Input that waits for the program. While there is so much, the caller has to wait too, with the sizes
/// and signals that it sends then; other callers need not. By bytes, as typing into a program that
/// reads nothing should not fill the connection with small messages.
const WAITING_BYTES: usize = 1 << 20;
/// What a message costs beside its bytes.
const MESSAGE_BYTES: usize = 64;

/// Whose input it is.
#[derive(Debug, Clone)]
pub(super) enum Target {
    Plain(Arc<Control>),
    /// With the viewer that sends it.
    Kept(Arc<Kept>, u64),
}

impl Target {
    /// The program takes it; what one that reads no more does not take is dropped.
    async fn take(self, part: Part) {
        let _ = match (self, part) {
            (Self::Plain(control), Part::Data(typed)) => control.write(&typed).await,
            (Self::Kept(kept, _), Part::Data(typed)) => kept.write(&typed).await,
            (Self::Plain(control), Part::End) => {
                control.close_input().await;
                Ok(())
            }
            (Self::Kept(kept, _), Part::End) => {
                if let Ok(control) = kept.control() {
                    control.close_input().await;
                }
                Ok(())
            }
        };
    }

    /// Takes input in; nothing when the process ended.
    fn typed(&self, data: Bytes, waits: bool) -> Option<Part> {
        let typed = match self {
            Self::Plain(control) => control.typed(data, waits),
            Self::Kept(kept, _) => kept.control().ok()?.typed(data, waits),
        };
        Some(Part::Data(typed))
    }

    fn resize(&self, size: Size) {
        match self {
            Self::Plain(control) => control.resize(size),
            Self::Kept(kept, viewer) => kept.resize(*viewer, size),
        }
    }

    fn signal(&self, number: i32) {
        // No answer goes with the stream; who needs one calls `Signal`.
        let _ = match self {
            Self::Plain(control) => control.signal(number),
            Self::Kept(kept, _) => kept.control().and_then(|control| control.signal(number)),
        };
    }
}

#[derive(Debug)]
enum Part {
    Data(Typed),
    End,
}

impl Part {
    fn cost(&self) -> usize {
        MESSAGE_BYTES
            + match self {
                Self::Data(typed) => typed.data.len(),
                Self::End => 0,
            }
    }
}

/// Passes on what the caller sends, until it sends no more.
pub(super) async fn pass_on(mut input: Streaming<RunInput>, target: Target) {
    let mut waiting = VecDeque::new();
    let mut bytes = 0;
    let mut taking: Option<BoxFuture<'static, ()>> = None;
    let mut open = true;
    loop {
        if taking.is_none() {
            taking = waiting
                .pop_front()
                .inspect(|part: &Part| bytes -= part.cost())
                .map(|part| Box::pin(target.clone().take(part)) as BoxFuture<'static, ()>);
        }
        if taking.is_none() && !open {
            return;
        }
        let is_taking = taking.is_some();
        let taken = async {
            match &mut taking {
                Some(taking) => taking.await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            message = input.message(), if open && bytes < WAITING_BYTES => {
                let part = match message.ok().flatten().map(|message| message.input) {
                    Some(Some(Input::Stdin(data))) => {
                        match target.typed(data, is_taking || !waiting.is_empty()) {
                            Some(part) => part,
                            None => continue,
                        }
                    }
                    Some(Some(Input::CloseStdin(true))) => Part::End,
                    Some(Some(Input::Resize(size))) => {
                        target.resize(size.into());
                        continue;
                    }
                    Some(Some(Input::Signal(number))) => {
                        target.signal(number);
                        continue;
                    }
                    // A second beginning, or nothing that this agent knows.
                    Some(_) => continue,
                    None => {
                        open = false;
                        continue;
                    }
                };
                bytes += part.cost();
                waiting.push_back(part);
            }
            () = taken => taking = None,
        }
    }
}
