//! What admins set for registries while the server runs. It takes the place of what the configuration
//! says of the same registry, and is kept in a file of secrets.

use super::ContainerdImages;
use super::authorities::Authorities;
use super::config::RegistryConfig;
use super::credentials::{ByPlace, for_image, read, reason};
use super::hosts::HostPattern;
use super::http::Http;
use super::registry::answers_at;
use crate::op::{Op, blocking};
use async_trait::async_trait;
use botstead_runtime::{
    Credentials, ErrorKind, Registries, Registry, RegistrySettings, RegistrySource, Result,
    SignedInBy,
};
use botstead_types::{ImageRef, InvalidValue, Mirror, RegistryName};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use tokio::sync::Mutex;

/// Each may have clients of its own.
const MOST_SET: usize = 100;
/// What is said of all registries together, as it is in the file.
const MAX_FILE: usize = 1 << 20;

/// What one pull knows of registries, whatever is set meanwhile.
#[derive(Debug)]
pub(super) struct Known {
    set: BTreeMap<RegistryName, RegistrySettings>,
    pub(super) http: Http,
}

impl Known {
    fn new(
        op: &Op,
        config: &RegistryConfig,
        set: BTreeMap<RegistryName, RegistrySettings>,
    ) -> Result<Self> {
        let mut authorities = Vec::new();
        for (name, settings) in &set {
            let pem = settings.certificate_authorities.as_ref();
            let read = pem.map(|pem| Authorities::from_pem(pem.as_bytes()));
            let read = read.transpose();
            let read = read.map_err(|why| op.invalid(format!("certificate_authorities: {why}")))?;
            let host: Result<HostPattern, _> = answers_at(name.as_str()).parse();
            let host = host.map_err(|error| op.invalid(error.to_string()))?;
            authorities.push((host, read));
        }
        Ok(Self {
            http: Http::new(config, &authorities)?,
            set,
        })
    }

    /// What an admin set for an image's registry.
    fn of(&self, image: &ImageRef) -> Option<&RegistrySettings> {
        self.set.get(&*image.registry().to_ascii_lowercase())
    }

    /// What is asked before an image's registry.
    pub(super) fn mirrors<'a>(
        &'a self,
        config: &'a RegistryConfig,
        image: &ImageRef,
    ) -> &'a [Mirror] {
        match self.of(image) {
            Some(set) => &set.mirrors,
            None => config
                .mirrors
                .get(&*image.registry().to_ascii_lowercase())
                .map_or(&[], Vec::as_slice),
        }
    }

    /// The sign-in for an image's repository, if there is one, beside what is configured.
    pub(super) fn sign_in(&self, configured: &ByPlace, image: &ImageRef) -> Option<Credentials> {
        match self.of(image) {
            Some(set) => set.credentials.clone(),
            None => for_image(configured, image).cloned(),
        }
    }
}

/// What is known now, and where it is kept.
#[derive(Debug)]
pub(super) struct SetRegistries {
    file: Option<PathBuf>,
    known: RwLock<Arc<Known>>,
    /// Held by whoever changes something.
    changing: Mutex<()>,
}

impl SetRegistries {
    /// Reads what was set earlier, where it is kept in a file.
    pub(super) fn new(config: &RegistryConfig) -> Result<Self> {
        let file = config.set_registries_file.clone();
        let (op, set) = match &file {
            None => (Op::new("set up", "registries"), BTreeMap::new()),
            Some(file) => {
                let op = Op::new("use the settings of registries in", file.display());
                let set = load(file).map_err(|why| op.invalid(why))?;
                (op, set)
            }
        };
        Ok(Self {
            file,
            known: RwLock::new(Arc::new(Known::new(&op, config, set)?)),
            changing: Mutex::default(),
        })
    }

    pub(super) fn known(&self) -> Arc<Known> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&known)
    }

    /// Changes what is set: on the disk first, and not at all where something of it is wrong.
    async fn change(
        &self,
        op: &Op,
        config: &RegistryConfig,
        change: impl FnOnce(&mut BTreeMap<RegistryName, RegistrySettings>) -> Result<()>,
    ) -> Result<()> {
        let Some(file) = self.file.clone() else {
            return Err(op.fail(
                ErrorKind::Unsupported,
                "there is no file to keep it in; it can be configured",
            ));
        };
        let _changing = self.changing.lock().await;
        let mut set = self.known().set.clone();
        change(&mut set)?;
        if set.len() > MOST_SET {
            return Err(op.invalid(format!("at most {MOST_SET} registries can be set")));
        }
        let text = text(&set)
            .map_err(|error| op.fail_with(ErrorKind::Internal, "it cannot be written", error))?;
        if text.len() > MAX_FILE {
            return Err(op.invalid("what is set for all registries has more than 1 MiB"));
        }
        // Certificates are read and clients made.
        let (of, config) = (op.clone(), config.clone());
        let made = tokio::task::spawn_blocking(move || Known::new(&of, &config, set));
        let made = made
            .await
            .map_err(|error| op.fail_with(ErrorKind::Internal, "it ended early", error))??;
        let failed = |error| op.io("it cannot be kept", error);
        let place = file.clone();
        blocking(move || keep(&place, &text))
            .await
            .map_err(failed)?;
        // It is what the next start finds.
        *self.known.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(made);
        let synced = blocking(move || File::open(folder_of(&file))?.sync_all());
        synced.await.map_err(failed)
    }
}

