//! The journal.

use crate::convert::{Row, json, micros, now, word};
use crate::cursor::{self, ByAge};
use crate::database::Database;
use crate::entities::{bots, operations};
use crate::error::{failed, unreadable};
use crate::transactions::apply;
use async_trait::async_trait;
use botstead_store::{
    Change, Error, ErrorKind, Operation, OperationError, OperationState, Operations, Result,
};
use botstead_types::{BotId, OperationId, Page, PageRequest, VersionNumber};
use chrono::{DateTime, Utc};
use sea_orm::sea_query::{Expr, ExprTrait, Query};
use sea_orm::{
    ColumnTrait, ConnectionTrait, EntityTrait, IntoActiveModel, QueryFilter, QueryOrder,
    QuerySelect, Set,
};
use serde_json::Value;
use std::sync::Arc;

const LIST: &str = "operations";

/// The journal in the database.
pub(crate) struct SqlOperations(pub(crate) Arc<Database>);

fn read(row: operations::Model) -> Result<Operation> {
    let of = Row {
        operation: "read operation",
        key: &row.id,
    };
    Ok(Operation {
        id: of.text(&row.id)?,
        bot: of.text(&row.bot_id)?,
        kind: of.word(&row.kind)?,
        state: of.word(&row.state)?,
        version: row.version.map(|n| of.number(n)).transpose()?,
        input: of.json(&row.input)?,
        created_at: of.time(row.created_at)?,
        updated_at: of.time(row.updated_at)?,
        step: row.step,
        error: row.error_code.map(|code| OperationError {
            code,
            message: row.error_message.unwrap_or_default(),
        }),
    })
}

/// Increments the bot's version counter in a transaction and returns the new number.
async fn reserve(db: &impl ConnectionTrait, bot: BotId) -> Result<VersionNumber> {
    const OPERATION: &str = "reserve version of bot";
    let increment = Query::update()
        .table(bots::Entity)
        .value(
            bots::Column::VersionCounter,
            Expr::col(bots::Column::VersionCounter).add(1),
        )
        .and_where(Expr::col(bots::Column::Id).eq(bot.to_string()))
        .returning_col(bots::Column::VersionCounter)
        .to_owned();
    let rows = db
        .query_all(&increment)
        .await
        .map_err(failed(OPERATION, bot))?;
    let row = rows
        .first()
        .ok_or_else(|| Error::new(ErrorKind::NotFound, OPERATION, bot))?;
    let number: i64 = row.try_get_by_index(0).map_err(failed(OPERATION, bot))?;
    VersionNumber::try_from(number).map_err(|error| unreadable(OPERATION, bot, error))
}

/// Records progress in a transaction.
pub(crate) async fn advance(
    db: &impl ConnectionTrait,
    id: OperationId,
    step: String,
    input: Option<Value>,
) -> Result<()> {
    let mut change = operations::ActiveModel {
        step: Set(step),
        updated_at: Set(now()),
        ..Default::default()
    };
    if let Some(input) = input {
        change.input = Set(json(&input)?);
    }
    if update(db, id, change).await? == 0 {
        return Err(Error::new(ErrorKind::NotFound, "advance operation", id));
    }
    Ok(())
}

/// Records the end in a transaction.
pub(crate) async fn finish(
    db: &impl ConnectionTrait,
    id: OperationId,
    state: OperationState,
    error: Option<OperationError>,
) -> Result<()> {
    if state == OperationState::Running {
        return Err(Error::new(
            ErrorKind::InvalidArgument,
            "finish operation",
            id,
        ));
    }
    let (code, message) = error.map(|error| (error.code, error.message)).unzip();
    let change = operations::ActiveModel {
        state: Set(word(&state)?),
        error_code: Set(code),
        error_message: Set(message),
        updated_at: Set(now()),
        ..Default::default()
    };
    update(db, id, change).await?;
    Ok(())
}

