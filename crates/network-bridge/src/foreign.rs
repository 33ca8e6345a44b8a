//! Firewalls of others: which of their chains stop forwarded packets, and the accept rules that
//! must be in those very chains, because an accept elsewhere does not override a drop.
//!
//! - `iptables` (Docker, ufw, scripts): rules in `DOCKER-USER` when Docker uses it, else at the top
//!   of `FORWARD`.
//! - nftables' base chains on the forward hook (firewalld, `/etc/nftables.conf`): rules at the top
//!   of the chain.
//!
//! Other installations' tables are no firewalls of others: they stop nothing but what goes to their own
//! workspaces, and an accept rule in them would let it in.
//!
//! A rule is recognised by its comment. What cannot be changed, such as a table that firewalld
//! owns, is told to the administrator.

use crate::config::TABLE_PREFIX;
use serde_json::Value;
use std::collections::HashSet;

/// A chain of another's table that may stop what it forwards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Chain {
    pub(crate) family: String,
    pub(crate) table: String,
    pub(crate) name: String,
    /// The handles of the driver's rules in it.
    pub(crate) own_rules: Vec<u64>,
}

/// The driver's rules in a chain: from the workspaces to elsewhere, and answers back.
pub(crate) const RULES: usize = 2;

/// The comment that marks the driver's rules in others' chains.
pub(crate) fn comment(bridge: &str) -> String {
    format!("botstead {bridge}")
}

