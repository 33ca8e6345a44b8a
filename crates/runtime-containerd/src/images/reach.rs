//! Which hosts pulls may reach, and with what: every request and every redirect is looked at here before
//! it is sent, and every address of a name before it is connected to.
//!
//! Who names an image decides where the server connects to, and so does a registry by its redirects and
//! its token service. So connections go to public addresses only, and in plain text to nobody, unless the
//! operator listed the host. A name's addresses are filtered where the connection is made, so that a name
//! that changes its answer (DNS rebinding) gains nothing.

use super::config::RegistryConfig;
use super::hosts::{HostPattern, is_public, literal};
use super::lookup::Lookups;
use reqwest::Url;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use std::error::Error as StdError;
use std::net::{IpAddr, SocketAddr};

/// Why a request is not sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refused {
    #[error(
        "{0} has no public address, and registry.private of the server's configuration does not list it"
    )]
    Address(String),
    #[error(
        "{0} would be spoken to without TLS, and registry.insecure of the server's configuration does not \
         list it"
    )]
    PlainHttp(String),
    #[error("it leads to a URL that is neither https nor http")]
    Scheme,
    #[error("it leads from https to http")]
    Downgrade,
    #[error("it leads through too many redirects")]
    Redirects,
    #[error(
        "its token service {0} belongs to another domain, and registry.token_services of the server's \
         configuration does not list it"
    )]
    TokenService(String),
}

impl Refused {
    /// The refusal that an error of a request came from.
    pub(super) fn of<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a Self> {
        let mut error = Some(error);
        while let Some(current) = error {
            if let Some(refused) = current.downcast_ref() {
                return Some(refused);
            }
            error = current.source();
        }
        None
    }
}

/// How a host may be connected to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// At whatever address its name has: the operator listed it.
    Open,
    /// At public addresses only.
    Guarded,
}

/// What the operator listed, and what the environment sets.
#[derive(Debug, Clone)]
pub(super) struct Reach {
    plain_http: Vec<HostPattern>,
    private: Vec<HostPattern>,
    proxies: Vec<String>,
    lookups: Lookups,
}

impl Reach {
    pub(super) fn new(config: &RegistryConfig) -> Self {
        Self {
            plain_http: config.plain_http.clone(),
            private: config.private.clone(),
            proxies: proxies(|name| std::env::var(name).ok()),
            lookups: Lookups::new(config.connect_timeout),
        }
    }

    /// Whether, and how, a URL may be requested.
    pub(super) fn way(&self, url: &Url) -> Result<Way, Refused> {
        let listed = |list: &[HostPattern]| list.iter().any(|host| host.fits(url));
        let plain = listed(&self.plain_http);
        match url.scheme() {
            "https" => {}
            "http" if plain => {}
            "http" => return Err(Refused::PlainHttp(authority(url))),
            _ => return Err(Refused::Scheme),
        }
        if plain || listed(&self.private) {
            return Ok(Way::Open);
        }
        let refused = match literal(url) {
            Some(address) => {
                !is_public(address) || own_addresses().contains(&address.to_canonical())
            }
            // A proxy's own name is exempt where names are looked up, and a proxy would look up its own
            // loopback.
            None => {
                let host = url.host_str().unwrap_or_default().trim_end_matches('.');
                host == "localhost"
                    || host.ends_with(".localhost")
                    || self.proxies.iter().any(|proxy| proxy == host)
            }
        };
        match refused {
            true => Err(Refused::Address(authority(url))),
            false => Ok(Way::Guarded),
        }
    }

    /// Looks names up for connections that go the guarded way.
    pub(super) fn resolver(&self) -> PublicOnly {
        PublicOnly {
            proxies: self.proxies.clone(),
            lookups: self.lookups.clone(),
        }
    }

    /// Looks names up for all other connections.
    pub(super) fn anywhere(&self) -> Anywhere {
        Anywhere(self.lookups.clone())
    }
}

/// Host and port, as references have them.
pub(super) fn authority(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    match url.port() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    }
}

/// The proxies that the environment names, which the HTTP client uses and whoever started the server
/// chose. Behind one it is the proxy that looks names up.
fn proxies(variable: impl Fn(&str) -> Option<String>) -> Vec<String> {
    let names = [
        "https_proxy",
        "HTTPS_PROXY",
        "http_proxy",
        "HTTP_PROXY",
        "all_proxy",
        "ALL_PROXY",
    ];
    let host = |proxy: String| {
        let url = Url::parse(&proxy).ok().filter(Url::has_host);
        let url = url.or_else(|| Url::parse(&format!("http://{proxy}")).ok())?;
        Some(url.host_str()?.trim_end_matches('.').to_owned())
    };
    names
        .into_iter()
        .filter_map(variable)
        .filter_map(host)
        .collect()
}

