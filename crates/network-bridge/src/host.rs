//! The host's part: bridge, forwarding, the driver's table and its rules in others' firewalls.
//! Made, examined and removed; blocking.

use crate::command::{self, Failure};
use crate::config::BridgeConfig;
use crate::netlink::Netlink;
use crate::own::{self, OwnTables};
use crate::{foreign, link, namespace, subnet};
use botstead_runtime::{Error, ErrorKind, NetworkInfo, Result};
use ipnet::Ipv4Net;
use nix::libc::EPERM;
use std::fs;
use std::io;

const FORWARDING: &str = "/proc/sys/net/ipv4/ip_forward";

/// Something wrong with the host's network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// What is wrong.
    pub what: String,
    /// What the administrator can do.
    pub advice: String,
}

impl Problem {
    fn new(what: impl Into<String>, advice: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            advice: advice.into(),
        }
    }
}

/// Makes or mends the host's part.
pub(crate) fn ensure(
    config: &BridgeConfig,
    info: &NetworkInfo,
    tables: &mut OwnTables,
    table_gone: bool,
) -> Result<()> {
    // Before its packets are forbidden anything.
    Netlink::open()
        .and_then(|mut host| {
            link::refuse_foreign(&mut host, &config.bridge_name, bridge_address(info))
        })
        .map_err(|error| refused("set up", &config.bridge_name, error))?;
    // What is forbidden comes before what is made possible.
    tables
        .ensure(config, info, table_gone)
        .map_err(|failure| unavailable("set up", "the firewall table", failure))?;
    Netlink::open()
        .and_then(|mut host| {
            // The table drops the bridge's IPv6; without an address there is none to drop.
            // The setting exists as soon as the bridge does, and only where IPv6 does.
            link::ensure_bridge(
                &mut host,
                &config.bridge_name,
                bridge_address(info),
                info.mtu,
            )?;
            setting(config, "ipv6", "disable_ipv6", "1")?;
            // Neighbours cannot reach each other directly, so a redirect would be a lie.
            setting(config, "ipv4", "send_redirects", "0")?;
            if fs::read_to_string(FORWARDING)?.trim() != "1" {
                fs::write(FORWARDING, "1")?;
            }
            Ok(())
        })
        .map_err(|error| refused("set up", &config.bridge_name, error))?;
    for problem in pass_others(config, info, true)? {
        tracing::warn!(
            problem = problem.what,
            advice = problem.advice,
            "workspaces may be cut off"
        );
    }
    Ok(())
}

/// Removes the host's part.
pub(crate) fn teardown(config: &BridgeConfig, tables: &mut OwnTables) -> Result<()> {
    let mut failures = Vec::new();
    let mut keep = |result: Result<()>| {
        if let Err(error) = result {
            failures.push(error);
        }
    };
    keep(leave_others(config));
    keep(
        Netlink::open()
            .and_then(|mut host| link::remove_bridge(&mut host, &config.bridge_name))
            .map_err(|error| refused("remove", &config.bridge_name, error)),
    );
    keep(
        tables
            .remove(config)
            .map_err(|failure| unavailable("remove", "the firewall table", failure)),
    );
    let directory = &config.namespace_dir;
    let empty = match fs::read_dir(directory) {
        Ok(mut entries) => entries.next().is_none(),
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    };
    if empty {
        keep(
            namespace::remove_directory(directory)
                .map_err(|error| refused("remove", &directory.display().to_string(), error)),
        );
    }
    match failures.into_iter().reduce(|first, next| {
        let both = format!("{}; {}", first.chain(), next.chain());
        Error::new(first.kind(), "tear down", "the host's network").because(both)
    }) {
        None => Ok(()),
        Some(error) => Err(error),
    }
}

