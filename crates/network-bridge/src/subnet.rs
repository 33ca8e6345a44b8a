//! The choice of the workspaces' subnet. Pure: what the host uses is given.

use ipnet::Ipv4Net;
use std::net::Ipv4Addr;

/// The size of a chosen subnet: 4093 workspaces, four times what a Linux bridge has ports for.
const PREFIX: u8 = 20;

/// Routes shorter than this are ways out (also those that VPNs set as two halves of the address
/// space), not networks that a subnet could collide with.
const SHORTEST_NETWORK: u8 = 8;

/// The first private subnet that none of `taken` overlaps, or `None` when all of them do.
///
/// Deterministic: every `/20` of `10.201.0.0` to `10.254.255.255`, a range that neither Docker,
/// Podman, libvirt nor the usual Kubernetes networks use, beginning where `seed` says, so that two
/// installations that start at the same time choose differently; after that every `/20` of
/// `172.16.0.0/12`, of `10.0.0.0/8` and of `192.168.0.0/16` in order.
pub fn choose_subnet(taken: &[Ipv4Net], seed: u32) -> Option<Ipv4Net> {
    candidates(seed).find(|candidate| overlap(candidate, taken).is_none())
}

/// The network of `taken` that `subnet` overlaps, if there is one.
pub fn overlap(subnet: &Ipv4Net, taken: &[Ipv4Net]) -> Option<Ipv4Net> {
    taken
        .iter()
        .filter(|network| network.prefix_len() >= SHORTEST_NETWORK)
        .find(|network| network.contains(&subnet.network()) || subnet.contains(&network.network()))
        .copied()
}

/// The host's own address in a subnet: the first one.
pub(crate) fn gateway(subnet: &Ipv4Net) -> Ipv4Addr {
    Ipv4Addr::from_bits(subnet.network().to_bits() + 1)
}

/// Whether a workspace may have this address.
pub(crate) fn is_assignable(subnet: &Ipv4Net, address: Ipv4Addr) -> bool {
    subnet.contains(&address)
        && address != subnet.network()
        && address != subnet.broadcast()
        && address != gateway(subnet)
}

fn candidates(seed: u32) -> impl Iterator<Item = Ipv4Net> {
    // 54 second bytes, and 16 subnets of this size in each.
    let count = 54 * 16;
    let unusual = (0..count).map(move |step| {
        let nth = (seed % count + step) % count;
        net(
            Ipv4Addr::from_bits((10 << 24) | ((201 + nth % 54) << 16) | (nth / 54) << 12),
            PREFIX,
        )
    });
    let ranges = [
        net(Ipv4Addr::new(172, 16, 0, 0), 12),
        net(Ipv4Addr::new(10, 0, 0, 0), 8),
        net(Ipv4Addr::new(192, 168, 0, 0), 16),
    ];
    unusual.chain(
        ranges
            .into_iter()
            .flat_map(|range| range.subnets(PREFIX).into_iter().flatten()),
    )
}

fn net(address: Ipv4Addr, prefix: u8) -> Ipv4Net {
    Ipv4Net::new_assert(address, prefix)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn nets(texts: &[&str]) -> Vec<Ipv4Net> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn what_the_host_uses_is_avoided() {
        let cases: &[(&[&str], Option<&str>)] = &[
            (&[], Some("10.201.0.0/20")),
            (&["0.0.0.0/0", "192.0.2.0/24"], Some("10.201.0.0/20")),
            (&["0.0.0.0/1", "128.0.0.0/1"], Some("10.201.0.0/20")),
            (&["10.201.15.255/32"], Some("10.202.0.0/20")),
            (&["10.201.16.0/20"], Some("10.201.0.0/20")),
            (&["10.200.0.0/13"], Some("10.208.0.0/20")),
            (&["10.0.0.0/8"], Some("172.16.0.0/20")),
            (&["10.0.0.0/8", "172.16.0.0/12"], Some("192.168.0.0/20")),
            (&["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"], None),
        ];
        for (taken, expected) in cases {
            let chosen = choose_subnet(&nets(taken), 0).map(|net| net.to_string());
            assert_eq!(chosen.as_deref(), *expected, "taken: {taken:?}");
        }
    }

    #[test]
    fn installations_begin_at_different_subnets() {
        let first = |seed| choose_subnet(&[], seed).unwrap().to_string();
        assert_eq!(
            (first(1), first(54)),
            ("10.202.0.0/20".into(), "10.201.16.0/20".into())
        );
        assert_eq!(first(54 * 16 - 1), "10.254.240.0/20");
        assert_eq!(first(54 * 16), first(0));
    }

    #[test]
    fn only_hosts_are_assignable() {
        let subnet: Ipv4Net = "10.201.0.0/30".parse().unwrap();
        let assignable: Vec<_> = (0..8)
            .map(|last| Ipv4Addr::new(10, 201, 0, last))
            .filter(|address| is_assignable(&subnet, *address))
            .collect();
        assert_eq!(assignable, [Ipv4Addr::new(10, 201, 0, 2)]);
    }

    proptest! {
        #[test]
        fn the_choice_is_free_private_and_stable(
            taken in proptest::collection::vec((any::<u32>(), 8u8..=32), 0..200),
            private in proptest::collection::vec((0u32..1 << 24, 12u8..=32), 0..200),
        ) {
            let taken: Vec<Ipv4Net> = taken
                .into_iter()
                .chain(private.into_iter().map(|(host, prefix)| (0x0a00_0000 | host, prefix)))
                .map(|(bits, prefix)| net(Ipv4Addr::from_bits(bits), prefix).trunc())
                .collect();
            if let Some(chosen) = choose_subnet(&taken, 0) {
                prop_assert!(chosen.network().is_private() && chosen.broadcast().is_private());
                prop_assert_eq!(chosen, chosen.trunc());
                for network in &taken {
                    let apart = chosen.broadcast() < network.network()
                        || network.broadcast() < chosen.network();
                    prop_assert!(apart, "{chosen} overlaps {network}");
                }
                prop_assert_eq!(choose_subnet(&taken, 0), Some(chosen));
                // Free networks around it do not matter, the chosen one does.
                let mut more = taken;
                more.push(chosen);
                prop_assert_ne!(choose_subnet(&more, 0), Some(chosen));
            } else {
                prop_assert!(!taken.is_empty());
            }
        }
    }
}
