//! The content of one file on its way through the matcher: what it is read as, how much of it, and why it
//! may not be searched to its end.

use super::lines::{Collector, Found, Point};
use super::matching::{Interruptible, Stepper};
use crate::files::failure::Result;
use crate::files::pieces::Budget;
use botstead_bridge::proto::SearchRequest;
use botstead_bridge::proto::search_reply::skipped::Reason;
use botstead_bridge::{Failure, FailureKind};
use encoding_rs_io::DecodeReaderBytesBuilder;
use grep_matcher::LineTerminator;
use grep_regex::{RegexMatcher, RegexMatcherBuilder};
use grep_searcher::{BinaryDetection, Searcher, SearcherBuilder};
use regex_automata::nfa::thompson;
use regex_automata::util::syntax;
use rustix::fd::OwnedFd;
use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;
use std::fs::File;
use std::io::{self, Read};

/// The longest line that is searched; the search keeps one in memory.
const LINE_BYTES: usize = 8 << 20;
/// Lines up to this are searched whatever the pattern.
const SHORT_LINE: usize = 4 << 10;

/// What a compiled pattern may take, and its automaton.
const PATTERN_BYTES: usize = 4 << 20;

/// Bytes of a line times states of a pattern, at most: where an automaton would grow too large, each state is
/// looked at for each byte, and a hundred million such looks take seconds.
const WORK: usize = 1 << 27;

/// What the bytes of a file are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Encoding {
    /// As they stand, after so many bytes of a mark.
    Plain(u64),
    Utf16Le,
    Utf16Be,
}

impl Encoding {
    /// By the mark at the beginning, which is no part of the first line.
    pub(super) fn of(file: &OwnedFd) -> Result<Self, Errno> {
        let mut start = [0; 3];
        let length = rustix::io::pread(file, &mut start, 0)?;
        Ok(match start.get(..length).unwrap_or_default() {
            [0xef, 0xbb, 0xbf] => Self::Plain(3),
            [0xff, 0xfe, ..] => Self::Utf16Le,
            [0xfe, 0xff, ..] => Self::Utf16Be,
            _ => Self::Plain(0),
        })
    }
}

/// A file that is being searched.
#[derive(Debug)]
pub(super) struct Current {
    file: OwnedFd,
    pub(super) path: Vec<u8>,
    encoding: Encoding,
    /// In its text, which differs from the file where that is not UTF-8.
    pub(super) point: Point,
    pub(super) found: Found,
}

/// How content is searched.
pub(super) struct Content {
    matcher: RegexMatcher,
    stepper: Stepper,
    searcher: Searcher,
    context: usize,
    most_bytes: u64,
}

impl Content {
    pub(super) fn new(request: &SearchRequest) -> Result<Self> {
        let invalid = |error: &dyn std::fmt::Display| {
            Failure::new(FailureKind::Invalid, format!("pattern: {error}"))
        };
        let matcher = RegexMatcherBuilder::new()
            .case_insensitive(request.ignore_case)
            .fixed_strings(request.literal)
            .multi_line(true)
            // A line may end in both, and `$` is before them.
            .crlf(true)
            .size_limit(PATTERN_BYTES)
            .dfa_size_limit(PATTERN_BYTES)
            .build(&request.pattern)
            .map_err(|error| invalid(&error))?;
        let states = states(request);
        let pattern = match request.literal {
            true => regex_syntax(&request.pattern),
            false => request.pattern.clone(),
        };
        let stepper = Stepper::new(pattern, request.ignore_case, states);
        let context = request.context as usize;
        let searcher = SearcherBuilder::new()
            .line_terminator(LineTerminator::crlf())
            .before_context(context)
            .after_context(context)
            .line_number(true)
            // A file with a zero byte is no text.
            .binary_detection(BinaryDetection::quit(0))
            // Offsets must be those of the text.
            .bom_sniffing(false)
            .heap_limit(Some(longest_line(states)))
            .build();
        Ok(Self {
            matcher,
            stepper,
            searcher,
            context,
            most_bytes: match request.max_file_bytes {
                0 => u64::MAX,
                bytes => bytes,
            },
        })
    }

    /// Lets zero bytes be a part of the text.
    pub(super) fn search_binary(&mut self) {
        self.searcher.set_binary_detection(BinaryDetection::none());
    }

    pub(super) fn most_bytes(&self) -> u64 {
        self.most_bytes
    }

