//! What is not lost: versions through collections, workspaces through the deaths of server and
//! containerd.

use crate::server::{Server, signal};
use serde_json::json;

#[tokio::test]
async fn versions_off_the_active_chain_survive_collection_and_a_restart_of_containerd() {
    let server = Server::start().await;
    let workspace = server.client.running().await;
    for content in ["one", "two", "three"] {
        workspace.sh(&format!("echo {content} > /data/file")).await;
        workspace.snapshot().await;
    }
    workspace.rollback(1).await;
    server.collect_garbage();
    signal(server.containerd(), "KILL");
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    workspace.reachable().await;
    server.collect_garbage();
    workspace.rollback(3).await;
    assert_eq!(workspace.sh("cat /data/file").await, "three");
}

#[tokio::test]
async fn workspaces_go_on_when_server_and_containerd_are_killed() {
    let mut server = Server::start().await;
    let runs = server.client.running().await;
    let stopped = server.client.running().await;
    stopped.post("/stop", json!({})).await.ok();
    runs.sh("(i=0; while true; do i=$((i+1)); echo $i > /data/next; mv /data/next /data/beat; sleep 0.1; done) > /dev/null 2>&1 & echo $! > /data/pid")
        .await;

    server.kill();
    server.run(&[]).await;
    let runs = server.client.workspace(&runs.bot);
    runs.reachable().await;
    let alive = "kill -0 $(cat /data/pid) && a=$(cat /data/beat) && sleep 0.5 && [ $a != $(cat /data/beat) ]";
    runs.sh(alive).await;

    let before = server.containerd();
    signal(before, "KILL");
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    runs.reachable().await;
    assert_ne!(server.containerd(), before);
    runs.sh(alive).await;

    // Both at once.
    signal(server.containerd(), "KILL");
    server.kill();
    server.run(&[]).await;
    let runs = server.client.workspace(&runs.bot);
    runs.reachable().await;
    runs.sh(alive).await;
    let stopped = server.client.workspace(&stopped.bot);
    assert_eq!(stopped.info().await["status"], "stopped");
}

#[tokio::test]
async fn a_workspace_whose_first_process_dies_is_started_again() {
    let server = Server::start().await;
    let workspace = server.client.running().await;
    workspace.sh("echo kept > /data/file").await;
    let tasks = server.ctr(&["tasks", "list", "--quiet"]);
    server.ctr(&["tasks", "kill", "--signal", "SIGKILL", tasks.trim()]);
    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    workspace.reachable().await;
    assert_eq!(workspace.sh("cat /data/file").await, "kept");
}

#[tokio::test]
async fn long_chains_are_merged_and_every_version_stays_right() {
    let server = Server::start().await;
    let workspace = server.client.running().await;
    workspace.post("/stop", json!({})).await.ok();
    workspace.post("/start", json!({})).await.ok();
    for round in 1..=40 {
        let gone = round - 3;
        workspace
            .sh(&format!(
                "echo {round} > /data/last; echo {round} > /data/f{round}; rm -f /data/f{gone}"
            ))
            .await;
        assert_eq!(workspace.snapshot().await, round as u64);
    }
    let layers = workspace
        .sh("grep ' / overlay' /proc/mounts | tr ',:' '\\n\\n' | grep -c /fs")
        .await;
    let layers: u32 = layers.parse().unwrap();
    assert!(layers < 40, "{layers} directories are mounted");
    for version in [40, 33, 32, 31, 7] {
        workspace.rollback(version).await;
        assert_eq!(workspace.sh("cat /data/last").await, version.to_string());
        let files = workspace.sh("ls /data | grep -c '^f'").await;
        assert_eq!(files, "3", "version {version}");
    }
}
