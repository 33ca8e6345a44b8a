//! Sign-ins at registries, and the file that an operator keeps them in: docker's `config.json`
//! (containers-auth.json(5)). It is read anew for every pull, so that a change needs no restart.
//!
//! Nothing of what is read here may reach a log or an error: what is wrong with a file is told by its
//! place in it.

use super::config::RegistryConfig;
use crate::op::{Op, blocking};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use botstead_runtime::{Credentials, ErrorKind, Result};
use botstead_types::ImageRef;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fmt;
use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A file of sign-ins has some kilobytes.
const MAX_FILE: u64 = 1 << 20;
/// Docker's registry in image references.
const DOCKER: &str = "docker.io";

/// Sign-ins by what they are for: `host`, or `host/path` for the repositories below.
pub(super) type ByPlace = BTreeMap<String, Credentials>;

/// The sign-in with the longest place that an image is in.
pub(super) fn for_image<'a>(places: &'a ByPlace, image: &ImageRef) -> Option<&'a Credentials> {
    let registry = image.registry().to_ascii_lowercase();
    let whole = format!("{registry}/{}", image.repository());
    let mut place = whole.as_str();
    loop {
        if let Some(found) = places.get(place) {
            return Some(found);
        }
        place = place.rsplit_once('/')?.0;
    }
}

/// All sign-ins of the configuration.
#[derive(Debug)]
pub(super) struct SignIns {
    own: ByPlace,
    file: Option<Arc<CredentialsFile>>,
}

impl SignIns {
    /// Reads the file, where one is named.
    pub(super) fn new(config: &RegistryConfig) -> Result<Self> {
        let file = config.credentials_file.as_deref();
        let file = file.map(CredentialsFile::open).transpose()?;
        Ok(Self {
            own: config.credentials.clone(),
            file: file.map(Arc::new),
        })
    }

    /// All sign-ins by their places; those of the configuration itself go before the file's.
    pub(super) async fn all(&self) -> ByPlace {
        let mut all = ByPlace::clone(&*self.of_file().await);
        all.extend(self.own.clone());
        all
    }

    /// What the file says now.
    async fn of_file(&self) -> Arc<ByPlace> {
        let Some(file) = self.file.clone() else {
            return Arc::default();
        };
        let current = blocking(move || Ok(file.current())).await;
        current.unwrap_or_default()
    }
}

/// The file, and what it held when it was last in order.
#[derive(Debug)]
struct CredentialsFile {
    path: PathBuf,
    known: Mutex<Known>,
}

struct Known {
    /// None of a file that is not there.
    text: Option<Vec<u8>>,
    places: Arc<ByPlace>,
}

impl fmt::Debug for Known {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Known")
            .field("places", &self.places)
            .finish_non_exhaustive()
    }
}

impl CredentialsFile {
    fn open(path: &Path) -> Result<Self> {
        let op = Op::new("read registry.credentials_file", path.display());
        let refused = |reason: String| op.invalid(reason);
        let text = read(path)
            .map_err(|error| op.fail_with(ErrorKind::InvalidArgument, reason(&error), error))?;
        let places = parse(path, &text).map_err(refused)?;
        warn_when_open(path);
        Ok(Self {
            path: path.to_owned(),
            known: Mutex::new(Known {
                text: Some(text),
                places: Arc::new(places),
            }),
        })
    }

    /// What the file says now. While it cannot be read what it said before holds; once it is gone
    /// nothing does.
    fn current(&self) -> Arc<ByPlace> {
        let mut known = self.known();
        let path = self.path.display();
        match read(&self.path) {
            Ok(text) if known.text.as_ref() == Some(&text) => {}
            Ok(text) => {
                match parse(&self.path, &text) {
                    Ok(places) => {
                        tracing::info!(%path, "the file of registries' sign-ins was read anew");
                        known.places = Arc::new(places);
                    }
                    Err(reason) => tracing::warn!(%path, reason,
                        "the file of registries' sign-ins is not in order; what it held before is used"),
                }
                warn_when_open(&self.path);
                known.text = Some(text);
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if known.text.take().is_some() {
                    tracing::warn!(%path, "the file of registries' sign-ins is gone; none of them is used");
                }
                known.places = Arc::default();
            }
            Err(error) => tracing::warn!(%path, reason = reason(&error),
                "the file of registries' sign-ins cannot be read; what it held before is used"),
        }
        Arc::clone(&known.places)
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why something cannot be read, for whoever keeps it.
pub(super) fn reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "there is no such file".to_owned(),
        _ => error.to_string(),
    }
}

