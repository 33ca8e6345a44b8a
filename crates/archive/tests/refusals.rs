//! Hostile and damaged archives: each is refused at the right entry, and nothing is touched.

// Clippy knows tests by their attribute only, not their helpers.
#![allow(clippy::unwrap_used)]

mod support;

use botstead_archive::*;
use std::fs::{self, File};
use std::io::{self, Cursor, Read, Seek, SeekFrom};
use std::os::fd::AsFd;
use std::os::unix::fs::symlink;
use support::cases::{self, entries};
use support::raw::{Raw, archive, gzip, zstd};
use support::trees::{self, Step};
use support::{Dir, Picture, check_bytes, options, pack, unpack};

/// A destination with something of everything.
fn destination(dir: &Dir) -> std::path::PathBuf {
    let to = dir.make("to");
    trees::make(
        &to,
        &[
            Step::File("dir/file".into(), 100, 1),
            Step::Directory("dir".into()),
            Step::File("dir/file".into(), 100, 1),
            Step::Symlink(b"dir".to_vec(), "link".into()),
            Step::Attribute("dir".into(), 0),
            Step::Time("dir".into(), 5, 5),
        ],
    );
    to
}

#[track_caller]
fn refusal<T>(result: Result<T, Error>) -> (Entry, Refusal) {
    match result {
        Err(Error::Refused { entry, reason }) => (entry, reason),
        Err(other) => panic!("not refused, but: {other:?}"),
        Ok(_) => panic!("not refused"),
    }
}

#[test]
fn every_hostile_archive_is_refused_at_its_entry() {
    let dir = Dir::new();
    let to = destination(&dir);
    let before = Picture::of(&to);
    for case in cases::all() {
        let plain = archive(&case.entries);
        for bytes in [gzip(&plain), zstd(&plain), plain] {
            for mode in [ApplyMode::Merge, ApplyMode::Replace] {
                let (entry, reason) = refusal(unpack(&bytes, &to, mode));
                assert_eq!(
                    (entry.number, &reason),
                    (case.number, &case.reason),
                    "{}",
                    case.what
                );
                if let Some(name) = &case.name {
                    assert_eq!(&entry.name, name, "{}", case.what);
                }
            }
        }
        assert_eq!(Picture::of(&to), before, "{}", case.what);
    }
    // The same entries without what is wrong are all right: the cases test what they say.
    let good = entries("ok; d/; d/f; l -> /etc; h = ok; a/b/c; d/");
    let good = archive(&[good, vec![Raw::new("p", b'6')]].concat());
    unpack(&good, &to, ApplyMode::Merge).unwrap();
}

#[test]
fn links_of_the_destination_are_not_reached_through() {
    let dir = Dir::new();
    let (to, outside) = (destination(&dir), dir.make("outside"));
    symlink(&outside, to.join("out")).unwrap();
    symlink(&outside, to.join("dir/out")).unwrap();
    let kept = Picture::of(&outside);
    let target = File::open(&to).unwrap();
    let through = |entries: &[Raw]| {
        let bytes = archive(entries);
        let mut options = options();
        options.merge_into = Some(target.as_fd());
        let refused = refusal(check(Cursor::new(&bytes), &options, &Progress::new()));
        let without = check_bytes(&bytes).unwrap();
        let looked = refusal(without.outline().fits(&target));
        assert_eq!(refused, looked);
        // Applied without that look, it is refused all the same, when it gets there.
        let late = refusal(unpack(&bytes, &to, ApplyMode::Merge));
        assert_eq!(refused.1, late.1);
        assert_eq!(refused.0.number, late.0.number);
        refused
    };
    for (text, number, name) in [
        ("out/evil", 1, "out/evil"),
        ("out/a/b/evil", 1, "out/a/b/evil"),
        ("out/evil/", 1, "out/evil"),
        ("dir/; dir/out/evil", 2, "dir/out/evil"),
        // Its own directory comes too late.
        ("out/evil; out/", 1, "out/evil"),
        ("data/; data/out/evil", 2, "out/evil"),
    ] {
        let (entry, reason) = through(&entries(text));
        assert_eq!(reason, Refusal::BeneathLink);
        assert_eq!((entry.number, entry.name.as_str()), (number, name));
        assert_eq!(Picture::of(&outside), kept);
    }
    // Replacing, there are no links in the way any more.
    unpack(&archive(&[Raw::file("out/good")]), &to, ApplyMode::Replace).unwrap();
    assert_eq!(Picture::of(&outside), kept);
    assert!(to.join("out/good").exists());
}

