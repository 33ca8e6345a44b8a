//! The `botstead` program: reads the command line and the configuration, and runs one command.
//!
//! `serve` is built here once the adapters are there. Its order: `process::start_log` and
//! `install_tls_provider`, the main runtime, `Installation::prepare` and `lock`, the store,
//! `Accounts`, the runtime and network adapters, the workspace service and its reconciliation,
//! the HTTP server, and `process::shutdown_signal`, which ends them in reverse.

use anyhow::Context;
use botstead_server::config::{self, Config, Log};
use botstead_server::{admin, doctor, process};
use botstead_types::Role;
use clap::{Args, Parser, Subcommand};
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

/// A computer for every bot: workspaces in containers, with snapshots, behind an HTTP API.
#[derive(Debug, Parser)]
#[command(name = "botstead", version)]
struct Cli {
    /// The configuration file; see docs/CONFIGURATION.md for its keys.
    #[arg(long, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Manage accounts, straight in the database, whether or not the server runs.
    #[command(subcommand)]
    Admin(Admin),
    /// Show the configuration.
    #[command(subcommand)]
    Config(Show),
    /// Check this host and say what to do where something is missing.
    Doctor {
        /// Print JSON instead of a table.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Subcommand)]
enum Admin {
    /// Add a user and print `{"id","username","password"}`.
    CreateUser {
        #[command(flatten)]
        account: Account,
        /// What the user may do: admin or member.
        #[arg(long, default_value_t = Role::Member)]
        role: Role,
        /// The name to show.
        #[arg(long)]
        display_name: Option<String>,
    },
    /// Give a user a new password. It voids their tokens.
    SetPassword {
        #[command(flatten)]
        account: Account,
    },
}

#[derive(Debug, Args)]
struct Account {
    /// The name to sign in with.
    #[arg(long)]
    username: String,
    /// Read the password from standard input instead of making a random one and printing it.
    #[arg(long)]
    password_stdin: bool,
}

#[derive(Debug, Subcommand)]
enum Show {
    /// Print the configuration that is in effect, as TOML.
    Print,
}

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(code) => code,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    let file = cli
        .config
        .or_else(|| std::env::var_os("BOTSTEAD_CONFIG").map(PathBuf::from));
    // Variables that are not UTF-8 cannot be ours.
    let environment = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    let config = config::load(file.as_deref(), environment)?;
    match cli.command {
        Command::Admin(command) => {
            // A command's own words are its answer; the log shows only what goes wrong.
            process::start_log(&Log {
                filter: "warn".into(),
                ..config.log.clone()
            })?;
            print(&format!("{}\n", run_admin(&config, command)?))?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Config(Show::Print) => {
            let text = toml::to_string(&config).context("cannot write the configuration")?;
            print(&text)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Doctor { json } => {
            let report = runtime()?.block_on(doctor::examine(&config));
            print(&if json {
                report.to_json()
            } else {
                report.to_table()
            })?;
            Ok(ExitCode::from(u8::from(report.failed())))
        }
    }
}

fn run_admin(config: &Config, command: Admin) -> anyhow::Result<serde_json::Value> {
    let password = |account: &Account| match account.password_stdin {
        true => admin::read_password(&mut std::io::stdin().lock()).map(Some),
        false => Ok(None),
    };
    match command {
        Admin::CreateUser {
            account,
            role,
            display_name,
        } => {
            let password = password(&account)?;
            let name = account.username;
            runtime()?.block_on(admin::create_user(
                config,
                name,
                display_name,
                role,
                password,
            ))
        }
        Admin::SetPassword { account } => {
            let password = password(&account)?;
            runtime()?.block_on(admin::set_password(config, &account.username, password))
        }
    }
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Runtime::new().context("cannot start the runtime")
}

fn print(text: &str) -> anyhow::Result<()> {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush().context("cannot write to standard output")
}
