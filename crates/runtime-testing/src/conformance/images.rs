//! Promises of [`botstead_runtime::Images`].
#![allow(missing_docs, reason = "the name of a test is its promise")]

use super::archive::{Damage, ImageArchive, Packing};
use super::{Context, ImageFixture, done, labels, refused};
use botstead_runtime::ErrorKind::{
    Cancelled, Corrupt, InvalidArgument, NotFound, Unavailable, Unsupported,
};
use botstead_runtime::{Image, PullProgress, Result};
use botstead_types::{ImageRef, OperationId, PageRequest};
use std::path::Path;
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// A name that no image has.
fn unused_name() -> ImageRef {
    let name = format!("localhost/conformance:{}", OperationId::generate());
    name.parse().expect("a UUID is a valid tag")
}

fn archive(text: &str) -> ImageArchive<'_> {
    ImageArchive {
        name: None,
        text,
        packing: Packing::Plain,
        damage: None,
    }
}

async fn import_file(cx: &Context, file: &Path, name: Option<&ImageRef>) -> Result<Vec<Image>> {
    let cancel = CancellationToken::new();
    cx.images.import(&cx.lease, file, name, &cancel).await
}

async fn import(
    cx: &Context,
    archive: &ImageArchive<'_>,
    name: Option<&ImageRef>,
) -> Result<Vec<Image>> {
    let file = archive.write().expect("the archive can be written");
    import_file(cx, file.path(), name).await
}

/// Runs a test where the backend has images; where it has none, that must be the answer.
async fn images_of(cx: &Context) -> Option<ImageFixture> {
    if cx.backend.capabilities().images {
        return Some(
            cx.fixture()
                .images()
                .expect("a backend with images needs references"),
        );
    }
    refused(
        import(cx, &archive("x"), Some(&unused_name())).await,
        Unsupported,
    );
    let name = unused_name();
    refused(
        pull(cx, &name, &CancellationToken::new()).await.0,
        Unsupported,
    );
    None
}

async fn pull(
    cx: &Context,
    reference: &ImageRef,
    cancel: &CancellationToken,
) -> (Result<Image>, PullProgress) {
    let (sender, receiver) = watch::channel(PullProgress::default());
    let pulled = cx.images.pull(&cx.lease, reference, &sender, cancel).await;
    let progress = receiver.borrow().clone();
    (pulled, progress)
}

pub async fn a_missing_image_is_not_found(cx: Context) {
    let name = unused_name();
    refused(cx.images.get(&name).await, NotFound);
    refused(cx.images.unpack(&cx.lease, &name).await, NotFound);
    refused(cx.images.delete(&name).await, NotFound);
}

pub async fn an_import_makes_the_image_local(cx: Context) {
    if images_of(&cx).await.is_none() {
        return;
    }
    for packing in [Packing::Plain, Packing::Gzip, Packing::Zstd] {
        let name = unused_name();
        let given = ImageArchive {
            packing,
            ..archive("one")
        };
        let imported = done(import(&cx, &given, Some(&name)).await);
        assert_eq!(imported.len(), 1);
        let image = done(cx.images.get(&name).await);
        assert_eq!(image, imported[0]);
        assert_eq!(image.resolved.reference, name);
        assert!(image.resolved.digest.starts_with("sha256:"));
        assert!(image.resolved.config.env.contains(&"IMPORTED=1".to_owned()));
        assert!(image.size_bytes > 0);
        let all = done(cx.images.list(&PageRequest::default()).await).items;
        assert!(all.contains(&image));
        assert!(all.is_sorted_by_key(|image| image.resolved.reference.clone()));
        done(cx.images.delete(&name).await);
    }
}

pub async fn a_local_image_is_found_by_its_digest(cx: Context) {
    if images_of(&cx).await.is_none() {
        return;
    }
    let name = unused_name();
    let imported = done(import(&cx, &archive("digest"), Some(&name)).await);
    let digest = &imported[0].resolved.digest;
    let by = |name: &ImageRef, digest: &str| -> ImageRef {
        format!("{name}@{digest}")
            .parse()
            .expect("a digest fits a name")
    };
    let untagged = format!("{}/{}@{digest}", name.registry(), name.repository());
    for asked in [by(&name, digest), untagged.parse().expect("a reference")] {
        let found = done(cx.images.get(&asked).await);
        assert_eq!(found.resolved.reference, asked);
        assert_eq!(&found.resolved.digest, digest);
        assert_eq!(found.resolved.config, imported[0].resolved.config);
        done(cx.images.unpack(&cx.lease, &asked).await);
    }
    // Neither another digest nor another repository.
    let other = format!("sha256:{}", "0".repeat(64));
    refused(cx.images.get(&by(&name, &other)).await, NotFound);
    let elsewhere = format!("localhost/elsewhere@{digest}");
    let elsewhere: ImageRef = elsewhere.parse().expect("a reference");
    refused(cx.images.get(&elsewhere).await, NotFound);
    // The name alone is what is deleted.
    refused(cx.images.delete(&by(&name, digest)).await, NotFound);
    done(cx.images.delete(&name).await);
    refused(cx.images.get(&by(&name, digest)).await, NotFound);
}

pub async fn images_are_listed_page_by_page(cx: Context) {
    if images_of(&cx).await.is_none() {
        return;
    }
    let names = [unused_name(), unused_name(), unused_name()];
    for name in &names {
        done(import(&cx, &archive("one"), Some(name)).await);
    }
    let mut page = PageRequest {
        limit: 2,
        cursor: None,
    };
    let mut listed = Vec::new();
    loop {
        let part = done(cx.images.list(&page).await);
        assert!(part.items.len() <= 2);
        let found = part.items.into_iter().map(|image| image.resolved.reference);
        listed.extend(found);
        page.cursor = part.next_cursor;
        if page.cursor.is_none() {
            break;
        }
    }
    assert!(listed.is_sorted());
    listed.retain(|name| names.contains(name));
    assert_eq!(listed.len(), 3);
    for name in &names {
        done(cx.images.delete(name).await);
    }
}

