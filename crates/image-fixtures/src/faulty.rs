//! A registry that misbehaves: a tiny HTTP/1.1 responder that serves one image from memory.

use crate::Image;
use bytes::Bytes;
use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

/// What a [`FaultyRegistry`] does wrong. "Blob" means a layer; manifests and configurations are
/// served well unless said otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    None,
    /// Sends the first half of a blob, then nothing more, and keeps the connection open.
    HangBlob,
    /// Sends the first half of a blob, then one byte after the other, this many times; then serves it.
    TrickleBlob(usize),
    /// Accepts connections and never answers.
    HangAll,
    /// Serves a blob of the right size with one byte changed.
    WrongBlob,
    /// Serves a manifest with one byte more than its digest was made of.
    WrongManifest,
    /// Says that a blob is half as long as its descriptor says, and serves that half.
    ShortBlob,
    /// Serves more bytes than the descriptor says, without naming a length.
    LongBlob,
    /// Closes the connection in the middle of a blob this many times, then serves it; it answers
    /// range requests, so that a download can go on.
    CutBlob(usize),
    /// Answers 500 this many times, then well.
    ServerError(usize),
    /// Answers 404 to everything below `/v2/`.
    NotFound,
    /// Answers 401 to everything.
    Unauthorized,
    /// Wants the user `bot` with the password `secret`, by HTTP basic authentication.
    BasicSignIn,
    /// Wants a token, which its token service gives to `bot` with the password `secret`.
    TokenSignIn,
    /// Serves a manifest without end.
    EndlessManifest,
}

/// How long [`Fault::TrickleBlob`] takes for a byte.
const TRICKLE: Duration = Duration::from_millis(50);

/// A registry on a loopback port that serves one image, under any name and tag, and has a
/// [`Fault`]. It ends when this is dropped.
#[derive(Debug)]
pub struct FaultyRegistry {
    address: SocketAddr,
    state: Arc<State>,
    server: JoinHandle<()>,
}

#[derive(Debug)]
struct State {
    fault: Fault,
    manifest: Bytes,
    manifest_digest: String,
    media_type: &'static str,
    blobs: HashMap<String, Bytes>,
    config_digest: String,
    faults_done: AtomicUsize,
    blob_requests: AtomicUsize,
    range_requests: AtomicUsize,
}

impl FaultyRegistry {
    /// Starts it in the current tokio runtime.
    ///
    /// # Errors
    /// When no port is free.
    pub async fn start(image: &Image, fault: Fault) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let state = Arc::new(State {
            fault,
            manifest: image.manifest.clone(),
            manifest_digest: image.digest(),
            media_type: image.media_type,
            blobs: image.blobs().into_iter().collect(),
            config_digest: image.config_digest(),
            faults_done: AtomicUsize::new(0),
            blob_requests: AtomicUsize::new(0),
            range_requests: AtomicUsize::new(0),
        });
        let shared = Arc::clone(&state);
        let server = tokio::spawn(async move {
            // Dropped with the server's task, which ends every connection.
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(serve(stream, Arc::clone(&shared)));
                while connections.try_join_next().is_some() {}
            }
        });
        Ok(Self {
            address,
            state,
            server,
        })
    }

    /// Its address, the first part of image references.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// The reference of its image under a name of the caller's choice.
    pub fn reference(&self, name: &str) -> String {
        format!("{}/{name}:latest", self.address)
    }

    /// How often layers were asked for.
    pub fn blob_requests(&self) -> usize {
        self.state.blob_requests.load(Ordering::Relaxed)
    }

    /// How many of those asked for a range.
    pub fn range_requests(&self) -> usize {
        self.state.range_requests.load(Ordering::Relaxed)
    }
}

impl Drop for FaultyRegistry {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn serve(mut stream: TcpStream, state: Arc<State>) {
    // A client that goes away ends its connection; there is nobody to tell.
    let _ = answer_all(&mut stream, &state).await;
}

async fn answer_all(stream: &mut TcpStream, state: &State) -> io::Result<()> {
    let mut buffer = Vec::new();
    loop {
        let end = loop {
            if let Some(at) = buffer.windows(4).position(|w| w == b"\r\n\r\n") {
                break at + 4;
            }
            if stream.read_buf(&mut buffer).await? == 0 {
                return Ok(());
            }
        };
        let head: Vec<u8> = buffer.drain(..end).collect();
        let head = String::from_utf8_lossy(&head).into_owned();
        let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
        let range = head.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("range")
                .then(|| {
                    value
                        .trim()
                        .strip_prefix("bytes=")?
                        .split('-')
                        .next()?
                        .parse()
                        .ok()
                })
                .flatten()
        });
        if let Some(challenge) = state.challenge(&head, &path) {
            let refused = body(stream, "401 Unauthorized", &challenge, b"{}");
            refused.await?;
            continue;
        }
        if !answer(stream, state, &path, range).await? {
            return Ok(());
        }
    }
}

