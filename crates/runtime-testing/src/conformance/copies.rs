//! Promises of [`botstead_runtime::Snapshots::commit_copy`].
#![allow(missing_docs, reason = "the name of a test is its promise")]

use super::{Context, Program, done, labels, refused};
use botstead_runtime::ErrorKind::{Cancelled, NotFound, ResourceExhausted, Unsupported};
use botstead_runtime::{CopyReport, Result, Signal, SnapshotCopy};
use botstead_types::{ContainerId, SnapshotKey, SnapshotKind, TaskStatus};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

impl Context {
    fn copy_of(&self, source: &SnapshotKey) -> SnapshotCopy {
        SnapshotCopy {
            source: source.clone(),
            container: None,
            name: self.key(),
            labels: labels([("copy", "1")]),
            reserve_bytes: 0,
            durable: true,
        }
    }

    async fn commit_copy(&self, copy: &SnapshotCopy) -> Result<CopyReport> {
        let cancel = CancellationToken::new();
        self.snapshots.commit_copy(&self.lease, copy, &cancel).await
    }

    /// The copy, or `None` after it was refused because this backend cannot make it.
    async fn copied(&self, copy: &SnapshotCopy) -> Option<CopyReport> {
        let copied = self.commit_copy(copy).await;
        if self.backend.capabilities().live_copies {
            return Some(done(copied));
        }
        refused(copied, Unsupported);
        assert!(!self.exists(&copy.name).await);
        None
    }

    async fn shows(&self, version: &SnapshotKey, path: &str) -> Option<Vec<u8>> {
        let child = self.active_on(version).await;
        self.fixture().read_file(&child, path).await
    }
}

pub async fn a_copy_is_what_is_there_and_its_source_goes_on(cx: Context) {
    let version = cx.version("one").await;
    let key = cx.active_on(&version).await;
    cx.fixture().put_file(&key, "/now", b"before").await;
    let before = done(cx.snapshots.get(&key).await);
    let copy = cx.copy_of(&key);
    let Some(report) = cx.copied(&copy).await else {
        return;
    };
    assert!(report.copied_bytes >= 6 && report.files >= 1, "{report:?}");
    assert_eq!(done(cx.snapshots.get(&key).await), before);
    cx.fixture().put_file(&key, "/now", b"after").await;
    let found = done(cx.snapshots.get(&copy.name).await);
    assert_eq!(found.kind, SnapshotKind::Committed);
    assert_eq!((found.parent, found.labels), (Some(version), copy.labels));
    let shown = cx.shows(&copy.name, "/now").await;
    assert_eq!(shown.as_deref(), Some(&b"before"[..]));
    let shown = cx.shows(&copy.name, "/version").await;
    assert_eq!(shown.as_deref(), Some(&b"one"[..]));
}

pub async fn a_copy_outlives_its_lease(cx: Context) {
    let copy = cx.copy_of(&cx.active().await);
    if cx.copied(&copy).await.is_some() {
        cx.end_lease(&cx.lease).await;
        cx.collect().await;
        assert!(cx.exists(&copy.name).await);
    }
}

pub async fn copying_again_changes_nothing(cx: Context) {
    let key = cx.active().await;
    cx.fixture().put_file(&key, "/now", b"before").await;
    let copy = cx.copy_of(&key);
    if cx.copied(&copy).await.is_none() {
        return;
    }
    cx.fixture().put_file(&key, "/now", b"after").await;
    let before = done(cx.snapshots.list().await);
    assert_eq!(done(cx.commit_copy(&copy).await), CopyReport::default());
    assert_eq!(done(cx.snapshots.list().await).len(), before.len());
    let shown = cx.shows(&copy.name, "/now").await;
    assert_eq!(shown.as_deref(), Some(&b"before"[..]));
}

pub async fn a_released_copy_is_collected(cx: Context) {
    let copy = cx.copy_of(&cx.active().await);
    if cx.copied(&copy).await.is_some() {
        done(cx.snapshots.release(&copy.name).await);
        cx.collect().await;
        assert!(cx.exists(&copy.name).await, "its lease lives");
        cx.end_lease(&cx.lease).await;
        cx.collect().await;
        assert!(!cx.exists(&copy.name).await);
    }
}

