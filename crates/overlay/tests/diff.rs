//! Differences of stacks, against a naive comparison of two real mounts.

// Clippy knows tests by their attribute only, not their helpers.
#![allow(clippy::unwrap_used)]

mod support;

use botstead_overlay::{Change, Difference, Error, Kind, diff};
use proptest::prelude::*;
use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use support::changes::changes;
use support::{Entry, Picture, Stack, set, unmount};

/// A difference without its type's privacy.
type Found = (Vec<Vec<u8>>, Change, Kind, Option<u64>);

fn kind(entry: &Entry) -> Kind {
    match FileType::from_raw_mode(entry.mode) {
        FileType::Directory => Kind::Directory,
        FileType::Symlink => Kind::Symlink,
        FileType::Fifo => Kind::Fifo,
        FileType::Socket => Kind::Socket,
        FileType::CharacterDevice => Kind::CharacterDevice,
        FileType::BlockDevice => Kind::BlockDevice,
        _ => Kind::File,
    }
}

fn same(old: &Entry, new: &Entry) -> bool {
    let facts = |entry: &Entry| (entry.mode, entry.owner);
    facts(old) == facts(new)
        && match kind(old) {
            Kind::File => {
                old.content.len() == new.content.len()
                    && (old.modified == new.modified || old.content == new.content)
            }
            Kind::Symlink => old.content == new.content,
            Kind::CharacterDevice | Kind::BlockDevice => old.device == new.device,
            _ => true,
        }
}

/// By looking at everything.
fn naive(old: &Picture, new: &Picture) -> Vec<Found> {
    let all: BTreeMap<_, _> = old.0.iter().chain(&new.0).collect();
    let mut found = Vec::new();
    for path in all.keys() {
        let (change, entry) = match (old.0.get(*path), new.0.get(*path)) {
            (Some(old), None) => (Change::Removed, old),
            (None, Some(new)) => (Change::Added, new),
            (Some(old), Some(new)) if !same(old, new) => (Change::Changed, new),
            _ => continue,
        };
        let parts: Vec<_> = path.iter().map(|part| part.as_bytes().to_vec()).collect();
        if !parts.is_empty() {
            let kind = kind(entry);
            let size = (kind == Kind::File).then_some(entry.content.len() as u64);
            found.push((parts, change, kind, size));
        }
    }
    found.sort();
    found
}

fn found(difference: Difference) -> Found {
    let parts = difference
        .path
        .split(|byte| *byte == b'/')
        .map(<[u8]>::to_vec);
    (
        parts.collect(),
        difference.change,
        difference.kind,
        difference.size,
    )
}

/// All pages of this size, one after the other.
fn pages(old: &[PathBuf], new: &[PathBuf], most: usize) -> Vec<Found> {
    let mut all = Vec::new();
    let mut after = None;
    loop {
        let page = diff(old, new, after.as_deref(), most).unwrap();
        assert!(page.items.len() <= most);
        assert!(page.next.is_none() || page.items.len() == most);
        all.extend(page.items.into_iter().map(found));
        match page.next {
            Some(next) => after = Some(next),
            None => return all,
        }
    }
}

fn picture(stack: &mut Stack, layers: &[PathBuf]) -> Picture {
    let at = stack.mount(layers, None);
    let picture = Picture::of(&at);
    unmount(&at);
    picture
}

fn check(stack: &mut Stack, old: &[PathBuf], new: &[PathBuf], most: usize) -> Vec<Found> {
    let expected = naive(&picture(stack, old), &picture(stack, new));
    let all = pages(old, new, 1000);
    assert_eq!(all, expected);
    assert_eq!(pages(old, new, most), expected);
    all
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn the_differences_are_those_of_a_naive_comparison(
        image in prop::collection::vec(changes(30), 1..3),
        common in prop::collection::vec(changes(20), 0..3),
        old in prop::collection::vec(changes(20), 0..3),
        new in prop::collection::vec(changes(20), 0..3),
        most in 1..6_usize,
    ) {
        let mut stack = Stack::new();
        let add = |stack: &mut Stack, layers: &[Vec<support::changes::Change>]| {
            for changes in layers {
                stack.layer(|at| changes.iter().for_each(|change| drop(change.make(at))));
            }
        };
        add(&mut stack, &image);
        stack.freeze_image();
        add(&mut stack, &common);
        let base = stack.layers.clone();
        add(&mut stack, &old);
        let old = stack.all();
        stack.layers = base;
        add(&mut stack, &new);
        let new = stack.all();
        check(&mut stack, &old, &new, most);
        // The same with nothing in common: the bottom is another directory with the same entries.
        let copy = stack.fresh("copy");
        let copied = std::process::Command::new("cp").arg("-aT").arg(&new[0]).arg(&copy).status();
        assert!(copied.unwrap().success());
        let other = [&[copy], &new[1..]].concat();
        let all = pages(&old, &other, 1000);
        prop_assert_eq!(all, naive(&picture(&mut stack, &old), &picture(&mut stack, &other)));
    }
}

