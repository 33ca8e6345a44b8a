//! `cargo xtask test`: installs what the tests need and runs them, on the installed containerd and,
//! with `--matrix`, on newer ones; with `--kill-matrix`, what is left of a server that was killed; with `--vm`, on whole machines.

mod matrix;
mod vm;

use crate::apt::{self, Need, need};
use crate::progress::step;
use crate::{build, command, image, repository};
use anyhow::Result;
pub(crate) use matrix::Version;
use std::path::Path;
use std::process::Command;
pub(crate) use vm::{Debian, run as run_vm};

/// What the tests run for real.
const NEEDS: &[Need] = &[
    need("containerd", "containerd"),
    need("runc", "runc"),
    need("nftables", "nft"),
    need("iptables", "iptables"),
    need("iproute2", "ip"),
    need("busybox-static", "busybox"),
    need("docker-registry", "docker-registry"),
    need("skopeo", "skopeo"),
    need("umoci", "umoci"),
    need("util-linux", "unshare"),
    need("e2fsprogs", "mkfs.ext4"),
    need("xfsprogs", "mkfs.xfs"),
    need("btrfs-progs", "mkfs.btrfs"),
    need("protobuf-compiler", "protoc"),
    need("gcc", "cc"),
    need("sqlite3", "sqlite3"),
    need("tar", "tar"),
    need("python3", "python3"),
    need("pigz", "pigz"),
    need("zstd", "zstd"),
];

/// More tests at once only wait for one containerd and one disk.
const MOST_THREADS: usize = 4;

/// Where tests find the static agent.
const AGENT: &str = "BOTSTEAD_TEST_AGENT";
/// Where tests find the archive of the default image.
const IMAGE: &str = "BOTSTEAD_TEST_IMAGE";
/// Where the kill matrix writes its results.
const KILL_REPORT: &str = "BOTSTEAD_TEST_KILL_MATRIX_REPORT";
/// The operations that the kill matrix is for, with commas.
const KILL_OPERATIONS: &str = "BOTSTEAD_TEST_KILL_MATRIX_OPERATIONS";
/// How many sequences the model test of data performs.
const MODEL: &str = "BOTSTEAD_TEST_MODEL";
/// Where tests find another containerd than the installed one.
const CONTAINERD: &str = "BOTSTEAD_TEST_CONTAINERD_BIN";

/// The tests of the whole workspace, or those whose names match `filters`.
pub(crate) fn run(filters: &[String]) -> Result<()> {
    step("packages for the tests", || apt::ensure(NEEDS))?;
    let agent = step("build the agent", build::agent)?;
    let image = step("default image", || {
        image::ensure(&repository::target().join("image"), false)
    })?;
    step("tests", || {
        let mut command = cargo_test(&agent, filters);
        command.env(IMAGE, &image);
        // The end-to-end tests kill the server at its fault points.
        command.args(["--workspace", "--features", "botstead/fault-points"]);
        finish(command, filters)
    })
}

/// The tests of the containerd adapter on other versions of containerd; on the installed one and on
/// every other when none is named.
pub(crate) fn run_matrix(versions: &[Version], filters: &[String]) -> Result<()> {
    step("packages for the tests", || apt::ensure(NEEDS))?;
    let agent = step("build the agent", build::agent)?;
    let adapter = || {
        let mut command = cargo_test(&agent, filters);
        command.args(["--package", "botstead-runtime-containerd"]);
        command
    };
    let versions = if versions.is_empty() {
        step("tests on the installed containerd", || {
            finish(adapter(), filters)
        })?;
        Version::ALL
    } else {
        versions
    };
    for version in versions {
        let folder = step(&format!("fetch {version}"), || matrix::fetch(*version))?;
        step(&format!("tests on {version}"), || {
            let programs = folder.join("usr/bin");
            let mut command = adapter();
            command
                .env(CONTAINERD, programs.join("containerd"))
                .env("PATH", path_with(&programs));
            finish(command, filters)
        })?;
    }
    Ok(())
}

/// Kills the server at every fault point, with something else lost at the same moment; only a run of
/// all operations is written down.
pub(crate) fn run_kill_matrix(operations: &[String]) -> Result<()> {
    step("packages for the tests", || apt::ensure(NEEDS))?;
    let agent = step("build the agent", build::agent)?;
    step("kill matrix", || {
        let mut command = repository::cargo();
        command
            .args(["test", "--locked", "--package", "botstead"])
            .args(["--features", "botstead/fault-points", "--test", "e2e", "--"])
            .args(["--ignored", "--nocapture", "--exact"])
            .arg("kill_matrix::every_kill_survives_every_disturbance")
            .env(AGENT, &agent);
        if operations.is_empty() {
            command.env(KILL_REPORT, repository::root().join("docs/RELIABILITY.md"));
        } else {
            command.env(KILL_OPERATIONS, operations.join(","));
        }
        command::run(
            &mut command,
            "one operation alone: cargo xtask test --kill-matrix -- OPERATION",
        )
    })
}

/// The model test of data, with so many random sequences; those of its tests whose names match.
pub(crate) fn run_model(sequences: u64, filters: &[String]) -> Result<()> {
    step("packages for the tests", || apt::ensure(NEEDS))?;
    let agent = step("build the agent", build::agent)?;
    step("model of data", || {
        command::run(
            &mut model(&agent, sequences, filters),
            "the message says how to perform that sequence again",
        )
    })
}

fn model(agent: &Path, sequences: u64, filters: &[String]) -> Command {
    let mut command = repository::cargo();
    command
        .args(["test", "--locked", "--package", "botstead-workspace"])
        .args(["--test", "model", "--", "--nocapture"])
        .args(filters)
        .env(AGENT, agent)
        .env(MODEL, sequences.to_string());
    command
}

fn cargo_test(agent: &Path, filters: &[String]) -> Command {
    let mut command = repository::cargo();
    command.args(["test", "--locked"]).env(AGENT, agent);
    if filters.is_empty() {
        // All failures at once; with filters somebody waits for one.
        command.arg("--no-fail-fast");
    }
    command
}

fn finish(mut command: Command, filters: &[String]) -> Result<()> {
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    command
        .arg("--")
        .arg(format!("--test-threads={}", threads.min(MOST_THREADS)))
        .args(filters);
    command::run(
        &mut command,
        "the failing test alone: cargo xtask test -- NAME",
    )
}

/// containerd looks for its shim on the PATH, and a shim of another version is not its own.
fn path_with(programs: &Path) -> std::ffi::OsString {
    let mut path = programs.as_os_str().to_owned();
    if let Some(rest) = std::env::var_os("PATH") {
        path.push(":");
        path.push(rest);
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_model_test_runs_what_was_named() {
        let filters = ["in_memory".to_owned(), "again".to_owned()];
        let command = model(Path::new("/agent"), 7, &filters);
        let arguments: Vec<_> = command.get_args().collect();
        assert!(arguments.ends_with(&["--nocapture", "in_memory", "again"].map(AsRef::as_ref)));
    }

    #[test]
    fn another_containerd_finds_its_own_shim_first() {
        let path = path_with(Path::new("/x/usr/bin"));
        let first = std::env::split_paths(&path).next();
        assert_eq!(first.as_deref(), Some(Path::new("/x/usr/bin")));
    }
}
