//! An in-memory runtime and the conformance suite that every backend passes.
//!
//! [`InMemoryRuntime`] has the rules of a real runtime: parents, leases, garbage collection,
//! records, tasks and namespaces. It has no processes and no files on disk, so tests of what
//! is above the ports run anywhere, and it can be told to fail, to hang or to go away.
//!
//! ```
//! use botstead_runtime::ErrorKind;
//! use botstead_runtime_testing::InMemoryRuntime;
//!
//! # async fn example() -> botstead_runtime::Result<()> {
//! let memory = InMemoryRuntime::new();
//! let runtime = memory.runtime();
//! memory.fail_next("leases.create", ErrorKind::Unavailable, 1);
//! let lease = "one".parse().expect("a short name is valid");
//! assert!(runtime.leases.create(&lease).await.is_err());
//! runtime.leases.create(&lease).await?;
//! assert_eq!(memory.leases().len(), 1);
//! # Ok(())
//! # }
//! # futures_util::FutureExt::now_or_never(example()).expect("nothing waits").unwrap();
//! ```

pub mod conformance;
pub mod memory;

pub use memory::{ImageContent, InMemoryRuntime, PullScript};
