//! Snapshots: keeping the present state as a version.
//!
//! The seam for live snapshots is [`Inner::capture`]: today it stops the task and freezes the
//! active snapshot without copying; what follows does not care how the version came to be.

use crate::faults::fault_point;
use crate::model::CreatedVersion;
use crate::operations::{LiveOperation, event, finished, input, new_operation};
use crate::service::{Inner, Workspaces};
use crate::{Error, Result, disk};
use botstead_authz::{Action, Actor};
use botstead_store::{
    Change, ContainerPatch, ContainerRecord, Operation, OperationKind, OperationState,
    VersionPatch, VersionRecord,
};
use botstead_types::{
    BotId, DesiredState, LeaseId, OperationId, SnapshotKey, VersionNumber, VersionSource,
};
use chrono::Utc;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::sync::Arc;

/// The step from which on the version is recorded and only the start is left.
pub(crate) const RECORDED: &str = "recorded";

const MAX_NAME_CHARS: usize = 200;

/// What a replay of a snapshot needs.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct SnapshotInput {
    name: Option<String>,
    source: VersionSource,
    /// The active snapshot that is to be frozen.
    active: SnapshotKey,
}

impl Workspaces {
    /// Keeps the present state as a new version. A workspace that runs, runs again afterwards.
    ///
    /// # Errors
    /// `BotNotFound`, `WorkspaceNotFound`, `Busy`, `InsufficientStorage`, a name that is too long
    /// or has control characters.
    pub async fn snapshot(
        &self,
        actor: &Actor,
        bot: BotId,
        name: Option<String>,
    ) -> Result<CreatedVersion> {
        self.snapshot_from(actor, bot, name, VersionSource::Manual)
            .await
    }

    pub(crate) async fn snapshot_from(
        &self,
        actor: &Actor,
        bot: BotId,
        name: Option<String>,
        source: VersionSource,
    ) -> Result<CreatedVersion> {
        let inner = &self.inner;
        inner.authorized(actor, Action::WriteWorkspace, bot).await?;
        inner.refuse_when_closing()?;
        let name = checked_name(name)?;
        disk::require_free_space(&inner.config)?;
        let work = Arc::clone(inner);
        inner
            .detached(async move {
                let id = OperationId::generate();
                let _guard = work.lock(bot, id, "snapshot").await?;
                let record = work.required_record(bot).await?;
                let input = SnapshotInput {
                    name,
                    source,
                    active: record.snapshot.clone(),
                };
                let operation = new_operation(id, bot, OperationKind::Snapshot, &input)?;
                let operation = work.store.operations.begin(&operation, true).await?;
                fault_point!("snapshot.begun");
                let live = work.register(operation);
                let done = work.snapshot_or_undo(&live, &record).await;
                let version = done?;
                Ok(CreatedVersion {
                    container: record.container,
                    version,
                })
            })
            .await
    }
}

/// A display name as it is kept: trimmed, and none when nothing is left.
fn checked_name(name: Option<String>) -> Result<Option<String>> {
    let Some(name) = name.map(|name| name.trim().to_owned()) else {
        return Ok(None);
    };
    if name.chars().count() > MAX_NAME_CHARS || name.chars().any(char::is_control) {
        return Err(Error::InvalidRequest {
            code: "invalid_snapshot_name",
            message: format!(
                "a snapshot's name has at most {MAX_NAME_CHARS} characters and no control characters"
            ),
        });
    }
    Ok((!name.is_empty()).then_some(name))
}

impl Inner {
    async fn snapshot_or_undo(
        self: &Arc<Self>,
        live: &LiveOperation,
        record: &ContainerRecord,
    ) -> Result<VersionRecord> {
        let operation = &live.record;
        let done = self.snapshot_steps(operation).await;
        let outcome = match &done {
            Ok(version) => {
                self.drop_lease(operation.id);
                self.measure_version(version);
                OperationState::Succeeded
            }
            Err(error) => self.settle_failure(operation, record, error).await,
        };
        self.unregister(live, outcome);
        done
    }

    /// After a failure: when nothing was frozen yet, the workspace is put back as it was; after
    /// that, the operation goes forward later.
    pub(crate) async fn settle_failure(
        self: &Arc<Self>,
        operation: &Operation,
        record: &ContainerRecord,
        error: &Error,
    ) -> OperationState {
        match self.snapshot_exists(&record.snapshot).await {
            Ok(true) if self.container_names(record).await => {
                if record.desired == DesiredState::Running
                    && let Err(start) = self.bring_up(record).await
                {
                    tracing::error!(bot = %record.bot, error = %start, "cannot start again");
                }
                let flattened = SnapshotKey::flattened(operation.id);
                if let Err(error) = self.runtime.snapshots.release(&flattened).await {
                    tracing::warn!(%flattened, error = %error.chain(), "cannot release");
                }
                self.drop_lease(operation.id);
                self.finish_failed(operation, error).await
            }
            _ => {
                self.keep_for_retry(operation, error);
                OperationState::Running
            }
        }
    }

    /// Whether the runtime's container still has the recorded snapshot.
    async fn container_names(&self, record: &ContainerRecord) -> bool {
        match self.runtime.containers.get(&record.container).await {
            Ok(container) => container.snapshot == record.snapshot.as_str(),
            // A container that is missing is made again on the recorded snapshot.
            Err(error) => error.is_not_found(),
        }
    }

