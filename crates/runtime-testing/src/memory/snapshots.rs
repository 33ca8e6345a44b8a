//! Snapshots.

use super::Shared;
use super::faults::Op;
use super::files::{Files, hides};
use super::leases::{lease_of, protect};
use super::state::{SnapshotRecord, State};
use super::trees;
use botstead_runtime::{
    Access, CopyReport, ErrorKind, Result, Snapshot, SnapshotCopy, SnapshotMount, SnapshotUsage,
    Snapshots, Tree,
};
use botstead_types::{LeaseId, SnapshotKey, SnapshotKind};
use std::collections::BTreeMap;
use std::path::PathBuf;
use tokio_util::sync::CancellationToken;

/// A disk that was given no limit has this much.
const MOST_BYTES: u64 = 1 << 50;

fn record<'a>(state: &'a mut State, op: Op, key: &SnapshotKey) -> Result<&'a mut SnapshotRecord> {
    state
        .snapshots
        .get_mut(key)
        .ok_or_else(|| op.error(ErrorKind::NotFound, key))
}

#[async_trait::async_trait]
impl Snapshots for Shared {
    async fn prepare(
        &self,
        lease: &LeaseId,
        key: &SnapshotKey,
        parent: Option<&SnapshotKey>,
        labels: &BTreeMap<String, String>,
    ) -> Result<Vec<SnapshotMount>> {
        let op = Op("snapshots.prepare", "prepare snapshot");
        self.call(op, key, |state| {
            lease_of(state, op, lease)?;
            if state.snapshots.contains_key(key) {
                return Err(op.error(ErrorKind::AlreadyExists, key));
            }
            if let Some(parent) = parent {
                let found = record(state, op, parent)?;
                if found.snapshot.kind != SnapshotKind::Committed {
                    return Err(op
                        .error(ErrorKind::InvalidArgument, key)
                        .because(format!("its parent {parent} is not committed")));
                }
            }
            protect(state, op, lease, key)?;
            state.insert_snapshot(
                key.clone(),
                parent.cloned(),
                SnapshotKind::Active,
                labels.clone(),
                BTreeMap::new(),
                true,
            );
            state.changed();
            // They cannot be mounted.
            Ok(Vec::new())
        })
    }

    async fn commit(
        &self,
        lease: &LeaseId,
        key: &SnapshotKey,
        name: &SnapshotKey,
        labels: &BTreeMap<String, String>,
    ) -> Result<()> {
        let op = Op("snapshots.commit", "commit snapshot");
        self.call(op, key, |state| {
            lease_of(state, op, lease)?;
            if record(state, op, key)?.snapshot.kind != SnapshotKind::Active {
                return Err(op
                    .error(ErrorKind::NotFound, key)
                    .because("it is not active"));
            }
            if state.snapshots.contains_key(name) {
                return Err(op.error(ErrorKind::AlreadyExists, name));
            }
            let Some(active) = state.snapshots.remove(key) else {
                return Err(op.error(ErrorKind::NotFound, key));
            };
            for lease in state.leases.values_mut() {
                lease.snapshots.remove(key);
            }
            protect(state, op, lease, name)?;
            state.insert_snapshot(
                name.clone(),
                active.snapshot.parent,
                SnapshotKind::Committed,
                labels.clone(),
                active.files,
                true,
            );
            state.changed();
            Ok(())
        })
    }

    async fn get(&self, key: &SnapshotKey) -> Result<Snapshot> {
        let op = Op("snapshots.get", "read snapshot");
        self.call(op, key, |state| {
            Ok(record(state, op, key)?.snapshot.clone())
        })
    }

    async fn list(&self) -> Result<Vec<Snapshot>> {
        self.call(Op("snapshots.list", "list"), "snapshots", |state| {
            Ok(list(state))
        })
    }

    async fn labelled(&self, label: &str, value: &str) -> Result<Vec<Snapshot>> {
        self.call(Op("snapshots.labelled", "list"), "snapshots", |state| {
            let mut all = list(state);
            all.retain(|snapshot| snapshot.labels.get(label).is_some_and(|v| v == value));
            Ok(all)
        })
    }

    async fn flatten(
        &self,
        lease: &LeaseId,
        source: &SnapshotKey,
        base: &SnapshotKey,
        name: &SnapshotKey,
        labels: &BTreeMap<String, String>,
    ) -> Result<()> {
        let op = Op("snapshots.flatten", "flatten snapshot");
        self.call(op, source, |state| {
            lease_of(state, op, lease)?;
            record(state, op, base)?;
            let mut files = BTreeMap::new();
            let mut next = Some(source.clone());
            while next.as_ref() != Some(base) {
                let Some(key) = next else {
                    return Err(op
                        .error(ErrorKind::InvalidArgument, source)
                        .because(format!("{base} is no ancestor of it")));
                };
                let layer = record(state, op, &key)?;
                next = layer.snapshot.parent.clone();
                // What is above counts.
                let above: Files = files.clone();
                for (path, content) in &layer.files {
                    if !above.contains_key(path) && !hides(&above, path) {
                        files.insert(path.clone(), content.clone());
                    }
                }
            }
            protect(state, op, lease, name)?;
            if !state.snapshots.contains_key(name) {
                let (parent, kind) = (Some(base.clone()), SnapshotKind::Committed);
                state.insert_snapshot(name.clone(), parent, kind, labels.clone(), files, true);
            }
            state.changed();
            Ok(())
        })
    }

