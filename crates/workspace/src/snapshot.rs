//! Snapshots: keeping the present state as a version.
//!
//! Of a workspace that runs, the writable snapshot is copied while it goes on, and the copy is the
//! version. Of one that is stopped, or with [`SnapshotMode::Stop`], the writable snapshot itself
//! becomes the version, without a copy, and the workspace gets a new one on it.

use crate::faults::fault_point;
use crate::model::{CreatedVersion, SnapshotMode};
use crate::notes::Note;
use crate::operations::{
    LiveOperation, RECORDED, advanced, event, finish, finished, input, new_operation,
};
use crate::service::{Inner, Workspaces};
use crate::standing::Standing;
use crate::starts::Cause;
use crate::{Error, Result, disk};
use botstead_authz::{Action, Actor};
use botstead_runtime::{CopyReport, ErrorKind as RuntimeErrorKind, SnapshotCopy};
use botstead_store::{
    Change, ContainerPatch, ContainerRecord, Operation, OperationKind, OperationState,
    VersionPatch, VersionRecord,
};
use botstead_types::{
    BotId, DesiredState, LeaseId, OperationId, SnapshotKey, TaskStatus, VersionNumber,
    VersionSource,
};
use chrono::Utc;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

const MAX_NAME_CHARS: usize = 200;

/// What a replay of a snapshot needs.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct SnapshotInput {
    name: Option<String>,
    source: VersionSource,
    /// The active snapshot that is to be kept.
    active: SnapshotKey,
    /// Whether it is copied instead of frozen.
    #[serde(default)]
    live: bool,
}

impl Workspaces {
    /// Keeps the present state as a new version. With [`SnapshotMode::Live`] a workspace that runs
    /// goes on: its processes stand still for milliseconds. With [`SnapshotMode::Stop`] it is stopped
    /// and started again, and nothing is copied.
    ///
    /// # Errors
    /// `BotNotFound`, `WorkspaceNotFound`, `Busy`, `InsufficientStorage`, a name that is too long
    /// or has control characters; `Unsupported` where this backend cannot copy a running workspace.
    pub async fn snapshot(
        &self,
        actor: &Actor,
        bot: BotId,
        name: Option<String>,
        mode: SnapshotMode,
    ) -> Result<CreatedVersion> {
        self.snapshot_from(actor, bot, name, VersionSource::Manual, mode)
            .await
    }

    pub(crate) async fn snapshot_from(
        &self,
        actor: &Actor,
        bot: BotId,
        name: Option<String>,
        source: VersionSource,
        mode: SnapshotMode,
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
                let record = work.present_record(bot).await?;
                let live = mode == SnapshotMode::Live && work.is_running(&record).await?;
                if live && !work.runtime.backend.capabilities().live_copies {
                    return Err(Error::Unsupported(NOT_LIVE.to_owned()));
                }
                let input = SnapshotInput {
                    name,
                    source,
                    active: record.snapshot.clone(),
                    live,
                };
                let operation = new_operation(id, bot, OperationKind::Snapshot, &input)?;
                let operation = work.store.operations.begin(&operation, true).await?;
                fault_point!(if live { "live" } else { "snapshot" }, "begun");
                let live = work.register(operation);
                let (version, report) = work.snapshot_or_undo(&live, &record).await?;
                Ok(CreatedVersion {
                    container: record.container,
                    version,
                    report,
                })
            })
            .await
    }
}

const NOT_LIVE: &str = "this snapshotter cannot copy a workspace while it runs; ask with \
                        mode \"stop\", which stops it for a moment, or stop it first";

