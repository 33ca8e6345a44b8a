//! The change feed: which names and files of a tree were changed since it was last asked, from a
//! fanotify mark on the whole filesystem. What to do about them is not known here.
//!
//! Directories are registered by their handles *before* they are listed. An event in a directory that is
//! not registered can then be dropped at once, for the price of one look into a hash table: whatever it
//! reports happened before that directory was listed. So other trees on the same filesystem cost next to
//! nothing, the copy's own target among them. Only the handles of files that were changed are kept from
//! everywhere, for a file may be changed by way of a hard link that is elsewhere by now.
//!
//! What the kernel reports, on the upper filesystem of an overlay mount, from Linux 6.5 on:
//! - events are queued inside of the system call, so that none is pending once tasks are frozen;
//! - a change of content names the file by its handle and by *one* name, which may be another hard link's
//!   or one that is gone;
//! - stores through a mapping are reported as `CLOSE_WRITE`, when mapping and descriptors are gone;
//! - the kernel keeps as many events as `fs.fanotify.max_queued_events` says, and then says that some were
//!   lost: the feed is given up for the walk before it costs more memory than that;
//! - not reported: `sendfile` (until the close), asynchronous direct writes (until the close), and inode
//!   flags (`chattr`) at all.

pub(crate) mod event;
pub(crate) mod probe;

use crate::model::DirId;
use crate::report::Reason;
use crate::sys::Handle;
use event::{Broken, CLOSE_WRITE, Event, MODIFY, events};
use nix::sys::fanotify::{EventFFlags, Fanotify, InitFlags, MarkFlags, MaskFlags};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::fd::{BorrowedFd, OwnedFd};
use rustix::io::{Errno, read, write};
use std::collections::{HashMap, HashSet};
use std::ffi::CStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// `FAN_REPORT_FID | FAN_REPORT_DIR_FID | FAN_REPORT_NAME` (linux/fanotify.h), which nix has no names for.
const REPORT_NAMES: u32 = 0x200 | 0x400 | 0x800;
/// Everything that is watched.
const ALL: MaskFlags = MaskFlags::FAN_MODIFY
    .union(MaskFlags::FAN_ATTRIB)
    .union(MaskFlags::FAN_CLOSE_WRITE)
    .union(MaskFlags::FAN_CREATE)
    .union(MaskFlags::FAN_DELETE)
    .union(MaskFlags::FAN_MOVE)
    .union(MaskFlags::FAN_ONDIR);
/// Holds some thousand events.
const BUFFER: usize = 256 << 10;
/// Between two readings the kernel merges what repeats.
const PAUSE: Duration = Duration::from_millis(3);
/// Names and files changed between two rounds; beyond it the walk is cheaper. About 25 MB, and 80 where
/// all names are as long as names can be.
const MOST: usize = 1 << 18;

/// What was changed since the last time.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    /// Names that came, went, or whose file was changed. `.` is the directory itself.
    pub(crate) names: HashMap<DirId, HashSet<Box<CStr>>>,
    /// Files that were changed, anywhere on the filesystem, and whether their content was.
    pub(crate) files: HashMap<Handle, bool>,
    /// Events that concerned this tree.
    pub(crate) events: u64,
    count: usize,
}

impl Changes {
    fn add(&mut self, known: &Known, event: &Event<'_>) {
        if let Some((dir, _)) = event.place
            && known.ignored.contains(dir)
        {
            return;
        }
        let dir = event
            .place
            .and_then(|(dir, _)| known.dirs.get(dir).copied());
        let content = event.mask & (MODIFY | CLOSE_WRITE) != 0;
        if let Some(file) = event.file {
            // Wherever it happened: the name may be another hard link's, in a directory that is not
            // registered (any longer) or overlayfs' own. Changes of the link count alone come without a
            // name, and with events for the names.
            if event.place.is_some() || content {
                match self.files.get_mut(file) {
                    Some(written) => *written |= content,
                    None => {
                        self.files.insert(Handle::from_bytes(file), content);
                        self.count += 1;
                    }
                }
            }
        }
        if let (Some(dir), Some((_, name))) = (dir, event.place) {
            self.events += 1;
            let names = self.names.entry(dir).or_default();
            if !names.contains(name) {
                names.insert(name.into());
                self.count += 1;
            }
        }
    }
}

