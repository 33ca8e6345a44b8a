//! Fault points: places at which tests kill the server to prove that a restart mends everything.
//!
//! Behind the cargo feature `fault-points`, which release builds do not have. A point is armed by
//! the environment variable `BOTSTEAD_FAULT_POINT`, or by the content of the file that
//! `BOTSTEAD_FAULT_FILE` names; reaching it kills the process with SIGKILL, as
//! power loss would. With `BOTSTEAD_FAULT_COMMAND` the program that it names is run first, so that a
//! test can take something else away at the same moment.

/// Every fault point, for the harness: the operation, a dot, the step.
pub const FAULT_POINTS: &[(&str, &[&str])] = &[
    (
        "create",
        &[
            "begun",
            "pulled",
            "prepared",
            "restored",
            "container",
            "recorded",
            "task",
            "started",
            "finished",
            "returned",
        ],
    ),
    (
        "snapshot",
        &[
            "begun",
            "stopped",
            "committed",
            "prepared",
            "switched",
            "recorded",
            "started",
            "finished",
        ],
    ),
    ("live", &["begun", "copied", "recorded"]),
    ("rollback", REPLACEMENT),
    ("import", REPLACEMENT),
    ("restore", REPLACEMENT),
    ("restore_path", REPLACEMENT),
    ("image", REPLACEMENT),
    (
        "fork",
        &[
            "begun",
            "copied",
            "changed",
            "committed",
            "prepared",
            "switched",
            "recorded",
            "started",
        ],
    ),
    (
        "delete",
        &[
            "begun",
            "stopped",
            "preserved",
            "network",
            "container",
            "snapshot",
            "released",
            "recorded",
        ],
    ),
    ("delete_version", &["begun", "recorded", "released"]),
];

/// The steps of everything that gives a workspace another writable snapshot.
const REPLACEMENT: &[&str] = &[
    "begun",
    "stopped",
    "committed",
    "prepared",
    "edited",
    "switched",
    "recorded",
    "removed",
    "started",
    "finished",
];

/// Dies here when a test armed this point.
macro_rules! fault_point {
    ($operation:expr, $step:literal) => {
        #[cfg(feature = "fault-points")]
        $crate::faults::hit($operation, $step);
    };
}
pub(crate) use fault_point;

#[cfg(feature = "fault-points")]
pub(crate) fn hit(operation: &str, step: &str) {
    let listed = FAULT_POINTS
        .iter()
        .any(|(known, steps)| *known == operation && steps.contains(&step));
    assert!(listed, "unlisted fault point {operation}.{step}");
    let name = format!("{operation}.{step}");
    let in_file = std::env::var("BOTSTEAD_FAULT_FILE")
        .and_then(|file| std::fs::read_to_string(file).map_err(|_| std::env::VarError::NotPresent));
    let armed = std::env::var("BOTSTEAD_FAULT_POINT").or(in_file);
    if armed.is_ok_and(|armed| armed.trim() == name) {
        if let Some(command) = std::env::var_os("BOTSTEAD_FAULT_COMMAND") {
            let _ = std::process::Command::new(command).status();
        }
        let _ =
            rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        // The signal arrives before this thread runs on, but other threads may still work.
        loop {
            std::thread::park();
        }
    }
}
