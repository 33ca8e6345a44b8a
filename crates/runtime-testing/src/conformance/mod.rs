//! The conformance suite: one named test per promise of the ports.
//!
//! A backend implements [`Fixture`] and writes `conformance_tests!(MyFixture::new);` (or names the
//! modules that concern it) in an integration test. Nothing is skipped: what
//! [`botstead_runtime::Capabilities`] deny must be answered with `Unsupported`, and that is then
//! the test.

pub mod archive;
pub mod channels;
pub mod containers;
mod context;
pub mod copies;
mod fixture;
pub mod images;
pub mod issues;
pub mod leases;
mod macros;
pub mod metrics;
pub mod network;
pub mod snapshots;
pub mod tasks;
pub mod trees;

pub use context::{Context, labels, run};
pub use fixture::{Fixture, ImageFixture, Program};

use botstead_runtime::{ErrorKind, Result};
use std::fmt::Debug;

/// Fails the test unless the call failed in this way.
#[track_caller]
fn refused<T: Debug>(result: Result<T>, kind: ErrorKind) {
    match result {
        Ok(value) => panic!("expected {kind:?}, but it succeeded with {value:?}"),
        Err(error) => assert_eq!(error.kind(), kind, "{}", error.chain()),
    }
}

/// Fails the test with the whole chain of causes when the call failed.
#[track_caller]
fn done<T>(result: Result<T>) -> T {
    match result {
        Ok(value) => value,
        Err(error) => panic!("{}", error.chain()),
    }
}
