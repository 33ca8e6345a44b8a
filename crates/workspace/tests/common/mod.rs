//! What the tests share: a service on the in-memory runtime and a real SQLite database, and checks
//! of what may never be violated.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "shared by several test programs"
)]

pub mod gated;

use botstead_authz::Actor;
use botstead_runtime::Runtime;
use botstead_runtime_testing::memory::UNSTARTABLE;
use botstead_runtime_testing::{ImageContent, InMemoryRuntime};
use botstead_store::{Bot, BotStatus, ContainerRecord, Metadata, Store, User};
use botstead_store_sql::SqlStore;
use botstead_types::{
    BotId, ContainerId, DesiredState, ImageRef, Limits, Role, SnapshotKind, TaskStatus, UserId,
};
use botstead_workspace::{
    ArchiveFormat, CreateEvent, CreateRequest, Error, ImportMode, SnapshotMode, WorkspaceConfig,
    Workspaces,
};
use chrono::Utc;
use futures_util::StreamExt;
use std::collections::HashSet;
use std::io::{Seek, Write};
use std::time::Duration;
use tempfile::TempDir;

pub const IMAGE: &str = "localhost/test/image:1";
pub const OTHER_IMAGE: &str = "localhost/test/other:1";

/// No busy machine takes so long.
pub const LONG: Duration = Duration::from_secs(90);

pub struct World {
    pub memory: InMemoryRuntime,
    pub store: Store,
    pub workspaces: Workspaces,
    pub owner: Actor,
    pub owner_id: UserId,
    directory: TempDir,
}

pub fn image(text: &str) -> ImageRef {
    text.parse().unwrap()
}

pub fn container(bot: BotId) -> ContainerId {
    ContainerId::for_bot(bot)
}

async fn user(store: &Store, name: &str) -> UserId {
    let now = Utc::now();
    let user = User {
        id: UserId::generate(),
        username: name.to_owned(),
        display_name: None,
        role: Role::Member,
        is_active: true,
        password_hash: String::new(),
        created_at: now,
        updated_at: now,
    };
    store.users.create(&user).await.unwrap();
    user.id
}

impl World {
    pub async fn new() -> Self {
        Self::on(InMemoryRuntime::new()).await
    }

    pub async fn on(memory: InMemoryRuntime) -> Self {
        Self::with(memory, |_, _| {}).await
    }

    /// Where nobody waits long for what somebody else holds.
    pub async fn impatient() -> Self {
        Self::with(InMemoryRuntime::new(), |_, config| {
            config.busy_wait = Duration::from_millis(300);
        })
        .await
    }

