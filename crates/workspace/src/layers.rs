//! Steps on snapshots that can be repeated, and the bound on how deep they lie.
//!
//! Every snapshot of ours carries two labels: how many layers it has above the image's own, and
//! which snapshot is the image's top, beside those of [`Note`]. A lookup that fails walks all layers, and mounting fails
//! near 500 of them, so a chain that reached [`MAX_LAYERS`] is merged into one layer before a
//! writable snapshot is prepared on it.

use crate::Result;
use crate::notes::{Note, relabelled_unfinished};
use crate::service::Inner;
use botstead_runtime::{Error as RuntimeError, ErrorKind as RuntimeErrorKind, SnapshotMount};
use botstead_types::{LeaseId, OperationId, SnapshotKey};
use std::collections::BTreeMap;

/// The most layers above the image's own that a writable snapshot is prepared on.
pub(crate) const MAX_LAYERS: u32 = 31;

const LABEL_LAYERS: &str = "botstead.layers";
const LABEL_BASE: &str = "botstead.base";

/// How a writable snapshot is mounted, as far as it is known; see [`botstead_runtime::Tasks::create_on`].
pub(crate) type Root = Vec<SnapshotMount>;

/// Where a snapshot lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    /// How many layers it has above the image's own, itself included when it is committed.
    layers: u32,
    /// The image's top snapshot.
    base: Option<SnapshotKey>,
}

impl Place {
    fn of(labels: &BTreeMap<String, String>) -> Option<Self> {
        Some(Self {
            layers: labels.get(LABEL_LAYERS)?.parse().ok()?,
            base: labels.get(LABEL_BASE).and_then(|base| base.parse().ok()),
        })
    }

    /// Where the committed snapshot lies that an active one with these labels becomes.
    fn above(labels: &BTreeMap<String, String>) -> Self {
        let mut place = Self::of(labels).unwrap_or(Self {
            layers: 0,
            base: None,
        });
        place.layers += 1;
        place
    }

    fn labels(&self, note: &Note<'_>) -> BTreeMap<String, String> {
        let mut labels = note.labels();
        labels.insert(LABEL_LAYERS.to_owned(), self.layers.to_string());
        if let Some(base) = &self.base {
            labels.insert(LABEL_BASE.to_owned(), base.to_string());
        }
        labels
    }
}

/// The image's top snapshot that a snapshot with these labels lies on.
pub(crate) fn base_of(labels: &BTreeMap<String, String>) -> Option<SnapshotKey> {
    Place::of(labels)?.base
}

impl Inner {
    /// Prepares the operation's writable snapshot on an image, and tells how it is mounted.
    pub(crate) async fn prepare_on_image(
        &self,
        lease: &LeaseId,
        key: &SnapshotKey,
        note: &Note<'_>,
        base: &SnapshotKey,
    ) -> Result<Root> {
        let place = Place {
            layers: 0,
            base: Some(base.clone()),
        };
        let labels = place.labels(note);
        let prepared = self
            .runtime
            .snapshots
            .prepare(lease, key, Some(base), &labels)
            .await;
        Ok(unless_prepared(prepared)?)
    }

    /// Prepares a writable snapshot on a version, merging the version's layers first when they are
    /// too many, and tells how it is mounted.
    pub(crate) async fn prepare_on_version(
        &self,
        operation: OperationId,
        key: &SnapshotKey,
        note: &Note<'_>,
        version: &SnapshotKey,
    ) -> Result<Root> {
        let lease = &LeaseId::for_operation(operation);
        let snapshots = &self.runtime.snapshots;
        let place = Place::of(&snapshots.get(version).await?.labels).unwrap_or(Place {
            layers: 0,
            base: None,
        });
        if let Some(base) = place.base.as_ref().filter(|_| place.layers > MAX_LAYERS) {
            let flat = SnapshotKey::flattened(operation);
            let merged = Place {
                layers: 1,
                base: Some(base.clone()),
            };
            let labels = merged.labels(note);
            match snapshots
                .flatten(lease, version, base, &flat, &labels)
                .await
            {
                Ok(()) => {
                    let prepared = snapshots.prepare(lease, key, Some(&flat), &labels).await;
                    let root = unless_prepared(prepared)?;
                    // Whoever builds on it protects it from now on.
                    snapshots.release(&flat).await?;
                    return Ok(root);
                }
                Err(error) if error.kind() == RuntimeErrorKind::Unsupported => {
                    tracing::warn!(%version, layers = place.layers, error = %error.chain(),
                        "layers cannot be merged; the chain goes on growing");
                }
                Err(error) => return Err(error.into()),
            }
        }
        let prepared = snapshots
            .prepare(lease, key, Some(version), &place.labels(note))
            .await;
        Ok(unless_prepared(prepared)?)
    }

