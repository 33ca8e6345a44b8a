//! A small blocking client of the server's HTTP API, as far as set-up and the check need it.

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::time::Duration;
use ureq::http::{Method, Request};
use ureq::{AsSendBody, Body};

/// Longer than any call may take, a pull included: the server has budgets of its own.
const LIMIT: Duration = Duration::from_secs(30 * 60);

/// A server, and the token of whoever is signed in.
#[derive(Debug, Clone)]
pub(crate) struct Api {
    agent: ureq::Agent,
    base: String,
    token: Option<String>,
}

/// A status and the JSON that came with it, null when there was none.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) body: Value,
}

impl Api {
    pub(crate) fn new(base: &str) -> Self {
        let agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(LIMIT))
            .proxy(None)
            .build()
            .new_agent();
        Self {
            agent,
            base: base.to_owned(),
            token: None,
        }
    }

    /// The same server, signed in.
    pub(crate) fn login(&self, username: &str, password: &str) -> Result<Self> {
        let body = json!({"username": username, "password": password});
        let reply = self.call(Method::POST, "/auth/login", Some(&body))?;
        let reply = reply.expect(200).context("cannot sign in")?;
        let token = reply["access_token"].as_str();
        Ok(Self {
            token: Some(token.context("the sign-in gave no token")?.to_owned()),
            ..self.clone()
        })
    }

    pub(crate) fn get(&self, path: &str) -> Result<Reply> {
        self.call(Method::GET, path, None)
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> Result<Reply> {
        self.call(Method::POST, path, Some(body))
    }

    pub(crate) fn delete(&self, path: &str) -> Result<Reply> {
        self.call(Method::DELETE, path, None)
    }

    /// Sends a file as the whole body.
    pub(crate) fn upload(&self, path: &str, media_type: &str, file: File) -> Result<Reply> {
        self.send(
            Method::POST,
            path,
            Some(media_type),
            "application/json",
            file,
        )
        .and_then(|response| read(response, path))
    }

    /// Posts and hands each event of the answer's stream on as it arrives. An answer that is no
    /// stream is given back instead.
    pub(crate) fn stream(
        &self,
        path: &str,
        body: &Value,
        mut event: impl FnMut(&Value),
    ) -> Result<Option<Reply>> {
        let response = self.send(
            Method::POST,
            path,
            Some("application/json"),
            "text/event-stream",
            body.to_string(),
        )?;
        if response.status() != 200 {
            return read(response, path).map(Some);
        }
        for line in BufReader::new(response.into_body().into_reader()).lines() {
            let line = line.with_context(|| format!("the stream of {path} broke off"))?;
            // Comments keep the connection alive; an event is one line.
            if let Some(data) = line.strip_prefix("data:") {
                let value = serde_json::from_str(data.trim())
                    .with_context(|| format!("{path} sent an event that is no JSON: {data}"))?;
                event(&value);
            }
        }
        Ok(None)
    }

    fn call(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Reply> {
        let response = match body {
            Some(body) => {
                let kind = Some("application/json");
                self.send(method, path, kind, "application/json", body.to_string())
            }
            None => self.send(method, path, None, "application/json", ()),
        };
        read(response?, path)
    }

    fn send(
        &self,
        method: Method,
        path: &str,
        content_type: Option<&str>,
        accept: &str,
        body: impl AsSendBody,
    ) -> Result<ureq::http::Response<Body>> {
        let mut request = Request::builder()
            .method(method.clone())
            .uri(format!("{}{path}", self.base))
            .header("Accept", accept);
        if let Some(content_type) = content_type {
            request = request.header("Content-Type", content_type);
        }
        if let Some(token) = &self.token {
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        let request = request.body(body).context("cannot form the request")?;
        self.agent
            .run(request)
            .with_context(|| format!("{method} {}{path} got no answer", self.base))
    }
}

fn read(mut response: ureq::http::Response<Body>, path: &str) -> Result<Reply> {
    let status = response.status().as_u16();
    let text = response
        .body_mut()
        .read_to_string()
        .with_context(|| format!("the answer of {path} broke off"))?;
    let body = match text.as_str() {
        "" => Value::Null,
        text => serde_json::from_str(text).unwrap_or_else(|_| Value::from(text)),
    };
    Ok(Reply { status, body })
}

impl Reply {
    /// The body, when the status is the one that the contract names.
    pub(crate) fn expect(self, status: u16) -> Result<Value> {
        self.expect_any(&[status])
    }

    /// The body, when the status is one of these.
    pub(crate) fn expect_any(self, allowed: &[u16]) -> Result<Value> {
        if !allowed.contains(&self.status) {
            bail!(
                "answered {} instead of {allowed:?}: {}",
                self.status,
                self.body
            );
        }
        Ok(self.body)
    }
}

/// A path segment or query value with everything escaped that has a meaning there.
pub(crate) fn escaped(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                char::from(byte).to_string()
            }
            _ => format!("%{byte:02X}"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;

    /// A server that reads a request to its end, `end`, answers with these bytes and gives the
    /// request.
    fn serve_once(
        end: &'static str,
        answer: &'static str,
    ) -> (Api, std::thread::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let thread = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = Vec::new();
            let mut buffer = [0; 4096];
            while !request.ends_with(end.as_bytes()) {
                let count = stream.read(&mut buffer).unwrap();
                request.extend_from_slice(&buffer[..count]);
            }
            stream.write_all(answer.as_bytes()).unwrap();
            String::from_utf8(request).unwrap()
        });
        (Api::new(&base), thread)
    }

    #[test]
    fn events_arrive_in_order_and_comments_do_not() {
        let (api, server) = serve_once(
            "}",
            "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n\
             data: {\"type\":\"pulling\"}\n\n: keep-alive\n\ndata: {\"type\":\"complete\"}\n\n",
        );
        let mut seen = Vec::new();
        let refused = api
            .stream("/x", &json!({"image": "a"}), |event| {
                seen.push(event["type"].clone())
            })
            .unwrap();
        assert!(refused.is_none());
        assert_eq!(seen, ["pulling", "complete"]);
        assert!(server.join().unwrap().ends_with("{\"image\":\"a\"}"));
    }

    #[test]
    fn a_refusal_is_told_with_its_body() {
        let (api, server) = serve_once(
            "\r\n\r\n",
            "HTTP/1.1 409 Conflict\r\nContent-Length: 15\r\nConnection: close\r\n\r\n{\"code\":\"busy\"}",
        );
        let error = api.get("/x").unwrap().expect(200).unwrap_err().to_string();
        assert!(error.contains("409") && error.contains("busy"), "{error}");
        server.join().unwrap();
    }

    #[test]
    fn references_survive_in_a_path() {
        assert_eq!(escaped("a.b:5/c@d"), "a.b%3A5%2Fc%40d");
    }
}
