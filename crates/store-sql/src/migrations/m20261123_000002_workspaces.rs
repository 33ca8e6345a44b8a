//! Workspaces: containers, versions, the journal, events and addresses.

use super::{flag, index, integer, integer_null, of_bot, text, text_null};
use sea_orm_migration::prelude::*;

#[derive(DeriveMigrationName)]
pub(crate) struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        containers_and_versions(manager).await?;
        operations_and_events(manager).await?;
        addresses(manager).await
    }
}

async fn containers_and_versions(manager: &SchemaManager<'_>) -> Result<(), DbErr> {
    manager
        .create_table(
            Table::create()
                .table("containers")
                .col(text("bot_id").primary_key())
                .col(text("container_id").unique_key())
                .col(text("namespace"))
                .col(text("snapshotter"))
                .col(text("image"))
                .col(text("snapshot_key"))
                .col(integer_null("head_version"))
                .col(flag("dirty"))
                .col(text("desired"))
                .col(flag("started"))
                .col(text("devices"))
                .col(text("limits"))
                .col(text_null("last_error"))
                .col(integer("created_at"))
                .col(integer("updated_at"))
                .foreign_key(&mut of_bot("containers"))
                .take(),
        )
        .await?;
    manager
        .create_table(
            Table::create()
                .table("versions")
                .col(text("bot_id"))
                .col(integer("number"))
                .col(text_null("name"))
                .col(text("source"))
                .col(text("snapshot_key"))
                .col(text("snapshotter"))
                .col(integer_null("parent"))
                .col(text("image"))
                .col(integer_null("size_bytes"))
                .col(flag("pinned"))
                .col(integer("created_at"))
                .primary_key(Index::create().col("bot_id").col("number"))
                .foreign_key(&mut of_bot("versions"))
                .take(),
        )
        .await
}

async fn operations_and_events(manager: &SchemaManager<'_>) -> Result<(), DbErr> {
    manager
        .create_table(
            Table::create()
                .table("operations")
                .col(text("id").primary_key())
                .col(text("bot_id"))
                .col(text("kind"))
                .col(text("state"))
                .col(text("step"))
                .col(integer_null("version"))
                .col(text("input"))
                .col(text_null("error_code"))
                .col(text_null("error_message"))
                .col(integer("created_at"))
                .col(integer("updated_at"))
                .foreign_key(&mut of_bot("operations"))
                .take(),
        )
        .await?;
    for index in [
        index(
            "operations_by_bot",
            "operations",
            &["bot_id", "created_at", "id"],
        ),
        index(
            "operations_by_state",
            "operations",
            &["state", "created_at", "id"],
        ),
        index("operations_by_change", "operations", &["updated_at"]),
    ] {
        manager.create_index(index).await?;
    }
    manager
        .create_table(
            Table::create()
                .table("events")
                .col(
                    ColumnDef::new("id")
                        .big_integer()
                        .not_null()
                        .auto_increment()
                        .primary_key(),
                )
                .col(text("bot_id"))
                .col(text("kind"))
                .col(text("detail"))
                .col(integer("at"))
                .foreign_key(&mut of_bot("events"))
                .take(),
        )
        .await?;
    manager
        .create_index(index("events_by_bot", "events", &["bot_id", "id"]))
        .await
}

async fn addresses(manager: &SchemaManager<'_>) -> Result<(), DbErr> {
    manager
        .create_table(
            Table::create()
                .table("addresses")
                .col(text("bot_id").primary_key())
                .col(integer("address").unique_key())
                .foreign_key(&mut of_bot("addresses"))
                .take(),
        )
        .await?;
    // The address that was assigned last: the search goes on after it, so that one that was just
    // released rests until the others were used.
    manager
        .create_table(
            Table::create()
                .table("address_marks")
                .col(integer("id").primary_key())
                .col(integer("last_assigned"))
                .take(),
        )
        .await
}
