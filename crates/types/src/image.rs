//! Image references and what of an image's configuration a workspace needs.

use crate::InvalidValue;
use oci_spec::distribution::Reference;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::net::Ipv6Addr;
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

    /// The registry's host, with its port where one is named, such as `docker.io` or `[::1]:5000`.
    pub fn registry(&self) -> &str {
        self.0.split_once('/').map_or("", |(registry, _)| registry)
    }

    /// The repository in the registry, such as `library/debian`.
    pub fn repository(&self) -> &str {
        let name = self.without_digest().0;
        let path = name.split_once('/').map_or(name, |(_, path)| path);
        path.split_once(':')
            .map_or(path, |(repository, _)| repository)
    }

    /// The tag, where one is named.
    pub fn tag(&self) -> Option<&str> {
        let (_, path) = self.without_digest().0.split_once('/')?;
        path.split_once(':').map(|(_, tag)| tag)
    }

    /// The digest, where one is named.
    pub fn digest(&self) -> Option<&str> {
        self.without_digest().1
    }

    fn without_digest(&self) -> (&str, Option<&str>) {
        match self.0.split_once('@') {
            Some((name, digest)) => (name, Some(digest)),
            None => (&self.0, None),
        }
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
        let refused = |why: String| InvalidValue::new("image reference", text, why);
        if !text.is_ascii() {
            // The library's expressions take letters of all languages.
            let why = "it must consist of ASCII letters, digits, and . _ - / : @";
            return Err(refused(why.to_owned()));
        }
        let parsed = |text: &str| {
            let reference =
                Reference::from_str(text).map_err(|error| refused(error.to_string()))?;
            match reference.digest() {
                Some(digest) if digest.bytes().any(|byte| byte.is_ascii_uppercase()) => {
                    Err(refused("the digest must be in lower case".to_owned()))
                }
                _ => Ok(reference.whole()),
            }
        };
        let Some(bracketed) = text.strip_prefix('[') else {
            return parsed(text).map(Self);
        };
        // A registry at an address of IPv6, in the place of which the library knows names only.
        let address = bracketed.split_once(']').and_then(|(address, rest)| {
            let address: Ipv6Addr = address.parse().ok()?;
            rest.starts_with([':', '/']).then_some((address, rest))
        });
        let Some((address, rest)) = address else {
            let why = "the registry must be [address of IPv6] or [address of IPv6]:port";
            return Err(refused(why.to_owned()));
        };
        let whole = parsed(&format!("{PLACE}{rest}"))?;
        match whole.strip_prefix(PLACE) {
            Some(rest) if rest.contains('/') => Ok(Self(format!("[{address}]{rest}"))),
            _ => Err(refused("it names no repository".to_owned())),
        }
    }
}

/// Stands for an address while a reference is parsed: a name that no registry has (RFC 2606).
const PLACE: &str = "address.invalid";

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
            ("[::1]:5000/x", "[::1]:5000/x:latest"),
            ("[::1]/a/x:1", "[::1]/a/x:1"),
            ("[2001:DB8:0:0::1]:5000/x:v", "[2001:db8::1]:5000/x:v"),
        ] {
            let image: ImageRef = given.parse().unwrap();
            assert_eq!(image.as_str(), expected);
            assert_eq!(image.as_str().parse::<ImageRef>().unwrap(), image);
        }
    }

    #[test]
    fn a_reference_has_parts() {
        let digest = format!("sha256:{}", "0a".repeat(32));
        for (given, registry, repository, tag, named) in [
            (
                "127.0.0.1:5000/a/b:c",
                "127.0.0.1:5000",
                "a/b",
                Some("c"),
                false,
            ),
            (
                "debian",
                "docker.io",
                "library/debian",
                Some("latest"),
                false,
            ),
            ("[::1]:5000/x", "[::1]:5000", "x", Some("latest"), false),
            ("[::1]/x:1@", "[::1]", "x", Some("1"), true),
            ("host:5000/x@", "host:5000", "x", None, true),
        ] {
            let given = match named {
                true => format!("{given}{digest}"),
                false => given.to_owned(),
            };
            let image: ImageRef = given.parse().unwrap();
            assert_eq!(image.registry(), registry, "{given}");
            assert_eq!(image.repository(), repository, "{given}");
            assert_eq!(image.tag(), tag, "{given}");
            assert_eq!(image.digest(), named.then_some(&*digest), "{given}");
        }
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
            "host/x:\u{17e}lu\u{165}",
            "host/x:\u{0663}",
            "h\u{f6}st.de/x",
            "[::1]",
            "[::1]:5000",
            "[::1]x/y",
            "[::g]/x",
            "[::1/x",
            "[fe80::1%eth0]/x",
            "[127.0.0.1]/x",
            "[::1]:port/x",
            "x@sha256:0A0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a",
        ] {
            assert!(bad.parse::<ImageRef>().is_err(), "{bad:?} was accepted");
        }
    }
}
