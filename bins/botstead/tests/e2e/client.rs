//! The API as a client speaks it.

use futures_util::StreamExt;
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// A signed-in client.
#[derive(Clone)]
pub(crate) struct Client {
    http: reqwest::Client,
    url: String,
    token: String,
}

/// An answer: its status and its JSON, `null` when there is none.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Value,
}

impl Answer {
    pub(crate) fn ok(self) -> Value {
        assert!(self.status < 300, "{self:?}");
        self.body
    }

    /// Asserts a problem reply with this status and code.
    pub(crate) fn refused(self, status: u16, code: &str) {
        assert_eq!(
            (self.status, self.body["code"].as_str()),
            (status, Some(code)),
            "{self:?}"
        );
        for key in ["type", "title", "detail", "instance", "request_id"] {
            assert!(self.body[key].is_string(), "{key} is missing: {self:?}");
        }
        assert_eq!(self.body["message"], self.body["detail"]);
    }
}

impl Client {
    pub(crate) fn new(url: &str) -> Self {
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        Self {
            http,
            url: url.to_owned(),
            token: String::new(),
        }
    }

    pub(crate) async fn login(url: &str, username: &str, password: &str) -> Self {
        let mut client = Self::new(url);
        let body = json!({"username": username, "password": password});
        let answer = client.post("/auth/login", body).await.ok();
        answer["access_token"]
            .as_str()
            .unwrap()
            .clone_into(&mut client.token);
        client
    }

    pub(crate) fn anonymous(&self) -> Self {
        Self {
            token: String::new(),
            ..self.clone()
        }
    }

    /// The URL of a WebSocket, with the token in its query as browsers must give it.
    pub(crate) fn websocket(&self, path: &str) -> String {
        let url = self.url.replacen("http", "ws", 1);
        format!("{url}{path}&token={}", self.token)
    }

    pub(crate) async fn is_ready(&self) -> bool {
        let asked = self.http.get(format!("{}/readyz", self.url)).send().await;
        asked.is_ok_and(|answer| answer.status().is_success())
    }

    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.url));
        if self.token.is_empty() {
            request
        } else {
            request.bearer_auth(&self.token)
        }
    }

    pub(crate) async fn send(&self, request: RequestBuilder) -> Answer {
        let answer = request.send().await.unwrap();
        let status = answer.status().as_u16();
        let bytes = answer.bytes().await.unwrap();
        let body = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
        Answer { status, body }
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send(self.request(Method::GET, path)).await
    }

    pub(crate) async fn put(&self, path: &str, body: Value) -> Answer {
        self.send(self.request(Method::PUT, path).json(&body)).await
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> Answer {
        self.send(self.request(Method::POST, path).json(&body))
            .await
    }

    pub(crate) async fn delete(&self, path: &str) -> Answer {
        self.send(self.request(Method::DELETE, path)).await
    }

    pub(crate) async fn import(&self, archive: Vec<u8>) -> Answer {
        let request = self.request(Method::POST, "/images/import");
        let request = request.header("content-type", "application/x-tar");
        self.send(request.body(archive)).await
    }

    /// A new bot's id.
    pub(crate) async fn bot(&self) -> String {
        let bot = self.post("/bots", json!({"name": "bot"})).await.ok();
        bot["id"].as_str().unwrap().to_owned()
    }

    /// A bot with a running workspace.
    pub(crate) async fn running(&self) -> Workspace {
        let workspace = self.workspace(&self.bot().await);
        let events = workspace
            .create(json!({"image": crate::server::IMAGE}))
            .await;
        assert_eq!(events.last().unwrap()["type"], "complete", "{events:?}");
        workspace
    }

    pub(crate) fn workspace(&self, bot: &str) -> Workspace {
        Workspace {
            client: self.clone(),
            bot: bot.to_owned(),
            path: format!("/bots/{bot}/container"),
        }
    }
}

/// A bot's workspace.
#[derive(Clone)]
pub(crate) struct Workspace {
    pub(crate) client: Client,
    pub(crate) bot: String,
    pub(crate) path: String,
}

impl Workspace {
    /// Creates it and returns all events, or the refusal as the only one.
    pub(crate) async fn create(&self, body: Value) -> Vec<Value> {
        let request = self.client.request(Method::POST, &self.path).json(&body);
        let answer = request.send().await.unwrap();
        let kind = answer.headers()["content-type"]
            .to_str()
            .unwrap()
            .to_owned();
        if kind != "text/event-stream" {
            return vec![answer.json().await.unwrap()];
        }
        events(&answer.text().await.unwrap())
    }

    /// Begins to create it and leaves once the first bytes of the answer came.
    pub(crate) async fn create_and_leave(&self, body: Value) {
        let request = self.client.request(Method::POST, &self.path).json(&body);
        let mut stream = request.send().await.unwrap().bytes_stream();
        stream.next().await.unwrap().unwrap();
    }

    pub(crate) async fn get(&self) -> Answer {
        self.client.get(&self.path).await
    }

    pub(crate) async fn info(&self) -> Value {
        self.get().await.ok()
    }

    pub(crate) async fn post(&self, call: &str, body: Value) -> Answer {
        self.client
            .post(&format!("{}{call}", self.path), body)
            .await
    }

    /// What a shell line writes to its standard output; it must succeed.
    pub(crate) async fn sh(&self, line: &str) -> String {
        let done = self.exec(json!({"command": line})).await.ok();
        assert_eq!(done["exit_code"], 0, "{line}: {done}");
        done["stdout"].as_str().unwrap().trim().to_owned()
    }

    pub(crate) async fn exec(&self, body: Value) -> Answer {
        self.post("/exec", body).await
    }

    pub(crate) async fn snapshot(&self) -> u64 {
        let made = self.post("/snapshots", json!({})).await.ok();
        made["version"].as_u64().unwrap()
    }

    pub(crate) async fn rollback(&self, version: u64) -> Value {
        self.post("/snapshots/rollback", json!({"version": version}))
            .await
            .ok()
    }

    /// Waits until the workspace can be reached.
    pub(crate) async fn reachable(&self) {
        for _ in 0..600 {
            let answer = self.get().await;
            if answer.status == 200 && answer.body["reachable"] == true {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("the workspace cannot be reached: {:?}", self.get().await);
    }

    /// Waits until no operation is under way.
    pub(crate) async fn idle(&self, after: &str) {
        let path = format!("/bots/{}/operations", self.bot);
        let deadline = Instant::now() + Duration::from_secs(90);
        loop {
            let listed = self.client.get(&path).await.ok();
            let all = listed["items"].as_array().unwrap();
            let running = all.iter().find(|operation| operation["state"] == "running");
            let Some(running) = running else { return };
            assert!(Instant::now() < deadline, "{after}: {running:?}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// The operation that is under way, once it can be cancelled.
    pub(crate) async fn cancellable(&self) -> String {
        for _ in 0..600 {
            let listed = self
                .client
                .get(&format!("/bots/{}/operations", self.bot))
                .await
                .ok();
            let found = listed["items"]
                .as_array()
                .unwrap()
                .iter()
                .find(|o| o["cancellable"] == true);
            if let Some(found) = found {
                return found["id"].as_str().unwrap().to_owned();
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("no operation can be cancelled");
    }
}

fn events(text: &str) -> Vec<Value> {
    let lines = text.lines().filter_map(|line| line.strip_prefix("data: "));
    lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// The types of events, without repeated progress.
pub(crate) fn types(events: &[Value]) -> Vec<&str> {
    let mut types: Vec<_> = events
        .iter()
        .map(|event| event["type"].as_str().unwrap())
        .collect();
    types.dedup();
    types
}
