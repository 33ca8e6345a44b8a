//! The steps of a creation, and how they are undone.

use super::{Creation, Phase, Returned, Wishes};
use crate::faults::fault_point;
use crate::layers::Root;
use crate::model::CreatedWorkspace;
use crate::notes::Note;
use crate::operations::{RECORDED, encoded, event, finished, input};
use crate::replace::Edit;
use crate::service::Inner;
use crate::spec::is_workspace_of;
use crate::standing::Standing;
use crate::starts::Cause;
use crate::{Error, Result};
use botstead_runtime::{
    Endpoint, Error as RuntimeError, ErrorKind as RuntimeErrorKind, Image, Signal,
};
use botstead_store::{BotPatch, BotStatus, Change, ContainerPatch, ContainerRecord, Operation};
use botstead_types::{BotId, ContainerId, DesiredState, LeaseId, RecordedImage, SnapshotKey};
use serde_json::json;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

/// The step from which on earlier data is in the new workspace.
const RESTORED: &str = "restored";

impl Inner {
    pub(super) async fn create_or_start(
        self: &Arc<Self>,
        creation: &Creation,
        wishes: Wishes,
    ) -> Result<CreatedWorkspace> {
        let operation = &creation.live.record;
        let _guard = self.lock(operation.bot, operation.id, "create").await?;
        let (found, local) =
            tokio::join!(self.found_record(operation.bot), self.good_enough(&wishes));
        // One that the runtime has and no row is recorded first, as it is: nothing is brought back.
        if let Some(record) = found? {
            self.refuse_other(&record, &creation.request)?;
            creation.phase.send_replace(Phase::Creating);
            self.bring_up(&record, Cause::Asked).await?;
            return Ok(self.found(&record).await);
        }
        let lease = LeaseId::for_operation(operation.id);
        let network = self.runtime.network.info();
        // In one transaction with the operation, as each of them waits for the disk.
        let beginning = vec![
            bot_status(operation, BotStatus::Creating),
            Change::AssignAddress {
                bot: operation.bot,
                subnet: network.subnet,
                gateway: network.gateway,
            },
        ];
        let operations = &self.store.operations;
        // Side by side: start-up removes a lease whose operation the journal does not have.
        let (begun, leased) = tokio::join!(
            operations.begin_with(operation, false, beginning),
            self.runtime.leases.create(&lease)
        );
        if let Err(error) = begun {
            self.drop_lease(operation.id);
            return Err(error.into());
        }
        fault_point!("create", "begun");
        let steps = async {
            leased?;
            self.create_steps(creation, &lease, wishes, local?).await
        };
        match steps.await {
            Ok((record, data_restored)) => {
                self.drop_lease(operation.id);
                Ok(CreatedWorkspace {
                    data_restored,
                    ..self.found(&record).await
                })
            }
            Err(error) => {
                let status = match &error {
                    Error::Cancelled => BotStatus::Ready,
                    _ => BotStatus::Error,
                };
                match self.undo_creation(operation, status).await {
                    Ok(()) => {
                        self.finish_failed(operation, &error).await;
                    }
                    Err(undo) => self.keep_for_retry(operation, &undo),
                }
                Err(error)
            }
        }
    }

