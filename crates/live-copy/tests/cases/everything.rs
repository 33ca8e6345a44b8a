//! Whatever a tree can hold is in its copy.

use crate::support::changed::{BOTH, options};
use crate::support::disk::Disk;
use crate::support::group::Group;
use crate::support::picture::{Picture, name};
use crate::support::{FEED, Witness, Workspace, private_mounts, remove};
use botstead_live_copy::capture;
use nix::mount::{MsFlags, mount};
use nix::sys::stat::{Mode as NixMode, SFlag, makedev, mknod};
use rustix::fs::{
    AtFlags, CWD, Gid, IFlags, Timespec, Timestamps, Uid, XattrFlags, chownat, ioctl_getflags,
    ioctl_setflags, linkat, lsetxattr, utimensat,
};
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::AtomicBool;

fn set(path: &Path, name: &str, value: &[u8]) {
    lsetxattr(path, name, value, XattrFlags::empty()).unwrap();
}

fn set_flag(path: &Path, flag: IFlags, on: bool) {
    let file = File::open(path).unwrap();
    let mut flags = ioctl_getflags(&file).unwrap();
    flags.set(flag, on);
    ioctl_setflags(&file, flags).unwrap();
}

pub(crate) fn set_time(path: &Path, seconds: i64) {
    let time = Timespec {
        tv_sec: seconds,
        tv_nsec: 987_654_321,
    };
    let times = Timestamps {
        last_access: time,
        last_modification: time,
    };
    utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

/// A list with one more user (linux/posix_acl_xattr.h).
fn acl() -> Vec<u8> {
    let mut list = 2_u32.to_le_bytes().to_vec();
    for (tag, permission, id) in [
        (1, 6, u32::MAX),
        (2, 7, 77),
        (4, 5, u32::MAX),
        (16, 7, u32::MAX),
        (32, 4, u32::MAX),
    ] {
        list.extend_from_slice(&u16::to_le_bytes(tag));
        list.extend_from_slice(&u16::to_le_bytes(permission));
        list.extend_from_slice(&u32::to_le_bytes(id));
    }
    list
}

/// `cap_net_raw=ep`, as the kernel keeps it (linux/capability.h, version 2).
const CAPABILITY: [u8; 20] = [1, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// One of everything, below the mount and, where a mount does not allow it, below it.
fn one_of_everything(workspace: &Workspace) {
    let at = |name: &str| workspace.merged.join(name);
    let mode =
        |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    fs::write(at("plain"), "content").unwrap();
    fs::write(at("empty"), "").unwrap();
    fs::write(at("large"), vec![9; 3_000_001]).unwrap();
    fs::create_dir(at("names")).unwrap();
    for bytes in [
        &b"not \xff\xfe UTF-8"[..],
        b"line\nfeed",
        b" ",
        b"-rf",
        &[b'n'; 255],
    ] {
        fs::write(at("names").join(name(bytes)), bytes).unwrap();
        fs::create_dir(at("names").join(name(&[b"d", &bytes[1..]].concat()))).unwrap();
    }
    // Modes and owners.
    fs::write(at("nobody-reads"), "x").unwrap();
    mode(&at("nobody-reads"), 0o000);
    fs::write(at("set-id"), "x").unwrap();
    let owner = (Some(Uid::from_raw(12)), Some(Gid::from_raw(13)));
    chownat(CWD, at("set-id"), owner.0, owner.1, AtFlags::empty()).unwrap();
    mode(&at("set-id"), 0o6755);
    fs::create_dir(at("sticky")).unwrap();
    mode(&at("sticky"), 0o3775);
    fs::write(at("sticky/inherits-the-group"), "x").unwrap();
    fs::create_dir(at("closed")).unwrap();
    fs::write(at("closed/inside"), "x").unwrap();
    mode(&at("closed"), 0o000);
    // Links of both kinds.
    symlink("/no/such/place", at("dangling")).unwrap();
    symlink("plain", at("link")).unwrap();
    chownat(CWD, at("link"), owner.0, owner.1, AtFlags::SYMLINK_NOFOLLOW).unwrap();
    set_time(&at("link"), 1_000_000_007);
    fs::hard_link(at("plain"), at("names/plain-too")).unwrap();
    fs::hard_link(at("plain"), at("sticky/plain-as-well")).unwrap();
    linkat(
        CWD,
        at("dangling"),
        CWD,
        at("dangling-too"),
        AtFlags::empty(),
    )
    .unwrap();
    // What is not to be opened.
    mknod(
        &at("pipe"),
        SFlag::S_IFIFO,
        NixMode::from_bits_truncate(0o620),
        0,
    )
    .unwrap();
    mknod(
        &at("null"),
        SFlag::S_IFCHR,
        NixMode::from_bits_truncate(0o666),
        makedev(1, 3),
    )
    .unwrap();
    mknod(
        &at("disk"),
        SFlag::S_IFBLK,
        NixMode::from_bits_truncate(0o600),
        makedev(7, 200),
    )
    .unwrap();
    drop(UnixListener::bind(at("socket")).unwrap());
    fs::hard_link(at("pipe"), at("pipe-too")).unwrap();
    // Attributes.
    set(&at("plain"), "user.one", b"value");
    set(&at("plain"), "user.large", &[7; 2000]);
    set(&at("plain"), "trusted.own", b"\0\xff");
    set(&at("dangling"), "trusted.of-a-link", b"x");
    set(&at("pipe"), "trusted.of-a-pipe", b"x");
    fs::write(at("capable"), "x").unwrap();
    set(&at("capable"), "security.capability", &CAPABILITY);
    fs::write(at("listed"), "x").unwrap();
    set(&at("listed"), "system.posix_acl_access", &acl());
    fs::create_dir(at("default")).unwrap();
    set(&at("default"), "system.posix_acl_default", &acl());
    fs::write(at("default/inherits"), "x").unwrap();
    fs::create_dir(at("default/below")).unwrap();
    fs::create_dir(at("default/no-list")).unwrap();
    rustix::fs::lremovexattr(at("default/no-list"), "system.posix_acl_default").unwrap();
    // Holes.
    let sparse = File::create(at("sparse")).unwrap();
    sparse.set_len(64 << 20).unwrap();
    sparse.write_all_at(b"middle", 30 << 20).unwrap();
    // Of the image.
    fs::remove_file(at("image/gone")).unwrap();
    fs::remove_dir_all(at("image/gone-folder")).unwrap();
    fs::remove_dir_all(at("image/replaced")).unwrap();
    fs::create_dir(at("image/replaced")).unwrap();
    fs::write(at("image/replaced/new"), "x").unwrap();
    mode(&at("image/changed"), 0o640);
    OpenOptions::new()
        .append(true)
        .open(at("image/longer"))
        .unwrap()
        .write_all(b"!")
        .unwrap();
    // Inode flags, those of the kernel's own keeping too.
    fs::write(at("no-dump"), "x").unwrap();
    set_flag(&at("no-dump"), IFlags::NODUMP, true);
    let upper = |name: &str| workspace.upper.join(name);
    for (name, flag) in FIXED {
        fs::write(upper(name), "x").unwrap();
        set_flag(&upper(name), flag, true);
    }
    fs::create_dir(upper("fixed-folder")).unwrap();
    fs::write(upper("fixed-folder/inside"), "x").unwrap();
    set_flag(&upper("fixed-folder"), IFlags::IMMUTABLE, true);
    set(&workspace.upper, "trusted.overlay.uuid", &[5; 16]);
    set(&workspace.upper, "user.of-the-root", b"x");
    // Times, when nothing changes them any more.
    set_time(&at("plain"), -86_400);
    set_time(&at("large"), 4_000_000_000);
    for folder in ["names", "sticky", "default", "image", "closed", ""] {
        set_time(&at(folder), 1_234_567_890);
    }
}

const FIXED: [(&str, IFlags); 2] = [
    ("fixed", IFlags::IMMUTABLE),
    ("append-only", IFlags::APPEND),
];

fn unfix(root: &Path) {
    for (name, flag) in FIXED {
        set_flag(&root.join(name), flag, false);
    }
    set_flag(&root.join("fixed-folder"), IFlags::IMMUTABLE, false);
}

pub(crate) fn fill_image(lower: &Path) {
    for folder in ["gone-folder/deep", "replaced/deep"] {
        fs::create_dir_all(lower.join("image").join(folder)).unwrap();
        fs::write(lower.join("image").join(folder).join("f"), "lower").unwrap();
    }
    for file in ["gone", "changed", "longer", "untouched"] {
        fs::write(lower.join("image").join(file), "lower").unwrap();
    }
}

#[test]
fn one_of_everything_is_copied() {
    let mut workspace = Workspace::plain(fill_image);
    one_of_everything(&workspace);
    workspace.start_ready("idle");
    let freezer = workspace.freezer();
    for pass in &BOTH {
        let target = workspace.target();
        let mut witness = Witness::new(&workspace.upper);
        let never = AtomicBool::new(false);
        let report = capture(
            &workspace.upper,
            &target,
            &freezer,
            &options(pass),
            &mut witness,
            &never,
        );
        let report = report.unwrap();
        assert_eq!(report.second_pass, *pass);
        let (copy, source) = (Picture::of(&target), witness.picture.unwrap());
        copy.assert_same(&source);
        // That the picture shows what matters.
        assert_eq!(
            copy.get("image/gone").mode & 0o170_000,
            0o020_000,
            "a whiteout"
        );
        assert_eq!(
            copy.get("image/replaced").attributes[&b"trusted.overlay.opaque"[..]],
            b"y"
        );
        assert_eq!(copy.get("names/plain-too").same_as, None);
        assert_eq!(
            copy.get("plain").same_as.as_deref(),
            Some(Path::new("names/plain-too"))
        );
        assert_eq!(
            copy.get("dangling-too").same_as.as_deref(),
            Some(Path::new("dangling"))
        );
        assert_eq!(
            copy.get("capable").attributes[&b"security.capability"[..]],
            CAPABILITY
        );
        assert!(
            copy.get("default/inherits")
                .attributes
                .contains_key(&b"system.posix_acl_access"[..])
        );
        assert_eq!(copy.get("plain").modified, (-86_400, 987_654_321));
        assert_eq!(copy.get("").modified, (1_234_567_890, 987_654_321));
        assert_eq!(copy.get("no-dump").flags, IFlags::NODUMP.bits());
        assert_eq!(copy.get("fixed").flags, IFlags::IMMUTABLE.bits());
        assert_eq!(copy.get("append-only").flags, IFlags::APPEND.bits());
        assert_eq!(copy.get("fixed-folder").flags, IFlags::IMMUTABLE.bits());
        assert!(!copy.has("image/untouched"));
        let mut buffer = [0; 16];
        let uuid = rustix::fs::lgetxattr(&target, "trusted.overlay.uuid", &mut buffer[..]);
        assert_eq!(uuid, Err(rustix::io::Errno::NODATA), "the mount's identity");
        use std::os::unix::fs::MetadataExt;
        assert!(
            fs::metadata(target.join("sparse")).unwrap().blocks() < 100,
            "holes"
        );
        unfix(&target);
        remove(&target);
    }
    unfix(&workspace.upper);
}

#[test]
fn mounted_in_its_place_a_copy_shows_the_same() {
    let mut workspace = Workspace::plain(fill_image);
    one_of_everything(&workspace);
    unfix(&workspace.upper);
    workspace.start_ready("idle");
    let target = workspace.target();
    let never = AtomicBool::new(false);
    let freezer = workspace.freezer();
    capture(
        &workspace.upper,
        &target,
        &freezer,
        &options(&FEED),
        &mut (),
        &never,
    )
    .unwrap();
    let (work, merged) = (workspace.target(), workspace.target());
    let layers = format!(
        "lowerdir={},upperdir={},workdir={}",
        workspace.lower.display(),
        target.display(),
        work.display()
    );
    let none = MsFlags::empty();
    mount(
        Some("overlay"),
        &merged,
        Some("overlay"),
        none,
        Some(layers.as_str()),
    )
    .unwrap();
    Picture::of(&merged).assert_same(&Picture::of(&workspace.merged));
    nix::mount::umount(&merged).unwrap();
}

#[test]
fn quotas_of_projects_are_the_targets_own() {
    private_mounts();
    // It keeps projects whether or not the kernel counts for them, which ext4 does not.
    let Some(disk) = Disk::image("xfs", 400) else {
        println!("this kernel has no xfs");
        return;
    };
    let mut workspace = Workspace::new(disk, Group::new(), |_| {});
    workspace.start_ready("idle");
    let project = |number: &str, path: &Path| {
        let arguments = ["-R", "-p", number, "+P"];
        let status = Command::new("chattr").args(arguments).arg(path).status();
        assert!(status.unwrap().success());
    };
    let upper = workspace.upper.clone();
    project("41", &upper);
    fs::create_dir(workspace.merged.join("folder")).unwrap();
    fs::write(workspace.merged.join("folder/file"), "x").unwrap();
    let target = workspace.target();
    project("42", &target);
    let never = AtomicBool::new(false);
    let freezer = workspace.freezer();
    capture(&upper, &target, &freezer, &options(&FEED), &mut (), &never).unwrap();
    for (root, wanted) in [(&upper, "41"), (&target, "42")] {
        let listed = Command::new("lsattr")
            .arg("-p")
            .arg(root.join("folder"))
            .output()
            .unwrap();
        let listed = String::from_utf8(listed.stdout).unwrap();
        assert_eq!(listed.split_whitespace().next(), Some(wanted), "{listed}");
    }
}
