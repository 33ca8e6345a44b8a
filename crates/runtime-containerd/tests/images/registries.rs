//! What is configured for each registry: sign-ins from a file, mirrors, and certificate
//! authorities.

use crate::support::{Containerd, busybox, pull, quick};
use botstead_image_fixtures::{
    Access, Authority, Compression, Fault, FaultyRegistry, Image, Registry, digest_of, random,
};
use botstead_runtime::{
    Credentials, ErrorKind, Registries, RegistrySettings, RegistrySource, SignedInBy,
};
use botstead_runtime_containerd::images::{
    Authorities, ContainerdImages, HostPattern, RegistryConfig,
};
use botstead_types::RegistryName;
use serde_json::{Value, json};
use std::os::unix::fs::PermissionsExt;
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

/// A configuration in which these are asked before a registry.
fn mirrored(registry: &str, mirrors: &[String]) -> RegistryConfig {
    let mirrors = mirrors.iter().map(|mirror| mirror.parse().unwrap());
    RegistryConfig {
        mirrors: [(registry.parse().unwrap(), mirrors.collect())].into(),
        ..quick()
    }
}

fn image(number: u64) -> Image {
    random(2, 64 << 10, number, Compression::None).unwrap()
}

/// The digest of what a name is, by these rules.
async fn pulled(containerd: &Containerd, config: RegistryConfig, name: &str) -> String {
    let lease = containerd.lease("mirrored").await;
    let images = containerd.images_with(config);
    let pulled = pull(&images, &lease, name).await;
    let (image, _) = pulled.unwrap_or_else(|error| panic!("{}", error.chain()));
    containerd.end(&lease).await;
    image.resolved.digest
}

