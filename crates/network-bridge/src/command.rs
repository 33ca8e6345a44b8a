//! Runs `nft` and `iptables`, in the namespace of the calling thread.

use std::ffi::OsString;
use std::io::{self, Write};
use std::process::{Command, Stdio};
use std::time::Duration;

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

/// How often a listing is asked for while rules change under it, and how long after the time before.
const LISTINGS: usize = 10;
const LIST_AGAIN: Duration = Duration::from_millis(20);

/// What `nft -j` prints. When rules change while it looks, it can end well and have printed nothing.
pub(crate) fn nft_json(arguments: &[&str]) -> Result<String, Failure> {
    let words: Vec<_> = std::iter::once("-j")
        .chain(arguments.iter().copied())
        .collect();
    whole_listing(|| run("nft", &words, None))
}

fn whole_listing(mut list: impl FnMut() -> Result<String, Failure>) -> Result<String, Failure> {
    for _ in 1..LISTINGS {
        let text = list()?;
        if serde_json::from_str::<serde_json::Value>(&text).is_ok() {
            return Ok(text);
        }
        std::thread::sleep(LIST_AGAIN);
    }
    list()
}

pub(crate) fn search_path() -> OsString {
    let mut path = std::env::var_os("PATH").unwrap_or_default();
    path.push(":/usr/local/sbin:/usr/sbin:/sbin");
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listing_that_broke_off_is_asked_for_again() {
        let mut texts = ["\n", "{\"nftables\": [", "{\"nftables\": []}"].into_iter();
        let listing = whole_listing(|| Ok(texts.next().unwrap().to_owned()));
        assert_eq!(listing.unwrap(), "{\"nftables\": []}");
        assert_eq!(whole_listing(|| Ok("\n".to_owned())).unwrap(), "\n");
        let refused = || Err(Failure::Refused("nft", "no".to_owned()));
        assert!(whole_listing(refused).is_err());
    }
}
