//! The lists of hosts that concern registries.

use super::validate::invalid;
use super::{ConfigError, Registry};
use botstead_runtime_containerd::images::HostPattern;

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
            insecure: read("registry.insecure", &self.insecure)?,
            private: read("registry.private", &self.private)?,
            token_services: read("registry.token_services", &self.token_services)?,
        })
    }
}

fn read(key: &'static str, entries: &[String]) -> Result<Vec<HostPattern>, ConfigError> {
    let hosts: Result<_, _> = entries.iter().map(|entry| entry.parse()).collect();
    hosts.map_err(|error: botstead_types::InvalidValue| invalid(key, error.to_string()))
}
