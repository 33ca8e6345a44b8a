//! Runs `nft` and `iptables`, in the namespace of the calling thread.

use std::ffi::OsString;
use std::io::{self, Write};
use std::process::{Command, Stdio};

/// Why a command gave no output.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// It is not installed.
    #[error("the command {0} is not installed")]
    Missing(&'static str),
    /// It could not be run.
    #[error("cannot run {0}")]
    Run(&'static str, #[source] io::Error),
    /// It ended with an error: its own words.
    #[error("{0} failed: {1}")]
    Refused(&'static str, String),
}

/// Runs a command to its end and gives what it printed.
pub(crate) fn run(
    program: &'static str,
    arguments: &[&str],
    input: Option<&str>,
) -> Result<String, Failure> {
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => Failure::Missing(program),
        _ => Failure::Run(program, error),
    };
    let mut child = Command::new(program)
        .args(arguments)
        // Users' and services' search paths often lack the administrator's directories.
        .env("PATH", search_path())
        .env("LC_ALL", "C")
        .stdin(if input.is_some() {
            Stdio::piped()
        } else {
            Stdio::null()
        })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    if let (Some(mut stdin), Some(input)) = (child.stdin.take(), input) {
        // One that ends early says why itself.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output().map_err(failed)?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        let words = String::from_utf8_lossy(&output.stderr);
        Err(Failure::Refused(program, words.trim().to_owned()))
    }
}

pub(crate) fn search_path() -> OsString {
    let mut path = std::env::var_os("PATH").unwrap_or_default();
    path.push(":/usr/local/sbin:/usr/sbin:/sbin");
    path
}
