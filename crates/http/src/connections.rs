//! Connections: how many there may be, in all and from one network, which goes when there are too many,
//! when idle ones end, and a way to cut one from outside. Behind a trusted proxy the requests of a client
//! are counted in their place.
//!
//! The framework holds a deadline for the headers of a connection's first request only, and notices
//! a client that does not read when nothing is left to send. So each connection is registered: one
//! without a request is cut when it was idle for too long, whatever it sends meanwhile, and the
//! kernel ends one whose client takes nothing (`TCP_USER_TIMEOUT`, tcp(7)).

use crate::HttpConfig;
use crate::client_address;
use actix_web::dev::Extensions;
use actix_web::rt::net::TcpStream;
use botstead_types::{UserId, network_of};
use rustix::net::{Shutdown, shutdown, sockopt};
use rustix::process::{Resource, getrlimit};
use std::any::Any;
use std::collections::HashMap;
use std::convert::Infallible;
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

/// How often idle connections are looked for.
const LOOK: Duration = Duration::from_secs(1);
/// Open files that are kept for everything but connections.
const FILES: u64 = 512;
/// How long a request of nobody who is known yet is spared: reading a sign-in and who asks takes less.
const INTRODUCTION: Duration = Duration::from_secs(1);
/// How often the log says that connections are refused.
const SAY: Duration = Duration::from_secs(60);

/// All connections of a server.
pub(crate) struct Connections {
    config: HttpConfig,
    most: usize,
    /// Of these from one network.
    most_of_one: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    all: HashMap<u64, Weak<Connection>>,
    of_network: HashMap<IpAddr, usize>,
    next: u64,
    said: Option<Instant>,
}

/// One connection, as its requests have it.
pub(crate) struct Connection {
    /// A second descriptor of the socket: it ends when this does.
    socket: OwnedFd,
    id: u64,
    /// Whose share it counts against; none where the peer is a trusted proxy.
    network: Option<IpAddr>,
    activity: Mutex<Activity>,
    /// Whether it was cut: its place is free as soon as that is noticed.
    cut: AtomicBool,
    connections: Arc<Connections>,
}

struct Activity {
    requests: usize,
    /// When the first of them began, or the last one ended.
    since: Instant,
    /// Whose share the request under way counts against, behind a trusted proxy.
    passed_on: Option<IpAddr>,
    introduced: Option<Who>,
    /// When the reply must be read that is held in memory, where one is.
    read_by: Option<Instant>,
}

/// Who a request is from, as far as that is known.
#[derive(Clone, Copy)]
pub(crate) enum Who {
    /// The user of its session.
    User(UserId),
    /// Nobody yet, but its sign-in is whole.
    SigningIn,
}

/// A request under way on a connection, until this is dropped.
pub(crate) struct UnderWay {
    connection: Arc<Connection>,
    /// Whose share it counts against, behind a trusted proxy.
    network: Option<IpAddr>,
}

/// A reply that is held in memory, until this is dropped.
pub(crate) struct Reading(Arc<Connection>);

