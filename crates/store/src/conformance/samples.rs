//! Records to write, with every field set to something that a default is not.

use crate::{
    Bot, BotStatus, Change, ContainerRecord, NewEvent, Operation, OperationKind, OperationState,
    Store, User, VersionRecord,
};
use botstead_types::{
    BotId, ContainerId, DesiredState, ImageConfig, Limits, OperationId, RecordedImage, Role,
    SnapshotKey, UserId, VersionNumber, VersionSource,
};
use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Map, Value, json};

/// A fixed time, `micros` microseconds after another.
pub fn at(micros: i64) -> DateTime<Utc> {
    DateTime::UNIX_EPOCH + TimeDelta::days(20_000) + TimeDelta::microseconds(micros)
}

/// A version number.
pub fn number(number: i64) -> VersionNumber {
    number.try_into().unwrap()
}

/// A JSON object.
pub fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        other => panic!("{other} is no object"),
    }
}

/// An active admin.
pub fn user(name: &str) -> User {
    User {
        id: UserId::generate(),
        username: name.to_owned(),
        display_name: Some(format!("{name} Ünïcode")),
        role: Role::Admin,
        is_active: true,
        password_hash: "$argon2id$v=19$m=16,t=2,p=1$c2FsdA$aGFzaA".to_owned(),
        created_at: at(123_456),
        updated_at: at(123_457),
    }
}

/// A bot.
pub fn bot(owner: UserId) -> Bot {
    Bot {
        id: BotId::generate(),
        owner,
        name: "bot".to_owned(),
        display_name: Some("A Bot".to_owned()),
        is_active: true,
        status: BotStatus::Ready,
        metadata: object(json!({"workspace": {"image": "debian"}, "kept": [1, null]})).into(),
        created_at: at(1),
        updated_at: at(2),
    }
}

/// A configuration of an image.
pub fn config() -> ImageConfig {
    ImageConfig {
        env: vec!["PATH=/bin".to_owned(), "QUOTE='\"".to_owned()],
        entrypoint: vec!["/entry".to_owned()],
        cmd: vec!["run".to_owned()],
        user: "1000:1000".to_owned(),
        working_dir: "/work".to_owned(),
        labels: [("a".to_owned(), "b".to_owned())].into(),
        architecture: "amd64".to_owned(),
        stop_signal: Some("SIGINT".to_owned()),
    }
}

/// An image.
pub fn image(name: &str) -> RecordedImage {
    RecordedImage {
        reference: name.parse().unwrap(),
        digest: format!("sha256:{}", "ab".repeat(32)),
        config_digest: format!("sha256:{}", "cd".repeat(32)),
    }
}

/// A container that ran and failed.
pub fn container(bot: BotId) -> ContainerRecord {
    ContainerRecord {
        bot,
        container: ContainerId::for_bot(bot),
        namespace: "botstead".to_owned(),
        snapshotter: "overlayfs".to_owned(),
        image: image("debian"),
        snapshot: SnapshotKey::active(OperationId::generate()),
        head_version: Some(number(3)),
        dirty: true,
        desired: DesiredState::Running,
        started: true,
        devices: vec!["nvidia.com/gpu=0".parse().unwrap()],
        limits: Limits {
            memory_bytes: Some(1 << 40),
            pids: None,
            cpu_millis: Some(1500),
        },
        last_error: Some("it broke".to_owned()),
        created_at: at(5),
        updated_at: at(6),
    }
}

/// A version.
pub fn version(bot: BotId, n: i64) -> VersionRecord {
    VersionRecord {
        bot,
        number: number(n),
        name: Some(format!("version {n}")),
        source: VersionSource::PreExec,
        snapshot: SnapshotKey::version(OperationId::generate()),
        snapshotter: "overlayfs".to_owned(),
        parent: (n > 1).then(|| number(n - 1)),
        image: image("debian"),
        size_bytes: Some(u64::from(u32::MAX) * 1000),
        pinned: true,
        created_at: at(n),
    }
}

/// A running operation.
pub fn operation(bot: BotId) -> Operation {
    Operation {
        id: OperationId::generate(),
        bot,
        kind: OperationKind::DeleteBot,
        state: OperationState::Running,
        step: "begun".to_owned(),
        version: None,
        input: json!({"name": "x", "deep": {"list": [1, 2.5, null, "é"]}}),
        error: None,
        created_at: at(10),
        updated_at: at(11),
    }
}

/// An event.
pub fn event(bot: BotId, n: i64) -> NewEvent {
    NewEvent {
        bot,
        kind: "task_exited".to_owned(),
        detail: json!({"n": n, "text": "a\u{0}b"}),
        at: at(n),
    }
}

/// Adds a user.
pub async fn add_user(store: &Store, name: &str) -> User {
    let user = user(name);
    store.users.create(&user).await.unwrap();
    user
}

/// Adds a bot of a new user.
pub async fn add_bot(store: &Store) -> Bot {
    let owner = add_user(store, &format!("owner-{}", UserId::generate())).await;
    add_bot_of(store, owner.id).await
}

/// Adds a bot.
pub async fn add_bot_of(store: &Store, owner: UserId) -> Bot {
    let bot = bot(owner);
    store.bots.create(&bot).await.unwrap();
    bot
}

/// Applies one change.
pub async fn apply(store: &Store, change: Change) -> crate::Result<()> {
    store.transactions.apply(vec![change]).await
}
