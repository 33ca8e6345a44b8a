//! What a pull connects to, and what it sends there.

use crate::support::{Containerd, busybox, pull, quick};
use botstead_image_fixtures::{Compression, Image, Registry, random};
use botstead_runtime::{Credentials, ErrorKind};
use botstead_runtime_containerd::images::{HostPattern, RegistryConfig};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// A web server that remembers what it was asked.
struct Web {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<String>>>,
    server: JoinHandle<()>,
}

impl Web {
    /// Answers each request, of which the head is given, and what it sends behind that, with a status and headers, and a body.
    async fn start(
        ip: &str,
        answer: impl Fn(&str) -> (String, Vec<u8>) + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind((ip, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (heads, answer) = (Arc::clone(&seen), Arc::new(answer));
        let server = tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let (heads, answer) = (Arc::clone(&heads), Arc::clone(&answer));
                tokio::spawn(async move {
                    let mut head = Vec::new();
                    while !head.ends_with(b"\r\n\r\n") {
                        let Ok(byte) = stream.read_u8().await else {
                            return;
                        };
                        head.push(byte);
                    }
                    let mut head = String::from_utf8_lossy(&head).to_lowercase();
                    let length = head
                        .lines()
                        .find_map(|line| line.strip_prefix("content-length: "));
                    let mut form = vec![0; length.map_or(0, |length| length.parse().unwrap())];
                    if stream.read_exact(&mut form).await.is_err() {
                        return;
                    }
                    head.push_str(&String::from_utf8_lossy(&form).to_lowercase());
                    heads.lock().unwrap().push(head.clone());
                    let (status, body) = answer(&head);
                    let length = body.len();
                    let head = format!(
                        "HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n"
                    );
                    // A client that left has its answer already.
                    let _ = stream.write_all(head.as_bytes()).await;
                    let _ = stream.write_all(&body).await;
                });
            }
        });
        Self {
            address,
            seen,
            server,
        }
    }

    /// A registry of one image whose layers are at `layers`, and that wants what `challenge` says
    /// from whoever does not bring `authorization`.
    async fn registry(
        image: &Image,
        layers: SocketAddr,
        sign_in: Option<(String, String)>,
    ) -> Self {
        let image = image.clone();
        Self::start("127.0.0.1", move |head| {
            if let Some((challenge, authorization)) = &sign_in
                && !head.contains(authorization)
            {
                let status = format!("401 Unauthorized\r\nWWW-Authenticate: {challenge}");
                return (status, Vec::new());
            }
            let path = head.split(' ').nth(1).unwrap_or_default();
            let name = path.rsplit('/').next().unwrap_or_default();
            if path.contains("/manifests/") {
                ("200 OK".to_owned(), image.manifest.to_vec())
            } else if name == image.config_digest() {
                ("200 OK".to_owned(), image.config.to_vec())
            } else if path.contains("/blobs/") {
                let to = format!("http://{layers}/layers/{name}");
                (
                    format!("307 Temporary Redirect\r\nLocation: {to}"),
                    Vec::new(),
                )
            } else {
                ("200 OK".to_owned(), Vec::new())
            }
        })
        .await
    }

    /// Where layers are, on another address of this machine.
    async fn store(image: &Image) -> Self {
        let image = image.clone();
        Self::start("127.0.0.2", move |head| {
            let path = head.split(' ').nth(1).unwrap_or_default();
            let name = path.rsplit('/').next().unwrap_or_default();
            let layer = image.layers.iter().find(|layer| layer.digest == name);
            match layer {
                Some(layer) => ("200 OK".to_owned(), layer.blob.to_vec()),
                None => ("404 Not Found".to_owned(), Vec::new()),
            }
        })
        .await
    }

    fn reference(&self) -> String {
        format!("{}/app:1", self.address)
    }

    fn host(&self) -> HostPattern {
        self.address.to_string().parse().unwrap()
    }

    fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }
}

impl Drop for Web {
    fn drop(&mut self) {
        self.server.abort();
    }
}