    async fn commit_copy(
        &self,
        lease: &LeaseId,
        copy: &SnapshotCopy,
        cancel: &CancellationToken,
    ) -> Result<CopyReport> {
        let op = Op("snapshots.commit_copy", "copy snapshot");
        if !self.capabilities.live_copies {
            return Err(op.error(ErrorKind::Unsupported, &copy.source));
        }
        self.call(op, &copy.source, |state| {
            lease_of(state, op, lease)?;
            if state.snapshots.contains_key(&copy.name) {
                return Ok(CopyReport::default());
            }
            let source = record(state, op, &copy.source)?;
            if source.snapshot.kind != SnapshotKind::Active {
                return Err(op
                    .error(ErrorKind::NotFound, &copy.source)
                    .because("it is not active"));
            }
            let (parent, files) = (source.snapshot.parent.clone(), source.files.clone());
            let bytes: usize = files.values().flatten().map(|content| content.len()).sum();
            let needed = copy.reserve_bytes.saturating_add(bytes as u64);
            if needed > state.free_bytes.unwrap_or(MOST_BYTES) {
                return Err(op
                    .error(ErrorKind::ResourceExhausted, &copy.source)
                    .because(format!("{needed} bytes must be free")));
            }
            if cancel.is_cancelled() {
                return Err(op.error(ErrorKind::Cancelled, &copy.source));
            }
            let report = CopyReport {
                copied_bytes: bytes as u64,
                files: files.len() as u64,
                ..CopyReport::default()
            };
            protect(state, op, lease, &copy.name)?;
            let (kind, labels) = (SnapshotKind::Committed, copy.labels.clone());
            state.insert_snapshot(copy.name.clone(), parent, kind, labels, files, true);
            state.changed();
            Ok(report)
        })
    }

    async fn layers(&self, lease: &LeaseId, key: &SnapshotKey) -> Result<Vec<PathBuf>> {
        keep(self, Op("snapshots.layers", "find layers of"), lease, key)?;
        trees::layers(self, key)
    }

    async fn open(
        &self,
        lease: &LeaseId,
        key: &SnapshotKey,
        access: Access,
    ) -> Result<Box<dyn Tree>> {
        keep(self, Op("snapshots.open", "open snapshot"), lease, key)?;
        trees::open(self, key, access)
    }

    async fn mounts(&self, key: &SnapshotKey) -> Result<Vec<SnapshotMount>> {
        let op = Op("snapshots.mounts", "mount snapshot");
        self.call(op, key, |_| {
            Err(op
                .error(ErrorKind::Unsupported, key)
                .because("snapshots in memory cannot be mounted"))
        })
    }

    async fn usage(&self, key: &SnapshotKey) -> Result<SnapshotUsage> {
        let op = Op("snapshots.usage", "measure snapshot");
        self.call(op, key, |state| {
            let files = &record(state, op, key)?.files;
            let bytes: usize = files.values().flatten().map(|content| content.len()).sum();
            Ok(SnapshotUsage {
                size_bytes: bytes as u64,
                inodes: files.len() as u64 + 1,
            })
        })
    }

    async fn set_labels(&self, key: &SnapshotKey, labels: &BTreeMap<String, String>) -> Result<()> {
        let op = Op("snapshots.set_labels", "label snapshot");
        self.call(op, key, |state| {
            let now = state.now();
            let snapshot = &mut record(state, op, key)?.snapshot;
            snapshot.labels = labels.clone();
            snapshot.updated_at = now;
            state.changed();
            Ok(())
        })
    }

    async fn remove(&self, key: &SnapshotKey) -> Result<()> {
        let op = Op("snapshots.remove", "remove snapshot");
        self.call(op, key, |state| {
            record(state, op, key)?;
            if state.has_children(key) {
                return Err(op
                    .error(ErrorKind::Conflict, key)
                    .because("other snapshots build on it"));
            }
            state.snapshots.remove(key);
            state.collect();
            Ok(())
        })
    }

    async fn release(&self, key: &SnapshotKey) -> Result<()> {
        let op = Op("snapshots.release", "release snapshot");
        self.call(op, key, |state| {
            if let Some(record) = state.snapshots.get_mut(key) {
                record.snapshot.rooted = false;
                state.collect();
            }
            Ok(())
        })
    }

    async fn protect(&self, key: &SnapshotKey) -> Result<()> {
        let op = Op("snapshots.protect", "protect snapshot");
        self.call(op, key, |state| {
            record(state, op, key)?.snapshot.rooted = true;
            state.changed();
            Ok(())
        })
    }
}

/// Keeps a committed snapshot as long as the lease.
fn keep(shared: &Shared, op: Op, lease: &LeaseId, key: &SnapshotKey) -> Result<()> {
    let state = &mut *shared.state();
    let found = state.snapshots.get(key);
    match found.map(|found| found.snapshot.kind) {
        Some(SnapshotKind::Committed) => protect(state, op, lease, key),
        _ => lease_of(state, op, lease).map(drop),
    }
}

pub(super) fn list(state: &State) -> Vec<Snapshot> {
    state
        .snapshots
        .values()
        .map(|record| record.snapshot.clone())
        .collect()
}
