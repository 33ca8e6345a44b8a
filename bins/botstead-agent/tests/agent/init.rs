//! The duties of an init.

use super::workspace::{AGENT, Workspace, command, ticks, wait_for, wait_until};
use botstead_bridge::proto::HealthRequest;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::process::Command;
use std::time::{Duration, Instant};

#[test]
fn reaps_a_thousand_orphans_and_ends_at_once() {
    let mut workspace = Workspace::start(&[]);
    // Each subshell ends before its sleep, which orphans the sleep to PID 1.
    let mut many = workspace.exec("i=0; while [ $i -lt 1000 ]; do (sleep 600 &); i=$((i+1)); done");
    assert!(many.wait().unwrap().success());
    let orphans = workspace.orphans();
    assert_eq!(orphans.len(), 1000);
    // All at once, so that their SIGCHLDs merge.
    for (orphan, _) in orphans {
        kill(Pid::from_raw(orphan), Signal::SIGKILL).unwrap();
    }
    wait_for("the orphans to be reaped", || {
        workspace.orphans().is_empty().then_some(())
    });

    // Idle ones of both kinds: orphans, and one that the runtime's exec holds.
    let mut idle = workspace.exec("for i in 1 2 3 4 5; do (sleep 600 &); done; exec sleep 600");
    wait_for("the idle processes", || {
        (workspace.orphans().len() == 5).then_some(())
    });
    let holder = std::thread::spawn(move || idle.wait());
    workspace.signal(Signal::SIGTERM);
    let (status, took) = workspace.ended();
    assert_eq!(status.code(), Some(0));
    assert!(took < Duration::from_millis(100), "took {took:?}");
    assert!(!holder.join().unwrap().unwrap().success());
}

#[test]
fn kills_what_ignores_sigterm_after_the_grace() {
    let mut workspace = Workspace::start(&["--grace-ms", "300"]);
    let mut stubborn = workspace.exec("(trap '' TERM; sleep 600 &)");
    assert!(stubborn.wait().unwrap().success());
    wait_for("the stubborn one", || {
        (workspace.orphans().len() == 1).then_some(())
    });
    workspace.signal(Signal::SIGTERM);
    let (status, took) = workspace.ended();
    assert_eq!(status.code(), Some(0));
    let bounds = Duration::from_millis(250)..Duration::from_millis(900);
    assert!(bounds.contains(&took), "took {took:?}");
}

#[test]
fn a_second_signal_ends_the_grace() {
    let mut workspace = Workspace::start(&["--grace-ms", "60000"]);
    let mut stubborn = workspace.exec("(trap '' TERM; sleep 600 &)");
    assert!(stubborn.wait().unwrap().success());
    workspace.signal(Signal::SIGTERM);
    std::thread::sleep(Duration::from_millis(50));
    workspace.signal(Signal::SIGINT);
    let (status, took) = workspace.ended();
    assert_eq!(status.code(), Some(0));
    assert!(took < Duration::from_secs(5), "took {took:?}");
}

#[test]
fn a_stopped_process_ends_with_the_rest() {
    let mut workspace = Workspace::start(&[]);
    let mut stopped = workspace.exec("(sleep 600 &)");
    assert!(stopped.wait().unwrap().success());
    let (sleep, _) = workspace.orphans()[0];
    kill(Pid::from_raw(sleep), Signal::SIGSTOP).unwrap();
    wait_for("the stop", || {
        (workspace.orphans() == [(sleep, 'T')]).then_some(())
    });
    workspace.signal(Signal::SIGTERM);
    let (status, took) = workspace.ended();
    assert_eq!(status.code(), Some(0));
    assert!(took < Duration::from_millis(500), "took {took:?}");
}

#[test]
fn other_signals_do_not_end_it_and_it_sleeps() {
    let mut workspace = Workspace::start(&[]);
    for signal in [
        Signal::SIGHUP,
        Signal::SIGPIPE,
        Signal::SIGQUIT,
        Signal::SIGUSR1,
        Signal::SIGUSR2,
        Signal::SIGALRM,
        Signal::SIGTTIN,
        Signal::SIGTSTP,
    ] {
        workspace.signal(signal);
    }
    let before = ticks(workspace.agent);
    std::thread::sleep(Duration::from_millis(300));
    assert!(ticks(workspace.agent) - before <= 1, "it must not spin");
    assert!(workspace.is_running());
    workspace.signal(Signal::SIGINT);
    assert_eq!(workspace.ended().0.code(), Some(0));
}

#[test]
fn refuses_to_run_outside_a_namespace_of_its_own() {
    let output = Command::new(AGENT).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("PID 1"));
}

/// `std` waits itself for a child whose exec failed; whoever takes that status makes it panic, and
/// whoever takes too few leaves zombies.
#[tokio::test]
async fn ten_thousand_failed_execs_beside_ten_thousand_orphans() {
    let workspace = Workspace::start(&[]);
    // Twenty parents after another leave five hundred children each.
    let script = "for (1..20) { if (!fork) { for (1..500) { fork or exit } exit } wait } exit 33";
    let orphans = workspace.begin(command(&["perl", "-e", script])).await;
    let orphans = tokio::spawn(orphans.finish());
    let one = async |number: u32| {
        if number.is_multiple_of(20) {
            let code = (number / 20 % 256).to_string();
            let seen = workspace
                .run(command(&["sh", "-c", &format!("exit {code}")]))
                .await;
            assert_eq!(seen.code().to_string(), code);
        } else {
            let seen = workspace.run(command(&["/does/not/exist"])).await;
            assert_eq!((seen.code(), seen.pid), (127, 0), "{seen:?}");
        }
    };
    let lanes = (0..8).map(|lane| async move {
        for number in 0..1250 {
            one(lane * 1250 + number).await;
        }
    });
    futures_util::future::join_all(lanes).await;
    assert_eq!(orphans.await.unwrap().code(), 33);
    wait_until("every zombie to be reaped", async || {
        workspace.orphans().is_empty()
    })
    .await;
    let health = workspace.client().agent().health(HealthRequest {}).await;
    assert_eq!(health.unwrap().into_inner().running, 0);
}

#[tokio::test]
async fn ends_at_once_with_commands_and_terminals_idle() {
    let mut workspace = Workspace::start(&[]);
    let mut calls = Vec::new();
    for _ in 0..5 {
        calls.push(workspace.begin(command(&["sleep", "600"])).await);
    }
    let began = Instant::now();
    workspace.signal(Signal::SIGTERM);
    for call in calls {
        // It is told how it ended, unless the agent was faster.
        let mut call = call;
        while call
            .output
            .message()
            .await
            .is_ok_and(|message| message.is_some())
        {}
    }
    let (status, _) = workspace.ended();
    assert_eq!(status.code(), Some(0));
    let took = began.elapsed();
    assert!(took < Duration::from_millis(100), "took {took:?}");
}

#[tokio::test]
async fn a_status_by_a_real_time_signal_is_seen() {
    let workspace = Workspace::start(&[]);
    let seen = workspace.run(command(&["sh", "-c", "kill -40 $$"])).await;
    assert_eq!(seen.code(), 128 + 40);
    assert_eq!(
        workspace
            .shell("(kill -41 $(sh -c 'echo $PPID')) & wait $!; echo $?")
            .await,
        "169\n"
    );
}
