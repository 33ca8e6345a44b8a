//! Set-up, tests and chores of the repository: `cargo xtask --help`.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program for people at a terminal"
)]

mod apt;
mod command;
mod image;
mod progress;
mod repository;
mod tidy;

use clap::{Parser, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;

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
    /// Check what no compiler checks: module docs, lints, layers, file sizes, links
    Tidy,
    /// Build the default workspace image as an OCI archive
    Image {
        /// Folder that keeps the archive
        #[arg(long, default_value = "target/image")]
        folder: PathBuf,
        /// Build it although it is there, to get the distribution's newest packages
        #[arg(long)]
        rebuild: bool,
    },
}

fn main() -> ExitCode {
    let result = match Cli::parse().task {
        Task::Tidy => progress::step("tidy", tidy::run),
        Task::Image { folder, rebuild } => progress::step("default image", || {
            image::ensure(&folder, rebuild).map(drop)
        }),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
