//! A million entries: refused by the limit, or imported in reasonable time and memory.

// Clippy knows tests by their attribute only, not their helpers.
#![allow(clippy::unwrap_used)]

mod support;

use botstead_archive::*;
use std::fs::{self, File};
use std::io::{BufReader, BufWriter, Seek, Write};
use std::os::unix::fs::MetadataExt;
use support::raw::Raw;
use support::{Dir, options};

const ENTRIES: u64 = 1_000_000;

/// A thousand directories, each with 200 empty files under five names each.
fn million(file: &mut File) {
    let mut zstd = zstd::Encoder::new(BufWriter::new(file), 1).unwrap();
    for directory in 0..ENTRIES / 1000 {
        zstd.write_all(&Raw::directory(&format!("d{directory}")).bytes())
            .unwrap();
        for number in 1..1000 {
            let name = format!("d{directory}/{number}");
            let entry = match number % 5 {
                1 => Raw::new(name, b'0'),
                _ => {
                    let first = format!("d{directory}/{}", (number - 1) / 5 * 5 + 1);
                    Raw::link(&name, b'1', &first)
                }
            };
            zstd.write_all(&entry.bytes()).unwrap();
        }
    }
    zstd.write_all(&[0; 1024]).unwrap();
    zstd.finish().unwrap().flush().unwrap();
}

/// Bytes of memory that this process had at most.
fn peak() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmHWM:"))
        .unwrap();
    line.split_whitespace()
        .nth(1)
        .unwrap()
        .parse::<u64>()
        .unwrap()
        * 1024
}

#[test]
fn a_million_entries_meet_the_limit_or_come_in_whole() {
    let dir = Dir::in_memory();
    let to = dir.make("to");
    let mut file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(dir.join("a"))
        .unwrap();
    million(&mut file);
    let before = peak();
    let mut options = options();
    options.limits.entries = ENTRIES - 1;
    file.rewind().unwrap();
    match check(&file, &options, &Progress::new()) {
        Err(Error::Refused { entry, reason }) => {
            assert_eq!(entry.number, ENTRIES);
            assert_eq!(reason, Refusal::Limit(Limit::Entries(ENTRIES - 1)));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(fs::read_dir(&to).unwrap().count(), 0);
    options.limits.entries = ENTRIES;
    let mut checked = check(BufReader::new(&file), &options, &Progress::new()).unwrap();
    assert_eq!(checked.content().entries, ENTRIES);
    let target = File::open(&to).unwrap();
    let progress = Progress::new();
    checked
        .apply(&target, ApplyMode::Merge, Ownership::ARCHIVE, &progress)
        .unwrap();
    assert_eq!(progress.entries(), ENTRIES);
    let used = peak() - before;
    assert!(used < 150 << 20, "{used} bytes of memory");
    assert_eq!(fs::read_dir(&to).unwrap().count(), 1000);
    for directory in [0, 500, 999] {
        let folder = to.join(format!("d{directory}"));
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 999);
        for name in ["1", "5", "493"] {
            assert_eq!(fs::metadata(folder.join(name)).unwrap().nlink(), 5);
        }
    }
}