/// A display name as it is kept: trimmed, and none when nothing is left.
pub(crate) fn checked_name(name: Option<String>) -> Result<Option<String>> {
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
    /// Whether the workspace's task runs.
    pub(crate) async fn is_running(&self, record: &ContainerRecord) -> Result<bool> {
        match self.runtime.tasks.get(&record.container).await {
            Ok(task) => Ok(task.status == TaskStatus::Running),
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    async fn snapshot_or_undo(
        self: &Arc<Self>,
        live: &LiveOperation,
        record: &ContainerRecord,
    ) -> Result<(VersionRecord, Option<CopyReport>)> {
        let operation = &live.record;
        let SnapshotInput { live: copies, .. } = input(operation)?;
        let done = if copies {
            self.live_steps(operation).await
        } else {
            let version = self.snapshot_steps(operation, false, Cause::Asked).await;
            version.map(|version| (version, None))
        };
        let outcome = match &done {
            Ok((version, report)) => {
                if let Some(report) = report {
                    self.running.count_live_copy(report);
                }
                self.drop_lease(operation.id);
                self.after_version(version.bot, Some(version.number));
                OperationState::Succeeded
            }
            Err(error) if copies => self.undo_live(operation, error).await,
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
        let back = self.put_back(operation, record, error).await;
        back.unwrap_or_else(|| {
            self.keep_for_retry(operation, error);
            OperationState::Running
        })
    }

    /// After a failure: puts the workspace back as it was when nothing was frozen yet, and tells how the
    /// operation ended; `None`, with nothing done, after that.
    pub(crate) async fn put_back(
        self: &Arc<Self>,
        operation: &Operation,
        record: &ContainerRecord,
        error: &Error,
    ) -> Option<OperationState> {
        if !self.is_untouched(record).await {
            return None;
        }
        if record.desired == DesiredState::Running
            && let Err(start) = self.bring_up(record, Cause::Asked).await
        {
            tracing::error!(bot = %record.bot, error = %start, "cannot start again");
        }
        self.discard_fresh(operation, record).await;
        Some(self.finish_failed(operation, error).await)
    }

    /// Whether the workspace still has the writable snapshot that is recorded.
    pub(crate) async fn is_untouched(&self, record: &ContainerRecord) -> bool {
        let exists = self.snapshot_exists(&record.snapshot).await;
        matches!(exists, Ok(true)) && self.container_names(record).await
    }

    /// Removes what the operation prepared beside the workspace. Best effort.
    pub(crate) async fn discard_fresh(
        self: &Arc<Self>,
        operation: &Operation,
        record: &ContainerRecord,
    ) {
        let fresh = SnapshotKey::active(operation.id);
        if fresh != record.snapshot
            && let Err(error) = self.discard(&fresh).await
        {
            tracing::warn!(%fresh, %error, "cannot remove");
        }
        let flattened = SnapshotKey::flattened(operation.id);
        if let Err(error) = self.runtime.snapshots.release(&flattened).await {
            tracing::warn!(%flattened, error = %error.chain(), "cannot release");
        }
        self.drop_lease(operation.id);
    }

    /// Whether the runtime's container still has the recorded snapshot.
    async fn container_names(&self, record: &ContainerRecord) -> bool {
        match self.runtime.containers.get(&record.container).await {
            Ok(container) => container.snapshot == record.snapshot.as_str(),
            // A container that is missing is made again on the recorded snapshot.
            Err(error) => error.is_not_found(),
        }
    }

    /// Ends a snapshot that a dead server or a failure left.
    pub(crate) async fn replay_snapshot(
        self: &Arc<Self>,
        operation: &Operation,
        cause: Cause,
    ) -> Result<()> {
        let SnapshotInput { live, active, .. } = input(operation)?;
        let name = SnapshotKey::version(operation.id);
        let after = SnapshotKey::active(operation.id);
        if live && self.snapshot_exists(&name).await? {
            self.record_live(operation).await?;
        } else if live {
            // The moment is gone: another copy would be of another state.
            self.finish_interrupted(operation).await?;
        } else if operation.step == RECORDED {
            self.snapshot_steps(operation, false, cause).await?;
        } else {
            match self.standing(operation, Some(&active), &after).await? {
                Standing::Untouched | Standing::Between => {
                    self.snapshot_steps(operation, false, cause).await?;
                }
                Standing::Switched => {
                    self.snapshot_steps(operation, true, cause).await?;
                }
                // Where the version was made, it is recorded as any that no row names.
                Standing::MovedOn => return self.end_superseded(operation).await,
            }
        }
        self.drop_lease(operation.id);
        Ok(())
    }

    /// The steps of a snapshot of a workspace that runs on.
    async fn live_steps(
        self: &Arc<Self>,
        operation: &Operation,
    ) -> Result<(VersionRecord, Option<CopyReport>)> {
        let (id, bot) = (operation.id, operation.bot);
        let record = self.required_record(bot).await?;
        let lease = LeaseId::for_operation(id);
        self.runtime.leases.create(&lease).await?;
        let SnapshotInput { name: shown, .. } = input(operation)?;
        let name = SnapshotKey::version(id);
        let note = Note::of(bot, &record.image, record.head_version);
        let note = note.version(reserved(operation)?, shown.as_deref(), &record.snapshot);
        let report = self.copy_live(&lease, &record, &name, &note, true).await?;
        fault_point!("live", "copied");
        let version = self.record_live(operation).await?;
        Ok((version, Some(report)))
    }

    /// Copies the workspace's present state, whether it runs or not, into a committed snapshot, which is
    /// on the disk afterwards where it has to be `durable`.
    pub(crate) async fn copy_live(
        &self,
        lease: &LeaseId,
        record: &ContainerRecord,
        name: &SnapshotKey,
        note: &Note<'_>,
        durable: bool,
    ) -> Result<CopyReport> {
        let copy = SnapshotCopy {
            source: record.snapshot.clone(),
            container: Some(record.container.clone()),
            name: name.clone(),
            labels: self.labels_above(&record.snapshot, note).await?,
            reserve_bytes: disk::reserve(&self.config),
            durable,
        };
        let cancel = CancellationToken::new();
        let copied = self.runtime.snapshots.commit_copy(lease, &copy, &cancel);
        copied.await.map_err(|error| match error.kind() {
            RuntimeErrorKind::ResourceExhausted => Error::CopyTooLarge(error),
            _ => error.into(),
        })
    }

    /// Writes a copy that exists down as the version that the operation reserved.
    async fn record_live(self: &Arc<Self>, operation: &Operation) -> Result<VersionRecord> {
        let bot = operation.bot;
        let SnapshotInput { name, source, .. } = input(operation)?;
        let number = reserved(operation)?;
        let record = self.required_record(bot).await?;
        let snapshot = SnapshotKey::version(operation.id);
        let version = self.version_record(&record, number, name, source, snapshot);
        // The workspace goes on writing, so it stays different from its head.
        let patch = ContainerPatch {
            head_version: Some(Some(number)),
            ..ContainerPatch::default()
        };
        let detail = json!({"version": number, "source": source, "live": true});
        self.store
            .transactions
            .apply(vec![
                Change::InsertVersion(Box::new(version)),
                Change::PatchContainer(bot, Box::new(patch)),
                event(bot, "snapshot", detail),
                finished(operation),
            ])
            .await?;
        fault_point!("live", "recorded");
        Ok(self.store.versions.get(bot, number).await?)
    }

    /// After a failure of a live snapshot: the workspace was not touched.
    async fn undo_live(self: &Arc<Self>, operation: &Operation, error: &Error) -> OperationState {
        if let Err(store) = self
            .store
            .transactions
            .apply(finish(operation, Some(error)))
            .await
        {
            // A copy that exists is recorded later: it must not be collected before.
            self.keep_for_retry(operation, &store.into());
            return OperationState::Running;
        }
        let name = SnapshotKey::version(operation.id);
        if let Err(error) = self.runtime.snapshots.release(&name).await {
            tracing::warn!(%name, error = %error.chain(), "cannot release");
        }
        self.drop_lease(operation.id);
        OperationState::Failed
    }

    /// The steps of a snapshot that copies nothing; from any point, again from the beginning. With
    /// `switched` the workspace has its new writable snapshot already, and only the record is missing.
    async fn snapshot_steps(
        self: &Arc<Self>,
        operation: &Operation,
        switched: bool,
        cause: Cause,
    ) -> Result<VersionRecord> {
        let (id, bot) = (operation.id, operation.bot);
        let SnapshotInput { name, source, .. } = input(operation)?;
        let number = reserved(operation)?;
        let mut record = self.required_record(bot).await?;
        let mut root = None;
        // The journal says whether this was recorded. A row with another snapshot than the one to freeze
        // says nothing: it may have become so in another way.
        if operation.step != RECORDED {
            let lease = LeaseId::for_operation(id);
            let version = SnapshotKey::version(id);
            let fresh = SnapshotKey::active(id);
            if switched {
                self.runtime.leases.create(&lease).await?;
            } else {
                let note = Note::of(bot, &record.image, record.head_version);
                let note = note.version(number, name.as_deref(), &record.snapshot);
                self.capture(&lease, &record, &version, &note, "snapshot")
                    .await?;
                fault_point!("snapshot", "committed");
                let note = Note::of(bot, &record.image, Some(number));
                let prepared = self.prepare_on_version(id, &fresh, &note, &version).await?;
                root = Some(prepared);
                fault_point!("snapshot", "prepared");
            }
            record.snapshot = fresh;
            if !switched {
                self.switch_to(&lease, &record).await?;
                fault_point!("snapshot", "switched");
            }
            let version = self.version_record(&record, number, name, source, version);
            let patch = ContainerPatch {
                snapshot: Some(record.snapshot.clone()),
                head_version: Some(Some(number)),
                // It may have run since, where this is said later.
                dirty: Some(switched),
                ..ContainerPatch::default()
            };
            let detail = json!({"version": number, "source": source});
            self.store
                .transactions
                .apply(vec![
                    Change::InsertVersion(Box::new(version)),
                    Change::PatchContainer(bot, Box::new(patch)),
                    advanced(id, RECORDED),
                    event(bot, "snapshot", detail),
                ])
                .await?;
            fault_point!("snapshot", "recorded");
        }
        if record.desired == DesiredState::Running {
            match root {
                Some(root) => self.bring_up_on(&record, &root, cause).await?,
                None => self.bring_up(&record, cause).await?,
            }
            fault_point!("snapshot", "started");
        }
        self.finish_succeeded(operation).await?;
        fault_point!("snapshot", "finished");
        Ok(self.store.versions.get(bot, number).await?)
    }

    /// Creates the lease and makes `version`, a committed and protected snapshot, of the active snapshot
    /// itself: the task is stopped, and nothing is copied. Afterwards the container names a missing snapshot until it is
    /// switched. `at` is the operation's name among the fault points.
    pub(crate) async fn capture(
        &self,
        lease: &LeaseId,
        record: &ContainerRecord,
        version: &SnapshotKey,
        note: &Note<'_>,
        at: &str,
    ) -> Result<()> {
        let _ = at;
        let (leased, stopped) = tokio::join!(
            self.runtime.leases.create(lease),
            self.power_down_to_replace(record)
        );
        leased?;
        stopped?;
        fault_point!(at, "stopped");
        self.commit(lease, &record.snapshot, version, note).await
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
        let spec = self.spec(record, address, namespace).await?;
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

    /// Measures what a new version occupies. Best effort.
    pub(crate) async fn measure_version(&self, version: &VersionRecord) {
        let (bot, number) = (version.bot, version.number);
        let measured = async {
            let usage = self.runtime.snapshots.usage(&version.snapshot).await?;
            let patch = VersionPatch {
                size_bytes: Some(usage.size_bytes),
                ..VersionPatch::default()
            };
            let change = Change::PatchVersion(bot, number, patch);
            Ok::<_, Error>(self.store.transactions.apply(vec![change]).await?)
        };
        if let Err(error) = measured.await {
            tracing::debug!(%bot, version = %number, %error, "cannot measure a version");
        }
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
