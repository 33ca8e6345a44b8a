//! Bodies: what is wrong with one is said in plain words, and fields of our own are not passed over.

use crate::support::Api;
use reqwest::Method;
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_body_is_said_in_plain_words() {
    let api = Api::start().await;
    let container = format!("{}/container", api.bot().await);
    let rollback = format!("{container}/snapshots/rollback");
    for (path, body, expected) in [
        (
            &container,
            json!({"limits": 7}),
            "limits: invalid type: integer `7`, expected an object",
        ),
        (
            &container,
            json!({"limits": {"pids": "x"}}),
            "limits.pids: invalid type: string \"x\", expected a whole number that is not negative",
        ),
        (
            &container,
            json!({"limits": {"memory": 1}}),
            "limits.memory: unknown field `memory`",
        ),
        (
            &"/bots".to_owned(),
            json!(["name"]),
            "a JSON object is expected",
        ),
        (
            &rollback,
            json!({"version": {}}),
            "version: invalid type: object, expected a whole number",
        ),
    ] {
        let reply = api.post(path, body).await;
        let problem = reply.expect_problem(400, "invalid_body");
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.contains(expected), "{detail}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mistyped_field_is_refused_by_name_with_the_right_one() {
    let api = Api::start().await;
    let container = format!("{}/container", api.bot().await);
    for (path, body, meant) in [
        ("", json!({"imag": "a/b:1"}), "image"),
        (
            "/exec",
            json!({"command": "x", "timeout": 1}),
            "timeout_seconds",
        ),
        ("/snapshots", json!({"snapshot_nam": "x"}), "snapshot_name"),
        (
            "/snapshots/rollback",
            json!({"version": 1, "dryrun": true}),
            "dry_run",
        ),
        (
            "/snapshots/1/restore-path",
            json!({"path": "/x", "targt": "/y"}),
            "target",
        ),
        ("/fork", json!({"from": "x"}), "from_bot"),
    ] {
        let reply = api.post(&format!("{container}{path}"), body).await;
        let problem = reply.expect_problem(400, "invalid_body");
        let detail = problem["detail"].as_str().unwrap();
        let expected = format!("did you mean `{meant}`?");
        assert!(detail.contains(&expected), "{path}: {detail}");
    }
}

/// serde_json reads an object whose first key is this as what its string says.
#[tokio::test(flavor = "multi_thread")]
async fn no_key_of_a_body_means_anything_to_the_library_that_reads_it() {
    let api = Api::start().await;
    let bot = api.bot().await;
    for (key, value) in [
        ("$serde_json::private::RawValue", json!("[{\"\":0}]")),
        ("$serde_json::private::RawValue", json!("x")),
        ("$serde_json::private::Number", json!("1")),
    ] {
        for metadata in [
            json!({"a": {key: value}}),
            json!({"workspace": {"a": 1, key: value}}),
            json!({key: value}),
        ] {
            let body = json!({"metadata": metadata});
            let reply = api.call(&api.member, Method::PATCH, &bot, Some(body.clone()));
            let problem = reply.await.expect_problem(400, "invalid_body");
            let detail = problem["detail"].as_str().unwrap();
            assert!(detail.contains("a key must not begin"), "{detail}");
            let reply = api.post("/bots", body).await;
            reply.expect_problem(400, "invalid_body");
        }
    }
    let kept = api.get(&bot).await.expect(200);
    assert_eq!(kept["metadata"], json!({}));
}