/// What a connection does, and for how long.
#[derive(Clone, Copy)]
enum Standing {
    /// Nothing.
    Idle(Duration),
    /// A request of nobody who is known yet.
    Stranger(Duration),
    /// A request of a session, or a sign-in.
    Introduced(Who, Duration),
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Connections {
    pub(crate) fn new(config: HttpConfig) -> Arc<Self> {
        // Each takes two descriptors, and the server needs some for everything else.
        let open = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        let room = usize::try_from(open.saturating_sub(FILES) / 2).unwrap_or(usize::MAX);
        let most = config.max_connections.min(room.max(1));
        Arc::new(Self {
            most,
            most_of_one: config.max_connections_per_address.min(most / 2).max(1),
            config,
            state: Mutex::default(),
        })
    }

    /// What the server calls with every new connection, before it reads from it.
    pub(crate) fn opened(self: &Arc<Self>, io: &dyn Any, data: &mut Extensions) {
        let Some(stream) = io.downcast_ref::<TcpStream>() else {
            return;
        };
        match self.register(stream) {
            Ok(connection) => {
                data.insert(connection);
            }
            Err(error) => {
                // Most likely it is gone already, or no descriptor is left: it is not served.
                tracing::warn!(%error, "a connection cannot be taken");
                let _ = shutdown(stream, Shutdown::Both);
            }
        }
    }

    fn register(self: &Arc<Self>, stream: &TcpStream) -> std::io::Result<Arc<Connection>> {
        let timeout = u32::try_from(self.config.write_timeout.as_millis()).unwrap_or(u32::MAX);
        sockopt::set_tcp_user_timeout(stream, timeout)?;
        let peer = stream.peer_addr()?.ip();
        let trusted = client_address::is_trusted(peer, &self.config.trusted_proxies);
        let network = (!trusted).then(|| network_of(peer));
        let socket = stream.as_fd().try_clone_to_owned()?;
        let mut state = locked(&self.state);
        state.next += 1;
        let connection = Arc::new(Connection {
            socket,
            id: state.next,
            network,
            activity: Mutex::new(Activity {
                requests: 0,
                since: Instant::now(),
                passed_on: None,
                introduced: None,
                read_by: None,
            }),
            cut: AtomicBool::new(false),
            connections: Arc::clone(self),
        });
        let here = network.map_or(0, |network| state.count(network));
        state.all.insert(connection.id, Arc::downgrade(&connection));
        let crowded = here > self.most_of_one;
        let full = state.all.len() > self.most;
        let said = (crowded || full) && state.said.is_none_or(|said| said.elapsed() > SAY);
        if said {
            state.said = Some(Instant::now());
        }
        drop(state);
        if said {
            tracing::warn!(client = %peer, crowded, full, "connections are cut: there are too many");
        }
        // Who comes from a crowded network makes room there, whoever has the rest.
        let among = network.filter(|_| crowded);
        if (crowded || full) && !self.cut_another(connection.id, among) {
            connection.cut();
        }
        Ok(connection)
    }

    /// Cuts a connection other than this one, of a network where that is told; says whether there was one.
    fn cut_another(&self, than: u64, of: Option<IpAddr>) -> bool {
        let all: Vec<_> = locked(&self.state).all.values().cloned().collect();
        // Without the lock: whoever has a connection last takes it to let it go.
        let others: Vec<_> = all
            .iter()
            .filter_map(Weak::upgrade)
            .filter(|other| other.id != than && !other.cut.load(Ordering::Relaxed))
            .filter(|other| of.is_none() || other.counts_for() == of)
            .map(|other| (other.standing(), other))
            .collect();
        let other = dispensable(&others);
        other.inspect(|other| other.cut()).is_some()
    }

    /// Counts a request that a trusted proxy passes on for this client on this connection; none when there
    /// are as many as one may have, and none of them can go.
    fn passed_on(&self, client: IpAddr, connection: u64) -> Option<IpAddr> {
        let network = network_of(client);
        let crowded = locked(&self.state).count(network) > self.most_of_one;
        if crowded && !self.cut_another(connection, Some(network)) {
            locked(&self.state).discount(network);
            return None;
        }
        Some(network)
    }

    /// Cuts connections that were without a request for too long, or whose clients read too slowly what is
    /// held for them in memory. Does not end.
    pub(crate) async fn watch(&self) -> Infallible {
        // The framework closes those that are silent sooner, and politely.
        let most = self.config.keep_alive + self.config.header_timeout;
        loop {
            tokio::time::sleep(LOOK).await;
            let all: Vec<_> = locked(&self.state).all.values().cloned().collect();
            for connection in all.iter().filter_map(Weak::upgrade) {
                if connection.idle().is_some_and(|idle| idle > most) || connection.is_late() {
                    connection.cut();
                }
            }
        }
    }
}

impl State {
    fn count(&mut self, network: IpAddr) -> usize {
        let count = self.of_network.entry(network).or_default();
        *count += 1;
        *count
    }

    fn discount(&mut self, network: IpAddr) {
        if let Some(count) = self.of_network.get_mut(&network) {
            *count -= 1;
            if *count == 0 {
                self.of_network.remove(&network);
            }
        }
    }
}

/// Which connection goes when there are too many: the oldest request without a session that had the time to
/// get one, else what was idle for longest, else the oldest request without a session, else the oldest request
/// of the user who has the most, where they have several.
fn dispensable(all: &[(Standing, Arc<Connection>)]) -> Option<&Arc<Connection>> {
    let longest = |time: &dyn Fn(Standing) -> Option<Duration>| {
        let timed = all.iter().filter_map(|(it, one)| Some((time(*it)?, one)));
        timed.max_by_key(|(time, _)| *time).map(|(_, one)| one)
    };
    let stranger = |standing| match standing {
        Standing::Stranger(time) => Some(time),
        _ => None,
    };
    let idle = |standing| match standing {
        Standing::Idle(time) => Some(time),
        _ => None,
    };
    longest(&|standing| stranger(standing).filter(|time| *time >= INTRODUCTION))
        .or_else(|| longest(&idle))
        .or_else(|| longest(&stranger))
        .or_else(|| {
            let greedy = greediest(all)?;
            longest(&|standing| match standing {
                Standing::Introduced(Who::User(user), time) if user == greedy => Some(time),
                _ => None,
            })
        })
}

/// The user with the most requests, where they have several.
fn greediest(all: &[(Standing, Arc<Connection>)]) -> Option<UserId> {
    let mut of_user: HashMap<UserId, usize> = HashMap::new();
    for (standing, _) in all {
        if let Standing::Introduced(Who::User(user), _) = standing {
            *of_user.entry(*user).or_default() += 1;
        }
    }
    let most = of_user.into_iter().max_by_key(|(_, count)| *count);
    most.filter(|(_, count)| *count > 1).map(|(user, _)| user)
}

impl Connection {
    /// Says that a request of this client began; none when too many of them are under way behind trusted
    /// proxies.
    pub(crate) fn begin(self: &Arc<Self>, client: Option<IpAddr>) -> Option<UnderWay> {
        let trusted = &self.connections.config.trusted_proxies;
        // A connection of its own counts itself, and what a proxy does for itself is the proxy's.
        let passed_on = client.filter(|client| {
            self.network.is_none() && !client_address::is_trusted(*client, trusted)
        });
        let network = match passed_on {
            Some(client) => Some(self.connections.passed_on(client, self.id)?),
            None => None,
        };
        let mut activity = locked(&self.activity);
        if activity.requests == 0 {
            activity.since = Instant::now();
            activity.introduced = None;
        }
        activity.requests += 1;
        activity.passed_on = network;
        drop(activity);
        Some(UnderWay {
            connection: Arc::clone(self),
            network,
        })
    }

