//! Usage of running containers: made up, but with the shape of real usage.

use super::Shared;
use super::faults::Op;
use botstead_runtime::{CpuUsage, ErrorKind, MemoryUsage, Metrics, Result, Usage};
use botstead_types::{ContainerId, TaskStatus};
use chrono::Utc;

#[async_trait::async_trait]
impl Metrics for Shared {
    async fn usage(&self, id: &ContainerId) -> Result<Usage> {
        let op = Op("metrics.usage", "read usage of");
        self.call(op, id, |state| {
            let task = state
                .tasks
                .get(id)
                .filter(|task| task.status == TaskStatus::Running)
                .ok_or_else(|| op.error(ErrorKind::NotFound, id))?;
            if let Some(usage) = state.usages.get(id) {
                return Ok(*usage);
            }
            // A tenth of a core since the task was created.
            let lived = (Utc::now() - task.created_at)
                .num_nanoseconds()
                .unwrap_or(0);
            let nanoseconds = u64::try_from(lived).unwrap_or(0) / 10;
            Ok(Usage {
                cpu: CpuUsage {
                    usage_nanoseconds: nanoseconds,
                    user_nanoseconds: nanoseconds / 2,
                    kernel_nanoseconds: nanoseconds / 2,
                },
                memory: MemoryUsage {
                    usage_bytes: 4 << 20,
                    limit_bytes: task.limits.memory_bytes.unwrap_or(0),
                },
                pids: 1,
            })
        })
    }
}
