//! Workspace containers: one row per bot.

use sea_orm::entity::prelude::*;

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "containers")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub bot_id: String,
    pub container_id: String,
    pub namespace: String,
    pub snapshotter: String,
    pub image: String,
    pub snapshot_key: String,
    pub head_version: Option<i64>,
    pub dirty: bool,
    pub desired: String,
    pub started: bool,
    pub devices: String,
    pub limits: String,
    pub last_error: Option<String>,
    pub created_at: i64,
    pub updated_at: i64,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
