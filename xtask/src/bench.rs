//! `cargo xtask bench`: builds everything in release mode, measures, and writes docs/BENCHMARKS.md.

use crate::apt::{self, Need, need};
use crate::progress::{note, step};
use crate::{build, command, repository};
use anyhow::{Result, bail};
use std::path::{Path, PathBuf};
use std::process::Command;

/// What building and measuring take.
const NEEDS: &[Need] = &[
    need("containerd", "containerd"),
    need("runc", "runc"),
    need("nftables", "nft"),
    need("protobuf-compiler", "protoc"),
    need("gcc", "cc"),
    need("libc6-dev", "ldd"),
    need("busybox-static", "busybox"),
];

/// What can be measured, one name a line.
const MEASUREMENTS: &str = include_str!("../../bench/measurements.txt");

/// Measures what `filters` name, all without any. Only a complete measurement is written down.
pub(crate) fn run(quick: bool, against: Option<&Path>, filters: &[String]) -> Result<()> {
    if let Some(other) = against
        && !other.is_file()
    {
        bail!("{} is no program", other.display());
    }
    // A release build takes many minutes.
    let is_known = |filter: &&String| MEASUREMENTS.lines().any(|name| name.contains(*filter));
    if let Some(unknown) = filters.iter().find(|filter| !is_known(filter)) {
        bail!("nothing is called {unknown:?}; there is:\n{MEASUREMENTS}");
    }
    if !nix::unistd::geteuid().is_root() {
        bail!("`cargo xtask bench` starts containers and must run as root");
    }
    step("packages", || apt::ensure(NEEDS))?;
    let (server, bench) = step("build server and bench", build_both)?;
    let agent = step("build the agent", build::agent)?;
    let report = repository::root().join("docs/BENCHMARKS.md");
    let complete = !quick && filters.is_empty();
    step("measure", || {
        let mut measure = Command::new(bench);
        measure
            .arg("--server")
            .arg(server)
            .arg("--agent")
            .arg(agent);
        if let Some(other) = against {
            measure.arg("--against").arg(other);
        }
        if complete {
            measure.arg("--report").arg(&report);
        }
        if quick {
            measure.arg("--quick");
        }
        command::run(
            measure.args(filters),
            "the end of the server's log above; a quiet machine for figures that count",
        )
    })?;
    note(match complete {
        true => "docs/BENCHMARKS.md is written",
        false => "docs/BENCHMARKS.md stays: only a complete measurement is written down",
    });
    Ok(())
}

/// In one call, so that the crates that both use are built once.
fn build_both() -> Result<(PathBuf, PathBuf)> {
    command::run(
        repository::cargo()
            .args(["build", "--locked", "--release"])
            .args(["--package", "botstead", "--package", "botstead-bench"]),
        build::ADVICE,
    )?;
    let release = repository::target().join("release");
    Ok((release.join("botstead"), release.join("botstead-bench")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_measures_nothing_is_refused_before_anything_is_built() {
        let refused = run(true, None, &["no-such".to_owned()]).unwrap_err();
        let told = refused.to_string();
        assert!(
            told.contains("no-such") && told.contains("stop-start"),
            "{told}"
        );
    }
}
