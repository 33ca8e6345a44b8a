//! Memory for what is sent and answered as a whole: one budget for all requests, of which no user has more
//! than half. Each body and each reply has a bound of its own; this bounds their sum.

use crate::HttpConfig;
use crate::problem::Problem;
use actix_web::body::{BodySize, BoxBody, MessageBody};
use actix_web::http::StatusCode;
use actix_web::{HttpResponse, ResponseError};
use botstead_types::UserId;
use botstead_workspace::{Share, Shares};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// The unit that is counted.
const UNIT: usize = 1 << 10;
/// Not counted up to this size: the number of connections bounds them.
const SMALL: usize = 16 << 10;
/// How long a request waits for memory, in all.
const PATIENCE: Duration = Duration::from_secs(5);
/// Lists that are made for one user at once: with what they are made of, each has up to some 14 MiB.
const LISTS: usize = 8;

/// The budget.
pub(crate) struct Memory {
    shares: Shares<Option<UserId>>,
    /// The bytes that one user may have.
    each: usize,
    /// Lists that are made, by whose they are.
    lists: Shares<UserId>,
}

/// A part of it, which is given back when this is dropped.
pub(crate) struct Room {
    memory: Arc<Memory>,
    user: Option<UserId>,
    bytes: usize,
    share: Option<Share<Option<UserId>>>,
    list: Option<Share<UserId>>,
    refused: Option<Problem>,
    patience: Duration,
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
            each: (bytes / UNIT).div_ceil(2) * UNIT,
            lists: Shares::apart(LISTS),
        })
    }

    /// Waits shortly for a place to make a list, which lasts until its reply is counted: many at once would
    /// otherwise be there before that.
    ///
    /// # Errors
    /// As [`Room::reserve`].
    pub(crate) async fn for_list(self: &Arc<Self>, user: UserId) -> Result<Room, Problem> {
        let place = tokio::time::timeout(PATIENCE, self.lists.take(user, 1)).await;
        let mut room = self.room(Some(user));
        room.list = Some(place.map_err(|_| too_much_in_flight())?);
        Ok(room)
    }

    /// Nothing yet, for this user.
    pub(crate) fn room(self: &Arc<Self>, user: Option<UserId>) -> Room {
        Room {
            memory: Arc::clone(self),
            user,
            bytes: SMALL,
            share: None,
            list: None,
            refused: None,
            patience: PATIENCE,
        }
    }
}

impl Room {
    /// Waits shortly until there is room for so many bytes in all. Where it has less, it asks for `most` at
    /// once: who waited for more and kept some would keep it from others who do the same. What is more than
    /// a user may have waits for all that they may have.
    ///
    /// # Errors
    /// A problem that says to come back later.
    pub(crate) async fn reserve(&mut self, bytes: usize, most: usize) -> Result<(), Problem> {
        if bytes <= self.bytes {
            return Ok(());
        }
        let all = bytes.max(most).min(self.memory.each);
        let Some(more) = all.checked_sub(self.bytes).filter(|more| *more > 0) else {
            return Ok(());
        };
        let begun = Instant::now();
        let taken = self.memory.shares.take(self.user, more.div_ceil(UNIT));
        let taken = tokio::time::timeout(self.patience, taken).await;
        self.patience = self.patience.saturating_sub(begun.elapsed());
        let taken = taken.map_err(|_| too_much_in_flight())?;
        self.take_in(more, taken);
        Ok(())
    }

    /// Waits shortly until there is any room, for what is refused now or not at all.
    ///
    /// # Errors
    /// As [`Room::reserve`].
    pub(crate) async fn reserve_any(&mut self) -> Result<(), Problem> {
        self.reserve(SMALL + UNIT, SMALL + UNIT).await
    }

    /// For what grows and is cut where there is no room: tells whether it may have more data, in place of
    /// some that it gives up. `most` says what data can take. [`Room::refused`] tells of it afterwards.
    pub(crate) fn growing(
        &mut self,
        most: impl Fn(&[u8]) -> usize,
    ) -> impl AsyncFnMut(&[u8], &[u8]) -> bool {
        let mut all = 0_usize;
        async move |data: &[u8], instead_of: &[u8]| {
            let wanted = (all.saturating_add(most(data))).saturating_sub(most(instead_of));
            let refused = self.reserve(wanted, wanted).await.err();
            let has_room = refused.is_none();
            if has_room {
                all = wanted;
            }
            self.refused = self.refused.take().or(refused);
            has_room
        }
    }

    /// Why what grew was cut, if it was.
    pub(crate) fn refused(&mut self) -> Option<Problem> {
        self.refused.take()
    }

    /// Has so many bytes in all, also where there is no room: others wait for that.
    pub(crate) fn overdraw(&mut self, bytes: usize) {
        let more = bytes.saturating_sub(self.bytes);
        if more > 0 {
            let taken = self.memory.shares.overdraw(self.user, more.div_ceil(UNIT));
            self.take_in(more, taken);
        }
    }

    fn take_in(&mut self, more: usize, taken: Share<Option<UserId>>) {
        self.bytes += more;
        match &mut self.share {
            Some(share) => share.add(taken),
            share => *share = Some(taken),
        }
    }

    /// Gives back all but so many bytes.
    pub(crate) fn keep(&mut self, bytes: usize) {
        let Some(share) = &mut self.share else {
            return;
        };
        let counted = bytes.saturating_sub(SMALL);
        share.keep(counted.div_ceil(UNIT));
        self.bytes = self.bytes.min(bytes.max(SMALL));
    }