/// Reads a file of the operator's, which may be a link, but nothing that blocks or has no end.
pub(super) fn read(path: &Path) -> io::Result<Vec<u8>> {
    let flags = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(flags)
        .open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is not a file"));
    }
    let mut text = Vec::new();
    file.take(MAX_FILE + 1).read_to_end(&mut text)?;
    if text.len() as u64 > MAX_FILE {
        return Err(io::Error::other("it is larger than 1 MiB"));
    }
    Ok(text)
}

fn warn_when_open(path: &Path) {
    let mode = std::fs::metadata(path).map_or(0, |metadata| metadata.mode() & 0o7777);
    if mode & 0o077 != 0 {
        tracing::warn!(path = %path.display(), mode = format!("{mode:04o}"),
            "the file of registries' sign-ins is open to others; run: chmod 600 {}", path.display());
    }
}

/// docker's `config.json`, as far as it concerns sign-ins.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct DockerConfig {
    #[serde(default)]
    auths: BTreeMap<String, Entry>,
    #[serde(default)]
    creds_store: String,
    #[serde(default)]
    cred_helpers: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Entry {
    #[serde(default)]
    auth: String,
    #[serde(default)]
    username: String,
    #[serde(default)]
    password: String,
    #[serde(default)]
    identitytoken: String,
}

fn parse(path: &Path, text: &[u8]) -> Result<ByPlace, String> {
    // The library's own words would show values.
    let config: DockerConfig = serde_json::from_slice(text).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        format!("it is not in the format of docker's config.json (line {line}, column {column})")
    })?;
    if !config.creds_store.is_empty() || !config.cred_helpers.is_empty() {
        tracing::warn!(path = %path.display(),
            "credsStore and credHelpers name programs, which this server does not run: registries whose \
             sign-in is not in auths are asked without one");
    }
    let mut places = ByPlace::new();
    // What is written as today wins over the forms of old.
    let (old, new): (Vec<_>, Vec<_>) = config
        .auths
        .into_iter()
        .partition(|(key, _)| key.contains("://"));
    for (key, entry) in old.into_iter().chain(new) {
        let place =
            place(&key).ok_or_else(|| format!("auths has {key:?}, which is no registry"))?;
        let credentials = entry
            .credentials()
            .map_err(|reason| format!("auths.{key:?}: {reason}"))?;
        if let Some(credentials) = credentials {
            places.insert(place, credentials);
        }
    }
    Ok(places)
}

/// What a key of `auths` is for, as image references have it. Docker's own used to be URLs, of which only
/// the host counts.
fn place(key: &str) -> Option<String> {
    let url = key
        .strip_prefix("https://")
        .or_else(|| key.strip_prefix("http://"));
    let name = url.unwrap_or(key).trim_end_matches('/');
    let (host, path) = match name.split_once('/') {
        Some((host, path)) => (host, Some(path)),
        None => (name, None),
    };
    let host = host.to_ascii_lowercase();
    if host.is_empty() || host.contains(char::is_whitespace) {
        return None;
    }
    let docker = matches!(host.as_str(), "index.docker.io" | "registry-1.docker.io");
    let host = if docker { DOCKER.to_owned() } else { host };
    match path {
        // `https://index.docker.io/v1/`, also without its scheme.
        Some("v1" | "v2") if docker => Some(host),
        Some(path) if url.is_none() => Some(format!("{host}/{path}")),
        _ => Some(host),
    }
}

