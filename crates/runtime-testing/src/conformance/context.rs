//! What a test of the suite works with.

use super::done;
use super::fixture::{Fixture, Program};
use botstead_runtime::{ContainerSpec, Dns, Process, Runtime, Signal};
use botstead_types::{BotId, ContainerId, LeaseId, Limits, OperationId, SnapshotKey};
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::ops::Deref;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// What a test made outside of garbage collection's reach, so that it can be removed afterwards.
#[derive(Default)]
struct Made {
    containers: Vec<ContainerId>,
    leases: Vec<LeaseId>,
    snapshots: Vec<SnapshotKey>,
}

/// A fixture, a lease, and short ways to make things with names of their own. It dereferences to
/// the runtime.
#[derive(Clone)]
pub struct Context {
    fixture: Arc<dyn Fixture>,
    runtime: Runtime,
    made: Arc<Mutex<Made>>,
    /// A lease that lives until the test deletes it or ends.
    pub lease: LeaseId,
}

impl Deref for Context {
    type Target = Runtime;

    fn deref(&self) -> &Runtime {
        &self.runtime
    }
}

/// Labels from pairs.
pub fn labels<const N: usize>(pairs: [(&str, &str); N]) -> BTreeMap<String, String> {
    let owned = |(key, value): (&str, &str)| (key.to_owned(), value.to_owned());
    pairs.into_iter().map(owned).collect()
}

/// Runs one test on a fresh fixture and cleans up after it, also when it fails.
pub async fn run<F: Fixture + 'static>(
    new: impl AsyncFnOnce() -> F,
    test: impl AsyncFnOnce(Context),
) {
    use futures_util::FutureExt;
    let fixture: Arc<dyn Fixture> = Arc::new(new().await);
    let runtime = fixture.runtime();
    let context = Context {
        runtime,
        made: Arc::default(),
        lease: LeaseId::for_operation(OperationId::generate()),
        fixture: Arc::clone(&fixture),
    };
    done(context.leases.create(&context.lease).await);
    context.record(|made| made.leases.push(context.lease.clone()));
    let tested = std::panic::AssertUnwindSafe(test(context.clone()));
    let outcome = tested.catch_unwind().await;
    context.clean_up().await;
    fixture.clean_up().await;
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}

impl Context {
    /// The fixture.
    pub fn fixture(&self) -> &dyn Fixture {
        self.fixture.as_ref()
    }

    /// A key that nothing has.
    pub fn key(&self) -> SnapshotKey {
        let key = SnapshotKey::active(OperationId::generate());
        self.record(|made| made.snapshots.push(key.clone()));
        key
    }

    /// Another lease.
    pub async fn another_lease(&self) -> LeaseId {
        let lease = LeaseId::for_operation(OperationId::generate());
        done(self.leases.create(&lease).await);
        self.record(|made| made.leases.push(lease.clone()));
        lease
    }

    /// Ends a lease.
    pub async fn end_lease(&self, lease: &LeaseId) {
        done(self.leases.delete(lease.as_str()).await);
    }

    /// Collects garbage.
    pub async fn collect(&self) {
        done(self.leases.collect().await);
    }

    /// Whether a snapshot exists.
    pub async fn exists(&self, key: &SnapshotKey) -> bool {
        match self.snapshots.get(key).await {
            Err(error) if error.is_not_found() => false,
            found => {
                done(found);
                true
            }
        }
    }

    /// A new active snapshot on the base, under the context's lease.
    pub async fn active(&self) -> SnapshotKey {
        self.active_on(&self.fixture.base()).await
    }

    /// A new active snapshot on this parent, under the context's lease.
    pub async fn active_on(&self, parent: &SnapshotKey) -> SnapshotKey {
        let key = self.key();
        let prepared = self
            .snapshots
            .prepare(&self.lease, &key, Some(parent), &labels([]))
            .await;
        done(prepared);
        key
    }

    /// Commits an active snapshot under a new name.
    pub async fn commit(&self, key: &SnapshotKey) -> SnapshotKey {
        let name = self.key();
        done(
            self.snapshots
                .commit(&self.lease, key, &name, &labels([]))
                .await,
        );
        name
    }

    /// A new version on the base with a file `/version` that holds this text.
    pub async fn version(&self, text: &str) -> SnapshotKey {
        let key = self.active().await;
        self.fixture
            .put_file(&key, "/version", text.as_bytes())
            .await;
        self.commit(&key).await
    }

    /// How to run this program on this snapshot, in a container that does not exist yet.
    pub fn spec(&self, snapshot: &SnapshotKey, program: Program) -> ContainerSpec {
        let id = ContainerId::for_bot(BotId::generate());
        self.record(|made| made.containers.push(id.clone()));
        ContainerSpec {
            id,
            image: self.fixture.image(),
            snapshot: snapshot.clone(),
            process: Process {
                args: self.fixture.program(program),
                env: vec!["PATH=/bin:/usr/bin".to_owned()],
                cwd: "/".to_owned(),
                oom_score_adj: 0,
            },
            hostname: "conformance".to_owned(),
            hosts: Vec::new(),
            dns: Dns::default(),
            timezone: None,
            mounts: Vec::new(),
            channel: None,
            network_namespace: None,
            address: None,
            limits: Limits {
                memory_bytes: Some(64 << 20),
                pids: Some(64),
                cpu_millis: None,
            },
            shared_memory_bytes: 64 << 20,
            devices: Vec::new(),
            labels: labels([]),
        }
    }

    /// A container with this program on a new active snapshot.
    pub async fn container(&self, program: Program) -> ContainerSpec {
        let spec = self.spec(&self.active().await, program);
        done(self.containers.create(&self.lease, &spec).await);
        spec
    }

    /// A container whose task runs this program.
    pub async fn running(&self, program: Program) -> ContainerSpec {
        let spec = self.container(program).await;
        done(self.tasks.create(&spec.id).await);
        done(self.tasks.start(&spec.id).await);
        spec
    }

    /// An address that no other test of this process uses.
    pub fn address(&self) -> Ipv4Addr {
        static NEXT: AtomicU32 = AtomicU32::new(16);
        let subnet = self.network.info().subnet;
        let room = 1u32 << (32 - u32::from(subnet.prefix_len()));
        let offset = NEXT.fetch_add(1, Ordering::Relaxed);
        assert!(
            offset < room - 1,
            "the subnet {subnet} is too small for the suite"
        );
        Ipv4Addr::from(u32::from(subnet.network()) + offset)
    }

    fn record(&self, record: impl FnOnce(&mut Made)) {
        record(&mut self.made.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Best effort: a broken backend fails the test, not its cleaning.
    async fn clean_up(&self) {
        let mut made = Made::default();
        self.record(|all| std::mem::swap(all, &mut made));
        for id in &made.containers {
            let _ = self.tasks.stop(id, Signal::KILL, Duration::ZERO).await;
            let _ = self.containers.delete(id).await;
            let _ = self.network.remove(id).await;
        }
        // Children first: they were made after what they build on.
        for key in made.snapshots.iter().rev() {
            let _ = self.snapshots.remove(key).await;
            let _ = self.snapshots.release(key).await;
        }
        for lease in &made.leases {
            let _ = self.leases.delete(lease.as_str()).await;
        }
        let _ = self.leases.collect().await;
    }
}
