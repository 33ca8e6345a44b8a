//! `Search`: entries by name, lines by content.
//!
//! A search has turns of its own, so that it keeps nobody waiting but other searches. Matching a line ends soon
//! after its caller left ([`matching`]), and takes a time that the sizes of pattern and line bound.

mod content;
mod globs;
mod ignores;
mod lines;
mod matching;

use super::entry::{kind, proto_kind};
use super::failure::{Result, failed};
use super::path::child;
use super::pieces::{Budget, Source};
use super::read::{Opened, open_regular};
use super::root::{locate, open_name, stat_fd, vanished};
use super::walk::{Step, Walk};
use botstead_bridge::proto::search_reply::skipped::Reason;
use botstead_bridge::proto::search_reply::{Done, Match, Part, Skipped};
use botstead_bridge::proto::{SearchReply, SearchRequest};
use botstead_bridge::{Failure, FailureKind};
use content::{Content, Current, ENOUGH, Encoding};
use globs::Globs;
use ignores::Ignores;
use rustix::fd::OwnedFd;
use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;

const MOST_MATCHES: u32 = 10_000;
const MOST_CONTEXT: u32 = 20;

/// Files that are named because they were not searched.
const MOST_SKIPPED: usize = 100;

/// Messages of one piece.
const MOST_REPLIES: usize = 1000;

/// A search that has begun.
pub(super) struct Searching {
    place: Vec<u8>,
    walk: Option<Walk>,
    globs: Globs,
    ignores: Option<Ignores>,
    skip_hidden: bool,
    content: Option<Content>,
    current: Option<Current>,
    left: u64,
    /// Of this piece's output.
    bytes: usize,
    done: Done,
}

pub(super) fn begin(request: SearchRequest) -> Result<Searching> {
    let range = |words: &str| Failure::new(FailureKind::Invalid, words);
    if !(1..=MOST_MATCHES).contains(&request.limit) {
        return Err(range("limit: between 1 and 10000"));
    }
    if request.context > MOST_CONTEXT {
        return Err(range("context: at most 20 lines"));
    }
    let by_name = request.pattern.is_empty();
    let globs = Globs::new(&request.globs, by_name && request.ignore_case)?;
    let content = match by_name {
        true => None,
        false => Some(Content::new(&request)?),
    };
    let (root, path) = locate(request.at)?;
    let fail = |errno| failed("search", path.absolute(), errno);
    let place = root.open_at(&path, OFlags::PATH).map_err(fail)?;
    let is_directory = kind(&stat_fd(&place).map_err(fail)?) == FileType::Directory;
    let mut searching = Searching {
        place: root.path_of(&place, &path),
        walk: None,
        globs,
        ignores: None,
        skip_hidden: request.skip_hidden,
        content,
        current: None,
        left: request.limit.into(),
        bytes: 0,
        done: Done::default(),
    };
    if !is_directory {
        if by_name {
            return Err(fail(Errno::NOTDIR));
        }
        let Opened { fd, path, .. } = open_regular(&root, &path)?;
        if let Some(content) = &mut searching.content {
            content.search_binary();
        }
        searching.open(fd, path);
        return Ok(searching);
    }
    let (directory, real) = root.open_directory(&path)?;
    if request.respect_ignore_files {
        let mut ignores = Ignores::above(&root, &real);
        ignores.enter(&directory, &real, 0);
        searching.ignores = Some(ignores);
    }
    searching.walk = Some(Walk::new(directory, None).map_err(fail)?);
    Ok(searching)
}

impl Searching {
    /// Counts a file that is not searched, or not to its end, or a directory that cannot be read.
    fn skip(&mut self, path: Vec<u8>, reason: Reason) {
        if reason == Reason::Unreadable {
            self.done.unreadable += 1;
        }
        self.done.skipped_files += 1;
        if self.done.skipped.len() < MOST_SKIPPED {
            self.done.skipped.push(Skipped {
                path: path.into(),
                reason: reason.into(),
            });
        }
    }

    /// Makes a file the one that is searched next.
    fn open(&mut self, file: OwnedFd, path: Vec<u8>) {
        let Some(content) = &self.content else {
            return;
        };
        let begin = || {
            let stat = stat_fd(&file)?;
            if kind(&stat) != FileType::RegularFile {
                return Ok(None);
            }
            Ok::<_, Errno>(Some((stat.stx_size, Encoding::of(&file)?)))
        };
        match begin() {
            Ok(None) => {}
            Ok(Some((size, _))) if size > content.most_bytes() => {
                self.skip(path, Reason::TooLarge);
            }
            Ok(Some((_, encoding))) => {
                self.current = Some(content.begin(file, path, encoding, self.left));
            }
            Err(_) => self.skip(path, Reason::Unreadable),
        }
    }