    /// With ports and settings of the test's own. They do not outlive a restart.
    pub async fn with(
        memory: InMemoryRuntime,
        change: impl FnOnce(&mut Runtime, &mut WorkspaceConfig),
    ) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let sql = SqlStore::open_temporary(directory.path()).await.unwrap();
        let store = sql.store();
        for name in [IMAGE, OTHER_IMAGE, "localhost/botstead/workspace"] {
            memory.add_image(&image(name), ImageContent::of_files([("etc/image", name)]));
        }
        let owner_id = user(&store, "owner").await;
        let (mut runtime, mut config) = (memory.runtime(), config(directory.path()));
        change(&mut runtime, &mut config);
        let handle = tokio::runtime::Handle::current();
        let workspaces = Workspaces::open(runtime, store.clone(), config, handle)
            .await
            .unwrap();
        Self {
            memory,
            store,
            workspaces,
            owner: Actor::User {
                id: owner_id,
                role: Role::Member,
            },
            owner_id,
            directory,
        }
    }

    /// As a restart of the server: the service is opened anew on the same runtime and database.
    pub async fn restart(&mut self) {
        self.restart_with(|_| {}).await;
    }

    /// The same with another configuration.
    pub async fn restart_with(&mut self, change: impl FnOnce(&mut WorkspaceConfig)) {
        assert!(self.workspaces.close(LONG).await, "the server does not end");
        let mut config = config(self.directory.path());
        change(&mut config);
        let (runtime, store) = (self.memory.runtime(), self.store.clone());
        let handle = tokio::runtime::Handle::current();
        self.workspaces = Workspaces::open(runtime, store, config, handle)
            .await
            .unwrap();
    }

    /// Bots are of another user from now on.
    pub async fn change_owner(&mut self) {
        let name = UserId::generate().to_string();
        self.owner_id = user(&self.store, &name).await;
        self.owner = Actor::User {
            id: self.owner_id,
            role: Role::Member,
        };
    }

    pub async fn bot(&self) -> BotId {
        let now = Utc::now();
        let id = BotId::generate();
        self.store
            .bots
            .create(&Bot {
                id,
                owner: self.owner_id,
                name: "bot".to_owned(),
                display_name: None,
                is_active: true,
                status: BotStatus::Ready,
                metadata: Metadata::default(),
                created_at: now,
                updated_at: now,
            })
            .await
            .unwrap();
        id
    }

    pub async fn create(&self, bot: BotId) -> Vec<CreateEvent> {
        self.workspaces
            .create(&self.owner, bot, request(IMAGE))
            .await
            .unwrap()
            .collect()
            .await
    }

    /// A bot with a running workspace.
    pub async fn running(&self) -> BotId {
        let bot = self.bot().await;
        let events = self.create(bot).await;
        assert!(
            matches!(events.last(), Some(CreateEvent::Complete(_))),
            "{events:?}"
        );
        bot
    }

    pub async fn record(&self, bot: BotId) -> ContainerRecord {
        self.store.containers.get(bot).await.unwrap()
    }

    /// Writes a file in the workspace, as a program inside would.
    pub async fn write(&self, bot: BotId, content: &str) {
        let key = self.record(bot).await.snapshot;
        self.memory
            .write_file(&key, "data/file", content.to_owned());
    }

    pub async fn read(&self, bot: BotId) -> Option<String> {
        let key = self.record(bot).await.snapshot;
        let bytes = self.memory.read_file(&key, "data/file")?;
        Some(String::from_utf8(bytes.to_vec()).unwrap())
    }

    pub async fn snapshot(&self, bot: BotId) -> u32 {
        let made = self
            .workspaces
            .snapshot(&self.owner, bot, None, SnapshotMode::Stop)
            .await
            .unwrap();
        made.version.number.get()
    }

    /// Writes another file in the workspace.
    pub async fn write_to(&self, bot: BotId, path: &str, content: &str) {
        let key = self.record(bot).await.snapshot;
        self.memory.write_file(&key, path, content.to_owned());
    }

    /// A running bot with `two`, whose version 1 has `one` and cannot be started.
    pub async fn beside_unstartable(&self) -> BotId {
        let bot = self.running().await;
        self.write(bot, "one").await;
        self.write_to(bot, UNSTARTABLE, "").await;
        self.live_snapshot(bot).await;
        let active = self.record(bot).await.snapshot;
        self.memory.remove_file(&active, UNSTARTABLE);
        self.write(bot, "two").await;
        bot
    }

    /// A file of the workspace.
    pub async fn read_from(&self, bot: BotId, path: &str) -> Option<String> {
        let key = self.record(bot).await.snapshot;
        let bytes = self.memory.read_file(&key, path)?;
        Some(String::from_utf8(bytes.to_vec()).unwrap())
    }

    /// A snapshot of the running workspace; its number.
    pub async fn live_snapshot(&self, bot: BotId) -> u32 {
        let made = self
            .workspaces
            .snapshot(&self.owner, bot, None, SnapshotMode::Live)
            .await
            .unwrap();
        made.version.number.get()
    }

    /// All of an export.
    pub async fn export(&self, bot: BotId, format: ArchiveFormat) -> Vec<u8> {
        let mut archive = self
            .workspaces
            .export_data(&self.owner, bot, format)
            .await
            .unwrap();
        let mut all = Vec::new();
        while let Some(piece) = archive.next().await {
            all.extend_from_slice(&piece.unwrap());
        }
        all
    }

    /// Imports these bytes.
    pub async fn import(
        &self,
        bot: BotId,
        archive: &[u8],
        mode: ImportMode,
    ) -> Result<Option<u32>, Error> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(archive).unwrap();
        file.rewind().unwrap();
        let imported = self
            .workspaces
            .import_data(&self.owner, bot, file, mode.into())
            .await?;
        Ok(imported.map(|version| version.get()))
    }

    /// Where preserved archives are.
    pub fn preserved(&self) -> std::path::PathBuf {
        self.directory.path().join("preserved")
    }

    /// The archives of a bot's preserved data.
    pub fn archives(&self, bot: BotId) -> Vec<std::path::PathBuf> {
        let folder = self.preserved().join(bot.to_string());
        let entries = folder.read_dir().into_iter().flatten();
        let mut found: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
        found.sort();
        found
    }

    /// Waits until the background work of finished operations is done.
    pub async fn settled(&self) {
        let empty = async {
            while !self.memory.leases().is_empty() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let empty = tokio::time::timeout(LONG, empty).await;
        assert!(empty.is_ok(), "leases are left: {:?}", self.memory.leases());
    }

    /// What holds whenever nothing is under way: nothing is orphaned, nothing recorded is missing,
    /// and what should run does.
    pub async fn check_whole(&self) {
        self.settled().await;
        self.memory.runtime().leases.collect().await.unwrap();
        assert!(self.store.operations.unfinished().await.unwrap().is_empty());
        let records = self.store.containers.list().await.unwrap();
        let ids: HashSet<_> = records
            .iter()
            .map(|record| record.container.clone())
            .collect();
        let snapshots = self.memory.snapshots();
        let mut expected: HashSet<_> = records
            .iter()
            .map(|record| record.snapshot.clone())
            .collect();
        let containers = self.memory.containers();
        assert_eq!(containers.len(), records.len(), "container records");
        let tasks = self.memory.tasks();
        for record in &records {
            let found = containers.iter().find(|found| found.id == record.container);
            assert_eq!(found.unwrap().snapshot, record.snapshot.as_str());
            assert_eq!(found.unwrap().image, record.image.reference.as_str());
            let active = snapshots.iter().find(|found| found.key == record.snapshot);
            assert_eq!(active.unwrap().kind, SnapshotKind::Active);
            let runs = tasks
                .iter()
                .any(|(id, task)| *id == record.container && task.status == TaskStatus::Running);
            assert_eq!(runs, record.desired == DesiredState::Running);
        }
        let running = records
            .iter()
            .filter(|record| record.desired == DesiredState::Running);
        assert_eq!(tasks.len(), running.count(), "tasks {tasks:?}");
        for (id, _) in self.memory.namespaces() {
            assert!(ids.contains(&id), "a namespace of {id} is left");
        }
        let addresses = self.store.addresses.list().await.unwrap();
        for assigned in &addresses {
            assert!(ids.contains(&container(assigned.bot)), "an address is left");
        }
        let page = botstead_types::PageRequest::default();
        for bot in self.store.bots.list(None, &page).await.unwrap().items {
            for version in self.store.versions.list(bot.id).await.unwrap() {
                let kept = snapshots.iter().find(|found| found.key == version.snapshot);
                let kept = kept.unwrap_or_else(|| panic!("version {} is lost", version.number));
                assert_eq!(kept.kind, SnapshotKind::Committed);
                expected.insert(version.snapshot);
            }
        }
        let needed: HashSet<_> = snapshots
            .iter()
            .filter_map(|found| found.parent.clone())
            .collect();
        for found in &snapshots {
            let image_layer = found.key.as_str().starts_with("sha256:");
            assert!(
                expected.contains(&found.key) || needed.contains(&found.key) || image_layer,
                "an orphaned snapshot is left: {found:?}"
            );
        }
    }
}

/// Bytes that no compression makes fewer: as an archive, more than is on its way at once.
pub fn noise() -> Vec<u8> {
    let mut state = 1_u64;
    let words = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    words.take(1 << 20).flatten().collect()
}

pub fn request(image_name: &str) -> CreateRequest {
    CreateRequest {
        image: Some(image(image_name)),
        limits: Some(Limits::default()),
        ..CreateRequest::default()
    }
}

pub async fn open(
    memory: &InMemoryRuntime,
    store: &Store,
    directory: &std::path::Path,
) -> botstead_workspace::Result<Workspaces> {
    let handle = tokio::runtime::Handle::current();
    Workspaces::open(memory.runtime(), store.clone(), config(directory), handle).await
}

fn config(directory: &std::path::Path) -> WorkspaceConfig {
    let mut config = WorkspaceConfig::new("/nonexistent/agent".into(), directory.to_owned());
    (config.min_free_bytes, config.min_free_percent) = (0, 0);
    config.stop_grace = Duration::from_secs(1);
    // Longer than a busy machine takes for what goes on in the background.
    config.busy_wait = LONG;
    config.reconcile_interval = Duration::from_secs(3600);
    // Agents of these tests are silent, or there are none.
    config.first_answer = Duration::ZERO;
    config
}