    async fn create_steps(
        self: &Arc<Self>,
        creation: &Creation,
        lease: &LeaseId,
        mut wishes: Wishes,
        local: Option<Image>,
    ) -> Result<(ContainerRecord, bool)> {
        let operation = &creation.live.record;
        let (id, bot) = (operation.id, operation.bot);
        wishes.check(&self.config.bounds)?;
        let found = self.wished_image(lease, &wishes, local, &creation.live);
        let Image { resolved, top, .. } = found.await?;
        let image = self.recorded(&resolved).await?;
        fault_point!("create", "pulled");
        creation.phase.send_replace(Phase::Creating);
        let record = ContainerRecord {
            dirty: true,
            desired: DesiredState::Running,
            started: true,
            devices: wishes.devices.clone(),
            limits: wishes.limits,
            ..self.new_record(bot, image, SnapshotKey::active(id))
        };
        let (root, address, namespace, orphan) = tokio::join!(
            self.prepare_root(lease, &record, top.as_ref()),
            self.address(bot),
            self.runtime.network.create_namespace(&record.container),
            self.returning_orphan(bot, &record.snapshot),
        );
        let root = root?;
        fault_point!("create", "prepared");
        self.check_user(lease, &resolved, &record.snapshot).await?;
        let returning = self.returning_data(bot, &wishes, orphan?).await?;
        if let Some((edit, returned)) = returning {
            creation.phase.send_replace(Phase::Restoring);
            // Half of it is nobody's work.
            self.note_unfinished(&record.snapshot, true).await?;
            match self.edit(lease, &record.snapshot, edit, None).await {
                Err(error @ Error::DataNotDirectory(_)) if returned.is_orphan() => {
                    // It becomes a version, and is not lost.
                    tracing::warn!(%bot, %error, "nothing is taken over from a workspace that was found");
                }
                edited => edited?,
            }
            self.note_unfinished(&record.snapshot, false).await?;
            fault_point!("create", "restored");
            wishes.returned = Some(returned);
            // A replay that finds the container knows what is in it.
            let returned = vec![Change::AdvanceOperation {
                id,
                step: RESTORED.to_owned(),
                input: Some(encoded(id, &wishes)?),
            }];
            self.store.transactions.apply(returned).await?;
        }
        let (address, namespace) = (address?, namespace?);
        // Not sooner: an image or an archive may take long to unpack, and that is no start.
        let turn = self.start_turn(bot, Cause::Asked).await?;
        let spec = self.spec_of(&record, resolved, address, namespace);
        match self.runtime.containers.create(lease, &spec).await {
            Err(error) if error.is_already_exists() => {
                self.take_container(lease, &record, address).await?;
            }
            made => made?,
        }
        fault_point!("create", "container");
        self.first_start(operation, &record, &root, address, &wishes)
            .await?;
        // Whoever waits for an agent starts nothing any more.
        drop(turn);
        self.first_answer(&record).await?;
        if let Err(error) = self.finish_creation(operation, &record, &wishes).await {
            // The workspace is there and answers; what is left comes later.
            self.keep_for_retry(operation, &error);
        }
        Ok((record, wishes.returned.is_some()))
    }

