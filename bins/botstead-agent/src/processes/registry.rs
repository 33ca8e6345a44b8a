//! The processes by the ids that callers gave them: those that run, and kept ones that ended, for a
//! while.

use super::control::Control;
use super::kept::Kept;
use crate::children::lock;
use botstead_bridge::{Failure, FailureKind};
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::time::Instant;

/// How long an ended process is remembered: after somebody first read its output to its end, as that reply
/// may have been lost,
const READ_STAYS: Duration = Duration::from_secs(60 * 60);
/// and after its end where nobody did.
const UNREAD_STAYS: Duration = Duration::from_secs(24 * 60 * 60);
/// The memory that their outputs may take together, and how many there may be, which bounds the memory for
/// the rest. Those that were read are forgotten before those that were not, and in the order in which they
/// ended.
const MOST_ENDED_BYTES: usize = 64 << 20;
const MOST_ENDED: usize = 1024;
/// Kept processes that may run: a bound to the memory of the agent.
const MOST_KEPT: usize = 512;
const LONGEST_ID: usize = 64;

/// All processes.
#[derive(Debug, Default)]
pub(super) struct Registry {
    slots: Mutex<Slots>,
}

#[derive(Debug, Default)]
struct Slots {
    by_id: HashMap<String, Slot>,
    /// In the order in which they ended.
    ended: VecDeque<Ended>,
}

#[derive(Debug)]
struct Ended {
    kept: Arc<Kept>,
    at: Instant,
}

#[derive(Debug, Clone)]
enum Slot {
    Starting,
    Plain(Arc<Control>),
    Kept(Arc<Kept>),
}

/// An id that is taken for a process that is being started, or that lives as long as its call.
#[derive(Debug)]
pub(super) struct Reservation {
    registry: Arc<Registry>,
    id: String,
    kept: bool,
}

impl Slots {
    /// Forgets what ended too long ago.
    fn forget_old(&mut self, now: Instant) {
        let by_id = &mut self.by_id;
        self.ended.retain(|ended| {
            let stays = match ended.kept.read_at() {
                Some(read) => now < read + READ_STAYS,
                None => now < ended.at + UNREAD_STAYS,
            };
            if !stays {
                by_id.remove(ended.kept.id());
            }
            stays
        });
    }

    /// Forgets as many as there are too many, but not the one that ended just now.
    fn make_room(&mut self) {
        let mut bytes: usize = self.ended.iter().map(|ended| ended.kept.bytes()).sum();
        while self.ended.len() > MOST_ENDED || bytes > MOST_ENDED_BYTES {
            let Some(others) = self.ended.len().checked_sub(1).filter(|others| *others > 0) else {
                return;
            };
            let mut others = self.ended.iter().take(others);
            let index = others
                .position(|ended| ended.kept.read_at().is_some())
                .unwrap_or(0);
            if let Some(Ended { kept, .. }) = self.ended.remove(index) {
                self.by_id.remove(kept.id());
                bytes = bytes.saturating_sub(kept.bytes());
            }
        }
    }
}

