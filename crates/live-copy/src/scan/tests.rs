//! The scan of a real process: this one.

use super::*;
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
    sendmsg, socketpair,
};
use std::fs::{self, File, OpenOptions};
use std::io::IoSlice;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

fn looks(path: &Path) -> Looks {
    Looks::new(&stat_at(CWD, &CString::new(path.to_str().unwrap()).unwrap()).unwrap())
}

fn find(path: &Path) -> Found {
    find_until(path, Stop::new(&AtomicBool::new(false)))
}

fn find_until(path: &Path, stop: Stop<'_>) -> Found {
    let stat = stat_at(CWD, &CString::new(path.to_str().unwrap()).unwrap()).unwrap();
    let pids = [std::process::id()];
    let mounts = Mounts::find(botstead_overlay::tree::id(&stat), &pids);
    let scan = Scan::new(&pids, &mounts, stop);
    scan.work().unwrap();
    scan.into_found()
}

/// Whether a file was found, and if so whether as mapped.
fn found(path: &Path) -> Option<bool> {
    let (all, wanted) = (find(path), looks(path));
    let mut them = all.files.iter().filter(|file| file.stat == wanted);
    let one = them.next()?;
    assert!(one.is_direct && them.next().is_none());
    assert_eq!(one.path, path.to_str().unwrap().as_bytes());
    Some(one.is_mapped)
}

#[test]
fn a_scan_ends_when_its_time_is_over() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    let _open = File::create(&path).unwrap();
    let never = AtomicBool::new(false);
    let over = Stop::new(&never).until(Instant::now());
    assert!(find_until(&path, over).files.is_empty());
    assert!(!find(&path).files.is_empty());
}

#[test]
fn files_open_for_writing_are_found_until_closed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("f");
    let writer = File::create(&path).unwrap();
    assert_eq!(found(&path), Some(false));
    drop(writer);
    assert_eq!(found(&path), None);
    let _reader = File::open(&path).unwrap();
    assert_eq!(found(&path), None);
}

#[test]
fn a_file_without_a_name_is_no_part_of_the_tree() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("f");
    let writer = File::create(&path).unwrap();
    fs::hard_link(&path, dir.path().join("other")).unwrap();
    let wanted = Looks::new(&botstead_overlay::tree::stat_fd(&writer).unwrap());
    fs::remove_file(&path).unwrap();
    let is_it = |file: &OpenFile| file.stat.ino == wanted.ino;
    assert!(find(dir.path()).files.iter().any(is_it), "it has one more");
    fs::remove_file(dir.path().join("other")).unwrap();
    assert!(!find(dir.path()).files.iter().any(is_it));
}

#[test]
fn a_thread_with_descriptors_of_its_own_is_not_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("f");
    let (opened, wait_opened) = std::sync::mpsc::channel();
    let (end, wait_end) = std::sync::mpsc::channel::<()>();
    let file = path.clone();
    let thread = std::thread::spawn(move || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_FILES).unwrap();
        let _writer = File::create(file).unwrap();
        opened.send(()).unwrap();
        wait_end.recv().unwrap();
    });
    wait_opened.recv().unwrap();
    assert_eq!(found(&path), Some(false));
    end.send(()).unwrap();
    thread.join().unwrap();
}

#[test]
fn descriptors_in_flight_are_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("f");
    let writer = File::create(&path).unwrap();
    // Other tests of this process have sockets, none of which carries anything.
    assert!(!find(&path).has_hidden);
    let pair = socketpair(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    );
    let (one, other) = pair.unwrap();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let descriptors = [writer.as_fd()];
    assert!(control.push(SendAncillaryMessage::ScmRights(&descriptors)));
    sendmsg(
        &one,
        &[IoSlice::new(b"x")],
        &mut control,
        SendFlags::empty(),
    )
    .unwrap();
    drop(writer);
    assert_eq!(found(&path), None, "nobody lists it");
    assert!(find(&path).has_hidden);
    drop((one, other));
    assert!(!find(&path).has_hidden);
}

#[test]
fn a_ring_that_does_not_tell_counts_as_holding() {
    let ring = "pos:\t0\nflags:\t02\nSqMask:\t0x7\nCqMask:\t0xf\n";
    assert!(counts_descriptors(ring.as_bytes()));
    assert!(!counts_descriptors(
        format!("{ring}UserFiles:\t0\nUserBufs:\t0\n").as_bytes()
    ));
    assert!(counts_descriptors(
        format!("{ring}UserFiles:\t2\n    0: /f\n").as_bytes()
    ));
    assert!(!counts_descriptors(
        b"pos:\t0\nflags:\t02\nmnt_id:\t9\nino:\t3\nscm_fds: 0\n"
    ));
    assert!(counts_descriptors(b"pos:\t0\nscm_fds: 3\n"));
    assert!(
        !counts_descriptors(b"pos:\t0\nflags:\t02\nmnt_id:\t9\n"),
        "a TCP socket"
    );
}

#[test]
fn shared_mappings_with_a_path_are_picked_from_the_list() {
    let shared = b"7f06020b9000-7f06020bb000 rw-s 00001000 00:27 10052002    /tmp/m/a b";
    assert_eq!(
        shared_mapping(shared),
        Some(&b"7f06020b9000-7f06020bb000"[..])
    );
    for other in [
        &b"7f06020b9000-7f06020bb000 rw-p 00000000 00:27 10052002    /tmp/m/map"[..],
        b"7f06020b9000-7f06020bb000 rw-s 00000000 00:0e 1051    anon_inode:[io_uring]",
        b"7f06020b9000-7f06020bb000 rw-s 00000000 00:00 0",
        b"",
    ] {
        assert_eq!(shared_mapping(other), None);
    }
    let later = b"7f06020bc000-7f06020bd000 rw-s 00002000 00:27 10052002    /tmp/m/a b";
    assert_eq!(mapped_file(shared), mapped_file(later));
}

#[test]
fn mappings_are_found_after_their_descriptor_was_closed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("f");
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .open(&path)
        .unwrap();
    file.set_len(4096).unwrap();
    let page = crate::sys::SharedPage::map(file.as_fd()).unwrap();
    drop(file);
    assert_eq!(found(&path), Some(true));
    drop(page);
    assert_eq!(found(&path), None);
}
