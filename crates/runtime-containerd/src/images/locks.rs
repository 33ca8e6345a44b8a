//! One lock per name, so that two pulls of one layer do not do the work twice.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;
use tokio::sync::OwnedMutexGuard;
use uuid::Uuid;

/// Who waits for another's download starts an own one when that receives less than this in
/// `read_timeout`. Well above what ends it ([`SLOWEST`](super::pace::SLOWEST)), as whoever waits can do as
/// well at once.
const WORTH_WAITING: u64 = 1 << 20;

/// Locks by name. Only this process is kept out; another one meets containerd's own lock.
#[derive(Debug, Default)]
pub(super) struct Locks {
    locks: Mutex<HashMap<String, Weak<Entry>>>,
}

#[derive(Debug, Default)]
struct Entry {
    lock: Arc<tokio::sync::Mutex<()>>,
    /// What whoever has the lock, and those before, received.
    received: AtomicU64,
    /// Whoever has the lock has all of it, and stores it.
    here: AtomicBool,
}

impl Locks {
    /// Waits for the lock of `name`, which nobody may hold while they wait for another host; dropping the
    /// future gives up.
    pub(super) async fn lock(&self, name: &str) -> Held {
        let entry = self.entry(name);
        let lock = Arc::clone(&entry.lock).lock_owned().await;
        Held {
            _entry: entry,
            _lock: lock,
        }
    }

    /// A turn at the download of `name`: waits while another one's gets on, looked at each `window`, and
    /// is beside it when it does not.
    pub(super) async fn turn(&self, name: &str, window: Duration) -> Turn {
        let entry = self.entry(name);
        let reference = format!("botstead-{name}");
        let lock = Arc::clone(&entry.lock).lock_owned();
        tokio::pin!(lock);
        loop {
            let before = entry.received.load(Ordering::Relaxed);
            if let Ok(lock) = tokio::time::timeout(window, &mut lock).await {
                entry.here.store(false, Ordering::Relaxed);
                return Turn {
                    entry,
                    reference,
                    lock: Some(lock),
                };
            }
            let more = entry.received.load(Ordering::Relaxed) - before;
            if more < WORTH_WAITING && !entry.here.load(Ordering::Relaxed) {
                tracing::info!(
                    name,
                    "another download of it is slow; downloading it beside"
                );
                return Turn {
                    entry,
                    reference: format!("{reference} {}", Uuid::new_v4()),
                    lock: None,
                };
            }
        }
    }

    fn entry(&self, name: &str) -> Arc<Entry> {
        // A panic while it was held cannot leave the map half changed.
        let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
        locks.retain(|_, entry| entry.strong_count() > 0);
        locks.get(name).and_then(Weak::upgrade).unwrap_or_else(|| {
            let entry = Arc::default();
            locks.insert(name.to_owned(), Arc::downgrade(&entry));
            entry
        })
    }
}

/// A lock that is held.
#[derive(Debug)]
pub(super) struct Held {
    /// Others find the lock by it.
    _entry: Arc<Entry>,
    _lock: OwnedMutexGuard<()>,
}

/// A turn at a download, until this is dropped.
#[derive(Debug)]
pub(super) struct Turn {
    entry: Arc<Entry>,
    reference: String,
    /// None beside whoever has it.
    lock: Option<OwnedMutexGuard<()>>,
}

impl Turn {
    /// What containerd knows the download by. The next turn goes on where this one broke off.
    pub(super) fn reference(&self) -> String {
        self.reference.clone()
    }

    /// So many bytes came.
    pub(super) fn got(&self, bytes: u64) {
        if self.lock.is_some() {
            self.entry.received.fetch_add(bytes, Ordering::Relaxed);
            // What was here may have been wrong, and comes again.
            self.entry.here.store(false, Ordering::Relaxed);
        }
    }

    /// All of it is here: what is left does not depend on another host.
    pub(super) fn is_here(&self) {
        if self.lock.is_some() {
            self.entry.here.store(true, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_same_name_waits_and_another_does_not() {
        let locks = Locks::default();
        let first = locks.lock("a").await;
        let _other = locks.lock("b").await;
        let wait = Duration::from_millis(20);
        assert!(tokio::time::timeout(wait, locks.lock("a")).await.is_err());
        drop(first);
        let _again = locks.lock("a").await;
        assert_eq!(locks.locks.lock().unwrap().len(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_download_is_waited_for_as_long_as_it_gets_on() {
        let locks = Locks::default();
        let window = Duration::from_millis(100);
        let first = locks.turn("a", window).await;
        let waits = async |rounds: u32, step: u64| {
            let mut turn = std::pin::pin!(locks.turn("a", window));
            for _ in 0..rounds {
                if step > 0 {
                    first.got(step);
                }
                if let Ok(turn) = tokio::time::timeout(window / 4, &mut turn).await {
                    return Some(turn);
                }
            }
            None
        };
        assert!(waits(20, WORTH_WAITING).await.is_none(), "it gets on");
        let beside = waits(20, WORTH_WAITING / 100).await.unwrap();
        assert!(beside.lock.is_none());
        assert_ne!(beside.reference(), first.reference());
        // That of one beside is no progress of the first.
        beside.got(WORTH_WAITING);
        assert!(waits(20, 0).await.unwrap().lock.is_none());
        first.is_here();
        assert!(waits(20, 0).await.is_none(), "it is being stored");
        let reference = first.reference();
        drop(first);
        let next = locks.turn("a", window).await;
        assert!(next.lock.is_some());
        assert_eq!(next.reference(), reference);
        assert!(!next.entry.here.load(Ordering::Relaxed));
    }
}
