//! Usage of running containers, straight from the cgroup files: some hundredfold faster than through
//! containerd and the shim.

use crate::cgroup::Cgroups;
use crate::config::ContainerdConfig;
use crate::op::Op;
use async_trait::async_trait;
use botstead_runtime::{ErrorKind, Metrics, Result, Usage};
use botstead_types::ContainerId;
use std::sync::Arc;

/// The [`Metrics`] of a namespace.
#[derive(Debug)]
pub(crate) struct CgroupMetrics {
    pub(crate) config: Arc<ContainerdConfig>,
    /// `None` where the host has none.
    pub(crate) cgroups: Option<Cgroups>,
}

#[async_trait]
impl Metrics for CgroupMetrics {
    async fn usage(&self, id: &ContainerId) -> Result<Usage> {
        let op = Op::new("measure container", id);
        let Some(cgroups) = &self.cgroups else {
            return Err(op.fail(ErrorKind::Unsupported, "this host has no cgroups"));
        };
        // A few short reads of kernel memory, some microseconds: not worth a blocking thread.
        match cgroups.usage(&self.config.cgroup(id)) {
            Ok(Some(usage)) if usage.pids > 0 => Ok(usage),
            Ok(_) => Err(op.fail(ErrorKind::NotFound, "it does not run")),
            Err(cause) => Err(op.fail_with(ErrorKind::Internal, "its cgroup is unreadable", cause)),
        }
    }
}
