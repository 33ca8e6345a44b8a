//! The configuration: a TOML file and the environment over the defaults.
//!
//! This module owns how it is read, and refuses what cannot be meant. What each key does is in
//! the part of the server that gets it.

mod bounds;
mod keys;
mod registries;
mod settings;
mod validate;
mod words;

pub use keys::{Key, PREFIX, keys, render_documentation};
pub use registries::{Mirrors, RegistryHosts, TrustedAuthorities};
pub use settings::{
    Auth, Config, Containerd, ContainerdMode, Database, Http, Images, Log, LogFormat, MaxLimits,
    Network, Registry, Retention, Runtime, ServerLimits, Shutdown, Workspace, WorkspaceLimits,
};

use figment::providers::{Format, Serialized, Toml};
use figment::{Figment, Source};
use std::path::{Path, PathBuf};

/// Why the configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration file {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file is not TOML.
    #[error("the configuration file {} is not TOML", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Where and why.
        #[source]
        source: Box<toml::de::Error>,
    },
    /// There is no such key.
    #[error("{origin}: there is no key {name:?}{}", hint(nearest.as_deref()))]
    Unknown {
        /// Where it stands.
        origin: String,
        /// The key or variable.
        name: String,
        /// What was probably meant.
        nearest: Option<String>,
    },
    /// A value is of the wrong type, or no such value exists.
    #[error("{origin}: {key}: {reason}")]
    Type {
        /// Where it stands.
        origin: String,
        /// The key.
        key: String,
        /// What is expected, and what is there.
        reason: String,
    },
    /// A value cannot work.
    #[error("{key} is not valid: {reason}")]
    Invalid {
        /// The key.
        key: &'static str,
        /// What is wrong with it.
        reason: String,
    },
}

fn hint(nearest: Option<&str>) -> String {
    match nearest {
        Some(nearest) => format!(", did you mean {nearest:?}?"),
        None => "; see docs/CONFIGURATION.md".to_owned(),
    }
}

impl From<figment::Error> for ConfigError {
    fn from(error: figment::Error) -> Self {
        let origin = error.metadata.as_ref().map(|metadata| {
            // As it was given: figment would show a file from where the program runs.
            let file = metadata.source.as_ref().and_then(Source::file_path);
            match file {
                Some(file) => file.display().to_string(),
                None => metadata.name.to_string(),
            }
        });
        Self::Type {
            origin: origin.unwrap_or_else(|| "configuration".to_owned()),
            key: error.path.join("."),
            reason: words::reason(&error.kind),
        }
    }
}

/// Reads the configuration from `file`, where there is one, and from `environment`, where only
/// variables with [`PREFIX`] count.
///
/// # Errors
/// The first thing that is wrong, and where.
pub fn load(
    file: Option<&Path>,
    environment: impl IntoIterator<Item = (String, String)>,
) -> Result<Config, ConfigError> {
    let mut figment = Figment::from(Serialized::defaults(Config::default()));
    if let Some(path) = file {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
            path: path.to_owned(),
            source,
        })?;
        let table = text
            .parse::<toml::Table>()
            .map_err(|source| ConfigError::Syntax {
                path: path.to_owned(),
                source: Box::new(source),
            })?;
        check_table(path, "", &table)?;
        figment = figment.merge(Toml::file_exact(path));
    }
    for (name, value) in environment {
        let Some(key) = key_of_variable(&name)? else {
            continue;
        };
        figment = figment.merge(OneVariable { name, key, value });
    }
    let config: Config = figment.extract_lossy()?;
    config.validate()?;
    Ok(config)
}

fn check_table(file: &Path, section: &str, table: &toml::Table) -> Result<(), ConfigError> {
    let keys = keys();
    for (name, value) in table {
        let name = match section {
            "" => name.clone(),
            section => format!("{section}.{name}"),
        };
        match value {
            toml::Value::Table(table) if keys::is_section(&name) => {
                check_table(file, &name, table)?;
            }
            _ if keys::is_section(&name) || keys.iter().any(|key| key.name == name) => {}
            _ => {
                let names = keys.iter().map(|key| key.name.as_str());
                return Err(ConfigError::Unknown {
                    origin: file.display().to_string(),
                    nearest: keys::nearest(&name, names).map(str::to_owned),
                    name,
                });
            }
        }
    }
    Ok(())
}

/// The key that a variable sets; none for variables that do not concern the configuration.
fn key_of_variable(variable: &str) -> Result<Option<String>, ConfigError> {
    let other =
        variable.starts_with(keys::TEST_PREFIX) || keys::OTHER_VARIABLES.contains(&variable);
    if !variable.starts_with(PREFIX) || other {
        return Ok(None);
    }
    let keys = keys();
    let variables: Vec<String> = keys.iter().map(Key::variable).collect();
    match variables.iter().position(|known| known == variable) {
        Some(position) => Ok(Some(keys[position].name.clone())),
        None => Err(ConfigError::Unknown {
            origin: "environment".into(),
            name: variable.to_owned(),
            nearest: keys::nearest(variable, variables.iter().map(String::as_str))
                .map(str::to_owned),
        }),
    }
}

/// One environment variable as a figment provider.
struct OneVariable {
    name: String,
    key: String,
    value: String,
}

impl figment::Provider for OneVariable {
    fn metadata(&self) -> figment::Metadata {
        figment::Metadata::named(format!("environment variable {}", self.name))
    }

    fn data(
        &self,
    ) -> Result<figment::value::Map<figment::Profile, figment::value::Dict>, figment::Error> {
        // Lists and tables are parsed; a single value stays text, which the lossy extraction turns into a
        // number or a truth value where the key is one: `1234` may be a name.
        let value = match self.value.trim_start().starts_with(['[', '{']) {
            true => match self.value.parse::<figment::value::Value>() {
                Ok(value) => value,
                // The parser never fails: what is nothing else is a string.
                Err(never) => match never {},
            },
            false => figment::value::Value::from(self.value.clone()),
        };
        let nested = figment::util::nest(&self.key, value);
        let dict = nested.into_dict().unwrap_or_default();
        Ok(figment::Profile::Default.collect(dict))
    }
}
