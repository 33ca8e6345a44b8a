//! Archives made by hand, whole imports in one call, and random trees.

// Each test program uses a part of this, and `pub` is the one way to share it.
#![allow(dead_code, unreachable_pub, unused_imports)]
// Clippy knows tests by their attribute only.
#![allow(clippy::unwrap_used)]

pub mod cases;
#[path = "../../../overlay/tests/support/mod.rs"]
mod overlay;
pub mod raw;
pub mod trees;

use botstead_archive::*;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
pub use overlay::{Picture, Stack, attributes, changes, set};
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Cursor;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// All ways of compression, fast.
pub const COMPRESSIONS: [Compression; 3] = [
    Compression::None,
    Compression::Gzip { level: 1 },
    Compression::Zstd { level: 1 },
];

/// A folder that vanishes, whatever its depth.
pub struct Dir(PathBuf);

impl Dir {
    pub fn new() -> Self {
        Self(
            tempfile::Builder::new()
                .prefix("ar")
                .tempdir()
                .unwrap()
                .keep(),
        )
    }

    /// One in memory, that only the calling thread and those that it starts see: for what would take
    /// a disk too long.
    pub fn in_memory() -> Self {
        unshare(CloneFlags::CLONE_NEWNS).expect("these tests need root");
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
        let dir = Self::new();
        let (tmpfs, none) = (Some("tmpfs"), MsFlags::empty());
        mount(tmpfs, &dir.0, tmpfs, none, Some("size=8g,nr_inodes=4m")).unwrap();
        dir
    }

    /// A new directory in it.
    pub fn make(&self, name: &str) -> PathBuf {
        let path = self.0.join(name);
        fs::create_dir(&path).unwrap();
        path
    }

    pub fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        // Of one in memory only the place is removed; the rest goes with the mount.
        let _ = nix::mount::umount2(&self.0, nix::mount::MntFlags::MNT_DETACH);
        let removed = Command::new("rm").arg("-rf").arg(&self.0).status();
        assert!(removed.is_ok_and(|status| status.success()));
    }
}

/// Exports a directory.
pub fn pack(dir: &Path, folder: &str, compression: Compression) -> (Vec<u8>, ExportReport) {
    let mut options = ExportOptions::new(folder);
    options.compression = compression;
    let tree = File::open(dir).unwrap();
    export(tree, Vec::new(), &options, &Progress::new()).unwrap()
}

/// Options of an import as the server makes it.
pub fn options() -> CheckOptions<'static> {
    let mut options = CheckOptions::new();
    options.folder = Some("data".to_owned());
    options
}

pub fn check_bytes(archive: &[u8]) -> Result<Checked<Cursor<&[u8]>>, Error> {
    check(Cursor::new(archive), &options(), &Progress::new())
}

/// Checks and applies.
pub fn unpack(archive: &[u8], to: &Path, mode: ApplyMode) -> Result<Content, Error> {
    let to = File::open(to).unwrap();
    let mut options = options();
    options.scratch = Some(to.as_fd());
    let mut checked = check(Cursor::new(archive), &options, &Progress::new())?;
    checked.apply(to, mode, Ownership::ARCHIVE, &Progress::new())?;
    Ok(checked.content().clone())
}

/// A name of any bytes.
pub fn raw_name(bytes: &[u8]) -> OsString {
    OsString::from_vec(bytes.to_vec())
}

/// Runs a program, which must succeed.
#[track_caller]
pub fn run(command: &mut Command) {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}; see NEEDS in xtask/src/testing.rs"));
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {told}");
}
