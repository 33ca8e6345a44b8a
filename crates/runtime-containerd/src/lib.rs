//! The runtime ports on containerd 1.6, 1.7 and 2.x, over its gRPC socket.
//!
//! [`Containerd::connect`] uses a containerd that runs; [`daemon::Daemon`] supervises one of this
//! installation's own. Nothing here knows bots or versions; networks are another crate's.

mod backend;
mod cdi;
mod cgroup;
mod channels;
mod client;
mod commits;
mod config;
mod containers;
pub mod daemon;

mod copies;
mod feed;
mod flatten;
pub mod images;
mod layers;
mod leases;
mod metrics;
mod op;
mod snapshots;
mod spec;
mod tasks;
mod trees;

pub use backend::Containerd;
pub use config::ContainerdConfig;
