//! Promises of [`botstead_runtime::Leases`].
#![allow(missing_docs, reason = "the name of a test is its promise")]

use super::{Context, Program, done, labels};

async fn listed(cx: &Context) -> usize {
    let all = done(cx.leases.list().await);
    all.iter()
        .filter(|lease| lease.id == cx.lease.as_str())
        .count()
}

pub async fn making_a_lease_again_changes_nothing(cx: Context) {
    let key = cx.active().await;
    done(cx.leases.create(&cx.lease).await);
    assert_eq!(listed(&cx).await, 1);
    cx.collect().await;
    assert!(cx.exists(&key).await, "the lease lost what it protects");
}

pub async fn deleting_a_lease_again_changes_nothing(cx: Context) {
    cx.end_lease(&cx.lease).await;
    assert_eq!(listed(&cx).await, 0);
    cx.end_lease(&cx.lease).await;
}

/// It may hold the only copy of somebody's work.
pub async fn an_active_snapshot_outlives_its_lease(cx: Context) {
    let key = cx.active().await;
    cx.end_lease(&cx.lease).await;
    cx.collect().await;
    assert!(cx.exists(&key).await);
    done(cx.snapshots.remove(&key).await);
    cx.collect().await;
    assert!(!cx.exists(&key).await);
    assert!(cx.exists(&cx.fixture().base()).await);
}

pub async fn a_version_outlives_its_lease(cx: Context) {
    let version = cx.version("one").await;
    cx.end_lease(&cx.lease).await;
    cx.collect().await;
    assert!(cx.exists(&version).await);
}

/// Another program may remove a container; what its bot wrote is not lost with it.
pub async fn an_active_snapshot_outlives_its_container(cx: Context) {
    let spec = cx.container(Program::Forever).await;
    cx.end_lease(&cx.lease).await;
    cx.collect().await;
    assert!(cx.exists(&spec.snapshot).await);
    done(cx.containers.delete(&spec.id).await);
    cx.collect().await;
    assert!(cx.exists(&spec.snapshot).await);
}

/// A released version is kept by its maker's lease, and by no other.
pub async fn a_lease_protects_its_own_only(cx: Context) {
    let mine = cx.version("mine").await;
    let other = cx.another_lease().await;
    let (key, theirs) = (cx.key(), cx.key());
    let base = cx.fixture().base();
    done(
        cx.snapshots
            .prepare(&other, &key, Some(&base), &labels([]))
            .await,
    );
    done(
        cx.snapshots
            .commit(&other, &key, &theirs, &labels([]))
            .await,
    );
    for version in [&mine, &theirs] {
        done(cx.snapshots.release(version).await);
    }
    cx.end_lease(&other).await;
    cx.collect().await;
    assert!(cx.exists(&mine).await);
    assert!(!cx.exists(&theirs).await);
}

pub async fn what_is_protected_protects_its_parents(cx: Context) {
    let version = cx.version("one").await;
    // Only the child is under this lease.
    let (child, lease) = (cx.key(), cx.another_lease().await);
    let prepared = cx
        .snapshots
        .prepare(&lease, &child, Some(&version), &labels([]))
        .await;
    done(prepared);
    done(cx.snapshots.release(&version).await);
    cx.end_lease(&cx.lease).await;
    cx.collect().await;
    assert!(cx.exists(&version).await);
    let shown = cx.fixture().read_file(&child, "/version").await;
    assert_eq!(shown.as_deref(), Some(&b"one"[..]));
}
