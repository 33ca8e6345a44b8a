//! The store on SQL databases through sea-orm.
//!
//! This crate owns tables, queries and upgrades of the schema. What is promised is said by the
//! traits of `botstead-store`, and their conformance suite is run on it. The database is SQLite;
//! the queries are portable, and what only SQLite has is in one module.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use botstead_store_sql::{SqlConfig, SqlStore};
//!
//! # let directory = tempfile::tempdir()?;
//! let database = SqlStore::open(&SqlConfig::at(directory.path().join("botstead.db"))).await?;
//! let store = database.store();
//! store.health.ping().await?;
//! assert!(store.containers.list().await?.is_empty());
//! database.close().await;
//! # Ok(())
//! # }
//! ```
//!
//! Times are kept to the microsecond.

mod addresses;
mod bots;
mod containers;
mod convert;
mod cursor;
mod database;
mod entities;
mod error;
mod events;
mod images;
mod migrations;
mod operations;
mod schema;
mod sqlite;
#[cfg(test)]
mod tests;
mod transactions;
mod users;
mod versions;

pub use sqlite::BackupError;

use botstead_store::Store;
use database::Database;
use sea_orm::DbErr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Where the database is and how it is used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SqlConfig {
    /// The file; it is made where there is none. Its directory must exist and other users must
    /// not be able to write to it.
    pub path: PathBuf,
    /// At most this many reads at a time; more wait for their turn.
    pub max_readers: u32,
    /// How long a change waits for others, and a read for its turn, before it fails as
    /// unavailable.
    pub busy_timeout: Duration,
}

impl SqlConfig {
    /// The database in a file, with the usual settings.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            max_readers: 4,
            busy_timeout: Duration::from_secs(10),
        }
    }
}

/// Why a database could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The directory is not there, or not safe.
    #[error("cannot use directory {} for the database: {reason}", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The file cannot be made or protected.
    #[error("cannot prepare database file {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The database does not answer.
    #[error("cannot connect to database {}", path.display())]
    Connect {
        /// The file.
        path: PathBuf,
        /// Why.
        source: DbErr,
    },
    /// The file is a database of something else.
    #[error("cannot use {}: it is a database of another program", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// The file has nothing in it.
    #[error("cannot use {}: it is no database of Botstead, it is empty", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// A newer program has upgraded the database.
    #[error(
        "cannot use database {}: its schema {database} is newer than {program}, the last one that \
         this program knows; use a newer program or the backup from before the upgrade",
        path.display()
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// The newest migration that the database has.
        database: String,
        /// The newest migration that this program has.
        program: String,
    },
    /// The database has not this program's schema, and was not to be upgraded.
    #[error(
        "database {} has another schema than this program's; the next start of its server upgrades it",
        path.display()
    )]
    Other {
        /// The file.
        path: PathBuf,
    },
    /// The copy that an upgrade needs could not be made; nothing was changed.
    #[error("cannot back up database {} before upgrading it", path.display())]
    Backup {
        /// The file.
        path: PathBuf,
        /// Why.
        source: BackupError,
    },
    /// The schema could not be upgraded; the database is as it was.
    #[error("cannot upgrade the schema of database {}", path.display())]
    Migrate {
        /// The file.
        path: PathBuf,
        /// Why.
        source: DbErr,
    },
}

/// An open database. Cheap to clone.
#[derive(Debug, Clone)]
pub struct SqlStore {
    database: Arc<Database>,
}

impl SqlStore {
    /// Opens the database, making it where there is none and upgrading its schema where that is
    /// older than the program. Before an upgrade a copy is made beside it, named
    /// `<file>.backup-<version>-<time>`.
    ///
    /// # Errors
    /// An [`OpenError`] that names the file and what is wrong with it.
    pub async fn open(config: &SqlConfig) -> Result<Self, OpenError> {
        Self::upgraded(config, schema::New::Made).await
    }

