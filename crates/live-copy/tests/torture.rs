//! The main proof: copies under processes that change everything all the time are what the source was
//! while they stood still, byte for byte.
//!
//! Needs root and BOTSTEAD_TEST_AGENT. Each test makes rounds for some seconds, a few hundred in all. For
//! thousands: `LIVE_COPY_TEST_ROUNDS=2000 cargo test -p botstead-live-copy --test torture`, which takes an
//! hour; LIVE_COPY_TEST_SEED_BASE repeats the random changes of a run, as far as processes repeat
//! anything.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]
#![allow(clippy::print_stdout, reason = "what was proven")]

mod support;

use botstead_live_copy::{CgroupFreezer, Error, Guard, Options, SecondPass};
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use support::disk::Disk;
use support::group::Group;
use support::{FREEZE_LIMIT, WALK, Workspace, agent, fastest_pass, mutate, private_mounts};

/// How many rounds each test makes, instead of as many as a run of all tests can afford.
const ROUNDS: &str = "LIVE_COPY_TEST_ROUNDS";
/// The number that the random changes follow from.
const SEED: &str = "LIVE_COPY_TEST_SEED_BASE";
/// What a test can afford without the above.
const AFFORDABLE: Duration = Duration::from_secs(6);
/// What it makes in any case.
const FEWEST: u64 = 12;
/// Mutators at work.
const CHILDREN: u64 = 3;
/// After so many rounds they are replaced, which leaves what they kept open.
const GENERATION: u64 = 40;
/// MiB of a disk.
const DISK: u64 = 512;

#[test]
#[ignore = "what the children of the other tests do"]
fn child() {
    support::child(&[
        ("mutate", mutate::run),
        ("mutate-with-flags", mutate::run_with_flags),
    ]);
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().unwrap())
}

/// A workspace with mutators, and what was seen of its copies.
struct Torture {
    workspace: Workspace,
    role: &'static str,
    seed: u64,
    began: Instant,
    round: u64,
    equal: u64,
    still: u64,
    by_feed: u64,
    attempts: u64,
    frozen_files: u64,
    unreported: u64,
    freezes: Vec<Duration>,
}

impl Torture {
    fn new(disk: Disk, group: Group, role: &'static str) -> Self {
        Self {
            workspace: Workspace::new(disk, group, mutate::fill_lower),
            role,
            seed: number(SEED).unwrap_or_else(|| u64::from(std::process::id())),
            began: Instant::now(),
            round: 0,
            equal: 0,
            still: 0,
            by_feed: 0,
            attempts: 0,
            frozen_files: 0,
            unreported: 0,
            freezes: Vec::new(),
        }
    }

    fn goes_on(&self) -> bool {
        match number(ROUNDS) {
            Some(rounds) => self.round < rounds,
            None => self.round < FEWEST || self.began.elapsed() < AFFORDABLE,
        }
    }

    /// One copy. `may_fail` says of an error that it is to be expected.
    fn round(&mut self, freezer: &CgroupFreezer, options: &Options, may_fail: fn(&Error) -> bool) {
        if self.round.is_multiple_of(GENERATION) {
            self.workspace.stop_children();
            for child in 0..CHILDREN {
                let seed = self.seed * 1000 + self.round * CHILDREN + child;
                self.workspace.start(self.role, seed);
            }
        }
        self.round += 1;
        // Some time between two copies, not always the same.
        std::thread::sleep(Duration::from_millis(self.round % 4));
        let before = self.workspace.last.take();
        match self.workspace.check_with(freezer, options) {
            Ok(report) => {
                self.equal += 1;
                self.still += u64::from(self.workspace.last == before);
                self.by_feed += u64::from(report.second_pass == SecondPass::Feed);
                self.attempts += u64::from(report.attempts);
                self.frozen_files += report.frozen_files;
                self.unreported += report.unreported;
                self.freezes.push(report.freeze);
            }
            Err(error) if may_fail(&error) => {}
            Err(error) => panic!("seed {}, round {}: {error:?}", self.seed, self.round),
        }
        self.workspace.assert_running();
    }

    fn report(mut self, what: &str) {
        assert!(self.equal > 0, "no copy succeeded");
        assert!(
            self.still * 5 < self.equal + 5,
            "nothing changed in {} of {} rounds",
            self.still,
            self.equal
        );
        self.freezes.sort();
        let most = self.freezes.len() - 1;
        println!(
            "{what} (seed {}): {} of {} copies made and equal in {:.0?}, {} by the feed to the end, {} attempts; frozen, \
             with the comparison's reading, {:.1?} (median), {:.1?} (95 %); {} files copied frozen, {} unreported",
            self.seed,
            self.equal,
            self.round,
            self.began.elapsed(),
            self.by_feed,
            self.attempts,
            self.freezes[most / 2],
            self.freezes[most * 95 / 100],
            self.frozen_files,
            self.unreported,
        );
    }
}