/// The chains of `nft -j list ruleset` that forwarded packets pass and that may drop them.
pub(crate) fn chains(
    ruleset: &str,
    own_table: &str,
    bridge: &str,
) -> Result<Vec<Chain>, serde_json::Error> {
    let ruleset: Value = serde_json::from_str(ruleset)?;
    let objects = ruleset["nftables"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    let text = |value: &Value, key: &str| value[key].as_str().unwrap_or_default().to_owned();
    let place = |value: &Value, name: &str| {
        (
            text(value, "family"),
            text(value, "table"),
            text(value, name),
        )
    };
    let rules: Vec<&Value> = objects
        .iter()
        .filter_map(|object| object.get("rule"))
        .collect();
    let mark = comment(bridge);

    let mut found = Vec::new();
    for chain in objects.iter().filter_map(|object| object.get("chain")) {
        let (family, table, name) = place(chain, "name");
        if chain["hook"] != "forward"
            || !matches!(family.as_str(), "ip" | "inet")
            || (family == "inet" && (table == own_table || table.starts_with(TABLE_PREFIX)))
        {
            continue;
        }
        // Its rules and those of the chains it leads to.
        let mut reached = HashSet::from([name.clone()]);
        let mut todo = vec![name.clone()];
        let mut stops = chain["policy"] == "drop";
        while let Some(current) = todo.pop() {
            let here = (family.clone(), table.clone(), current);
            for rule in rules.iter().filter(|rule| place(rule, "chain") == here) {
                for expression in rule["expr"].as_array().into_iter().flatten() {
                    stops |= expression.get("drop").is_some() || expression.get("reject").is_some();
                    // A match of iptables that nft cannot show may be a reject.
                    stops |= expression["xt"]["name"] == "REJECT";
                    for target in targets(expression) {
                        if reached.insert(target.to_owned()) {
                            todo.push(target.to_owned());
                        }
                    }
                }
            }
        }
        if stops {
            let here = (family.clone(), table.clone(), name.clone());
            let own_rules = rules
                .iter()
                .filter(|rule| place(rule, "chain") == here && rule["comment"] == mark.as_str())
                .filter_map(|rule| rule["handle"].as_u64())
                .collect();
            found.push(Chain {
                family,
                table,
                name,
                own_rules,
            });
        }
    }
    Ok(found)
}

/// The chains that an expression leads to, those of verdict maps included.
fn targets(expression: &Value) -> Vec<&str> {
    let mut found = Vec::new();
    match expression {
        Value::Object(fields) => {
            for (key, value) in fields {
                match (key.as_str(), value["target"].as_str()) {
                    ("jump" | "goto", Some(target)) => found.push(target),
                    _ => found.extend(targets(value)),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| found.extend(targets(item))),
        _ => {}
    }
    found
}

/// The `nft` script that puts the driver's rules at the top of a chain, in place of those that
/// are there.
pub(crate) fn insertion(chain: &Chain, bridge: &str, subnet: ipnet::Ipv4Net) -> String {
    let mark = comment(bridge);
    let place = format!("{} {} {}", chain.family, chain.table, chain.name);
    format!(
        "{removal}insert rule {place} iifname \"{bridge}\" oifname != \"{bridge}\" ip saddr {subnet} accept comment \"{mark}\"\n\
         insert rule {place} oifname \"{bridge}\" iifname != \"{bridge}\" ct state established,related accept comment \"{mark}\"\n",
        removal = removal(chain),
    )
}

/// The `nft` script that removes the driver's rules from a chain.
pub(crate) fn removal(chain: &Chain) -> String {
    chain
        .own_rules
        .iter()
        .map(|handle| {
            format!(
                "delete rule {} {} {} handle {handle}\n",
                chain.family, chain.table, chain.name
            )
        })
        .collect()
}

/// The chain of `iptables -S`'s listing that the rules belong in, or `None` when nothing there
/// could stop them.
pub(crate) fn iptables_chain(listing: &str) -> Option<&'static str> {
    let docker = listing
        .lines()
        .any(|line| line.starts_with("-A FORWARD") && line.ends_with("-j DOCKER-USER"));
    let stops = listing
        .lines()
        .any(|line| line.starts_with("-A FORWARD") || line == "-P FORWARD DROP");
    match (docker, stops) {
        (true, _) => Some("DOCKER-USER"),
        (false, true) => Some("FORWARD"),
        (false, false) => None,
    }
}

/// The driver's rules for an `iptables` chain: what comes after `-C CHAIN` or `-I CHAIN`.
pub(crate) fn iptables_rules(bridge: &str, subnet: ipnet::Ipv4Net) -> [Vec<String>; RULES] {
    let mark = comment(bridge);
    let subnet = subnet.to_string();
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
    [
        words(&[
            "-s",
            &subnet,
            "-i",
            bridge,
            "!",
            "-o",
            bridge,
            "-m",
            "comment",
            "--comment",
            &mark,
            "-j",
            "ACCEPT",
        ]),
        words(&[
            "!",
            "-i",
            bridge,
            "-o",
            bridge,
            "-m",
            "conntrack",
            "--ctstate",
            "RELATED,ESTABLISHED",
            "-m",
            "comment",
            "--comment",
            &mark,
            "-j",
            "ACCEPT",
        ]),
    ]
}

/// The driver's rules in a listing of `iptables -S`, as the words that delete them.
pub(crate) fn iptables_removals(listing: &str, bridge: &str) -> Vec<Vec<String>> {
    let mark = comment(bridge);
    listing
        .lines()
        .filter_map(|line| {
            let rest = line.strip_prefix("-A ")?;
            let (before, after) = rest.split_once(&format!("\"{mark}\""))?;
            let words = before
                .split_whitespace()
                .chain([mark.as_str()])
                .chain(after.split_whitespace());
            Some(["-D"].into_iter().chain(words).map(str::to_owned).collect())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn docker_and_ufw_are_told_from_a_host_without_a_firewall() {
        let cases = [
            ("-P INPUT DROP\n-P FORWARD ACCEPT\n-P OUTPUT ACCEPT\n", None),
            ("-P FORWARD DROP\n", Some("FORWARD")),
            (
                "-P FORWARD ACCEPT\n-A FORWARD -j ufw-before-forward\n",
                Some("FORWARD"),
            ),
            (
                "-P FORWARD DROP\n-N DOCKER-USER\n-A FORWARD -j DOCKER-USER\n-A DOCKER-USER -j RETURN\n",
                Some("DOCKER-USER"),
            ),
            // Left from a Docker that is gone: nothing leads there.
            ("-P FORWARD DROP\n-N DOCKER-USER\n", Some("FORWARD")),
        ];
        for (listing, expected) in cases {
            assert_eq!(iptables_chain(listing), expected, "{listing}");
        }
    }

    #[test]
    fn only_own_rules_are_removed_from_iptables() {
        let listing = "-P FORWARD DROP\n\
            -A FORWARD -s 10.201.0.0/20 -i bs-1 ! -o bs-1 -m comment --comment \"botstead bs-1\" -j ACCEPT\n\
            -A FORWARD -i bs-12 -m comment --comment \"botstead bs-12\" -j ACCEPT\n\
            -A FORWARD -j ACCEPT\n";
        let removals = iptables_removals(listing, "bs-1");
        let expected = "-D FORWARD -s 10.201.0.0/20 -i bs-1 ! -o bs-1 -m comment --comment";
        let mut words: Vec<&str> = expected.split(' ').collect();
        words.extend(["botstead bs-1", "-j", "ACCEPT"]);
        assert_eq!(removals, [words]);
    }

    #[test]
    fn chains_that_stop_packets_are_found_wherever_they_lead() {
        let chain = |table: &str, name: &str, rest: &str| {
            format!(
                r#"{{"chain":{{"family":"inet","table":"{table}","name":"{name}","handle":1{rest}}}}}"#
            )
        };
        let base = r#","type":"filter","hook":"forward","prio":0,"policy":"accept""#;
        let rule = |table: &str, name: &str, expr: &str, comment: &str| {
            format!(
                r#"{{"rule":{{"family":"inet","table":"{table}","chain":"{name}","handle":7,"comment":"{comment}","expr":[{expr}]}}}}"#
            )
        };
        let objects = [
            // Ends in a reject two jumps away, one of them in a verdict map.
            chain("a", "forward", base),
            chain("a", "one", ""),
            chain("a", "two", ""),
            rule("a", "forward", r#"{"accept":null}"#, "botstead bs-1"),
            rule(
                "a",
                "forward",
                r#"{"vmap":{"key":{"meta":{"key":"iifname"}},"data":{"set":[["eth0",{"goto":{"target":"one"}}]]}}}"#,
                "",
            ),
            rule("a", "one", r#"{"jump":{"target":"two"}}"#, ""),
            rule("a", "two", r#"{"reject":null}"#, ""),
            // Jumps in a circle and drops nothing.
            chain("b", "forward", base),
            rule("b", "forward", r#"{"jump":{"target":"forward"}}"#, ""),
            // By policy.
            chain("c", "forward", &base.replace("accept", "drop")),
            // Other hooks do not matter, nor do the own table and other installations'.
            chain("botstead-2", "forwarded", &base.replace("accept", "drop")),
            chain(
                "d",
                "input",
                &base.replace("forward", "input").replace("accept", "drop"),
            ),
            chain("own", "forwarded", &base.replace("accept", "drop")),
        ];
        let ruleset = format!(
            r#"{{"nftables":[{{"metainfo":{{}}}},{}]}}"#,
            objects.join(",")
        );
        let found = chains(&ruleset, "own", "bs-1").unwrap();
        let names: Vec<_> = found
            .iter()
            .map(|chain| (chain.table.as_str(), chain.own_rules.as_slice()))
            .collect();
        assert_eq!(names, [("a", &[7][..]), ("c", &[])]);
        // One rule is missing: both are made anew in the same transaction.
        let script = insertion(&found[0], "bs-1", "10.201.0.0/20".parse().unwrap());
        let lines: Vec<&str> = script.lines().collect();
        assert_eq!(lines.len(), 3);
        assert_eq!(lines[0], "delete rule inet a forward handle 7");
        assert!(chains("no json", "own", "bs-1").is_err());
    }
}
