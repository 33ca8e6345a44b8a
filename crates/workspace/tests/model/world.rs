//! A server on a ground, with bots, and what of theirs can be reached.

use crate::ground::{Files, Ground};
use botstead_authz::Actor;
use botstead_store::{Bot, BotStatus, ContainerRecord, Metadata, Store, VersionRecord};
use botstead_store_sql::{SqlConfig, SqlStore};
use botstead_types::{
    BotId, PageRequest, PreservedId, SnapshotKey, UserId, VersionNumber, VersionSource,
};
use botstead_workspace::{RetentionRules, WorkspaceConfig, Workspaces};
use chrono::Utc;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Versions that nobody asked for, of each source.
pub const KEPT: usize = 3;

/// Stands for a link in the place of `/data`.
pub const LINK: &str = "data";

/// Where something can be reached.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// The present state of a workspace.
    Active(BotId),
    Version(BotId, VersionNumber),
    Archive(BotId, PreservedId),
    /// What the database does not know, as it is listed for admins.
    Unrecorded(BotId, SnapshotKey),
    /// An archive of a bot that the database does not know.
    UnknownArchive(BotId, PreservedId),
}

/// Everything that can be reached.
#[derive(Debug, Clone, Default)]
pub struct Reach {
    pub places: BTreeMap<Place, Files>,
    pub versions: Vec<VersionRecord>,
}

impl Reach {
    /// What was written, by what it says.
    pub fn tokens(&self) -> BTreeSet<&str> {
        let all = self.places.values().flat_map(BTreeMap::values);
        all.filter(|text| is_token(text))
            .map(String::as_str)
            .collect()
    }

    /// Where a token is.
    pub fn places_of(&self, token: &str) -> Vec<(&Place, &str)> {
        let files = self.places.iter();
        let files = files.flat_map(|(place, files)| files.iter().map(move |file| (place, file)));
        files
            .filter(|(_, (_, text))| *text == token)
            .map(|(place, (path, _))| (place, path.as_str()))
            .collect()
    }

    pub fn of(&self, place: &Place) -> Files {
        self.places.get(place).cloned().unwrap_or_default()
    }
}

