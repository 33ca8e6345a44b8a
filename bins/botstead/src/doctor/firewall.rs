//! Whether forwarding to workspaces is in the way of a firewall, and of whose; whether the server's own
//! rules are there.

use super::Check;
use crate::config::Config;
use crate::installation::id_path;
use botstead_network_bridge::BridgeConfig;
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

pub(super) fn forward_policy() -> Check {
    let output = Command::new("nft")
        .args(["--json", "list", "chains"])
        .stdin(Stdio::null())
        .output();
    let json = match output {
        Ok(output) if output.status.success() => output.stdout,
        Ok(output) => {
            let reason = String::from_utf8_lossy(&output.stderr);
            let reason = reason.lines().next().unwrap_or("nft failed").to_owned();
            let advice = "run it as root, on a kernel with nf_tables";
            return Check::fail("firewall", reason, advice);
        }
        Err(error) => {
            let detail = format!("cannot run nft: {error}");
            return Check::fail("firewall", detail, "install it: apt install nftables");
        }
    };
    let legacy = fs::read_to_string("/proc/net/ip_tables_names").unwrap_or_default();
    match serde_json::from_slice(&json) {
        Ok(chains) => judge(&chains, &legacy),
        Err(error) => Check::warn(
            "firewall",
            format!("cannot read what nft prints: {error}"),
            "update nftables",
        ),
    }
}

/// `chains` is what `nft --json list chains` prints, `legacy` the tables of the iptables that is
/// not built on nftables (/proc/net/ip_tables_names).
fn judge(chains: &Value, legacy: &str) -> Check {
    let objects = chains["nftables"].as_array().map_or(&[][..], Vec::as_slice);
    let chains: Vec<&Value> = objects
        .iter()
        .map(|object| &object["chain"])
        .filter(|chain| chain.is_object())
        .collect();
    let text = |chain: &Value, key: &str| chain[key].as_str().unwrap_or_default().to_owned();
    let named = |prefix: &str| chains.iter().any(|c| text(c, "name").starts_with(prefix));
    let drops: Vec<String> = chains
        .iter()
        .filter(|c| text(c, "hook") == "forward" && text(c, "policy") == "drop")
        .filter(|c| matches!(text(c, "family").as_str(), "ip" | "inet"))
        .map(|c| {
            format!(
                "{} {} {}",
                text(c, "family"),
                text(c, "table"),
                text(c, "name")
            )
        })
        .collect();
    let firewalld = chains.iter().any(|c| text(c, "table") == "firewalld");
    let mut owners = Vec::new();
    if named("DOCKER") {
        owners.push("Docker");
    }
    if named("ufw-") {
        owners.push("ufw");
    }
    if firewalld {
        owners.push("firewalld");
    }
    let owners = match owners.is_empty() {
        true => "a firewall".to_owned(),
        false => owners.join(", "),
    };
    if legacy.lines().any(|table| table == "filter") {
        Check::warn(
            "firewall",
            "tables of the legacy iptables are in use",
            "if workspaces have no network, switch: update-alternatives --set iptables \
             /usr/sbin/iptables-nft, and restart what made the rules",
        )
    } else if firewalld {
        // It rejects in rules and not by policy, so the server's accepts do not reach it.
        Check::warn(
            "firewall",
            "firewalld is active",
            "if workspaces have no network, put their bridge into a zone that accepts: \
             firewall-cmd --permanent --zone=trusted --add-interface=<bridge>",
        )
    } else if drops.is_empty() {
        Check::ok("firewall", "forwarding is not dropped")
    } else {
        let detail = format!("{owners} drops forwarding ({})", drops.join("; "));
        Check::ok(
            "firewall",
            format!("{detail}; the server adds its accepts there"),
        )
    }
}

/// The rules that keep workspaces from this host and from each other. They are there for as long as the
/// bridge is, whether or not the server runs.
pub(super) fn own_table(config: &Config) -> Check {
    let id = fs::read_to_string(id_path(&config.data_dir)).unwrap_or_default();
    let names = BridgeConfig::for_installation(id.trim(), "");
    let bridge = config.network.bridge.as_ref();
    let bridge = bridge.unwrap_or(&names.bridge_name);
    let set_up = !id.trim().is_empty() && Path::new("/sys/class/net").join(bridge).exists();
    let table = set_up.then(|| {
        Command::new("nft")
            .args(["list", "table", "inet", &names.table_name])
            .stdin(Stdio::null())
            .output()
            .is_ok_and(|output| output.status.success())
    });
    judge_own_table(&names.table_name, table)
}

