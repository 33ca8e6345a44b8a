//! One WebSocket and the terminal behind it.
//!
//! Both directions go on beside each other, so that a client which reads slowly can still interrupt.
//! What the terminal shows waits for the client, through every buffer up to the program. What the client
//! types waits for the program, until the agent refuses it: sizes behind it wait no longer.

use super::frames::{BadFrame, ClientFrame, ServerFrame, decode};
use actix_ws::{AggregatedMessage, CloseCode, CloseReason, MessageStream, ProtocolError, Session};
use botstead_workspace::{CommandEvent, TerminalConnection};
use bytes::Bytes;
use futures_util::StreamExt;
use std::cell::Cell;
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Without anything from either side for this long, the connection is closed.
const IDLE: Duration = Duration::from_secs(30 * 60);
/// How often a silent client is asked whether it is there.
const PING: Duration = Duration::from_secs(30);
/// A client that answers none of so many is gone.
const UNANSWERED: u32 = 3;
/// The largest message of a client, which may be in memory as a whole for as long as its end does not come.
const MAX_MESSAGE: usize = 256 << 10;

/// A connection that was taken.
pub(super) struct Socket {
    pub(super) terminal: TerminalConnection,
    pub(super) session: Session,
    /// Whether the client wants text frames.
    pub(super) with_text: bool,
    pub(super) shutdown: CancellationToken,
    /// Cancelled when the caller's session ends.
    pub(super) ended: CancellationToken,
}

/// Why a connection ends.
enum End {
    /// The shell ended.
    Shell,
    /// The client left, or its connection broke.
    Left,
    /// With this code and these words.
    Close(CloseCode, &'static str),
}

impl Socket {
    /// Passes bytes on until one side ends. The terminal itself goes on, unless its shell ended.
    pub(super) async fn run(self, stream: MessageStream) {
        let Self {
            terminal,
            session,
            with_text,
            shutdown,
            ended,
        } = self;
        let TerminalConnection {
            session: id,
            input,
            mut output,
        } = terminal;
        let activity = Activity::new();
        let mut messages = stream
            .max_frame_size(MAX_MESSAGE)
            .aggregate_continuations()
            .max_continuation_size(MAX_MESSAGE);
        let mut to_client = session.clone();
        let from_terminal = async {
            if with_text {
                let frame = ServerFrame::Session { id: &id }.encode();
                if to_client.text(frame).await.is_err() {
                    return End::Left;
                }
            }
            while let Some(event) = output.next().await {
                let sent = match event {
                    Ok(CommandEvent::Stdout(data) | CommandEvent::Stderr(data)) => {
                        activity.touch();
                        to_client.binary(data).await
                    }
                    Ok(CommandEvent::Resized(size)) if with_text => {
                        let (cols, rows) = (size.columns(), size.rows());
                        let frame = ServerFrame::Resize { cols, rows }.encode();
                        to_client.text(frame).await
                    }
                    Ok(CommandEvent::InputRefused { bytes }) if with_text => {
                        let frame = ServerFrame::InputRefused { bytes }.encode();
                        to_client.text(frame).await
                    }
                    Ok(CommandEvent::Exit(exit)) => {
                        if with_text {
                            let frame = ServerFrame::Exit { code: exit.code }.encode();
                            let _ = to_client.text(frame).await;
                        }
                        return End::Shell;
                    }
                    Ok(
                        CommandEvent::Started { .. }
                        | CommandEvent::Skipped { .. }
                        | CommandEvent::Resized(_)
                        | CommandEvent::InputRefused { .. },
                    ) => Ok(()),
                    Err(_) => break,
                };
                if sent.is_err() {
                    return End::Left;
                }
            }
            End::Close(CloseCode::Error, "the workspace stopped")
        };
        let mut answers = session.clone();
        let from_client = async {
            while let Some(message) = messages.next().await {
                activity.heard();
                match message {
                    Ok(AggregatedMessage::Binary(data)) => {
                        activity.touch();
                        activity.waits.set(true);
                        let taken = input.write(Bytes::from(data.to_vec())).await;
                        activity.waits.set(false);
                        if !taken {
                            // The other direction tells how it ended.
                            std::future::pending::<()>().await;
                        }
                    }
                    Ok(AggregatedMessage::Text(text)) => match decode(text.as_bytes()) {
                        Ok(ClientFrame::Resize(size)) => {
                            activity.touch();
                            input.resize(size).await;
                        }
                        Ok(ClientFrame::Unknown) => {}
                        Err(BadFrame) => {
                            let words =
                                "a text frame is JSON with a type; bytes go in binary frames";
                            return End::Close(CloseCode::Invalid, words);
                        }
                    },
                    Ok(AggregatedMessage::Ping(data)) => {
                        let _ = answers.pong(&data).await;
                    }
                    Ok(AggregatedMessage::Pong(_)) => {}
                    Ok(AggregatedMessage::Close(_)) => return End::Left,
                    Err(ProtocolError::Overflow) => {
                        return End::Close(
                            CloseCode::Size,
                            "a message is larger than 256 KiB; send several smaller ones",
                        );
                    }
                    Err(ProtocolError::Io(_)) => return End::Left,
                    Err(_) => return End::Close(CloseCode::Protocol, "the frame is malformed"),
                }
            }
            End::Left
        };
        let mut pings = session.clone();
        let watched = async {
            loop {
                tokio::time::sleep(PING).await;
                if activity.idle() >= IDLE {
                    return End::Close(CloseCode::Away, "nothing was sent for 30 minutes");
                }
                // While its input waits for the program, its answers are not read.
                let gone = !activity.waits.get() && activity.asked() > UNANSWERED;
                if gone || pings.ping(b"").await.is_err() {
                    return End::Left;
                }
            }
        };
        let end = tokio::select! {
            end = from_terminal => end,
            end = from_client => end,
            end = watched => end,
            () = shutdown.cancelled() => End::Close(CloseCode::Restart, "the server restarts"),
            () = ended.cancelled() => End::Close(CloseCode::Policy, "the session ended"),
        };
        let reason = match end {
            End::Shell => Some((CloseCode::Normal, "")),
            End::Left => None,
            End::Close(code, words) => Some((code, words)),
        };
        let reason = reason.map(|(code, words)| CloseReason {
            code,
            description: (!words.is_empty()).then(|| words.to_owned()),
        });
        let _ = session.close(reason).await;
    }
}

/// When somebody last sent something, and whether the client is still there.
struct Activity {
    last: Cell<Instant>,
    unanswered: Cell<u32>,
    /// What the client sent waits, and with it all that it sends after.
    waits: Cell<bool>,
}

impl Activity {
    fn new() -> Self {
        Self {
            last: Cell::new(Instant::now()),
            unanswered: Cell::new(0),
            waits: Cell::new(false),
        }
    }

    /// Bytes went one way or the other.
    fn touch(&self) {
        self.last.set(Instant::now());
    }

    /// The client sent a frame of any kind.
    fn heard(&self) {
        self.unanswered.set(0);
    }

    /// The client is asked; tells how often it was without an answer.
    fn asked(&self) -> u32 {
        self.unanswered.set(self.unanswered.get() + 1);
        self.unanswered.get()
    }

    fn idle(&self) -> Duration {
        self.last.get().elapsed()
    }
}
