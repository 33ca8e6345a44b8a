//! A client of the HTTP API that knows its routes.

use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read};
use std::time::Duration;
use ureq::http::Request;

/// A reply that is no stream.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) content_type: String,
    pub(crate) body: Value,
}

impl Answer {
    /// The body, after checking the status.
    #[track_caller]
    pub(crate) fn expect(self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.body);
        self.body
    }

    /// The code of a problem reply, after checking its form.
    #[track_caller]
    pub(crate) fn problem(self, status: u16, code: &str) {
        assert_eq!(self.status, status, "{}", self.body);
        assert_eq!(self.content_type, "application/problem+json");
        assert_eq!(self.body["code"], code, "{}", self.body);
        assert_eq!(self.body["status"], status);
        for key in ["type", "title", "detail", "message", "request_id"] {
            assert!(self.body[key].is_string(), "{key}: {}", self.body);
        }
    }
}

/// A caller of one server.
#[derive(Clone)]
pub(crate) struct Client {
    agent: ureq::Agent,
    base: String,
    token: Option<String>,
}

impl Client {
    /// A caller without a token.
    pub(crate) fn anonymous(base: &str) -> Self {
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(Duration::from_secs(180)))
            .build();
        Self {
            agent: config.new_agent(),
            base: base.to_owned(),
            token: None,
        }
    }

    pub(crate) fn signed_in(base: &str, username: &str, password: &str) -> Self {
        let mut client = Self::anonymous(base);
        let body = json!({"username": username, "password": password});
        let answer = client.post("/auth/login", &body).expect(200);
        client.token = Some(answer["access_token"].as_str().unwrap().to_owned());
        client
    }

    /// The same caller at another address: tokens outlive a restart.
    pub(crate) fn at(&self, base: &str) -> Self {
        Self {
            token: self.token.clone(),
            ..Self::anonymous(base)
        }
    }

    fn send(
        &self,
        method: &str,
        path: &str,
        content_type: &str,
        body: Vec<u8>,
    ) -> Result<ureq::http::Response<ureq::Body>, ureq::Error> {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.base));
        if let Some(token) = &self.token {
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        match body.is_empty() {
            true => self.agent.run(request.body(()).unwrap()),
            false => {
                let request = request.header("Content-Type", content_type);
                self.agent.run(request.body(body).unwrap())
            }
        }
    }

    /// A call whose server may die meanwhile.
    pub(crate) fn attempt(
        &self,
        method: &str,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Answer, String> {
        let body = body.map_or_else(Vec::new, |body| body.to_string().into_bytes());
        self.attempt_bytes(method, path, "application/json", body)
    }

    fn attempt_bytes(
        &self,
        method: &str,
        path: &str,
        content_type: &str,
        body: Vec<u8>,
    ) -> Result<Answer, String> {
        let mut response = self
            .send(method, path, content_type, body)
            .map_err(|error| format!("{method} {path}: {error}"))?;
        let header = response.headers().get("content-type").cloned();
        let mut text = String::new();
        response
            .body_mut()
            .as_reader()
            .read_to_string(&mut text)
            .map_err(|error| format!("{method} {path}: {error}"))?;
        Ok(Answer {
            status: response.status().as_u16(),
            content_type: header.map_or_else(String::new, |h| h.to_str().unwrap().to_owned()),
            body: serde_json::from_str(&text).unwrap_or(Value::String(text)),
        })
    }

    #[track_caller]
    pub(crate) fn get(&self, path: &str) -> Answer {
        self.attempt("GET", path, None).unwrap()
    }

    #[track_caller]
    pub(crate) fn post(&self, path: &str, body: &Value) -> Answer {
        self.attempt("POST", path, Some(body)).unwrap()
    }

    #[track_caller]
    pub(crate) fn delete(&self, path: &str) -> Answer {
        self.attempt("DELETE", path, None).unwrap()
    }

    pub(crate) fn import(&self, archive: Vec<u8>) -> Answer {
        self.attempt_bytes("POST", "/images/import", "application/octet-stream", archive)
            .unwrap()
    }

    /// A call that answers with a stream of events.
    pub(crate) fn stream(&self, path: &str, body: &Value) -> Result<Events, String> {
        let body = body.to_string().into_bytes();
        let response = self
            .send("POST", path, "application/json", body)
            .map_err(|error| error.to_string())?;
        if response.status() != 200 {
            let status = response.status();
            let text = response.into_body().read_to_string().unwrap();
            return Err(format!("{status}: {text}"));
        }
        let kind = response.headers()["content-type"].to_str().unwrap();
        assert_eq!(kind, "text/event-stream");
        Ok(Events {
            lines: Box::new(BufReader::new(response.into_body().into_reader())),
        })
    }

    /// A new bot without a workspace.
    pub(crate) fn bot(&self) -> String {
        let bot = self.post("/bots", &json!({})).expect(201);
        bot["id"].as_str().unwrap().to_owned()
    }

    /// Creates a bot's workspace and returns all events.
    #[track_caller]
    pub(crate) fn create(&self, bot: &str, body: &Value) -> Vec<Value> {
        let events = self.stream(&format!("/bots/{bot}/container"), body);
        events.unwrap().collect()
    }

    /// A new bot whose workspace runs.
    #[track_caller]
    pub(crate) fn running_bot(&self) -> String {
        let bot = self.bot();
        self.create_well(&bot, &json!({}));
        bot
    }

    #[track_caller]
    pub(crate) fn create_well(&self, bot: &str, body: &Value) -> Vec<Value> {
        let events = self.create(bot, body);
        assert_eq!(events.last().unwrap()["type"], "complete", "{events:?}");
        events
    }

    #[track_caller]
    pub(crate) fn exec(&self, bot: &str, body: &Value) -> Value {
        self.post(&format!("/bots/{bot}/container/exec"), body)
            .expect(200)
    }

    /// Runs a shell line that must succeed, and returns what it wrote.
    #[track_caller]
    pub(crate) fn sh(&self, bot: &str, line: &str) -> String {
        let done = self.exec(bot, &json!({ "command": line }));
        assert_eq!(done["exit_code"], 0, "{line}: {done}");
        done["stdout"].as_str().unwrap().trim_end().to_owned()
    }

    #[track_caller]
    pub(crate) fn container(&self, bot: &str) -> Value {
        self.get(&format!("/bots/{bot}/container")).expect(200)
    }

    #[track_caller]
    pub(crate) fn snapshot(&self, bot: &str, name: &str) -> u64 {
        let body = json!({ "snapshot_name": name });
        let path = format!("/bots/{bot}/container/snapshots");
        self.post(&path, &body).expect(201)["version"]
            .as_u64()
            .unwrap()
    }

    #[track_caller]
    pub(crate) fn rollback(&self, bot: &str, version: u64) -> Value {
        let path = format!("/bots/{bot}/container/snapshots/rollback");
        let done = self.post(&path, &json!({ "version": version }));
        let done = done.expect(200);
        assert_eq!(done["rolled_back_to"], version);
        done
    }

    /// The numbers of a bot's versions that exist in the runtime, in their order.
    #[track_caller]
    pub(crate) fn versions(&self, bot: &str) -> Vec<u64> {
        let path = format!("/bots/{bot}/container/snapshots");
        let list = self.get(&path).expect(200);
        let mut numbers: Vec<u64> = list["snapshots"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(|snapshot| snapshot["version"].as_u64())
            .collect();
        numbers.sort_unstable();
        numbers
    }

    /// The numbers of a bot's recorded versions.
    #[track_caller]
    pub(crate) fn tree(&self, bot: &str) -> Vec<u64> {
        let path = format!("/bots/{bot}/container/snapshots/tree");
        let tree = self.get(&path).expect(200);
        let versions = tree["versions"].as_array().unwrap().iter();
        let mut numbers: Vec<u64> = versions.map(|v| v["version"].as_u64().unwrap()).collect();
        numbers.sort_unstable();
        numbers
    }

    #[track_caller]
    pub(crate) fn power(&self, bot: &str, what: &str) {
        self.post(&format!("/bots/{bot}/container/{what}"), &json!({}))
            .expect(200);
    }

    #[track_caller]
    pub(crate) fn delete_bot(&self, bot: &str) {
        self.delete(&format!("/bots/{bot}")).expect(204);
    }

    /// The newest operation of a bot.
    #[track_caller]
    pub(crate) fn last_operation(&self, bot: &str) -> Option<Value> {
        let list = self.get(&format!("/bots/{bot}/operations")).expect(200);
        list["items"].as_array().unwrap().first().cloned()
    }
}

/// The events of a stream. Dropping it disconnects.
pub(crate) struct Events {
    lines: Box<dyn BufRead + Send>,
}

impl Iterator for Events {
    type Item = Value;

    fn next(&mut self) -> Option<Value> {
        loop {
            let mut line = String::new();
            // A server that died ends the stream as well.
            if self.lines.read_line(&mut line).unwrap_or(0) == 0 {
                return None;
            }
            if let Some(data) = line.strip_prefix("data:") {
                return Some(serde_json::from_str(data).unwrap());
            }
            let between = line.trim_end().is_empty() || line.starts_with(':');
            assert!(between, "no event and no comment: {line:?}");
        }
    }
}