/// An archive of ours of some hundred kilobytes, plain.
fn example(dir: &Dir, files: usize) -> Vec<u8> {
    let from = dir.make("from");
    let mut steps = vec![
        Step::Directory("d".into()),
        Step::Symlink(b"x".to_vec(), "d/l".into()),
        Step::Attribute("d".into(), 5),
        Step::Sparse("holes".into(), vec![1, 5], 9),
    ];
    for number in 0..files {
        steps.push(Step::File(format!("d/{number}").into(), 40_000 + number, 7));
    }
    trees::make(&from, &steps);
    pack(&from, "data", Compression::None).0
}

#[test]
fn truncation_anywhere_is_refused() {
    let dir = Dir::new();
    let to = destination(&dir);
    let before = Picture::of(&to);
    let small = archive(&[Raw::file("a"), Raw::directory("d"), Raw::file("d/b")]);
    let medium = example(&dir, 1);
    let mut truncated = 0;
    let mut check = |bytes: &[u8], step: usize| {
        unpack(
            bytes,
            &dir.make(&format!("whole{}", bytes.len())),
            ApplyMode::Merge,
        )
        .unwrap();
        for length in (0..bytes.len()).step_by(step) {
            let (_, reason) = refusal(unpack(&bytes[..length], &to, ApplyMode::Replace));
            let expected = match length {
                // Of what begins a compressed file nothing can be known.
                0..4 => matches!(reason, Refusal::Truncated | Refusal::NotAnArchive),
                _ => reason == Refusal::Truncated,
            };
            assert!(expected, "{length} of {}: {reason:?}", bytes.len());
            truncated += 1;
        }
    };
    // Every byte, every block.
    for bytes in [gzip(&small), zstd(&small), small] {
        check(&bytes, 1);
    }
    check(&medium, 512);
    fs::remove_dir_all(dir.join("from")).unwrap();
    let large = example(&dir, 60);
    assert!(large.len() > 2 << 20);
    for bytes in [gzip(&large), zstd(&large)] {
        check(&bytes, 1009);
    }
    check(&large, 64 << 10);
    assert!(truncated > 3000, "{truncated}");
    assert_eq!(Picture::of(&to), before);
}

#[test]
fn damage_and_garbage_are_refused() {
    let plain = archive(&[Raw::file("a"), Raw::file("b")]);
    let flip = |bytes: &[u8], at: usize| {
        let mut bytes = bytes.to_vec();
        bytes[at] ^= 0x10;
        bytes
    };
    let reason = |bytes: &[u8]| refusal(check_bytes(bytes)).1;
    assert_eq!(reason(b"").to_string(), Refusal::Truncated.to_string());
    for garbage in [
        &b"hello"[..],
        &[7; 512],
        &[0xff; 5000],
        b"PK\x03\x04 a zip file",
    ] {
        let padded = [garbage, &[1; 512]].concat();
        assert_eq!(reason(&padded), Refusal::NotAnArchive);
    }
    assert_eq!(reason(&[0; 1024]), Refusal::NoEntries);
    assert_eq!(reason(&gzip(&[0; 10_240])), Refusal::NoEntries);
    assert_eq!(reason(&flip(&plain, 5)), Refusal::NotAnArchive);
    assert_eq!(reason(&flip(&plain, 1024 + 5)), Refusal::Checksum);
    // One block of zeros, and then more.
    let lone = [&plain[..1024], &[0; 512], &plain[1024..]].concat();
    assert_eq!(reason(&lone), Refusal::Checksum);
    for rest in [&b"x"[..], &[0; 5000], &plain] {
        let behind = [&plain, rest].concat();
        let only_zeros = rest.iter().all(|byte| *byte == 0);
        match only_zeros {
            true => drop(check_bytes(&behind).unwrap()),
            false => assert_eq!(reason(&behind), Refusal::TrailingData),
        }
        // Zeros may fill up the last block, but nothing else follows what is compressed.
        for packed in [gzip(&plain), zstd(&plain)] {
            let behind = [&packed, rest].concat();
            match only_zeros {
                true => drop(check_bytes(&behind).unwrap()),
                false => assert!(matches!(reason(&behind), Refusal::Corrupt(_))),
            }
        }
    }
    for packed in [gzip(&plain), zstd(&plain)] {
        let damaged = packed.len() - 2;
        assert!(matches!(
            reason(&flip(&packed, damaged)),
            Refusal::Corrupt(_)
        ));
    }
    // A window of 2 GiB would take as much memory.
    let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
    encoder.window_log(30).unwrap();
    encoder.include_contentsize(false).unwrap();
    io::Write::write_all(&mut encoder, &plain).unwrap();
    assert!(matches!(
        reason(&encoder.finish().unwrap()),
        Refusal::Corrupt(_)
    ));
}

