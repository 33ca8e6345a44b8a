//! Opening, upgrading and failing: what the conformance suite cannot see.

use crate::database::Database;
use crate::entities::events;
use crate::migrations::Migrator;
use crate::{BackupError, OpenError, SqlConfig, SqlStore, sqlite};
use botstead_store::conformance::samples;
use botstead_store::{Change, ErrorKind, NewEvent, UserPatch};
use botstead_types::OperationId;
use sea_orm::{ConnectionTrait, EntityTrait, PaginatorTrait};
use sea_orm_migration::prelude::MigratorTrait;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

fn backups(directory: &Path) -> Vec<PathBuf> {
    fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.to_str().unwrap().contains(".backup-"))
        .collect()
}

/// A database with the first `steps` migrations.
async fn old(config: &SqlConfig, steps: u32) -> Database {
    let database = sqlite::connect(config).await.unwrap();
    Migrator::up(&database.writer, Some(steps)).await.unwrap();
    database
}

const ROWS: &str = "INSERT INTO users VALUES ('01890000-0000-7000-8000-000000000001', 'Ann', 'ann', \
     NULL, 'admin', TRUE, '$hash', 1, 2); INSERT INTO bots VALUES \
     ('01890000-0000-7000-8000-000000000002', '01890000-0000-7000-8000-000000000001', 'bot', \
     NULL, TRUE, 'ready', '{\"a\":1}', 0, 3, 4);";

#[tokio::test]
async fn an_upgrade_keeps_the_rows_and_a_backup() {
    let directory = tempfile::tempdir().unwrap();
    let config = SqlConfig::at(directory.path().join("botstead.db"));
    let database = old(&config, 1).await;
    database.writer.execute_unprepared(ROWS).await.unwrap();
    database.close().await;

    let opened = SqlStore::open(&config).await.unwrap();
    let store = opened.store();
    let user = store.users.by_username("ann").await.unwrap();
    let bot = "01890000-0000-7000-8000-000000000002".parse().unwrap();
    assert_eq!(store.bots.get(bot).await.unwrap().owner, user.id);
    let container = Change::InsertContainer(Box::new(samples::container(bot)));
    store.transactions.apply(vec![container]).await.unwrap();
    opened.close().await;

    let made = backups(directory.path());
    let [backup] = made.as_slice() else {
        panic!("expected one backup, found {made:?}");
    };
    let name = backup.file_name().unwrap().to_str().unwrap();
    assert!(
        name.starts_with("botstead.db.backup-m20261123_000001_accounts-2"),
        "{name}"
    );
    assert_eq!(mode(backup), 0o600);
    // The copy is a whole database of the old version: this opens and upgrades it again.
    let restored = SqlConfig::at(directory.path().join("restored.db"));
    fs::copy(backup, &restored.path).unwrap();
    let opened = SqlStore::open(&restored).await.unwrap();
    assert_eq!(opened.store().users.get(user.id).await.unwrap(), user);
    assert_eq!(opened.store().containers.list().await.unwrap(), []);
    opened.close().await;
}

#[tokio::test]
async fn configurations_of_images_move_out_of_the_rows_that_have_them() {
    let directory = tempfile::tempdir().unwrap();
    let config = SqlConfig::at(directory.path().join("botstead.db"));
    let database = old(&config, 2).await;
    database.writer.execute_unprepared(ROWS).await.unwrap();
    let bot = "01890000-0000-7000-8000-000000000002".parse().unwrap();
    let sample = samples::container(bot);
    let image = |user: &str| {
        let config = serde_json::json!({"user": user, "env": ["QUOTE='"], "entrypoint": [], "cmd": [],
            "working_dir": "", "labels": {}, "architecture": "amd64", "stop_signal": null});
        let image = serde_json::json!({"reference": "docker.io/library/debian:latest",
            "digest": "sha256:1", "config": config});
        image.to_string().replace('\'', "''")
    };
    let (one, other) = (image("one"), image("other"));
    let mut rows = format!(
        "INSERT INTO containers VALUES ('{bot}', '{}', 'n', 's', '{one}', '{}', 3, TRUE, 'running', \
         TRUE, '[]', '{{}}', NULL, 1, 2);",
        sample.container, sample.snapshot
    );
    for (number, image) in [(1, &one), (2, &other), (3, &one)] {
        let version = samples::version(bot, number);
        rows += &format!(
            "INSERT INTO versions VALUES ('{bot}', {number}, NULL, 'manual', '{}', 's', NULL, \
             '{image}', NULL, FALSE, 1);",
            version.snapshot
        );
    }
    database.writer.execute_unprepared(&rows).await.unwrap();
    database.close().await;

    let opened = SqlStore::open(&config).await.unwrap();
    let store = opened.store();
    let container = store.containers.get(bot).await.unwrap();
    let versions = store.versions.list(bot).await.unwrap();
    for (version, user) in versions.iter().zip(["one", "other", "one"]) {
        let config = store.images.get(&version.image.config_digest).await;
        assert_eq!(config.unwrap().user, user);
    }
    assert_eq!(versions.len(), 3);
    assert_eq!(container.image, versions[0].image);
    // Kept under the same name as by this program.
    let kept = store.images.get(&container.image.config_digest).await;
    let again = store.images.keep(&kept.unwrap()).await.unwrap();
    assert_eq!(again, container.image.config_digest);
    assert_eq!(store.images.collect().await.unwrap(), 0);
    opened.close().await;
}

