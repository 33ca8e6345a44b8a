//! `cargo xtask ci`: everything that must hold before a change lands, the quick checks first.

use crate::progress::{note, step};
use crate::testing::{self, Version};
use crate::{apt, command, openapi, repository, tidy};
use anyhow::Result;

/// What the checks build with.
const NEEDS: &[apt::Need] = &[
    apt::need("protobuf-compiler", "protoc"),
    apt::need("gcc", "cc"),
];

/// Runs every check, and stops at the first that fails.
pub(crate) fn run() -> Result<()> {
    let cargo = |arguments: &[&str], advice: &str| {
        command::run(repository::cargo().args(arguments), advice)
    };
    step("packages to build with", || apt::ensure(NEEDS))?;
    step("format", || {
        cargo(&["fmt", "--all", "--check"], "cargo fmt --all")
    })?;
    step("tidy", tidy::run)?;
    step("licences and duplicates", || {
        if !command::exists("cargo-deny") {
            note("cargo-deny is not installed: left out (cargo install --locked cargo-deny)");
            return Ok(());
        }
        // Advisories need a database from the network, which a build machine may not reach.
        cargo(
            &["deny", "check", "bans", "licenses", "sources"],
            "deny.toml, for what the message names",
        )
    })?;
    step("clippy", || {
        cargo(
            &[
                "clippy",
                "--locked",
                "--workspace",
                "--all-targets",
                "--",
                "-D",
                "warnings",
            ],
            "what clippy suggests above",
        )
    })?;
    step("documentation", || {
        command::run(
            repository::cargo()
                .env("RUSTDOCFLAGS", "-D warnings")
                .args(["doc", "--locked", "--workspace", "--no-deps"]),
            "what rustdoc names above",
        )
    })?;
    step("OpenAPI document", || openapi::run(true))?;
    testing::run(&[])?;
    testing::run_matrix(&[Version::V2_1], &[])
}
