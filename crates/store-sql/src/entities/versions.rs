//! Versions; they refer to bots only, so that they outlive the container's row.

use sea_orm::entity::prelude::*;

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "versions")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub bot_id: String,
    #[sea_orm(primary_key, auto_increment = false)]
    pub number: i64,
    pub name: Option<String>,
    pub source: String,
    pub snapshot_key: String,
    pub snapshotter: String,
    pub parent: Option<i64>,
    pub image: String,
    pub size_bytes: Option<i64>,
    pub pinned: bool,
    pub created_at: i64,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
