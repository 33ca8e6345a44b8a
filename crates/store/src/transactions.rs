//! Changes that happen together.

use crate::{
    BotPatch, ContainerPatch, ContainerRecord, NewEvent, OperationError, OperationState, Result,
    VersionPatch, VersionRecord,
};
use async_trait::async_trait;
use botstead_types::{BotId, OperationId, VersionNumber};
use ipnet::Ipv4Net;
use serde_json::Value;
use std::net::Ipv4Addr;

/// One change. A transaction is a list of them, so that a use case says in one place what belongs
/// together.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// Adds a container's row. Fails with `AlreadyExists`, and with `NotFound` when the bot does
    /// not exist.
    InsertContainer(Box<ContainerRecord>),
    /// Changes a container's row. Fails with `NotFound`.
    PatchContainer(BotId, Box<ContainerPatch>),
    /// Removes a container's row where there is one; versions stay.
    DeleteContainer(BotId),
    /// Adds a version; its number is used up where it was not reserved. Fails with
    /// `AlreadyExists`, and with `NotFound` when the bot does not exist.
    InsertVersion(Box<VersionRecord>),
    /// Changes a version. Fails with `NotFound`.
    PatchVersion(BotId, VersionNumber, VersionPatch),
    /// Removes a version where there is one; its number is not used again.
    DeleteVersion(BotId, VersionNumber),
    /// Changes a bot. Fails with `NotFound`.
    PatchBot(BotId, BotPatch),
    /// Removes a bot where there is one, with its container's row, versions, operations, events
    /// and address.
    DeleteBot(BotId),
    /// Assigns an address to a bot as [`crate::Addresses::assign`] does. Fails with
    /// `ResourceExhausted` when the subnet is full.
    AssignAddress {
        /// The bot.
        bot: BotId,
        /// The subnet.
        subnet: Ipv4Net,
        /// Its address that is never assigned.
        gateway: Ipv4Addr,
    },
    /// Releases a bot's address where it has one.
    ReleaseAddress(BotId),
    /// Records how far an operation is, and its input where that changed. Fails with `NotFound`.
    AdvanceOperation {
        /// The operation.
        id: OperationId,
        /// The step that was done.
        step: String,
        /// A new input.
        input: Option<Value>,
    },
    /// Records how an operation ended. No change when its bot was deleted in the meantime.
    FinishOperation {
        /// The operation.
        id: OperationId,
        /// Any state but `Running`, which is an `InvalidArgument`.
        state: OperationState,
        /// Why, when it failed.
        error: Option<OperationError>,
    },
    /// Adds an event. No change when its bot was deleted in the meantime.
    AppendEvent(NewEvent),
}

/// Changes that happen together.
#[async_trait]
pub trait Transactions: Send + Sync {
    /// Applies all changes, in their order, or none. When it returns they are durable.
    ///
    /// # Errors
    /// Those of the changes; `Unavailable` when the database stays locked.
    async fn apply(&self, changes: Vec<Change>) -> Result<()>;
}
