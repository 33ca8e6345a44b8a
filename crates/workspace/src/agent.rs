//! The agent inside each workspace: how it is run, how it is reached, and what its failures mean
//! here.

mod failure;

pub use failure::AgentFailure;

use crate::service::Inner;
use crate::shares::{Share, Shares};
use crate::spec::CHANNEL_PATH;
use crate::{Error, Result};
use async_trait::async_trait;
use botstead_bridge::proto::HealthRequest;
use botstead_bridge::{AgentClient, AgentPool, Connector, Error as BridgeError, Stream};
use botstead_runtime::{Channels, ErrorKind, Runtime, Signal};
use botstead_store::ContainerRecord;
use botstead_types::{BotId, ContainerId, DesiredState};
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tonic::{Request, Response, Status};

/// The name of the agent's socket in the channel directory.
const SOCKET: &str = "agent.sock";

/// How long a call may take that should be short.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// How long an agent may take to answer before it counts as silent to whoever would do something
/// about that. Longer than is waited for one to appear, so that one that is not there is told apart.
pub(crate) const REPAIR_PATIENCE: Duration = Duration::from_secs(10);

/// The agent of a workspace that answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentInfo {
    /// Its version.
    pub version: String,
    /// How long it runs.
    pub uptime: Duration,
    /// Commands and terminals that run.
    pub running: u32,
    /// What to do where it is of another release than the server.
    pub advice: Option<String>,
}

/// Where the agent's socket appears inside.
pub(crate) fn socket_path() -> String {
    format!("{CHANNEL_PATH}/{SOCKET}")
}

/// The connections to all agents, on a backend that has channels.
pub(crate) fn pool(runtime: &Runtime) -> Option<AgentPool> {
    runtime.backend.capabilities().channels.then(|| {
        AgentPool::new(Arc::new(ChannelConnector {
            channels: Arc::clone(&runtime.channels),
        }))
    })
}

struct ChannelConnector {
    channels: Arc<dyn Channels>,
}

#[async_trait]
impl Connector for ChannelConnector {
    async fn connect(&self, container: &ContainerId) -> io::Result<Box<dyn Stream>> {
        match self.channels.connect(container, SOCKET).await {
            Ok(stream) => Ok(Box::new(stream)),
            Err(error) => {
                let kind = match error.kind() {
                    ErrorKind::NotFound => io::ErrorKind::NotFound,
                    ErrorKind::Unavailable => io::ErrorKind::ConnectionRefused,
                    ErrorKind::ResourceExhausted => io::ErrorKind::WouldBlock,
                    _ => io::ErrorKind::Other,
                };
                Err(io::Error::new(kind, error.chain()))
            }
        }
    }
}

/// A call to an agent: the way to it, and the call's place among those of the bot. Whoever goes on with
/// the call keeps both.
#[derive(Debug)]
pub(crate) struct AgentCall {
    pub(crate) client: AgentClient,
    pub(crate) place: Share<BotId>,
}

/// The places of calls to agents, by bot. An agent decides how long a call takes, and each holds memory
/// here.
#[derive(Debug)]
pub(crate) struct Calls {
    short: Shares<BotId>,
    lasting: Shares<BotId>,
}

impl Calls {
    pub(crate) fn new(short: usize, lasting: usize) -> Self {
        Self {
            short: Shares::apart(short),
            lasting: Shares::apart(lasting),
        }
    }
}

/// A request that says how long its answer is waited for; see [`answered`].
pub(crate) fn timed<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(DEADLINE);
    request
}

