//! `Stat` and `List`.

use super::directory::chunk;
use super::entry::{entry, look};
use super::failure::{Result, failed, refused};
use super::path::{Key, below, child, is_plain};
use super::pieces::{Budget, Job};
use super::root::{Root, locate, stat_fd};
use super::walk::{Step, Walk};
use botstead_bridge::{FailureKind, proto};
use rustix::fs::OFlags;
use rustix::io::Errno;

/// Entries of a page.
const MOST_ENTRIES: u32 = 1000;

/// Bytes of all paths of a page, so that very long ones do not make an answer that is too large.
const MOST_BYTES: usize = 1 << 20;

pub(super) fn stat(request: proto::StatRequest) -> Result<proto::Entry> {
    let (root, path) = locate(request.at)?;
    if request.follow || path.split().is_none() {
        let fd = root
            .open_at(&path, OFlags::PATH)
            .map_err(|errno| failed("look at", path.absolute(), errno))?;
        let stat = stat_fd(&fd).map_err(|errno| failed("look at", path.absolute(), errno))?;
        return Ok(entry(root.path_of(&fd, &path), &stat));
    }
    let place = root.place(&path)?;
    look(&root, &place.directory, &place.name, place.path.clone())
}

/// A listing that has begun: either done at once, or a long job.
pub(super) enum Listing {
    Done(proto::ListReply),
    Recursive(Box<Recursive>),
}

pub(super) fn list(request: proto::ListRequest) -> Result<Listing> {
    if !(1..=MOST_ENTRIES).contains(&request.limit) {
        let words = format!("limit: between 1 and {MOST_ENTRIES}");
        return Err(botstead_bridge::Failure::new(FailureKind::Invalid, words));
    }
    let (root, path) = locate(request.at)?;
    let (directory, real) = root.open_directory(&path)?;
    let after = match request.after.as_ref() {
        b"" => None,
        after => Some(
            below(&real, after)
                .filter(|rest| is_plain(rest))
                .ok_or_else(|| {
                    refused(
                        FailureKind::Invalid,
                        after,
                        "a listing goes on after a path of its own",
                    )
                })?,
        ),
    };
    let limit = request.limit as usize;
    let reply = proto::ListReply {
        path: real.into(),
        ..proto::ListReply::default()
    };
    let deep = request.recursive && request.max_depth != 1;
    if !deep {
        let key = after.map(|name| Key { name, below: false });
        let chunk = chunk(&directory, key, limit, false)
            .map_err(|errno| failed("list", &reply.path, errno))?;
        let mut page = Page { reply, bytes: 0 };
        page.reply.more = chunk.more;
        for item in chunk.items {
            page.add(
                &root,
                &directory,
                &item.name,
                child(&page.reply.path, &item.name),
            )?;
        }
        return Ok(Listing::Done(page.reply));
    }
    let walk = Walk::new(directory, after).map_err(|errno| failed("list", &reply.path, errno))?;
    Ok(Listing::Recursive(Box::new(Recursive {
        root,
        walk: walk.for_listing(limit),
        limit,
        max_depth: match request.max_depth {
            0 => usize::MAX,
            depth => depth as usize,
        },
        page: Page { reply, bytes: 0 },
    })))
}

#[derive(Debug)]
struct Page {
    reply: proto::ListReply,
    bytes: usize,
}

impl Page {
    /// Adds what is at a name, where it is still there.
    fn add(
        &mut self,
        root: &Root,
        directory: &rustix::fd::OwnedFd,
        name: &[u8],
        path: Vec<u8>,
    ) -> Result<()> {
        let length = path.len();
        match look(root, directory, name, path) {
            Ok(entry) => {
                self.bytes += length;
                self.reply.entries.push(entry);
            }
            Err(failure) if failure.kind == FailureKind::NotFound => {}
            Err(failure) => return Err(failure),
        }
        Ok(())
    }
}

/// A recursive listing of one page.
#[derive(Debug)]
pub(super) struct Recursive {
    root: Root,
    walk: Walk,
    limit: usize,
    max_depth: usize,
    page: Page,
}

impl Recursive {
    fn failed(&self, name: &[u8], errno: Errno) -> botstead_bridge::Failure {
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
                    if self.page.reply.entries.len() == self.limit || self.page.bytes > MOST_BYTES {
                        self.page.reply.more = true;
                        return Ok(Some(std::mem::take(&mut self.page.reply)));
                    }
                    let path = self.path_to(&name);
                    let directory = self.walk.cursor().here();
                    self.page.add(&self.root, directory, &name, path)?;
                }
            }
        }
        Ok(None)
    }
}
