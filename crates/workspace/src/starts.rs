//! Places for starts of tasks. A start can be held up from inside a workspace, as runc and the kernel read
//! its files: so nobody has all the places, and those of the server's own starts are apart from those of
//! starts that somebody asked for.

use crate::Result;
use crate::service::Inner;
use crate::shares::{Share, Shares};
use botstead_store::ErrorKind as StoreErrorKind;
use botstead_types::{BotId, UserId};

/// Who wants a start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    /// Somebody who asked for it, or for what it is a part of.
    Asked,
    /// The reconciliation, or the replay of an operation: nobody asked for it now, though the next call to
    /// the bot may wait for it.
    Reconcile,
}

/// The places of a service, by the bots' owners.
#[derive(Debug)]
pub(crate) struct Starts {
    asked: Shares<Option<UserId>>,
    reconcile: Shares<Option<UserId>>,
}

impl Starts {
    /// So many for either cause.
    pub(crate) fn new(most: usize) -> Self {
        Self {
            asked: Shares::halves(most),
            reconcile: Shares::halves(most),
        }
    }
}

impl Inner {
    /// Waits for a place among those that start at the same time; it lasts until it is dropped.
    pub(crate) async fn start_turn(
        &self,
        bot: BotId,
        cause: Cause,
    ) -> Result<Share<Option<UserId>>> {
        let owner = match self.store.bots.get(bot).await {
            Ok(bot) => Some(bot.owner),
            // Its workspace is about to be deleted.
            Err(error) if error.kind() == StoreErrorKind::NotFound => None,
            Err(error) => return Err(error.into()),
        };
        let places = match cause {
            Cause::Asked => &self.starts.asked,
            Cause::Reconcile => &self.starts.reconcile,
        };
        Ok(places.take(owner, 1).await)
    }
}
