//! The command line.

use botstead_types::Role;
use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;

/// A computer for every bot: workspaces in containers, with snapshots, behind an HTTP API.
#[derive(Debug, Parser)]
#[command(name = "botstead", version)]
pub(crate) struct Cli {
    /// The configuration file; see docs/CONFIGURATION.md for its keys.
    #[arg(long, value_name = "FILE", global = true)]
    pub(crate) config: Option<PathBuf>,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the server until SIGTERM or SIGINT. Workspaces go on when it ends.
    Serve,
    /// Remove the bridge, namespaces and firewall rules that a server which does not run any more
    /// left on this host; the next start makes them again. Refused while workspaces run.
    Teardown,
    /// Print the OpenAPI document of the HTTP API.
    Openapi,
    /// Manage accounts, and copy the database or put a copy back; straight in the database, whether or
    /// not the server runs, but for `restore`.
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
        /// List what belongs to nothing: leases, containers, snapshots, namespaces, channels,
        /// addresses. Looks only; with --yes it is removed. May be asked while the server runs. What
        /// may be the only copy of somebody's work is listed and kept.
        #[arg(long)]
        repair: bool,
        /// Confirm --repair.
        #[arg(long, requires = "repair")]
        yes: bool,
        /// Remove a snapshot that --repair lists as kept too, with the container that has it, for
        /// good. May be given several times.
        #[arg(long, value_name = "NAME", requires = "repair")]
        discard: Vec<String>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Admin {
    /// Add a user and print `{"id","username","password"}`; where the output is no terminal,
    /// `password_file` instead, a file that only this user can read.
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
    /// Copy the database to a new file, whether or not the server runs. Workspaces' files are not in
    /// it.
    Backup {
        /// The file; it must not exist.
        file: PathBuf,
    },
    /// Put a copy in the place of the database, while no server runs. What is there now is kept
    /// beside it.
    Restore {
        /// A file that `admin backup` wrote.
        file: PathBuf,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Account {
    /// The name to sign in with.
    #[arg(long)]
    pub(crate) username: String,
    /// Read the password from standard input instead of making a random one.
    #[arg(long)]
    pub(crate) password_stdin: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Show {
    /// Print the configuration that is in effect, as TOML.
    Print,
}