    /// The steps of a snapshot; from any point, again from the beginning.
    pub(crate) async fn snapshot_steps(
        self: &Arc<Self>,
        operation: &Operation,
    ) -> Result<VersionRecord> {
        let (id, bot) = (operation.id, operation.bot);
        let SnapshotInput {
            name,
            source,
            active,
        } = input(operation)?;
        let number = reserved(operation)?;
        let mut record = self.required_record(bot).await?;
        // An active snapshot that is not the one to freeze any more means that this was recorded.
        if record.snapshot == active {
            let lease = LeaseId::for_operation(id);
            self.runtime.leases.create(&lease).await?;
            let version = SnapshotKey::version(id);
            self.capture(&lease, &record, &version).await?;
            fault_point!("snapshot.committed");
            record.snapshot = SnapshotKey::active(id);
            self.prepare_on_version(id, &record.snapshot, &bot.to_string(), &version)
                .await?;
            fault_point!("snapshot.prepared");
            self.switch_to(&lease, &record).await?;
            fault_point!("snapshot.switched");
            let version = self.version_record(&record, number, name, source, version);
            let patch = ContainerPatch {
                snapshot: Some(record.snapshot.clone()),
                head_version: Some(Some(number)),
                dirty: Some(false),
                ..ContainerPatch::default()
            };
            let detail = json!({"version": number, "source": source});
            self.store
                .transactions
                .apply(vec![
                    Change::InsertVersion(Box::new(version)),
                    Change::PatchContainer(bot, Box::new(patch)),
                    Change::AdvanceOperation {
                        id,
                        step: RECORDED.to_owned(),
                        input: None,
                    },
                    event(bot, "snapshot", detail),
                ])
                .await?;
            fault_point!("snapshot.recorded");
        }
        if record.desired == DesiredState::Running {
            self.bring_up(&record).await?;
            fault_point!("snapshot.started");
        }
        self.store
            .transactions
            .apply(vec![finished(operation)])
            .await?;
        fault_point!("snapshot.finished");
        Ok(self.store.versions.get(bot, number).await?)
    }

    /// Makes `version`, a committed and protected snapshot of the present state. Today that means:
    /// the task is stopped, and the active snapshot itself becomes the version, without a copy.
    /// Afterwards the container names a missing snapshot until it is switched.
    pub(crate) async fn capture(
        &self,
        lease: &LeaseId,
        record: &ContainerRecord,
        version: &SnapshotKey,
    ) -> Result<()> {
        self.power_down(record).await?;
        fault_point!("snapshot.stopped");
        self.commit(lease, &record.snapshot, version, &record.bot.to_string())
            .await
    }

    /// Lets the runtime's container have the record's snapshot and image, in one step; one that is
    /// missing is made.
    pub(crate) async fn switch_to(&self, lease: &LeaseId, record: &ContainerRecord) -> Result<()> {
        let address = self.address(record.bot).await?;
        let namespace = self
            .runtime
            .network
            .create_namespace(&record.container)
            .await?;
        let spec = self.spec(record, address, namespace);
        match self.runtime.containers.switch(lease, &spec).await {
            Err(error) if error.is_not_found() => {
                Ok(self.runtime.containers.create(lease, &spec).await?)
            }
            switched => Ok(switched?),
        }
    }

    pub(crate) fn version_record(
        &self,
        record: &ContainerRecord,
        number: VersionNumber,
        name: Option<String>,
        source: VersionSource,
        snapshot: SnapshotKey,
    ) -> VersionRecord {
        VersionRecord {
            bot: record.bot,
            number,
            name,
            source,
            snapshot,
            snapshotter: record.snapshotter.clone(),
            parent: record.head_version,
            image: record.image.clone(),
            size_bytes: None,
            pinned: false,
            created_at: Utc::now(),
        }
    }

    /// Measures what a new version occupies, off the request.
    pub(crate) fn measure_version(self: &Arc<Self>, version: &VersionRecord) {
        let inner = Arc::clone(self);
        let (bot, number, key) = (version.bot, version.number, version.snapshot.clone());
        self.spawn(async move {
            let measured = async {
                let usage = inner.runtime.snapshots.usage(&key).await?;
                let patch = VersionPatch {
                    size_bytes: Some(usage.size_bytes),
                    ..VersionPatch::default()
                };
                let change = Change::PatchVersion(bot, number, patch);
                Ok::<_, Error>(inner.store.transactions.apply(vec![change]).await?)
            };
            if let Err(error) = measured.await {
                tracing::debug!(%bot, version = %number, %error, "cannot measure a version");
            }
        });
    }
}

/// The version number that the operation reserved when it was written down.
pub(crate) fn reserved(operation: &Operation) -> Result<VersionNumber> {
    operation.version.ok_or_else(|| {
        botstead_store::Error::new(
            botstead_store::ErrorKind::Internal,
            "read the reserved version of operation",
            operation.id,
        )
        .into()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_trimmed_and_bounded() {
        let kept = |name: &str| checked_name(Some(name.to_owned()));
        assert_eq!(
            kept(" before the upgrade ").unwrap().unwrap(),
            "before the upgrade"
        );
        assert_eq!(kept("  ").unwrap(), None);
        assert_eq!(checked_name(None).unwrap(), None);
        assert_eq!(kept("a\nb").unwrap_err().code(), "invalid_snapshot_name");
        assert!(kept(&"x".repeat(MAX_NAME_CHARS + 1)).is_err());
    }
}
