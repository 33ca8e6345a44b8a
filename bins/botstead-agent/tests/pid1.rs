//! The agent as PID 1 of a process namespace of its own. Needs root and util-linux.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

const AGENT: &str = env!("CARGO_BIN_EXE_botstead-agent");

/// An agent in a new process namespace, killed with everything in it on drop.
struct Workspace {
    unshare: Child,
    agent: i32,
}

impl Workspace {
    fn start(arguments: &[&str]) -> Self {
        let unshare = Command::new("unshare")
            .args(["--pid", "--fork", "--kill-child", "--mount-proc", AGENT])
            .args(arguments)
            .spawn()
            .expect("this test needs util-linux: apt-get install util-linux");
        let parent = i32::try_from(unshare.id()).unwrap();
        let agent = wait_for("the agent (this test must run as root)", || {
            let (agent, _) = children_of(parent).first().copied()?;
            // Signals count from the moment that it reads them.
            let status = fs::read_to_string(format!("/proc/{agent}/status")).ok()?;
            let blocked = status.lines().find_map(|l| l.strip_prefix("SigBlk:\t"))?;
            let blocked = u64::from_str_radix(blocked, 16).ok()?;
            (blocked & (1 << (Signal::SIGTERM as u64 - 1)) != 0).then_some(agent)
        });
        Self { unshare, agent }
    }

    /// Runs a shell line inside, as the runtime's exec does: its parent stays outside.
    fn exec(&self, line: &str) -> Child {
        Command::new("nsenter")
            .args(["--target", &self.agent.to_string(), "--pid", "--mount"])
            .args(["sh", "-c", line])
            .stdout(Stdio::null())
            .spawn()
            .unwrap()
    }

    fn orphans(&self) -> Vec<(i32, char)> {
        children_of(self.agent)
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.agent), signal).unwrap();
    }

    fn ended(&mut self) -> (ExitStatus, Duration) {
        let began = Instant::now();
        let status = self.unshare.wait().unwrap();
        (status, began.elapsed())
    }
}

impl Drop for Workspace {
    fn drop(&mut self) {
        // Fails only when it has ended already. `--kill-child` takes the agent along, and the
        // kernel what is in its namespace.
        let _ = self.unshare.kill();
        let _ = self.unshare.wait();
    }
}

/// The children of a process with the state of each, from the parent column of `/proc/*/stat`.
fn children_of(parent: i32) -> Vec<(i32, char)> {
    fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| {
            let pid: i32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            let mut fields = stat.rsplit_once(") ")?.1.split(' ');
            let state = fields.next()?.chars().next()?;
            (fields.next()?.parse::<i32>().ok()? == parent).then_some((pid, state))
        })
        .collect()
}

fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited 30 s for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

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
    let cpu = |pid: i32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let fields: Vec<_> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
        let ticks = |column: usize| fields[column].parse::<u64>().unwrap();
        // utime and stime, columns 14 and 15 of proc(5).
        ticks(11) + ticks(12)
    };
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
    let before = cpu(workspace.agent);
    std::thread::sleep(Duration::from_millis(300));
    assert!(cpu(workspace.agent) - before <= 1, "it must not spin");
    assert!(workspace.unshare.try_wait().unwrap().is_none());
    workspace.signal(Signal::SIGINT);
    assert_eq!(workspace.ended().0.code(), Some(0));
}

#[test]
fn refuses_to_run_outside_a_namespace_of_its_own() {
    let output = Command::new(AGENT).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("PID 1"));
}
