//! The results as a document.

use super::disturbance::Disturbance;
use std::fmt::Write;
use std::process::Command;
use std::time::Duration;

/// Every point of an operation with one disturbance.
pub(super) struct Cell {
    operation: &'static str,
    disturbance: Disturbance,
    points: usize,
    pub(super) passed: usize,
    /// How often the restart ended with an error, as it may while the disturbance lasts.
    pub(super) refused: usize,
    pub(super) failed: Vec<String>,
    pub(super) took: Duration,
}

impl Cell {
    pub(super) fn new(operation: &'static str, disturbance: Disturbance, points: usize) -> Self {
        Self {
            operation,
            disturbance,
            points,
            passed: 0,
            refused: 0,
            failed: Vec::new(),
            took: Duration::ZERO,
        }
    }

    pub(super) fn line(&self) -> String {
        format!(
            "| {} | {} | {} | {} | {} | {:.0} s |",
            self.operation,
            self.disturbance,
            self.points,
            self.passed,
            self.refused,
            self.took.as_secs_f64()
        )
    }
}

pub(super) struct Report {
    cells: Vec<Cell>,
    took: Duration,
}

const INTRODUCTION: &str = "\
# Reliability

<!-- Written by `cargo xtask test --kill-matrix`; what is said here is in
bins/botstead/tests/e2e/kill_matrix/report.rs. -->

`cargo xtask test --kill-matrix` ends the server with SIGKILL at every fault point of every operation,
which is between any two of its steps, and takes something else away in the same moment:

- *containerd killed*: the managed containerd gets SIGKILL as well.
- *database locked*: another process holds an exclusive lock on the SQLite database.
- *disk full*: the filesystem of the data directory has no free block left.

The server is started again while the last two still last, for three seconds. It may wait, or end with
an error and status 1 (*refused*); then it is started once more after they ended. After that, with no
help from anybody:

- no operation is under way; the workspace is in the state before or the state after, runs if it ran,
  is stopped if it was, and can be written to; nothing is frozen;
- every version that was there is there, its layer byte for byte and with all attributes, and a version
  that was added holds the state before;
- containerd has no snapshot but versions, writable snapshots of workspaces and what these build on, no
  lease, and no container or task of no workspace; the host has no mount, network namespace or link but
  those of the workspaces that run; `botstead doctor --repair`, which also compares the addresses, finds
  nothing;
- after the workspaces were deleted through the API, nothing at all is left.

A point that is not reached fails. Six servers run at the same time; times are those of a row.
";

impl Report {
    pub(super) fn new(mut cells: Vec<Cell>, took: Duration) -> Self {
        cells.sort_by_key(|cell| cell.operation);
        Self { cells, took }
    }

    pub(super) fn points(&self) -> usize {
        self.cells.iter().map(|cell| cell.points).sum()
    }

    pub(super) fn passed(&self) -> usize {
        self.cells.iter().map(|cell| cell.passed).sum()
    }

    pub(super) fn failed(&self) -> Vec<String> {
        let failed = |cell: &Cell| {
            let name = format!("{}, {}", cell.operation, cell.disturbance);
            (!cell.failed.is_empty()).then(|| format!("{name}: {}", cell.failed.join(", ")))
        };
        self.cells.iter().filter_map(failed).collect()
    }

    pub(super) fn render(&self) -> String {
        let mut text = format!("{INTRODUCTION}\nMeasured: {}.\n\n", machine());
        text.push_str("| operation | disturbance | points | passed | refused | time |\n");
        text.push_str("|---|---|---|---|---|---|\n");
        for cell in &self.cells {
            let _ = writeln!(text, "{}", cell.line());
        }
        let _ = writeln!(
            text,
            "\nIn all: {} of {} passed, in {:.0} s.",
            self.passed(),
            self.points(),
            self.took.as_secs_f64()
        );
        for failed in self.failed() {
            let _ = writeln!(text, "\nFailed: {failed}");
        }
        text
    }
}

/// What it ran on, without names of hosts or folders.
fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let processors = read("/proc/cpuinfo");
    let model = processors
        .lines()
        .find(|line| line.starts_with("model name"));
    let model = model.and_then(|line| Some(line.split_once(':')?.1.trim()));
    let version = |program: &str, word: usize| {
        let output = Command::new(program).arg("--version").output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        text.split_whitespace().nth(word).unwrap_or("?").to_owned()
    };
    let cgroups = match std::fs::exists("/sys/fs/cgroup/cgroup.controllers") {
        Ok(true) => "cgroup v2",
        _ => "cgroup v1",
    };
    format!(
        "{}; Linux {}, {cgroups}; {}, {} cores; containerd {}, runc {}",
        chrono::Utc::now().format("%Y-%m-%d"),
        read("/proc/sys/kernel/osrelease").trim(),
        model.unwrap_or("unknown"),
        std::thread::available_parallelism().map_or(0, usize::from),
        version("containerd", 2),
        version("runc", 2)
    )
}
