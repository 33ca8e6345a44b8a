//! The ports' promises on a real containerd.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod support;

use botstead_runtime_testing::conformance_tests;
use support::Real;

conformance_tests!(Real::new; snapshots, copies, trees, channels, leases, containers, tasks, images, metrics, issues);
