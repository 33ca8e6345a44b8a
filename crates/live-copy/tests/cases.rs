//! One case each: what a copy has, what it must not have, and what it must not miss.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use botstead_live_copy::{
    Frozen, Observer, Options, Phase, Progress, Reason, Report, SecondPass, capture,
};
use nix::mount::{MsFlags, mount};
use nix::sys::stat::{Mode as NixMode, SFlag, makedev, mknod};
use rustix::fs::{
    AtFlags, CWD, Gid, IFlags, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags, chownat,
    ioctl_getflags, ioctl_setflags, linkat, lsetxattr, mkdirat, openat, renameat, utimensat,
};
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, Read, Write};
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::AtomicBool;
use std::time::Duration;
use support::picture::{Picture, name};
use support::{FEED, WALK, Witness, Workspace, ready, remove};

#[test]
#[ignore = "what the children of the other tests do"]
fn child() {
    support::child(&[
        ("idle", |_| idle()),
        ("map", |_| map_and_store()),
        ("map-briefly", |_| map_briefly()),
        ("same-tick", |_| change_in_the_same_tick()),
        ("grow", |_| grow()),
        ("nameless", |_| keep_what_has_no_name()),
        ("in-flight", |_| keep_in_flight()),
        ("copied-up", |_| send_into_a_file_that_was_copied_up()),
        ("alias", |_| write_by_a_name_that_is_gone()),
        ("pipe", |_| wait_at_a_pipe()),
    ]);
}

const BOTH: [SecondPass; 2] = [FEED, WALK];

fn options(second_pass: &SecondPass) -> Options {
    Options {
        second_pass: second_pass.clone(),
        ..Options::default()
    }
}

/// Does something right before the freeze, when everything has been copied once and again; compares.
fn check_changed(
    workspace: &mut Workspace,
    pass: &SecondPass,
    change: impl FnMut(&mut Workspace),
) -> (Report, Picture) {
    struct Late<'a, F> {
        witness: Witness,
        workspace: &'a mut Workspace,
        change: F,
    }
    impl<F: FnMut(&mut Workspace)> Observer for Late<'_, F> {
        fn progress(&mut self, progress: Progress) {
            if progress.phase == Phase::Freezing {
                (self.change)(self.workspace);
            }
        }

        fn before_thaw(
            &mut self,
            frozen: &dyn Frozen,
        ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
            self.witness.before_thaw(frozen)
        }
    }
    let (target, freezer, upper) = (
        workspace.target(),
        workspace.freezer(),
        workspace.upper.clone(),
    );
    let mut late = Late {
        witness: Witness::new(&upper),
        workspace,
        change,
    };
    let never = AtomicBool::new(false);
    let report = capture(&upper, &target, &freezer, &options(pass), &mut late, &never).unwrap();
    let expected = late.witness.picture.unwrap();
    Picture::of(&target).assert_same(&expected);
    remove(&target);
    (report, expected)
}

fn set(path: &Path, name: &str, value: &[u8]) {
    lsetxattr(path, name, value, XattrFlags::empty()).unwrap();
}

fn set_flag(path: &Path, flag: IFlags, on: bool) {
    let file = File::open(path).unwrap();
    let mut flags = ioctl_getflags(&file).unwrap();
    flags.set(flag, on);
    ioctl_setflags(&file, flags).unwrap();
}

