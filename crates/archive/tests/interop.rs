//! GNU tar reads what is exported, and what it writes is imported, in every format that it has.

// Clippy knows tests by their attribute only, not their helpers.
#![allow(clippy::unwrap_used)]

mod support;

use botstead_archive::*;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;
use support::trees::Step;
use support::{COMPRESSIONS, Dir, Picture, pack, run, trees, unpack};

/// One of everything. What only PAX can say is left out when `plain`.
fn tree(root: &Path, plain: bool) {
    let long = ["l".repeat(99), "m".repeat(60), "n".repeat(120)].join("/");
    let mut steps = vec![
        Step::Directory("empty".into()),
        Step::Directory("dir/sub".into()),
        Step::File("dir/sub/file".into(), 5000, 3),
        Step::File("dir/none".into(), 0, 0),
        Step::File("large".into(), 600_000, 5),
        Step::Link("large".into(), "dir/same".into()),
        Step::Link("large".into(), "z".into()),
        Step::Symlink(b"../..//etc".to_vec(), "dir/link".into()),
        Step::Symlink(b"dangling".to_vec(), "l".into()),
        Step::Link("l".into(), "l2".into()),
        Step::Fifo("pipe".into()),
        Step::Mode("large".into(), 0o4711),
        Step::Mode("dir".into(), 0o3755),
        Step::Owner("dir/sub/file".into(), 1000, 2000),
        Step::Owner("dir/link".into(), 1000, 2000),
        Step::Sparse("holes".into(), vec![3, 4, 90], 200),
        Step::Sparse("all_hole".into(), vec![], 50),
        Step::Sparse("many_holes".into(), (0..60).map(|n| n * 5).collect(), 0),
    ];
    if !plain {
        steps.extend([
            Step::Directory(long.clone().into()),
            Step::File(format!("{long}/file").into(), 10, 1),
            Step::Symlink(vec![b't'; 300], "long_link".into()),
            Step::Link("large".into(), format!("{long}/same").into()),
            Step::File("\u{fc}\n'".into(), 10, 1),
            Step::File(support::raw_name(b"\xff\xfe.txt").into(), 10, 1),
            Step::File(
                support::raw_name(&[&[b'x'; 120][..], b"\xff"].concat()).into(),
                5,
                1,
            ),
            Step::Owner("empty".into(), 3_000_000, 4_000_000_000),
            Step::Time("dir/none".into(), 1_700_000_000, 123_456_789),
            Step::Time("dir".into(), -5, 500_000_000),
            Step::Time("l".into(), 9_000_000_000, 1),
        ]);
        for number in 0..7 {
            let path = if number == 4 { "empty" } else { "large" };
            steps.push(Step::Attribute(path.into(), number));
        }
    }
    trees::make(root, &steps);
    if plain {
        whole_seconds(root);
    }
}

fn whole_seconds(root: &Path) {
    let touch = ["-exec", "touch", "-h", "-d", "@1700000000", "{}", "+"];
    run(Command::new("find").arg(root).args(touch));
}

/// Sparse files take as much space as before, but for what the filesystem notes of their pieces.
fn same_space(root: &Path, expected: &Path) {
    for sparse in ["holes", "all_hole", "many_holes"] {
        let blocks = |root: &Path| fs::metadata(root.join(sparse)).unwrap().blocks();
        assert!(blocks(root).abs_diff(blocks(expected)) <= 16, "{sparse}");
    }
}

#[test]
fn gnu_tar_reads_what_is_exported() {
    let dir = Dir::new();
    let from = dir.make("from");
    tree(&from, false);
    let expected = Picture::of(&from);
    for (number, compression) in COMPRESSIONS.into_iter().enumerate() {
        for folder in ["", "data"] {
            let to = dir.make(&format!("to{number}{folder}"));
            let (archive, _) = pack(&from, folder, compression);
            let file = dir.join("archive");
            fs::write(&file, archive).unwrap();
            let mut tar = Command::new("tar");
            tar.args([
                "--numeric-owner",
                "--xattrs",
                "--xattrs-include=*",
                "--delay-directory-restore",
            ]);
            match compression {
                Compression::Gzip { .. } => tar.arg("--use-compress-program=pigz"),
                Compression::Zstd { .. } => tar.arg("--zstd"),
                _ => &mut tar,
            };
            run(tar.arg("-xpf").arg(&file).arg("-C").arg(&to));
            let root = to.join(folder);
            Picture::of(&root).assert_same(&expected);
            same_space(&root, &from);
        }
    }
    // gzip and zstd themselves find no fault.
    for (compression, program) in [(Compression::GZIP, "gzip"), (Compression::ZSTD, "zstd")] {
        let file = dir.join("archive");
        fs::write(&file, pack(&from, "data", compression).0).unwrap();
        run(Command::new("sh")
            .arg("-c")
            .arg(format!("{program} -t < {}", file.display())));
    }
}

