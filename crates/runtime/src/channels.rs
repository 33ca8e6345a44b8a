//! Channels: byte streams between the host and what a task runs.

use crate::Result;
use async_trait::async_trait;
use botstead_types::ContainerId;
use tokio::io::{AsyncRead, AsyncWrite};

/// A connection as bytes.
pub trait ByteStream: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> ByteStream for T {}

/// Byte streams into a task, to the unix socket that its process makes in
/// [`crate::ContainerSpec::channel`]. That directory is shared with the host, small, in memory, and
/// new for every task.
///
/// What answers is the task's own first process, or the call fails: nothing else inside the container
/// can stand in for it, nor lead the host to a socket of the host's.
#[async_trait]
pub trait Channels: Send + Sync {
    /// Connects once to the socket of that name, without waiting for it to appear.
    ///
    /// # Errors
    /// `NotFound` while there is no task or no such socket, `Unavailable` when nothing listens, `ResourceExhausted`
    /// when as many wait to be accepted as there is room for,
    /// `Conflict` when what stands there is no socket or is another process's, `Unsupported` where
    /// [`crate::Capabilities::channels`] is false.
    async fn connect(&self, id: &ContainerId, socket: &str) -> Result<Box<dyn ByteStream>>;

    /// The containers that have a channel directory.
    ///
    /// # Errors
    /// `Internal` when they cannot be listed.
    async fn list(&self) -> Result<Vec<ContainerId>> {
        Ok(Vec::new())
    }

    /// Removes the channel directory of a container without a task. Again: no change.
    ///
    /// # Errors
    /// `Internal` when it cannot be removed.
    async fn remove(&self, id: &ContainerId) -> Result<()> {
        let _ = id;
        Ok(())
    }
}
