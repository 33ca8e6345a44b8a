//! What is exported comes back: random trees, byte by byte and with all metadata.

// Clippy knows tests by their attribute only, not their helpers.
#![allow(clippy::unwrap_used)]

mod support;

use botstead_archive::*;
use proptest::prelude::*;
use rustix::fs::{Mode, OFlags, mkdirat};
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use support::{COMPRESSIONS, Dir, Picture, attributes, options, pack, set, trees, unpack};

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn a_tree_comes_back(
        steps in trees::steps(60),
        before in trees::steps(20),
        compression in prop::sample::select(COMPRESSIONS.to_vec()),
        folder in prop::sample::select(vec!["", "data"]),
    ) {
        let dir = Dir::new();
        let (from, to) = (dir.make("from"), dir.make("to"));
        trees::make(&from, &steps);
        trees::make(&to, &before);
        // The root's own metadata is a part of it.
        trees::make(&dir.join(""), &[
            trees::Step::Mode("from".into(), 0o2750),
            trees::Step::Attribute("from".into(), 4),
            trees::Step::Attribute("to".into(), 0),
            trees::Step::Time("from".into(), 5, 6),
        ]);
        let expected = Picture::of(&from);
        let (archive, report) = pack(&from, folder, compression);
        let content = unpack(&archive, &to, ApplyMode::Replace).unwrap();
        prop_assert_eq!(content.in_folder, !folder.is_empty());
        prop_assert_eq!(content.files, report.files);
        prop_assert_eq!(content.bytes, report.bytes);
        Picture::of(&to).assert_same(&expected);
        Picture::of(&from).assert_same(&expected);
    }

    #[test]
    fn merging_is_the_same_as_writing_over(
        first in trees::steps(40),
        second in trees::steps(40),
    ) {
        let dir = Dir::new();
        let (from, to) = (dir.make("from"), dir.make("to"));
        trees::make(&from, &second);
        trees::make(&to, &first);
        let (mine, theirs) = (Picture::of(&from), Picture::of(&to));
        let (archive, _) = pack(&from, "data", Compression::None);
        unpack(&archive, &to, ApplyMode::Merge).unwrap();
        let merged = Picture::of(&to);
        for (name, entry) in &mine.0 {
            // Directories have got further entries, links further names, the root keeps its own.
            if name.as_os_str().is_empty() {
                continue;
            }
            let got = &merged.0[name];
            let is_directory = entry.mode & 0o170_000 == 0o040_000;
            prop_assert_eq!((got.mode, got.owner, &got.content),
                (entry.mode, entry.owner, &entry.content));
            prop_assert_eq!(&got.same_as, &entry.same_as);
            prop_assert_eq!(got.modified, entry.modified);
            if !is_directory {
                prop_assert_eq!(&got.attributes, &entry.attributes);
            }
        }
        for name in merged.0.keys() {
            prop_assert!(mine.0.contains_key(name) || theirs.0.contains_key(name));
        }
        for name in theirs.0.keys() {
            // What is not there any more was in the way.
            let in_the_way = || name.ancestors().any(|above| {
                mine.0.get(above).is_some_and(|entry| entry.mode & 0o170_000 != 0o040_000)
            });
            prop_assert!(merged.0.contains_key(name) || in_the_way(), "{:?} is gone", name);
        }
    }
}

