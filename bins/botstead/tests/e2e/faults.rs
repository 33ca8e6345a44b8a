//! The server is killed at every fault point of every operation: after a restart the workspace is
//! in the state before or the state after, no version is lost and nothing is left over.

use crate::client::Workspace;
use crate::server::{IMAGE, Server};
use botstead_workspace::FAULT_POINTS;
use serde_json::json;
use std::time::Duration;

const ARMED: &str = "BOTSTEAD_FAULT_POINT";

#[tokio::test]
async fn a_kill_at_any_fault_point_loses_nothing() {
    let mut server = Server::start().await;
    let mut died = 0;
    for point in FAULT_POINTS {
        server.terminate();
        server.run(&[]).await;
        let operation = point.split('.').next().unwrap();
        let workspace = server.client.workspace(&server.client.bot().await);
        if operation != "create" {
            prepare(
                &workspace,
                *point == "rollback.removed" || *point == "rollback.stopped",
            )
            .await;
        }
        server.terminate();
        server.run(&[(ARMED, point)]).await;
        let armed = server.client.workspace(&workspace.bot);
        let performed = tokio::spawn(async move { perform(&armed, point).await });
        if server.died(Duration::from_secs(20)).await {
            died += 1;
            performed.abort();
        } else {
            panic!("{point} was not reached: {:?}", performed.await);
        }
        server.run(&[]).await;
        let workspace = server.client.workspace(&workspace.bot);
        check(&server, &workspace, point).await;
        let gone = server
            .client
            .delete(&format!("/bots/{}", workspace.bot))
            .await;
        assert_eq!(gone.status, 204, "{point}: {gone:?}");
        server.collect_garbage();
        server.leftovers().assert_none();
    }
    println!("killed at {died} of {} fault points", FAULT_POINTS.len());
    assert_eq!(died, FAULT_POINTS.len());
}

/// Version 1 holds `one`. The present state holds `two`, or is exactly version 1 and stopped.
async fn prepare(workspace: &Workspace, unchanged: bool) {
    let events = workspace.create(json!({"image": IMAGE})).await;
    assert_eq!(events.last().unwrap()["type"], "complete", "{events:?}");
    workspace.sh("echo one > /data/file").await;
    if unchanged {
        workspace.post("/stop", json!({})).await.ok();
        workspace.snapshot().await;
    } else {
        workspace.snapshot().await;
        workspace.sh("echo two > /data/file").await;
    }
}

async fn perform(workspace: &Workspace, point: &str) {
    let (operation, _) = point.split_once('.').unwrap();
    let path = match operation {
        "create" => {
            workspace
                .create_and_wait_for_end(json!({"image": IMAGE}))
                .await;
            return;
        }
        "snapshot" => "/snapshots",
        "rollback" => "/snapshots/rollback",
        _ => "?delete_versions=true",
    };
    workspace.send_and_ignore(path, operation == "delete").await;
}

async fn check(server: &Server, workspace: &Workspace, point: &str) {
    let (operation, _) = point.split_once('.').unwrap();
    let listed = server
        .client
        .get(&format!("/bots/{}/operations", workspace.bot))
        .await
        .ok();
    let unfinished = listed["items"]
        .as_array()
        .unwrap()
        .iter()
        .find(|o| o["state"] == "running");
    assert!(unfinished.is_none(), "{point}: {unfinished:?}");
    let tree = server
        .client
        .get(&format!("{}/snapshots/tree", workspace.path))
        .await
        .ok();
    let versions = tree["versions"].as_array().unwrap().len();
    let exists = workspace.get().await.status == 200;
    match operation {
        "create" => {
            if !exists {
                server.collect_garbage();
                server.leftovers().assert_none();
                let events = workspace.create(json!({"image": IMAGE})).await;
                assert_eq!(
                    events.last().unwrap()["type"],
                    "complete",
                    "{point}: {events:?}"
                );
            }
            workspace.reachable().await;
            workspace.sh("true").await;
            return;
        }
        "delete" => {
            assert!(!exists, "{point}: a deletion goes forward");
            assert_eq!(versions, 0, "{point}");
            return;
        }
        _ => assert!(exists, "{point}"),
    }
    server.collect_garbage();
    let leases = server.leftovers().leases;
    assert!(leases.is_empty(), "{point}: {leases:?}");
    workspace.post("/start", json!({})).await.ok();
    workspace.reachable().await;
    let now = workspace.sh("cat /data/file").await;
    match operation {
        "snapshot" => {
            assert_eq!(now, "two", "{point}");
            assert_eq!(versions, 2, "{point}: a snapshot that began is finished");
            workspace.rollback(2).await;
            assert_eq!(workspace.sh("cat /data/file").await, "two", "{point}");
        }
        _ => assert_eq!(now, "one", "{point}: a rollback that began is finished"),
    }
    workspace.rollback(1).await;
    assert_eq!(workspace.sh("cat /data/file").await, "one", "{point}");
    if operation == "rollback" && versions == 2 {
        workspace.rollback(2).await;
        assert_eq!(
            workspace.sh("cat /data/file").await,
            "two",
            "{point}: the safety version"
        );
    }
}