/// This host's own addresses: behind a public one there may be services that a firewall keeps from
/// everybody else.
fn own_addresses() -> Vec<IpAddr> {
    let interfaces = match nix::ifaddrs::getifaddrs() {
        Ok(interfaces) => interfaces,
        Err(error) => {
            tracing::warn!(%error, "cannot list this host's addresses");
            return Vec::new();
        }
    };
    let address = |interface: nix::ifaddrs::InterfaceAddress| {
        let address = interface.address?;
        let v4 = address.as_sockaddr_in().map(|address| address.ip().into());
        v4.or_else(|| address.as_sockaddr_in6().map(|address| address.ip().into()))
    };
    interfaces.filter_map(address).collect()
}

/// Gives of a name's addresses those that are public and not this host's.
#[derive(Debug, Clone)]
pub(super) struct PublicOnly {
    proxies: Vec<String>,
    lookups: Lookups,
}

impl Resolve for PublicOnly {
    fn resolve(&self, name: Name) -> Resolving {
        let host = name.as_str().trim_end_matches('.').to_owned();
        let proxy = self.proxies.contains(&host);
        let lookups = self.lookups.clone();
        Box::pin(async move {
            let choose = |found| if proxy { found } else { public(found) };
            let public = lookups.find(name.as_str(), choose).await?;
            if public.is_empty() {
                return Err(Refused::Address(host).into());
            }
            Ok(Box::new(public.into_iter()) as Addrs)
        })
    }
}

/// Gives all of a name's addresses.
#[derive(Debug, Clone)]
pub(super) struct Anywhere(Lookups);

impl Resolve for Anywhere {
    fn resolve(&self, name: Name) -> Resolving {
        let lookups = self.0.clone();
        Box::pin(async move {
            let found = lookups.find(name.as_str(), |found| found).await?;
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}

fn public(mut found: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let own = own_addresses();
    found.retain(|address| is_public(address.ip()) && !own.contains(&address.ip().to_canonical()));
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reach() -> Reach {
        let listed = |hosts: &[&str]| hosts.iter().map(|host| host.parse().unwrap()).collect();
        Reach {
            plain_http: listed(&["plain.internal:5000"]),
            private: listed(&["private.internal", "10.1.2.3"]),
            proxies: vec!["proxy.internal".to_owned()],
            lookups: Lookups::new(std::time::Duration::from_secs(10)),
        }
    }

    #[test]
    fn a_url_is_judged_by_what_is_listed() {
        let reach = reach();
        for (url, way) in [
            ("https://ghcr.io/v2/", Ok(Way::Guarded)),
            ("https://8.8.8.8/v2/", Ok(Way::Guarded)),
            ("http://plain.internal:5000/v2/", Ok(Way::Open)),
            ("https://plain.internal:5000/v2/", Ok(Way::Open)),
            ("https://private.internal/v2/", Ok(Way::Open)),
            ("https://10.1.2.3/v2/", Ok(Way::Open)),
            ("http://private.internal/v2/", Err("without TLS")),
            ("http://ghcr.io/v2/", Err("without TLS")),
            ("http://plain.internal:22/", Err("without TLS")),
            ("https://10.1.2.3:22/", Err("no public address")),
            ("https://127.0.0.1/", Err("no public address")),
            ("https://2130706433/", Err("no public address")),
            ("https://0x7f.1/", Err("no public address")),
            ("https://[::ffff:127.0.0.1]/", Err("no public address")),
            ("https://169.254.169.254/latest", Err("no public address")),
            ("https://localhost/", Err("no public address")),
            ("https://LOCALHOST./", Err("no public address")),
            ("https://a.localhost/", Err("no public address")),
            ("https://proxy.internal:9/", Err("no public address")),
            ("ftp://ghcr.io/", Err("neither https nor http")),
            ("file:///etc/passwd", Err("neither https nor http")),
        ] {
            let judged = reach.way(&Url::parse(url).unwrap());
            match (judged, way) {
                (Ok(judged), Ok(way)) => assert_eq!(judged, way, "{url}"),
                (Err(refused), Err(text)) => {
                    assert!(refused.to_string().contains(text), "{url}: {refused}");
                }
                (judged, _) => panic!("{url}: {judged:?}"),
            }
        }
    }

    #[tokio::test]
    async fn a_name_that_leads_to_this_host_has_no_address() {
        let resolver = reach().resolver();
        let resolved = resolver.resolve("localhost".parse().unwrap()).await;
        let Err(error) = resolved else {
            panic!("localhost was given");
        };
        assert!(Refused::of(error.as_ref()).is_some(), "{error}");
    }

    #[test]
    fn addresses_that_are_not_public_and_our_own_are_left_out() {
        let found = ["8.8.8.8:0", "10.0.0.1:0", "[::1]:0", "[2606:4700::1]:0"];
        let left = public(found.map(|address| address.parse().unwrap()).into());
        assert_eq!(left.len(), 2, "{left:?}");
        assert!(own_addresses().contains(&IpAddr::from([127, 0, 0, 1])));
    }

    #[test]
    fn proxies_come_from_the_environment() {
        let set = |name: &str| match name {
            "https_proxy" => Some("http://proxy.internal:3128".to_owned()),
            "ALL_PROXY" => Some("other.internal:8080".to_owned()),
            _ => None,
        };
        assert_eq!(proxies(set), ["proxy.internal", "other.internal"]);
    }
}
