//! The server is killed at every fault point of every operation: after a restart the workspace is
//! in the state before or the state after, no version is lost or changed, and nothing is left over.

pub(crate) mod harness;
mod inspect;
pub(crate) mod scene;

use botstead_workspace::FAULT_POINTS;
use harness::Harness;
use std::time::Instant;

/// Every point of these operations, each on a server of its own pace.
async fn kill_everywhere(operations: &[&str]) {
    let began = Instant::now();
    let mut harness = Harness::start().await;
    let mut died = 0;
    for (operation, steps) in FAULT_POINTS {
        if !operations.contains(operation) {
            continue;
        }
        for step in *steps {
            harness.at(operation, step).await;
            died += 1;
        }
    }
    assert!(died > 0, "{operations:?} have no points");
    println!(
        "killed at {died} points of {operations:?} in {:?}",
        began.elapsed()
    );
}

const GROUPS: [&[&str]; 4] = [
    &["create", "snapshot", "live"],
    &["rollback", "import"],
    &["restore", "restore_path", "delete_version"],
    &["image", "fork", "delete"],
];

/// A point in no group would never be tried.
#[test]
fn every_operation_is_in_a_group() {
    for (operation, _) in FAULT_POINTS {
        let groups = GROUPS.iter().filter(|group| group.contains(operation));
        assert_eq!(groups.count(), 1, "{operation}");
    }
}

#[tokio::test]
async fn a_kill_while_creating_and_keeping_loses_nothing() {
    kill_everywhere(GROUPS[0]).await;
}

#[tokio::test]
async fn a_kill_while_rolling_back_and_importing_loses_nothing() {
    kill_everywhere(GROUPS[1]).await;
}

#[tokio::test]
async fn a_kill_while_bringing_back_loses_nothing() {
    kill_everywhere(GROUPS[2]).await;
}

#[tokio::test]
async fn a_kill_while_changing_forking_and_deleting_loses_nothing() {
    kill_everywhere(GROUPS[3]).await;
}
