//! Versions of workspaces.

use crate::convert::{Row, json, micros};
use crate::database::Database;
use crate::entities::{bots, versions};
use crate::error::failed;
use async_trait::async_trait;
use botstead_store::{
    Error, ErrorKind, Result, VersionPatch, VersionRecord, VersionSnapshot, Versions,
};
use botstead_types::{BotId, RecordedImage, VersionNumber};
use sea_orm::{
    ColumnTrait, ConnectionTrait, EntityTrait, ExprTrait, IntoActiveModel, PaginatorTrait,
    QueryFilter, QueryOrder, QuerySelect, Set,
};
use std::sync::Arc;

/// Versions in the database.
pub(crate) struct SqlVersions(pub(crate) Arc<Database>);

fn name(bot: BotId, number: VersionNumber) -> String {
    format!("{number} of bot {bot}")
}

fn key(bot: BotId, number: VersionNumber) -> (String, i64) {
    (bot.to_string(), number.into())
}

/// A size as the column holds it; no snapshot comes near its end.
fn size(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

/// Reads rows. Most versions of a bot have the same image, and reading one costs more than the
/// rest of a row, so that an image is only read where it differs from the row's before.
#[derive(Default)]
struct Reader {
    last: Option<(String, RecordedImage)>,
}

impl Reader {
    fn image(&mut self, of: Row<'_>, text: &str) -> Result<RecordedImage> {
        match &self.last {
            Some((last, image)) if last == text => Ok(image.clone()),
            _ => {
                let image: RecordedImage = of.json(text)?;
                self.last = Some((text.to_owned(), image.clone()));
                Ok(image)
            }
        }
    }

    fn read(&mut self, row: versions::Model) -> Result<VersionRecord> {
        let of = Row {
            operation: "read version of bot",
            key: &row.bot_id,
        };
        Ok(VersionRecord {
            bot: of.text(&row.bot_id)?,
            number: of.number(row.number)?,
            source: of.text(&row.source)?,
            snapshot: of.text(&row.snapshot_key)?,
            parent: row.parent.map(|n| of.number(n)).transpose()?,
            image: self.image(of, &row.image)?,
            size_bytes: row.size_bytes.map(|n| of.number(n)).transpose()?,
            created_at: of.time(row.created_at)?,
            name: row.name,
            snapshotter: row.snapshotter,
            pinned: row.pinned,
        })
    }
}

/// Adds a version in a transaction.
pub(crate) async fn insert(db: &impl ConnectionTrait, record: &VersionRecord) -> Result<()> {
    let failed = || failed("record version", name(record.bot, record.number));
    let row = versions::Model {
        bot_id: record.bot.to_string(),
        number: record.number.into(),
        name: record.name.clone(),
        source: record.source.to_string(),
        snapshot_key: record.snapshot.to_string(),
        snapshotter: record.snapshotter.clone(),
        parent: record.parent.map(i64::from),
        image: json(&record.image)?,
        size_bytes: record.size_bytes.map(size),
        pinned: record.pinned,
        created_at: micros(record.created_at),
    };
    versions::Entity::insert(row.into_active_model())
        .exec_without_returning(db)
        .await
        .map_err(failed())?;
    // A number that was not reserved, such as that of an inherited version, is used up as well.
    bots::Entity::update_many()
        .set(bots::ActiveModel {
            version_counter: Set(record.number.into()),
            ..Default::default()
        })
        .filter(bots::Column::Id.eq(record.bot.to_string()))
        .filter(bots::Column::VersionCounter.lt(i64::from(record.number)))
        .exec(db)
        .await
        .map_err(failed())?;
    Ok(())
}

/// Changes a version in a transaction.
pub(crate) async fn patch(
    db: &impl ConnectionTrait,
    bot: BotId,
    number: VersionNumber,
    patch: &VersionPatch,
) -> Result<()> {
    let failed = || failed("update version", name(bot, number));
    let mut change = versions::ActiveModel::default();
    if let Some(name) = &patch.name {
        change.name = Set(name.clone());
    }
    if let Some(pinned) = patch.pinned {
        change.pinned = Set(pinned);
    }
    if let Some(parent) = patch.parent {
        change.parent = Set(parent.map(i64::from));
    }
    if let Some(bytes) = patch.size_bytes {
        change.size_bytes = Set(Some(size(bytes)));
    }
    let of_version = || {
        versions::Column::BotId
            .eq(bot.to_string())
            .and(versions::Column::Number.eq(i64::from(number)))
    };
    let found = if *patch == VersionPatch::default() {
        versions::Entity::find()
            .filter(of_version())
            .count(db)
            .await
            .map_err(failed())?
    } else {
        versions::Entity::update_many()
            .set(change)
            .filter(of_version())
            .exec(db)
            .await
            .map_err(failed())?
            .rows_affected
    };
    if found == 0 {
        return Err(Error::new(
            ErrorKind::NotFound,
            "update version",
            name(bot, number),
        ));
    }
    Ok(())
}

/// Removes a version in a transaction.
pub(crate) async fn delete(
    db: &impl ConnectionTrait,
    bot: BotId,
    number: VersionNumber,
) -> Result<()> {
    versions::Entity::delete_by_id(key(bot, number))
        .exec(db)
        .await
        .map_err(failed("delete version", name(bot, number)))?;
    Ok(())
}

#[async_trait]
impl Versions for SqlVersions {
    async fn get(&self, bot: BotId, number: VersionNumber) -> Result<VersionRecord> {
        let row = versions::Entity::find_by_id(key(bot, number))
            .one(&self.0.reader)
            .await
            .map_err(failed("read version", name(bot, number)))?;
        let missing = || Error::new(ErrorKind::NotFound, "read version", name(bot, number));
        Reader::default().read(row.ok_or_else(missing)?)
    }

    async fn list(&self, bot: BotId) -> Result<Vec<VersionRecord>> {
        let mut reader = Reader::default();
        versions::Entity::find()
            .filter(versions::Column::BotId.eq(bot.to_string()))
            .order_by_asc(versions::Column::Number)
            .all(&self.0.reader)
            .await
            .map_err(failed("list versions of bot", bot))?
            .into_iter()
            .map(|row| reader.read(row))
            .collect()
    }

    async fn snapshots(&self) -> Result<Vec<VersionSnapshot>> {
        let rows: Vec<(String, i64, String, bool)> = versions::Entity::find()
            .select_only()
            .column(versions::Column::BotId)
            .column(versions::Column::Number)
            .column(versions::Column::SnapshotKey)
            .column(versions::Column::Pinned)
            .into_tuple()
            .all(&self.0.reader)
            .await
            .map_err(failed("list snapshots of", "versions"))?;
        rows.into_iter()
            .map(|(bot, number, snapshot, pinned)| {
                let of = Row {
                    operation: "read version of bot",
                    key: &bot,
                };
                Ok(VersionSnapshot {
                    bot: of.text(&bot)?,
                    number: of.number(number)?,
                    snapshot: of.text(&snapshot)?,
                    pinned,
                })
            })
            .collect()
    }
}