#[tokio::test(flavor = "multi_thread")]
async fn mirrors_are_asked_in_order_and_the_registry_at_last() {
    let containerd = Containerd::start().await;
    let registries = [0, 1, 2].map(|_| Registry::start().unwrap());
    let [first, second, origin] = registries;
    let [one, two, three, of_all] = [1, 2, 3, 4].map(image);
    let name = origin.push("team/app", "1", &three).await.unwrap();
    second.push("hub/team/app", "1", &two).await.unwrap();
    let mirrors = [first.address(), format!("{}/hub", second.address())];
    let registry = origin.address();
    let config = || mirrored(&registry, &mirrors);
    // The first one does not have it.
    assert_eq!(pulled(&containerd, config(), &name).await, two.digest());
    first.push("team/app", "1", &one).await.unwrap();
    assert_eq!(pulled(&containerd, config(), &name).await, one.digest());
    // A digest is of the same everywhere.
    let exactly = origin.reference("team/app", &format!("1@{}", three.digest()));
    assert_eq!(
        pulled(&containerd, config(), &exactly).await,
        three.digest()
    );
    // Another registry's images are none of theirs.
    let elsewhere = Registry::start().unwrap();
    let other = elsewhere.push("team/app", "1", &of_all).await.unwrap();
    assert_eq!(pulled(&containerd, config(), &other).await, of_all.digest());
    // The origin need not be there at all, and a mirror neither.
    drop(origin);
    assert_eq!(pulled(&containerd, config(), &name).await, one.digest());
    drop(first);
    assert_eq!(pulled(&containerd, config(), &name).await, two.digest());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_that_fails_in_whatever_way_keeps_nobody_from_the_registry() {
    let containerd = Containerd::start().await;
    let origin = Registry::start().unwrap();
    for (number, fault) in (10..).zip([
        Fault::WrongBlob,
        Fault::WrongManifest,
        Fault::ShortBlob,
        Fault::LongBlob,
        Fault::CutBlob(100),
        Fault::ServerError(100),
        Fault::NotFound,
        Fault::Unauthorized,
        Fault::BasicSignIn,
        Fault::EndlessManifest,
    ]) {
        let image = image(number);
        let mirror = FaultyRegistry::start(&image, fault).await.unwrap();
        let name = origin.push("app", &number.to_string(), &image).await;
        let mut config = mirrored(&origin.address(), &[mirror.address()]);
        // The registry's sign-in is none of the mirror's.
        let credentials = Credentials::Password {
            username: "bot".into(),
            password: "secret".into(),
        };
        config.credentials.insert(origin.address(), credentials);
        let name = name.unwrap();
        let digest = pulled(&containerd, config, &name).await;
        assert_eq!(digest, image.digest(), "{fault:?}");
        assert_eq!(digest, digest_of(&image.manifest));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_is_reached_and_signed_in_at_by_its_own_rules() {
    let containerd = Containerd::start().await;
    let access = Access {
        sign_in: true,
        ..Access::default()
    };
    let mirror = Registry::start_with(access).unwrap();
    let origin = Registry::start().unwrap();
    let (theirs, ours) = (image(21), image(22));
    mirror.push("app", "1", &theirs).await.unwrap();
    let name = origin.push("app", "1", &ours).await.unwrap();
    let mut config = mirrored(&origin.address(), &[mirror.address()]);
    let credentials = Credentials::Password {
        username: Registry::USERNAME.into(),
        password: Registry::PASSWORD.into(),
    };
    config.credentials.insert(mirror.address(), credentials);
    let digest = pulled(&containerd, config.clone(), &name).await;
    assert_eq!(digest, theirs.digest());
    // Only the registry may be where it is.
    config.plain_http = vec![origin.address().parse().unwrap()];
    let digest = pulled(&containerd, config, &name).await;
    assert_eq!(digest, ours.digest());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_trusted_that_a_listed_authority_signed() {
    let containerd = Containerd::start().await;
    let [authority, stranger] = [0, 1].map(|_| Authority::new().unwrap());
    let access = Access {
        sign_in: true,
        authority: Some(&authority),
    };
    let registry = Registry::start_with(access).unwrap();
    let image = image(31);
    let name = registry.push("team/app", "1", &image).await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let read = |name: &str, authority: &Authority| {
        let path = dir.path().join(name);
        std::fs::write(&path, authority.pem()).unwrap();
        Authorities::read(&path).unwrap()
    };
    let ours = read("ours.pem", &authority);
    let others = read("others.pem", &stranger);
    let host = |text: &str| text.parse::<HostPattern>().unwrap();
    let (here, elsewhere) = (host(&registry.address()), host("127.0.0.1:1"));
    let any = host("127.0.0.1:*");
    let both = Authorities::read(dir.path()).unwrap();
    for (number, (of_all, of_host, works)) in [
        (None, None, false),
        (Some(&others), None, false),
        (Some(&ours), None, true),
        (Some(&both), None, true),
        (None, Some((&here, &ours)), true),
        (None, Some((&any, &both)), true),
        (None, Some((&here, &others)), false),
        (None, Some((&elsewhere, &ours)), false),
        (Some(&ours), Some((&here, &others)), true),
    ]
    .into_iter()
    .enumerate()
    {
        let mut config = RegistryConfig {
            plain_http: Vec::new(),
            private: vec![here.clone()],
            authorities: of_all.cloned(),
            attempts: 1,
            ..quick()
        };
        let of_host = of_host.map(|(host, trusted)| (host.clone(), trusted.clone()));
        config.authorities_of.extend(of_host);
        let credentials = Credentials::Password {
            username: Registry::USERNAME.into(),
            password: Registry::PASSWORD.into(),
        };
        config.credentials.insert(registry.address(), credentials);
        if works {
            let digest = pulled(&containerd, config, &name).await;
            assert_eq!(digest, image.digest(), "{number}");
            continue;
        }
        let lease = containerd.lease("untrusted").await;
        let refused = pull(&containerd.images_with(config), &lease, &name).await;
        let error = refused.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{number}: {error}");
        assert!(error.to_string().contains("certificate"), "{error}");
        containerd.end(&lease).await;
    }
}

fn password(password: &str) -> Credentials {
    Credentials::Password {
        username: Registry::USERNAME.into(),
        password: password.into(),
    }
}

/// What somebody sets who signs in with a password.
fn signing_in(with: &str) -> RegistrySettings {
    RegistrySettings {
        credentials: Some(password(with)),
        ..RegistrySettings::default()
    }
}

async fn works(containerd: &Containerd, images: &ContainerdImages, name: &str) -> String {
    let lease = containerd.lease("works").await;
    let pulled = pull(images, &lease, name).await;
    let (image, _) = pulled.unwrap_or_else(|error| panic!("{}", error.chain()));
    containerd.end(&lease).await;
    image.resolved.digest
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_set_takes_the_place_of_what_is_configured_and_stays() {
    let containerd = Containerd::start().await;
    let access = Access {
        sign_in: true,
        ..Access::default()
    };
    let origin = Registry::start_with(access).unwrap();
    let mirror = Registry::start().unwrap();
    let (ours, theirs) = (image(41), image(42));
    let name = origin.push("team/app", "1", &ours).await.unwrap();
    mirror.push("team/app", "1", &theirs).await.unwrap();
    let registry: RegistryName = origin.address().parse().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("secrets/registries.json");
    // The longer place would win if what is configured counted any more.
    let mut config = mirrored(&origin.address(), &[mirror.address()]);
    config.set_registries_file = Some(file.clone());
    let place = format!("{registry}/team");
    config.credentials.insert(place.clone(), password("wrong"));
    let images = containerd.images_with(config.clone());
    assert_eq!(works(&containerd, &images, &name).await, theirs.digest());
    let known = images.list().await.unwrap();
    let names: Vec<_> = known.iter().map(|known| known.name.as_str()).collect();
    assert_eq!(names, [registry.as_str(), place.as_str()]);
    assert!(
        known
            .iter()
            .all(|known| known.source == RegistrySource::Configuration)
    );
    let error = images.forget(&registry).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);

    let right = signing_in(Registry::PASSWORD);
    for _ in 0..2 {
        let set = images.set(&registry, right.clone()).await.unwrap();
        let by = SignedInBy::Password {
            username: Registry::USERNAME.into(),
        };
        assert_eq!(set.signed_in_by, Some(by));
        assert_eq!(images.list().await.unwrap(), [set]);
        assert_eq!(works(&containerd, &images, &name).await, ours.digest());
    }
    // Whoever starts again knows it too; and it is nobody else's to read.
    let again = containerd.images_with(config.clone());
    assert_eq!(works(&containerd, &again, &name).await, ours.digest());
    let mode = std::fs::metadata(&file).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    // Nothing is left of one that was cut off, neither by whoever starts nor by whoever sets another.
    let cut_off = file.with_extension("new");
    let names = || {
        let all = std::fs::read_dir(file.parent().unwrap()).unwrap();
        all.map(|entry| entry.unwrap().file_name())
            .collect::<Vec<_>>()
    };
    std::fs::write(&cut_off, Registry::PASSWORD).unwrap();
    images.set(&registry, right.clone()).await.unwrap();
    assert_eq!(names(), ["registries.json"]);
    std::fs::write(&cut_off, Registry::PASSWORD).unwrap();
    containerd.images_with(config.clone());
    assert_eq!(names(), ["registries.json"]);

    // What cannot be used changes nothing.
    let mut bad = signing_in("wrong");
    bad.certificate_authorities =
        Some("-----BEGIN CERTIFICATE-----\naGVsbG8=\n-----END CERTIFICATE-----\n".into());
    let error = images.set(&registry, bad).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    assert!(
        error.to_string().contains("certificate number 1"),
        "{error}"
    );
    for images in [&images, &containerd.images_with(config.clone())] {
        assert_eq!(works(&containerd, images, &name).await, ours.digest());
    }

    images.set(&registry, signing_in("wrong")).await.unwrap();
    assert_refused(&containerd, &images, &name).await;
    let mirrored = RegistrySettings {
        mirrors: vec![mirror.address().parse().unwrap()],
        ..RegistrySettings::default()
    };
    images.set(&registry, mirrored).await.unwrap();
    assert_eq!(works(&containerd, &images, &name).await, theirs.digest());
    images.forget(&registry).await.unwrap();
    for images in [&images, &containerd.images_with(config)] {
        assert_eq!(images.list().await.unwrap(), known);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_authority_that_is_set_is_trusted_for_its_host_alone() {
    let containerd = Containerd::start().await;
    let [authority, stranger] = [0, 1].map(|_| Authority::new().unwrap());
    let access = Access {
        sign_in: false,
        authority: Some(&authority),
    };
    let registry = Registry::start_with(access).unwrap();
    let image = image(51);
    let name = registry.push("team/app", "1", &image).await.unwrap();
    let here: RegistryName = registry.address().parse().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let config = RegistryConfig {
        plain_http: Vec::new(),
        private: vec!["127.0.0.1:*".parse().unwrap()],
        attempts: 1,
        set_registries_file: Some(dir.path().join("registries.json")),
        ..quick()
    };
    let images = containerd.images_with(config);
    for (host, trusted, works) in [
        (&here, &authority, true),
        (&here, &stranger, false),
        (&"127.0.0.1:1".parse().unwrap(), &authority, false),
        (&here, &authority, true),
    ] {
        let settings = RegistrySettings {
            certificate_authorities: Some(trusted.pem().to_owned()),
            ..RegistrySettings::default()
        };
        assert!(images.set(host, settings).await.unwrap().has_authorities);
        let lease = containerd.lease("trusted").await;
        let pulled = pull(&images, &lease, &name).await;
        match pulled {
            Ok((pulled, _)) => assert!(works && pulled.resolved.digest == image.digest()),
            Err(error) => assert!(
                !works && error.to_string().contains("certificate"),
                "{error}"
            ),
        }
        containerd.end(&lease).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_set_again_is_not_taken_from_the_configuration() {
    let containerd = Containerd::start().await;
    let authority = Authority::new().unwrap();
    let access = Access {
        sign_in: false,
        authority: Some(&authority),
    };
    let registry = Registry::start_with(access).unwrap();
    let image = image(61);
    let name = registry.push("team/app", "1", &image).await.unwrap();
    let here: RegistryName = registry.address().parse().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let pem = dir.path().join("ours.pem");
    std::fs::write(&pem, authority.pem()).unwrap();
    let trusted = Authorities::read(&pem).unwrap();
    let config = RegistryConfig {
        plain_http: Vec::new(),
        private: vec!["127.0.0.1:*".parse().unwrap()],
        authorities_of: vec![("127.0.0.1:*".parse().unwrap(), trusted)],
        attempts: 1,
        set_registries_file: Some(dir.path().join("registries.json")),
        ..quick()
    };
    let images = containerd.images_with(config);
    assert_eq!(works(&containerd, &images, &name).await, image.digest());
    let set = images.set(&here, RegistrySettings::default()).await;
    assert!(!set.unwrap().has_authorities);
    let lease = containerd.lease("untrusted").await;
    let error = pull(&images, &lease, &name).await.unwrap_err();
    assert!(error.to_string().contains("certificate"), "{error}");
    containerd.end(&lease).await;
    images.forget(&here).await.unwrap();
    assert_eq!(works(&containerd, &images, &name).await, image.digest());
}

#[tokio::test(flavor = "multi_thread")]
async fn names_of_registries_are_the_same_in_capitals() {
    let containerd = Containerd::start().await;
    let access = Access {
        sign_in: true,
        ..Access::default()
    };
    let registry = Registry::start_with(access).unwrap();
    registry.push("team/app", "1", &image(71)).await.unwrap();
    let address = registry.address();
    let port = address.rsplit_once(':').unwrap().1;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.json");
    write(&file, json!({}));
    let images = containerd.images_with(RegistryConfig {
        plain_http: vec!["localhost:*".parse().unwrap()],
        credentials_file: Some(file.clone()),
        set_registries_file: Some(dir.path().join("registries.json")),
        ..quick()
    });
    let name = format!("LocalHost:{port}/team/app:1");
    assert_refused(&containerd, &images, &name).await;
    let key = format!("localhost:{port}");
    write(&file, json!({&key: {"auth": Registry::AUTH}}));
    works(&containerd, &images, &name).await;
    let set: RegistryName = format!("LOCALHOST:{port}").parse().unwrap();
    assert_eq!(set.as_str(), key);
    images.set(&set, signing_in("wrong")).await.unwrap();
    assert_refused(&containerd, &images, &name).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_settings_that_is_not_in_order_is_refused_without_its_secrets() {
    let containerd = Containerd::start().await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("registries.json");
    let config = RegistryConfig {
        set_registries_file: Some(file.clone()),
        ..quick()
    };
    let images = containerd.images_with(config.clone());
    let name: RegistryName = "a.example".parse().unwrap();
    images.set(&name, signing_in("s3cret")).await.unwrap();
    let whole = std::fs::read_to_string(&file).unwrap();
    let half = whole.split_at(whole.len() / 2).0.to_owned();
    for (text, mode, told) in [
        (half, 0o600, "it is damaged (line"),
        (
            whole.replace("\"password\"", "\"pass\""),
            0o600,
            "it is damaged (line",
        ),
        (
            whole.replace("a.example", "https://a.example"),
            0o600,
            "expected host",
        ),
        (whole.replace("s3cret", ""), 0o600, "password"),
        (whole.clone(), 0o640, "its mode is 0640"),
    ] {
        std::fs::write(&file, text).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
        let refused = containerd.try_images_with(config.clone()).unwrap_err();
        let text = refused.chain();
        assert!(
            text.contains(told) && text.contains("registries.json"),
            "{text}"
        );
        assert!(!text.contains("s3cret"), "{text}");
    }
    std::fs::remove_file(&file).unwrap();
    assert_eq!(containerd.images_with(config).list().await.unwrap(), []);
    // Without a file nothing can be set.
    let error = containerd
        .images_with(quick())
        .set(&name, signing_in("x"))
        .await;
    assert_eq!(error.unwrap_err().kind(), ErrorKind::Unsupported);
}