fn unlisted() -> RegistryConfig {
    RegistryConfig {
        plain_http: Vec::new(),
        ..quick()
    }
}

fn sign_in() -> Credentials {
    Credentials::Password {
        username: "bot".into(),
        password: "secret".into(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_on_this_machine_is_reached_only_when_it_is_listed() {
    let containerd = Containerd::start().await;
    let registry = Registry::start().unwrap();
    let name = registry.push("app", "1", &busybox()).await.unwrap();
    let by_name = name.replace("127.0.0.1", "localhost");
    let lease = containerd.lease("unlisted").await;
    for reference in [&name, &by_name] {
        let refused = pull(&containerd.images_with(unlisted()), &lease, reference).await;
        let error = refused.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotAllowed, "{error}");
        assert!(error.to_string().contains("registry."), "{error}");
    }
    containerd.end(&lease).await;
    containerd.assert_empty().await;

    let lease = containerd.lease("listed").await;
    for listed in [name.as_str(), by_name.as_str()] {
        let host = listed.split('/').next().unwrap();
        let config = RegistryConfig {
            plain_http: vec![host.parse().unwrap()],
            ..quick()
        };
        pull(&containerd.images_with(config), &lease, listed)
            .await
            .unwrap();
    }
    containerd.end(&lease).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_reaches_only_what_is_listed_and_carries_no_sign_in() {
    let containerd = Containerd::start().await;
    let image = random(1, 1 << 20, 11, Compression::None).unwrap();
    let store = Web::store(&image).await;
    // `bot:secret` in base64.
    let basic = (
        "Basic realm=\"test\"".to_owned(),
        "authorization: basic ym90onnly3jlda==".to_owned(),
    );
    let registry = Web::registry(&image, store.address, Some(basic)).await;
    let mut config = unlisted();
    config.plain_http.push(registry.host());
    let name = registry.address.to_string();
    config.credentials.insert(name, sign_in());

    let lease = containerd.lease("unlisted").await;
    let images = containerd.images_with(config.clone());
    let refused = pull(&images, &lease, &registry.reference()).await;
    let error = refused.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotAllowed, "{error}");
    assert!(store.seen().is_empty(), "{:?}", store.seen());
    containerd.end(&lease).await;
    containerd.assert_empty().await;

    config.plain_http.push(store.host());
    let lease = containerd.lease("listed").await;
    let images = containerd.images_with(config);
    pull(&images, &lease, &registry.reference()).await.unwrap();
    containerd.end(&lease).await;
    let seen = store.seen();
    assert_eq!(seen.len(), 1, "{seen:?}");
    assert!(!seen[0].contains("authorization"), "{seen:?}");
    assert!(!seen[0].contains("referer"), "{seen:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_of_another_domain_is_neither_asked_for_nor_given_away() {
    let containerd = Containerd::start().await;
    let image = random(1, 1 << 20, 12, Compression::None).unwrap();
    // What a cloud gives to whoever can reach it.
    let tokens = Web::start("127.0.0.2", |_| {
        let answer = br#"{"access_token":"of-the-host"}"#.to_vec();
        ("200 OK".to_owned(), answer)
    });
    let tokens = tokens.await;
    let store = Web::store(&image).await;
    let wanted = (
        format!("Bearer realm=\"http://{}/token\"", tokens.address),
        "authorization: bearer of-the-host".to_owned(),
    );
    let registry = Web::registry(&image, store.address, Some(wanted)).await;
    let mut config = unlisted();
    config.plain_http = vec![registry.host(), store.host(), tokens.host()];
    let name = registry.address.to_string();
    config.credentials.insert(name, sign_in());

    let lease = containerd.lease("foreign").await;
    let images = containerd.images_with(config.clone());
    let refused = pull(&images, &lease, &registry.reference()).await;
    let error = refused.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotAllowed, "{error}");
    assert!(
        error.to_string().contains("registry.token_services"),
        "{error}"
    );
    assert!(tokens.seen().is_empty(), "{:?}", tokens.seen());
    containerd.end(&lease).await;
    containerd.assert_empty().await;

    config.token_services.push(tokens.host());
    let lease = containerd.lease("trusted").await;
    let images = containerd.images_with(config);
    pull(&images, &lease, &registry.reference()).await.unwrap();
    containerd.end(&lease).await;
    let seen = tokens.seen();
    assert!(
        seen[0].contains("scope=repository%3aapp%3apull"),
        "{seen:?}"
    );
    assert!(seen[0].contains("authorization: basic"), "{seen:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_service_that_sends_without_end_is_not_read_to_its_end() {
    let containerd = Containerd::start().await;
    let image = random(1, 1 << 10, 13, Compression::None).unwrap();
    let tokens = Web::start("127.0.0.1", |_| ("200 OK".to_owned(), vec![b' '; 8 << 20])).await;
    let wanted = (
        format!("Bearer realm=\"http://{}/token\"", tokens.address),
        "authorization: bearer x".to_owned(),
    );
    let registry = Web::registry(&image, tokens.address, Some(wanted)).await;
    let lease = containerd.lease("endless").await;
    let refused = pull(&containerd.images(), &lease, &registry.reference()).await;
    let error = refused.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    assert!(error.to_string().contains("sent too much"), "{error}");
    containerd.end(&lease).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_identity_token_is_sent_to_the_token_service_alone() {
    let containerd = Containerd::start().await;
    let image = random(1, 1 << 10, 14, Compression::None).unwrap();
    let store = Web::store(&image).await;
    let elsewhere = Web::start("127.0.0.2", |_| {
        let answer = br#"{"access_token":"of-elsewhere"}"#.to_vec();
        ("200 OK".to_owned(), answer)
    });
    let elsewhere = elsewhere.await;
    let moved = format!(
        "307 Temporary Redirect\r\nLocation: http://{}/token",
        elsewhere.address
    );
    let moving = Web::start("127.0.0.1", move |_| (moved.clone(), Vec::new())).await;
    let tokens = Web::start("127.0.0.1", |head| {
        let right = head.starts_with("post ") && head.contains("refresh_token=se%2bcret");
        match right {
            true => ("200 OK".to_owned(), br#"{"access_token":"fine"}"#.to_vec()),
            false => ("401 Unauthorized".to_owned(), Vec::new()),
        }
    });
    let tokens = tokens.await;
    for (service, works) in [(&moving, false), (&tokens, true)] {
        let challenge = format!(
            "Bearer realm=\"http://{}/token\",service=\"it\"",
            service.address
        );
        let wanted = (challenge, "authorization: bearer fine".to_owned());
        let registry = Web::registry(&image, store.address, Some(wanted)).await;
        let mut config = unlisted();
        let hosts = [&registry, &store, &tokens, &moving, &elsewhere];
        config.plain_http = hosts.map(Web::host).into();
        config.token_services.push(elsewhere.host());
        let token = Credentials::IdentityToken("se+cret".into());
        let name = registry.address.to_string();
        config.credentials.insert(name, token);
        let lease = containerd.lease("identity").await;
        let images = containerd.images_with(config);
        match pull(&images, &lease, &registry.reference()).await {
            Ok(_) => assert!(works),
            Err(error) => {
                assert!(!works, "{}", error.chain());
                assert_eq!(error.kind(), ErrorKind::PermissionDenied);
                assert!(!error.chain().contains("cret"), "{}", error.chain());
            }
        }
        containerd.end(&lease).await;
        let others = [registry.seen(), store.seen(), elsewhere.seen()].concat();
        let told = others.iter().any(|head| head.contains("cret"));
        assert!(!told, "{others:?}");
    }
    let seen = tokens.seen();
    assert_eq!(seen.len(), 1, "{seen:?}");
    for part in [
        "grant_type=refresh_token",
        "service=it",
        "scope=repository%3aapp%3apull",
    ] {
        assert!(seen[0].contains(part), "{part}: {seen:?}");
    }
    assert!(elsewhere.seen().is_empty(), "{:?}", elsewhere.seen());
}
