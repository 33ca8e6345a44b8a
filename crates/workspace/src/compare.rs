//! Comparing versions, and bringing single paths back from them.

use crate::pools;
use crate::replace::{Base, Edit, Replacement};
use crate::service::{Inner, Workspaces};
use crate::{Error, Result};
use botstead_authz::{Action, Actor};
use botstead_overlay::{Change, Difference, Kind};
use botstead_store::OperationKind;
use botstead_types::{
    BotId, FilePath, LeaseId, OperationId, SnapshotKey, UserId, VersionNumber, VersionSource,
};
use std::sync::Arc;

/// A version, or what is there now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VersionOrCurrent {
    /// A version.
    Version(VersionNumber),
    /// The present state.
    Current,
}

/// What differs between two states.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathChange {
    /// The path; any bytes.
    pub path: Vec<u8>,
    /// How it differs.
    pub change: Change,
    /// What it is now, or was where it was removed.
    pub kind: Kind,
    /// Its size in bytes, for a file.
    pub size: Option<u64>,
}

/// Part of what differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathChanges {
    /// The differences, sorted by the bytes of their paths.
    pub items: Vec<PathChange>,
    /// The path to go on after; `None` on the last page.
    pub next: Option<Vec<u8>>,
}

impl Workspaces {
    /// What differs between a version and another one, or the present state: seen from the first. What
    /// a workspace that runs writes meanwhile may be in it or not.
    ///
    /// # Errors
    /// `BotNotFound`, `VersionNotFound`, `WorkspaceNotFound` for the present state of none;
    /// `ReplacedMeanwhile` when that became another while it was read; `Unsupported` where snapshots are no
    /// directories of this host.
    pub async fn diff(
        &self,
        actor: &Actor,
        bot: BotId,
        from: VersionNumber,
        to: VersionOrCurrent,
        after: Option<Vec<u8>>,
        limit: usize,
    ) -> Result<PathChanges> {
        let inner = &self.inner;
        inner.authorized(actor, Action::ReadWorkspace, bot).await?;
        let (work, user) = (Arc::clone(inner), pools::user(actor));
        inner
            .detached(async move {
                let id = OperationId::generate();
                let lease = LeaseId::for_operation(id);
                work.runtime.leases.create(&lease).await?;
                let page = (after, limit);
                let compared = work.compare(user, bot, &lease, (from, to), page).await;
                work.drop_lease(id);
                compared
            })
            .await
    }

    /// Brings one path of a version back, file or tree: to its place, or to `target`. What stands
    /// there is kept in a version with source `import` first. A workspace that runs is stopped
    /// meanwhile. Tells the version that the state before is.
    ///
    /// # Errors
    /// `BotNotFound`, `VersionNotFound`, `WorkspaceNotFound`, `PathNotFound` when the version has no
    /// such path, `Forbidden` for the root, `Busy`.
    pub async fn restore_path(
        &self,
        actor: &Actor,
        bot: BotId,
        version: VersionNumber,
        path: FilePath,
        target: Option<FilePath>,
    ) -> Result<Option<VersionNumber>> {
        let inner = &self.inner;
        inner.authorized(actor, Action::WriteWorkspace, bot).await?;
        inner.refuse_when_closing()?;
        let target = target.unwrap_or_else(|| path.clone());
        if path.is_root() || target.is_root() {
            return Err(Error::Forbidden("restore the root; roll back instead"));
        }
        let work = Arc::clone(inner);
        inner
            .detached(async move {
                let id = OperationId::generate();
                let _guard = work.lock(bot, id, "restore_path").await?;
                let from = work.version(bot, version).await?;
                work.require_snapshot(&from).await?;
                let record = work.present_record(bot).await?;
                let edit = Edit::Path {
                    from: from.snapshot,
                    path,
                    target,
                };
                work.check_edit(id, &record.snapshot, &edit).await?;
                let what = Replacement::of(&record, VersionSource::Import, Base::Present, true);
                let live = work
                    .begin_replacement(id, bot, OperationKind::RestorePath, &what)
                    .await?;
                let replaced = work
                    .replace_or_undo(&live, Some(&record), &what, edit)
                    .await?;
                Ok(replaced.before)
            })
            .await
    }
}

impl Inner {
    async fn compare(
        self: &Arc<Self>,
        user: Option<UserId>,
        bot: BotId,
        lease: &LeaseId,
        (from, to): (VersionNumber, VersionOrCurrent),
        (after, limit): (Option<Vec<u8>>, usize),
    ) -> Result<PathChanges> {
        let from = self.version(bot, from).await?;
        self.require_snapshot(&from).await?;
        let is_current = to == VersionOrCurrent::Current;
        let to: SnapshotKey = match to {
            VersionOrCurrent::Version(number) => {
                let to = self.version(bot, number).await?;
                self.require_snapshot(&to).await?;
                to.snapshot
            }
            VersionOrCurrent::Current => self.required_record(bot).await?.snapshot,
        };
        let compared = async {
            let snapshots = &self.runtime.snapshots;
            let (below, above) = tokio::try_join!(
                snapshots.layers(lease, &from.snapshot),
                snapshots.layers(lease, &to)
            )?;
            let compared = self.pools.comparisons.run(user, move || {
                let changes = botstead_overlay::diff(&below, &above, after.as_deref(), limit)?;
                Ok(PathChanges {
                    items: changes.items.into_iter().map(PathChange::from).collect(),
                    next: changes.next,
                })
            });
            compared.await
        };
        let compared = compared.await;
        // What is removed meanwhile has no layers any more, or looks as if less were there. A version stays
        // until then.
        if is_current && !self.snapshot_exists(&to).await? {
            self.required_record(bot).await?;
            return Err(Error::ReplacedMeanwhile);
        }
        compared
    }
}

impl From<Difference> for PathChange {
    fn from(difference: Difference) -> Self {
        Self {
            path: [b"/", difference.path.as_slice()].concat(),
            change: difference.change,
            kind: difference.kind,
            size: difference.size,
        }
    }
}
