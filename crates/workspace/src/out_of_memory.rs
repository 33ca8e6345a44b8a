//! Processes of workspaces that the kernel killed for lack of memory: counted, told in the log and among
//! the bot's events, and kept for those who ask.
//!
//! The runtime tells that it happened, a little before or after; the kernel tells how often. A command
//! that ends asks the kernel itself.

use crate::service::Inner;
use botstead_types::{BotId, ContainerId, PageRequest};
use chrono::{DateTime, Utc};
use serde_json::json;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The name of the events.
pub(crate) const EVENT: &str = "out_of_memory";
/// A workspace that goes on and on is told of so often; what happens between is in the next count.
const TELL_EVERY: Duration = Duration::from_secs(10);
/// The first version of control groups tells before it kills.
const LOOKS: u32 = 10;
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// What is known of all bots.
#[derive(Debug, Default)]
pub(crate) struct Kills {
    bots: Mutex<HashMap<BotId, Known>>,
    total: AtomicU64,
}

#[derive(Debug, Default)]
struct Known {
    /// The kernel's count that is told, of the present task.
    counted: Option<u64>,
    last: Option<DateTime<Utc>>,
    /// Whether `last` is known from before this server's start.
    loaded: bool,
    told: Option<Instant>,
    untold: u64,
    looking: bool,
}

impl Kills {
    fn table(&self) -> MutexGuard<'_, HashMap<BotId, Known>> {
        self.bots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many there were since the server started.
    pub(crate) fn total(&self) -> u64 {
        self.total.load(Ordering::Relaxed)
    }

    /// The task ended: its count begins at zero next time.
    pub(crate) fn forget_task(&self, bot: BotId) {
        if let Some(known) = self.table().get_mut(&bot) {
            known.counted = Some(0);
        }
    }

    pub(crate) fn forget(&self, bot: BotId) {
        self.table().remove(&bot);
    }

    /// Takes the kernel's count in, or that there was one where it does not count. `before` is an
    /// earlier count, for a bot of which nothing is known. Tells how many were not known.
    fn take(&self, bot: BotId, count: Option<u64>, before: Option<u64>) -> u64 {
        let mut table = self.table();
        let known = table.entry(bot).or_default();
        let new = match (count, known.counted.or(before)) {
            (Some(count), Some(counted)) => count.saturating_sub(counted),
            // How many of them are new is not known; one is.
            (Some(count), None) => count.min(1),
            (None, _) => 1,
        };
        if count.is_some() {
            known.counted = count;
        }
        if new > 0 {
            known.last = Some(Utc::now());
            known.untold += new;
            self.total.fetch_add(new, Ordering::Relaxed);
        }
        new
    }

    /// How many are to be told now.
    fn tell(&self, bot: BotId, now: Instant) -> u64 {
        let mut table = self.table();
        let Some(known) = table.get_mut(&bot) else {
            return 0;
        };
        if known.told.is_some_and(|told| now < told + TELL_EVERY) || known.untold == 0 {
            return 0;
        }
        known.told = Some(now);
        std::mem::take(&mut known.untold)
    }

    fn begin_look(&self, bot: BotId) -> bool {
        !std::mem::replace(&mut self.table().entry(bot).or_default().looking, true)
    }

    fn end_look(&self, bot: BotId) {
        if let Some(known) = self.table().get_mut(&bot) {
            known.looking = false;
        }
    }

    /// The last one, where it is known whether there was one.
    fn last(&self, bot: BotId) -> Option<Option<DateTime<Utc>>> {
        let table = self.table();
        let known = table.get(&bot)?;
        (known.loaded || known.last.is_some()).then_some(known.last)
    }

    fn loaded(&self, bot: BotId, last: Option<DateTime<Utc>>) {
        let mut table = self.table();
        let known = table.entry(bot).or_default();
        known.loaded = true;
        known.last = known.last.or(last);
    }
}

