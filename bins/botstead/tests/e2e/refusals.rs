//! What cannot work gets a clear error and leaves nothing behind.

use crate::client::Client;
use crate::disk::{Disk, make_room};
use crate::server::{IMAGE, Server, folder};
use botstead_image_fixtures::{Compression, Fault, FaultyRegistry, Image, random};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// An image of 8 MiB that no server has.
fn unknown_image() -> Image {
    random(1, 8 << 20, 7, Compression::None).unwrap()
}

/// The last event of a creation, which must be an error.
async fn failure(server: &Server, image: &str) -> Value {
    let workspace = server.client.workspace(&server.client.bot().await);
    let events = workspace.create(json!({"image": image})).await;
    let last = events.last().unwrap().clone();
    assert_eq!(last["type"], "error", "{events:?}");
    workspace.get().await.refused(404, "workspace_not_found");
    last
}

#[tokio::test]
async fn images_that_cannot_be_had_are_named_with_the_reason() {
    let server = Server::start().await;
    for (fault, code) in [
        (Fault::NotFound, "image_not_found"),
        (Fault::Unauthorized, "registry_denied"),
        (Fault::WrongBlob, "content_corrupt"),
        (Fault::WrongManifest, "content_corrupt"),
    ] {
        // Not the image that is local: what is here already is not downloaded.
        let registry = FaultyRegistry::start(&unknown_image(), fault)
            .await
            .unwrap();
        let image = registry.reference("test/bad");
        let last = failure(&server, &image).await;
        assert_eq!(last["code"], code, "{fault:?}: {last}");
        assert!(last["message"].as_str().unwrap().contains(&image), "{last}");
    }
    let last = failure(&server, "127.0.0.1:1/test/nobody:1").await;
    assert_eq!(last["code"], "registry_unreachable", "{last}");
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    server.collect_garbage();
    server.leftovers().assert_none();
}

#[tokio::test]
async fn requests_that_make_no_sense_are_refused_by_code() {
    let server = Server::start().await;
    let client = &server.client;
    client
        .get("/bots/nonsense/container")
        .await
        .refused(400, "invalid_value");
    client
        .get("/bots/..%2Fx/container")
        .await
        .refused(400, "invalid_value");
    let unknown = "/bots/00000000-0000-7000-8000-000000000000/container";
    client.get(unknown).await.refused(404, "bot_not_found");
    client
        .anonymous()
        .get(unknown)
        .await
        .refused(401, "unauthenticated");

    let workspace = client.running().await;
    let rollback = async |version: i64| {
        workspace
            .post("/snapshots/rollback", json!({"version": version}))
            .await
    };
    rollback(0).await.refused(400, "invalid_value");
    rollback(9).await.refused(404, "version_not_found");
    let path = format!("{}/snapshots?snapshotter=zfs", workspace.path);
    client.get(&path).await.refused(400, "unknown_snapshotter");
    workspace
        .exec(json!({"command": []}))
        .await
        .refused(400, "invalid_value");
    let nobody = json!({"command": "true", "user": "nobody-here"});
    assert_eq!(workspace.exec(nobody).await.status, 422);
    let nowhere = json!({"command": "true", "cwd": "/no/such/folder"});
    workspace.exec(nowhere).await.refused(404, "path_not_found");
    let bad = workspace.create(json!({"image": "UPPER case"})).await;
    assert_eq!(bad[0]["status"], 400, "{bad:?}");

    let password = "long enough";
    let member = json!({"username": "member", "password": password, "role": "member"});
    client.post("/users", member).await.ok();
    let url = client_url(client);
    let member = Client::login(&url, "member", password).await;
    member
        .get(&workspace.path)
        .await
        .refused(404, "bot_not_found");
    member.get("/images").await.refused(403, "forbidden");
    assert!(workspace.info().await["reachable"].as_bool().unwrap());
}

#[tokio::test]
async fn a_bot_that_pulls_is_deleted_at_once() {
    let server = Server::start().await;
    let fault = Fault::HangBlob;
    let registry = FaultyRegistry::start(&unknown_image(), fault)
        .await
        .unwrap();
    let bot = server.client.bot().await;
    let workspace = server.client.workspace(&bot);
    let creating = workspace.clone();
    let image = registry.reference("test/slow");
    let created = tokio::spawn(async move { creating.create(json!({"image": image})).await });
    workspace.cancellable().await;
    server.client.delete(&format!("/bots/{bot}")).await.ok();
    let events = created.await.unwrap();
    assert_eq!(events.last().unwrap()["code"], "cancelled", "{events:?}");
    server.nothing_left().await;
}

fn client_url(client: &Client) -> String {
    let request = client.request(reqwest::Method::GET, "").build().unwrap();
    request.url().as_str().trim_end_matches('/').to_owned()
}