pub async fn an_imported_image_is_unpacked_once(cx: Context) {
    if images_of(&cx).await.is_none() {
        return;
    }
    let (name, text) = (unused_name(), OperationId::generate().to_string());
    done(import(&cx, &archive(&text), Some(&name)).await);
    let top = done(cx.images.unpack(&cx.lease, &name).await);
    assert_eq!(done(cx.images.unpack(&cx.lease, &name).await), top);
    let key = cx.active_on(&top).await;
    let shown = cx.fixture().read_file(&key, "/imported").await;
    assert_eq!(shown.as_deref(), Some(text.as_bytes()));
    done(cx.images.delete(&name).await);
}

pub async fn importing_again_changes_nothing(cx: Context) {
    if images_of(&cx).await.is_none() {
        return;
    }
    let name = unused_name();
    let first = done(import(&cx, &archive("one"), Some(&name)).await);
    let again = done(import(&cx, &archive("one"), Some(&name)).await);
    assert_eq!(first[0].resolved, again[0].resolved);
    done(cx.images.delete(&name).await);
}

pub async fn an_images_own_name_counts(cx: Context) {
    if images_of(&cx).await.is_none() {
        return;
    }
    let (own, other) = (unused_name(), unused_name());
    let given = ImageArchive {
        name: Some(own.as_str()),
        ..archive("one")
    };
    let imported = done(import(&cx, &given, Some(&other)).await);
    assert_eq!(imported[0].resolved.reference, own);
    refused(cx.images.get(&other).await, NotFound);
    done(cx.images.delete(&own).await);
}

pub async fn an_archive_that_is_none_is_refused(cx: Context) {
    if images_of(&cx).await.is_none() {
        return;
    }
    let name = unused_name();
    refused(
        import(&cx, &archive("no name"), None).await,
        InvalidArgument,
    );
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    std::fs::write(file.path(), [b'x'; 2048]).expect("it can be written");
    refused(
        import_file(&cx, file.path(), Some(&name)).await,
        InvalidArgument,
    );
    refused(cx.images.get(&name).await, NotFound);
}

pub async fn a_wrong_digest_is_corrupt(cx: Context) {
    if images_of(&cx).await.is_none() {
        return;
    }
    for damage in [Damage::Blob, Damage::DiffId] {
        let (name, text) = (unused_name(), OperationId::generate().to_string());
        let given = ImageArchive {
            damage: Some(damage),
            ..archive(&text)
        };
        refused(import(&cx, &given, Some(&name)).await, Corrupt);
        refused(cx.images.get(&name).await, NotFound);
    }
}

pub async fn a_deleted_image_leaves_what_was_made_from_it(cx: Context) {
    if images_of(&cx).await.is_none() {
        return;
    }
    let (name, text) = (unused_name(), OperationId::generate().to_string());
    done(import(&cx, &archive(&text), Some(&name)).await);
    let top = done(cx.images.unpack(&cx.lease, &name).await);
    let key = cx.key();
    let lease = cx.another_lease().await;
    done(
        cx.snapshots
            .prepare(&lease, &key, Some(&top), &labels([]))
            .await,
    );
    cx.end_lease(&cx.lease).await;
    done(cx.images.delete(&name).await);
    refused(cx.images.delete(&name).await, NotFound);
    cx.collect().await;
    let shown = cx.fixture().read_file(&key, "/imported").await;
    assert_eq!(shown.as_deref(), Some(text.as_bytes()));
    done(cx.snapshots.remove(&key).await);
    cx.end_lease(&lease).await;
    cx.collect().await;
    assert!(!cx.exists(&top).await, "nothing used its layer any more");
}

pub async fn a_pull_makes_the_image_local(cx: Context) {
    let Some(images) = images_of(&cx).await else {
        return;
    };
    let never = CancellationToken::new();
    let (pulled, progress) = pull(&cx, &images.present, &never).await;
    let image = done(pulled);
    assert_eq!(image.resolved.reference, images.present);
    assert!(!progress.layers.is_empty());
    for layer in &progress.layers {
        assert_eq!(layer.offset, layer.total, "{layer:?}");
    }
    assert_eq!(done(cx.images.get(&images.present).await), image);
    let top = done(cx.images.unpack(&cx.lease, &images.present).await);
    assert!(cx.exists(&top).await);
    let (again, _) = pull(&cx, &images.present, &never).await;
    assert_eq!(done(again).resolved, image.resolved);
}

pub async fn an_image_that_the_registry_lacks_is_not_found(cx: Context) {
    let Some(images) = images_of(&cx).await else {
        return;
    };
    let (pulled, _) = pull(&cx, &images.absent, &CancellationToken::new()).await;
    refused(pulled, NotFound);
    refused(cx.images.get(&images.absent).await, NotFound);
}

pub async fn a_registry_that_does_not_answer_is_unavailable(cx: Context) {
    let Some(images) = images_of(&cx).await else {
        return;
    };
    let (pulled, _) = pull(&cx, &images.unreachable, &CancellationToken::new()).await;
    refused(pulled, Unavailable);
}

pub async fn a_pull_ends_within_a_second_of_its_cancellation(cx: Context) {
    let Some(images) = images_of(&cx).await else {
        return;
    };
    let cancel = CancellationToken::new();
    cancel.cancel();
    let pull = pull(&cx, &images.unreachable, &cancel);
    let ended = tokio::time::timeout(Duration::from_secs(1), pull).await;
    refused(ended.expect("it went on for a second").0, Cancelled);
}
