//! Places that many share: who takes some has no more than a share of them, so that nobody holds them
//! all.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};

/// The places of something that is short, by who takes them.
#[derive(Debug)]
pub struct Shares<K> {
    all: Arc<Semaphore>,
    each: usize,
    of: Mutex<HashMap<K, Weak<Semaphore>>>,
}

/// Places that were taken. Dropping it gives them back.
#[derive(Debug)]
pub struct Share {
    own: OwnedSemaphorePermit,
    all: OwnedSemaphorePermit,
}

impl<K: Hash + Eq> Shares<K> {
    /// So many places, of which each has at most `each`; at least one.
    pub fn new(all: usize, each: usize) -> Self {
        let all = all.clamp(1, Semaphore::MAX_PERMITS);
        Self {
            all: Arc::new(Semaphore::new(all)),
            each: each.clamp(1, all),
            of: Mutex::default(),
        }
    }

    /// So many places, of which nobody has more than half.
    pub fn halves(all: usize) -> Self {
        Self::new(all, all.div_ceil(2))
    }

    /// As many places as each takes: only who has all of their own waits.
    pub fn apart(each: usize) -> Self {
        Self::new(Semaphore::MAX_PERMITS, each)
    }

    /// Waits for places, in the order in which they were asked for. More than a share is the whole share.
    pub async fn take(&self, who: K, count: u32) -> Share {
        let count = count.min(u32::try_from(self.each).unwrap_or(u32::MAX));
        // The own ones first: who waits for those keeps nobody else from the rest.
        let own = self.own(who).acquire_many_owned(count).await;
        let all = Arc::clone(&self.all).acquire_many_owned(count).await;
        Share {
            own: never_closed(own),
            all: never_closed(all),
        }
    }

    fn own(&self, who: K) -> Arc<Semaphore> {
        let mut of = self.of.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = of.get(&who).and_then(Weak::upgrade) {
            return own;
        }
        of.retain(|_, own| own.strong_count() > 0);
        let own = Arc::new(Semaphore::new(self.each));
        of.insert(who, Arc::downgrade(&own));
        own
    }
}

#[expect(clippy::expect_used, reason = "nothing closes these semaphores")]
fn never_closed(permit: Result<OwnedSemaphorePermit, AcquireError>) -> OwnedSemaphorePermit {
    permit.expect("an open semaphore")
}

impl Share {
    /// Takes others that were taken by the same one.
    pub fn add(&mut self, more: Share) {
        self.own.merge(more.own);
        self.all.merge(more.all);
    }

    /// Gives back all but so many.
    pub fn keep(&mut self, count: u32) {
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        for permit in [&mut self.own, &mut self.all] {
            let rest = permit.num_permits().saturating_sub(count);
            drop(permit.split(rest));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    async fn is_given(shares: &Shares<&'static str>, who: &'static str, count: u32) -> bool {
        let taken = tokio::time::timeout(Duration::from_millis(20), shares.take(who, count));
        taken.await.is_ok()
    }

    #[tokio::test]
    async fn nobody_has_more_than_half() {
        let shares = Shares::halves(4);
        let ann = [shares.take("ann", 1).await, shares.take("ann", 1).await];
        assert!(!is_given(&shares, "ann", 1).await);
        let _bob = shares.take("bob", 1).await;
        let _eve = shares.take("eve", 1).await;
        assert!(!is_given(&shares, "bob", 1).await, "all are taken");
        drop(ann);
        assert!(is_given(&shares, "bob", 1).await);
        assert!(is_given(&shares, "ann", 1).await);
    }

    #[tokio::test]
    async fn what_is_given_back_can_be_taken_and_too_much_is_a_share() {
        let shares = Shares::halves(100);
        let mut ann = shares.take("ann", 1000).await;
        assert!(!is_given(&shares, "ann", 1).await);
        ann.keep(20);
        ann.keep(1000);
        assert!(is_given(&shares, "ann", 30).await);
        assert!(!is_given(&shares, "ann", 31).await);
    }

    #[tokio::test]
    async fn those_that_are_apart_do_not_wait_for_each_other_and_are_forgotten() {
        let shares = Shares::apart(1);
        let ann = shares.take("ann", 1).await;
        assert!(is_given(&shares, "bob", 1).await);
        assert!(!is_given(&shares, "ann", 1).await);
        drop(ann);
        assert!(is_given(&shares, "eve", 1).await);
        assert!(shares.of.lock().unwrap().len() <= 2);
    }
}
