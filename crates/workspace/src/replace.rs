//! Giving a workspace another writable snapshot: what a rollback, an import, the return of preserved
//! data, the return of a single path and a change of image have in common.
//!
//! The present state is kept as a version first, unless it cannot differ from its head version. A new
//! writable snapshot is prepared on a base and edited where nobody sees it; then the container is
//! switched to it in one step. Committing the present state is the point of no return: whatever fails
//! after it, the workspace ends on the state that was kept or on the new one, never on half of one. A
//! workspace that has something else by the time of a replay is left as it is.

mod edit;
mod folder;

use crate::faults::fault_point;
use crate::layers::{Root, unless_missing};
use crate::notes::Note;
use crate::operations::{LiveOperation, RECORDED, event, finish, input, kind_name, new_operation};
use crate::service::Inner;
use crate::snapshot::reserved;
use crate::standing::Standing;
use crate::starts::Cause;
use crate::{Error, Result};
use botstead_store::{
    Change, ContainerPatch, ContainerRecord, Operation, OperationKind, OperationState,
};
use botstead_types::{
    BotId, DesiredState, LeaseId, OperationId, PreservedId, RecordedImage, SnapshotKey,
    VersionNumber, VersionSource,
};
pub(crate) use edit::{Edit, blocking, host};
pub use folder::DataTrouble;
pub(crate) use folder::existing_data;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::sync::Arc;

/// The step from which on the new writable snapshot is whole: only then is what was put in known to be
/// in a workspace that has it.
const EDITED: &str = "edited";

/// The step from which on a replacement goes back: what it switches to is the state before.
const REVERTING: &str = "reverting";

/// The step from which on a replacement that failed is undone, and only the start is left.
pub(crate) const REVERTED: &str = "reverted";

/// What a replacement does; in the journal as the operation's input.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Replacement {
    /// The active snapshot before; `None` when the workspace was deleted and is made again.
    pub(crate) active: Option<SnapshotKey>,
    /// As what the present state is kept; `None` where it equals its head version.
    pub(crate) keep: Option<VersionSource>,
    /// What the new writable snapshot begins as.
    pub(crate) base: Base,
    /// Whether it is changed before the workspace gets it. What the change is, is not recorded: a
    /// replacement that is interrupted before its end is reverted.
    pub(crate) edited: bool,
    /// The preserved archive that is brought back, and goes afterwards. An operation that an earlier
    /// server left does not name it: then there was one only.
    #[serde(default)]
    pub(crate) preserved: Option<PreservedId>,
}

/// What a new writable snapshot begins as.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Base {
    /// The state before.
    Present,
    /// A version of the bot, with its image.
    Version(VersionNumber),
    /// An image.
    Image(Box<RecordedImage>),
}

/// What a replacement did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Replaced {
    /// The version that keeps the state before, where one was made for it.
    pub(crate) kept: Option<VersionNumber>,
    /// The version that the state before is: the one that was made, or its head.
    pub(crate) before: Option<VersionNumber>,
}

impl Replacement {
    /// The replacement of what a workspace has now.
    pub(crate) fn of(
        record: &ContainerRecord,
        source: VersionSource,
        base: Base,
        edited: bool,
    ) -> Self {
        Self {
            active: Some(record.snapshot.clone()),
            keep: record.dirty.then_some(source),
            base,
            edited,
            preserved: None,
        }
    }

    /// Whether it can be done again from its record alone, in whatever state it was left.
    fn goes_forward(&self) -> bool {
        matches!(self.base, Base::Version(_)) && !self.edited
    }

    /// The same, ending on the state before.
    fn reverted(&self) -> Self {
        Self {
            base: Base::Present,
            edited: false,
            ..self.clone()
        }
    }
}

/// How the steps are taken.
#[derive(Clone, Copy)]
enum How<'a> {
    /// As asked.
    Forward,
    /// The workspace has its new snapshot: only the record is missing.
    Record,
    /// Back to the state before, after this failure, which is how the operation ends.
    Back(&'a Error),
    /// The workspace has the state before again: only the record is missing.
    RecordBack(&'a Error),
}

/// What is done from where the operation stands: by which steps, and to which writable snapshot.
type Way<'a> = (Replacement, How<'a>, SnapshotKey);

impl Inner {
    /// Writes a replacement down. The caller holds the bot.
    pub(crate) async fn begin_replacement(
        self: &Arc<Self>,
        id: OperationId,
        bot: BotId,
        kind: OperationKind,
        what: &Replacement,
    ) -> Result<Arc<LiveOperation>> {
        let operation = new_operation(id, bot, kind, what)?;
        let operation = self.begin_leased(operation, what.keep.is_some()).await?;
        fault_point!(fault_name(kind), "begun");
        Ok(self.register(operation))
    }

