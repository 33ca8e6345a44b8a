//! Where an operation stands that a dead server left: told by what the workspace has in the runtime, not
//! by the journal alone. A database may be older than the workspace, put back from a copy that was made
//! in the middle of an operation; what the workspace has become since is never undone then.

use crate::leftovers::bot_exists;
use crate::operations::{event, finish, kind_name};
use crate::service::Inner;
use crate::{Error, ErrorKind, Result};
use botstead_runtime::{Container, ErrorKind as RuntimeErrorKind};
use botstead_store::{BotPatch, BotStatus, Change, ContainerPatch, Operation, OperationKind};
use botstead_types::{BotId, ContainerId, LeaseId, OperationId, SnapshotKey};
use serde_json::json;
use std::sync::Arc;

/// Where an operation stands that gives a workspace another writable snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// The workspace has the snapshot that it had when the operation began.
    Untouched,
    /// That one is gone, or there was none, and the workspace has no other yet.
    Between,
    /// The workspace has the snapshot that the operation made for it, which is whole.
    Switched,
    /// It has something else, or the operation has no lease: it ended long ago, or never did anything.
    MovedOn,
}

impl Inner {
    /// The bot's container as the runtime has it.
    pub(crate) async fn container(&self, bot: BotId) -> Result<Option<Container>> {
        match self
            .runtime
            .containers
            .get(&ContainerId::for_bot(bot))
            .await
        {
            Ok(found) => Ok(Some(found)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Where the operation stands that takes the workspace from the snapshot `before`, `None` for no
    /// workspace, to `after`.
    pub(crate) async fn standing(
        &self,
        operation: &Operation,
        before: Option<&SnapshotKey>,
        after: &SnapshotKey,
    ) -> Result<Standing> {
        let container = self.container(operation.bot).await?;
        let named = container.as_ref().map(|found| found.snapshot.as_str());
        if named == Some(after.as_str()) && self.snapshot_exists(after).await? {
            return Ok(Standing::Switched);
        }
        let before_too = before.map(SnapshotKey::as_str);
        if named.is_some() && named != before_too && named != Some(after.as_str()) {
            return Ok(Standing::MovedOn);
        }
        if !self.is_leased(operation.id).await? {
            return Ok(Standing::MovedOn);
        }
        match before {
            Some(before) if self.snapshot_exists(before).await? => Ok(Standing::Untouched),
            Some(_) | None => Ok(Standing::Between),
        }
    }

    /// Whether the operation's lease is there: every operation has one from its first step to its end.
    pub(crate) async fn is_leased(&self, operation: OperationId) -> Result<bool> {
        let lease = LeaseId::for_operation(operation);
        let all = self.runtime.leases.list().await?;
        Ok(all.iter().any(|found| found.id == lease.as_str()))
    }

    /// Ends an operation that the workspace has left behind, with everything as it is.
    pub(crate) async fn end_superseded(self: &Arc<Self>, operation: &Operation) -> Result<()> {
        let container = self.container(operation.bot).await?;
        let row = self.record(operation.bot).await?;
        let row = row.as_ref().map(|row| row.snapshot.as_str());
        let why = match &container {
            Some(found) if Some(found.snapshot.as_str()) != row => Error::Superseded,
            Some(_) | None => Error::Interrupted,
        };
        tracing::warn!(operation = %operation.id, bot = %operation.bot, error = %why,
            kind = kind_name(operation.kind),
            "an unfinished operation is ended with the workspace as it is");
        self.end_as_it_is(operation, &why, false).await
    }

    /// Ends an operation that can go neither forward nor back, with everything as it is, and says so.
    pub(crate) async fn give_up(
        self: &Arc<Self>,
        operation: &Operation,
        error: &Error,
    ) -> Result<()> {
        tracing::error!(operation = %operation.id, bot = %operation.bot,
            kind = kind_name(operation.kind), %error,
            "an operation can go neither forward nor back and is given up; the workspace is left as it is");
        let why = Error::GivenUp(error.to_string());
        self.end_as_it_is(operation, &why, true).await
    }

    async fn end_as_it_is(
        self: &Arc<Self>,
        operation: &Operation,
        why: &Error,
        tell: bool,
    ) -> Result<()> {
        let bot = operation.bot;
        let mut changes = finish(operation, Some(why));
        if tell {
            let detail = json!({"operation": operation.id, "kind": kind_name(operation.kind),
                                "reason": why.to_string()});
            changes.push(event(bot, "operation_given_up", detail));
            if self.record(bot).await?.is_some() {
                let patch = ContainerPatch {
                    last_error: Some(Some(why.to_string())),
                    ..ContainerPatch::default()
                };
                changes.push(Change::PatchContainer(bot, Box::new(patch)));
            }
        }
        let under_way = matches!(
            operation.kind,
            OperationKind::Create | OperationKind::DeleteBot
        );
        if under_way && self.bot_exists(bot).await? {
            let status = match tell {
                true => BotStatus::Error,
                false => BotStatus::Ready,
            };
            let patch = BotPatch {
                status: Some(status),
                ..BotPatch::default()
            };
            changes.push(Change::PatchBot(bot, patch));
        }
        self.store.transactions.apply(changes).await?;
        self.drop_lease(operation.id);
        // What it left becomes what is recorded, wherever that can be.
        if let Err(error) = self.keep_what_is_there(bot).await {
            tracing::warn!(%bot, %error, "cannot compare the workspace with the runtime");
        }
        Ok(())
    }

    pub(crate) async fn bot_exists(&self, bot: BotId) -> Result<bool> {
        bot_exists(&self.store, bot).await
    }
}

/// Whether an operation that failed like this will never succeed: what it needs is gone or refuses
/// it. When the runtime is away or the disk is full, later may be better.
pub(crate) fn is_final(error: &Error) -> bool {
    match error.kind() {
        ErrorKind::NotFound
        | ErrorKind::Forbidden
        | ErrorKind::Conflict
        | ErrorKind::Invalid
        | ErrorKind::Unprocessable
        | ErrorKind::Unsupported
        | ErrorKind::TooLarge
        | ErrorKind::LimitReached => true,
        ErrorKind::Unavailable
        | ErrorKind::ResourceExhausted
        | ErrorKind::Cancelled
        | ErrorKind::Internal => false,
    }
}

/// Whether the runtime says of what was to be started that it never can be, as it is.
pub(crate) fn is_unstartable(error: &Error) -> bool {
    matches!(error, Error::Runtime(error) if error.kind() == RuntimeErrorKind::Unstartable)
}
