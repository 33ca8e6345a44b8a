//! Putting watches on a tree: on a directory first, then on what is in it, so that nothing comes into
//! it unseen.

use super::hub::Subscription;
use super::tree::{Tree, Watch};
use crate::files::path::child;
use crate::files::pieces::Budget;
use crate::files::walk::{Step, Walk};
use rustix::fd::OwnedFd;
use rustix::io::{Errno, Result};
use std::collections::{HashMap, HashSet};

/// The watches of one call.
#[derive(Debug)]
pub(super) struct Watches {
    pub(super) subscription: Subscription,
    pub(super) tree: Tree,
    most: usize,
    /// There were more directories than may be watched.
    pub(super) truncated: bool,
}

impl Watches {
    pub(super) fn new(subscription: Subscription, top: Watch, most: usize) -> Self {
        Self {
            subscription,
            tree: Tree::new(top),
            most,
            truncated: false,
        }
    }

    /// Watches a directory that has this name in a watched one; `None` when it may not be watched.
    fn add(&mut self, parent: Watch, name: &[u8], directory: &OwnedFd) -> Result<Option<Watch>> {
        if self.tree.len() >= self.most {
            self.truncated = true;
            return Ok(None);
        }
        match self.subscription.watch(directory) {
            Ok(watch) => {
                let replaced = self.tree.insert(parent, name, watch);
                self.unwatch(replaced);
                Ok(Some(watch))
            }
            // The limit of watches, the user's or the workspace's, or memory.
            Err(Errno::NOSPC | Errno::NOMEM) => {
                self.truncated = true;
                Ok(None)
            }
            Err(Errno::NOENT | Errno::NOTDIR | Errno::ACCESS) => Ok(None),
            Err(errno) => Err(errno),
        }
    }

    /// Takes watches away whose directories are not in the tree any more.
    pub(super) fn unwatch(&self, watches: Vec<Watch>) {
        self.subscription.unwatch(&watches);
    }
}

/// A walk that puts watches on what is below a directory which is watched.
#[derive(Debug)]
pub(super) struct Scan {
    walk: Walk,
    /// The watches of the directories that the walk is in.
    chain: Vec<Watch>,
    /// Whether entries are new to the client.
    pub(super) tells: bool,
    /// Every directory, where those are to be forgotten that are there no more.
    pub(super) seen: Option<HashSet<Watch>>,
}

/// An entry that a scan found.
#[derive(Debug)]
pub(super) struct Fresh {
    pub(super) directory: Watch,
    pub(super) name: Vec<u8>,
    pub(super) is_directory: bool,
}

impl Scan {
    /// A scan of a directory that is watched.
    pub(super) fn new(directory: OwnedFd, watch: Watch, tells: bool) -> Result<Self> {
        Ok(Self {
            walk: Walk::new(directory, None)?,
            chain: vec![watch],
            tells,
            seen: None,
        })
    }

    /// Watches a directory that appeared under a name and begins a scan of it.
    pub(super) fn of_new(
        watches: &mut Watches,
        parent: Watch,
        name: &[u8],
        directory: OwnedFd,
    ) -> Result<Option<Self>> {
        match watches.add(parent, name, &directory)? {
            Some(watch) => Self::new(directory, watch, true).map(Some),
            None => Ok(None),
        }
    }

    /// Goes on; true at the end. What is found is added to `found`, at most some thousand entries.
    pub(super) fn step(
        &mut self,
        watches: &mut Watches,
        budget: &Budget,
        found: &mut Vec<Fresh>,
    ) -> Result<bool> {
        const AT_ONCE: usize = 1000;
        while !budget.spent() && found.len() < AT_ONCE {
            let step = match self.walk.next() {
                // Moved or removed: what it is now is told by events.
                Err(Errno::STALE) => return Ok(true),
                Err(Errno::ACCESS | Errno::NOENT | Errno::IO) => {
                    self.walk.give_up();
                    continue;
                }
                step => step?,
            };
            match step {
                Step::Entry(name, kind) => {
                    if let (true, Some(directory)) = (self.tells, self.chain.last()) {
                        found.push(Fresh {
                            directory: *directory,
                            name,
                            is_directory: kind == rustix::fs::FileType::Directory,
                        });
                    }
                }
                Step::Below(name) => self.enter(watches, name)?,
                Step::Left(_) => {
                    self.chain.pop();
                }
                Step::End => return Ok(true),
            }
        }
        Ok(false)
    }

    fn enter(&mut self, watches: &mut Watches, name: Vec<u8>) -> Result<()> {
        let Some(parent) = self.chain.last().copied() else {
            return Ok(());
        };
        let shown = name.clone();
        match self.walk.enter(name) {
            Ok(true) => {}
            Ok(false) | Err(Errno::ACCESS) => return Ok(()),
            Err(errno) => return Err(errno),
        }
        match watches.add(parent, &shown, self.walk.cursor().here())? {
            Some(watch) => {
                if let Some(seen) = &mut self.seen {
                    seen.insert(watch);
                }
                self.chain.push(watch);
            }
            None => {
                // So that the way back finds its parent.
                self.chain.push(parent);
                self.walk.give_up();
            }
        }
        Ok(())
    }
}

/// Names that a scan told of, so that events of the time before it was done do not tell them again.
#[derive(Debug, Default)]
pub(super) struct Told(HashMap<Watch, HashSet<Vec<u8>>>);

impl Told {
    pub(super) fn add(&mut self, fresh: &Fresh) {
        self.0
            .entry(fresh.directory)
            .or_default()
            .insert(fresh.name.clone());
    }

    /// Whether a scan told of a name; an event is left out once.
    pub(super) fn take(&mut self, directory: Watch, name: &[u8]) -> bool {
        self.0
            .get_mut(&directory)
            .is_some_and(|names| names.remove(name))
    }

    /// The events of that time are all handled.
    pub(super) fn clear(&mut self) {
        self.0 = HashMap::new();
    }
}

/// The path of what a watch tells of, below a base.
pub(super) fn path(tree: &Tree, base: &[u8], directory: Watch, name: &[u8]) -> Option<Vec<u8>> {
    let below = tree.path(directory, name)?;
    Some(match below.is_empty() {
        true => base.to_vec(),
        false => child(base, &below),
    })
}
