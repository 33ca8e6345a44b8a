//! The driver's own nftables table, as text for `nft -f -`. Pure.
//!
//! What it says, for packets of workspaces:
//! - They come from the workspace's own address and are IPv4, or are dropped before anything else. A
//!   port of the bridge passes the hardware address that it was given and no other (`link`), and that
//!   holds the address: the rules compare the two, so that they need not know who is there.
//! - To the host itself: answers, ICMP echo to the gateway, name resolution when the host is the
//!   name server. Nothing else: services of the host are not for bots.
//! - To other workspaces, to blocked networks (but for name servers in them) and to services that
//!   the host forwards elsewhere (`dnat`): dropped.
//! - To the rest of the world: with the host's address (masquerade).
//!
//! To workspaces come answers and whatever the host itself opens; nothing from other machines.
//!
//! Answers are told by their direction, not by their connection's state alone, and the host begins a TCP
//! connection with a SYN: a connection that a workspace made in a moment without these rules ends when
//! they are back. Without rules the kernel tracks no connections either, and takes the first packet that it
//! sees again for the beginning of one, whoever sent it.
//!
//! The table says what is dropped. That the rest gets through other tables is `foreign`'s.

use crate::config::{BridgeConfig, mac};
use botstead_runtime::NetworkInfo;
use std::fmt::{Display, Write};
use std::net::IpAddr;

/// Replaces the table as a whole in one transaction: connection tracking, and with it every
/// connection, does not notice.
pub(crate) fn table(config: &BridgeConfig, info: &NetworkInfo) -> String {
    let table = &config.table_name;
    // Deleting fails for a table that does not exist, adding does not for one that does.
    format!(
        "add table inet {table}\ndelete table inet {table}\ntable inet {table} {{\n{}}}\n",
        chains(config, info)
    )
}

/// The same rules in a table of another name that belongs to the process that makes it: the kernel lets
/// nobody else change or flush it, and removes it when that process ends (`NFT_TABLE_F_OWNER`, Linux
/// 5.12). One command a line, as a session of `nft -i` takes it; that reads at most 4 KiB as one.
pub(crate) fn guard(config: &BridgeConfig, info: &NetworkInfo) -> String {
    let table = config.guard_table();
    // What a rule jumps to must be there.
    let mut made = format!("add table inet {table} {{ flags owner; }}\n");
    let mut filled = String::new();
    let text = chains(config, info);
    for block in text.split("chain ").skip(1) {
        let mut lines = block.lines().map(str::trim);
        let chain = lines.next().unwrap_or_default().trim_end_matches(" {");
        let (kind, rules): (Vec<&str>, Vec<&str>) = lines
            .filter(|line| !matches!(*line, "" | "}"))
            .partition(|line| line.starts_with("type "));
        let _ = writeln!(
            made,
            "add chain inet {table} {chain} {{ {} }}",
            kind.concat()
        );
        for rule in rules {
            let _ = writeln!(filled, "add rule inet {table} {chain} {rule}");
        }
    }
    made + &filled
}

fn chains(config: &BridgeConfig, info: &NetworkInfo) -> String {
    let bridge = &config.bridge_name;
    let (subnet, gateway) = (info.subnet, info.gateway);
    let servers = set(info
        .dns
        .nameservers
        .iter()
        .filter(|server| IpAddr::is_ipv4(server)));
    let blocked = set(config.blocked.iter());
    let dns = |indent: &str| match &servers {
        Some(servers) => {
            format!("{indent}ip daddr {servers} meta l4proto {{ tcp, udp }} th dport 53 accept\n")
        }
        None => String::new(),
    };
    let mut text = String::new();
    let _ = write!(
        text,
        r#"  chain spoofed {{
    type filter hook prerouting priority raw; policy accept;
    iifname "{bridge}" meta nfproto != ipv4 drop
    iifname "{bridge}" ip saddr != {subnet} drop
    iifname "{bridge}" ip saddr {gateway} drop
{bound}  }}
  chain to_host {{
    type filter hook input priority filter; policy accept;
    iifname != "{bridge}" accept
    ct state established,related ct direction reply accept
{dns_to_host}    ip daddr {gateway} icmp type echo-request accept
    drop
  }}
  chain from_host {{
    type filter hook output priority filter; policy accept;
    oifname "{bridge}" ct state new tcp flags & (fin | syn | rst | ack) != syn drop
  }}
  chain forwarded {{
    type filter hook forward priority filter; policy accept;
    iifname "{bridge}" jump from_workspace
    oifname "{bridge}" jump to_workspace
  }}
  chain from_workspace {{
    oifname "{bridge}" drop
    ct state invalid drop
{dns_away}{blocked}    ct status dnat drop
  }}
  chain to_workspace {{
    ct state established,related ct direction reply accept
    drop
  }}
  chain way_out {{
    type nat hook postrouting priority srcnat; policy accept;
    ip saddr {subnet} oifname != "{bridge}" masquerade
  }}
