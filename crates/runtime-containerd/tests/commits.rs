//! Commits that are cut off: the files are in the active snapshot or in the committed one, whatever died.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod support;

use botstead_runtime::{ErrorKind, Runtime, SnapshotMount};
use botstead_runtime_testing::conformance::Fixture;
use botstead_types::{LeaseId, OperationId, SnapshotKey};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use support::Real;
use tokio::runtime::Handle;

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
            match runtime.snapshots.settle().await {
                Ok(()) => break runtime,
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

/// What a process that dies in a commit leaves: the active snapshot, the one under the name, and what tells
/// of it there.
struct HalfWay {
    key: SnapshotKey,
    name: SnapshotKey,
    /// Their directories.
    own: PathBuf,
    other: PathBuf,
}

async fn leave_half_way(real: &Real, lease: &LeaseId, is_exchanged: bool) -> HalfWay {
    let key = prepared(real, lease, "kept").await;
    let own = upper(&real.runtime, &key).await;
    let other = prepared(real, lease, "").await;
    let name = SnapshotKey::version(OperationId::generate());
    let snapshots = &real.runtime.snapshots;
    let none = BTreeMap::new();
    let done = snapshots.commit(lease, &other, &name, &none).await;
    done.unwrap();
    let layers = snapshots.layers(lease, &name).await.unwrap();
    let empty = layers.last().unwrap().clone();
    std::fs::remove_file(empty.join("kept")).unwrap();
    let directory = empty.parent().and_then(Path::file_name).unwrap();
    let inode = own.metadata().unwrap().ino();
    let told = [
        ("of", key.to_string()),
        ("directory", directory.to_str().unwrap().to_owned()),
        ("inode", inode.to_string()),
    ];
    let told = told.map(|(label, value)| (format!("botstead.commit.{label}"), value));
    snapshots.set_labels(&name, &told.into()).await.unwrap();
    if is_exchanged {
        renameat_with(CWD, &own, CWD, &empty, RenameFlags::EXCHANGE).unwrap();
    }
    HalfWay {
        key,
        name,
        own,
        other: empty,
    }
}

#[tokio::test]
async fn a_commit_that_a_killed_process_left_is_ended() {
    let real = Real::new().await;
    let lease = lease(&real.runtime).await;
    for is_exchanged in [false, true] {
        let left = leave_half_way(&real, &lease, is_exchanged).await;
        let HalfWay {
            key,
            name,
            own,
            other,
        } = &left;
        let runtime = real.connected_again();
        let snapshots = &runtime.snapshots;
        // Nobody but who alone changes the namespace does anything about it: it may be under way.
        let found = snapshots.list().await.unwrap();
        assert!(found.iter().all(|found| found.key != *name));
        let told = snapshots.get(name).await.unwrap_err();
        assert_eq!(told.kind(), ErrorKind::Unavailable);
        let at = if is_exchanged { other } else { own };
        assert!(at.join("kept").exists(), "exchanged: {is_exchanged}");

        snapshots.settle().await.unwrap();
        let none = BTreeMap::new();
        if is_exchanged {
            assert!(snapshots.get(key).await.unwrap_err().is_not_found());
        } else {
            assert!(snapshots.get(name).await.unwrap_err().is_not_found());
            let kept = std::fs::read_to_string(own.join("kept"));
            assert_eq!(kept.unwrap(), "kept");
            let done = snapshots.commit(&lease, key, name, &none).await;
            done.unwrap();
        }
        assert_eq!(committed(&runtime, &lease, name).await, "kept");
        let found = snapshots.get(name).await.unwrap();
        assert!(found.labels.is_empty(), "{:?}", found.labels);
        let usage = snapshots.usage(name).await.unwrap();
        assert!(usage.inodes >= 2 && usage.size_bytes > 0, "{usage:?}");
    }
}

/// As where somebody wrote to the emptied one.
#[tokio::test]
async fn of_a_commit_that_was_cut_off_no_files_are_removed() {
    let real = Real::new().await;
    let lease = lease(&real.runtime).await;
    for is_exchanged in [false, true] {
        let left = leave_half_way(&real, &lease, is_exchanged).await;
        let HalfWay {
            key,
            name,
            own,
            other,
        } = &left;
        for directory in [own, other] {
            std::fs::write(directory.join("more"), "more").unwrap();
        }
        let runtime = real.connected_again();
        runtime.snapshots.settle().await.unwrap();
        for key in [key, name] {
            runtime.snapshots.get(key).await.unwrap();
        }
        for directory in [own, other] {
            assert!(directory.join("more").exists());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_changes_all_the_time_is_measured() {
    let real = Real::new().await;
    let lease = lease(&real.runtime).await;
    let key = prepared(&real, &lease, "kept").await;
    let top = upper(&real.runtime, &key).await;
    for number in 0..200 {
        std::fs::create_dir_all(top.join(format!("d{number}/sub"))).unwrap();
    }
    let stop = AtomicBool::new(false);
    let measured = std::thread::scope(|scope| {
        let (top, stop) = (&top, &stop);
        scope.spawn(move || {
            for number in (0..200).cycle() {
                let at = |name: &str| top.join(format!("d{number}")).join(name);
                std::fs::rename(at("sub"), at("other")).unwrap();
                std::fs::write(at("file"), "x").unwrap();
                std::fs::remove_file(at("file")).unwrap();
                std::fs::rename(at("other"), at("sub")).unwrap();
                if stop.load(Ordering::Relaxed) {
                    break;
                }
            }
        });
        let measured = tokio::task::block_in_place(|| {
            Handle::current().block_on(async {
                let mut all = Vec::new();
                for _ in 0..40 {
                    all.push(real.runtime.snapshots.usage(&key).await);
                }
                all
            })
        });
        stop.store(true, Ordering::Relaxed);
        measured
    });
    for usage in measured {
        let usage = usage.unwrap_or_else(|error| panic!("{}", error.chain()));
        assert!(usage.size_bytes > 0, "{usage:?}");
    }
}
