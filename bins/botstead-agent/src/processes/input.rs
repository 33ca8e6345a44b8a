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
use std::time::Duration;
use tokio::time::{Instant, sleep_until};
use tonic::Streaming;

/// Input that waits for the program. While there is so much, the caller has to wait too; other callers
/// need not. By bytes, as typing into a program that reads nothing should not fill the connection with
/// small messages.
const WAITING_BYTES: usize = 1 << 20;
/// What a message costs beside its bytes.
const MESSAGE_BYTES: usize = 64;
/// How often to look whether a terminal's program takes what waits, and what it has to take until then.
/// Otherwise its viewer does not wait any more, with the sizes and signals that it sends: its input is
/// refused. Several looks, as a frozen workspace comes back to one that was due long ago.
const LOOK: Duration = Duration::from_millis(500);
const LOOK_BYTES: u64 = 32 << 10;
const LOOKS: u32 = 4;

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

    /// The program's terminal, where the caller looks at it: whoever types there can be told that it reads
    /// nothing. What is sent to a command must not have holes.
    fn looked_at(&self) -> Option<(&Kept, u64)> {
        match self {
            Self::Kept(kept, viewer) if kept.is_terminal() => Some((kept, *viewer)),
            _ => None,
        }
    }

    /// Takes input in; nothing when the process ended.
    fn typed(&self, data: Bytes, waits: bool) -> Option<Typed> {
        Some(match self {
            Self::Plain(control) => control.typed(data, waits),
            Self::Kept(kept, _) => kept.control().ok()?.typed(data, waits),
        })
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

/// What waits for the program.
#[derive(Debug, Default)]
struct Waiting {
    parts: VecDeque<Part>,
    bytes: usize,
    /// The program did not take it in time: what the caller sends is refused until it did, so that there is
    /// one hole and not many.
    refuses: bool,
}

impl Waiting {
    fn push(&mut self, part: Part) {
        self.bytes += part.cost();
        self.parts.push_back(part);
    }

    fn pop(&mut self) -> Option<Part> {
        let part = self.parts.pop_front()?;
        self.bytes -= part.cost();
        Some(part)
    }

    fn is_full(&self) -> bool {
        self.bytes >= WAITING_BYTES
    }

    /// Takes input in, or says how many bytes of it are refused.
    fn take(&mut self, typed: Typed) -> Result<(), u64> {
        let discarded =
            |part: &Part| matches!(part, Part::Data(earlier) if typed.discards(earlier));
        if self.parts.back().is_some_and(discarded) {
            self.parts.retain(|part| !discarded(part));
            self.bytes = self.parts.iter().map(Part::cost).sum();
        }
        self.refuses &= !self.parts.is_empty();
        if self.refuses {
            return Err(typed.data.len() as u64);
        }
        self.push(Part::Data(typed));
        Ok(())
    }

    /// Takes its end in. One behind another would say nothing new.
    fn end(&mut self) {
        if !matches!(self.parts.back(), Some(Part::End)) {
            self.push(Part::End);
        }
    }
}

/// Looks whether a terminal's program takes what waits for it.
#[derive(Debug)]
struct Looks {
    next: Instant,
    /// What it had taken at the last one.
    taken: u64,
    /// How often it had taken too little, one after another.
    slow: u32,
}

impl Looks {
    fn begin(kept: &Kept) -> Self {
        Self {
            next: Instant::now() + LOOK,
            taken: taken(kept),
            slow: 0,
        }
    }

    /// Whether it takes too little.
    fn look(&mut self, kept: &Kept) -> bool {
        let taken = taken(kept);
        self.slow = match taken.saturating_sub(self.taken) < LOOK_BYTES {
            true => self.slow + 1,
            false => 0,
        };
        self.taken = taken;
        self.next = Instant::now() + LOOK;
        self.slow >= LOOKS
    }
}

fn taken(kept: &Kept) -> u64 {
    kept.control().map_or(0, |control| control.taken())
}

/// Passes on what the caller sends, until it sends no more.
pub(super) async fn pass_on(mut input: Streaming<RunInput>, target: Target) {
    let mut waiting = Waiting::default();
    let mut taking: Option<BoxFuture<'static, ()>> = None;
    let mut looks: Option<Looks> = None;
    let mut open = true;
    loop {
        if taking.is_none() {
            let next = waiting.pop();
            taking = next.map(|part| Box::pin(target.clone().take(part)) as BoxFuture<'static, ()>);
        }
        if taking.is_none() && !open {
            return;
        }
        let is_taking = taking.is_some();
        let held_back = waiting.is_full() && !waiting.refuses;
        let viewer = target.looked_at();
        looks = match (looks, viewer) {
            (None, Some((kept, _))) if held_back => Some(Looks::begin(kept)),
            (looks, _) => looks.filter(|_| held_back),
        };
        let next_look = looks.as_ref().map(|looks| looks.next);
        let taken = async {
            match &mut taking {
                Some(taking) => taking.await,
                None => std::future::pending().await,
            }
        };
        let look = async {
            match next_look {
                Some(time) => sleep_until(time).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            message = input.message(), if open && !held_back => {
                match message.ok().flatten().map(|message| message.input) {
                    Some(Some(Input::Stdin(data))) => {
                        let waits = is_taking || !waiting.parts.is_empty();
                        let Some(typed) = target.typed(data, waits) else { continue };
                        if let (Err(bytes), Some((kept, viewer))) = (waiting.take(typed), viewer) {
                            kept.refuse(viewer, bytes);
                        }
                    }
                    Some(Some(Input::CloseStdin(true))) => waiting.end(),
                    Some(Some(Input::Resize(size))) => target.resize(size.into()),
                    Some(Some(Input::Signal(number))) => target.signal(number),
                    // A second beginning, or nothing that this agent knows.
                    Some(_) => {}
                    None => open = false,
                }
            }
            () = taken => taking = None,
            () = look => if let (Some(looks), Some((kept, _))) = (&mut looks, viewer) {
                waiting.refuses = looks.look(kept);
            }
        }
    }
}