/// What the model writes, and nothing else does.
pub fn is_token(text: &str) -> bool {
    text.strip_prefix("written-")
        .is_some_and(|number| number.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Whether a path is a part of the data of a state: in `/data`, or where the model moved that to.
pub fn is_data(path: &str, files: &Files) -> bool {
    let folder = match files.contains_key(LINK) {
        true => "home/moved/",
        false => "data/",
    };
    path.starts_with(folder)
}

/// A server on a ground.
pub struct World<G> {
    pub ground: G,
    pub owner: Actor,
    pub admin: Actor,
    pub store: Store,
    pub workspaces: Workspaces,
    sql: SqlStore,
    /// Whether the database is another since it was opened.
    replaced: bool,
    owner_id: UserId,
    folder: PathBuf,
    archives: BTreeMap<PreservedId, Files>,
    /// The bot of each slot.
    pub bots: Vec<BotId>,
    pub backups: Vec<PathBuf>,
    /// What was exported.
    pub exports: Vec<Vec<u8>>,
    pub written: usize,
}

impl<G: Ground> World<G> {
    /// On a copy of a fresh database whose only user is this one.
    pub async fn new(ground: G, folder: &Path, fresh: &Path, owner_id: UserId) -> Self {
        let database = folder.join("botstead.db");
        std::fs::copy(fresh, &database).unwrap();
        ground.begin().await;
        let sql = open_database(folder).await;
        let store = ground.store(sql.store());
        let workspaces = open(&ground, &store, folder).await;
        Self {
            ground,
            owner: Actor::User {
                id: owner_id,
                role: botstead_types::Role::Member,
            },
            admin: Actor::System,
            store,
            workspaces,
            sql,
            replaced: false,
            owner_id,
            folder: folder.to_owned(),
            archives: BTreeMap::new(),
            bots: Vec::new(),
            backups: Vec::new(),
            exports: Vec::new(),
            written: 0,
        }
    }

    /// Ends the server, lets `meanwhile` happen, and starts it.
    pub async fn restart(&mut self, meanwhile: impl AsyncFnOnce(&mut Self)) {
        let closed = self.workspaces.close(Duration::from_secs(20)).await;
        assert!(closed, "the server does not come to its end");
        meanwhile(self).await;
        self.ground.disarm();
        if std::mem::take(&mut self.replaced) {
            self.sql = open_database(&self.folder).await;
            self.store = self.ground.store(self.sql.store());
        }
        self.workspaces = open(&self.ground, &self.store, &self.folder).await;
    }

    pub async fn close(self) {
        self.workspaces.close(Duration::from_secs(20)).await;
        self.sql.close().await;
    }

    pub async fn backup(&mut self) {
        let file = self.folder.join(format!("backup-{}", self.backups.len()));
        self.sql.backup_to(&file).await.unwrap();
        self.backups.push(file);
    }

    /// Puts the last copy back; the server is down.
    pub async fn put_back(&mut self) {
        let Some(backup) = self.backups.last() else {
            return;
        };
        self.sql.close().await;
        let database = self.folder.join("botstead.db");
        for suffix in ["-wal", "-shm"] {
            let mut name = database.clone().into_os_string();
            name.push(suffix);
            let _ = std::fs::remove_file(name);
        }
        std::fs::copy(backup, database).unwrap();
        self.replaced = true;
    }

    /// The bot of a slot, made when it is gone.
    pub async fn bot(&mut self, slot: usize) -> BotId {
        while self.bots.len() <= slot {
            self.bots.push(BotId::generate());
        }
        let id = self.bots[slot];
        if self.store.bots.get(id).await.is_ok() {
            return id;
        }
        let now = Utc::now();
        let id = BotId::generate();
        let bot = Bot {
            id,
            owner: self.owner_id,
            name: format!("bot-{slot}"),
            display_name: None,
            is_active: true,
            status: BotStatus::Ready,
            metadata: Metadata::default(),
            created_at: now,
            updated_at: now,
        };
        self.store.bots.create(&bot).await.unwrap();
        self.bots[slot] = id;
        id
    }

    pub async fn row(&self, bot: BotId) -> Option<ContainerRecord> {
        self.store.containers.get(bot).await.ok()
    }

    pub async fn versions(&self, bot: BotId) -> Vec<VersionRecord> {
        self.store.versions.list(bot).await.unwrap_or_default()
    }

    /// The ids of the bot's archives, newest first.
    pub async fn preserved(&self, bot: BotId) -> Vec<PreservedId> {
        let page = PageRequest::default();
        let found = self.workspaces.preserved(&self.owner, bot, &page).await;
        let found = found.map(|page| page.items).unwrap_or_default();
        found.into_iter().map(|archive| archive.id).collect()
    }

    /// Everything that can be reached now.
    pub async fn reach(&mut self) -> Reach {
        let mut reach = Reach::default();
        let page = PageRequest::default();
        let bots = self.store.bots.list(None, &page).await.unwrap().items;
        for row in self.store.containers.list().await.unwrap() {
            if let Some(files) = self.ground.files(&row.snapshot).await {
                reach.places.insert(Place::Active(row.bot), files);
            }
        }
        for bot in bots.into_iter().map(|bot| bot.id) {
            for version in self.versions(bot).await {
                if let Some(files) = self.ground.files(&version.snapshot).await {
                    let place = Place::Version(bot, version.number);
                    reach.places.insert(place, files);
                }
                reach.versions.push(version);
            }
            if !self.folder.join("preserved").join(bot.to_string()).is_dir() {
                continue;
            }
            for id in self.preserved(bot).await {
                let files = self.archive(bot, id);
                reach.places.insert(Place::Archive(bot, id), files);
            }
        }
        for found in self.workspaces.unrecorded(&self.admin).await.unwrap() {
            if let Some(files) = self.ground.files(&found.name).await {
                let place = Place::Unrecorded(found.bot, found.name);
                reach.places.insert(place, files);
            }
        }
        let unclaimed = self.workspaces.unclaimed_archives(&self.admin).await;
        for found in unclaimed.unwrap() {
            let id = found.archive.id;
            let files = self.archive(found.bot, id);
            reach
                .places
                .insert(Place::UnknownArchive(found.bot, id), files);
        }
        reach
    }

    fn archive(&mut self, bot: BotId, id: PreservedId) -> Files {
        let folder = self.folder.join("preserved").join(bot.to_string());
        let read = || unpacked(&std::fs::read(folder.join(format!("{id}.tar.zst"))).unwrap());
        self.archives.entry(id).or_insert_with(read).clone()
    }
}

/// The files of an archive.
pub fn unpacked(bytes: &[u8]) -> Files {
    let mut files = Files::new();
    let plain = zstd::decode_all(bytes).unwrap();
    for entry in tar::Archive::new(&plain[..]).entries().unwrap() {
        let mut entry = entry.unwrap();
        if entry.header().entry_type().is_file() {
            let path = entry.path().unwrap().to_string_lossy().into_owned();
            let mut text = String::new();
            entry.read_to_string(&mut text).unwrap();
            files.insert(path, text);
        }
    }
    files
}

async fn open_database(folder: &Path) -> SqlStore {
    let config = SqlConfig {
        // Each prepares its statements anew.
        max_readers: 1,
        ..SqlConfig::at(folder.join("botstead.db"))
    };
    SqlStore::open(&config).await.unwrap()
}

async fn open<G: Ground>(ground: &G, store: &Store, folder: &Path) -> Workspaces {
    let mut config = WorkspaceConfig::new("/nonexistent/agent".into(), folder.to_owned());
    (config.min_free_bytes, config.min_free_percent) = (0, 0);
    config.stop_grace = Duration::from_secs(1);
    config.busy_wait = Duration::from_secs(20);
    config.reconcile_interval = Duration::from_secs(3600);
    config.default_image = ground.images()[0].parse().unwrap();
    config.retention = RetentionRules {
        pre_exec: KEPT,
        rollback: KEPT,
        import: KEPT,
        image: KEPT,
    };
    ground.configure(&mut config);
    let handle = tokio::runtime::Handle::current();
    let workspaces = Workspaces::open(ground.runtime(), store.clone(), config, handle).await;
    workspaces.expect("the server starts")
}

/// Whether a version may be gone because newer ones of its kind came.
pub fn may_expire(version: &VersionRecord, after: &Reach) -> bool {
    let automatic = matches!(
        version.source,
        VersionSource::PreExec
            | VersionSource::Rollback
            | VersionSource::Import
            | VersionSource::Image
    );
    let newer = after.versions.iter().filter(|other| {
        other.bot == version.bot && other.source == version.source && other.number > version.number
    });
    automatic && !version.pinned && newer.count() >= KEPT
}
