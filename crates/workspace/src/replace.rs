//! Giving a workspace another writable snapshot: what a rollback, an import, the return of preserved
//! data, the return of a single path and a change of image have in common.
//!
//! The present state is kept as a version first, unless it cannot differ from its head version. A new
//! writable snapshot is prepared on a base and edited where nobody sees it; then the container is
//! switched to it in one step. Committing the present state is the point of no return: whatever fails
//! after it, the workspace ends on the state that was kept or on the new one, never on half of one. A
//! workspace that should run and cannot be started with the new one goes back to the state that was kept. A
//! workspace that has something else by the time of a replay is left as it is.

mod back;
mod edit;
mod folder;

use crate::faults::fault_point;
use crate::layers::{Root, unless_missing};
use crate::notes::Note;
use crate::operations::{
    LiveOperation, RECORDED, advanced, event, finish, kind_name, new_operation,
};
use crate::service::Inner;
use crate::snapshot::reserved;
use crate::standing::is_final;
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

/// The step from which on a replacement whose new state is recorded and cannot be started goes back.
const LEAVING: &str = "leaving";

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
    /// The version that the state before equals, where it is not kept. An operation that an earlier server
    /// left does not name it.
    #[serde(default)]
    pub(crate) head: Option<VersionNumber>,
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
            head: record.head_version,
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

impl<'a> How<'a> {
    /// The failure with which the operation ends.
    fn failed(self) -> Option<&'a Error> {
        match self {
            Self::Forward | Self::Record => None,
            Self::Back(error) | Self::RecordBack(error) => Some(error),
        }
    }

    /// Whether the workspace has the writable snapshot that it is to get.
    fn is_switched(self) -> bool {
        matches!(self, Self::Record | Self::RecordBack(_))
    }
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
        let (failed, switched) = (how.failed(), how.is_switched());
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
        let before = kept.or(what.head).or(record.head_version);
        // Then the state before is a version already, and what the workspace has is nothing to keep.
        let new = SnapshotKey::active(id);
        let leaves_new = failed.is_some() && record.snapshot == new;
        let mut root = None;
        if record.snapshot != *fresh {
            let lease = LeaseId::for_operation(id);
            let version = SnapshotKey::version(id);
            let old = record.snapshot.clone();
            let mut changes = Vec::new();
            if let (Some(source), Some(number), false) = (what.keep, kept, leaves_new) {
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
            let (image, head) = match (&what.base, before) {
                (Base::Present, Some(head)) if leaves_new => {
                    (self.version(bot, head).await?.image, before)
                }
                (Base::Present, _) => (record.image.clone(), before),
                (Base::Version(target), _) => {
                    (self.version(bot, *target).await?.image, Some(*target))
                }
                (Base::Image(image), _) => (image.as_ref().clone(), before),
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
                if *fresh != new && !leaves_new {
                    unless_missing(self.runtime.snapshots.remove(&new).await)?;
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
            changes.push(advanced(id, step));
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
        if failed.is_some() && *fresh != new {
            // What could not be started.
            self.remove_unnamed(&new).await?;
        }
        if record.desired == DesiredState::Running {
            let started = match root {
                Some(root) => self.bring_up_on(&record, &root, cause).await,
                None => self.bring_up(&record, cause).await,
            };
            match started {
                // It could not be started before either, and is tried again as any that should run.
                Err(error) if failed.is_some() && is_final(&error) => {
                    tracing::warn!(%bot, error = %error.chain(), "the state before cannot be started either");
                }
                started => started?,
            }
            fault_point!(at, "started");
        }
        // A journal that is older than the workspace does not know how the workspace got its snapshot.
        let put_in = !switched || operation.step == EDITED;
        // A start may have made the workspace again from what is left.
        if operation.kind == OperationKind::Restore
            && failed.is_none()
            && put_in
            && self.row_names(bot, fresh).await?
            && self.snapshot_exists(fresh).await?
        {
            // Its data is in the workspace and on the disk, and what should run with it does.
            let archive = what.preserved.unwrap_or_else(|| crate::data::legacy(bot));
            self.remove_returned(operation, archive).await?;
        }
        self.store
            .transactions
            .apply(finish(operation, failed))
            .await?;
        fault_point!(at, "finished");
        Ok(Replaced { kept, before })
    }

    /// Whether that is recorded as the workspace's writable snapshot.
    async fn row_names(&self, bot: BotId, snapshot: &SnapshotKey) -> Result<bool> {
        let row = self.record(bot).await?;
        Ok(row.is_some_and(|row| row.snapshot == *snapshot))
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
