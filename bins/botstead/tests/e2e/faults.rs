//! The server is killed at every fault point of every operation: after a restart the workspace is
//! in the state before or the state after, no version is lost or changed, and nothing is left over.
//!
//! A server runs with the name of a file in its environment; what is written there arms a point. So
//! one start serves both for looking at what a kill left and for the next kill.

use crate::client::Workspace;
use crate::server::{IMAGE, Leftovers, Server};
use botstead_workspace::FAULT_POINTS;
use reqwest::Method;
use reqwest::multipart::{Form, Part};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// A second name of the same image: the image that workspaces are changed to.
const OTHER: &str = "localhost/test/other:latest";

/// What a workspace holds when its operation begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Before {
    Nothing,
    /// Preserved data and no workspace.
    Preserved,
    /// Version 1 holds `one`, and the workspace, which runs, `two`.
    Changed,
    /// The same with preserved data, in which is `two`.
    ChangedAndPreserved,
    /// Version 1 holds `one`, and so does the workspace, which is stopped.
    Unchanged,
    /// The same with preserved data, in which is `two`.
    UnchangedAndPreserved,
}

impl Before {
    fn is_stopped(self) -> bool {
        matches!(self, Self::Unchanged | Self::UnchangedAndPreserved)
    }
}

/// What a point is reached from.
fn before(operation: &str, step: &str) -> Before {
    match (operation, step) {
        ("create", "restored" | "returned") => Before::Preserved,
        ("create", _) => Before::Nothing,
        ("restore", "removed") => Before::UnchangedAndPreserved,
        ("restore", _) => Before::ChangedAndPreserved,
        (_, "removed") => Before::Unchanged,
        _ => Before::Changed,
    }
}

struct Harness {
    server: Server,
    armed: std::path::PathBuf,
}

impl Harness {
    async fn start() -> Self {
        let mut server = Server::start().await;
        let pulled = server.ctr(&["images", "tag", IMAGE, OTHER]);
        assert!(pulled.contains(OTHER), "{pulled}");
        server.terminate();
        let armed = server.file("fault-point");
        let mut harness = Self { server, armed };
        harness.disarm();
        harness.run().await;
        harness
    }

    fn disarm(&self) {
        std::fs::write(&self.armed, "").unwrap();
    }

    async fn run(&mut self) {
        let file = self.armed.to_string_lossy().into_owned();
        self.server.run(&[("BOTSTEAD_FAULT_FILE", &file)]).await;
    }

    async fn at(&mut self, operation: &'static str, step: &str) {
        let point = format!("{operation}.{step}");
        let was = before(operation, step);
        let client = self.server.client.clone();
        let workspace = client.workspace(&client.bot().await);
        let target = client.workspace(&client.bot().await);
        let archive = prepare(&workspace, was).await;
        let versions = contents(&self.server, &workspace).await;
        let name = point.clone();
        std::fs::write(&self.armed, &name).unwrap();
        let (armed, other) = (workspace.clone(), target.clone());
        let performed = tokio::spawn(async move {
            perform(&armed, &other, operation, &name, archive).await;
        });
        assert!(
            self.server.died(Duration::from_secs(20)).await,
            "{point} was not reached: {:?}",
            performed.await
        );
        performed.abort();
        self.disarm();
        self.run().await;

        let client = self.server.client.clone();
        let workspace = client.workspace(&workspace.bot);
        let target = client.workspace(&target.bot);
        self.check(&workspace, &target, operation, &point, was, &versions)
            .await;
        for workspace in [&workspace, &target] {
            let gone = client.delete(&format!("/bots/{}", workspace.bot)).await;
            assert_eq!(gone.status, 204, "{point}: {gone:?}");
        }
        self.server.nothing_left().await;
        self.server.remove_preserved();
    }

