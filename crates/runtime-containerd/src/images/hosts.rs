//! Hosts as an operator lists them, and which addresses are public.

use botstead_types::InvalidValue;
use reqwest::Url;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// A host that is listed: `host` is its usual port alone, `host:port` that port, `host:*` any.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPattern {
    /// As URLs have it.
    host: String,
    port: Port,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Port {
    Usual,
    Number(u16),
    Any,
}

impl HostPattern {
    /// Whether a URL's host and port are meant.
    pub(super) fn fits(&self, url: &Url) -> bool {
        url.host_str() == Some(&self.host)
            && match self.port {
                Port::Usual => url.port().is_none(),
                Port::Number(port) => url.port_or_known_default() == Some(port),
                Port::Any => true,
            }
    }
}

impl FromStr for HostPattern {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let refused = || {
            InvalidValue::new(
                "host",
                text,
                "expected host, host:port or host:*, not a URL",
            )
        };
        let (host, port) = match text.strip_suffix(":*") {
            Some(host) => (host, Some(Port::Any)),
            None => (text, None),
        };
        let plain = |c: char| c.is_ascii_alphanumeric() || "-._:[]".contains(c);
        if host.is_empty() || !host.chars().all(plain) {
            return Err(refused());
        }
        // No scheme's usual port, so that every port that is named is seen.
        let url = Url::parse(&format!("http://{host}/")).map_err(|_| refused())?;
        let named = host
            .rsplit_once(':')
            .filter(|(_, port)| !port.contains(']'));
        let port = match (port, named) {
            (Some(_), Some(_)) => return Err(refused()),
            (Some(port), None) => port,
            (None, Some((_, number))) => Port::Number(number.parse().map_err(|_| refused())?),
            (None, None) => Port::Usual,
        };
        let host = url.host_str().ok_or_else(refused)?.to_owned();
        Ok(Self { host, port })
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Port::Usual => f.write_str(&self.host),
            Port::Number(port) => write!(f, "{}:{port}", self.host),
            Port::Any => write!(f, "{}:*", self.host),
        }
    }
}

/// The address that stands in a URL in place of a name.
pub(super) fn literal(url: &Url) -> Option<IpAddr> {
    let host = url.host_str()?;
    host.trim_matches(['[', ']']).parse().ok()
}

/// Whether two hosts belong to one domain: the same name or address, or names below the same domain that
/// somebody can own. Without a list of all public suffixes that is told from the names' form: below
/// `co.uk` and its like a domain has one label more.
pub(super) fn same_domain(one: &Url, other: &Url) -> bool {
    let (Some(a), Some(b)) = (one.host_str(), other.host_str()) else {
        return false;
    };
    if a == b {
        return true;
    }
    if literal(one).is_some() || literal(other).is_some() {
        return false;
    }
    domain(a).is_some_and(|domain_of| Some(domain_of) == domain(b))
}

/// The domain that somebody can own and a host belongs to, by the same rule; the host where it has none.
pub(super) fn domain_of(host: &str) -> &str {
    domain(host).unwrap_or(host.trim_end_matches('.'))
}

fn domain(host: &str) -> Option<&str> {
    let host = host.trim_end_matches('.');
    let labels: Vec<&str> = host.split('.').collect();
    let (top, second) = match labels.as_slice() {
        [.., second, top] => (top, second),
        _ => return None,
    };
    let wanted = match top.len() == 2 && second.len() <= 3 {
        true => 3,
        false => 2,
    };
    let skipped = labels.len().checked_sub(wanted)?;
    let start: usize = labels[..skipped].iter().map(|label| label.len() + 1).sum();
    host.get(start..)
}