fn set_time(path: &Path, seconds: i64) {
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
    sparse.set_len(1 << 30).unwrap();
    sparse.write_all_at(b"middle", 500 << 20).unwrap();
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

fn fill_image(lower: &Path) {
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

fn idle() {
    ready();
    std::thread::sleep(Duration::from_secs(3600));
}

/// Says what it does, and waits to be told to.
fn when_told(act: impl FnOnce()) {
    ready();
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line).unwrap();
    act();
    ready();
}

/// Has a child that waits in [`when_told`] go on, and waits until it is done.
fn tell(workspace: &mut Workspace) {
    workspace.tell_first();
}

fn rounds() -> u64 {
    let rounds = std::env::var("LIVE_COPY_TEST_ROUNDS");
    rounds.map_or(15, |rounds| rounds.parse().unwrap())
}

#[test]
fn a_store_through_a_mapping_is_never_lost() {
    for role in ["map", "map-briefly"] {
        let mut workspace = Workspace::plain(|_| {});
        workspace.start_ready(role);
        for round in 0..rounds() {
            for pass in &BOTH {
                let before = workspace.last.take();
                workspace.check(&options(pass)).unwrap();
                assert!(round < 2 || workspace.last != before, "nothing was stored");
            }
        }
        workspace.assert_running();
    }
}

fn map(file: &File) -> memmap2::MmapRaw {
    memmap2::MmapRaw::map_raw(file).unwrap()
}

fn store(map: &memmap2::MmapRaw, offset: usize, byte: u8) {
    assert!(offset < map.len());
    #[allow(unsafe_code, reason = "a store to a mapping is the point of it")]
    // SAFETY: within the mapping, and nobody makes the file shorter.
    unsafe {
        map.as_mut_ptr().add(offset).write_volatile(byte);
    }
}

/// Stores all the time, mostly to pages that are dirty already; nothing is open.
fn map_and_store() {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .open("mapped")
        .unwrap();
    file.set_len(64 << 10).unwrap();
    let map = map(&file);
    drop(file);
    ready();
    for round in 0_usize.. {
        // With other bytes at every page.
        for page in 0..16 {
            store(
                &map,
                page * 4096 + round % 4096,
                u8::try_from((round + page) % 251).unwrap(),
            );
        }
    }
}

/// Maps, stores, unmaps; the descriptor stays open, so that no closing is reported.
fn map_briefly() {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .open("mapped")
        .unwrap();
    file.set_len(8192).unwrap();
    ready();
    for round in 0_usize.. {
        let map = map(&file);
        store(&map, round % 8192, u8::try_from(round % 251).unwrap());
        drop(map);
        if round.is_multiple_of(64) {
            std::thread::sleep(Duration::from_micros(200));
        }
    }
}

#[test]
fn a_change_within_one_tick_is_never_lost() {
    let mut workspace = Workspace::plain(|_| {});
    workspace.start_ready("same-tick");
    for round in 0..rounds() {
        for pass in &BOTH {
            let before = workspace.last.take();
            workspace.check(&options(pass)).unwrap();
            assert!(round < 2 || workspace.last != before, "nothing was written");
        }
    }
    workspace.assert_running();
}

/// Writes, as often as it can, another content of the same size, and sets the same time. Replaces links
/// and pipes too, whose inodes get the numbers of the old ones.
fn change_in_the_same_tick() {
    let file = File::create("f").unwrap();
    ready();
    for round in 0_u64.. {
        file.write_all_at(&round.to_ne_bytes(), 0).unwrap();
        set_time(Path::new("f"), 1_000_000_000);
        let _ = fs::remove_file("link");
        symlink(format!("{:08}", round % 100_000_000), "link").unwrap();
        let _ = fs::remove_file("small");
        fs::write("small", round.to_ne_bytes()).unwrap();
        set_time(Path::new("small"), 1_000_000_000);
    }
}

#[test]
fn a_file_that_grows_all_the_time_is_copied_as_it_was() {
    let mut workspace = Workspace::plain(|_| {});
    workspace.start_ready("grow");
    for pass in &BOTH {
        for _ in 0..5 {
            workspace.check(&options(pass)).unwrap();
        }
    }
    workspace.assert_running();
}

fn grow() {
    let mut log = OpenOptions::new()
        .append(true)
        .create(true)
        .open("log")
        .unwrap();
    ready();
    for line in 0_u64.. {
        writeln!(log, "line {line}").unwrap();
        if line.is_multiple_of(2_000_000) {
            log.set_len(0).unwrap();
        }
    }
}

#[test]
fn what_has_no_name_any_longer_is_no_part_of_a_copy() {
    let mut workspace = Workspace::plain(|_| {});
    workspace.start_ready("nameless");
    for pass in &BOTH {
        let report = workspace.check(&options(pass)).unwrap();
        assert_eq!(report.files, 1);
        let picture = workspace.last.take().unwrap();
        assert_eq!(picture.0.len(), 2, "the root and one file");
    }
}

fn keep_what_has_no_name() {
    fs::write("other", "x").unwrap();
    let file = File::create("removed").unwrap();
    fs::remove_file("removed").unwrap();
    ready();
    for round in 0_u64.. {
        file.write_all_at(&[7; 4096], round % 64 * 4096).unwrap();
    }
}

#[test]
fn a_descriptor_in_flight_is_noticed_and_its_file_copied() {
    let mut workspace = Workspace::plain(|_| {});
    workspace.start_ready("in-flight");
    let (report, picture) = check_changed(&mut workspace, &FEED, tell);
    let reason = Reason::HiddenDescriptors;
    assert_eq!(report.second_pass, SecondPass::Walk { reason });
    assert_eq!(picture.get("f").content[0], 9);
}

/// Changes a file through a mapping, and leaves it open nowhere but in flight.
fn keep_in_flight() {
    use rustix::fd::AsFd;
    use rustix::net::{
        AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags,
        SocketType, sendmsg, socketpair,
    };
    fs::write("f", vec![1; 4096]).unwrap();
    let pair = socketpair(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    );
    let (one, _other) = pair.unwrap();
    when_told(|| {
        let file = OpenOptions::new().read(true).write(true).open("f").unwrap();
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let descriptors = [file.as_fd()];
        assert!(control.push(SendAncillaryMessage::ScmRights(&descriptors)));
        sendmsg(
            &one,
            &[std::io::IoSlice::new(b"x")],
            &mut control,
            SendFlags::empty(),
        )
        .unwrap();
        let map = map(&file);
        drop(file);
        store(&map, 0, 9);
    });
    idle();
}

#[test]
fn an_open_file_that_was_copied_up_is_found_by_its_path() {
    let mut workspace = Workspace::plain(fill_image);
    workspace.start_ready("copied-up");
    let (report, picture) = check_changed(&mut workspace, &FEED, tell);
    assert_eq!(report.second_pass, FEED, "no need to walk");
    assert_eq!(picture.get("image/longer").content, b"lower, and sent");
}

/// `sendfile` is reported only when the file is closed, and overlayfs shows the number of the image's.
fn send_into_a_file_that_was_copied_up() {
    fs::write("from", ", and sent").unwrap();
    let file = OpenOptions::new()
        .append(true)
        .open("image/longer")
        .unwrap();
    let file = {
        // `sendfile` refuses files that are open for appending.
        drop(file);
        let file = OpenOptions::new().write(true).open("image/longer").unwrap();
        use std::io::Seek;
        (&file).seek(std::io::SeekFrom::End(0)).unwrap();
        file
    };
    let from = File::open("from").unwrap();
    when_told(|| {
        rustix::fs::sendfile(&file, &from, None, 100).unwrap();
    });
    idle();
}

#[test]
fn a_change_by_a_name_that_is_gone_is_not_missed() {
    let mut workspace = Workspace::plain(|_| {});
    workspace.start_ready("alias");
    let (report, picture) = check_changed(&mut workspace, &FEED, tell);
    assert_eq!(report.second_pass, FEED);
    assert_eq!(picture.get("left").content, b"first, then more");
    assert_eq!(report.frozen_files, 1);
}

/// The kernel goes on to name a file as it was opened, also when that name, and its folder, are gone.
fn write_by_a_name_that_is_gone() {
    fs::create_dir("folder").unwrap();
    let mut file = File::create("folder/first").unwrap();
    file.write_all(b"first").unwrap();
    fs::hard_link("folder/first", "left").unwrap();
    fs::remove_dir_all("folder").unwrap();
    when_told(|| file.write_all(b", then more").unwrap());
    drop(file);
    idle();
}

#[test]
fn a_moved_tree_is_moved_and_not_copied_again() {
    for pass in &BOTH {
        let mut workspace = Workspace::plain(|_| {});
        workspace.start_ready("idle");
        let merged = workspace.merged.clone();
        for number in 0..2000 {
            let folder = merged.join(format!("here/{}/{}", number % 7, number % 3));
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join(number.to_string()), vec![1; 3000]).unwrap();
        }
        fs::create_dir(merged.join("there")).unwrap();
        // The walk takes what was written just now for changed.
        std::thread::sleep(Duration::from_millis(60));
        let (report, _) = check_changed(&mut workspace, pass, |_| {
            fs::rename(merged.join("here"), merged.join("there/inside")).unwrap();
            // One tree into what was inside of it.
            fs::rename(merged.join("there/inside/1"), merged.join("one")).unwrap();
            fs::rename(merged.join("there/inside"), merged.join("one/outer")).unwrap();
            fs::rename(merged.join("one/outer/2/2/2"), merged.join("there/2")).unwrap();
        });
        assert!(report.frozen_files <= 2, "{report:?}");
    }
}

