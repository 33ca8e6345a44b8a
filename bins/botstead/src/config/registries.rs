//! What the configuration says of registries, read.

use super::validate::{absolute, invalid};
use super::{ConfigError, Registry};
use botstead_runtime_containerd::images::HostPattern;
use botstead_types::{InvalidValue, Mirror, RegistryName};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::str::FromStr;

/// Mirrors by the registry before which they are asked.
pub type Mirrors = BTreeMap<RegistryName, Vec<Mirror>>;

/// What [`Registry`] lists, read.
#[derive(Debug)]
pub struct RegistryHosts {
    /// Those that are spoken to without TLS.
    pub insecure: Vec<HostPattern>,
    /// Those that may be at any address.
    pub private: Vec<HostPattern>,
    /// Those that issue tokens for registries of other domains.
    pub token_services: Vec<HostPattern>,
}

impl Registry {
    /// The lists of hosts.
    ///
    /// # Errors
    /// `Invalid` for an entry that is no host.
    pub fn hosts(&self) -> Result<RegistryHosts, ConfigError> {
        Ok(RegistryHosts {
            insecure: parse("registry.insecure", &self.insecure)?,
            private: parse("registry.private", &self.private)?,
            token_services: parse("registry.token_services", &self.token_services)?,
        })
    }

    /// What is asked before each registry.
    ///
    /// # Errors
    /// `Invalid` for what is no registry or no mirror, or for too many.
    pub fn mirrors(&self) -> Result<Mirrors, ConfigError> {
        let key = "registry.mirrors";
        let mut all = Mirrors::new();
        for (registry, mirrors) in &self.mirrors {
            if mirrors.len() > Mirror::MOST {
                let reason = format!("{registry}: expected at most {} mirrors", Mirror::MOST);
                return Err(invalid(key, reason));
            }
            let name: Result<RegistryName, _> = registry.parse();
            let name = name.map_err(|error| invalid(key, error.to_string()))?;
            all.insert(name, parse(key, mirrors)?);
        }
        Ok(all)
    }
}

/// Certificate authorities that are trusted beside the system's.
#[derive(Debug)]
pub struct TrustedAuthorities {
    /// For all hosts.
    pub of_all: Option<PathBuf>,
    /// For one host each, those with a port of their own first.
    pub of_hosts: Vec<(HostPattern, PathBuf)>,
}

impl Registry {
    /// Where certificate authorities are. Nothing is read.
    ///
    /// # Errors
    /// `Invalid` for what is no host, and for a path that is not absolute.
    pub fn authorities(&self) -> Result<TrustedAuthorities, ConfigError> {
        let key = "registry.certificate_authorities";
        let mut trusted = TrustedAuthorities {
            of_all: None,
            of_hosts: Vec::new(),
        };
        // `*` sorts before all ports.
        for (host, path) in self.certificate_authorities.iter().rev() {
            absolute(key, path)?;
            if host == "*" {
                trusted.of_all = Some(path.clone());
                continue;
            }
            let host = host
                .parse()
                .map_err(|error: InvalidValue| invalid(key, error.to_string()))?;
            trusted.of_hosts.push((host, path.clone()));
        }
        Ok(trusted)
    }
}

fn parse<T>(key: &'static str, entries: &[String]) -> Result<Vec<T>, ConfigError>
where
    T: FromStr<Err = InvalidValue>,
{
    let parsed: Result<_, _> = entries.iter().map(|entry| entry.parse()).collect();
    parsed.map_err(|error: InvalidValue| invalid(key, error.to_string()))
}
