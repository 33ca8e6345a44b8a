//! Copies of a running task on a real containerd: what its processes had written is in them, and the
//! processes notice nothing.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod support;

use botstead_runtime::{Access, Exec, ExecUser, SnapshotCopy};
use botstead_runtime_testing::conformance::{Context, Program, labels, run};
use botstead_types::{ContainerId, OperationId, SnapshotKey, TaskStatus};
use bytes::Bytes;
use rustix::fs::{Mode, OFlags, openat};
use std::fs::File;
use std::io::Read;
use std::time::Duration;
use support::Real;
use tokio_util::sync::CancellationToken;

async fn sh(cx: &Context, id: &ContainerId, line: &str) -> String {
    let exec = Exec {
        args: ["/bin/sh", "-c", line].map(str::to_owned).to_vec(),
        env: vec!["PATH=/bin".to_owned()],
        cwd: "/".to_owned(),
        user: ExecUser::default(),
        stdin: Bytes::new(),
        timeout: Some(Duration::from_secs(20)),
        output_limit: 1 << 20,
    };
    let output = cx.tasks.exec(id, exec).await.unwrap();
    assert_eq!(output.exit_code, 0, "{line}: {output:?}");
    String::from_utf8(output.stdout.to_vec()).unwrap()
}

async fn read(cx: &Context, key: &SnapshotKey, name: &str) -> String {
    let tree = cx
        .snapshots
        .open(&cx.lease, key, Access::Read)
        .await
        .unwrap();
    let file = openat(tree.root(), name, OFlags::RDONLY, Mode::empty()).unwrap();
    let mut text = String::new();
    File::from(file).read_to_string(&mut text).unwrap();
    text
}

/// The counter writes what it was told to and the number to a second file, in this order: a copy in
/// which the second is ahead of the first would be of no moment that ever was.
#[tokio::test]
async fn copies_of_a_running_counter_are_moments_that_were() {
    run(Real::new, async |cx: Context| {
        let spec = cx.running(Program::Forever).await;
        let counter = "i=0; while :; do i=$((i+1)); echo $i >> /log; echo $i > /last; done";
        let line = format!("({counter}) > /dev/null 2>&1 & echo $!");
        let counter = sh(&cx, &spec.id, &line).await;
        let before = cx.tasks.get(&spec.id).await.unwrap();
        let mut lengths = Vec::new();
        for number in 0..5 {
            let written = sh(&cx, &spec.id, &format!("echo {number} > /told; cat /told")).await;
            let copy = SnapshotCopy {
                source: spec.snapshot.clone(),
                container: Some(spec.id.clone()),
                name: SnapshotKey::version(OperationId::generate()),
                labels: labels([]),
                reserve_bytes: 0,
                durable: true,
            };
            let cancel = CancellationToken::new();
            let report = cx.snapshots.commit_copy(&cx.lease, &copy, &cancel).await;
            let report = report.unwrap();
            assert!(report.freeze > Duration::ZERO, "{report:?}");
            assert_eq!(read(&cx, &copy.name, "told").await, written);
            let log = read(&cx, &copy.name, "log").await;
            let lines: Vec<u64> = log.lines().map(|line| line.parse().unwrap()).collect();
            let expected: Vec<u64> = (1..=lines.len() as u64).collect();
            assert_eq!(lines, expected, "the log is a prefix");
            let last = read(&cx, &copy.name, "last").await;
            // It may have been cut to nothing and not be written yet.
            let last: u64 = last.trim().parse().unwrap_or(lines.len() as u64);
            assert!(lines.len() as u64 - last <= 1, "{last} of {}", lines.len());
            lengths.push(lines.len());
            cx.snapshots.release(&copy.name).await.unwrap();
        }
        assert!(
            lengths.is_sorted_by(|a, b| a < b),
            "it went on: {lengths:?}"
        );
        let now = cx.tasks.get(&spec.id).await.unwrap();
        assert_eq!((now.pid, now.status), (before.pid, TaskStatus::Running));
        sh(&cx, &spec.id, &format!("kill -0 {}", counter.trim())).await;
    })
    .await;
}
