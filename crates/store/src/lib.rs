//! The repository traits and the conformance suite that every store passes.
//!
//! This crate owns what is recorded and which changes happen together. It has no database crate
//! in it, so that whoever embeds Botstead chooses the database: `botstead-store-sql` is one
//! implementation. The suite (feature `conformance`) has one named test per promise made here.
//!
//! # Promises of every implementation
//! - A change that was answered is durable, also after power loss.
//! - [`Transactions::apply`] applies all of its changes or none.
//! - Updates are partial: a patch touches the fields that it names and no other.
//! - Version history does not depend on the container's row.
//! - Reads never wait for a writer.
//! - Times are kept to the microsecond.

mod bots;
#[cfg(feature = "conformance")]
pub mod conformance;
mod containers;
mod error;
mod events;
mod images;
mod metadata;
mod network;
mod operations;
mod transactions;
mod users;
mod versions;

pub use bots::{Bot, BotPatch, BotStatus, Bots};
pub use containers::{ContainerPatch, ContainerRecord, Containers};
pub use error::{Error, ErrorKind, Result};
pub use events::{Event, Events, NewEvent};
pub use images::ImageConfigs;
pub use metadata::Metadata;
pub use network::{Addresses, AssignedAddress};
pub use operations::{Operation, OperationError, OperationKind, OperationState, Operations};
pub use transactions::{Change, Transactions};
pub use users::{User, UserPatch, Users};
pub use versions::{VersionPatch, VersionRecord, VersionSnapshot, Versions};

use async_trait::async_trait;
use std::sync::Arc;

/// Everything that is stored. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    /// User accounts.
    pub users: Arc<dyn Users>,
    /// Bots.
    pub bots: Arc<dyn Bots>,
    /// Workspace containers.
    pub containers: Arc<dyn Containers>,
    /// Versions of workspaces.
    pub versions: Arc<dyn Versions>,
    /// Configurations of the images of containers and versions.
    pub images: Arc<dyn ImageConfigs>,
    /// The journal of operations.
    pub operations: Arc<dyn Operations>,
    /// Lifecycle events.
    pub events: Arc<dyn Events>,
    /// Addresses of workspaces.
    pub addresses: Arc<dyn Addresses>,
    /// Changes that happen together.
    pub transactions: Arc<dyn Transactions>,
    /// The database as a whole.
    pub health: Arc<dyn Health>,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").finish_non_exhaustive()
    }
}

/// Whether the database is there.
#[async_trait]
pub trait Health: Send + Sync {
    /// Asks the database for an answer.
    ///
    /// # Errors
    /// `Unavailable` when it gives none.
    async fn ping(&self) -> Result<()>;
}
