//! Promises of [`botstead_runtime::Containers`].
#![allow(missing_docs, reason = "the name of a test is its promise")]

use super::{Context, Program, done, labels, refused};
use botstead_runtime::ErrorKind::{
    AlreadyExists, Conflict, InvalidArgument, NotFound, Unsupported,
};
use botstead_runtime::Signal;
use botstead_types::ContainerId;
use std::time::Duration;

pub async fn a_record_has_what_it_was_made_from(cx: Context) {
    let mut spec = cx.spec(&cx.active().await, Program::Forever);
    spec.labels = labels([("botstead.workspace", "v1")]);
    done(cx.containers.create(&cx.lease, &spec).await);
    let found = done(cx.containers.get(&spec.id).await);
    assert_eq!(found.id, spec.id);
    assert_eq!(found.image, spec.image.reference.as_str());
    assert_eq!(found.snapshot, spec.snapshot.as_str());
    assert_eq!(found.snapshotter, cx.backend.capabilities().snapshotter);
    assert_eq!(found.labels, spec.labels);
}

pub async fn making_it_again_already_exists(cx: Context) {
    let spec = cx.container(Program::Forever).await;
    refused(cx.containers.create(&cx.lease, &spec).await, AlreadyExists);
}

pub async fn what_cannot_run_is_refused(cx: Context) {
    let key = cx.active().await;
    let mut spec = cx.spec(&key, Program::Forever);
    spec.process.args.clear();
    refused(
        cx.containers.create(&cx.lease, &spec).await,
        InvalidArgument,
    );
    refused(cx.containers.get(&spec.id).await, NotFound);
    let mut spec = cx.spec(&key, Program::Forever);
    spec.process.cwd = "not/absolute".to_owned();
    refused(
        cx.containers.create(&cx.lease, &spec).await,
        InvalidArgument,
    );
}

pub async fn a_device_that_the_host_lacks_is_refused(cx: Context) {
    let mut spec = cx.spec(&cx.active().await, Program::Forever);
    spec.devices = vec!["botstead.test/none=0".parse().expect("a CDI name")];
    let checked = cx.containers.check_devices(&spec.devices).await;
    let created = cx.containers.create(&cx.lease, &spec).await;
    if cx.backend.capabilities().cdi_devices {
        refused(checked, NotFound);
        refused(created, NotFound);
    } else {
        refused(checked, Unsupported);
        refused(created, Unsupported);
    }
    refused(cx.containers.get(&spec.id).await, NotFound);
}

pub async fn a_list_has_every_record_by_id(cx: Context) {
    let specs = [
        cx.container(Program::Forever).await,
        cx.container(Program::Forever).await,
    ];
    let all = done(cx.containers.list().await);
    let ids: Vec<&ContainerId> = all.iter().map(|found| &found.id).collect();
    assert!(ids.is_sorted());
    for spec in &specs {
        assert_eq!(ids.iter().filter(|id| **id == &spec.id).count(), 1);
    }
}

pub async fn a_switch_replaces_the_record(cx: Context) {
    let mut spec = cx.container(Program::Forever).await;
    let before = done(cx.containers.get(&spec.id).await);
    spec.snapshot = cx.active().await;
    spec.labels = labels([("new", "1")]);
    spec.image.reference = "localhost/other:1".parse().expect("a reference");
    for _ in 0..2 {
        done(cx.containers.switch(&cx.lease, &spec).await);
        let after = done(cx.containers.get(&spec.id).await);
        assert_eq!(after.snapshot, spec.snapshot.as_str());
        assert_eq!(after.labels, spec.labels);
        assert_eq!(after.image, "localhost/other:1");
        assert_eq!(after.created_at, before.created_at);
    }
}

pub async fn a_switched_container_runs_the_new_way(cx: Context) {
    let mut spec = cx.container(Program::Forever).await;
    spec.snapshot = cx.active().await;
    spec.process.args = cx.fixture().program(Program::Exit(7));
    done(cx.containers.switch(&cx.lease, &spec).await);
    done(cx.tasks.create(&spec.id).await);
    done(cx.tasks.start(&spec.id).await);
    assert_eq!(done(cx.tasks.wait(&spec.id).await).code, 7);
}

pub async fn a_switch_leaves_both_snapshots(cx: Context) {
    let mut spec = cx.container(Program::Forever).await;
    let old = spec.snapshot.clone();
    spec.snapshot = cx.active().await;
    done(cx.containers.switch(&cx.lease, &spec).await);
    cx.end_lease(&cx.lease).await;
    cx.collect().await;
    assert!(cx.exists(&spec.snapshot).await);
    assert!(cx.exists(&old).await);
    done(cx.snapshots.remove(&old).await);
}

pub async fn a_container_with_a_task_is_neither_switched_nor_deleted(cx: Context) {
    let spec = cx.container(Program::Forever).await;
    let refuse = async || {
        refused(cx.containers.switch(&cx.lease, &spec).await, Conflict);
        refused(cx.containers.delete(&spec.id).await, Conflict);
    };
    done(cx.tasks.create(&spec.id).await);
    refuse().await;
    done(cx.tasks.start(&spec.id).await);
    refuse().await;
    done(cx.tasks.kill(&spec.id, Signal::KILL).await);
    done(cx.tasks.wait(&spec.id).await);
    refuse().await;
    done(cx.tasks.stop(&spec.id, Signal::KILL, Duration::ZERO).await);
    done(cx.containers.switch(&cx.lease, &spec).await);
    done(cx.containers.delete(&spec.id).await);
}

pub async fn deleting_a_record_leaves_its_snapshot(cx: Context) {
    let spec = cx.container(Program::Forever).await;
    done(cx.containers.delete(&spec.id).await);
    cx.collect().await;
    assert!(cx.exists(&spec.snapshot).await);
}

pub async fn a_missing_record_is_not_found(cx: Context) {
    let spec = cx.spec(&cx.active().await, Program::Forever);
    refused(cx.containers.get(&spec.id).await, NotFound);
    refused(cx.containers.switch(&cx.lease, &spec).await, NotFound);
    refused(cx.containers.delete(&spec.id).await, NotFound);
}
