//! PID 1 of every workspace, and what else runs from the same file inside one: a subcommand each.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program that reports to whoever started it"
)]

mod thaw_guard;

use botstead_agent::options::{self, HELP, Request};
use botstead_agent::serve;
use std::process::ExitCode;

fn main() -> ExitCode {
    // A helper of the server on the host, which has nothing to do with being PID 1.
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().is_some_and(|first| first == "thaw-guard") {
        return thaw_guard::main(arguments);
    }
    match options::parse(std::env::args_os().skip(1)) {
        Ok(Request::Help) => {
            println!("{HELP}");
            ExitCode::SUCCESS
        }
        Ok(Request::Version) => {
            println!("botstead-agent {}", env!("CARGO_PKG_VERSION"));
            ExitCode::SUCCESS
        }
        Ok(Request::Serve(options)) => {
            // Ending means a signal to every process that can be seen, which is right for the init
            // of a process namespace only.
            if std::process::id() != 1 {
                eprintln!("botstead-agent: must run as PID 1 of a process namespace of its own");
                return ExitCode::from(2);
            }
            match serve::run(&options) {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => {
                    eprintln!("botstead-agent: {error}");
                    ExitCode::FAILURE
                }
            }
        }
        Err(message) => {
            eprintln!("botstead-agent: {message}\n\n{HELP}");
            ExitCode::from(2)
        }
    }
}
