//! Fault points: places at which tests kill the server to prove that a restart mends everything.
//!
//! Behind the cargo feature `fault-points`, which release builds do not have. A point is armed by
//! the environment variable `BOTSTEAD_FAULT_POINT`; reaching it kills the process with SIGKILL, as
//! power loss would.

macro_rules! fault_points {
    ($($name:literal),+ $(,)?) => {
        /// Every fault point, for the harness.
        pub const FAULT_POINTS: &[&str] = &[$($name),+];
    };
}

fault_points!(
    "create.begun",
    "create.pulled",
    "create.prepared",
    "create.container",
    "create.recorded",
    "create.task",
    "create.started",
    "create.finished",
    "snapshot.begun",
    "snapshot.stopped",
    "snapshot.committed",
    "snapshot.prepared",
    "snapshot.switched",
    "snapshot.recorded",
    "snapshot.started",
    "snapshot.finished",
    "rollback.begun",
    "rollback.stopped",
    "rollback.committed",
    "rollback.prepared",
    "rollback.switched",
    "rollback.recorded",
    "rollback.removed",
    "rollback.started",
    "rollback.finished",
    "delete.begun",
    "delete.stopped",
    "delete.network",
    "delete.container",
    "delete.snapshot",
    "delete.released",
    "delete.recorded",
);

/// Dies here when a test armed this point.
macro_rules! fault_point {
    ($name:literal) => {
        #[cfg(feature = "fault-points")]
        $crate::faults::hit($name);
    };
}
pub(crate) use fault_point;

#[cfg(feature = "fault-points")]
pub(crate) fn hit(name: &str) {
    assert!(FAULT_POINTS.contains(&name), "unlisted fault point {name}");
    if std::env::var("BOTSTEAD_FAULT_POINT").is_ok_and(|armed| armed == name) {
        let _ =
            rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        // The signal arrives before this thread runs on, but other threads may still work.
        loop {
            std::thread::park();
        }
    }
}
