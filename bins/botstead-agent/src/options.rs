//! The command line. Parsed by hand: two flags and a number do not pay for a parser's size in a
//! binary that every workspace maps.

use std::ffi::OsString;
use std::time::Duration;

/// What `--help` prints.
pub(crate) const HELP: &str = "\
PID 1 of a Botstead workspace: reaps orphans and ends on SIGTERM or SIGINT.

Usage: botstead-agent [--grace-ms MILLISECONDS]

  --grace-ms N  time between SIGTERM and SIGKILL to the other processes (default 2000);
                a second SIGTERM or SIGINT ends it early
  --help        this text
  --version     the version

As a helper on the host: botstead-agent thaw-guard";

const DEFAULT_GRACE: Duration = Duration::from_millis(2000);

/// How to run.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Options {
    /// Time that the other processes have between SIGTERM and SIGKILL.
    pub(crate) grace: Duration,
}

/// What the command line asks for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Request {
    Help,
    Version,
    Run(Options),
}

/// Reads the arguments, without the program's name.
pub(crate) fn parse(arguments: impl Iterator<Item = OsString>) -> Result<Request, String> {
    let mut grace = DEFAULT_GRACE;
    let mut arguments = arguments;
    while let Some(argument) = arguments.next() {
        match argument.to_str() {
            Some("--help" | "-h") => return Ok(Request::Help),
            Some("--version" | "-V") => return Ok(Request::Version),
            Some("--grace-ms") => {
                let value = arguments.next().unwrap_or_default();
                let milliseconds = value
                    .to_str()
                    .and_then(|text| text.parse().ok())
                    .ok_or_else(|| format!("--grace-ms takes milliseconds, not {value:?}"))?;
                grace = Duration::from_millis(milliseconds);
            }
            _ => return Err(format!("unknown argument {argument:?}")),
        }
    }
    Ok(Request::Run(Options { grace }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(arguments: &[&str]) -> Result<Request, String> {
        parse(arguments.iter().map(OsString::from))
    }

    #[test]
    fn reads_each_form() {
        let run = |milliseconds| {
            Ok(Request::Run(Options {
                grace: Duration::from_millis(milliseconds),
            }))
        };
        assert_eq!(parsed(&[]), run(2000));
        assert_eq!(parsed(&["--grace-ms", "50"]), run(50));
        assert_eq!(parsed(&["--help"]), Ok(Request::Help));
        assert_eq!(parsed(&["--grace-ms", "5", "-V"]), Ok(Request::Version));
    }

    #[test]
    fn refuses_what_it_does_not_know() {
        for arguments in [
            &["--grace-ms"][..],
            &["--grace-ms", "-1"],
            &["--grace-ms", "soon"],
            &["serve"],
        ] {
            assert!(parsed(arguments).is_err(), "{arguments:?}");
        }
    }
}