impl Registry {
    fn slots(&self) -> MutexGuard<'_, Slots> {
        let mut slots = lock(&self.slots);
        slots.forget_old(Instant::now());
        slots
    }

    /// Takes an id.
    ///
    /// # Errors
    /// `INVALID` for what is no id, `ALREADY_EXISTS`, and `LIMIT` when too many are kept.
    pub(super) fn reserve(self: &Arc<Self>, id: &str, keep: bool) -> Result<Reservation, Failure> {
        let valid = (1..=LONGEST_ID).contains(&id.len())
            && id
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        if !valid {
            return Err(Failure::new(
                FailureKind::Invalid,
                "an id is 1 to 64 letters, digits and hyphens",
            ));
        }
        let mut slots = self.slots();
        if slots.by_id.contains_key(id) {
            return Err(Failure::new(
                FailureKind::AlreadyExists,
                format!("there is a process with the id {id}"),
            ));
        }
        let kept = slots
            .by_id
            .values()
            .filter(|slot| matches!(slot, Slot::Kept(_)));
        if keep && kept.count() - slots.ended.len() >= MOST_KEPT {
            return Err(Failure::new(
                FailureKind::Limit,
                format!("{MOST_KEPT} kept processes run already"),
            ));
        }
        slots.by_id.insert(id.to_owned(), Slot::Starting);
        Ok(Reservation {
            registry: Arc::clone(self),
            id: id.to_owned(),
            kept: false,
        })
    }

    /// A kept process.
    ///
    /// # Errors
    /// `NOT_FOUND`.
    pub(super) fn kept(&self, id: &str) -> Result<Arc<Kept>, Failure> {
        match self.slots().by_id.get(id) {
            Some(Slot::Kept(kept)) => Ok(Arc::clone(kept)),
            _ => Err(not_found(id)),
        }
    }

    /// What can be done to a process, kept or not.
    ///
    /// # Errors
    /// `NOT_FOUND`, or `ENDED`.
    pub(super) fn control(&self, id: &str) -> Result<Arc<Control>, Failure> {
        let slot = self.slots().by_id.get(id).cloned();
        match slot {
            Some(Slot::Plain(control)) => Ok(control),
            Some(Slot::Kept(kept)) => kept.control().cloned(),
            Some(Slot::Starting) | None => Err(not_found(id)),
        }
    }

    /// All kept processes, the one that was started last first.
    pub(super) fn list(&self) -> Vec<Arc<Kept>> {
        let slots = self.slots();
        let kept = slots.by_id.values().filter_map(|slot| match slot {
            Slot::Kept(kept) => Some(Arc::clone(kept)),
            _ => None,
        });
        kept.collect()
    }

    /// All processes that run, kept or not.
    pub(super) fn running(&self) -> Vec<Arc<Control>> {
        let slots = lock(&self.slots);
        let running = slots.by_id.values().filter_map(|slot| match slot {
            Slot::Plain(control) => Some(Arc::clone(control)),
            Slot::Kept(kept) => kept.control().ok().cloned(),
            Slot::Starting => None,
        });
        running.collect()
    }

    /// The ids of all that run, by the process that leads their session.
    pub(super) fn leaders(&self) -> HashMap<i32, String> {
        let slots = lock(&self.slots);
        let running = slots.by_id.iter().filter_map(|(id, slot)| {
            let control = match slot {
                Slot::Plain(control) => control,
                Slot::Kept(kept) => kept.control().ok()?,
                Slot::Starting => return None,
            };
            Some((control.pid().as_raw_nonzero().get(), id.clone()))
        });
        running.collect()
    }

    /// A kept process has ended. Forgets others where there is no room for all.
    pub(super) fn ended(&self, id: &str) {
        let mut slots = self.slots();
        // It may have been removed.
        if let Some(Slot::Kept(kept)) = slots.by_id.get(id) {
            let kept = Arc::clone(kept);
            let at = Instant::now();
            slots.ended.push_back(Ended { kept, at });
            slots.make_room();
        }
    }

    /// Forgets a kept process.
    pub(super) fn remove(&self, id: &str) {
        let mut slots = lock(&self.slots);
        slots.by_id.remove(id);
        slots.ended.retain(|ended| ended.kept.id() != id);
    }
}

fn not_found(id: &str) -> Failure {
    Failure::new(
        FailureKind::NotFound,
        format!("there is no process with the id {id:?}"),
    )
}

impl Reservation {
    /// The process that the id is for, as long as the reservation lives.
    pub(super) fn plain(&self, control: &Arc<Control>) {
        self.set(Slot::Plain(Arc::clone(control)));
    }

    /// The kept process that the id is for from now on.
    pub(super) fn keep(mut self, kept: &Arc<Kept>) {
        self.set(Slot::Kept(Arc::clone(kept)));
        self.kept = true;
    }

