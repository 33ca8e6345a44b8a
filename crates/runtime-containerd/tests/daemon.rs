//! Managed mode with a real containerd: start, lock, restart, adoption, stop.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use botstead_runtime_containerd::daemon::{Daemon, DaemonConfig, DaemonError};
use containerd_client::services::v1::version_client::VersionClient;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// A place for one containerd. What is left in it is ended when the test fails.
struct Place {
    dir: TempDir,
}

impl Place {
    fn new() -> Self {
        Self {
            dir: tempfile::Builder::new().prefix("bsd").tempdir().unwrap(),
        }
    }

    /// The installed containerd, or the one of an unpacked package.
    fn config(&self) -> DaemonConfig {
        let containerd = std::env::var_os("BOTSTEAD_TEST_CONTAINERD_BIN").map(PathBuf::from);
        DaemonConfig {
            data_root: self.dir.path().join("root"),
            run_dir: self.dir.path().join("run"),
            log_file: self.dir.path().join("log/containerd.log"),
            path_prefix: containerd
                .as_ref()
                .and_then(|path| path.parent())
                .map(PathBuf::from),
            containerd: containerd.unwrap_or_else(|| "containerd".into()),
            ..DaemonConfig::new("", "")
        }
    }

    async fn start(&self) -> Daemon {
        Daemon::start(self.config())
            .await
            .unwrap_or_else(|error| panic!("{error}"))
    }

    /// A program in place of containerd.
    fn script(&self, text: &str) -> DaemonConfig {
        let containerd = self.dir.path().join("fake");
        std::fs::write(&containerd, format!("#!/bin/sh\n{text}\n")).unwrap();
        std::fs::set_permissions(&containerd, PermissionsExt::from_mode(0o755)).unwrap();
        DaemonConfig {
            containerd,
            ..self.config()
        }
    }