/// What is wrong with the host's part.
pub(crate) fn problems(config: &BridgeConfig, info: &NetworkInfo) -> Result<Vec<Problem>> {
    let again = "start the server again, or let it set up the network again";
    let mut found = Vec::new();
    let mut host =
        Netlink::open().map_err(|error| refused("examine", "the host's network", error))?;
    let failed = |error| refused("examine", &config.bridge_name, error);

    let bridge = host.link(&config.bridge_name).map_err(failed)?;
    let index = bridge.as_ref().map(|bridge| bridge.index);
    match &bridge {
        None => found.push(Problem::new(
            format!("the bridge {} is missing", config.bridge_name),
            again,
        )),
        Some(bridge) => {
            let addresses = host.addresses(Some(bridge.index)).map_err(failed)?;
            if !bridge.up || !addresses.contains(&bridge_address(info)) {
                found.push(Problem::new(
                    format!(
                        "the bridge {} is down or has not the address {}",
                        config.bridge_name, info.gateway
                    ),
                    again,
                ));
            }
        }
    }
    let routes = host.routes().map_err(failed)?;
    let others: Vec<Ipv4Net> = routes
        .iter()
        .filter(|route| index.is_none() || route.link != index)
        .map(|route| route.destination)
        .collect();
    if let Some(other) = subnet::overlap(&info.subnet, &others) {
        found.push(Problem::new(
            format!(
                "the workspaces' subnet {} overlaps the host's network {other}",
                info.subnet
            ),
            "configure another subnet, or remove that network",
        ));
    }
    if !routes
        .iter()
        .any(|route| route.destination.prefix_len() == 0)
    {
        found.push(Problem::new(
            "the host has no default route",
            "workspaces reach only the networks that the host has routes to",
        ));
    }
    if fs::read_to_string(FORWARDING).map_err(failed)?.trim() != "1" {
        found.push(Problem::new(
            "IPv4 forwarding is off",
            "run: sysctl -w net.ipv4.ip_forward=1",
        ));
    }
    match own::is_whole(config, info) {
        Ok(true) => {}
        Err(failure @ Failure::Missing(_)) => {
            found.push(Problem::new(
                failure.to_string(),
                "install the package nftables",
            ));
            return Ok(found);
        }
        Ok(_) | Err(_) => found.push(Problem::new(
            format!(
                "rules of the firewall table {} are missing or changed",
                config.table_name
            ),
            again,
        )),
    }
    found.extend(pass_others(config, info, false)?);
    Ok(found)
}

/// Looks for firewalls that stop the workspaces' packets and, with `mend`, gets the rules in.
/// Tells those that still stop them.
fn pass_others(config: &BridgeConfig, info: &NetworkInfo, mend: bool) -> Result<Vec<Problem>> {
    let mut found = Vec::new();
    let iptables = pass_iptables(config, info, mend, &mut found)?;
    for chain in nft_chains(config)? {
        if chain.own_rules.len() == foreign::RULES || (iptables && is_iptables(&chain)) {
            continue;
        }
        let script = foreign::insertion(&chain, &config.bridge_name, info.subnet);
        let outcome = if mend {
            command::run("nft", &["-f", "-"], Some(&script))
                .err()
                .map(|failure| failure.to_string())
        } else {
            Some("the rules that let them through are missing".to_owned())
        };
        if let Some(reason) = outcome {
            found.push(blocked(
                config,
                &format!("{} {} {}", chain.family, chain.table, chain.name),
                &reason,
            ));
        }
    }
    Ok(found)
}

/// Tells whether `iptables` keeps its rules in nftables, where they show up a second time.
fn pass_iptables(
    config: &BridgeConfig,
    info: &NetworkInfo,
    mend: bool,
    found: &mut Vec<Problem>,
) -> Result<bool> {
    let version = match command::run("iptables", &["-V"], None) {
        Ok(version) => version,
        Err(Failure::Missing(_)) => return Ok(false),
        Err(failure) => return Err(unavailable("examine", "iptables", failure)),
    };
    let in_nftables = version.contains("nf_tables");
    let listing = match command::run("iptables", &["-w", "5", "-S"], None) {
        Ok(listing) => listing,
        // Installed but not usable, as on kernels without its modules: then it stops nothing.
        Err(failure) => {
            tracing::debug!(%failure, "iptables is not used");
            return Ok(false);
        }
    };
    let Some(chain) = foreign::iptables_chain(&listing) else {
        return Ok(in_nftables);
    };
    for rule in foreign::iptables_rules(&config.bridge_name, info.subnet) {
        let with = |action| {
            let mut words = vec!["-w", "5", action, chain];
            words.extend(rule.iter().map(String::as_str));
            command::run("iptables", &words, None)
        };
        if with("-C").is_ok() {
            continue;
        }
        let outcome = if mend {
            with("-I").err().map(|failure| failure.to_string())
        } else {
            Some("a rule that lets them through is missing".to_owned())
        };
        if let Some(reason) = outcome {
            found.push(blocked(config, &format!("{chain} of iptables"), &reason));
        }
    }
    Ok(in_nftables)
}