#[tokio::test]
async fn only_an_upgrade_makes_a_backup() {
    let directory = tempfile::tempdir().unwrap();
    for _ in 0..3 {
        let opened = SqlStore::open_temporary(directory.path()).await.unwrap();
        opened.close().await;
    }
    assert_eq!(backups(directory.path()), Vec::<PathBuf>::new());
}

#[tokio::test]
async fn without_a_backup_nothing_is_upgraded() {
    let directory = tempfile::tempdir().unwrap();
    // There is room for the longer names of SQLite's own files, but not for the backup's.
    let config = SqlConfig::at(directory.path().join("x".repeat(240)));
    old(&config, 1).await.close().await;
    let before = fs::read(&config.path).unwrap();
    let error = SqlStore::open(&config).await.unwrap_err();
    assert!(matches!(error, OpenError::Backup { .. }), "{error:?}");
    assert_eq!(fs::read(&config.path).unwrap(), before);
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
}

#[tokio::test]
async fn a_newer_database_is_refused_and_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let config = SqlConfig::at(directory.path().join("botstead.db"));
    let opened = SqlStore::open(&config).await.unwrap();
    opened
        .database
        .writer
        .execute_unprepared("INSERT INTO seaql_migrations VALUES ('m20990101_000001_later', 0)")
        .await
        .unwrap();
    opened.close().await;
    let before = fs::read(&config.path).unwrap();
    let error = SqlStore::open(&config).await.unwrap_err();
    assert!(matches!(error, OpenError::Newer { .. }), "{error:?}");
    let text = error.to_string();
    assert!(text.contains("m20990101_000001_later"), "{text}");
    assert!(text.contains("m20261130_000005_image_configs"), "{text}");
    assert_eq!(fs::read(&config.path).unwrap(), before);
    assert_eq!(backups(directory.path()), Vec::<PathBuf>::new());
}

#[tokio::test]
async fn another_programs_database_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let config = SqlConfig::at(directory.path().join("botstead.db"));
    let database = old(&config, 0).await;
    database
        .writer
        .execute_unprepared("DROP TABLE seaql_migrations; CREATE TABLE theirs (id INTEGER)")
        .await
        .unwrap();
    database.close().await;
    let error = SqlStore::open(&config).await.unwrap_err();
    assert!(matches!(error, OpenError::Foreign { .. }), "{error:?}");

    fs::write(
        &config.path,
        "this is no database, but some text".repeat(99),
    )
    .unwrap();
    let error = SqlStore::open(&config).await.unwrap_err();
    assert!(matches!(error, OpenError::Connect { .. }), "{error:?}");
}

#[tokio::test]
async fn the_files_are_their_owners_only() {
    let directory = tempfile::tempdir().unwrap();
    let config = SqlConfig::at(directory.path().join("botstead.db"));
    let opened = SqlStore::open(&config).await.unwrap();
    for entry in fs::read_dir(directory.path()).unwrap() {
        let path = entry.unwrap().path();
        assert_eq!(mode(&path), 0o600, "{}", path.display());
    }
    opened.close().await;
    fs::set_permissions(&config.path, fs::Permissions::from_mode(0o644)).unwrap();
    SqlStore::open(&config).await.unwrap().close().await;
    assert_eq!(mode(&config.path), 0o600);
}

