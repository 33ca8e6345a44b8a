//! Looking up the addresses of names. The system's resolver blocks a thread for as long as name servers
//! take, and goes on when nobody waits any more: it gets few of the threads that all blocking work shares.

use super::hosts::domain_of;
use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};

/// Lookups at once in domains that were found before, and as many in others.
const AT_ONCE: usize = 16;
/// Lookups at once in one domain: whoever has one can name any number of hosts there.
const IN_ONE_DOMAIN: usize = 2;
/// How many domains are remembered.
const REMEMBERED: usize = 4096;

/// The lookups of all pulls. Domains with hosts that were found before have places of their own: whoever
/// names hosts that no name server answers for keeps nobody from those in use.
#[derive(Debug, Clone)]
pub(super) struct Lookups {
    patience: Duration,
    /// When a usable host was last found in a domain.
    found: Arc<Mutex<HashMap<String, Instant>>>,
    places_of_found: Arc<Semaphore>,
    places: Arc<Semaphore>,
    domains: Arc<Mutex<HashMap<String, Weak<Domain>>>>,
}

/// A domain that somebody looks for a host in.
#[derive(Debug)]
struct Domain {
    places: Arc<Semaphore>,
    latest: Mutex<Option<Answer>>,
}

#[derive(Debug, Clone)]
struct Answer {
    name: String,
    at: Instant,
    addresses: Vec<SocketAddr>,
}

impl Lookups {
    /// Lookups that may take so long each, the wait for a place included.
    pub(super) fn new(patience: Duration) -> Self {
        Self {
            patience,
            found: Arc::default(),
            places_of_found: Arc::new(Semaphore::new(AT_ONCE)),
            places: Arc::new(Semaphore::new(AT_ONCE)),
            domains: Arc::default(),
        }
    }

    /// The addresses of a name, of which `usable` chooses; without any the name is not one that was found.
    pub(super) async fn find(
        &self,
        name: &str,
        usable: impl FnOnce(Vec<SocketAddr>) -> Vec<SocketAddr>,
    ) -> io::Result<Vec<SocketAddr>> {
        let look = |name: &str| Ok((name, 0).to_socket_addrs()?.collect());
        self.find_by(name, usable, look).await
    }

    async fn find_by(
        &self,
        name: &str,
        usable: impl FnOnce(Vec<SocketAddr>) -> Vec<SocketAddr>,
        look: impl FnOnce(&str) -> io::Result<Vec<SocketAddr>> + Send + 'static,
    ) -> io::Result<Vec<SocketAddr>> {
        let domain = domain_of(name);
        let addresses = usable(self.answer(name, domain, look).await?);
        if !addresses.is_empty() {
            self.remember(domain);
        }
        Ok(addresses)
    }

    async fn answer(
        &self,
        name: &str,
        domain: &str,
        look: impl FnOnce(&str) -> io::Result<Vec<SocketAddr>> + Send + 'static,
    ) -> io::Result<Vec<SocketAddr>> {
        let began = Instant::now();
        let deadline = began + self.patience;
        let late = |reason| io::Error::new(io::ErrorKind::TimedOut, reason);
        let own = self.domain(domain);
        // The domain's own first: who waits for those keeps nobody else from the rest.
        let place = Arc::clone(&own.places).acquire_owned();
        let place_of_own = timeout_at(deadline, place).await.map_err(|_| {
            late(
                "too many other names of its domain are being looked up, for which no name server answers; \
                 try again later",
            )
        })?;
        let place_of_own = place_of_own.map_err(io::Error::other)?;
        // What came while this one waited is its answer, too: many pulls from one registry need one.
        if let Some(latest) = &*locked(&own.latest)
            && latest.name == name
            && latest.at >= began
        {
            return Ok(latest.addresses.clone());
        }
        let places = match locked(&self.found).contains_key(domain) {
            true => &self.places_of_found,
            false => &self.places,
        };
        let place = timeout_at(deadline, Arc::clone(places).acquire_owned());
        let place = place.await.map_err(|_| {
            late("too many other names are being looked up, for which no name server answers; try again later")
        })?;
        let place = place.map_err(io::Error::other)?;
        let looked_for = name.to_owned();
        // The places are free when the thread is, not when nobody waits any more.
        let looking = tokio::task::spawn_blocking(move || {
            let _places = (place_of_own, place);
            let addresses = look(&looked_for)?;
            *locked(&own.latest) = Some(Answer {
                name: looked_for,
                at: Instant::now(),
                addresses: addresses.clone(),
            });
            Ok::<_, io::Error>(addresses)
        });
        let Ok(found) = timeout_at(deadline, looking).await else {
            self.forget_silent(domain, began);
            return Err(late(
                "name servers did not answer in time; see that this host's do",
            ));
        };
        found.map_err(io::Error::other)?
    }

    fn domain(&self, name: &str) -> Arc<Domain> {
        let mut domains = locked(&self.domains);
        if let Some(domain) = domains.get(name).and_then(Weak::upgrade) {
            return domain;
        }
        domains.retain(|_, domain| domain.strong_count() > 0);
        let domain = Arc::new(Domain {
            places: Arc::new(Semaphore::new(IN_ONE_DOMAIN)),
            latest: Mutex::default(),
        });
        domains.insert(name.to_owned(), Arc::downgrade(&domain));
        domain
    }

