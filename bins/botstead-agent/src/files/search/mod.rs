//! `Search`: entries by name, lines by content.

mod globs;
mod ignores;
mod lines;

use super::entry::{kind, proto_kind};
use super::failure::{Result, failed};
use super::path::child;
use super::pieces::{Budget, Source};
use super::read::{Opened, open_regular};
use super::root::{locate, open_name, stat_fd, vanished};
use super::walk::{Step, Walk};
use botstead_bridge::proto::search_reply::{Done, Match, Part};
use botstead_bridge::proto::{SearchReply, SearchRequest};
use botstead_bridge::{Failure, FailureKind};
use globs::Globs;
use grep_regex::{RegexMatcher, RegexMatcherBuilder};
use grep_searcher::{BinaryDetection, Searcher, SearcherBuilder};
use ignores::Ignores;
use lines::{Collector, Found, Point};
use rustix::fd::OwnedFd;
use rustix::fs::{FileType, OFlags, SeekFrom, seek};
use rustix::io::Errno;
use std::fs::File;
use std::io::{self, Read};

const MOST_MATCHES: u32 = 10_000;
const MOST_CONTEXT: u32 = 20;
const FILE_BYTES: u64 = 64 << 20;

/// A line that is longer is not searched; the search keeps one in memory.
const LINE_BYTES: usize = 8 << 20;

/// What a compiled pattern may take, and its automaton.
const PATTERN_BYTES: usize = 4 << 20;

/// Output of one piece, about.
const ENOUGH: usize = 128 << 10;

/// Messages of one piece.
const MOST_REPLIES: usize = 1000;

/// A byte order mark, which is no part of the first line.
const MARK: &[u8] = b"\xef\xbb\xbf";

/// A file that is being searched.
#[derive(Debug)]
struct Current {
    file: OwnedFd,
    path: Vec<u8>,
    point: Point,
    found: Found,
}

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

/// How content is searched.
struct Content {
    matcher: RegexMatcher,
    searcher: Searcher,
    context: usize,
    most_bytes: u64,
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

impl Content {
    fn new(request: &SearchRequest) -> Result<Self> {
        let matcher = RegexMatcherBuilder::new()
            .case_insensitive(request.ignore_case)
            .fixed_strings(request.literal)
            .multi_line(true)
            .line_terminator(Some(b'\n'))
            .size_limit(PATTERN_BYTES)
            .dfa_size_limit(PATTERN_BYTES)
            .build(&request.pattern)
            .map_err(|error| Failure::new(FailureKind::Invalid, format!("pattern: {error}")))?;
        let context = request.context as usize;
        let searcher = SearcherBuilder::new()
            .before_context(context)
            .after_context(context)
            .line_number(true)
            // A file with a zero byte is no text.
            .binary_detection(BinaryDetection::quit(0))
            // Offsets must be those of the file.
            .bom_sniffing(false)
            .heap_limit(Some(LINE_BYTES))
            .build();
        Ok(Self {
            matcher,
            searcher,
            context,
            most_bytes: match request.max_file_bytes {
                0 => FILE_BYTES,
                bytes => bytes,
            },
        })
    }

    /// Searches a file to its end, or until there is enough.
    fn search(&mut self, current: &mut Current, budget: &Budget) -> io::Result<()> {
        let begin = current.point;
        seek(&current.file, SeekFrom::Start(begin.offset))?;
        let file = current.file.try_clone()?;
        let reader = Reading {
            file: File::from(file).take(self.most_bytes.saturating_sub(begin.offset)),
            budget,
        };
        let collector = Collector {
            matcher: &self.matcher,
            found: &mut current.found,
            begin,
            enough: ENOUGH,
        };
        self.searcher
            .search_reader(&self.matcher, reader, collector)
    }
}

/// A file's content, until the call is dropped.
struct Reading<'a> {
    file: io::Take<File>,
    budget: &'a Budget,
}

impl Read for Reading<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.budget.is_dropped() {
            true => Err(io::Error::other("nobody waits for the result")),
            false => self.file.read(buffer),
        }
    }
}

impl Searching {
    /// Handles a file: its name is a match, or its content is searched next.
    fn open(&mut self, file: OwnedFd, path: Vec<u8>) {
        let Some(content) = &self.content else {
            return;
        };
        let begin = || {
            let stat = stat_fd(&file)?;
            if kind(&stat) != FileType::RegularFile || stat.stx_size > content.most_bytes {
                return Ok(None);
            }
            let mut start = [0; MARK.len()];
            let marked = rustix::io::pread(&file, &mut start, 0)? == MARK.len() && start == *MARK;
            Ok(Some(if marked { MARK.len() as u64 } else { 0 }))
        };
        match begin() {
            Ok(Some(offset)) => {
                self.done.files_searched += 1;
                self.current = Some(Current {
                    found: Found::new(content.context, self.left),
                    point: Point { offset, lines: 0 },
                    file,
                    path,
                });
            }
            Ok(None) => {}
            Err::<_, Errno>(_) => self.done.unreadable += 1,
        }
    }

    /// Searches the current file and sends what is found; false when the search is at its end.
    fn search(&mut self, budget: &Budget, out: &mut Vec<SearchReply>) -> bool {
        let (Some(content), Some(mut current)) = (&mut self.content, self.current.take()) else {
            return true;
        };
        if content.search(&mut current, budget).is_err() {
            self.done.unreadable += 1;
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
            return false;
        }
        if let Some(point) = found.stopped.take() {
            current.point = point;
            self.current = Some(current);
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
                Err(_) => self.done.unreadable += 1,
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
                    self.done.unreadable += 1;
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
        match walk.enter(name) {
            Ok(true) => {
                if let Some(ignores) = &mut self.ignores {
                    let path = child(&self.place, walk.path());
                    ignores.enter(walk.cursor().here(), &path, walk.cursor().depth());
                }
            }
            Ok(false) => {}
            Err(_) => self.done.unreadable += 1,
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
