//! End to end: the server's program on a containerd of its own, spoken to over HTTP.
//!
//! They need root, containerd, runc, nftables, busybox-static and docker-registry; `cargo xtask
//! test` installs them, builds the agent and runs this.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]
#![allow(clippy::print_stderr, reason = "figures and a failed server's log")]

mod creation;
mod harness;
mod history;
mod kills;
mod main_job;
mod refusals;

#[cfg(feature = "fault-points")]
mod fault_points;