    /// Performs a replacement that is in the journal, or puts the workspace back as it was.
    pub(crate) async fn replace_or_undo(
        self: &Arc<Self>,
        live: &LiveOperation,
        record: Option<&ContainerRecord>,
        what: &Replacement,
        edit: Edit,
    ) -> Result<Replaced> {
        let operation = &live.record;
        let fresh = SnapshotKey::active(operation.id);
        let done = self
            .replace_steps(operation, what, edit, How::Forward, &fresh, Cause::Asked)
            .await;
        let outcome = match (&done, record) {
            (Ok(replaced), _) => {
                self.drop_lease(operation.id);
                self.after_version(operation.bot, replaced.kept);
                OperationState::Succeeded
            }
            (Err(error), Some(record)) => {
                self.settle_replacement(operation, record, what, error)
                    .await
            }
            (Err(error), None) => match self.undo_remake(operation).await {
                Ok(()) => self.finish_failed(operation, error).await,
                Err(undo) => {
                    self.keep_for_retry(operation, &undo);
                    OperationState::Running
                }
            },
        };
        self.unregister(live, outcome);
        done
    }

    /// After a failure: back to the state before, as it was or from the version that keeps it.
    async fn settle_replacement(
        self: &Arc<Self>,
        operation: &Operation,
        record: &ContainerRecord,
        what: &Replacement,
        error: &Error,
    ) -> OperationState {
        if let Some(ended) = self.put_back(operation, record, error).await {
            return ended;
        }
        if what.goes_forward() {
            self.keep_for_retry(operation, error);
            return OperationState::Running;
        }
        // The present state is a version already: the workspace goes on from it.
        let reverted = what.reverted();
        let back = async {
            let to = self.decide_to_revert(operation).await?;
            let how = How::Back(error);
            let cause = Cause::Asked;
            self.replace_steps(operation, &reverted, Edit::Nothing, how, &to, cause)
                .await
        };
        match back.await {
            Ok(_) => {
                self.drop_lease(operation.id);
                OperationState::Failed
            }
            Err(revert) => {
                self.keep_for_retry(operation, &revert);
                OperationState::Running
            }
        }
    }

    /// Writes down that a replacement goes back, unless its new state is recorded, and tells the writable
    /// snapshot that it ends on. What it would have switched to goes first. The state before gets another
    /// name: by what the container names, a replay with any database tells the two apart.
    async fn decide_to_revert(&self, operation: &Operation) -> Result<SnapshotKey> {
        let fresh = SnapshotKey::active(operation.id);
        let row = self.record(operation.bot).await?;
        if row.is_some_and(|row| row.snapshot == fresh) {
            return Ok(fresh);
        }
        self.discard(&fresh).await?;
        self.advance(operation, REVERTING).await?;
        Ok(SnapshotKey::reverted(operation.id))
    }

    async fn advance(&self, operation: &Operation, step: &str) -> Result<()> {
        let advanced = vec![Change::AdvanceOperation {
            id: operation.id,
            step: step.to_owned(),
            input: None,
        }];
        Ok(self.store.transactions.apply(advanced).await?)
    }

    /// Ends a replacement that a dead server or a failure left.
    pub(crate) async fn replay_replacement(
        self: &Arc<Self>,
        operation: &Operation,
        cause: Cause,
    ) -> Result<()> {
        let why = Error::Interrupted;
        let Some((what, how, to)) = self.way(operation, &why).await? else {
            return Ok(());
        };
        self.replace_steps(operation, &what, Edit::Nothing, how, &to, cause)
            .await?;
        self.drop_lease(operation.id);
        Ok(())
    }

