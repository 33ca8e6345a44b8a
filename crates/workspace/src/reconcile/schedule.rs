//! When to look at which workspace, and what may be done to it then. Pure: no clock, no runtime.
//!
//! A workspace is looked at when something happened to it, when its backoff is over, and once in every
//! sweep. What was deleted or stopped is forgotten with the look that finds it so.

use botstead_types::BotId;
use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

/// A workspace whose task ends again and again is started after growing pauses.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// A workspace that an operation holds is looked at again after this: the event may be that
/// operation's own doing, or not.
const BUSY_AGAIN: Duration = Duration::from_secs(2);
/// How often operations that could not go on are tried again.
pub(super) const RETRY_EVERY: Duration = Duration::from_secs(3);
/// An agent that did not answer is asked again after this.
const SILENT_AGAIN: Duration = Duration::from_secs(5);
/// An agent that is silent so long is told of, and its task replaced where there is no agent any more. A
/// single silence is no reason: replacing it ends everything that the bot is doing.
const SILENCE: Duration = Duration::from_secs(30);

/// What may be done to a workspace that is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Leave {
    /// Its task may be started, stopped or mended: its backoff is over.
    pub(super) act: bool,
    /// Its agent has been silent for long enough to do something about it.
    pub(super) repair_silent: bool,
    /// The same for the first time.
    pub(super) tell_silent: bool,
}

/// What a look found, or did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    /// It is gone, or should not run and does not.
    AtRest,
    /// It runs and answers.
    Fine,
    /// It runs, and its agent did not answer.
    Silent,
    /// An operation holds it.
    Busy,
    /// An earlier operation on it still cannot go on.
    Stuck,
    /// It is not as it should be, and [`Leave::act`] was not given.
    Waiting,
    /// It was not as it should be, and is now.
    Acted,
    /// It is not as it should be, and what was done about that failed.
    Failed,
    /// The database or the runtime did not answer. The next sweep tells.
    Unknown,
}

#[derive(Debug)]
struct Entry {
    due: Option<Instant>,
    /// A look is under way.
    looking: bool,
    /// Something happened during the look.
    again: bool,
    pause: Duration,
    not_before: Option<Instant>,
    running_since: Option<Instant>,
    silent_since: Option<Instant>,
    silence_told: bool,
}

/// The workspaces that are looked at, and when next.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    bots: HashMap<BotId, Entry>,
}

impl Schedule {
    /// Has the workspace looked at by `due` at the latest.
    pub(super) fn look_by(&mut self, bot: BotId, due: Instant) {
        let entry = self.bots.entry(bot).or_insert(Entry {
            due: None,
            looking: false,
            again: false,
            pause: FIRST_PAUSE,
            not_before: None,
            running_since: None,
            silent_since: None,
            silence_told: false,
        });
        if entry.looking {
            entry.again = true;
        } else {
            entry.due = Some(entry.due.map_or(due, |other| other.min(due)));
        }
    }

    /// Spreads looks at these workspaces evenly over `span`.
    pub(super) fn spread(&mut self, bots: &[BotId], now: Instant, span: Duration) {
        let count = u32::try_from(bots.len()).unwrap_or(u32::MAX).max(1);
        for (number, bot) in (0..count).zip(bots) {
            if self.bots.get(bot).is_none_or(|entry| !entry.looking) {
                self.look_by(*bot, now + span / count * number);
            }
        }
    }

    /// Forgets workspaces that are none of these, unless they are being looked at.
    pub(super) fn keep(&mut self, known: &HashSet<BotId>) {
        self.bots
            .retain(|bot, entry| entry.looking || known.contains(bot));
    }

    /// Takes those that are due; [`Self::found`] is to follow for each.
    pub(super) fn take_due(&mut self, now: Instant) -> Vec<(BotId, Leave)> {
        let mut due = Vec::new();
        for (bot, entry) in &mut self.bots {
            if !entry.looking && entry.due.is_some_and(|due| due <= now) {
                entry.looking = true;
                entry.due = None;
                let over = |since: Option<Instant>| {
                    since.is_some_and(|since| now.saturating_duration_since(since) >= SILENCE)
                };
                let repair_silent = over(entry.silent_since);
                let leave = Leave {
                    act: entry.not_before.is_none_or(|not_before| not_before <= now),
                    repair_silent,
                    tell_silent: repair_silent && !entry.silence_told,
                };
                entry.silence_told |= repair_silent;
                due.push((*bot, leave));
            }
        }
        due
    }

    /// Takes in what a look found.
    pub(super) fn found(&mut self, bot: BotId, found: Found, now: Instant) {
        let Some(entry) = self.bots.get_mut(&bot) else {
            return;
        };
        entry.looking = false;
        let again = std::mem::take(&mut entry.again);
        entry.due = match found {
            Found::AtRest if !again => {
                self.bots.remove(&bot);
                return;
            }
            Found::AtRest => None,
            Found::Fine => {
                entry.running_since.get_or_insert(now);
                entry.silent_since = None;
                entry.silence_told = false;
                None
            }
            Found::Silent => {
                entry.silent_since.get_or_insert(now);
                Some(now + SILENT_AGAIN)
            }
            Found::Busy => Some(now + BUSY_AGAIN),
            Found::Stuck => Some(now + RETRY_EVERY),
            Found::Waiting => {
                entry.running_since = None;
                entry.not_before
            }
            Found::Acted | Found::Failed => Some(entry.back_off(now)),
            Found::Unknown => None,
        };
        if again {
            entry.due = Some(now);
        }
    }