#[async_trait]
impl Registries for ContainerdImages {
    async fn list(&self) -> Result<Vec<Registry>> {
        let known = self.set_registries.known();
        let set = known.set.iter();
        let mut all: Vec<_> = set.map(|(name, set)| Registry::set(name, set)).collect();
        let sign_ins = self.sign_ins.all().await;
        let authorities = self.config.authorities_of.iter();
        let mut authorities: BTreeSet<_> = authorities.map(|(host, _)| host.to_string()).collect();
        authorities.extend(self.config.authorities.as_ref().map(|_| "*".to_owned()));
        let mut names: BTreeSet<String> = authorities.clone();
        names.extend(sign_ins.keys().cloned());
        names.extend(self.config.mirrors.keys().map(ToString::to_string));
        for name in names {
            let registry = name.split_once('/').map_or(name.as_str(), |(host, _)| host);
            if known.set.contains_key(registry) {
                continue;
            }
            let mirrors = self.config.mirrors.get(name.as_str());
            all.push(Registry {
                source: RegistrySource::Configuration,
                signed_in_by: sign_ins.get(&name).map(SignedInBy::from),
                mirrors: mirrors.cloned().unwrap_or_default(),
                has_authorities: authorities.contains(&name),
                name,
            });
        }
        all.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(all)
    }

    async fn set(&self, name: &RegistryName, settings: RegistrySettings) -> Result<Registry> {
        let op = Op::new("set registry", name);
        let set = Registry::set(name, &settings);
        let change = |all: &mut BTreeMap<_, _>| {
            all.insert(name.clone(), settings);
            Ok(())
        };
        self.set_registries
            .change(&op, &self.config, change)
            .await?;
        Ok(set)
    }

    async fn forget(&self, name: &RegistryName) -> Result<()> {
        let op = Op::new("forget registry", name);
        let change = |all: &mut BTreeMap<_, _>| {
            let unknown = || op.fail(ErrorKind::NotFound, "nothing was set for it");
            all.remove(name).map(drop).ok_or_else(unknown)
        };
        self.set_registries.change(&op, &self.config, change).await
    }
}

/// The file, of which nothing but what is known is taken.
#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    registries: BTreeMap<String, KeptSettings>,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct KeptSettings {
    #[serde(skip_serializing_if = "Option::is_none")]
    username: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    password: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    identity_token: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    mirrors: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    certificate_authorities: Option<String>,
}

impl From<&RegistrySettings> for KeptSettings {
    fn from(settings: &RegistrySettings) -> Self {
        let mut kept = Self {
            mirrors: settings.mirrors.iter().map(ToString::to_string).collect(),
            certificate_authorities: settings.certificate_authorities.clone(),
            ..Self::default()
        };
        match settings.credentials.clone() {
            None => {}
            Some(Credentials::Password { username, password }) => {
                (kept.username, kept.password) = (Some(username), Some(password));
            }
            Some(Credentials::IdentityToken(token)) => kept.identity_token = Some(token),
        }
        kept
    }
}

impl TryFrom<KeptSettings> for RegistrySettings {
    type Error = String;

    fn try_from(kept: KeptSettings) -> Result<Self, String> {
        let told = |error: InvalidValue| error.to_string();
        let credentials = Credentials::of(kept.username, kept.password, kept.identity_token);
        let mirrors = kept.mirrors.iter().map(|mirror| mirror.parse());
        let mirrors: Result<_, _> = mirrors.collect();
        let settings = Self {
            credentials: credentials.map_err(told)?,
            mirrors: mirrors.map_err(told)?,
            certificate_authorities: kept.certificate_authorities,
        };
        settings.check().map_err(told)?;
        Ok(settings)
    }
}

fn text(set: &BTreeMap<RegistryName, RegistrySettings>) -> serde_json::Result<Vec<u8>> {
    let registries = set.iter();
    let registries = registries.map(|(name, settings)| (name.to_string(), settings.into()));
    serde_json::to_vec_pretty(&Kept {
        registries: registries.collect(),
    })
}

/// What a file keeps; nothing where there is none.
fn load(file: &Path) -> Result<BTreeMap<RegistryName, RegistrySettings>, String> {
    clear(file).map_err(|error| reason(&error))?;
    let text = match read(file) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(error) => return Err(reason(&error)),
    };
    let metadata = std::fs::metadata(file).map_err(|error| error.to_string())?;
    let mode = metadata.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(format!("its mode is {mode:04o} and not 0600"));
    }
    // The library's own words would show values.
    let kept: Kept = serde_json::from_slice(&text).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        format!(
            "it is damaged (line {line}, column {column}); mend it, or remove it and set them again"
        )
    })?;
    let mut set = BTreeMap::new();
    for (name, settings) in kept.registries {
        let known: RegistryName = name
            .parse()
            .map_err(|error: InvalidValue| error.to_string())?;
        let settings = settings
            .try_into()
            .map_err(|why: String| format!("{name}: {why}"))?;
        set.insert(known, settings);
    }
    Ok(set)
}

/// Where the next file is until it is whole: one name, so that none with secrets is left for good.
fn beside(file: &Path) -> PathBuf {
    file.with_extension("new")
}

/// Removes what was cut off.
fn clear(file: &Path) -> io::Result<()> {
    match std::fs::remove_file(beside(file)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn folder_of(file: &Path) -> &Path {
    file.parent().unwrap_or(Path::new("."))
}

/// Puts the whole file in the place of the one before. Its folder is to be synced afterwards.
fn keep(file: &Path, text: &[u8]) -> io::Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder_of(file))?;
    clear(file)?;
    let kept = (|| {
        let mut new = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(beside(file))?;
        new.write_all(text)?;
        new.sync_all()?;
        std::fs::rename(beside(file), file)
    })();
    if kept.is_err() {
        // It is tried again before the next one, and at the next start.
        let _ = clear(file);
    }
    kept
}
