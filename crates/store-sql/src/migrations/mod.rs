//! The schema's history. A migration that was released is never changed; a new one is added.

mod m20261123_000001_accounts;
mod m20261123_000002_workspaces;
mod m20261130_000005_image_configs;

use sea_orm_migration::prelude::*;

/// All migrations, oldest first.
pub(crate) struct Migrator;

impl MigratorTrait for Migrator {
    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        vec![
            Box::new(m20261123_000001_accounts::Migration),
            Box::new(m20261123_000002_workspaces::Migration),
            Box::new(m20261130_000005_image_configs::Migration),
        ]
    }
}

/// A required text column.
fn text(name: &'static str) -> ColumnDef {
    ColumnDef::new(name).text().not_null().take()
}

/// A text column that may be empty.
fn text_null(name: &'static str) -> ColumnDef {
    ColumnDef::new(name).text().null().take()
}

/// A required whole number.
fn integer(name: &'static str) -> ColumnDef {
    ColumnDef::new(name).big_integer().not_null().take()
}

/// A whole number that may be absent.
fn integer_null(name: &'static str) -> ColumnDef {
    ColumnDef::new(name).big_integer().null().take()
}

/// Yes or no.
fn flag(name: &'static str) -> ColumnDef {
    ColumnDef::new(name).boolean().not_null().take()
}

/// The reference to the bot that a row belongs to and with which it goes.
fn of_bot(table: &'static str) -> ForeignKeyCreateStatement {
    ForeignKey::create()
        .from(table, "bot_id")
        .to("bots", "id")
        .on_delete(ForeignKeyAction::Cascade)
        .take()
}

/// An index over several columns.
fn index(
    name: &'static str,
    table: &'static str,
    columns: &[&'static str],
) -> IndexCreateStatement {
    let mut index = Index::create().name(name).table(table).take();
    for column in columns {
        index.col(*column);
    }
    index
}
