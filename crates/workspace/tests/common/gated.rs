//! Snapshots behind a gate: whoever asks for the files of one waits there.

use async_trait::async_trait;
use botstead_runtime::{
    Access, Result, Runtime, Snapshot, SnapshotMount, SnapshotUsage, Snapshots, Tree,
};
use botstead_types::{LeaseId, SnapshotKey};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::{Notify, Semaphore};

/// Once it is closed, nobody opens a snapshot for writing or goes on with its layers without a permit.
pub struct Gated {
    inner: Arc<dyn Snapshots>,
    closed: AtomicBool,
    early: AtomicBool,
    pub gate: Semaphore,
    /// Told when somebody stands before it.
    pub arrived: Notify,
}

impl Gated {
    /// Puts one before the runtime's snapshots. It is open.
    pub fn before(runtime: &mut Runtime) -> Arc<Self> {
        let gated = Arc::new(Self {
            inner: Arc::clone(&runtime.snapshots),
            closed: AtomicBool::new(false),
            early: AtomicBool::new(false),
            gate: Semaphore::new(0),
            arrived: Notify::new(),
        });
        runtime.snapshots = Arc::clone(&gated) as Arc<dyn Snapshots>;
        gated
    }

    pub fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
    }

    /// Whether who asks for layers waits before they are looked for, and not with them.
    pub fn stand_early(&self, early: bool) {
        self.early.store(early, Ordering::SeqCst);
    }

    async fn pass(&self) {
        if self.closed.load(Ordering::SeqCst) {
            self.arrived.notify_one();
            self.gate.acquire().await.unwrap().forget();
        }
    }
}

#[async_trait]
impl Snapshots for Gated {
    async fn prepare(
        &self,
        lease: &LeaseId,
        key: &SnapshotKey,
        parent: Option<&SnapshotKey>,
        labels: &BTreeMap<String, String>,
    ) -> Result<Vec<SnapshotMount>> {
        self.inner.prepare(lease, key, parent, labels).await
    }

    async fn commit(
        &self,
        lease: &LeaseId,
        key: &SnapshotKey,
        name: &SnapshotKey,
        labels: &BTreeMap<String, String>,
    ) -> Result<()> {
        self.inner.commit(lease, key, name, labels).await
    }

    async fn get(&self, key: &SnapshotKey) -> Result<Snapshot> {
        self.inner.get(key).await
    }

    async fn list(&self) -> Result<Vec<Snapshot>> {
        self.inner.list().await
    }

    async fn labelled(&self, label: &str, value: &str) -> Result<Vec<Snapshot>> {
        self.inner.labelled(label, value).await
    }

    async fn protect(&self, key: &SnapshotKey) -> Result<()> {
        self.inner.protect(key).await
    }

    async fn open(
        &self,
        lease: &LeaseId,
        key: &SnapshotKey,
        access: Access,
    ) -> Result<Box<dyn Tree>> {
        if access == Access::Write {
            self.pass().await;
        }
        self.inner.open(lease, key, access).await
    }

    async fn layers(&self, lease: &LeaseId, key: &SnapshotKey) -> Result<Vec<PathBuf>> {
        if self.early.load(Ordering::SeqCst) {
            self.pass().await;
            return self.inner.layers(lease, key).await;
        }
        let layers = self.inner.layers(lease, key).await;
        self.pass().await;
        layers
    }

    async fn mounts(&self, key: &SnapshotKey) -> Result<Vec<SnapshotMount>> {
        self.inner.mounts(key).await
    }

    async fn usage(&self, key: &SnapshotKey) -> Result<SnapshotUsage> {
        self.inner.usage(key).await
    }

    async fn set_labels(&self, key: &SnapshotKey, labels: &BTreeMap<String, String>) -> Result<()> {
        self.inner.set_labels(key, labels).await
    }

    async fn remove(&self, key: &SnapshotKey) -> Result<()> {
        self.inner.remove(key).await
    }

    async fn release(&self, key: &SnapshotKey) -> Result<()> {
        self.inner.release(key).await
    }
}
