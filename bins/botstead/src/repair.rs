//! `botstead doctor --repair`: lists what belongs to nothing, and removes it when that is confirmed. What
//! may be the only copy of somebody's work is removed only where it is named as well.

use crate::config::{Config, ContainerdMode};
use crate::installation::Installation;
use crate::serve;
use anyhow::{Context, ensure};
use botstead_http::export_unrecorded_request;
use botstead_runtime::Runtime;
use botstead_store_sql::{SqlConfig, SqlStore};
use botstead_workspace::{
    Fate, Leftover, UnclaimedArchive, WorkspaceConfig, discard_leftover, find_leftovers,
    remove_leftover, unclaimed_archives,
};
use chrono::TimeDelta;
use std::fmt::Write;
use std::path::Path;

/// Beside a running server: longer than an export takes.
const SETTLED: TimeDelta = TimeDelta::hours(6);

/// What an empty list means then.
const BESIDE: &str = " of what is older than 6 hours; younger things are not looked at while a server \
                      runs: to see them too, end it (the workspaces go on) and ask again";

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
    Kept,
    ToRemove,
    Removed,
    Failed(String),
}

/// What is removed.
#[derive(Debug, Clone, Copy)]
enum Way {
    Keep,
    Remove,
    Discard,
}

/// Looks, and with `confirmed` removes; with it also what `discard` names.
///
/// # Errors
/// When the database cannot be opened or containerd does not answer; when nothing is called as one of
/// `discard`, before anything is removed.
pub async fn repair(
    config: &Config,
    confirmed: bool,
    discard: &[String],
) -> anyhow::Result<Repair> {
    let installation = Installation::prepare(config)?;
    let path = installation.database_path(config);
    let database = SqlStore::open(&SqlConfig::at(path))
        .await
        .context("cannot open the database")?;
    let runtime = runtime_of(config, &installation).await?;
    let store = database.store();
    // While this is held no server can begin anything.
    let alone = installation.lock().ok();
    let settled = match alone {
        Some(_) => TimeDelta::zero(),
        None => SETTLED,
    };
    let leftovers = find_leftovers(&runtime, &store, settled).await?;
    let is_named = |leftover: &Leftover, name: &String| {
        let own = leftover.name();
        own.is_some_and(|own| own.as_str() == name)
    };
    for name in discard {
        ensure!(
            leftovers.iter().any(|leftover| is_named(leftover, name)),
            "nothing is called {name} that could be discarded; `botstead doctor --repair` lists what is \
             kept. Nothing was removed"
        );
    }
    let mut found = Vec::new();
    for leftover in leftovers {
        let way = match discard.iter().any(|name| is_named(&leftover, name)) {
            true => Way::Discard,
            false if leftover.is_removable() => Way::Remove,
            false => Way::Keep,
        };
        let done = match way {
            Way::Keep => None,
            Way::Remove | Way::Discard if !confirmed => {
                found.push((leftover, Outcome::ToRemove));
                continue;
            }
            Way::Remove => Some(remove_leftover(&runtime, &store, &leftover).await),
            Way::Discard => Some(discard_leftover(&runtime, &leftover).await),
        };
        let outcome = match done {
            None => Outcome::Kept,
            Some(Ok(())) => Outcome::Removed,
            Some(Err(error)) => Outcome::Failed(error.to_string()),
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

/// What may be the only copy of somebody's work and is in no row, in words. Looks only, and hinders no
/// server that starts meanwhile.
///
/// # Errors
/// When the database cannot be opened or containerd does not answer.
pub async fn unrecorded(config: &Config) -> anyhow::Result<Vec<String>> {
    let installation = Installation::prepare(config)?;
    let path = installation.database_path(config);
    let database = SqlStore::open_as_it_is(&SqlConfig::at(path)).await?;
    let runtime = runtime_of(config, &installation).await?;
    let found = find_leftovers(&runtime, &database.store(), SETTLED).await;
    database.close().await;
    let kept = found?.into_iter().filter(|found| !found.is_removable());
    Ok(kept.map(|found| told(&found)).collect())
}

/// What was found, and how an admin gets at it or rid of it.
fn told(leftover: &Leftover) -> String {
    let Leftover::Unrecorded(found) = leftover else {
        return leftover.to_string();
    };
    let name = &found.name;
    let export = export_unrecorded_request(name.as_str());
    match found.fate() {
        Fate::Stays => format!("{leftover}; {export} gives its /data, --discard {name} removes it"),
        Fate::GivenToTheNext => format!("{leftover}; {export} gives it at once"),
        Fate::RecordedAgain => leftover.to_string(),
    }
}

/// Archives of preserved data whose bots are gone. Looks only, and asks no containerd.
///
/// # Errors
/// When the database cannot be opened, or the folder not be read.
pub async fn unclaimed(config: &Config, database: &Path) -> anyhow::Result<Vec<UnclaimedArchive>> {
    let folder = WorkspaceConfig::preserved_in(&config.data_dir);
    let database = SqlStore::open_as_it_is(&SqlConfig::at(database)).await?;
    let found = unclaimed_archives(&database.store(), &folder).await;
    database.close().await;
    Ok(found?)
}

/// The runtime of an installation, which answers.
async fn runtime_of(config: &Config, installation: &Installation) -> anyhow::Result<Runtime> {
    let settings = &config.runtime.containerd;
    let socket = match settings.mode {
        ContainerdMode::External => settings.socket.clone(),
        ContainerdMode::Managed => installation.managed_socket(),
    };
    let network = serve::network(config, installation)?;
    let runtime = serve::runtime(config, installation, &socket, network)?;
    runtime.backend.version().await.with_context(|| {
        format!(
            "containerd does not answer at {}; start the server first",
            socket.display()
        )
    })?;
    Ok(runtime)
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
                Outcome::ToRemove => "found  ",
                Outcome::Kept => "kept   ",
            };
            let _ = writeln!(text, "{word}  {}", told(leftover));
            if let Outcome::Failed(why) = outcome {
                let _ = writeln!(text, "         -> {why}");
            }
        }
        let to_remove = |(_, outcome): &&(Leftover, Outcome)| !matches!(outcome, Outcome::Kept);
        let _ = match (self.found.iter().filter(to_remove).count(), self.confirmed) {
            (0, _) => writeln!(
                text,
                "nothing is to be repaired{}",
                if self.alone { "" } else { BESIDE }
            ),
            (count, false) => writeln!(
                text,
                "\n{count} to be removed; nothing was changed. The same with --yes removes them"
            ),
            (_, true) => Ok(()),
        };
        text
    }
}
