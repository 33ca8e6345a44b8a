//! Restoring paths from one stack into another, seen through real mounts.

// Clippy knows tests by their attribute only, not their helpers.
#![allow(clippy::unwrap_used)]

mod support;

use botstead_overlay::{Error, PrivateMount, Restored, restore_path};
use proptest::prelude::*;
use rustix::fs::{CWD, FileType, Mode, OFlags, mkdirat, mknodat};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use support::changes::{changes, place};
use support::{Entry, Picture, Stack, set, unmount};

fn write(path: PathBuf, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

fn picture(stack: &mut Stack, layers: &[PathBuf]) -> Picture {
    let at = stack.mount(layers, None);
    let picture = Picture::of(&at);
    unmount(&at);
    picture
}

/// What is at a path and beneath it, by the rest of the path.
fn tree(picture: &Picture, at: &Path) -> BTreeMap<PathBuf, Entry> {
    let mut found = BTreeMap::new();
    for (path, entry) in &picture.0 {
        if let Ok(rest) = path.strip_prefix(at) {
            let same_as = entry.same_as.as_deref().map(|first| first.strip_prefix(at));
            let entry = Entry {
                // Links to names that are elsewhere are not kept.
                same_as: same_as.and_then(Result::ok).map(Path::to_owned),
                content: entry.content.clone(),
                attributes: entry.attributes.clone(),
                ..*entry
            };
            found.insert(rest.to_owned(), entry);
        }
    }
    found
}

/// Restores from the stack `old` into a new layer on the stack's layers, which it then has.
fn restore(
    stack: &mut Stack,
    old: &[PathBuf],
    path: &Path,
    target: &Path,
) -> Result<Restored, Error> {
    let (upper, work) = (stack.fresh("u"), stack.fresh("w"));
    let from = PrivateMount::read_only(old).unwrap();
    let to = PrivateMount::writable(&stack.all(), &upper, &work).unwrap();
    let (path, target) = (path.as_os_str().as_bytes(), target.as_os_str().as_bytes());
    let restored = restore_path(&from, path, &to, target);
    to.close().unwrap();
    stack.layers.push(upper);
    restored
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn a_path_becomes_as_it_was_and_nothing_else_changes(
        image in changes(30),
        first in changes(20),
        second in prop::collection::vec(changes(20), 1..3),
        path in place(),
        elsewhere in place(),
        same in any::<bool>(),
    ) {
        let mut stack = Stack::new();
        let add = |stack: &mut Stack, changes: &[support::changes::Change]| {
            stack.layer(|at| changes.iter().for_each(|change| drop(change.make(at))));
        };
        add(&mut stack, &image);
        stack.freeze_image();
        add(&mut stack, &first);
        let old = stack.all();
        for changes in &second {
            add(&mut stack, changes);
        }
        let target = if same { path.clone() } else { elsewhere };
        let source = picture(&mut stack, &old);
        let now = stack.all();
        let before = picture(&mut stack, &now);
        let restored = restore(&mut stack, &old, &path, &target);
        let now = stack.all();
        let after = picture(&mut stack, &now);
        let wanted = tree(&source, &path);
        let mut above = target.ancestors().skip(1);
        let in_the_way = above.any(|path| {
            before.0.get(path).is_some_and(|entry| entry.mode & 0o170_000 != 0o040_000)
        });
        match restored {
            Ok(restored) => {
                prop_assert_eq!(restored.entries, wanted.len() as u64);
                prop_assert_eq!(&tree(&after, &target), &wanted);
            }
            Err(Error::NotFound(_)) => prop_assert!(wanted.is_empty()),
            Err(Error::InTheWay(_)) => prop_assert!(in_the_way),
            Err(other) => panic!("{other:?}"),
        }
        for (path, entry) in &before.0 {
            if path.starts_with(&target) || target.starts_with(path) {
                continue;
            }
            // Links to what was replaced have another first name now.
            let found = after.0.get(path);
            let link = |entry: &Entry| entry.same_as.is_some();
            if !link(entry) && !found.is_some_and(link) {
                prop_assert_eq!(found, Some(entry), "at {:?}", path);
            }
        }
    }
}

/// An image with a tree that a layer then spoils.
fn spoiled() -> (Stack, Vec<PathBuf>) {
    let mut stack = Stack::new();
    let image = stack.image().to_owned();
    write(image.join("d/sub/a"), "old a");
    fs::hard_link(image.join("d/sub/a"), image.join("d/b")).unwrap();
    symlink("../../outside", image.join("d/link")).unwrap();
    mknodat(CWD, image.join("d/pipe"), FileType::Fifo, Mode::RUSR, 0).unwrap();
    let sparse = fs::File::create(image.join("d/holes")).unwrap();
    sparse.set_len(8 << 20).unwrap();
    sparse.write_all_at(b"middle", 4 << 20).unwrap();
    set(&image.join("d/sub"), "user.a", b"1");
    chown(image.join("d/sub"), Some(5), Some(6)).unwrap();
    fs::set_permissions(image.join("d/sub"), fs::Permissions::from_mode(0o2710)).unwrap();
    write(image.join("file"), "old");
    let old = stack.all();
    stack.layer(|at| {
        write(at.join("d/sub/a"), "new");
        write(at.join("d/more"), "new");
        fs::remove_file(at.join("d/link")).unwrap();
        write(at.join("file"), "new");
    });
    (stack, old)
}

#[test]
fn files_and_trees_take_the_place_of_anything() {
    let (mut stack, old) = spoiled();
    let source = picture(&mut stack, &old);
    stack.layer(|at| {
        write(at.join("over_tree/x/y"), "a tree");
        write(at.join("over_file"), "a file");
        symlink("/etc/passwd", at.join("over_link")).unwrap();
        fs::create_dir(at.join("over_new")).unwrap();
    });
    for target in [
        "d",
        "over_tree",
        "over_file",
        "over_link",
        "over_new",
        "none",
    ] {
        for path in ["d", "file"] {
            let restored = restore(&mut stack, &old, Path::new(path), Path::new(target)).unwrap();
            let now = stack.all();
            let after = picture(&mut stack, &now);
            let wanted = tree(&source, Path::new(path));
            assert_eq!(
                tree(&after, Path::new(target)),
                wanted,
                "{path} over {target}"
            );
            assert_eq!(restored.entries, wanted.len() as u64);
            let odd = after
                .0
                .keys()
                .find(|path| path.to_string_lossy().contains(".botstead"));
            assert_eq!(odd, None);
        }
    }
    // Holes are holes, not zeros.
    restore(
        &mut stack,
        &old,
        Path::new("/d/holes/"),
        Path::new("//holes"),
    )
    .unwrap();
    let holes = stack.layers.last().unwrap().join("holes");
    assert!(fs::metadata(holes).unwrap().blocks() < 1000);
}

#[test]
fn missing_directories_above_are_made_like_the_source() {
    let (mut stack, old) = spoiled();
    stack.layer(|at| fs::remove_dir_all(at.join("d")).unwrap());
    restore(&mut stack, &old, Path::new("d/sub/a"), Path::new("d/sub/a")).unwrap();
    restore(&mut stack, &old, Path::new("d/sub/a"), Path::new("x/y/z/a")).unwrap();
    let now = stack.all();
    let (source, after) = (picture(&mut stack, &old), picture(&mut stack, &now));
    let facts = |entry: &Entry| (entry.mode, entry.owner, entry.attributes.clone());
    for (made, like) in [
        ("d", "d"),
        ("d/sub", "d/sub"),
        ("x/y/z", "d/sub"),
        ("x/y", "d"),
    ] {
        assert_eq!(facts(after.get(made)), facts(source.get(like)), "{made}");
    }
    assert_eq!(after.get("x").mode & 0o7777, 0o755);
    assert_eq!(after.get("d/sub/a").content, b"old a");
    assert!(!after.has("d/b"));
}

#[test]
fn links_are_not_followed_on_either_side() {
    let (mut stack, old) = spoiled();
    let outside = stack.fresh("outside");
    fs::write(outside.join("secret"), "secret").unwrap();
    stack.layer(|at| {
        symlink(&outside, at.join("way")).unwrap();
        symlink("d", at.join("inside")).unwrap();
        write(at.join("plain"), "");
    });
    let linked = stack.all();
    for target in ["way/file", "way/a/b/file", "inside/file", "plain/file"] {
        let restored = restore(&mut stack, &old, Path::new("file"), Path::new(target));
        assert!(
            matches!(restored, Err(Error::InTheWay(_))),
            "{target}: {restored:?}"
        );
    }
    for path in [
        "way/secret",
        "inside/sub",
        "plain/x",
        "missing",
        "missing/x",
    ] {
        let restored = restore(&mut stack, &linked, Path::new(path), Path::new("target"));
        assert!(
            matches!(restored, Err(Error::NotFound(_))),
            "{path}: {restored:?}"
        );
    }
    // The link itself can be restored.
    restore(&mut stack, &linked, Path::new("way"), Path::new("target")).unwrap();
    assert!(stack.layers.last().unwrap().join("target").is_symlink());
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
    for path in ["", "/", ".", "d/..", "../d", "d/./sub", "d\0"] {
        for (path, target) in [(path, "target"), ("file", path)] {
            let restored = restore(&mut stack, &old, Path::new(path), Path::new(target));
            assert!(
                matches!(restored, Err(Error::NoPath(_))),
                "{path:?} to {target:?}"
            );
        }
    }
}

#[test]
fn depth_and_failures_leave_nothing_behind() {
    let mut stack = Stack::new();
    let image = rustix::fs::open(stack.image(), OFlags::PATH, Mode::empty()).unwrap();
    let mut deep = rustix::fs::openat(&image, ".", OFlags::PATH, Mode::empty()).unwrap();
    for _ in 0..1200 {
        mkdirat(&deep, "deep", Mode::RWXU).unwrap();
        deep = rustix::fs::openat(&deep, "deep", OFlags::PATH, Mode::empty()).unwrap();
    }
    let old = stack.all();
    stack.layer(|at| write(at.join("kept"), "kept"));
    let restored = restore(&mut stack, &old, Path::new("deep"), Path::new("kept")).unwrap();
    assert_eq!(restored.entries, 1200);
    // A tree with no room left for a copy: the target stays.
    let (upper, disk) = (stack.fresh("u"), stack.fresh("disk"));
    let options = Some("size=1m");
    let tmpfs = Some("tmpfs");
    nix::mount::mount(tmpfs, &disk, tmpfs, nix::mount::MsFlags::empty(), options).unwrap();
    fs::create_dir(disk.join("u")).unwrap();
    fs::create_dir(disk.join("w")).unwrap();
    write(upper.join("big/file"), &"x".repeat(3 << 20));
    write(disk.join("u/target"), "old");
    let from = PrivateMount::read_only(&[upper]).unwrap();
    let to = PrivateMount::writable(&stack.image, &disk.join("u"), &disk.join("w")).unwrap();
    let error = restore_path(&from, b"big", &to, b"target").unwrap_err();
    assert!(error.is_disk_full(), "{error:?}");
    to.close().unwrap();
    assert_eq!(fs::read_to_string(disk.join("u/target")).unwrap(), "old");
    assert_eq!(fs::read_dir(disk.join("u")).unwrap().count(), 1);
    unmount(&disk);
}
