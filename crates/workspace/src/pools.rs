//! Threads for long work on files, apart from the runtime's own: whatever is slow here, or held up by
//! whoever reads it, takes a thread from nothing else.

use crate::shares::{Share, Shares};
use crate::{Error, Result};
use botstead_authz::Actor;
use botstead_types::UserId;
use std::io;
use tokio::sync::oneshot;

/// Comparisons of versions at once; more wait, and so does who has half of them. They read disks, which
/// gain nothing from more.
const COMPARISONS: usize = 4;
/// The same for archives that are judged. Each takes a core.
const JUDGEMENTS: usize = 4;

/// The pools of a service.
#[derive(Debug)]
pub(crate) struct Pools {
    exports: Shares<Option<UserId>>,
    /// Comparisons.
    pub(crate) comparisons: Pool,
    /// Archives that are read to be judged.
    pub(crate) judgements: Pool,
}

impl Pools {
    pub(crate) fn new(max_exports: usize) -> Self {
        Self {
            exports: Shares::halves(max_exports),
            comparisons: Pool::new("comparison", COMPARISONS),
            judgements: Pool::new("archive", JUDGEMENTS),
        }
    }

    /// A place for the actor's export, which lasts as long as somebody reads: so nobody waits for one.
    ///
    /// # Errors
    /// `TooManyExports`.
    pub(crate) fn export(&self, actor: &Actor) -> Result<ExportPlace> {
        let place = self.exports.try_take(user(actor), 1);
        place.ok_or(Error::TooManyExports)
    }
}

/// A place for an export, until this is dropped.
pub(crate) type ExportPlace = Share<Option<UserId>>;

/// Threads for work that ends by itself; more of it waits, and no user has more than half of them.
#[derive(Debug)]
pub(crate) struct Pool {
    name: &'static str,
    places: Shares<Option<UserId>>,
}

impl Pool {
    fn new(name: &'static str, places: usize) -> Self {
        Self {
            name,
            places: Shares::halves(places),
        }
    }

    /// Does the work when there is a place for it, and for this user. It goes on when its caller leaves,
    /// and keeps its place.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        of: Option<UserId>,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let place = self.places.take(of, 1).await;
        on_thread(self.name, move || {
            let _place = place;
            work()
        })
        .await
    }
}

/// Does the work on a thread of its own.
pub(crate) async fn on_thread<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let (sender, receiver) = oneshot::channel();
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(move || {
            // Nobody may wait any more.
            let _ = sender.send(work());
        })
        .map_err(failed)?;
    receiver
        .await
        .unwrap_or_else(|_| Err(failed(io::Error::other("the thread ended abnormally"))))
}

fn failed(source: io::Error) -> Error {
    Error::Host {
        what: "do the work on a thread",
        source,
    }
}

/// Whose places it takes; those of the server itself are together.
pub(crate) fn user(actor: &Actor) -> Option<UserId> {
    match actor {
        Actor::User { id, .. } => Some(*id),
        Actor::System => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use botstead_types::Role;
    use std::sync::{Arc, Mutex, PoisonError};
    use std::time::Duration;

    #[test]
    fn nobody_has_more_than_half_of_the_exports() {
        let pools = Pools::new(4);
        let user = || Actor::User {
            id: UserId::generate(),
            role: Role::Member,
        };
        let (ann, bob) = (user(), user());
        let one = pools.export(&ann).unwrap();
        let _two = pools.export(&ann).unwrap();
        assert_eq!(pools.export(&ann).unwrap_err().code(), "too_many_exports");
        let _three = pools.export(&bob).unwrap();
        let _four = pools.export(&bob).unwrap();
        assert!(pools.export(&user()).is_err());
        assert!(pools.export(&Actor::System).is_err());
        drop(one);
        assert!(pools.export(&ann).is_ok());
        assert!(pools.export(&Actor::System).is_ok());
    }

    #[tokio::test]
    async fn work_takes_no_thread_of_the_runtime_and_a_panic_is_an_error() {
        let pool = Pool::new("test", 1);
        let name = pool.run(None, || {
            Ok(std::thread::current().name().map(str::to_owned))
        });
        assert_eq!(name.await.unwrap().as_deref(), Some("test"));
        let ended: Result<()> = pool.run(None, || panic!("on purpose")).await;
        assert_eq!(ended.unwrap_err().code(), "internal");
        // Its place is free again.
        pool.run(None, || Ok(())).await.unwrap();
    }

    #[tokio::test]
    async fn nobody_has_more_than_half_of_the_comparisons() {
        let pool = Arc::new(Pools::new(1).comparisons);
        let (ann, bob) = (Some(UserId::generate()), Some(UserId::generate()));
        let (end, ended) = std::sync::mpsc::channel::<()>();
        let ended = Arc::new(Mutex::new(ended));
        // She has more under way than there are threads, none of which ends.
        let held: Vec<_> = (0..2 * COMPARISONS)
            .map(|_| {
                let (pool, ended) = (Arc::clone(&pool), Arc::clone(&ended));
                tokio::spawn(async move {
                    let work = move || {
                        let _ = ended.lock().unwrap_or_else(PoisonError::into_inner).recv();
                        Ok(())
                    };
                    pool.run(ann, work).await
                })
            })
            .collect();
        tokio::task::yield_now().await;
        let his = tokio::time::timeout(Duration::from_secs(30), pool.run(bob, || Ok(())));
        his.await.expect("she has them all").unwrap();
        drop(end);
        for work in held {
            work.await.unwrap().unwrap();
        }
    }
}
