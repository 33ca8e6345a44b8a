//! Programs that the server runs: the OCI runtime and the agent.

use super::{Check, version_numbers};
use crate::config::Config;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What `program --version` prints, or why it cannot be run.
pub(super) fn version_output(program: &Path) -> Result<String, String> {
    let output = Command::new(program)
        .arg("--version")
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("cannot run {}: {error}", program.display()))?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(format!(
            "{} --version: {}",
            program.display(),
            output.status
        ))
    }
}

pub(super) fn runc(config: &Config) -> Check {
    let program = &config.runtime.containerd.runc_binary;
    let output = version_output(program);
    let changes = changes_of_package(program);
    judge_runc(
        output.as_deref().map_err(String::as_str),
        changes.as_deref(),
    )
}

/// An escape from containers through runc that is known, and the first releases without it: one for
/// each line of releases that got a correction, the oldest line first. A line that is not there got
/// none, unless it is newer than all.
struct Escape {
    names: &'static [&'static str],
    corrected: &'static [[u64; 3]],
}

const ESCAPES: &[Escape] = &[
    // github.com/opencontainers/runc/security/advisories
    Escape {
        names: &["CVE-2024-21626"],
        corrected: &[[1, 1, 12]],
    },
    Escape {
        names: &["CVE-2025-31133", "CVE-2025-52565", "CVE-2025-52881"],
        corrected: &[[1, 2, 8], [1, 3, 3]],
    },
];

impl Escape {
    /// Whether the release of this number is without it.
    fn is_corrected_in(&self, version: &[u64]) -> bool {
        let line = |version: &[u64]| version.iter().take(2).copied().collect::<Vec<_>>();
        let same = self
            .corrected
            .iter()
            .find(|it| line(&it[..]) == line(version));
        match (same, self.corrected.last()) {
            (Some(corrected), _) => version >= &corrected[..],
            (None, Some(newest)) => version > &newest[..],
            (None, None) => false,
        }
    }
}

/// What is known of the program's distribution package, as its changelog: distributions correct
/// faults without the release's number changing. None where the program is of no package.
fn changes_of_package(program: &Path) -> Option<String> {
    let path = match program.is_absolute() {
        true => program.to_owned(),
        false => find_in_path(program)?,
    };
    let path = std::fs::canonicalize(path).ok()?;
    let owner = Command::new("dpkg-query")
        .arg("-S")
        .arg(&path)
        .output()
        .ok()?;
    let owner = String::from_utf8(owner.stdout).ok()?;
    let (package, _) = owner.split_once(':')?;
    let log = format!("/usr/share/doc/{package}/changelog.Debian.gz");
    // A package without a changelog is one of which nothing is known.
    let unpacked = Command::new("gzip").args(["-dc", &log]).output().ok();
    let text = unpacked.filter(|output| output.status.success());
    Some(text.map_or_else(String::new, |output| {
        String::from_utf8_lossy(&output.stdout).into_owned()
    }))
}

fn find_in_path(name: &Path) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let mut candidates = std::env::split_paths(&path).map(|folder| folder.join(name));
    candidates.find(|candidate| candidate.is_file())
}

/// `changes` is the changelog of the distribution's package, where it is of one.
fn judge_runc(output: Result<&str, &str>, changes: Option<&str>) -> Check {
    let output = match output {
        Ok(output) => output,
        Err(error) => {
            let advice = "install it (apt install runc) or set runtime.containerd.runc_binary";
            return Check::fail("runc", error, advice);
        }
    };
    // `runc version 1.1.5+ds1`; crun says `crun version 1.8.1`.
    let first = output.lines().next().unwrap_or_default().trim();
    let version = version_numbers(first.rsplit(' ').next().unwrap_or_default());
    if !first.starts_with("runc ") {
        return Check::ok("runc", first);
    }
    if version < vec![1, 0] {
        return Check::fail("runc", first, "install runc 1.0 or newer");
    }
    let open: Vec<&str> = ESCAPES
        .iter()
        .filter(|escape| !escape.is_corrected_in(&version))
        .flat_map(|escape| escape.names)
        .copied()
        .filter(|name| !changes.is_some_and(|changes| changes.contains(name)))
        .collect();
    if open.is_empty() {
        return Check::ok("runc", first);
    }
    let open = open.join(", ");
    match changes {
        None => Check::fail(
            "runc",
            format!("{first} lets workspaces out to the host: {open}"),
            "install runc 1.2.8, 1.3.3 or newer",
        ),
        Some(_) => Check::warn(
            "runc",
            format!("{first}: its package's changelog does not say that {open} are corrected"),
            "install updates (apt-get update && apt-get install --only-upgrade runc); \
             security-tracker.debian.org and ubuntu.com/security tell which package has them, \
             else set runtime.containerd.runc_binary to runc 1.2.8, 1.3.3 or newer",
        ),
    }
}

