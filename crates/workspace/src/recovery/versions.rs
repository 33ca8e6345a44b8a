//! Versions that the runtime has and no row names.

use super::Seen;
use crate::Result;
use crate::notes::{Noted, is_version};
use crate::operations::{event, finished, new_operation};
use crate::service::Inner;
use botstead_runtime::Snapshot;
use botstead_store::{
    Change, ErrorKind as StoreErrorKind, OperationKind, VersionPatch, VersionRecord,
    VersionSnapshot,
};
use botstead_types::{BotId, OperationId, SnapshotKey, SnapshotKind, VersionNumber, VersionSource};
use serde_json::json;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

/// Whether the snapshot is a version that no row names: one that was released is not.
pub(super) fn is_unrecorded(snapshot: &Snapshot, seen: &Seen) -> bool {
    snapshot.kind == SnapshotKind::Committed
        && snapshot.rooted
        && is_version(snapshot)
        && seen.version(&snapshot.key).is_none()
        && !seen.is_under_way(&snapshot.key)
}

impl Inner {
    /// Records the bot's versions again that no row names, oldest first.
    pub(super) async fn record_versions(self: &Arc<Self>, bot: BotId, seen: &Seen) -> Result<()> {
        let mut lost: Vec<_> = seen
            .of_bot(bot)
            .filter(|snapshot| is_unrecorded(snapshot, seen))
            .map(|snapshot| (Noted::on(snapshot), snapshot))
            .collect();
        if lost.is_empty() {
            return Ok(());
        }
        // Those without a number come last: theirs are new ones.
        lost.sort_by_key(|(noted, snapshot)| {
            let number = noted.version.map_or(u32::MAX, VersionNumber::get);
            (number, snapshot.created_at)
        });
        for (noted, snapshot) in lost {
            self.record_version(bot, noted, snapshot, seen).await?;
        }
        Ok(())
    }

    async fn record_version(
        self: &Arc<Self>,
        bot: BotId,
        noted: Noted,
        snapshot: &Snapshot,
        seen: &Seen,
    ) -> Result<()> {
        // Read for each: the ones before are among them.
        let recorded = self.store.versions.list(bot).await?;
        let parent = ancestor(&noted, snapshot, &recorded, seen);
        let image = self.image_of(bot, &noted, snapshot, seen).await?;
        let taken = |number| recorded.iter().any(|version| version.number == number);
        let (number, reserved) = match noted.version.filter(|number| !taken(*number)) {
            Some(number) => (number, None),
            None => {
                let id = OperationId::generate();
                let input = json!({"snapshot": snapshot.key});
                let operation = new_operation(id, bot, OperationKind::Recover, &input)?;
                let operation = self.store.operations.begin(&operation, true).await?;
                (crate::snapshot::reserved(&operation)?, Some(operation))
            }
        };
        tracing::warn!(%bot, version = %number, snapshot = %snapshot.key,
            "recording a version again that the database did not have");
        let version = VersionRecord {
            bot,
            number,
            name: noted.name,
            source: VersionSource::Recovered,
            snapshot: snapshot.key.clone(),
            snapshotter: self.runtime.backend.capabilities().snapshotter.clone(),
            parent,
            image,
            size_bytes: None,
            pinned: noted.pinned,
            created_at: snapshot.created_at,
        };
        let detail = json!({"version": number, "snapshot": snapshot.key});
        let mut changes = vec![
            Change::InsertVersion(Box::new(version.clone())),
            event(bot, "version_recovered", detail),
        ];
        changes.extend(reserved.as_ref().map(finished));
        self.store.transactions.apply(changes).await?;
        let inner = Arc::clone(self);
        self.spawn(async move { inner.measure_version(&version).await });
        Ok(())
    }

