//! The agent as PID 1 of a process namespace of its own, driven over its socket by the server's own
//! client. Needs root, util-linux and busybox-static.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "helpers of tests"
)]

mod commands;
mod connection;
mod init;
mod kept;
mod limits;
mod measure;
mod surroundings;
mod table;
mod terminals;
mod unread;
mod workspace;
mod writings;
