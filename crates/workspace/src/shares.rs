//! Places that many share: who takes some has no more than a share of them, so that nobody holds them
//! all.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// The places of something that is short, by who takes them.
#[derive(Debug)]
pub struct Shares<K> {
    inner: Arc<Inner<K>>,
}

#[derive(Debug)]
struct Inner<K> {
    all: usize,
    each: usize,
    taken: Mutex<Taken<K>>,
    given_back: Notify,
}

#[derive(Debug)]
struct Taken<K> {
    all: usize,
    of: HashMap<K, usize>,
}

/// Places that were taken. Dropping it gives them back.
#[derive(Debug)]
pub struct Share<K: Hash + Eq> {
    inner: Arc<Inner<K>>,
    who: K,
    count: usize,
}

impl<K: Hash + Eq + Clone> Shares<K> {
    /// So many places, of which each has at most `each`; at least one.
    fn new(all: usize, each: usize) -> Self {
        let all = all.max(1);
        Self {
            inner: Arc::new(Inner {
                all,
                each: each.clamp(1, all),
                taken: Mutex::new(Taken {
                    all: 0,
                    of: HashMap::new(),
                }),
                given_back: Notify::new(),
            }),
        }
    }

    /// So many places, of which nobody has more than half.
    pub fn halves(all: usize) -> Self {
        Self::new(all, all.div_ceil(2))
    }

    /// As many places as each takes: only who has all of their own waits.
    pub fn apart(each: usize) -> Self {
        Self::new(usize::MAX, each)
    }

    /// Waits for places. More than a share is the whole share. Who waits keeps nobody else from what is
    /// free: one who asks for many can be overtaken by those who ask for few, and needs a deadline.
    pub async fn take(&self, who: K, count: usize) -> Share<K> {
        loop {
            // Made before looking, so that what is given back in between is not missed.
            let given_back = self.inner.given_back.notified();
            if let Some(share) = self.try_take(who.clone(), count) {
                return share;
            }
            given_back.await;
        }
    }

    /// The places, if they are free. More than a share is the whole share.
    pub fn try_take(&self, who: K, count: usize) -> Option<Share<K>> {
        let Inner { all, each, .. } = *self.inner;
        let count = count.min(each);
        let mut taken = self.inner.taken();
        let own = taken.of.get(&who).copied().unwrap_or(0);
        if count > all.saturating_sub(taken.all) || count > each.saturating_sub(own) {
            return None;
        }
        taken.add(&who, count);
        drop(taken);
        Some(self.share(who, count))
    }

    /// The places, whether they are free or not: others wait until they are there again.
    pub fn overdraw(&self, who: K, count: usize) -> Share<K> {
        self.inner.taken().add(&who, count);
        self.share(who, count)
    }

    fn share(&self, who: K, count: usize) -> Share<K> {
        Share {
            inner: Arc::clone(&self.inner),
            who,
            count,
        }
    }
}

impl<K> Inner<K> {
    fn taken(&self) -> MutexGuard<'_, Taken<K>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Hash + Eq + Clone> Taken<K> {
    fn add(&mut self, who: &K, count: usize) {
        self.all += count;
        *self.of.entry(who.clone()).or_default() += count;
    }
}

impl<K: Hash + Eq> Share<K> {
    /// Takes others that were taken by the same one.
    pub fn add(&mut self, mut more: Self) {
        debug_assert!(self.who == more.who, "a share is of one");
        self.count += std::mem::take(&mut more.count);
    }

    /// Gives back all but so many.
    pub fn keep(&mut self, count: usize) {
        let rest = self.count.saturating_sub(count);
        if rest == 0 {
            return;
        }
        self.count -= rest;
        let mut taken = self.inner.taken();
        taken.all -= rest;
        if let Some(own) = taken.of.get_mut(&self.who) {
            *own -= rest;
            if *own == 0 {
                taken.of.remove(&self.who);
            }
        }
        drop(taken);
        self.inner.given_back.notify_waiters();
    }
}

impl<K: Hash + Eq> Drop for Share<K> {
    fn drop(&mut self) {
        self.keep(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    async fn is_given(shares: &Shares<&'static str>, who: &'static str, count: usize) -> bool {
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
        assert!(shares.inner.taken().of.is_empty());
    }

    #[tokio::test]
    async fn who_waits_for_many_keeps_nobody_from_few_and_gets_them() {
        let shares = Arc::new(Shares::halves(8));
        let (ann, bob) = (shares.take("ann", 3).await, shares.take("bob", 4).await);
        let many = tokio::spawn({
            let shares = Arc::clone(&shares);
            async move { shares.take("eve", 4).await }
        });
        tokio::task::yield_now().await;
        assert!(is_given(&shares, "eve", 1).await, "her own small one");
        assert!(is_given(&shares, "ann", 1).await, "that of another");
        drop((ann, bob));
        let many = tokio::time::timeout(Duration::from_secs(30), many).await;
        assert!(many.is_ok());
    }

    #[tokio::test]
    async fn what_is_overdrawn_counts() {
        let shares = Shares::halves(4);
        let beyond = shares.overdraw("ann", 9);
        assert!(shares.try_take("ann", 1).is_none());
        assert!(shares.try_take("bob", 1).is_none());
        drop(beyond);
        assert!(shares.try_take("ann", 2).is_some());
    }
}
