//! `thaw-guard`: writes a text into a file unless told in time that it need not. The server starts it
//! before it freezes a workspace, so that a server that dies or gets stuck leaves nobody frozen.
//!
//! An ordinary process of the host, in a session of its own: what ends the server's does not end it.
//! Reads its standard input. Any byte means that all is well: it exits with 0 and has not written. The
//! end of the input, or no byte within the time, means that the server is gone or stuck: it writes, and
//! exits with [`FIRED`]. It does one of the two, never both.

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::SigSet;
use nix::unistd::{read, setsid};
use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// The exit code after writing; 0 is for not having written, 1 and 2 for failures.
const FIRED: u8 = 3;

/// What it prints once nothing can hinder it any more.
const ARMED: &str = "armed\n";

/// Between two attempts to write. The file of a control group refuses for a moment at most.
const AGAIN: Duration = Duration::from_millis(10);
const ATTEMPTS: u32 = 100;

pub(crate) const HELP: &str = "\
Usage: botstead-agent thaw-guard --file PATH --write TEXT --after-ms N

Writes TEXT into PATH when standard input ends, or after N milliseconds, unless it reads a byte first.";

/// Runs the subcommand, whose arguments these are.
pub(crate) fn main(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let began = Instant::now();
    let options = match parse(arguments) {
        Ok(options) => options,
        Err(message) => {
            eprintln!("botstead-agent thaw-guard: {message}\n\n{HELP}");
            return ExitCode::from(2);
        }
    };
    match guard(&options, began) {
        Ok(false) => ExitCode::SUCCESS,
        Ok(true) => ExitCode::from(FIRED),
        Err(error) => {
            eprintln!("botstead-agent thaw-guard: {error}");
            ExitCode::FAILURE
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Options {
    file: PathBuf,
    text: OsString,
    after: Duration,
}

fn parse(mut arguments: impl Iterator<Item = OsString>) -> Result<Options, String> {
    let (mut file, mut text, mut after) = (None, None, None);
    while let Some(argument) = arguments.next() {
        let mut value = || {
            arguments
                .next()
                .ok_or(format!("{argument:?} needs a value"))
        };
        match argument.to_str() {
            Some("--file") => file = Some(PathBuf::from(value()?)),
            Some("--write") => text = Some(value()?),
            Some("--after-ms") => {
                let value = value()?;
                let number = value.to_str().and_then(|text| text.parse().ok());
                let number =
                    number.ok_or(format!("--after-ms takes milliseconds, not {value:?}"))?;
                after = Some(Duration::from_millis(number));
            }
            _ => return Err(format!("unknown argument {argument:?}")),
        }
    }
    match (file, text, after) {
        (Some(file), Some(text), Some(after)) => Ok(Options { file, text, after }),
        _ => Err("--file, --write and --after-ms are all needed".to_owned()),
    }
}

/// Waits, and tells whether it wrote.
fn guard(options: &Options, began: Instant) -> io::Result<bool> {
    match setsid() {
        // Whoever started it gave it a session already.
        Ok(_) | Err(Errno::EPERM) => {}
        Err(error) => return Err(error.into()),
    }
    // What ends a whole group or session is not meant for the one who has to clean up after it.
    SigSet::all().thread_block()?;
    // Opened now: later the path may mean something else.
    let mut file = OpenOptions::new().write(true).open(&options.file)?;
    let mut output = io::stdout();
    output.write_all(ARMED.as_bytes())?;
    output.flush()?;
    if is_called_off(began + options.after)? {
        return Ok(false);
    }
    write(&mut file, options.text.as_encoded_bytes())?;
    Ok(true)
}

/// Waits for a byte; false when the input ends or time runs out first.
fn is_called_off(deadline: Instant) -> io::Result<bool> {
    let input = io::stdin();
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        // Rounded up: to be a little late is right, to turn in circles is not.
        let left = left + Duration::from_micros(999);
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        match poll(
            &mut [PollFd::new(input.as_fd(), PollFlags::POLLIN)],
            timeout,
        ) {
            Ok(0) if Instant::now() >= deadline => return Ok(false),
            Ok(0) | Err(Errno::EINTR) => continue,
            Ok(_) => {}
            Err(error) => return Err(error.into()),
        }
        match read(input.as_fd(), &mut [0]) {
            Ok(length) => return Ok(length > 0),
            Err(Errno::EINTR | Errno::EAGAIN) => {}
            // Nobody can call it off any more.
            Err(_) => return Ok(false),
        }
    }
}

fn write(file: &mut File, text: &[u8]) -> io::Result<()> {
    let mut attempt = 1;
    loop {
        match file.write_all(text) {
            Err(_) if attempt < ATTEMPTS => {
                attempt += 1;
                std::thread::sleep(AGAIN);
            }
            written => return written,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(arguments: &[&str]) -> Result<Options, String> {
        parse(arguments.iter().map(OsString::from))
    }

    #[test]
    fn reads_its_arguments_in_any_order() {
        let options = Options {
            file: "/f".into(),
            text: "THAWED".into(),
            after: Duration::from_millis(2000),
        };
        let arguments = ["--after-ms", "2000", "--file", "/f", "--write", "THAWED"];
        assert_eq!(parsed(&arguments), Ok(options));
    }

    #[test]
    fn refuses_what_is_missing_or_unknown() {
        for arguments in [
            &["--file", "/f", "--write", "x"][..],
            &["--file", "/f", "--after-ms", "1"],
            &["--file", "/f", "--write", "x", "--after-ms"],
            &["--file", "/f", "--write", "x", "--after-ms", "-1"],
            &["--file", "/f", "--write", "x", "--after-ms", "1", "more"],
        ] {
            assert!(parsed(arguments).is_err(), "{arguments:?}");
        }
    }
}
