//! Copies of a tree that a child changes when it is told to, right before the freeze.

use super::picture::Picture;
use super::{FEED, FREEZE_LIMIT, WALK, Witness, Workspace, ready, remove};
use botstead_live_copy::{Frozen, Observer, Options, Phase, Progress, Report, SecondPass, capture};
use std::io::BufRead;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

pub const BOTH: [SecondPass; 2] = [FEED, WALK];

pub fn options(second_pass: &SecondPass) -> Options {
    Options {
        second_pass: second_pass.clone(),
        freeze_limit: FREEZE_LIMIT,
        ..Options::default()
    }
}

/// Does something right before the freeze, when everything has been copied once and again; compares.
pub fn check_changed(
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

pub fn idle() {
    ready();
    std::thread::sleep(Duration::from_secs(3600));
}

/// Says what it does, and waits to be told to.
pub fn when_told(act: impl FnOnce()) {
    ready();
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line).unwrap();
    act();
    ready();
}
