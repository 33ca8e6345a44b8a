//! Deletion of a workspace, of its versions, and of a bot with everything that it has.

use crate::data::archive_of;
use crate::faults::fault_point;
use crate::layers::unless_missing;
use crate::model::DeleteRequest;
use crate::operations::{advanced, event, finished, input, new_operation};
use crate::service::{Inner, Workspaces};
use crate::starts::Cause;
use crate::{Error, Result, disk};
use botstead_authz::{Action, Actor};
use botstead_runtime::Signal;
use botstead_store::{
    BotPatch, BotStatus, Change, ContainerRecord, Operation, OperationKind, OperationState,
};
use botstead_types::{BotId, ContainerId, DesiredState, LeaseId, OperationId, SnapshotKey};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::sync::Arc;

/// What a replay of a deletion needs.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct DeleteInput {
    /// The active snapshot of the workspace, where there is one.
    active: Option<SnapshotKey>,
    delete_versions: bool,
    delete_bot: bool,
    /// Whether `/data` is saved before anything goes.
    #[serde(default)]
    preserve: bool,
    /// Whether archives of earlier go as well: with the bot, nobody could ask for them.
    #[serde(default)]
    delete_preserved: bool,
}

/// The step from which on a deletion that preserves data goes forward.
const PRESERVED: &str = "preserved";

impl Workspaces {
    /// Removes the workspace; its versions stay unless asked otherwise, and a rollback makes a
    /// workspace from one. A bot without a workspace is no error.
    ///
    /// # Errors
    /// `BotNotFound`, `Busy`; `WorkspaceNotFound` when data is to be preserved of none. When the data
    /// cannot be saved, nothing is deleted.
    pub async fn delete(&self, actor: &Actor, bot: BotId, request: DeleteRequest) -> Result<()> {
        let inner = &self.inner;
        inner
            .authorized(actor, Action::DeleteWorkspace, bot)
            .await?;
        self.remove(bot, OperationKind::Delete, request).await
    }

    /// Removes the bot with its workspace, versions and history. With `preserve_data` its data stays as
    /// an archive in the folder for that, beside those of earlier; else they go too.
    ///
    /// # Errors
    /// As [`Workspaces::delete`].
    pub async fn delete_bot(&self, actor: &Actor, bot: BotId, preserve_data: bool) -> Result<()> {
        let inner = &self.inner;
        inner.authorized(actor, Action::DeleteBot, bot).await?;
        let request = DeleteRequest {
            preserve_data,
            delete_versions: true,
        };
        self.remove(bot, OperationKind::DeleteBot, request).await
    }

