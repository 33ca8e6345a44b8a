//! Set-up, tests and chores of the repository: `cargo xtask --help`.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program for people at a terminal"
)]

mod api;
mod apt;
mod bench;
mod build;
mod check;
mod ci;
mod command;
mod down;
mod fuzz;
mod image;
mod openapi;
mod progress;
mod repository;
mod testing;
mod tidy;
mod up;

use anyhow::Result;
use clap::{Parser, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;
use testing::{Debian, Version};
use up::layout::Place;

/// Set-up, tests and chores of Botstead.
#[derive(Debug, Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    arg_required_else_help = true
)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// From a fresh Debian or Ubuntu machine to a running server; repeatable (root)
    ///
    /// Installs what is missing through apt (never removing a package), builds server, agent and
    /// default image, starts the server on 127.0.0.1 and makes the first admin, whose password is
    /// shown once on a terminal; else the line `password file: PATH` says where it is.
    Up {
        #[command(flatten)]
        place: Place,
        /// Perform the main job against the running server over HTTP, leave nothing behind
        #[arg(long)]
        check: bool,
        /// Install what this folder holds (botstead, botstead-agent, one *.oci.tar) instead of
        /// building it
        #[arg(long, value_name = "FOLDER")]
        prebuilt: Option<PathBuf>,
        /// The admin's password for --check; without it an admin is made for the check alone
        #[arg(
            long,
            env = "BOTSTEAD_PASSWORD",
            hide_env_values = true,
            requires = "check"
        )]
        password: Option<String>,
    },
    /// End what `up` started: server, workspaces, containerd (root)
    Down {
        #[command(flatten)]
        place: Place,
        /// Also remove every workspace, version and account; wants --yes
        #[arg(long)]
        purge: bool,
        /// Confirm --purge
        #[arg(long)]
        yes: bool,
    },
    /// Install what the tests need and run all of them (root)
    Test {
        /// Run the tests of the containerd adapter alone, on the installed containerd and on newer
        /// ones, or on those named
        #[arg(long, value_name = "VERSION", num_args = 0.., value_delimiter = ',')]
        matrix: Option<Vec<Version>>,
        /// Kill the server at every fault point of every operation, with containerd killed, the
        /// database locked or the disk full, and write docs/RELIABILITY.md; takes many minutes
        #[arg(long, conflicts_with = "matrix")]
        kill_matrix: bool,
        /// Run the model test of data alone: so many random sequences in memory, and a fiftieth of them
        /// on containerd
        #[arg(long, value_name = "SEQUENCES", conflicts_with_all = ["matrix", "kill_matrix"])]
        model: Option<u64>,
        /// Check the server on whole machines with systemd and cgroup v2, or on those named: Debian
        /// in QEMU, without KVM, which takes long
        #[arg(long, value_name = "DEBIAN", num_args = 0.., value_delimiter = ',',
            conflicts_with_all = ["matrix", "kill_matrix", "model"])]
        vm: Option<Vec<Debian>>,
        /// Only tests whose names contain one of these; with --kill-matrix only these operations,
        /// and nothing is written
        #[arg(last = true)]
        filters: Vec<String>,
    },
    /// Everything that must hold before a change lands (root)
    Ci,
    /// Measure a release build over HTTP against bare containerd; writes docs/BENCHMARKS.md (root)
    Bench {
        /// Few rounds, to see whether it works; nothing is written
        #[arg(long)]
        quick: bool,
        /// A program of another build of the server, to be measured in turns with this one; the agent
        /// beside it is its own
        #[arg(long, value_name = "PROGRAM")]
        against: Option<PathBuf>,
        /// Only measurements whose names contain one of these: first-command, create, stop-start,
        /// rollback, rollback-stopped, snapshot, snapshot-stop, freeze, export, command, files,
        /// terminals, fleet, idle, load, history, against; nothing is written
        filters: Vec<String>,
    },
    /// Feed hostile input to what parses it, with libFuzzer; what makes a target fail is kept
    Fuzz {
        /// Seconds for each target
        #[arg(long, default_value_t = 60)]
        seconds: u32,
        /// Names of programs in fuzz/src/bin; all when none is given
        targets: Vec<String>,
    },
    /// Check what no compiler checks: module docs, lints, layers, file sizes, links
    Tidy,
    /// Build the default workspace image as an OCI archive (root)
    Image {
        /// Folder that keeps the archive, target/image when not given
        #[arg(long)]
        folder: Option<PathBuf>,
        /// Build it although it is there, to get the distribution's newest packages
        #[arg(long)]
        rebuild: bool,
    },
    /// Write docs/openapi.json as the server serves it
    Openapi {
        /// Only compare, and fail when they differ
        #[arg(long)]
        check: bool,
    },
}

fn run(task: Task) -> Result<()> {
    match task {
        Task::Up {
            place,
            check: false,
            prebuilt,
            ..
        } => up::run(&place, prebuilt.as_deref()),
        Task::Up {
            place,
            prebuilt,
            password,
            ..
        } => {
            if !up::is_installed(&place) {
                up::run(&place, prebuilt.as_deref())?;
            }
            check::run(&place, password.as_deref())
        }
        Task::Down { place, purge, yes } => down::run(&place, purge, yes),
        Task::Test {
            kill_matrix: true,
            filters,
            ..
        } => testing::run_kill_matrix(&filters),
        Task::Test {
            model: Some(sequences),
            filters,
            ..
        } => testing::run_model(sequences, &filters),
        Task::Test {
            vm: Some(releases),
            filters,
            ..
        } => testing::run_vm(&releases, &filters),
        Task::Test {
            matrix: None,
            filters,
            ..
        } => testing::run(&filters),
        Task::Test {
            matrix: Some(versions),
            filters,
            ..
        } => testing::run_matrix(&versions, &filters),
        Task::Bench {
            quick,
            against,
            filters,
        } => bench::run(quick, against.as_deref(), &filters),
        Task::Fuzz { seconds, targets } => fuzz::run(&targets, seconds),
        Task::Ci => ci::run(),
        Task::Tidy => progress::step("tidy", tidy::run),
        Task::Image { folder, rebuild } => progress::step("default image", || {
            let folder = folder.unwrap_or_else(|| repository::target().join("image"));
            image::ensure(&folder, rebuild).map(drop)
        }),
        Task::Openapi { check } => progress::step("OpenAPI document", || openapi::run(check)),
    }
}

fn main() -> ExitCode {
    match run(Cli::parse().task) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
