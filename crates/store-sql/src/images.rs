//! Configurations of images.

use crate::convert::{Row, json};
use crate::database::Database;
use crate::entities::{containers, image_configs, versions};
use crate::error::failed;
use async_trait::async_trait;
use botstead_store::{Error, ErrorKind, ImageConfigs, Result};
use botstead_types::{ImageConfig, RecordedImage};
use sea_orm::sea_query::OnConflict;
use sea_orm::{
    ColumnTrait, ConnectionTrait, EntityTrait, IntoActiveModel, QueryFilter, QuerySelect,
};
use sha2::{Digest, Sha256};
use std::sync::Arc;

/// Configurations of images in the database.
pub(crate) struct SqlImageConfigs(pub(crate) Arc<Database>);

/// A configuration as it is stored.
pub(crate) fn row(config: &ImageConfig) -> Result<image_configs::Model> {
    let config = json(config)?;
    let digest = format!("sha256:{:x}", HexOf(&Sha256::digest(&config)));
    Ok(image_configs::Model { digest, config })
}

/// Bytes as hexadecimal digits.
struct HexOf<'a>(&'a [u8]);

impl std::fmt::LowerHex for HexOf<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Stores a row where there is none yet.
pub(crate) async fn insert(
    db: &impl ConnectionTrait,
    row: image_configs::Model,
) -> Result<(), sea_orm::DbErr> {
    let there = OnConflict::column(image_configs::Column::Digest)
        .do_nothing()
        .to_owned();
    image_configs::Entity::insert(row.into_active_model())
        .on_conflict(there)
        .exec_without_returning(db)
        .await
        .map(drop)
}

#[async_trait]
impl ImageConfigs for SqlImageConfigs {
    async fn keep(&self, config: &ImageConfig) -> Result<String> {
        let failed = || failed("record", "image configuration");
        let row = row(config)?;
        let digest = row.digest.clone();
        // Mostly it is there, and reading waits for nobody.
        let known = image_configs::Entity::find_by_id(&digest)
            .select_only()
            .column(image_configs::Column::Digest)
            .into_tuple::<String>()
            .one(&self.0.reader)
            .await
            .map_err(failed())?;
        if known.is_none() {
            let transaction = self.0.begin().await.map_err(failed())?;
            insert(&transaction, row).await.map_err(failed())?;
            transaction.commit().await.map_err(failed())?;
        }
        Ok(digest)
    }

    async fn get(&self, digest: &str) -> Result<ImageConfig> {
        let what = "read image configuration";
        let row = image_configs::Entity::find_by_id(digest)
            .one(&self.0.reader)
            .await
            .map_err(failed(what, digest))?;
        let row = row.ok_or_else(|| Error::new(ErrorKind::NotFound, what, digest))?;
        let of = Row {
            operation: what,
            key: digest,
        };
        of.json(&row.config)
    }

    async fn collect(&self) -> Result<u64> {
        let failed = || failed("collect", "image configurations");
        let transaction = self.0.begin().await.map_err(failed())?;
        let mut used: Vec<String> = containers::Entity::find()
            .select_only()
            .column(containers::Column::Image)
            .distinct()
            .into_tuple()
            .all(&transaction)
            .await
            .map_err(failed())?;
        let of_versions: Vec<String> = versions::Entity::find()
            .select_only()
            .column(versions::Column::Image)
            .distinct()
            .into_tuple()
            .all(&transaction)
            .await
            .map_err(failed())?;
        used.extend(of_versions);
        let of = Row {
            operation: "collect",
            key: "image configurations",
        };
        let digest = |text: &String| Ok(of.json::<RecordedImage>(text)?.config_digest);
        let used: Vec<String> = used.iter().map(digest).collect::<Result<_>>()?;
        // One by one: a statement takes a limited number of values.
        let all: Vec<String> = image_configs::Entity::find()
            .select_only()
            .column(image_configs::Column::Digest)
            .into_tuple()
            .all(&transaction)
            .await
            .map_err(failed())?;
        let mut removed = 0;
        for digest in all.iter().filter(|digest| !used.contains(digest)) {
            let gone = image_configs::Entity::delete_many()
                .filter(image_configs::Column::Digest.eq(digest))
                .exec(&transaction)
                .await
                .map_err(failed())?;
            removed += gone.rows_affected;
        }
        transaction.commit().await.map_err(failed())?;
        Ok(removed)
    }
}
