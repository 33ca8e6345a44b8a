//! A store whose changes count, so that a server can be killed at any of them.

use async_trait::async_trait;
use botstead_store::{Change, Operation, Operations, Result, Store, Transactions};
use botstead_types::{BotId, OperationId, Page, PageRequest};
use chrono::{DateTime, Utc};
use std::sync::Arc;

/// Called at each change; it panics where the server is killed.
pub type Pass = Arc<dyn Fn() + Send + Sync>;

/// The store with its changes counted.
pub fn counted(store: Store, pass: Pass) -> Store {
    let counted = Arc::new(Counted {
        pass,
        operations: Arc::clone(&store.operations),
        transactions: Arc::clone(&store.transactions),
    });
    Store {
        operations: Arc::clone(&counted) as _,
        transactions: counted,
        ..store
    }
}

/// The store, whose changes count for a kill as calls to the runtime do.
struct Counted {
    pass: Pass,
    operations: Arc<dyn Operations>,
    transactions: Arc<dyn Transactions>,
}

#[async_trait]
impl Transactions for Counted {
    async fn apply(&self, changes: Vec<Change>) -> Result<()> {
        (self.pass)();
        self.transactions.apply(changes).await?;
        (self.pass)();
        Ok(())
    }
}

#[async_trait]
impl Operations for Counted {
    async fn begin_with(
        &self,
        operation: &Operation,
        reserve_version: bool,
        changes: Vec<Change>,
    ) -> Result<Operation> {
        (self.pass)();
        let operations = &self.operations;
        operations
            .begin_with(operation, reserve_version, changes)
            .await
    }

    async fn get(&self, bot: BotId, id: OperationId) -> Result<Operation> {
        self.operations.get(bot, id).await
    }

    async fn list(&self, bot: BotId, page: &PageRequest) -> Result<Page<Operation>> {
        self.operations.list(bot, page).await
    }

    async fn unfinished(&self) -> Result<Vec<Operation>> {
        self.operations.unfinished().await
    }

    async fn forget_finished(&self, before: DateTime<Utc>) -> Result<u64> {
        self.operations.forget_finished(before).await
    }
}
