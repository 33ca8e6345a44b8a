//! The network port as a Linux bridge with veth pairs and nftables masquerading.

mod command;
mod config;
mod dns;
mod driver;
mod foreign;
mod host;
mod link;
mod namespace;
mod netlink;
mod rules;
mod subnet;

pub use config::BridgeConfig;
pub use dns::{PUBLIC_NAMESERVERS, parse_resolv_conf};
pub use driver::BridgeNetwork;
pub use host::Problem;
pub use subnet::{choose_subnet, overlap};
