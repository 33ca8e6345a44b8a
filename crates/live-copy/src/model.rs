//! What the target holds: which source inode stands under which name, and as of when. Pure memory, no
//! access to any filesystem.
//!
//! Everything goes by inode, not by path. A directory keeps its [`DirId`] when it moves, and all names of
//! a file lead to one [`File`]. Hence a moved tree is one move in the target, a new hard link is one
//! link, and an event that names a file by an old name still finds it.
//!
//! Costs about 160 bytes per entry, and its name. It counts what it costs, for its user to give up in time.

use crate::sys::Handle;
use botstead_overlay::tree::kind;
use rustix::fs::{FileType, Statx, StatxTimestamp, Timestamps};
use std::collections::HashMap;
use std::ffi::CStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A file whose ctime is this close to the look at it may change again without a new ctime: before
/// Linux 6.13 ctime moves once per tick of the kernel's clock, 10 ms at the longest.
const RACY: Duration = Duration::from_millis(20);

/// What a name costs, and what stands under it, in bytes and roundly.
const NAME_COST: u64 = 64;
const FILE_COST: u64 = 112;
const DIR_COST: u64 = 240;

/// What all models of this process cost.
static COST: AtomicU64 = AtomicU64::new(0);

/// A directory of the model; valid for as long as the model is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct DirId(u32);

impl DirId {
    /// The root of source and target.
    pub(crate) const ROOT: Self = Self(0);
    /// Holds the directories that have left their place and may turn up at another. In the target it is a
    /// directory of ours in the root, in the source it is nothing.
    pub(crate) const LIMBO: Self = Self(1);

    fn index(self) -> usize {
        self.0 as usize
    }
}

/// What stands under a name of the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Node {
    Dir(DirId),
    /// The number of the source inode.
    File(u64),
    /// All whiteouts are alike, so that they have no identity.
    Whiteout,
}

/// What tells that nothing was changed when everything looks the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trust {
    /// The feed reports every change.
    Events,
    /// Nothing but the looks: not where the clock may have stood still.
    Looks,
}

/// As of when a copy was made: what the source's inode looked like before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seen {
    /// Nanoseconds since 1970.
    ctime: i64,
    mtime: i64,
    size: u64,
    kind: FileType,
    /// It may have changed in the same tick, so that all of the above is equal.
    is_racy: bool,
    /// The copy may be torn, whatever the above says.
    pub(crate) is_torn: bool,
}

impl Seen {
    /// `now` is the kernel's coarse clock before the look, in nanoseconds since 1970.
    pub(crate) fn new(stat: &Statx, now: i64) -> Self {
        let ctime = nanoseconds(&stat.stx_ctime);
        // Shorter than an i64 takes.
        let racy = RACY.as_nanos() as i64;
        Self {
            ctime,
            mtime: nanoseconds(&stat.stx_mtime),
            size: stat.stx_size,
            kind: kind(stat),
            is_racy: ctime >= now.saturating_sub(racy),
            is_torn: false,
        }
    }

    /// Whether an inode is what it was, going by `trust`.
    pub(crate) fn still(&self, stat: &Statx, trust: Trust) -> bool {
        let ticks = trust == Trust::Events || !self.is_racy;
        ticks && !self.is_torn && self.looks_like(stat)
    }

    fn looks_like(&self, stat: &Statx) -> bool {
        let other = Self {
            is_racy: self.is_racy,
            is_torn: self.is_torn,
            ..Self::new(stat, i64::MAX)
        };
        *self == other
    }

    /// In bytes.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    pub(crate) fn kind(&self) -> FileType {
        self.kind
    }
}

/// Nanoseconds since 1970. Saturates in the year 2262.
pub(crate) fn nanoseconds(time: &StatxTimestamp) -> i64 {
    let seconds = time.tv_sec.saturating_mul(1_000_000_000);
    seconds.saturating_add(i64::from(time.tv_nsec))
}

/// A name in a directory.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Place {
    pub(crate) dir: DirId,
    pub(crate) name: Arc<CStr>,
}

impl Place {
    /// The same without a share in the model's name.
    pub(crate) fn key(&self) -> (DirId, Box<CStr>) {
        (self.dir, (&*self.name).into())
    }
}

/// What is no directory and no whiteout.
#[derive(Debug)]
pub(crate) struct File {
    pub(crate) seen: Seen,
    place: Place,
    others: Vec<Place>,
}