    /// Says that the request under way has a session, or is a whole sign-in: that has a place there, or is
    /// refused at once, and may wait for a second by itself.
    pub(crate) fn introduced(&self, who: Who) {
        locked(&self.activity).introduced = Some(who);
    }

    /// The network against whose share it counts now.
    fn counts_for(&self) -> Option<IpAddr> {
        let activity = locked(&self.activity);
        let passed_on = activity.passed_on.filter(|_| activity.requests > 0);
        self.network.or(passed_on)
    }

    fn standing(&self) -> Standing {
        let activity = locked(&self.activity);
        let time = activity.since.elapsed();
        match (activity.requests, activity.introduced) {
            (0, _) => Standing::Idle(time),
            (_, Some(who)) => Standing::Introduced(who, time),
            (_, None) => Standing::Stranger(time),
        }
    }

    /// Ends it at once, whatever is under way on it.
    pub(crate) fn cut(&self) {
        self.cut.store(true, Ordering::Relaxed);
        // One that is gone is what is wanted.
        let _ = shutdown(&self.socket, Shutdown::Both);
    }

    /// Says that a reply is held in memory until the client has read it, which must be in this time.
    pub(crate) fn reading(self: &Arc<Self>, time: Duration) -> Reading {
        locked(&self.activity).read_by = Instant::now().checked_add(time);
        Reading(Arc::clone(self))
    }

    fn is_late(&self) -> bool {
        let by = locked(&self.activity).read_by;
        by.is_some_and(|by| by < Instant::now())
    }

    /// How long it has been without a request; none while there is one.
    fn idle(&self) -> Option<Duration> {
        match self.standing() {
            Standing::Idle(time) => Some(time),
            Standing::Stranger(_) | Standing::Introduced(..) => None,
        }
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        locked(&self.0.activity).read_by = None;
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        if let Some(network) = self.network {
            locked(&self.connection.connections.state).discount(network);
        }
        let mut activity = locked(&self.connection.activity);
        activity.requests -= 1;
        activity.since = Instant::now();
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let mut state = locked(&self.connections.state);
        state.all.remove(&self.id);
        if let Some(network) = self.network {
            state.discount(network);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;
    use std::sync::mpsc;
    use std::thread;

    /// One end takes connections beyond the most while the other lets go of some that may be the
    /// longest idle at that moment.
    #[tokio::test]
    async fn connections_come_and_go_at_once_when_there_are_too_many() {
        const MOST: usize = 100;
        const PAIRS: usize = 20_000;
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap());
        let stream = client.await.unwrap();
        let connections = Connections::new(HttpConfig {
            max_connections: MOST,
            max_connections_per_address: usize::MAX,
            ..HttpConfig::default()
        });
        let (done, ended) = mpsc::channel();
        // Not joined: the fault that this looks for is that it never ends.
        thread::spawn(move || {
            let held = Mutex::new(VecDeque::new());
            let all_taken = AtomicBool::new(false);
            thread::scope(|scope| {
                scope.spawn(|| {
                    for _ in 0..PAIRS {
                        let taken = connections.register(&stream).unwrap();
                        locked(&held).push_back(taken);
                    }
                    all_taken.store(true, Ordering::SeqCst);
                });
                scope.spawn(|| {
                    while !all_taken.load(Ordering::SeqCst) {
                        let mut held = locked(&held);
                        let second = (held.len() > MOST).then(|| held.remove(1)).flatten();
                        drop(held);
                        drop(second);
                    }
                });
            });
            drop(held);
            let _ = done.send(locked(&connections.state).all.len());
        });
        let left =
            tokio::task::spawn_blocking(move || ended.recv_timeout(Duration::from_secs(300)));
        assert_eq!(
            left.await.unwrap(),
            Ok(0),
            "connections stand in each other's way"
        );
    }
}
