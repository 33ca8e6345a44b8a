//! What every handler may use.

use crate::memory::Memory;
use crate::monitoring::Monitoring;
use crate::openapi::Takes;
use crate::sessions::Sessions;
use crate::{HttpConfig, Services};
use std::collections::HashMap;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// The server's state, shared by all workers.
pub(crate) struct State {
    /// The services behind the routes.
    pub(crate) services: Services,
    /// The operator's choices.
    pub(crate) config: HttpConfig,
    /// Counters of requests.
    pub(crate) monitoring: Monitoring,
    /// Memory for bodies and replies.
    pub(crate) memory: Arc<Memory>,
    /// Requests under way, by the sessions that they rest on.
    pub(crate) sessions: Arc<Sessions>,
    /// Cancelled when shutdown begins.
    pub(crate) shutdown: CancellationToken,
    /// The OpenAPI document as JSON.
    pub(crate) openapi: String,
    /// The page that renders it.
    pub(crate) docs: String,
    /// What every documented path takes.
    pub(crate) takes: HashMap<String, Vec<Takes>>,
}

/// The state as a request carries it.
pub(crate) type SharedState = Arc<State>;
