//! Addresses of workspaces.

use crate::convert::Row;
use crate::database::Database;
use crate::entities::addresses;
use crate::error::{failed, unreadable};
use async_trait::async_trait;
use botstead_store::{Addresses, AssignedAddress, Error, ErrorKind, Result};
use botstead_types::BotId;
use ipnet::Ipv4Net;
use sea_orm::sea_query::{Alias, Expr, ExprTrait, OnConflict, Query};
use sea_orm::{
    ColumnTrait, ConnectionTrait, DbErr, EntityTrait, IntoActiveModel, PaginatorTrait, QueryFilter,
    QueryOrder,
};
use std::net::Ipv4Addr;
use std::sync::Arc;

const OPERATION: &str = "assign address to bot";

/// The only row of the marks.
const MARK: i64 = 1;

/// Addresses in the database.
pub(crate) struct SqlAddresses(pub(crate) Arc<Database>);

/// The addresses that may be assigned.
#[derive(Clone, Copy)]
struct Assignable {
    first: i64,
    last: i64,
    gateway: i64,
}

impl Assignable {
    fn of(subnet: Ipv4Net, gateway: Ipv4Addr) -> Self {
        Self {
            first: i64::from(subnet.network().to_bits()) + 1,
            last: i64::from(subnet.broadcast().to_bits()) - 1,
            gateway: i64::from(gateway.to_bits()),
        }
    }

    fn contains(self, address: i64) -> bool {
        (self.first..=self.last).contains(&address) && address != self.gateway
    }
}

fn read(address: i64, bot: BotId) -> Result<Ipv4Addr> {
    u32::try_from(address)
        .map(Ipv4Addr::from_bits)
        .map_err(|error| unreadable("read address of bot", bot, error))
}

/// The bot's recorded address.
async fn recorded(db: &impl ConnectionTrait, bot: BotId) -> Result<Option<i64>, DbErr> {
    let row = addresses::Entity::find_by_id(bot.to_string())
        .one(db)
        .await?;
    Ok(row.map(|row| row.address))
}

/// The lowest free address from `from` to `to`.
async fn next_free(
    db: &impl ConnectionTrait,
    mut from: i64,
    to: i64,
    gateway: i64,
) -> Result<Option<i64>, DbErr> {
    while from <= to {
        let taken = from == gateway
            || addresses::Entity::find()
                .filter(addresses::Column::Address.eq(from))
                .count(db)
                .await?
                > 0;
        if !taken {
            return Ok(Some(from));
        }
        from = if from == gateway {
            from + 1
        } else {
            end_of_run(db, from).await? + 1
        };
    }
    Ok(None)
}

/// The last address of the run of assigned ones that begins at `from`. The index on the address
/// is walked only as far as that.
async fn end_of_run(db: &impl ConnectionTrait, from: i64) -> Result<i64, DbErr> {
    let (this, next) = (Alias::new("this"), Alias::new("next"));
    let column = addresses::Column::Address;
    let successor = Query::select()
        .expr(Expr::val(1))
        .from_as(addresses::Entity, next.clone())
        .and_where(Expr::col((next, column)).eq(Expr::col((this.clone(), column)).add(1)))
        .to_owned();
    let query = Query::select()
        .column((this.clone(), column))
        .from_as(addresses::Entity, this.clone())
        .and_where(Expr::col((this.clone(), column)).gte(from))
        .and_where(Expr::exists(successor).not())
        .order_by((this, column), sea_orm::Order::Asc)
        .limit(1)
        .to_owned();
    match db.query_one(&query).await? {
        Some(row) => row.try_get_by_index(0),
        None => Ok(from),
    }
}

async fn last_assigned(db: &impl ConnectionTrait) -> Result<Option<i64>, DbErr> {
    let query = Query::select()
        .column("last_assigned")
        .from("address_marks")
        .and_where(Expr::col("id").eq(MARK))
        .to_owned();
    db.query_one(&query)
        .await?
        .map(|row| row.try_get_by_index(0))
        .transpose()
}

async fn remember(db: &impl ConnectionTrait, address: i64) -> Result<(), DbErr> {
    let mark = Query::insert()
        .into_table("address_marks")
        .columns(["id", "last_assigned"])
        .values_panic([MARK.into(), address.into()])
        .on_conflict(
            OnConflict::column("id")
                .update_column("last_assigned")
                .to_owned(),
        )
        .to_owned();
    db.execute(&mark).await?;
    Ok(())
}

/// The lowest free address after the one that was assigned last, and after the end from the
/// beginning again.
async fn choose(db: &impl ConnectionTrait, among: Assignable) -> Result<Option<i64>, DbErr> {
    let Assignable {
        first,
        last,
        gateway,
    } = among;
    let start = last_assigned(db)
        .await?
        .map(|address| address + 1)
        .filter(|start| (first..=last).contains(start))
        .unwrap_or(first);
    match next_free(db, start, last, gateway).await? {
        Some(address) => Ok(Some(address)),
        None => next_free(db, first, start - 1, gateway).await,
    }
}

/// The bot's address, assigned in a transaction where it has none.
pub(crate) async fn assign(
    db: &impl ConnectionTrait,
    bot: BotId,
    subnet: Ipv4Net,
    gateway: Ipv4Addr,
) -> Result<Ipv4Addr> {
    let failed = || failed(OPERATION, bot);
    let among = Assignable::of(subnet, gateway);
    if let Some(address) = recorded(db, bot).await.map_err(failed())? {
        if among.contains(address) {
            return read(address, bot);
        }
        addresses::Entity::delete_by_id(bot.to_string())
            .exec(db)
            .await
            .map_err(failed())?;
    }
    let address = choose(db, among)
        .await
        .map_err(failed())?
        .ok_or_else(|| Error::new(ErrorKind::ResourceExhausted, OPERATION, bot))?;
    let row = addresses::Model {
        bot_id: bot.to_string(),
        address,
    };
    addresses::Entity::insert(row.into_active_model())
        .exec_without_returning(db)
        .await
        .map_err(failed())?;
    remember(db, address).await.map_err(failed())?;
    read(address, bot)
}

#[async_trait]
impl Addresses for SqlAddresses {
    async fn assign(&self, bot: BotId, subnet: Ipv4Net, gateway: Ipv4Addr) -> Result<Ipv4Addr> {
        let failed = || failed(OPERATION, bot);
        let among = Assignable::of(subnet, gateway);
        // Every start asks, and almost always there is an address: that takes no write lock.
        if let Some(address) = recorded(&self.0.reader, bot).await.map_err(failed())?
            && among.contains(address)
        {
            return read(address, bot);
        }
        let transaction = self.0.begin().await.map_err(failed())?;
        let address = assign(&transaction, bot, subnet, gateway).await?;
        transaction.commit().await.map_err(failed())?;
        Ok(address)
    }

    async fn list(&self) -> Result<Vec<AssignedAddress>> {
        addresses::Entity::find()
            .order_by_asc(addresses::Column::BotId)
            .all(&self.0.reader)
            .await
            .map_err(failed("list", "addresses"))?
            .into_iter()
            .map(|row| {
                let of = Row {
                    operation: "read address of bot",
                    key: &row.bot_id,
                };
                let bot = of.text(&row.bot_id)?;
                Ok(AssignedAddress {
                    bot,
                    address: read(row.address, bot)?,
                })
            })
            .collect()
    }
}