#[tokio::test]
async fn an_unsafe_directory_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let missing = SqlStore::open_temporary(&directory.path().join("missing")).await;
    assert!(matches!(missing, Err(OpenError::Directory { .. })));
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let shared = SqlStore::open_temporary(directory.path()).await;
    assert!(matches!(shared, Err(OpenError::Directory { .. })));
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn the_settings_are_in_force() {
    let directory = tempfile::tempdir().unwrap();
    let opened = SqlStore::open_temporary(directory.path()).await.unwrap();
    let pragma = async |db: &sea_orm::DatabaseConnection, name: &str| {
        let statement =
            sea_orm::Statement::from_string(db.get_database_backend(), format!("PRAGMA {name}"));
        let row = db.query_one_raw(statement).await.unwrap().unwrap();
        row.try_get_by_index::<i64>(0)
            .map(|number| number.to_string())
            .or_else(|_| row.try_get_by_index::<String>(0))
            .unwrap()
    };
    let database = &opened.database;
    for db in [&database.reader, &database.writer] {
        assert_eq!(pragma(db, "journal_mode").await, "wal");
        assert_eq!(pragma(db, "synchronous").await, "2");
        assert_eq!(pragma(db, "foreign_keys").await, "1");
        assert_eq!(pragma(db, "busy_timeout").await, "10000");
    }
    assert_eq!(pragma(&database.reader, "query_only").await, "1");
    assert_eq!(pragma(&database.writer, "query_only").await, "0");
    opened.close().await;
}

#[tokio::test]
async fn a_full_disk_is_exhausted_and_recovers() {
    let directory = tempfile::tempdir().unwrap();
    let opened = SqlStore::open_temporary(directory.path()).await.unwrap();
    let store = opened.store();
    let bot = samples::add_bot(&store).await.id;
    let large = |size| {
        vec![
            Change::InsertVersion(Box::new(samples::version(bot, 1))),
            Change::AppendEvent(NewEvent {
                detail: "x".repeat(size).into(),
                ..samples::event(bot, 1)
            }),
        ]
    };
    // The file may not grow: SQLite then says the same as on a full disk.
    let limit = async |pages: &str| {
        let pragma = format!("PRAGMA max_page_count = {pages}");
        let writer = &opened.database.writer;
        writer.execute_unprepared(&pragma).await.unwrap();
    };
    limit("1").await;
    let error = store.transactions.apply(large(1 << 20)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ResourceExhausted, "{error:?}");
    assert_eq!(store.versions.list(bot).await.unwrap(), []);
    limit("1000000").await;
    store.transactions.apply(large(1 << 20)).await.unwrap();
    assert_eq!(store.versions.list(bot).await.unwrap().len(), 1);
    opened.close().await;
}

