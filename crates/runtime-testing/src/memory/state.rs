//! The records, and which of them garbage collection keeps.

use super::faults::Faults;
use super::files::{Entry, Files, hides, lay};
use super::images::{LocalImage, Remote};
use super::network::Namespace;
use super::tasks::TaskRecord;
use botstead_runtime::{Container, ContainerSpec, RegistrySettings, Snapshot, Usage};
use botstead_types::{ContainerId, ImageRef, RegistryName, SnapshotKey, SnapshotKind};
use chrono::{DateTime, Utc};
use std::collections::{BTreeMap, BTreeSet, HashSet};

/// A snapshot: its record, and the files in which it differs from its parent (`None` where it
/// hides one).
pub(super) struct SnapshotRecord {
    pub(super) snapshot: Snapshot,
    pub(super) files: Files,
}

/// A lease and the snapshots that it protects.
pub(super) struct LeaseRecord {
    pub(super) created_at: DateTime<Utc>,
    pub(super) snapshots: BTreeSet<SnapshotKey>,
}

/// A container record and how it runs.
pub(super) struct ContainerRecord {
    pub(super) container: Container,
    pub(super) spec: ContainerSpec,
}

/// Everything that the runtime knows.
#[derive(Default)]
pub(super) struct State {
    pub(super) snapshots: BTreeMap<SnapshotKey, SnapshotRecord>,
    pub(super) leases: BTreeMap<String, LeaseRecord>,
    pub(super) containers: BTreeMap<ContainerId, ContainerRecord>,
    pub(super) tasks: BTreeMap<ContainerId, TaskRecord>,
    pub(super) images: BTreeMap<ImageRef, LocalImage>,
    pub(super) remotes: BTreeMap<ImageRef, Remote>,
    pub(super) registries: BTreeMap<RegistryName, RegistrySettings>,
    pub(super) namespaces: BTreeMap<ContainerId, Namespace>,
    pub(super) usages: BTreeMap<ContainerId, Usage>,
    pub(super) faults: Faults,
    pub(super) collects_always: bool,
    pub(super) host_ready: bool,
    /// What is free on its disk; no limit when `None`.
    pub(super) free_bytes: Option<u64>,
    pub(super) last_pid: u32,
    last_time: Option<DateTime<Utc>>,
}

impl State {
    /// The time, later than any that was given before, so that records sort as they were made.
    pub(super) fn now(&mut self) -> DateTime<Utc> {
        let mut now = Utc::now();
        if let Some(last) = self.last_time.filter(|last| *last >= now) {
            now = last + chrono::TimeDelta::microseconds(1);
        }
        self.last_time = Some(now);
        now
    }

    /// After a change that deletes nothing.
    pub(super) fn changed(&mut self) {
        if self.collects_always {
            self.collect();
        }
    }

    /// Removes every snapshot that nothing protects.
    pub(super) fn collect(&mut self) {
        let rooted = self
            .snapshots
            .iter()
            .filter(|(_, record)| record.snapshot.rooted)
            .map(|(key, _)| key);
        let leased = self.leases.values().flat_map(|lease| &lease.snapshots);
        let imaged = self.images.values().filter_map(|image| image.top.as_ref());
        let named: Vec<SnapshotKey> = self
            .containers
            .values()
            .map(|record| record.spec.snapshot.clone())
            .collect();
        let mut kept: HashSet<SnapshotKey> = HashSet::new();
        for root in rooted.chain(leased).chain(imaged).chain(&named) {
            let mut next = Some(root.clone());
            while let Some(key) = next {
                let Some(record) = self.snapshots.get(&key) else {
                    break;
                };
                next = record.snapshot.parent.clone();
                if !kept.insert(key) {
                    break;
                }
            }
        }
        self.snapshots.retain(|key, _| kept.contains(key));
        for lease in self.leases.values_mut() {
            lease.snapshots.retain(|key| kept.contains(key));
        }
    }

    /// Whether other snapshots build on it.
    pub(super) fn has_children(&self, key: &SnapshotKey) -> bool {
        self.snapshots
            .values()
            .any(|record| record.snapshot.parent.as_ref() == Some(key))
    }

    /// Adds a snapshot record.
    pub(super) fn insert_snapshot(
        &mut self,
        key: SnapshotKey,
        parent: Option<SnapshotKey>,
        kind: SnapshotKind,
        labels: BTreeMap<String, String>,
        files: Files,
        rooted: bool,
    ) {
        let now = self.now();
        let snapshot = Snapshot {
            key: key.clone(),
            parent,
            kind,
            labels,
            rooted,
            created_at: now,
            updated_at: now,
        };
        let record = SnapshotRecord { snapshot, files };
        self.snapshots.insert(key, record);
    }

    /// Everything as the snapshot shows it.
    pub(super) fn shown(&self, key: &SnapshotKey) -> BTreeMap<String, Entry> {
        let mut layers = Vec::new();
        let mut next = Some(key);
        while let Some(record) = next.and_then(|key| self.snapshots.get(key)) {
            layers.push(&record.files);
            next = record.snapshot.parent.as_ref();
        }
        let mut shown = BTreeMap::new();
        for layer in layers.into_iter().rev() {
            lay(&mut shown, layer);
        }
        shown
    }

    /// A path as the snapshot shows it: its own, else its parents'.
    pub(super) fn entry(&self, key: &SnapshotKey, path: &str) -> Option<Entry> {
        let path = in_snapshot(path);
        let mut next = Some(key);
        while let Some(record) = next.and_then(|key| self.snapshots.get(key)) {
            if let Some(own) = record.files.get(path) {
                return own.clone();
            }
            if hides(&record.files, path) {
                return None;
            }
            next = record.snapshot.parent.as_ref();
        }
        None
    }
}

/// A path as snapshots have it.
pub(super) fn in_snapshot(path: &str) -> &str {
    path.trim_start_matches('/')
}