    /// Waits until the new workspace's agent answers.
    async fn first_answer(&self, record: &ContainerRecord) -> Result<()> {
        let (id, patience) = (&record.container, self.config.first_answer);
        if patience.is_zero() {
            return Ok(());
        }
        let ended = async {
            loop {
                // Nearly all answer sooner. That the runtime does not say is no end.
                tokio::time::sleep(Duration::from_millis(50)).await;
                if let Ok(exit) = self.runtime.tasks.wait(id).await {
                    return exit;
                }
            }
        };
        let answered = async {
            loop {
                match self.agent_health(record, patience).await {
                    Err(Error::Unreachable(_)) => {
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                    answered => return answered.map(drop),
                }
            }
        };
        let answered = tokio::time::timeout(patience, answered);
        let exit = tokio::select! {
            biased;
            answered = answered => return answered.unwrap_or(Err(Error::Unreachable(None))),
            exit = ended => exit,
        };
        let reason = format!(
            "its first process ended with code {} before it answered; more memory or another image may help",
            exit.code
        );
        let failed = RuntimeError::new(RuntimeErrorKind::Unstartable, "start workspace", id);
        Err(failed.because(reason).into())
    }

    /// Writes down that the new workspace runs, and ends its creation.
    async fn finish_creation(
        self: &Arc<Self>,
        operation: &Operation,
        record: &ContainerRecord,
        wishes: &Wishes,
    ) -> Result<()> {
        let detail = json!({"image": record.image.reference});
        let mut changes = vec![
            bot_status(operation, BotStatus::Ready),
            event(operation.bot, "created", detail),
        ];
        if wishes.returned.is_none() {
            changes.push(finished(operation));
        }
        self.store.transactions.apply(changes).await?;
        fault_point!("create", "finished");
        match &wishes.returned {
            Some(returned) => self.finish_return(operation, returned).await,
            None => Ok(()),
        }
    }

    /// Ends a creation with data that was brought back: recorded, on the disk and running, so that what
    /// it came from can go.
    async fn finish_return(
        self: &Arc<Self>,
        operation: &Operation,
        returned: &Returned,
    ) -> Result<()> {
        let own = SnapshotKey::active(operation.id);
        // Where that is gone, an archive may be the only copy again.
        let is_there = returned.is_orphan() || self.snapshot_exists(&own).await?;
        match returned {
            // Not all of it is in the new workspace, only `/data`.
            Returned::Orphan(key) => {
                self.keep_as_version(operation.id, operation.bot, key)
                    .await?;
            }
            Returned::Preserved | Returned::Archive(_) if !is_there => {
                tracing::warn!(operation = %operation.id, bot = %operation.bot,
                    "what was brought back is not there any more: its archive is kept");
            }
            Returned::Preserved => {
                let archive = crate::data::legacy(operation.bot);
                self.remove_returned(operation, archive).await?;
            }
            Returned::Archive(id) => self.remove_returned(operation, *id).await?,
        }
        fault_point!("create", "returned");
        self.finish_succeeded(operation).await
    }

    fn can_return_data(&self) -> bool {
        self.runtime.backend.capabilities().files
    }

    /// An orphan of the bot's, where data of it could be brought back.
    async fn returning_orphan(&self, bot: BotId, not: &SnapshotKey) -> Result<Option<SnapshotKey>> {
        match self.can_return_data() {
            true => self.orphan(bot, not).await,
            false => Ok(None),
        }
    }

    /// What brings earlier data of the bot's into a new workspace: an orphan of its, or else the
    /// preserved archive, where it is wanted.
    async fn returning_data(
        &self,
        bot: BotId,
        wishes: &Wishes,
        orphan: Option<SnapshotKey>,
    ) -> Result<Option<(Edit, Returned)>> {
        if !self.can_return_data() {
            return Ok(None);
        }
        if let Some(orphan) = orphan {
            let archive = self.has_preserved_data(bot).await;
            tracing::warn!(%bot, %orphan, archive,
                "recovering /data of a workspace whose container is gone");
            let edit = Edit::DataOf(orphan.clone());
            return Ok(Some((edit, Returned::Orphan(orphan))));
        }
        if !wishes.restore {
            return Ok(None);
        }
        let archive = match self.preserved_archive(bot, None).await {
            Err(Error::NoPreservedData) => return Ok(None),
            archive => archive?,
        };
        let edit = Edit::returned(self.check_preserved(bot, archive).await?);
        Ok(Some((edit, Returned::Archive(archive))))
    }

    /// Prepares the writable snapshot on the image's top one, which is there unless something else
    /// than this server removed it.
    async fn prepare_root(
        &self,
        lease: &LeaseId,
        record: &ContainerRecord,
        top: Option<&SnapshotKey>,
    ) -> Result<Root> {
        let key = &record.snapshot;
        let note = Note::of(record.bot, &record.image, None);
        if let Some(top) = top {
            match self.prepare_on_image(lease, key, &note, top).await {
                Err(Error::Runtime(error)) if error.is_not_found() => {}
                prepared => return prepared,
            }
        }
        let image = &record.image.reference;
        let base = self.unpacked_image(lease, image).await?;
        self.prepare_on_image(lease, key, &note, &base).await
    }

    async fn first_start(
        &self,
        operation: &Operation,
        record: &ContainerRecord,
        root: &Root,
        address: Ipv4Addr,
        wishes: &Wishes,
    ) -> Result<()> {
        let id = &record.container;
        let input = match &wishes.returned {
            Some(_) => Some(encoded(operation.id, wishes)?),
            None => None,
        };
        let endpoint = Endpoint { address };
        let (task, network, recorded) = tokio::join!(
            self.runtime.tasks.create_on(id, root),
            self.runtime.network.attach(id, &endpoint),
            self.store.transactions.apply(vec![
                Change::InsertContainer(Box::new(record.clone())),
                Change::AdvanceOperation {
                    id: operation.id,
                    step: RECORDED.to_owned(),
                    input,
                },
            ])
        );
        recorded?;
        fault_point!("create", "recorded");
        task?;
        fault_point!("create", "task");
        network?;
        self.greet_agent(id);
        self.runtime.tasks.start(id).await?;
        fault_point!("create", "started");
        Ok(())
    }

    /// Takes a container's record that the runtime has and whose snapshot it lost.
    async fn take_container(
        self: &Arc<Self>,
        lease: &LeaseId,
        record: &ContainerRecord,
        address: Ipv4Addr,
    ) -> Result<()> {
        let id = &record.container;
        let found = self.runtime.containers.get(id).await?;
        if !is_workspace_of(&found.labels, id) {
            return Err(Error::InvalidRequest {
                code: "container_id_taken",
                message: format!("the runtime has a container {id} that is no workspace"),
            });
        }
        let theirs: SnapshotKey = found.snapshot.parse()?;
        if theirs != record.snapshot && self.snapshot_exists(&theirs).await? {
            return Err(Error::WorkspaceExists(record.bot));
        }
        self.runtime
            .tasks
            .stop(id, Signal::TERM, self.config.stop_grace)
            .await?;
        let namespace = self.runtime.network.create_namespace(id).await?;
        let spec = self.spec(record, address, namespace).await?;
        Ok(self.runtime.containers.switch(lease, &spec).await?)
    }

    /// Removes everything that a creation made. Can be repeated. A container with another snapshot is
    /// not its. The row goes first: what is recorded goes forward, and must be there for that.
    async fn undo_creation(
        self: &Arc<Self>,
        operation: &Operation,
        status: BotStatus,
    ) -> Result<()> {
        let container = ContainerId::for_bot(operation.bot);
        let prepared = SnapshotKey::active(operation.id);
        let forgotten = vec![
            Change::DeleteContainer(operation.bot),
            bot_status(operation, status),
        ];
        self.store.transactions.apply(forgotten).await?;
        let found = self.container(operation.bot).await?;
        if found.is_none_or(|found| found.snapshot == prepared.as_str()) {
            self.runtime
                .tasks
                .stop(&container, Signal::KILL, Duration::ZERO)
                .await?;
            self.remove_network(&container).await;
        }
        self.remove_made(&container, &prepared).await?;
        let released = vec![Change::ReleaseAddress(operation.bot)];
        self.store.transactions.apply(released).await?;
        self.drop_lease(operation.id);
        Ok(())
    }

    /// Ends a creation that a dead server left: one whose container is there goes forward, and the
    /// workspace is started as any that should run; one without is undone.
    pub(crate) async fn replay_creation(self: &Arc<Self>, operation: &Operation) -> Result<()> {
        let bot = operation.bot;
        let prepared = SnapshotKey::active(operation.id);
        let recorded = self.record(bot).await?;
        if recorded.is_none() || operation.step != RECORDED {
            // Without a lease it came no further than its beginning, unless there is something else now.
            // A writable snapshot may be what became of it: its container can be lost.
            let nothing = recorded.is_none()
                && self.container(bot).await?.is_none()
                && !self.snapshot_exists(&prepared).await?;
            match self.standing(operation, None, &prepared).await? {
                Standing::Switched => self.keep_what_is_there(bot).await?,
                Standing::Untouched | Standing::Between if recorded.is_none() => {
                    self.undo_creation(operation, BotStatus::Error).await?;
                    return self.finish_interrupted(operation).await;
                }
                Standing::MovedOn if nothing => {
                    self.undo_creation(operation, BotStatus::Error).await?;
                    return self.finish_interrupted(operation).await;
                }
                Standing::Untouched | Standing::Between | Standing::MovedOn => {
                    let shown = vec![bot_status(operation, BotStatus::Ready)];
                    self.store.transactions.apply(shown).await?;
                    return self.end_superseded(operation).await;
                }
            }
        }
        let own = recorded.is_some_and(|record| record.snapshot == prepared);
        if own
            && !self.snapshot_exists(&prepared).await?
            && self.standing(operation, None, &prepared).await? == Standing::Between
        {
            // Recorded, and half undone.
            self.undo_creation(operation, BotStatus::Error).await?;
            return self.finish_interrupted(operation).await;
        }
        let wanted = ContainerPatch {
            desired: Some(DesiredState::Running),
            ..ContainerPatch::default()
        };
        self.store
            .transactions
            .apply(vec![
                Change::PatchContainer(bot, Box::new(wanted)),
                bot_status(operation, BotStatus::Ready),
            ])
            .await?;
        match input::<Wishes>(operation)?.returned {
            Some(returned) => self.finish_return(operation, &returned).await?,
            None => {
                self.finish_succeeded(operation).await?;
            }
        }
        self.drop_lease(operation.id);
        Ok(())
    }
}

fn bot_status(operation: &Operation, status: BotStatus) -> Change {
    let patch = BotPatch {
        status: Some(status),
        ..BotPatch::default()
    };
    Change::PatchBot(operation.bot, patch)
}

impl Inner {
    /// What a creation tells of a workspace.
    pub(crate) async fn found(&self, record: &ContainerRecord) -> CreatedWorkspace {
        let RecordedImage {
            reference, digest, ..
        } = &record.image;
        CreatedWorkspace {
            container: record.container.clone(),
            image: reference.clone(),
            image_digest: digest.clone(),
            snapshotter: record.snapshotter.clone(),
            devices: record.devices.clone(),
            started: record.desired == DesiredState::Running,
            data_restored: false,
            has_preserved_data: self.has_preserved_data(record.bot).await,
        }
    }
}
