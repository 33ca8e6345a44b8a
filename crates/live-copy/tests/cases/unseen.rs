//! Changes that times, sizes or the change feed do not show, or show elsewhere.

use crate::everything::{fill_image, set_time};
use crate::support::changed::{BOTH, check_changed, idle, options, when_told};
use crate::support::{FEED, Workspace, fastest_pass, ready};
use botstead_live_copy::{Reason, SecondPass};
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{FileExt, symlink};
use std::path::Path;
use std::time::Duration;

/// Copies again and again, in both ways, while the child changes something all the time.
fn check_often(workspace: &mut Workspace) {
    let mut changed = 0;
    for _ in 0..rounds() {
        for pass in &BOTH {
            let before = workspace.last.take();
            workspace.check(&options(pass)).unwrap();
            changed += u64::from(workspace.last != before);
        }
    }
    // On a busy machine it may not get to run between two of them.
    assert!(changed > rounds(), "only {changed} changes");
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
        check_often(&mut workspace);
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
pub(crate) fn map_and_store() {
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
pub(crate) fn map_briefly() {
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
    check_often(&mut workspace);
    workspace.assert_running();
}

/// Writes, as often as it can, another content of the same size, and sets the same time. Replaces links
/// and pipes too, whose inodes get the numbers of the old ones.
pub(crate) fn change_in_the_same_tick() {
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

pub(crate) fn grow() {
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

pub(crate) fn keep_what_has_no_name() {
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
    let (report, picture) = check_changed(&mut workspace, &FEED, Workspace::tell_first);
    let reason = Reason::HiddenDescriptors;
    assert_eq!(report.second_pass, SecondPass::Walk { reason });
    assert_eq!(picture.get("f").content[0], 9);
}

/// Changes a file through a mapping, and leaves it open nowhere but in flight.
pub(crate) fn keep_in_flight() {
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
    let (report, picture) = check_changed(&mut workspace, &FEED, Workspace::tell_first);
    assert_eq!(report.second_pass, FEED, "no need to walk");
    assert_eq!(picture.get("image/longer").content, b"lower, and sent");
}

/// `sendfile` is reported only when the file is closed, and overlayfs shows the number of the image's.
pub(crate) fn send_into_a_file_that_was_copied_up() {
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
    let pass = fastest_pass();
    let (report, picture) = check_changed(&mut workspace, &pass, Workspace::tell_first);
    assert_eq!(report.second_pass, pass);
    assert_eq!(picture.get("left").content, b"first, then more");
    assert_eq!(report.frozen_files, 1);
}

/// The kernel goes on to name a file as it was opened, also when that name, and its folder, are gone.
pub(crate) fn write_by_a_name_that_is_gone() {
    fs::create_dir("folder").unwrap();
    let mut file = File::create("folder/first").unwrap();
    file.write_all(b"first").unwrap();
    fs::hard_link("folder/first", "left").unwrap();
    fs::remove_dir_all("folder").unwrap();
    when_told(|| file.write_all(b", then more").unwrap());
    drop(file);
    idle();
}