/// The directories that are told apart.
#[derive(Debug, Default)]
struct Known {
    dirs: HashMap<Handle, DirId>,
    ignored: HashSet<Handle>,
}

#[derive(Debug)]
struct State {
    known: Known,
    changes: Changes,
    broken: Option<Reason>,
    buffer: Vec<u8>,
}

#[derive(Debug)]
struct Shared {
    group: Fanotify,
    /// Held while reading, so that whoever has it knows that nothing is read and not yet recorded.
    state: Mutex<State>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // Nobody panics while holding it; a state half changed would only hold more names.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads once; false when nothing was there.
    fn read(&self, state: &mut State) -> bool {
        let length = match read(&self.group, &mut state.buffer[..]) {
            Ok(length) => length,
            Err(Errno::AGAIN | Errno::INTR) => return false,
            Err(errno) => {
                state.broken = Some(Reason::Feed(errno.to_string()));
                return false;
            }
        };
        for event in events(&state.buffer[..length]) {
            match event {
                Ok(event) => state.changes.add(&state.known, &event),
                Err(Broken::Overflow) => state.broken = Some(Reason::Overflow),
                Err(Broken::Malformed) => {
                    state.broken = Some(Reason::Feed("a malformed event".to_owned()));
                }
            }
        }
        if state.changes.count > MOST {
            state.broken = Some(Reason::Overflow);
        }
        if state.broken.is_some() {
            state.changes = Changes::default();
        }
        true
    }
}

/// A running feed. Ends when dropped.
#[derive(Debug)]
pub(crate) struct Feed {
    shared: Arc<Shared>,
    wake: Arc<OwnedFd>,
    reader: Option<JoinHandle<()>>,
}

impl Feed {
    /// Starts to watch the filesystem of `root`. Nothing before that is reported.
    pub(crate) fn open(root: BorrowedFd<'_>) -> Result<Self, Reason> {
        let group = group()?;
        let watched = watch(&group, MarkFlags::FAN_MARK_ADD, ALL, root);
        watched.map_err(|errno| Reason::Feed(format!("cannot watch: {errno}")))?;
        let shared = Arc::new(Shared {
            group,
            state: Mutex::new(State {
                known: Known::default(),
                changes: Changes::default(),
                broken: None,
                buffer: vec![0; BUFFER],
            }),
        });
        let failed = |errno: Errno| Reason::Feed(format!("cannot read: {errno}"));
        let wake = Arc::new(eventfd(0, EventfdFlags::CLOEXEC).map_err(failed)?);
        let reader = thread::Builder::new()
            .name("change-feed".to_owned())
            .spawn({
                let (shared, wake) = (Arc::clone(&shared), Arc::clone(&wake));
                move || follow(&shared, &wake)
            });
        Ok(Self {
            shared,
            wake,
            reader: Some(reader.map_err(|error| Reason::Feed(error.to_string()))?),
        })
    }

    /// Stops reporting what is written by way of one mount: that of the target, where only the copy
    /// itself writes. A saving, nothing else.
    pub(crate) fn ignore(&self, mount: BorrowedFd<'_>) -> Result<(), Errno> {
        let flags =
            MarkFlags::FAN_MARK_ADD | MarkFlags::FAN_MARK_MOUNT | MarkFlags::FAN_MARK_IGNORE_SURV;
        let events = MaskFlags::FAN_MODIFY | MaskFlags::FAN_CLOSE_WRITE;
        let answer = self.shared.group.mark(flags, events, mount, Some("."));
        answer.map_err(|errno| Errno::from_raw_os_error(errno as i32))
    }

    /// Stops watching until [`resume`](Self::resume): while nobody changes the tree, the kernel need not
    /// report what the copy itself does.
    pub(crate) fn pause(&self, root: BorrowedFd<'_>) {
        // If it fails, it only takes longer. The mark stays, with one event of the least frequent.
        let events = ALL.difference(MaskFlags::FAN_MOVED_FROM);
        let _ = watch(&self.shared.group, MarkFlags::FAN_MARK_REMOVE, events, root);
    }

