//! An agent that takes and answers nothing, and clients that leave: calls end, and there are not many.

use crate::support::Api;
use async_trait::async_trait;
use botstead_runtime::{ByteStream, Channels, Result as RuntimeResult};
use botstead_types::ContainerId;
use reqwest::Method;
use serde_json::{Value, json};
use std::collections::HashSet;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::watch;

/// Without a deadline nothing here would end.
const PATIENCE: Duration = Duration::from_secs(60);

/// Agents that take calls, and answer none but the one for their health.
#[derive(Default)]
struct Mute {
    calls: Arc<watch::Sender<usize>>,
}

#[async_trait]
impl Channels for Mute {
    async fn connect(&self, _: &ContainerId, _: &str) -> RuntimeResult<Box<dyn ByteStream>> {
        let (ours, theirs) = tokio::io::duplex(16 << 10);
        let calls = Arc::clone(&self.calls);
        tokio::spawn(async move {
            // It ends with the connection.
            let _ = count(theirs, &calls).await;
        });
        Ok(Box::new(ours))
    }
}

/// Counts the calls on a connection that ask for anything: after the preface of HTTP/2 come frames, and the
/// data of a call is more than the five bytes of an empty message (RFC 9113, sections 3.4, 4.1 and 6.1).
async fn count(mut connection: DuplexStream, calls: &watch::Sender<usize>) -> io::Result<()> {
    const DATA: u8 = 0;
    // Settings, and room for the beginning of every call, not of the first ones alone.
    let greeting = b"\0\0\0\x04\0\0\0\0\0\0\0\x04\x08\0\0\0\0\0\x3f\xff\0\0";
    connection.write_all(greeting).await?;
    connection.read_exact(&mut [0; 24]).await?;
    let mut seen = HashSet::new();
    loop {
        let mut head = [0; 9];
        connection.read_exact(&mut head).await?;
        let [a, b, c, kind, _, call @ ..] = head;
        let length = u32::from_be_bytes([0, a, b, c]) as usize;
        connection.read_exact(&mut vec![0; length]).await?;
        if kind == DATA && length > 5 && seen.insert(call) {
            calls.send_modify(|calls| *calls += 1);
        } else if kind == DATA && length == 5 {
            answer(&mut connection, call).await?;
        }
    }
}

/// Answers a call with an empty message: its headers, the message, and that it went well (RFC 7541,
/// section 6.2.2, for fields that are no part of a table).
async fn answer(connection: &mut DuplexStream, call: [u8; 4]) -> io::Result<()> {
    const HEADERS: u8 = 1;
    const END_OF_HEADERS: u8 = 4;
    const END_OF_BOTH: u8 = 5;
    let field = |name: &str, value: &str| {
        let mut field = vec![0, name.len() as u8];
        field.extend(name.bytes());
        field.push(value.len() as u8);
        field.extend(value.bytes());
        field
    };
    // The first is `:status: 200`, which stands in the table.
    let headers = [vec![0x88], field("content-type", "application/grpc")].concat();
    for (kind, flags, payload) in [
        (HEADERS, END_OF_HEADERS, headers),
        (0, 0, vec![0; 5]),
        (HEADERS, END_OF_BOTH, field("grpc-status", "0")),
    ] {
        let head = [0, 0, payload.len() as u8, kind, flags];
        connection
            .write_all(&[&head, &call[..], &payload].concat())
            .await?;
    }
    Ok(())
}

struct Stalled {
    api: Api,
    calls: watch::Receiver<usize>,
}

impl Stalled {
    /// Sends a request whose client leaves when it has reached the agent.
    async fn leave(&mut self, path: &str, body: &Value) {
        self.calls.mark_unchanged();
        let api = &self.api;
        let request = api.request(&api.member, Method::POST, path).json(body);
        tokio::select! {
            early = request.send() => panic!("nobody was asked: {early:?}"),
            called = tokio::time::timeout(PATIENCE, self.calls.changed()) => {
                called.expect("it does not reach the agent").unwrap();
            }
        }
    }
}