    async fn remove(&self, bot: BotId, kind: OperationKind, request: DeleteRequest) -> Result<()> {
        let inner = &self.inner;
        let DeleteRequest {
            preserve_data,
            delete_versions,
        } = request;
        inner.refuse_when_closing()?;
        // Nobody waits for it any more.
        inner.cancel_pulls(bot);
        let work = Arc::clone(inner);
        inner
            .detached(async move {
                let id = OperationId::generate();
                let delete_bot = kind == OperationKind::DeleteBot;
                let what = if delete_bot { "delete_bot" } else { "delete" };
                let _guard = work.lock_without_recovery(bot, id, what).await?;
                if let Err(error) = work.recover_enough(bot).await {
                    // Of what an earlier operation holds half, nothing can be saved.
                    if preserve_data {
                        return Err(error);
                    }
                    tracing::warn!(%bot, %error, "deleting beside an operation that cannot go on");
                }
                let mut record = work.found_record(bot).await?;
                if preserve_data {
                    record = match record {
                        Some(record) => {
                            let present = work.with_files(record).await?;
                            Some(present.ok_or(Error::WorkspaceLost(bot))?)
                        }
                        None if delete_bot => None,
                        None => return Err(Error::WorkspaceNotFound(bot)),
                    };
                }
                let own = work.own_snapshot(bot).await?;
                if record.is_none() && !delete_bot {
                    let versions =
                        delete_versions && !work.store.versions.list(bot).await?.is_empty();
                    if !versions {
                        return Ok(());
                    }
                }
                let preserve = record.as_ref().filter(|_| preserve_data).cloned();
                let input = DeleteInput {
                    active: own.or(record.map(|record| record.snapshot)),
                    delete_versions,
                    delete_bot,
                    preserve: preserve.is_some(),
                    delete_preserved: delete_bot && !preserve_data,
                };
                let operation = new_operation(id, bot, kind, &input)?;
                let operation = work.begin_leased(operation, false).await?;
                fault_point!("delete", "begun");
                let live = work.register(operation);
                if let Some(record) = preserve
                    && let Err(error) = work.preserve_first(&live.record, &record).await
                {
                    let outcome = work.keep_workspace(&live.record, &record, &error).await;
                    work.unregister(&live, outcome);
                    return Err(error);
                }
                let done = work.delete_steps(&live.record).await;
                let outcome = match &done {
                    Ok(()) => {
                        work.end_stuck(bot, delete_versions).await;
                        // Where one of those had kept a state as a version, that stays as all others do.
                        if !delete_versions && let Err(error) = work.keep_what_is_there(bot).await {
                            tracing::warn!(%bot, %error, "cannot compare what is left with the runtime");
                        }
                        OperationState::Succeeded
                    }
                    Err(error) => {
                        work.keep_for_retry(&live.record, error);
                        OperationState::Running
                    }
                };
                work.unregister(&live, outcome);
                done
            })
            .await
    }
}

impl Inner {
    /// Saves the data of a workspace that is about to go.
    async fn preserve_first(
        self: &Arc<Self>,
        operation: &Operation,
        record: &ContainerRecord,
    ) -> Result<()> {
        disk::require_free_space(&self.config)?;
        let lease = LeaseId::for_operation(operation.id);
        self.power_down(record).await?;
        self.preserve(&lease, record, archive_of(operation.id))
            .await?;
        self.store
            .transactions
            .apply(vec![advanced(operation.id, PRESERVED)])
            .await?;
        fault_point!("delete", "preserved");
        Ok(())
    }

    /// After data could not be saved: the workspace stays, and runs if it should.
    async fn keep_workspace(
        self: &Arc<Self>,
        operation: &Operation,
        record: &ContainerRecord,
        error: &Error,
    ) -> OperationState {
        if record.desired == DesiredState::Running
            && let Err(start) = self.bring_up(record, Cause::Asked).await
        {
            tracing::error!(bot = %record.bot, error = %start, "cannot start again");
        }
        // The workspace has it all, and goes on.
        let removed = self.remove_preserved(record.bot, archive_of(operation.id));
        if let Err(error) = removed.await {
            tracing::warn!(bot = %record.bot, %error, "an archive that is not needed stays");
        }
        self.drop_lease(operation.id);
        self.finish_failed(operation, error).await
    }

    /// The snapshot that the bot's container names, where that exists.
    async fn own_snapshot(&self, bot: BotId) -> Result<Option<SnapshotKey>> {
        let named = self.container(bot).await?;
        let named = named.and_then(|found| found.snapshot.parse().ok());
        match named {
            Some(named) if self.snapshot_exists(&named).await? => Ok(Some(named)),
            _ => Ok(None),
        }
    }

