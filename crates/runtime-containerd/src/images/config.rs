//! What can be configured about registries.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

/// How registries are reached.
///
/// Registries are spoken to over HTTPS, except those named in `plain_http` and those on this
/// machine: `localhost` and `127.0.0.0/8` (and `[::1]`), with or without a port, are spoken to over
/// plain HTTP, as Docker does it.
#[derive(Debug, Clone)]
pub struct RegistryConfig {
    /// Registries that are spoken to over plain HTTP, as they stand in image references, such as
    /// `registry.internal:5000`.
    pub plain_http: Vec<String>,
    /// Sign-ins, by registry as it stands in image references, such as `ghcr.io` or `docker.io`.
    pub credentials: BTreeMap<String, Credentials>,
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
            credentials: BTreeMap::new(),
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
        self.plain_http.iter().any(|named| named == registry) || is_loopback(registry)
    }
}

/// A user's sign-in at a registry.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The user name.
    pub username: String,
    /// The password or token.
    pub password: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("username", &self.username)
            .finish_non_exhaustive()
    }
}

fn is_loopback(registry: &str) -> bool {
    let host = match registry.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => registry.split(':').next().unwrap_or_default(),
    };
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registries_of_this_machine_and_named_ones_are_plain_http() {
        let config = RegistryConfig {
            plain_http: vec!["registry.internal:5000".into()],
            ..RegistryConfig::default()
        };
        for (registry, plain) in [
            ("localhost", true),
            ("localhost:5000", true),
            ("127.0.0.1:5000", true),
            ("127.1.2.3", true),
            ("[::1]:5000", true),
            ("registry.internal:5000", true),
            ("registry.internal", false),
            ("docker.io", false),
            ("localhost.example.org", false),
            ("10.0.0.1:5000", false),
        ] {
            assert_eq!(config.is_plain_http(registry), plain, "{registry}");
        }
    }

    #[test]
    fn a_password_is_not_printed() {
        let credentials = Credentials {
            username: "anna".into(),
            password: "secret".into(),
        };
        assert!(!format!("{credentials:?}").contains("secret"));
    }
}
