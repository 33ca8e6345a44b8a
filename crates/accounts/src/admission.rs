//! Which sign-ins are looked at when more come than can be: places per network, and a way past the
//! queue for those who signed in from there before.
//!
//! Kept in memory: after a restart every user is known again with the first request or sign-in.

use crate::backoff::Key;
use botstead_types::network_of;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// Sign-ins of one network, or of one known user from there, that may wait at once.
const PER_NETWORK: usize = 16;
/// Sign-ins of all networks together. Each costs little memory while it waits; what this bounds is
/// how long the last one does.
const ALL: usize = 256;
/// Users and networks that are remembered as known; the one that was quiet for longest is forgotten.
const MOST_KNOWN: usize = 10_000;

/// The queue's places. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Admission {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    /// Users who proved who they are, and from which networks.
    known: HashMap<Key, Instant>,
    /// Sign-ins that wait, of known users.
    of_known: HashMap<Key, usize>,
    /// Those of all others.
    of_networks: HashMap<Option<IpAddr>, usize>,
    others: usize,
}

/// A place in the queue. Dropping it gives it back.
#[derive(Debug)]
pub(crate) struct Place {
    admission: Admission,
    taken: Taken,
}

#[derive(Debug)]
enum Taken {
    Known(Key),
    Network(Option<IpAddr>),
}

impl Place {
    /// Whether the user signed in from this network before, or brings a token.
    pub(crate) fn is_known(&self) -> bool {
        matches!(self.taken, Taken::Known(_))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.admission.state();
        match &self.taken {
            Taken::Known(key) => give_back(&mut state.of_known, key),
            Taken::Network(network) => {
                give_back(&mut state.of_networks, network);
                state.others = state.others.saturating_sub(1);
            }
        }
    }
}

fn give_back<K: std::hash::Hash + Eq>(places: &mut HashMap<K, usize>, key: &K) {
    if let Some(count) = places.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            places.remove(key);
        }
    }
}

impl Admission {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers that this user proved who they are from there.
    pub(crate) fn remember(&self, key: Key, now: Instant) {
        let known = &mut self.state().known;
        if known.len() >= MOST_KNOWN && !known.contains_key(&key) {
            let oldest = known.iter().min_by_key(|(_, seen)| **seen);
            if let Some(oldest) = oldest.map(|(key, _)| key.clone()) {
                known.remove(&oldest);
            }
        }
        known.insert(key, now);
    }

    /// A place for a sign-in; none when there are too many. Known users have places of their own, so
    /// that no flood of others takes theirs.
    pub(crate) fn admit(&self, key: &Key, client: Option<IpAddr>) -> Option<Place> {
        let mut state = self.state();
        let taken = if key.is_proved() || state.known.contains_key(key) {
            let waiting = state.of_known.entry(key.clone()).or_default();
            if *waiting >= PER_NETWORK {
                return None;
            }
            *waiting += 1;
            Taken::Known(key.clone())
        } else {
            let network = client.map(network_of);
            let here = state.of_networks.get(&network).copied().unwrap_or(0);
            if here >= PER_NETWORK || state.others >= ALL {
                return None;
            }
            state.of_networks.insert(network, here + 1);
            state.others += 1;
            Taken::Network(network)
        };
        drop(state);
        Some(Place {
            admission: self.clone(),
            taken,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Option<IpAddr> {
        Some(text.parse().unwrap())
    }

    #[test]
    fn one_network_takes_its_own_places_only() {
        let admission = Admission::default();
        let admit = |name: &str, client| admission.admit(&Key::new(name, client), client);
        let flood = address("192.0.2.1");
        let held: Vec<_> = (0..PER_NETWORK)
            .map(|n| admit(&format!("user{n}"), flood).unwrap())
            .collect();
        assert!(admit("ann", flood).is_none());
        assert!(admit("ann", address("192.0.2.2")).is_some());
        // An IPv6 client owns a /64.
        let v6: Vec<_> = (0..PER_NETWORK)
            .map(|n| admit("ann", address(&format!("2001:db8::{n:x}"))).unwrap())
            .collect();
        assert!(admit("ann", address("2001:db8::ffff")).is_none());
        drop((held, v6));
        assert!(admit("ann", flood).is_some());
        assert_eq!(admission.state().others, 0);
        assert!(admission.state().of_networks.is_empty());
    }

    #[test]
    fn a_known_user_gets_in_however_many_others_wait() {
        let admission = Admission::default();
        let here = address("192.0.2.1");
        let ann = Key::new("ann", here);
        admission.remember(ann.clone(), Instant::now());
        let held: Vec<_> = (0..ALL)
            .map(|n| {
                let client = address(&format!("198.51.{}.{}", n / 250, n % 250));
                admission.admit(&Key::new("x", client), client).unwrap()
            })
            .collect();
        let elsewhere = address("203.0.113.1");
        assert!(
            admission
                .admit(&Key::new("ann", elsewhere), elsewhere)
                .is_none()
        );
        let place = admission.admit(&ann, here).unwrap();
        assert!(place.is_known());
        assert!(!held[0].is_known());
        drop(place);
        assert!(admission.state().of_known.is_empty());
    }

    #[test]
    fn whoever_brings_a_token_has_places_that_no_flood_takes() {
        let admission = Admission::default();
        let here = address("192.0.2.1");
        let ann = Key::new("ann", here);
        admission.remember(ann.clone(), Instant::now());
        let _held: Vec<_> = (0..PER_NETWORK)
            .map(|_| admission.admit(&ann, here).unwrap())
            .collect();
        assert!(admission.admit(&ann, here).is_none());
        let place = admission.admit(&Key::proved("ann"), here).unwrap();
        assert!(place.is_known());
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let (admission, now) = (Admission::default(), Instant::now());
        for n in 0..=MOST_KNOWN {
            let at = now + std::time::Duration::from_millis(n as u64);
            admission.remember(Key::new(&n.to_string(), None), at);
        }
        let state = admission.state();
        assert_eq!(state.known.len(), MOST_KNOWN);
        assert!(!state.known.contains_key(&Key::new("0", None)));
    }
}