    async fn check(
        &self,
        workspace: &Workspace,
        target: &Workspace,
        operation: &str,
        point: &str,
        was: Before,
        versions: &BTreeMap<u64, Kept>,
    ) {
        for workspace in [workspace, target] {
            let path = format!("/bots/{}/operations", workspace.bot);
            let listed = workspace.client.get(&path).await.ok();
            let all = listed["items"].as_array().unwrap();
            let running = all.iter().find(|operation| operation["state"] == "running");
            assert!(running.is_none(), "{point}: {running:?}");
        }
        self.check_leftovers(&[workspace, target], point).await;
        if operation == "delete" {
            let preserved = self.server.has_preserved(&workspace.bot);
            let exists = workspace.get().await.status == 200;
            if point == "delete.begun" {
                assert!(exists, "{point}: it was to be preserved first");
            } else {
                assert!(!exists, "{point}: a deletion goes forward");
                assert!(preserved, "{point}: the data is lost");
                return;
            }
        }
        if workspace.get().await.status != 200 {
            assert_eq!(operation, "create", "{point}: the workspace is lost");
            let made = workspace.create(json!({"image": IMAGE})).await;
            assert_eq!(
                made.last().unwrap()["type"],
                "complete",
                "{point}: {made:?}"
            );
        }
        if !was.is_stopped() && operation != "create" {
            workspace.reachable().await;
        }
        workspace.post("/start", json!({})).await.ok();
        workspace.reachable().await;
        let shown = "cat /data/file 2>/dev/null || true";
        let now = workspace.sh(shown).await;
        let may: &[&str] = match (operation, was) {
            ("create", Before::Nothing) => &[""],
            ("create", _) => &["two"],
            ("rollback", _) => &["one"],
            ("import", Before::Unchanged) => &["one", "new"],
            ("import", _) => &["two", "new"],
            ("restore_path", _) | (_, Before::UnchangedAndPreserved) => &["one", "two"],
            (_, Before::Unchanged) => &["one"],
            _ => &["two"],
        };
        assert!(
            may.contains(&now.as_str()),
            "{point}: /data/file holds {now:?}"
        );
        if operation == "fork" && target.get().await.status == 200 {
            target.post("/start", json!({})).await.ok();
            target.reachable().await;
            assert_eq!(target.sh(shown).await, "two", "{point}: the fork");
        }
        // Versions are what they were, and what was added holds a state that was.
        let mut after = contents(&self.server, workspace).await;
        for (number, content) in versions {
            let gone = operation == "delete_version";
            match after.remove(number) {
                Some(found) => assert_eq!(found, *content, "{point}: version {number}"),
                None => assert!(gone, "{point}: version {number} is lost"),
            }
        }
        for (number, (content, _)) in after {
            assert!(
                ["one", "two"].contains(&content.as_str()),
                "{point}: version {number} holds {content:?}"
            );
        }
        assert_eq!(
            workspace.sh(shown).await,
            now,
            "{point}: looking changes nothing"
        );
    }

