//! A server that is killed at fault points, and the check of what a restart makes of it.
//!
//! It runs with the name of a file in its environment; what is written there arms a point. So one
//! start serves both for looking at what a kill left and for the next kill.

use super::scene::{Before, Kept, OTHER, Scene, contents};
use crate::client::Workspace;
use crate::server::{IMAGE, Server};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::{Duration, Instant};

pub(crate) struct Harness {
    pub(crate) server: Server,
    armed: PathBuf,
    /// What the server runs right before it dies.
    pub(crate) command: PathBuf,
    /// Mounts of a server without workspaces.
    mounts: usize,
}

impl Harness {
    pub(crate) async fn start() -> Self {
        Self::on(Server::start().await).await
    }

    pub(crate) async fn on(mut server: Server) -> Self {
        let tagged = server.ctr(&["images", "tag", IMAGE, OTHER]);
        assert!(tagged.contains(OTHER), "{tagged}");
        server.terminate();
        let mounts = server.leftovers().mounts;
        let (armed, command) = (server.beside("fault-point"), server.beside("fault-command"));
        let mut harness = Self {
            server,
            armed,
            command,
            mounts,
        };
        harness.disarm();
        harness.run().await;
        harness
    }

    fn disarm(&self) {
        std::fs::write(&self.armed, "").unwrap();
    }

    /// Starts the server and waits until it is ready; who was signed in still is.
    pub(crate) async fn run(&mut self) {
        self.spawn();
        self.server.ready().await;
    }

    /// Starts the server without waiting.
    pub(crate) fn spawn(&mut self) {
        let (armed, command) = (self.armed.to_str().unwrap(), self.command.to_str().unwrap());
        // There need not be such a program.
        let environment = [
            ("BOTSTEAD_FAULT_FILE", armed),
            ("BOTSTEAD_FAULT_COMMAND", command),
        ];
        self.server.spawn(&environment);
    }

    /// The plain case: killed and started again.
    pub(crate) async fn at(&mut self, operation: &'static str, step: &str) {
        let scene = Scene::set(&self.server, operation, step).await;
        self.kill_at(&scene, || {}).await;
        self.run().await;
        self.check(scene).await;
    }