#[test]
fn a_large_sparse_file_stays_sparse_and_small() {
    let dir = Dir::new();
    let (from, to) = (dir.make("from"), dir.make("to"));
    let file = File::create(from.join("disk")).unwrap();
    file.set_len(1 << 40).unwrap();
    file.write_all_at(b"first", 5).unwrap();
    file.write_all_at(b"middle", 1 << 39).unwrap();
    let empty = File::create(from.join("hole")).unwrap();
    empty.set_len((8 << 30) + 1).unwrap();
    for compression in COMPRESSIONS {
        let (archive, report) = pack(&from, "data", compression);
        assert_eq!((report.files, report.bytes), (2, 8192));
        assert!(archive.len() < 20_000);
        unpack(&archive, &to, ApplyMode::Replace).unwrap();
        for name in ["disk", "hole"] {
            let (old, new) = (from.join(name), to.join(name));
            let (old, new) = (fs::metadata(old).unwrap(), fs::metadata(new).unwrap());
            assert_eq!((old.len(), old.blocks()), (new.len(), new.blocks()));
        }
        let mut bytes = [0; 6];
        let back = File::open(to.join("disk")).unwrap();
        back.read_exact_at(&mut bytes, 1 << 39).unwrap();
        assert_eq!(&bytes, b"middle");
        back.read_exact_at(&mut bytes, 4).unwrap();
        assert_eq!(&bytes, b"\0first");
    }
}

#[test]
fn depth_beyond_any_path_takes_no_stack_and_few_descriptors() {
    const DEPTH: usize = 2200;
    let dir = Dir::in_memory();
    let (from, to) = (dir.make("from"), dir.make("to"));
    let mut deep = rustix::fs::open(&from, OFlags::PATH, Mode::empty()).unwrap();
    for _ in 0..DEPTH {
        mkdirat(&deep, "d", Mode::RWXU).unwrap();
        deep = rustix::fs::openat(&deep, "d", OFlags::PATH, Mode::empty()).unwrap();
    }
    let flags = OFlags::CREATE | OFlags::WRONLY;
    rustix::fs::openat(&deep, "file", flags, Mode::RUSR).unwrap();
    let (archive, report) = pack(&from, "data", Compression::None);
    assert_eq!(report.directories, DEPTH as u64 + 1);
    unpack(&archive, &to, ApplyMode::Replace).unwrap();
    // One name in each directory: the order is the same, and so is the archive.
    assert!(pack(&to, "data", Compression::None).0 == archive);
}

#[test]
fn many_links_and_many_names_in_one_directory() {
    let dir = Dir::new();
    let (from, to) = (dir.make("from"), dir.make("to"));
    for number in 0..20_000 {
        let name = from.join(number.to_string());
        match number % 50 {
            0 => fs::write(name, number.to_string()).unwrap(),
            _ => fs::hard_link(from.join((number / 50 * 50).to_string()), name).unwrap(),
        }
    }
    let (archive, report) = pack(&from, "", Compression::ZSTD);
    assert_eq!((report.files, report.hard_links), (400, 19_600));
    unpack(&archive, &to, ApplyMode::Merge).unwrap();
    let mut expected = Picture::of(&from);
    let mut found = Picture::of(&to);
    // The root keeps its own time when merging.
    expected.0.remove(std::path::Path::new(""));
    found.0.remove(std::path::Path::new(""));
    found.assert_same(&expected);
}

#[test]
fn owners_can_be_mapped_to_one() {
    let dir = Dir::new();
    let (from, to) = (dir.make("from"), dir.make("to"));
    trees::make(
        &from,
        &[
            trees::Step::Directory("d".into()),
            trees::Step::File("d/f".into(), 10, 1),
            trees::Step::Symlink(b"x".to_vec(), "d/l".into()),
            trees::Step::Fifo("d/p".into()),
            trees::Step::Owner("d/f".into(), 5, 6),
            trees::Step::Mode("d/f".into(), 0o6755),
        ],
    );
    let (archive, _) = pack(&from, "data", Compression::GZIP);
    let mut checked = support::check_bytes(&archive).unwrap();
    let owner = Ownership::all(Owner { uid: 77, gid: 78 });
    let target = File::open(&to).unwrap();
    checked
        .apply(&target, ApplyMode::Replace, owner, &Progress::new())
        .unwrap();
    for entry in Picture::of(&to).0.values() {
        assert_eq!(entry.owner, (77, 78));
    }
    assert_eq!(
        fs::metadata(to.join("d/f")).unwrap().mode() & 0o7777,
        0o6755
    );
    // It can be repeated, as it is or another way.
    checked
        .apply(
            &target,
            ApplyMode::Replace,
            Ownership::ARCHIVE,
            &Progress::new(),
        )
        .unwrap();
    Picture::of(&to).assert_same(&Picture::of(&from));
}

