//! The server's HTTP interface, as far as it is measured.

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use reqwest::multipart::{Form, Part};
use reqwest::{Body, Client, Method, Response, StatusCode};
use serde_json::{Value, json};
use std::convert::Infallible;
use std::io::Write;
use std::time::{Duration, Instant};

/// What all calls to one bot's workspace begin with.
fn container(bot: &str) -> String {
    format!("/bots/{bot}/container")
}

/// A signed-in client. Its connections are kept, as those of a real one.
#[derive(Debug, Clone)]
pub(crate) struct Api {
    client: Client,
    url: String,
    token: String,
}

impl Api {
    /// Signs in.
    pub(crate) async fn login(url: &str, username: &str, password: &str) -> Result<Self> {
        let mut api = Self {
            client: Client::builder().no_proxy().build()?,
            url: url.to_owned(),
            token: String::new(),
        };
        let body = json!({ "username": username, "password": password });
        let answer = api.call(Method::POST, "/auth/login", Some(body)).await?;
        api.token = text(&answer, "access_token")?;
        Ok(api)
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> Result<reqwest::Response> {
        let mut request = self
            .client
            .request(method.clone(), format!("{}{path}", self.url));
        if !self.token.is_empty() {
            request = request.bearer_auth(&self.token);
        }
        if let Some(body) = body {
            request = request.json(&body);
        }
        let reply = request
            .send()
            .await
            .with_context(|| format!("{method} {path}"))?;
        if reply.status().is_success() {
            return Ok(reply);
        }
        let status = reply.status();
        bail!("{method} {path}: {status}: {}", reply.text().await?);
    }

    /// A call and its whole answer, `null` where that is empty.
    pub(crate) async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> Result<Value> {
        let reply = self.send(method, path, body).await?;
        if reply.status() == StatusCode::NO_CONTENT {
            return Ok(Value::Null);
        }
        Ok(serde_json::from_slice(&reply.bytes().await?)?)
    }

    pub(crate) async fn import_image(&self, archive: Vec<u8>) -> Result<()> {
        let request = self.client.post(format!("{}/images/import", self.url));
        let request = request.bearer_auth(&self.token).body(archive);
        let reply = request
            .header("content-type", "application/octet-stream")
            .send()
            .await?;
        if reply.status() != StatusCode::CREATED {
            bail!("image import: {}: {}", reply.status(), reply.text().await?);
        }
        Ok(())
    }

    pub(crate) async fn new_bot(&self) -> Result<String> {
        let bot = self
            .call(Method::POST, "/bots", Some(json!({ "name": "bench" })))
            .await?;
        text(&bot, "id")
    }

    /// Creates the workspace; the time until the `complete` event arrived.
    pub(crate) async fn create(&self, bot: &str, image: &str) -> Result<Duration> {
        let began = Instant::now();
        let body = json!({ "image": image });
        let reply = self.send(Method::POST, &container(bot), Some(body)).await?;
        let mut parts = reply.bytes_stream();
        let mut seen = Vec::new();
        let mut done = None;
        while let Some(part) = parts.next().await {
            seen.extend_from_slice(&part?);
            if done.is_none() && contains(&seen, br#""type":"complete""#) {
                done = Some(began.elapsed());
            }
        }
        done.with_context(|| format!("no complete event in {}", String::from_utf8_lossy(&seen)))
    }

    pub(crate) async fn delete_bot(&self, bot: &str) -> Result<()> {
        self.call(Method::DELETE, &format!("/bots/{bot}"), None)
            .await
            .map(drop)
    }

    /// One of the calls below the workspace, without a body.
    pub(crate) async fn get(&self, bot: &str, what: &str) -> Result<Value> {
        self.call(Method::GET, &format!("{}{what}", container(bot)), None)
            .await
    }

    pub(crate) async fn stop(&self, bot: &str) -> Result<()> {
        self.call(Method::POST, &format!("{}/stop", container(bot)), None)
            .await
            .map(drop)
    }

    pub(crate) async fn start(&self, bot: &str) -> Result<()> {
        self.call(Method::POST, &format!("{}/start", container(bot)), None)
            .await
            .map(drop)
    }

    /// Makes a version and tells its number.
    pub(crate) async fn snapshot(&self, bot: &str) -> Result<u64> {
        self.snapshot_by(bot, "live").await
    }

    /// The same, by stopping it when it runs (`stop`) or without (`live`).
    pub(crate) async fn snapshot_by(&self, bot: &str, mode: &str) -> Result<u64> {
        let path = format!("{}/snapshots", container(bot));
        let body = json!({ "mode": mode });
        let made = self.call(Method::POST, &path, Some(body)).await?;
        made["version"]
            .as_u64()
            .context("the snapshot has no version")
    }

    /// Rolls back; whether the present state was kept as a version.
    pub(crate) async fn rollback(&self, bot: &str, version: u64) -> Result<bool> {
        let path = format!("{}/snapshots/rollback", container(bot));
        let done = self
            .call(Method::POST, &path, Some(json!({ "version": version })))
            .await?;
        Ok(done["safety_version"].is_u64())
    }

    /// Runs a command that must succeed; the whole answer.
    pub(crate) async fn exec(&self, bot: &str, command: &[&str]) -> Result<Value> {
        let path = format!("{}/exec", container(bot));
        let body = json!({ "command": command });
        let done = self.call(Method::POST, &path, Some(body)).await?;
        if done["exit_code"] != 0 {
            bail!("{command:?} failed: {done}");
        }
        Ok(done)
    }

    /// Runs a shell line that must succeed; how long it ran inside.
    pub(crate) async fn shell(&self, bot: &str, line: &str) -> Result<Duration> {
        let done = self.exec(bot, &["/bin/sh", "-c", line]).await?;
        let milliseconds = done["duration_ms"].as_u64().context("no duration_ms")?;
        Ok(Duration::from_millis(milliseconds))
    }
}

/// How much is sent at a time.
const PART: usize = 256 << 10;

impl Api {
    /// The server's shortest answer, which needs no workspace.
    pub(crate) async fn health(&self) -> Result<()> {
        self.send(Method::GET, "/healthz", None)
            .await?
            .bytes()
            .await?;
        Ok(())
    }