/// `there` is whether the table is, where it should be.
fn judge_own_table(table: &str, there: Option<bool>) -> Check {
    let name = "own firewall table";
    match there {
        None => Check::ok(name, "made when the server starts"),
        Some(true) => Check::ok(name, format!("inet {table}")),
        Some(false) => Check::fail(
            name,
            format!("inet {table} is missing: workspaces reach this host and have no way out"),
            "start the server, which makes it and puts it back whenever it is removed; if it runs, its \
             log says why it cannot",
        ),
    }
}

pub(super) fn ip_forward() -> Check {
    let path = "/proc/sys/net/ipv4/ip_forward";
    judge_ip_forward(fs::read_to_string(path).ok().as_deref())
}

fn judge_ip_forward(content: Option<&str>) -> Check {
    match content.map(str::trim) {
        Some("1") => Check::ok("ip_forward", "on"),
        Some(_) => Check::ok("ip_forward", "off; the server turns it on when it starts"),
        None => Check::fail(
            "ip_forward",
            "cannot read /proc/sys/net/ipv4/ip_forward",
            "mount /proc, and use a kernel with IPv4",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Status;
    use super::*;
    use serde_json::json;

    fn chain(family: &str, table: &str, name: &str, policy: &str) -> Value {
        json!({"chain": {"family": family, "table": table, "name": name, "hook": "forward",
            "policy": policy, "type": "filter", "prio": 0}})
    }

    fn listing(chains: &[Value]) -> Value {
        let mut objects = vec![json!({"metainfo": {"version": "1.0.6"}})];
        objects.extend_from_slice(chains);
        json!({ "nftables": objects })
    }

    #[test]
    fn an_open_host_is_well() {
        let open = [chain("ip", "filter", "FORWARD", "accept")];
        assert_eq!(judge(&listing(&[]), "").detail, "forwarding is not dropped");
        assert_eq!(judge(&listing(&open), "").status, Status::Ok);
        assert_eq!(judge(&json!(null), "").status, Status::Ok);
    }

    #[test]
    fn who_drops_is_named() {
        let drop = chain("ip", "filter", "FORWARD", "drop");
        let plain =
            |name: &str| json!({"chain": {"family": "ip", "table": "filter", "name": name}});
        for (others, expected) in [
            (vec![], "a firewall drops forwarding (ip filter FORWARD)"),
            (vec![plain("DOCKER-USER")], "Docker drops"),
            (
                vec![plain("ufw-before-forward"), plain("DOCKER")],
                "Docker, ufw drops",
            ),
        ] {
            let check = judge(&listing(&[vec![drop.clone()], others].concat()), "");
            assert!(check.detail.starts_with(expected), "{}", check.detail);
            assert_eq!(check.status, Status::Ok);
        }
    }

    #[test]
    fn what_the_server_cannot_open_is_a_warning() {
        let firewalld = chain("inet", "firewalld", "filter_FORWARD", "accept");
        assert_eq!(judge(&listing(&[firewalld]), "").status, Status::Warn);
        assert_eq!(judge(&listing(&[]), "nat\nfilter\n").status, Status::Warn);
        assert_eq!(judge(&listing(&[]), "nat\n").status, Status::Ok);
    }

    #[test]
    fn a_missing_table_of_its_own_is_a_failure_where_workspaces_may_run() {
        assert_eq!(judge_own_table("x", None).status, Status::Ok);
        assert_eq!(judge_own_table("x", Some(true)).detail, "inet x");
        assert_eq!(judge_own_table("x", Some(false)).status, Status::Fail);
    }

    #[test]
    fn forwarding_is_read() {
        assert_eq!(judge_ip_forward(Some("1\n")).detail, "on");
        assert!(judge_ip_forward(Some("0\n")).detail.starts_with("off"));
        assert_eq!(judge_ip_forward(None).status, Status::Fail);
    }
}
