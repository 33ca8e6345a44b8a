//! Versions after they were made: names, pins, deletion, retention.

use crate::faults::fault_point;
use crate::layers::unless_missing;
use crate::locks::Holder;
use crate::notes::{Noted, relabelled};
use crate::operations::{LiveOperation, event, finish, input, new_operation};
use crate::preferences::{preferences, retention};
use crate::service::{Inner, Workspaces};
use crate::snapshot::checked_name;
use crate::{Error, Result};
use botstead_authz::{Action, Actor};
use botstead_lineage as lineage;
use botstead_store::{
    Change, ContainerPatch, Operation, OperationKind, OperationState, VersionPatch, VersionRecord,
};
use botstead_types::{BotId, OperationId, SnapshotKey, VersionNumber};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::sync::Arc;

/// What a replay of a deletion needs.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct DeleteVersionInput {
    number: VersionNumber,
    snapshot: SnapshotKey,
}

/// What changes in a version; absent fields stay.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VersionUpdate {
    /// A new name, or none.
    pub name: Option<Option<String>>,
    /// Whether it is kept whatever retention says, and from being deleted.
    pub pinned: Option<bool>,
}

impl Workspaces {
    /// Renames or pins a version.
    ///
    /// # Errors
    /// `BotNotFound`, `VersionNotFound`, `Busy`, a name that is too long or has control characters; what the
    /// runtime says, which keeps the name as well.
    pub async fn update_version(
        &self,
        actor: &Actor,
        bot: BotId,
        number: VersionNumber,
        update: VersionUpdate,
    ) -> Result<VersionRecord> {
        let inner = &self.inner;
        inner.authorized(actor, Action::WriteWorkspace, bot).await?;
        inner.refuse_when_closing()?;
        let patch = VersionPatch {
            name: update.name.map(checked_name).transpose()?,
            pinned: update.pinned,
            ..VersionPatch::default()
        };
        let work = Arc::clone(inner);
        inner
            .detached(async move {
                // A pin that was answered holds: nobody deletes the version meanwhile.
                let id = OperationId::generate();
                let _guard = work
                    .lock_without_recovery(bot, id, "update_version")
                    .await?;
                let version = work.version(bot, number).await?;
                // A pin that is written anywhere holds: what keeps comes first, what lets go last.
                let lets_go = patch.pinned == Some(false);
                if !lets_go {
                    work.note_update(&version.snapshot, &patch).await?;
                }
                let change = Change::PatchVersion(bot, number, patch.clone());
                work.store.transactions.apply(vec![change]).await?;
                if lets_go {
                    work.note_update(&version.snapshot, &patch).await?;
                }
                work.version(bot, number).await
            })
            .await
    }

    /// Deletes a version. Those that grew from it stay as they are, and its number is not used again.
    ///
    /// # Errors
    /// `BotNotFound`, `VersionNotFound`, `VersionPinned`, `Busy`.
    pub async fn delete_version(
        &self,
        actor: &Actor,
        bot: BotId,
        number: VersionNumber,
    ) -> Result<()> {
        let inner = &self.inner;
        inner
            .authorized(actor, Action::DeleteWorkspace, bot)
            .await?;
        inner.refuse_when_closing()?;
        let work = Arc::clone(inner);
        inner
            .detached(async move {
                let id = OperationId::generate();
                let _guard = work.lock(bot, id, "delete_version").await?;
                let version = work.version(bot, number).await?;
                if work.is_pinned(&version).await? {
                    return Err(Error::VersionPinned(number));
                }
                work.remove_version(id, &version).await
            })
            .await
    }
}

impl Inner {
    /// Writes a name and a pin on the version's snapshot, for a database that does not know them.
    pub(crate) async fn note_update(&self, key: &SnapshotKey, patch: &VersionPatch) -> Result<()> {
        if patch.name.is_none() && patch.pinned.is_none() {
            return Ok(());
        }
        let snapshots = &self.runtime.snapshots;
        let snapshot = match snapshots.get(key).await {
            // Nothing is left that anybody could delete.
            Err(error) if error.is_not_found() => return Ok(()),
            snapshot => snapshot?,
        };
        let name = patch.name.as_ref().map(Option::as_deref);
        let labels = relabelled(&snapshot, name, patch.pinned);
        if labels == snapshot.labels {
            return Ok(());
        }
        Ok(unless_missing(snapshots.set_labels(key, &labels).await)?)
    }

    /// Whether the version is pinned, here or by what its snapshot says: a database that is older than the
    /// pin does not know it, and learns it then.
    async fn is_pinned(&self, version: &VersionRecord) -> Result<bool> {
        if version.pinned {
            return Ok(true);
        }
        let pinned = self.is_pinned_in_runtime(&version.snapshot).await?;
        if pinned {
            self.pin_again(version.bot, version.number).await?;
        }
        Ok(pinned)
    }

