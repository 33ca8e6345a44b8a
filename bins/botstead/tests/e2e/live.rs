//! Snapshots of workspaces that go on running.

use crate::client::Workspace;
use crate::server::{Server, debian_archive};
use serde_json::{Value, json};
use std::time::Duration;

/// The archive's own name of the default image.
const DEBIAN: &str = "localhost/botstead/workspace:latest";

/// Appends a line of its count every millisecond.
const COUNTER: &str = "\
import time
with open('/data/counter', 'w', buffering=1) as out:
    n = 0
    while True:
        n += 1
        print(n, file=out)
        time.sleep(0.001)
";

/// Speaks as an MCP server does: a line of JSON in, a line of JSON out, and it remembers.
const STDIO: &str = "\
import json, sys
calls = 0
for line in sys.stdin:
    calls += 1
    print(json.dumps({'id': json.loads(line)['id'], 'result': calls}), flush=True)
";

impl Workspace {
    /// Starts a command that goes on by itself; its id.
    pub(crate) async fn detached(&self, command: Value) -> String {
        let answer = self
            .exec(json!({"command": command, "detach": true, "stdin_open": true}))
            .await
            .ok();
        answer["exec_id"].as_str().unwrap().to_owned()
    }

    async fn read(&self, path: &str) -> String {
        let answer = self
            .client
            .get(&self.fs(&format!("/read?path={path}")))
            .await;
        answer.ok()["content"].as_str().unwrap().to_owned()
    }

    /// A new bot's workspace from one of this one's versions.
    async fn forked(&self, version: u64) -> Self {
        let fork = self.client.workspace(&self.client.bot().await);
        let body = json!({"from_bot": self.bot, "version": version});
        fork.post("/fork", body).await.ok();
        fork.post("/start", json!({})).await.ok();
        fork.reachable().await;
        fork
    }
}

/// Process ids and the times at which they were started: field 22 of proc_pid_stat(5).
async fn processes(workspace: &Workspace) -> String {
    workspace
        .sh("for p in $(pgrep -f '[c]ounter.py|[s]tdio.py|[v]i /data'); do cut -d' ' -f1,22 /proc/$p/stat; done; \
             cut -d' ' -f1,22 /proc/1/stat")
        .await
}

#[tokio::test]
async fn twenty_snapshots_under_load_interrupt_nothing() {
    let server = Server::start().await;
    let archive = tokio::fs::read(debian_archive()).await.unwrap();
    assert_eq!(server.client.import(archive).await.status, 201);
    let workspace = server.client.workspace(&server.client.bot().await);
    let events = workspace.create(json!({"image": DEBIAN})).await;
    assert_eq!(events.last().unwrap()["type"], "complete", "{events:?}");
    for (name, content) in [("counter", COUNTER), ("stdio", STDIO)] {
        let path = format!("/data/{name}.py");
        workspace
            .post("/fs/write", json!({"path": path, "content": content}))
            .await
            .ok();
    }
    workspace
        .detached(json!(["python3", "/data/counter.py"]))
        .await;
    let stdio = workspace
        .detached(json!(["python3", "/data/stdio.py"]))
        .await;
    let stdio = format!("{}/exec/{stdio}", workspace.path);
    let mut terminal = workspace.terminal("").await;
    terminal.send("vi /data/note\r").await;
    terminal.shows("[New").await;
    terminal.send("i").await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let before = processes(&workspace).await;
    assert_eq!(before.lines().count(), 4, "{before}");

    let mut versions = Vec::new();
    for round in 1..=20 {
        let seen = workspace.read("/data/counter").await;
        let made = workspace
            .post(
                "/snapshots",
                json!({"snapshot_name": format!("round {round}")}),
            )
            .await
            .ok();
        assert!(made["freeze_ms"].as_f64().unwrap() > 0.0, "{made}");
        versions.push((made["version"].as_u64().unwrap(), seen));
        // What was there answers, as if nothing had been.
        workspace
            .client
            .post(
                &format!("{stdio}/stdin"),
                json!({"data": format!("{{\"id\": {round}}}\n")}),
            )
            .await
            .ok();
        terminal.send(&format!("line-{round}-\r")).await;
        terminal.shows(&format!("line-{round}-")).await;
    }
    assert_eq!(processes(&workspace).await, before);
    let answers = workspace.client.get(&stdio).await.ok();
    let answers = answers["stdout"].as_str().unwrap();
    let expected: String = (1..=20)
        .map(|n| format!("{{\"id\": {n}, \"result\": {n}}}\n"))
        .collect();
    assert_eq!(answers, expected);
    terminal.send("\x1b").await;
    terminal.send(":wq\r").await;
    terminal.shows("vi /data/note").await;
    let note = workspace.read("/data/note").await;
    assert!(
        note.starts_with("line-1-\n") && note.contains("line-20-\n"),
        "{note}"
    );

    // Every version holds what had been written when it was asked for, and a whole beginning of what
    // came to be.
    let all = workspace.read("/data/counter").await;
    let mut last = 0;
    for (version, seen) in versions {
        let fork = workspace.forked(version).await;
        let held = fork.read("/data/counter").await;
        assert!(
            held.starts_with(&seen),
            "version {version} lacks what was written before"
        );
        assert!(all.starts_with(&held), "version {version} is no beginning");
        assert!(
            held.ends_with('\n') && held.len() >= last,
            "version {version}"
        );
        last = held.len();
        let gone = fork.client.delete(&format!("/bots/{}", fork.bot)).await;
        assert_eq!(gone.status, 204, "{gone:?}");
    }
}

