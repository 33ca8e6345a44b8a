//! SQLite: the file, its connections and their settings. What only SQLite has is here.

use crate::database::Database;
use crate::error::{is_damage, is_in_use};
use crate::{OpenError, SqlConfig};
use sea_orm::sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous,
};
use sea_orm::sqlx::{ConnectOptions, Connection, SqlitePool};
use sea_orm::{ConnectionTrait, DatabaseConnection, DbErr, SqlxSqliteConnector};
use std::fs::{self, File, OpenOptions, Permissions, TryLockError};
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tracing::log::LevelFilter;

/// Statements that take longer are logged.
const SLOW_STATEMENT: Duration = Duration::from_secs(1);

/// What SQLite adds to a database's name for its logs: the second is a rollback journal's, with which the
/// mode is changed to the first.
const LOGS: [&str; 2] = ["-wal", "-journal"];

/// The write-ahead log is cut back to this size after a checkpoint.
const LOG_SIZE_LIMIT: &str = "67108864";

/// Opens the database in `config`, making the file where there is none.
pub(crate) async fn connect(config: &SqlConfig) -> Result<Database, OpenError> {
    prepare_file(&config.path)?;
    let failed = |source| OpenError::Connect {
        path: config.path.clone(),
        source,
    };
    // The writer comes first: it sets the journal mode, which is the file's.
    let writer = pool(config, options(config), 1).await.map_err(failed)?;
    // A reader that could write would be a second writer beside the queue.
    let readers = options(config).pragma("query_only", "ON");
    let reader = pool(config, readers, config.max_readers.max(1))
        .await
        .map_err(failed)?;
    Ok(Database { reader, writer })
}

fn options(config: &SqlConfig) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(&config.path)
        .create_if_missing(false)
        .foreign_keys(true)
        .journal_mode(SqliteJournalMode::Wal)
        // NORMAL would lose what was answered when the power fails (sqlite.org/wal.html).
        .synchronous(SqliteSynchronous::Full)
        .busy_timeout(config.busy_timeout)
        .pragma("journal_size_limit", LOG_SIZE_LIMIT)
        .log_statements(LevelFilter::Off)
        .log_slow_statements(LevelFilter::Warn, SLOW_STATEMENT)
}

async fn pool(
    config: &SqlConfig,
    options: SqliteConnectOptions,
    size: u32,
) -> Result<DatabaseConnection, DbErr> {
    let pool: SqlitePool = SqlitePoolOptions::new()
        .max_connections(size)
        .min_connections(1)
        .acquire_timeout(config.busy_timeout)
        // A connection to a file does not go stale: testing it would double each read's cost, and
        // a new one would have to fill its cache again.
        .test_before_acquire(false)
        // When the disk is full, SQLite ends a transaction by itself (sqlite.org/lang_transaction.html)
        // and sqlx goes on counting it. Every later transaction would then be nested in it, and in time
        // in one that is open and never committed. A connection that was given back has no transaction.
        .before_acquire(|connection, _| {
            let usable = !connection.is_in_transaction();
            Box::pin(async move { Ok(usable) })
        })
        .idle_timeout(None)
        .max_lifetime(None)
        .connect_with(options)
        .await
        .map_err(|error| DbErr::Conn(sea_orm::RuntimeErr::SqlxError(error.into())))?;
    Ok(SqlxSqliteConnector::from_sqlx_sqlite_pool(pool))
}