#[test]
fn what_gnu_tar_writes_is_imported() {
    let dir = Dir::new();
    let (full, plain) = (dir.make("full"), dir.make("plain"));
    tree(&full, false);
    tree(&plain, true);
    let archive = dir.join("archive");
    let to = dir.make("to");
    let check = |from: &Path, options: &str, what: &str| {
        let mut tar = Command::new("tar");
        tar.args(options.split(' ')).arg("-cf").arg(&archive);
        run(tar.args(what.split(' ')).current_dir(from));
        let content = unpack(&fs::read(&archive).unwrap(), &to, ApplyMode::Replace).unwrap();
        let mut expected = Picture::of(from);
        let mut found = Picture::of(&to);
        if !what.ends_with('.') {
            expected.0.remove(Path::new(""));
            found.0.remove(Path::new(""));
        }
        found.assert_same(&expected);
        content
    };
    // All that PAX can say, through every compressor.
    let pax = "--format=posix --xattrs --xattrs-include=*";
    for compress in ["", " --gzip", " -I pigz", " --zstd"] {
        check(&full, &format!("{pax}{compress}"), ".");
    }
    for version in ["0.0", "0.1", "1.0"] {
        check(
            &full,
            &format!("{pax} --sparse --sparse-version={version}"),
            ".",
        );
        same_space(&to, &full);
    }
    for options in [
        "--format=gnu",
        "--format=gnu --sparse",
        "--format=oldgnu --sparse",
        "--format=ustar",
        "--format=gnu --blocking-factor=200",
    ] {
        check(&plain, options, ".");
    }
    // Without the folder itself, in another order.
    check(
        &plain,
        "--format=gnu --sort=name",
        "./all_hole ./dir ./empty ./holes ./l ./l2 ./large ./many_holes ./pipe ./z",
    );
    // The oldest format has no pipes.
    fs::remove_file(plain.join("pipe")).unwrap();
    whole_seconds(&plain);
    check(&plain, "--format=v7", ".");
}

#[test]
fn the_layouts_of_others_are_taken_alike() {
    let dir = Dir::new();
    let home = dir.make("home");
    let data = home.join("data");
    fs::create_dir_all(data.join("data/inner")).unwrap();
    fs::write(data.join("data/file"), "x").unwrap();
    let archive = dir.join("archive");
    let to = dir.make("to");
    for (cwd, what, in_folder) in [
        (&data, ".", false),
        (&home, "data", true),
        (&home, "./data", true),
    ] {
        run(Command::new("tar")
            .arg("-czf")
            .arg(&archive)
            .arg(what)
            .current_dir(cwd));
        let content = unpack(&fs::read(&archive).unwrap(), &to, ApplyMode::Replace).unwrap();
        assert_eq!(content.in_folder, in_folder, "{what}");
        assert_eq!(fs::read(to.join("data/file")).unwrap(), b"x", "{what}");
    }
    // Several files of gzip one behind the other are one.
    let bytes =
        support::raw::archive(&[support::raw::Raw::file("a"), support::raw::Raw::file("b")]);
    let (first, second) = bytes.split_at(700);
    let members = [support::raw::gzip(first), support::raw::gzip(second)].concat();
    unpack(&members, &to, ApplyMode::Replace).unwrap();
    let frames = [support::raw::zstd(first), support::raw::zstd(second)].concat();
    unpack(&frames, &to, ApplyMode::Replace).unwrap();
    assert_eq!(fs::read_dir(&to).unwrap().count(), 2);
}