    async fn is_pinned_in_runtime(&self, key: &SnapshotKey) -> Result<bool> {
        match self.runtime.snapshots.get(key).await {
            Ok(snapshot) => Ok(Noted::on(&snapshot).pinned),
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Records a pin that the version's snapshot says.
    pub(crate) async fn pin_again(&self, bot: BotId, number: VersionNumber) -> Result<()> {
        tracing::warn!(%bot, version = %number,
            "a version is pinned, which the database did not know");
        let pinned = VersionPatch {
            pinned: Some(true),
            ..VersionPatch::default()
        };
        let change = Change::PatchVersion(bot, number, pinned);
        Ok(self.store.transactions.apply(vec![change]).await?)
    }

    /// Deletes a version. The caller holds the bot.
    async fn remove_version(
        self: &Arc<Self>,
        id: OperationId,
        version: &VersionRecord,
    ) -> Result<()> {
        let input = DeleteVersionInput {
            number: version.number,
            snapshot: version.snapshot.clone(),
        };
        let operation = new_operation(id, version.bot, OperationKind::DeleteVersion, &input)?;
        let operation = self.begin_leased(operation, false).await?;
        fault_point!("delete_version", "begun");
        let live: Arc<LiveOperation> = self.register(operation);
        let done = self.remove_version_steps(&live.record).await;
        let outcome = match &done {
            Ok(()) => OperationState::Succeeded,
            Err(error) => {
                self.keep_for_retry(&live.record, error);
                OperationState::Running
            }
        };
        self.unregister(&live, outcome);
        done
    }

    /// Ends a deletion that a dead server or a failure left: forward, unless it has no lease and the
    /// version is protected. Then it ended long ago, or never came to anything, and somebody has it since.
    pub(crate) async fn replay_version_deletion(
        self: &Arc<Self>,
        operation: &Operation,
    ) -> Result<()> {
        let DeleteVersionInput { snapshot, .. } = input(operation)?;
        if !self.is_leased(operation.id).await? && self.is_protected(&snapshot).await? {
            return self.end_superseded(operation).await;
        }
        self.remove_version_steps(operation).await
    }

    /// The steps of it; from any point, again from the beginning. The record goes first: a version
    /// that is recorded is never without its protection.
    async fn remove_version_steps(self: &Arc<Self>, operation: &Operation) -> Result<()> {
        let bot = operation.bot;
        let DeleteVersionInput { number, snapshot } = input(operation)?;
        let versions = self.store.versions.list(bot).await?;
        let mut all = versions.iter();
        let named = all.find(|found| found.number == number && found.snapshot == snapshot);
        if let Some(version) = named {
            if self.is_pinned(version).await? {
                // Pinned while the deletion waited to go on; nothing is removed yet.
                let ended = finish(operation, Some(&Error::VersionPinned(number)));
                self.store.transactions.apply(ended).await?;
                self.drop_lease(operation.id);
                return Ok(());
            }
            let mut changes: Vec<Change> = versions
                .iter()
                .filter(|child| child.parent == Some(number))
                .map(|child| {
                    let patch = VersionPatch {
                        parent: Some(version.parent),
                        ..VersionPatch::default()
                    };
                    Change::PatchVersion(bot, child.number, patch)
                })
                .collect();
            let head = self
                .record(bot)
                .await?
                .and_then(|record| record.head_version);
            if head == Some(number) {
                // What is there now is no version any more.
                let patch = ContainerPatch {
                    head_version: Some(version.parent),
                    dirty: Some(true),
                    ..ContainerPatch::default()
                };
                changes.push(Change::PatchContainer(bot, Box::new(patch)));
            }
            changes.push(Change::DeleteVersion(bot, number));
            changes.push(event(bot, "version_deleted", json!({"version": number})));
            self.store.transactions.apply(changes).await?;
        } else if self.is_pinned_in_runtime(&snapshot).await? {
            // Pinned where the database did not know of the deletion: recorded again as what no row names.
            return self.end_superseded(operation).await;
        }
        fault_point!("delete_version", "recorded");
        self.runtime.snapshots.release(&snapshot).await?;
        fault_point!("delete_version", "released");
        self.finish_succeeded(operation).await?;
        self.drop_lease(operation.id);
        self.collect_released();
        Ok(())
    }

    /// Deletes the versions that the bot's rules let go. Best effort: the next version tries again.
    pub(crate) async fn apply_retention(self: &Arc<Self>, bot: BotId) {
        let holder = Holder {
            operation: OperationId::generate(),
            what: "retention",
        };
        // Whoever is busy with the bot makes the next version, or ends it.
        let Some(_guard) = self.locks.try_acquire(bot, holder) else {
            return;
        };
        if let Err(error) = self.expire(bot).await {
            tracing::warn!(%bot, %error, "cannot delete versions that may go");
        }
    }

    async fn expire(self: &Arc<Self>, bot: BotId) -> Result<()> {
        let preferences = preferences(&self.store.bots.get(bot).await?)?;
        let rules = preferences
            .retention
            .map_or(self.config.retention, retention);
        let records = self.store.versions.list(bot).await?;
        let versions: Vec<_> = records.iter().map(crate::listing::as_version).collect();
        let head = self
            .record(bot)
            .await?
            .and_then(|record| record.head_version);
        for number in lineage::retention(&versions, head, &rules) {
            if let Some(version) = records.iter().find(|record| record.number == number)
                && !self.is_pinned(version).await?
            {
                self.remove_version(OperationId::generate(), version)
                    .await?;
            }
        }
        Ok(())
    }
}
