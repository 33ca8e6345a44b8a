//! `cargo xtask fuzz`: compiles the fuzz targets with libFuzzer and runs them one after the other.
//!
//! A target is a program in `fuzz/src/bin`; nothing else names it. The compiler is the stable one:
//! LLVM adds the reports of coverage that libFuzzer steers by.

use crate::apt::{self, Need, need};
use crate::progress::{note, step};
use crate::{build, command, repository};
use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::process::Command;

/// What compiling takes: libFuzzer is C++.
const NEEDS: &[Need] = &[
    need("g++", "g++"),
    need("gcc", "cc"),
    need("protobuf-compiler", "protoc"),
];

/// Every edge is counted, and what is compared is reported, so that the fuzzer finds the bytes that a
/// comparison wants.
const COVERAGE: &str = "-Cpasses=sancov-module \
    -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares";

/// How long inputs are, at first and then: a mutation of a short one is more likely to mean something,
/// and some rules are about long ones.
const MOST_BYTES: [u32; 2] = [128, 8192];

/// Runs the targets of these names, all without any, each for so many seconds.
pub(crate) fn run(names: &[String], seconds: u32) -> Result<()> {
    let known = targets()?;
    if let Some(unknown) = names.iter().find(|name| !known.contains(name)) {
        bail!(
            "there is no fuzz target {unknown}; there are: {}",
            known.join(", ")
        );
    }
    let chosen = if names.is_empty() { &known[..] } else { names };
    step("packages to build with", || apt::ensure(NEEDS))?;
    let folder = repository::target().join("fuzz");
    let programs = step("build with libFuzzer", || compile(&folder))?;
    for name in chosen {
        step(&format!("fuzz {name} for {seconds} s"), || {
            fuzz(name, &programs.join(name), &folder, seconds)
        })?;
    }
    Ok(())
}

/// The names of all targets.
fn targets() -> Result<Vec<String>> {
    let folder = repository::root().join("fuzz/src/bin");
    let entries =
        std::fs::read_dir(&folder).with_context(|| format!("cannot list {}", folder.display()))?;
    let mut names = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if let (Some(name), Some("rs")) =
            (path.file_stem(), path.extension().and_then(|e| e.to_str()))
        {
            names.push(name.to_string_lossy().into_owned());
        }
    }
    names.sort();
    Ok(names)
}

/// Compiles all targets and gives the folder with their programs.
fn compile(folder: &Path) -> Result<PathBuf> {
    let triple = build::host_triple()?;
    let flags = std::env::var("RUSTFLAGS").unwrap_or_default();
    command::run(
        repository::cargo()
            .env("RUSTFLAGS", format!("{flags} {COVERAGE}"))
            .env_remove("CARGO_ENCODED_RUSTFLAGS")
            .args(["build", "--locked", "--profile", "fuzz"])
            // Other flags, other files. And with an explicit target, the flags do not concern build
            // scripts and procedural macros, which have no libFuzzer to report to.
            .arg("--target-dir")
            .arg(folder)
            .args(["--target", &triple, "--package", "botstead-fuzz"])
            .args(["--features", "libfuzzer", "--bins"]),
        "the message above; a missing compiler comes with `apt-get install g++`",
    )?;
    Ok(folder.join(triple).join("fuzz"))
}

/// Runs one target. Inputs that reach something new are kept for the next time.
fn fuzz(name: &str, program: &Path, folder: &Path, seconds: u32) -> Result<()> {
    let kept = folder.join("corpus").join(name);
    let failures = folder.join("failures").join(name);
    for folder in [&kept, &failures] {
        std::fs::create_dir_all(folder)
            .with_context(|| format!("cannot make {}", folder.display()))?;
    }
    let share = seconds.div_ceil(MOST_BYTES.len() as u32);
    for most_bytes in MOST_BYTES {
        let before = files(&failures)?;
        let result = command::run(
            Command::new(program)
                .arg(&kept)
                .arg(format!("-artifact_prefix={}/", failures.display()))
                .arg(format!("-max_total_time={share}"))
                .arg(format!("-max_len={most_bytes}"))
                .args(["-timeout=10", "-rss_limit_mb=2048", "-print_final_stats=1"]),
            "what libFuzzer says above",
        );
        let mut found = files(&failures)?;
        found.retain(|file| !before.contains(file));
        if let Some(file) = found.first() {
            return result.with_context(|| {
                format!(
                    "the target {name} failed on {file}; again: cargo run --package botstead-fuzz \
                     --bin {name} -- {file}",
                    file = file.display()
                )
            });
        }
        result?;
    }
    note(format_args!("{} inputs are kept", files(&kept)?.len()));
    Ok(())
}

fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries =
        std::fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?;
    let mut paths = entries
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<Vec<_>>>()?;
    paths.sort();
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_found_by_their_files() {
        assert!(targets().unwrap().contains(&"path".to_owned()));
    }

    #[test]
    fn an_unknown_target_is_named() {
        let error = run(&["nothing".to_owned()], 1).unwrap_err().to_string();
        assert!(
            error.contains("nothing") && error.contains("path"),
            "{error}"
        );
    }
}
