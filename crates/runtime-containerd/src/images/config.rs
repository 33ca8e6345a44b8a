//! What can be configured about registries.

use super::authorities::Authorities;
use super::hosts::HostPattern;
use botstead_runtime::Credentials;
use botstead_types::{Mirror, RegistryName};
use reqwest::Url;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// How registries are reached, and how large an image may be.
///
/// Registries are spoken to over HTTPS and at public addresses, except those that are listed. There is
/// no exception for this machine: on it are services that whoever names an image must not reach.
#[derive(Debug, Clone)]
pub struct RegistryConfig {
    /// Registries that are spoken to over plain HTTP, at whatever address they have.
    pub plain_http: Vec<HostPattern>,
    /// Hosts that may have an address that is not public, or is this machine's: registries, token
    /// services, and stores that registries redirect to.
    pub private: Vec<HostPattern>,
    /// Token services whose tokens registries of other domains may get.
    pub token_services: Vec<HostPattern>,
    /// How large an image may be that is pulled or imported.
    pub limits: ImageLimits,
    /// Sign-ins, by registry as it stands in image references, such as `ghcr.io` or `docker.io`, or by
    /// the beginning of what is below it, such as `ghcr.io/acme`; the longest that fits is used.
    pub credentials: BTreeMap<String, Credentials>,
    /// A file of more sign-ins in the format of docker's `config.json`, read anew for every pull.
    pub credentials_file: Option<PathBuf>,
    /// What is asked before a registry, in this order, by registry as it stands in image references.
    pub mirrors: BTreeMap<RegistryName, Vec<Mirror>>,
    /// Authorities beside the system's, that certificates of all hosts may be of.
    pub authorities: Option<Authorities>,
    /// More of them for one host each: a registry, a token service, or a store that a registry
    /// redirects to. The first that fits is used.
    pub authorities_of: Vec<(HostPattern, Authorities)>,
    /// Where it is kept what admins set for registries while the server runs, which takes the place of what
    /// is here for the same registry. Nothing can be set without it.
    pub set_registries_file: Option<PathBuf>,
    /// How many layers of one image are downloaded at a time.
    pub parallel_layers: usize,
    /// How long a connection may take to be made.
    pub connect_timeout: Duration,
    /// How long a registry may send nothing.
    pub read_timeout: Duration,
    /// How often something is tried, the first time included, before its failure is reported. A
    /// download that got on meanwhile starts counting again.
    pub attempts: u32,
    /// How long the first pause before another attempt is; each next one is twice as long, at most
    /// 10 seconds, and a random part of each is left out.
    pub backoff: Duration,
}

impl Default for RegistryConfig {
    fn default() -> Self {
        Self {
            plain_http: Vec::new(),
            private: Vec::new(),
            token_services: Vec::new(),
            limits: ImageLimits::default(),
            credentials: BTreeMap::new(),
            credentials_file: None,
            mirrors: BTreeMap::new(),
            authorities: None,
            authorities_of: Vec::new(),
            set_registries_file: None,
            parallel_layers: 4,
            connect_timeout: Duration::from_secs(10),
            read_timeout: Duration::from_secs(30),
            attempts: 4,
            backoff: Duration::from_millis(300),
        }
    }
}

impl RegistryConfig {
    /// Whether a registry, as it stands in a reference, is spoken to over plain HTTP.
    pub fn is_plain_http(&self, registry: &str) -> bool {
        let url = Url::parse(&format!("http://{registry}/"));
        url.is_ok_and(|url| self.plain_http.iter().any(|named| named.fits(&url)))
    }
}

/// How large an image may be that is pulled or imported. Images that are local are not measured again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImageLimits {
    /// How many layers it has, at most 256.
    pub layers: usize,
    /// The bytes of one layer as it is in the registry.
    pub layer_bytes: u64,
    /// The bytes of all layers as they are in the registry.
    pub bytes: u64,
    /// The bytes of all layers unpacked, without those that are unpacked already.
    pub unpacked_bytes: u64,
    /// The bytes of its configuration.
    pub config_bytes: u64,
}

impl Default for ImageLimits {
    fn default() -> Self {
        Self {
            layers: 256,
            layer_bytes: 16 << 30,
            bytes: 32 << 30,
            unpacked_bytes: 64 << 30,
            config_bytes: 1 << 20,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registries_that_are_listed_are_plain_http_and_no_others() {
        let config = RegistryConfig {
            plain_http: ["registry.internal:5000", "127.0.0.1:5000"]
                .map(|host| host.parse().unwrap())
                .into(),
            ..RegistryConfig::default()
        };
        for (registry, plain) in [
            ("localhost", false),
            ("localhost:5000", false),
            ("127.0.0.1:5000", true),
            ("127.0.0.1:5001", false),
            ("127.1.2.3", false),
            ("[::1]:5000", false),
            ("registry.internal:5000", true),
            ("registry.internal", false),
            ("docker.io", false),
            ("localhost.example.org", false),
            ("10.0.0.1:5000", false),
        ] {
            assert_eq!(config.is_plain_http(registry), plain, "{registry}");
        }
    }
}