/// Paths with slashes, and how they differ.
fn short(all: &[Found]) -> Vec<(String, Change)> {
    let path = |parts: &Vec<Vec<u8>>| String::from_utf8(parts.join(&b'/')).unwrap();
    all.iter()
        .map(|(parts, change, ..)| (path(parts), *change))
        .collect()
}

fn write(path: PathBuf, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

#[test]
fn every_rule_one_by_one() {
    use Change::*;
    let mut stack = Stack::new();
    let image = stack.image().to_owned();
    for path in [
        "same",
        "text",
        "mode",
        "gone",
        "dir/a",
        "dir/b",
        "opaque/old",
        "opaque/kept",
        "type/x",
        "touched",
    ] {
        write(image.join(path), "text");
    }
    symlink("here", image.join("link")).unwrap();
    stack.layer(|at| write(at.join("both"), "both"));
    let old = stack.all();
    stack.layer(|at| {
        write(at.join("text"), "TEXT");
        fs::set_permissions(at.join("mode"), fs::Permissions::from_mode(0o600)).unwrap();
        fs::remove_file(at.join("gone")).unwrap();
        fs::remove_file(at.join("dir/a")).unwrap();
        write(at.join("dir-"), "sorts before what is in dir, as bytes");
        fs::remove_dir_all(at.join("opaque")).unwrap();
        write(at.join("opaque/kept"), "text");
        fs::remove_dir_all(at.join("type")).unwrap();
        fs::write(at.join("type"), "a file now").unwrap();
        fs::remove_file(at.join("link")).unwrap();
        symlink("there", at.join("link")).unwrap();
        // Copied up and given another time, but with the same content.
        write(at.join("touched"), "text");
        write(at.join("new/tree/file"), "new");
        // Only attributes and times of directories.
        set(&at.join("same"), "user.a", b"1");
    });
    let new = stack.all();
    let expected = [
        ("dir/a", Removed),
        ("dir-", Added),
        ("gone", Removed),
        ("link", Changed),
        ("mode", Changed),
        ("new", Added),
        ("new/tree", Added),
        ("new/tree/file", Added),
        ("opaque/old", Removed),
        ("text", Changed),
        ("type", Changed),
        ("type/x", Removed),
    ];
    let expected = expected.map(|(path, change)| (path.to_owned(), change));
    let all = check(&mut stack, &old, &new, 2);
    assert_eq!(short(&all), expected);
    // The other way round.
    let back = check(&mut stack, &new, &old, 3);
    let turned = expected.map(|(path, change)| match change {
        Added => (path, Removed),
        Removed => (path, Added),
        Changed => (path, Changed),
    });
    assert_eq!(short(&back), turned);
    assert!(diff(&new, &new, None, 10).unwrap().items.is_empty());
    // A cursor that names nothing, or leads nowhere, only says where to go on.
    for (after, first) in [
        ("e", "gone"),
        ("dir/a/b/c", "dir-"),
        ("dir/../x", "dir/a"),
        ("zzz", ""),
    ] {
        let page = diff(&old, &new, Some(after.as_bytes()), 1).unwrap();
        let path = page
            .items
            .first()
            .map(|item| item.path.clone())
            .unwrap_or_default();
        assert_eq!(String::from_utf8(path).unwrap(), first, "{after}");
    }
    assert!(matches!(diff(&old, &[], None, 1), Err(Error::NoLayers)));
}

#[test]
fn marks_that_no_kernel_of_ours_makes_are_honoured() {
    let mut stack = Stack::new();
    let image = stack.image().to_owned();
    for path in ["white/a", "file/a", "opaque/a", "plain/a"] {
        write(image.join(path), "image");
    }
    let old = stack.all();
    stack.raw_layer(|at| {
        mknodat(
            CWD,
            at.join("white"),
            FileType::CharacterDevice,
            Mode::empty(),
            makedev(0, 0),
        )
        .unwrap();
        write(at.join("file"), "over a directory");
        write(at.join("opaque/b"), "b");
        set(&at.join("opaque"), "trusted.overlay.opaque", b"y");
        write(at.join("plain/b"), "b");
    });
    // Directories over what hides, without the mark that the kernel sets itself.
    stack.raw_layer(|at| {
        for path in ["white/new", "file/new", "opaque/new", "plain/new"] {
            write(at.join(path), "new");
        }
    });
    let new = stack.all();
    let all = short(&check(&mut stack, &old, &new, 1));
    for path in ["white/a", "file/a", "opaque/a"] {
        assert!(all.contains(&(path.to_owned(), Change::Removed)), "{path}");
    }
    assert!(!all.iter().any(|(path, _)| path == "plain/a"));
}

#[test]
fn directories_of_any_size_are_gone_through_in_order() {
    let mut stack = Stack::new();
    stack.raw_layer(|at| {
        fs::create_dir(at.join("many")).unwrap();
        for number in 0..40_000 {
            fs::write(at.join(format!("many/{number:05}")), "").unwrap();
        }
    });
    let new = stack.all();
    let old = stack.image.clone();
    let all = pages(&old, &new, 15_000);
    assert_eq!(all.len(), 40_001);
    assert!(all.is_sorted());
}
