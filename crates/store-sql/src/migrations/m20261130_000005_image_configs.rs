//! Configurations of images once for all, by digest, instead of in every container and version.

use super::text;
use crate::images;
use botstead_types::{ImageConfig, RecordedImage, ResolvedImage};
use sea_orm::{ConnectionTrait, FromQueryResult, JsonValue, Statement};
use sea_orm_migration::prelude::*;

#[derive(DeriveMigrationName)]
pub(crate) struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager
            .create_table(
                Table::create()
                    .table("image_configs")
                    .col(text("digest").primary_key())
                    .col(text("config"))
                    .take(),
            )
            .await?;
        for table in ["containers", "versions"] {
            move_out(manager, table).await?;
        }
        Ok(())
    }
}

/// Takes the configurations out of a table's images, one distinct image at a time: each may be of some
/// megabytes.
async fn move_out(manager: &SchemaManager<'_>, table: &str) -> Result<(), DbErr> {
    let db = manager.get_connection();
    let backend = manager.get_database_backend();
    let mut last = String::new();
    loop {
        let next = format!("SELECT MIN(image) AS image FROM {table} WHERE image > ?");
        let next = Statement::from_sql_and_values(backend, next, [last.into()]);
        let row = JsonValue::find_by_statement(next).one(db).await?;
        let image = row.and_then(|row| Some(row.get("image")?.as_str()?.to_owned()));
        let Some(image) = image else { return Ok(()) };
        // What cannot be read now could not be read before.
        if let Ok(resolved) = serde_json::from_str::<ResolvedImage>(&image) {
            let recorded = keep(db, resolved).await?;
            let update = format!("UPDATE {table} SET image = ? WHERE image = ?");
            let values = [recorded.into(), image.clone().into()];
            db.execute_raw(Statement::from_sql_and_values(backend, update, values))
                .await?;
        }
        last = image;
    }
}

/// Stores the configuration and returns what is left of the image, as JSON.
async fn keep(db: &SchemaManagerConnection<'_>, image: ResolvedImage) -> Result<String, DbErr> {
    let custom = |error: &dyn std::fmt::Display| DbErr::Custom(error.to_string());
    let config: ImageConfig = image.config;
    let row = images::row(&config).map_err(|error| custom(&error))?;
    let recorded = RecordedImage {
        reference: image.reference,
        digest: image.digest,
        config_digest: row.digest.clone(),
    };
    images::insert(db, row).await?;
    serde_json::to_string(&recorded).map_err(|error| custom(&error))
}
