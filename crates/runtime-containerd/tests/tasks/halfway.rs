//! Tasks whose deletion was cut off, as by a server that was killed: containerd keeps a shim without a
//! container, of which it tells nothing and beside which it makes no other.

use super::{LONG, Real, output};
use botstead_runtime::{ContainerSpec, ErrorKind, Result, Signal};
use botstead_runtime_testing::conformance::{Context, Program, run};
use rustix::process::{Pid, kill_process};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);

/// The processes that have the container's id in their command line: its shim.
fn shims(spec: &ContainerSpec) -> Vec<Pid> {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let with_id = processes.filter(|entry| {
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains(spec.id.as_str())
    });
    let ids = with_id.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    ids.filter_map(Pid::from_raw).collect()
}

/// Deletes a task in a way that leaves its shim: containerd is not there any more for whoever asked when
/// the shim has done its part.
async fn delete_by_half(cx: &Context, spec: &ContainerSpec) {
    cx.tasks.create(&spec.id).await.unwrap();
    cx.tasks.start(&spec.id).await.unwrap();
    let ended = cx.tasks.end(&spec.id, Signal::KILL, Duration::ZERO).await;
    assert!(ended.unwrap());
    let [shim] = shims(spec)[..] else {
        panic!("{:?}", shims(spec));
    };
    kill_process(shim, rustix::process::Signal::STOP).unwrap();
    let deletion = cx.tasks.delete(&spec.id);
    let cut_off = tokio::time::timeout(Duration::from_secs(2), deletion).await;
    kill_process(shim, rustix::process::Signal::CONT).unwrap();
    assert!(cut_off.is_err(), "{cut_off:?}");
    let half = async {
        while !matches!(cx.tasks.get(&spec.id).await, Err(error) if error.is_not_found()) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let half = tokio::time::timeout(LONG, half).await;
    half.expect("the shim does nothing");
    // It would have gone by now.
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(shims(spec), [shim]);
}

#[tokio::test]
async fn a_task_that_was_deleted_by_half_is_created_again() {
    run(Real::new, async |cx: Context| {
        let spec = cx.container(Program::Forever).await;
        delete_by_half(&cx, &spec).await;
        let created = cx.tasks.create(&spec.id).await;
        created.unwrap_or_else(|error| panic!("{}", error.chain()));
        cx.tasks.start(&spec.id).await.unwrap();
        assert_eq!(
            output(&cx, &spec, "busybox cat /etc/hostname").await,
            "conformance\n"
        );
        // One that is whole is refused as ever.
        let refused = cx.tasks.create(&spec.id).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::AlreadyExists);
        assert_eq!(
            output(&cx, &spec, "busybox cat /etc/hostname").await,
            "conformance\n"
        );
    })
    .await;
}

#[tokio::test]
async fn what_is_left_of_a_task_that_was_deleted_by_half_goes_with_a_stop() {
    run(Real::new, async |cx: Context| {
        let spec = cx.container(Program::Forever).await;
        delete_by_half(&cx, &spec).await;
        let stopped = cx.tasks.stop(&spec.id, Signal::TERM, LONG).await;
        assert_eq!(stopped.unwrap(), None);
        let gone = async {
            while !shims(&spec).is_empty() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        let gone = tokio::time::timeout(Duration::from_secs(10), gone).await;
        gone.expect("its shim stays");
    })
    .await;
}

async fn created_and_started(cx: &Context, spec: &ContainerSpec) -> Result<()> {
    cx.tasks.create(&spec.id).await?;
    cx.tasks.start(&spec.id).await
}

/// As by the end of the server that asked for it, at any moment.
#[tokio::test]
async fn a_task_whose_creation_was_cut_off_is_created_again() {
    run(Real::new, async |cx: Context| {
        for milliseconds in (2..42).step_by(2) {
            let spec = cx.container(Program::Forever).await;
            let creation = cx.tasks.create(&spec.id);
            let cut_off = tokio::time::timeout(Duration::from_millis(milliseconds), creation).await;
            if cut_off.is_err() {
                let _ = cx.tasks.stop(&spec.id, Signal::KILL, Duration::ZERO).await;
                let began = Instant::now();
                // On a busy host containerd is late with what was cut off, and clears it away under the next
                // one: whoever wants it asks again.
                while let Err(error) = created_and_started(&cx, &spec).await {
                    let temporary = [ErrorKind::Unavailable, ErrorKind::NotFound];
                    let may_go = temporary.contains(&error.kind()) && began.elapsed() < PATIENCE;
                    assert!(may_go, "{milliseconds}: {}", error.chain());
                    let _ = cx.tasks.stop(&spec.id, Signal::KILL, Duration::ZERO).await;
                }
            } else {
                cx.tasks.start(&spec.id).await.unwrap();
            }
            cx.tasks.stop(&spec.id, Signal::KILL, LONG).await.unwrap();
            assert_eq!(shims(&spec), []);
        }
    })
    .await;
}