#[tokio::test]
async fn a_workspace_at_its_limits_gets_no_error_of_the_server() {
    let server = Server::start().await;
    let workspace = server.client.workspace(&server.client.bot().await);
    let limits = json!({"memory_bytes": 64 << 20, "pids": 32});
    let events = workspace
        .create(json!({"image": IMAGE, "limits": limits}))
        .await;
    assert_eq!(events.last().unwrap()["type"], "complete", "{events:?}");
    let statuses = async |line: &str| {
        let body = json!({"command": line, "timeout_seconds": 20});
        let answer = workspace.exec(body).await;
        assert!(
            answer.status == 200 || answer.status == 409,
            "{line}: {answer:?}"
        );
    };
    statuses("for i in $(seq 100); do sleep 3 & done").await;
    statuses("true").await;
    statuses("dd if=/dev/zero of=/dev/null bs=100M count=1").await;
    statuses("head -c 200m /dev/zero | tail").await;
    tokio::time::sleep(std::time::Duration::from_secs(4)).await;
    workspace.reachable().await;
    assert_eq!(workspace.sh("echo fine").await, "fine");
}

#[tokio::test]
async fn a_full_disk_refuses_new_work_and_hurts_nobody() {
    let folder = folder("botstead-e2e-");
    // Ended in reverse: the server, then the mount.
    let disk = Disk::mount("192M");
    let data = disk.target().join("data");
    // The guard steps aside, so that the disk really fills.
    let server = Server::start_in(folder, data.clone(), "min_free_bytes = 0\n").await;
    let workspace = server.client.running().await;
    workspace.sh("echo kept > /data/file").await;
    workspace.snapshot().await;
    let fill = "dd if=/dev/zero of=/data/fill bs=1M 2> /dev/null; rm -f /data/small; true";
    workspace.sh(fill).await;

    let image = format!("127.0.0.1:1/{}", "x".repeat(8));
    failure(&server, &image).await;
    let registry = FaultyRegistry::start(&unknown_image(), Fault::None)
        .await
        .unwrap();
    let last = failure(&server, &registry.reference("test/big")).await;
    let code = last["code"].as_str().unwrap();
    assert!(
        code == "insufficient_storage" || code == "database_unavailable",
        "{last}"
    );

    assert_eq!(workspace.sh("cat /data/file").await, "kept");
    workspace.sh("rm /data/fill").await;
    workspace.rollback(1).await;
    assert_eq!(workspace.sh("cat /data/file").await, "kept");
    let other = server.client.running().await;
    assert_eq!(other.info().await["status"], "running");
}

#[tokio::test]
async fn what_a_full_disk_interrupted_ends_once_there_is_room() {
    let disk = Disk::mount("256M");
    let data = disk.target().join("data");
    let mut server = Server::start_in(folder("botstead-e2e-"), data, "min_free_bytes = 0\n").await;
    let workspace = server.client.running().await;
    let mut answers = BTreeMap::<u16, u32>::new();
    for round in 0..8 {
        workspace.sh(&format!("echo {round} > /data/file")).await;
        let version = workspace.snapshot().await;
        disk.fill();
        // With a little room, more of it goes through.
        disk.give_back(round * (24 << 10));
        for _ in 0..3 {
            let rollback = json!({"version": version});
            let path = format!("{}/snapshots/{version}", workspace.path);
            for answer in [
                workspace.post("/snapshots/rollback", rollback).await,
                server.client.delete(&path).await,
                workspace.post("/snapshots", json!({"mode": "stop"})).await,
            ] {
                assert!([200, 204, 404, 507].contains(&answer.status), "{answer:?}");
                *answers.entry(answer.status).or_default() += 1;
            }
        }
        make_room(disk.target());
        workspace.idle("with room").await;
        assert_eq!(workspace.sh("cat /data/file").await, round.to_string());
    }
    println!("answers by status: {answers:?}");
    assert!(answers[&507] > 0, "there was room");
    // What was answered is in the files.
    let path = format!("{}/snapshots", workspace.path);
    let before = workspace.client.get(&path).await.ok();
    server.kill();
    server.run(&[]).await;
    assert_eq!(server.client.get(&path).await.ok(), before);
    let workspace = server.client.workspace(&workspace.bot);
    assert_eq!(workspace.sh("cat /data/file").await, "7");
}

#[tokio::test]
async fn the_low_disk_guard_refuses_before_the_disk_is_full() {
    let folder = folder("botstead-e2e-");
    let data = folder.path().join("data");
    let mut server = Server::start_in(folder, data, "").await;
    let workspace = server.client.running().await;
    server.terminate();
    server
        .run(&[("BOTSTEAD_LIMITS__MIN_FREE_BYTES", "1000000000000000")])
        .await;
    let refused = server.client.workspace(&server.client.bot().await);
    let events = refused.create(json!({"image": IMAGE})).await;
    assert_eq!(events[0]["code"], "insufficient_storage", "{events:?}");
    let workspace = server.client.workspace(&workspace.bot);
    workspace
        .post("/snapshots", json!({}))
        .await
        .refused(507, "insufficient_storage");
    workspace.post("/stop", json!({})).await.ok();
    workspace.post("/start", json!({})).await.ok();
}
