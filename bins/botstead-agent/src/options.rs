//! The command line. Parsed by hand: a few flags do not pay for a parser's size in a binary that
//! every workspace maps.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

/// What `--help` prints.
pub const HELP: &str = "\
PID 1 of a Botstead workspace: serves files, commands and terminals to the server, reaps orphans,
and ends on SIGTERM or SIGINT.

Usage: botstead-agent [serve] [OPTIONS]

  --socket PATH    the unix socket to serve on, for peers outside of the workspace only; without it
                   nothing is served
  --user USER      who commands run as and who owns new files: a name, a number, or either with
                   `:group` (default 0:0)
  --grace-ms N     time between SIGTERM and SIGKILL to the other processes (default 2000);
                   a second SIGTERM or SIGINT ends it early
  --template DIR   files to put into /data at the first start, where they are missing
  --toolkit DIR    its folder `bin` is appended to PATH
  --timezone-rule RULE
                   what commands get as TZ where the image does not have the zone that TZ names
  --help           this text
  --version        the version

As a helper on the host: botstead-agent thaw-guard";

const DEFAULT_GRACE: Duration = Duration::from_millis(2000);

/// How to serve as PID 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Where to serve.
    pub socket: Option<PathBuf>,
    /// Who commands run as; empty is 0:0.
    pub user: String,
    /// Time that the other processes have between SIGTERM and SIGKILL.
    pub grace: Duration,
    /// Files for the first start.
    pub template: Option<PathBuf>,
    /// A folder whose `bin` is appended to PATH.
    pub toolkit: Option<PathBuf>,
    /// The rule of the time zone (tzset(3)), for images that do not have its file.
    pub timezone_rule: Option<OsString>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            socket: None,
            user: String::new(),
            grace: DEFAULT_GRACE,
            template: None,
            toolkit: None,
            timezone_rule: None,
        }
    }
}

/// What the command line asks for. A further subcommand is a further variant, told apart by the
/// first word in [`parse`].
#[derive(Debug, PartialEq, Eq)]
pub enum Request {
    /// Print [`HELP`].
    Help,
    /// Print the version.
    Version,
    /// Be PID 1.
    Serve(Options),
}

/// Reads the arguments, without the program's name.
///
/// # Errors
/// Words for the one who typed them.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Request, String> {
    let mut arguments = arguments.into_iter().peekable();
    // PID 1 is started without a word as well: a subcommand is what does not begin with a dash.
    let subcommand = arguments
        .next_if(|first| !first.as_encoded_bytes().starts_with(b"-"))
        .unwrap_or_else(|| "serve".into());
    match subcommand.to_str() {
        Some("serve") => serve(arguments),
        _ => Err(format!("unknown subcommand {subcommand:?}")),
    }
}

fn serve(mut arguments: impl Iterator<Item = OsString>) -> Result<Request, String> {
    let mut options = Options::default();
    while let Some(argument) = arguments.next() {
        let mut value = |what: &str| {
            arguments
                .next()
                .filter(|value| !value.is_empty())
                .ok_or_else(|| format!("{argument:?} takes {what}"))
        };
        match argument.to_str() {
            Some("--help" | "-h") => return Ok(Request::Help),
            Some("--version" | "-V") => return Ok(Request::Version),
            Some("--socket") => options.socket = Some(absolute(value("a path")?)?),
            Some("--template") => options.template = Some(absolute(value("a folder")?)?),
            Some("--timezone-rule") => options.timezone_rule = Some(value("a rule")?),
            Some("--toolkit") => options.toolkit = Some(absolute(value("a folder")?)?),
            Some("--user") => {
                // An image without a user is passed on as it is.
                let user = arguments.next().ok_or("--user takes a user")?;
                options.user = user
                    .into_string()
                    .map_err(|user| format!("--user takes a name in UTF-8, not {user:?}"))?;
            }
            Some("--grace-ms") => {
                let value = value("milliseconds")?;
                let milliseconds = value
                    .to_str()
                    .and_then(|text| text.parse().ok())
                    .ok_or_else(|| format!("--grace-ms takes milliseconds, not {value:?}"))?;
                options.grace = Duration::from_millis(milliseconds);
            }
            _ => return Err(format!("unknown argument {argument:?}")),
        }
    }
    Ok(Request::Serve(options))
}

fn absolute(path: OsString) -> Result<PathBuf, String> {
    let path = PathBuf::from(path);
    if path.is_absolute() {
        Ok(path)
    } else {
        Err(format!("{path:?} is not an absolute path"))
    }
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
            Ok(Request::Serve(Options {
                grace: Duration::from_millis(milliseconds),
                ..Options::default()
            }))
        };
        assert_eq!(parsed(&[]), run(2000));
        assert_eq!(parsed(&["serve"]), run(2000));
        assert_eq!(parsed(&["--grace-ms", "50"]), run(50));
        assert_eq!(parsed(&["serve", "--grace-ms", "50"]), run(50));
        assert_eq!(parsed(&["--help"]), Ok(Request::Help));
        assert_eq!(parsed(&["--grace-ms", "5", "-V"]), Ok(Request::Version));
        let all = [
            "--socket",
            "/s",
            "--user",
            "bot:bot",
            "--template",
            "/t",
            "--timezone-rule",
            "CET-1CEST",
            "--toolkit",
            "/k",
        ];
        assert_eq!(
            parsed(&all),
            Ok(Request::Serve(Options {
                socket: Some("/s".into()),
                user: "bot:bot".into(),
                template: Some("/t".into()),
                toolkit: Some("/k".into()),
                timezone_rule: Some("CET-1CEST".into()),
                ..Options::default()
            }))
        );
        assert_eq!(parsed(&["--user", ""]), run(2000));
    }

    #[test]
    fn refuses_what_it_does_not_know() {
        for arguments in [
            &["--grace-ms"][..],
            &["--grace-ms", "-1"],
            &["--grace-ms", "soon"],
            &["--socket", "relative"],
            &["--socket"],
            &["--user"],
            &["server"],
            &["serve", "serve"],
        ] {
            assert!(parsed(arguments).is_err(), "{arguments:?}");
        }
    }
}
