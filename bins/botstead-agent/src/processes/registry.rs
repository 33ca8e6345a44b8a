//! The processes by the ids that callers gave them: those that run, and the last kept ones that
//! ended.

use super::control::Control;
use super::kept::Kept;
use crate::children::lock;
use botstead_bridge::{Failure, FailureKind};
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};

/// Ended processes that are remembered, and the memory that their outputs may take together. The one
/// that ended first is forgotten first.
const MOST_ENDED: usize = 64;
const MOST_ENDED_BYTES: usize = 64 << 20;
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
    ended: VecDeque<String>,
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

impl Registry {
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
        let mut slots = lock(&self.slots);
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
        match lock(&self.slots).by_id.get(id) {
            Some(Slot::Kept(kept)) => Ok(Arc::clone(kept)),
            _ => Err(not_found(id)),
        }
    }

    /// What can be done to a process, kept or not.
    ///
    /// # Errors
    /// `NOT_FOUND`, or `ENDED`.
    pub(super) fn control(&self, id: &str) -> Result<Arc<Control>, Failure> {
        let slot = lock(&self.slots).by_id.get(id).cloned();
        match slot {
            Some(Slot::Plain(control)) => Ok(control),
            Some(Slot::Kept(kept)) => kept.control().cloned(),
            Some(Slot::Starting) | None => Err(not_found(id)),
        }
    }

    /// All kept processes, the one that was started last first.
    pub(super) fn list(&self) -> Vec<Arc<Kept>> {
        let slots = lock(&self.slots);
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

    /// A kept process has ended. Forgets those that ended long ago.
    pub(super) fn ended(&self, id: &str) {
        let mut slots = lock(&self.slots);
        let slots = &mut *slots;
        if !matches!(slots.by_id.get(id), Some(Slot::Kept(_))) {
            // It was removed.
            return;
        }
        slots.ended.push_back(id.to_owned());
        let bytes_of = |id: &String| match slots.by_id.get(id) {
            Some(Slot::Kept(kept)) => kept.bytes(),
            _ => 0,
        };
        let mut bytes: usize = slots.ended.iter().map(bytes_of).sum();
        while slots.ended.len() > MOST_ENDED || (bytes > MOST_ENDED_BYTES && slots.ended.len() > 1)
        {
            let Some(oldest) = slots.ended.pop_front() else {
                break;
            };
            if let Some(Slot::Kept(kept)) = slots.by_id.remove(&oldest) {
                bytes = bytes.saturating_sub(kept.bytes());
            }
        }
    }

    /// Forgets a kept process.
    pub(super) fn remove(&self, id: &str) {
        let mut slots = lock(&self.slots);
        slots.by_id.remove(id);
        slots.ended.retain(|ended| ended != id);
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

    #[test]
    fn the_last_that_ended_are_remembered() {
        let registry = Arc::new(Registry::default());
        let running = kept(&registry, "running", 10);
        for number in 0..70 {
            let process = kept(&registry, &format!("p{number}"), 10);
            end(&registry, &process);
        }
        assert_eq!(registry.list().len(), 65);
        assert!(registry.kept("p5").is_err());
        assert!(registry.kept("p6").is_ok());
        assert!(registry.kept(running.id()).is_ok());
        // Large ones push out the small ones before them, and never themselves.
        for number in 0..5 {
            let process = kept(&registry, &format!("big{number}"), 16 << 20);
            end(&registry, &process);
        }
        let mut left: Vec<_> = registry
            .list()
            .iter()
            .map(|kept| kept.id().to_owned())
            .collect();
        left.sort();
        assert_eq!(left, ["big1", "big2", "big3", "big4", "running"]);
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
