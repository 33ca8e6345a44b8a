//! The walk through two trees at once, in the order of names, from any place on.

use super::same::same;
use super::{Change, Difference, Differences};
use crate::beneath::{self, batches};
use crate::error::shown;
use crate::tree::{Attributes, Mark, kind, mark, names, stat_at};
use crate::{Error, PrivateMount};
use rustix::fd::OwnedFd;
use rustix::fs::{CWD, FileType, Mode, OFlags, Statx, openat};
use rustix::io::Errno;
use std::collections::{BTreeSet, VecDeque};
use std::ffi::CString;
use std::path::PathBuf;

/// How many names of a directory are held at once.
const NAMES: usize = 16_384;
/// How many are read at once.
const BATCH: usize = 1024;

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY);

/// Which names of a directory may differ.
#[derive(Debug, Clone)]
enum Scope {
    /// All that the trees have: the old, the new, or both.
    All([bool; 2]),
    /// Those that one of these layers has; each has the directory, and merges it with those below.
    Layers(Vec<usize>),
}

/// A directory that the walk is in.
struct Frame {
    /// How long the path is without it.
    above: usize,
    scope: Scope,
    names: VecDeque<CString>,
    /// Where the next names are to be read from, when there are more.
    more: Option<CString>,
}

struct Walk<'a> {
    sides: &'a [PrivateMount; 2],
    /// The layers that are not common, each on its own.
    layers: Vec<OwnedFd>,
    path: Vec<u8>,
    /// The present directory in each tree.
    dirs: [Option<OwnedFd>; 2],
    frames: Vec<Frame>,
    /// The parts of the way to where the walk begins.
    resume: VecDeque<CString>,
    items: Vec<Difference>,
    most: usize,
}

pub(super) fn walk(
    sides: &[PrivateMount; 2],
    above: Option<&[&PathBuf]>,
    after: Option<&[u8]>,
    most: usize,
) -> Result<Differences, Error> {
    let scope = match above {
        None => Scope::All([true; 2]),
        Some(above) => Scope::Layers((0..above.len()).collect()),
    };
    let layer = |path: &&PathBuf| {
        let flags = DIRECTORY | OFlags::CLOEXEC;
        openat(CWD, path.as_path(), flags, Mode::empty())
            .map_err(|errno| Error::io("open", path.display(), errno))
    };
    let parts = after.unwrap_or_default().split(|byte| *byte == b'/');
    // What is no name ends the way there.
    let parts = parts.map(|part| CString::new(part).unwrap_or_default());
    let mut walk = Walk {
        sides,
        layers: above
            .unwrap_or_default()
            .iter()
            .map(layer)
            .collect::<Result<_, _>>()?,
        path: Vec::new(),
        dirs: [None, None],
        frames: Vec::new(),
        resume: parts.take_while(|part| !part.is_empty()).collect(),
        items: Vec::new(),
        most,
    };
    let complete = walk.run(scope)?;
    let last = walk.items.last().map(|last| last.path.clone());
    Ok(Differences {
        next: last.filter(|_| !complete),
        items: walk.items,
    })
}

