//! Where archives of preserved data are, and how they are called.

use super::export::ArchiveFormat;
use crate::Result;
use crate::replace::host;
use botstead_types::{BotId, PreservedId};
use chrono::{DateTime, Utc};
use std::collections::BTreeSet;
use std::fs::Metadata;
use std::io;
use std::path::{Path, PathBuf};

/// An archive of preserved data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PreservedArchive {
    /// Its id.
    pub id: PreservedId,
    /// When it was written.
    pub created_at: DateTime<Utc>,
    /// What it occupies.
    pub size_bytes: u64,
}

/// Where the bot's archives are.
pub(super) fn folder(root: &Path, bot: BotId) -> PathBuf {
    root.join(bot.to_string())
}

/// Earlier servers kept one archive per bot, beside the folders. Its id is the bot's, which is older
/// than that of any operation on the bot.
pub(super) fn path(root: &Path, bot: BotId, archive: PreservedId) -> PathBuf {
    if archive == legacy(bot) {
        root.join(file_name(archive))
    } else {
        folder(root, bot).join(file_name(archive))
    }
}

/// The bot's archives, newest first.
pub(super) fn list(root: &Path, bot: BotId) -> Result<Vec<PreservedArchive>> {
    let failed = |error| host("list preserved data", error);
    let mut found = Vec::new();
    let id = legacy(bot);
    match path(root, bot, id).symlink_metadata() {
        Ok(metadata) if metadata.is_file() => found.push(describe(id, &metadata)),
        Err(error) if !is_missing(&error) => return Err(failed(error)),
        _ => {}
    }
    let entries = match folder(root, bot).read_dir() {
        Err(error) if is_missing(&error) => return Ok(found),
        entries => entries.map_err(failed)?,
    };
    for entry in entries {
        let entry = entry.map_err(failed)?;
        let Some(id) = archive_id(&entry.file_name().to_string_lossy()) else {
            continue;
        };
        match entry.metadata() {
            Ok(metadata) if metadata.is_file() => found.push(describe(id, &metadata)),
            Err(error) if !is_missing(&error) => return Err(failed(error)),
            _ => {}
        }
    }
    found.sort_by_key(|archive| std::cmp::Reverse(archive.id));
    Ok(found)
}

/// Every bot that something is preserved of.
pub(super) fn bots(root: &Path) -> Result<BTreeSet<BotId>> {
    let failed = |error| host("list preserved data", error);
    let entries = match root.read_dir() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
        entries => entries.map_err(failed)?,
    };
    let mut bots = BTreeSet::new();
    for entry in entries {
        let name = entry.map_err(failed)?.file_name();
        let name = name.to_string_lossy();
        // A folder of archives, or the archive of an earlier server.
        let bot = name.split('.').next().unwrap_or_default();
        bots.extend(bot.parse::<BotId>());
    }
    Ok(bots)
}

/// The archive that an earlier server wrote.
pub(crate) fn legacy(bot: BotId) -> PreservedId {
    PreservedId::from_uuid(*bot.as_uuid())
}

pub(super) fn file_name(archive: PreservedId) -> String {
    format!("{archive}.{}", ArchiveFormat::TarZst.extension())
}

pub(super) fn archive_id(name: &str) -> Option<PreservedId> {
    let id = name.strip_suffix(ArchiveFormat::TarZst.extension())?;
    id.strip_suffix('.')?.parse().ok()
}

fn describe(id: PreservedId, metadata: &Metadata) -> PreservedArchive {
    PreservedArchive {
        id,
        created_at: metadata.modified().unwrap_or(std::time::UNIX_EPOCH).into(),
        size_bytes: metadata.len(),
    }
}

/// It is not there; nor can it be, when what would hold it is no directory.
pub(super) fn is_missing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}
