//! Documents that lie, and indexes of which one entry is good.

use super::*;

#[test]
fn documents_that_are_not_one_thing_are_refused() {
    let op = Op::new("pull image", "a");
    for (text, kind) in [
        ("", ErrorKind::Corrupt),
        ("[]", ErrorKind::Corrupt),
        ("{}", ErrorKind::InvalidArgument),
        (r#"{"schemaVersion":1}"#, ErrorKind::InvalidArgument),
        (r#"{"manifests":[],"layers":[]}"#, ErrorKind::Corrupt),
        (r#"{"manifests":[],"config":{}}"#, ErrorKind::Corrupt),
        (
            r#"{"schemaVersion":2,"config":{},"layers":[]}"#,
            ErrorKind::Corrupt,
        ),
    ] {
        let error = parse(&op, text.as_bytes()).unwrap_err();
        assert_eq!(error.kind(), kind, "{text}: {error}");
    }
}

#[test]
fn only_sha256_digests_in_lower_case_are_taken() {
    let op = Op::new("pull image", "a");
    assert!(check_digest(&op, &format!("sha256:{}", "0a".repeat(32))).is_ok());
    for bad in [
        String::new(),
        "sha256:".into(),
        format!("sha256:{}", "0A".repeat(32)),
        format!("sha512:{}", "0a".repeat(64)),
        format!("sha256:../{}", "0".repeat(61)),
    ] {
        assert!(check_digest(&op, &bad).is_err(), "{bad}");
    }
}

/// Documents by their digests.
struct Made(Vec<Bytes>);

#[async_trait]
impl Documents for Made {
    async fn document(&self, digest: &str, _size: u64, _role: Role) -> Result<Bytes> {
        let found = self.0.iter().find(|bytes| digest_of(bytes) == digest);
        let missing = || Op::new("pull image", "a").fail(ErrorKind::NotFound, "it is missing");
        found.cloned().ok_or_else(missing)
    }
}

#[tokio::test]
async fn odd_entries_of_an_index_give_way_to_the_good_one() {
    let op = Op::new("pull image", "a");
    let mut documents = Vec::new();
    let mut add = |json: serde_json::Value| {
        let bytes = Bytes::from(json.to_string());
        documents.push(bytes.clone());
        serde_json::json!({
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": digest_of(&bytes), "size": bytes.len(),
        })
    };
    let zeros = format!("sha256:{}", "0".repeat(64));
    let layer = serde_json::json!({"mediaType": LAYER_TAR, "digest": zeros, "size": 1});
    let mut image = |architecture: &str| {
        let config = add(serde_json::json!({
            "architecture": architecture, "os": "linux",
            "rootfs": {"type": "layers", "diff_ids": [zeros]},
        }));
        add(serde_json::json!({"schemaVersion": 2, "config": config, "layers": [layer]}))
    };
    let (foreign, good) = (image("mips"), image(platform::architecture()));
    let artifact = add(serde_json::json!({
        "schemaVersion": 2, "layers": [layer],
        "config": {"mediaType": "application/vnd.oci.empty.v1+json", "digest": zeros, "size": 2},
    }));
    let missing = serde_json::json!({
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "digest": format!("sha256:{}", "1".repeat(64)), "size": 5,
    });
    let nested = add(serde_json::json!({"schemaVersion": 2, "manifests": [foreign, missing]}));
    let odd = [
        serde_json::json!("what"),
        serde_json::json!({"digest": "md5:1", "size": 0}),
        missing.clone(),
        foreign.clone(),
        artifact,
        nested,
    ];
    let resolved_of = |entries: &[serde_json::Value]| {
        let index = serde_json::json!({"schemaVersion": 2, "manifests": entries});
        let bytes = Bytes::from(index.to_string());
        Document::new(&op, digest_of(&bytes), String::new(), bytes).unwrap()
    };
    let with_good = resolved_of(&[&odd[..], std::slice::from_ref(&good)].concat());
    let deep = resolved_of(&vec![missing.clone(); 1000]);
    let without = resolved_of(&[foreign]);
    let source = Made(documents);
    let limits = ImageLimits::default();
    let image = resolve(&op, &source, with_good, Some(&limits))
        .await
        .unwrap();
    assert_eq!(good["digest"], image.tree.manifest.digest.as_str());
    assert_eq!(image.tree.indexes[0].1, odd.len());
    let error = resolve(&op, &source, without, Some(&limits))
        .await
        .unwrap_err();
    assert!(error.to_string().contains("platform"), "{error}");
    let error = resolve(&op, &source, deep, Some(&limits))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
}

/// An image whose manifest and index have at least so many bytes, and whose manifest has this type.
async fn resolved(padding: usize, media_type: &str) -> Result<Resolved> {
    let op = Op::new("pull image", "a");
    let zeros = format!("sha256:{}", "0".repeat(64));
    let text = |json: serde_json::Value| Bytes::from(json.to_string());
    let descriptor = |bytes: &Bytes, media_type: &str| {
        let (digest, size) = (digest_of(bytes), bytes.len());
        serde_json::json!({"mediaType": media_type, "digest": digest, "size": size})
    };
    let config = text(serde_json::json!({
        "architecture": platform::architecture(), "os": "linux", "author": "x".repeat(100_000),
        "rootfs": {"type": "layers", "diff_ids": [zeros]},
    }));
    let padding = "x".repeat(padding);
    let manifest = text(serde_json::json!({
        "schemaVersion": 2,
        "config": descriptor(&config, "application/vnd.oci.image.config.v1+json"),
        "layers": [{"mediaType": LAYER_TAR, "digest": zeros, "size": 1}],
        "annotations": {"padding": padding},
    }));
    let index = text(serde_json::json!({
        "schemaVersion": 2,
        "manifests": [descriptor(&manifest, media_type)],
        "annotations": {"padding": padding},
    }));
    let top = Document::new(&op, digest_of(&index), String::new(), index)?;
    let source = Made(vec![manifest, config]);
    resolve(&op, &source, top, Some(&ImageLimits::default())).await
}

#[tokio::test]
async fn documents_have_a_most_that_they_may_have_together() {
    let usual = "application/vnd.oci.image.manifest.v1+json";
    let most = usize::try_from(MAX_DOCUMENT).unwrap();
    let image = resolved(most - 200_000, usual).await.unwrap();
    assert_eq!(image.tree.manifest.size, image.manifest.len() as u64);
    assert_eq!(image.tree.indexes.len(), image.indexes.len());
    let error = resolved(most - 1000, usual).await.unwrap_err();
    assert!(error.to_string().contains("together"), "{error}");
    // It is kept with what is known of the image.
    let long = "x".repeat(MAX_MEDIA_TYPE + 1);
    let error = resolved(0, &long).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
}
