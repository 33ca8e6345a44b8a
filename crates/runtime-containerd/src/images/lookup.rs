//! Looking up the addresses of names. The system's resolver blocks a thread for as long as name servers
//! take, and goes on when nobody waits any more: it gets few of the threads that all blocking work shares.

use std::collections::HashSet;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};

/// Lookups at once of names that were found before, and as many of others.
const AT_ONCE: usize = 16;
/// How many names are remembered.
const REMEMBERED: usize = 4096;

/// The lookups of all pulls. Names that were found before have places of their own: whoever names hosts
/// that no name server answers for keeps nobody from those in use.
#[derive(Debug, Clone)]
pub(super) struct Lookups {
    patience: Duration,
    found: Arc<Mutex<HashSet<String>>>,
    places_of_found: Arc<Semaphore>,
    places: Arc<Semaphore>,
}

impl Lookups {
    /// Lookups that may take so long each, the wait for a place included.
    pub(super) fn new(patience: Duration) -> Self {
        Self {
            patience,
            found: Arc::default(),
            places_of_found: Arc::new(Semaphore::new(AT_ONCE)),
            places: Arc::new(Semaphore::new(AT_ONCE)),
        }
    }

    /// The addresses of a name.
    pub(super) async fn find(&self, name: &str) -> io::Result<Vec<SocketAddr>> {
        self.find_by(name, |name| Ok((name, 0).to_socket_addrs()?.collect()))
            .await
    }

    async fn find_by(
        &self,
        name: &str,
        look: impl FnOnce(&str) -> io::Result<Vec<SocketAddr>> + Send + 'static,
    ) -> io::Result<Vec<SocketAddr>> {
        let places = match self.found().contains(name) {
            true => &self.places_of_found,
            false => &self.places,
        };
        let deadline = Instant::now() + self.patience;
        let late = |reason| move |_| io::Error::new(io::ErrorKind::TimedOut, reason);
        let place = Arc::clone(places).acquire_owned();
        let place = timeout_at(deadline, place).await.map_err(late(
            "too many other names are being looked up, for which no name server answers; try again later",
        ))?;
        let place = place.map_err(io::Error::other)?;
        let looked_for = name.to_owned();
        // The place is free when the thread is, not when nobody waits any more.
        let looking = tokio::task::spawn_blocking(move || {
            let _place = place;
            look(&looked_for)
        });
        let found = timeout_at(deadline, looking).await.map_err(late(
            "name servers did not answer in time; see that this host's do",
        ))?;
        let addresses = found.map_err(io::Error::other)??;
        if !addresses.is_empty() {
            let mut found = self.found();
            if found.len() >= REMEMBERED {
                found.clear();
            }
            found.insert(name.to_owned());
        }
        Ok(addresses)
    }

    fn found(&self) -> std::sync::MutexGuard<'_, HashSet<String>> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[tokio::test(flavor = "multi_thread")]
    async fn names_that_nobody_answers_for_take_few_threads_and_hold_up_no_known_ones() {
        let lookups = Lookups::new(Duration::from_millis(300));
        // The same places, for what is to be found.
        let patient = Lookups {
            patience: Duration::from_secs(60),
            ..lookups.clone()
        };
        let quick = |_: &str| Ok(vec![SocketAddr::from(([192, 0, 2, 1], 0))]);
        assert_eq!(patient.find_by("known", quick).await.unwrap().len(), 1);

        let (begin, begun) = mpsc::channel();
        let (release, held) = mpsc::channel::<()>();
        let held = Arc::new(Mutex::new(held));
        let mut slow = tokio::task::JoinSet::new();
        for number in 0..AT_ONCE * 4 {
            let (lookups, begin, held) = (lookups.clone(), begin.clone(), Arc::clone(&held));
            slow.spawn(async move {
                let name = format!("slow{number}");
                let look = move |_: &str| {
                    begin.send(()).map_err(io::Error::other)?;
                    // Until the test is over.
                    let _ = held.lock().unwrap_or_else(PoisonError::into_inner).recv();
                    Ok(Vec::new())
                };
                lookups.find_by(&name, look).await
            });
        }
        let (mut unanswered, mut without_place) = (0, 0);
        while let Some(ended) = slow.join_next().await {
            let error = ended.unwrap().unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::TimedOut);
            let said = error.to_string();
            unanswered += usize::from(said.contains("name servers did not answer"));
            without_place += usize::from(said.contains("too many other names"));
        }
        assert_eq!((unanswered, without_place), (AT_ONCE, AT_ONCE * 3));
        for _ in 0..AT_ONCE {
            begun.recv_timeout(patient.patience).unwrap();
        }
        assert!(begun.try_recv().is_err());
        // The threads are still at it.
        let unknown = lookups.find_by("unknown", quick).await.unwrap_err();
        assert_eq!(unknown.kind(), io::ErrorKind::TimedOut);
        assert_eq!(patient.find_by("known", quick).await.unwrap().len(), 1);
        drop(release);
        assert!(patient.find_by("unknown", quick).await.is_ok());
    }
}