    /// Opens a database that is there as [`SqlStore::open`] does, but makes none.
    ///
    /// # Errors
    /// As those, and where the file has no tables of this program's.
    pub async fn open_existing(config: &SqlConfig) -> Result<Self, OpenError> {
        Self::upgraded(config, schema::New::Refused).await
    }

    async fn upgraded(config: &SqlConfig, new: schema::New) -> Result<Self, OpenError> {
        let database = sqlite::connect(config).await?;
        if let Err(error) = schema::upgrade(&database, &config.path, new).await {
            database.close().await;
            return Err(error);
        }
        Ok(Self {
            database: Arc::new(database),
        })
    }

    /// Opens a database that is there and has this program's schema, for looking: unlike
    /// [`SqlStore::open`] it upgrades nothing.
    ///
    /// # Errors
    /// An [`OpenError`] that names the file and what is wrong with it.
    pub async fn open_as_it_is(config: &SqlConfig) -> Result<Self, OpenError> {
        let database = sqlite::connect(config).await?;
        if let Err(error) = schema::require_current(&database, &config.path).await {
            database.close().await;
            return Err(error);
        }
        Ok(Self {
            database: Arc::new(database),
        })
    }

    /// Opens a database in a directory that goes away after use, for tests.
    ///
    /// # Errors
    /// As [`SqlStore::open`].
    pub async fn open_temporary(directory: &Path) -> Result<Self, OpenError> {
        Self::open(&SqlConfig::at(directory.join("botstead.db"))).await
    }

    /// The repositories.
    pub fn store(&self) -> Store {
        let database = || Arc::clone(&self.database);
        Store {
            users: Arc::new(users::SqlUsers(database())),
            bots: Arc::new(bots::SqlBots(database())),
            containers: Arc::new(containers::SqlContainers(database())),
            versions: Arc::new(versions::SqlVersions(database())),
            images: Arc::new(images::SqlImageConfigs(database())),
            operations: Arc::new(operations::SqlOperations(database())),
            events: Arc::new(events::SqlEvents(database())),
            addresses: Arc::new(addresses::SqlAddresses(database())),
            transactions: Arc::new(transactions::SqlTransactions(database())),
            health: database(),
        }
    }

    /// Writes a copy of the whole database, as it is at one moment, to a new file that only its owner
    /// can read; the database may be in use, also by another program. When this returns, the copy is
    /// on the disk. [`SqlStore::open`] opens it as any database.
    ///
    /// # Errors
    /// When the file exists or cannot be written, or the database does not answer; nothing is left of
    /// the copy then.
    pub async fn backup_to(&self, target: &Path) -> Result<(), BackupError> {
        sqlite::backup_to(&self.database.writer, target).await
    }

    /// Looks at every page of the database.
    ///
    /// # Errors
    /// When it is damaged, or does not answer.
    pub async fn check(&self) -> Result<(), DbErr> {
        sqlite::check(&self.database.reader).await
    }

    /// Removes a database that nobody has open, with its logs. Again: no change.
    ///
    /// # Errors
    /// When a file cannot be removed.
    pub fn remove(path: &Path) -> std::io::Result<()> {
        sqlite::remove(path)
    }

    /// Puts the database in the file `new`, which nobody has open, in the place of the one at `path`, where
    /// there is one, and keeps that as `kept`. Killed at any moment, it leaves either of them whole under
    /// the name. One that is damaged is kept as it is, with its log.
    ///
    /// # Errors
    /// When another program writes to the database, or a file cannot be written; the database is as it was
    /// then, and nothing is left of the copy of it.
    pub async fn replace(path: &Path, new: &Path, kept: &Path) -> Result<(), BackupError> {
        sqlite::replace(path, new, kept).await
    }

    /// Closes the database after what is under way; whoever still has its repositories gets
    /// `Unavailable` from them.
    pub async fn close(&self) {
        self.database.close().await;
    }
}
