//! Exporting trees that want to harm: nothing outside gets in, nothing blocks, nothing is left
//! half-written without an error.

// Clippy knows tests by their attribute only, not their helpers.
#![allow(clippy::unwrap_used)]

mod support;

use botstead_archive::*;
use nix::mount::{MsFlags, mount};
use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use support::trees::{self, Step};
use support::{Dir, Picture, check_bytes, pack, set, unpack};

#[test]
fn what_cannot_be_kept_is_left_out_and_counted() {
    let dir = Dir::in_memory();
    let (from, to) = (dir.make("from"), dir.make("to"));
    trees::make(
        &from,
        &[Step::File("file".into(), 5, 1), Step::Fifo("pipe".into())],
    );
    let kept = Picture::of(&from);
    let _socket = UnixListener::bind(from.join("socket")).unwrap();
    // Among them a whiteout and what would block or act when opened.
    for (name, kind, device) in [
        ("null", FileType::CharacterDevice, makedev(1, 3)),
        ("whiteout", FileType::CharacterDevice, makedev(0, 0)),
        ("disk", FileType::BlockDevice, makedev(7, 200)),
    ] {
        mknodat(CWD, from.join(name), kind, Mode::RUSR, device).unwrap();
    }
    fs::create_dir(from.join("mount")).unwrap();
    fs::write(from.join("mounted_file"), "").unwrap();
    let tmpfs = Some("tmpfs");
    mount(
        tmpfs,
        &from.join("mount"),
        tmpfs,
        MsFlags::empty(),
        None::<&str>,
    )
    .unwrap();
    fs::write(from.join("mount/secret"), "of the host").unwrap();
    let bind = MsFlags::MS_BIND;
    mount(
        Some("/proc/version"),
        &from.join("mounted_file"),
        None::<&str>,
        bind,
        None::<&str>,
    )
    .unwrap();
    set(&from, "trusted.overlay.opaque", b"y");
    let (archive, report) = pack(&from, "data", Compression::None);
    assert_eq!((report.files, report.fifos, report.directories), (1, 1, 1));
    assert_eq!(report.sockets_left_out, 1);
    assert_eq!(report.devices_left_out, 3);
    assert_eq!(report.mounts_left_out, 2);
    assert!(!contains(&archive, b"of the host") && !contains(&archive, b"overlay"));
    unpack(&archive, &to, ApplyMode::Replace).unwrap();
    let mut found = Picture::of(&to);
    // The root was changed since.
    found.0.remove(Path::new(""));
    for (name, entry) in &found.0 {
        assert_eq!(kept.0.get(name), Some(entry));
    }
    assert_eq!(found.0.len(), 2);
}

fn contains(bytes: &[u8], piece: &[u8]) -> bool {
    bytes.windows(piece.len()).any(|window| window == piece)
}

