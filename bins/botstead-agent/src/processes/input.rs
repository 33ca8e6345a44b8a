//! What a caller sends while its process runs: input in its order, and beside it sizes and signals,
//! which do not wait for a program that reads nothing.

use super::control::Control;
use super::kept::Kept;
use super::pty::Size;
use botstead_bridge::proto::RunInput;
use botstead_bridge::proto::run_input::Input;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use std::collections::VecDeque;
use std::sync::Arc;
use tonic::Streaming;

/// Messages of input that wait for the program. While so many do, the caller has to wait too.
const WAITING: usize = 4;

/// Whose input it is.
#[derive(Debug, Clone)]
pub(super) enum Target {
    Plain(Arc<Control>),
    Kept(Arc<Kept>),
}

impl Target {
    /// The program takes it; what one that reads no more does not take is dropped.
    async fn take(self, part: Part) {
        let _ = match (self, part) {
            (Self::Plain(control), Part::Data(data)) => control.write(&data).await,
            (Self::Kept(kept), Part::Data(data)) => kept.write(&data).await,
            (Self::Plain(control), Part::End) => {
                control.close_input().await;
                Ok(())
            }
            (Self::Kept(kept), Part::End) => {
                if let Ok(control) = kept.control() {
                    control.close_input().await;
                }
                Ok(())
            }
        };
    }

    fn resize(&self, size: Size) {
        match self {
            Self::Plain(control) => control.resize(size),
            Self::Kept(kept) => kept.resize(size),
        }
    }

    fn signal(&self, number: i32) {
        // No answer goes with the stream; who needs one calls `Signal`.
        let _ = match self {
            Self::Plain(control) => control.signal(number),
            Self::Kept(kept) => kept.control().and_then(|control| control.signal(number)),
        };
    }
}

#[derive(Debug)]
enum Part {
    Data(Bytes),
    End,
}

/// Passes on what the caller sends, until it sends no more.
pub(super) async fn pass_on(mut input: Streaming<RunInput>, target: Target) {
    let mut waiting = VecDeque::new();
    let mut taking: Option<BoxFuture<'static, ()>> = None;
    let mut open = true;
    loop {
        if taking.is_none() {
            taking = waiting
                .pop_front()
                .map(|part| Box::pin(target.clone().take(part)) as BoxFuture<'static, ()>);
        }
        if taking.is_none() && !open {
            return;
        }
        let taken = async {
            match &mut taking {
                Some(taking) => taking.await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            message = input.message(), if open && waiting.len() < WAITING => {
                match message.ok().flatten().map(|message| message.input) {
                    Some(Some(Input::Stdin(data))) => waiting.push_back(Part::Data(data)),
                    Some(Some(Input::CloseStdin(true))) => waiting.push_back(Part::End),
                    Some(Some(Input::Resize(size))) => target.resize(size.into()),
                    Some(Some(Input::Signal(number))) => target.signal(number),
                    // A second beginning, or nothing that this agent knows.
                    Some(_) => {}
                    None => open = false,
                }
            }
            () = taken => taking = None,
        }
    }
}
