//! What a workspace is like now. Reads come from the database and never wait for a lock; the
//! runtime is asked only what the database cannot know.

use crate::Result;
use crate::agent::AgentInfo;
use crate::model::{Health, OutOfMemory, WorkspaceInfo};
use crate::service::{Inner, Workspaces};
use crate::spec::DATA_PATH;
use botstead_authz::{Action, Actor};
use botstead_runtime::{Endpoint, EndpointStatus};
use botstead_store::ContainerRecord;
use botstead_types::{BotId, ContainerStatus, DesiredState, TaskStatus};
use std::time::Duration;

/// A runtime that takes longer to tell a task's state counts as not answering.
const PATIENCE: Duration = Duration::from_secs(3);
/// So does an agent, for who looks.
const AGENT_PATIENCE: Duration = Duration::from_secs(1);

impl Workspaces {
    /// The bot's workspace as it is.
    ///
    /// # Errors
    /// `BotNotFound`, `WorkspaceNotFound`. A runtime that does not answer is no error: the status
    /// is `unknown` then.
    pub async fn get(&self, actor: &Actor, bot: BotId) -> Result<WorkspaceInfo> {
        let inner = &self.inner;
        inner.authorized(actor, Action::ReadWorkspace, bot).await?;
        let record = inner.required_record(bot).await?;
        Ok(inner.info(record).await)
    }

    /// Whether database and runtime answer.
    pub async fn health(&self) -> Health {
        let inner = &self.inner;
        let (database, runtime) = tokio::join!(
            tokio::time::timeout(PATIENCE, inner.store.health.ping()),
            tokio::time::timeout(PATIENCE, inner.runtime.backend.version())
        );
        let late = |_| format!("no answer within {} s", PATIENCE.as_secs());
        Health {
            database: database
                .map_err(late)
                .and_then(|ping| ping.map_err(|e| e.to_string())),
            runtime: runtime
                .map_err(late)
                .and_then(|version| version.map_err(|e| e.chain())),
        }
    }
}

impl Inner {
    pub(crate) async fn info(&self, record: ContainerRecord) -> WorkspaceInfo {
        let (task, network_up, agent, out_of_memory) = tokio::join!(
            self.task_state(&record),
            self.network_up(&record),
            self.agent_if_running(&record),
            self.out_of_memory(record.bot)
        );
        let task_running = task == Some(Some(TaskStatus::Running));
        let status = match task {
            None => ContainerStatus::Unknown,
            Some(Some(TaskStatus::Running | TaskStatus::Paused)) => ContainerStatus::Running,
            Some(_) if record.last_error.is_some() => ContainerStatus::Error,
            Some(_) if record.started => ContainerStatus::Stopped,
            Some(_) => ContainerStatus::Created,
        };
        let has_preserved_data = self.has_preserved_data(record.bot).await;
        let reachable = task_running && network_up && agent.is_ok();
        WorkspaceInfo {
            container: record.container,
            image: record.image.reference,
            image_digest: record.image.digest,
            status,
            namespace: record.namespace,
            container_path: DATA_PATH.to_owned(),
            devices: record.devices,
            limits: record.limits.or(self.config.default_limits),
            task_running,
            reachable,
            agent: agent.ok().flatten().filter(|_| task_running),
            has_preserved_data,
            head_version: record.head_version,
            last_error: record.last_error,
            out_of_memory,
            created_at: record.created_at,
            updated_at: record.updated_at,
        }
    }

    async fn out_of_memory(&self, bot: BotId) -> Option<OutOfMemory> {
        let kills = self.out_of_memory_kills(bot).await.unwrap_or(0);
        let last_at = self.last_out_of_memory(bot).await;
        (kills > 0 || last_at.is_some()).then_some(OutOfMemory { kills, last_at })
    }

    /// The state of the task: `None` when the runtime does not tell, `Some(None)` when there is
    /// none.
    async fn task_state(&self, record: &ContainerRecord) -> Option<Option<TaskStatus>> {
        let asked = self.runtime.tasks.get(&record.container);
        match tokio::time::timeout(PATIENCE, asked).await {
            Ok(Ok(task)) => Some(Some(task.status)),
            Ok(Err(error)) if error.is_not_found() => Some(None),
            Ok(Err(error)) => {
                tracing::warn!(id = %record.container, error = %error.chain(), "cannot tell the state");
                None
            }
            Err(_) => None,
        }
    }

    async fn agent_if_running(&self, record: &ContainerRecord) -> Result<Option<AgentInfo>> {
        if record.desired == DesiredState::Stopped {
            return Ok(None);
        }
        self.agent_health(record, AGENT_PATIENCE).await
    }

    pub(crate) async fn network_up(&self, record: &ContainerRecord) -> bool {
        let Ok(address) = self.address(record.bot).await else {
            return false;
        };
        let endpoint = Endpoint { address };
        let status = self
            .runtime
            .network
            .status(&record.container, &endpoint)
            .await;
        matches!(status, Ok(EndpointStatus::Up))
    }
}
