//! The first processes of tasks that this process made, so that a connection need not ask for them.

use botstead_types::ContainerId;
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// By container, until the task is deleted. An ended task's may be another process's by now; within its
/// container there is none any more.
#[derive(Debug, Default)]
pub(crate) struct FirstProcesses(Mutex<HashMap<ContainerId, u32>>);

impl FirstProcesses {
    pub(super) fn made(&self, id: &ContainerId, pid: u32) {
        self.table().insert(id.clone(), pid);
    }

    pub(crate) fn gone(&self, id: &ContainerId) {
        self.table().remove(id);
    }

    /// The process, where the task was made here.
    pub(crate) fn of(&self, id: &ContainerId) -> Option<u32> {
        self.table().get(id).copied()
    }

    fn table(&self) -> MutexGuard<'_, HashMap<ContainerId, u32>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
