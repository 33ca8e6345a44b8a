//! Places for pulls, by whom they are for. A registry decides how long a pull takes: so nobody has more than
//! half of the places, a free one goes to who has fewest, and where all are taken a slow pull gives way to
//! somebody who waits and has fewer.

use crate::{Error, Result};
use botstead_runtime::PullProgress;
use botstead_types::UserId;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Pulls at once; more wait, and so does who has half of them. Until a pull has stored its image's
/// documents, which are up to 8 MiB, they are in memory.
const PULLS: usize = 16;
/// The least that a pull must get in each second where others wait for its place.
pub(crate) const PACE: u64 = 1 << 20;
/// How often who waits looks for a slow one.
const LOOK: Duration = Duration::from_secs(1);

/// The places.
#[derive(Clone)]
pub(crate) struct Pulls {
    state: Arc<Mutex<State>>,
    changed: Arc<Notify>,
    /// A pull is not called slow sooner.
    turn: Duration,
}

#[derive(Default)]
struct State {
    next: u64,
    under_way: Vec<UnderWay>,
    /// How many wait, by whom they are for.
    waiting: HashMap<Option<UserId>, usize>,
}

struct UnderWay {
    id: u64,
    of: Option<UserId>,
    progress: watch::Receiver<PullProgress>,
    /// When it was looked at, and what it had then.
    looked: (Instant, u64),
    gives_way: CancellationToken,
}

/// A place, or the wait for one, until this is dropped.
pub(crate) struct PullPlace {
    pulls: Pulls,
    id: u64,
    of: Option<UserId>,
    gives_way: CancellationToken,
}

impl Pulls {
    /// A pull keeps its place for `turn` at least.
    pub(crate) fn new(turn: Duration) -> Self {
        Self {
            state: Arc::default(),
            changed: Arc::default(),
            turn,
        }
    }

    /// A place for a pull with this progress.
    ///
    /// # Errors
    /// `Cancelled`.
    pub(crate) async fn place(
        &self,
        of: Option<UserId>,
        progress: &watch::Sender<PullProgress>,
        cancel: &CancellationToken,
    ) -> Result<PullPlace> {
        let place = {
            let mut state = self.state();
            state.next += 1;
            let id = state.next;
            *state.waiting.entry(of).or_default() += 1;
            PullPlace {
                pulls: self.clone(),
                id,
                of,
                gives_way: CancellationToken::new(),
            }
        };
        let taken = async {
            loop {
                // Made before looking, so that what is given back in between is not missed.
                let changed = self.changed.notified();
                if self.state().take(&place, progress) {
                    return;
                }
                if tokio::time::timeout(LOOK, changed).await.is_err() {
                    self.state().make_way(of, self.turn);
                }
            }
        };
        let taken = cancel.run_until_cancelled(taken).await;
        taken.map(|()| place).ok_or(Error::Cancelled)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn count(&self, of: Option<UserId>) -> usize {
        self.under_way.iter().filter(|one| one.of == of).count()
    }

    /// Whether it has the place now: there is one, also for this user, and nobody waits who has fewer.
    fn take(&mut self, place: &PullPlace, progress: &watch::Sender<PullProgress>) -> bool {
        let own = self.count(place.of);
        if self.under_way.len() >= PULLS || own >= PULLS / 2 {
            return false;
        }
        if self.waiting.keys().any(|of| self.count(*of) < own) {
            return false;
        }
        self.no_longer_waits(place.of);
        self.under_way.push(UnderWay {
            id: place.id,
            of: place.of,
            progress: progress.subscribe(),
            looked: (Instant::now(), 0),
            gives_way: place.gives_way.clone(),
        });
        true
    }

    fn no_longer_waits(&mut self, of: Option<UserId>) {
        if let Some(count) = self.waiting.get_mut(&of) {
            *count -= 1;
            if *count == 0 {
                self.waiting.remove(&of);
            }
        }
    }

    /// Tells the slowest pull of those who have more than `of` to give way, where all places are taken; one
    /// at a time. Who has one more only would wait with fewer afterwards, and get it back in the same way.
    fn make_way(&mut self, of: Option<UserId>, turn: Duration) {
        let own = self.count(of);
        let leaving = |one: &UnderWay| one.gives_way.is_cancelled();
        if self.under_way.len() < PULLS || self.under_way.iter().any(leaving) {
            return;
        }
        let counts: Vec<usize> = self.under_way.iter().map(|it| self.count(it.of)).collect();
        let others = self.under_way.iter_mut().zip(counts);
        let slowest = others
            .filter(|(_, count)| *count > own + 1 || own == 0)
            .filter_map(|(one, _)| Some((one.slow_pace(turn)?, one)))
            .min_by_key(|(pace, _)| *pace);
        if let Some((_, slowest)) = slowest {
            slowest.gives_way.cancel();
        }
    }
}

impl UnderWay {
    /// What came in a second of the time since it was looked at, where that is at least `turn` and it is too
    /// little. What is here as a whole is unpacked, which is no registry's business.
    fn slow_pace(&mut self, turn: Duration) -> Option<u64> {
        let progress = self.progress.borrow();
        let layers = &progress.layers;
        let is_here = !layers.is_empty() && layers.iter().all(|it| it.offset >= it.total);
        let received = layers.iter().map(|it| it.offset).sum::<u64>();
        let (since, before) = self.looked;
        let milliseconds = u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX);
        if is_here || since.elapsed() < turn {
            return None;
        }
        let more = received.saturating_sub(before).saturating_mul(1000);
        let pace = more / milliseconds.max(1);
        if pace >= PACE {
            self.looked = (Instant::now(), received);
            return None;
        }
        Some(pace)
    }
}

