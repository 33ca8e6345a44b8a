//! The service `Agent` of the protocol: whether the agent answers, and which one it is.

use crate::children::Children;
use botstead_bridge::VERSION;
use botstead_bridge::proto::agent_server::Agent;
use botstead_bridge::proto::{HealthReply, HealthRequest};
use rustix::time::{ClockId, clock_gettime};
use std::sync::Arc;
use std::time::Duration;
use tonic::{Request, Response, Status};

/// The service.
#[derive(Debug)]
pub(crate) struct AgentService {
    children: Arc<Children>,
    started: Duration,
}

impl AgentService {
    /// The agent starts now.
    pub(crate) fn new(children: Arc<Children>) -> Self {
        Self {
            children,
            started: now(),
        }
    }
}

/// On a clock that goes on while the host sleeps.
fn now() -> Duration {
    let now = clock_gettime(ClockId::Boottime);
    Duration::new(
        u64::try_from(now.tv_sec).unwrap_or(0),
        u32::try_from(now.tv_nsec).unwrap_or(0),
    )
}

#[tonic::async_trait]
impl Agent for AgentService {
    async fn health(
        &self,
        _request: Request<HealthRequest>,
    ) -> Result<Response<HealthReply>, Status> {
        let uptime = now().saturating_sub(self.started);
        Ok(Response::new(HealthReply {
            version: VERSION.to_owned(),
            uptime_ms: u64::try_from(uptime.as_millis()).unwrap_or(u64::MAX),
            running: u32::try_from(self.children.running()).unwrap_or(u32::MAX),
            files_take_users: true,
        }))
    }
}
