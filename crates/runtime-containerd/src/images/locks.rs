//! One lock per name, so that two pulls of one layer do not do the work twice.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use tokio::sync::OwnedMutexGuard;

/// Locks by name. Only this process is kept out; another one meets containerd's own lock.
#[derive(Debug, Default)]
pub(super) struct Locks {
    locks: Mutex<HashMap<String, Weak<tokio::sync::Mutex<()>>>>,
}

impl Locks {
    /// Waits for the lock of `name`; dropping the future gives up.
    pub(super) async fn lock(&self, name: &str) -> OwnedMutexGuard<()> {
        let lock = {
            // A panic while it was held cannot leave the map half changed.
            let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
            locks.retain(|_, lock| lock.strong_count() > 0);
            match locks.get(name).and_then(Weak::upgrade) {
                Some(lock) => lock,
                None => {
                    let lock = Arc::new(tokio::sync::Mutex::new(()));
                    locks.insert(name.to_owned(), Arc::downgrade(&lock));
                    lock
                }
            }
        };
        lock.lock_owned().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_same_name_waits_and_another_does_not() {
        let locks = Locks::default();
        let first = locks.lock("a").await;
        let _other = locks.lock("b").await;
        let wait = std::time::Duration::from_millis(20);
        assert!(tokio::time::timeout(wait, locks.lock("a")).await.is_err());
        drop(first);
        let _again = locks.lock("a").await;
        assert_eq!(locks.locks.lock().unwrap().len(), 2);
    }
}
