//! Runs `examples/embed.rs`, the reference for embedders, on real containerd.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};
use std::process::Command;

/// The example's program: cargo builds examples with the tests, beside their folder.
fn example() -> PathBuf {
    let own = std::env::current_exe().unwrap();
    let profile = own.parent().and_then(Path::parent).unwrap();
    profile.join("examples/embed")
}

/// The agent is another package's program, which cargo does not build for this test.
fn agent() -> PathBuf {
    std::env::var_os("BOTSTEAD_TEST_AGENT").map(PathBuf::from).expect(
        "BOTSTEAD_TEST_AGENT names the static agent; `cargo xtask test` builds it and sets this",
    )
}

#[test]
fn the_example_does_what_it_says_and_leaves_nothing() {
    let program = example();
    assert!(program.is_file(), "{} is missing", program.display());
    let child = Command::new(program)
        .arg(agent())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let pid = child.id();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{errors}");

    let mut lines = said.lines();
    for expected in [
        "containerd runs",
        "imported localhost/embed/busybox:latest",
        "looking for localhost/embed/busybox:latest",
        "creating",
        "version 1 is kept",
        "the note says: second",
        "rolled back to version 1, the state before is version 2",
        "the note says: first",
        "snapshot Committed: a good state",
        "deleted",
        "closed",
    ] {
        assert!(
            lines.any(|line| line == expected),
            "no line {expected:?} in its place:\n{said}"
        );
    }

    // Everything is named after the installation, which is named after the process.
    let installation = format!("embed-{pid}");
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(&installation), "still mounted:\n{mounts}");
    for process in Path::new("/proc").read_dir().unwrap() {
        // Not every entry is a process, and one may end meanwhile.
        let line = std::fs::read(process.unwrap().path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line);
        assert!(!line.contains(&installation), "still running: {line}");
    }
    for parent in ["/run", "/var/tmp"] {
        for entry in Path::new(parent).read_dir().unwrap() {
            let name = entry.unwrap().file_name().to_string_lossy().into_owned();
            assert!(!name.starts_with(&installation), "{parent}/{name} is left");
        }
    }
    for group in Path::new("/sys/fs/cgroup").read_dir().unwrap() {
        let group = group.unwrap().path().join(&installation);
        assert!(!group.exists(), "{} is left", group.display());
    }
}
