//! How the driver is set up, and the names it uses in the kernel.

use botstead_runtime::{Error, ErrorKind, Result};
use botstead_types::ContainerId;
use ipnet::Ipv4Net;
use sha2::{Digest, Sha256};
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

/// What the tables of all installations begin with.
pub(crate) const TABLE_PREFIX: &str = "botstead-";
/// The longest name of a link (`IFNAMSIZ` without its final zero).
const LINK_NAME: usize = 15;
/// The longest veth prefix: the rest of the name is ten hexadecimal digits.
const VETH_PREFIX: usize = LINK_NAME - 10;

/// How the driver is set up. Bridge, table and namespace directory belong to one installation
/// alone; [`BridgeConfig::for_installation`] gives names that are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BridgeConfig {
    /// The bridge, at most 15 characters.
    pub bridge_name: String,
    /// The nftables table (family `inet`) with this driver's own rules.
    pub table_name: String,
    /// What the names of the host's ends of the workspaces' links begin with, at most 5
    /// characters.
    pub veth_prefix: String,
    /// Where the namespaces are mounted, such as `/run/botstead/<id>/netns`. It is emptied by a
    /// restart of the host, as the namespaces are.
    pub namespace_dir: PathBuf,
    /// The workspaces' subnet, or `None` for that of the existing bridge, else one that the host
    /// does not use (see [`crate::choose_subnet`]). Who records addresses records the subnet too
    /// and gives it here next time: after a restart of the host another one may be free.
    pub subnet: Option<Ipv4Net>,
    /// The name servers, or none for the host's. They must be reachable from workspaces: IPv4 and
    /// not loopback.
    pub nameservers: Vec<IpAddr>,
    /// The largest packet in bytes, or `None` for that of the link with the default route.
    pub mtu: Option<u32>,
    /// Networks that workspaces never reach, but for the name servers in them. By default
    /// `169.254.0.0/16`, where clouds hand out the host's credentials.
    pub blocked: Vec<Ipv4Net>,
}

impl BridgeConfig {
    /// Names that no other installation on this host has, because they come from its id.
    pub fn for_installation(id: &str, namespace_dir: impl Into<PathBuf>) -> Self {
        let tag = digest(&["installation", id], 8);
        Self {
            bridge_name: format!("bs-{tag}"),
            table_name: format!("{TABLE_PREFIX}{tag}"),
            veth_prefix: "bsv".to_owned(),
            namespace_dir: namespace_dir.into(),
            subnet: None,
            nameservers: Vec::new(),
            mtu: None,
            blocked: vec![Ipv4Net::new_assert(Ipv4Addr::new(169, 254, 0, 0), 16)],
        }
    }

    /// Where the search for a free subnet begins: different for every installation.
    pub(crate) fn subnet_seed(&self) -> u32 {
        // Hexadecimal digits of a hash.
        u32::from_str_radix(&digest(&["subnet", &self.bridge_name], 8), 16).unwrap_or_default()
    }

    /// Refuses what the kernel would refuse later, and names that would need quoting in nft.
    pub(crate) fn check(&self) -> Result<()> {
        let invalid = |reason: String| {
            Err(Error::new(ErrorKind::InvalidArgument, "set up", "the network").because(reason))
        };
        for (what, name, longest) in [
            ("bridge name", &self.bridge_name, LINK_NAME),
            ("veth prefix", &self.veth_prefix, VETH_PREFIX),
            ("table name", &self.table_name, 64),
        ] {
            let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
            if name.len() > longest
                || !name.starts_with(|c: char| c.is_ascii_alphabetic())
                || !name.chars().all(allowed)
            {
                return invalid(format!(
                    "the {what} {name:?} is not a letter and up to {} letters, digits, '-' or '_'",
                    longest - 1
                ));
            }
        }
        if !self.namespace_dir.is_absolute() {
            return invalid(format!(
                "the namespace directory {} is not an absolute path",
                self.namespace_dir.display()
            ));
        }
        if let Some(subnet) = self.subnet
            && (subnet != subnet.trunc() || !(8..=29).contains(&subnet.prefix_len()))
        {
            return invalid(format!("{subnet} is not a network of /8 to /29"));
        }
        if let Some(server) = self
            .nameservers
            .iter()
            .find(|s| !crate::dns::is_reachable(s))
        {
            return invalid(format!(
                "workspaces cannot reach the name server {server}: an IPv4 address is needed that is not a loopback address"
            ));
        }
        if let Some(mtu) = self.mtu.filter(|mtu| !(576..=65535).contains(mtu)) {
            return invalid(format!("the MTU {mtu} is not between 576 and 65535"));
        }
        Ok(())
    }

