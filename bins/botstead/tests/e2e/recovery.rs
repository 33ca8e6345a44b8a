//! What an administrator has when something was lost or is left over.

use crate::server::Server;
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
    let tree = workspace
        .client
        .get(&format!("{}/snapshots/tree", workspace.path))
        .await
        .ok();
    assert_eq!(tree["versions"].as_array().unwrap().len(), 1, "{tree}");

    // What it does not know is found, once nothing can be under way, and removed when that is confirmed.
    server.terminate();
    let found = server.admin(&["doctor", "--repair"]);
    let found = String::from_utf8(found.stdout).unwrap();
    assert!(
        found.contains("found") && found.contains("nothing was changed"),
        "{found}"
    );
    let before = server.leftovers().snapshots.len();
    let mended = server.admin(&["doctor", "--repair", "--yes"]);
    assert!(mended.status.success(), "{mended:?}");
    assert!(server.leftovers().snapshots.len() < before);
    let nothing = server.admin(&["doctor", "--repair"]);
    let nothing = String::from_utf8(nothing.stdout).unwrap();
    assert!(nothing.contains("nothing is to be repaired"), "{nothing}");
    server.run(&[]).await;
    let workspace = server.client.workspace(&workspace.bot);
    workspace.reachable().await;
    workspace.sh("echo three > /data/file").await;
    workspace.rollback(1).await;
    assert_eq!(workspace.sh("cat /data/file").await, "one");
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
    let mended = server.admin(&["doctor", "--repair", "--yes"]);
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
