//! Private mounts: what they show, that nobody sees them, and that they end.

// Clippy knows tests by their attribute only, not their helpers.
#![allow(clippy::unwrap_used)]

mod support;

use botstead_overlay::{Error, PrivateMount};
use nix::mount::{MsFlags, mount, umount};
use rustix::fs::{CWD, FileType, Mode, OFlags, makedev, mkdirat, mknodat, openat};
use rustix::io::Errno;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use support::Stack;

fn mounts() -> String {
    fs::read_to_string("/proc/thread-self/mountinfo").unwrap()
}

fn read(mount: &PrivateMount, path: &str) -> Result<String, Errno> {
    let file = openat(mount.root(), path, OFlags::RDONLY, Mode::empty())?;
    let mut text = String::new();
    fs::File::from(file).read_to_string(&mut text).unwrap();
    Ok(text)
}

fn write(mount: &PrivateMount, path: &str, text: &str) -> Result<(), Errno> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC;
    let file = openat(mount.root(), path, flags, Mode::RUSR | Mode::WUSR)?;
    fs::File::from(file).write_all(text.as_bytes()).unwrap();
    Ok(())
}

/// Whether an overlay is mounted that writes there: with an index the kernel refuses a second one.
fn in_use(stack: &mut Stack, lower: &Path, upper: &Path, work: &Path) -> bool {
    let at = stack.fresh("m");
    let (lower, upper, work) = (lower.display(), upper.display(), work.display());
    let options = format!("index=on,lowerdir={lower},upperdir={upper},workdir={work}");
    let overlay = Some("overlay");
    match mount(
        overlay,
        &at,
        overlay,
        MsFlags::empty(),
        Some(options.as_str()),
    ) {
        Ok(()) => {
            umount(&at).unwrap();
            false
        }
        Err(nix::errno::Errno::EBUSY) => true,
        Err(other) => panic!("{other}"),
    }
}

/// Where mounts would spread to other namespaces, as is usual on a host.
fn shared_stack() -> Stack {
    let stack = Stack::new();
    let shared = MsFlags::MS_REC | MsFlags::MS_SHARED;
    mount(None::<&str>, "/", None::<&str>, shared, None::<&str>).unwrap();
    stack
}

