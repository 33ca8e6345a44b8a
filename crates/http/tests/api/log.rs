//! What the log has of a request, and what it never has.

use crate::support::{Api, PASSWORD};
use reqwest::Method;
use serde_json::{Value, json};
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tracing_subscriber::fmt::MakeWriter;

#[derive(Clone, Default)]
struct Captured(Arc<Mutex<Vec<u8>>>);

impl io::Write for Captured {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Captured {
    type Writer = Self;
    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

impl Captured {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }

    /// The lines of the access log of one request, once there is one.
    async fn access_lines(&self, request_id: &str) -> Vec<Value> {
        for _ in 0..100 {
            let lines: Vec<Value> = self
                .text()
                .lines()
                .filter_map(|line| serde_json::from_str::<Value>(line).ok())
                .filter(|line| line["target"] == "botstead_http::access")
                .filter(|line| line["fields"]["request_id"] == request_id)
                .collect();
            if !lines.is_empty() {
                return lines;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("no line for {request_id}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_one_line_without_secrets() {
    let captured = Captured::default();
    let subscriber = tracing_subscriber::fmt()
        .json()
        .with_max_level(tracing_subscriber::filter::LevelFilter::TRACE)
        .with_writer(captured.clone())
        .finish();
    // The only one of this program; other tests' lines have other request ids.
    tracing::subscriber::set_global_default(subscriber).unwrap();
    let api = Api::start().await;
    let bot = api.bot().await;
    let path = format!("{bot}?token={}&ticket=s3cret-ticket", api.other);
    let request = api.request(&api.member, Method::GET, &path);
    api.send(request.header("x-request-id", "log-1"))
        .await
        .expect(200);
    let lines = captured.access_lines("log-1").await;
    assert_eq!(lines.len(), 1, "{lines:?}");
    let line = &lines[0]["fields"];
    let me = api.get("/auth/me").await.expect(200);
    assert_eq!(line["method"], "GET");
    assert_eq!(line["route"], "/bots/{bot_id}");
    assert_eq!(line["status"], 200);
    assert_eq!(line["user"], me["id"]);
    assert_eq!(line["client_left"], false);
    assert!(line["duration_ms"].is_u64());

    api.runtime.stop_answering();
    let request = api
        .request("", Method::GET, "/readyz")
        .header("x-request-id", "log-2");
    api.send(request).await.expect(503);
    let text = captured.text();
    let cause = text
        .lines()
        .find(|line| line.contains("log-2") && line.contains("not_ready"))
        .expect("the cause is logged under the request's id");
    assert!(cause.contains("\"cause\":\""), "{cause}");
    let login = json!({"username": "ann", "password": "wr0ng-password"});
    api.call("", Method::POST, "/auth/login", Some(login))
        .await
        .expect(401);
    let text = captured.text();
    for secret in [
        &api.member,
        &api.other,
        PASSWORD,
        "wr0ng-password",
        "s3cret-ticket",
    ] {
        assert!(!text.contains(secret), "the log has {secret}");
    }
}
