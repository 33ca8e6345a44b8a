//! What is given back in the background: the leases of operations that ended, and the disk of
//! released versions. Nothing depends on when. What fails is tried again by the watcher.

use crate::service::Inner;
use botstead_types::{LeaseId, OperationId};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// What could not be given back yet.
#[derive(Debug, Default)]
pub(crate) struct Garbage {
    leases: Mutex<Vec<LeaseId>>,
    uncollected: AtomicBool,
}

impl Garbage {
    fn leases(&self) -> std::sync::MutexGuard<'_, Vec<LeaseId>> {
        self.leases.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Gives up the operation's lease. Start-up removes what a dead server left.
    pub(crate) fn drop_lease(self: &Arc<Self>, operation: OperationId) {
        self.delete_lease(LeaseId::for_operation(operation));
    }

    fn delete_lease(self: &Arc<Self>, lease: LeaseId) {
        let inner = Arc::clone(self);
        self.spawn(async move {
            if let Err(error) = inner.runtime.leases.delete(lease.as_str()).await {
                tracing::warn!(%lease, error = %error.chain(), "cannot delete lease");
                inner.garbage.leases().push(lease);
            }
        });
    }

    /// Gives back the disk of released versions. Releasing alone makes no runtime collect: their files
    /// would stay until something else does.
    pub(crate) fn collect_released(self: &Arc<Self>) {
        let inner = Arc::clone(self);
        self.spawn(async move {
            if let Err(error) = inner.runtime.leases.collect().await {
                tracing::warn!(error = %error.chain(), "cannot collect deleted versions");
                inner.garbage.uncollected.store(true, Ordering::Relaxed);
            }
        });
    }

    /// Tries again what failed.
    pub(crate) fn give_back_again(self: &Arc<Self>) {
        let leases = std::mem::take(&mut *self.garbage.leases());
        for lease in leases {
            self.delete_lease(lease);
        }
        if self.garbage.uncollected.swap(false, Ordering::Relaxed) {
            self.collect_released();
        }
    }
}