/// Whether it ends by itself, when a child that another test is just starting has let go of it.
fn ends(stack: &mut Stack, lower: &Path, upper: &Path, work: &Path) -> bool {
    let start = Instant::now();
    while in_use(stack, lower, upper, work) {
        if start.elapsed() > Duration::from_secs(5) {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    true
}

#[test]
fn layers_are_shown_as_one_tree_that_nobody_else_sees() {
    let mut stack = shared_stack();
    for number in 0..150 {
        stack.raw_layer(|at| {
            fs::write(at.join("all"), number.to_string()).unwrap();
            fs::write(at.join(format!("own{number}")), number.to_string()).unwrap();
        });
    }
    let before = mounts();
    let mount = PrivateMount::read_only(&stack.layers).unwrap();
    assert_eq!(read(&mount, "all").as_deref(), Ok("149"));
    for number in [0, 77, 149] {
        assert_eq!(
            read(&mount, &format!("own{number}")),
            Ok(number.to_string())
        );
    }
    assert_eq!(write(&mount, "new", ""), Err(Errno::ROFS));
    assert_eq!(mounts(), before);
    drop(mount);
    assert_eq!(mounts(), before);
}

#[test]
fn paths_may_be_long_and_have_any_characters() {
    let mut stack = Stack::new();
    let dir = stack
        .fresh("odd")
        .join("a:b,c\\d \"e\" = ")
        .join("x".repeat(200));
    for name in ["one", "two"] {
        fs::create_dir_all(dir.join(name)).unwrap();
        fs::write(dir.join(name).join(name), name).unwrap();
    }
    let layers = [dir.join("one"), dir.join("two")];
    let mount = PrivateMount::read_only(&layers).unwrap();
    assert_eq!(read(&mount, "one").as_deref(), Ok("one"));
    assert_eq!(read(&mount, "two").as_deref(), Ok("two"));
}

#[test]
fn one_layer_is_mounted_as_it_is() {
    let stack = Stack::new();
    fs::write(stack.image().join("file"), "text").unwrap();
    fs::write(stack.image().join("script"), "#!/bin/sh").unwrap();
    let device = makedev(1, 3);
    mknodat(
        CWD,
        stack.image().join("null"),
        FileType::CharacterDevice,
        Mode::RUSR,
        device,
    )
    .unwrap();
    let mount = PrivateMount::read_only(&stack.image).unwrap();
    assert_eq!(read(&mount, "file").as_deref(), Ok("text"));
    assert_eq!(write(&mount, "file", "x"), Err(Errno::ROFS));
    assert_eq!(read(&mount, "null"), Err(Errno::ACCESS));
    let inode = |path: PathBuf| fs::metadata(path).unwrap().ino();
    let fd = std::os::fd::AsRawFd::as_raw_fd(&mount.root());
    assert_eq!(
        inode(format!("/proc/self/fd/{fd}").into()),
        inode(stack.image().into())
    );
}

#[test]
fn what_is_written_is_in_the_upper_directory_when_it_is_closed() {
    let mut stack = shared_stack();
    fs::write(stack.image().join("file"), "old").unwrap();
    let (upper, work) = (stack.fresh("u"), stack.fresh("w"));
    let image = stack.image.clone();
    let before = mounts();
    for round in ["one", "two"] {
        let mount = PrivateMount::writable(&image, &upper, &work).unwrap();
        write(&mount, "file", round).unwrap();
        mkdirat(mount.root(), round, Mode::RWXU).unwrap();
        assert_eq!(mounts(), before);
        assert!(
            in_use(&mut stack, &image[0], &upper, &work),
            "or the next tells nothing"
        );
        mount.close().unwrap();
        assert!(!in_use(&mut stack, &image[0], &upper, &work));
        assert_eq!(fs::read_to_string(upper.join("file")).unwrap(), round);
        assert!(upper.join(round).is_dir());
    }
    assert_eq!(fs::read_to_string(image[0].join("file")).unwrap(), "old");
    // Dropped, it is unmounted as well.
    let mount = PrivateMount::writable(&image, &upper, &work).unwrap();
    drop(mount);
    assert!(ends(&mut stack, &image[0], &upper, &work));
    // With nothing below there is no overlay.
    let mount = PrivateMount::writable(&[], &upper, &work).unwrap();
    write(&mount, "file", "directly").unwrap();
    mount.sync().unwrap();
    mount.close().unwrap();
    assert_eq!(fs::read_to_string(upper.join("file")).unwrap(), "directly");
}

#[test]
fn a_mount_with_something_open_is_busy_and_ends_with_that() {
    let mut stack = Stack::new();
    let (upper, work) = (stack.fresh("u"), stack.fresh("w"));
    let image = stack.image.clone();
    let mount = PrivateMount::writable(&image, &upper, &work).unwrap();
    write(&mount, "file", "text").unwrap();
    let open = openat(mount.root(), "file", OFlags::RDONLY, Mode::empty()).unwrap();
    match mount.close() {
        Err(Error::Busy(path)) => assert_eq!(path, upper),
        other => panic!("{other:?}"),
    }
    assert!(in_use(&mut stack, &image[0], &upper, &work));
    drop(open);
    assert!(ends(&mut stack, &image[0], &upper, &work));
}

#[test]
fn what_cannot_be_mounted_is_named() {
    let mut stack = Stack::new();
    assert!(matches!(PrivateMount::read_only(&[]), Err(Error::NoLayers)));
    let missing = stack.image().join("missing");
    let file = stack.image().join("file");
    fs::write(&file, "").unwrap();
    for bad in [&missing, &file] {
        let layers = [stack.image[0].clone(), bad.clone()];
        match PrivateMount::read_only(&layers) {
            Err(Error::Io { path, .. }) => assert_eq!(path, bad.display().to_string()),
            other => panic!("{other:?}"),
        }
    }
    let many: Vec<_> = (0..501).map(|_| stack.fresh("n")).collect();
    assert!(PrivateMount::read_only(&many[..500]).is_ok());
    assert!(matches!(
        PrivateMount::read_only(&many),
        Err(Error::Io { .. })
    ));
}

/// Not a test: the process that the next one kills.
#[test]
#[ignore = "run by `a_killed_process_leaves_no_mount`"]
fn hold_a_mount() {
    let paths = std::env::var_os("BOTSTEAD_TEST_HOLD").unwrap();
    let paths: Vec<_> = std::env::split_paths(&paths).collect();
    let mount = PrivateMount::writable(&paths[..1], &paths[1], &paths[2]).unwrap();
    write(&mount, "file", "text").unwrap();
    std::io::stderr().write_all(b"mounted\n").unwrap();
    std::thread::park();
}

#[test]
fn a_killed_process_leaves_no_mount() {
    let mut stack = Stack::new();
    let (upper, work) = (stack.fresh("u"), stack.fresh("w"));
    let image = stack.image.clone();
    let before = mounts();
    let paths = std::env::join_paths([&image[0], &upper, &work]).unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "hold_a_mount", "--ignored", "--nocapture"])
        .env("BOTSTEAD_TEST_HOLD", paths)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut told = [0; 8];
    child.stderr.take().unwrap().read_exact(&mut told).unwrap();
    assert_eq!(&told, b"mounted\n");
    assert!(in_use(&mut stack, &image[0], &upper, &work));
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!in_use(&mut stack, &image[0], &upper, &work));
    assert_eq!(mounts(), before);
}