    /// How a replacement goes on that a dead server or a failure left; `None` when it is ended.
    async fn way<'a>(
        self: &Arc<Self>,
        operation: &Operation,
        why: &'a Error,
    ) -> Result<Option<Way<'a>>> {
        let (id, bot) = (operation.id, operation.bot);
        let what: Replacement = input(operation)?;
        let fresh = SnapshotKey::active(id);
        let way = match operation.step.as_str() {
            step @ (RECORDED | REVERTED) => {
                let row = self.record(bot).await?.map(|row| row.snapshot);
                let to = match row {
                    // Earlier releases went back under the name of the new state.
                    Some(row) if row == fresh => fresh,
                    Some(row) if step == REVERTED && row == SnapshotKey::reverted(id) => row,
                    // The row comes with this step, and goes with a deletion only.
                    Some(_) | None => {
                        self.end_superseded(operation).await?;
                        return Ok(None);
                    }
                };
                match step {
                    RECORDED => (what, How::Forward, to),
                    _ => (what.reverted(), How::Back(why), to),
                }
            }
            REVERTING => {
                // The new state is gone before this step: under its name an earlier release went back.
                let container = self.container(bot).await?;
                let earlier = container.is_some_and(|found| found.snapshot == fresh.as_str());
                let to = if earlier {
                    fresh
                } else {
                    SnapshotKey::reverted(id)
                };
                match self.standing(operation, what.active.as_ref(), &to).await? {
                    Standing::MovedOn => {
                        self.end_superseded(operation).await?;
                        return Ok(None);
                    }
                    Standing::Switched => (what.reverted(), How::RecordBack(why), to),
                    Standing::Untouched | Standing::Between => {
                        let to = SnapshotKey::reverted(id);
                        (what.reverted(), How::Back(why), to)
                    }
                }
            }
            _ => {
                let active = what.active.as_ref();
                match self.standing(operation, active, &fresh).await? {
                    Standing::MovedOn => {
                        self.end_superseded(operation).await?;
                        return Ok(None);
                    }
                    Standing::Switched => (what, How::Record, fresh),
                    // What is kept first cannot be lost by going on; what is only believed to equal its
                    // head may have changed since.
                    Standing::Untouched if what.goes_forward() && what.keep.is_some() => {
                        (what, How::Forward, fresh)
                    }
                    Standing::Untouched => {
                        // It may even run on; if it should and does not, it is started as any other.
                        let record = self.required_record(bot).await?;
                        self.discard_fresh(operation, &record).await;
                        self.finish_interrupted(operation).await?;
                        return Ok(None);
                    }
                    Standing::Between if what.goes_forward() => (what, How::Forward, fresh),
                    // What was to be put in may be gone, and nobody waits for it any more.
                    Standing::Between => {
                        let to = self.decide_to_revert(operation).await?;
                        (what.reverted(), How::Back(why), to)
                    }
                }
            }
        };
        Ok(Some(way))
    }

    /// The steps of a replacement; from any point, again from the beginning.
    async fn replace_steps(
        self: &Arc<Self>,
        operation: &Operation,
        what: &Replacement,
        edit: Edit,
        how: How<'_>,
        fresh: &SnapshotKey,
        cause: Cause,
    ) -> Result<Replaced> {
        let (id, bot) = (operation.id, operation.bot);
        let at = fault_name(operation.kind);
        let (failed, switched) = match how {
            How::Forward => (None, false),
            How::Record => (None, true),
            How::Back(error) => (Some(error), false),
            How::RecordBack(error) => (Some(error), true),
        };
        let kept = match what.keep {
            Some(_) => Some(reserved(operation)?),
            None => None,
        };
        let row = self.record(bot).await?;
        let made_again = row.is_none();
        let mut record = match (row, &what.base) {
            (Some(record), _) => record,
            (None, Base::Version(target)) => {
                let target = self.version(bot, *target).await?;
                self.remade_record(bot, &target)
            }
            (None, _) => return Err(Error::WorkspaceNotFound(bot)),
        };
        let before = kept.or(record.head_version);
        let mut root = None;
        if record.snapshot != *fresh {
            let lease = LeaseId::for_operation(id);
            let version = SnapshotKey::version(id);
            let old = record.snapshot.clone();
            let mut changes = Vec::new();
            if let (Some(source), Some(number)) = (what.keep, kept) {
                if switched {
                    self.runtime.leases.create(&lease).await?;
                } else {
                    let note = Note::of(bot, &record.image, record.head_version);
                    let note = note.version(number, None, &old);
                    self.capture(&lease, &record, &version, &note, at).await?;
                }
                // It may be one already, or have been deleted, when the database is an older one.
                if !switched
                    || (self.snapshot_exists(&version).await?
                        && !self.is_recorded(bot, number).await?)
                {
                    let version = version.clone();
                    let version = self.version_record(&record, number, None, source, version);
                    changes.push(Change::InsertVersion(Box::new(version)));
                }
            } else {
                self.runtime.leases.create(&lease).await?;
                if !made_again && !switched {
                    self.power_down_to_replace(&record).await?;
                    fault_point!(at, "stopped");
                }
            }
            fault_point!(at, "committed");
            let (image, head) = match &what.base {
                Base::Present => (record.image.clone(), before),
                Base::Version(target) => (self.version(bot, *target).await?.image, Some(*target)),
                Base::Image(image) => (image.as_ref().clone(), before),
            };
            if !switched {
                let present = match (kept, before) {
                    (Some(_), _) => Some(version),
                    (None, Some(head)) if what.active.is_some() => {
                        Some(self.version(bot, head).await?.snapshot)
                    }
                    (None, _) => None,
                };
                // Half an edit of an earlier attempt is nothing to go on from.
                unless_missing(self.runtime.snapshots.remove(fresh).await)?;
                let edited = SnapshotKey::active(id);
                if *fresh != edited {
                    unless_missing(self.runtime.snapshots.remove(&edited).await)?;
                }
                let note = Note::of(bot, &image, head).unfinished(what.edited);
                let base = (&what.base, present.as_ref());
                let prepared = self
                    .prepare_base(operation, &lease, fresh, &note, base)
                    .await?;
                root = Some(prepared);
                fault_point!(at, "prepared");
                self.edit(&lease, fresh, edit, present.as_ref()).await?;
                if what.edited {
                    self.note_unfinished(fresh, false).await?;
                    self.advance(operation, EDITED).await?;
                }
                fault_point!(at, "edited");
            }
            record.snapshot = fresh.clone();
            record.image = image;
            record.head_version = head;
            // Without an edit it is what its base is, unless it may have run since.
            record.dirty = what.edited || matches!(what.base, Base::Image(_)) || switched;
            if !switched {
                self.switch_to(&lease, &record).await?;
                fault_point!(at, "switched");
            }
            changes.push(replaced_row(&record, made_again));
            let step = if failed.is_none() { RECORDED } else { REVERTED };
            changes.push(Change::AdvanceOperation {
                id,
                step: step.to_owned(),
                input: None,
            });
            let detail = json!({"head_version": head, "safety_version": kept,
                                "failed": failed.map(Error::code)});
            changes.push(event(bot, kind_name(operation.kind), detail));
            self.store.transactions.apply(changes).await?;
            self.losses.set_workspace(bot, false);
            fault_point!(at, "recorded");
        }
        if let (Some(old), None) = (&what.active, kept) {
            // Equal to its head version, so nothing is lost with it.
            self.remove_unnamed(old).await?;
            fault_point!(at, "removed");
        }
        // A journal that is older than the workspace does not know how the workspace got its snapshot.
        let put_in = !switched || operation.step == EDITED;
        if operation.kind == OperationKind::Restore && failed.is_none() && put_in {
            // Its data is in the workspace and on the disk.
            let archive = what.preserved.unwrap_or_else(|| crate::data::legacy(bot));
            self.remove_returned(operation, archive).await?;
        }
        if record.desired == DesiredState::Running {
            match root {
                Some(root) => self.bring_up_on(&record, &root, cause).await?,
                None => self.bring_up(&record, cause).await?,
            }
            fault_point!(at, "started");
        }
        self.store
            .transactions
            .apply(finish(operation, failed))
            .await?;
        fault_point!(at, "finished");
        Ok(Replaced { kept, before })
    }

    /// Prepares the new writable snapshot, and tells how it is mounted.
    async fn prepare_base(
        self: &Arc<Self>,
        operation: &Operation,
        lease: &LeaseId,
        fresh: &SnapshotKey,
        note: &Note<'_>,
        (base, present): (&Base, Option<&SnapshotKey>),
    ) -> Result<Root> {
        match base {
            Base::Present => {
                let present = present.ok_or(Error::WorkspaceNotFound(operation.bot))?;
                self.prepare_on_version(operation.id, fresh, note, present)
                    .await
            }
            Base::Version(number) => {
                let target = self.version(operation.bot, *number).await?;
                self.prepare_on_version(operation.id, fresh, note, &target.snapshot)
                    .await
            }
            Base::Image(image) => {
                let top = self.unpacked_image(lease, &image.reference).await?;
                self.prepare_on_image(lease, fresh, note, &top).await
            }
        }
    }

    /// What follows a new version: its size is measured, and older ones may go.
    pub(crate) fn after_version(self: &Arc<Self>, bot: BotId, number: Option<VersionNumber>) {
        let Some(number) = number else { return };
        let inner = Arc::clone(self);
        self.spawn(async move {
            if let Ok(version) = inner.version(bot, number).await {
                inner.measure_version(&version).await;
            }
            inner.apply_retention(bot).await;
        });
    }
}

/// The change of the container's row.
fn replaced_row(record: &ContainerRecord, made_again: bool) -> Change {
    if made_again {
        return Change::InsertContainer(Box::new(record.clone()));
    }
    let patch = ContainerPatch {
        snapshot: Some(record.snapshot.clone()),
        image: Some(record.image.clone()),
        head_version: Some(record.head_version),
        dirty: Some(record.dirty),
        ..ContainerPatch::default()
    };
    Change::PatchContainer(record.bot, Box::new(patch))
}

/// The name of an operation in the list of fault points.
pub(crate) fn fault_name(kind: OperationKind) -> &'static str {
    match kind {
        OperationKind::Import => "import",
        OperationKind::Restore => "restore",
        OperationKind::RestorePath => "restore_path",
        OperationKind::ChangeImage => "image",
        _ => "rollback",
    }
}