/// Answers one request; `false` ends the connection.
async fn answer(
    stream: &mut TcpStream,
    state: &State,
    path: &str,
    range: Option<usize>,
) -> io::Result<bool> {
    match state.fault {
        Fault::HangAll => std::future::pending().await,
        Fault::Unauthorized => return status(stream, "401 Unauthorized").await,
        Fault::NotFound if path != "/v2/" => return status(stream, "404 Not Found").await,
        Fault::ServerError(times) if path != "/v2/" && state.strikes(times) => {
            return status(stream, "500 Internal Server Error").await;
        }
        _ => {}
    }
    if path == "/v2/" {
        return status(stream, "200 OK").await;
    }
    if path.starts_with("/token?") {
        return body(stream, "200 OK", "", br#"{"token":"a-token"}"#).await;
    }
    let name = path.rsplit('/').next().unwrap_or_default();
    if path.contains("/manifests/") {
        return manifest(stream, state).await;
    }
    match state.blobs.get(name) {
        Some(blob) if name == state.config_digest => body(stream, "200 OK", "", blob).await,
        Some(blob) => layer(stream, state, blob, range).await,
        None => status(stream, "404 Not Found").await,
    }
}

async fn manifest(stream: &mut TcpStream, state: &State) -> io::Result<bool> {
    let headers = format!(
        "Content-Type: {}\r\nDocker-Content-Digest: {}\r\n",
        state.media_type, state.manifest_digest
    );
    match state.fault {
        Fault::EndlessManifest => {
            let head = format!("HTTP/1.1 200 OK\r\n{headers}Connection: close\r\n\r\n");
            stream.write_all(head.as_bytes()).await?;
            let spaces = vec![b' '; 1 << 16];
            loop {
                stream.write_all(&spaces).await?;
            }
        }
        Fault::WrongManifest => {
            let mut wrong = state.manifest.to_vec();
            wrong.push(b'\n');
            body(stream, "200 OK", &headers, &wrong).await
        }
        _ => body(stream, "200 OK", &headers, &state.manifest).await,
    }
}

async fn layer(
    stream: &mut TcpStream,
    state: &State,
    blob: &Bytes,
    range: Option<usize>,
) -> io::Result<bool> {
    state.blob_requests.fetch_add(1, Ordering::Relaxed);
    let start = range.unwrap_or(0).min(blob.len());
    let code = if range.is_some() {
        state.range_requests.fetch_add(1, Ordering::Relaxed);
        "206 Partial Content"
    } else {
        "200 OK"
    };
    let headers = match range {
        Some(_) => format!(
            "Content-Range: bytes {start}-{}/{}\r\n",
            blob.len().saturating_sub(1),
            blob.len()
        ),
        None => String::new(),
    };
    let rest = blob.slice(start..);
    match state.fault {
        Fault::HangBlob => {
            half(stream, code, &headers, &rest).await?;
            std::future::pending().await
        }
        Fault::TrickleBlob(times) if state.strikes(times) => {
            half(stream, code, &headers, &rest).await?;
            for byte in rest[rest.len() / 2..].chunks(1) {
                tokio::time::sleep(TRICKLE).await;
                stream.write_all(byte).await?;
            }
            Ok(true)
        }
        Fault::CutBlob(times) if state.strikes(times) => {
            half(stream, code, &headers, &rest).await?;
            Ok(false)
        }
        Fault::WrongBlob => {
            let mut wrong = rest.to_vec();
            if let Some(last) = wrong.last_mut() {
                *last ^= 1;
            }
            body(stream, code, &headers, &wrong).await
        }
        Fault::ShortBlob => body(stream, code, &headers, &rest[..rest.len() / 2]).await,
        Fault::LongBlob => {
            let head = format!("HTTP/1.1 {code}\r\n{headers}Connection: close\r\n\r\n");
            stream.write_all(head.as_bytes()).await?;
            stream.write_all(&rest).await?;
            stream.write_all(b"more than the descriptor says").await?;
            Ok(false)
        }
        _ => body(stream, code, &headers, &rest).await,
    }
}

/// `bot:secret` in base64 (RFC 7617).
const BASIC: &str = "authorization: basic ym90onnly3jlda==";

impl State {
    /// What a request without the right Authorization header is answered.
    fn challenge(&self, head: &str, path: &str) -> Option<String> {
        let signed_in_by = |line: &str| head.lines().any(|l| l.eq_ignore_ascii_case(line));
        let basic = "WWW-Authenticate: Basic realm=\"test\"\r\n".to_owned();
        match self.fault {
            Fault::BasicSignIn => (!signed_in_by(BASIC)).then_some(basic),
            Fault::TokenSignIn if path.starts_with("/token") => {
                (!signed_in_by(BASIC)).then_some(basic)
            }
            Fault::TokenSignIn => (!signed_in_by("authorization: bearer a-token")).then(|| {
                let host = head.lines().find_map(|line| {
                    let (name, value) = line.split_once(':')?;
                    name.eq_ignore_ascii_case("host").then(|| value.trim())
                });
                format!(
                    "WWW-Authenticate: Bearer realm=\"http://{}/token\",service=\"test\"\r\n",
                    host.unwrap_or_default()
                )
            }),
            _ => None,
        }
    }

    /// Whether the fault strikes once more, out of `times`.
    fn strikes(&self, times: usize) -> bool {
        self.faults_done.fetch_add(1, Ordering::Relaxed) < times
    }
}

async fn status(stream: &mut TcpStream, code: &str) -> io::Result<bool> {
    body(stream, code, "", b"{}").await
}

async fn body(stream: &mut TcpStream, code: &str, headers: &str, body: &[u8]) -> io::Result<bool> {
    let head = format!(
        "HTTP/1.1 {code}\r\n{headers}Content-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body).await?;
    Ok(true)
}

/// Announces all of `body` and sends half of it.
async fn half(stream: &mut TcpStream, code: &str, headers: &str, body: &[u8]) -> io::Result<()> {
    let head = format!(
        "HTTP/1.1 {code}\r\n{headers}Content-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(&body[..body.len() / 2]).await?;
    stream.flush().await
}
