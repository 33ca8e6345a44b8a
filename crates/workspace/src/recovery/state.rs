//! A workspace's present state: whose row does not say it, or says one that is gone.

use super::Seen;
use super::versions::ancestor;
use crate::Result;
use crate::notes::{Note, Noted};
use crate::operations::event;
use crate::service::Inner;
use crate::spec::{devices_of, limits_of};
use botstead_runtime::{Container, Snapshot};
use botstead_store::{BotPatch, BotStatus, Change, ContainerPatch, ContainerRecord, VersionRecord};
use botstead_types::{BotId, DesiredState, LeaseId, OperationId, SnapshotKey, TaskStatus};
use serde_json::json;
use std::sync::Arc;

impl Inner {
    /// Records a container that no row has, with all that is in it and as it is found.
    pub(super) async fn adopt(
        &self,
        bot: BotId,
        container: &Container,
        active: &Snapshot,
        seen: &Seen,
    ) -> Result<()> {
        let noted = Noted::on(active);
        let image = self.image_of(bot, &noted, active, seen).await?;
        let versions = self.store.versions.list(bot).await?;
        let runs = match self.runtime.tasks.get(&container.id).await {
            Ok(task) => matches!(task.status, TaskStatus::Running | TaskStatus::Paused),
            Err(error) if error.is_not_found() => false,
            Err(error) => return Err(error.into()),
        };
        let desired = match runs {
            true => DesiredState::Running,
            false => DesiredState::Stopped,
        };
        let record = ContainerRecord {
            head_version: ancestor(&noted, active, &versions, seen),
            dirty: true,
            desired,
            started: true,
            devices: devices_of(&container.labels),
            limits: limits_of(&container.labels),
            created_at: container.created_at,
            ..self.new_record(bot, image, active.key.clone())
        };
        tracing::warn!(%bot, snapshot = %active.key, %desired,
            "recording a workspace again that the database did not have");
        let detail = json!({"snapshot": active.key, "desired": desired});
        let ready = BotPatch {
            status: Some(BotStatus::Ready),
            ..BotPatch::default()
        };
        let changes = vec![
            Change::InsertContainer(Box::new(record)),
            Change::PatchBot(bot, ready),
            event(bot, "adopted", detail),
        ];
        Ok(self.store.transactions.apply(changes).await?)
    }

    /// Lets the row name the snapshot that is the workspace's, with the image and version that it grew
    /// from.
    pub(super) async fn take_over(
        &self,
        record: &ContainerRecord,
        active: &Snapshot,
        seen: &Seen,
    ) -> Result<ContainerRecord> {
        let bot = record.bot;
        let noted = Noted::on(active);
        let versions = self.store.versions.list(bot).await?;
        let taken = ContainerRecord {
            image: self.image_of(bot, &noted, active, seen).await?,
            snapshot: active.key.clone(),
            head_version: ancestor(&noted, active, &versions, seen),
            dirty: true,
            ..record.clone()
        };
        self.write_state(record, &taken, "snapshot").await?;
        Ok(taken)
    }

    async fn write_state(
        &self,
        record: &ContainerRecord,
        taken: &ContainerRecord,
        from: &'static str,
    ) -> Result<()> {
        let bot = record.bot;
        tracing::warn!(%bot, recorded = %record.snapshot, found = %taken.snapshot, from,
            "the workspace has another state than the database said; keeping the workspace's");
        let patch = ContainerPatch {
            image: Some(taken.image.clone()),
            snapshot: Some(taken.snapshot.clone()),
            head_version: Some(taken.head_version),
            dirty: Some(taken.dirty),
            ..ContainerPatch::default()
        };
        let detail = json!({"recorded": record.snapshot, "found": taken.snapshot, "from": from});
        let changes = vec![
            Change::PatchContainer(bot, Box::new(patch)),
            event(bot, "state_recovered", detail),
        ];
        Ok(self.store.transactions.apply(changes).await?)
    }

    /// Finds the nearest state for a row whose snapshot is gone: a writable snapshot of the bot's that
    /// nothing names, or the version that was made of the missing one, or its head, or the latest. Tells
    /// whether there was any.
    pub(super) async fn find_state(
        self: &Arc<Self>,
        record: &ContainerRecord,
        seen: &Seen,
    ) -> Result<bool> {
        let bot = record.bot;
        let versions = self.store.versions.list(bot).await?;
        let there: Vec<(&VersionRecord, &Snapshot)> = versions
            .iter()
            .filter_map(|version| Some((version, seen.snapshot(&version.snapshot)?)))
            .collect();
        let made_of = |snapshot: &Snapshot| Noted::on(snapshot).made_of;
        let made = there
            .iter()
            .rfind(|(_, snapshot)| made_of(snapshot).as_ref() == Some(&record.snapshot));
        let head = there
            .iter()
            .find(|(version, _)| Some(version.number) == record.head_version);
        let version = made.or(head).or(there.last());
        // A version that was copied of a workspace while it ran is older than what goes on in that. Earlier
        // releases did not write down what they copied: it lies where the copy does.
        let is_newer = |active: &Snapshot| {
            version.is_none_or(|(_, snapshot)| {
                active.created_at > snapshot.created_at
                    || match made_of(snapshot) {
                        Some(made_of) => made_of == active.key,
                        None => active.parent == snapshot.parent,
                    }
            })
        };
        let operation = OperationId::generate();
        let lease = LeaseId::for_operation(operation);
        let orphan = seen.orphan(&self.runtime, bot).await;
        let orphan = orphan.filter(|orphan| is_newer(orphan));
        let taken = match (orphan, version) {
            (Some(orphan), _) => {
                let taken = self.take_over(record, orphan, seen).await?;
                self.runtime.leases.create(&lease).await?;
                taken
            }
            (None, Some((version, _))) => {
                let taken = ContainerRecord {
                    image: version.image.clone(),
                    snapshot: SnapshotKey::active(operation),
                    head_version: Some(version.number),
                    dirty: false,
                    ..record.clone()
                };
                self.runtime.leases.create(&lease).await?;
                let note = Note::of(bot, &taken.image, taken.head_version);
                self.prepare_on_version(operation, &taken.snapshot, &note, &version.snapshot)
                    .await?;
                self.write_state(record, &taken, "version").await?;
                taken
            }
            (None, None) => {
                tracing::error!(%bot, snapshot = %record.snapshot,
                    "nothing is left of a workspace in the runtime");
                let lost = crate::Error::WorkspaceLost(bot).to_string();
                let patch = ContainerPatch {
                    last_error: Some(Some(lost)),
                    ..ContainerPatch::default()
                };
                self.patch(record, patch).await?;
                return Ok(false);
            }
        };
        // What ran on the missing one has no files any more.
        self.power_down(record).await?;
        let switched = self.switch_to(&lease, &taken).await;
        self.drop_lease(operation);
        switched.map(|()| true)
    }
}
