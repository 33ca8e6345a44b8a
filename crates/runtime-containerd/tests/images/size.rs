//! Images that are larger than what is taken.

use crate::support::{Containerd, pull, quick};
use botstead_image_fixtures::{
    Compression, Image, Layer, LayerBuilder, Registry, digest_of, oci_archive,
};
use botstead_runtime::{ErrorKind, Images, Result};
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

/// A layer that says it is of this compression.
fn claimed(tar: Vec<u8>, blob: Vec<u8>, compression: Compression) -> Layer {
    Layer {
        digest: digest_of(&blob),
        diff_id: digest_of(&tar),
        blob: blob.into(),
        tar: tar.into(),
        compression,
    }
}

/// A file of 64 MiB of which a tar file holds 512 bytes.
fn sparse() -> Layer {
    let mut tar = tar::Builder::new(Vec::new());
    let real = (64 << 20).to_string();
    let records = [
        ("GNU.sparse.major", "1"),
        ("GNU.sparse.minor", "0"),
        ("GNU.sparse.name", "zeros"),
        ("GNU.sparse.realsize", &real),
    ];
    let records = records.map(|(key, value)| (key, value.as_bytes()));
    tar.append_pax_extensions(records).unwrap();
    // One piece of data, empty, at the end.
    let mut map = format!("1\n{real}\n0\n").into_bytes();
    map.resize(512, 0);
    let mut header = tar::Header::new_ustar();
    header.set_mode(0o644);
    header.set_size(512);
    tar.append_data(&mut header, "GNUSparseFile.0/zeros", map.as_slice())
        .unwrap();
    let tar = tar.into_inner().unwrap();
    claimed(tar.clone(), tar, Compression::None)
}

/// Imports an image as an archive, which reads the same documents as a pull.
async fn import(containerd: &Containerd, limits: ImageLimits, image: &Image) -> Result<()> {
    let mut archive = tempfile::NamedTempFile::new().unwrap();
    let mut bytes = Vec::new();
    oci_archive(&mut bytes, &[(Some("example.org/a:1"), image)], None).unwrap();
    archive.write_all(&bytes).unwrap();
    let images = containerd.images_with(RegistryConfig { limits, ..quick() });
    let lease = containerd.lease("import").await;
    let cancel = CancellationToken::new();
    let imported = images.import(&lease, archive.path(), None, &cancel).await;
    containerd.end(&lease).await;
    imported.map(|_| ())
}

#[tokio::test(flavor = "multi_thread")]
async fn layers_that_become_more_than_they_say_are_refused() {
    let containerd = Containerd::start().await;
    let registry = Registry::start().unwrap();
    let zeros = LayerBuilder::new().file("zeros", 0o644, vec![0; 64 << 20]);
    let zstd = zeros.build(Compression::Zstd).unwrap();
    let zstd = claimed(zstd.tar.into(), zstd.blob.into(), Compression::Gzip);
    let unpacked_bytes = 32 << 20;
    let limits = ImageLimits {
        unpacked_bytes,
        ..ImageLimits::default()
    };
    for (name, layer) in [("type", zstd), ("sparse", sparse())] {
        // Not even the most of gzip would be too large.
        assert!((layer.blob.len() as u64) < unpacked_bytes / 1032, "{name}");
        let image = Image::builder().layer(layer).build();
        let reference = registry.push(name, "1", &image).await.unwrap();
        let lease = containerd.lease("pull").await;
        let images = containerd.images_with(RegistryConfig { limits, ..quick() });
        let error = pull(&images, &lease, &reference).await.expect_err(name);
        assert_eq!(error.kind(), ErrorKind::TooLarge, "{name}: {error}");
        containerd.end(&lease).await;
        let error = import(&containerd, limits, &image).await.expect_err(name);
        assert_eq!(error.kind(), ErrorKind::TooLarge, "{name}: {error}");
        containerd.assert_empty().await;
        // containerd itself takes it.
        import(&containerd, ImageLimits::default(), &image)
            .await
            .unwrap();
        let images = containerd.images();
        let imported = "example.org/a:1".parse().unwrap();
        images.delete(&imported).await.unwrap();
        containerd.collect().await;
        containerd.assert_empty().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn layers_with_a_wide_window_are_measured_as_well() {
    let containerd = Containerd::start().await;
    let layer = LayerBuilder::new().file("zeros", 0o644, vec![0; 20 << 20]);
    let tar: Vec<u8> = layer.build(Compression::None).unwrap().tar.into();
    let mut zstd = zstd::Encoder::new(Vec::new(), 3).unwrap();
    zstd.window_log(27).unwrap();
    zstd.write_all(&tar).unwrap();
    let layer = claimed(tar, zstd.finish().unwrap(), Compression::Zstd);
    let image = Image::builder().layer(layer).build();
    for (unpacked_bytes, fits) in [(10 << 20, false), (30 << 20, true)] {
        let limits = ImageLimits {
            unpacked_bytes,
            ..ImageLimits::default()
        };
        match import(&containerd, limits, &image).await {
            Ok(()) => assert!(fits),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::TooLarge, "{error}");
                assert!(!fits);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_that_is_here_must_have_the_size_that_a_manifest_says() {
    let containerd = Containerd::start().await;
    let registry = Registry::start().unwrap();
    let layer = LayerBuilder::new().random_file("a", 1 << 20, 1);
    let layer = layer.build(Compression::Gzip).unwrap();
    let size = format!("\"size\":{}", layer.blob.len());
    let honest = Image::builder().layer(layer).build();
    let mut lying = honest.clone();
    let manifest = String::from_utf8(lying.manifest.to_vec()).unwrap();
    assert!(manifest.contains(&size), "{manifest}");
    lying.manifest = manifest.replace(&size, "\"size\":1").into();

    let lease = containerd.lease("pull").await;
    let images = containerd.images();
    let reference = registry.push("honest", "1", &honest).await.unwrap();
    pull(&images, &lease, &reference).await.unwrap();
    let reference = registry.push("lying", "1", &lying).await.unwrap();
    let error = pull(&images, &lease, &reference).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    let limits = ImageLimits::default();
    let error = import(&containerd, limits, &lying).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    import(&containerd, limits, &honest).await.unwrap();
}
