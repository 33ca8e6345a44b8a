//! Image references and what of an image's configuration a workspace needs.

use crate::InvalidValue;
use oci_spec::distribution::Reference;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

/// A reference to an image, normalised as Docker and containerd do it:
/// `debian` is `docker.io/library/debian:latest`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ImageRef(String);

impl ImageRef {
    /// The normalised reference, with a tag or a digest.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The registry's host, with its port where one is named, such as `docker.io`.
    pub fn registry(&self) -> &str {
        self.0.split_once('/').map_or("", |(registry, _)| registry)
    }
}

impl fmt::Display for ImageRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for ImageRef {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let text = text.trim();
        let reference = Reference::from_str(text)
            .map_err(|error| InvalidValue::new("image reference", text, error.to_string()))?;
        Ok(Self(reference.whole()))
    }
}

impl TryFrom<String> for ImageRef {
    type Error = InvalidValue;

    fn try_from(text: String) -> Result<Self, InvalidValue> {
        text.parse()
    }
}

impl From<ImageRef> for String {
    fn from(image: ImageRef) -> String {
        image.0
    }
}

/// The part of an OCI image configuration that a workspace uses and a version remembers
/// (OCI image specification, config.md). The entrypoint and command are recorded, not run: the
/// agent is the process of every workspace.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ImageConfig {
    /// `KEY=value` pairs.
    pub env: Vec<String>,
    /// The image's entrypoint.
    pub entrypoint: Vec<String>,
    /// The image's default command.
    pub cmd: Vec<String>,
    /// The image's user: `user`, `uid`, `user:group` or `uid:gid`; empty means root.
    pub user: String,
    /// The image's working directory; empty means `/`.
    pub working_dir: String,
    /// The image's labels.
    pub labels: BTreeMap<String, String>,
    /// The architecture, in Go's words, such as `amd64`.
    pub architecture: String,
    /// The signal that asks the image's own process to end, such as `SIGTERM`.
    pub stop_signal: Option<String>,
}

/// An image as it was resolved at one time: enough to start a workspace after the image is gone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResolvedImage {
    /// The reference it was resolved from.
    pub reference: ImageRef,
    /// The digest of the manifest or index that the reference named, `sha256:...`.
    pub digest: String,
    /// The configuration of the image for this machine's platform.
    pub config: ImageConfig,
}

/// An image as a workspace or version records it: its configuration is kept apart, once for all that
/// have the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordedImage {
    /// The reference it was resolved from.
    pub reference: ImageRef,
    /// The digest of the manifest or index that the reference named, `sha256:...`.
    pub digest: String,
    /// The digest under which its configuration is kept. Absent in journals from before it was.
    #[serde(default)]
    pub config_digest: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_normalised() {
        for (given, expected) in [
            ("debian", "docker.io/library/debian:latest"),
            (" debian:12 ", "docker.io/library/debian:12"),
            ("org/app", "docker.io/org/app:latest"),
            (
                "localhost/botstead/workspace",
                "localhost/botstead/workspace:latest",
            ),
            ("127.0.0.1:5000/a/b:c", "127.0.0.1:5000/a/b:c"),
            ("ghcr.io/a/b", "ghcr.io/a/b:latest"),
        ] {
            let image: ImageRef = given.parse().unwrap();
            assert_eq!(image.as_str(), expected);
            assert_eq!(image.as_str().parse::<ImageRef>().unwrap(), image);
        }
    }

    #[test]
    fn a_registry_keeps_its_port() {
        let image: ImageRef = "127.0.0.1:5000/a/b:c".parse().unwrap();
        assert_eq!(image.registry(), "127.0.0.1:5000");
    }

    #[test]
    fn what_is_no_reference_is_refused() {
        for bad in [
            "",
            "  ",
            "docker.io/UPPER/case",
            "a b",
            "x@sha256:12",
            "../x",
            "https://a/b",
        ] {
            assert!(bad.parse::<ImageRef>().is_err(), "{bad:?} was accepted");
        }
    }
}
