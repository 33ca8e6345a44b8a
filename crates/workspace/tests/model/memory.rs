//! The model on the in-memory runtime.

use crate::counted::counted;
use crate::ground::{Fault, Files, Ground};
use crate::world::LINK;
use botstead_authz::Actor;
use botstead_runtime::{ErrorKind, Runtime};
use botstead_runtime_testing::memory::OPERATIONS;
use botstead_runtime_testing::{ImageContent, InMemoryRuntime};
use botstead_store::{ContainerRecord, Store};
use botstead_types::{ContainerId, SnapshotKey, TaskStatus};
use botstead_workspace::{WorkspaceConfig, Workspaces};
use std::sync::Arc;

const IMAGES: [&str; 2] = ["localhost/test/image:1", "localhost/test/other:1"];

pub struct Memory(InMemoryRuntime);

impl Memory {
    pub fn new() -> Self {
        let memory = InMemoryRuntime::new();
        for name in IMAGES {
            let content = ImageContent::of_files([("etc/image", name)]);
            memory.add_image(&name.parse().unwrap(), content);
        }
        // As if a neighbour deleted something at the worst moment each time.
        memory.collect_always(true);
        Self(memory)
    }

    fn snapshot_of(&self, id: &ContainerId) -> Option<SnapshotKey> {
        let containers = self.0.containers();
        let container = containers.iter().find(|found| found.id == *id)?;
        container.snapshot.parse().ok()
    }

    /// The snapshot that the workspace's processes write to, while they run.
    fn written(&self, row: &ContainerRecord) -> Option<SnapshotKey> {
        let key = self.snapshot_of(&row.container)?;
        let tasks = self.0.tasks();
        let runs = tasks
            .iter()
            .any(|(id, task)| *id == row.container && task.status == TaskStatus::Running);
        let exists = self.0.snapshots().iter().any(|found| found.key == key);
        (runs && exists).then_some(key)
    }

    /// Where a path leads: `/data` may be a link.
    fn followed(&self, key: &SnapshotKey, path: &str) -> String {
        match (path.strip_prefix("data/"), self.0.read_link(key, "data")) {
            (Some(rest), Some(target)) => format!("{}/{rest}", target.trim_start_matches('/')),
            _ => path.to_owned(),
        }
    }
}

impl Ground for Memory {
    fn runtime(&self) -> Runtime {
        self.0.runtime()
    }

    fn store(&self, store: Store) -> Store {
        let memory = self.0.clone();
        counted(store, Arc::new(move || memory.pass()))
    }

    fn configure(&self, _: &mut WorkspaceConfig) {}

    async fn begin(&self) {}

    fn images(&self) -> [&'static str; 2] {
        IMAGES
    }

    async fn write(
        &self,
        _: &Workspaces,
        _: &Actor,
        row: &ContainerRecord,
        path: &str,
        text: &str,
    ) -> Option<String> {
        let key = self.written(row)?;
        let path = self.followed(&key, path);
        self.0.write_file(&key, &path, text.to_owned());
        Some(path)
    }

    async fn remove(&self, _: &Workspaces, _: &Actor, row: &ContainerRecord, path: &str) -> bool {
        let Some(key) = self.written(row) else {
            return false;
        };
        self.0.remove_file(&key, &self.followed(&key, path));
        true
    }

    async fn link(&self, _: &Workspaces, _: &Actor, row: &ContainerRecord) -> bool {
        let Some(key) = self.written(row) else {
            return false;
        };
        if self.0.read_link(&key, "data").is_some() {
            return false;
        }
        for (path, content) in self.0.files(&key) {
            if let Some(rest) = path.strip_prefix("data/") {
                self.0
                    .write_file(&key, &format!("home/moved/{rest}"), content);
            }
        }
        self.0.write_file(&key, "home/moved/.keep", "");
        self.0.write_link(&key, "data", "/home/moved");
        true
    }

    async fn files(&self, key: &SnapshotKey) -> Option<Files> {
        if self.0.snapshots().iter().all(|found| found.key != *key) {
            return None;
        }
        let text = |content: bytes::Bytes| String::from_utf8(content.to_vec()).unwrap();
        let files = self.0.files(key).into_iter();
        let mut files: Files = files.map(|(path, content)| (path, text(content))).collect();
        if let Some(target) = self.0.read_link(key, LINK) {
            files.insert(LINK.to_owned(), target);
        }
        Some(files)
    }

    async fn lose_container(&self, id: &ContainerId) -> bool {
        self.0.lose_container(id)
    }

    async fn lose_snapshot(&self, key: &SnapshotKey) -> bool {
        self.0.lose_snapshot(key)
    }

    async fn reboot(&self) {
        self.0.restart_host();
    }

    fn arm(&self, fault: Fault) {
        match fault {
            Fault::Killed { at } => self.0.kill_after(at),
            Fault::Away { at } => self.0.stop_answering_after(at),
            Fault::Fails { call, full, lost } => {
                let operation = OPERATIONS[call % OPERATIONS.len()];
                let kind = match full {
                    true => ErrorKind::ResourceExhausted,
                    false => ErrorKind::Unavailable,
                };
                match lost {
                    true => self.0.lose_answer_next(operation, kind, 1),
                    false => self.0.fail_next(operation, kind, 1),
                }
            }
        }
    }

    fn disarm(&self) {
        self.0.live_again();
        self.0.answer_again();
        self.0.forget_faults();
    }
}
