//! Ready-made images.

use crate::{Compression, Image, ImageBuilder, LayerBuilder};
use serde_json::json;
use std::io;
use std::path::Path;

/// The applets that the busybox image links: what tests and shells need.
const APPLETS: &[&str] = &[
    "sh",
    "ls",
    "cat",
    "echo",
    "cp",
    "mv",
    "rm",
    "mkdir",
    "rmdir",
    "ln",
    "touch",
    "sleep",
    "true",
    "false",
    "test",
    "[",
    "env",
    "id",
    "ps",
    "kill",
    "grep",
    "sed",
    "awk",
    "find",
    "head",
    "tail",
    "wc",
    "sort",
    "tr",
    "cut",
    "date",
    "dd",
    "df",
    "du",
    "stat",
    "chmod",
    "chown",
    "hostname",
    "uname",
    "whoami",
    "pwd",
    "printf",
    "seq",
    "yes",
    "tee",
    "xargs",
    "sha256sum",
    "md5sum",
    "ping",
    "wget",
    "nc",
    "ip",
    "mount",
    "umount",
    "sync",
    "tar",
    "gzip",
    "vi",
    "top",
    "readlink",
];

/// A small Linux image of three layers around a static busybox binary (Debian package
/// `busybox-static`): the binary with its applets, `/etc/passwd` with root and the user `bot`
/// (1000:1000) with its home; a layer with `/data` and files; and a layer that removes
/// `/removed/by-whiteout` and hides what was in `/opaque`. The user is root.
///
/// `compressions` are used for the layers in turn.
///
/// # Errors
/// When the binary cannot be read.
pub fn busybox(binary: &Path, compressions: &[Compression]) -> io::Result<Image> {
    Ok(busybox_builder(binary, compressions)?.build())
}

/// The same, to be given another configuration.
///
/// # Errors
/// When the binary cannot be read.
pub fn busybox_builder(binary: &Path, compressions: &[Compression]) -> io::Result<ImageBuilder> {
    let compression = |layer: usize| match compressions {
        [] => Compression::Gzip,
        all => all[layer % all.len()],
    };
    let mut base = LayerBuilder::new();
    for dir in [
        "bin", "etc", "dev", "proc", "sys", "run", "root", "home", "usr", "var",
    ] {
        base = base.dir(dir, 0o755);
    }
    base = base
        .dir("tmp", 0o1777)
        .owned_dir("home/bot", 0o755, (1000, 1000))
        .file("bin/busybox", 0o755, std::fs::read(binary)?)
        .file(
            "etc/passwd",
            0o644,
            "root:x:0:0:root:/root:/bin/sh\nbot:x:1000:1000:bot:/home/bot:/bin/sh\n",
        )
        .file("etc/group", 0o644, "root:x:0:\nbot:x:1000:\n");
    for applet in APPLETS {
        base = base.symlink(&format!("bin/{applet}"), "busybox");
    }
    let middle = LayerBuilder::new()
        .dir("removed", 0o755)
        .file("removed/by-whiteout", 0o644, "gone")
        .file("removed/kept", 0o644, "kept")
        .dir("opaque", 0o755)
        .file("opaque/hidden", 0o644, "hidden")
        .owned_dir("data", 0o755, (1000, 1000))
        .file("etc/motd", 0o644, "second layer\n");
    let top = LayerBuilder::new()
        .dir("removed", 0o755)
        .whiteout("removed/by-whiteout")
        .dir("opaque", 0o755)
        .opaque("opaque")
        .file("opaque/shown", 0o644, "shown")
        .file("etc/motd", 0o644, "third layer\n");
    let mut image = Image::builder()
        .config("WorkingDir", json!("/data"))
        .config(
            "Labels",
            json!({ "org.opencontainers.image.title": "busybox" }),
        );
    for (number, layer) in [base, middle, top].into_iter().enumerate() {
        image = image.layer(layer.build(compression(number))?);
    }
    Ok(image)
}

/// An image whose layers hold random bytes: `count` layers of `layer_size` bytes each, the same for
/// the same `seed`. For throughput and progress; nothing in it can run.
///
/// # Errors
/// When a layer cannot be compressed.
pub fn random(
    count: usize,
    layer_size: usize,
    seed: u64,
    compression: Compression,
) -> io::Result<Image> {
    let mut image = Image::builder();
    for number in 0..count {
        let layer = LayerBuilder::new()
            .random_file(
                &format!("random-{number}"),
                layer_size,
                seed.wrapping_mul(1000).wrapping_add(number as u64),
            )
            .build(compression)?;
        image = image.layer(layer);
    }
    Ok(image.build())
}