pub(super) fn agent(config: &Config) -> Check {
    let configured = config.workspace.agent_path.clone();
    let path = configured.unwrap_or_else(beside_this_program);
    let advice = "build it with cargo xtask up, or set workspace.agent_path";
    let shown = path.display();
    let mut file = match File::open(&path) {
        Ok(file) => file,
        Err(error) => return Check::fail("agent", format!("{shown}: {error}"), advice),
    };
    let mode = file.metadata().map_or(0, |m| m.permissions().mode());
    if mode & 0o111 == 0 {
        return Check::fail("agent", format!("{shown} is not executable"), advice);
    }
    let mut head = Vec::new();
    let read = (&mut file).take(64 << 10).read_to_end(&mut head);
    match read.ok().and_then(|_| is_static(&head)) {
        Some(true) => Check::ok("agent", shown.to_string()),
        Some(false) => Check::fail(
            "agent",
            format!("{shown} is not linked statically"),
            "it must run in any image: build it with cargo xtask up",
        ),
        None => Check::fail(
            "agent",
            format!("{shown} is not a 64-bit Linux program"),
            advice,
        ),
    }
}

fn beside_this_program() -> PathBuf {
    let program = std::env::current_exe().unwrap_or_default();
    program.with_file_name("botstead-agent")
}

/// Whether a 64-bit little-endian ELF program asks for no interpreter (elf(5): PT_INTERP); none
/// when it is no such program.
fn is_static(head: &[u8]) -> Option<bool> {
    const PT_INTERP: u32 = 3;
    let u16_at = |at: usize| Some(u16::from_le_bytes(head.get(at..at + 2)?.try_into().ok()?));
    let u32_at = |at: usize| Some(u32::from_le_bytes(head.get(at..at + 4)?.try_into().ok()?));
    let u64_at = |at: usize| Some(u64::from_le_bytes(head.get(at..at + 8)?.try_into().ok()?));
    if !head.starts_with(b"\x7fELF\x02\x01") {
        return None;
    }
    let table = usize::try_from(u64_at(32)?).ok()?;
    let (size, count) = (usize::from(u16_at(54)?), usize::from(u16_at(56)?));
    for index in 0..count {
        let entry = table.checked_add(size.checked_mul(index)?)?;
        entry.checked_add(4)?;
        if u32_at(entry)? == PT_INTERP {
            return Some(false);
        }
    }
    Some(true)
}

#[cfg(test)]
mod tests {
    use super::super::Status;
    use super::*;

    #[test]
    fn runc_is_judged_by_its_version() {
        for (output, status) in [
            (Ok("runc version 1.3.3\ncommit: x\n"), Status::Ok),
            (Ok("runc version 1.2.8\n"), Status::Ok),
            (Ok("runc version 1.4.0\n"), Status::Ok),
            (Ok("runc version 1.3.2\n"), Status::Fail),
            (Ok("runc version 1.2.7\n"), Status::Fail),
            (Ok("runc version 1.1.14\n"), Status::Fail),
            (Ok("runc version 1.1.5+ds1\n"), Status::Fail),
            (Ok("crun version 0.17\n"), Status::Ok),
            (Ok("runc version 0.1.1\n"), Status::Fail),
            (Err("cannot run runc: not found"), Status::Fail),
        ] {
            assert_eq!(judge_runc(output, None).status, status, "{output:?}");
        }
        let check = judge_runc(Ok("runc version 1.1.14\n"), None);
        assert!(!check.detail.contains("CVE-2024-21626"), "{check:?}");
        assert!(check.detail.contains("CVE-2025-31133"), "{check:?}");
    }

    #[test]
    fn what_a_distribution_corrected_counts_and_what_is_not_known_is_said() {
        let old = "* CVE-2024-21626: several container breakouts";
        let new = "* CVE-2025-31133, CVE-2025-52565, CVE-2025-52881: breakouts";
        let judge = |changes: &str| judge_runc(Ok("runc version 1.1.5+ds1\n"), Some(changes));
        let all = judge(&format!("{new}\n{old}"));
        assert_eq!(
            (all.status, &*all.detail),
            (Status::Ok, "runc version 1.1.5+ds1")
        );
        let some = judge(old);
        assert_eq!(some.status, Status::Warn);
        assert!(!some.detail.contains("CVE-2024-21626"), "{some:?}");
        assert!(some.detail.contains("CVE-2025-52881"), "{some:?}");
        assert_eq!(judge("").status, Status::Warn);
    }

    #[test]
    fn a_program_of_no_package_has_no_changelog() {
        let own = std::env::current_exe().unwrap();
        assert_eq!(changes_of_package(&own), None);
        assert_eq!(changes_of_package(Path::new("does-not-exist")), None);
    }

    #[test]
    fn static_programs_are_told_from_dynamic_ones() {
        // This test itself is linked dynamically.
        let own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        assert_eq!(is_static(&own[..64 << 10]), Some(false));
        // The same without program headers asks for no interpreter.
        let mut none = own[..64].to_vec();
        none[56] = 0;
        none[57] = 0;
        assert_eq!(is_static(&none), Some(true));
        // Cut off, or no program at all.
        assert_eq!(is_static(&own[..64]), None);
        assert_eq!(is_static(b"#!/bin/sh\n"), None);
        assert_eq!(is_static(b""), None);
        let mut hostile = own[..64].to_vec();
        hostile[32..40].fill(0xff);
        assert_eq!(is_static(&hostile), None);
    }

    #[test]
    fn what_cannot_be_run_is_named() {
        let error = version_output(Path::new("/does/not/exist")).unwrap_err();
        assert!(error.contains("/does/not/exist"), "{error}");
        let error = version_output(Path::new("false")).unwrap_err();
        assert!(error.contains("exit status: 1"), "{error}");
    }
}
