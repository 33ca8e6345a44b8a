//! The in-memory runtime.
//!
//! It differs from a real one on purpose in this: garbage is collected at once, inside the call
//! that made it, instead of some time after it, so that a missing protection fails a test every
//! time.

mod archive;
mod channels;
mod containers;
mod control;
mod faults;
mod files;
mod images;
mod leases;
mod metrics;
mod network;
mod registries;
mod snapshots;
mod state;
mod tasks;
mod trees;

pub use faults::{Killed, OPERATIONS};
pub use images::{ImageContent, PullScript};
pub use tasks::{UNSTARTABLE, programs};

use botstead_runtime::{
    Backend, Capabilities, Dns, Error, ErrorKind, NetworkInfo, Result, Runtime,
};
use faults::Op;
use ipnet::Ipv4Net;
use state::State;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{broadcast, watch};

/// A runtime in memory. Cheap to clone; clones are the same runtime.
#[derive(Clone)]
pub struct InMemoryRuntime {
    shared: Arc<Shared>,
}

impl InMemoryRuntime {
    /// An empty runtime.
    pub fn new() -> Self {
        Self::limited(|_| {})
    }

    /// The same, with other capabilities: one that is taken away is answered with `Unsupported`.
    pub fn limited(change: impl FnOnce(&mut Capabilities)) -> Self {
        let mut capabilities = Capabilities {
            backend: "memory".to_owned(),
            namespace: "memory".to_owned(),
            snapshotter: "memory".to_owned(),
            exec: false,
            metrics: true,
            images: true,
            channels: false,
            live_copies: true,
            cdi_devices: false,
            files: true,
            host_mounts: false,
        };
        change(&mut capabilities);
        let subnet = Ipv4Net::new_assert(Ipv4Addr::new(10, 99, 0, 0), 16);
        Self {
            shared: Arc::new(Shared {
                state: Arc::default(),
                folders: Mutex::default(),
                capabilities,
                network: NetworkInfo {
                    subnet,
                    gateway: Ipv4Addr::new(10, 99, 0, 1),
                    mtu: 1500,
                    dns: Dns {
                        nameservers: vec![Ipv4Addr::new(10, 99, 0, 1).into()],
                        ..Dns::default()
                    },
                },
                events: broadcast::channel(1024).0,
                answering: watch::channel(true).0,
            }),
        }
    }

    /// Its ports.
    pub fn runtime(&self) -> Runtime {
        let shared = || Arc::clone(&self.shared);
        Runtime {
            backend: shared(),
            images: shared(),
            registries: shared(),
            containers: shared(),
            channels: shared(),
            tasks: shared(),
            snapshots: shared(),
            leases: shared(),
            metrics: shared(),
            network: shared(),
        }
    }
}

impl Default for InMemoryRuntime {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for InMemoryRuntime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("InMemoryRuntime").finish_non_exhaustive()
    }
}

/// What all ports share.
struct Shared {
    state: Arc<Mutex<State>>,
    /// Layers that were written out.
    folders: Mutex<Vec<tempfile::TempDir>>,
    capabilities: Capabilities,
    network: NetworkInfo,
    events: broadcast::Sender<tasks::Notice>,
    answering: watch::Sender<bool>,
}

impl Shared {
    /// The state. A panic of another test's thread does not make it unusable.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs one call: refuses it when a fault says so, performs it, and loses its answer when a
    /// fault says so.
    fn call<T>(
        &self,
        op: Op,
        subject: &(impl ToString + ?Sized),
        perform: impl FnOnce(&mut State) -> Result<T>,
    ) -> Result<T> {
        let mut state = self.state();
        self.admit(&mut state, op, subject)?;
        let answer = perform(&mut state)?;
        match state.faults.answer(op) {
            Some(kind) => Err(op.error(kind, subject).because("the answer was lost")),
            None => Ok(answer),
        }
    }

    /// Refuses a call when the runtime is away or a fault is due.
    fn admit(&self, state: &mut State, op: Op, subject: &(impl ToString + ?Sized)) -> Result<()> {
        let was_up = !state.faults.is_away();
        let refused = state.faults.admit(op);
        if was_up && state.faults.is_away() {
            self.announce_away();
        }
        match refused {
            Some(kind) => Err(op.error(kind, subject).because("a fault was injected")),
            None => Ok(()),
        }
    }

    fn announce_away(&self) {
        self.answering.send_replace(false);
        // Nobody may be listening.
        let _ = self.events.send(tasks::Notice::Away);
    }
}

#[async_trait::async_trait]
impl Backend for Shared {
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    async fn version(&self) -> Result<String> {
        self.call(
            Op("backend.version", "ask the version of"),
            "runtime",
            |_| Ok(env!("CARGO_PKG_VERSION").to_owned()),
        )
    }
}

impl Op {
    /// An error of this operation.
    fn error(self, kind: ErrorKind, subject: &(impl ToString + ?Sized)) -> Error {
        Error::new(kind, self.1, subject.to_string())
    }
}
