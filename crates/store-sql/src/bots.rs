//! Bots.

use crate::convert::{Row, json, micros, now, word};
use crate::cursor::{self, ByAge};
use crate::database::Database;
use crate::entities::bots;
use crate::error::{failed, unreadable};
use async_trait::async_trait;
use botstead_store::{Bot, BotPatch, Bots, Error, ErrorKind, Metadata, Result};
use botstead_types::{BotId, Page, PageRequest, UserId};
use sea_orm::{
    ActiveModelTrait, ColumnTrait, ConnectionTrait, EntityTrait, ExprTrait, IntoActiveModel,
    QueryFilter, QueryOrder, QuerySelect, Set,
};
use std::sync::Arc;

const LIST: &str = "bots";

/// Bots in the database.
pub(crate) struct SqlBots(pub(crate) Arc<Database>);

fn read(row: bots::Model) -> Result<Bot> {
    let of = Row {
        operation: "read bot",
        key: &row.id,
    };
    Ok(Bot {
        id: of.text(&row.id)?,
        owner: of.text(&row.owner_id)?,
        status: of.word(&row.status)?,
        metadata: of.json(&row.metadata)?,
        created_at: of.time(row.created_at)?,
        updated_at: of.time(row.updated_at)?,
        name: row.name,
        display_name: row.display_name,
        is_active: row.is_active,
    })
}

/// Changes a bot in a transaction and returns it.
pub(crate) async fn patch(db: &impl ConnectionTrait, id: BotId, patch: &BotPatch) -> Result<Bot> {
    let failed = || failed("update bot", id);
    let row = bots::Entity::find_by_id(id.to_string())
        .one(db)
        .await
        .map_err(failed())?
        .ok_or_else(|| Error::new(ErrorKind::NotFound, "update bot", id))?;
    let of = Row {
        operation: "read bot",
        key: &id.to_string(),
    };
    let metadata = match &patch.metadata {
        None => None,
        Some(keys) => {
            let metadata: Metadata = of.json(&row.metadata)?;
            let changed = metadata.changed(keys);
            let changed = changed.map_err(|error| unreadable("read bot", id, error))?;
            Some(json(&changed)?)
        }
    };
    let mut change = row.into_active_model();
    if let Some(metadata) = metadata {
        change.metadata = Set(metadata);
    }
    if let Some(name) = &patch.name {
        change.name = Set(name.clone());
    }
    if let Some(name) = &patch.display_name {
        change.display_name = Set(name.clone());
    }
    if let Some(is_active) = patch.is_active {
        change.is_active = Set(is_active);
    }
    if let Some(status) = patch.status {
        change.status = Set(word(&status)?);
    }
    change.updated_at = Set(now());
    read(change.update(db).await.map_err(failed())?)
}

#[async_trait]
impl Bots for SqlBots {
    async fn create(&self, bot: &Bot) -> Result<()> {
        let failed = || failed("create bot", bot.id);
        let row = bots::Model {
            id: bot.id.to_string(),
            owner_id: bot.owner.to_string(),
            name: bot.name.clone(),
            display_name: bot.display_name.clone(),
            is_active: bot.is_active,
            status: word(&bot.status)?,
            metadata: bot.metadata.text().to_owned(),
            version_counter: 0,
            created_at: micros(bot.created_at),
            updated_at: micros(bot.updated_at),
        };
        let transaction = self.0.begin().await.map_err(failed())?;
        bots::Entity::insert(row.into_active_model())
            .exec_without_returning(&transaction)
            .await
            .map_err(failed())?;
        transaction.commit().await.map_err(failed())
    }

    async fn get(&self, id: BotId) -> Result<Bot> {
        let row = bots::Entity::find_by_id(id.to_string())
            .one(&self.0.reader)
            .await
            .map_err(failed("read bot", id))?;
        read(row.ok_or_else(|| Error::new(ErrorKind::NotFound, "read bot", id))?)
    }

    async fn list(&self, owner: Option<UserId>, page: &PageRequest) -> Result<Page<Bot>> {
        let mut query = bots::Entity::find();
        if let Some(owner) = owner {
            query = query.filter(bots::Column::OwnerId.eq(owner.to_string()));
        }
        if let Some(after) = ByAge::of(LIST, page)? {
            query = query.filter(
                ByAge::columns(bots::Column::CreatedAt, bots::Column::Id).gt(after.values()),
            );
        }
        let rows = query
            .order_by_asc(bots::Column::CreatedAt)
            .order_by_asc(bots::Column::Id)
            .limit(cursor::fetch(page))
            .all(&self.0.reader)
            .await
            .map_err(failed("list", "bots"))?;
        let place = |row: &bots::Model| {
            ByAge {
                created_at: row.created_at,
                id: row.id.clone(),
            }
            .write(LIST)
        };
        cursor::page(page, rows, place, read)
    }

    async fn update(&self, id: BotId, changes: &BotPatch) -> Result<Bot> {
        let failed = || failed("update bot", id);
        let transaction = self.0.begin().await.map_err(failed())?;
        let bot = patch(&transaction, id, changes).await?;
        transaction.commit().await.map_err(failed())?;
        Ok(bot)
    }
}
