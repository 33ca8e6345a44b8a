//! What a fault point is reached from and with: a workspace in a state that is known, and a request.

use crate::client::Workspace;
use crate::server::{IMAGE, Server};
use reqwest::Method;
use reqwest::multipart::{Form, Part};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// A second name of the same image: the image that workspaces are changed to.
pub(crate) const OTHER: &str = "localhost/test/other:latest";

/// A point with what is known of the time before it.
pub(crate) struct Scene {
    pub(crate) operation: &'static str,
    pub(crate) point: String,
    pub(crate) was: Before,
    pub(crate) workspace: Workspace,
    /// A bot without a workspace, for a fork.
    pub(crate) target: Workspace,
    /// An archive for an import in which `/data/file` holds `new`.
    archive: Vec<u8>,
    pub(crate) versions: BTreeMap<u64, Kept>,
}

impl Scene {
    pub(crate) async fn set(server: &Server, operation: &'static str, step: &str) -> Self {
        let was = before(operation, step);
        let client = &server.client;
        let workspace = client.workspace(&client.bot().await);
        let target = client.workspace(&client.bot().await);
        let archive = prepare(&workspace, was).await;
        Self {
            operation,
            point: format!("{operation}.{step}"),
            was,
            versions: contents(server, &workspace).await,
            workspace,
            target,
            archive,
        }
    }

    /// Asks for the operation. The answer may never come.
    pub(crate) fn perform(&self) -> tokio::task::JoinHandle<()> {
        let (workspace, target) = (self.workspace.clone(), self.target.clone());
        let (operation, point, archive) =
            (self.operation, self.point.clone(), self.archive.clone());
        tokio::spawn(async move {
            perform(&workspace, &target, operation, &point, archive).await;
        })
    }
}

/// What a workspace holds when its operation begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Before {
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
    pub(crate) fn is_stopped(self) -> bool {
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

/// Makes the state before, and an archive for an import in which `/data/file` holds `new`.
async fn prepare(workspace: &Workspace, was: Before) -> Vec<u8> {
    if was == Before::Nothing {
        return Vec::new();
    }
    let events = workspace.create(json!({"image": IMAGE})).await;
    assert_eq!(events.last().unwrap()["type"], "complete", "{events:?}");
    workspace.sh("echo new > /data/file").await;
    let archive = workspace.export_as("tar.gz").await;
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
pub(crate) type Kept = (String, String);

/// All versions, read where they lie.
pub(crate) async fn contents(server: &Server, workspace: &Workspace) -> BTreeMap<u64, Kept> {
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