#[test]
fn new_entries_inherit_no_access_list_of_the_destination() {
    let dir = Dir::new();
    let (from, to) = (dir.make("from"), dir.make("to"));
    trees::make(
        &from,
        &[
            trees::Step::Directory("d/e".into()),
            trees::Step::File("d/f".into(), 10, 1),
            trees::Step::Fifo("d/p".into()),
            trees::Step::Mode("d/f".into(), 0o640),
        ],
    );
    let (list, value) = trees::attribute(4);
    set(&to, list, value);
    let (archive, _) = pack(&from, "", Compression::None);
    unpack(&archive, &to, ApplyMode::Merge).unwrap();
    for name in ["d", "d/e", "d/f", "d/p"] {
        assert!(attributes(&to.join(name)).is_empty(), "{name}");
        let mode = |root: &std::path::Path| fs::metadata(root.join(name)).unwrap().mode();
        assert_eq!(mode(&to), mode(&from), "{name}");
    }
    assert!(!attributes(&to).is_empty(), "the destination keeps its own");
}

#[test]
fn what_is_in_the_way_is_replaced_and_never_written_through() {
    let dir = Dir::new();
    let (from, to, outside) = (dir.make("from"), dir.make("to"), dir.make("outside"));
    for path in ["file", "over_link", "over_tree", "dir/x", "over_file/x"] {
        fs::create_dir_all(from.join(path).parent().unwrap()).unwrap();
        fs::write(from.join(path), "new").unwrap();
    }
    fs::write(outside.join("canary"), "old").unwrap();
    fs::hard_link(outside.join("canary"), to.join("file")).unwrap();
    std::os::unix::fs::symlink(outside.join("canary"), to.join("over_link")).unwrap();
    std::os::unix::fs::symlink(&outside, to.join("dir")).unwrap();
    fs::create_dir_all(to.join("over_tree/a/b")).unwrap();
    fs::write(to.join("over_tree/a/b/c"), "old").unwrap();
    fs::write(to.join("over_file"), "old").unwrap();
    fs::write(to.join("other"), "kept").unwrap();
    let (archive, _) = pack(&from, "", Compression::None);
    let mut options = options();
    let destination = File::open(&to).unwrap();
    options.merge_into = Some(std::os::fd::AsFd::as_fd(&destination));
    // The archive has directories of its own for all of them: none is reached through.
    check(std::io::Cursor::new(&archive), &options, &Progress::new()).unwrap();
    unpack(&archive, &to, ApplyMode::Merge).unwrap();
    for path in ["file", "over_link", "over_tree", "dir/x", "over_file/x"] {
        assert_eq!(fs::read(to.join(path)).unwrap(), b"new", "{path}");
    }
    assert_eq!(fs::read(to.join("other")).unwrap(), b"kept");
    assert_eq!(fs::read(outside.join("canary")).unwrap(), b"old");
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
}

#[test]
fn directories_that_are_only_named_within_names_are_made() {
    let dir = Dir::new();
    let to = dir.make("to");
    fs::write(to.join("a"), "a file in the way").unwrap();
    let archive = support::raw::archive(&[
        support::raw::Raw::file("a/b/c"),
        support::raw::Raw::file("x/y"),
        support::raw::Raw::directory("x").set(|header| header.set_mode(0o700)),
    ]);
    unpack(&archive, &to, ApplyMode::Merge).unwrap();
    assert_eq!(fs::read(to.join("a/b/c")).unwrap(), b"data\n");
    let mode = |path: &str| fs::metadata(to.join(path)).unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode("a"), mode("a/b"), mode("x")), (0o755, 0o755, 0o700));
}