pub async fn what_is_not_active_is_not_copied(cx: Context) {
    let kind = match cx.backend.capabilities().live_copies {
        true => NotFound,
        false => Unsupported,
    };
    for source in [cx.key(), cx.version("one").await] {
        let copy = cx.copy_of(&source);
        refused(cx.commit_copy(&copy).await, kind);
        assert!(!cx.exists(&copy.name).await);
    }
}

pub async fn a_copy_that_would_not_fit_is_refused(cx: Context) {
    let key = cx.active().await;
    let copy = SnapshotCopy {
        reserve_bytes: u64::MAX,
        ..cx.copy_of(&key)
    };
    let kind = match cx.backend.capabilities().live_copies {
        true => ResourceExhausted,
        false => Unsupported,
    };
    let before = done(cx.snapshots.list().await).len();
    refused(cx.commit_copy(&copy).await, kind);
    assert_eq!(done(cx.snapshots.list().await).len(), before);
}

/// It may be done before it hears of that.
pub async fn a_cancelled_copy_leaves_nothing(cx: Context) {
    let key = cx.active().await;
    cx.fixture().put_file(&key, "/large", &[7; 1 << 20]).await;
    let copy = cx.copy_of(&key);
    let before = done(cx.snapshots.list().await).len();
    let cancel = CancellationToken::new();
    cancel.cancel();
    let copied = cx.snapshots.commit_copy(&cx.lease, &copy, &cancel).await;
    let left = done(cx.snapshots.list().await).len() - before;
    if !cx.backend.capabilities().live_copies {
        refused(copied, Unsupported);
        assert_eq!(left, 0);
    } else if copied.is_ok() {
        assert_eq!(left, 1);
    } else {
        refused(copied, Cancelled);
        assert_eq!(left, 0);
    }
}

pub async fn a_running_task_goes_on_while_it_is_copied(cx: Context) {
    let spec = cx.container(Program::Forever).await;
    cx.fixture().put_file(&spec.snapshot, "/now", b"1").await;
    done(cx.tasks.create(&spec.id).await);
    done(cx.tasks.start(&spec.id).await);
    let before = done(cx.tasks.get(&spec.id).await);
    for _ in 0..3 {
        let copy = SnapshotCopy {
            container: Some(spec.id.clone()),
            ..cx.copy_of(&spec.snapshot)
        };
        let Some(report) = cx.copied(&copy).await else {
            return;
        };
        assert!(report.freeze <= report.total, "{report:?}");
        assert!(report.freeze < Duration::from_secs(2), "{report:?}");
        let shown = cx.shows(&copy.name, "/now").await;
        assert_eq!(shown.as_deref(), Some(&b"1"[..]));
        let now = done(cx.tasks.get(&spec.id).await);
        assert_eq!((now.pid, now.status), (before.pid, TaskStatus::Running));
    }
    // It still hears: nothing stands still.
    let stopped = cx
        .tasks
        .stop(&spec.id, Signal::TERM, Duration::from_secs(20));
    let exit = done(stopped.await).expect("it ran");
    assert_ne!(exit.code, 128 + 9, "it was killed");
}

pub async fn a_copy_of_a_task_that_ended_is_no_different(cx: Context) {
    let spec = cx.running(Program::Exit(0)).await;
    done(cx.tasks.wait(&spec.id).await);
    let nobody: ContainerId = ContainerId::for_bot(botstead_types::BotId::generate());
    for container in [spec.id.clone(), nobody] {
        let copy = SnapshotCopy {
            container: Some(container),
            ..cx.copy_of(&spec.snapshot)
        };
        let Some(report) = cx.copied(&copy).await else {
            return;
        };
        assert!(report.freeze <= report.total, "{report:?}");
        assert!(cx.exists(&copy.name).await);
    }
}