impl Entry {
    /// None for an entry that says nothing, as those have whose sign-in a program keeps.
    fn credentials(self) -> Result<Option<Credentials>, &'static str> {
        if !self.identitytoken.is_empty() {
            return Ok(Some(Credentials::IdentityToken(self.identitytoken)));
        }
        if self.auth.is_empty() {
            return match (self.username.is_empty(), self.password.is_empty()) {
                (true, true) => Ok(None),
                (true, false) => Err("it has a password and no username"),
                (false, _) => Ok(Some(Credentials::Password {
                    username: self.username,
                    password: self.password,
                })),
            };
        }
        let decoded = BASE64.decode(self.auth.trim()).ok();
        let decoded = decoded.and_then(|bytes| String::from_utf8(bytes).ok());
        let decoded = decoded.ok_or("its auth is not base64 of text")?;
        match decoded.split_once(':') {
            Some((username, password)) if !username.is_empty() => Ok(Some(Credentials::Password {
                username: username.to_owned(),
                password: password.trim_end_matches('\0').to_owned(),
            })),
            _ => Err("its auth is not base64 of username:password"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn password(username: &str, password: &str) -> Credentials {
        Credentials::Password {
            username: username.into(),
            password: password.into(),
        }
    }

    fn parsed(config: serde_json::Value) -> Result<ByPlace, String> {
        parse(Path::new("config.json"), config.to_string().as_bytes())
    }

    fn auth(text: &str) -> serde_json::Value {
        json!({"auth": BASE64.encode(text)})
    }

    #[test]
    fn the_longest_place_that_an_image_is_in_wins() {
        let places = parsed(json!({"auths": {
            "https://index.docker.io/v1/": auth("docker:a:b"),
            "https://Old.example.org:5000/v1/": auth("old:x"),
            "ghcr.io": auth("host:x"),
            "ghcr.io/acme": auth("acme:x"),
            "ghcr.io/acme/bot/": {"username": "bot", "password": "x"},
            "token.example.org": {"auth": BASE64.encode("user:"), "identitytoken": "t"},
            "stored.example.org": {},
        }, "credsStore": "desktop", "HttpHeaders": {"a": "b"}}))
        .unwrap();
        for (image, found) in [
            ("debian", Some(password("docker", "a:b"))),
            ("org/app", Some(password("docker", "a:b"))),
            ("old.example.org:5000/a", Some(password("old", "x"))),
            ("ghcr.io/other/app", Some(password("host", "x"))),
            ("ghcr.io/acme2/app", Some(password("host", "x"))),
            ("ghcr.io/acme/app", Some(password("acme", "x"))),
            ("ghcr.io/acme/bot", Some(password("bot", "x"))),
            ("ghcr.io/acme/bot/a:1", Some(password("bot", "x"))),
            ("ghcr.io/acme/bot2", Some(password("acme", "x"))),
            (
                "token.example.org/a",
                Some(Credentials::IdentityToken("t".into())),
            ),
            ("stored.example.org/a", None),
            ("ghcr.io:5000/acme/app", None),
            ("a.ghcr.io/acme/app", None),
        ] {
            let image: ImageRef = image.parse().unwrap();
            assert_eq!(for_image(&places, &image), found.as_ref(), "{image}");
        }
    }

    #[test]
    fn what_is_written_as_today_wins_over_what_is_written_as_of_old() {
        for (one, other) in [
            ("https://index.docker.io/v1/", "docker.io"),
            ("https://ghcr.io", "ghcr.io"),
        ] {
            let auths = json!({"auths": {one: auth("old:x"), other: auth("new:x")}});
            let places = parsed(auths).unwrap();
            assert_eq!(places[other], password("new", "x"));
            assert_eq!(places.len(), 1);
        }
    }

    #[test]
    fn what_is_wrong_is_told_without_what_is_secret() {
        for (config, told) in [
            (json!({"auths": {"a.example": auth("secret")}}), "a.example"),
            (json!({"auths": {"a.example": auth(":secret")}}), "username"),
            (
                json!({"auths": {"a.example": {"auth": "secret!"}}}),
                "base64",
            ),
            (
                json!({"auths": {"a.example": {"password": "secret"}}}),
                "no username",
            ),
            (json!({"auths": {"a.example": "secret"}}), "config.json"),
            (json!({"auths": "secret"}), "config.json"),
            (json!({"auths": {"https:///v1/": {}}}), "no registry"),
        ] {
            let error = parsed(config.clone()).unwrap_err();
            assert!(error.contains(told), "{config}: {error}");
            assert!(!error.contains("secret"), "{error}");
        }
        let shown = format!("{:?}", password("anna", "secret"));
        assert!(!shown.contains("secret"), "{shown}");
        let shown = format!("{:?}", Credentials::IdentityToken("secret".into()));
        assert!(!shown.contains("secret"), "{shown}");
    }

    #[test]
    fn a_file_is_read_anew_and_a_broken_one_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.json");
        let error = CredentialsFile::open(&path).unwrap_err().to_string();
        assert!(error.contains("no such file"), "{error}");
        let write = |config: &str| std::fs::write(&path, config).unwrap();
        let auths = |text: &str| json!({"auths": {"a.example": auth(text)}}).to_string();
        write("{");
        let error = CredentialsFile::open(&path).unwrap_err().to_string();
        assert!(error.contains("line 1"), "{error}");
        write(&auths("one:x"));
        let file = CredentialsFile::open(&path).unwrap();
        let found = || file.current().get("a.example").cloned();
        assert_eq!(found(), Some(password("one", "x")));
        write(&auths("two:x"));
        assert_eq!(found(), Some(password("two", "x")));
        for broken in ["{", "{\"auths\": 1}"] {
            write(broken);
            assert_eq!(found(), Some(password("two", "x")), "{broken}");
        }
        std::fs::remove_file(&path).unwrap();
        assert_eq!(found(), None);
        write(&auths("three:x"));
        assert_eq!(found(), Some(password("three", "x")));
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        assert_eq!(found(), Some(password("three", "x")));
    }
}