    /// Keeps a writable snapshot that nothing names, and that a workspace got its data from, as a
    /// version. Can be repeated.
    pub(crate) async fn keep_as_version(
        self: &Arc<Self>,
        operation: OperationId,
        bot: BotId,
        key: &SnapshotKey,
    ) -> Result<()> {
        let seen = Seen::look(&self.runtime, &self.store).await?;
        if let Some(active) = seen.active(key.as_str()) {
            if seen.is_named(key) {
                return Ok(());
            }
            let noted = Noted::on(active);
            let image = self.image_of(bot, &noted, active, &seen).await?;
            let recorded = self.store.versions.list(bot).await?;
            let parent = ancestor(&noted, active, &recorded, &seen);
            let lease = botstead_types::LeaseId::for_operation(OperationId::generate());
            self.runtime.leases.create(&lease).await?;
            let version = SnapshotKey::version(operation);
            let note = crate::notes::Note::of(bot, &image, parent);
            let committed = self.commit(&lease, key, &version, &note).await;
            if let Some(operation) = lease.operation() {
                self.drop_lease(operation);
            }
            committed?;
        }
        let seen = Seen::look(&self.runtime, &self.store).await?;
        let version = SnapshotKey::version(operation);
        match seen.snapshot(&version) {
            Some(snapshot) if seen.version(&version).is_none() => {
                let noted = Noted::on(snapshot);
                self.record_version(bot, noted, snapshot, &seen).await
            }
            _ => Ok(()),
        }
    }

    /// Protects recorded versions that were released in a time that the database does not know, pins
    /// those that are pinned either there or here, and counts those that are gone.
    pub(super) async fn look_for_versions(&self) -> Result<()> {
        let snapshots = self.runtime.snapshots.list().await?;
        let found: HashMap<_, _> = snapshots
            .into_iter()
            .map(|snapshot| (snapshot.key.clone(), snapshot))
            .collect();
        let deleted: HashSet<_> = self.versions_being_deleted().await?;
        let mut missing: BTreeMap<BotId, Vec<u32>> = BTreeMap::new();
        for version in self.store.versions.snapshots().await? {
            let (bot, number) = (version.bot, version.number);
            let Some(snapshot) = found.get(&version.snapshot) else {
                missing.entry(bot).or_default().push(number.get());
                continue;
            };
            if !snapshot.rooted && !deleted.contains(&bot) {
                tracing::info!(%bot, version = %number, "protecting a version that was released");
                if let Err(error) = self.runtime.snapshots.protect(&snapshot.key).await {
                    tracing::warn!(%bot, version = %number, error = %error.chain(), "cannot protect");
                }
            }
            if let Err(error) = self.agree_on_pin(&version, snapshot).await {
                tracing::warn!(%bot, version = %number, %error, "cannot pin again");
            }
        }
        for (bot, versions) in missing {
            tracing::warn!(%bot, ?versions, "versions are missing in the runtime");
            self.losses.set_versions(bot, versions.len() as u64);
        }
        Ok(())
    }

    /// A version that is pinned in the database or in the runtime is pinned in both.
    async fn agree_on_pin(&self, version: &VersionSnapshot, snapshot: &Snapshot) -> Result<()> {
        match (version.pinned, Noted::on(snapshot).pinned) {
            (false, true) => self.pin_again(version.bot, version.number).await,
            // As earlier releases pinned it.
            (true, false) => {
                let pinned = VersionPatch {
                    pinned: Some(true),
                    ..VersionPatch::default()
                };
                self.note_update(&version.snapshot, &pinned).await
            }
            (true, true) | (false, false) => Ok(()),
        }
    }

    /// Bots with an operation that is not finished: it may be releasing versions.
    async fn versions_being_deleted(&self) -> Result<HashSet<BotId>> {
        let unfinished = self.store.operations.unfinished().await?;
        Ok(unfinished.into_iter().map(|one| one.bot).collect())
    }

    /// Whether the number is a version of the bot's already.
    pub(crate) async fn is_recorded(&self, bot: BotId, number: VersionNumber) -> Result<bool> {
        match self.store.versions.get(bot, number).await {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == StoreErrorKind::NotFound => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

/// The version that a state grew from: the one that it says, or else the nearest below it, as far as
/// either is recorded.
pub(super) fn ancestor(
    noted: &Noted,
    snapshot: &Snapshot,
    recorded: &[VersionRecord],
    seen: &Seen,
) -> Option<VersionNumber> {
    let by_snapshot: HashMap<_, _> = recorded
        .iter()
        .map(|version| (&version.snapshot, version.number))
        .collect();
    let says = noted
        .parent
        .filter(|parent| recorded.iter().any(|version| version.number == *parent));
    says.or_else(|| {
        let chain = seen.ancestors(snapshot);
        let mut numbers = chain.iter().filter_map(|below| by_snapshot.get(&below.key));
        numbers.next().copied()
    })
}
