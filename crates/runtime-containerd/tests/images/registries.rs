//! What is configured for each registry: sign-ins from a file.

use crate::support::{Containerd, busybox, pull, quick};
use botstead_image_fixtures::{Access, Registry};
use botstead_runtime::ErrorKind;
use botstead_runtime_containerd::images::{ContainerdImages, RegistryConfig};
use serde_json::{Value, json};
use std::path::Path;

/// `bot:wrong` in base64.
const WRONG: &str = "Ym90Ondyb25n";

fn write(path: &Path, auths: Value) {
    std::fs::write(path, json!({"auths": auths}).to_string()).unwrap();
}

/// Fails unless a pull is refused for want of a sign-in, without a word of one.
async fn assert_refused(containerd: &Containerd, images: &ContainerdImages, name: &str) {
    let lease = containerd.lease("refused").await;
    let error = pull(images, &lease, name).await.unwrap_err();
    let told = error.chain();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{told}");
    for secret in [Registry::PASSWORD, "wrong", Registry::AUTH, WRONG] {
        assert!(!told.contains(secret), "{told}");
    }
    containerd.end(&lease).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sign_in_comes_from_the_file_as_it_is_at_the_time_of_the_pull() {
    let containerd = Containerd::start().await;
    let access = Access {
        sign_in: true,
        ..Access::default()
    };
    let registry = Registry::start_with(access).unwrap();
    let name = registry.push("team/app", "1", &busybox()).await.unwrap();
    let host = registry.address();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.json");
    write(&file, json!({}));
    let config = RegistryConfig {
        credentials_file: Some(file.clone()),
        ..quick()
    };
    let images = containerd.images_with(config);
    let (right, wrong) = (json!({"auth": Registry::AUTH}), json!({"auth": WRONG}));
    for (auths, works) in [
        (json!({}), false),
        (json!({&host: &wrong}), false),
        (json!({&host: &right}), true),
        // The longest place decides, and a place of others does not.
        (
            json!({&host: &right, format!("{host}/team"): &wrong}),
            false,
        ),
        (json!({&host: &right, format!("{host}/te"): &wrong}), true),
        (
            json!({format!("{host}/team/app"): &right, &host: &wrong}),
            true,
        ),
        (json!({format!("http://{host}/v1/"): &right}), true),
    ] {
        write(&file, auths.clone());
        if works {
            let lease = containerd.lease("works").await;
            let pulled = pull(&images, &lease, &name).await;
            assert!(pulled.is_ok(), "{auths}: {}", pulled.unwrap_err().chain());
            containerd.end(&lease).await;
        } else {
            assert_refused(&containerd, &images, &name).await;
        }
    }
    // While the file is half written, what was there before holds.
    std::fs::write(&file, "{\"auths\"").unwrap();
    let lease = containerd.lease("half").await;
    pull(&images, &lease, &name).await.unwrap();
    containerd.end(&lease).await;
    std::fs::remove_file(&file).unwrap();
    assert_refused(&containerd, &images, &name).await;
}
