//! Outputs of commands: long ones, late ones, those that are followed and those that are kept.

use crate::server::Server;
use reqwest::Method;
use serde_json::json;

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
