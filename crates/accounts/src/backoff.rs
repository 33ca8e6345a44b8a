//! Waiting times after failed sign-ins, per user name and address.
//!
//! Kept in memory: a restart forgets them, which gives an attacker a handful of attempts.

use botstead_types::network_of;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Whose failures are counted together.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    username: String,
    network: Option<IpAddr>,
    proved: bool,
}

impl Key {
    /// `username` is cut, since it may be anything that a client sent.
    pub(crate) fn new(username: &str, client: Option<IpAddr>) -> Self {
        Self {
            username: username.chars().take(64).collect(),
            network: client.map(network_of),
            proved: false,
        }
    }

    /// The key of attempts that bring an earlier token of this user, from any network.
    pub(crate) fn proved(username: &str) -> Self {
        Self {
            proved: true,
            ..Self::new(username, None)
        }
    }

    /// Whether a token came with it.
    pub(crate) fn is_proved(&self) -> bool {
        self.proved
    }
}

/// The failures of one key. Attempts of one key hold its lock while they are decided, so that
/// parallel guesses do not pass before the first failure counts.
#[derive(Debug, Default)]
pub(crate) struct Failures {
    count: u32,
    blocked_until: Option<Instant>,
}

impl Failures {
    /// Failures that cost no waiting time: people mistype.
    const FREE: u32 = 5;
    const LONGEST: Duration = Duration::from_secs(60);

    /// How long until an attempt is looked at, if it is not now.
    pub(crate) fn wait(&self, now: Instant) -> Option<Duration> {
        let wait = self.blocked_until?.saturating_duration_since(now);
        (!wait.is_zero()).then_some(wait)
    }

    /// Counts a failure: from the fifth on each doubles the waiting time.
    pub(crate) fn fail(&mut self, now: Instant) {
        self.count = self.count.saturating_add(1);
        if let Some(over) = self.count.checked_sub(Self::FREE) {
            let seconds = 1u64 << over.min(6);
            self.blocked_until = Some(now + Duration::from_secs(seconds).min(Self::LONGEST));
        }
    }

    /// Forgets all failures.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }
}

#[derive(Debug)]
struct Entry {
    failures: Arc<tokio::sync::Mutex<Failures>>,
    last_used: Instant,
}

/// The failures of everybody, bounded in number and forgotten after a while.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    entries: Mutex<HashMap<Key, Entry>>,
}

impl Backoff {
    const MAX_ENTRIES: usize = 10_000;
    const FORGET_AFTER: Duration = Duration::from_secs(15 * 60);

    /// The failures of a key.
    pub(crate) fn failures(&self, key: Key, now: Instant) -> Arc<tokio::sync::Mutex<Failures>> {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        if entries.len() >= Self::MAX_ENTRIES && !entries.contains_key(&key) {
            entries.retain(|_, entry| now.duration_since(entry.last_used) < Self::FORGET_AFTER);
            if entries.len() >= Self::MAX_ENTRIES {
                let oldest = entries.iter().min_by_key(|(_, entry)| entry.last_used);
                if let Some(key) = oldest.map(|(key, _)| key.clone()) {
                    entries.remove(&key);
                }
            }
        }
        let entry = entries.entry(key).or_insert_with(|| Entry {
            failures: Arc::default(),
            last_used: now,
        });
        if now.duration_since(entry.last_used) >= Self::FORGET_AFTER {
            entry.failures = Arc::default();
        }
        entry.last_used = now;
        Arc::clone(&entry.failures)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waits(failures: u32) -> Option<u64> {
        let now = Instant::now();
        let mut counted = Failures::default();
        (0..failures).for_each(|_| counted.fail(now));
        counted.wait(now).map(|wait| wait.as_secs())
    }

    #[test]
    fn waiting_times_double_up_to_a_minute() {
        for (failures, expected) in [
            (0, None),
            (4, None),
            (5, Some(1)),
            (6, Some(2)),
            (9, Some(16)),
            (11, Some(60)),
            (1000, Some(60)),
        ] {
            assert_eq!(waits(failures), expected, "after {failures} failures");
        }
    }

    #[test]
    fn waiting_ends() {
        let now = Instant::now();
        let mut failures = Failures::default();
        (0..5).for_each(|_| failures.fail(now));
        assert!(failures.wait(now + Duration::from_millis(999)).is_some());
        assert!(failures.wait(now + Duration::from_secs(1)).is_none());
        failures.clear();
        assert!(failures.wait(now).is_none());
    }

    #[tokio::test]
    async fn keys_are_apart_and_forgotten_after_a_while() {
        let (backoff, now) = (Backoff::default(), Instant::now());
        let key = |name: &str, ip: &str| Key::new(name, Some(ip.parse().unwrap()));
        let failures = backoff.failures(key("ann", "2001:db8::1"), now);
        (0..9).for_each(|_| failures.try_lock().unwrap().fail(now));
        let blocked = async |key, now| {
            let failures = backoff.failures(key, now);
            failures.lock().await.wait(now).is_some()
        };
        assert!(blocked(key("ann", "2001:db8::2"), now).await);
        assert!(!blocked(key("ann", "2001:db8:0:1::1"), now).await);
        assert!(!blocked(key("bob", "2001:db8::1"), now).await);
        assert!(!blocked(Key::new("ann", None), now).await);
        let later = now + Backoff::FORGET_AFTER;
        assert!(!blocked(key("ann", "2001:db8::1"), later).await);
    }

    #[test]
    fn a_flood_of_names_takes_bounded_memory() {
        let (backoff, now) = (Backoff::default(), Instant::now());
        for number in 0..Backoff::MAX_ENTRIES + 10 {
            backoff.failures(Key::new(&number.to_string(), None), now);
        }
        assert_eq!(backoff.entries.lock().unwrap().len(), Backoff::MAX_ENTRIES);
    }
}
