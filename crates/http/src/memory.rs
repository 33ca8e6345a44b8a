//! Memory for what is sent and answered as a whole: one budget for all requests, of which no user has more
//! than half. Each body and each reply has a bound of its own; this bounds their sum.

use crate::HttpConfig;
use crate::problem::Problem;
use actix_web::HttpResponse;
use actix_web::http::StatusCode;
use botstead_types::UserId;
use botstead_workspace::{Share, Shares};
use std::sync::Arc;
use std::time::Duration;

/// The unit that is counted.
const UNIT: usize = 1 << 10;
/// What is not larger is not counted: no more of it is there than connections.
const SMALL: usize = 16 << 10;
/// What is asked for at once where the size is not known before.
const STEP: usize = 1 << 20;
/// How long a request waits for memory.
const WAIT: Duration = Duration::from_secs(5);

/// The budget.
pub(crate) struct Memory {
    shares: Shares<Option<UserId>>,
}

/// A part of it, which is given back when this is dropped.
pub(crate) struct Room {
    memory: Arc<Memory>,
    user: Option<UserId>,
    bytes: usize,
    share: Option<Share>,
}

impl Memory {
    /// As much as the operator says, and in any case so much that two users have room for the largest body
    /// and the largest reply.
    pub(crate) fn new(config: &HttpConfig) -> Arc<Self> {
        let text = config.max_text_bytes.saturating_mul(8);
        let json = config.max_json_bytes.saturating_mul(4);
        let reply = config.max_reply_bytes.saturating_mul(4);
        let least = text.saturating_add(json).max(reply);
        Self::of(config.max_memory_bytes.max(least))
    }

    fn of(bytes: usize) -> Arc<Self> {
        Arc::new(Self {
            shares: Shares::halves(bytes / UNIT),
        })
    }

    /// Nothing yet, for this user.
    pub(crate) fn room(self: &Arc<Self>, user: Option<UserId>) -> Room {
        Room {
            memory: Arc::clone(self),
            user,
            bytes: SMALL,
            share: None,
        }
    }
}

impl Room {
    /// Waits shortly until there is room for so many bytes in all.
    ///
    /// # Errors
    /// A problem that says to come back later.
    pub(crate) async fn reserve(&mut self, bytes: usize) -> Result<(), Problem> {
        let Some(more) = bytes.checked_sub(self.bytes).filter(|more| *more > 0) else {
            return Ok(());
        };
        // Whoever goes on from here asks seldom.
        let more = match self.share {
            Some(_) => more.max(STEP),
            None => more,
        };
        let units = u32::try_from(more.div_ceil(UNIT)).unwrap_or(u32::MAX);
        let taken = self.memory.shares.take(self.user, units);
        let taken = tokio::time::timeout(WAIT, taken).await.map_err(|_| {
            Problem::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "too_much_in_flight",
                "the requests and replies that are under way, of all users or of this one, take as much \
                 memory as they may; try again when some of them are through",
            )
        })?;
        self.bytes += more;
        match &mut self.share {
            Some(share) => share.add(taken),
            share => *share = Some(taken),
        }
        Ok(())
    }

    /// Gives back all but so many bytes.
    pub(crate) fn keep(&mut self, bytes: usize) {
        let Some(share) = &mut self.share else {
            return;
        };
        let counted = bytes.saturating_sub(SMALL);
        share.keep(u32::try_from(counted.div_ceil(UNIT)).unwrap_or(u32::MAX));
        self.bytes = self.bytes.min(bytes.max(SMALL));
    }

    /// The reply, which has this until it is sent.
    pub(crate) fn held_by(self, mut reply: HttpResponse) -> HttpResponse {
        reply.extensions_mut().insert(self);
        reply
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_sum_is_bounded_and_nobody_has_more_than_half() {
        let memory = Memory::of(8 << 20);
        let (ann, bob) = (Some(UserId::generate()), Some(UserId::generate()));
        let mut hers = memory.room(ann);
        hers.reserve(4 << 20).await.unwrap();
        let mut more = memory.room(ann);
        let refused = more.reserve(1 << 20).await.unwrap_err();
        assert_eq!(
            (refused.status().as_u16(), refused.code()),
            (503, "too_much_in_flight")
        );
        // What is small is not counted.
        more.reserve(SMALL).await.unwrap();
        let mut his = memory.room(bob);
        his.reserve(3 << 20).await.unwrap();
        assert!(memory.room(None).reserve(2 << 20).await.is_err());
        // It grows, shrinks and is given back.
        hers.keep(1 << 20);
        more.reserve(2 << 20).await.unwrap();
        drop((hers, more));
        assert!(memory.room(None).reserve(4 << 20).await.is_ok());
        his.reserve(4 << 20).await.unwrap();
        his.keep(0);
        assert!(memory.room(bob).reserve(4 << 20).await.is_ok());
    }
}