/// Whether an address is one of the public internet, so that nobody's own network is reached by it
/// (IANA's registries of special-purpose addresses).
pub(super) fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let special = matches!(
        (a, b, c),
        // This network, private, shared (CGNAT), loopback, link-local.
        (0 | 10 | 127, ..)
            | (100, 64..=127, _)
            | (169, 254, _)
            | (172, 16..=31, _)
            | (192, 168, _)
            // Protocol assignments, documentation, relays of 6to4, benchmarks.
            | (192, 0, 0 | 2)
            | (192, 88, 99)
            | (198, 18..=19, _)
            | (198, 51, 100)
            | (203, 0, 113)
            // Multicast, reserved, broadcast.
            | (224..=255, ..)
    );
    !special
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    let [a, b, c, d, e, f, g, h] = address.segments();
    let embedded = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        is_public_v4(Ipv4Addr::new(a, b, c, d))
    };
    match (a, b) {
        // IPv4 in IPv6: mapped, translated (NAT64), 6to4.
        (0, 0) if (c, d, e, f) == (0, 0, 0, 0xffff) => embedded(g, h),
        (0x64, 0xff9b) if (c, d, e, f) == (0, 0, 0, 0) => embedded(g, h),
        (0x2002, _) => embedded(b, c),
        // Protocol assignments with Teredo, documentation twice.
        (0x2001, 0..=0x1ff | 0xdb8) | (0x3fff, 0..=0xfff) => false,
        // Of everything else only global unicast is in use.
        (0x2000..=0x3fff, _) => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    #[test]
    fn a_listed_host_is_meant_with_its_port_or_with_any() {
        for (pattern, address, fits) in [
            ("registry.internal", "http://registry.internal/v2/", true),
            ("registry.internal", "https://registry.internal:443/", true),
            ("registry.internal", "http://registry.internal:5000/", false),
            (
                "Registry.Internal:5000",
                "http://registry.internal:5000/",
                true,
            ),
            (
                "registry.internal:5000",
                "http://registry.internal:22/",
                false,
            ),
            ("registry.internal:80", "http://registry.internal/", true),
            ("127.0.0.1:*", "http://127.0.0.1:4999/", true),
            ("127.0.0.1:*", "http://127.1:4999/", true),
            ("127.0.0.1:*", "http://127.0.0.2:4999/", false),
            ("[::1]:5000", "http://[0:0::1]:5000/", true),
            ("[::1]:*", "http://[::1]:9/", true),
            ("a.example", "http://b.a.example/", false),
        ] {
            let listed: HostPattern = pattern.parse().unwrap();
            assert_eq!(listed.fits(&url(address)), fits, "{pattern} {address}");
        }
        for bad in [
            "", ":5000", "http://a", "a/b", "a b", "u@a", "a:", "a:99999", "a:1:*", "*", "*:*",
        ] {
            assert!(bad.parse::<HostPattern>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn only_addresses_of_the_public_internet_are_public() {
        for address in [
            "8.8.8.8",
            "1.1.1.1",
            "172.15.0.1",
            "172.32.0.1",
            "100.63.0.1",
            "100.128.0.1",
            "192.0.1.1",
            "2606:4700::1111",
            "::ffff:8.8.8.8",
            "64:ff9b::808:808",
            "2002:808:808::1",
        ] {
            assert!(is_public(address.parse().unwrap()), "{address}");
        }
        for address in [
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "100.64.0.1",
            "100.127.255.255",
            "127.0.0.1",
            "127.255.0.1",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.8",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::7f00:1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "::ffff:169.254.169.254",
            "::ffff:0:127.0.0.1",
            "64:ff9b::7f00:1",
            "64:ff9b:1::808:808",
            "100::1",
            "2001::1",
            "2001:db8::1",
            "2002:7f00:1::1",
            "2002:a9fe:a9fe::1",
            "3fff::1",
            "5f00::1",
            "fc00::1",
            "fd00:ec2::254",
            "fe80::1",
            "fec0::1",
            "ff02::1",
        ] {
            assert!(!is_public(address.parse().unwrap()), "{address}");
        }
    }

    #[test]
    fn a_token_service_is_of_the_registrys_domain_or_it_is_not() {
        for (registry, service, same) in [
            ("https://index.docker.io", "https://auth.docker.io", true),
            ("https://registry.gitlab.com", "https://gitlab.com", true),
            ("https://ghcr.io", "https://ghcr.io/token", true),
            ("https://r.example.org:5000", "https://a.example.org", true),
            ("https://evil.example", "https://auth.docker.io", false),
            ("https://docker.io.evil.example", "https://docker.io", false),
            ("https://evil.co.uk", "https://auth.bank.co.uk", false),
            ("https://r.bank.co.uk", "https://auth.bank.co.uk", true),
            ("https://registry", "https://auth", false),
            ("http://127.0.0.1:5000", "http://127.0.0.1:5001", true),
            ("http://127.0.0.1", "http://1.0.0.1", false),
            ("http://[fd00::1]", "http://[fd01::1]", false),
        ] {
            let (registry, service) = (url(registry), url(service));
            assert_eq!(
                same_domain(&registry, &service),
                same,
                "{registry} {service}"
            );
        }
    }
}
