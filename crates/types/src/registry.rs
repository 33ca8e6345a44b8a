//! Registries and mirrors, as image references name them.

use crate::{ImageRef, InvalidValue};
use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;

/// A registry as image references name it, such as `docker.io` or `registry.internal:5000`; in small letters.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RegistryName(String);

impl RegistryName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for RegistryName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RegistryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for RegistryName {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let refused = |why: String| InvalidValue::new("registry", text, why);
        let usual = "expected host or host:port as in image references, not a URL";
        let image = in_place(text).ok_or_else(|| refused(usual.to_owned()))?;
        match image.registry() {
            // Names of hosts are the same in capitals.
            registry if registry == text => Ok(Self(text.to_ascii_lowercase())),
            registry if text.contains('.') && !text.contains('/') => {
                Err(refused(format!("image references name it {registry}")))
            }
            _ => Err(refused(usual.to_owned())),
        }
    }
}

/// What has the repositories of another registry: a registry, as `host` or `host:port`, or a part of one,
/// as `host/path`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mirror(String);

impl Mirror {
    /// How many there may be of one registry: each may be asked twice, and wait for a connection meanwhile.
    pub const MOST: usize = 8;

    /// The mirror as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// An image as it is named there; none where the name would be too long.
    pub fn image(&self, image: &ImageRef) -> Option<ImageRef> {
        let rest = image.as_str().strip_prefix(image.registry())?;
        format!("{}{rest}", self.0).parse().ok()
    }
}

impl FromStr for Mirror {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let image = in_place(text);
        // Without a dot, a port or the name localhost a host is taken for a repository of Docker's.
        let kept = image.filter(|image| image.as_str() == format!("{text}/a/b:latest"));
        kept.map(|_| Self(text.to_owned())).ok_or_else(|| {
            let why = "expected host, host:port or host/path as in image references, not a URL";
            InvalidValue::new("mirror", text, why)
        })
    }
}

impl fmt::Display for Mirror {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An image in a place of a registry. Its repository has two parts, so that nothing is added to it.
fn in_place(place: &str) -> Option<ImageRef> {
    let image: ImageRef = format!("{place}/a/b").parse().ok()?;
    (image.repository().ends_with("a/b") && image.digest().is_none()).then_some(image)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registry_is_named_as_in_image_references() {
        for name in ["docker.io", "ghcr.io", "localhost", "a:5000", "[::1]:5000"] {
            name.parse::<RegistryName>().unwrap();
        }
        for bad in [
            "",
            "registry",
            "https://ghcr.io",
            "ghcr.io/",
            "ghcr.io/acme",
            "a b.c",
            "ghcr.io@x",
            "index.docker.io",
        ] {
            assert!(bad.parse::<RegistryName>().is_err(), "{bad}");
        }
        let error = "index.docker.io".parse::<RegistryName>().unwrap_err();
        assert!(error.to_string().contains("name it docker.io"), "{error}");
    }

    #[test]
    fn an_image_has_another_name_at_a_mirror() {
        let digest = format!("sha256:{}", "0a".repeat(32));
        for (mirror, image, there) in [
            ("a.example", "debian:12", "a.example/library/debian:12"),
            ("a:5000", "org/app", "a:5000/org/app:latest"),
            ("a:5000/hub", "debian", "a:5000/hub/library/debian:latest"),
            ("[::1]:5000", "ghcr.io/a/b:1", "[::1]:5000/a/b:1"),
        ] {
            let mirror: Mirror = mirror.parse().unwrap();
            let there: ImageRef = there.parse().unwrap();
            assert_eq!(mirror.image(&image.parse().unwrap()), Some(there));
        }
        let mirror: Mirror = "a.example/hub".parse().unwrap();
        let named: ImageRef = format!("debian:12@{digest}").parse().unwrap();
        let there = mirror.image(&named).unwrap();
        assert_eq!(
            there.as_str(),
            format!("a.example/hub/library/debian:12@{digest}")
        );
        for bad in [
            "",
            "hub",
            "https://a.example",
            "a.example/",
            "a.example/Hub",
            "a.example/hub:1",
            "a.example//hub",
            "a.example/../hub",
        ] {
            assert!(bad.parse::<Mirror>().is_err(), "{bad}");
        }
    }
}
