//! Bodies: what is wrong with one is said in plain words, and fields of our own are not passed over.

use crate::support::Api;
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
