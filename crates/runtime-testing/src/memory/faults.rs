//! Injected failures.

use botstead_runtime::ErrorKind;
use std::collections::BTreeMap;

/// The names of all calls, `port.method`, as [`crate::InMemoryRuntime::fail_next`] takes them.
pub const OPERATIONS: &[&str] = &[
    "backend.version",
    "containers.check_devices",
    "containers.create",
    "containers.delete",
    "containers.get",
    "containers.list",
    "containers.switch",
    "images.delete",
    "images.get",
    "images.import",
    "images.list",
    "images.pull",
    "images.unpack",
    "leases.collect",
    "leases.create",
    "leases.delete",
    "leases.list",
    "metrics.usage",
    "network.attach",
    "network.create_namespace",
    "network.ensure_host",
    "network.list",
    "network.remove",
    "network.status",
    "registries.forget",
    "registries.list",
    "registries.set",
    "snapshots.commit",
    "snapshots.commit_copy",
    "snapshots.flatten",
    "snapshots.get",
    "snapshots.labelled",
    "snapshots.layers",
    "snapshots.list",
    "snapshots.mounts",
    "snapshots.open",
    "snapshots.prepare",
    "snapshots.protect",
    "snapshots.release",
    "snapshots.remove",
    "snapshots.set_labels",
    "snapshots.usage",
    "tasks.create",
    "tasks.delete",
    "tasks.exec",
    "tasks.get",
    "tasks.kill",
    "tasks.list",
    "tasks.start",
    "tasks.wait",
];

/// A call: its name for faults and its verb phrase for errors.
#[derive(Clone, Copy)]
pub(super) struct Op(pub(super) &'static str, pub(super) &'static str);

/// What a caller panics with whose process was killed: see [`crate::InMemoryRuntime::kill_after`].
#[derive(Debug, Clone, Copy)]
pub struct Killed;

/// A failure that is due some times.
struct Due {
    kind: ErrorKind,
    times: usize,
}

/// What is to fail, and what was called.
#[derive(Default)]
pub(super) struct Faults {
    refusals: BTreeMap<&'static str, Due>,
    losses: BTreeMap<&'static str, Due>,
    away: bool,
    away_after: Option<usize>,
    dies_after: Option<usize>,
    calls: Vec<&'static str>,
}

impl Faults {
    /// Whether the call is refused, and how. Counts it.
    pub(super) fn admit(&mut self, op: Op) -> Option<ErrorKind> {
        debug_assert!(OPERATIONS.contains(&op.0), "{} is not listed", op.0);
        self.pass();
        if let Some(left) = &mut self.away_after {
            match left.checked_sub(1) {
                Some(fewer) => *left = fewer,
                None => {
                    self.away = true;
                    self.away_after = None;
                }
            }
        }
        if self.away {
            return Some(ErrorKind::Unavailable);
        }
        self.calls.push(op.0);
        take(&mut self.refusals, op.0)
    }

    /// Whether the answer of a call that was performed is lost, and how.
    pub(super) fn answer(&mut self, op: Op) -> Option<ErrorKind> {
        take(&mut self.losses, op.0)
    }

    /// Ends who calls, when that is due.
    pub(super) fn pass(&mut self) {
        match &mut self.dies_after {
            None => {}
            Some(0) => std::panic::panic_any(Killed),
            Some(left) => *left -= 1,
        }
    }

    pub(super) fn set_dies_after(&mut self, calls: Option<usize>) {
        self.dies_after = calls;
    }

    pub(super) fn refuse(&mut self, operation: &str, kind: ErrorKind, times: usize) {
        self.refusals.insert(known(operation), Due { kind, times });
    }

    pub(super) fn lose(&mut self, operation: &str, kind: ErrorKind, times: usize) {
        self.losses.insert(known(operation), Due { kind, times });
    }

    pub(super) fn clear(&mut self) {
        self.refusals.clear();
        self.losses.clear();
    }

    pub(super) fn set_away(&mut self, away: bool) {
        self.away = away;
        self.away_after = None;
    }

    pub(super) fn set_away_after(&mut self, calls: usize) {
        self.away_after = Some(calls);
    }

    pub(super) fn forget(&mut self) {
        self.refusals.clear();
        self.losses.clear();
    }

    pub(super) fn is_away(&self) -> bool {
        self.away
    }

    pub(super) fn pending(&self) -> Vec<&'static str> {
        self.refusals
            .keys()
            .chain(self.losses.keys())
            .copied()
            .collect()
    }

    pub(super) fn take_calls(&mut self) -> Vec<&'static str> {
        std::mem::take(&mut self.calls)
    }
}

fn take(faults: &mut BTreeMap<&'static str, Due>, operation: &'static str) -> Option<ErrorKind> {
    let due = faults.get_mut(operation)?;
    let kind = due.kind;
    due.times = due.times.saturating_sub(1);
    if due.times == 0 {
        faults.remove(operation);
    }
    Some(kind)
}

/// The listed name; a misspelt one would be a fault that never happens.
fn known(operation: &str) -> &'static str {
    OPERATIONS
        .iter()
        .find(|known| **known == operation)
        .unwrap_or_else(|| panic!("{operation:?} is none of {OPERATIONS:?}"))
}
