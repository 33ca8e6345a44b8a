//! PID 1 of every workspace: reaps orphans and ends on SIGTERM.
//!
//! A static program without threads that sleeps in `poll` until a signal arrives. It makes
//! `/data`, starts nothing and serves nothing: commands run through the runtime's exec, and files, commands and terminals
//! of its own come with the agent protocol. The waiting for children is in [`init`], in one place.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program that reports to whoever started it"
)]

mod init;
mod options;
mod thaw_guard;

use options::Request;
use std::process::ExitCode;

const DATA: &str = "/data";

fn main() -> ExitCode {
    // A helper of the server on the host, which has nothing to do with being PID 1.
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().is_some_and(|first| first == "thaw-guard") {
        return thaw_guard::main(arguments);
    }
    let options = match options::parse(std::env::args_os().skip(1)) {
        Ok(Request::Help) => {
            println!("{}", options::HELP);
            return ExitCode::SUCCESS;
        }
        Ok(Request::Version) => {
            println!("botstead-agent {}", env!("CARGO_PKG_VERSION"));
            return ExitCode::SUCCESS;
        }
        Ok(Request::Run(options)) => options,
        Err(message) => {
            eprintln!("botstead-agent: {message}\n\n{}", options::HELP);
            return ExitCode::from(2);
        }
    };
    // Ending means a signal to every process that can be seen, which is right for the init of a
    // process namespace only.
    if std::process::id() != 1 {
        eprintln!("botstead-agent: must run as PID 1 of a process namespace of its own");
        return ExitCode::from(2);
    }
    match init::run(options.grace, make_data_folder) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("botstead-agent: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The folder of the bot's own files. Without it commands have no place to start in, which the one
/// who runs one is told; ending here would take the whole workspace away.
fn make_data_folder() {
    if let Err(error) = std::fs::create_dir_all(DATA) {
        eprintln!("botstead-agent: cannot make {DATA}: {error}");
    }
}
