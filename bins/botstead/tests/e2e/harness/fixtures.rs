//! Images, and registries that serve them well or badly.

use botstead_image_fixtures::{
    Compression, Fault, FaultyRegistry, Image, Registry, busybox, random,
};
use serde_json::json;
use std::path::Path;
use std::sync::OnceLock;
use tokio::runtime::Runtime;

/// Runs what needs a tokio runtime; tests themselves are plain functions.
pub(crate) fn run_async<T>(work: impl Future<Output = T>) -> T {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| Runtime::new().unwrap()).block_on(work)
}

pub(crate) fn busybox_image() -> Image {
    busybox(
        Path::new("/bin/busybox"),
        &[Compression::Gzip, Compression::Zstd],
    )
    .unwrap()
}

/// The same with a user who is not root.
pub(crate) fn image_for_user() -> Image {
    let mut image = Image::builder()
        .config("User", json!("bot"))
        .config("Env", json!(["FROM_IMAGE=yes"]));
    for layer in busybox_image().layers {
        image = image.layer(layer);
    }
    image.build()
}

/// An image that is too large to be pulled in one read.
pub(crate) fn slow_image() -> Image {
    random(2, 4 << 20, 7, Compression::Gzip).unwrap()
}

pub(crate) fn faulty(image: &Image, fault: Fault) -> FaultyRegistry {
    run_async(FaultyRegistry::start(image, fault)).unwrap()
}

/// A real registry with an image, and the image's reference.
pub(crate) fn registry(image: &Image) -> (Registry, String) {
    let registry = Registry::start().unwrap();
    run_async(registry.push("e2e/busybox", "1", image)).unwrap();
    let reference = registry.reference("e2e/busybox", "1");
    (registry, reference)
}
