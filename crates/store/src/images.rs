//! Configurations of images, once for all workspaces and versions that were made from them.

use crate::Result;
use async_trait::async_trait;
use botstead_types::ImageConfig;

/// Configurations of images by their digests, which containers and versions refer to.
#[async_trait]
pub trait ImageConfigs: Send + Sync {
    /// Keeps a configuration and returns its digest. Again: no change.
    ///
    /// # Errors
    /// `Unavailable` when the database stays locked.
    async fn keep(&self, config: &ImageConfig) -> Result<String>;

    /// A configuration.
    ///
    /// # Errors
    /// `NotFound`.
    async fn get(&self, digest: &str) -> Result<ImageConfig>;

    /// Removes those that neither a container nor a version refers to, and tells how many. Only while
    /// nothing is being made: what was kept for something that is not recorded yet would go, too.
    ///
    /// # Errors
    /// `Unavailable` when the database stays locked.
    async fn collect(&self) -> Result<u64>;
}
