//! The model test of data: random sequences of everything that can be done to workspaces, and of what
//! happens to the server, the database and the runtime meanwhile.
//!
//! # The invariant
//! **Every byte that a user wrote and did not delete can be reached through the API**: in the present
//! state of a workspace, in a version, in a preserved archive, or in what the server lists for recovery.
//!
//! The test writes files that say something each of its own. Before and after each step it lists where
//! each of them can be reached. What could be reached before can be reached afterwards, unless *every*
//! place where it was is excused:
//! - a file that was overwritten or removed, in the present state;
//! - the present state of a workspace that was deleted; with `preserve_data`, only what is not in `/data`
//!   or where a link in its place leads;
//! - a version that was deleted, by name, with its workspace (`delete_versions`) or with its bot;
//! - an archive that was discarded, or that went with its bot (deleted without `preserve_data`);
//! - a version that nobody asked for (`rollback`, `import`, `image`) and that is not pinned, once as many
//!   newer ones of its kind are there as the rules of retention keep;
//! - a snapshot that was removed behind the server's back, and nothing else that was done there: a
//!   container that was removed, a row or a bot that vanished from the database, an older database and a
//!   restarted host excuse nothing;
//! - where two calls ran at the same time, what either excuses, and what the one may have put where the
//!   other removes it.
//!
//! An operation that stopped half-way goes on when the bot's data is asked for, and is asked for before the
//! listing. A call that fails, a server that is killed at any call to the runtime or the database, and a runtime
//! that goes away excuse what the call would have, and no more.
//!
//! A version that is pinned stays pinned unless a call takes the pin away.
//!
//! At the end of a sequence, with nothing broken any more, everything must also be usable: each workspace
//! starts, each version is rolled back to, each archive comes back, and each holds what it held.
//!
//! # Seeds
//! A sequence is drawn from its seed. One that fails is printed with its seed, shortened to the steps
//! that matter. `BOTSTEAD_TEST_MODEL_SEED=N` performs that one alone and prints its steps;
//! `BOTSTEAD_TEST_MODEL=N` performs N sequences on the in-memory runtime, and N / 50 on containerd
//! (`cargo xtask test --model N` sets it).

#![allow(
    unreachable_pub,
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test of several files, where a panic is how it fails and output how it tells"
)]

mod containerd;
mod counted;
mod excused;
mod ground;
mod memory;
mod model;
mod run;
mod steps;
mod world;

use containerd::{Host, OnContainerd};
use memory::Memory;
use run::{Settings, check, number};
use std::panic::AssertUnwindSafe;
use steps::Abilities;

const SEQUENCES: u64 = 10_000;
/// On containerd each takes a second, where in memory it takes some milliseconds.
const FEWER: u64 = 50;

#[test]
fn every_byte_can_still_be_reached() {
    let abilities = Abilities {
        faults: true,
        longest: 11,
    };
    let settings = Settings {
        sequences: number("BOTSTEAD_TEST_MODEL").unwrap_or(SEQUENCES),
        first: number("BOTSTEAD_TEST_MODEL_SEED"),
        threads: std::thread::available_parallelism().map_or(2, usize::from),
        abilities,
    };
    check(&settings, Memory::new);
}

#[test]
fn every_byte_can_still_be_reached_on_containerd() {
    let abilities = Abilities {
        faults: false,
        longest: 8,
    };
    let settings = Settings {
        sequences: number("BOTSTEAD_TEST_MODEL").unwrap_or(SEQUENCES) / FEWER,
        first: number("BOTSTEAD_TEST_MODEL_SEED"),
        threads: 2,
        abilities,
    };
    let host = Host::start(settings.threads);
    let done = std::panic::catch_unwind(AssertUnwindSafe(|| {
        check(&settings, || OnContainerd::new(&host));
    }));
    // Whatever came of it.
    host.stop();
    if let Err(panic) = done {
        std::panic::resume_unwind(panic);
    }
}
