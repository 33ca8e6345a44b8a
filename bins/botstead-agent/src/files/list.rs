//! `Stat` and `List`.

use super::directory::{Choice, Item};
use super::entry::{entry, look};
use super::failure::{Result, failed, refused};
use super::path::{below, child, is_plain};
use super::pieces::{Budget, Job};
use super::root::{Root, is_virtual, locate, stat_fd};
use super::walk::{Step, Walk};
use botstead_bridge::{Failure, FailureKind, proto};
use rustix::fd::OwnedFd;
use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;

/// Entries of a page.
const MOST_ENTRIES: u32 = 1000;

/// Bytes of paths and links' targets of a page, about, so that very long ones do not make an answer that is too large.
const MOST_BYTES: usize = 1 << 20;

pub(super) fn stat(request: proto::StatRequest) -> Result<proto::Entry> {
    let (root, path) = locate(request.at)?;
    if request.follow || path.split().is_none() {
        let fd = root
            .open_at(&path, OFlags::PATH)
            .map_err(|errno| failed("look at", path.absolute(), errno))?;
        let stat = stat_fd(&fd).map_err(|errno| failed("look at", path.absolute(), errno))?;
        let mut entry = entry(root.path_of(&fd, &path), &stat);
        if is_virtual(&fd).unwrap_or(false) {
            entry.revision.clear();
        }
        return Ok(entry);
    }
    let place = root.place(&path)?;
    look(&root, &place.directory, &place.name, place.path.clone())
}

/// A listing that has begun.
#[derive(Debug)]
pub(super) enum Listing {
    Flat(Flat),
    Recursive(Box<Recursive>),
}

pub(super) fn begin(request: proto::ListRequest) -> Result<Listing> {
    if !(1..=MOST_ENTRIES).contains(&request.limit) {
        let words = format!("limit: between 1 and {MOST_ENTRIES}");
        return Err(Failure::new(FailureKind::Invalid, words));
    }
    let (root, path) = locate(request.at)?;
    let (directory, real) = root.open_directory(&path)?;
    let after = match request.after.as_ref() {
        b"" => None,
        after => Some(
            below(&real, after)
                .filter(|rest| is_plain(rest))
                .ok_or_else(|| {
                    let words = "a listing goes on after a path of its own";
                    refused(FailureKind::Invalid, after, words)
                })?,
        ),
    };
    let limit = request.limit as usize;
    let page = Page {
        root,
        reply: proto::ListReply {
            path: real.into(),
            ..proto::ListReply::default()
        },
        bytes: 0,
    };
    if !request.recursive || request.max_depth == 1 {
        let after = after.map(|name| Item {
            name: name.to_vec(),
            kind: FileType::Unknown,
            below: false,
        });
        return Ok(Listing::Flat(Flat {
            directory,
            choice: Some(Choice::new(after, limit, false)),
            page,
        }));
    }
    let walk =
        Walk::new(directory, after).map_err(|errno| failed("list", &page.reply.path, errno))?;
    Ok(Listing::Recursive(Box::new(Recursive {
        walk: walk.for_listing(limit),
        limit,
        max_depth: match request.max_depth {
            0 => usize::MAX,
            depth => depth as usize,
        },
        page,
    })))
}

#[derive(Debug)]
struct Page {
    root: Root,
    reply: proto::ListReply,
    bytes: usize,
}

impl Page {
    fn is_full(&self) -> bool {
        self.bytes > MOST_BYTES
    }

    /// Adds what is at a name, where it is still there.
    fn add(&mut self, directory: &OwnedFd, name: &[u8], path: Vec<u8>) -> Result<()> {
        match look(&self.root, directory, name, path) {
            Ok(entry) => {
                self.bytes += entry.path.len() + entry.target.len();
                self.reply.entries.push(entry);
            }
            Err(failure) if failure.kind == FailureKind::NotFound => {}
            Err(failure) => return Err(failure),
        }
        Ok(())
    }
}

/// One page of one directory.
#[derive(Debug)]
pub(super) struct Flat {
    directory: OwnedFd,
    choice: Option<Choice>,
    page: Page,
}

impl Job for Flat {
    type Done = proto::ListReply;

    fn step(&mut self, budget: &Budget) -> Result<Option<proto::ListReply>> {
        let Some(mut choice) = self.choice.take() else {
            return Ok(None);
        };
        let more = choice.read(&self.directory, || budget.spent());
        if more.map_err(|errno| failed("list", &self.page.reply.path, errno))? {
            self.choice = Some(choice);
            return Ok(None);
        }
        let chosen = choice.chosen();
        self.page.reply.more = chosen.more;
        for item in chosen.items {
            if self.page.is_full() {
                self.page.reply.more = true;
                break;
            }
            let path = child(&self.page.reply.path, &item.name);
            self.page.add(&self.directory, &item.name, path)?;
        }
        Ok(Some(std::mem::take(&mut self.page.reply)))
    }
}

/// A recursive listing of one page.
#[derive(Debug)]
pub(super) struct Recursive {
    walk: Walk,
    limit: usize,
    max_depth: usize,
    page: Page,
}

impl Recursive {
    fn failed(&self, name: &[u8], errno: Errno) -> Failure {
        failed("list", &self.path_to(name), errno)
    }

    fn path_to(&self, name: &[u8]) -> Vec<u8> {
        child(&self.page.reply.path, &self.walk.path_to(name))
    }
}

impl Job for Recursive {
    type Done = proto::ListReply;

    fn step(&mut self, budget: &Budget) -> Result<Option<proto::ListReply>> {
        while !budget.spent() {
            match self.walk.next().map_err(|errno| self.failed(b"", errno))? {
                Step::End => return Ok(Some(std::mem::take(&mut self.page.reply))),
                Step::Left(_) => {}
                Step::Below(name) => {
                    if self.walk.cursor().depth() + 1 < self.max_depth {
                        let shown = name.clone();
                        // One that nobody may read is listed itself and has nothing below.
                        match self.walk.enter(name) {
                            Ok(_) | Err(Errno::ACCESS | Errno::PERM) => {}
                            Err(errno) => return Err(self.failed(&shown, errno)),
                        }
                    }
                }
                Step::Entry(name, _) => {
                    if self.page.reply.entries.len() == self.limit || self.page.is_full() {
                        self.page.reply.more = true;
                        return Ok(Some(std::mem::take(&mut self.page.reply)));
                    }
                    let path = self.path_to(&name);
                    let directory = self.walk.cursor().here();
                    self.page.add(directory, &name, path)?;
                }
            }
        }
        Ok(None)
    }
}
