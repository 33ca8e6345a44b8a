//! The server and the service manager of its host: it says when it is ready, and at a shutdown of the
//! host, but not of the server alone, workspaces are stopped.

use crate::server::Server;
use serde_json::json;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::Duration;

/// Makes `systemctl` say that the system is in this state, for servers with this search path.
fn system_is(folder: &Path, state: &str) -> String {
    std::fs::create_dir_all(folder).unwrap();
    let program = folder.join("systemctl");
    let text = format!("#!/bin/sh\n[ \"$1\" = is-system-running ] && echo {state}\nexit 1\n");
    std::fs::write(&program, text).unwrap();
    std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
    format!("{}:{}", folder.display(), std::env::var("PATH").unwrap())
}

#[tokio::test]
async fn the_service_manager_hears_that_it_is_ready_when_it_answers() {
    let mut server = Server::start().await;
    server.terminate();
    let path = server.beside("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager
        .set_read_timeout(Some(Duration::from_secs(60)))
        .unwrap();
    let hear = || {
        let mut message = [0; 512];
        let length = manager
            .recv(&mut message)
            .expect("nothing was said within a minute");
        String::from_utf8(message[..length].to_vec()).unwrap()
    };
    server.spawn(&[("NOTIFY_SOCKET", path.to_str().unwrap())]);
    assert_eq!(hear(), "READY=1");
    assert!(server.stranger().is_ready().await, "it does not answer");
    server.terminate();
    let end = hear();
    assert!(end.starts_with("STOPPING=1\nEXTEND_TIMEOUT_USEC="), "{end}");
}

#[tokio::test]
async fn workspaces_are_stopped_in_order_when_the_host_shuts_down_and_run_again_after_it() {
    let mut server = Server::start().await;
    let tools = server.beside("tools");
    let path = system_is(&tools, "running");
    server.terminate();
    server.run(&[("PATH", &path)]).await;
    let runs = server.client.running().await;
    let stopped = server.client.running().await;
    stopped.post("/stop", json!({})).await.ok();
    // A database that is asked to end puts itself in order first.
    runs.sh("(trap 'sleep 0.5; echo whole > /data/base; exit' TERM; echo > /data/runs; while true; do sleep 0.05; done) > /dev/null 2>&1 &")
        .await;
    runs.sh("until [ -e /data/runs ]; do sleep 0.02; done")
        .await;

    // The server alone: nothing is stopped.
    let tasks = server.ctr(&["tasks", "list"]);
    server.terminate();
    assert_eq!(server.ctr(&["tasks", "list"]), tasks);
    server.run(&[("PATH", &path)]).await;
    let runs = server.client.workspace(&runs.bot);
    assert_eq!(runs.sh("cat /data/base || echo none").await, "none");

    // The host, in the middle of a command.
    system_is(&tools, "stopping");
    let waits = runs.clone();
    let waits = tokio::spawn(async move {
        let body = json!({"command": "echo > /data/waits; sleep 600"});
        waits.post("/exec", body).await
    });
    runs.sh("until [ -e /data/waits ]; do sleep 0.02; done")
        .await;
    server.terminate();
    let waited = waits.await.unwrap();
    assert_eq!(waited.body["exit_code"].as_i64(), Some(143), "{waited:?}");
    assert!(server.nothing_runs(), "{}", server.log());
    assert_eq!(server.mounts(), [""; 0]);

    // They are as their users want them when the host is there again.
    system_is(&tools, "running");
    server.run(&[("PATH", &path)]).await;
    let runs = server.client.workspace(&runs.bot);
    assert_eq!(runs.sh("cat /data/base").await, "whole");
    let stopped = server.client.workspace(&stopped.bot);
    assert_eq!(stopped.info().await["status"], "stopped");
}
