//! Matching lines of one file, each with its context. A search that has found enough for now stops in
//! front of a line and goes on there later, so that nothing waits for a client while it holds a thread.

use super::matching::Interruptible;
use crate::files::pieces::Budget;
use botstead_bridge::proto::search_reply::{Line, Span};
use bytes::Bytes;
use grep_matcher::Matcher;
use grep_searcher::{Searcher, Sink, SinkContext, SinkFinish, SinkMatch};
use std::collections::VecDeque;
use std::io;

/// What is sent of a line.
const MOST_OF_LINE: usize = 4096;

/// What is shown before the first match of a line that is cut.
const BEFORE_MATCH: usize = 1024;

/// Ranges of one line.
const MOST_SPANS: usize = 256;

/// A match whose context is not complete.
#[derive(Debug)]
struct Open {
    lines: Vec<Line>,
    /// Lines of context that may follow.
    after: usize,
}

/// Where a search goes on in a file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Point {
    /// Bytes and lines before it.
    pub(super) offset: u64,
    pub(super) lines: u64,
}

/// What is found in one file.
#[derive(Debug)]
pub(super) struct Found {
    context: usize,
    /// Matches that may still come, in all files.
    left: u64,
    /// The last lines, which are the context of a match that follows.
    before: VecDeque<Line>,
    open: VecDeque<Open>,
    /// Complete matches.
    pub(super) complete: Vec<Vec<Line>>,
    /// Their bytes.
    pub(super) bytes: usize,
    /// There are more matches than may come.
    pub(super) truncated: bool,
    /// A match was not handled, because there was enough.
    pub(super) stopped: Option<Point>,
    /// A zero byte ended it.
    pub(super) binary: bool,
}

impl Found {
    pub(super) fn new(context: usize, left: u64) -> Self {
        Self {
            context,
            left,
            before: VecDeque::new(),
            open: VecDeque::new(),
            complete: Vec::new(),
            bytes: 0,
            truncated: false,
            stopped: None,
            binary: false,
        }
    }

    /// Adds a line that is context of those around it.
    fn pass(&mut self, line: &Line) {
        let context = Line {
            spans: Vec::new(),
            ..line.clone()
        };
        for open in &mut self.open {
            open.lines.push(context.clone());
            open.after -= 1;
        }
        while self.open.front().is_some_and(|open| open.after == 0) {
            self.close();
        }
        if self.context > 0 {
            if self.before.len() == self.context {
                self.before.pop_front();
            }
            self.before.push_back(context);
        }
    }

    /// Completes the oldest match.
    fn close(&mut self) {
        if let Some(open) = self.open.pop_front() {
            let bytes = |line: &Line| line.text.len() + 16 * line.spans.len() + 16;
            self.bytes += open.lines.iter().map(bytes).sum::<usize>();
            self.complete.push(open.lines);
        }
    }

    fn matched(&mut self, line: Line) {
        self.left -= 1;
        let mut lines: Vec<Line> = self.before.iter().cloned().collect();
        lines.push(line.clone());
        // Those before it come first: theirs ends earlier.
        self.pass(&line);
        self.open.push_back(Open {
            lines,
            after: self.context,
        });
        if self.context == 0 {
            self.close();
        }
    }

    /// Completes what is left at the end of a file.
    pub(super) fn finish(&mut self) {
        while !self.open.is_empty() {
            self.close();
        }
        self.before.clear();
    }
}

/// What the search of a file tells, put together with what was found before.
pub(super) struct Collector<'a> {
    pub(super) matcher: Interruptible<'a>,
    pub(super) found: &'a mut Found,
    /// Where the search began in the file.
    pub(super) begin: Point,
    /// Enough for now.
    pub(super) enough: usize,
    pub(super) budget: &'a Budget,
}

impl Collector<'_> {
    fn line(&self, number: Option<u64>, bytes: &[u8], spans: bool) -> io::Result<Line> {
        let text = bytes.strip_suffix(b"\n").unwrap_or(bytes);
        let text = text.strip_suffix(b"\r").unwrap_or(text);
        let mut ranges = Vec::new();
        if spans {
            let added = self.matcher.find_iter(text, |range| {
                ranges.push((range.start(), range.end()));
                ranges.len() < MOST_SPANS && !self.budget.is_dropped()
            });
            added.map_err(io::Error::other)?;
        }
        let (start, end) = window(text.len(), ranges.first().map_or(0, |first| first.0));
        let inside = |at: usize| at.clamp(start, end) - start;
        Ok(Line {
            number: number.unwrap_or(0) + self.begin.lines,
            text: Bytes::copy_from_slice(&text[start..end]),
            spans: ranges
                .iter()
                .filter(|(first, _)| *first <= end)
                .map(|(first, last)| Span {
                    // At most 4096.
                    start: inside(*first) as u32,
                    end: inside(*last) as u32,
                })
                .collect(),
            left_out: start as u64,
        })
    }
}

/// Which part of a line is sent: its beginning, or what is around the first match further on.
fn window(length: usize, first: usize) -> (usize, usize) {
    let start = match first + BEFORE_MATCH > MOST_OF_LINE {
        true => first.saturating_sub(BEFORE_MATCH),
        false => 0,
    };
    let start = match length > MOST_OF_LINE {
        true => start,
        false => 0,
    };
    (start, length.min(start + MOST_OF_LINE))
}

impl Sink for Collector<'_> {
    type Error = io::Error;

    fn matched(&mut self, _: &Searcher, matched: &SinkMatch<'_>) -> io::Result<bool> {
        let number = matched.line_number();
        if self.found.left == 0 {
            // It is context of the matches before it at most.
            self.found.truncated = true;
            if !self.found.open.is_empty() {
                let line = self.line(number, matched.bytes(), false)?;
                self.found.pass(&line);
            }
            return Ok(!self.found.open.is_empty());
        }
        if self.found.bytes >= self.enough {
            self.found.stopped = Some(Point {
                offset: self.begin.offset + matched.absolute_byte_offset(),
                lines: self.begin.lines + number.unwrap_or(1) - 1,
            });
            return Ok(false);
        }
        let line = self.line(number, matched.bytes(), true)?;
        self.found.matched(line);
        Ok(true)
    }

    fn context(&mut self, _: &Searcher, context: &SinkContext<'_>) -> io::Result<bool> {
        let line = self.line(context.line_number(), context.bytes(), false)?;
        self.found.pass(&line);
        Ok(!self.found.truncated || !self.found.open.is_empty())
    }

    fn binary_data(&mut self, _: &Searcher, _: u64) -> io::Result<bool> {
        self.found.binary = true;
        Ok(true)
    }

    fn finish(&mut self, _: &Searcher, _: &SinkFinish) -> io::Result<()> {
        if self.found.stopped.is_none() {
            self.found.finish();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lines_are_cut_around_their_first_match() {
        assert_eq!(window(10, 5), (0, 10));
        assert_eq!(window(4096, 4090), (0, 4096));
        assert_eq!(window(9000, 0), (0, 4096));
        assert_eq!(window(9000, 3000), (0, 4096));
        assert_eq!(window(9000, 5000), (3976, 8072));
        assert_eq!(window(9000, 8999), (7975, 9000));
    }
}