/// The answer to a call that should be short. The request's own timeout ends with the beginning of the
/// answer, so that an agent that begins one could go on for ever.
pub(crate) async fn answered<T>(
    call: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T> {
    in_time(DEADLINE, call).await
}

/// The answer to a call, which is given up when it takes longer than this.
pub(crate) async fn in_time<T>(
    limit: Duration,
    call: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T> {
    match tokio::time::timeout(limit, call).await {
        Ok(answer) => Ok(answer.map_err(failed)?.into_inner()),
        Err(_) => Err(Error::Stalled(limit)),
    }
}

impl Inner {
    /// The agent of a workspace that should run. Does not wait for it: calls do.
    pub(crate) fn agent_of(&self, record: &ContainerRecord) -> Result<AgentClient> {
        if record.desired == DesiredState::Stopped {
            return Err(Error::NotRunning);
        }
        self.client(&record.container).ok_or_else(|| {
            Error::Unsupported("this backend gives no way to a workspace's agent".to_owned())
        })
    }

    /// A client whose connection lives on the service's runtime, whoever asks first.
    fn client(&self, container: &ContainerId) -> Option<AgentClient> {
        let _entered = self.handle.enter();
        Some(self.agents.as_ref()?.get(container))
    }

    /// The agent of the bot's workspace, for a call that should be short.
    ///
    /// # Errors
    /// `WorkspaceNotFound`, `NotRunning`, `TooManyCalls`.
    pub(crate) async fn agent(&self, bot: BotId) -> Result<AgentCall> {
        self.call(bot, &self.calls.short).await
    }

    /// The same for a call that lasts.
    pub(crate) async fn agent_for_long(&self, bot: BotId) -> Result<AgentCall> {
        self.call(bot, &self.calls.lasting).await
    }

    async fn call(&self, bot: BotId, places: &Shares<BotId>) -> Result<AgentCall> {
        let record = self.required_record(bot).await?;
        let client = self.agent_of(&record)?;
        let place = tokio::time::timeout(self.config.busy_wait, places.take(bot, 1)).await;
        let place = place.map_err(|_| Error::TooManyCalls)?;
        Ok(AgentCall { client, place })
    }

    /// Connects to the agent of a task that is about to start, so that its first command need not wait for
    /// that: the agent listens before the runtime says that its task runs. Nobody waits for it here.
    pub(crate) fn greet_agent(&self, container: &ContainerId) {
        let Some(client) = self.client(container) else {
            return;
        };
        let (container, closed) = (container.clone(), self.background.clone());
        self.handle.spawn(async move {
            let mut agent = client.agent();
            let greeted = agent.health(timed(HealthRequest {}));
            if let Some(Err(status)) = closed.run_until_cancelled(greeted).await {
                tracing::debug!(%container, %status, "a new task's agent does not answer yet");
            }
        });
    }

    /// Gives up the connection to an agent whose task ends.
    pub(crate) fn forget_agent(&self, container: &ContainerId) {
        if let Some(pool) = &self.agents {
            pool.forget(container);
        }
    }

    /// Asks an agent that should answer, and lets it go on first where it may have been stopped: nothing
    /// inside can do either to it, but the host can. See [`is_lost`] for what a failure means.
    pub(crate) async fn wake_agent(&self, record: &ContainerRecord) -> Result<()> {
        let asked = self.agent_health(record, REPAIR_PATIENCE).await;
        match asked {
            Err(error) if !is_lost(&error) => {}
            asked => return asked.map(drop),
        }
        // One that ended meanwhile is seen to be gone below.
        let _ = self
            .runtime
            .tasks
            .kill(&record.container, Signal::CONT)
            .await;
        self.agent_health(record, REPAIR_PATIENCE).await.map(drop)
    }

    /// Asks the agent whether it is there, for at most `patience`. `Ok(None)` on a backend without a
    /// way to agents.
    pub(crate) async fn agent_health(
        &self,
        record: &ContainerRecord,
        patience: Duration,
    ) -> Result<Option<AgentInfo>> {
        let Some(client) = self.client(&record.container) else {
            return Ok(None);
        };
        let mut agent = client.agent();
        let asked = agent.health(Request::new(HealthRequest {}));
        let asked = tokio::time::timeout(patience, asked).await;
        let health = match asked {
            Ok(answered) => answered.map_err(failed)?.into_inner(),
            Err(_) => return Err(Error::Unreachable(None)),
        };
        let mut version = health.version;
        version.retain(|c| c.is_ascii_graphic());
        version.truncate(64);
        let own = botstead_bridge::VERSION;
        let advice = (version != own).then(|| {
            format!(
                "the workspace's agent is version {version} and the server's is {own}; stop and \
                 start the workspace to get the server's"
            )
        });
        Ok(Some(AgentInfo {
            version,
            uptime: Duration::from_millis(health.uptime_ms),
            running: health.running,
            advice,
        }))
    }
}

/// Refuses what the agent of a workspace would ignore, which runs since before the server knew it.
pub(crate) async fn require(client: &AgentClient, revision: u32, what: &'static str) -> Result<()> {
    let health = answered(client.agent().health(timed(HealthRequest {}))).await?;
    match health.revision >= revision {
        true => Ok(()),
        false => Err(Error::AgentOutdated { what }),
    }
}

/// Whether an agent that does not answer cannot: nobody listens at its socket, so that nobody can be
/// served and waiting is no use. One that is busy, or has too little of the host to answer, is not
/// lost, however long it takes: to replace its task would end all that it runs.
pub(crate) fn is_lost(error: &Error) -> bool {
    matches!(error, Error::Unreachable(Some(error)) if error.is_absent())
}

/// What an agent's refusal, or its silence, means to a caller.
pub(crate) fn failed(error: impl Into<BridgeError>) -> Error {
    match error.into() {
        BridgeError::Agent(failure) => Error::Agent(failure.into()),
        unreachable => Error::Unreachable(Some(unreachable)),
    }
}
