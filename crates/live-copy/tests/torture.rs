//! The main proof: copies under processes that change everything all the time are what the source was
//! while they stood still, byte for byte.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use botstead_live_copy::{Options, Report, SecondPass};
use std::time::{Duration, Instant};
use support::disk::Disk;
use support::group::Group;
use support::{FEED, WALK, Workspace, mutate, private_mounts};

/// How many rounds each test makes, instead of as many as a run of all tests can afford.
const ROUNDS: &str = "LIVE_COPY_TEST_ROUNDS";
/// The number that the random changes follow from.
const SEED: &str = "LIVE_COPY_TEST_SEED_BASE";

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

fn torture(disk: Disk, group: Group, pass: SecondPass, role: &str, rounds: u64) {
    let rounds = number(ROUNDS).unwrap_or(rounds);
    let seed = number(SEED).unwrap_or_else(|| u64::from(std::process::id()));
    let mut workspace = Workspace::new(disk, group, mutate::fill_lower);
    for child in 0..3 {
        workspace.start(role, seed * 10 + child);
    }
    let options = Options {
        second_pass: pass.clone(),
        ..Options::default()
    };
    let began = Instant::now();
    let mut reasons = std::collections::BTreeMap::new();
    let (mut freezes, mut same, mut still) = (Vec::new(), 0, 0);
    let (mut unreported, mut frozen_files) = (0, 0);
    for round in 0..rounds {
        // New children now and then, and some time between two copies.
        if round % 50 == 49 {
            workspace.stop_children();
            for child in 0..3 {
                workspace.start(role, seed * 1000 + round * 10 + child);
            }
        }
        std::thread::sleep(Duration::from_millis(round % 4));
        let before = workspace.last.take();
        let report: Report = match workspace.check(&options) {
            Ok(report) => report,
            Err(error) => panic!("seed {seed}, round {round}: {error:?}"),
        };
        workspace.assert_running();
        freezes.push(report.freeze);
        println!("{report:?}");
        same += u64::from(report.second_pass == pass);
        *reasons
            .entry(format!("{:?}", report.second_pass))
            .or_insert(0) += 1;
        still += u64::from(workspace.last == before);
        unreported += report.unreported;
        frozen_files += report.frozen_files;
    }
    assert!(still * 10 < rounds, "nothing changed in {still} rounds");
    freezes.sort();
    println!("{reasons:?}");
    println!(
        "{rounds} rounds of {pass:?} equal in {:.1?}, {same} of them by it to the end; frozen {:.1?} (median), \
         {:.1?} (95 %); {frozen_files} files copied frozen, {unreported} unreported",
        began.elapsed(),
        freezes[freezes.len() / 2],
        freezes[freezes.len() * 95 / 100],
    );
}

#[test]
fn copies_by_the_feed_are_equal() {
    private_mounts();
    torture(
        Disk::image("ext4", 512).unwrap(),
        Group::new(),
        FEED,
        "mutate",
        250,
    );
}

#[test]
fn copies_by_the_walk_are_equal() {
    private_mounts();
    torture(
        Disk::temporary(),
        Group::new(),
        WALK,
        "mutate-with-flags",
        250,
    );
}
