//! Outputs of commands: long ones, late ones, those that are followed and those that are kept.

use crate::server::Server;
use futures_util::StreamExt;
use reqwest::Method;
use serde_json::{Value, json};

#[tokio::test]
async fn both_ends_of_a_long_output_are_given_and_how_much_lies_between() {
    let server = Server::start().await;
    let workspace = server.client.running().await;
    // 2,888,895 bytes, of which the gap begins and ends within a line.
    let line = "seq 400000 | sed 's/$/\u{e4}/'; echo small >&2";
    let whole: String = (1..=400_000).map(|n| format!("{n}\u{e4}\n")).collect();
    let body = json!({"command": line});
    let here = workspace.exec(body.clone()).await.ok();
    let mut detached = body.clone();
    detached["detach"] = json!(true);
    let started = workspace.exec(detached).await.ok();
    let id = started["exec_id"].as_str().unwrap();
    let path = format!("{}/exec/{id}?follow=true", workspace.path);
    let later = workspace.client.get(&path).await.ok();
    for done in [here, later] {
        assert_eq!(
            (&done["exit_code"], &done["truncated"]),
            (&json!(0), &json!(true))
        );
        assert_eq!(done["stderr"], "small\n");
        assert!(
            done.get("stderr_omitted_bytes").is_none() && done.get("stderr_omitted_at").is_none()
        );
        let stdout = done["stdout"].as_str().unwrap();
        let number = |field: &str| usize::try_from(done[field].as_u64().unwrap()).unwrap();
        let (omitted, at) = (number("stdout_omitted_bytes"), number("stdout_omitted_at"));
        assert_eq!(stdout.len() + omitted, whole.len());
        // Within three bytes of a MiB: a character is not cut.
        assert!(
            ((1 << 20) - 6..=1 << 20).contains(&stdout.len()),
            "{}",
            stdout.len()
        );
        let (first, last) = (&stdout[..at], &stdout[at..]);
        assert!(whole.starts_with(first) && whole.ends_with(last));
    }
    let mut body = body;
    body["encoding"] = json!("base64");
    let done = workspace.exec(body).await.ok();
    assert_eq!(done["stdout_omitted_at"], 512 << 10);
    assert_eq!(done["stdout_omitted_bytes"], whole.len() - (1 << 20));
    // What fits has no gap.
    let done = workspace
        .exec(json!({"command": "head -c 1048576 /dev/zero"}))
        .await
        .ok();
    assert_eq!(done["truncated"], false);
    assert!(done.get("stdout_omitted_bytes").is_none());
}

/// An event of a command with its id.
fn numbered(text: &str) -> Vec<(String, Value)> {
    let frames = text.split("\n\n").filter_map(|frame| {
        let (id, data) = frame.strip_prefix("id: ")?.split_once("\ndata: ")?;
        Some((id.to_owned(), serde_json::from_str(data).unwrap()))
    });
    frames.collect()
}

