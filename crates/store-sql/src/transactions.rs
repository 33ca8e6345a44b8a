//! Changes that happen together.

use crate::addresses::assign;
use crate::database::Database;
use crate::entities::{addresses as address_rows, bots as bot_rows};
use crate::error::failed;
use crate::{bots, containers, events, operations, versions};
use async_trait::async_trait;
use botstead_store::{Change, Result, Transactions};
use sea_orm::{ConnectionTrait, EntityTrait};
use std::sync::Arc;

/// Transactions in the database.
pub(crate) struct SqlTransactions(pub(crate) Arc<Database>);

#[async_trait]
impl Transactions for SqlTransactions {
    async fn apply(&self, changes: Vec<Change>) -> Result<()> {
        if changes.is_empty() {
            return Ok(());
        }
        let failed = || failed("apply", "changes");
        let transaction = self.0.begin().await.map_err(failed())?;
        for change in changes {
            // An error drops the transaction, which rolls it back.
            apply(&transaction, change).await?;
        }
        transaction.commit().await.map_err(failed())
    }
}

/// One change in a transaction.
pub(crate) async fn apply(db: &impl ConnectionTrait, change: Change) -> Result<()> {
    match change {
        Change::InsertContainer(record) => containers::insert(db, &record).await,
        Change::PatchContainer(bot, patch) => containers::patch(db, bot, &patch).await,
        Change::DeleteContainer(bot) => containers::delete(db, bot).await,
        Change::InsertVersion(record) => versions::insert(db, &record).await,
        Change::PatchVersion(bot, number, patch) => versions::patch(db, bot, number, &patch).await,
        Change::DeleteVersion(bot, number) => versions::delete(db, bot, number).await,
        Change::PatchBot(bot, patch) => bots::patch(db, bot, &patch).await.map(|_| ()),
        Change::DeleteBot(bot) => {
            // Everything that belongs to the bot goes with it by its reference.
            bot_rows::Entity::delete_by_id(bot.to_string())
                .exec(db)
                .await
                .map_err(failed("delete bot", bot))?;
            Ok(())
        }
        Change::AssignAddress {
            bot,
            subnet,
            gateway,
        } => assign(db, bot, subnet, gateway).await.map(drop),
        Change::ReleaseAddress(bot) => {
            address_rows::Entity::delete_by_id(bot.to_string())
                .exec(db)
                .await
                .map_err(failed("release address of bot", bot))?;
            Ok(())
        }
        Change::AdvanceOperation { id, step, input } => {
            operations::advance(db, id, step, input).await
        }
        Change::FinishOperation { id, state, error } => {
            operations::finish(db, id, state, error).await
        }
        Change::AppendEvent(event) => events::append(db, &event).await,
    }
}