fn leave_others(config: &BridgeConfig) -> Result<()> {
    let failed = |failure| unavailable("remove", "the rules in other firewalls", failure);
    if let Ok(listing) = command::run("iptables", &["-w", "5", "-S"], None) {
        for removal in foreign::iptables_removals(&listing, &config.bridge_name) {
            let mut words = vec!["-w", "5"];
            words.extend(removal.iter().map(String::as_str));
            command::run("iptables", &words, None).map_err(failed)?;
        }
    }
    let chains = match nft_chains(config) {
        Err(error) if error.kind() == ErrorKind::Unavailable => Vec::new(),
        other => other?,
    };
    for chain in chains.iter().filter(|chain| !chain.own_rules.is_empty()) {
        command::run("nft", &["-f", "-"], Some(&foreign::removal(chain))).map_err(failed)?;
    }
    Ok(())
}

fn nft_chains(config: &BridgeConfig) -> Result<Vec<foreign::Chain>> {
    let listing = command::nft_json(&["list", "ruleset"])
        .map_err(|failure| unavailable("list", "the firewall rules", failure))?;
    foreign::chains(&listing, &config.table_name, &config.bridge_name).map_err(|error| {
        Error::new(ErrorKind::Internal, "read", "the firewall rules").with_source(error)
    })
}

fn is_iptables(chain: &foreign::Chain) -> bool {
    (
        chain.family.as_str(),
        chain.table.as_str(),
        chain.name.as_str(),
    ) == ("ip", "filter", "FORWARD")
}

fn blocked(config: &BridgeConfig, chain: &str, reason: &str) -> Problem {
    let advice = if chain.contains("firewalld") {
        format!(
            "run: firewall-cmd --permanent --zone=trusted --add-interface={} && firewall-cmd --reload",
            config.bridge_name
        )
    } else {
        format!(
            "let that firewall forward what comes from the bridge {}, and the answers",
            config.bridge_name
        )
    };
    Problem::new(
        format!("the firewall chain {chain} may drop workspaces' packets: {reason}"),
        advice,
    )
}

fn setting(config: &BridgeConfig, family: &str, name: &str, value: &str) -> io::Result<()> {
    let path = format!("/proc/sys/net/{family}/conf/{}/{name}", config.bridge_name);
    let current = match fs::read_to_string(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    if current.trim() == value {
        Ok(())
    } else {
        fs::write(&path, value)
    }
}

/// The gateway's address with the subnet's prefix.
fn bridge_address(info: &NetworkInfo) -> Ipv4Net {
    Ipv4Net::new_assert(info.gateway, info.subnet.prefix_len())
}

fn unavailable(operation: &'static str, subject: &str, failure: Failure) -> Error {
    let reason = match &failure {
        Failure::Missing(program) => format!("the command {program} is not installed"),
        other => other.to_string(),
    };
    Error::new(ErrorKind::Unavailable, operation, subject)
        .because(reason)
        .with_source(failure)
}

fn refused(operation: &'static str, subject: &str, error: io::Error) -> Error {
    let kind =
        if error.raw_os_error() == Some(EPERM) || error.kind() == io::ErrorKind::PermissionDenied {
            ErrorKind::PermissionDenied
        } else {
            ErrorKind::Unavailable
        };
    Error::new(kind, operation, subject)
        .because(error.to_string())
        .with_source(error)
}
