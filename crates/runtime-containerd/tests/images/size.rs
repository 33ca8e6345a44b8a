//! Images that are larger than what is taken.

use crate::support::{Containerd, pull, quick};
use botstead_image_fixtures::{Compression, Image, LayerBuilder, Registry, oci_archive};
use botstead_runtime::{ErrorKind, Images};
use botstead_runtime_containerd::images::{ImageLimits, RegistryConfig};
use serde_json::json;
use std::io::Write;
use tokio_util::sync::CancellationToken;

/// Two layers of which the second is small and becomes 64 MiB.
fn bomb(compression: Compression) -> Image {
    let base = LayerBuilder::new().dir("etc", 0o755);
    let zeros = LayerBuilder::new().file("zeros", 0o644, vec![0; 64 << 20]);
    Image::builder()
        .layer(base.build(Compression::Gzip).unwrap())
        .layer(zeros.build(compression).unwrap())
        .config("Labels", json!({"long": "x".repeat(8 << 10)}))
        .build()
}

#[tokio::test(flavor = "multi_thread")]
async fn images_that_are_too_large_are_refused_by_name_and_leave_nothing() {
    let containerd = Containerd::start().await;
    let registry = Registry::start().unwrap();
    let (gzip, zstd) = (bomb(Compression::Gzip), bomb(Compression::Zstd));
    let compressed = gzip.layers_size();
    assert!(compressed < 1 << 20, "{compressed}");
    registry.push("gzip", "1", &gzip).await.unwrap();
    registry.push("zstd", "1", &zstd).await.unwrap();
    let usual = ImageLimits::default();
    for (app, limits, key) in [
        ("gzip", ImageLimits { layers: 1, ..usual }, "max_layers"),
        (
            "gzip",
            ImageLimits {
                layer_bytes: compressed / 2,
                ..usual
            },
            "max_layer_bytes",
        ),
        (
            "gzip",
            ImageLimits {
                bytes: compressed - 1,
                ..usual
            },
            "max_bytes",
        ),
        (
            "gzip",
            ImageLimits {
                config_bytes: 4 << 10,
                ..usual
            },
            "max_config_bytes",
        ),
        (
            "gzip",
            ImageLimits {
                unpacked_bytes: 32 << 20,
                ..usual
            },
            "max_unpacked_bytes",
        ),
        (
            "zstd",
            ImageLimits {
                unpacked_bytes: 32 << 20,
                ..usual
            },
            "max_unpacked_bytes",
        ),
    ] {
        let config = RegistryConfig { limits, ..quick() };
        let lease = containerd.lease("large").await;
        let name = registry.reference(app, "1");
        let error = pull(&containerd.images_with(config.clone()), &lease, &name)
            .await
            .expect_err(key);
        assert_eq!(error.kind(), ErrorKind::TooLarge, "{key}: {error}");
        assert!(
            error.to_string().contains(&format!("images.{key}")),
            "{error}"
        );
        containerd.end(&lease).await;
        containerd.assert_empty().await;

        // The same as an archive.
        let image = if app == "gzip" { &gzip } else { &zstd };
        let mut archive = tempfile::NamedTempFile::new().unwrap();
        let mut bytes = Vec::new();
        oci_archive(&mut bytes, &[(Some(&name), image)], None).unwrap();
        archive.write_all(&bytes).unwrap();
        let lease = containerd.lease("import").await;
        let images = containerd.images_with(config);
        let cancel = CancellationToken::new();
        let imported = images.import(&lease, archive.path(), None, &cancel).await;
        let error = imported.expect_err(key);
        assert_eq!(error.kind(), ErrorKind::TooLarge, "{key}: {error}");
        containerd.end(&lease).await;
        containerd.assert_empty().await;
    }
    // Just enough, measured and not.
    for unpacked_bytes in [65 << 20, usual.unpacked_bytes] {
        let limits = ImageLimits {
            unpacked_bytes,
            ..usual
        };
        let config = RegistryConfig { limits, ..quick() };
        let lease = containerd.lease("fits").await;
        let images = containerd.images_with(config);
        for app in ["gzip", "zstd"] {
            let name = registry.reference(app, "1");
            pull(&images, &lease, &name).await.unwrap();
            images.delete(&name.parse().unwrap()).await.unwrap();
        }
        containerd.end(&lease).await;
        containerd.assert_empty().await;
    }
}
