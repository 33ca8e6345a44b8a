//! What other programs write beside the plain formats: archives that were appended to, labelled,
//! incremental, padded, with headers for all entries. And what does not fit the destination.

// Clippy knows tests by their attribute only, not their helpers.
#![allow(clippy::unwrap_used)]

mod support;

use botstead_archive::*;
use rustix::fs::{FallocateFlags, fallocate};
use std::fs::{self, File};
use std::io::{self, Cursor, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::Command;
use support::raw::{Raw, archive, extended, gzip, zstd};
use support::{COMPRESSIONS, Dir, Picture, check_bytes, pack, run, unpack};

/// GNU tar in a directory, with these arguments.
#[track_caller]
fn tar(dir: &Path, arguments: &[&str]) {
    run(Command::new("tar").args(arguments).current_dir(dir));
}

/// Gives everything in a directory one time, in whole seconds: the older formats have no others.
fn stamp(dir: &Path, seconds: u64) {
    let touch = ["-exec", "touch", "-h", "-d"];
    let time = format!("@{seconds}");
    run(Command::new("find")
        .arg(dir)
        .args(touch)
        .args([&time, "{}", "+"]));
}

fn import(dir: &Dir, archive: &[u8]) -> std::path::PathBuf {
    let to = dir.join("to");
    let _ = fs::remove_dir_all(&to);
    let to = dir.make("to");
    unpack(archive, &to, ApplyMode::Merge).unwrap();
    to
}

#[test]
fn the_later_entry_wins_in_an_archive_that_was_appended_to() {
    let dir = Dir::new();
    let from = dir.make("from");
    fs::create_dir(from.join("d")).unwrap();
    fs::create_dir(from.join("was_folder")).unwrap();
    fs::write(from.join("d/a"), "old").unwrap();
    fs::hard_link(from.join("d/a"), from.join("d/same")).unwrap();
    fs::write(from.join("was_file"), "x").unwrap();
    fs::write(from.join("stays"), "stays").unwrap();
    for format in ["--format=gnu", "--format=posix", "--format=ustar"] {
        let archive = dir.join("archive");
        let path = archive.to_str().unwrap();
        let all = ["d", "was_file", "was_folder", "stays"];
        stamp(&from, 1_600_000_000);
        tar(&from, &[&[format, "-cf", path][..], &all].concat());
        fs::write(from.join("d/a"), "newer").unwrap();
        fs::remove_file(from.join("was_file")).unwrap();
        fs::create_dir(from.join("was_file")).unwrap();
        fs::write(from.join("was_file/inner"), "y").unwrap();
        fs::remove_dir(from.join("was_folder")).unwrap();
        std::os::unix::fs::symlink("/etc", from.join("was_folder")).unwrap();
        stamp(&from, 1_700_000_000);
        // All of it once more, and then what is newer than in the archive.
        tar(&from, &[&[format, "-rf", path][..], &all].concat());
        fs::write(from.join("d/a"), "newest").unwrap();
        stamp(&from, 1_800_000_000);
        tar(&from, &[&[format, "-uf", path][..], &all].concat());
        let to = import(&dir, &fs::read(&archive).unwrap());
        let mut expected = Picture::of(&from);
        let mut found = Picture::of(&to);
        // `-u` does not look at directories.
        for path in ["", "d", "was_file"] {
            expected.0.remove(Path::new(path));
            found.0.remove(Path::new(path));
        }
        assert!(to.join("was_file").is_dir());
        found.assert_same(&expected);
        assert_eq!(fs::read(to.join("d/same")).unwrap(), b"newest");
        // As it was, for the next format.
        fs::write(from.join("d/a"), "old").unwrap();
        fs::remove_dir_all(from.join("was_file")).unwrap();
        fs::write(from.join("was_file"), "x").unwrap();
        fs::remove_file(from.join("was_folder")).unwrap();
        fs::create_dir(from.join("was_folder")).unwrap();
    }
    // The same name twice in one call: the second is a hard link to itself.
    let path = dir.join("archive");
    tar(&from, &["-cf", path.to_str().unwrap(), "d/a", "d/a"]);
    let to = import(&dir, &fs::read(&path).unwrap());
    assert_eq!(fs::read(to.join("d/a")).unwrap(), b"old");
}

#[test]
fn no_repetition_leads_through_a_link() {
    let dir = Dir::new();
    let outside = dir.make("outside");
    let target = outside.to_str().unwrap().to_owned();
    for entries in [
        vec![
            Raw::directory("d"),
            Raw::link("d", b'2', &target),
            Raw::file("d/evil"),
        ],
        vec![
            Raw::link("d", b'2', &target),
            Raw::directory("d"),
            Raw::link("d", b'2', &target),
            Raw::file("d/evil"),
        ],
        vec![
            Raw::directory("d"),
            Raw::file("d/f"),
            Raw::link("d", b'2', &target),
            Raw::file("d/evil"),
        ],
    ] {
        let to = dir.make("to");
        unpack(&archive(&entries), &to, ApplyMode::Merge).unwrap_err();
        assert_eq!(fs::read_dir(&to).unwrap().count(), 0);
        fs::remove_dir_all(to).unwrap();
    }
    // A directory in the link's place is one.
    let entries = [
        Raw::link("d", b'2', &target),
        Raw::directory("d"),
        Raw::file("d/fine"),
    ];
    let to = import(&dir, &archive(&entries));
    assert!(to.join("d/fine").exists());
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
}

#[test]
fn labels_and_increments_are_taken() {
    let dir = Dir::new();
    let from = dir.make("from");
    fs::create_dir_all(from.join("sub/inner")).unwrap();
    fs::write(from.join("sub/a"), "a").unwrap();
    let path = dir.join("archive");
    let (file, state) = (path.to_str().unwrap(), dir.join("state"));
    let state = state.to_str().unwrap();
    for format in ["--format=gnu", "--format=posix", "--format=oldgnu"] {
        tar(&from, &[format, "-V", "a label", "-cf", file, "."]);
        let to = import(&dir, &fs::read(&path).unwrap());
        assert_eq!(fs::read(to.join("sub/a")).unwrap(), b"a");
        assert_eq!(fs::read_dir(&to).unwrap().count(), 1);
        let _ = fs::remove_file(state);
        let _ = fs::remove_file(from.join("sub/b"));
        stamp(&from, 1_700_000_000);
        for level in ["first", "second"] {
            tar(&from, &[format, "-g", state, "-cf", file, "."]);
            let to = import(&dir, &fs::read(&path).unwrap());
            match level {
                "first" => assert_eq!(fs::read(to.join("sub/a")).unwrap(), b"a"),
                _ => assert_eq!(fs::read(to.join("sub/b")).unwrap(), b"b"),
            }
            fs::write(from.join("sub/b"), "b").unwrap();
        }
    }
}

#[test]
fn zeros_may_fill_up_the_last_block_of_what_is_packed() {
    let dir = Dir::new();
    let plain = archive(&[Raw::file("a"), Raw::file("b")]);
    for packed in [gzip(&plain), zstd(&plain), plain.clone()] {
        // As `tar -cz` of macOS does where it writes to a pipe.
        let mut padded = packed.clone();
        padded.resize(packed.len().next_multiple_of(10_240), 0);
        let to = import(&dir, &padded);
        assert_eq!(fs::read_dir(&to).unwrap().count(), 2);
        // Cut, it is still not taken for whole.
        let mut cut = packed[..packed.len() - 9].to_vec();
        cut.resize(10_240, 0);
        if packed != plain {
            check_bytes(&cut).unwrap_err();
        }
        for garbage in [&b"x"[..], &packed] {
            check_bytes(&[&padded, garbage].concat()).unwrap_err();
        }
    }
}

#[test]
fn absolute_targets_of_hard_links_mean_the_archives_root() {
    let dir = Dir::new();
    let home = dir.make("home");
    fs::create_dir_all(home.join("u/data")).unwrap();
    fs::write(home.join("u/data/a"), "a").unwrap();
    let entries = [
        Raw::file("u/data/a"),
        Raw::link("u/data/b", b'1', "/u/data/a"),
        Raw::link("u/data/c", b'1', "//u/./data/b"),
    ];
    let to = import(&dir, &archive(&entries));
    let inode = |name: &str| fs::metadata(to.join("u/data").join(name)).unwrap().ino();
    assert_eq!((inode("a"), inode("a")), (inode("b"), inode("c")));
    for target in ["/etc/passwd", "/u/../etc/passwd", "/", "/u/data"] {
        let bad = [Raw::file("u/data/a"), Raw::link("u/h", b'1', target)];
        let Err(Error::Refused { entry, reason }) = check_bytes(&archive(&bad)) else {
            panic!("{target}");
        };
        assert_eq!(
            (entry.number, reason),
            (2, Refusal::LinkOutside),
            "{target}"
        );
    }
}

#[test]
fn global_headers_give_owners_and_times_to_what_follows() {
    let dir = Dir::new();
    let from = dir.make("from");
    fs::write(from.join("a"), "a").unwrap();
    let path = dir.join("archive");
    let file = path.to_str().unwrap();
    // A fraction of a second would be in the file's own header.
    stamp(&from, 1_700_000_000);
    let options = "--pax-option=uid=1234,gid=99,mtime=1000000000.5,comment=x";
    tar(&from, &["--format=posix", options, "-cf", file, "a"]);
    let to = import(&dir, &fs::read(&path).unwrap());
    let stat = fs::metadata(to.join("a")).unwrap();
    assert_eq!((stat.uid(), stat.gid()), (1234, 99));
    assert_eq!(
        (stat.mtime(), stat.mtime_nsec()),
        (1_000_000_000, 500_000_000)
    );
    // An entry's own header goes first, a later global one replaces or takes back.
    let own = Raw::file("own").pax(&[("uid", b"7")]);
    let entries = [
        vec![extended(b'g', &[("uid", b"5"), ("mtime", b"50")])],
        vec![Raw::file("all")],
        own,
        vec![extended(b'g', &[("uid", b"6")])],
        vec![Raw::file("later")],
        vec![extended(b'g', &[("uid", b""), ("mtime", b"")])],
        vec![Raw::file("back")],
    ];
    let to = import(&dir, &archive(&entries.concat()));
    for (name, uid, time) in [
        ("all", 5, 50),
        ("own", 7, 50),
        ("later", 6, 50),
        ("back", 0, 1_700_000_000),
    ] {
        let stat = fs::metadata(to.join(name)).unwrap();
        assert_eq!((stat.uid(), stat.mtime()), (uid, time), "{name}");
    }
    for record in [("uid", &b"-1"[..]), ("uid", b"4294967295"), ("mtime", b"x")] {
        let bad = [extended(b'g', &[record]), Raw::file("a")];
        check_bytes(&archive(&bad)).unwrap_err();
    }
}

#[test]
fn what_an_export_makes_an_import_takes() {
    let dir = Dir::new();
    let from = dir.make("from");
    // Zeros that were written, room that was given and never written to, and a hole of 2 TiB.
    let zeros = File::create(from.join("zeros")).unwrap();
    io::copy(&mut io::repeat(0).take(400 << 20), &mut &zeros).unwrap();
    let given = File::create(from.join("given")).unwrap();
    fallocate(&given, FallocateFlags::empty(), 0, 200 << 20).unwrap();
    given.write_all_at(b"middle", 100 << 20).unwrap();
    let sparse = File::create(from.join("sparse")).unwrap();
    sparse.set_len(2 << 40).unwrap();
    sparse.write_all_at(b"far", (2 << 40) - 4096).unwrap();
    // Names as long as mkdir and cd make them.
    let deep = vec!["d".repeat(200); 100].join("/");
    let mut made = Command::new("sh");
    made.arg("-c")
        .arg(r#"for n in $(seq 100); do mkdir "$1" && cd -P "$1" || exit 1; done; echo deep > end"#)
        .arg("sh")
        .arg("d".repeat(200))
        .current_dir(&from);
    run(&mut made);
    for compression in COMPRESSIONS {
        let (bytes, report) = pack(&from, "data", compression);
        assert!(report.bytes < 401 << 20, "{report:?}");
        let to = dir.make("to");
        // No zero of a hole is ever read or written: that would take hours.
        let content = unpack(&bytes, &to, ApplyMode::Replace).unwrap();
        assert!(content.disk_bytes < 410 << 20, "{content:?}");
        let blocks = |name: &str| fs::metadata(to.join(name)).unwrap().blocks() * 512;
        assert!(blocks("sparse") < 1 << 20 && blocks("given") < 1 << 20);
        assert_eq!(fs::metadata(to.join("given")).unwrap().len(), 200 << 20);
        let mut middle = [0; 6];
        let given = File::open(to.join("given")).unwrap();
        given.read_exact_at(&mut middle, 100 << 20).unwrap();
        assert_eq!(&middle, b"middle");
        let place = File::open(&to).unwrap();
        let end = botstead_overlay::beneath::open(
            &place,
            format!("{deep}/end").as_bytes(),
            rustix::fs::OFlags::RDONLY,
        );
        let mut text = String::new();
        File::from(end.unwrap()).read_to_string(&mut text).unwrap();
        assert_eq!(text, "deep\n");
        run(Command::new("rm").arg("-rf").arg(&to));
    }
}

/// A sparse file in GNU's PAX format 0.1, with these pieces.
fn sparse(name: &str, size: u64, pieces: &[(u64, u64)]) -> Vec<Raw> {
    let map: Vec<_> = pieces
        .iter()
        .flat_map(|(start, length)| [start.to_string(), length.to_string()])
        .collect();
    let stored: u64 = pieces.iter().map(|(_, length)| length).sum();
    let size = size.to_string();
    Raw::new(name, b'0')
        .with(&vec![b'x'; usize::try_from(stored).unwrap()])
        .pax(&[
            ("GNU.sparse.size", size.as_bytes()),
            ("GNU.sparse.map", map.join(",").as_bytes()),
        ])
}

#[test]
fn what_lands_on_the_disk_is_limited_whatever_it_looks_like() {
    let check = |bytes: &[u8], most: u64| {
        let mut options = support::options();
        options.limits.disk_bytes = most;
        check(Cursor::new(bytes.to_vec()), &options, &Progress::new())
    };
    let needed = |bytes: &[u8]| check(bytes, u64::MAX).unwrap().content().disk_bytes;
    let refused = |bytes: &[u8], most: u64| match check(bytes, most) {
        Err(Error::Refused { reason, .. }) => {
            assert!(
                matches!(reason, Refusal::Limit(Limit::DiskBytes { .. })),
                "{reason:?}"
            );
        }
        other => panic!("{:?}", other.map(|checked| checked.content().clone())),
    };
    // A byte in each of 50,000 blocks: 200 MB from an archive of 1 MB, which packs to nearly nothing.
    let scattered: Vec<_> = (0..50_000).map(|number| (number * 8192, 1)).collect();
    let scattered = archive(&sparse("s", 1 << 40, &scattered));
    assert!((195 << 20..200 << 20).contains(&needed(&zstd(&scattered))));
    refused(&zstd(&scattered), 100 << 20);
    // Files of a byte, long links, directories that are only implied, attributes.
    let many = |entry: &dyn Fn(usize) -> Vec<Raw>| {
        let entries: Vec<Raw> = (0..1000).flat_map(entry).collect();
        zstd(&archive(&entries))
    };
    let value = [7; 3000];
    for bytes in [
        many(&|n| vec![Raw::new(format!("f{n}"), b'0').with(b"x")]),
        many(&|n| vec![Raw::link(&format!("l{n}"), b'2', &"t".repeat(90))]),
        many(&|n| vec![Raw::link(&format!("{n}/l"), b'2', "t")]),
        many(&|n| vec![Raw::directory(&format!("d{n}"))]),
        many(&|n| Raw::new(format!("a{n}"), b'0').pax(&[("SCHILY.xattr.user.a", &value)])),
    ] {
        assert!(needed(&bytes) >= 1000 * 4096);
        refused(&bytes, 999 * 4096);
    }
    // A file that says to be enormous is refused before anything of it is read.
    let enormous = Raw::new("e", b'0').set(|header| header.set_size(1 << 50));
    refused(&enormous.bytes(), 1 << 40);
    // Holes alone are nothing.
    let holes = archive(&sparse("s", 2 << 40, &[(0, 0)]));
    assert!(needed(&holes) < 4096);
}

#[test]
fn what_lands_nowhere_is_limited_too() {
    let comment = [b'c'; 1 << 20];
    let long = || extended(b'x', &[("comment", &comment)]);
    for entries in [
        [vec![long(), Raw::file("a")]].concat(),
        vec![extended(b'g', &[("comment", &comment)]), Raw::file("a")],
        vec![Raw::new("v", b'V').with(&comment), Raw::file("a")],
        vec![Raw::new("d/", b'D').with(&comment), Raw::file("a")],
        vec![Raw::new("l", b'L').with(&comment), Raw::file("a")],
    ] {
        let bytes = zstd(&archive(&entries));
        let mut options = support::options();
        options.limits.other_bytes = 1 << 20;
        let refused = check(Cursor::new(&bytes), &options, &Progress::new());
        let Err(Error::Refused { reason, .. }) = refused else {
            panic!("not refused");
        };
        assert_eq!(reason, Refusal::Limit(Limit::OtherBytes(1 << 20)));
    }
}

#[test]
fn what_the_filesystem_does_not_take_is_refused_with_the_entry_before_anything_is_touched() {
    let dir = Dir::new();
    let to = dir.make("to");
    let huge = vec![7; 60_000];
    let big = vec![7; 2500];
    let long = |size| sparse("bad", size, &[(0, 0)]);
    for (what, bad, reason) in [
        ("a length", long(i64::MAX as u64), Refusal::TooLong),
        (
            "an attribute",
            Raw::file("bad").pax(&[("SCHILY.xattr.user.a", &huge)]),
            Refusal::AttributeSpace,
        ),
        (
            "attributes together",
            Raw::file("bad").pax(&[("SCHILY.xattr.user.a", &big), ("SCHILY.xattr.user.b", &big)]),
            Refusal::AttributeSpace,
        ),
    ] {
        let bytes = archive(&[vec![Raw::file("first")], bad].concat());
        for scratch in [true, false] {
            let target = File::open(&to).unwrap();
            let mut options = support::options();
            options.scratch = scratch.then_some(target.as_fd());
            let checked = check(Cursor::new(&bytes), &options, &Progress::new());
            let failed = match (scratch, checked) {
                (true, checked) => checked.map(drop),
                // Late it is the same.
                (false, checked) => checked.unwrap().apply(
                    &target,
                    ApplyMode::Replace,
                    Ownership::ARCHIVE,
                    &Progress::new(),
                ),
            };
            let Err(Error::Refused { entry, reason: why }) = failed else {
                panic!(
                    "{what}: {failed:?}; these tests need ext4 beneath the folder for temporary files"
                );
            };
            assert_eq!(
                (entry.number, entry.name.as_str(), &why),
                (2, "bad", &reason)
            );
            if scratch {
                assert_eq!(fs::read_dir(&to).unwrap().count(), 0, "{what}");
            }
            run(Command::new("find")
                .arg(&to)
                .args(["-mindepth", "1", "-delete"]));
        }
    }
    // What fits is taken, after what did not.
    let fits = [
        Raw::file("a").pax(&[("SCHILY.xattr.user.a", &big)]),
        Raw::file("b").pax(&[("SCHILY.xattr.user.b", &big)]),
        long(2 << 40),
    ];
    unpack(&archive(&fits.concat()), &to, ApplyMode::Merge).unwrap();
}

#[test]
fn more_names_than_the_filesystem_takes_are_refused() {
    let dir = Dir::new();
    let to = dir.make("to");
    let first = std::iter::once(Raw::file("a"));
    let links = (0..66_000).map(|number| Raw::link(&format!("h{number}"), b'1', "a"));
    let entries: Vec<_> = first.chain(links).collect();
    let bytes = archive(&entries);
    let target = File::open(&to).unwrap();
    let mut options = support::options();
    options.scratch = Some(target.as_fd());
    let early = check(Cursor::new(&bytes), &options, &Progress::new()).map(drop);
    assert_eq!(fs::read_dir(&to).unwrap().count(), 0, "nothing was touched");
    let late = unpack(&bytes, &to, ApplyMode::Merge).map(drop);
    for refused in [early, late] {
        let Err(Error::Refused { entry, reason }) = refused else {
            panic!("{refused:?}; these tests need ext4 beneath the folder for temporary files");
        };
        assert_eq!((entry.number, reason), (65_001, Refusal::ManyLinks));
    }
    // A target that it does take, of which nothing is left.
    let long = Raw::link("l", b'2', "").pax(&[("linkpath", &[b'x'; 4000])]);
    let clean = dir.make("clean");
    let target = File::open(&clean).unwrap();
    options.scratch = Some(target.as_fd());
    check(Cursor::new(archive(&long)), &options, &Progress::new()).unwrap();
    assert_eq!(fs::read_dir(&clean).unwrap().count(), 0);
}

#[test]
fn implied_directories_belong_to_whom_the_caller_says() {
    let dir = Dir::new();
    let to = dir.make("to");
    let entries = [Raw::file("made/inner/f"), Raw::directory("own")];
    let bytes = archive(&entries);
    let mut checked = check_bytes(&bytes).unwrap();
    assert_eq!(checked.content().inodes, 4);
    let target = File::open(&to).unwrap();
    let ownership = Ownership {
        entries: None,
        implied: Owner { uid: 55, gid: 66 },
    };
    checked
        .apply(&target, ApplyMode::Merge, ownership, &Progress::new())
        .unwrap();
    for (name, owner) in [
        ("made", (55, 66)),
        ("made/inner", (55, 66)),
        ("made/inner/f", (0, 0)),
        ("own", (0, 0)),
    ] {
        let stat = fs::metadata(to.join(name)).unwrap();
        assert_eq!((stat.uid(), stat.gid()), owner, "{name}");
    }
}

#[test]
fn xz_and_bzip2_are_taken_and_their_bombs_are_not() {
    let dir = Dir::new();
    let from = dir.make("from");
    fs::create_dir(from.join("d")).unwrap();
    fs::write(from.join("d/file"), "content").unwrap();
    fs::write(from.join("zeros"), vec![0; 100 << 20]).unwrap();
    for (option, name) in [("-J", "a.tar.xz"), ("-j", "a.tar.bz2")] {
        let file = dir.join(name);
        let (shown, from) = (file.to_str().unwrap(), from.to_str().unwrap());
        tar(&dir.join("."), &["-C", from, option, "-cf", shown, "."]);
        let mut bytes = fs::read(&file).unwrap();
        // What fills up the last block of a tape, in steps of what xz takes.
        let whole = bytes.clone();
        bytes.resize(bytes.len().next_multiple_of(10_240), 0);
        for bytes in [&whole, &bytes] {
            let to = import(&dir, bytes);
            assert_eq!(fs::read(to.join("d/file")).unwrap(), b"content");
            assert_eq!(fs::metadata(to.join("zeros")).unwrap().len(), 100 << 20);
        }
        let mut options = support::options();
        options.limits.disk_bytes = 50 << 20;
        let refused = check(Cursor::new(&whole), &options, &Progress::new());
        let Err(Error::Refused { reason, .. }) = refused else {
            panic!("{name}: {refused:?}");
        };
        let limited = matches!(reason, Refusal::Limit(Limit::DiskBytes { .. }));
        assert!(limited, "{name}: {reason:?}");
        for end in [whole.len() / 2, whole.len() - 1] {
            let cut = check(
                Cursor::new(&whole[..end]),
                &support::options(),
                &Progress::new(),
            );
            let Err(Error::Refused { reason, .. }) = cut else {
                panic!("{name}: {cut:?}");
            };
            assert_eq!(reason, Refusal::Truncated, "{name}");
        }
        let mut damaged = whole.clone();
        let at = damaged.len() / 2;
        damaged[at] ^= 1;
        let damaged = check(Cursor::new(&damaged), &support::options(), &Progress::new());
        let Err(Error::Refused { reason, .. }) = damaged else {
            panic!("{name}: {damaged:?}");
        };
        assert!(matches!(reason, Refusal::Corrupt(_)), "{name}: {reason:?}");
    }
}
