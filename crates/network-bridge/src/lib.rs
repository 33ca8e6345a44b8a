//! The network port as a Linux bridge with veth pairs and nftables masquerading.
//!
//! ```no_run
//! use botstead_network_bridge::{BridgeConfig, BridgeNetwork};
//! use botstead_runtime::{Endpoint, Network};
//!
//! # async fn example() -> botstead_runtime::Result<()> {
//! let config = BridgeConfig::for_installation("an id", "/run/botstead/an-id/netns");
//! let network = BridgeNetwork::new(config)?;
//! network.ensure_host().await?;
//! let id = "workspace-1".parse().expect("a valid id");
//! let namespace = network.create_namespace(&id).await?;
//! let address = "10.201.0.2".parse().expect("an address of network.info().subnet");
//! network.attach(&id, &Endpoint { address }).await?;
//! # let _ = namespace;
//! # Ok(())
//! # }
//! ```
//!
//! # What a workspace gets
//! A network namespace with `lo` and `eth0`, one IPv4 address, a default route and no IPv6 but
//! `::1`. It reaches what the host reaches, with the host's address, but for: other workspaces,
//! the host itself (except ICMP echo to the gateway, and name resolution when the host is the name
//! server) and [`BridgeConfig::blocked`]. The host reaches it at any port; other machines do not.
//! Source addresses that are not its own, of either layer, are dropped. The rules are in `rules`, the port's
//! settings in `link`.
//!
//! # What the host gets
//! A bridge, an nftables table of its own, `net.ipv4.ip_forward = 1` and, where another firewall
//! drops forwarded packets, accept rules in that firewall's own chain. All of it bears the
//! installation's names and [`BridgeNetwork::teardown_host`] removes it (forwarding stays on).
//! Firewalls that start or reload later may drop again, and some flush the rules of all others:
//! [`botstead_runtime::Network::host_changed`] tells at once, [`botstead_runtime::Network::ensure_host`]
//! mends what is missing and is cheap enough to be repeated every minute as well, and
//! [`BridgeNetwork::problems`] tells what it could not mend. It replaces the own table in one
//! transaction, so that no connection notices.
//!
//! While this lives, a second table repeats the rules that protect the host. It belongs to a session of
//! `nft` and cannot be flushed by others (`own`), so that nothing is open until the first is back.
//!
//! # Limits
//! - Before Linux 5.18 ports are not locked: root in a workspace can take another one's hardware address
//!   and address together.
//! - A Linux bridge has 1023 ports; the next workspace gets `ResourceExhausted`.
//! - Removal takes 20 to 40 ms: the kernel waits for all processors before a link is gone.
//! - Connection tracking outlives a workspace by minutes: packets for the last owner of an address
//!   still arrive at the next one, which refuses them. Who assigns addresses does well to let one
//!   rest before it is used again.
//! - The namespaces are mounts. The server must share its mount namespace with the runtime that
//!   opens them (no `PrivateTmp=`, `ProtectSystem=` and the like in its unit).
//!
//! What is deliberately absent: the assignment of addresses (the caller records them) and ports
//! published on the host.

mod changes;
mod command;
mod config;
mod dns;
mod driver;
mod foreign;
mod host;
mod link;
mod namespace;
mod netlink;
mod own;
mod rules;
mod subnet;

pub use config::BridgeConfig;
pub use dns::{PUBLIC_NAMESERVERS, parse_resolv_conf};
pub use driver::BridgeNetwork;
pub use host::Problem;
pub use subnet::{choose_subnet, overlap};
