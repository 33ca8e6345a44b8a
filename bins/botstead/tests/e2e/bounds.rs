//! What an operator does not allow: images, limits, devices, registries, sizes.

use crate::client::{Client, Workspace};
use crate::disk::Disk;
use crate::server::{IMAGE, Server, bare_image, folder};
use botstead_image_fixtures::{Compression, Image, LayerBuilder, Registry, oci_archive, random};
use reqwest::Method;
use serde_json::{Value, json};

const OTHER: &str = "localhost/test/other:1";

/// What a creation was refused with before its first event.
async fn refusal(workspace: &Workspace, body: Value) -> Value {
    let answer = workspace.create(body).await;
    assert_eq!(answer.len(), 1, "{answer:?}");
    answer.into_iter().next().unwrap()
}

/// The error that a creation ended with.
async fn failure(workspace: &Workspace, image: &str) -> Value {
    let events = workspace.create(json!({"image": image})).await;
    let last = events.last().unwrap().clone();
    assert_eq!(last["type"], "error", "{events:?}");
    workspace.get().await.refused(404, "workspace_not_found");
    last
}

async fn bot_that_prefers(client: &Client, workspace: Value) -> Workspace {
    let bot = json!({"name": "bot", "metadata": {"workspace": workspace}});
    let bot = client.post("/bots", bot).await.ok();
    client.workspace(bot["id"].as_str().unwrap())
}

/// The status and the code of another call.
async fn sent(client: &Client, method: Method, path: &str, body: Value) -> (u16, Value) {
    let answer = client.request(method, path).json(&body).send().await;
    let answer = answer.unwrap();
    let status = answer.status().as_u16();
    (
        status,
        answer.json::<Value>().await.unwrap()["code"].clone(),
    )
}

#[tokio::test]
async fn an_image_that_is_not_allowed_is_refused_wherever_it_is_named() {
    let mut server = Server::start().await;
    let mut archive = Vec::new();
    oci_archive(&mut archive, &[(Some(OTHER), &bare_image())], None).unwrap();
    server.client.import(archive).await.ok();
    // From before the operator's list.
    let wishful = bot_that_prefers(&server.client, json!({"image": OTHER}))
        .await
        .bot;
    let before = server.client.workspace(&server.client.bot().await);
    let events = before.create(json!({"image": OTHER})).await;
    assert_eq!(events.last().unwrap()["type"], "complete", "{events:?}");
    let allowed = server.client.running().await.bot;
    server.terminate();
    let list = format!("[{IMAGE:?}, \"ghcr.io/acme/*\"]");
    let list = [
        ("BOTSTEAD_WORKSPACE__ALLOWED_IMAGES", list.as_str()),
        ("BOTSTEAD_WORKSPACE__DEFAULT_IMAGE", IMAGE),
    ];
    server.run(&list).await;

    let client = &server.client;
    let code = "image_not_allowed";
    let fresh = client.workspace(&client.bot().await);
    let refused = refusal(&fresh, json!({"image": OTHER})).await;
    assert_eq!(
        (&refused["status"], &refused["code"]),
        (&json!(400), &json!(code))
    );
    let said = refused["message"].as_str().unwrap();
    assert!(said.contains("workspace.allowed_images"), "{said}");
    let wishful = client.workspace(&wishful);
    assert_eq!(refusal(&wishful, json!({})).await["code"], code);
    wishful.post("/start", json!({})).await.refused(400, code);
    let prefers = json!({"metadata": {"workspace": {"image": OTHER}}});
    client
        .post("/bots", prefers.clone())
        .await
        .refused(400, code);
    let path = format!("/bots/{}", fresh.bot);
    let patched = sent(client, Method::PATCH, &path, prefers).await;
    assert_eq!(patched, (400, json!(code)));
    client
        .post("/images", json!({"ref": OTHER}))
        .await
        .refused(400, code);
    let path = format!("/bots/{allowed}/container/image");
    let changed = sent(client, Method::PUT, &path, json!({"image": OTHER})).await;
    assert_eq!(changed, (400, json!(code)));
    let fork = json!({"from_bot": before.bot});
    fresh.post("/fork", fork).await.refused(400, code);
    fresh.get().await.refused(404, "workspace_not_found");

    // What was there goes on, and what is allowed works.
    let before = client.workspace(&before.bot);
    before.post("/stop", json!({})).await.ok();
    before.post("/start", json!({})).await.ok();
    let events = fresh.create(json!({})).await;
    assert_eq!(events.last().unwrap()["type"], "complete", "{events:?}");
}

#[tokio::test]
async fn limits_and_devices_keep_to_the_operators_maxima() {
    let server = Server::start().await;
    let client = &server.client;
    let workspace = client.workspace(&client.bot().await);
    for (asked, code, key) in [
        (
            json!({"limits": {"memory_bytes": 0}}),
            "limit_too_high",
            "workspace.max_limits.memory_bytes",
        ),
        (
            json!({"limits": {"memory_bytes": 1_u64 << 49}}),
            "limit_too_high",
            "workspace.max_limits.memory_bytes",
        ),
        (
            json!({"limits": {"pids": 0}}),
            "limit_too_high",
            "workspace.max_limits.pids",
        ),
        (
            json!({"gpu": {"devices": ["vendor.com/gpu=all"]}}),
            "device_not_allowed",
            "workspace.allowed_devices",
        ),
    ] {
        let refused = refusal(&workspace, asked.clone()).await;
        assert_eq!(refused["code"], code, "{asked}: {refused}");
        assert!(
            refused["message"].as_str().unwrap().contains(key),
            "{refused}"
        );
        let prefers = json!({"metadata": {"workspace": asked}});
        client
            .post("/bots", prefers.clone())
            .await
            .refused(400, code);
        let path = format!("/bots/{}", workspace.bot);
        let patched = sent(client, Method::PATCH, &path, prefers).await;
        assert_eq!(patched, (400, json!(code)));
    }
    workspace.get().await.refused(404, "workspace_not_found");
}

