//! A terminal's WebSocket as a client speaks it, with a screen.

use crate::client::Workspace;
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use std::num::NonZero;
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{self, Message, client::IntoClientRequest};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

const PATIENCE: Duration = Duration::from_secs(20);

fn size(value: u16) -> NonZero<u16> {
    NonZero::new(value).unwrap()
}

/// A connection to a terminal and what a person would see.
pub(crate) struct Terminal {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    screen: vt100::Parser,
    /// The id that the server told.
    pub(crate) session: String,
    /// The exit code that the server told.
    pub(crate) code: Option<u64>,
    /// The last size that the server told, in columns and rows.
    pub(crate) told: Option<(u16, u16)>,
    /// Bytes of its own that the server refused.
    pub(crate) refused: u64,
    closed: Option<CloseCode>,
}

impl Workspace {
    /// Opens a terminal of 80 x 24, or connects to one.
    pub(crate) async fn terminal(&self, session: &str) -> Terminal {
        Terminal::open(self, &format!("cols=80&rows=24&session={session}"))
            .await
            .unwrap()
    }
}

impl Terminal {
    /// Connects with this query; the answer's status when it is no upgrade.
    pub(crate) async fn open(workspace: &Workspace, query: &str) -> Result<Self, u16> {
        Self::open_from(workspace, query, None).await
    }

    /// The same from a page with this origin.
    pub(crate) async fn open_from(
        workspace: &Workspace,
        query: &str,
        origin: Option<&str>,
    ) -> Result<Self, u16> {
        let url = workspace
            .client
            .websocket(&format!("{}/terminal/ws?{query}", workspace.path));
        let mut request = url.into_client_request().unwrap();
        if let Some(origin) = origin {
            request
                .headers_mut()
                .insert("origin", origin.parse().unwrap());
        }
        let socket = match connect_async(request).await {
            Ok((socket, _)) => socket,
            Err(tungstenite::Error::Http(answer)) => return Err(answer.status().as_u16()),
            Err(error) => panic!("cannot connect: {error}"),
        };
        let mut terminal = Self {
            socket,
            screen: vt100::Parser::new(size(24), size(80), 0),
            session: String::new(),
            code: None,
            told: None,
            refused: 0,
            closed: None,
        };
        if query.contains("session=") {
            terminal
                .until("a session", |it| !it.session.is_empty())
                .await;
        }
        Ok(terminal)
    }

    pub(crate) async fn send(&mut self, text: &str) {
        let bytes = text.as_bytes().to_vec();
        self.socket.send(Message::binary(bytes)).await.unwrap();
    }

    pub(crate) async fn send_text(&mut self, text: &str) {
        self.socket.send(Message::text(text)).await.unwrap();
    }

    pub(crate) async fn resize(&mut self, cols: u16, rows: u16) {
        let frame = json!({"type": "resize", "cols": cols, "rows": rows});
        self.send_text(&frame.to_string()).await;
        self.screen.screen_mut().set_size(size(rows), size(cols));
    }

    /// What is seen: blanks at the ends of lines are not.
    pub(crate) fn text(&self) -> String {
        let contents = self.screen.screen().contents();
        let lines: Vec<_> = contents.lines().map(str::trim_end).collect();
        lines.join("\n")
    }

    /// Where the cursor is: row and column.
    pub(crate) fn cursor(&self) -> (u16, u16) {
        self.screen.screen().cursor_position()
    }

    /// Takes the next message in; false when the connection is over.
    pub(crate) async fn next(&mut self) -> bool {
        match self.socket.next().await {
            Some(Ok(Message::Binary(bytes))) => self.screen.process(&bytes),
            Some(Ok(Message::Text(text))) => {
                let frame: Value = serde_json::from_str(text.as_str()).unwrap();
                match frame["type"].as_str().unwrap() {
                    "session" => frame["id"].as_str().unwrap().clone_into(&mut self.session),
                    "exit" => self.code = frame["code"].as_u64(),
                    "resize" => {
                        let number =
                            |key: &str| u16::try_from(frame[key].as_u64().unwrap()).unwrap();
                        let (cols, rows) = (number("cols"), number("rows"));
                        self.screen.screen_mut().set_size(size(rows), size(cols));
                        self.told = Some((cols, rows));
                    }
                    "input_refused" => self.refused += frame["bytes"].as_u64().unwrap(),
                    other => panic!("an unknown text frame {other}"),
                }
            }
            Some(Ok(Message::Close(frame))) => {
                self.closed = frame.map(|frame| frame.code);
                return false;
            }
            Some(Ok(_)) => {}
            Some(Err(_)) | None => return false,
        }
        true
    }

    /// Reads until this is so.
    pub(crate) async fn until(&mut self, what: &str, holds: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !holds(self) {
            let left = deadline.saturating_duration_since(Instant::now());
            match tokio::time::timeout(left, self.next()).await {
                Ok(true) => {}
                Ok(false) => panic!("closed while waiting for {what}:\n{}", self.text()),
                Err(_) => panic!("waited in vain for {what}:\n{}", self.text()),
            }
        }
    }

    pub(crate) async fn shows(&mut self, text: &str) {
        self.until(text, |it| it.text().contains(text)).await;
    }

    /// Reads to the end and tells the close code.
    pub(crate) async fn closed(&mut self) -> Option<u16> {
        let all = async { while self.next().await {} };
        tokio::time::timeout(PATIENCE, all)
            .await
            .expect("the connection stays open");
        self.closed.map(u16::from)
    }
}