    /// In place of the one that was found the longest ago, where there are too many.
    fn remember(&self, domain: &str) {
        let mut found = locked(&self.found);
        if found.len() >= REMEMBERED && !found.contains_key(domain) {
            let oldest = found.iter().min_by_key(|(_, at)| **at);
            if let Some(oldest) = oldest.map(|(domain, _)| domain.clone()) {
                found.remove(&oldest);
            }
        }
        found.insert(domain.to_owned(), Instant::now());
    }

    /// A domain whose name servers are silent while others answer loses its place among those that were
    /// found. When none answers it is this host that reaches none.
    fn forget_silent(&self, domain: &str, since: Instant) {
        let mut found = locked(&self.found);
        if found
            .iter()
            .any(|(other, at)| other != domain && *at >= since)
        {
            found.remove(domain);
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    /// The same places, for what is to be found.
    fn patient(lookups: &Lookups) -> Lookups {
        Lookups {
            patience: Duration::from_secs(60),
            ..lookups.clone()
        }
    }

    fn all(found: Vec<SocketAddr>) -> Vec<SocketAddr> {
        found
    }

    fn quick(_: &str) -> io::Result<Vec<SocketAddr>> {
        Ok(vec![SocketAddr::from(([192, 0, 2, 1], 0))])
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn names_that_nobody_answers_for_take_few_threads_and_hold_up_no_known_ones() {
        let lookups = Lookups::new(Duration::from_millis(300));
        let patient = patient(&lookups);
        assert_eq!(patient.find_by("known", all, quick).await.unwrap().len(), 1);

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
                lookups.find_by(&name, all, look).await
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
        let unknown = lookups.find_by("unknown", all, quick).await.unwrap_err();
        assert_eq!(unknown.kind(), io::ErrorKind::TimedOut);
        assert_eq!(patient.find_by("known", all, quick).await.unwrap().len(), 1);
        drop(release);
        assert!(patient.find_by("unknown", all, quick).await.is_ok());
    }

    /// Lookups of these names that end when the sender is dropped, each begun or given up.
    async fn silent(lookups: &Lookups, names: &[String]) -> mpsc::Sender<()> {
        let (release, held) = mpsc::channel::<()>();
        let held = Arc::new(Mutex::new(held));
        let looks = names.iter().map(|name| {
            let held = Arc::clone(&held);
            lookups.find_by(name, all, move |_| {
                let _ = locked(&held).recv();
                Ok(Vec::new())
            })
        });
        for ended in futures_util::future::join_all(looks).await {
            assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::TimedOut);
        }
        release
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn one_domain_takes_few_places_also_when_its_names_answered_before() {
        let lookups = Lookups::new(Duration::from_millis(300));
        let names: Vec<_> = (0..70)
            .map(|number| format!("a{number}.bad.example"))
            .collect();
        let patient = patient(&lookups);
        for name in &names {
            patient.find_by(name, all, quick).await.unwrap();
        }
        let good = patient.find_by("good.example.org", all, quick).await;
        assert_eq!(good.unwrap().len(), 1);
        let release = silent(&lookups, &names).await;
        let taken = AT_ONCE - IN_ONE_DOMAIN;
        assert_eq!(lookups.places_of_found.available_permits(), taken);
        for name in ["good.example.org", "new.example.net"] {
            assert!(patient.find_by(name, all, quick).await.is_ok(), "{name}");
        }
        let error = lookups.find_by("b.bad.example", all, quick).await;
        let error = error.unwrap_err().to_string();
        assert!(error.contains("names of its domain"), "{error}");
        drop(release);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn only_domains_with_usable_hosts_that_answer_are_among_the_found() {
        let lookups = Lookups::new(Duration::from_secs(1));
        let patient = patient(&lookups);
        let found = || locked(&lookups.found).clone();
        let none = |_| Vec::new();
        let unusable = patient.find_by("private.example", none, quick).await;
        assert!(unusable.unwrap().is_empty());
        assert!(found().is_empty());

        patient.find_by("a.example", all, quick).await.unwrap();
        let names = ["a.example".to_owned()];
        // Nobody answers: it is not known whose fault that is.
        let _release = silent(&lookups, &names).await;
        assert!(found().contains_key("a.example"));
        let other = patient.find_by("b.example", all, quick);
        let (_release, other) = tokio::join!(silent(&lookups, &names), other);
        other.unwrap();
        assert_eq!(found().into_keys().collect::<Vec<_>>(), ["b.example"]);
    }

    #[tokio::test(start_paused = true)]
    async fn who_was_found_the_longest_ago_is_forgotten_first() {
        let lookups = Lookups::new(Duration::from_secs(1));
        let tick = || tokio::time::advance(Duration::from_secs(1));
        lookups.remember("used.example");
        tick().await;
        lookups.remember("unused.example");
        tick().await;
        lookups.remember("used.example");
        tick().await;
        for number in 2..=REMEMBERED {
            lookups.remember(&format!("other{number}.example"));
        }
        let found = locked(&lookups.found);
        assert_eq!(found.len(), REMEMBERED);
        assert!(found.contains_key("used.example"));
        assert!(!found.contains_key("unused.example"));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn many_that_look_for_one_name_share_an_answer() {
        let lookups = Lookups::new(Duration::from_secs(60));
        let asked = Arc::new(Mutex::new(0));
        let looks = (0..40).map(|_| {
            let asked = Arc::clone(&asked);
            lookups.find_by("registry.example", all, move |name| {
                *locked(&asked) += 1;
                std::thread::sleep(Duration::from_millis(200));
                quick(name)
            })
        });
        for found in futures_util::future::join_all(looks).await {
            assert_eq!(found.unwrap().len(), 1);
        }
        assert_eq!(*locked(&asked), IN_ONE_DOMAIN);
    }
}