impl File {
    /// One of the names that it has in the target.
    pub(crate) fn place(&self) -> &Place {
        &self.place
    }

    /// All of them.
    pub(crate) fn places(&self) -> impl Iterator<Item = &Place> {
        std::iter::once(&self.place).chain(&self.others)
    }
}

/// A directory of the source that the target has.
#[derive(Debug)]
pub(crate) struct Dir {
    pub(crate) parent: DirId,
    pub(crate) name: Arc<CStr>,
    pub(crate) ino: u64,
    /// Tells it from a later directory with the same number; absent where only the walk is used.
    pub(crate) handle: Option<Handle>,
    pub(crate) children: HashMap<Arc<CStr>, Node>,
    /// As of when its own metadata was copied.
    pub(crate) seen: Option<Seen>,
    pub(crate) times: Option<Timestamps>,
    /// The target's times are to be set: something was changed in it, or they are new.
    pub(crate) times_due: bool,
}

/// The times of access and modification.
pub(crate) fn times(stat: &Statx) -> Timestamps {
    botstead_overlay::meta::times(stat)
}

/// All that the target holds.
#[derive(Debug)]
pub(crate) struct Model {
    dirs: Vec<Dir>,
    files: HashMap<u64, File>,
    by_ino: HashMap<u64, DirId>,
    cost: u64,
}

impl Drop for Model {
    fn drop(&mut self) {
        COST.fetch_sub(self.cost, Ordering::Relaxed);
    }
}

impl Model {
    /// An empty target for a source whose root has this inode.
    pub(crate) fn new(ino: u64, handle: Option<Handle>) -> Self {
        let dir = |ino, handle| Dir {
            parent: DirId::ROOT,
            name: c"".into(),
            ino,
            handle,
            children: HashMap::new(),
            seen: None,
            times: None,
            times_due: false,
        };
        Self {
            dirs: vec![dir(ino, handle), dir(0, None)],
            files: HashMap::new(),
            by_ino: HashMap::from([(ino, DirId::ROOT)]),
            cost: 0,
        }
    }

    /// What this one costs, in bytes.
    pub(crate) fn cost(&self) -> u64 {
        self.cost
    }

    /// What all models of this process cost, in bytes.
    pub(crate) fn cost_of_all() -> u64 {
        COST.load(Ordering::Relaxed)
    }

    fn costs(&mut self, name: &CStr, more: u64) {
        let cost = NAME_COST + name.count_bytes() as u64 + more;
        self.cost += cost;
        COST.fetch_add(cost, Ordering::Relaxed);
    }

    fn saves(&mut self, name: &CStr, more: u64) {
        let cost = NAME_COST + name.count_bytes() as u64 + more;
        let cost = cost.min(self.cost);
        self.cost -= cost;
        COST.fetch_sub(cost, Ordering::Relaxed);
    }

    pub(crate) fn dir(&self, id: DirId) -> &Dir {
        &self.dirs[id.index()]
    }

    pub(crate) fn dir_mut(&mut self, id: DirId) -> &mut Dir {
        &mut self.dirs[id.index()]
    }

    /// Every directory but limbo, also those in it; parents before those made in them.
    pub(crate) fn dirs(&self) -> impl Iterator<Item = DirId> + use<> {
        // A u32 was checked when each was made.
        let all = (0..self.dirs.len() as u32).map(DirId);
        all.filter(|id| *id != DirId::LIMBO)
    }

    pub(crate) fn child(&self, dir: DirId, name: &CStr) -> Option<Node> {
        self.dir(dir).children.get(name).copied()
    }

    /// The directory with this inode number, wherever it is.
    pub(crate) fn dir_by_ino(&self, ino: u64) -> Option<DirId> {
        self.by_ino.get(&ino).copied()
    }

    pub(crate) fn file(&self, ino: u64) -> Option<&File> {
        self.files.get(&ino)
    }

    pub(crate) fn file_mut(&mut self, ino: u64) -> Option<&mut File> {
        self.files.get_mut(&ino)
    }

    /// How many inodes there are that are no directories.
    pub(crate) fn files(&self) -> usize {
        self.files.len()
    }

    /// Whether a directory is at a place of the tree, not in limbo.
    pub(crate) fn is_attached(&self, id: DirId) -> bool {
        !self.is_within(id, DirId::LIMBO)
    }

