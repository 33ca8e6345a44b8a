//! An in-memory runtime and the conformance suite that every backend passes.
//!
//! [`InMemoryRuntime`] has the rules of a real runtime: parents, leases, garbage collection,
//! records, tasks and namespaces. It has no processes and no files on disk, so tests of what
//! is above the ports run anywhere, and it can be told to fail, to hang or to go away.

pub mod memory;

pub use memory::{ImageContent, InMemoryRuntime, PullScript};
