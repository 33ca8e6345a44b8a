//! `botstead doctor --repair`: lists what belongs to nothing, and removes it when that is confirmed.

use crate::config::{Config, ContainerdMode};
use crate::installation::Installation;
use crate::serve;
use anyhow::Context;
use botstead_store_sql::{SqlConfig, SqlStore};
use botstead_workspace::{Leftover, find_leftovers, remove_leftover};
use chrono::TimeDelta;
use std::fmt::Write;

/// Beside a running server: longer than an export takes.
const SETTLED: TimeDelta = TimeDelta::hours(6);

/// What an empty list means then.
const BESIDE: &str = "; a server runs: what no operation of its journal made counts when it is older than \
                      6 hours, at once when the server is ended (the workspaces go on)";

/// What was found, and what came of it.
#[derive(Debug)]
pub struct Repair {
    found: Vec<(Leftover, Outcome)>,
    confirmed: bool,
    /// Whether no server ran meanwhile.
    alone: bool,
}

#[derive(Debug)]
enum Outcome {
    Found,
    Removed,
    Failed(String),
}

/// Looks, and with `confirmed` removes.
///
/// # Errors
/// When the database cannot be opened or containerd does not answer.
pub async fn repair(config: &Config, confirmed: bool) -> anyhow::Result<Repair> {
    let installation = Installation::prepare(config)?;
    let path = installation.database_path(config);
    let database = SqlStore::open(&SqlConfig::at(path))
        .await
        .context("cannot open the database")?;
    let settings = &config.runtime.containerd;
    let socket = match settings.mode {
        ContainerdMode::External => settings.socket.clone(),
        ContainerdMode::Managed => installation.managed_socket(),
    };
    let network = serve::network(config, &installation)?;
    let runtime = serve::runtime(config, &installation, &socket, network)?;
    runtime.backend.version().await.with_context(|| {
        format!(
            "containerd does not answer at {}; start the server first",
            socket.display()
        )
    })?;
    let store = database.store();
    let mut found = Vec::new();
    // While this is held no server can begin anything.
    let alone = installation.lock().ok();
    let settled = match alone {
        Some(_) => TimeDelta::zero(),
        None => SETTLED,
    };
    for leftover in find_leftovers(&runtime, &store, settled).await? {
        let outcome = if !confirmed || !leftover.is_removable() {
            Outcome::Found
        } else {
            match remove_leftover(&runtime, &store, &leftover).await {
                Ok(()) => Outcome::Removed,
                Err(error) => Outcome::Failed(error.to_string()),
            }
        };
        found.push((leftover, outcome));
    }
    if confirmed {
        runtime.leases.collect().await?;
    }
    database.close().await;
    Ok(Repair {
        found,
        confirmed,
        alone: alone.is_some(),
    })
}

impl Repair {
    /// Whether something could not be removed.
    pub fn failed(&self) -> bool {
        self.found
            .iter()
            .any(|(_, outcome)| matches!(outcome, Outcome::Failed(_)))
    }

    /// For people.
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        for (leftover, outcome) in &self.found {
            let word = match outcome {
                Outcome::Removed => "removed",
                Outcome::Failed(_) => "FAILED ",
                Outcome::Found if leftover.is_removable() => "found  ",
                Outcome::Found => "kept   ",
            };
            let _ = writeln!(text, "{word}  {leftover}");
            if let Outcome::Failed(why) = outcome {
                let _ = writeln!(text, "         -> {why}");
            }
        }
        let removable = self.found.iter().filter(|(found, _)| found.is_removable());
        let _ = match (removable.count(), self.confirmed) {
            (0, _) => writeln!(
                text,
                "nothing is to be repaired{}",
                if self.alone { "" } else { BESIDE }
            ),
            (count, false) => writeln!(
                text,
                "\n{count} to be removed; nothing was changed. `botstead doctor --repair --yes` removes \
                 them"
            ),
            (_, true) => Ok(()),
        };
        text
    }
}
