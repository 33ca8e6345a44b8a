//! Commits that are cut off: the files are in the active snapshot or in the committed one, whatever died.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod support;

use botstead_runtime::{ErrorKind, Runtime, SnapshotMount};
use botstead_runtime_testing::conformance::Fixture;
use botstead_types::{LeaseId, OperationId, SnapshotKey};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use support::Real;

const PATIENCE: Duration = Duration::from_secs(60);

async fn lease(runtime: &Runtime) -> LeaseId {
    let lease = LeaseId::for_operation(OperationId::generate());
    runtime.leases.create(&lease).await.unwrap();
    lease
}

/// An active snapshot with one file.
async fn prepared(real: &Real, lease: &LeaseId, content: &str) -> SnapshotKey {
    let key = SnapshotKey::active(OperationId::generate());
    let snapshots = &real.runtime.snapshots;
    let (base, none) = (real.base(), BTreeMap::new());
    let prepared = snapshots.prepare(lease, &key, Some(&base), &none).await;
    prepared.unwrap();
    real.put_file(&key, "/kept", content.as_bytes()).await;
    key
}

async fn upper(runtime: &Runtime, key: &SnapshotKey) -> PathBuf {
    let mounts = runtime.snapshots.mounts(key).await.unwrap();
    mounts.iter().find_map(SnapshotMount::upper_dir).unwrap()
}

/// What the file has in the committed snapshot.
async fn committed(runtime: &Runtime, lease: &LeaseId, name: &SnapshotKey) -> String {
    let layers = runtime.snapshots.layers(lease, name).await.unwrap();
    std::fs::read_to_string(layers.last().unwrap().join("kept")).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_during_which_containerd_dies_loses_nothing() {
    let real = Real::new().await;
    let database = "root/io.containerd.snapshotter.v1.overlayfs/metadata.db";
    let database = real.folder.path().join(database);
    let mut met = [0, 0];
    for round in 0..6_u32 {
        let first = lease(&real.runtime).await;
        let content = format!("round {round}");
        let key = prepared(&real, &first, &content).await;
        let name = SnapshotKey::version(OperationId::generate());
        let changed = || std::fs::metadata(&database).unwrap().modified().unwrap();
        let mut seen = changed();
        let commit = {
            let (runtime, key, name) = (real.runtime.clone(), key.clone(), name.clone());
            let none = BTreeMap::new();
            tokio::spawn(async move { runtime.snapshots.commit(&first, &key, &name, &none).await })
        };
        // After the first change, the second or the third.
        for _ in 0..=round % 3 {
            while changed() == seen && !commit.is_finished() {
                tokio::task::yield_now().await;
            }
            seen = changed();
        }
        real.kill_containerd().await;
        let told = commit.await.unwrap();
        let began = Instant::now();
        // As a server would that was started again.
        let runtime = loop {
            let runtime = real.connected_again();
            match runtime.snapshots.get(&real.base()).await {
                Ok(_) => break runtime,
                Err(error) => assert!(began.elapsed() < PATIENCE, "{}", error.chain()),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        let second = lease(&runtime).await;
        let is_active = runtime.snapshots.get(&key).await.is_ok();
        met[usize::from(is_active)] += 1;
        if is_active {
            assert!(told.is_err(), "{round}");
            let file = upper(&runtime, &key).await.join("kept");
            assert_eq!(std::fs::read_to_string(file).unwrap(), content, "{round}");
            // And it can be done again, once containerd's collection, which its start begins, has cleared
            // away a directory that it made and recorded nowhere.
            let none = BTreeMap::new();
            let again = async || runtime.snapshots.commit(&second, &key, &name, &none).await;
            while let Err(error) = again().await {
                assert_eq!(error.kind(), ErrorKind::Unavailable, "{}", error.chain());
                assert!(began.elapsed() < PATIENCE, "{}", error.chain());
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        assert_eq!(
            committed(&runtime, &second, &name).await,
            content,
            "{round}"
        );
    }
    assert!(met[1] > 0, "no commit was cut off");
}

#[tokio::test]
async fn a_commit_that_a_killed_process_left_is_undone() {
    let real = Real::new().await;
    let lease = lease(&real.runtime).await;
    for is_exchanged in [false, true] {
        let key = prepared(&real, &lease, "kept").await;
        let other = prepared(&real, &lease, "").await;
        let name = SnapshotKey::version(OperationId::generate());
        let snapshots = &real.runtime.snapshots;
        let none = BTreeMap::new();
        let done = snapshots.commit(&lease, &other, &name, &none).await;
        done.unwrap();
        // What a process that dies leaves: an empty one under the name, and what tells of it.
        let layers = snapshots.layers(&lease, &name).await.unwrap();
        let (empty, own) = (layers.last().unwrap(), upper(&real.runtime, &key).await);
        std::fs::remove_file(empty.join("kept")).unwrap();
        let directory = empty.parent().and_then(Path::file_name).unwrap();
        let told = BTreeMap::from([
            ("botstead.commit.of".to_owned(), key.to_string()),
            (
                "botstead.commit.directory".to_owned(),
                directory.to_str().unwrap().to_owned(),
            ),
        ]);
        snapshots.set_labels(&name, &told).await.unwrap();
        if is_exchanged {
            std::fs::rename(own.join("kept"), empty.join("kept")).unwrap();
        }
        let runtime = real.connected_again();
        let found = runtime.snapshots.list().await.unwrap();
        assert!(found.iter().all(|found| found.key != name));
        let kept = std::fs::read_to_string(own.join("kept"));
        assert_eq!(kept.unwrap(), "kept", "exchanged: {is_exchanged}");
        let done = runtime.snapshots.commit(&lease, &key, &name, &none).await;
        done.unwrap();
        assert_eq!(committed(&runtime, &lease, &name).await, "kept");
        let found = runtime.snapshots.get(&name).await.unwrap();
        assert!(found.labels.is_empty(), "{:?}", found.labels);
        let usage = runtime.snapshots.usage(&name).await.unwrap();
        assert!(usage.inodes >= 2 && usage.size_bytes > 0, "{usage:?}");
    }
}