    /// The labels of a committed snapshot that holds what this active one does.
    pub(crate) async fn labels_above(
        &self,
        active: &SnapshotKey,
        note: &Note<'_>,
    ) -> Result<BTreeMap<String, String>> {
        let snapshot = self.runtime.snapshots.get(active).await?;
        Ok(Place::above(&snapshot.labels).labels(note))
    }

    /// Freezes the active snapshot under the version's name; when that was done already, nothing.
    pub(crate) async fn commit(
        &self,
        lease: &LeaseId,
        active: &SnapshotKey,
        version: &SnapshotKey,
        note: &Note<'_>,
    ) -> Result<()> {
        let snapshots = &self.runtime.snapshots;
        let before = match snapshots.get(active).await {
            Ok(snapshot) => snapshot,
            Err(error) if error.is_not_found() && self.snapshot_exists(version).await? => {
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        };
        let labels = Place::above(&before.labels).labels(&note.made_of(active));
        let committed = snapshots.commit(lease, active, version, &labels).await;
        Ok(unless_exists(committed)?)
    }

    /// Writes on a writable snapshot whether it is still to be changed before it is anybody's.
    pub(crate) async fn note_unfinished(&self, key: &SnapshotKey, unfinished: bool) -> Result<()> {
        let snapshots = &self.runtime.snapshots;
        let labels = relabelled_unfinished(&snapshots.get(key).await?, unfinished);
        Ok(snapshots.set_labels(key, &labels).await?)
    }

    /// Removes a writable snapshot that an operation prepared and no workspace got. Where the runtime
    /// refuses, it passes for nobody's work, whole as it may be.
    pub(crate) async fn discard(&self, key: &SnapshotKey) -> Result<()> {
        // What cannot be written on it does not matter once it is gone.
        let _ = self.note_unfinished(key, true).await;
        Ok(unless_missing(self.runtime.snapshots.remove(key).await)?)
    }

    /// Whether the runtime has that snapshot, protected: released ones are not.
    pub(crate) async fn is_protected(&self, key: &SnapshotKey) -> Result<bool> {
        match self.runtime.snapshots.get(key).await {
            Ok(found) => Ok(found.rooted),
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether the runtime has that snapshot.
    pub(crate) async fn snapshot_exists(&self, key: &SnapshotKey) -> Result<bool> {
        match self.runtime.snapshots.get(key).await {
            Ok(_) => Ok(true),
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

/// A step that was done before is done.
pub(crate) fn unless_exists(done: Result<(), RuntimeError>) -> Result<(), RuntimeError> {
    match done {
        Err(error) if error.is_already_exists() => Ok(()),
        done => done,
    }
}

/// A snapshot that was prepared before is there; how it is mounted has to be asked then.
fn unless_prepared(done: Result<Root, RuntimeError>) -> Result<Root, RuntimeError> {
    match done {
        Err(error) if error.is_already_exists() => Ok(Root::new()),
        done => done,
    }
}

/// What is gone already need not be removed.
pub(crate) fn unless_missing(done: Result<(), RuntimeError>) -> Result<(), RuntimeError> {
    match done {
        Err(error) if error.is_not_found() => Ok(()),
        done => done,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use botstead_types::BotId;

    #[test]
    fn a_place_survives_its_labels() {
        let place = Place {
            layers: 7,
            base: Some("sha256:abc".parse().unwrap()),
        };
        let image = crate::notes::tests::image();
        let note = Note::of(BotId::generate(), &image, None);
        assert_eq!(Place::of(&place.labels(&note)), Some(place));
        assert_eq!(Place::of(&BTreeMap::new()), None);
    }
}
