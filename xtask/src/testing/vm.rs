//! `cargo xtask test --vm`: the server on whole machines with systemd and cgroup v2, which the
//! machine of the tests may lack. Debian in QEMU, emulated, so that no KVM is needed.
//!
//! The guest installs what was built here by `xtask up`, and runs the checks of `xtask/vm` and the
//! test programs of the crates that know the host, over several boots. The machine begins afresh in
//! every run: nothing is written to its cached image.

mod image;
mod machine;
mod payload;
mod report;

use crate::apt::{self, Need, need};
use crate::progress::{note, step};
use crate::{build, repository};
use anyhow::{Context, Result, bail};
use report::Outcome;
use std::fmt;
use std::fs;

/// What making and running the machines takes.
const NEEDS: &[Need] = &[
    need("mmdebstrap", "mmdebstrap"),
    need("util-linux", "setpriv"),
    need("e2fsprogs", "mkfs.ext4"),
    need("binutils", "strip"),
    need("qemu-system-x86", "qemu-system-x86_64"),
    need("protobuf-compiler", "protoc"),
    need("gcc", "cc"),
    need("libc6-dev", "ldd"),
];

/// The crates whose tests depend on the host's kernel and programs.
const PACKAGES: &[&str] = &[
    "botstead-live-copy",
    "botstead-runtime-containerd",
    "botstead-network-bridge",
];

/// A release of Debian.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Debian {
    /// Debian 12: Linux 6.1, live snapshots by comparison
    Bookworm,
    /// Debian 13: Linux 6.12, live snapshots by the change feed
    Trixie,
}

impl Debian {
    const ALL: &[Self] = &[Self::Bookworm, Self::Trixie];

    fn name(self) -> &'static str {
        match self {
            Self::Bookworm => "bookworm",
            Self::Trixie => "trixie",
        }
    }
}

impl fmt::Display for Debian {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Runs the checks whose names contain one of `filters`, all without any, on these releases or on
/// every one.
pub(crate) fn run(releases: &[Debian], filters: &[String]) -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!("`cargo xtask test --vm` builds images of machines and must run as root");
    }
    if std::env::consts::ARCH != "x86_64" {
        bail!("`cargo xtask test --vm` knows machines of x86_64 alone");
    }
    let releases = match releases {
        [] => Debian::ALL,
        named => named,
    };
    let folder = repository::target().join("vm");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    step("packages for the machines", || apt::ensure(NEEDS))?;
    let images = releases
        .iter()
        .map(|release| {
            step(&format!("image of {release}"), || {
                image::ensure(&folder, *release)
            })
        })
        .collect::<Result<Vec<_>>>()?;
    let parts = payload::Parts {
        server: step("build the server", build::server)?,
        agent: step("build the agent", build::agent)?,
        image: step("default image", || {
            crate::image::ensure(&repository::target().join("image"), false)
        })?,
        tests: step("build the tests", || build::tests(PACKAGES))?,
    };
    let mut outcomes = Vec::new();
    for (release, image) in releases.iter().zip(&images) {
        let results = folder.join(format!("{release}-results"));
        let outcome = step(&format!("checks on {release}"), || {
            let payload = step("payload", || {
                payload::write(&folder, *release, &parts, filters)
            })?;
            machine::run(image, &payload, &results)
        })?;
        outcomes.push((*release, outcome));
    }
    judge(&outcomes)
}

fn judge(outcomes: &[(Debian, Outcome)]) -> Result<()> {
    println!("\n{}", report::table(outcomes));
    let bad: Vec<_> = outcomes
        .iter()
        .filter(|(_, outcome)| !outcome.is_good())
        .map(|(release, _)| release.name())
        .collect();
    if bad.is_empty() {
        note("every check passed");
        return Ok(());
    }
    bail!(
        "checks failed on {}; logs: target/vm/*-results; one alone: cargo xtask test --vm {} -- NAME",
        bad.join(" and "),
        bad[0]
    )
}
