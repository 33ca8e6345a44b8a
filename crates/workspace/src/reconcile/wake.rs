//! What wakes the reconcile loop before its time. Whoever learns that something changed says so here;
//! the same said twice before the loop gets to it counts once.

use botstead_types::BotId;
use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// What the loop is to look at.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// Bots whose workspace may not be as it should be.
    pub(crate) bots: HashSet<BotId>,
    /// Bots with an operation that could not go on; to be tried again after a while.
    pub(crate) stuck: HashSet<BotId>,
    /// All workspaces: events may have been lost.
    pub(crate) all: bool,
    /// The host's part of the network.
    pub(crate) host: bool,
}

/// The triggers of the reconcile loop.
#[derive(Debug, Default)]
pub(crate) struct Wake {
    wanted: Mutex<Wanted>,
    notify: Notify,
}

impl Wake {
    /// A workspace's task ended, or its state is in doubt.
    pub(crate) fn bot(&self, bot: BotId) {
        self.want(|wanted| {
            wanted.bots.insert(bot);
        });
    }

    /// An operation on the bot could not go on.
    pub(crate) fn stuck(&self, bot: BotId) {
        self.want(|wanted| {
            wanted.stuck.insert(bot);
        });
    }

    /// Events of the runtime may have been lost.
    pub(crate) fn all(&self) {
        self.want(|wanted| wanted.all = true);
    }

    /// The host's part of the network may be broken: rules were flushed, the bridge is gone.
    pub(crate) fn host(&self) {
        self.want(|wanted| wanted.host = true);
    }

    fn want(&self, change: impl FnOnce(&mut Wanted)) {
        change(&mut self.wanted());
        self.notify.notify_one();
    }

    /// Waits until something is wanted.
    pub(super) async fn woken(&self) {
        self.notify.notified().await;
    }

    /// Takes what is wanted.
    pub(super) fn take(&self) -> Wanted {
        std::mem::take(&mut *self.wanted())
    }

    fn wanted(&self) -> MutexGuard<'_, Wanted> {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
