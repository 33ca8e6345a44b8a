//! Images on a real containerd: pulling from real and faulty registries, importing archives.
//!
//! `BOTSTEAD_TEST_CONTAINERD_BIN` names another containerd binary than the installed one.
#![allow(clippy::unwrap_used, reason = "helpers of tests panic as the tests do")]

mod import;
mod pull;
mod reach;
mod registries;
mod size;
mod support;