    pub(super) fn begin(
        &self,
        file: OwnedFd,
        path: Vec<u8>,
        encoding: Encoding,
        left: u64,
    ) -> Current {
        Current {
            file,
            path,
            encoding,
            point: Point {
                offset: match encoding {
                    Encoding::Plain(mark) => mark,
                    Encoding::Utf16Le | Encoding::Utf16Be => 0,
                },
                lines: 0,
            },
            found: Found::new(self.context, left),
        }
    }

    /// Searches a file to its end, or until there is enough; tells why it was not searched to its end.
    pub(super) fn search(&mut self, current: &mut Current, budget: &Budget) -> Option<Reason> {
        let mut broken = false;
        let searched = self.search_on(current, budget, &mut broken);
        match searched {
            Err(_) if broken => Some(Reason::Unreadable),
            // Nothing but the longest line ends it otherwise.
            Err(_) => Some(Reason::LongLine),
            Ok(()) if current.found.binary => Some(Reason::Binary),
            Ok(()) => None,
        }
    }

    fn search_on(
        &mut self,
        current: &mut Current,
        budget: &Budget,
        broken: &mut bool,
    ) -> io::Result<()> {
        let begin = current.point;
        let from = match current.encoding {
            Encoding::Plain(_) => begin.offset,
            // What stands where in the text is only known from the beginning.
            Encoding::Utf16Le | Encoding::Utf16Be => 0,
        };
        let opened = seek(&current.file, SeekFrom::Start(from)).map_err(io::Error::from);
        let file = opened.and_then(|_| current.file.try_clone());
        let file = file.inspect_err(|_| *broken = true)?;
        let reading = Reading {
            file: File::from(file).take(self.most_bytes.saturating_sub(from)),
            budget,
            broken,
        };
        let matcher = Interruptible {
            fast: &self.matcher,
            stepper: &self.stepper,
            budget,
        };
        let collector = Collector {
            matcher,
            found: &mut current.found,
            begin,
            enough: ENOUGH,
            budget,
        };
        let encoding = match current.encoding {
            Encoding::Plain(_) => {
                return self.searcher.search_reader(matcher, reading, collector);
            }
            Encoding::Utf16Le => encoding_rs::UTF_16LE,
            Encoding::Utf16Be => encoding_rs::UTF_16BE,
        };
        let mut text = DecodeReaderBytesBuilder::new()
            .encoding(Some(encoding))
            .strip_bom(true)
            .build(reading);
        io::copy(&mut (&mut text).take(begin.offset), &mut io::sink())?;
        self.searcher.search_reader(matcher, text, collector)
    }
}

/// Output of one piece, about.
pub(super) const ENOUGH: usize = 128 << 10;

/// Plain text as a pattern.
fn regex_syntax(text: &str) -> String {
    let mut pattern = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_ascii_punctuation() {
            pattern.push('\\');
        }
        pattern.push(character);
    }
    pattern
}

/// How many states a pattern has, about.
fn states(request: &SearchRequest) -> usize {
    if request.literal {
        return request.pattern.len();
    }
    let config = thompson::Config::new().nfa_size_limit(Some(PATTERN_BYTES));
    let syntax = syntax::Config::new()
        .case_insensitive(request.ignore_case)
        .multi_line(true)
        .utf8(false);
    let built = thompson::Compiler::new()
        .configure(config.utf8(false))
        .syntax(syntax)
        .build(&request.pattern);
    // One that is too large was refused before.
    built.map_or(PATTERN_BYTES, |nfa| nfa.states().len())
}

fn longest_line(states: usize) -> usize {
    (WORK / states.max(1)).clamp(SHORT_LINE, LINE_BYTES)
}

/// A file's content, until the call is dropped.
struct Reading<'a> {
    file: io::Take<File>,
    budget: &'a Budget,
    broken: &'a mut bool,
}

impl Read for Reading<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = match self.budget.is_dropped() {
            true => Err(io::Error::other("nobody waits for the result")),
            false => self.file.read(buffer),
        };
        let interrupted = |error: &io::Error| error.kind() == io::ErrorKind::Interrupted;
        *self.broken |= read.as_ref().is_err_and(|error| !interrupted(error));
        read
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_larger_a_pattern_the_shorter_its_lines() {
        let longest = |pattern: &str| {
            longest_line(states(&SearchRequest {
                pattern: pattern.to_owned(),
                ..SearchRequest::default()
            }))
        };
        assert_eq!(longest("needle"), LINE_BYTES);
        assert!(longest(r"\w+") > 64 << 10, "{}", longest(r"\w+"));
        let long = longest("[ab]{5000}c");
        assert!((SHORT_LINE..512 << 10).contains(&long), "{long}");
    }
}
