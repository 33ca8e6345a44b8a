//! Files of snapshots as directories of this host: written out when they are asked for.
//!
//! Only regular files with their content and symbolic links are there; what else is made in an opened
//! snapshot is lost.

use super::Shared;
use super::faults::Op;
use super::files::{Entry, Files, hides};
use super::state::State;
use botstead_runtime::{Access, ErrorKind, Result, Tree};
use botstead_types::{SnapshotKey, SnapshotKind};
use rustix::fs::{CWD, FileType, Mode, XattrFlags, mknodat, setxattr};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use tempfile::TempDir;

const LAYERS: Op = Op("snapshots.layers", "find layers of");
const OPEN: Op = Op("snapshots.open", "open snapshot");

fn unsupported(shared: &Shared, op: Op, key: &SnapshotKey) -> Result<()> {
    if shared.capabilities.files {
        return Ok(());
    }
    Err(op.error(ErrorKind::Unsupported, key))
}

fn failed(op: Op, key: &SnapshotKey, source: io::Error) -> botstead_runtime::Error {
    op.error(ErrorKind::Internal, key).with_source(source)
}

/// The layers as directories that stay as long as the runtime does.
pub(super) fn layers(shared: &Shared, key: &SnapshotKey) -> Result<Vec<PathBuf>> {
    unsupported(shared, LAYERS, key)?;
    let own: Vec<Files> = shared.call(LAYERS, key, |state| {
        let mut own = Vec::new();
        let mut next = Some(key.clone());
        while let Some(key) = next {
            let record = state.snapshots.get(&key);
            let record = record.ok_or_else(|| LAYERS.error(ErrorKind::NotFound, &key))?;
            own.insert(0, record.files.clone());
            next = record.snapshot.parent.clone();
        }
        Ok(own)
    })?;
    let written = own.iter().map(|files| {
        let folder = tempfile::tempdir()?;
        write(folder.path(), files)?;
        let path = folder.path().to_owned();
        let mut folders = shared
            .folders
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        folders.push(folder);
        Ok(path)
    });
    let written: io::Result<Vec<_>> = written.collect();
    written.map_err(|error| failed(LAYERS, key, error))
}

/// The files as one tree.
pub(super) fn open(shared: &Shared, key: &SnapshotKey, access: Access) -> Result<Box<dyn Tree>> {
    unsupported(shared, OPEN, key)?;
    let files = shared.call(OPEN, key, |state| {
        let record = state.snapshots.get(key);
        let record = record.ok_or_else(|| OPEN.error(ErrorKind::NotFound, key))?;
        if access == Access::Write && record.snapshot.kind != SnapshotKind::Active {
            return Err(OPEN
                .error(ErrorKind::InvalidArgument, key)
                .because("it is not active"));
        }
        Ok(state.shown(key))
    })?;
    let opened = || {
        let folder = tempfile::tempdir()?;
        let files = files.into_iter().map(|(path, entry)| (path, Some(entry)));
        write(folder.path(), &files.collect())?;
        let root = File::open(folder.path())?;
        let writes = (access == Access::Write).then(|| (Arc::clone(&shared.state), key.clone()));
        Ok(Box::new(MemoryTree {
            root,
            folder,
            writes,
        }) as _)
    };
    opened().map_err(|error| failed(OPEN, key, error))
}

struct MemoryTree {
    root: File,
    folder: TempDir,
    writes: Option<(Arc<Mutex<State>>, SnapshotKey)>,
}

impl MemoryTree {
    fn write_back(&mut self) -> io::Result<()> {
        let Some((state, key)) = self.writes.take() else {
            return Ok(());
        };
        let mut now = BTreeMap::new();
        read(self.folder.path(), "", &mut now)?;
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(record) = state.snapshots.get(&key) else {
            return Err(io::ErrorKind::NotFound.into());
        };
        let below = record.snapshot.parent.clone();
        let below = below.map(|parent| state.shown(&parent)).unwrap_or_default();
        let gone = below.keys().filter(|path| !now.contains_key(*path));
        let mut own: Files = gone.map(|path| (path.clone(), None)).collect();
        let changed = now
            .into_iter()
            .filter(|(path, entry)| below.get(path) != Some(entry));
        let changed: Files = changed.map(|(path, entry)| (path, Some(entry))).collect();
        // What is beneath something that is no directory any more is gone with it.
        own.retain(|path, _| !hides(&changed, path));
        own.extend(changed);
        if let Some(record) = state.snapshots.get_mut(&key) {
            record.files = own;
        }
        Ok(())
    }
}

impl Tree for MemoryTree {
    fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    fn close(mut self: Box<Self>) -> io::Result<()> {
        self.write_back()
    }
}

impl Drop for MemoryTree {
    fn drop(&mut self) {
        // As on a real runtime, where it was written to the snapshot itself.
        let _ = self.write_back();
    }
}

/// Files, and marks of overlayfs for what is hidden.
fn write(folder: &Path, files: &Files) -> io::Result<()> {
    for (path, entry) in files {
        let beneath = format!("{path}/");
        let mut after = files.range(beneath.clone()..);
        let is_directory = after
            .next()
            .is_some_and(|(path, _)| path.starts_with(&beneath));
        let path = folder.join(path);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        match entry {
            Some(Entry::File(content)) => fs::write(&path, content)?,
            Some(Entry::Link(target)) => symlink(target, &path)?,
            None if is_directory => {
                fs::create_dir(&path)?;
                setxattr(&path, "trusted.overlay.opaque", b"y", XattrFlags::empty())?;
            }
            None => mknodat(CWD, &path, FileType::CharacterDevice, Mode::empty(), 0)?,
        }
    }
    Ok(())
}

fn read(folder: &Path, prefix: &str, files: &mut BTreeMap<String, Entry>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let path = format!("{prefix}{}", entry.file_name().to_string_lossy());
        let kind = entry.file_type()?;
        if kind.is_dir() {
            read(&entry.path(), &format!("{path}/"), files)?;
        } else if kind.is_file() {
            files.insert(path, Entry::File(fs::read(entry.path())?.into()));
        } else if kind.is_symlink() {
            let target = fs::read_link(entry.path())?;
            files.insert(path, Entry::Link(target.to_string_lossy().into_owned()));
        }
    }
    Ok(())
}