/// Changes a tree in a second thread while it is exported again and again.
fn while_changing(
    change: impl Fn() -> io::Result<()> + Sync,
    mut export: impl FnMut() -> Result<Vec<u8>, Error>,
) -> (u64, u64) {
    let stop = AtomicBool::new(false);
    let (mut whole, mut changed) = (0, 0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                change().unwrap();
            }
        });
        let start = Instant::now();
        while start.elapsed() < Duration::from_millis(1500) {
            match export() {
                Ok(archive) => {
                    check_bytes(&archive).unwrap();
                    whole += 1;
                }
                Err(Error::Changed { .. }) => changed += 1,
                Err(other) => {
                    stop.store(true, Ordering::Relaxed);
                    panic!("{other:?}");
                }
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    (whole, changed)
}

fn tree_of(path: &Path) -> Result<Vec<u8>, Error> {
    let mut options = ExportOptions::new("data");
    options.compression = Compression::None;
    let tree = File::open(path).unwrap();
    export(tree, Vec::new(), &options, &Progress::new()).map(|(archive, _)| archive)
}

#[test]
fn links_that_come_and_go_lead_nowhere() {
    let dir = Dir::in_memory();
    let (from, outside, spare) = (dir.make("from"), dir.make("outside"), dir.make("spare"));
    fs::create_dir(outside.join("d")).unwrap();
    fs::write(outside.join("d/secret"), "SECRET").unwrap();
    fs::create_dir(from.join("d")).unwrap();
    fs::write(from.join("d/secret"), "public").unwrap();
    fs::write(from.join("f"), "public").unwrap();
    symlink(outside.join("d"), spare.join("d")).unwrap();
    symlink(outside.join("d/secret"), spare.join("f")).unwrap();
    mknodat(
        CWD,
        spare.join("pipe"),
        FileType::Fifo,
        Mode::RUSR | Mode::WUSR,
        0,
    )
    .unwrap();
    let swap = |one: &str, other: &str| {
        let flags = rustix::fs::RenameFlags::EXCHANGE;
        rustix::fs::renameat_with(CWD, from.join(one), CWD, spare.join(other), flags)
    };
    let (whole, _) = while_changing(
        || {
            swap("d", "d")?;
            swap("f", "f")?;
            swap("f", "pipe")?;
            Ok(())
        },
        || {
            let archive = tree_of(&from)?;
            assert!(!contains(&archive, b"SECRET"));
            Ok(archive)
        },
    );
    assert!(whole > 10, "{whole}");
}

#[test]
fn files_that_change_give_whole_entries_or_an_error() {
    let dir = Dir::in_memory();
    let from = dir.make("from");
    let file = File::create(from.join("file")).unwrap();
    let sparse = File::create(from.join("sparse")).unwrap();
    let (whole, changed) = while_changing(
        || {
            for length in [0, 3_000_000, 10, 1_000_000] {
                file.set_len(length)?;
                file.write_all_at(&vec![1; usize::try_from(length).unwrap()], 0)?;
                sparse.set_len(length * 1000)?;
                sparse.write_all_at(b"x", length * 500)?;
            }
            Ok(())
        },
        || tree_of(&from),
    );
    assert!(whole + changed > 10, "{whole} {changed}");
    assert!(changed > 0, "no file was ever caught shrinking");
}

#[test]
fn directories_that_move_are_noticed() {
    let dir = Dir::in_memory();
    let (from, outside) = (dir.make("from"), dir.make("outside"));
    fs::create_dir_all(from.join("a/b/c")).unwrap();
    for number in 0..200 {
        fs::write(from.join(format!("a/b/c/{number}")), "x").unwrap();
    }
    fs::write(outside.join("secret"), "SECRET").unwrap();
    let (whole, changed) = while_changing(
        || {
            fs::rename(from.join("a/b"), outside.join("b"))?;
            fs::rename(outside.join("b"), from.join("a/b"))
        },
        || {
            let archive = tree_of(&from)?;
            assert!(!contains(&archive, b"SECRET"));
            Ok(archive)
        },
    );
    assert!(whole > 0 && changed > 0, "{whole} whole, {changed} changed");
}

#[test]
fn an_export_that_lacks_what_was_removed_meanwhile_is_none() {
    /// Removes a path once a file is under way.
    struct Removing(std::path::PathBuf, usize);
    impl Write for Removing {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.1 += bytes.len();
            if self.1 > 1 << 20 {
                match self.0.is_dir() {
                    true => fs::remove_dir_all(&self.0)?,
                    false => drop(fs::remove_file(&self.0)),
                }
            }
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let dir = Dir::in_memory();
    for gone in ["file", "folder"] {
        let from = dir.make(&format!("without-{gone}"));
        // Files come in the order of their inodes.
        fs::write(from.join("one"), "x").unwrap();
        fs::write(from.join("other"), "x").unwrap();
        let mut files = [from.join("one"), from.join("other")];
        files.sort_by_key(|file| fs::metadata(file).unwrap().ino());
        let [first, later] = files;
        fs::write(first, vec![1; 8 << 20]).unwrap();
        fs::create_dir(from.join("folder")).unwrap();
        fs::write(from.join("folder/file"), "x").unwrap();
        let mut options = ExportOptions::new("data");
        options.compression = Compression::None;
        let tree = File::open(&from).unwrap();
        let gone_path = match gone {
            "file" => later,
            folder => from.join(folder),
        };
        let out = Removing(gone_path, 0);
        let exported = export(tree, out, &options, &Progress::new()).map(drop);
        assert!(
            matches!(exported, Err(Error::Changed { .. })),
            "{gone}: {exported:?}"
        );
    }
}

struct Full(usize);

impl Write for Full {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 = self
            .0
            .checked_sub(bytes.len())
            .ok_or(io::ErrorKind::StorageFull)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_writer_that_fails_ends_the_export() {
    let dir = Dir::new();
    let from = dir.make("from");
    trees::make(&from, &[Step::File("file".into(), 3_000_000, 1)]);
    for compression in support::COMPRESSIONS {
        let mut options = ExportOptions::new("data");
        options.compression = compression;
        let (whole, _) = pack(&from, "data", compression);
        for space in [0, whole.len() / 2, whole.len() - 1] {
            let tree = File::open(&from).unwrap();
            match export(tree, Full(space), &options, &Progress::new()) {
                Err(Error::WriteArchive(error)) => {
                    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
                }
                other => panic!("{:?}", other.map(|(_, report)| report)),
            }
        }
    }
}

#[test]
fn names_of_folders_that_lead_elsewhere_are_refused() {
    let dir = Dir::new();
    let from = dir.make("from");
    for folder in ["/", "/x", "..", "a/../..", "a\0"] {
        let tree = File::open(&from).unwrap();
        let exported = export(
            tree,
            Vec::new(),
            &ExportOptions::new(folder),
            &Progress::new(),
        );
        assert!(matches!(exported, Err(Error::Folder(_))), "{folder:?}");
    }
    let (archive, _) = pack(&from, "a//b/", Compression::None);
    assert!(contains(&archive, b"a/b/\0"));
}
