//! Workspace containers.

use crate::convert::{Row, json, micros, now};
use crate::database::Database;
use crate::entities::containers;
use crate::error::failed;
use async_trait::async_trait;
use botstead_store::{ContainerPatch, ContainerRecord, Containers, Error, ErrorKind, Result};
use botstead_types::BotId;
use sea_orm::{
    ColumnTrait, ConnectionTrait, EntityTrait, IntoActiveModel, QueryFilter, QueryOrder, Set,
};
use std::sync::Arc;

/// Workspace containers in the database.
pub(crate) struct SqlContainers(pub(crate) Arc<Database>);

fn read(row: containers::Model) -> Result<ContainerRecord> {
    let of = Row {
        operation: "read container",
        key: &row.bot_id,
    };
    Ok(ContainerRecord {
        bot: of.text(&row.bot_id)?,
        container: of.text(&row.container_id)?,
        image: of.json(&row.image)?,
        snapshot: of.text(&row.snapshot_key)?,
        head_version: row.head_version.map(|n| of.number(n)).transpose()?,
        desired: of.text(&row.desired)?,
        devices: of.json(&row.devices)?,
        limits: of.json(&row.limits)?,
        created_at: of.time(row.created_at)?,
        updated_at: of.time(row.updated_at)?,
        namespace: row.namespace,
        snapshotter: row.snapshotter,
        dirty: row.dirty,
        started: row.started,
        last_error: row.last_error,
    })
}

/// Adds a row in a transaction.
pub(crate) async fn insert(db: &impl ConnectionTrait, record: &ContainerRecord) -> Result<()> {
    let row = containers::Model {
        bot_id: record.bot.to_string(),
        container_id: record.container.to_string(),
        namespace: record.namespace.clone(),
        snapshotter: record.snapshotter.clone(),
        image: json(&record.image)?,
        snapshot_key: record.snapshot.to_string(),
        head_version: record.head_version.map(i64::from),
        dirty: record.dirty,
        desired: record.desired.to_string(),
        started: record.started,
        devices: json(&record.devices)?,
        limits: json(&record.limits)?,
        last_error: record.last_error.clone(),
        created_at: micros(record.created_at),
        updated_at: micros(record.updated_at),
    };
    containers::Entity::insert(row.into_active_model())
        .exec_without_returning(db)
        .await
        .map_err(failed("record container of bot", record.bot))?;
    Ok(())
}

/// Changes a row in a transaction.
pub(crate) async fn patch(
    db: &impl ConnectionTrait,
    bot: BotId,
    patch: &ContainerPatch,
) -> Result<()> {
    let mut change = containers::ActiveModel {
        updated_at: Set(now()),
        ..Default::default()
    };
    if let Some(image) = &patch.image {
        change.image = Set(json(image)?);
    }
    if let Some(snapshot) = &patch.snapshot {
        change.snapshot_key = Set(snapshot.to_string());
    }
    if let Some(version) = patch.head_version {
        change.head_version = Set(version.map(i64::from));
    }
    if let Some(dirty) = patch.dirty {
        change.dirty = Set(dirty);
    }
    if let Some(desired) = patch.desired {
        change.desired = Set(desired.to_string());
    }
    if let Some(started) = patch.started {
        change.started = Set(started);
    }
    if let Some(limits) = &patch.limits {
        change.limits = Set(json(limits)?);
    }
    if let Some(error) = &patch.last_error {
        change.last_error = Set(error.clone());
    }
    let updated = containers::Entity::update_many()
        .set(change)
        .filter(containers::Column::BotId.eq(bot.to_string()))
        .exec(db)
        .await
        .map_err(failed("update container of bot", bot))?;
    if updated.rows_affected == 0 {
        return Err(Error::new(
            ErrorKind::NotFound,
            "update container of bot",
            bot,
        ));
    }
    Ok(())
}

/// Removes a row in a transaction.
pub(crate) async fn delete(db: &impl ConnectionTrait, bot: BotId) -> Result<()> {
    containers::Entity::delete_by_id(bot.to_string())
        .exec(db)
        .await
        .map_err(failed("delete container of bot", bot))?;
    Ok(())
}

#[async_trait]
impl Containers for SqlContainers {
    async fn get(&self, bot: BotId) -> Result<ContainerRecord> {
        let row = containers::Entity::find_by_id(bot.to_string())
            .one(&self.0.reader)
            .await
            .map_err(failed("read container of bot", bot))?;
        read(row.ok_or_else(|| Error::new(ErrorKind::NotFound, "read container of bot", bot))?)
    }

    async fn list(&self) -> Result<Vec<ContainerRecord>> {
        containers::Entity::find()
            .order_by_asc(containers::Column::BotId)
            .all(&self.0.reader)
            .await
            .map_err(failed("list", "containers"))?
            .into_iter()
            .map(read)
            .collect()
    }
}
