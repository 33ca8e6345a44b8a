//! How many commands are started at once in one container.
//!
//! The shim of containerd 1.6 handles a start and every exit under one lock, and passes exits on
//! through a buffer of 32: with a hundred starts waiting, each exit, also that of the runc behind a
//! start, is held up for a second. More than a few at once gain nothing anyway.

use botstead_types::ContainerId;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

const AT_ONCE: usize = 8;

/// The turns of all containers.
#[derive(Debug, Default)]
pub(crate) struct Starts {
    containers: Mutex<HashMap<ContainerId, Weak<Semaphore>>>,
}

impl Starts {
    /// Waits for a turn, which lasts until it is dropped; `None` never happens while this lives.
    pub(super) async fn turn(&self, id: &ContainerId) -> Option<OwnedSemaphorePermit> {
        self.of(id).acquire_owned().await.ok()
    }

    fn of(&self, id: &ContainerId) -> Arc<Semaphore> {
        let containers = self.containers.lock();
        let mut containers = containers.unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = containers.get(id).and_then(Weak::upgrade) {
            return known;
        }
        containers.retain(|_, known| known.strong_count() > 0);
        let new = Arc::new(Semaphore::new(AT_ONCE));
        containers.insert(id.clone(), Arc::downgrade(&new));
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use botstead_types::BotId;
    use futures_util::FutureExt;

    #[tokio::test]
    async fn a_container_has_a_few_turns_at_once_and_nobody_elses() {
        let starts = Starts::default();
        let id = || ContainerId::for_bot(BotId::generate());
        let (one, other) = (id(), id());
        let mut turns = Vec::new();
        for _ in 0..AT_ONCE {
            turns.push(starts.turn(&one).now_or_never().unwrap().unwrap());
        }
        assert!(starts.turn(&one).now_or_never().is_none());
        assert!(starts.turn(&other).now_or_never().is_some());
        turns.pop();
        assert!(starts.turn(&one).now_or_never().is_some());
        drop(turns);
        starts.of(&other);
        assert_eq!(starts.containers.lock().unwrap().len(), 1);
    }
}