#[test]
fn a_very_deep_tree_is_copied() {
    /// Several times as deep as a path can say.
    const DEPTH: usize = 6000;
    for pass in &BOTH {
        let mut workspace = Workspace::plain(|_| {});
        workspace.start_ready("idle");
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let open = |path: &Path| openat(CWD, path, flags, Mode::empty()).unwrap();
        let below = |parent: &_, name: &str| openat(parent, name, flags, Mode::empty()).unwrap();
        let mut at = open(&workspace.merged);
        for _ in 0..DEPTH {
            mkdirat(&at, "d", Mode::RWXU).unwrap();
            at = below(&at, "d");
        }
        let write = |parent: &_, name: &str| {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC;
            let file = openat(parent, name, flags, Mode::RWXU).unwrap();
            rustix::io::write(&file, name.as_bytes()).unwrap();
        };
        write(&at, "bottom");
        let (target, freezer) = (workspace.target(), workspace.freezer());
        // Right before the freeze, at the bottom and in the middle.
        struct Late<F>(F);
        impl<F: FnMut()> Observer for Late<F> {
            fn progress(&mut self, progress: Progress) {
                if progress.phase == Phase::Freezing {
                    (self.0)();
                }
            }
        }
        let merged = workspace.merged.clone();
        let mut late = Late(|| {
            write(&at, "late");
            let mut middle = open(&merged);
            for _ in 0..DEPTH / 2 {
                middle = below(&middle, "d");
            }
            renameat(&middle, "d", &middle, "moved").unwrap();
        });
        let never = AtomicBool::new(false);
        let report = capture(
            &workspace.upper,
            &target,
            &freezer,
            &options(pass),
            &mut late,
            &never,
        );
        assert_eq!(report.unwrap().directories, DEPTH as u64 + 1);
        let mut copy = open(&target);
        for depth in 0..DEPTH {
            copy = below(&copy, if depth == DEPTH / 2 { "moved" } else { "d" });
        }
        for name in ["bottom", "late"] {
            let file = openat(&copy, name, OFlags::RDONLY, Mode::empty()).unwrap();
            let mut content = String::new();
            File::from(file).read_to_string(&mut content).unwrap();
            assert_eq!(content, name);
        }
        remove(&target);
    }
}

#[test]
fn nobody_waiting_at_a_pipe_is_let_in() {
    let mut workspace = Workspace::plain(|_| {});
    workspace.start_ready("pipe");
    for pass in &BOTH {
        workspace.check(&options(pass)).unwrap();
    }
    // The child writes when its opening comes back.
    assert!(!workspace.first_has_output(Duration::from_millis(300)));
    let reader = OpenOptions::new()
        .read(true)
        .open(workspace.upper.join("pipe"))
        .unwrap();
    assert!(workspace.first_has_output(Duration::from_secs(10)));
    drop(reader);
}

fn wait_at_a_pipe() {
    let mode = NixMode::from_bits_truncate(0o600);
    mknod("pipe", SFlag::S_IFIFO, mode, 0).unwrap();
    ready();
    let _writer = OpenOptions::new().write(true).open("pipe").unwrap();
    ready();
    std::thread::sleep(Duration::from_secs(3600));
}

#[test]
fn quotas_of_projects_are_the_targets_own() {
    support::private_mounts();
    let disk = support::disk::Disk::with_options("ext4", 128, &["-O", "quota,project"], "prjquota");
    let mut workspace = Workspace::new(disk.unwrap(), support::group::Group::new(), |_| {});
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
