//! Exports from merged layers and imports into them: what the server does with a workspace.

// Clippy knows tests by their attribute only, not their helpers.
#![allow(clippy::unwrap_used)]

mod support;

use botstead_archive::*;
use botstead_overlay::PrivateMount;
use nix::mount::{MsFlags, mount, umount};
use proptest::prelude::*;
use std::fs;
use std::io::Cursor;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use support::changes::{Change, changes};
use support::{Picture, Stack};

fn picture(stack: &mut Stack, layers: &[PathBuf]) -> Picture {
    let at = stack.mount(layers, None);
    let mut picture = Picture::of(&at);
    umount(&at).unwrap();
    // Whose own metadata is the mount's.
    picture.0.remove(Path::new(""));
    // What an archive does not have.
    picture
        .0
        .retain(|_, entry| !matches!(entry.mode & 0o170_000, 0o020_000 | 0o140_000));
    picture
}

fn packed(layers: &[PathBuf]) -> Vec<u8> {
    let from = PrivateMount::read_only(layers).unwrap();
    let mut options = ExportOptions::new("data");
    options.compression = Compression::Zstd { level: 1 };
    export(&from, Vec::new(), &options, &Progress::new())
        .unwrap()
        .0
}

/// Applies an archive in a new layer on the stack's, which it then has.
fn apply(stack: &mut Stack, archive: &[u8], mode: ApplyMode) -> Result<(), Error> {
    let (upper, work) = (stack.fresh("u"), stack.fresh("w"));
    let to = PrivateMount::writable(&stack.all(), &upper, &work).unwrap();
    let mut options = support::options();
    options.merge_into = (mode == ApplyMode::Merge).then_some(to.as_fd());
    let checked = check(Cursor::new(archive), &options, &Progress::new());
    let applied = checked
        .and_then(|mut checked| checked.apply(&to, mode, Ownership::ARCHIVE, &Progress::new()));
    to.close().unwrap();
    stack.layers.push(upper);
    applied
}

fn add(stack: &mut Stack, changes: &[Change]) {
    stack.layer(|at| changes.iter().for_each(|change| drop(change.make(at))));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn an_export_of_layers_is_imported_over_other_layers(
        image in changes(30),
        first in changes(25),
        second in changes(25),
    ) {
        let mut stack = Stack::new();
        add(&mut stack, &image);
        stack.freeze_image();
        add(&mut stack, &first);
        let old = stack.all();
        let wanted = picture(&mut stack, &old);
        let archive = packed(&old);
        add(&mut stack, &second);
        let present = stack.all();
        let before = picture(&mut stack, &present);
        apply(&mut stack, &archive, ApplyMode::Replace).unwrap();
        let now = stack.all();
        picture(&mut stack, &now).assert_same(&wanted);
        // The layers below are as they were.
        picture(&mut stack, &present).assert_same(&before);
        // Merged, it has all of the archive, and nothing that neither had.
        add(&mut stack, &second);
        let now = stack.all();
        let before = picture(&mut stack, &now);
        apply(&mut stack, &archive, ApplyMode::Merge).unwrap();
        let now = stack.all();
        let merged = picture(&mut stack, &now);
        for (name, entry) in &wanted.0 {
            let found = &merged.0[name];
            prop_assert_eq!((found.mode, &found.content, &found.owner),
                (entry.mode, &entry.content, &entry.owner));
        }
        for name in merged.0.keys() {
            prop_assert!(wanted.0.contains_key(name) || before.0.contains_key(name));
        }
    }
}

#[test]
fn layers_on_several_filesystems() {
    let mut stack = Stack::new();
    let disk = stack.fresh("disk");
    let tmpfs = Some("tmpfs");
    mount(tmpfs, &disk, tmpfs, MsFlags::empty(), None::<&str>).unwrap();
    for number in 0..300 {
        let dir = stack.image().join(format!("d{}/e{number}", number % 7));
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("file"), number.to_string()).unwrap();
        fs::hard_link(dir.join("file"), dir.join("same")).unwrap();
    }
    let lower = disk.join("lower");
    for number in 0..300 {
        let dir = lower.join(format!("d{}/f{number}", number % 7));
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("file"), "other").unwrap();
        fs::hard_link(dir.join("file"), dir.join("same")).unwrap();
    }
    stack.layers.push(lower);
    let old = stack.all();
    let wanted = picture(&mut stack, &old);
    let archive = packed(&old);
    stack.layer(|at| fs::remove_dir_all(at.join("d3")).unwrap());
    apply(&mut stack, &archive, ApplyMode::Merge).unwrap();
    let now = stack.all();
    picture(&mut stack, &now).assert_same(&wanted);
    umount(&disk).unwrap();
}