    /// Counts a reply that is in memory as a whole: until it is sent, however slowly it is read. One that
    /// cannot be counted is refused where that changes nothing: with a safe method, what the request did can
    /// be asked for again.
    pub(crate) async fn count(&mut self, reply: HttpResponse, is_safe: bool) -> HttpResponse {
        let (reply, body) = reply.into_parts();
        let whole = match body.size() {
            BodySize::Sized(1..) => body.try_into_bytes(),
            _ => Err(body),
        };
        let bytes = match whole {
            Ok(bytes) => bytes,
            Err(other) => return reply.set_body(other),
        };
        let size = bytes.len();
        let refused = match is_safe {
            true => self.reserve(size, size).await.err(),
            false => {
                self.overdraw(size);
                None
            }
        };
        self.keep(size);
        self.list = None;
        match refused {
            Some(problem) => problem.error_response(),
            None => reply.set_body(BoxBody::new(bytes)),
        }
    }

    /// How long a client may take to read what is held, where that is counted: each second some of it.
    pub(crate) fn reading_time(&self, config: &HttpConfig) -> Option<Duration> {
        let pace = config.min_reply_pace.max(1);
        let seconds = u64::try_from(self.bytes.div_ceil(pace)).unwrap_or(u64::MAX);
        let counted = self.bytes > SMALL;
        counted.then(|| {
            config
                .write_timeout
                .saturating_add(Duration::from_secs(seconds))
        })
    }

    /// The reply, which has this until it is sent.
    pub(crate) fn held_by(self, mut reply: HttpResponse) -> HttpResponse {
        reply.extensions_mut().insert(self);
        reply
    }
}

fn too_much_in_flight() -> Problem {
    Problem::new(
        StatusCode::SERVICE_UNAVAILABLE,
        "too_much_in_flight",
        "the requests and replies that are under way, of all users or of this one, take as much memory as \
         they may; try again when some of them are through",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn is_refused(room: &mut Room, bytes: usize) -> bool {
        let problem = room.reserve(bytes, bytes).await.err();
        problem.is_some_and(|it| it.status() == 503 && it.code() == "too_much_in_flight")
    }

    #[tokio::test(start_paused = true)]
    async fn the_sum_is_bounded_and_nobody_has_more_than_half() {
        let memory = Memory::of(8 << 20);
        let (ann, bob) = (Some(UserId::generate()), Some(UserId::generate()));
        let mut hers = memory.room(ann);
        assert!(!is_refused(&mut hers, 4 << 20).await);
        let mut more = memory.room(ann);
        assert!(is_refused(&mut more, 1 << 20).await);
        // What is small is not counted.
        assert!(!is_refused(&mut more, SMALL).await);
        let mut his = memory.room(bob);
        assert!(!is_refused(&mut his, 3 << 20).await);
        assert!(is_refused(&mut memory.room(None), 2 << 20).await);
        // It grows, shrinks and is given back.
        hers.keep(1 << 20);
        assert!(!is_refused(&mut more, 2 << 20).await);
        drop((hers, more));
        assert!(!is_refused(&mut memory.room(None), 4 << 20).await);
        assert!(!is_refused(&mut his, 4 << 20).await);
        his.keep(0);
        assert!(!is_refused(&mut memory.room(bob), 4 << 20).await);
    }

    #[tokio::test(start_paused = true)]
    async fn who_grows_takes_all_at_once_and_waits_once() {
        let memory = Memory::of(8 << 20);
        let ann = Some(UserId::generate());
        let mut first = memory.room(ann);
        first.reserve(1 << 20, 3 << 20).await.unwrap();
        let begun = Instant::now();
        let mut second = memory.room(ann);
        assert!(second.reserve(1 << 20, 3 << 20).await.is_err());
        assert!(second.reserve(1 << 20, 3 << 20).await.is_err());
        assert!(begun.elapsed() < PATIENCE + PATIENCE / 2);
        // The one that has its place goes on meanwhile.
        first.reserve(3 << 20, 3 << 20).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn one_user_has_few_lists_made_at_once_and_small_ones_need_no_memory() {
        let memory = Memory::of(8 << 20);
        let (ann, bob) = (UserId::generate(), UserId::generate());
        let mut all = memory.room(Some(ann));
        all.reserve(4 << 20, 4 << 20).await.unwrap();
        let mut lists = Vec::new();
        for _ in 0..LISTS {
            lists.push(memory.for_list(ann).await.unwrap());
        }
        assert!(memory.for_list(ann).await.is_err());
        memory.for_list(bob).await.unwrap();
        // One that is counted makes place, although it is sent for as long as its client likes.
        let mut sent = lists.pop().unwrap();
        let reply = sent
            .count(HttpResponse::Ok().body("x".repeat(SMALL)), true)
            .await;
        assert_eq!(reply.status(), StatusCode::OK);
        lists.push(memory.for_list(ann).await.unwrap());
        let large = HttpResponse::Ok().body("x".repeat(4 * SMALL));
        let refused = lists.pop().unwrap().count(large, true).await;
        assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_overdrawn_is_waited_for() {
        let memory = Memory::of(8 << 20);
        let ann = Some(UserId::generate());
        let mut reply = memory.room(ann);
        reply.reserve_any().await.unwrap();
        reply.overdraw(9 << 20);
        assert!(memory.room(ann).reserve_any().await.is_err());
        assert!(is_refused(&mut memory.room(None), 1 << 20).await);
        drop(reply);
        memory.room(ann).reserve_any().await.unwrap();
    }
}