impl Walk<'_> {
    /// False when the page was full before the end.
    fn run(&mut self, scope: Scope) -> Result<bool, Error> {
        self.enter(0, scope)?;
        while let Some(frame) = self.frames.last_mut() {
            if let Some(name) = frame.names.pop_front() {
                if !self.name(&name)? {
                    return Ok(false);
                }
            } else if let Some(last) = frame.more.take() {
                self.read(&last, false)?;
            } else {
                self.leave()?;
            }
        }
        Ok(true)
    }

    /// Looks at a name of the present directory; false when it differs and the page is full.
    fn name(&mut self, name: &CString) -> Result<bool, Error> {
        // On the way to where an earlier page ended, everything was said already.
        let said = self.resume.front() == Some(name);
        if said {
            self.resume.pop_front();
        } else {
            self.resume.clear();
        }
        let above = self.path.len();
        if above > 0 {
            self.path.push(b'/');
        }
        self.path.extend_from_slice(name.to_bytes());
        let stats = [self.stat(0, name)?, self.stat(1, name)?];
        if !said && let Some(found) = self.compare(name, &stats)? {
            if self.items.len() == self.most {
                return Ok(false);
            }
            self.items.push(found);
        }
        let directory = |stat: &Option<Statx>| {
            stat.as_ref()
                .is_some_and(|stat| kind(stat) == FileType::Directory)
        };
        let sides = [directory(&stats[0]), directory(&stats[1])];
        if sides == [false; 2] {
            self.path.truncate(above);
            return Ok(true);
        }
        let scope = self.below(sides)?;
        self.enter(above, scope)?;
        Ok(true)
    }

    fn stat(&self, side: usize, name: &CString) -> Result<Option<Statx>, Error> {
        let Some(dir) = &self.dirs[side] else {
            return Ok(None);
        };
        match stat_at(dir, name) {
            Err(Errno::NOENT) => Ok(None),
            stat => stat
                .map(Some)
                .map_err(|errno| self.failed("look at", errno)),
        }
    }

    fn compare(
        &self,
        name: &CString,
        stats: &[Option<Statx>; 2],
    ) -> Result<Option<Difference>, Error> {
        let (change, stat) = match (&stats[0], &stats[1], &self.dirs) {
            (None, None, _) => return Ok(None),
            (None, Some(new), _) => (Change::Added, new),
            (Some(old), None, _) => (Change::Removed, old),
            (Some(old), Some(new), [Some(in_old), Some(in_new)]) => {
                let same = same([in_old, in_new], name, [old, new]);
                if same.map_err(|errno| self.failed("compare", errno))? {
                    return Ok(None);
                }
                (Change::Changed, new)
            }
            // What has no directory has no entry of it.
            (Some(_), Some(_), _) => return Ok(None),
        };
        Ok(Some(Difference::new(&self.path, change, stat)))
    }

    /// What may differ in the directory of the present path, which these sides have.
    fn below(&self, sides: [bool; 2]) -> Result<Scope, Error> {
        let Some(Frame {
            scope: Scope::Layers(above),
            ..
        }) = self.frames.last()
        else {
            return Ok(Scope::All(sides));
        };
        let mut layers = Vec::new();
        for &layer in above {
            match beneath::open(&self.layers[layer], &self.path, DIRECTORY) {
                Ok(directory) if self.merges(&directory)? => layers.push(layer),
                Err(Errno::NOENT) => {}
                // Something that hides what is below, so that all of that may differ.
                Ok(_) | Err(Errno::NOTDIR | Errno::LOOP) => return Ok(Scope::All(sides)),
                Err(errno) => return Err(self.failed("open", errno)),
            }
        }
        Ok(match sides {
            [true, true] => Scope::Layers(layers),
            sides => Scope::All(sides),
        })
    }

    /// Whether a layer's directory only adds to those of this name below.
    fn merges(&self, directory: &OwnedFd) -> Result<bool, Error> {
        let list = Attributes::of(directory).list();
        let list = list.map_err(|errno| self.failed("read the attributes of", errno))?;
        let plain = |name: &std::ffi::CStr| {
            matches!(mark(name.to_bytes()), Mark::Foreign | Mark::Bookkeeping)
        };
        Ok(names(&list).all(plain))
    }

    /// Goes into the directory of the present path.
    fn enter(&mut self, above: usize, scope: Scope) -> Result<(), Error> {
        self.frames.push(Frame {
            above,
            scope,
            names: VecDeque::new(),
            more: None,
        });
        self.open()?;
        let from = self.resume.front().cloned().unwrap_or_default();
        self.read(&from, true)
    }

    fn leave(&mut self) -> Result<(), Error> {
        if let Some(left) = self.frames.pop() {
            self.path.truncate(left.above);
        }
        if self.frames.is_empty() {
            return Ok(());
        }
        self.open()
    }

    /// Opens the directory of the present path in the trees that have it.
    fn open(&mut self) -> Result<(), Error> {
        let sides = match self.frames.last().map(|frame| &frame.scope) {
            Some(Scope::All(sides)) => *sides,
            _ => [true; 2],
        };
        for (side, has) in sides.into_iter().enumerate() {
            self.dirs[side] = None;
            if has {
                let opened = beneath::open(self.sides[side].root(), &self.path, DIRECTORY);
                self.dirs[side] = Some(opened.map_err(|errno| self.failed("open", errno))?);
            }
        }
        Ok(())
    }

    /// Reads names of the present directory: the first from `from` on, in order.
    fn read(&mut self, from: &CString, inclusive: bool) -> Result<(), Error> {
        let Some(frame) = self.frames.last() else {
            return Ok(());
        };
        let opened =
            |opened: Result<OwnedFd, Errno>| opened.map_err(|errno| self.failed("open", errno));
        let directories = match &frame.scope {
            Scope::All(_) => {
                let roots = self
                    .sides
                    .iter()
                    .zip(&self.dirs)
                    .filter(|(_, dir)| dir.is_some());
                let open = |(side, _): (&PrivateMount, _)| {
                    opened(beneath::open(side.root(), &self.path, DIRECTORY))
                };
                roots.map(open).collect::<Result<Vec<_>, _>>()?
            }
            Scope::Layers(layers) => {
                let open = |layer: &usize| {
                    opened(beneath::open(&self.layers[*layer], &self.path, DIRECTORY))
                };
                layers.iter().map(open).collect::<Result<Vec<_>, _>>()?
            }
        };
        let mut first = BTreeSet::new();
        let mut more = false;
        for directory in directories {
            let read = batches(&directory, BATCH, |batch| {
                for entry in batch {
                    let name = entry.name;
                    if name < *from || (name == *from && !inclusive) {
                        continue;
                    }
                    first.insert(name);
                    if first.len() > NAMES {
                        first.pop_last();
                        more = true;
                    }
                }
                Ok::<_, Errno>(())
            });
            read.map_err(|errno| self.failed("read", errno))?;
        }
        if let Some(frame) = self.frames.last_mut() {
            frame.more = if more { first.last().cloned() } else { None };
            frame.names = first.into_iter().collect();
        }
        Ok(())
    }

    fn failed(&self, operation: &'static str, errno: Errno) -> Error {
        Error::io(operation, shown(&self.path), errno)
    }
}