impl Inner {
    /// The kernel's count of the bot's task, where there is one and it counts.
    pub(crate) async fn out_of_memory_kills(&self, bot: BotId) -> Option<u64> {
        let container = ContainerId::for_bot(bot);
        match self.runtime.metrics.out_of_memory_kills(&container).await {
            Ok(count) => count,
            Err(error) => {
                tracing::debug!(%bot, error = %error.chain(), "cannot count kills");
                None
            }
        }
    }

    /// The runtime tells that a workspace ran out of memory.
    pub(crate) fn note_out_of_memory(self: &Arc<Self>, bot: BotId) {
        if !self.kills.begin_look(bot) {
            return;
        }
        let inner = Arc::clone(self);
        self.spawn(async move {
            for look in 1.. {
                let count = inner.out_of_memory_kills(bot).await;
                if inner.kills.take(bot, count, None) > 0 || look == LOOKS {
                    break;
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
            inner.kills.end_look(bot);
            inner.tell_kills(bot).await;
        });
    }

    /// A command ended that began at the count `before`. Tells whether a process of its workspace was
    /// killed meanwhile.
    pub(crate) async fn killed_since(self: &Arc<Self>, bot: BotId, before: Option<u64>) -> bool {
        let Some(before) = before else { return false };
        let count = self.out_of_memory_kills(bot).await;
        let killed = count.is_some_and(|count| count > before);
        if killed && self.kills.take(bot, count, Some(before)) > 0 {
            let inner = Arc::clone(self);
            self.spawn(async move { inner.tell_kills(bot).await });
        }
        killed
    }

    async fn tell_kills(&self, bot: BotId) {
        let kills = self.kills.tell(bot, Instant::now());
        if kills == 0 {
            return;
        }
        tracing::warn!(%bot, kills,
            "the kernel killed processes of a workspace that is at its memory limit");
        let event = crate::operations::event(bot, EVENT, json!({"kills": kills}));
        if let Err(error) = self.store.transactions.apply(vec![event]).await {
            tracing::warn!(%bot, %error, "cannot record an event");
        }
    }

    /// When it last happened to the bot's workspace. Looked up in its events once; those that are older
    /// than the newest hundred are forgotten.
    pub(crate) async fn last_out_of_memory(&self, bot: BotId) -> Option<DateTime<Utc>> {
        if let Some(last) = self.kills.last(bot) {
            return last;
        }
        let page = PageRequest {
            limit: PageRequest::MAX_LIMIT,
            cursor: None,
        };
        match self.store.events.list(bot, &page).await {
            Ok(page) => {
                let found = page.items.iter().find(|found| found.event.kind == EVENT);
                let last = found.map(|found| found.event.at);
                self.kills.loaded(bot, last);
                last
            }
            Err(error) => {
                tracing::debug!(%bot, %error, "cannot read events");
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kill_is_counted_once_whoever_tells_it() {
        let kills = Kills::default();
        let bot = BotId::generate();
        // A command saw two, then the runtime tells of both.
        assert_eq!(kills.take(bot, Some(5), Some(3)), 2);
        assert_eq!(kills.take(bot, Some(5), None), 0);
        assert_eq!(kills.take(bot, Some(5), Some(3)), 0);
        kills.forget_task(bot);
        assert_eq!(kills.take(bot, Some(1), None), 1);
        // The task was replaced and nobody said so.
        assert_eq!(kills.take(bot, Some(0), None), 0);
        assert_eq!(kills.take(bot, Some(1), None), 1);
        // A kernel that does not count.
        assert_eq!(kills.take(BotId::generate(), None, None), 1);
        // From before this server, and at least one more.
        assert_eq!(kills.take(BotId::generate(), Some(9), None), 1);
        assert_eq!(kills.total(), 6);
        let start = Instant::now();
        assert_eq!(kills.tell(bot, start), 4);
        assert_eq!(kills.tell(bot, start + TELL_EVERY), 0);
        kills.take(bot, Some(8), None);
        assert_eq!(kills.tell(bot, start + TELL_EVERY / 2), 0, "told just now");
        assert_eq!(kills.tell(bot, start + TELL_EVERY), 7);
    }
}
