//! Trees that move, that are deep, and entries that are not to be touched.

use crate::support::changed::{BOTH, check_changed, options};
use crate::support::{Workspace, ready, remove};
use botstead_live_copy::{Observer, Phase, Progress, capture};
use nix::sys::stat::{Mode as NixMode, SFlag, mknod};
use rustix::fs::{CWD, Mode, OFlags, mkdirat, openat, renameat};
use rustix::io::Errno;
use std::fs::{self, File, OpenOptions};
use std::io::Read;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

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
    const DEPTH: usize = 3000;
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
        let mut moved = false;
        let mut late = Late(|| {
            write(&at, "late");
            let mut middle = open(&merged);
            for _ in 0..DEPTH / 2 {
                middle = below(&middle, "d");
            }
            // Linux 6.1's overlayfs does not rename that deep.
            moved = match renameat(&middle, "d", &middle, "moved") {
                Err(Errno::NOENT) => false,
                done => done.map(|()| true).unwrap(),
            };
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
            let here = moved && depth == DEPTH / 2;
            copy = below(&copy, if here { "moved" } else { "d" });
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
fn a_tree_of_more_entries_than_can_be_remembered_is_refused_and_nobody_stays_frozen() {
    for pass in &BOTH {
        let mut workspace = Workspace::plain(|_| {});
        workspace.start_ready("idle");
        let small = || botstead_live_copy::Options {
            memory_limit: 400_000,
            ..options(pass)
        };
        // In one directory, and in many; at once, and while it is copied.
        for at in ["one", "many"] {
            let folder = workspace.merged.join(at);
            fs::create_dir(&folder).unwrap();
            for number in 0..4000 {
                let path = match at {
                    "one" => folder.join(format!("{number:0>100}")),
                    _ => folder.join(number.to_string()),
                };
                match at {
                    "one" => fs::write(path, "x").unwrap(),
                    _ => fs::create_dir(path).unwrap(),
                }
            }
            let refused = workspace.check(&small()).unwrap_err();
            assert!(
                matches!(
                    refused,
                    botstead_live_copy::Error::TooManyEntries { limit: 400_000 }
                ),
                "{refused}"
            );
            workspace.assert_running();
            workspace.check(&options(pass)).unwrap();
            fs::remove_dir_all(&folder).unwrap();
        }
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

pub(crate) fn wait_at_a_pipe() {
    let mode = NixMode::from_bits_truncate(0o600);
    mknod("pipe", SFlag::S_IFIFO, mode, 0).unwrap();
    ready();
    // A pipe of the overlay mount is another than that of the directory below.
    let _writer = OpenOptions::new().write(true).open("../upper/pipe");
    ready();
    std::thread::sleep(Duration::from_secs(3600));
}