    /// Ends a deletion that a dead server or a failure left: forward, unless data was to be saved
    /// first and was not, or the workspace is a newer one. Without its lease it ended long ago, or never
    /// came to anything: what is there now is newer than it, whatever its name.
    pub(crate) async fn replay_deletion(self: &Arc<Self>, operation: &Operation) -> Result<()> {
        let what: DeleteInput = input(operation)?;
        let own = self.own_snapshot(operation.bot).await?;
        if own.is_some() && own != what.active {
            return self.end_superseded(operation).await;
        }
        let saved = operation.step == PRESERVED
            && (own.is_none()
                || self
                    .is_preserved(operation.bot, archive_of(operation.id))
                    .await);
        if what.preserve && !saved {
            // An archive that is whole stays, as nobody knows here whether anything else does.
            self.remove_unfinished_archives(operation.bot).await;
            self.drop_lease(operation.id);
            self.finish_interrupted(operation).await?;
            return Ok(());
        }
        if !self.is_leased(operation.id).await?
            && self.is_anything_left(operation.bot, &what).await?
        {
            return self.end_superseded(operation).await;
        }
        self.delete_steps(operation).await
    }

    /// Whether anything is there of what a deletion removes.
    async fn is_anything_left(&self, bot: BotId, what: &DeleteInput) -> Result<bool> {
        if self.container(bot).await?.is_some() {
            return Ok(true);
        }
        let row = self.record(bot).await?.map(|row| row.snapshot);
        for key in what.active.iter().chain(&row) {
            if self.snapshot_exists(key).await? {
                return Ok(true);
            }
        }
        if what.delete_versions {
            for version in self.store.versions.list(bot).await? {
                if self.is_protected(&version.snapshot).await? {
                    return Ok(true);
                }
            }
        }
        Ok(what.delete_preserved && !self.preserved_archives(bot).await?.is_empty())
    }

    /// The steps of a deletion; from any point, again from the beginning. A deletion only ever
    /// goes forward.
    pub(crate) async fn delete_steps(self: &Arc<Self>, operation: &Operation) -> Result<()> {
        let bot = operation.bot;
        let DeleteInput {
            active,
            delete_versions,
            delete_bot,
            delete_preserved,
            ..
        } = input(operation)?;
        if delete_bot {
            let patch = BotPatch {
                status: Some(BotStatus::Deleting),
                ..BotPatch::default()
            };
            self.store
                .transactions
                .apply(vec![Change::PatchBot(bot, patch)])
                .await?;
        }
        let container = ContainerId::for_bot(bot);
        if let Some(active) = &active {
            let grace = self.config.stop_grace;
            self.runtime
                .tasks
                .stop(&container, Signal::TERM, grace)
                .await?;
            self.forget_agent(&container);
            fault_point!("delete", "stopped");
            self.remove_network(&container).await;
            fault_point!("delete", "network");
            unless_missing(self.runtime.containers.delete(&container).await)?;
            fault_point!("delete", "container");
            unless_missing(self.runtime.snapshots.remove(active).await)?;
            if let Some(record) = self.record(bot).await?
                && record.snapshot != *active
            {
                unless_missing(self.runtime.snapshots.remove(&record.snapshot).await)?;
            }
            fault_point!("delete", "snapshot");
        }
        if delete_preserved {
            self.remove_all_preserved(bot).await?;
        }
        let mut changes = Vec::new();
        if delete_versions {
            for version in self.store.versions.list(bot).await? {
                self.runtime.snapshots.release(&version.snapshot).await?;
                changes.push(Change::DeleteVersion(bot, version.number));
            }
            fault_point!("delete", "released");
        }
        changes.push(Change::DeleteContainer(bot));
        changes.push(Change::ReleaseAddress(bot));
        if delete_bot {
            changes.push(Change::DeleteBot(bot));
        } else {
            changes.push(event(bot, "deleted", json!({"versions": delete_versions})));
        }
        changes.push(finished(operation));
        self.store.transactions.apply(changes).await?;
        self.drop_lease(operation.id);
        fault_point!("delete", "recorded");
        if delete_versions {
            self.collect_released();
        }
        self.samples.forget(bot);
        self.kills.forget(bot);
        match delete_versions {
            true => self.losses.forget(bot),
            false => self.losses.set_workspace(bot, false),
        }
        Ok(())
    }
}