    /// Watches again. Fails, then and ever after, when the kernel refuses.
    pub(crate) fn resume(&self, root: BorrowedFd<'_>) {
        if let Err(errno) = watch(&self.shared.group, MarkFlags::FAN_MARK_ADD, ALL, root) {
            self.shared.state().broken = Some(Reason::Feed(format!("cannot watch: {errno}")));
        }
    }

    /// From now on reports changes in a directory. To be called before listing it.
    pub(crate) fn register(&self, handle: Handle, dir: DirId) {
        self.shared.state().known.dirs.insert(handle, dir);
    }

    /// From now on says nothing of files in a directory, such as one that the copy itself fills: its files
    /// are nobody else's. To be called before there are any.
    pub(crate) fn hide(&self, handle: Handle) {
        self.shared.state().known.ignored.insert(handle);
    }

    /// All changes since the last time, up to this moment.
    ///
    /// Fails, then and ever after, when some may have been lost.
    pub(crate) fn take(&self) -> Result<Changes, Reason> {
        let mut state = self.shared.state();
        while state.broken.is_none() && self.shared.read(&mut state) {}
        match &state.broken {
            Some(reason) => Err(reason.clone()),
            None => Ok(std::mem::take(&mut state.changes)),
        }
    }

    /// Looks at what is known to have changed since the last time. What the reader has not seen yet is
    /// missing.
    pub(crate) fn peek<T>(&self, look: impl FnOnce(&Changes) -> T) -> T {
        look(&self.shared.state().changes)
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        // Cannot fail: the counter is at zero.
        let _ = write(&*self.wake, &1_u64.to_ne_bytes());
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

/// Adds events to what is reported of a filesystem, or takes them away.
fn watch(
    group: &Fanotify,
    change: MarkFlags,
    events: MaskFlags,
    root: BorrowedFd<'_>,
) -> nix::Result<()> {
    group.mark(
        change | MarkFlags::FAN_MARK_FILESYSTEM,
        events,
        root,
        Some("."),
    )
}

/// A group that reports names.
fn group() -> Result<Fanotify, Reason> {
    let flags = InitFlags::FAN_CLASS_NOTIF
        | InitFlags::FAN_CLOEXEC
        | InitFlags::FAN_NONBLOCK
        | InitFlags::from_bits_retain(REPORT_NAMES);
    Fanotify::init(flags, EventFFlags::O_RDONLY)
        .map_err(|errno| Reason::Feed(format!("cannot open it: {errno}")))
}

/// Reads until woken, so that the kernel's queue stays short.
fn follow(shared: &Shared, wake: &OwnedFd) {
    loop {
        let mut wanted = [
            PollFd::new(&shared.group, PollFlags::IN),
            PollFd::new(wake, PollFlags::IN),
        ];
        match poll(&mut wanted, None) {
            Ok(_) => {}
            Err(Errno::INTR) => continue,
            Err(errno) => {
                shared.state().broken = Some(Reason::Feed(errno.to_string()));
                return;
            }
        }
        if !wanted[1].revents().is_empty() {
            return;
        }
        // All that is there: the queue is short, and whoever writes may be many.
        loop {
            let mut state = shared.state();
            let more = shared.read(&mut state);
            if state.broken.is_some() {
                return;
            }
            if !more {
                break;
            }
        }
        thread::sleep(PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fd::AsFd;
    use std::fs::{self, File};

    #[test]
    fn more_events_than_the_kernel_keeps_are_an_overflow_and_not_more_memory() {
        let most = fs::read_to_string("/proc/sys/fs/fanotify/max_queued_events");
        let most: usize = most.unwrap().trim().parse().unwrap();
        let folder = tempfile::tempdir_in("/var/tmp").unwrap();
        let root = File::open(folder.path()).unwrap();
        let feed = Feed::open(root.as_fd()).expect("these tests need root");
        {
            // Nobody reads, as on a machine that is too busy.
            let _held = feed.shared.state();
            // Each is an event of its own at least.
            for number in 0..=most {
                File::create(folder.path().join(number.to_string())).unwrap();
            }
        }
        assert_eq!(feed.take().unwrap_err(), Reason::Overflow);
        assert_eq!(feed.take().unwrap_err(), Reason::Overflow, "for good");
    }
}