    /// The table that repeats the rules and that nobody can flush while the server runs.
    pub(crate) fn guard_table(&self) -> String {
        format!("{}-guard", self.table_name)
    }

    /// The file at which a container's namespace is mounted.
    pub(crate) fn namespace(&self, id: &ContainerId) -> PathBuf {
        Path::new(&self.namespace_dir).join(id.as_str())
    }

    /// The name of the host's end of a container's link. Another `attempt`, another name: two
    /// containers may get the same one.
    pub(crate) fn veth(&self, id: &ContainerId, attempt: u32) -> String {
        let attempt = attempt.to_string();
        let tag = digest(&["veth", &self.bridge_name, id.as_str(), &attempt], 10);
        format!("{}{tag}", self.veth_prefix)
    }
}

/// The first digits of a hash of the parts.
fn digest(parts: &[&str], digits: usize) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part.as_bytes());
        hash.update([0]);
    }
    let mut text: String = hash
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    text.truncate(digits);
    text
}

/// The hardware address that goes with an address: locally administered, so that a container
/// that gets an address anew is reached at once by who still remembers it.
pub(crate) fn mac(address: Ipv4Addr) -> [u8; 6] {
    let [x, y] = OWN_MAC;
    let [a, b, c, d] = address.octets();
    [x, y, a, b, c, d]
}

/// How hardware addresses begin that this crate gives.
pub(crate) const OWN_MAC: [u8; 2] = [0x02, 0xb5];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_and_differ_between_installations() {
        let one = BridgeConfig::for_installation("one", "/run/x");
        let two = BridgeConfig::for_installation("two", "/run/y");
        one.check().unwrap();
        let id: ContainerId = "x".repeat(76).parse().unwrap();
        for name in [&one.bridge_name, &one.veth(&id, 0), &one.veth(&id, 1)] {
            assert!(name.len() <= LINK_NAME, "{name}");
        }
        assert_ne!(one.bridge_name, two.bridge_name);
        assert_ne!(one.table_name, two.table_name);
        assert_ne!(one.veth(&id, 0), two.veth(&id, 0));
        assert_ne!(one.veth(&id, 0), one.veth(&id, 1));
    }

    #[test]
    fn what_the_kernel_would_refuse_is_refused_at_once() {
        let good = BridgeConfig::for_installation("one", "/run/x");
        let bad: [fn(&mut BridgeConfig); 9] = [
            |config| config.bridge_name = "a-name-too-long1".into(),
            |config| config.bridge_name = "".into(),
            |config| config.bridge_name = "x\" drop".into(),
            |config| config.veth_prefix = "sixsix".into(),
            |config| config.table_name = "a;b".into(),
            |config| config.namespace_dir = "relative".into(),
            |config| config.subnet = Some("10.1.2.3/20".parse().unwrap()),
            |config| config.nameservers = vec!["127.0.0.53".parse().unwrap()],
            |config| config.mtu = Some(100),
        ];
        for (index, change) in bad.iter().enumerate() {
            let mut config = good.clone();
            change(&mut config);
            let error = config.check().expect_err(&format!("case {index}"));
            assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        }
    }
}
