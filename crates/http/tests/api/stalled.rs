//! An agent that takes and answers nothing, and clients that leave: calls end, and there are not many.

use crate::support::Api;
use async_trait::async_trait;
use botstead_runtime::{ByteStream, Channels, Result as RuntimeResult};
use botstead_types::ContainerId;
use reqwest::Method;
use serde_json::{Value, json};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::io::DuplexStream;

/// Without a deadline nothing here would end.
const PATIENCE: Duration = Duration::from_secs(60);

/// Connections that nobody reads from.
#[derive(Default)]
struct Mute(Mutex<Vec<DuplexStream>>);

#[async_trait]
impl Channels for Mute {
    async fn connect(&self, _: &ContainerId, _: &str) -> RuntimeResult<Box<dyn ByteStream>> {
        let (ours, theirs) = tokio::io::duplex(16 << 10);
        self.0.lock().unwrap().push(theirs);
        Ok(Box::new(ours))
    }
}

async fn start(patience: Duration) -> Api {
    Api::set_up(|setup| {
        setup.channels = Some(Arc::new(Mute::default()));
        setup.workspace.agent_patience = patience;
        setup.workspace.max_calls_per_bot = 2;
        setup.workspace.max_streams_per_bot = 8;
        setup.http.max_text_bytes = 256 << 10;
        setup.http.max_json_bytes = 128 << 10;
        setup.http.max_reply_bytes = 256 << 10;
        // What these three need at least: 2.5 MiB.
        setup.http.max_memory_bytes = 0;
    })
    .await
}

/// Sends a request whose client leaves soon.
async fn leave(api: &Api, path: &str, body: &Value) {
    let request = api.request(&api.member, Method::POST, path).json(body);
    let left = request.timeout(Duration::from_millis(500)).send().await;
    assert!(left.unwrap_err().is_timeout());
}

fn content() -> Value {
    json!({"path": "/data/x", "content": "x".repeat(256 << 10)})
}

#[tokio::test(flavor = "multi_thread")]
async fn what_takes_and_answers_nothing_is_not_waited_for() {
    let api = start(Duration::from_millis(50)).await;
    let files = format!("{}/container/fs", api.bot_with_workspace().await);
    let copy = json!({"oldPath": "/a", "newPath": "/b"});
    for (path, body) in [
        ("write", content()),
        ("copy", copy),
        ("delete", json!({"path": "/a"})),
    ] {
        let path = format!("{files}/{path}");
        let reply = tokio::time::timeout(PATIENCE, api.post(&path, body)).await;
        let reply = reply.unwrap_or_else(|_| panic!("{path} is waited for"));
        let problem = reply.expect_problem(503, "workspace_stalled");
        assert!(problem["detail"].as_str().unwrap().contains("restart"));
        assert_eq!(reply.header("retry-after"), "5");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_to_one_workspace_are_few_and_give_their_places_back() {
    let api = start(Duration::from_millis(100)).await;
    let bot = api.bot_with_workspace().await;
    let path = format!("{bot}/container/fs/delete");
    let body = json!({"path": "/a"});
    let third = loop {
        let request = api.request(&api.member, Method::POST, &path).json(&body);
        match request.timeout(Duration::from_millis(500)).send().await {
            Ok(_) => break api.post(&path, body.clone()).await,
            Err(left) => assert!(left.is_timeout()),
        }
    };
    let problem = third.expect_problem(429, "too_many_calls");
    assert!(problem["detail"].as_str().unwrap().contains("try again"));
    // Another workspace has its own.
    let other = format!("{}/container/fs/delete", api.bot_with_workspace().await);
    leave(&api, &other, &body).await;
    // They end although nobody waits for them any more.
    let begun = Instant::now();
    while api.post(&path, body.clone()).await.status == 429 {
        assert!(begun.elapsed() < PATIENCE, "the places are not given back");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_in_memory_have_a_sum_of_which_nobody_has_more_than_half() {
    let api = start(Duration::from_secs(3)).await;
    let path = format!("{}/container/fs/write", api.bot_with_workspace().await);
    // What is handed to the workspace stays when its client leaves.
    leave(&api, &path, &content()).await;
    leave(&api, &path, &content()).await;
    let (third, fourth) = tokio::join!(
        api.post(&path, content()),
        api.call(&api.other, Method::POST, "/bots", Some(json!({}))),
    );
    fourth.expect(201);
    // It waits until one of the others ends, which is sooner than it would be refused.
    third.expect_problem(503, "workspace_stalled");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_finds_no_memory_is_refused_and_told_when_to_come_back() {
    let api = start(Duration::from_secs(30)).await;
    let body = json!({"metadata": {"note": "x".repeat(60 << 10)}});
    let large = api.post("/bots", body).await.expect(201);
    let large = format!("/bots/{}", large["id"].as_str().unwrap());
    let path = format!("{}/container/fs/write", api.bot_with_workspace().await);
    leave(&api, &path, &content()).await;
    leave(&api, &path, &content()).await;
    // It leaves less than the large bot takes.
    let rest = json!({"path": "/data/x", "content": "x".repeat(135 << 10)});
    leave(&api, &path, &rest).await;
    let reply = api.post(&path, content()).await;
    let problem = reply.expect_problem(503, "too_much_in_flight");
    assert_eq!(reply.header("retry-after"), "5");
    assert!(problem["detail"].as_str().unwrap().contains("try again"));
    // What can be asked for again is refused, and what is done is told.
    api.get(&large)
        .await
        .expect_problem(503, "too_much_in_flight");
    let renamed = api.call(
        &api.member,
        Method::PATCH,
        &large,
        Some(json!({"display_name": "new"})),
    );
    assert_eq!(renamed.await.expect(200)["display_name"], "new");
    // Small ones and those of others go on.
    let small = json!({"snapshot_name": "x"});
    let snapshots = path.replace("fs/write", "snapshots");
    api.post(&snapshots, small).await.expect(201);
    let body = json!({"metadata": {"note": "x".repeat(30 << 10)}});
    let made = api
        .call(&api.other, Method::POST, "/bots", Some(body))
        .await;
    made.expect(201);
}
