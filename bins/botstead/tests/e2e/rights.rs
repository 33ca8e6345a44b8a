//! File calls with the rights of a user inside.

use crate::server::Server;
use reqwest::Method;
use serde_json::json;

#[tokio::test]
async fn calls_on_files_take_the_rights_of_a_user() {
    let server = Server::start().await;
    let workspace = server.client.running().await;
    let client = &workspace.client;
    workspace
        .sh("mkdir -p -m 755 /vault; printf needle > /vault/secret; chmod 600 /vault/secret; mkdir -m 777 /vault/drop")
        .await;
    let secret = |user: &str| workspace.fs(&format!("/read?path=/vault/secret&user={user}"));
    let refused = client.get(&secret("1000:1000")).await;
    assert_eq!(
        refused.body["detail"],
        "cannot read /vault/secret: the user 1000:1000 may not do that"
    );
    refused.refused(403, "permission_denied");
    assert_eq!(client.get(&secret("0")).await.ok()["content"], "needle");
    client
        .get(&secret("nobody-here"))
        .await
        .refused(422, "no_such_user");
    for (call, body) in [
        (
            "/fs/write",
            json!({"path": "/vault/drop/a", "content": "x", "user": "1000:1000"}),
        ),
        (
            "/fs/mkdir",
            json!({"path": "/vault/drop/d", "user": "1000:1000"}),
        ),
        (
            "/fs/copy",
            json!({"oldPath": "/vault/drop/a", "newPath": "/vault/drop/b", "user": "1000:1000"}),
        ),
    ] {
        workspace.post(call, body).await.ok();
    }
    let form = reqwest::multipart::Form::new()
        .text("path", "/vault/drop/up")
        .text("user", "1000:1000")
        .part("file", reqwest::multipart::Part::bytes(b"x".to_vec()));
    let request = client.request(Method::POST, &workspace.fs("/upload"));
    let uploaded = request.multipart(form).send().await.unwrap();
    assert_eq!(uploaded.status().as_u16(), 200);
    let owners = workspace.sh("cd /vault/drop; stat -c '%n %u:%g' *").await;
    assert_eq!(
        owners,
        "a 1000:1000\nb 1000:1000\nd 1000:1000\nup 1000:1000"
    );
    for (call, body) in [
        (
            "/fs/write",
            json!({"path": "/vault/secret", "content": "x", "user": "1000"}),
        ),
        ("/fs/mkdir", json!({"path": "/etc/d", "user": "1000"})),
        (
            "/fs/delete",
            json!({"path": "/vault/secret", "user": "1000"}),
        ),
        (
            "/fs/chmod",
            json!({"path": "/vault/secret", "mode": "0644", "user": "1000"}),
        ),
        (
            "/fs/rename",
            json!({"oldPath": "/vault/secret", "newPath": "/vault/drop/s", "user": "1000"}),
        ),
    ] {
        workspace
            .post(call, body)
            .await
            .refused(403, "permission_denied");
    }
    let found = client
        .get(&workspace.fs("/search?path=/vault&pattern=needle&user=1000"))
        .await
        .ok();
    assert_eq!(found["matches"], json!([]));
    assert_eq!(
        found["skipped"],
        json!([{"path": "/vault/secret", "reason": "unreadable"}])
    );
    let download = workspace
        .fetch("/download?path=/vault/secret&user=1000", &[])
        .await;
    assert_eq!(download.status().as_u16(), 403);
    // Nobody inside can trace the agent, which did all this.
    let traced = workspace
        .exec(json!({"command": "cat /proc/1/environ"}))
        .await
        .ok();
    assert_ne!(traced["exit_code"], 0);
}
