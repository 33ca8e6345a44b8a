//! The one inotify instance of this agent, which all watches share. The host's limit of instances is one for
//! all workspaces, as the root of each is the same user there (inotify(7)).
//!
//! Whoever asks first takes what the kernel has and hands it to all whose directories it is about; each has a
//! descriptor of the instance, so that each is woken. It is closed with the last watch.

use rustix::fd::{AsRawFd, OwnedFd};
use rustix::fs::inotify::{
    self, CreateFlags, ReadFlags, Reader, WatchFlags, add_watch, remove_watch,
};
use rustix::io::{Errno, Result};
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::tree::Watch;

/// Watches of one workspace at once.
const MOST_CALLS: usize = 64;
/// Directories that they watch together: the host's limit is one for all workspaces.
const MOST_WATCHES: usize = 65_536;
/// Events that wait for one of them.
const MOST_WAITING: usize = 8192;

const BUFFER: usize = 32 << 10;

/// What is told of a directory.
const WANTED: WatchFlags = WatchFlags::CREATE
    .union(WatchFlags::MODIFY)
    .union(WatchFlags::CLOSE_WRITE)
    .union(WatchFlags::ATTRIB)
    .union(WatchFlags::DELETE)
    .union(WatchFlags::MOVED_FROM)
    .union(WatchFlags::MOVED_TO)
    .union(WatchFlags::DELETE_SELF)
    .union(WatchFlags::MOVE_SELF)
    .union(WatchFlags::ONLYDIR)
    .union(WatchFlags::EXCL_UNLINK);

/// An event as the kernel gives it.
#[derive(Debug, Clone)]
pub(super) struct Raw {
    pub(super) watch: Watch,
    pub(super) flags: ReadFlags,
    pub(super) cookie: u32,
    pub(super) name: Vec<u8>,
}

/// The instance, while there is a watch.
#[derive(Debug, Clone, Default)]
pub(crate) struct Hub(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    instance: Option<OwnedFd>,
    next: u64,
    calls: HashMap<u64, Queue>,
    watches: HashMap<Watch, HashSet<u64>>,
}

/// What waits for one call.
#[derive(Debug, Default)]
struct Queue {
    events: VecDeque<Raw>,
    /// There was more than may wait.
    lost: bool,
}

impl Queue {
    fn push(&mut self, raw: &Raw) {
        match self.events.len() < MOST_WAITING {
            true => self.events.push_back(raw.clone()),
            false => self.lost = true,
        }
    }
}

impl Hub {
    /// A call's share of the instance. `MFILE` when the host has no more instances, `USERS` when the
    /// workspace has no more calls.
    pub(super) fn join(&self) -> Result<Subscription> {
        let mut state = self.state();
        if state.calls.len() >= MOST_CALLS {
            return Err(Errno::USERS);
        }
        if state.instance.is_none() {
            let flags = CreateFlags::NONBLOCK | CreateFlags::CLOEXEC;
            state.instance = Some(inotify::init(flags)?);
        }
        let own = state.instance.as_ref().map(OwnedFd::try_clone);
        let own = own.and_then(|cloned| cloned.ok()).ok_or(Errno::MFILE)?;
        let id = state.next;
        state.next += 1;
        state.calls.insert(id, Queue::default());
        drop(state);
        Ok(Subscription {
            hub: self.clone(),
            id,
            own: Arc::new(own),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Takes what the kernel has and hands it out.
    fn pump(&mut self) -> Result<()> {
        let Some(instance) = &self.instance else {
            return Ok(());
        };
        let mut buffer: Vec<u8> = Vec::with_capacity(BUFFER);
        let mut reader = Reader::new(instance, buffer.spare_capacity_mut());
        loop {
            let raw = match reader.next() {
                Ok(event) => Raw {
                    watch: event.wd(),
                    flags: event.events(),
                    cookie: event.cookie(),
                    name: event
                        .file_name()
                        .map_or(Vec::new(), |name| name.to_bytes().to_vec()),
                },
                Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::INTR) => continue,
                Err(errno) => return Err(errno),
            };
            if raw.flags.contains(ReadFlags::QUEUE_OVERFLOW) {
                self.calls.values_mut().for_each(|queue| queue.push(&raw));
                continue;
            }
            for id in self.watches.get(&raw.watch).into_iter().flatten() {
                if let Some(queue) = self.calls.get_mut(id) {
                    queue.push(&raw);
                }
            }
            // The kernel gives no number twice soon.
            if raw.flags.contains(ReadFlags::IGNORED) {
                self.watches.remove(&raw.watch);
            }
        }
    }

    fn unwatch(&mut self, id: u64, watch: Watch) {
        let Some(calls) = self.watches.get_mut(&watch) else {
            return;
        };
        calls.remove(&id);
        if calls.is_empty() {
            self.watches.remove(&watch);
            if let Some(instance) = &self.instance {
                // The kernel may have done so already, when the directory was removed.
                let _ = remove_watch(instance, watch);
            }
        }
    }
}

/// A call's share of the instance; its watches end with it.
#[derive(Debug)]
pub(super) struct Subscription {
    hub: Hub,
    id: u64,
    own: Arc<OwnedFd>,
}

impl Subscription {
    /// A descriptor that is readable when the kernel has something.
    pub(super) fn descriptor(&self) -> Arc<OwnedFd> {
        Arc::clone(&self.own)
    }

    /// Watches an open directory from now on.
    pub(super) fn watch(&self, directory: &OwnedFd) -> Result<Watch> {
        let mut state = self.hub.state();
        // What others were told of it before is nothing to this call.
        state.pump()?;
        let Some(instance) = &state.instance else {
            return Err(Errno::BADF);
        };
        // There is no way but by path; this one leads to what is open.
        let path = format!("/proc/self/fd/{}", directory.as_raw_fd());
        let watch = add_watch(instance, path, WANTED)?;
        state.watches.entry(watch).or_default().insert(self.id);
        if state.watches.len() > MOST_WATCHES {
            state.unwatch(self.id, watch);
            return Err(Errno::NOSPC);
        }
        Ok(watch)
    }

    /// Takes watches away.
    pub(super) fn unwatch(&self, watches: &[Watch]) {
        if watches.is_empty() {
            return;
        }
        let mut state = self.hub.state();
        for watch in watches {
            state.unwatch(self.id, *watch);
        }
        if let Some(queue) = state.calls.get_mut(&self.id) {
            queue.events.retain(|raw| !watches.contains(&raw.watch));
        }
    }

    /// What there is for this call; the last one says where something was lost.
    pub(super) fn take(&self) -> Result<VecDeque<Raw>> {
        let mut state = self.hub.state();
        state.pump()?;
        let Some(queue) = state.calls.get_mut(&self.id) else {
            return Ok(VecDeque::new());
        };
        let mut events = std::mem::take(&mut queue.events);
        if std::mem::take(&mut queue.lost) {
            events.push_back(Raw {
                watch: -1,
                flags: ReadFlags::QUEUE_OVERFLOW,
                cookie: 0,
                name: Vec::new(),
            });
        }
        Ok(events)
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut state = self.hub.state();
        state.calls.remove(&self.id);
        if state.calls.is_empty() {
            // The kernel drops all watches of an instance faster than one after the other.
            state.instance = None;
            state.watches = HashMap::new();
            return;
        }
        let own: Vec<Watch> = state
            .watches
            .iter()
            .filter(|(_, calls)| calls.contains(&self.id))
            .map(|(watch, _)| *watch)
            .collect();
        for watch in own {
            state.unwatch(self.id, watch);
        }
    }
}