/// Makes the file, readable by its owner only; SQLite gives its log the same mode.
fn prepare_file(path: &Path) -> Result<(), OpenError> {
    let directory = directory(path);
    let refused = |reason| OpenError::Directory {
        path: directory.to_owned(),
        reason,
    };
    let metadata = fs::metadata(directory).map_err(|error| refused(error.to_string()))?;
    if !metadata.is_dir() {
        return Err(refused("it is not a directory".to_owned()));
    }
    let mode = metadata.permissions().mode();
    // In a sticky directory others can add files, but not replace this one.
    if mode & 0o022 != 0 && mode & 0o1000 == 0 {
        return Err(refused(format!(
            "other users can write to it (mode {:04o})",
            mode & 0o7777
        )));
    }
    let failed = |source| OpenError::File {
        path: path.to_owned(),
        source,
    };
    match create(path) {
        Ok(_) => sync_directory(path).map_err(failed),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let mode = fs::metadata(path).map_err(failed)?.permissions().mode();
            if mode & 0o077 != 0 {
                fs::set_permissions(path, Permissions::from_mode(0o600)).map_err(failed)?;
            }
            Ok(())
        }
        Err(error) => Err(failed(error)),
    }
}

fn directory(path: &Path) -> &Path {
    match path.parent() {
        Some(directory) if directory != Path::new("") => directory,
        _ => Path::new("."),
    }
}

fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
}

fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(directory(path))?.sync_all()
}

/// Makes a consistent copy of the database beside it, `<db>.backup-<version>-<time>`, and returns
/// its path. The name only appears once the copy is whole and on the disk.
pub(crate) async fn backup(
    db: &DatabaseConnection,
    path: &Path,
    version: &str,
) -> Result<PathBuf, BackupError> {
    let time = chrono::Utc::now().format("%Y%m%dT%H%M%S%3fZ");
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".backup-{version}-{time}"));
    let target = PathBuf::from(name);
    backup_to(db, &target).await.map(|()| target)
}

/// Copies the database into a new file.
pub(crate) async fn backup_to(db: &DatabaseConnection, target: &Path) -> Result<(), BackupError> {
    if target.try_exists()? {
        return Err(BackupError::File(io::ErrorKind::AlreadyExists.into()));
    }
    let partial = with_suffix(target, ".partial");
    let file = create_partial(&partial)?;
    let written = write_backup(db, &file, &partial, target).await;
    if written.is_err() {
        // The error that matters is the first one; what is left of the copy is only in the way.
        let _ = fs::remove_file(&partial);
    }
    written
}

/// An empty file for a copy, locked while that is made. One without the lock was left by who was killed.
fn create_partial(partial: &Path) -> Result<File, BackupError> {
    match File::open(partial) {
        Ok(left) => {
            lock(&left)?;
            remove_if_there(partial)?;
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error.into()),
    }
    let file = create(partial)?;
    lock(&file)?;
    Ok(file)
}

fn lock(file: &File) -> Result<(), BackupError> {
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => Err(BackupError::UnderWay),
        Err(TryLockError::Error(error)) => Err(error.into()),
        Ok(()) => Ok(()),
    }
}

async fn write_backup(
    db: &DatabaseConnection,
    file: &File,
    partial: &Path,
    target: &Path,
) -> Result<(), BackupError> {
    // Into an empty file that exists, so that the copy is never readable by others.
    let name = partial.to_str().ok_or(BackupError::Path)?;
    let statement = sea_orm::Statement::from_sql_and_values(
        db.get_database_backend(),
        "VACUUM INTO ?",
        [name.into()],
    );
    db.execute_raw(statement).await?;
    file.sync_all()?;
    fs::rename(partial, target)?;
    sync_directory(target)?;
    Ok(())
}

/// Puts a database in the place of another, which is kept.
pub(crate) async fn replace(path: &Path, new: &Path, kept: &Path) -> Result<(), BackupError> {
    fold(new).await?;
    remove_log(new)?;
    File::open(new)?.sync_all()?;
    if path.try_exists()? {
        let copied = keep(path, kept).await;
        if copied.is_err() {
            // The error that matters is the first one.
            let _ = fs::remove_file(kept);
            let _ = remove_log(kept);
        }
        copied?;
    }
    // Beside the new one it would be taken for its log. What it has is in the file, or kept.
    remove_log(path)?;
    sync_directory(path)?;
    fs::rename(new, path)?;
    sync_directory(path)?;
    Ok(())
}

