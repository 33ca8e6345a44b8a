//! Builds the two programs in release mode.

use crate::{command, repository};
use anyhow::{Context, Result, bail};
use std::path::PathBuf;

pub(super) const ADVICE: &str = "the message above; a missing linker or protoc comes with \
                      `apt-get install build-essential protobuf-compiler`";

/// Relocations in a form of which one takes a bit instead of 24 bytes: 6 % of the agent. Works with
/// glibc 2.36 or newer.
const PACKED_RELOCATIONS: &str = "-C link-arg=-Wl,-z,pack-relative-relocs";
/// The largest agent, also where its relocations cannot be packed.
const MOST_AGENT_BYTES: usize = 5_100_000;

/// The server's program.
pub(crate) fn server() -> Result<PathBuf> {
    command::run(
        repository::cargo().args(["build", "--locked", "--release", "--package", "botstead"]),
        ADVICE,
    )?;
    Ok(repository::target().join("release/botstead"))
}

/// The agent's program, static, so that it runs in images without any library.
pub(crate) fn agent() -> Result<PathBuf> {
    let triple = host_triple()?;
    let path = repository::target()
        .join(&triple)
        .join("agent/botstead-agent");
    build_agent(&triple, PACKED_RELOCATIONS)?;
    if !runs(&path) {
        // The C library here is older than what its linker can do.
        build_agent(&triple, "")?;
    }
    let program =
        std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    if needs_loader(&program) {
        bail!(
            "{} is not static: it names a program loader",
            path.display()
        );
    }
    if program.len() > MOST_AGENT_BYTES {
        bail!(
            "{} has {} bytes, more than the {MOST_AGENT_BYTES} that every workspace may be asked to map",
            path.display(),
            program.len()
        );
    }
    Ok(path)
}

fn build_agent(triple: &str, more_flags: &str) -> Result<()> {
    // With an explicit target the flags concern the agent alone, not build scripts and procedural
    // macros, which cannot be static; and its files stay apart from other builds.
    let flags = std::env::var("RUSTFLAGS").unwrap_or_default();
    command::run(
        repository::cargo()
            .env(
                "RUSTFLAGS",
                format!("{flags} -C target-feature=+crt-static {more_flags}"),
            )
            .env_remove("CARGO_ENCODED_RUSTFLAGS")
            .args(["build", "--locked", "--profile", "agent"])
            .args(["--package", "botstead-agent", "--target", triple]),
        ADVICE,
    )
}

/// A program of tests.
pub(crate) struct TestProgram {
    /// The folder of its package, such as `live-copy`.
    pub(crate) package: String,
    /// Such as `botstead_live_copy` or `freezer`.
    pub(crate) name: String,
    pub(crate) path: PathBuf,
}

/// The test programs of these packages, as `cargo test` would run them.
pub(crate) fn tests(packages: &[&str]) -> Result<Vec<TestProgram>> {
    let mut cargo = repository::cargo();
    cargo
        .args(["test", "--locked", "--no-run"])
        .arg("--message-format=json-render-diagnostics");
    for package in packages {
        cargo.args(["--package", package]);
    }
    let output = cargo
        .stderr(std::process::Stdio::inherit())
        .output()
        .context("cannot start cargo")?;
    if !output.status.success() {
        bail!("the tests do not build ({}); try: {ADVICE}", output.status);
    }
    let text = String::from_utf8(output.stdout).context("cargo printed no UTF-8")?;
    Ok(text.lines().filter_map(test_program).collect())
}

/// The program that a message of cargo tells of, if it does of one.
fn test_program(message: &str) -> Option<TestProgram> {
    let message: serde_json::Value = serde_json::from_str(message).ok()?;
    message
        .pointer("/profile/test")?
        .as_bool()
        .filter(|test| *test)?;
    let text = |pointer: &str| message.pointer(pointer)?.as_str().map(PathBuf::from);
    let manifest = text("/manifest_path")?;
    let name = |path: &std::path::Path| Some(path.file_name()?.to_str()?.to_owned());
    Some(TestProgram {
        package: name(manifest.parent()?)?,
        name: name(&text("/target/name")?)?,
        path: text("/executable")?,
    })
}

/// Whether the agent starts at all.
fn runs(agent: &std::path::Path) -> bool {
    let version = std::process::Command::new(agent).arg("--version").output();
    version.is_ok_and(|output| output.status.success())
}

/// The triple of this machine, as the compiler calls it.
pub(crate) fn host_triple() -> Result<String> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let text = command::capture(
        std::process::Command::new(rustc)
            .arg("-vV")
            .current_dir(repository::root()),
        "rustup show",
    )?;
    text.lines()
        .find_map(|line| line.strip_prefix("host: "))
        .map(str::to_owned)
        .context("rustc -vV names no host")
}

/// Whether a 64-bit little-endian ELF program has a PT_INTERP segment (elf(5)), or is none at all.
fn needs_loader(program: &[u8]) -> bool {
    const PT_INTERP: u32 = 3;
    let number = |offset: usize, size: usize| -> Option<u64> {
        let bytes = program.get(offset..offset.checked_add(size)?)?;
        Some(
            bytes
                .iter()
                .rev()
                .fold(0, |sum, byte| sum << 8 | u64::from(*byte)),
        )
    };
    let segments = || -> Option<Vec<u32>> {
        if program.get(..6)? != b"\x7fELF\x02\x01" {
            return None;
        }
        let (table, size, count) = (number(32, 8)?, number(54, 2)?, number(56, 2)?);
        (0..count)
            .map(|index| {
                let offset = usize::try_from(table + index * size).ok()?;
                u32::try_from(number(offset, 4)?).ok()
            })
            .collect()
    };
    segments().is_none_or(|kinds| kinds.contains(&PT_INTERP))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_test_programs_among_the_messages() {
        let artifact = r#"{"reason":"compiler-artifact","manifest_path":"/r/crates/live-copy/Cargo.toml",
            "target":{"name":"freezer"},"profile":{"test":true},"executable":"/r/target/debug/deps/freezer-1"}"#;
        let program = test_program(artifact).unwrap();
        assert_eq!(
            (&*program.package, &*program.name),
            ("live-copy", "freezer")
        );
        assert_eq!(
            program.path,
            PathBuf::from("/r/target/debug/deps/freezer-1")
        );
        let library = artifact.replace("\"/r/target/debug/deps/freezer-1\"", "null");
        assert!(test_program(&library).is_none());
        assert!(test_program(r#"{"reason":"build-finished","success":true}"#).is_none());
    }

    #[test]
    fn tells_dynamic_programs() {
        // The test program itself is dynamic on the gnu targets.
        let own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        assert!(needs_loader(&own));
        assert!(needs_loader(b"#!/bin/sh\n"));
        let mut header = vec![0; 64];
        header[..6].copy_from_slice(b"\x7fELF\x02\x01");
        assert!(!needs_loader(&header), "no segment at all");
    }
}
