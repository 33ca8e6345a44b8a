//! Deletion of a workspace, of its versions, and of a bot with everything that it has.

use crate::faults::fault_point;
use crate::layers::unless_missing;
use crate::model::DeleteRequest;
use crate::operations::{event, finished, input, new_operation};
use crate::service::{Inner, Workspaces};
use crate::{Error, Result};
use botstead_authz::{Action, Actor};
use botstead_runtime::Signal;
use botstead_store::{BotPatch, BotStatus, Change, Operation, OperationKind, OperationState};
use botstead_types::{BotId, ContainerId, OperationId, SnapshotKey};
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
}

impl Workspaces {
    /// Removes the workspace; its versions stay unless asked otherwise, and a rollback makes a
    /// workspace from one. A bot without a workspace is no error.
    ///
    /// # Errors
    /// `BotNotFound`, `Busy`; `Unsupported` when the data should be preserved, which this version
    /// of the server cannot do: nothing is deleted then.
    pub async fn delete(&self, actor: &Actor, bot: BotId, request: DeleteRequest) -> Result<()> {
        let inner = &self.inner;
        inner
            .authorized(actor, Action::DeleteWorkspace, bot)
            .await?;
        if request.preserve_data && inner.record(bot).await?.is_none() {
            return Err(Error::WorkspaceNotFound(bot));
        }
        refuse_preserving(request.preserve_data)?;
        self.remove(bot, OperationKind::Delete, request.delete_versions)
            .await
    }

    /// Removes the bot with its workspace, versions and history.
    ///
    /// # Errors
    /// As [`Workspaces::delete`].
    pub async fn delete_bot(&self, actor: &Actor, bot: BotId, preserve_data: bool) -> Result<()> {
        let inner = &self.inner;
        inner.authorized(actor, Action::DeleteBot, bot).await?;
        refuse_preserving(preserve_data)?;
        self.remove(bot, OperationKind::DeleteBot, true).await
    }

    async fn remove(&self, bot: BotId, kind: OperationKind, delete_versions: bool) -> Result<()> {
        let inner = &self.inner;
        inner.refuse_when_closing()?;
        let work = Arc::clone(inner);
        inner
            .detached(async move {
                let id = OperationId::generate();
                let delete_bot = kind == OperationKind::DeleteBot;
                let what = if delete_bot { "delete_bot" } else { "delete" };
                let _guard = work.lock_without_recovery(bot, id, what).await?;
                let record = work.record(bot).await?;
                if record.is_none() && !delete_bot {
                    let versions =
                        delete_versions && !work.store.versions.list(bot).await?.is_empty();
                    if !versions {
                        return Ok(());
                    }
                }
                let input = DeleteInput {
                    active: record.map(|record| record.snapshot),
                    delete_versions,
                    delete_bot,
                };
                let operation = new_operation(id, bot, kind, &input)?;
                let operation = work.store.operations.begin(&operation, false).await?;
                fault_point!("delete.begun");
                let live = work.register(operation);
                let done = work.delete_steps(&live.record).await;
                let outcome = match &done {
                    Ok(()) => {
                        work.give_up_stuck(bot).await;
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

fn refuse_preserving(preserve_data: bool) -> Result<()> {
    if preserve_data {
        return Err(Error::Unsupported(
            "this version of the server cannot preserve data on deletion yet; nothing was deleted. \
             Take a snapshot and delete without preserve_data: versions stay"
                .to_owned(),
        ));
    }
    Ok(())
}

impl Inner {
    /// The steps of a deletion; from any point, again from the beginning. A deletion only ever
    /// goes forward.
    pub(crate) async fn delete_steps(self: &Arc<Self>, operation: &Operation) -> Result<()> {
        let bot = operation.bot;
        let DeleteInput {
            active,
            delete_versions,
            delete_bot,
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
            fault_point!("delete.stopped");
            if let Err(error) = self.runtime.network.remove(&container).await {
                tracing::warn!(%container, error = %error.chain(), "cannot remove the network");
            }
            fault_point!("delete.network");
            unless_missing(self.runtime.containers.delete(&container).await)?;
            fault_point!("delete.container");
            unless_missing(self.runtime.snapshots.remove(active).await)?;
            fault_point!("delete.snapshot");
        }
        let mut changes = Vec::new();
        if delete_versions {
            for version in self.store.versions.list(bot).await? {
                self.runtime.snapshots.release(&version.snapshot).await?;
                changes.push(Change::DeleteVersion(bot, version.number));
            }
            fault_point!("delete.released");
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
        fault_point!("delete.recorded");
        if delete_versions {
            self.collect_released();
        }
        self.samples.forget(bot);
        Ok(())
    }

    /// Gives back the disk of released versions, in the background. Releasing alone makes no runtime
    /// collect: their files would stay until something else does.
    fn collect_released(self: &Arc<Self>) {
        let inner = Arc::clone(self);
        self.spawn(async move {
            if let Err(error) = inner.runtime.leases.collect().await {
                tracing::warn!(error = %error.chain(), "cannot collect deleted versions");
            }
        });
    }
}
