//! The journal: operations of several steps, written down before they begin.

use crate::{Change, Result};
use async_trait::async_trait;
use botstead_types::{BotId, OperationId, Page, PageRequest, VersionNumber};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What an operation does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OperationKind {
    /// Make a workspace.
    Create,
    /// Start a workspace.
    Start,
    /// Stop a workspace.
    Stop,
    /// Make a version.
    Snapshot,
    /// Bring a version back.
    Rollback,
    /// Make a workspace from another bot's.
    Fork,
    /// Put an archive into a workspace.
    Import,
    /// Bring preserved data back.
    Restore,
    /// Bring a single path of a version back.
    RestorePath,
    /// Give a workspace another image.
    ChangeImage,
    /// Record a version again that the runtime has and the database lost.
    Recover,
    /// Remove a version.
    DeleteVersion,
    /// Remove a workspace, and its versions where that was asked for.
    Delete,
    /// Remove a bot with everything that it has.
    DeleteBot,
}

/// Where an operation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OperationState {
    /// It runs, or its server died and it waits to be replayed or undone.
    Running,
    /// It did what it should.
    Succeeded,
    /// It failed and was undone.
    Failed,
    /// It was cancelled and undone.
    Cancelled,
}

/// Why an operation failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperationError {
    /// A stable machine word, as in the API's problem replies.
    pub code: String,
    /// Words for the user, with what was undone.
    pub message: String,
}

/// An operation as the journal has it.
#[derive(Debug, Clone, PartialEq)]
pub struct Operation {
    /// Its id; runtime names and the lease derive from it.
    pub id: OperationId,
    /// The bot.
    pub bot: BotId,
    /// What it does.
    pub kind: OperationKind,
    /// Where it is.
    pub state: OperationState,
    /// The last step that was recorded.
    pub step: String,
    /// The version number that it reserved, where it makes one.
    pub version: Option<VersionNumber>,
    /// Everything that a replay needs, as the use case wrote it.
    pub input: Value,
    /// Why it failed.
    pub error: Option<OperationError>,
    /// When it began.
    pub created_at: DateTime<Utc>,
    /// When it was last written.
    pub updated_at: DateTime<Utc>,
}

/// The journal.
#[async_trait]
pub trait Operations: Send + Sync {
    /// Writes an operation down. With `reserve_version` the bot's version counter is incremented
    /// in the same transaction and the operation gets the new number, whatever `version` it has.
    /// Returns the operation as it was written.
    ///
    /// # Errors
    /// `AlreadyExists` when the id is taken, `NotFound` when the bot does not exist.
    async fn begin(&self, operation: &Operation, reserve_version: bool) -> Result<Operation> {
        self.begin_with(operation, reserve_version, Vec::new())
            .await
    }

    /// The same, with what has to be recorded at the beginning anyway: all of it in one transaction,
    /// or nothing.
    ///
    /// # Errors
    /// Those of [`Operations::begin`] and of the changes.
    async fn begin_with(
        &self,
        operation: &Operation,
        reserve_version: bool,
        changes: Vec<Change>,
    ) -> Result<Operation>;

    /// An operation.
    ///
    /// # Errors
    /// `NotFound`, also when it is another bot's.
    async fn get(&self, bot: BotId, id: OperationId) -> Result<Operation>;

    /// Operations of a bot, newest first.
    ///
    /// # Errors
    /// `InvalidArgument` for a cursor that no page gave.
    async fn list(&self, bot: BotId, page: &PageRequest) -> Result<Page<Operation>>;

    /// All operations in state `Running`, oldest first: at start-up, those that a dead server
    /// left.
    ///
    /// # Errors
    /// `Unavailable` when the database does not answer.
    async fn unfinished(&self) -> Result<Vec<Operation>>;

    /// Removes finished operations that were last written before `before`, and tells how many.
    ///
    /// # Errors
    /// `Unavailable` when the database does not answer.
    async fn forget_finished(&self, before: DateTime<Utc>) -> Result<u64>;
}
