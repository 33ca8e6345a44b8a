//! Where archives of preserved data are, and how they are called.

use super::export::ArchiveFormat;
use crate::Result;
use crate::replace::host;
use botstead_types::{BotId, PreservedId};
use chrono::{DateTime, Utc};
use std::collections::BTreeSet;
use std::fs::{File, Metadata};
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

/// The archives of a bot on the disk. Blocking.
#[derive(Debug)]
pub(super) struct Archives {
    pub(super) root: PathBuf,
    pub(super) bot: BotId,
}

impl Archives {
    pub(super) fn folder(&self) -> PathBuf {
        self.root.join(self.bot.to_string())
    }

    /// Earlier servers kept one archive per bot, beside the folders. Its id is the bot's, which is older
    /// than that of any operation on the bot.
    pub(super) fn path(&self, archive: PreservedId) -> PathBuf {
        if archive == legacy(self.bot) {
            self.root.join(file_name(archive))
        } else {
            self.folder().join(file_name(archive))
        }
    }

    /// Newest first.
    pub(super) fn list(&self) -> Result<Vec<PreservedArchive>> {
        let failed = |error| host("list preserved data", error);
        let mut found = Vec::new();
        let id = legacy(self.bot);
        match self.path(id).symlink_metadata() {
            Ok(metadata) if metadata.is_file() => found.push(describe(id, &metadata)),
            Err(error) if !is_missing(&error) => return Err(failed(error)),
            _ => {}
        }
        let entries = match self.folder().read_dir() {
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

    /// When that archive was written, if it is there.
    pub(super) fn written(&self, archive: PreservedId) -> Result<Option<DateTime<Utc>>> {
        let written = self.path(archive).metadata();
        match written.and_then(|metadata| metadata.modified()) {
            Ok(written) => Ok(Some(written.into())),
            Err(error) if is_missing(&error) => Ok(None),
            Err(error) => Err(host("look at preserved data", error)),
        }
    }

    pub(super) fn remove(&self, archive: PreservedId) -> Result<()> {
        let path = self.path(archive);
        let removed = std::fs::remove_file(&path);
        let synced = removed.and_then(|()| match path.parent() {
            Some(folder) => File::open(folder)?.sync_all(),
            None => Ok(()),
        });
        match synced {
            Err(error) if !is_missing(&error) => return Err(host("remove preserved data", error)),
            _ => {}
        }
        // When it was the last; anything that is left keeps it.
        let _ = std::fs::remove_dir(self.folder());
        Ok(())
    }

    /// Removes what a killed server left of archives that it wrote, and nothing that others put there.
    pub(super) fn remove_unfinished(&self) {
        let folder = self.folder();
        for entry in folder.read_dir().into_iter().flatten().flatten() {
            if is_unfinished(&entry.file_name().to_string_lossy())
                && let Err(error) = std::fs::remove_file(entry.path())
            {
                tracing::warn!(path = %entry.path().display(), %error, "cannot remove");
            }
        }
        // Gone when it is empty.
        let _ = std::fs::remove_dir(folder);
    }
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

/// Whether an archive is called so while it is written: see [`botstead_archive::save`].
fn is_unfinished(name: &str) -> bool {
    let name = name.strip_prefix('.');
    let name = name.and_then(|name| name.strip_suffix(".partial"));
    name.is_some_and(|name| archive_id(name).is_some())
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
