//! Nobody is left frozen: the copying process is killed, or hangs, while everybody stands still.
//!
//! Needs root and BOTSTEAD_TEST_AGENT.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use botstead_live_copy::{Error, Frozen, Observer, Options, SecondPass};
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};
use support::disk::Disk;
use support::group::Group;
use support::{FEED, FREEZE_LIMIT, Workspace, copy_here, private_mounts, ready};

/// What the guard is started with by default.
const LIMIT: Duration = Duration::from_secs(2);
/// For a machine that has much else to do.
const GRACE: Duration = Duration::from_millis(1500);
/// How long the copying process hangs.
const HANGING: Duration = Duration::from_secs(4);

#[test]
#[ignore = "what the children of the other tests do"]
fn child() {
    support::child(&[
        ("count", |_| count()),
        ("copy-and-hang", |_| copy_and_hang()),
    ]);
}

/// Shows that it runs, by a number that grows.
fn count() {
    for number in 0_u64.. {
        fs::write("count.new", number.to_string()).unwrap();
        fs::rename("count.new", "count").unwrap();
        if number == 1 {
            ready();
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn counted(workspace: &Workspace) -> u64 {
    let text = fs::read_to_string(workspace.merged.join("count")).unwrap();
    text.parse().unwrap()
}

/// Copies once, and does not go on while everybody stands still.
fn copy_and_hang() {
    struct Hang;
    impl Observer for Hang {
        fn before_thaw(
            &mut self,
            _: &dyn Frozen,
        ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
            ready();
            std::thread::sleep(HANGING);
            Ok(())
        }
    }
    let options = Options {
        second_pass: SecondPass::Feed,
        attempts: 1,
        // It is to get to the hook on a busy machine too.
        freeze_deadline: Duration::from_secs(1),
        ..Options::default()
    };
    let done = copy_here(&options, &mut Hang);
    assert!(matches!(done, Err(Error::FreezeTooLong { .. })), "{done:?}");
    ready();
    std::thread::sleep(Duration::from_secs(3600));
}

/// The groups of the versions that this host has.
fn groups() -> Vec<Group> {
    let groups: Vec<_> = [Group::version_1(), Group::version_2()]
        .into_iter()
        .flatten()
        .collect();
    assert!(!groups.is_empty(), "this host has no freezer");
    groups
}

/// A workspace in which someone counts, that was frozen for a copy into the folder.
fn frozen(group: Group) -> (Workspace, std::path::PathBuf) {
    let disk = Disk::image("ext4", 64).expect("this kernel has no ext4");
    let mut workspace = Workspace::new(disk, group, |_| {});
    workspace.start_ready("count");
    let target = workspace.target();
    workspace.start_copier("copy-and-hang", &target);
    assert!(workspace.group.is_frozen());
    let before = counted(&workspace);
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(counted(&workspace), before, "someone runs");
    (workspace, target)
}

/// Waits until nobody is frozen and the counting goes on; returns how long it took.
fn wait_for_thaw(workspace: &Workspace) -> Duration {
    let began = Instant::now();
    while workspace.group.is_frozen() {
        assert!(began.elapsed() < Duration::from_secs(20), "left frozen");
        std::thread::sleep(Duration::from_millis(1));
    }
    let took = began.elapsed();
    let before = counted(workspace);
    while counted(workspace) == before {
        assert!(began.elapsed() < Duration::from_secs(20), "nobody runs");
        std::thread::sleep(Duration::from_millis(1));
    }
    took
}

#[test]
fn a_copying_process_that_is_killed_leaves_nobody_frozen() {
    private_mounts();
    for group in groups() {
        let (mut workspace, _) = frozen(group);
        workspace.kill_last();
        let took = wait_for_thaw(&workspace);
        assert!(
            took < GRACE,
            "by the end of its input, not by time: {took:?}"
        );
        // And the next copy is as good as any.
        let options = Options {
            second_pass: FEED,
            freeze_limit: FREEZE_LIMIT,
            ..Options::default()
        };
        workspace.check(&options).unwrap();
    }
}

#[test]
fn a_copying_process_that_hangs_keeps_nobody_frozen_for_longer_than_two_seconds() {
    private_mounts();
    for group in groups() {
        let began = Instant::now();
        let (mut workspace, target) = frozen(group);
        let took = wait_for_thaw(&workspace);
        assert!(took < LIMIT + GRACE, "{took:?}");
        assert!(began.elapsed() >= LIMIT, "before its time");
        // It learns that this was no copy, and says so instead of finishing it.
        workspace.wait_for_last();
        assert!(Path::new(&target).exists());
        assert!(!workspace.group.is_frozen());
    }
}