/// Copies a database that is about to go, and writes what is in its log into its file.
async fn keep(path: &Path, kept: &Path) -> Result<(), BackupError> {
    let whole = async {
        let db = plain(path).await?;
        let copied = backup_to(&db, kept).await;
        db.close().await?;
        copied?;
        fold(path).await
    };
    let damage = match whole.await {
        Err(BackupError::Copy(error)) if is_damage(&error) => error,
        Err(BackupError::Copy(error)) if is_in_use(&error) => {
            return Err(BackupError::InUse(Some(error)));
        }
        done => return done,
    };
    tracing::warn!(path = %path.display(), error = %damage,
        "a database cannot be read and is kept as it is");
    let _ = fs::remove_file(kept);
    for log in LOGS {
        let (own, of_copy) = (with_suffix(path, log), with_suffix(kept, log));
        if own.try_exists()? {
            copy_file(&own, &of_copy)?;
        }
    }
    copy_file(path, kept)?;
    Ok(sync_directory(kept)?)
}

/// A connection of its own, whatever the schema is.
async fn plain(path: &Path) -> Result<DatabaseConnection, DbErr> {
    let config = SqlConfig::at(path);
    pool(&config, options(&config), 1).await
}

/// Writes what is in the log of a database into its file.
async fn fold(path: &Path) -> Result<(), BackupError> {
    let db = plain(path).await?;
    let statement = sea_orm::Statement::from_string(
        db.get_database_backend(),
        "PRAGMA wal_checkpoint(TRUNCATE)",
    );
    let folded = db.query_one_raw(statement).await;
    db.close().await?;
    let busy: i32 = match folded? {
        Some(row) => row.try_get_by_index(0)?,
        None => 0,
    };
    let rest = fs::metadata(with_suffix(path, "-wal")).map_or(0, |log| log.len());
    if busy != 0 || rest > 0 {
        return Err(BackupError::InUse(None));
    }
    Ok(())
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Removes the logs of a database, and what connections share of them. A file that is put in its place
/// would get what is in them.
fn remove_log(path: &Path) -> io::Result<()> {
    for suffix in LOGS.into_iter().chain(["-shm"]) {
        remove_if_there(&with_suffix(path, suffix))?;
    }
    Ok(())
}

/// Removes a database with its logs.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    remove_if_there(path)?;
    remove_log(path)
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn copy_file(from: &Path, to: &Path) -> io::Result<()> {
    let mut copy = create(to)?;
    io::copy(&mut File::open(from)?, &mut copy)?;
    copy.sync_all()
}

/// Why a backup could not be made.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The file could not be made, synced or named.
    #[error("the file could not be written")]
    File(#[from] io::Error),
    /// The database could not be copied.
    #[error("the database could not be copied")]
    Copy(#[from] DbErr),
    /// Another program writes to the database, or does not let it be read.
    #[error("another program has the database open; try again when it has ended")]
    InUse(#[source] Option<DbErr>),
    /// Another program makes the same copy.
    #[error("another program makes this copy; try again when it has ended")]
    UnderWay,
    /// SQLite needs names in UTF-8.
    #[error("the path is not UTF-8")]
    Path,
}

/// Looks at every page of a database; what is wrong with it is the error.
pub(crate) async fn check(db: &DatabaseConnection) -> Result<(), DbErr> {
    let statement =
        sea_orm::Statement::from_string(db.get_database_backend(), "PRAGMA integrity_check(1)");
    let found = db.query_one_raw(statement).await?;
    let found: String = match found {
        Some(row) => row.try_get_by_index(0)?,
        None => String::new(),
    };
    match found.as_str() {
        "ok" => Ok(()),
        _ => Err(DbErr::Custom(found)),
    }
}

/// Whether there is any table.
pub(crate) async fn has_tables(db: &DatabaseConnection) -> Result<bool, DbErr> {
    let statement = sea_orm::Statement::from_string(
        db.get_database_backend(),
        "SELECT 1 FROM sqlite_master WHERE type = 'table' LIMIT 1",
    );
    Ok(db.query_one_raw(statement).await?.is_some())
}
