//! Several callers at once, callers who leave, and pulls that hang.

use crate::client::types;
use crate::server::{IMAGE, Server, busybox_image};
use botstead_image_fixtures::{Compression, Fault, FaultyRegistry, random};
use serde_json::json;
use std::time::Duration;

#[tokio::test]
async fn two_creations_at_once_make_one_container_and_both_complete() {
    let server = Server::start().await;
    let workspace = server.client.workspace(&server.client.bot().await);
    let body = json!({"image": IMAGE});
    let (one, other) = tokio::join!(
        workspace.create(body.clone()),
        workspace.create(body.clone())
    );
    for events in [&one, &other] {
        assert_eq!(
            types(events),
            ["pulling", "creating", "complete"],
            "{events:?}"
        );
    }
    assert_eq!(server.leftovers().containers.len(), 1);
    assert_eq!(
        types(&workspace.create(json!({})).await),
        ["pulling", "creating", "complete"]
    );
    let refused = workspace
        .create(json!({"image": "localhost/test/other:1"}))
        .await;
    assert_eq!(
        (&refused[0]["status"], &refused[0]["code"]),
        (&json!(409), &json!("container_exists"))
    );
}

#[tokio::test]
async fn a_pull_goes_on_when_its_client_leaves() {
    let server = Server::start().await;
    // The connection breaks twice in the middle of a layer; the pull goes on where it was.
    let registry = FaultyRegistry::start(&busybox_image(), Fault::CutBlob(2))
        .await
        .unwrap();
    let workspace = server.client.workspace(&server.client.bot().await);
    workspace
        .create_and_leave(json!({"image": registry.reference("test/slow")}))
        .await;
    workspace.reachable().await;
    assert_eq!(workspace.sh("cat /etc/motd").await, "third layer");
}

#[tokio::test]
async fn deleting_the_operation_ends_a_hung_pull_and_leaves_nothing() {
    let server = Server::start().await;
    let registry = FaultyRegistry::start(&busybox_image(), Fault::HangBlob)
        .await
        .unwrap();
    let workspace = server.client.workspace(&server.client.bot().await);
    let body = json!({"image": registry.reference("test/hang")});
    let cancel = async {
        let id = workspace.cancellable().await;
        let path = format!("/bots/{}/operations/{id}", workspace.bot);
        let other = workspace.create(json!({"image": IMAGE})).await;
        assert_eq!(other[0]["code"], "creation_under_way");
        server.client.delete(&path).await.ok();
        path
    };
    let (events, path) = tokio::join!(workspace.create(body), cancel);
    let last = events.last().unwrap();
    assert_eq!(
        (&last["type"], &last["code"]),
        (&json!("error"), &json!("cancelled")),
        "{events:?}"
    );
    let operation = server.client.get(&path).await.ok();
    assert_eq!(operation["state"], "cancelled");
    server
        .client
        .delete(&path)
        .await
        .refused(409, "not_cancellable");
    workspace.get().await.refused(404, "workspace_not_found");
    tokio::time::sleep(Duration::from_millis(200)).await;
    server.collect_garbage();
    server.leftovers().assert_none();
}

#[tokio::test]
async fn a_server_told_to_end_during_a_pull_ends_and_undoes_it_later() {
    let mut server = Server::start().await;
    // Nothing of it is here already.
    let image = random(1, 1 << 20, 10, Compression::Gzip).unwrap();
    let registry = FaultyRegistry::start(&image, Fault::HangBlob)
        .await
        .unwrap();
    let workspace = server.client.workspace(&server.client.bot().await);
    workspace
        .create_and_leave(json!({"image": registry.reference("test/hang")}))
        .await;
    workspace.cancellable().await;
    let took = server.terminate();
    assert!(took < Duration::from_secs(90), "{took:?}");
    server.run(&[]).await;
    let workspace = server.client.workspace(&workspace.bot);
    workspace.get().await.refused(404, "workspace_not_found");
    let events = workspace.create(json!({"image": IMAGE})).await;
    assert_eq!(events.last().unwrap()["type"], "complete");
}

#[tokio::test]
async fn a_slow_operation_on_one_bot_does_not_delay_another() {
    let server = Server::start().await;
    let registry = FaultyRegistry::start(&busybox_image(), Fault::HangAll)
        .await
        .unwrap();
    let slow = server.client.workspace(&server.client.bot().await);
    slow.create_and_leave(json!({"image": registry.reference("test/hang")}))
        .await;
    let other = server.client.running().await;
    assert_eq!(other.snapshot().await, 1);
    let id = slow.cancellable().await;
    server
        .client
        .delete(&format!("/bots/{}/operations/{id}", slow.bot))
        .await
        .ok();
}