    /// Performs the operation with its point armed, until the server died of it. `meanwhile` is
    /// called again and again.
    pub(crate) async fn kill_at(&mut self, scene: &Scene, mut meanwhile: impl FnMut()) {
        std::fs::write(&self.armed, &scene.point).unwrap();
        let performed = scene.perform();
        let deadline = Instant::now() + Duration::from_secs(30);
        while !self.server.was_killed() {
            meanwhile();
            assert!(
                Instant::now() < deadline,
                "{} was not reached, performed: {}",
                scene.point,
                performed.is_finished()
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        performed.abort();
        self.disarm();
    }

    /// Everything that must hold after a restart; then both workspaces are deleted, and nothing may
    /// be left of them.
    pub(crate) async fn check(&mut self, scene: Scene) {
        let point = &scene.point;
        let client = self.server.client.clone();
        let workspace = client.workspace(&scene.workspace.bot);
        let target = client.workspace(&scene.target.bot);
        for workspace in [&workspace, &target] {
            workspace.idle(point).await;
        }
        self.check_state(&workspace, &target, &scene).await;
        self.check_leftovers(&[&workspace, &target], point).await;
        self.check_doctor(point);
        for workspace in [&workspace, &target] {
            let gone = client.delete(&format!("/bots/{}", workspace.bot)).await;
            assert_eq!(gone.status, 204, "{point}: {gone:?}");
        }
        self.server.nothing_left_but(self.mounts).await;
        self.server.remove_preserved();
    }

    async fn check_state(&self, workspace: &Workspace, target: &Workspace, scene: &Scene) {
        let Scene {
            operation,
            point,
            was,
            ..
        } = scene;
        self.check_leftovers(&[workspace, target], point).await;
        if *operation == "delete" {
            let preserved = self.server.has_preserved(&workspace.bot);
            let exists = workspace.get().await.status == 200;
            if point == "delete.begun" {
                assert!(exists, "{point}: it was to be preserved first");
            } else {
                assert!(!exists, "{point}: a deletion goes forward");
                assert!(preserved, "{point}: the data is lost");
                self.check_versions(workspace, scene).await;
                return;
            }
        }
        if workspace.get().await.status != 200 {
            assert_eq!(*operation, "create", "{point}: the workspace is lost");
            let made = workspace.create(json!({"image": IMAGE})).await;
            assert_eq!(
                made.last().unwrap()["type"],
                "complete",
                "{point}: {made:?}"
            );
        }
        let info = workspace.info().await;
        let images: &[&str] = match *operation {
            "image" => &[IMAGE, OTHER],
            _ => &[IMAGE],
        };
        let image = info["image"].as_str().unwrap();
        assert!(images.contains(&image), "{point}: {info}");
        if was.is_stopped() {
            assert_eq!(info["task_running"], false, "{point}: it was stopped");
        } else if *operation != "create" {
            workspace.reachable().await;
        }
        workspace.post("/start", json!({})).await.ok();
        workspace.reachable().await;
        let shown = "cat /data/file 2>/dev/null || true";
        let now = workspace.sh(shown).await;
        let may: &[&str] = match (*operation, was) {
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
        workspace.sh("echo x > /data/proof && rm /data/proof").await;
        if *operation == "fork" && target.get().await.status == 200 {
            target.post("/start", json!({})).await.ok();
            target.reachable().await;
            assert_eq!(target.sh(shown).await, "two", "{point}: the fork");
        }
        self.check_versions(workspace, scene).await;
        assert_eq!(
            workspace.sh(shown).await,
            now,
            "{point}: looking changes nothing"
        );
        let frozen = self.server.frozen();
        assert!(frozen.is_empty(), "{point}: {frozen:?} are frozen");
    }

    /// Versions are what they were, and the one that may have been added holds the state before.
    async fn check_versions(&self, workspace: &Workspace, scene: &Scene) {
        let Scene { point, was, .. } = scene;
        let mut after: BTreeMap<u64, Kept> = contents(&self.server, workspace).await;
        for (number, content) in &scene.versions {
            let may_go = scene.operation == "delete_version" || point == "delete.released";
            match after.remove(number) {
                Some(found) => assert_eq!(found, *content, "{point}: version {number}"),
                None => assert!(may_go, "{point}: version {number} is lost"),
            }
        }
        let most = usize::from(!was.is_stopped());
        assert!(after.len() <= most, "{point}: more versions: {after:?}");
        for (number, (content, _)) in after {
            assert_eq!(content, "two", "{point}: what version {number} holds");
        }
    }

    /// Nothing but what these workspaces are made of.
    async fn check_leftovers(&self, workspaces: &[&Workspace], point: &str) {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            // Leases go in the background, and containerd collects after that.
            self.server.collect_garbage();
            let wrong = self.wrong(workspaces).await;
            if wrong.is_empty() {
                break;
            }
            assert!(Instant::now() < deadline, "{point}: {wrong:#?}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// What an administrator would see; it also compares the addresses.
    fn check_doctor(&self, point: &str) {
        let found = self.server.admin(&["doctor", "--repair"]);
        let text = String::from_utf8_lossy(&found.stdout);
        assert!(
            found.status.success() && text.starts_with("nothing is to be repaired"),
            "{point}: {found:?}"
        );
    }

    /// What is there and should not be, or the other way round.
    async fn wrong(&self, workspaces: &[&Workspace]) -> Vec<String> {
        let mut wanted = BTreeSet::new();
        let mut running = 0;
        for workspace in workspaces {
            let path = format!("{}/snapshots", workspace.path);
            let listed = workspace.client.get(&path).await;
            let versions = listed.body["snapshots"].as_array().cloned();
            for version in versions.unwrap_or_default() {
                if version["managed"] == true {
                    wanted.insert(
                        version["runtime_snapshot_name"]
                            .as_str()
                            .unwrap()
                            .to_owned(),
                    );
                }
            }
            let info = workspace.get().await;
            if info.status == 200 {
                running += usize::from(info.body["task_running"] == true);
            }
        }
        let left = self.server.leftovers();
        let mut wrong = Vec::new();
        let mut expect = |what: &str, found: usize, expected: usize| {
            if found != expected {
                wrong.push(format!("{found} {what} instead of {expected}"));
            }
        };
        let mut exist = 0;
        for workspace in workspaces {
            exist += usize::from(workspace.get().await.status == 200);
        }
        expect("containers", left.containers.len(), exist);
        expect("tasks", left.tasks.len(), running);
        expect("network namespaces", left.namespaces, running);
        expect("links", self.server.links(workspaces).len(), running);
        expect("mounts", left.mounts, self.mounts + running);
        if !left.leases.is_empty() {
            wrong.push(format!("leases: {:?}", left.leases));
        }
        for container in &left.containers {
            wanted.insert(self.server.snapshot_of(container));
        }
        wrong.extend(self.server.wrong_snapshots(&wanted));
        wrong
    }
}