async fn start(patience: Duration) -> Stalled {
    let mute = Mute::default();
    let calls = mute.calls.subscribe();
    let api = Api::set_up(|setup| {
        setup.channels = Some(Arc::new(mute));
        setup.workspace.agent_patience = patience;
        setup.workspace.max_calls_per_bot = 2;
        setup.workspace.max_streams_per_bot = 8;
        setup.http.max_text_bytes = 256 << 10;
        setup.http.max_json_bytes = 128 << 10;
        setup.http.max_reply_bytes = 256 << 10;
        // What these three need at least: 2.5 MiB.
        setup.http.max_memory_bytes = 0;
    })
    .await;
    Stalled { api, calls }
}

fn content() -> Value {
    json!({"path": "/data/x", "content": "x".repeat(256 << 10)})
}

#[tokio::test(flavor = "multi_thread")]
async fn what_takes_and_answers_nothing_is_not_waited_for() {
    let Stalled { api, .. } = start(Duration::from_millis(50)).await;
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
    let mut stalled = start(Duration::from_millis(100)).await;
    let bot = stalled.api.bot_with_workspace().await;
    let path = format!("{bot}/container/fs/delete");
    let body = json!({"path": "/a"});
    let third = loop {
        let api = &stalled.api;
        let request = api.request(&api.member, Method::POST, &path).json(&body);
        match request.timeout(Duration::from_millis(500)).send().await {
            Ok(_) => break api.post(&path, body.clone()).await,
            Err(left) => assert!(left.is_timeout()),
        }
    };
    let problem = third.expect_problem(429, "too_many_calls");
    assert!(problem["detail"].as_str().unwrap().contains("try again"));
    // Another workspace has its own.
    let other = stalled.api.bot_with_workspace().await;
    let other = format!("{other}/container/fs/delete");
    stalled.leave(&other, &body).await;
    let api = &stalled.api;
    // They end although nobody waits for them any more.
    let begun = Instant::now();
    while api.post(&path, body.clone()).await.status == 429 {
        assert!(begun.elapsed() < PATIENCE, "the places are not given back");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_in_memory_have_a_sum_of_which_nobody_has_more_than_half() {
    let mut stalled = start(Duration::from_secs(3)).await;
    let bot = stalled.api.bot_with_workspace().await;
    let path = format!("{bot}/container/fs/write");
    // What is handed to the workspace stays when its client leaves.
    stalled.leave(&path, &content()).await;
    stalled.leave(&path, &content()).await;
    let api = &stalled.api;
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
    let mut stalled = start(Duration::from_secs(30)).await;
    let body = json!({"metadata": {"note": "x".repeat(60 << 10)}});
    let large = stalled.api.post("/bots", body).await.expect(201);
    let large = format!("/bots/{}", large["id"].as_str().unwrap());
    let bot = stalled.api.bot_with_workspace().await;
    let path = format!("{bot}/container/fs/write");
    stalled.leave(&path, &content()).await;
    stalled.leave(&path, &content()).await;
    // It leaves less than the large bot takes.
    let rest = json!({"path": "/data/x", "content": "x".repeat(135 << 10)});
    stalled.leave(&path, &rest).await;
    let api = &stalled.api;
    // What can be asked for again is refused.
    let asked = [large.as_str(), "/bots"];
    let asked = futures_util::future::join_all(asked.map(|path| api.get(path)));
    let (reply, asked) = tokio::join!(api.post(&path, content()), asked);
    let problem = reply.expect_problem(503, "too_much_in_flight");
    assert_eq!(reply.header("retry-after"), "5");
    assert!(problem["detail"].as_str().unwrap().contains("try again"));
    for reply in asked {
        reply.expect_problem(503, "too_much_in_flight");
    }
    // What is done is told.
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
    api.get(&snapshots).await.expect(200);
    api.post(&snapshots, small).await.expect(201);
    let body = json!({"metadata": {"note": "x".repeat(30 << 10)}});
    let made = api
        .call(&api.other, Method::POST, "/bots", Some(body))
        .await;
    made.expect(201);
}
