//! Bringing the schema to this program's version.

use crate::OpenError;
use crate::database::Database;
use crate::migrations::Migrator;
use crate::sqlite;
use sea_orm::{DatabaseConnection, DbErr, EntityTrait, QueryOrder};
use sea_orm_migration::prelude::{MigratorTrait, SchemaManager};
use sea_orm_migration::seaql_migrations;
use std::path::Path;

/// A table that every schema of Botstead has had; a database with tables and without it is
/// another program's.
const MIGRATIONS: &str = "seaql_migrations";

/// What becomes of a database without tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum New {
    Made,
    Refused,
}

/// Applies the migrations that are missing, after a backup where there is anything to keep.
pub(crate) async fn upgrade(db: &Database, path: &Path, new: New) -> Result<(), OpenError> {
    let failed = |source| OpenError::Migrate {
        path: path.to_owned(),
        source,
    };
    let applied = applied(&db.writer).await.map_err(failed)?;
    let known: Vec<String> = Migrator::migrations()
        .iter()
        .map(|migration| migration.name().to_owned())
        .collect();
    if let Some(newer) = applied.iter().rev().find(|name| !known.contains(name)) {
        return Err(OpenError::Newer {
            path: path.to_owned(),
            database: newer.clone(),
            program: known.last().cloned().unwrap_or_default(),
        });
    }
    if applied.len() == known.len() {
        return Ok(());
    }
    match applied.last() {
        Some(version) => {
            let backup = sqlite::backup(&db.writer, path, version)
                .await
                .map_err(|source| OpenError::Backup {
                    path: path.to_owned(),
                    source,
                })?;
            tracing::info!(
                backup = %backup.display(),
                from = %version,
                "made a backup of the database before upgrading it"
            );
        }
        None if sqlite::has_tables(&db.writer).await.map_err(failed)? => {
            return Err(OpenError::Foreign {
                path: path.to_owned(),
            });
        }
        None if new == New::Refused => {
            return Err(OpenError::Empty {
                path: path.to_owned(),
            });
        }
        None => {}
    }
    // One transaction: an upgrade that fails half-way leaves the old schema.
    let transaction = db.begin().await.map_err(failed)?;
    Migrator::up(&transaction, None).await.map_err(failed)?;
    transaction.commit().await.map_err(failed)
}

/// Fails unless the database has this program's schema.
pub(crate) async fn require_current(db: &Database, path: &Path) -> Result<(), OpenError> {
    let applied = applied(&db.reader).await;
    let applied = applied.map_err(|source| OpenError::Connect {
        path: path.to_owned(),
        source,
    })?;
    match applied.len() == Migrator::migrations().len() {
        true => Ok(()),
        false => Err(OpenError::Other {
            path: path.to_owned(),
        }),
    }
}

/// The migrations that the database has, oldest first.
async fn applied(db: &DatabaseConnection) -> Result<Vec<String>, DbErr> {
    if !SchemaManager::new(db).has_table(MIGRATIONS).await? {
        return Ok(Vec::new());
    }
    let rows = seaql_migrations::Entity::find()
        .order_by_asc(seaql_migrations::Column::Version)
        .all(db)
        .await?;
    Ok(rows.into_iter().map(|row| row.version).collect())
}