impl PullPlace {
    /// Ends when the pull has to give way to others.
    pub(crate) async fn gives_way(&self) {
        self.gives_way.cancelled().await;
    }
}

impl Drop for PullPlace {
    fn drop(&mut self) {
        let mut state = self.pulls.state();
        match state.under_way.iter().position(|one| one.id == self.id) {
            Some(held) => drop(state.under_way.remove(held)),
            None => state.no_longer_waits(self.of),
        }
        drop(state);
        self.pulls.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use botstead_runtime::LayerProgress;

    const TURN: Duration = Duration::from_secs(60);

    struct Pull {
        progress: watch::Sender<PullProgress>,
        place: PullPlace,
    }

    impl Pull {
        async fn of(pulls: &Pulls, of: Option<UserId>) -> Self {
            let progress = watch::Sender::default();
            let cancel = CancellationToken::new();
            let place = pulls.place(of, &progress, &cancel).await.unwrap();
            Self { progress, place }
        }

        fn got(&self, offset: u64, total: u64) {
            let digest = String::new();
            let layers = vec![LayerProgress {
                digest,
                offset,
                total,
            }];
            self.progress.send_replace(PullProgress { layers });
        }
    }

    async fn all(pulls: &Pulls, users: &[Option<UserId>]) -> Vec<Pull> {
        let mut all = Vec::new();
        for number in 0..PULLS {
            all.push(Pull::of(pulls, users[number % users.len()]).await);
        }
        all
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_pull_gives_way_to_who_has_fewer() {
        let pulls = Pulls::new(TURN);
        let user = || Some(UserId::generate());
        let (ann, bob) = (user(), user());
        let mut held = all(&pulls, &[ann, bob]).await;
        for (number, pull) in held.iter().enumerate() {
            // Enough until long after the first look, all of it, and for the last ones too little.
            match number {
                0..8 => pull.got(150 << 20, 1 << 30),
                8..12 => pull.got(1, 1),
                _ => pull.got(number as u64, 1 << 30),
            }
        }
        let told = |held: &[Pull]| -> Vec<usize> {
            let told = held.iter().enumerate();
            told.filter(|(_, pull)| pull.place.gives_way.is_cancelled())
                .map(|(number, _)| number)
                .collect()
        };
        let more = tokio::time::timeout(2 * TURN, Pull::of(&pulls, ann));
        assert!(more.await.is_err(), "she has half of them");
        assert!(told(&held).is_empty(), "for one who has as many");
        let eve = tokio::time::timeout(3 * LOOK, Pull::of(&pulls, user()));
        assert!(eve.await.is_err(), "a place was not given back");
        assert_eq!(told(&held), [12], "one at a time");
        held.remove(12);
        let _eve = Pull::of(&pulls, user()).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_pull_is_slow_by_what_came_since_it_was_looked_at() {
        let pulls = Pulls::new(TURN);
        let pull = Pull::of(&pulls, None).await;
        let slow_pace = || pulls.state().under_way[0].slow_pace(TURN);
        assert_eq!(slow_pace(), None, "it has just begun");
        tokio::time::advance(TURN).await;
        assert_eq!(slow_pace(), Some(0), "not even its layers are known");
        pull.got(61 << 20, 1 << 30);
        assert_eq!(slow_pace(), None);
        tokio::time::advance(TURN).await;
        pull.got(62 << 20, 1 << 30);
        assert_eq!(slow_pace(), Some((1 << 20) / 60));
        pull.got(1 << 30, 1 << 30);
        assert_eq!(slow_pace(), None, "it is unpacked");
    }

    #[tokio::test(start_paused = true)]
    async fn a_free_place_goes_to_who_has_fewest() {
        let pulls = Pulls::new(TURN);
        let (ann, bob) = (Some(UserId::generate()), Some(UserId::generate()));
        let mut held = all(&pulls, &[ann, bob]).await;
        for pull in &held {
            pull.got(1, 1);
        }
        // Many of hers wait for longer than the one of somebody else.
        let mut waiting: Vec<_> = (0..20)
            .map(|_| {
                tokio::spawn({
                    let pulls = pulls.clone();
                    async move { Pull::of(&pulls, ann).await }
                })
            })
            .collect();
        tokio::task::yield_now().await;
        let eve = tokio::spawn({
            let pulls = pulls.clone();
            async move { Pull::of(&pulls, Some(UserId::generate())).await }
        });
        tokio::task::yield_now().await;
        held.remove(0);
        let eve = tokio::time::timeout(LOOK, eve).await.expect("she has it");
        assert!(waiting.iter().all(|one| !one.is_finished()));
        assert_eq!(pulls.state().waiting.len(), 1, "counted, and not listed");
        drop(eve);
        let next = tokio::time::timeout(LOOK, waiting.remove(0)).await;
        next.expect("nobody else waits").unwrap();
        for one in &waiting {
            one.abort();
        }
        futures_util::future::join_all(waiting).await;
        assert!(pulls.state().waiting.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_gives_way_to_who_has_one_less() {
        let pulls = Pulls::new(TURN);
        let users = [(); 3].map(|()| Some(UserId::generate()));
        // 6, 5 and 5, all of them slow.
        let held = all(&pulls, &users).await;
        let more = tokio::time::timeout(2 * TURN, Pull::of(&pulls, users[1]));
        assert!(more.await.is_err(), "one of six would wait with five then");
        let told = |pull: &Pull| pull.place.gives_way.is_cancelled();
        assert!(!held.iter().any(told));
        let first = tokio::time::timeout(LOOK, Pull::of(&pulls, Some(UserId::generate())));
        assert!(first.await.is_err(), "a place was not given back");
        assert!(told(&held[0]), "for one who has none");
    }
}