    /// Whether `id` is `ancestor` or below it.
    pub(crate) fn is_within(&self, id: DirId, ancestor: DirId) -> bool {
        self.ancestors(id).any(|above| above == ancestor)
    }

    /// The directory, its parent and so on, the root or limbo last.
    pub(crate) fn ancestors(&self, id: DirId) -> impl Iterator<Item = DirId> {
        std::iter::successors(Some(id), |id| {
            let top = matches!(*id, DirId::ROOT | DirId::LIMBO);
            (!top).then(|| self.dir(*id).parent)
        })
    }

    /// Adds a directory under a name that is free.
    pub(crate) fn add_dir(
        &mut self,
        parent: DirId,
        name: &CStr,
        ino: u64,
        handle: Option<Handle>,
    ) -> DirId {
        let id = DirId(u32::try_from(self.dirs.len()).expect("fewer inodes than any disk has"));
        let name: Arc<CStr> = name.into();
        self.dirs.push(Dir {
            parent,
            name: Arc::clone(&name),
            ino,
            handle,
            children: HashMap::new(),
            seen: None,
            times: None,
            times_due: true,
        });
        self.by_ino.insert(ino, id);
        self.costs(&name, DIR_COST);
        self.dir_mut(parent).children.insert(name, Node::Dir(id));
        id
    }

    /// Moves a directory to a name that is free, in no directory below it.
    pub(crate) fn move_dir(&mut self, id: DirId, parent: DirId, name: &CStr) {
        debug_assert!(!self.is_within(parent, id));
        let dir = self.dir(id);
        let (old_parent, old_name) = (dir.parent, Arc::clone(&dir.name));
        self.dir_mut(old_parent).children.remove(&old_name);
        let name: Arc<CStr> = name.into();
        let children = &mut self.dir_mut(parent).children;
        children.insert(Arc::clone(&name), Node::Dir(id));
        let dir = self.dir_mut(id);
        dir.parent = parent;
        dir.name = name;
    }

    /// Puts a whiteout under a name that is free.
    pub(crate) fn add_whiteout(&mut self, dir: DirId, name: &CStr) {
        self.costs(name, 0);
        let children = &mut self.dir_mut(dir).children;
        children.insert(name.into(), Node::Whiteout);
    }

    /// Gives a file a name that is free; its first when the file is new.
    pub(crate) fn link(&mut self, ino: u64, dir: DirId, name: &CStr, seen: impl FnOnce() -> Seen) {
        let name: Arc<CStr> = name.into();
        let place = Place {
            dir,
            name: Arc::clone(&name),
        };
        self.costs(&name, FILE_COST);
        match self.files.get_mut(&ino) {
            Some(file) => file.others.push(place),
            None => {
                let file = File {
                    seen: seen(),
                    place,
                    others: Vec::new(),
                };
                self.files.insert(ino, file);
            }
        }
        let children = &mut self.dir_mut(dir).children;
        children.insert(name, Node::File(ino));
    }

    /// Takes away the name of what is no directory.
    pub(crate) fn unlink(&mut self, dir: DirId, name: &CStr) {
        let ino = match self.dir_mut(dir).children.remove(name) {
            Some(Node::File(ino)) => ino,
            Some(Node::Whiteout) => return self.saves(name, 0),
            Some(Node::Dir(_)) | None => return,
        };
        self.saves(name, FILE_COST);
        let Some(file) = self.files.get_mut(&ino) else {
            return;
        };
        let is_it = |place: &Place| place.dir == dir && *place.name == *name;
        if !is_it(&file.place) {
            file.others.retain(|place| !is_it(place));
        } else if let Some(other) = file.others.pop() {
            file.place = other;
        } else {
            self.files.remove(&ino);
        }
    }

    /// The place of a name for messages: the last parts of it.
    pub(crate) fn path(&self, dir: DirId, name: &CStr) -> String {
        const SHOWN: usize = 8;
        let mut parts: Vec<_> = self
            .ancestors(dir)
            .take(SHOWN)
            .take_while(|id| *id != DirId::ROOT)
            .map(|id| self.dir(id).name.to_string_lossy())
            .collect();
        if parts.len() == SHOWN {
            parts.push("...".into());
        }
        parts.reverse();
        let name = name.to_string_lossy();
        if !name.is_empty() {
            parts.push(name);
        }
        if parts.is_empty() {
            "the root".to_owned()
        } else {
            parts.join("/")
        }
    }
}

#[cfg(test)]
mod tests;