    /// Sends a file of so many bytes.
    pub(crate) async fn upload(&self, bot: &str, path: &str, size: u64) -> Result<()> {
        let part = Bytes::from_static(&[0x5a; PART]);
        let parts = usize::try_from(size)? / PART;
        let body = stream::iter(std::iter::repeat_n(part, parts).map(Ok::<_, Infallible>));
        let file = Part::stream_with_length(Body::wrap_stream(body), (parts * PART) as u64);
        let form = Form::new()
            .text("path", path.to_owned())
            .part("file", file.file_name("file"));
        let url = format!("{}{}/fs/upload", self.url, container(bot));
        let request = self.client.post(url).bearer_auth(&self.token);
        let reply = request.multipart(form).send().await?;
        if !reply.status().is_success() {
            bail!("upload: {}: {}", reply.status(), reply.text().await?);
        }
        Ok(())
    }

    /// Reads a file to its end; how many bytes came.
    pub(crate) async fn download(&self, bot: &str, path: &str) -> Result<u64> {
        let call = format!("{}/fs/download?path={path}", container(bot));
        let reply = self.send(Method::GET, &call, None).await?;
        receive(reply, std::io::sink()).await
    }

    /// Exports `/data` to `out`; how long it took until the archive began to come, and its bytes.
    pub(crate) async fn export(
        &self,
        bot: &str,
        format: &str,
        out: impl Write,
    ) -> Result<(Duration, u64)> {
        let call = format!("{}/data/export?format={format}", container(bot));
        let began = Instant::now();
        let reply = self.send(Method::POST, &call, None).await?;
        let before = began.elapsed();
        Ok((before, receive(reply, out).await?))
    }

    /// Where a new terminal's WebSocket is.
    pub(crate) fn terminal(&self, bot: &str) -> String {
        format!(
            "{}{}/terminal/ws?cols=80&rows=24&session=&token={}",
            self.url.replacen("http", "ws", 1),
            container(bot),
            self.token
        )
    }
}

fn text(value: &Value, key: &str) -> Result<String> {
    let text = value[key]
        .as_str()
        .with_context(|| format!("no {key} in the answer"))?;
    Ok(text.to_owned())
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

/// Passes a reply's body on; how many bytes came.
async fn receive(reply: Response, mut out: impl Write) -> Result<u64> {
    let mut body = reply.bytes_stream();
    let mut size = 0;
    while let Some(part) = body.next().await {
        let part = part?;
        size += part.len() as u64;
        out.write_all(&part)?;
    }
    Ok(size)
}