    fn set(&self, slot: Slot) {
        lock(&self.registry.slots)
            .by_id
            .insert(self.id.clone(), slot);
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if !self.kept {
            lock(&self.registry.slots).by_id.remove(&self.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::kept::About;
    use super::super::pump::Sink;
    use super::super::replay::Stream;
    use super::*;
    use botstead_bridge::proto::run_output::Exit;

    fn kept(registry: &Arc<Registry>, id: &str, bytes: usize) -> Arc<Kept> {
        let reservation = registry.reserve(id, true).unwrap();
        let about = About {
            id: id.to_owned(),
            args: Vec::new(),
            terminal: None,
            replay_bytes: 16 << 20,
        };
        let kept = Arc::new(Kept::new(about, None));
        reservation.keep(&kept);
        kept.put(Stream::Out, &vec![0; bytes]);
        kept
    }

    fn end(registry: &Registry, kept: &Kept) {
        kept.end(Exit::default());
        registry.ended(kept.id());
    }

    #[test]
    fn an_id_is_taken_once() {
        let registry = Arc::new(Registry::default());
        let first = registry.reserve("a", false).unwrap();
        let kind = |id: &str| registry.reserve(id, false).unwrap_err().kind;
        assert_eq!(kind("a"), FailureKind::AlreadyExists);
        drop(first);
        let process = kept(&registry, "a", 1);
        assert_eq!(kind("a"), FailureKind::AlreadyExists);
        end(&registry, &process);
        assert_eq!(kind("a"), FailureKind::AlreadyExists);
        registry.remove("a");
        drop(registry.reserve("a", false).unwrap());
        let long = "x".repeat(65);
        for id in ["", "a b", "a/b", "ä", long.as_str()] {
            assert_eq!(kind(id), FailureKind::Invalid, "{id:?}");
        }
    }

    fn ids(registry: &Registry) -> Vec<String> {
        let kept = lock(&registry.slots)
            .by_id
            .keys()
            .cloned()
            .collect::<Vec<_>>();
        let mut kept = kept;
        kept.sort();
        kept
    }

    #[test]
    fn ended_ones_are_remembered_for_a_while() {
        let registry = Arc::new(Registry::default());
        let running = kept(&registry, "running", 10);
        let read = kept(&registry, "read", 10);
        for number in 0..500 {
            let process = kept(&registry, &format!("p{number}"), 10);
            end(&registry, &process);
        }
        end(&registry, &read);
        read.read_to_end();
        running.read_to_end();
        assert_eq!(registry.list().len(), 502);
        let later = |time| lock(&registry.slots).forget_old(Instant::now() + time);
        let second = Duration::from_secs(1);
        later(READ_STAYS - second);
        assert_eq!(registry.list().len(), 502);
        later(READ_STAYS + second);
        assert_eq!(registry.list().len(), 501);
        assert!(registry.kept("read").is_err());
        later(UNREAD_STAYS + second);
        assert_eq!(ids(&registry), ["running"]);
        assert!(lock(&registry.slots).ended.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn who_reads_late_has_as_long_to_read_again() {
        let registry = Arc::new(Registry::default());
        let late = kept(&registry, "late", 10);
        end(&registry, &late);
        tokio::time::advance(UNREAD_STAYS / 2).await;
        registry.kept("late").unwrap().read_to_end();
        tokio::time::advance(READ_STAYS / 2).await;
        registry.kept("late").unwrap().read_to_end();
        tokio::time::advance(READ_STAYS / 2).await;
        assert!(registry.kept("late").is_err());
    }

    #[test]
    fn those_that_were_read_make_room_first() {
        let registry = Arc::new(Registry::default());
        let _running = kept(&registry, "running", 10);
        for number in 0..MOST_ENDED + 1 {
            let process = kept(&registry, &format!("p{number:04}"), 10);
            end(&registry, &process);
        }
        assert_eq!(registry.list().len(), MOST_ENDED + 1);
        assert!(registry.kept("p0000").is_err());
        for read in ["p0004", "p0002"] {
            registry.kept(read).unwrap().read_to_end();
        }
        for number in 0..3 {
            let process = kept(&registry, &format!("q{number}"), 10);
            end(&registry, &process);
        }
        let there = |id: &str| registry.kept(id).is_ok();
        assert_eq!(
            ["p0001", "p0002", "p0003", "p0004"].map(there),
            [false, false, true, false]
        );
        // Large ones push out the small ones before them, and never themselves.
        for number in 0..5 {
            let process = kept(&registry, &format!("big{number}"), 16 << 20);
            end(&registry, &process);
            if number == 3 {
                process.read_to_end();
            }
        }
        assert_eq!(ids(&registry), ["big0", "big1", "big2", "big4", "running"]);
    }

    #[test]
    fn too_many_are_refused() {
        let registry = Arc::new(Registry::default());
        for number in 0..MOST_KEPT {
            kept(&registry, &format!("p{number}"), 0);
        }
        let failure = registry.reserve("one-more", true).unwrap_err();
        assert_eq!(failure.kind, FailureKind::Limit);
        drop(registry.reserve("a-command", false).unwrap());
    }
}