fn never(_: &Error) -> bool {
    false
}

fn options(second_pass: SecondPass) -> Options {
    Options {
        second_pass,
        freeze_limit: FREEZE_LIMIT,
        ..Options::default()
    }
}

fn torture(what: &str, disk: Disk, group: Group, pass: SecondPass, role: &'static str) {
    let mut torture = Torture::new(disk, group, role);
    let freezer = torture.workspace.freezer();
    let what = format!("{what}, {pass:?}");
    let options = options(pass);
    while torture.goes_on() {
        torture.round(&freezer, &options, never);
    }
    torture.report(&what);
}

fn disk(kind: &str) -> Disk {
    Disk::image(kind, DISK).unwrap()
}

#[test]
fn copies_by_the_fastest_pass_are_equal() {
    private_mounts();
    torture("ext4", disk("ext4"), Group::new(), fastest_pass(), "mutate");
}

#[test]
fn copies_by_the_walk_are_equal() {
    private_mounts();
    torture(
        "ext4",
        disk("ext4"),
        Group::new(),
        WALK,
        "mutate-with-flags",
    );
}

#[test]
fn copies_with_the_freezer_of_version_2_are_equal() {
    private_mounts();
    let Some(group) = Group::version_2() else {
        // A host with version 1 alone: the same files are in the unit tests, as recorded.
        return;
    };
    torture("cgroup v2", disk("ext4"), group, fastest_pass(), "mutate");
}

/// Where blocks are shared instead of copied.
fn shared(kind: &str, pass: SecondPass, role: &'static str) {
    private_mounts();
    let Some(disk) = Disk::image(kind, DISK) else {
        println!("this kernel has no {kind}");
        return;
    };
    torture(kind, disk, Group::new(), pass, role);
}

#[test]
fn copies_on_xfs_by_the_fastest_pass_are_equal() {
    shared("xfs", fastest_pass(), "mutate");
}

#[test]
fn copies_on_xfs_by_the_walk_are_equal() {
    shared("xfs", WALK, "mutate-with-flags");
}

#[test]
fn copies_on_btrfs_by_the_fastest_pass_are_equal() {
    shared("btrfs", fastest_pass(), "mutate");
}

#[test]
fn copies_on_btrfs_by_the_walk_are_equal() {
    shared("btrfs", WALK, "mutate-with-flags");
}

#[test]
fn copies_after_attempts_that_took_too_long_are_equal() {
    private_mounts();
    let mut torture = Torture::new(disk("ext4"), Group::new(), "mutate");
    let freezer = torture.workspace.freezer();
    let pass = fastest_pass();
    while torture.goes_on() {
        // From much too short to long enough.
        let options = Options {
            freeze_limit: Duration::from_millis(2 + 60 * (torture.round % 8)),
            attempts: 3,
            rounds: 2,
            ..options(pass.clone())
        };
        torture.round(&freezer, &options, Error::is_temporary);
    }
    torture.report("attempts that took too long");
}

#[test]
fn copies_after_attempts_that_the_guard_ended_are_equal() {
    private_mounts();
    let mut torture = Torture::new(disk("ext4"), Group::new(), "mutate");
    let path = torture.workspace.group.path().to_owned();
    let options = options(fastest_pass());
    while torture.goes_on() {
        let guard =
            Guard::new(agent()).with_limit(Duration::from_millis(20 + 60 * (torture.round % 16)));
        let freezer = CgroupFreezer::new(&path, guard).unwrap();
        torture.round(&freezer, &options, |error| {
            // A guard may end before it is ready.
            error.is_temporary() || matches!(error, Error::Guard { .. })
        });
    }
    torture.report("attempts that the guard ended");
}

#[test]
fn copies_after_someone_else_thawed_are_equal() {
    private_mounts();
    let mut torture = Torture::new(disk("ext4"), Group::new(), "mutate");
    let freezer = torture.workspace.freezer();
    let path = torture.workspace.group.path().to_owned();
    let options = options(fastest_pass());
    let end = AtomicBool::new(false);
    struct EndAfterwards<'a>(&'a AtomicBool);
    impl Drop for EndAfterwards<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    std::thread::scope(|scope| {
        // Also when a round fails.
        let _end = EndAfterwards(&end);
        scope.spawn(|| {
            let mut pause = 1;
            while !end.load(Ordering::Relaxed) {
                pause = pause * 7 % 97;
                std::thread::sleep(Duration::from_millis(40 + pause));
                let _ = fs::write(path.join("freezer.state"), "THAWED");
                let _ = fs::write(path.join("cgroup.freeze"), "0");
            }
        });
        while torture.goes_on() {
            torture.round(&freezer, &options, Error::is_temporary);
        }
    });
    torture.report("attempts that someone else ended");
}
