//! Configurations of images.
#![allow(missing_docs, reason = "the name of a test is its promise")]

use super::samples::{add_bot, apply, config, container, version};
use super::{Fixture, assert_kind};
use crate::{Change, ErrorKind};
use botstead_types::ImageConfig;

/// Images of one configuration, which may be large, keep it once; another one has another digest.
pub async fn a_configuration_is_kept_once(fixture: &mut dyn Fixture) {
    let images = fixture.store().images;
    let first = images.keep(&config()).await.unwrap();
    assert!(first.starts_with("sha256:"), "{first}");
    assert_eq!(images.keep(&config()).await.unwrap(), first);
    let other = ImageConfig {
        user: "other".to_owned(),
        ..config()
    };
    assert_ne!(images.keep(&other).await.unwrap(), first);
    fixture.reopen().await;
    let images = fixture.store().images;
    assert_eq!(images.get(&first).await.unwrap(), config());
    assert_kind(images.get("sha256:none").await, ErrorKind::NotFound);
}

/// What a container or a version was made from stays; the rest goes.
pub async fn a_configuration_in_use_is_not_collected(fixture: &mut dyn Fixture) {
    let store = fixture.store();
    let bot = add_bot(&store).await.id;
    let keep = async |user: &str| {
        let config = ImageConfig {
            user: user.to_owned(),
            ..config()
        };
        store.images.keep(&config).await.unwrap()
    };
    let mut container = container(bot);
    container.image.config_digest = keep("of the container").await;
    let mut version = version(bot, 1);
    version.image.config_digest = keep("of the version").await;
    let unused = keep("of nobody").await;
    let of_container = container.image.config_digest.clone();
    let of_version = version.image.config_digest.clone();
    for change in [
        Change::InsertContainer(Box::new(container)),
        Change::InsertVersion(Box::new(version)),
    ] {
        apply(&store, change).await.unwrap();
    }
    assert_eq!(store.images.collect().await.unwrap(), 1);
    assert_kind(store.images.get(&unused).await, ErrorKind::NotFound);
    assert!(store.images.get(&of_container).await.is_ok());
    assert!(store.images.get(&of_version).await.is_ok());
    assert_eq!(store.images.collect().await.unwrap(), 0);
}
