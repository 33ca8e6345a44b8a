//! What a deactivated user has open ends: terminals, followed commands, watches.

use crate::client::Client;
use crate::server::Server;
use reqwest::Method;
use serde_json::json;
use std::time::Duration;

/// Without the end of the session nothing here would end.
const PATIENCE: Duration = Duration::from_secs(20);

#[tokio::test]
async fn terminals_and_streams_end_with_their_user() {
    let server = Server::start().await;
    let admin = &server.client;
    let new = json!({"username": "ann", "password": "correct horse"});
    let ann = admin.post("/users", new).await.ok();
    let ann = format!("/users/{}", ann["id"].as_str().unwrap());
    let client = Client::login(server.url(), "ann", "correct horse").await;
    let workspace = client.running().await;

    let mut terminal = workspace.terminal("").await;
    terminal.send("echo it-$((1+1))\r").await;
    terminal.shows("it-2").await;
    let sleep = json!({"command": "echo begun; sleep 600", "detach": true});
    let started = workspace.exec(sleep).await.ok();
    let exec = started["exec_id"].as_str().unwrap();
    let mut open = Vec::new();
    for path in [
        format!("exec/{exec}?follow=true"),
        "fs/watch?path=/data".to_owned(),
    ] {
        let request = client.request(Method::GET, &format!("{}/{path}", workspace.path));
        let request = request.header("accept", "text/event-stream");
        let mut stream = request.send().await.unwrap();
        stream.chunk().await.unwrap().unwrap();
        open.push(stream);
    }

    let request = admin.request(Method::PATCH, &ann);
    let changed = request.json(&json!({"is_active": false})).send().await;
    assert_eq!(changed.unwrap().status(), 200);
    let closed = tokio::time::timeout(PATIENCE, terminal.closed()).await;
    // RFC 6455, section 7.4.1: a policy was violated.
    assert_eq!(closed.expect("the terminal goes on"), Some(1008));
    for stream in open {
        let text = tokio::time::timeout(PATIENCE, stream.text()).await;
        let text = text.expect("the stream goes on").unwrap();
        assert!(text.contains("session_ended"), "{text}");
    }
}