#[tokio::test]
async fn a_snapshot_can_stop_the_workspace_when_that_is_asked_for() {
    let server = Server::start().await;
    let workspace = server.client.running().await;
    workspace.sh("echo one > /data/file").await;
    let sleeping = workspace.detached(json!(["sleep", "1000"])).await;
    let made = workspace
        .post("/snapshots", json!({"mode": "live"}))
        .await
        .ok();
    assert!(made["copied_bytes"].as_u64().unwrap() >= 4, "{made}");
    assert!(
        made["total_ms"].as_f64() >= made["freeze_ms"].as_f64(),
        "{made}"
    );
    let exec = format!("{}/exec/{sleeping}", workspace.path);
    assert_eq!(workspace.client.get(&exec).await.ok()["running"], true);
    workspace
        .post("/snapshots", json!({"mode": "stop"}))
        .await
        .ok();
    workspace.reachable().await;
    workspace
        .client
        .get(&exec)
        .await
        .refused(404, "exec_not_found");
    workspace.sh("echo two > /data/file").await;
    for version in [1, 2] {
        workspace.rollback(version).await;
        assert_eq!(
            workspace.sh("cat /data/file").await,
            "one",
            "version {version}"
        );
    }
    workspace
        .post("/snapshots", json!({"mode": "lively"}))
        .await
        .refused(400, "invalid_body");
}

#[tokio::test]
async fn a_fork_outlives_the_workspace_that_it_came_from() {
    let server = Server::start().await;
    let workspace = server.client.running().await;
    workspace.sh("echo one > /data/file").await;
    workspace.snapshot().await;
    workspace
        .sh("echo two > /data/file; echo more > /data/more")
        .await;
    workspace.snapshot().await;
    workspace.rollback(1).await;
    // The state that was rolled back to, and a version by its number.
    let present = server.client.workspace(&server.client.bot().await);
    let info = present
        .post("/fork", json!({"from_bot": workspace.bot}))
        .await
        .ok();
    assert_eq!(info["task_running"], true, "{info}");
    present.reachable().await;
    let second = workspace.forked(2).await;
    let identity = "cat /etc/hostname; cat /etc/machine-id 2>/dev/null || true";
    assert_ne!(present.sh(identity).await, workspace.sh(identity).await);

    let gone = server
        .client
        .delete(&format!("/bots/{}", workspace.bot))
        .await;
    assert_eq!(gone.status, 204, "{gone:?}");
    server.collect_garbage();
    assert_eq!(present.sh("cat /data/file; ls /data").await, "one\nfile");
    assert_eq!(second.sh("cat /data/file /data/more").await, "two\nmore");
    for fork in [&present, &second] {
        let tree = fork
            .client
            .get(&format!("{}/snapshots/tree", fork.path))
            .await
            .ok();
        let versions = tree["versions"].as_array().unwrap();
        assert_eq!(
            (versions.len(), &versions[0]["source"]),
            (1, &json!("inherited")),
            "{tree}"
        );
        // It is a workspace as any other: it can be restarted, changed and rolled back.
        fork.sh("echo own > /data/file").await;
        fork.post("/stop", json!({})).await.ok();
        fork.post("/start", json!({})).await.ok();
        fork.reachable().await;
        assert_eq!(fork.sh("cat /data/file").await, "own");
        let first = versions[0]["version"].as_u64().unwrap();
        fork.rollback(first).await;
        assert_ne!(fork.sh("cat /data/file").await, "own");
        let gone = fork.client.delete(&format!("/bots/{}", fork.bot)).await;
        assert_eq!(gone.status, 204);
    }
    server.collect_garbage();
    server.nothing_left().await;
    let again = server.client.running().await;
    again
        .post("/fork", json!({"from_bot": again.bot}))
        .await
        .refused(400, "same_bot");
    let other = server.client.workspace(&server.client.bot().await);
    other
        .post("/fork", json!({"from_bot": again.bot, "version": 7}))
        .await
        .refused(404, "version_not_found");
}

