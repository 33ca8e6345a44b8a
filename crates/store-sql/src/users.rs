//! User accounts.

use crate::convert::{Row, micros, now};
use crate::cursor::{self, ByAge};
use crate::database::Database;
use crate::entities::{bots, users};
use crate::error::failed;
use async_trait::async_trait;
use botstead_store::{Error, ErrorKind, Result, User, UserPatch, Users};
use botstead_types::{Page, PageRequest, Role, UserId};
use sea_orm::sea_query::Expr;
use sea_orm::{
    ActiveModelTrait, ColumnTrait, ConnectionTrait, EntityTrait, ExprTrait, IntoActiveModel,
    PaginatorTrait, QueryFilter, QueryOrder, QuerySelect, Set,
};
use std::sync::Arc;

const LIST: &str = "users";

/// User accounts in the database.
pub(crate) struct SqlUsers(pub(crate) Arc<Database>);

fn read(row: users::Model) -> Result<User> {
    let of = Row {
        operation: "read user",
        key: &row.id,
    };
    Ok(User {
        id: of.text(&row.id)?,
        role: of.text(&row.role)?,
        created_at: of.time(row.created_at)?,
        updated_at: of.time(row.updated_at)?,
        username: row.username,
        display_name: row.display_name,
        is_active: row.is_active,
        password_hash: row.password_hash,
    })
}

fn key(username: &str) -> String {
    username.to_ascii_lowercase()
}

fn is_acting_admin(row: &users::Model) -> bool {
    row.is_active && row.role == Role::Admin.as_str()
}

/// Whether there is an active admin besides `id`.
async fn other_admins(db: &impl ConnectionTrait, id: &str) -> Result<bool, sea_orm::DbErr> {
    let others = users::Entity::find()
        .filter(users::Column::Role.eq(Role::Admin.as_str()))
        .filter(users::Column::IsActive.eq(true))
        .filter(users::Column::Id.ne(id))
        .limit(1)
        .count(db)
        .await?;
    Ok(others > 0)
}

#[async_trait]
impl Users for SqlUsers {
    async fn create(&self, user: &User) -> Result<()> {
        let failed = || failed("create user", &user.username);
        let row = users::Model {
            id: user.id.to_string(),
            username: user.username.clone(),
            username_key: key(&user.username),
            display_name: user.display_name.clone(),
            role: user.role.to_string(),
            is_active: user.is_active,
            password_hash: user.password_hash.clone(),
            created_at: micros(user.created_at),
            updated_at: micros(user.updated_at),
        };
        let transaction = self.0.begin().await.map_err(failed())?;
        users::Entity::insert(row.into_active_model())
            .exec_without_returning(&transaction)
            .await
            .map_err(failed())?;
        transaction.commit().await.map_err(failed())
    }

    async fn get(&self, id: UserId) -> Result<User> {
        let row = users::Entity::find_by_id(id.to_string())
            .one(&self.0.reader)
            .await
            .map_err(failed("read user", id))?;
        read(row.ok_or_else(|| Error::new(ErrorKind::NotFound, "read user", id))?)
    }

    async fn by_username(&self, username: &str) -> Result<User> {
        let row = users::Entity::find()
            .filter(users::Column::UsernameKey.eq(key(username)))
            .one(&self.0.reader)
            .await
            .map_err(failed("read user", username))?;
        read(row.ok_or_else(|| Error::new(ErrorKind::NotFound, "read user", username))?)
    }

    async fn list(&self, page: &PageRequest) -> Result<Page<User>> {
        let mut query = users::Entity::find();
        if let Some(after) = ByAge::of(LIST, page)? {
            query = query.filter(
                ByAge::columns(users::Column::CreatedAt, users::Column::Id).gt(after.values()),
            );
        }
        let rows = query
            .order_by_asc(users::Column::CreatedAt)
            .order_by_asc(users::Column::Id)
            .limit(cursor::fetch(page))
            .all(&self.0.reader)
            .await
            .map_err(failed("list", "users"))?;
        let place = |row: &users::Model| {
            ByAge {
                created_at: row.created_at,
                id: row.id.clone(),
            }
            .write(LIST)
        };
        cursor::page(page, rows, place, read)
    }

    async fn update(&self, id: UserId, patch: &UserPatch) -> Result<User> {
        let failed = || failed("update user", id);
        let refused = |kind| Error::new(kind, "update user", id);
        let transaction = self.0.begin().await.map_err(failed())?;
        let row = users::Entity::find_by_id(id.to_string())
            .one(&transaction)
            .await
            .map_err(failed())?
            .ok_or_else(|| refused(ErrorKind::NotFound))?;
        let was_admin = is_acting_admin(&row);
        let mut change = row.into_active_model();
        if let Some(name) = &patch.display_name {
            change.display_name = Set(name.clone());
        }
        if let Some(role) = patch.role {
            change.role = Set(role.to_string());
        }
        if let Some(is_active) = patch.is_active {
            change.is_active = Set(is_active);
        }
        if let Some(hash) = &patch.password_hash {
            change.password_hash = Set(hash.clone());
        }
        change.updated_at = Set(now());
        let row = change.update(&transaction).await.map_err(failed())?;
        if was_admin
            && !is_acting_admin(&row)
            && !other_admins(&transaction, &row.id)
                .await
                .map_err(failed())?
        {
            return Err(refused(ErrorKind::Conflict));
        }
        let user = read(row)?;
        transaction.commit().await.map_err(failed())?;
        Ok(user)
    }

    async fn delete(&self, id: UserId) -> Result<()> {
        let failed = || failed("delete user", id);
        let refused = |kind| Error::new(kind, "delete user", id);
        let transaction = self.0.begin().await.map_err(failed())?;
        let row = users::Entity::find_by_id(id.to_string())
            .one(&transaction)
            .await
            .map_err(failed())?
            .ok_or_else(|| refused(ErrorKind::NotFound))?;
        let owns_bots = bots::Entity::find()
            .select_only()
            .expr(Expr::val(1))
            .filter(bots::Column::OwnerId.eq(&row.id))
            .limit(1)
            .into_tuple::<i32>()
            .one(&transaction)
            .await
            .map_err(failed())?
            .is_some();
        let is_last_admin = is_acting_admin(&row)
            && !other_admins(&transaction, &row.id)
                .await
                .map_err(failed())?;
        if owns_bots || is_last_admin {
            return Err(refused(ErrorKind::Conflict));
        }
        users::Entity::delete_by_id(row.id)
            .exec(&transaction)
            .await
            .map_err(failed())?;
        transaction.commit().await.map_err(failed())
    }
}