#[test]
fn bombs_are_refused() {
    let zeros = |length: u64| Raw::new("zeros", b'0').set(|header| header.set_size(length));
    let bomb = |pack: &dyn Fn(&mut dyn Read) -> Vec<u8>| {
        let head = archive(&[Raw::file("a"), zeros(300 << 20)]);
        let mut stream = (&head[..1536]).chain(io::repeat(0).take((300 << 20) + 1024));
        pack(&mut stream)
    };
    let gz = bomb(&|stream| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(6));
        io::copy(stream, &mut encoder).unwrap();
        encoder.finish().unwrap()
    });
    let zst = bomb(&|stream| zstd::encode_all(stream, 1).unwrap());
    for bytes in [&gz, &zst] {
        let mut options = options();
        let check =
            |options: &CheckOptions<'_>| check(Cursor::new(bytes), options, &Progress::new());
        options.limits.disk_bytes = 299 << 20;
        let (entry, reason) = refusal(check(&options));
        assert_eq!((entry.number, entry.name.as_str()), (2, "zeros"));
        let beyond = Limit::DiskBytes {
            most: 299 << 20,
            needed: (300 << 20) + 4096 + 2 * 512,
        };
        assert_eq!(reason, Refusal::Limit(beyond));
        options.limits.file_bytes = 200 << 20;
        let (_, reason) = refusal(check(&options));
        assert_eq!(reason, Refusal::Limit(Limit::FileBytes(200 << 20)));
        // They are what their sender has: however well it packs, nothing else is wrong with it.
        options.limits = Limits::default();
        let checked = check(&options).unwrap();
        assert_eq!(checked.content().bytes, (300 << 20) + 5);
    }
    // Behind the end as well.
    let behind = zstd::encode_all(
        (&archive(&[Raw::file("a")])[..]).chain(io::repeat(0).take(100 << 20)),
        1,
    );
    let mut options = options();
    options.limits.other_bytes = 64 << 20;
    let behind = Cursor::new(behind.unwrap());
    let (_, reason) = refusal(check(behind, &options, &Progress::new()));
    assert_eq!(reason, Refusal::Limit(Limit::OtherBytes(64 << 20)));
    // And in an extended header, which is held in memory.
    let header = Raw::new("x", b'x').set(|header| header.set_size(9 << 20));
    let (_, reason) = refusal(check_bytes(&header.bytes()));
    assert_eq!(reason, Refusal::Limit(Limit::Extended(8 << 20)));
}

#[test]
fn a_failing_file_is_no_refusal_and_work_can_be_cancelled() {
    #[derive(Debug)]
    struct Failing(Cursor<Vec<u8>>);
    impl Read for Failing {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            if self.0.position() > 100_000 {
                return Err(io::ErrorKind::TimedOut.into());
            }
            self.0.read(buffer)
        }
    }
    impl Seek for Failing {
        fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
            self.0.seek(to)
        }
    }
    let dir = Dir::new();
    let plain = example(&dir, 60);
    let failing = Failing(Cursor::new(plain.clone()));
    match check(failing, &options(), &Progress::new()) {
        Err(Error::ReadArchive(error)) => assert_eq!(error.kind(), io::ErrorKind::TimedOut),
        other => panic!("{other:?}"),
    }
    let cancelled = Progress::new();
    cancelled.cancel();
    let to = destination(&dir);
    let result = check(Cursor::new(&plain), &options(), &cancelled);
    assert!(matches!(result, Err(Error::Cancelled)));
    let progress = Progress::new();
    let mut checked = check(Cursor::new(&plain), &options(), &progress).unwrap();
    assert_eq!(
        (progress.entries(), progress.bytes()),
        (64, plain.len() as u64)
    );
    let target = File::open(&to).unwrap();
    let applied = checked.apply(&target, ApplyMode::Merge, Ownership::ARCHIVE, &cancelled);
    assert!(matches!(applied, Err(Error::Cancelled)));
    let exported = export(&target, Vec::new(), &ExportOptions::new("data"), &cancelled);
    assert!(matches!(exported, Err(Error::Cancelled)));
}
