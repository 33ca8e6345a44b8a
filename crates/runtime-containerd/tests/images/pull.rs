//! Pulling from real and from faulty registries into a real containerd.

use crate::support::{Containerd, busybox, pull, quick};
use botstead_image_fixtures::{
    Compression, Fault, FaultyRegistry, Image, Index, LayerBuilder, MediaTypes, Registry, random,
};
use botstead_runtime::{Credentials, ErrorKind, Images, PullProgress};
use botstead_runtime_containerd::images::RegistryConfig;
use botstead_types::{ImageRef, PageRequest};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Far longer than what ends by itself takes, and far shorter than a registry here would go on.
const LONG: Duration = Duration::from_secs(300);

#[tokio::test(flavor = "multi_thread")]
async fn an_image_of_gzip_zstd_and_plain_layers_is_pulled_kept_and_freed() {
    let containerd = Containerd::start().await;
    let images = containerd.images();
    let image = busybox();
    let registry = Registry::start().unwrap();
    let name = registry.push("team/app", "1", &image).await.unwrap();
    let reference: ImageRef = name.parse().unwrap();
    assert!(images.get(&reference).await.unwrap_err().is_not_found());

    let lease = containerd.lease("pull").await;
    let (pulled, progress) = pull(&images, &lease, &name).await.unwrap();
    assert_eq!(pulled.resolved.digest, image.digest());
    assert_eq!(pulled.resolved.config.working_dir, "/data");
    assert_eq!(pulled.size_bytes, image.layers_size());
    assert_eq!(progress.layers.len(), 3);
    for (layer, expected) in progress.layers.iter().zip(&image.layers) {
        assert_eq!(layer.digest, expected.digest);
        assert_eq!(
            (layer.offset, layer.total),
            (layer.total, expected.blob.len() as u64)
        );
    }
    let key = images.unpack(&lease, &reference).await.unwrap();

    // The name alone keeps everything.
    containerd.end(&lease).await;
    let (blobs, snapshots, ingests) = containerd.inventory().await;
    assert_eq!(blobs.len(), 5, "{blobs:?}");
    assert_eq!(snapshots.len(), 3, "{snapshots:?}");
    assert!(snapshots.contains(&key.as_str().to_owned()));
    assert!(ingests.is_empty());
    assert_eq!(images.get(&reference).await.unwrap(), pulled);
    let listed = images.list(&PageRequest::default()).await.unwrap().items;
    assert_eq!(listed, std::slice::from_ref(&pulled));

    // Without the registry everything local still works, also for a fresh process.
    drop(registry);
    let fresh = containerd.images();
    assert_eq!(fresh.get(&reference).await.unwrap(), pulled);
    let lease = containerd.lease("unpack").await;
    assert_eq!(fresh.unpack(&lease, &reference).await.unwrap(), key);
    containerd.end(&lease).await;

    images.delete(&reference).await.unwrap();
    assert!(images.delete(&reference).await.unwrap_err().is_not_found());
    containerd.collect().await;
    containerd.assert_empty().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_without_platforms_is_taken_for_what_its_images_say() {
    let containerd = Containerd::start().await;
    let images = containerd.images();
    let registry = Registry::start().unwrap();
    let other = Image::builder().architecture("mips").layer(
        LayerBuilder::new()
            .file("other", 0o644, "")
            .build(Compression::Gzip)
            .unwrap(),
    );
    let ours = busybox();
    let index = Index::new(MediaTypes::Oci, vec![other.build(), ours.clone()]);
    let index = index.changed(|entry| {
        entry["platform"].take();
    });
    let name = registry.push("multi", "1", &index).await.unwrap();
    let lease = containerd.lease("pull").await;
    let (pulled, _) = pull(&images, &lease, &name).await.unwrap();
    assert_eq!(pulled.resolved.digest, index.digest());
    assert_eq!(pulled.size_bytes, ours.layers_size());
    containerd.end(&lease).await;
    // Beside a digest a tag must be there, though it may mean something else.
    let (repository, _) = name.rsplit_once(':').unwrap();
    let lease = containerd.lease("pull").await;
    let wrong = format!("{repository}:none@{}", index.digest());
    let error = pull(&images, &lease, &wrong).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains("no tag \"none\""), "{error}");
    let moved = registry.push("multi", "2", &ours).await.unwrap();
    let moved = format!("{moved}@{}", index.digest());
    let (pulled, _) = pull(&images, &lease, &moved).await.unwrap();
    assert_eq!(pulled.resolved.digest, index.digest());
    images.delete(&moved.parse().unwrap()).await.unwrap();
    containerd.end(&lease).await;
    // What it holds for this machine is local by its own digest, and so is the index, without a registry.
    drop(registry);
    for digest in [index.digest(), ours.digest()] {
        let reference: ImageRef = format!("{repository}@{digest}").parse().unwrap();
        let fresh = containerd.images();
        let local = fresh.get(&reference).await.unwrap();
        assert_eq!(local.resolved.digest, digest);
        let lease = containerd.lease("unpack").await;
        fresh.unpack(&lease, &reference).await.unwrap();
        containerd.end(&lease).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn layers_are_applied_with_their_whiteouts_and_owners() {
    let containerd = Containerd::start().await;
    let images = containerd.images();
    let registry = Registry::start().unwrap();
    let name = registry.push("app", "1", &busybox()).await.unwrap();
    let lease = containerd.lease("pull").await;
    pull(&images, &lease, &name).await.unwrap();
    // The snapshotter numbers its directories in order of preparation.
    let top = containerd.snapshot_dirs().join("3/fs");
    use std::os::unix::fs::{FileTypeExt, MetadataExt};
    let whiteout = std::fs::symlink_metadata(top.join("removed/by-whiteout")).unwrap();
    assert!(whiteout.file_type().is_char_device());
    assert_eq!(
        std::fs::read(top.join("etc/motd")).unwrap(),
        b"third layer\n"
    );
    let home = containerd.snapshot_dirs().join("1/fs/home/bot");
    assert_eq!(std::fs::metadata(home).unwrap().uid(), 1000);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_gives_the_image_for_this_machine() {
    let containerd = Containerd::start().await;
    let images = containerd.images();
    let registry = Registry::start().unwrap();
    for (types, tag) in [(MediaTypes::Oci, "oci"), (MediaTypes::Docker, "docker")] {
        let layer = |text: &str| {
            LayerBuilder::new()
                .file("which", 0o644, text)
                .build(Compression::Gzip)
                .unwrap()
        };
        let other = Image::builder()
            .architecture("mips")
            .media_types(types)
            .layer(layer("other"))
            .build();
        let ours = Image::builder()
            .media_types(types)
            .layer(layer("ours"))
            .build();
        let index = Index::new(types, vec![other.clone(), ours.clone()]);
        let name = registry.push("multi", tag, &index).await.unwrap();
        let lease = containerd.lease(tag).await;
        let (pulled, progress) = pull(&images, &lease, &name).await.unwrap();
        containerd.end(&lease).await;
        assert_eq!(pulled.resolved.digest, index.digest());
        assert_eq!(progress.layers[0].digest, ours.layers[0].digest);
        let found = containerd
            .images()
            .get(&name.parse().unwrap())
            .await
            .unwrap();
        assert_eq!(found, pulled);

        let foreign = Index::new(types, vec![other]);
        let name = registry.push("foreign", tag, &foreign).await.unwrap();
        let lease = containerd.lease("foreign").await;
        let error = pull(&images, &lease, &name).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
        containerd.end(&lease).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_moved_tag_is_followed_and_known_layers_are_not_downloaded_again() {
    let containerd = Containerd::start().await;
    let images = containerd.images();
    let first = random(2, 2 << 20, 1, Compression::None).unwrap();
    let mut builder = Image::builder();
    for layer in &first.layers {
        builder = builder.layer(layer.clone());
    }
    let added = LayerBuilder::new().file("new", 0o644, "x");
    let second = builder
        .layer(added.build(Compression::Zstd).unwrap())
        .build();

    let registry = Registry::start().unwrap();
    let name = registry.push("app", "latest", &first).await.unwrap();
    let lease = containerd.lease("one").await;
    let (one, _) = pull(&images, &lease, &name).await.unwrap();
    containerd.end(&lease).await;
    registry.push("app", "latest", &second).await.unwrap();
    let lease = containerd.lease("two").await;
    let (two, _) = pull(&images, &lease, &name).await.unwrap();
    containerd.end(&lease).await;
    assert_ne!(one.resolved.digest, two.resolved.digest);
    let now = images.get(&name.parse().unwrap()).await.unwrap();
    assert_eq!(now.resolved.digest, second.digest());

    // The other registry serves the same layers and counts what it is asked for.
    let counting = FaultyRegistry::start(&second, Fault::None).await.unwrap();
    let lease = containerd.lease("three").await;
    let (_, progress) = pull(&images, &lease, &counting.reference("app"))
        .await
        .unwrap();
    containerd.end(&lease).await;
    assert_eq!(counting.blob_requests(), 0);
    assert!(
        progress
            .layers
            .iter()
            .all(|layer| layer.offset == layer.total)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn pulls_of_the_same_layers_at_once_all_succeed() {
    let containerd = Containerd::start().await;
    let image = random(3, 4 << 20, 2, Compression::Gzip).unwrap();
    let registry = FaultyRegistry::start(&image, Fault::None).await.unwrap();
    let images = std::sync::Arc::new(containerd.images());
    let mut pulls = tokio::task::JoinSet::new();
    for number in 0..6 {
        let lease = containerd.lease(&format!("same-{number}")).await;
        let name = registry.reference(&format!("app-{}", number % 3));
        let images = std::sync::Arc::clone(&images);
        pulls.spawn(async move { pull(&images, &lease, &name).await.map(|_| lease) });
    }
    for result in pulls.join_all().await {
        containerd.end(&result.unwrap()).await;
    }
    assert_eq!(registry.blob_requests(), 3);
    let listed = images.list(&PageRequest::default()).await.unwrap().items;
    assert_eq!(listed.len(), 3);
    let (_, snapshots, ingests) = containerd.inventory().await;
    assert_eq!((snapshots.len(), ingests.len()), (3, 0), "{snapshots:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_pull_of_a_hung_registry_ends_at_once_and_leaves_nothing() {
    let containerd = Containerd::start().await;
    let images = containerd.images();
    let image = random(2, 3 << 20, 3, Compression::None).unwrap();
    for fault in [Fault::HangBlob, Fault::HangAll] {
        let registry = FaultyRegistry::start(&image, fault).await.unwrap();
        let reference: ImageRef = registry.reference("app").parse().unwrap();
        let lease = containerd.lease("hung").await;
        let (sender, mut receiver) = watch::channel(PullProgress::default());
        let cancel = CancellationToken::new();
        let stop = cancel.clone();
        let pulling = images.pull(&lease, &reference, &sender, &cancel);
        let stopping = async {
            if fault == Fault::HangBlob {
                let begun = |p: &PullProgress| p.layers.iter().any(|layer| layer.offset > 0);
                receiver.wait_for(begun).await.unwrap();
                // No pull holds its documents while layers come.
                let (stored, _, _) = containerd.inventory().await;
                assert!(stored.contains(&image.digest()), "{stored:?}");
                assert_eq!(stored.len(), 2, "manifest and configuration");
            } else {
                tokio::time::sleep(Duration::from_millis(300)).await;
            }
            stop.cancel();
            Instant::now()
        };
        let (result, asked) = tokio::join!(pulling, stopping);
        assert_eq!(result.unwrap_err().kind(), ErrorKind::Cancelled);
        assert!(asked.elapsed() < Duration::from_secs(1), "{fault:?}");
        containerd.end(&lease).await;
        assert!(images.get(&reference).await.unwrap_err().is_not_found());
        // The server's side of the dropped write may end a moment later.
        tokio::time::sleep(Duration::from_millis(300)).await;
        containerd.collect().await;
        containerd.assert_empty().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_registry_holds_up_nobody_who_pulls_the_same_elsewhere() {
    let containerd = Containerd::start().await;
    // Nothing ends the slow download while the other one goes on.
    let images = containerd.images_with(RegistryConfig {
        read_timeout: Duration::from_secs(3600),
        ..quick()
    });
    let image = random(2, 3 << 20, 7, Compression::None).unwrap();
    let slow = FaultyRegistry::start(&image, Fault::HangBlob)
        .await
        .unwrap();
    let good = FaultyRegistry::start(&image, Fault::None).await.unwrap();
    let (of_slow, of_good) = (
        containerd.lease("slow").await,
        containerd.lease("good").await,
    );
    let (sender, mut receiver) = watch::channel(PullProgress::default());
    let reference: ImageRef = slow.reference("app").parse().unwrap();
    let cancel = CancellationToken::new();
    let hung = images.pull(&of_slow, &reference, &sender, &cancel);
    let other = async {
        let begun = |p: &PullProgress| p.layers.iter().all(|layer| layer.offset > 0);
        receiver
            .wait_for(|p| !p.layers.is_empty() && begun(p))
            .await
            .unwrap();
        let (good, lease) = (good.reference("app"), of_good.clone());
        let pulled = tokio::time::timeout(LONG, pull(&images, &lease, &good));
        pulled.await.unwrap().unwrap();
        cancel.cancel();
    };
    let (hung, ()) = tokio::join!(hung, other);
    assert_eq!(hung.unwrap_err().kind(), ErrorKind::Cancelled);
    assert!(
        images
            .get(&good.reference("app").parse().unwrap())
            .await
            .is_ok()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_that_comes_too_slowly_ends_and_the_waiting_ones_go_on() {
    let containerd = Containerd::start().await;
    let image = random(1, 3 << 20, 8, Compression::None).unwrap();
    let config = |attempts| RegistryConfig {
        read_timeout: Duration::from_secs(1),
        attempts,
        ..quick()
    };
    // For ever: an error, and every byte came in time.
    let registry = FaultyRegistry::start(&image, Fault::TrickleBlob(usize::MAX))
        .await
        .unwrap();
    let lease = containerd.lease("slow").await;
    let (images, app) = (containerd.images_with(config(1)), registry.reference("app"));
    let slow = tokio::time::timeout(LONG, pull(&images, &lease, &app)).await;
    let error = slow.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(
        error.to_string().contains("sends less than 64 KiB in 1 s"),
        "{error}"
    );
    containerd.end(&lease).await;

    // Once: both pulls of it are done before that download would be.
    let registry = FaultyRegistry::start(&image, Fault::TrickleBlob(1))
        .await
        .unwrap();
    let images = containerd.images_with(config(2));
    let (one, two) = (containerd.lease("one").await, containerd.lease("two").await);
    let (one_app, two_app) = (registry.reference("one"), registry.reference("two"));
    let both = async { tokio::join!(pull(&images, &one, &one_app), pull(&images, &two, &two_app)) };
    let both = tokio::time::timeout(LONG, both).await.unwrap();
    both.0.unwrap();
    both.1.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_download_goes_on_where_it_broke() {
    let containerd = Containerd::start().await;
    let image = random(1, 8 << 20, 4, Compression::None).unwrap();
    let registry = FaultyRegistry::start(&image, Fault::CutBlob(2))
        .await
        .unwrap();
    let lease = containerd.lease("cut").await;
    pull(&containerd.images(), &lease, &registry.reference("app"))
        .await
        .unwrap();
    containerd.end(&lease).await;
    assert_eq!(registry.blob_requests(), 3);
    assert_eq!(registry.range_requests(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fails_for_a_while_is_tried_again() {
    let containerd = Containerd::start().await;
    let image = busybox();
    let registry = FaultyRegistry::start(&image, Fault::ServerError(2))
        .await
        .unwrap();
    let lease = containerd.lease("later").await;
    pull(&containerd.images(), &lease, &registry.reference("app"))
        .await
        .unwrap();
    containerd.end(&lease).await;

    let registry = FaultyRegistry::start(&image, Fault::ServerError(99))
        .await
        .unwrap();
    let lease = containerd.lease("never").await;
    let name = registry.reference("broken");
    let error = pull(&containerd.images(), &lease, &name).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_failure_has_its_kind_and_leaves_nothing() {
    let containerd = Containerd::start().await;
    let images = containerd.images();
    let image = random(1, 3 << 20, 5, Compression::None).unwrap();
    for (fault, kind) in [
        (Fault::WrongBlob, ErrorKind::Corrupt),
        (Fault::WrongManifest, ErrorKind::Corrupt),
        (Fault::ShortBlob, ErrorKind::Corrupt),
        (Fault::LongBlob, ErrorKind::Corrupt),
        (Fault::EndlessManifest, ErrorKind::Corrupt),
        (Fault::NotFound, ErrorKind::NotFound),
        (Fault::Unauthorized, ErrorKind::PermissionDenied),
    ] {
        let registry = FaultyRegistry::start(&image, fault).await.unwrap();
        let lease = containerd.lease("failing").await;
        let error = pull(&images, &lease, &registry.reference("app"))
            .await
            .expect_err(&format!("{fault:?} was accepted"));
        assert_eq!(error.kind(), kind, "{fault:?}: {}", error.chain());
        containerd.end(&lease).await;
        containerd.assert_empty().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_image_and_an_unreachable_registry_are_told_apart() {
    let containerd = Containerd::start().await;
    let images = containerd.images();
    let registry = Registry::start().unwrap();
    let lease = containerd.lease("missing").await;
    let missing = registry.reference("nothing", "here");
    let error = pull(&images, &lease, &missing).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(
        error.to_string().ends_with("the registry does not have it"),
        "{error}"
    );
    drop(registry);
    let error = pull(&images, &lease, &missing).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    let error = images
        .unpack(&lease, &missing.parse().unwrap())
        .await
        .unwrap_err();
    assert!(error.is_not_found());
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_http_is_spoken_where_it_is_configured() {
    let containerd = Containerd::start().await;
    let registry = Registry::start().unwrap();
    registry.push("app", "1", &busybox()).await.unwrap();
    // Linux takes a connection to 0.0.0.0 to this machine.
    let port = registry.address().rsplit(':').next().unwrap().to_owned();
    let named = format!("0.0.0.0:{port}");
    let reference = format!("{named}/app:1");
    let lease = containerd.lease("plain").await;
    let error = pull(&containerd.images(), &lease, &reference)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotAllowed, "{error}");
    let mut config = quick();
    config.plain_http.push(named.parse().unwrap());
    pull(&containerd.images_with(config), &lease, &reference)
        .await
        .unwrap();
    containerd.end(&lease).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn foreign_layers_and_lying_configurations_are_refused() {
    let containerd = Containerd::start().await;
    let images = containerd.images();
    let layer = || {
        LayerBuilder::new()
            .file("a", 0o644, "a")
            .build(Compression::Gzip)
            .unwrap()
    };
    let foreign = Image::builder()
        .layer(layer())
        .layer_url("https://example.invalid/layer")
        .build();
    let mut lying = layer();
    lying.diff_id = format!("sha256:{}", "0".repeat(64));
    let lying = Image::builder().layer(lying).build();
    for (image, kind) in [
        (foreign, ErrorKind::InvalidArgument),
        (lying, ErrorKind::Corrupt),
    ] {
        let registry = FaultyRegistry::start(&image, Fault::None).await.unwrap();
        let lease = containerd.lease("refused").await;
        let error = pull(&images, &lease, &registry.reference("app"))
            .await
            .unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        containerd.end(&lease).await;
        containerd.assert_empty().await;
    }
}

/// Another image may say of any content that it makes the same layer, and is refused when that is unpacked.
#[tokio::test(flavor = "multi_thread")]
async fn a_false_diff_id_does_not_hold_up_the_true_layer() {
    let containerd = Containerd::start().await;
    let images = Arc::new(containerd.images());
    let large = LayerBuilder::new().file("zeros", 0o644, vec![0; 192 << 20]);
    let large = large.build(Compression::Zstd).unwrap();
    let mut first_of_both = false;
    // Where the machine stood still the large one may have been faster.
    for round in 0..3 {
        let layer = LayerBuilder::new().random_file("a", 100, round);
        let layer = layer.build(Compression::Gzip).unwrap();
        let mut lying = large.clone();
        lying.diff_id.clone_from(&layer.diff_id);
        let [honest, lying] = [layer, lying].map(|layer| Image::builder().layer(layer).build());
        let honest = FaultyRegistry::start(&honest, Fault::None).await.unwrap();
        let lying = FaultyRegistry::start(&lying, Fault::None).await.unwrap();
        let leases = [
            containerd.lease("lying").await,
            containerd.lease("honest").await,
        ];
        let (pulls, lease, name) = (
            Arc::clone(&images),
            leases[0].clone(),
            lying.reference("app"),
        );
        let refused = tokio::spawn(async move { pull(&pulls, &lease, &name).await });
        let unpacking = async || {
            let (_, snapshots, _) = containerd.inventory().await;
            snapshots.iter().any(|name| name.starts_with("extract-"))
        };
        while !refused.is_finished() && !unpacking().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        pull(&images, &leases[1], &honest.reference("app"))
            .await
            .unwrap();
        first_of_both |= !refused.is_finished();
        assert_eq!(
            refused.await.unwrap().unwrap_err().kind(),
            ErrorKind::Corrupt
        );
        for lease in &leases {
            containerd.end(lease).await;
        }
    }
    assert!(first_of_both);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_wants_a_sign_in_gets_the_configured_one() {
    let containerd = Containerd::start().await;
    let image = busybox();
    for fault in [Fault::BasicSignIn, Fault::TokenSignIn] {
        let registry = FaultyRegistry::start(&image, fault).await.unwrap();
        let name = registry.reference("private");
        let lease = containerd.lease("sign-in").await;
        let mut config = quick();
        for (password, works) in [
            (None, false),
            (Some("wrong"), false),
            (Some("secret"), true),
        ] {
            config.credentials = password
                .map(|password| Credentials::Password {
                    username: "bot".into(),
                    password: password.into(),
                })
                .map(|credentials| (registry.address(), credentials))
                .into_iter()
                .collect();
            let images = containerd.images_with(config.clone());
            match pull(&images, &lease, &name).await {
                Ok(_) => assert!(works, "{fault:?} took {password:?}"),
                Err(error) => {
                    assert!(!works, "{fault:?}: {}", error.chain());
                    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
                    assert!(!error.chain().contains("secret"));
                }
            }
        }
        containerd.end(&lease).await;
    }
}