#[tokio::test]
async fn versions_are_compared_named_pinned_and_deleted() {
    let server = Server::start().await;
    let workspace = server.client.running().await;
    workspace
        .sh("mkdir -p /data/d; echo a > /data/stays; echo b > /data/changes; echo c > /data/d/goes")
        .await;
    workspace.snapshot().await;
    workspace
        .sh("echo bb > /data/changes; rm -r /data/d; echo d > /data/comes; ln -s x /data/link")
        .await;
    workspace.snapshot().await;
    let path = |rest: &str| format!("{}/snapshots{rest}", workspace.path);
    let client = &workspace.client;
    let diff = client.get(&path("/1/diff/2")).await.ok();
    let found: Vec<_> = diff["items"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|item| item["path"].as_str().unwrap().starts_with("/data/"))
        .map(|item| {
            (
                item["path"].as_str().unwrap(),
                item["change"].as_str().unwrap(),
                item["kind"].as_str().unwrap(),
            )
        })
        .collect();
    assert_eq!(
        found,
        [
            ("/data/changes", "changed", "file"),
            ("/data/comes", "added", "file"),
            ("/data/d", "removed", "directory"),
            ("/data/d/goes", "removed", "file"),
            ("/data/link", "added", "symlink"),
        ]
    );
    workspace.sh("rm /data/comes").await;
    let current = client.get(&path("/2/diff/current")).await.ok().to_string();
    assert!(
        current.contains("/data/comes") && !current.contains("/data/changes"),
        "{current}"
    );
    // One path comes back; what else there is stays.
    let body = json!({"path": "/data/d", "target": "/data/again"});
    let restored = workspace.post("/snapshots/1/restore-path", body).await.ok();
    assert_eq!(restored["restored"], true);
    workspace.reachable().await;
    assert_eq!(
        workspace
            .sh("cat /data/again/goes /data/changes; ls /data")
            .await,
        "c\nbb\nagain\nchanges\nlink\nstays"
    );

    let patch = |version: u32, body: Value| {
        client
            .request(reqwest::Method::PATCH, &path(&format!("/{version}")))
            .json(&body)
            .send()
    };
    assert_eq!(
        patch(1, json!({"display_name": "first", "pinned": true}))
            .await
            .unwrap()
            .status(),
        200
    );
    client
        .delete(&path("/1"))
        .await
        .refused(409, "version_pinned");
    assert_eq!(client.delete(&path("/2")).await.status, 204);
    client
        .get(&path("/2/diff/1"))
        .await
        .refused(404, "version_not_found");
    server.collect_garbage();
    let dry = workspace
        .post(
            "/snapshots/rollback",
            json!({"version": 1, "dry_run": true}),
        )
        .await
        .ok();
    assert_eq!(dry["rolled_back_to"], 1, "{dry}");
    assert_eq!(workspace.sh("cat /data/changes").await, "bb");
    workspace.rollback(1).await;
    assert_eq!(workspace.sh("cat /data/changes /data/d/goes").await, "b\nc");
}

#[tokio::test]
async fn how_changes_are_found_is_decided_at_the_start() {
    let server = Server::start().await;
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    while !server
        .log()
        .contains("botstead_runtime_containerd::feed: live snapshots")
    {
        assert!(std::time::Instant::now() < deadline, "{}", server.log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