    /// When the next look is due.
    pub(super) fn next_due(&self) -> Option<Instant> {
        let waiting = self.bots.values().filter(|entry| !entry.looking);
        waiting.filter_map(|entry| entry.due).min()
    }
}

impl Entry {
    fn back_off(&mut self, now: Instant) -> Instant {
        let ran = self.running_since.take();
        if ran.is_some_and(|since| now.saturating_duration_since(since) > LONGEST_PAUSE) {
            self.pause = FIRST_PAUSE;
        }
        self.silent_since = None;
        self.silence_told = false;
        let not_before = now + self.pause;
        self.not_before = Some(not_before);
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        not_before
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn look(schedule: &mut Schedule, now: Instant) -> Vec<Leave> {
        schedule
            .take_due(now)
            .into_iter()
            .map(|(_, leave)| leave)
            .collect()
    }

    #[test]
    fn a_task_that_ends_again_and_again_waits_longer_each_time() {
        let (mut schedule, bot, mut now) = (Schedule::default(), BotId::generate(), Instant::now());
        let mut waited = Vec::new();
        for _ in 0..9 {
            schedule.look_by(bot, now);
            let leave = look(&mut schedule, now)[0];
            assert!(leave.act);
            schedule.found(bot, Found::Acted, now);
            // It ended at once: nothing is done before the pause is over.
            schedule.look_by(bot, now);
            assert!(!look(&mut schedule, now)[0].act);
            schedule.found(bot, Found::Waiting, now);
            let due = schedule.next_due().unwrap();
            waited.push((due - now).as_secs());
            now = due;
        }
        assert_eq!(waited, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        // It ran for a while: the next end is the first one again.
        assert!(look(&mut schedule, now)[0].act);
        schedule.found(bot, Found::Fine, now);
        now += LONGEST_PAUSE + SECOND;
        schedule.look_by(bot, now);
        schedule.take_due(now);
        schedule.found(bot, Found::Acted, now);
        assert_eq!(schedule.next_due(), Some(now + FIRST_PAUSE));
    }

    #[test]
    fn what_is_gone_stopped_or_well_is_not_looked_at_again() {
        let now = Instant::now();
        for found in [Found::AtRest, Found::Fine] {
            let (mut schedule, bot) = (Schedule::default(), BotId::generate());
            schedule.look_by(bot, now);
            schedule.take_due(now);
            schedule.found(bot, Found::Acted, now);
            let due = schedule.next_due().unwrap();
            schedule.take_due(due);
            schedule.found(bot, found, due);
            assert_eq!(schedule.next_due(), None, "{found:?}");
        }
    }

    #[test]
    fn one_look_at_a_time_and_what_happens_meanwhile_is_not_missed() {
        let (mut schedule, bot, now) = (Schedule::default(), BotId::generate(), Instant::now());
        schedule.look_by(bot, now);
        assert_eq!(look(&mut schedule, now).len(), 1);
        schedule.look_by(bot, now);
        assert_eq!(look(&mut schedule, now).len(), 0);
        for found in [Found::AtRest, Found::Fine] {
            schedule.found(bot, found, now);
            assert_eq!(look(&mut schedule, now).len(), 1, "{found:?}");
            schedule.look_by(bot, now);
        }
    }

    #[test]
    fn nothing_is_done_about_an_agent_but_after_a_long_silence() {
        let (mut schedule, bot, start) = (Schedule::default(), BotId::generate(), Instant::now());
        schedule.look_by(bot, start);
        let mut now = start;
        let repaired = loop {
            let leave = look(&mut schedule, now)[0];
            if leave.repair_silent {
                assert!(leave.tell_silent);
                break now - start;
            }
            schedule.found(bot, Found::Silent, now);
            now = schedule.next_due().unwrap();
        };
        assert_eq!(repaired, SILENCE);
        // It is told once.
        schedule.found(bot, Found::Silent, now);
        now = schedule.next_due().unwrap();
        let leave = look(&mut schedule, now)[0];
        assert!(leave.repair_silent && !leave.tell_silent);
        schedule.found(bot, Found::Fine, now);
        schedule.look_by(bot, now + SILENCE);
        assert!(!look(&mut schedule, now + SILENCE)[0].repair_silent);
    }

    #[test]
    fn a_sweep_is_spread_and_forgets_the_unknown() {
        let (mut schedule, now) = (Schedule::default(), Instant::now());
        let bots: Vec<BotId> = (0..4).map(|_| BotId::generate()).collect();
        schedule.spread(&bots, now, 60 * SECOND);
        for due in [0, 15, 30, 45] {
            assert_eq!(look(&mut schedule, now + due * SECOND).len(), 1, "{due}");
        }
        for bot in &bots {
            schedule.found(*bot, Found::Waiting, now);
        }
        schedule.keep(&HashSet::from([bots[0]]));
        assert_eq!(schedule.bots.len(), 1);
    }
}
