//! The server as its users run it: the real program over HTTP on real containerd.
//!
//! Needs root, the packages that `cargo xtask test` installs, and the static agent that it builds
//! (`BOTSTEAD_TEST_AGENT`). Each test has a server of its own with its own containerd, network and
//! folders, and leaves nothing behind.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a panic is how a test fails, and what it prints is shown then"
)]

mod bounds;
mod client;
mod commands;
mod concurrency;
mod data;
mod disk;
mod durability;
#[cfg(feature = "fault-points")]
mod faults;
mod files;
mod host;
mod hostile;
mod inside;
#[cfg(feature = "fault-points")]
mod kill_matrix;
mod live;
mod main_job;
mod outputs;
mod recovery;
mod refusals;
mod registries;
mod rights;
mod server;
mod sessions;
mod socket;
mod states;
mod terminals;
