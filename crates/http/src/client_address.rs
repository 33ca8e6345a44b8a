//! Where a request comes from: the peer, or, behind a proxy that is trusted, whom the proxy names.

use crate::HttpConfig;
use actix_web::HttpRequest;
use actix_web::http::header::HeaderMap;
use ipnet::IpNet;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};

const X_FORWARDED_FOR: &str = "x-forwarded-for";

/// The client's address.
pub(crate) fn of(request: &HttpRequest, config: &HttpConfig) -> Option<IpAddr> {
    let peer = request.peer_addr()?.ip().to_canonical();
    Some(resolve(peer, request.headers(), &config.trusted_proxies))
}

/// Whether this peer is a proxy whose word counts.
pub(crate) fn is_trusted(peer: IpAddr, trusted: &[IpNet]) -> bool {
    let peer = peer.to_canonical();
    trusted.iter().any(|network| network.contains(&peer))
}

/// Every proxy appends the address that it was called from, so the list is believed from its end, as
/// long as those who wrote it are trusted. What a client itself wrote stands before that.
fn resolve(peer: IpAddr, headers: &HeaderMap, trusted: &[IpNet]) -> IpAddr {
    static SAID: AtomicBool = AtomicBool::new(false);
    if !is_trusted(peer, trusted) {
        let forwarded = headers.contains_key(X_FORWARDED_FOR);
        if forwarded && peer.is_loopback() && !SAID.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                %peer,
                "a proxy names its clients and is not trusted: to the limits of sign-ins and \
                 connections they are all one; add it to http.trusted_proxies"
            );
        }
        return peer;
    }
    let mut client = peer;
    let lines: Vec<_> = headers.get_all(X_FORWARDED_FOR).collect();
    let words = lines
        .into_iter()
        .rev()
        .flat_map(|line| line.to_str().unwrap_or_default().rsplit(','));
    for word in words {
        // What cannot be read was written by nobody who is trusted.
        let Some(address) = parse(word.trim()) else {
            break;
        };
        client = address;
        if !is_trusted(address, trusted) {
            break;
        }
    }
    client
}

/// An address, which some proxies give with a port.
fn parse(word: &str) -> Option<IpAddr> {
    let plain = word.trim_start_matches('[').trim_end_matches(']');
    let address = plain.parse::<IpAddr>().ok();
    let address = address.or_else(|| Some(word.parse::<SocketAddr>().ok()?.ip()));
    address.map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;
    use actix_web::http::header::{HeaderName, HeaderValue};

    #[test]
    fn only_a_trusted_proxy_names_the_client() {
        let trusted: Vec<IpNet> = ["127.0.0.1/32", "10.0.0.0/8", "fd00::/8"]
            .map(|network| network.parse().unwrap())
            .to_vec();
        for (peer, lines, expected) in [
            ("192.0.2.1", vec!["203.0.113.7"], "192.0.2.1"),
            ("127.0.0.1", vec![], "127.0.0.1"),
            ("127.0.0.1", vec!["203.0.113.7"], "203.0.113.7"),
            ("::ffff:127.0.0.1", vec!["203.0.113.7"], "203.0.113.7"),
            // The first was made up by the client.
            ("127.0.0.1", vec!["1.1.1.1, 203.0.113.7"], "203.0.113.7"),
            ("127.0.0.1", vec!["1.1.1.1", "203.0.113.7"], "203.0.113.7"),
            ("127.0.0.1", vec!["203.0.113.7, 10.1.2.3"], "203.0.113.7"),
            ("127.0.0.1", vec!["10.1.2.3"], "10.1.2.3"),
            ("127.0.0.1", vec!["nonsense"], "127.0.0.1"),
            ("127.0.0.1", vec!["nonsense, 10.1.2.3"], "10.1.2.3"),
            ("127.0.0.1", vec!["203.0.113.7:4711"], "203.0.113.7"),
            ("fd00::1", vec!["[2001:db8::1]:4711"], "2001:db8::1"),
            ("fd00::1", vec!["2001:db8::1"], "2001:db8::1"),
        ] {
            let mut headers = HeaderMap::new();
            for line in &lines {
                let name = HeaderName::from_static(X_FORWARDED_FOR);
                headers.append(name, HeaderValue::from_str(line).unwrap());
            }
            let peer: IpAddr = peer.parse().unwrap();
            let found = resolve(peer.to_canonical(), &headers, &trusted);
            assert_eq!(found.to_string(), expected, "{peer} {lines:?}");
        }
    }
}
