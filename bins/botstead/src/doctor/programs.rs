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
    let output = version_output(&config.runtime.containerd.runc_binary);
    judge_runc(output.as_deref().map_err(String::as_str))
}

fn judge_runc(output: Result<&str, &str>) -> Check {
    let output = match output {
        Ok(output) => output,
        Err(error) => {
            let advice = "install it (apt install runc) or set runtime.containerd.runc_binary";
            return Check::fail("runc", error, advice);
        }
    };
    // `runc version 1.1.5+ds1`; crun says `crun version 1.8.1`.
    let first = output.lines().next().unwrap_or_default().trim();
    let version = first.rsplit(' ').next().unwrap_or_default();
    if first.starts_with("runc ") && version_numbers(version) < vec![1, 0] {
        Check::fail("runc", first, "install runc 1.0 or newer")
    } else {
        Check::ok("runc", first)
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
            format!("{shown} is no 64-bit Linux program"),
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
            (Ok("runc version 1.1.5+ds1\ncommit: x\n"), Status::Ok),
            (Ok("crun version 0.17\n"), Status::Ok),
            (Ok("runc version 0.1.1\n"), Status::Fail),
            (Err("cannot run runc: not found"), Status::Fail),
        ] {
            assert_eq!(judge_runc(output).status, status, "{output:?}");
        }
        assert_eq!(
            judge_runc(Ok("runc version 1.1.5+ds1\ncommit: x\n")).detail,
            "runc version 1.1.5+ds1"
        );
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
