//! Protection from garbage collection.

use crate::Result;
use async_trait::async_trait;
use botstead_types::LeaseId;
use chrono::{DateTime, Utc};

/// A lease as the runtime has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// Its id.
    pub id: String,
    /// When it was made.
    pub created_at: DateTime<Utc>,
}

/// Leases. Everything made under one is kept until the lease is deleted, and leases do not expire.
#[async_trait]
pub trait Leases: Send + Sync {
    /// Makes a lease. Again: no change.
    ///
    /// # Errors
    /// `Unavailable` when the runtime does not answer.
    async fn create(&self, id: &LeaseId) -> Result<()>;

    /// All leases of this installation.
    ///
    /// # Errors
    /// `Unavailable` when the runtime does not answer.
    async fn list(&self) -> Result<Vec<Lease>>;

    /// Ends the protection that the lease gives. Again: no change.
    ///
    /// # Errors
    /// `Unavailable` when the runtime does not answer.
    async fn delete(&self, id: &str) -> Result<()>;

    /// Collects now, and returns when it is done, what nothing protects.
    ///
    /// # Errors
    /// `Unavailable` when the runtime does not answer.
    async fn collect(&self) -> Result<()>;
}
