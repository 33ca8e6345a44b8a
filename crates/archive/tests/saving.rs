//! A saved archive is whole and private, or not there.

// Clippy knows tests by their attribute only, not their helpers.
#![allow(clippy::unwrap_used)]

mod support;

use botstead_archive::*;
use rustix::io::Errno;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use support::{Dir, unpack};

fn names(folder: &Path) -> Vec<String> {
    let names = fs::read_dir(folder).unwrap();
    let mut names: Vec<_> = names
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn an_archive_is_saved_whole_and_private() {
    let dir = Dir::new();
    let (from, folder, to) = (dir.make("from"), dir.make("folder"), dir.make("to"));
    fs::write(from.join("file"), "text").unwrap();
    let place = File::open(&folder).unwrap();
    for round in 0..2 {
        let report = save(&place, "bot.tar.gz", |file| {
            // Until then there is what was there before.
            assert_eq!(folder.join("bot.tar.gz").exists(), round > 0);
            let tree = File::open(&from).unwrap();
            let options = ExportOptions::new("data");
            export(tree, file, &options, &Progress::new()).map(|(_, report)| report)
        });
        assert_eq!(report.unwrap().files, 1);
        assert_eq!(names(&folder), ["bot.tar.gz"]);
        let saved = folder.join("bot.tar.gz");
        assert_eq!(fs::metadata(&saved).unwrap().mode() & 0o7777, 0o600);
        unpack(&fs::read(saved).unwrap(), &to, ApplyMode::Replace).unwrap();
        assert_eq!(fs::read(to.join("file")).unwrap(), b"text");
    }
}

#[test]
fn a_failure_leaves_what_was_there() {
    let dir = Dir::new();
    let folder = dir.make("folder");
    fs::write(folder.join("a"), "old").unwrap();
    // As a killed process leaves it.
    fs::write(folder.join(".a.partial"), "half").unwrap();
    let place = File::open(&folder).unwrap();
    let failed = save(&place, "a", |file| {
        file.write_all(b"new").unwrap();
        Err::<(), _>(Error::WriteArchive(io::ErrorKind::StorageFull.into()))
    });
    assert!(matches!(failed, Err(Error::WriteArchive(_))));
    assert_eq!(names(&folder), ["a"]);
    assert_eq!(fs::read(folder.join("a")).unwrap(), b"old");
    fs::write(folder.join(".a.partial"), "half").unwrap();
    save(&place, "a", |file| {
        file.write_all(b"new").map_err(Error::WriteArchive)
    })
    .unwrap();
    assert_eq!(names(&folder), ["a"]);
    assert_eq!(fs::read(folder.join("a")).unwrap(), b"new");
}

#[test]
fn two_writers_of_one_name_do_not_mix() {
    let dir = Dir::new();
    let folder = dir.make("folder");
    let place = File::open(&folder).unwrap();
    save(&place, "a", |file| {
        file.write_all(b"first").unwrap();
        match save(&place, "a", |_| Ok(())) {
            Err(Error::Save { source, .. }) => {
                assert_eq!(Errno::from_io_error(&source), Some(Errno::BUSY));
            }
            other => panic!("{other:?}"),
        }
        save(&place, "b", |file| {
            file.write_all(b"other").map_err(Error::WriteArchive)
        })
    })
    .unwrap();
    assert_eq!(names(&folder), ["a", "b"]);
    assert_eq!(fs::read(folder.join("a")).unwrap(), b"first");
    for name in ["", "x/y", "../x", "a\0b"] {
        assert!(
            matches!(save(&place, name, |_| Ok(())), Err(Error::Save { .. })),
            "{name:?}"
        );
    }
}
