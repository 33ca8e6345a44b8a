//! `botstead admin backup` and `restore`: the database as a file.
//!
//! A copy can be made at any time. It is put back only while no server runs: a server believes what it
//! has read. What was made after the copy is unknown to it then: the next start finds it in the runtime
//! and records it again, and lists what belongs to bots that the copy does not know.

use crate::config::Config;
use crate::installation::Installation;
use anyhow::{Context, ensure};
use botstead_store_sql::{SqlConfig, SqlStore};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};

/// Copies the database to a new file, and returns what is to be printed.
///
/// # Errors
/// When the file exists or cannot be written, or the database cannot be opened.
pub async fn backup(config: &Config, file: &Path) -> anyhow::Result<Value> {
    let installation = Installation::prepare(config)?;
    let path = installation.database_path(config);
    ensure!(path.is_file(), "there is no database at {}", path.display());
    ensure!(
        !file.exists(),
        "{} is there already; name a file that is not",
        file.display()
    );
    let database = SqlStore::open(&SqlConfig::at(&path))
        .await
        .context("cannot open the database")?;
    let copied = database.backup_to(file).await;
    database.close().await;
    copied.with_context(|| format!("cannot copy the database to {}", file.display()))?;
    let bytes = fs::metadata(file)?.len();
    Ok(json!({"file": file, "bytes": bytes}))
}

/// Puts a copy in the place of the database, and returns what is to be printed.
///
/// # Errors
/// When a server runs, or the file is no database of this program; then nothing was changed.
pub async fn restore(config: &Config, file: &Path) -> anyhow::Result<Value> {
    let installation = Installation::prepare(config)?;
    let _lock = installation
        .lock()
        .context("end the server first: a database is put back only while none runs")?;
    let path = installation.database_path(config);
    // Under the lock nobody else makes one: what is left of it is a killed restore's.
    let candidate = beside(&path, "restoring");
    let time = chrono::Utc::now().format("%Y%m%dT%H%M%S%3fZ");
    let kept = beside(&path, &format!("before-restore-{time}"));
    remove(&candidate)?;
    // Opened as a database of ours, and brought up to this program's schema, before anything is
    // replaced.
    let checked = copy_and_check(file, &candidate).await;
    let restored = match checked.with_context(|| format!("cannot use {}", file.display())) {
        Ok(()) => SqlStore::replace(&path, &candidate, &kept)
            .await
            .with_context(|| format!("cannot put {} in place", file.display())),
        refused => refused,
    };
    if restored.is_err() {
        remove(&candidate)?;
    }
    restored?;
    Ok(json!({"restored": file, "kept": kept.exists().then_some(kept)}))
}

/// A file beside the database.
fn beside(path: &Path, what: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{what}"));
    name.into()
}

async fn copy_and_check(file: &Path, candidate: &Path) -> anyhow::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let mut from = fs::File::open(file)?;
    let mut to = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(candidate)?;
    std::io::copy(&mut from, &mut to)?;
    to.sync_all()?;
    let database = SqlStore::open_existing(&SqlConfig::at(candidate)).await?;
    let answered = database.store().containers.list().await;
    let whole = database.check().await;
    database.close().await;
    answered?;
    whole.context("it is damaged")?;
    Ok(())
}

/// Removes a database with its logs: the next candidate would get what is in them.
fn remove(path: &Path) -> anyhow::Result<()> {
    SqlStore::remove(path).with_context(|| format!("cannot remove {}", path.display()))
}
