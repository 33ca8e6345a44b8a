//! What an administrator has when something was lost or is left over.

use crate::server::{IMAGE, Server};
use serde_json::json;

#[tokio::test]
async fn a_backup_of_the_database_is_made_while_it_runs_and_put_back() {
    let mut server = Server::start().await;
    let workspace = server.client.running().await;
    workspace.sh("echo one > /data/file").await;
    workspace.snapshot().await;
    let copy = server.beside("copy.db");
    let text = copy.to_str().unwrap();
    let made = server.admin(&["admin", "backup", text]);
    assert!(made.status.success(), "{made:?}");
    let again = server.admin(&["admin", "backup", text]);
    assert!(!again.status.success(), "an older copy was overwritten");

    workspace.sh("echo two > /data/file").await;
    workspace.snapshot().await;
    let running = server.admin(&["admin", "restore", text]);
    assert!(!running.status.success(), "restored under a running server");
    server.terminate();
    std::fs::write(server.beside("none.db"), "no database").unwrap();
    let none = server.admin(&[
        "admin",
        "restore",
        server.beside("none.db").to_str().unwrap(),
    ]);
    assert!(!none.status.success());
    let restored = server.admin(&["admin", "restore", text]);
    assert!(restored.status.success(), "{restored:?}");
    server.run(&[]).await;
    let workspace = server.client.workspace(&workspace.bot);
    workspace.reachable().await;
    // The workspace has what it had; the database knows what the copy knew.
    assert_eq!(workspace.sh("cat /data/file").await, "two");
    // What it does not know was recorded again: nothing is left to be repaired.
    let tree = format!("{}/snapshots/tree", workspace.path);
    let tree = workspace.client.get(&tree).await.ok();
    let versions = tree["versions"].as_array().unwrap();
    assert_eq!(versions.len(), 2, "{tree}");
    let again = versions.iter().find(|one| one["version"] == 2).unwrap();
    assert_eq!(again["source"], "recovered", "{tree}");
    server.terminate();
    let before = server.leftovers().snapshots;
    let nothing = server.admin(&["doctor", "--repair", "--yes"]);
    let nothing = String::from_utf8(nothing.stdout).unwrap();
    assert!(nothing.contains("nothing is to be repaired"), "{nothing}");
    assert_eq!(server.leftovers().snapshots, before);
    server.run(&[]).await;
    let workspace = server.client.workspace(&workspace.bot);
    workspace.reachable().await;
    workspace.sh("echo three > /data/file").await;
    workspace.rollback(1).await;
    assert_eq!(workspace.sh("cat /data/file").await, "one");
    workspace.rollback(2).await;
    assert_eq!(workspace.sh("cat /data/file").await, "two");
}

/// Ends the server, puts a copy of the database back, and starts it again.
async fn go_back(server: &mut Server, copy: &std::path::Path) {
    server.terminate();
    let restored = server.admin(&["admin", "restore", copy.to_str().unwrap()]);
    assert!(restored.status.success(), "{restored:?}");
    server.run(&[]).await;
}

#[tokio::test]
async fn a_workspace_that_the_database_forgot_is_adopted_with_its_files() {
    let mut server = Server::start().await;
    let bot = server.client.bot().await;
    let copy = server.beside("before.db");
    let made = server.admin(&["admin", "backup", copy.to_str().unwrap()]);
    assert!(made.status.success(), "{made:?}");
    let workspace = server.client.workspace(&bot);
    workspace.create(json!({"image": IMAGE})).await;
    workspace.reachable().await;
    workspace.sh("echo precious > /data/file").await;
    go_back(&mut server, &copy).await;

    let workspace = server.client.workspace(&bot);
    let made = workspace.create(json!({"image": IMAGE})).await;
    let last = made.last().unwrap();
    assert_eq!(last["type"], "complete", "{made:?}");
    assert_eq!(last["container"]["data_restored"], false, "{made:?}");
    workspace.reachable().await;
    assert_eq!(workspace.sh("cat /data/file").await, "precious");
    workspace.post("/stop", json!({})).await.ok();
    workspace.post("/start", json!({})).await.ok();
    workspace.reachable().await;
    assert_eq!(workspace.sh("cat /data/file").await, "precious");
}

