//! `thaw-guard` as a process, on an ordinary file.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, getsid};
use std::fs;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const LONG: &str = "60000";

struct Guard {
    child: Child,
    file: PathBuf,
}

impl Guard {
    /// Returns once it is armed.
    fn start(name: &str, after_ms: &str) -> Self {
        let file = std::env::temp_dir().join(format!("guard-{name}-{}", std::process::id()));
        fs::write(&file, "FROZEN").unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_botstead-agent"))
            .args(["thaw-guard", "--write", "THAWED", "--after-ms", after_ms])
            .arg("--file")
            .arg(&file)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = [0; 6];
        child
            .stdout
            .as_mut()
            .unwrap()
            .read_exact(&mut line)
            .unwrap();
        assert_eq!(&line, b"armed\n");
        Self { child, file }
    }

    /// The exit code, and what the file holds then.
    fn end(mut self) -> (i32, String) {
        let code = self.child.wait().unwrap().code().unwrap();
        (code, fs::read_to_string(&self.file).unwrap())
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        // Fails only when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_file(&self.file);
    }
}

#[test]
fn it_fires_when_its_starter_is_gone() {
    let mut guard = Guard::start("eof", LONG);
    drop(guard.child.stdin.take());
    assert_eq!(guard.end(), (3, "THAWED".to_owned()));
}

#[test]
fn it_fires_when_its_starter_is_stuck_and_not_before() {
    let began = Instant::now();
    let mut guard = Guard::start("time", "300");
    let input = guard.child.stdin.take();
    assert_eq!(guard.end(), (3, "THAWED".to_owned()));
    let took = began.elapsed();
    assert!(took >= Duration::from_millis(300), "{took:?}");
    assert!(took < Duration::from_secs(10), "{took:?}");
    drop(input);
}

#[test]
fn called_off_it_has_written_nothing() {
    let mut guard = Guard::start("off", LONG);
    guard.child.stdin.as_mut().unwrap().write_all(b"x").unwrap();
    assert_eq!(guard.end(), (0, "FROZEN".to_owned()));
}

#[test]
fn signals_to_its_starters_group_do_not_reach_or_end_it() {
    let mut guard = Guard::start("signals", LONG);
    let pid = Pid::from_raw(i32::try_from(guard.child.id()).unwrap());
    assert_eq!(getsid(Some(pid)).unwrap(), pid, "a session of its own");
    for signal in [
        Signal::SIGTERM,
        Signal::SIGINT,
        Signal::SIGHUP,
        Signal::SIGPIPE,
    ] {
        kill(pid, signal).unwrap();
    }
    std::thread::sleep(Duration::from_millis(100));
    assert!(guard.child.try_wait().unwrap().is_none());
    drop(guard.child.stdin.take());
    assert_eq!(guard.end(), (3, "THAWED".to_owned()));
}

#[test]
fn what_it_cannot_write_is_told_before_anyone_is_frozen() {
    let output = Command::new(env!("CARGO_BIN_EXE_botstead-agent"))
        .args(["thaw-guard", "--write", "THAWED", "--after-ms", "1"])
        .args(["--file", "/proc/self/no-such-file"])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stdout.is_empty() && !output.stderr.is_empty());
}