    /// Nothing but what these workspaces are made of.
    async fn check_leftovers(&self, workspaces: &[&Workspace], point: &str) {
        let mut expected = 0;
        let (mut containers, mut running) = (0, 0);
        for workspace in workspaces {
            let path = format!("{}/snapshots/tree", workspace.path);
            let tree = workspace.client.get(&path);
            expected += tree.await.ok()["versions"].as_array().unwrap().len();
            let info = workspace.get().await;
            if info.status == 200 {
                containers += 1;
                expected += 1;
                running += usize::from(info.body["task_running"] == true);
            }
        }
        let mut last: Option<Leftovers> = None;
        for _ in 0..50 {
            // Leases go in the background, and containerd collects after that.
            self.server.collect_garbage();
            let left = self.server.leftovers();
            if left.leases.is_empty()
                && left.snapshots.len() == expected
                && left.containers.len() == containers
                && left.tasks.len() == running
                && left.namespaces == running
            {
                return;
            }
            last = Some(left);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!(
            "{point}: {expected} snapshots, {containers} containers and {running} tasks were \
             expected: {last:?}"
        );
    }
}

/// Makes the state before, and an archive for an import in which `/data/file` holds `new`.
async fn prepare(workspace: &Workspace, was: Before) -> Vec<u8> {
    if was == Before::Nothing {
        return Vec::new();
    }
    let events = workspace.create(json!({"image": IMAGE})).await;
    assert_eq!(events.last().unwrap()["type"], "complete", "{events:?}");
    workspace.sh("echo new > /data/file").await;
    let archive = workspace.export("tar.gz").await;
    if matches!(
        was,
        Before::Preserved | Before::ChangedAndPreserved | Before::UnchangedAndPreserved
    ) {
        workspace.sh("echo two > /data/file").await;
        let path = format!("{}?preserve_data=true", workspace.path);
        assert_eq!(workspace.client.delete(&path).await.status, 204);
        if was == Before::Preserved {
            return archive;
        }
        let body = json!({"image": IMAGE, "restore_data": false});
        let events = workspace.create(body).await;
        assert_eq!(events.last().unwrap()["type"], "complete", "{events:?}");
    }
    workspace.sh("echo one > /data/file").await;
    if was.is_stopped() {
        workspace.post("/stop", json!({})).await.ok();
        workspace.snapshot().await;
    } else {
        workspace.snapshot().await;
        workspace.sh("echo two > /data/file").await;
    }
    archive
}

async fn perform(
    workspace: &Workspace,
    target: &Workspace,
    operation: &str,
    point: &str,
    archive: Vec<u8>,
) {
    let send = async |workspace: &Workspace, method, call: &str, body: Value| {
        let path = format!("{}{call}", workspace.path);
        let request = workspace.client.request(method, &path).json(&body);
        if let Ok(answer) = request.send().await {
            // To its end: it may be a stream.
            let _ = answer.bytes().await;
        }
    };
    let (post, delete) = (Method::POST, Method::DELETE);
    match operation {
        "create" => send(workspace, post, "", json!({"image": IMAGE})).await,
        "snapshot" => send(workspace, post, "/snapshots", json!({"mode": "stop"})).await,
        "live" => send(workspace, post, "/snapshots", json!({})).await,
        "rollback" => {
            send(
                workspace,
                post,
                "/snapshots/rollback",
                json!({"version": 1}),
            )
            .await
        }
        "restore" => send(workspace, post, "/data/restore", json!({})).await,
        "restore_path" => {
            let body = json!({"path": "/data/file"});
            send(workspace, post, "/snapshots/1/restore-path", body).await;
        }
        "image" => send(workspace, Method::PUT, "/image", json!({"image": OTHER})).await,
        "fork" => send(target, post, "/fork", json!({"from_bot": workspace.bot})).await,
        "delete" if point == "delete.released" => {
            let call = "?preserve_data=true&delete_versions=true";
            send(workspace, delete, call, Value::Null).await;
        }
        "delete" => send(workspace, delete, "?preserve_data=true", Value::Null).await,
        "delete_version" => send(workspace, delete, "/snapshots/1", Value::Null).await,
        "import" => {
            let form = Form::new().part("file", Part::bytes(archive));
            let path = format!("{}/data/import", workspace.path);
            let request = workspace.client.request(post, &path).multipart(form);
            let _ = request.send().await;
        }
        other => panic!("nobody knows how to perform {other}"),
    }
}

/// What `/data/file` is in a version, and the digest of all that is in its layer.
type Kept = (String, String);

/// All versions, read where they lie.
async fn contents(server: &Server, workspace: &Workspace) -> BTreeMap<u64, Kept> {
    let path = format!("{}/snapshots", workspace.path);
    let listed = workspace.client.get(&path).await;
    let snapshots = listed.body["snapshots"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let mut contents = BTreeMap::new();
    for snapshot in snapshots
        .iter()
        .filter(|snapshot| snapshot["managed"] == true)
    {
        let key = snapshot["runtime_snapshot_name"].as_str().unwrap();
        let number = snapshot["version"].as_u64().unwrap();
        contents.insert(number, server.kept_in(key, "data/file"));
    }
    contents
}

/// Every point of these operations, each on a server of its own pace.
async fn kill_everywhere(operations: &[&str]) {
    let began = Instant::now();
    let mut harness = Harness::start().await;
    let mut died = 0;
    for (operation, steps) in FAULT_POINTS {
        if !operations.contains(operation) {
            continue;
        }
        for step in *steps {
            harness.at(operation, step).await;
            died += 1;
        }
    }
    assert!(died > 0, "{operations:?} have no points");
    println!(
        "killed at {died} points of {operations:?} in {:?}",
        began.elapsed()
    );
}

const GROUPS: [&[&str]; 4] = [
    &["create", "snapshot", "live"],
    &["rollback", "import"],
    &["restore", "restore_path", "delete_version"],
    &["image", "fork", "delete"],
];

/// A point in no group would never be tried.
#[test]
fn every_operation_is_in_a_group() {
    for (operation, _) in FAULT_POINTS {
        let groups = GROUPS.iter().filter(|group| group.contains(operation));
        assert_eq!(groups.count(), 1, "{operation}");
    }
}

#[tokio::test]
async fn a_kill_while_creating_and_keeping_loses_nothing() {
    kill_everywhere(GROUPS[0]).await;
}

#[tokio::test]
async fn a_kill_while_rolling_back_and_importing_loses_nothing() {
    kill_everywhere(GROUPS[1]).await;
}

#[tokio::test]
async fn a_kill_while_bringing_back_loses_nothing() {
    kill_everywhere(GROUPS[2]).await;
}

#[tokio::test]
async fn a_kill_while_changing_forking_and_deleting_loses_nothing() {
    kill_everywhere(GROUPS[3]).await;
}