#[tokio::test]
async fn what_is_preferred_can_be_used_or_is_refused_when_it_is_set() {
    let server = Server::start().await;
    let client = &server.client;
    let nulls = json!({"image": IMAGE, "gpu": null, "retention": {"pre_exec": null},
        "limits": {"memory_bytes": null, "pids": null}, "skill_discovery_roots": null});
    let workspace = bot_that_prefers(client, nulls).await;
    let events = workspace.create(json!({})).await;
    assert_eq!(events.last().unwrap()["type"], "complete", "{events:?}");
    for odd in [
        json!({"gpu": 1}),
        json!({"gpu": {"devices": [null]}}),
        json!({"limits": [1]}),
        json!({"retention": {"pre_exec": "many"}}),
        json!({"retention": null, "image": ""}),
    ] {
        let body = json!({"metadata": {"workspace": odd}});
        client
            .post("/bots", body)
            .await
            .refused(400, "invalid_request");
    }
}

#[tokio::test]
async fn a_registry_that_is_not_listed_is_not_reached_and_leaves_nothing() {
    let mut server = Server::start().await;
    server.terminate();
    server.run(&[("BOTSTEAD_REGISTRY__INSECURE", "[]")]).await;
    let registry = Registry::start().unwrap();
    let image = random(1, 1 << 20, 3, Compression::Gzip).unwrap();
    let image = registry.push("test/app", "1", &image).await.unwrap();
    let client = &server.client;
    for image in [image.clone(), image.replace("127.0.0.1", "localhost")] {
        let last = failure(&client.workspace(&client.bot().await), &image).await;
        assert_eq!(last["code"], "registry_not_allowed", "{last}");
    }
    server.nothing_left().await;
}

#[tokio::test]
async fn an_image_that_is_too_large_is_refused_and_leaves_nothing() {
    let mut server = Server::start().await;
    server.terminate();
    let limits = [
        ("BOTSTEAD_IMAGES__MAX_UNPACKED_BYTES", "8388608"),
        ("BOTSTEAD_IMAGES__MAX_CONFIG_BYTES", "65536"),
    ];
    server.run(&limits).await;
    let registry = Registry::start().unwrap();
    let zeros = LayerBuilder::new().file("zeros", 0o644, vec![0; 16 << 20]);
    let bomb = Image::builder().layer(zeros.build(Compression::Gzip).unwrap());
    let small = LayerBuilder::new().dir("etc", 0o755);
    let verbose = Image::builder()
        .layer(small.build(Compression::Gzip).unwrap())
        .config("Labels", json!({"long": "x".repeat(128 << 10)}));
    let client = &server.client;
    for (name, image) in [("bomb", bomb.build()), ("verbose", verbose.build())] {
        let image = registry.push(name, "1", &image).await.unwrap();
        let last = failure(&client.workspace(&client.bot().await), &image).await;
        assert_eq!(last["code"], "image_too_large", "{last}");
        assert!(
            last["message"].as_str().unwrap().contains("(images."),
            "{last}"
        );
    }
    server.collect_garbage();
    server.nothing_left().await;
}

#[tokio::test]
async fn a_pull_is_given_up_before_it_takes_the_last_of_the_disk() {
    let folder = folder("botstead-e2e-");
    let disk = Disk::mount("448M");
    let data = disk.target().join("data");
    let server = Server::start_in(folder, data, "min_free_bytes = 268435456\n").await;
    let registry = Registry::start().unwrap();
    // More than may be taken, as it comes and unpacked.
    let large = random(2, 96 << 20, 5, Compression::None).unwrap();
    let large = registry.push("large", "1", &large).await.unwrap();
    let client = &server.client;
    let last = failure(&client.workspace(&client.bot().await), &large).await;
    assert_eq!(last["code"], "insufficient_storage", "{last}");
    let said = last["message"].as_str().unwrap();
    assert!(said.contains("must stay free"), "{said}");
    server.collect_garbage();
    server.nothing_left().await;
    let workspace = server.client.running().await;
    assert_eq!(workspace.sh("echo fine").await, "fine");
}

#[tokio::test]
async fn a_device_that_cannot_be_given_is_refused_before_the_stream_begins() {
    let mut server = Server::start().await;
    server.terminate();
    let devices = "[\"botstead.test/none=0\"]";
    server
        .run(&[("BOTSTEAD_WORKSPACE__ALLOWED_DEVICES", devices)])
        .await;
    let client = &server.client;
    let workspace = client.workspace(&client.bot().await);
    let device = json!({"image": IMAGE, "gpu": {"devices": ["botstead.test/none=0"]}});
    let refused = refusal(&workspace, device).await;
    assert_eq!(refused["status"], 422, "{refused}");
    let said = refused["message"].as_str().unwrap();
    assert!(said.contains("botstead.test/none=0"), "{said}");
}
