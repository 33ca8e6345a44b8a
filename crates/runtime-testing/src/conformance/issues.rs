//! Past bugs of this field, each as the case that would have found it.
#![allow(missing_docs, reason = "the name of a test is its promise")]

use super::{Context, Program, done, labels, refused};
use botstead_runtime::ErrorKind::Conflict;
use botstead_runtime::Signal;
use std::time::Duration;

/// Versions off the active chain vanished with the next collection after a rollback.
pub async fn a_version_off_the_active_chain_survives_a_rollback(cx: Context) {
    let mut spec = cx.container(Program::Forever).await;
    cx.fixture()
        .put_file(&spec.snapshot, "/version", b"1")
        .await;
    let first = cx.commit(&spec.snapshot).await;
    let second = cx.active_on(&first).await;
    cx.fixture().put_file(&second, "/version", b"2").await;
    let second = cx.commit(&second).await;
    spec.snapshot = cx.active_on(&first).await;
    done(cx.containers.switch(&cx.lease, &spec).await);
    cx.end_lease(&cx.lease).await;
    cx.collect().await;
    assert!(cx.exists(&second).await);
    let lease = cx.another_lease().await;
    let forward = cx.key();
    done(
        cx.snapshots
            .prepare(&lease, &forward, Some(&second), &labels([]))
            .await,
    );
    let shown = cx.fixture().read_file(&forward, "/version").await;
    assert_eq!(shown.as_deref(), Some(&b"2"[..]));
}

/// Between a commit and the switch, a neighbour's delete took the whole chain.
pub async fn a_neighbours_delete_between_commit_and_switch_takes_nothing(cx: Context) {
    let mut spec = cx.container(Program::Forever).await;
    cx.fixture()
        .put_file(&spec.snapshot, "/version", b"1")
        .await;
    let neighbour = cx.container(Program::Forever).await;
    let version = cx.commit(&spec.snapshot).await;
    done(cx.containers.delete(&neighbour.id).await);
    cx.collect().await;
    spec.snapshot = cx.active_on(&version).await;
    done(cx.snapshots.remove(&neighbour.snapshot).await);
    cx.collect().await;
    done(cx.containers.switch(&cx.lease, &spec).await);
    cx.end_lease(&cx.lease).await;
    cx.collect().await;
    let shown = cx.fixture().read_file(&spec.snapshot, "/version").await;
    assert_eq!(shown.as_deref(), Some(&b"1"[..]));
}

/// Protection came with the lease only, and a server killed right after the commit lost it.
pub async fn a_commit_alone_protects(cx: Context) {
    let lease = cx.another_lease().await;
    let key = cx.active().await;
    let name = cx.key();
    done(cx.snapshots.commit(&lease, &key, &name, &labels([])).await);
    cx.end_lease(&lease).await;
    cx.end_lease(&cx.lease).await;
    cx.collect().await;
    assert!(cx.exists(&name).await);
}

/// Labels given at prepare were lost at commit, and with them what they protected.
pub async fn a_version_has_the_labels_of_its_commit(cx: Context) {
    let (key, name, base) = (cx.key(), cx.key(), cx.fixture().base());
    let early = labels([("early", "1")]);
    done(
        cx.snapshots
            .prepare(&cx.lease, &key, Some(&base), &early)
            .await,
    );
    let late = labels([("late", "1")]);
    done(cx.snapshots.commit(&cx.lease, &key, &name, &late).await);
    assert_eq!(done(cx.snapshots.get(&name).await).labels, late);
}

/// Deleting a version on which others built failed, or took those along.
pub async fn a_released_parent_goes_with_its_last_child(cx: Context) {
    let first = cx.version("1").await;
    let child = cx.active_on(&first).await;
    let second = cx.commit(&child).await;
    cx.end_lease(&cx.lease).await;
    done(cx.snapshots.release(&first).await);
    cx.collect().await;
    assert!(cx.exists(&first).await && cx.exists(&second).await);
    done(cx.snapshots.release(&second).await);
    cx.collect().await;
    assert!(!cx.exists(&first).await && !cx.exists(&second).await);
}

/// Rebuilding a container removed the old snapshot with the user's data.
pub async fn a_rebuilt_container_finds_its_data(cx: Context) {
    let spec = cx.container(Program::Forever).await;
    cx.fixture()
        .put_file(&spec.snapshot, "/kept", b"data")
        .await;
    done(cx.containers.delete(&spec.id).await);
    done(cx.containers.create(&cx.lease, &spec).await);
    cx.end_lease(&cx.lease).await;
    cx.collect().await;
    let shown = cx.fixture().read_file(&spec.snapshot, "/kept").await;
    assert_eq!(shown.as_deref(), Some(&b"data"[..]));
}

/// Reading failed while a record named a snapshot that a commit had taken away.
pub async fn a_record_that_names_a_missing_snapshot_is_readable(cx: Context) {
    let spec = cx.container(Program::Forever).await;
    cx.commit(&spec.snapshot).await;
    assert!(!cx.exists(&spec.snapshot).await);
    let found = done(cx.containers.get(&spec.id).await);
    assert_eq!(found.snapshot, spec.snapshot.as_str());
    assert!(done(cx.containers.list().await).contains(&found));
}

/// Deleting a record under an exited task orphaned the task's shim.
pub async fn an_exited_task_keeps_its_record(cx: Context) {
    let spec = cx.running(Program::Exit(0)).await;
    done(cx.tasks.wait(&spec.id).await);
    refused(cx.containers.delete(&spec.id).await, Conflict);
    let exit = done(cx.tasks.stop(&spec.id, Signal::TERM, Duration::ZERO).await);
    assert_eq!(exit.map(|exit| exit.code), Some(0));
    done(cx.containers.delete(&spec.id).await);
}

/// A failed start left a task behind, after which the container could not be mended.
pub async fn a_failed_start_can_be_mended(cx: Context) {
    let mut spec = cx.container(Program::Missing).await;
    assert!(cx.tasks.create(&spec.id).await.is_err());
    spec.process.args = cx.fixture().program(Program::Exit(5));
    done(cx.containers.switch(&cx.lease, &spec).await);
    done(cx.tasks.create(&spec.id).await);
    done(cx.tasks.start(&spec.id).await);
    assert_eq!(done(cx.tasks.wait(&spec.id).await).code, 5);
}
