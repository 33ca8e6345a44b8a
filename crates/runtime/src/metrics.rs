//! What running containers use.

use crate::Result;
use async_trait::async_trait;
use botstead_types::ContainerId;

/// What a task uses now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Processor time.
    pub cpu: CpuUsage,
    /// Memory.
    pub memory: MemoryUsage,
    /// Processes and threads.
    pub pids: u64,
}

/// Processor time since the task was created, in nanoseconds. Never decreases while it runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CpuUsage {
    /// All of it.
    pub usage_nanoseconds: u64,
    /// In user mode.
    pub user_nanoseconds: u64,
    /// In the kernel.
    pub kernel_nanoseconds: u64,
}

/// Memory in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MemoryUsage {
    /// In use, without the page cache that can be dropped at once (inactive file pages), as
    /// other container tools count it.
    pub usage_bytes: u64,
    /// The limit; 0 when there is none.
    pub limit_bytes: u64,
}

/// Usage of running containers.
#[async_trait]
pub trait Metrics: Send + Sync {
    /// What the container's task uses now.
    ///
    /// # Errors
    /// `NotFound` when it has no running task, `Unsupported` when this backend or host cannot tell.
    async fn usage(&self, id: &ContainerId) -> Result<Usage>;

    /// How many processes of the container's task the kernel has killed for lack of memory; `None`
    /// where that is not known, and without a task.
    ///
    /// # Errors
    /// What the kernel refused.
    async fn out_of_memory_kills(&self, _id: &ContainerId) -> Result<Option<u64>> {
        Ok(None)
    }
}
