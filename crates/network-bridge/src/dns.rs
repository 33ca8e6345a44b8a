//! Name resolution for workspaces, from the host's own. Pure but for [`host_dns`], which reads.
//!
//! A workspace cannot use a name server on the host's loopback, such as systemd-resolved's stub
//! `127.0.0.53`, and has no IPv6. So, in order: `/etc/resolv.conf`, then what systemd-resolved
//! itself asks (`/run/systemd/resolve/resolv.conf`), then [`PUBLIC_NAMESERVERS`].

use botstead_runtime::Dns;
use std::net::{IpAddr, Ipv4Addr};

/// What is asked when the host names no server that a workspace could reach: Cloudflare's and
/// Google's public resolvers.
pub const PUBLIC_NAMESERVERS: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(1, 1, 1, 1)),
    IpAddr::V4(Ipv4Addr::new(8, 8, 8, 8)),
];

/// Where the host's name servers are looked up, in this order.
const FILES: [&str; 2] = ["/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"];

/// Reads a file of the form that resolv.conf(5) describes, without the name servers that a
/// workspace cannot reach. What it does not understand is skipped, as the C library does.
pub fn parse_resolv_conf(text: &str) -> Dns {
    let mut dns = Dns {
        nameservers: Vec::new(),
        search: Vec::new(),
        options: Vec::new(),
    };
    for line in text.lines() {
        // The comment signs count only at the beginning of a line.
        let mut words = line.split_ascii_whitespace();
        match words.next() {
            Some("nameserver") => {
                let server = words.next().and_then(|word| word.parse().ok());
                if let Some(server) = server.filter(is_reachable)
                    && !dns.nameservers.contains(&server)
                {
                    dns.nameservers.push(server);
                }
            }
            // The last of several such lines counts.
            Some("search" | "domain") => {
                dns.search = words
                    .filter(|word| *word != "." && !word.chars().any(char::is_control))
                    .map(str::to_owned)
                    .collect();
            }
            // `trust-ad` is a promise about the way to the host's own resolver.
            Some("options") => dns.options.extend(
                words
                    .filter(|word| *word != "trust-ad" && !word.chars().any(char::is_control))
                    .map(str::to_owned),
            ),
            _ => {}
        }
    }
    dns
}

/// Whether a workspace can reach a name server there.
pub(crate) fn is_reachable(server: &IpAddr) -> bool {
    matches!(server, IpAddr::V4(server) if !server.is_loopback() && !server.is_unspecified())
}

/// What workspaces use on this host.
pub(crate) fn host_dns() -> Dns {
    choose(FILES.iter().map(|file| {
        std::fs::read_to_string(file)
            .map(|text| parse_resolv_conf(&text))
            .ok()
    }))
}

fn choose(files: impl Iterator<Item = Option<Dns>>) -> Dns {
    let mut first = None;
    for dns in files.flatten() {
        if !dns.nameservers.is_empty() {
            return dns;
        }
        first.get_or_insert(dns);
    }
    // The search domains hold although no server is usable.
    let mut dns = first.unwrap_or_else(|| parse_resolv_conf(""));
    dns.nameservers = PUBLIC_NAMESERVERS.to_vec();
    dns
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dns(nameservers: &[&str], search: &[&str], options: &[&str]) -> Dns {
        let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        Dns {
            nameservers: nameservers
                .iter()
                .map(|text| text.parse().unwrap())
                .collect(),
            search: owned(search),
            options: owned(options),
        }
    }

    #[test]
    fn resolv_conf_is_read_as_the_manual_says() {
        let cases = [
            ("", dns(&[], &[], &[])),
            ("nameserver 192.0.2.1\n", dns(&["192.0.2.1"], &[], &[])),
            (
                "# made by a tool\n; old style\n#nameserver 9.9.9.9\nnameserver\t192.0.2.1  # x\n\
                 nameserver 192.0.2.1\nnameserver 192.0.2.2\nsearch a.test b.test\n\
                 options ndots:2 trust-ad edns0\n",
                dns(
                    &["192.0.2.1", "192.0.2.2"],
                    &["a.test", "b.test"],
                    &["ndots:2", "edns0"],
                ),
            ),
            (
                "nameserver 127.0.0.53\nnameserver ::1\nnameserver fe80::1%eth0\n\
                 nameserver 2001:db8::1\nnameserver 0.0.0.0\nnameserver nonsense\nnameserver\n",
                dns(&[], &[], &[]),
            ),
            ("domain a.test\nsearch b.test\n", dns(&[], &["b.test"], &[])),
            ("search a.test\nsearch .\r\n", dns(&[], &[], &[])),
            (
                "search a\u{1b}[2J.test ok.test",
                dns(&[], &["ok.test"], &[]),
            ),
        ];
        for (text, expected) in cases {
            assert_eq!(parse_resolv_conf(text), expected, "{text:?}");
        }
    }

    #[test]
    fn the_stub_resolver_is_passed_over_for_what_it_asks() {
        let stub = || Some(parse_resolv_conf("nameserver 127.0.0.53\nsearch a.test\n"));
        let real = || Some(parse_resolv_conf("nameserver 192.0.2.1\nsearch b.test\n"));
        assert_eq!(
            choose([stub(), real()].into_iter()),
            dns(&["192.0.2.1"], &["b.test"], &[])
        );
        assert_eq!(
            choose([real(), None].into_iter()),
            dns(&["192.0.2.1"], &["b.test"], &[])
        );
        assert_eq!(
            choose([stub(), None].into_iter()),
            dns(&["1.1.1.1", "8.8.8.8"], &["a.test"], &[])
        );
        assert_eq!(
            choose([None, None].into_iter()),
            dns(&["1.1.1.1", "8.8.8.8"], &[], &[])
        );
    }
}