    /// Processes that were started with this place's configuration.
    fn processes(&self) -> Vec<i32> {
        let config = self.dir.path().join("run/config.toml");
        let config = config.to_str().unwrap();
        std::fs::read_dir("/proc")
            .unwrap()
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .filter(|pid| {
                std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| {
                    line.split(|byte| *byte == 0)
                        .any(|arg| arg == config.as_bytes())
                })
            })
            .collect()
    }

    fn pid_file(&self) -> PathBuf {
        self.dir.path().join("root/pid")
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        for pid in self.processes() {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

async fn version(socket: &Path) -> String {
    let channel = containerd_client::connect(socket).await.unwrap();
    VersionClient::new(channel)
        .version(())
        .await
        .unwrap()
        .into_inner()
        .version
}

/// Waits for a containerd other than `old` that answers.
async fn restarted(daemon: &Daemon, old: i32) -> i32 {
    let deadline = Instant::now() + Duration::from_secs(120);
    loop {
        match daemon.pid() {
            Some(pid) if pid != old => return pid,
            _ => assert!(Instant::now() < deadline, "containerd was not restarted"),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_starts_answers_and_stops_without_a_trace() {
    let place = Place::new();
    let begin = Instant::now();
    let daemon = place.start().await;
    assert!(!daemon.adopted());
    eprintln!("started in {:?}", begin.elapsed());
    assert_eq!(
        daemon.socket(),
        place.dir.path().join("run/containerd.sock")
    );
    assert!(!version(daemon.socket()).await.is_empty());
    assert_eq!(place.processes(), [daemon.pid().unwrap()]);
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(daemon.socket()) & 0o007, 0);
    assert_eq!(mode(&place.config().data_root), 0o700);

    // Another socket, process group and environment than the server's.
    let pid = daemon.pid().unwrap();
    let group = nix::unistd::getpgid(Some(Pid::from_raw(pid))).unwrap();
    assert_eq!(group.as_raw(), pid);
    let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap();
    let environment = String::from_utf8(environment).unwrap();
    assert!(!environment.contains("CARGO_"), "{environment}");

    let begin = Instant::now();
    daemon.stop().await.unwrap();
    eprintln!("stopped in {:?}", begin.elapsed());
    assert_eq!(place.processes(), [0; 0]);
    assert!(!place.pid_file().exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_server_on_the_same_root_is_refused() {
    let place = Place::new();
    let daemon = place.start().await;
    let error = Daemon::start(place.config()).await.unwrap_err();
    let pid = i32::try_from(std::process::id()).unwrap();
    assert!(
        matches!(error, DaemonError::Locked { holder: Some(holder), .. } if holder == pid),
        "{error}"
    );
    assert!(error.to_string().contains(&pid.to_string()), "{error}");
    // The first one goes on.
    version(daemon.socket()).await;
    daemon.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_containerd_is_restarted_and_answers_on_the_same_socket() {
    let place = Place::new();
    let daemon = place.start().await;
    let mut pid = daemon.pid().unwrap();
    for _ in 0..2 {
        kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
        pid = restarted(&daemon, pid).await;
        version(daemon.socket()).await;
        assert_eq!(place.processes(), [pid]);
    }
    daemon.stop().await.unwrap();
    assert_eq!(place.processes(), [0; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_containerd_has_the_limit_of_open_files_that_the_first_one_had() {
    let place = Place::new();
    let real = place.config().containerd;
    let limits = place.dir.path().join("limits");
    let maximum = getrlimit(Resource::Nofile).maximum;
    let limit = |current| setrlimit(Resource::Nofile, Rlimit { current, maximum }).unwrap();
    limit(Some(1000));
    let config = place.script(&format!(
        r#"[ "$1" = --version ] || ulimit -Sn >> {}; exec {} "$@""#,
        limits.display(),
        real.display()
    ));
    let daemon = Daemon::start(config).await.unwrap();
    // As the server does once containerd runs.
    limit(maximum);
    let pid = daemon.pid().unwrap();
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    restarted(&daemon, pid).await;
    daemon.stop().await.unwrap();
    assert_eq!(std::fs::read_to_string(limits).unwrap(), "1000\n1000\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_server_adopts_it_and_supervises_it() {
    let place = Place::new();
    let first = place.start().await;
    let pid = first.pid().unwrap();
    drop(first);

    let begin = Instant::now();
    let second = place.start().await;
    eprintln!("adopted in {:?}", begin.elapsed());
    assert!(second.adopted());
    assert_eq!(second.pid(), Some(pid));
    version(second.socket()).await;

    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    let pid = restarted(&second, pid).await;
    drop(second);

    // A server that was killed before it wrote the pid file is no reason to start a second one.
    std::fs::remove_file(place.pid_file()).unwrap();
    let third = place.start().await;
    assert_eq!(third.pid(), Some(pid));
    assert_eq!(place.processes(), [pid]);
    third.stop().await.unwrap();
    assert_eq!(place.processes(), [0; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_survivor_in_another_run_directory_is_told_and_left_alone() {
    let place = Place::new();
    let daemon = place.start().await;
    let pid = daemon.pid().unwrap();
    drop(daemon);
    let moved = DaemonConfig {
        run_dir: place.dir.path().join("other"),
        ..place.config()
    };
    let error = Daemon::start(moved).await.unwrap_err();
    assert!(
        matches!(error, DaemonError::OtherRunDir { pid: found, .. } if found == pid),
        "{error}"
    );
    let daemon = place.start().await;
    assert_eq!(daemon.pid(), Some(pid));
    daemon.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stale_pid_file_never_leads_to_another_process() {
    let place = Place::new();
    let daemon = place.start().await;
    let pid = daemon.pid().unwrap();
    drop(daemon);
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();

    // The number now belongs to a process that has nothing to do with it.
    let mut bystander = std::process::Command::new("sleep")
        .arg("60")
        .spawn()
        .unwrap();
    let text = std::fs::read_to_string(place.pid_file()).unwrap();
    let mut record: serde_json::Value = serde_json::from_str(&text).unwrap();
    record["pid"] = bystander.id().into();
    std::fs::write(place.pid_file(), record.to_string()).unwrap();

    let daemon = place.start().await;
    assert_ne!(daemon.pid(), Some(pid));
    assert_eq!(place.processes(), [daemon.pid().unwrap()]);
    daemon.stop().await.unwrap();
    assert!(bystander.try_wait().unwrap().is_none());
    bystander.kill().unwrap();
    bystander.wait().unwrap();

    std::fs::write(place.pid_file(), "garbage").unwrap();
    place.start().await.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_survivor_that_does_not_answer_is_replaced() {
    let place = Place::new();
    let daemon = place.start().await;
    let pid = daemon.pid().unwrap();
    drop(daemon);
    kill(Pid::from_raw(pid), Signal::SIGSTOP).unwrap();
    let config = DaemonConfig {
        start_limit: Duration::from_secs(20),
        ..place.config()
    };
    let daemon = Daemon::start(config).await.unwrap();
    assert_ne!(daemon.pid(), Some(pid));
    assert_eq!(place.processes(), [daemon.pid().unwrap()]);
    daemon.stop().await.unwrap();
}

/// At the boot of a slow machine it took 26 s until containerd answered.
#[tokio::test(flavor = "multi_thread")]
async fn a_first_answer_may_take_as_long_as_a_slow_boot() {
    let place = Place::new();
    let real = place.config().containerd;
    let config = place.script(&format!(
        r#"[ "$1" = --version ] || sleep 21; exec {} "$@""#,
        real.display()
    ));
    let daemon = Daemon::start(config)
        .await
        .unwrap_or_else(|error| panic!("{error}"));
    daemon.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_containerd_that_ends_at_once_is_reported_with_its_log() {
    let place = Place::new();
    let config = place.script(
        r#"[ "$1" = --version ] && echo "containerd example.org/containerd v1.7.0 abc" && exit
           echo "the disk is made of cheese" >&2
           exit 3"#,
    );
    let error = Daemon::start(config).await.unwrap_err();
    assert!(matches!(error, DaemonError::Exited { .. }), "{error}");
    assert!(error.to_string().contains("made of cheese"), "{error}");
    assert!(error.to_string().contains('3'), "{error}");
    assert!(!place.pid_file().exists());

    // The place is free again for a whole one.
    place.start().await.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn programs_that_will_not_do_are_told_apart() {
    let place = Place::new();
    let old = place.script("echo containerd github.com/containerd/containerd 1.5.9~ds1 x");
    let error = Daemon::start(old).await.unwrap_err();
    assert!(
        matches!(&error, DaemonError::TooOld { found, .. } if found == "1.5.9~ds1"),
        "{error}"
    );
    assert!(error.to_string().contains("apt-get install"), "{error}");

    let error = Daemon::start(place.script("exit 1")).await.unwrap_err();
    assert!(matches!(error, DaemonError::Version { .. }), "{error}");

    let missing = DaemonConfig {
        containerd: "no-such-containerd".into(),
        ..place.config()
    };
    let error = Daemon::start(missing).await.unwrap_err();
    assert!(matches!(error, DaemonError::NoBinary { .. }), "{error}");
}
