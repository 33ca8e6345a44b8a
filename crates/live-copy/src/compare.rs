//! Looking, in several threads, at what the source has now against what the model says that the target
//! has. Reads only, and changes nothing.

use crate::Error;
use crate::dirs::{Dirs, is_gone};
use crate::halt::{Halt, Step};
use crate::mirror::NAME_COST;
use crate::model::{DirId, Model, Node, Trust};
use crate::stop::Stop;
use botstead_overlay::tree::{is_whiteout, stat_at, stat_fd};
use rustix::fd::{BorrowedFd, OwnedFd};
use rustix::fs::{FileType, RawDir, SeekFrom, Statx, seek};
use rustix::io::{Errno, Result};
use std::collections::HashSet;
use std::ffi::CStr;
use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// More gain nothing: the kernel's own locks are what is waited for.
const THREADS: usize = 2;
/// Directories that a thread takes at once: near each other, so that few have to be opened anew.
const DIRS_AT_ONCE: usize = 32;
/// The same for names.
const NAMES_AT_ONCE: usize = 128;
/// Fewer names are looked at faster than a thread is started.
const WORTH_A_THREAD: usize = 256;
/// Holds many entries.
const BUFFER: usize = 64 << 10;

/// What is not as the target has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Finding {
    /// A name that came, went, or whose entry was changed.
    Name(DirId, Box<CStr>),
    /// A directory whose own metadata was changed.
    Metadata(DirId),
    /// A directory that is not where the model has it, so that it was not looked at.
    PassedOver(DirId),
}

/// Looks at the whole tree below `root`, the source's. Directories that are not where the model has them
/// are passed over. The findings hold their names as well, unless they move at the same time. Findings
/// that take more than `memory_limit` bytes are too many.
pub(crate) fn walk(
    model: &Model,
    root: BorrowedFd<'_>,
    memory_limit: u64,
    stop: Stop<'_>,
) -> Step<Vec<Finding>> {
    let most = usize::try_from(memory_limit / NAME_COST).unwrap_or(usize::MAX);
    let all: Vec<DirId> = model.dirs().collect();
    in_threads(
        root,
        &all,
        DIRS_AT_ONCE,
        stop,
        |dirs, id, found| match directory(model, dirs, *id, most, found) {
            Ok(()) => Ok(()),
            Err(Errno::NOBUFS) => Err(Error::TooManyEntries {
                limit: memory_limit,
            }
            .into()),
            Err(errno) if is_gone(errno) => {
                found.push(Finding::PassedOver(*id));
                Ok(())
            }
            Err(errno) => {
                let path = model.path(*id, c"");
                Err(Error::io("look at", path, errno).into())
            }
        },
    )
}

/// Looks at some names below `root`, all of whose changes the feed reports.
pub(crate) fn names(
    model: &Model,
    root: BorrowedFd<'_>,
    names: &[(DirId, Box<CStr>)],
    stop: Stop<'_>,
) -> Step<Vec<Finding>> {
    in_threads(
        root,
        names,
        NAMES_AT_ONCE,
        stop,
        |dirs, (id, name), found| {
            let same = match dirs.open(model, *id) {
                Ok(dir) => match stat_at(&*dir, name) {
                    Ok(stat) => is_same(model, model.child(*id, name), &stat, Trust::Events),
                    Err(errno) if is_gone(errno) => model.child(*id, name).is_none(),
                    Err(errno) => {
                        return Err(Error::io("look at", model.path(*id, name), errno).into());
                    }
                },
                // Nothing of it is in the target's tree, or its own name was found as well.
                Err(errno) if is_gone(errno) => !model.is_attached(*id),
                Err(errno) => return Err(Error::io("open", model.path(*id, c""), errno).into()),
            };
            if !same {
                found.push(Finding::Name(*id, name.clone()));
            }
            Ok(())
        },
    )
}

