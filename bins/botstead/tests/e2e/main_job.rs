//! The main job: create, run, measure, snapshot, roll back, stop, start, delete.

use crate::client::types;
use crate::server::{Server, busybox_image};
use botstead_image_fixtures::Registry;
use serde_json::json;
use std::time::Duration;

#[tokio::test]
async fn a_workspace_from_a_registry_lives_its_whole_life() {
    let server = Server::start().await;
    let client = &server.client;
    let registry = Registry::start().unwrap();
    let image = registry
        .push("test/bot", "1", &busybox_image())
        .await
        .unwrap();
    let bot = client.bot().await;
    let workspace = client.workspace(&bot);
    workspace.get().await.refused(404, "workspace_not_found");

    let events = workspace.create(json!({"image": image})).await;
    assert_eq!(
        types(&events),
        ["pulling", "pull_progress", "creating", "complete"]
    );
    let progress = events
        .iter()
        .rfind(|event| event["type"] == "pull_progress")
        .unwrap();
    for layer in progress["layers"].as_array().unwrap() {
        assert_eq!(layer["offset"], layer["total"], "{progress}");
    }
    let container = &events.last().unwrap()["container"];
    assert_eq!(container["container_id"], format!("workspace-{bot}"));
    assert_eq!(
        (&container["image"], &container["started"]),
        (&json!(image), &json!(true))
    );

    let info = workspace.info().await;
    assert_eq!(info["status"], "running");
    assert_eq!(
        (&info["reachable"], &info["legacy"]),
        (&json!(true), &json!(false))
    );
    let burn = "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; echo one > /data/file";
    workspace.sh(burn).await;
    tokio::time::sleep(Duration::from_millis(600)).await;
    workspace
        .client
        .get(&format!("{}/metrics", workspace.path))
        .await
        .ok();
    let metrics = workspace
        .client
        .get(&format!("{}/metrics", workspace.path))
        .await
        .ok();
    assert_eq!(
        metrics["status"],
        json!({"exists": true, "task_running": true})
    );
    assert!(
        metrics["metrics"]["cpu"]["usage_nanoseconds"]
            .as_u64()
            .unwrap()
            > 0
    );
    assert_eq!(
        metrics["metrics"]["memory"]["limit_bytes"],
        2_147_483_648_u64
    );

    assert_eq!(workspace.snapshot().await, 1);
    workspace
        .sh("echo two > /data/file; mkdir /data/later")
        .await;
    assert_eq!(workspace.snapshot().await, 2);
    workspace.sh("echo three > /data/file").await;
    let back = workspace.rollback(1).await;
    assert_eq!(back, json!({"rolled_back_to": 1, "safety_version": 3}));
    assert_eq!(workspace.sh("cat /data/file; ls /data").await, "one\nfile");
    workspace.rollback(3).await;
    assert_eq!(
        workspace.sh("cat /data/file; ls /data").await,
        "three\nfile\nlater"
    );

    assert_eq!(
        workspace.post("/stop", json!({})).await.ok(),
        json!({"stopped": true})
    );
    assert_eq!(workspace.info().await["status"], "stopped");
    workspace
        .exec(json!({"command": "true"}))
        .await
        .refused(409, "workspace_not_running");
    assert_eq!(
        workspace.post("/start", json!({})).await.ok(),
        json!({"started": true})
    );
    assert_eq!(workspace.sh("cat /data/file").await, "three");

    let path = format!("{}?delete_versions=true", workspace.path);
    assert_eq!(client.delete(&path).await.status, 204);
    assert_eq!(client.delete(&path).await.status, 204);
    assert_eq!(client.delete(&format!("/bots/{bot}")).await.status, 204);
    server.nothing_left().await;
}

#[tokio::test]
async fn a_workspace_is_a_computer_of_its_own() {
    let server = Server::start().await;
    let workspace = server.client.running().await;
    let other = server.client.running().await;
    let hostname = workspace.sh("hostname").await;
    assert!(hostname.starts_with("bot-"));
    assert_ne!(hostname, other.sh("hostname").await);
    let address = workspace
        .sh("ip -4 -o addr show eth0 | awk '{print $4}' | cut -d/ -f1")
        .await;
    assert!(
        workspace
            .sh("cat /etc/hosts")
            .await
            .contains(&format!("{address} {hostname}"))
    );
    let resolver = workspace.sh("cat /etc/resolv.conf").await;
    assert!(
        resolver.contains("nameserver") && !resolver.contains("127.0.0.53"),
        "{resolver}"
    );
    assert!(workspace.sh("ip route").await.contains("default via"));
    assert!(
        workspace
            .sh("cat /proc/1/cmdline")
            .await
            .contains("/run/botstead/agent")
    );

    // The host reaches the workspace; a neighbour does not.
    workspace
        .sh("echo hello > /tmp/index.html; httpd -p 8080 -h /tmp")
        .await;
    let page = reqwest::get(format!("http://{address}:8080/index.html"))
        .await
        .unwrap();
    assert_eq!(page.text().await.unwrap(), "hello\n");
    let blocked = format!("wget -T 2 -q -O - http://{address}:8080/index.html");
    let refused = other.exec(json!({"command": blocked})).await.ok();
    assert_ne!(refused["exit_code"], 0, "a neighbour reached the workspace");

    // The agent is a read-only file of the host, and the limits hold.
    let overwrite = workspace
        .exec(json!({"command": "echo x > /run/botstead/agent"}))
        .await
        .ok();
    assert_ne!(overwrite["exit_code"], 0);
    let fork_bomb =
        json!({"command": "for i in $(seq 3000); do sleep 30 & done", "timeout_seconds": 20});
    workspace.exec(fork_bomb).await.ok();
    assert!(workspace.info().await["reachable"].as_bool().unwrap());
}

#[tokio::test]
async fn commands_tell_how_they_ended() {
    let server = Server::start().await;
    let workspace = server.client.running().await;
    let code = async |command: serde_json::Value| {
        workspace.exec(json!({"command": command})).await.ok()["exit_code"]
            .as_u64()
            .unwrap()
    };
    assert_eq!(code(json!("exit 7")).await, 7);
    assert_eq!(code(json!(["/no/such/program"])).await, 127);
    assert_eq!(code(json!(["/etc/passwd"])).await, 126);
    assert_eq!(code(json!("kill -9 $$")).await, 137);

    let body = json!({"command": ["sh", "-c", "cat; echo $A; id -u; pwd; echo err >&2"],
        "stdin": "in\n", "env": {"A": "b"}, "user": "bot", "cwd": "/tmp"});
    let done = workspace.exec(body).await.ok();
    assert_eq!(done["stdout"], "in\nb\n1000\n/tmp\n");
    assert_eq!(done["stderr"], "err\n");

    let slow = json!({"command": "sleep 60 & sleep 60", "timeout_seconds": 1});
    let done = workspace.exec(slow).await.ok();
    assert_eq!(done["timed_out"], true);
    let flood = json!({"command": "head -c 3000000 /dev/zero | tr '\\0' x"});
    let done = workspace.exec(flood).await.ok();
    assert_eq!(
        (&done["truncated"], &done["exit_code"]),
        (&json!(true), &json!(0))
    );
    assert_eq!(done["stdout"].as_str().unwrap().len(), 1 << 20);
    assert_eq!(workspace.sh("ps | grep -c '[s]leep 60' || true").await, "0");
}
