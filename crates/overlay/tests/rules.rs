//! Every rule of merging, one by one, against the kernel's overlayfs.

// Clippy knows tests by their attribute only, not their helpers.
#![allow(clippy::unwrap_used)]

mod support;

use botstead_overlay::Error;
use nix::mount::{MsFlags, mount};
use rustix::fs::{
    CWD, FileType, IFlags, Mode, OFlags, ioctl_setflags, makedev, mkdirat, mknodat, openat,
};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::Path;
use support::{Stack, attributes, is_opaque, is_whiteout, name, set};

fn write(path: impl AsRef<Path>, text: &str) {
    fs::create_dir_all(path.as_ref().parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

fn whiteout(path: impl AsRef<Path>) {
    mknodat(
        CWD,
        path.as_ref(),
        FileType::CharacterDevice,
        Mode::empty(),
        makedev(0, 0),
    )
    .unwrap();
}

#[test]
fn a_whiteout_stays_exactly_where_the_image_has_the_name() {
    let mut stack = Stack::new();
    write(stack.image().join("d/old"), "image");
    stack.layer(|at| {
        write(at.join("d/new"), "new");
        write(at.join("own/file"), "own");
    });
    stack.layer(|at| {
        fs::remove_file(at.join("d/old")).unwrap();
        fs::remove_file(at.join("d/new")).unwrap();
        fs::remove_file(at.join("own/file")).unwrap();
    });
    assert!(is_whiteout(&stack.layers[1].join("own/file")));
    let (merged, report) = stack.check();
    assert!(is_whiteout(&merged.join("d/old")));
    assert!(!merged.join("own/file").exists() && !is_whiteout(&merged.join("own/file")));
    assert!(!is_whiteout(&merged.join("d/new")));
    assert_eq!(report.whiteouts, 1);
}

#[test]
fn an_opaque_directory_replaces_and_stays_opaque() {
    let mut stack = Stack::new();
    write(stack.image().join("d/image"), "image");
    stack.layer(|at| write(at.join("d/first"), "first"));
    stack.layer(|at| {
        fs::remove_dir_all(at.join("d")).unwrap();
        write(at.join("d/second"), "second");
    });
    stack.layer(|at| write(at.join("d/third"), "third"));
    let (merged, _) = stack.check();
    assert!(is_opaque(&merged.join("d")));
    assert!(merged.join("d/third").exists() && merged.join("d/second").exists());
    assert!(!merged.join("d/first").exists());
}

#[test]
fn a_directory_over_a_whiteout_or_a_file_becomes_opaque() {
    let mut stack = Stack::new();
    write(stack.image().join("w/image"), "image");
    write(stack.image().join("f/image"), "image");
    // As other tools may write them, without the mark that the kernel sets itself.
    stack.raw_layer(|at| {
        whiteout(at.join("w"));
        write(at.join("f"), "a file over a directory");
    });
    stack.raw_layer(|at| {
        write(at.join("w/new"), "new");
        write(at.join("f/new"), "new");
    });
    let (merged, _) = stack.check();
    assert!(is_opaque(&merged.join("w")) && is_opaque(&merged.join("f")));
}

#[test]
fn a_merged_directory_has_the_metadata_of_the_topmost() {
    let mut stack = Stack::new();
    write(stack.image().join("d/x"), "x");
    stack.layer(|at| {
        write(at.join("d/sub/y"), "y");
        set(&at.join("d"), "user.gone", b"1");
    });
    stack.layer(|at| {
        let d = at.join("d");
        rustix::fs::lremovexattr(&d, "user.gone").unwrap();
        set(&d, "user.kept", b"2");
        set(&d, "system.posix_acl_default", b"\x02\0\0\0\x01\0\x07\0\xff\xff\xff\xff\x02\0\x05\0\x07\0\0\0\x04\0\x05\0\xff\xff\xff\xff\x10\0\x05\0\xff\xff\xff\xff\x20\0\x04\0\xff\xff\xff\xff");
        chown(&d, Some(7), Some(8)).unwrap();
        fs::set_permissions(&d, fs::Permissions::from_mode(0o2750)).unwrap();
    });
    let (merged, _) = stack.check();
    let meta = fs::metadata(merged.join("d")).unwrap();
    assert_eq!(
        (meta.uid(), meta.gid(), meta.mode() & 0o7777),
        (7, 8, 0o2750)
    );
    let names: Vec<_> = attributes(&merged.join("d")).into_keys().collect();
    assert_eq!(
        names,
        [b"system.posix_acl_default".to_vec(), b"user.kept".to_vec()]
    );
    // Made in a directory with a default list, it must not have inherited it.
    assert!(attributes(&merged.join("d/sub")).is_empty());
}

#[test]
fn files_are_links_and_links_stay_links() {
    let mut stack = Stack::new();
    stack.layer(|at| {
        write(at.join("a"), "one");
        fs::hard_link(at.join("a"), at.join("b")).unwrap();
        symlink("/etc/passwd", at.join("link")).unwrap();
        fs::write(at.join(name(b"\xff\xfe")), "bytes").unwrap();
    });
    let (merged, report) = stack.check();
    let inode = |path: &Path| fs::symlink_metadata(path).unwrap().ino();
    for file in ["a", "b", "link"] {
        assert_eq!(
            inode(&merged.join(file)),
            inode(&stack.layers[0].join(file))
        );
    }
    assert_eq!((report.linked, report.copied), (4, 0));
}

#[test]
fn another_filesystem_is_copied_to() {
    let mut stack = Stack::new();
    write(stack.image().join("w"), "image");
    stack.layer(|at| {
        write(at.join("d/a"), "one");
        fs::hard_link(at.join("d/a"), at.join("b")).unwrap();
        set(&at.join("b"), "trusted.t", b"v");
        symlink("nowhere", at.join("link")).unwrap();
        mknodat(CWD, at.join("pipe"), FileType::Fifo, Mode::RUSR, 0).unwrap();
        fs::remove_file(at.join("w")).unwrap();
        let sparse = fs::File::create(at.join("sparse")).unwrap();
        sparse.set_len(64 << 20).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&sparse, b"middle", 32 << 20).unwrap();
    });
    let disk = stack.fresh("disk");
    mount(
        Some("tmpfs"),
        &disk,
        Some("tmpfs"),
        MsFlags::empty(),
        None::<&str>,
    )
    .unwrap();
    let target = disk.join("t");
    fs::create_dir(&target).unwrap();
    let report = botstead_overlay::merge(&stack.layers, &stack.image, &target).unwrap();
    assert_eq!((report.copied, report.linked), (5, 1));
    assert!(fs::metadata(target.join("sparse")).unwrap().blocks() < 4096);
    let all = stack.all();
    let expected = stack.picture(&all);
    let flat = [stack.image.clone(), vec![target]].concat();
    stack.picture(&flat).assert_same(&expected);
    nix::mount::umount(&disk).unwrap();
}

#[test]
fn what_cannot_be_merged_is_refused() {
    for (mark, value) in [
        ("trusted.overlay.redirect", "/other"),
        ("trusted.overlay.opaque", "x"),
        ("trusted.overlay.whiteout", "y"),
    ] {
        let mut stack = Stack::new();
        stack.raw_layer(|at| {
            write(at.join("d/e"), "");
            set(&at.join("d"), mark, value.as_bytes());
        });
        match stack.merge() {
            Err(Error::Unsupported { path, mark: found }) => {
                assert_eq!((path.as_str(), found.as_str()), ("/d", mark));
            }
            other => panic!("{mark}: {other:?}"),
        }
    }
    let mut stack = Stack::new();
    stack.raw_layer(|at| {
        write(at.join("f"), "");
        set(&at.join("f"), "trusted.overlay.metacopy", b"");
    });
    assert!(matches!(stack.merge(), Err(Error::Unsupported { .. })));
}

#[test]
fn immutable_entries_are_refused() {
    for entry in ["d", "d/f"] {
        let mut stack = Stack::new();
        stack.raw_layer(|at| write(at.join("d/f"), ""));
        let file = fs::File::open(stack.layers[0].join(entry)).unwrap();
        ioctl_setflags(&file, IFlags::IMMUTABLE).unwrap();
        let merged = stack.merge();
        ioctl_setflags(&file, IFlags::empty()).unwrap();
        assert!(matches!(merged, Err(Error::Immutable { .. })), "{merged:?}");
    }
}

#[test]
fn nothing_to_merge_and_a_full_target_are_refused() {
    let mut stack = Stack::new();
    assert!(matches!(stack.merge(), Err(Error::NoLayers)));
    stack.raw_layer(|at| write(at.join("f"), ""));
    let used = stack.layers[0].clone();
    let merged = botstead_overlay::merge(&stack.layers, &stack.image, &used);
    assert!(matches!(merged, Err(Error::TargetNotEmpty(_))));
}

#[test]
fn marks_of_an_overlay_inside_survive() {
    let mut stack = Stack::new();
    stack.raw_layer(|at| {
        write(at.join("d/f"), "");
        set(&at.join("d"), "trusted.overlay.overlay.opaque", b"y");
        set(&at.join("d"), "trusted.overlay.impure", b"y");
    });
    let (merged, _) = stack.merge().unwrap();
    let names: Vec<_> = attributes(&merged.join("d")).into_keys().collect();
    assert_eq!(names, [b"trusted.overlay.overlay.opaque".to_vec()]);
}

#[test]
fn depth_beyond_any_path_needs_no_stack_and_few_descriptors() {
    const DEPTH: usize = 5000;
    let mut stack = Stack::new();
    for layer in 0..2 {
        stack.raw_layer(|at| {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY;
            let mut dir = openat(CWD, at, flags, Mode::empty()).unwrap();
            for _ in 0..DEPTH - layer {
                mkdirat(&dir, "deep", Mode::RWXU).unwrap();
                dir = openat(&dir, "deep", flags, Mode::empty()).unwrap();
            }
            openat(
                &dir,
                format!("bottom{layer}"),
                OFlags::CREATE | OFlags::RDWR,
                Mode::RUSR,
            )
            .unwrap();
        });
    }
    let (_, report) = stack.merge().unwrap();
    assert_eq!((report.directories, report.linked), (DEPTH as u64, 2));
}