fn in_threads<T: Sync>(
    root: BorrowedFd<'_>,
    items: &[T],
    at_once: usize,
    stop: Stop<'_>,
    look: impl Fn(&mut Dirs, &T, &mut Vec<Finding>) -> Step<()> + Sync,
) -> Step<Vec<Finding>> {
    let next = AtomicUsize::new(0);
    let failed = |errno| Halt::from(Error::io("open", "the root", errno));
    let work = || {
        // Each thread opens its own: they remember where they are.
        let mut dirs = Dirs::source(root).map_err(failed)?;
        let mut found = Vec::new();
        loop {
            let start = next.fetch_add(at_once, Ordering::Relaxed);
            let Some(part) = items.get(start..items.len().min(start + at_once)) else {
                return Ok(found);
            };
            for item in part {
                if stop.is_due() {
                    return Err(Halt::stopped(stop));
                }
                look(&mut dirs, item, &mut found)?;
            }
        }
    };
    let helpers = if items.len() < WORTH_A_THREAD {
        0
    } else {
        THREADS - 1
    };
    thread::scope(|scope| {
        let running: Vec<_> = (0..helpers).map(|_| scope.spawn(work)).collect();
        let mut found = work()?;
        for thread in running {
            // It only fails when it panicked, which this thread then does too.
            found.extend(
                thread
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))?,
            );
        }
        Ok(found)
    })
}

fn directory(
    model: &Model,
    dirs: &mut Dirs,
    id: DirId,
    most: usize,
    found: &mut Vec<Finding>,
) -> Result<()> {
    let dir = model.dir(id);
    // Those in limbo are nowhere.
    let fd = dirs.open(model, id)?;
    let stat = stat_fd(&*fd)?;
    if !dir.seen.is_some_and(|seen| seen.still(&stat, Trust::Looks)) {
        found.push(Finding::Metadata(id));
    }
    seek(&*fd, SeekFrom::Start(0))?;
    let mut buffer = [MaybeUninit::uninit(); BUFFER];
    let mut entries = RawDir::new(&*fd, &mut buffer);
    let mut known = 0;
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        let child = dir.children.get(name).copied();
        known += usize::from(child.is_some());
        let same = match (child, entry.file_type()) {
            (None, _) => false,
            (Some(Node::Dir(child)), FileType::Directory) => model.dir(child).ino == entry.ino(),
            (child, _) => match stat_at(&*fd, name) {
                Ok(stat) => is_same(model, child, &stat, Trust::Looks),
                Err(errno) if is_gone(errno) => false,
                Err(errno) => return Err(errno),
            },
        };
        if !same {
            if found.len() >= most {
                return Err(Errno::NOBUFS);
            }
            found.push(Finding::Name(id, name.into()));
        }
    }
    if known < dir.children.len() {
        missing(&fd, model, id, found)?;
    }
    Ok(())
}

/// The names that the model has and the directory has not.
fn missing(fd: &OwnedFd, model: &Model, id: DirId, found: &mut Vec<Finding>) -> Result<()> {
    seek(fd, SeekFrom::Start(0))?;
    let listed: HashSet<_> = botstead_overlay::tree::entries(fd)?
        .into_iter()
        .map(|(name, _)| name)
        .collect();
    let gone = model
        .dir(id)
        .children
        .keys()
        .filter(|name| !listed.contains(&***name));
    found.extend(gone.map(|name| Finding::Name(id, (&**name).into())));
    Ok(())
}

fn is_same(model: &Model, child: Option<Node>, stat: &Statx, trust: Trust) -> bool {
    match child {
        None => false,
        Some(Node::Whiteout) => is_whiteout(stat),
        Some(Node::Dir(id)) => {
            botstead_overlay::tree::kind(stat) == FileType::Directory
                && model.dir(id).ino == stat.stx_ino
        }
        Some(Node::File(ino)) => {
            ino == stat.stx_ino
                && model
                    .file(ino)
                    .is_some_and(|file| file.seen.still(stat, trust))
        }
    }
}
