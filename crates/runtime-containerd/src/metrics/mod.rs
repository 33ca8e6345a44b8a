//! Usage of running containers, straight from the cgroup files: some hundredfold faster than through
//! containerd and the shim. Where those files are not to be had, containerd is asked.

mod wire;

use crate::cgroup::Cgroups;
use crate::client::Client;
use crate::config::ContainerdConfig;
use crate::op::Op;
use async_trait::async_trait;
use botstead_runtime::{ErrorKind, Metrics, Result, Usage};
use botstead_types::ContainerId;
use containerd_client::services::v1::MetricsRequest;
use std::sync::Arc;

/// The [`Metrics`] of a namespace.
#[derive(Debug)]
pub(crate) struct ContainerdMetrics {
    pub(crate) client: Client,
    pub(crate) config: Arc<ContainerdConfig>,
    /// `None` where this process sees none.
    pub(crate) cgroups: Option<Cgroups>,
}

impl ContainerdMetrics {
    /// What containerd's shim says, for which it reads the same files from where it runs.
    async fn ask(&self, op: &Op, id: &ContainerId) -> Result<Usage> {
        let request = MetricsRequest {
            filters: vec![format!("id=={:?}", id.as_str())],
        };
        let mut service = self.client.tasks();
        let answer = service.metrics(self.client.unary(request)).await;
        let answer = answer.map_err(|status| op.status(status))?.into_inner();
        let found = answer.metrics.into_iter();
        let data = found.filter(|metric| metric.id == id.as_str());
        let Some(data) = data.filter_map(|metric| metric.data).next() else {
            return Err(op.fail(ErrorKind::NotFound, "it does not run"));
        };
        let usage = wire::usage(&data).map_err(|cause| {
            let reason = "containerd's answer is not understood";
            op.fail_with(ErrorKind::Internal, reason, cause)
        })?;
        match usage {
            Some(usage) if usage.pids > 0 => Ok(usage),
            Some(_) => Err(op.fail(ErrorKind::NotFound, "it does not run")),
            None => Err(op.fail(ErrorKind::Unsupported, "this runtime has other metrics")),
        }
    }
}

#[async_trait]
impl Metrics for ContainerdMetrics {
    async fn usage(&self, id: &ContainerId) -> Result<Usage> {
        let op = Op::new("measure container", id);
        // A few short reads of kernel memory, some microseconds: not worth a blocking thread.
        let read = self.cgroups.as_ref();
        match read.map(|cgroups| cgroups.usage(&self.config.cgroup(id))) {
            Some(Ok(Some(usage))) if usage.pids > 0 => return Ok(usage),
            // It was there, and nothing runs in it.
            Some(Ok(Some(_))) => return Err(op.fail(ErrorKind::NotFound, "it does not run")),
            Some(Err(error)) => tracing::debug!(%id, %error, "its cgroup is unreadable"),
            None | Some(Ok(None)) => {}
        }
        self.ask(&op, id).await
    }

    async fn out_of_memory_kills(&self, id: &ContainerId) -> Result<Option<u64>> {
        let Some(cgroups) = &self.cgroups else {
            return Ok(None);
        };
        // One short read of kernel memory.
        cgroups
            .out_of_memory_kills(&self.config.cgroup(id))
            .map_err(|error| {
                let op = Op::new("count kills of container", id);
                op.fail_with(ErrorKind::Internal, "its cgroup is unreadable", error)
            })
    }
}
