//! The `botstead` program: reads the command line and the configuration, and runs one command.

mod cli;

use anyhow::Context;
use botstead_server::config::{self, Config, Log};
use botstead_server::{admin, backup, doctor, memory, process, repair, serve};
use clap::Parser;
use cli::{Account, Admin, Cli, Command, Show};
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

fn main() -> ExitCode {
    memory::settle();
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
        Command::Serve => {
            process::start_log(&config.log)?;
            process::install_tls_provider();
            runtime()?.block_on(serve::serve(&config))?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Teardown => {
            process::start_log(&config.log)?;
            runtime()?.block_on(serve::teardown(&config))?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Openapi => {
            let document = botstead_http::openapi();
            let text = document
                .to_pretty_json()
                .context("cannot write the document")?;
            print(&format!("{text}\n"))?;
            Ok(ExitCode::SUCCESS)
        }
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
        Command::Doctor {
            repair: true,
            yes,
            discard,
            ..
        } => {
            process::start_log(&Log {
                filter: "warn".into(),
                ..config.log.clone()
            })?;
            let repaired = runtime()?.block_on(repair::repair(&config, yes, &discard))?;
            print(&repaired.to_text())?;
            Ok(ExitCode::from(u8::from(repaired.failed())))
        }
        Command::Doctor { json, .. } => {
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
    let shown = match std::io::stdout().is_terminal() {
        true => admin::Shown::OnTerminal,
        false => admin::Shown::InFile,
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
                shown,
            ))
        }
        Admin::SetPassword { account } => {
            let password = password(&account)?;
            let name = &account.username;
            runtime()?.block_on(admin::set_password(config, name, password, shown))
        }
        Admin::Backup { file } => runtime()?.block_on(backup::backup(config, &file)),
        Admin::Restore { file } => runtime()?.block_on(backup::restore(config, &file)),
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
