//! Images: configuration, manifest and index, as bytes.

use crate::{Compression, Layer, digest_of, native_architecture};
use bytes::Bytes;
use serde_json::{Value, json};

/// Which family of media types an image uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MediaTypes {
    /// OCI image specification 1.
    Oci,
    /// Docker image manifest version 2, schema 2.
    Docker,
}

impl MediaTypes {
    fn config(self) -> &'static str {
        match self {
            Self::Oci => "application/vnd.oci.image.config.v1+json",
            Self::Docker => "application/vnd.docker.container.image.v1+json",
        }
    }

    fn manifest(self) -> &'static str {
        match self {
            Self::Oci => "application/vnd.oci.image.manifest.v1+json",
            Self::Docker => "application/vnd.docker.distribution.manifest.v2+json",
        }
    }

    fn index(self) -> &'static str {
        match self {
            Self::Oci => "application/vnd.oci.image.index.v1+json",
            Self::Docker => "application/vnd.docker.distribution.manifest.list.v2+json",
        }
    }

    fn layer(self, compression: Compression) -> &'static str {
        match (self, compression) {
            (Self::Oci, Compression::None) => "application/vnd.oci.image.layer.v1.tar",
            (Self::Oci, Compression::Gzip) => "application/vnd.oci.image.layer.v1.tar+gzip",
            (Self::Oci, Compression::Zstd) => "application/vnd.oci.image.layer.v1.tar+zstd",
            (Self::Docker, Compression::None) => "application/vnd.docker.image.rootfs.diff.tar",
            (Self::Docker, Compression::Gzip) => {
                "application/vnd.docker.image.rootfs.diff.tar.gzip"
            }
            (Self::Docker, Compression::Zstd) => {
                "application/vnd.docker.image.rootfs.diff.tar.zstd"
            }
        }
    }
}

/// An image for one platform.
#[derive(Debug, Clone)]
pub struct Image {
    /// Its layers, the lowest first.
    pub layers: Vec<Layer>,
    /// The bytes of its configuration.
    pub config: Bytes,
    /// The bytes of its manifest.
    pub manifest: Bytes,
    /// The architecture it says it is for, in Go's words.
    pub architecture: String,
    /// The media type of its manifest.
    pub media_type: &'static str,
}

impl Image {
    /// Starts an image for this machine's platform, with OCI media types and no layer.
    pub fn builder() -> ImageBuilder {
        ImageBuilder {
            layers: Vec::new(),
            architecture: native_architecture().to_owned(),
            types: MediaTypes::Oci,
            config: json!({
                "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
                "Cmd": ["/bin/sh"],
            }),
            urls: Vec::new(),
        }
    }

    /// The digest of its manifest.
    pub fn digest(&self) -> String {
        digest_of(&self.manifest)
    }

    /// The digest of its configuration.
    pub fn config_digest(&self) -> String {
        digest_of(&self.config)
    }

    /// The size of all its layers as a registry holds them, in bytes.
    pub fn layers_size(&self) -> u64 {
        self.layers.iter().map(|l| l.blob.len() as u64).sum()
    }

    /// The descriptor of its manifest, with its platform.
    pub fn descriptor(&self) -> Value {
        json!({
            "mediaType": self.media_type,
            "digest": self.digest(),
            "size": self.manifest.len(),
            "platform": { "os": "linux", "architecture": self.architecture },
        })
    }

    /// Every blob it consists of, manifest included: digest and bytes.
    pub fn blobs(&self) -> Vec<(String, Bytes)> {
        let mut blobs: Vec<_> = self
            .layers
            .iter()
            .map(|layer| (layer.digest.clone(), layer.blob.clone()))
            .collect();
        blobs.push((self.config_digest(), self.config.clone()));
        blobs.push((self.digest(), self.manifest.clone()));
        blobs
    }
}

/// Builds an [`Image`].
#[derive(Debug)]
pub struct ImageBuilder {
    layers: Vec<Layer>,
    architecture: String,
    types: MediaTypes,
    config: Value,
    urls: Vec<String>,
}

impl ImageBuilder {
    /// Adds a layer on top.
    #[must_use]
    pub fn layer(mut self, layer: Layer) -> Self {
        self.layers.push(layer);
        self
    }

    /// Says that it is for another architecture than this machine's, in Go's words.
    #[must_use]
    pub fn architecture(mut self, architecture: &str) -> Self {
        self.architecture = architecture.to_owned();
        self
    }

    /// The family of media types.
    #[must_use]
    pub fn media_types(mut self, types: MediaTypes) -> Self {
        self.types = types;
        self
    }

    /// Sets a key of the `config` object, such as `User` or `Env`.
    #[must_use]
    pub fn config(mut self, key: &str, value: Value) -> Self {
        self.config[key] = value;
        self
    }

    /// Claims that the layers are found at another address too, which makes them foreign layers.
    #[must_use]
    pub fn layer_url(mut self, url: &str) -> Self {
        self.urls.push(url.to_owned());
        self
    }

    /// Makes the configuration and the manifest.
    pub fn build(self) -> Image {
        let diff_ids: Vec<_> = self.layers.iter().map(|layer| &layer.diff_id).collect();
        let config = json!({
            "created": "2023-11-14T22:13:20Z",
            "architecture": self.architecture,
            "os": "linux",
            "config": self.config,
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
        })
        .to_string();
        let layers: Vec<_> = self
            .layers
            .iter()
            .map(|layer| {
                let mut descriptor = json!({
                    "mediaType": self.types.layer(layer.compression),
                    "digest": layer.digest,
                    "size": layer.blob.len(),
                });
                if !self.urls.is_empty() {
                    descriptor["urls"] = json!(self.urls);
                }
                descriptor
            })
            .collect();
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": self.types.manifest(),
            "config": {
                "mediaType": self.types.config(),
                "digest": digest_of(config.as_bytes()),
                "size": config.len(),
            },
            "layers": layers,
        })
        .to_string();
        Image {
            layers: self.layers,
            config: config.into(),
            manifest: manifest.into(),
            architecture: self.architecture,
            media_type: self.types.manifest(),
        }
    }
}

/// Images for several platforms under one digest.
#[derive(Debug, Clone)]
pub struct Index {
    /// Its images.
    pub images: Vec<Image>,
    /// The bytes of the index.
    pub bytes: Bytes,
    /// Its media type.
    pub media_type: &'static str,
}

impl Index {
    /// An index of these images, in this order.
    pub fn new(types: MediaTypes, images: Vec<Image>) -> Self {
        let manifests: Vec<_> = images.iter().map(Image::descriptor).collect();
        let bytes = json!({
            "schemaVersion": 2,
            "mediaType": types.index(),
            "manifests": manifests,
        })
        .to_string();
        Self {
            images,
            bytes: bytes.into(),
            media_type: types.index(),
        }
    }

    /// The same with other entries: what `change` makes of each.
    #[must_use]
    pub fn changed(mut self, change: impl FnMut(&mut Value)) -> Self {
        let mut value: Value = serde_json::from_slice(&self.bytes).unwrap_or_default();
        if let Some(entries) = value["manifests"].as_array_mut() {
            entries.iter_mut().for_each(change);
        }
        self.bytes = value.to_string().into();
        self
    }

    /// The digest of the index.
    pub fn digest(&self) -> String {
        digest_of(&self.bytes)
    }
}