#[tokio::test]
async fn a_writer_that_stays_makes_writes_unavailable() {
    let directory = tempfile::tempdir().unwrap();
    let config = SqlConfig {
        busy_timeout: Duration::from_millis(300),
        ..SqlConfig::at(directory.path().join("botstead.db"))
    };
    let opened = SqlStore::open(&config).await.unwrap();
    let store = opened.store();
    let bot = samples::add_bot(&store).await;
    let event = || vec![Change::AppendEvent(samples::event(bot.id, 1))];
    // Another process.
    let other = sqlite::connect(&config).await.unwrap();
    // And this one.
    for holder in [&other, &*opened.database] {
        let transaction = holder.begin().await.unwrap();
        let began = Instant::now();
        let error = store.transactions.apply(event()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
        assert!(began.elapsed() >= config.busy_timeout);
        let patch = UserPatch::default();
        let error = store.users.update(bot.owner, &patch).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
        transaction.rollback().await.unwrap();
        store.transactions.apply(event()).await.unwrap();
    }
    other.close().await;
    opened.close().await;
    let error = store.bots.get(bot.id).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
    let error = store.health.ping().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
}

#[tokio::test]
async fn one_that_another_program_locks_is_not_taken_for_a_damaged_one() {
    let directory = tempfile::tempdir().unwrap();
    let [path, new, kept] =
        ["botstead.db", "new.db", "kept.db"].map(|it| directory.path().join(it));
    for path in [&path, &new] {
        SqlStore::open(&SqlConfig::at(path))
            .await
            .unwrap()
            .close()
            .await;
    }
    let before = fs::read(&path).unwrap();
    let locked = format!("sqlite://{}", path.display());
    let mut options = sea_orm::ConnectOptions::new(locked);
    options.max_connections(1);
    let other = sea_orm::Database::connect(options).await.unwrap();
    let lock = "PRAGMA locking_mode = EXCLUSIVE; BEGIN EXCLUSIVE; \
                UPDATE users SET username = username";
    other.execute_unprepared(lock).await.unwrap();
    let refused = SqlStore::replace(&path, &new, &kept).await.unwrap_err();
    assert!(matches!(refused, BackupError::InUse(_)), "{refused:?}");
    assert!(!kept.exists());
    other.execute_unprepared("ROLLBACK").await.unwrap();
    other.close().await.unwrap();
    assert_eq!(fs::read(&path).unwrap(), before);
    SqlStore::replace(&path, &new, &kept).await.unwrap();
    assert!(kept.exists() && !new.exists());
}

#[tokio::test]
async fn what_is_answered_after_a_full_disk_is_committed() {
    let mount = |arguments: &[&str]| {
        let done = std::process::Command::new(arguments[0])
            .args(&arguments[1..])
            .status();
        assert!(done.unwrap().success(), "{arguments:?}: needs root");
    };
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_str().unwrap();
    mount(&[
        "mount",
        "-t",
        "tmpfs",
        "-o",
        "size=2m,mode=700",
        "tmpfs",
        path,
    ]);
    let opened = SqlStore::open_temporary(directory.path()).await.unwrap();
    let store = opened.store();
    let bot = samples::add_bot(&store).await;
    let event = || vec![Change::AppendEvent(samples::event(bot.id, 1))];
    let unknown = || {
        vec![Change::AdvanceOperation {
            id: OperationId::generate(),
            step: "any".to_owned(),
            input: None,
        }]
    };
    let ballast = directory.path().join("ballast");
    // As much as there is room for.
    let _ = fs::write(&ballast, vec![1; 2 << 20]);
    let (mut written, mut refused) = (0, 0);
    for _ in 0..500 {
        match store.transactions.apply(event()).await {
            Ok(()) => written += 1,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::ResourceExhausted, "{error:?}");
                refused += 1;
            }
        }
        // Rolled back for a reason of its own.
        let error = store.transactions.apply(unknown()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error:?}");
    }
    assert!(refused > 0, "there was room");
    fs::remove_file(&ballast).unwrap();
    store.transactions.apply(event()).await.unwrap();
    let seen = events::Entity::find().count(&opened.database.reader);
    assert_eq!(seen.await.unwrap(), written + 1);
    opened.close().await;
    mount(&["umount", path]);
}

#[tokio::test]
async fn old_events_are_trimmed() {
    let directory = tempfile::tempdir().unwrap();
    let opened = SqlStore::open_temporary(directory.path()).await.unwrap();
    let store = opened.store();
    let bot = samples::add_bot(&store).await.id;
    let changes = (0..1_500).map(|n| Change::AppendEvent(samples::event(bot, n)));
    store.transactions.apply(changes.collect()).await.unwrap();
    let count = sea_orm::Statement::from_string(
        opened.database.reader.get_database_backend(),
        "SELECT COUNT(*) FROM events",
    );
    let row = opened.database.reader.query_one_raw(count).await.unwrap();
    let left: i64 = row.unwrap().try_get_by_index(0).unwrap();
    assert!((1_000..1_300).contains(&left), "{left} are left");
    opened.close().await;
}

#[tokio::test]
async fn addresses_are_found_fast_among_sixty_thousand() {
    let directory = tempfile::tempdir().unwrap();
    let opened = SqlStore::open_temporary(directory.path()).await.unwrap();
    let store = opened.store();
    let owner = samples::add_user(&store, "owner").await.id;
    let bot = samples::add_bot_of(&store, owner).await.id;
    // 10.9.0.2 and the 60,000 after it are taken, and the search begins in front of them.
    let sql = format!(
        "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 60000) \
         INSERT INTO bots SELECT 'filler-' || i, '{owner}', 'b', NULL, TRUE, 'ready', '{{}}', 0, \
         1, 1 FROM n; INSERT INTO addresses SELECT id, {} + SUBSTR(id, 8) FROM bots WHERE id LIKE \
         'filler-%'",
        u32::from_be_bytes([10, 9, 0, 2])
    );
    let writer = &opened.database.writer;
    writer.execute_unprepared(&sql).await.unwrap();
    let began = Instant::now();
    let address = store
        .addresses
        .assign(bot, "10.9.0.0/16".parse().unwrap(), [10, 9, 0, 1].into())
        .await
        .unwrap();
    let took = began.elapsed();
    let expected = u32::from_be_bytes([10, 9, 0, 2]) + 60_001;
    assert_eq!(address.to_bits(), expected);
    println!("assigned behind 60,001 others in {took:?}");
    assert!(took < Duration::from_secs(1), "it took {took:?}");
    opened.close().await;
}