    /// Searches the current file and sends what is found; false when the search is at its end.
    fn search(&mut self, budget: &Budget, out: &mut Vec<SearchReply>) -> bool {
        let (Some(content), Some(mut current)) = (&mut self.content, self.current.take()) else {
            return true;
        };
        let skipped = content.search(&mut current, budget);
        if skipped.is_some() {
            current.found.finish();
        }
        let found = &mut current.found;
        for lines in found.complete.drain(..) {
            self.left -= 1;
            self.done.matches += 1;
            out.push(reply(Part::Match(Match {
                path: current.path.clone().into(),
                kind: proto_kind(FileType::RegularFile).into(),
                lines,
            })));
        }
        self.bytes += std::mem::take(&mut found.bytes);
        if found.truncated {
            self.done.truncated = true;
            self.done.files_searched += 1;
            return false;
        }
        if let Some(point) = found.stopped.take() {
            current.point = point;
            self.current = Some(current);
            return true;
        }
        match skipped {
            Some(reason) => self.skip(current.path, reason),
            None => self.done.files_searched += 1,
        }
        true
    }

    /// Whether an entry is left out, and with a directory what is below it.
    fn leaves_out(&self, name: &[u8], below: &[u8], is_directory: bool) -> bool {
        (self.skip_hidden && name.starts_with(b"."))
            || self.globs.excludes(below)
            || self.ignores.as_ref().is_some_and(|ignores| {
                name == b".git" || ignores.ignores(&child(&self.place, below), is_directory)
            })
    }

    /// Handles an entry; false when the search is at its end.
    fn entry(
        &mut self,
        walk: &Walk,
        name: &[u8],
        kind: FileType,
        out: &mut Vec<SearchReply>,
    ) -> bool {
        let below = walk.path_to(name);
        let is_directory = kind == FileType::Directory;
        if !self.globs.wants(&below) || self.leaves_out(name, &below, is_directory) {
            return true;
        }
        let path = child(&self.place, &below);
        if self.content.is_none() {
            if self.left == 0 {
                self.done.truncated = true;
                return false;
            }
            self.left -= 1;
            self.done.matches += 1;
            out.push(reply(Part::Match(Match {
                path: path.into(),
                kind: proto_kind(kind).into(),
                lines: Vec::new(),
            })));
            return true;
        }
        if kind == FileType::RegularFile {
            match vanished(open_name(walk.cursor().here(), name, OFlags::RDONLY)) {
                Ok(Some(file)) => self.open(file, path),
                Ok(None) => {}
                Err(_) => self.skip(path, Reason::Unreadable),
            }
        }
        true
    }

    /// Goes on with the walk until there is a file to search; false at its end.
    fn walk(&mut self, budget: &Budget, out: &mut Vec<SearchReply>) -> Result<bool> {
        let Some(mut walk) = self.walk.take() else {
            return Ok(false);
        };
        while self.current.is_none() && out.len() < MOST_REPLIES && !budget.spent() {
            let step = match walk.next() {
                Ok(step) => step,
                Err(Errno::STALE) => {
                    let path = child(&self.place, walk.path());
                    return Err(super::failure::changed(&path));
                }
                Err(_) => {
                    self.skip(child(&self.place, walk.path()), Reason::Unreadable);
                    walk.give_up();
                    continue;
                }
            };
            match step {
                Step::Entry(name, kind) => {
                    if !self.entry(&walk, &name, kind, out) {
                        return Ok(false);
                    }
                }
                Step::Below(name) => {
                    if !self.leaves_out(&name, &walk.path_to(&name), true) {
                        self.enter(&mut walk, name);
                    }
                }
                Step::Left(_) => {
                    if let Some(ignores) = &mut self.ignores {
                        ignores.leave(walk.cursor().depth());
                    }
                }
                Step::End => return Ok(false),
            }
        }
        self.walk = Some(walk);
        Ok(true)
    }

    fn enter(&mut self, walk: &mut Walk, name: Vec<u8>) {
        let below = walk.path_to(&name);
        match walk.enter(name) {
            Ok(true) => {
                if let Some(ignores) = &mut self.ignores {
                    let path = child(&self.place, walk.path());
                    ignores.enter(walk.cursor().here(), &path, walk.cursor().depth());
                }
            }
            Ok(false) => {}
            Err(_) => self.skip(child(&self.place, &below), Reason::Unreadable),
        }
    }
}

impl Source for Searching {
    type Item = SearchReply;

    fn step(&mut self, budget: &Budget, out: &mut Vec<SearchReply>) -> Result<bool> {
        loop {
            let more = match self.current {
                Some(_) => self.search(budget, out),
                None => self.walk(budget, out)?,
            };
            // A single file has no walk that could end.
            if !more {
                out.push(reply(Part::Done(std::mem::take(&mut self.done))));
                return Ok(false);
            }
            if budget.spent() || self.bytes >= ENOUGH || out.len() >= MOST_REPLIES {
                self.bytes = 0;
                return Ok(true);
            }
        }
    }
}

fn reply(part: Part) -> SearchReply {
    SearchReply { part: Some(part) }
}
