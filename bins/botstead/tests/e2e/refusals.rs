//! What cannot be done is refused clearly and leaves nothing.

use super::harness::{
    Client, IMAGE, Server, Settings, busybox_image, eventually, faulty, shared, slow_image,
};
use botstead_image_fixtures::Fault;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::process::Command;

#[test]
fn images_that_cannot_be_had() {
    let server = Server::start(&Settings::default());
    let client = &server.client;
    let before = server.belongings();
    let missing = faulty(&busybox_image(), Fault::NotFound);
    let wrong_blob = faulty(&busybox_image(), Fault::WrongBlob);
    let wrong_manifest = faulty(&busybox_image(), Fault::WrongManifest);
    let denied = faulty(&busybox_image(), Fault::Unauthorized);
    for (image, code) in [
        (missing.reference("missing"), "image_not_found"),
        // Nobody listens on this port of this host.
        ("127.0.0.1:1/nobody/there:1".to_owned(), "runtime_unavailable"),
        (wrong_blob.reference("bad"), "content_corrupt"),
        (wrong_manifest.reference("bad"), "content_corrupt"),
        (denied.reference("denied"), "registry_denied"),
    ] {
        let bot = client.bot();
        let events = client.create(&bot, &json!({ "image": image }));
        assert_eq!(events[0]["type"], "pulling");
        let last = events.last().unwrap();
        assert_eq!(last["type"], "error", "{image}: {events:?}");
        assert_eq!(last["code"], code, "{image}: {last}");
        assert!(!last["message"].as_str().unwrap().is_empty());
        assert!(last["request_id"].is_string());
        client
            .get(&format!("/bots/{bot}/container"))
            .problem(404, "workspace_not_found");
        eventually("nothing is left", || (server.belongings() == before).then_some(()));
        let images = client.get("/images").expect(200);
        assert_eq!(images["items"].as_array().unwrap().len(), 1, "{images}");
        client.delete_bot(&bot);
    }
}

#[test]
fn requests_that_make_no_sense() {
    let server = shared();
    let client = &server.client;
    for path in ["/bots/..%2Fx/container", "/bots/x/container", "/bots/%00/container"] {
        let answer = client.get(path);
        assert!(matches!(answer.status, 400 | 404), "{path}: {answer:?}");
        assert_eq!(answer.content_type, "application/problem+json", "{path}");
    }
    let nobody = "00000000-0000-4000-8000-000000000000";
    client
        .get(&format!("/bots/{nobody}/container"))
        .problem(404, "bot_not_found");
    let bot = client.running_bot();
    let path = format!("/bots/{bot}/container");
    let rollback = format!("{path}/snapshots/rollback");
    client
        .post(&rollback, &json!({"version": 99}))
        .problem(404, "version_not_found");
    for version in [0, -1] {
        let answer = client.post(&rollback, &json!({ "version": version }));
        answer.problem(400, "invalid_value");
    }
    let other = client.post(&path, &json!({"image": "localhost/e2e/other:1"}));
    other.problem(409, "container_exists");
    let bad = client.post(&path, &json!({"image": "UPPER CASE"}));
    bad.problem(400, "invalid_value");
    // The same image makes sure that it runs.
    client.create_well(&bot, &json!({"image": IMAGE}));

    let anonymous = Client::anonymous(&server.base);
    anonymous.get(&path).problem(401, "unauthenticated");
    let user = json!({"username": "stranger", "password": "correct horse battery", "role": "member"});
    client.post("/users", &user).expect(201);
    let stranger = Client::signed_in(&server.base, "stranger", "correct horse battery");
    stranger.get(&path).problem(404, "bot_not_found");
    stranger.delete(&path).problem(404, "bot_not_found");
    stranger.get("/images").problem(403, "forbidden");
    assert_eq!(client.sh(&bot, "echo works"), "works");
    client.delete_bot(&bot);
}

/// A small disk of its own in a file.
struct SmallDisk {
    folder: tempfile::TempDir,
}

impl SmallDisk {
    fn new(megabytes: u64) -> Self {
        let folder = tempfile::Builder::new()
            .prefix("bst-disk-")
            .tempdir_in("/var/tmp")
            .unwrap();
        let file = folder.path().join("disk");
        std::fs::File::create(&file)
            .unwrap()
            .set_len(megabytes << 20)
            .unwrap();
        let disk = Self { folder };
        std::fs::create_dir(disk.path()).unwrap();
        run(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&file));
        run(Command::new("mount").args(["-o", "loop"]).arg(&file).arg(disk.path()));
        disk
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("mnt")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.path()).status();
    }
}

fn run(command: &mut Command) {
    let done = command.output().unwrap();
    assert!(done.status.success(), "{command:?}: {done:?}");
}

fn fill(disk: &Path, leave_bytes: u64) -> PathBuf {
    let free = nix::sys::statvfs::statvfs(disk).unwrap();
    let free = free.blocks_available() * free.fragment_size();
    let file = disk.join("ballast");
    let length = free - leave_bytes;
    run(Command::new("fallocate")
        .args(["-l", &length.to_string()])
        .arg(&file));
    file
}

#[test]
fn a_full_disk_is_said_and_survived() {
    let disk = SmallDisk::new(160);
    let server = Server::start(&Settings {
        data: Some(disk.path().join("data")),
        limits: "min_free_bytes = 2097152\nmin_free_percent = 0",
    });
    let client = &server.client;
    let bot = client.running_bot();
    let before = server.belongings();

    // The guard lets the pull begin, and the image does not fit.
    let ballast = fill(&disk.path(), 6 << 20);
    let source = faulty(&slow_image(), Fault::None);
    let other = client.bot();
    let events = client.create(&other, &json!({"image": source.reference("large")}));
    let last = events.last().unwrap();
    assert_eq!(last["code"], "insufficient_storage", "{last}");
    eventually("nothing is left", || (server.belongings() == before).then_some(()));
    std::fs::remove_file(&ballast).unwrap();

    // Less than the guard wants: refused before anything is done.
    let ballast = fill(&disk.path(), 1 << 20);
    let third = client.bot();
    let refused = client.post(&format!("/bots/{third}/container"), &json!({}));
    refused.problem(507, "insufficient_storage");
    assert_eq!(client.get("/healthz").status, 200);
    assert_eq!(client.sh(&bot, "echo works"), "works");
    assert_eq!(server.belongings(), before);

    std::fs::remove_file(&ballast).unwrap();
    client.create_well(&third, &json!({}));
    assert_eq!(client.sh(&third, "echo works"), "works");
}
