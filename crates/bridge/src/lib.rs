//! The protocol between the server and the agent inside a workspace, and the server's side of it.
//!
//! [`proto`] is the protocol itself, compiled from `proto/agent.proto`, which documents every call.
//! [`Failure`] is how a call fails, for both sides. With the feature `client`, `AgentPool` keeps a
//! connection per workspace over any transport that a `Connector` gives; with the feature `server`
//! the services to implement are compiled.
//!
//! What is deliberately absent: what the calls *do*, which is the agent's, and who may make them,
//! which is decided above.

mod codec;
mod failure;
#[cfg(feature = "client")]
mod pool;

pub use failure::{Failure, FailureKind};
#[cfg(feature = "client")]
pub use pool::{AgentClient, AgentPool, Connector, Error, Stream};

/// The protocol, compiled.
#[allow(
    missing_docs,
    unreachable_pub,
    clippy::clone_on_ref_ptr,
    clippy::unwrap_used,
    reason = "generated; proto/agent.proto has the documentation"
)]
pub mod proto {
    tonic::include_proto!("botstead.agent.v1");
}

/// This protocol's version: that of the crate. A server and an agent with the same one are from the
/// same release.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// What this release knows of the protocol: one more with each field of a request that an agent must not
/// ignore, where the protocol says since when it is there.
pub const REVISION: u32 = 1;

/// The metadata in which a call of the service `Files` names the user with whose rights it is done.
/// Since revision 1.
pub const USER: &str = "botstead-user-bin";

/// How much of a call's stream may be under way unread, for both sides. It bounds the memory of a
/// call that is not read, and of all of them together.
pub const STREAM_WINDOW: u32 = 256 << 10;

/// The same for a connection, for both sides: no bound. What lies unread counts against it, so with
/// less, a few streams that nobody reads would hold up every other call of the workspace. `h2` also
/// derives from it how many short frames may lie unread before it takes them for an attack and ends
/// the connection.
pub const CONNECTION_WINDOW: u32 = 1 << 30;

/// The most bytes of file data or output in one message.
pub const CHUNK_BYTES: usize = 64 << 10;