#[tokio::test]
async fn who_follows_goes_on_where_they_were() {
    let server = Server::start().await;
    let workspace = server.client.running().await;
    let client = &workspace.client;
    // Lines to both outputs, some at once and some with pauses, so that streams break off anywhere.
    let line = "n=0; while [ $n -lt 600 ]; do n=$((n+1)); echo out $n; echo err $n >&2; \
                [ $((n % 7)) != 0 ] || sleep 0.02; done; exit 3";
    let started = workspace
        .exec(json!({"command": line, "detach": true}))
        .await
        .ok();
    let id = started["exec_id"].as_str().unwrap().to_owned();
    let path = |rest: &str| format!("{}/exec/{id}{rest}", workspace.path);
    let events = |last: Option<&str>| {
        let request = client.request(Method::GET, &path("?follow=true"));
        let request = request.header("accept", "text/event-stream");
        match last {
            Some(last) => request.header("last-event-id", last),
            None => request,
        }
    };
    let (mut all, mut streams) = (Vec::<(String, Value)>::new(), 0);
    while all.last().is_none_or(|(_, event)| event["type"] != "exit") {
        let last = all.last().map(|(id, _)| id.as_str());
        let answer = events(last).send().await.unwrap();
        assert_eq!(answer.status(), 200, "after {last:?}");
        let mut stream = answer.bytes_stream();
        let mut text = String::new();
        // Some events, and then the connection is gone.
        while numbered(&text).len() < 5 {
            let Some(bytes) = stream.next().await else {
                break;
            };
            text.push_str(&String::from_utf8_lossy(&bytes.unwrap()));
        }
        let whole = text.rfind("\n\n").map_or("", |end| &text[..end + 2]);
        all.extend(numbered(whole));
        streams += 1;
    }
    assert!(streams > 5, "{streams}");
    let is = |kind: &str| {
        all.iter()
            .filter(|(_, event)| event["type"] == kind)
            .count()
    };
    assert_eq!((is("started"), is("skipped"), is("exit")), (1, 0, 1));
    let output = |kind: &str| -> String {
        use base64::Engine;
        let engine = base64::engine::general_purpose::STANDARD;
        let parts = all.iter().filter(|(_, event)| event["type"] == kind);
        let bytes =
            parts.flat_map(|(_, event)| engine.decode(event["data"].as_str().unwrap()).unwrap());
        String::from_utf8(bytes.collect()).unwrap()
    };
    let expected = |word: &str| {
        (1..=600)
            .map(|n| format!("{word} {n}\n"))
            .collect::<String>()
    };
    assert_eq!(output("stdout"), expected("out"));
    assert_eq!(output("stderr"), expected("err"));
    // Who has had the end gets no more.
    let (last, exit) = all.last().unwrap();
    assert_eq!(exit["exit_code"], 3);
    let again = events(Some(last)).send().await.unwrap();
    assert_eq!(again.status(), 204);
    // In replies the place is given by an offset.
    let length = |word: &str| expected(word).len();
    let (out, err) = (length("out"), length("err"));
    let done = client.get(&path("")).await.ok();
    assert_eq!(done["next_offset"], format!("{out}-{err}"));
    let done = client
        .get(&path(&format!("?offset={}-{err}", out - 8)))
        .await
        .ok();
    assert_eq!(
        (&done["stdout"], &done["stderr"]),
        (&json!("out 600\n"), &json!(""))
    );
    client
        .get(&path(&format!("?offset={}-0", out + 1)))
        .await
        .refused(400, "invalid_value");
    for bad in ["7", "a-b", "1-2-end", "-1-0"] {
        let answer = client.get(&path(&format!("?offset={bad}"))).await;
        assert_eq!(answer.status, 400, "{bad}: {answer:?}");
    }
    let answer = events(Some("what")).send().await.unwrap();
    assert_eq!(answer.status(), 400);
    // What is kept no more is counted.
    let body = json!({"command": "head -c 3000000 /dev/zero", "detach": true});
    let started = workspace.exec(body).await.ok();
    let path = format!(
        "{}/exec/{}",
        workspace.path,
        started["exec_id"].as_str().unwrap()
    );
    client.get(&format!("{path}?follow=true")).await.ok();
    let done = client.get(&format!("{path}?offset=1000000-0")).await.ok();
    assert_eq!(done["stdout_omitted_bytes"], 2_000_000 - (1 << 20));
    assert_eq!(
        (&done["stdout_omitted_at"], &done["next_offset"]),
        (&json!(0), &json!("3000000-0"))
    );
    let request = client.request(Method::GET, &path);
    let request = request.header("accept", "text/event-stream");
    let answer = request.header("last-event-id", "1000000-0").send().await;
    let events = numbered(&answer.unwrap().text().await.unwrap());
    let (id, first) = &events[0];
    let skipped = json!({"type": "skipped", "stream": "stdout", "bytes": 2_000_000 - (1 << 20)});
    assert_eq!((first, id.as_str()), (&skipped, "1951424-0"));
    assert_eq!(events.last().unwrap().0, "3000000-0-end");
}

#[tokio::test]
async fn commands_that_ended_are_kept_in_great_number() {
    let server = Server::start().await;
    let workspace = server.client.running().await;
    let mut ids = Vec::new();
    for number in 0..150 {
        let body =
            json!({"command": format!("echo {number}; exit {}", number % 9), "detach": true});
        let started = workspace.exec(body).await.ok();
        ids.push(started["exec_id"].as_str().unwrap().to_owned());
    }
    for (number, id) in ids.iter().enumerate() {
        let path = format!("{}/exec/{id}?follow=true", workspace.path);
        let done = workspace.client.get(&path).await.ok();
        assert_eq!(
            (&done["stdout"], &done["exit_code"]),
            (&json!(format!("{number}\n")), &json!(number % 9))
        );
    }
    let listed = workspace
        .client
        .get(&format!("{}/exec", workspace.path))
        .await;
    assert_eq!(listed.ok()["items"].as_array().unwrap().len(), 150);
}

#[tokio::test]
async fn output_that_may_follow_after_the_end_is_said_to() {
    let server = Server::start().await;
    let workspace = server.client.running().await;
    let line = "echo first; (sleep 60; echo late) & :";
    let done = workspace.exec(json!({"command": line})).await.ok();
    assert_eq!(
        (&done["stdout"], &done["output_incomplete"]),
        (&json!("first\n"), &json!(true))
    );
    let started = workspace
        .exec(json!({"command": line, "detach": true}))
        .await;
    let id = started.ok()["exec_id"].as_str().unwrap().to_owned();
    let path = format!("{}/exec/{id}?follow=true", workspace.path);
    let done = workspace.client.get(&path).await.ok();
    assert_eq!(done["output_incomplete"], true, "{done}");
    let request = workspace.client.request(Method::GET, &path);
    let answer = request.header("accept", "text/event-stream").send().await;
    let text = answer.unwrap().text().await.unwrap();
    assert!(text.contains("\"output_incomplete\":true"), "{text}");
    // What has its output elsewhere holds nothing open.
    let line = "sleep 60 >/dev/null 2>&1 & echo all";
    let done = workspace.exec(json!({"command": line})).await.ok();
    assert_eq!(done["stdout"], "all\n");
    assert!(done.get("output_incomplete").is_none(), "{done}");
}
