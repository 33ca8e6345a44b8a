//! One lock per bot: operations on a bot happen one after the other and never wait for another
//! bot's.

use crate::{Error, Result};
use botstead_types::{BotId, OperationId};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

/// Who holds a bot.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Holder {
    pub(crate) operation: OperationId,
    pub(crate) what: &'static str,
}

#[derive(Debug, Default)]
struct BotLock {
    mutex: Arc<AsyncMutex<()>>,
    holder: Mutex<Option<Holder>>,
}

/// The locks of all bots that anything is done to now.
#[derive(Debug, Default)]
pub(crate) struct BotLocks {
    locks: Mutex<HashMap<BotId, Arc<BotLock>>>,
}

/// A held bot; dropping it lets the next one in.
#[derive(Debug)]
pub(crate) struct BotGuard {
    owner: Arc<BotLocks>,
    bot: BotId,
    lock: Arc<BotLock>,
    // Declared last but released in `drop`, before the entry is looked at.
    guard: Option<OwnedMutexGuard<()>>,
}

impl BotLocks {
    /// Waits until the bot is free, for at most `wait`.
    pub(crate) async fn acquire(
        self: &Arc<Self>,
        bot: BotId,
        holder: Holder,
        wait: Duration,
    ) -> Result<BotGuard> {
        let lock = Arc::clone(self.table().entry(bot).or_default());
        let acquired = tokio::time::timeout(wait, Arc::clone(&lock.mutex).lock_owned()).await;
        match acquired {
            Ok(guard) => {
                *lock.holder.lock().unwrap_or_else(PoisonError::into_inner) = Some(holder);
                Ok(BotGuard {
                    owner: Arc::clone(self),
                    bot,
                    lock,
                    guard: Some(guard),
                })
            }
            Err(_) => {
                let current = *lock.holder.lock().unwrap_or_else(PoisonError::into_inner);
                let current = current.unwrap_or(holder);
                drop(lock);
                self.forget_unused(bot);
                Err(Error::Busy {
                    operation: current.operation,
                    what: current.what,
                })
            }
        }
    }

    /// Takes the bot only when it is free now.
    pub(crate) fn try_acquire(self: &Arc<Self>, bot: BotId, holder: Holder) -> Option<BotGuard> {
        let lock = Arc::clone(self.table().entry(bot).or_default());
        let Ok(guard) = Arc::clone(&lock.mutex).try_lock_owned() else {
            drop(lock);
            // Who held it may have let go since, and not seen that this was the last.
            self.forget_unused(bot);
            return None;
        };
        *lock.holder.lock().unwrap_or_else(PoisonError::into_inner) = Some(holder);
        Some(BotGuard {
            owner: Arc::clone(self),
            bot,
            lock,
            guard: Some(guard),
        })
    }

    /// Whether anything holds the bot, or waits for it.
    pub(crate) fn is_held(&self, bot: BotId) -> bool {
        self.table().contains_key(&bot)
    }

    fn table(&self) -> std::sync::MutexGuard<'_, HashMap<BotId, Arc<BotLock>>> {
        self.locks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn forget_unused(&self, bot: BotId) {
        let mut table = self.table();
        // Whoever waits or holds has a clone, and clones are made under this table's lock.
        if table
            .get(&bot)
            .is_some_and(|lock| Arc::strong_count(lock) == 1)
        {
            table.remove(&bot);
        }
    }
}

impl Drop for BotGuard {
    fn drop(&mut self) {
        *self
            .lock
            .holder
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = None;
        self.guard = None;
        // Count two: the table's and this guard's own.
        let mut table = self.owner.table();
        if Arc::strong_count(&self.lock) == 2 {
            table.remove(&self.bot);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holder(what: &'static str) -> Holder {
        Holder {
            operation: OperationId::generate(),
            what,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_busy_bot_names_what_holds_it_and_another_bot_is_free() {
        let locks = Arc::new(BotLocks::default());
        let (bot, other) = (BotId::generate(), BotId::generate());
        let first = holder("create");
        let wait = Duration::from_secs(30);
        let guard = locks.acquire(bot, first, wait).await.unwrap();
        let free = locks.acquire(other, holder("stop"), wait).await.unwrap();
        let refused = locks.acquire(bot, holder("stop"), wait).await.unwrap_err();
        assert!(
            matches!(refused, Error::Busy { operation, what: "create" } if operation == first.operation)
        );
        assert!(locks.try_acquire(bot, holder("stop")).is_none());
        drop((guard, free));
        assert!(locks.try_acquire(bot, holder("stop")).is_some());
        assert!(locks.table().is_empty(), "released locks are forgotten");
    }
}
