//! Lifecycle events.

use crate::convert::{Row, json, micros};
use crate::cursor;
use crate::database::Database;
use crate::entities::{bots, events};
use crate::error::{failed, unreadable};
use async_trait::async_trait;
use botstead_store::{Event, Events, NewEvent, Result};
use botstead_types::{BotId, Page, PageRequest};
use sea_orm::sea_query::{Expr, ExprTrait, Query};
use sea_orm::{ColumnTrait, ConnectionTrait, EntityTrait, QueryFilter, QueryOrder, QuerySelect};
use std::sync::Arc;

const LIST: &str = "events";

/// Events that are kept of each bot.
const KEPT: u64 = 1_000;

/// Events in the database.
pub(crate) struct SqlEvents(pub(crate) Arc<Database>);

fn read(row: events::Model) -> Result<Event> {
    let key = row.id.to_string();
    let of = Row {
        operation: "read event",
        key: &key,
    };
    Ok(Event {
        id: row.id,
        event: NewEvent {
            bot: of.text(&row.bot_id)?,
            detail: of.json(&row.detail)?,
            at: of.time(row.at)?,
            kind: row.kind,
        },
    })
}

/// Adds an event in a transaction where its bot exists.
pub(crate) async fn append(db: &impl ConnectionTrait, event: &NewEvent) -> Result<()> {
    const OPERATION: &str = "record event of bot";
    // One statement: the row is made from the bot's, so that there is none without it.
    let row = Query::select()
        .column(bots::Column::Id)
        .expr(Expr::val(event.kind.clone()))
        .expr(Expr::val(json(&event.detail)?))
        .expr(Expr::val(micros(event.at)))
        .from(bots::Entity)
        .and_where(Expr::col(bots::Column::Id).eq(event.bot.to_string()))
        .to_owned();
    let insert = Query::insert()
        .into_table(events::Entity)
        .columns([
            events::Column::BotId,
            events::Column::Kind,
            events::Column::Detail,
            events::Column::At,
        ])
        .select_from(row)
        .map_err(|error| unreadable(OPERATION, event.bot, error))?
        .returning_col(events::Column::Id)
        .to_owned();
    let inserted = db
        .query_all(&insert)
        .await
        .map_err(failed(OPERATION, event.bot))?;
    let Some(row) = inserted.first() else {
        return Ok(());
    };
    let id: i64 = row
        .try_get_by_index(0)
        .map_err(failed(OPERATION, event.bot))?;
    if is_trimming_due(id) {
        trim(db, event.bot).await?;
    }
    Ok(())
}

/// True for one id in 64, spread so that bots that record in turn are all trimmed.
fn is_trimming_due(id: i64) -> bool {
    id.wrapping_mul(0x9E37_79B9_7F4A_7C15_u64 as i64) as u64 >> 58 == 0
}

async fn trim(db: &impl ConnectionTrait, bot: BotId) -> Result<()> {
    let oldest_kept = events::Entity::find()
        .select_only()
        .column(events::Column::Id)
        .filter(events::Column::BotId.eq(bot.to_string()))
        .order_by_desc(events::Column::Id)
        .offset(KEPT - 1)
        .limit(1)
        .into_tuple::<i64>()
        .one(db)
        .await
        .map_err(failed("trim events of bot", bot))?;
    if let Some(oldest_kept) = oldest_kept {
        events::Entity::delete_many()
            .filter(events::Column::BotId.eq(bot.to_string()))
            .filter(events::Column::Id.lt(oldest_kept))
            .exec(db)
            .await
            .map_err(failed("trim events of bot", bot))?;
    }
    Ok(())
}

#[async_trait]
impl Events for SqlEvents {
    async fn list(&self, bot: BotId, page: &PageRequest) -> Result<Page<Event>> {
        let mut query = events::Entity::find().filter(events::Column::BotId.eq(bot.to_string()));
        if let Some(after) = cursor::number(LIST, page)? {
            query = query.filter(events::Column::Id.lt(after));
        }
        let rows = query
            .order_by_desc(events::Column::Id)
            .limit(cursor::fetch(page))
            .all(&self.0.reader)
            .await
            .map_err(failed("list events of bot", bot))?;
        let place = |row: &events::Model| cursor::write_number(LIST, row.id);
        cursor::page(page, rows, place, read)
    }
}