async fn update(
    db: &impl ConnectionTrait,
    id: OperationId,
    change: operations::ActiveModel,
) -> Result<u64> {
    let updated = operations::Entity::update_many()
        .set(change)
        .filter(operations::Column::Id.eq(id.to_string()))
        .exec(db)
        .await
        .map_err(failed("update operation", id))?;
    Ok(updated.rows_affected)
}

#[async_trait]
impl Operations for SqlOperations {
    async fn begin_with(
        &self,
        operation: &Operation,
        reserve_version: bool,
        changes: Vec<Change>,
    ) -> Result<Operation> {
        let failed = || failed("begin operation", operation.id);
        let (code, message) = operation
            .error
            .clone()
            .map(|error| (error.code, error.message))
            .unzip();
        let mut row = operations::Model {
            id: operation.id.to_string(),
            bot_id: operation.bot.to_string(),
            kind: word(&operation.kind)?,
            state: word(&operation.state)?,
            step: operation.step.clone(),
            version: operation.version.map(i64::from),
            input: json(&operation.input)?,
            error_code: code,
            error_message: message,
            created_at: micros(operation.created_at),
            updated_at: micros(operation.updated_at),
        };
        let transaction = self.0.begin().await.map_err(failed())?;
        if reserve_version {
            // First, so that the bot's row is locked before anything else is looked at.
            row.version = Some(reserve(&transaction, operation.bot).await?.into());
        }
        operations::Entity::insert(row.clone().into_active_model())
            .exec_without_returning(&transaction)
            .await
            .map_err(failed())?;
        let written = read(row)?;
        for change in changes {
            apply(&transaction, change).await?;
        }
        transaction.commit().await.map_err(failed())?;
        Ok(written)
    }

    async fn get(&self, bot: BotId, id: OperationId) -> Result<Operation> {
        let row = operations::Entity::find_by_id(id.to_string())
            .filter(operations::Column::BotId.eq(bot.to_string()))
            .one(&self.0.reader)
            .await
            .map_err(failed("read operation", id))?;
        read(row.ok_or_else(|| Error::new(ErrorKind::NotFound, "read operation", id))?)
    }

    async fn list(&self, bot: BotId, page: &PageRequest) -> Result<Page<Operation>> {
        let mut query =
            operations::Entity::find().filter(operations::Column::BotId.eq(bot.to_string()));
        if let Some(after) = ByAge::of(LIST, page)? {
            query = query.filter(
                ByAge::columns(operations::Column::CreatedAt, operations::Column::Id)
                    .lt(after.values()),
            );
        }
        let rows = query
            .order_by_desc(operations::Column::CreatedAt)
            .order_by_desc(operations::Column::Id)
            .limit(cursor::fetch(page))
            .all(&self.0.reader)
            .await
            .map_err(failed("list operations of bot", bot))?;
        let place = |row: &operations::Model| {
            ByAge {
                created_at: row.created_at,
                id: row.id.clone(),
            }
            .write(LIST)
        };
        cursor::page(page, rows, place, read)
    }

    async fn unfinished(&self) -> Result<Vec<Operation>> {
        operations::Entity::find()
            .filter(operations::Column::State.eq(word(&OperationState::Running)?))
            .order_by_asc(operations::Column::CreatedAt)
            .order_by_asc(operations::Column::Id)
            .all(&self.0.reader)
            .await
            .map_err(failed("list", "unfinished operations"))?
            .into_iter()
            .map(read)
            .collect()
    }

    async fn forget_finished(&self, before: DateTime<Utc>) -> Result<u64> {
        let failed = || failed("forget", "finished operations");
        let transaction = self.0.begin().await.map_err(failed())?;
        let deleted = operations::Entity::delete_many()
            .filter(operations::Column::UpdatedAt.lt(micros(before)))
            .filter(operations::Column::State.ne(word(&OperationState::Running)?))
            .exec(&transaction)
            .await
            .map_err(failed())?;
        transaction.commit().await.map_err(failed())?;
        Ok(deleted.rows_affected)
    }
}