"#,
        bound = bound(bridge, info),
        dns_to_host = dns("    "),
        dns_away = dns("    "),
        blocked = blocked
            .map(|blocked| format!("    ip daddr {blocked} drop\n"))
            .unwrap_or_default(),
    );
    text
}

/// What holds an address to the hardware address that goes with it (see [`mac`]). nftables compares no
/// two fields of a packet, but finds pairs in a set: so byte by byte, for those bytes that the subnet
/// leaves open.
fn bound(bridge: &str, info: &NetworkInfo) -> String {
    let hardware =
        |[a, b, c, d, e, f]: [u8; 6]| format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}");
    let [a, b, c, d] = info.subnet.netmask().octets();
    let mask = hardware([0xff, 0xff, a, b, c, d]);
    let network = hardware(mac(info.subnet.network()));
    let mut text = format!("    iifname \"{bridge}\" ether saddr & {mask} != {network} drop\n");
    let same: Vec<String> = (0..=255).map(|byte| format!("{byte} . {byte}")).collect();
    let same = same.join(", ");
    for (byte, mask) in (0u32..).zip([a, b, c, d]) {
        if mask == 0xff {
            continue;
        }
        // The source's hardware address is 6 bytes into the one header, the address 12 into the other.
        let (link, network) = ((6 + 2 + byte) * 8, (12 + byte) * 8);
        let _ = writeln!(
            text,
            "    iifname \"{bridge}\" @ll,{link},8 . @nh,{network},8 != {{ {same} }} drop"
        );
    }
    text
}

/// How many rules [`table`] has, to see whether some were taken away.
pub(crate) fn count(table: &str) -> usize {
    let verdicts = [
        "accept",
        "drop",
        "masquerade",
        "jump from_workspace",
        "jump to_workspace",
    ];
    table
        .lines()
        .filter(|line| verdicts.iter().any(|verdict| line.ends_with(verdict)))
        .count()
}

/// Removes the table, also when there is none.
pub(crate) fn removal(config: &BridgeConfig) -> String {
    let table = &config.table_name;
    format!("add table inet {table}\ndelete table inet {table}\n")
}

fn set<T: Display>(items: impl Iterator<Item = T>) -> Option<String> {
    let items: Vec<String> = items.map(|item| item.to_string()).collect();
    (!items.is_empty()).then(|| format!("{{ {} }}", items.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use botstead_runtime::Dns;

    fn info(nameservers: &[&str]) -> NetworkInfo {
        NetworkInfo {
            subnet: "10.201.0.0/20".parse().unwrap(),
            gateway: "10.201.0.1".parse().unwrap(),
            mtu: 1500,
            dns: Dns {
                nameservers: nameservers
                    .iter()
                    .map(|text| text.parse().unwrap())
                    .collect(),
                search: Vec::new(),
                options: Vec::new(),
            },
        }
    }

    #[test]
    fn empty_sets_leave_no_rule() {
        let mut config = BridgeConfig::for_installation("x", "/run/x");
        let full = table(&config, &info(&["192.0.2.1", "2001:db8::1"]));
        assert_eq!(count(&full), 22, "{full}");
        assert!(full.contains("ip daddr { 192.0.2.1 } meta"), "{full}");
        assert!(full.contains("ip daddr { 169.254.0.0/16 } drop"), "{full}");
        config.blocked.clear();
        let empty = table(&config, &info(&[]));
        assert_eq!(count(&empty), 19, "{empty}");
        assert!(!empty.contains("{  }"), "{empty}");
        let guard = guard(&config, &info(&[]));
        assert_eq!(count(&guard), 19, "{guard}");
        assert!(guard.lines().all(|line| line.len() < 4000), "{guard}");
    }

    #[test]
    fn the_bytes_that_the_subnet_leaves_open_are_compared() {
        for (subnet, mask, bytes) in [
            ("10.0.0.0/8", "ff:ff:ff:00:00:00", 3),
            ("10.201.16.0/20", "ff:ff:ff:ff:f0:00", 2),
            ("10.201.16.0/24", "ff:ff:ff:ff:ff:00", 1),
            ("10.201.16.8/29", "ff:ff:ff:ff:ff:f8", 1),
        ] {
            let mut info = info(&[]);
            info.subnet = subnet.parse().unwrap();
            let text = bound("b", &info);
            assert!(
                text.contains(&format!("ether saddr & {mask} != 02:b5:0a:")),
                "{text}"
            );
            assert_eq!(text.matches("@ll,").count(), bytes, "{subnet}");
            assert!(
                text.contains("@ll,88,8 . @nh,120,8 != { 0 . 0, 1 . 1,"),
                "{text}"
            );
        }
    }
}
