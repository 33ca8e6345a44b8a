//! Users and bots.

use super::{flag, index, integer, text, text_null};
use sea_orm_migration::prelude::*;

#[derive(DeriveMigrationName)]
pub(crate) struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager
            .create_table(
                Table::create()
                    .table("users")
                    .col(text("id").primary_key())
                    .col(text("username"))
                    .col(text("username_key").unique_key())
                    .col(text_null("display_name"))
                    .col(text("role"))
                    .col(flag("is_active"))
                    .col(text("password_hash"))
                    .col(integer("created_at"))
                    .col(integer("updated_at"))
                    .take(),
            )
            .await?;
        manager
            .create_index(index("users_by_age", "users", &["created_at", "id"]))
            .await?;
        manager
            .create_table(
                Table::create()
                    .table("bots")
                    .col(text("id").primary_key())
                    .col(text("owner_id"))
                    .col(text("name"))
                    .col(text_null("display_name"))
                    .col(flag("is_active"))
                    .col(text("status"))
                    .col(text("metadata"))
                    .col(integer("version_counter").default(0))
                    .col(integer("created_at"))
                    .col(integer("updated_at"))
                    .foreign_key(
                        ForeignKey::create()
                            .from("bots", "owner_id")
                            .to("users", "id")
                            .on_delete(ForeignKeyAction::Restrict),
                    )
                    .take(),
            )
            .await?;
        manager
            .create_index(index("bots_by_age", "bots", &["created_at", "id"]))
            .await?;
        manager
            .create_index(index(
                "bots_by_owner",
                "bots",
                &["owner_id", "created_at", "id"],
            ))
            .await
    }
}
