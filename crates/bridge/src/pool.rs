//! The server's side: one connection per workspace, made when it is first needed and again whenever
//! it broke.

use crate::{CONNECTION_WINDOW, Failure, STREAM_WINDOW, proto};
use async_trait::async_trait;
use botstead_types::ContainerId;
use hyper_util::rt::TokioIo;
use proto::agent_client::AgentClient as Agent;
use proto::files_client::FilesClient as Files;
use proto::process_table_client::ProcessTableClient as ProcessTable;
use proto::processes_client::ProcessesClient as Processes;
use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite};
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Status};

/// How long a call waits for an agent that is just starting.
const START_WAIT: Duration = Duration::from_secs(5);
/// While calls are under way a connection on which nothing comes for this long is asked for a sign of life,
/// and given up when there is none for as long again: an agent that stands still ends none of its calls.
const SILENCE: Duration = Duration::from_secs(45);
/// The pause between tries: shorter at first, as most agents listen some milliseconds after the first try.
const PAUSE: Duration = Duration::from_millis(50);
const EAGER_PAUSE: Duration = Duration::from_millis(1);
const EAGER: Duration = Duration::from_millis(200);

/// A connection as bytes.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Stream for T {}

/// How workspaces are reached: a unix socket that the host shares in, TCP, the streams of a process.
#[async_trait]
pub trait Connector: Send + Sync + 'static {
    /// Connects to the workspace's agent once, without waiting for it to appear.
    ///
    /// # Errors
    /// `NotFound` and `ConnectionRefused` while there is no agent yet, `WouldBlock` while its queue is
    /// full; anything else is final.
    async fn connect(&self, container: &ContainerId) -> io::Result<Box<dyn Stream>>;
}

/// A failed call.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The agent did it not, and says why.
    #[error("{}", .0.message)]
    Agent(Failure),
    /// The agent did not answer.
    #[error("the workspace's agent does not answer")]
    Unreachable(#[source] Box<Status>),
}

impl From<Status> for Error {
    fn from(status: Status) -> Self {
        match Failure::of(&status) {
            Some(failure) => Self::Agent(failure),
            None => Self::Unreachable(Box::new(status)),
        }
    }
}

impl Error {
    /// Whether the call was given up because it took too long.
    pub fn is_timeout(&self) -> bool {
        matches!(self, Self::Unreachable(status)
            if matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled))
    }

    /// Whether nobody listened where the agent should, all the time that was waited for it: it is not
    /// slow to answer, there is none.
    pub fn is_absent(&self) -> bool {
        let Self::Unreachable(status) = self else {
            return false;
        };
        let mut cause = std::error::Error::source(status.as_ref());
        while let Some(error) = cause {
            if let Some(error) = error.downcast_ref::<io::Error>() {
                return matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
                );
            }
            cause = error.source();
        }
        false
    }
}

/// An agent, over one connection that all its clones and calls share.
#[derive(Debug, Clone)]
pub struct AgentClient {
    channel: Channel,
}

impl AgentClient {
    /// The agent itself.
    pub fn agent(&self) -> Agent<Channel> {
        Agent::new(self.channel.clone())
    }

    /// Files.
    pub fn files(&self) -> Files<Channel> {
        Files::new(self.channel.clone())
    }

    /// Commands and terminals.
    pub fn processes(&self) -> Processes<Channel> {
        Processes::new(self.channel.clone())
    }

    /// What runs, whoever started it.
    pub fn process_table(&self) -> ProcessTable<Channel> {
        ProcessTable::new(self.channel.clone())
    }
}

/// The connections of all workspaces. Must be used on a tokio runtime.
pub struct AgentPool {
    connector: Arc<dyn Connector>,
    clients: Mutex<HashMap<ContainerId, AgentClient>>,
}

impl std::fmt::Debug for AgentPool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AgentPool")
            .field("connections", &self.clients().len())
            .finish_non_exhaustive()
    }
}

impl AgentPool {
    /// A pool without connections.
    pub fn new(connector: Arc<dyn Connector>) -> Self {
        Self {
            connector,
            clients: Mutex::default(),
        }
    }

    /// The workspace's agent. Connects with the first call; a call made while the agent starts waits
    /// for it up to 5 s.
    pub fn get(&self, container: &ContainerId) -> AgentClient {
        let mut clients = self.clients();
        if let Some(client) = clients.get(container) {
            return client.clone();
        }
        let client = AgentClient {
            channel: self.channel(container.clone()),
        };
        clients.insert(container.clone(), client.clone());
        client
    }

    /// Gives up the workspace's connection: its task ended or was replaced. Calls under way end with
    /// the task, and the next one connects anew.
    pub fn forget(&self, container: &ContainerId) {
        self.clients().remove(container);
    }

    fn clients(&self) -> MutexGuard<'_, HashMap<ContainerId, AgentClient>> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn channel(&self, container: ContainerId) -> Channel {
        let connector = Arc::clone(&self.connector);
        // The address is never looked up: the connector knows the way.
        Endpoint::from_static("http://agent")
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .http2_keep_alive_interval(SILENCE)
            .keep_alive_timeout(SILENCE)
            .connect_with_connector_lazy(tower::service_fn(move |_: Uri| {
                let (connector, container) = (Arc::clone(&connector), container.clone());
                async move {
                    let stream = connect(connector.as_ref(), &container).await?;
                    Ok::<_, io::Error>(TokioIo::new(stream))
                }
            }))
    }
}

/// Connects, waiting for an agent that is just starting.
async fn connect(
    connector: &dyn Connector,
    container: &ContainerId,
) -> io::Result<Box<dyn Stream>> {
    let began = Instant::now();
    loop {
        let pause = match began.elapsed() < EAGER {
            true => EAGER_PAUSE,
            false => PAUSE,
        };
        match connector.connect(container).await {
            Err(error) if is_not_yet(&error) && began.elapsed() + pause < START_WAIT => {
                tokio::time::sleep(pause).await;
            }
            done => return done,
        }
    }
}

fn is_not_yet(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused | io::ErrorKind::WouldBlock
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Failing(io::ErrorKind);

    #[async_trait]
    impl Connector for Failing {
        async fn connect(&self, _: &ContainerId) -> io::Result<Box<dyn Stream>> {
            Err(io::Error::new(self.0, "as planned"))
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_agent_that_is_not_there_is_told_from_one_that_is_busy() {
        for (kind, absent) in [
            (io::ErrorKind::NotFound, true),
            (io::ErrorKind::ConnectionRefused, true),
            (io::ErrorKind::WouldBlock, false),
            (io::ErrorKind::Other, false),
        ] {
            let pool = AgentPool::new(Arc::new(Failing(kind)));
            let client = pool.get(&"b-1".parse().unwrap());
            let answer = client.agent().health(proto::HealthRequest {}).await;
            let error = Error::from(answer.unwrap_err());
            assert_eq!(error.is_absent(), absent, "{kind:?} {error:?}");
        }
        let timed_out = Status::deadline_exceeded("no answer");
        assert!(!Error::from(timed_out).is_absent());
    }
}
