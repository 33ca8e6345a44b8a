//! Commands in running containers: input, output, users, exit codes, and what a caller that leaves leaves
//! behind.

use crate::support::Real;
use crate::{LONG, count, exec, output, sh, start, until};
use botstead_runtime::{ContainerSpec, ErrorKind, ExecUser};
use botstead_runtime_testing::conformance::{Context, Program, run};
use futures_util::future::join_all;
use std::time::{Duration, Instant};

#[tokio::test]
async fn a_command_reads_its_input_to_the_end() {
    run(Real::new, async |cx: Context| {
        let spec = cx.running(Program::Forever).await;
        let mut wanted = sh("busybox sha256sum; echo ended >&2");
        let input: Vec<u8> = (0..3_000_000u32)
            .map(|number| (number % 251) as u8)
            .collect();
        use sha2::{Digest, Sha256};
        let expected = hex::encode(Sha256::digest(&input));
        wanted.stdin = input.into();
        let output = exec(&cx, &spec, wanted).await;
        let told = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(told.starts_with(&expected), "{told}");
        assert_eq!(output.stderr, "ended\n");
        // A command that never reads ends all the same.
        let mut deaf = sh("exit 4");
        deaf.stdin = vec![0; 1 << 20].into();
        assert_eq!(exec(&cx, &spec, deaf).await.exit_code, 4);
        // Without input there is an end at once.
        assert_eq!(output_of_cat(&cx, &spec).await, "");
    })
    .await;
}

async fn output_of_cat(cx: &Context, spec: &ContainerSpec) -> String {
    output(cx, spec, "busybox cat").await
}

#[tokio::test]
async fn more_output_than_wanted_is_dropped_and_said() {
    run(Real::new, async |cx: Context| {
        let spec = cx.running(Program::Forever).await;
        let mut wanted = sh("busybox head -c 5000000 /dev/zero; busybox printf 12345678 >&2");
        wanted.output_limit = 4;
        let cut = exec(&cx, &spec, wanted.clone()).await;
        assert_eq!(cut.stdout, [0u8; 4][..]);
        assert_eq!(cut.stderr, "1234");
        assert!(cut.truncated && cut.exit_code == 0);
        wanted.output_limit = 5_000_000;
        let whole = exec(&cx, &spec, wanted).await;
        assert_eq!((whole.stdout.len(), whole.truncated), (5_000_000, false));
    })
    .await;
}

#[tokio::test]
async fn a_dropped_command_is_killed() {
    run(Real::new, async |cx: Context| {
        let spec = cx.running(Program::Forever).await;
        let mut wanted = sh("trap '' TERM; while :; do busybox sleep 1000; done");
        wanted.timeout = None;
        let call = cx.tasks.exec(&spec.id, wanted);
        let dropped = tokio::time::timeout(Duration::from_millis(500), call).await;
        assert!(dropped.is_err(), "it ended");
        until(&cx, &spec, &count("sleep 1000"), "0").await;
    })
    .await;
}

#[tokio::test]
async fn a_command_dropped_while_it_starts_is_killed_with_its_children() {
    run(Real::new, async |cx: Context| {
        let spec = cx.running(Program::Forever).await;
        // Whatever a start takes here, some of these moments are in it.
        for milliseconds in (2..80).step_by(3) {
            let mut wanted = sh("busybox sleep 1001 & busybox sleep 1001 & wait");
            wanted.timeout = None;
            let call = cx.tasks.exec(&spec.id, wanted);
            let dropped = tokio::time::timeout(Duration::from_millis(milliseconds), call).await;
            assert!(dropped.is_err(), "it ended");
        }
        // One that starts later than all of them has the runtime's attention then.
        assert_eq!(output(&cx, &spec, "echo late").await, "late\n");
        until(&cx, &spec, &count("sleep 1001"), "0").await;
    })
    .await;
}

#[tokio::test]
async fn a_command_whose_time_is_over_is_killed_with_its_children() {
    run(Real::new, async |cx: Context| {
        let spec = cx.running(Program::Forever).await;
        let mut wanted = sh("echo early; busybox sleep 1000; echo late");
        wanted.timeout = Some(Duration::from_secs(1));
        let began = Instant::now();
        let output = exec(&cx, &spec, wanted).await;
        assert!(output.timed_out && output.exit_code == 137, "{output:?}");
        assert_eq!(output.stdout, "early\n");
        assert!(began.elapsed() < LONG);
        until(&cx, &spec, &count("sleep 1000"), "0").await;
    })
    .await;
}

#[tokio::test]
async fn users_are_those_of_the_container() {
    run(Real::new, async |cx: Context| {
        let spec = cx.running(Program::Forever).await;
        for (user, expected) in [
            ("", "0 0"),
            ("bot", "1000 1001"),
            ("1000", "1000 1001"),
            ("77", "77 0"),
            ("7:8", "7 8"),
            ("bot:staff", "1000 50"),
        ] {
            let mut wanted = sh("echo $(busybox id -u) $(busybox id -g)");
            wanted.user = ExecUser(user.to_owned());
            let output = exec(&cx, &spec, wanted).await;
            assert_eq!(output.stdout, format!("{expected}\n"), "{user}");
        }
        for unknown in ["nobody", "bot:nobody"] {
            let mut wanted = sh("exit 0");
            wanted.user = ExecUser(unknown.to_owned());
            let error = cx.tasks.exec(&spec.id, wanted).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{unknown}");
        }
    })
    .await;
}

#[tokio::test]
async fn what_cannot_be_executed_is_126_and_what_is_missing_127() {
    run(Real::new, async |cx: Context| {
        let spec = cx.running(Program::Forever).await;
        for (program, expected) in [("/bin/plain", 126), ("/missing", 127), ("missing", 127)] {
            let mut wanted = sh("");
            wanted.args = vec![program.to_owned()];
            assert_eq!(
                exec(&cx, &spec, wanted).await.exit_code,
                expected,
                "{program}"
            );
        }
    })
    .await;
}

#[tokio::test]
async fn a_child_that_keeps_the_outputs_open_holds_nobody_up() {
    run(Real::new, async |cx: Context| {
        let spec = cx.running(Program::Forever).await;
        let began = Instant::now();
        let output = exec(&cx, &spec, sh("busybox sleep 1000 & echo done")).await;
        assert_eq!((output.exit_code, &output.stdout[..]), (0, &b"done\n"[..]));
        assert!(began.elapsed() < LONG, "{:?}", began.elapsed());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_commands_run_at_once() {
    run(Real::new, async |cx: Context| {
        let mut spec = cx.spec(&cx.active().await, Program::Forever);
        // runc's own set-up of a command counts too.
        spec.limits.memory_bytes = Some(0);
        spec.limits.pids = Some(0);
        start(&cx, &spec).await;
        let all = (0..100).map(|number| {
            let (cx, spec) = (cx.clone(), spec.clone());
            async move {
                let mut wanted = sh(&format!("busybox cat; exit {number}"));
                wanted.stdin = format!("input {number}").into();
                wanted.timeout = Some(Duration::from_secs(100));
                let output = exec(&cx, &spec, wanted).await;
                assert_eq!(output.exit_code, number);
                assert_eq!(output.stdout, format!("input {number}"));
            }
        });
        join_all(all).await;
    })
    .await;
}
