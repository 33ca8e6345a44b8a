//! The driver's own nftables table, as text for `nft -f -`. Pure.
//!
//! What it says, for packets of workspaces:
//! - They come from an address of the subnet and are IPv4, or are dropped before anything else.
//! - To the host itself: answers, ICMP echo to the gateway, name resolution when the host is the
//!   name server. Nothing else: services of the host are not for bots.
//! - To other workspaces, to blocked networks (but for name servers in them) and to services that
//!   the host forwards elsewhere (`dnat`): dropped.
//! - To the rest of the world: with the host's address (masquerade).
//!
//! To workspaces come answers and whatever the host itself opens; nothing from other machines.
//!
//! Answers are told by their direction, not by their connection's state alone: a connection that was
//! made in a moment without these rules ends when they are back.
//!
//! The table says what is dropped. That the rest gets through other tables is `foreign`'s.

use crate::config::BridgeConfig;
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
/// 5.12). One line, as a session of `nft -i` takes it.
pub(crate) fn guard(config: &BridgeConfig, info: &NetworkInfo) -> String {
    let text = format!(
        "table inet {} {{\nflags owner\n{}}}\n",
        config.guard_table(),
        chains(config, info)
    );
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    format!("{}\n", lines.join(";"))
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
  }}
  chain to_host {{
    type filter hook input priority filter; policy accept;
    iifname != "{bridge}" accept
    ct state established,related ct direction reply accept
{dns_to_host}    ip daddr {gateway} icmp type echo-request accept
    drop
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
        dns_to_host = dns("    "),
        dns_away = dns("    "),
        blocked = blocked
            .map(|blocked| format!("    ip daddr {blocked} drop\n"))
            .unwrap_or_default(),
    );
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
        assert_eq!(count(&full), 18, "{full}");
        assert!(full.contains("ip daddr { 192.0.2.1 } meta"), "{full}");
        assert!(full.contains("ip daddr { 169.254.0.0/16 } drop"), "{full}");
        config.blocked.clear();
        let empty = table(&config, &info(&[]));
        assert_eq!(count(&empty), 15, "{empty}");
        assert!(!empty.contains("{  }"), "{empty}");
        let guard = guard(&config, &info(&[]));
        assert_eq!(guard.lines().count(), 1, "{guard}");
        assert_eq!(count(&guard.replace(';', "\n")), 15, "{guard}");
    }
}
