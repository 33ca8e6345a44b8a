//! Mirrors: registries that are asked before the one that an image names.
//!
//! A mirror is asked as any registry is, under its own name: what may be reached, over TLS or not, with
//! which sign-in is what is configured for the mirror, never what is for the registry behind it.

use super::ContainerdImages;
use super::registry::Repository;
use crate::op::Op;
use botstead_runtime::{Error, ErrorKind, Result};
use botstead_types::{ImageRef, InvalidValue};
use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What has the repositories of another registry: a registry, as `host` or `host:port`, or a part of one,
/// as `host/path`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mirror(String);

impl Mirror {
    /// An image as it is named there; none where the name would be too long.
    pub(super) fn image(&self, image: &ImageRef) -> Option<ImageRef> {
        let rest = image.as_str().strip_prefix(image.registry())?;
        format!("{}{rest}", self.0).parse().ok()
    }
}

impl FromStr for Mirror {
    type Err = InvalidValue;

    fn from_str(text: &str) -> std::result::Result<Self, InvalidValue> {
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

/// Refuses what is no registry as image references name it, such as `docker.io` or `registry.internal:5000`.
///
/// # Errors
/// With what is expected.
pub fn check_registry(text: &str) -> std::result::Result<(), InvalidValue> {
    let refused = |why: String| InvalidValue::new("registry", text, why);
    let usual = "expected host or host:port as in image references, not a URL";
    let image = in_place(text).ok_or_else(|| refused(usual.to_owned()))?;
    match image.registry() {
        registry if registry == text => Ok(()),
        registry if text.contains('.') && !text.contains('/') => {
            Err(refused(format!("image references name it {registry}")))
        }
        _ => Err(refused(usual.to_owned())),
    }
}

/// Where an image is asked for: at its mirrors in order, then at its registry. One that failed, or does
/// not have something, is not asked again in the same pull.
pub(super) struct Sources<'a> {
    op: &'a Op,
    all: Vec<Repository<'a>>,
    /// How many of them are given up.
    given_up: AtomicUsize,
}

impl Sources<'_> {
    /// Which one is asked now.
    pub(super) fn current(&self) -> (usize, &Repository<'_>) {
        // Never the last, so one is left.
        let number = self.given_up.load(Ordering::Relaxed);
        (number, &self.all[number])
    }

    /// Whether another one is to be asked, after this one failed.
    pub(super) fn go_on(&self, number: usize, error: &Error) -> bool {
        let ours = matches!(
            error.kind(),
            ErrorKind::ResourceExhausted | ErrorKind::Cancelled
        );
        if ours || number + 1 >= self.all.len() {
            return false;
        }
        if self.given_up.fetch_max(number + 1, Ordering::Relaxed) <= number {
            let (op, mirror) = (self.op, self.all[number].registry());
            tracing::warn!(
                ?op,
                mirror,
                error = error.chain(),
                "a mirror is not asked any more for this image; the next one is"
            );
        }
        true
    }
}

impl ContainerdImages {
    /// Where an image is asked for.
    pub(super) async fn sources<'a>(&'a self, op: &'a Op, image: &ImageRef) -> Result<Sources<'a>> {
        let mirrors = self.config.mirrors.get(image.registry());
        let mut all = Vec::new();
        // A name that becomes too long there is not there.
        let mirrored = mirrors
            .into_iter()
            .flatten()
            .filter_map(|mirror| mirror.image(image));
        for (place, mirror) in mirrored
            .map(|image| (image, true))
            .chain([(image.clone(), false)])
        {
            let credentials = self.sign_ins.of(&place).await;
            let mut repository = Repository::new(op, &self.config, &self.http, place, credentials)?;
            if mirror {
                repository = repository.into_mirror();
            }
            all.push(repository);
        }
        Ok(Sources {
            op,
            all,
            given_up: AtomicUsize::new(0),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registry_is_named_as_in_image_references() {
        for name in ["docker.io", "ghcr.io", "localhost", "a:5000", "[::1]:5000"] {
            check_registry(name).unwrap();
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
            assert!(check_registry(bad).is_err(), "{bad}");
        }
        let error = check_registry("index.docker.io").unwrap_err();
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