#[tokio::test]
async fn after_an_older_database_everything_can_still_be_done() {
    let mut server = Server::start().await;
    let workspace = server.client.running().await;
    let copy = server.beside("before.db");
    let made = server.admin(&["admin", "backup", copy.to_str().unwrap()]);
    assert!(made.status.success(), "{made:?}");
    // The row of the copy names a snapshot that is gone by now, and the copy knows no other bot.
    workspace.sh("echo one > /data/file").await;
    workspace.post("/stop", json!({})).await.ok();
    workspace.snapshot().await;
    workspace.post("/start", json!({})).await.ok();
    workspace.reachable().await;
    workspace.sh("echo two > /data/file").await;
    let stranger = server.client.running().await;
    stranger.sh("echo strange > /data/file").await;
    go_back(&mut server, &copy).await;

    let client = server.client.clone();
    let workspace = client.workspace(&workspace.bot);
    workspace.reachable().await;
    assert_eq!(workspace.sh("cat /data/file").await, "two");
    let exported = workspace.post("/data/export", json!({})).await;
    assert_eq!(exported.status, 200, "{exported:?}");
    workspace.rollback(1).await;
    assert_eq!(workspace.sh("cat /data/file").await, "one");
    let gone = client
        .delete(&format!("{}?preserve_data=true", workspace.path))
        .await;
    assert_eq!(gone.status, 204, "{gone:?}");
    let made = workspace.create(json!({"image": IMAGE})).await;
    assert_eq!(made.last().unwrap()["type"], "complete", "{made:?}");
    workspace.reachable().await;
    assert_eq!(workspace.sh("cat /data/file").await, "one");

    // What the copy does not know is listed, exported, and kept from repairs.
    let listed = client.get("/recovery").await.ok();
    let found = listed["items"].as_array().unwrap();
    assert_eq!(found.len(), 1, "{listed}");
    assert_eq!(found[0]["bot_id"], stranger.bot.as_str(), "{listed}");
    assert_eq!(found[0]["bot_exists"], false, "{listed}");
    let name = found[0]["name"].as_str().unwrap();
    let archive = client
        .post(&format!("/recovery/{name}/export"), json!({}))
        .await;
    assert_eq!(archive.status, 200, "{archive:?}");
    let doctor = server.admin(&["doctor"]);
    let doctor = String::from_utf8(doctor.stdout).unwrap();
    assert!(doctor.contains(name), "{doctor}");
    server.terminate();
    let kept = server.admin(&["doctor", "--repair", "--yes"]);
    let kept = String::from_utf8(kept.stdout).unwrap();
    let line = kept.lines().find(|line| line.contains(name)).unwrap();
    assert!(line.starts_with("kept"), "{kept}");
    let wrong = server.admin(&["doctor", "--repair", "--yes", "--discard", "active-none"]);
    assert!(!wrong.status.success(), "{wrong:?}");
    assert!(server.leftovers().snapshots.contains(&name.to_owned()));
    let named = server.admin(&["doctor", "--repair", "--yes", "--discard", name]);
    assert!(named.status.success(), "{named:?}");
    assert!(!server.leftovers().snapshots.contains(&name.to_owned()));
}

#[tokio::test]
async fn what_belongs_to_nothing_is_found_and_removed() {
    let mut server = Server::start().await;
    let workspace = server.client.running().await;
    workspace.sh("echo kept > /data/file").await;
    workspace.snapshot().await;
    let clean = server.leftovers();
    let lease = "operation-00000000-0000-4000-8000-000000000001";
    server.ctr(&["leases", "create", "--id", lease]);
    let snapshot = "active-00000000-0000-4000-8000-000000000002";
    server.ctr(&["snapshots", "prepare", snapshot]);
    let owner = "botstead.bot_id=00000000-0000-4000-8000-000000000003";
    let root = "containerd.io/gc.root=botstead";
    server.ctr(&["snapshots", "label", snapshot, owner, root]);
    // Beside a server, what nobody knows is young.
    let young = server.admin(&["doctor", "--repair", "--yes"]);
    let young = String::from_utf8(young.stdout).unwrap();
    assert!(young.contains("a server runs"), "{young}");
    server.terminate();
    let found = server.admin(&["doctor", "--repair"]);
    let found = String::from_utf8(found.stdout).unwrap();
    for id in [lease, snapshot] {
        assert!(found.contains(id), "{found}");
    }
    assert_ne!(server.leftovers(), clean, "a look changed something");
    // The snapshot may be the only copy of something: it goes only when it is named.
    let mended = server.admin(&["doctor", "--repair", "--yes"]);
    assert!(mended.status.success(), "{mended:?}");
    assert!(server.leftovers().snapshots.contains(&snapshot.to_owned()));
    assert!(!server.leftovers().leases.contains(&lease.to_owned()));
    let mended = server.admin(&["doctor", "--repair", "--yes", "--discard", snapshot]);
    assert!(mended.status.success(), "{mended:?}");
    assert_eq!(server.leftovers(), clean);
    server.run(&[]).await;
    let workspace = server.client.workspace(&workspace.bot);
    workspace.reachable().await;
    assert_eq!(workspace.sh("cat /data/file").await, "kept");
    workspace.post("/stop", json!({})).await.ok();
    workspace.post("/start", json!({})).await.ok();
    workspace.reachable().await;
    assert_eq!(workspace.sh("cat /data/file").await, "kept");
}

#[tokio::test]
async fn a_container_that_vanished_gives_its_data_to_the_next() {
    let mut server = Server::start().await;
    let workspace = server.client.running().await;
    workspace.sh("echo precious > /data/file").await;
    server.terminate();
    // The container's record goes behind the server's back; its snapshot stays.
    let id = format!("workspace-{}", workspace.bot);
    server.ctr(&["tasks", "kill", "--signal", "SIGKILL", &id]);
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    server.ctr(&["tasks", "delete", "--force", &id]);
    server.ctr(&["containers", "delete", "--keep-snapshot", &id]);
    server.collect_garbage();
    server.run(&[]).await;
    let workspace = server.client.workspace(&workspace.bot);
    workspace.post("/start", json!({})).await.ok();
    workspace.reachable().await;
    assert_eq!(workspace.sh("cat /data/file").await, "precious");
}
