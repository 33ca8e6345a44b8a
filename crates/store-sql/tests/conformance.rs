//! The conformance suite of the store, on SQLite.
#![allow(
    clippy::unwrap_used,
    reason = "a fixture that cannot be made is a failed test"
)]

use botstead_store::Store;
use botstead_store::conformance::Fixture;
use botstead_store_sql::{SqlConfig, SqlStore};
use sea_orm::sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sea_orm::sqlx::{ConnectOptions, Executor};
use tempfile::TempDir;

/// A database in a file of its own.
struct SqliteFixture {
    store: SqlStore,
    config: SqlConfig,
    _directory: TempDir,
}

async fn fresh() -> SqliteFixture {
    let directory = tempfile::tempdir().unwrap();
    let config = SqlConfig::at(directory.path().join("botstead.db"));
    SqliteFixture {
        store: SqlStore::open(&config).await.unwrap(),
        config,
        _directory: directory,
    }
}

#[async_trait::async_trait]
impl Fixture for SqliteFixture {
    fn store(&self) -> Store {
        self.store.store()
    }

    async fn reopen(&mut self) {
        self.store.close().await;
        self.store = SqlStore::open(&self.config).await.unwrap();
    }

    async fn hold_writer(&self) -> Box<dyn Send> {
        let mut connection: SqliteConnection = SqliteConnectOptions::new()
            .filename(&self.config.path)
            .connect()
            .await
            .unwrap();
        // Closing the connection, which dropping does, rolls back.
        for statement in [
            "BEGIN IMMEDIATE",
            "DELETE FROM versions",
            "UPDATE bots SET name = 'unseen'",
        ] {
            connection.execute(statement).await.unwrap();
        }
        Box::new(connection)
    }
}

botstead_store::store_conformance!(fresh);
