//! The two ways into the database: readers that never wait, and one writer.

use crate::error::failed;
use botstead_store::{Health, Result};
use sea_orm::{
    DatabaseConnection, DatabaseTransaction, DbErr, SqliteTransactionMode, TransactionOptions,
    TransactionTrait,
};

/// A database. All writes go through [`Database::begin`], one at a time.
#[derive(Debug)]
pub(crate) struct Database {
    /// For statements that only read.
    pub(crate) reader: DatabaseConnection,
    /// For transactions that write.
    pub(crate) writer: DatabaseConnection,
}

impl Database {
    /// Begins a transaction that may write. It takes the write lock at once: a transaction that
    /// read first and wants to write later fails when another one wrote in between. Dropping it
    /// rolls it back.
    pub(crate) async fn begin(&self) -> Result<DatabaseTransaction, DbErr> {
        self.writer
            .begin_with_options(TransactionOptions {
                sqlite_transaction_mode: Some(SqliteTransactionMode::Immediate),
                ..TransactionOptions::default()
            })
            .await
    }

    /// Closes all connections after what is under way.
    pub(crate) async fn close(&self) {
        // Closing a pool only waits; there is no failure to report. The writer goes last: the
        // last connection to close moves the write-ahead log into the database.
        let _ = self.reader.close_by_ref().await;
        let _ = self.writer.close_by_ref().await;
    }
}

#[async_trait::async_trait]
impl Health for Database {
    async fn ping(&self) -> Result<()> {
        self.reader
            .ping()
            .await
            .map_err(failed("reach", "database"))
    }
}
