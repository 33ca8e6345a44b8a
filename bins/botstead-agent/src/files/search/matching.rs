//! One match in pieces: what looks for a pattern in a long line can be told to stop.
//!
//! The matcher of `grep-regex` is fast and tells nothing until it is done, which for a large pattern takes
//! seconds for a line of some MiB. Where that may be, a lazy automaton of the same pattern goes through the
//! line byte by byte, as `regex-automata` has it, and looks up now and then.

use crate::files::pieces::Budget;
use grep_matcher::{ByteSet, LineMatchKind, LineTerminator, Match, Matcher, NoCaptures};
use grep_regex::RegexMatcher;
use regex_automata::hybrid::dfa;
use regex_automata::hybrid::regex::{Builder, Cache, Regex};
use regex_automata::nfa::thompson;
use regex_automata::util::syntax;
use regex_automata::{Anchored, Input};
use std::cell::{OnceCell, RefCell};
use std::fmt;

/// Bytes times states of a pattern that the fast matcher gets at once: some tenths of a second where it has
/// to look at each state for each byte.
const QUICK: usize = 1 << 24;

/// The same for what the automaton cannot tell: letters beyond ASCII at the boundary of a word.
const SLOW: usize = 1 << 25;

/// Bytes between two looks whether anybody waits.
const STEPS: usize = 1 << 10;

/// What an automaton keeps of its states.
const CACHE_BYTES: usize = 2 << 20;

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stopped {
    /// Nobody waits for it.
    Dropped,
    /// The line is too long for the pattern.
    TooLong,
}

impl fmt::Display for Stopped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Dropped => "nobody waits for the result",
            Self::TooLong => "the line is too long for the pattern",
        })
    }
}

impl std::error::Error for Stopped {}

/// A pattern as an automaton, which is made for the first long line.
#[derive(Debug)]
pub(super) struct Stepper {
    pattern: String,
    ignore_case: bool,
    states: usize,
    /// Nothing where there is none.
    automaton: OnceCell<Option<(Regex, RefCell<Cache>)>>,
}

/// How a step of the automaton ended.
enum Way {
    Found(usize),
    None,
    /// It cannot tell.
    Unknown,
}

impl Stepper {
    /// A pattern of so many states, about.
    pub(super) fn new(pattern: String, ignore_case: bool, states: usize) -> Self {
        Self {
            pattern,
            ignore_case,
            states: states.max(1),
            automaton: OnceCell::new(),
        }
    }

    fn automaton(&self) -> Option<&(Regex, RefCell<Cache>)> {
        let make = || {
            let config = dfa::Config::new()
                .unicode_word_boundary(true)
                .cache_capacity(CACHE_BYTES)
                .skip_cache_capacity_check(true);
            let syntax = syntax::Config::new()
                .case_insensitive(self.ignore_case)
                .multi_line(true)
                .utf8(false);
            let regex = Builder::new()
                .dfa(config)
                .thompson(thompson::Config::new().utf8(false))
                .syntax(syntax)
                .build(&self.pattern)
                .ok()?;
            let cache = RefCell::new(regex.create_cache());
            Some((regex, cache))
        };
        self.automaton.get_or_init(make).as_ref()
    }

    /// Finds the first match of a line from `at` on; `None` where the automaton cannot tell.
    fn find(
        &self,
        line: &[u8],
        at: usize,
        budget: &Budget,
    ) -> Result<Option<Option<Match>>, Stopped> {
        let Some((regex, cache)) = self.automaton() else {
            return Ok(None);
        };
        let mut cache = cache.borrow_mut();
        let (forward, reverse) = cache.as_parts_mut();
        let input = Input::new(line).range(at..);
        let end = match run(regex.forward(), forward, &input, false, budget)? {
            Way::Found(end) => end,
            Way::None => return Ok(Some(None)),
            Way::Unknown => return Ok(None),
        };
        let input = Input::new(line).range(at..end).anchored(Anchored::Yes);
        Ok(match run(regex.reverse(), reverse, &input, true, budget)? {
            Way::Found(start) => Some(Some(Match::new(start, end))),
            Way::None | Way::Unknown => None,
        })
    }
}

/// Runs an automaton through its input, from either end. A match is known one byte later.
fn run(
    dfa: &dfa::DFA,
    cache: &mut dfa::Cache,
    input: &Input<'_>,
    backwards: bool,
    budget: &Budget,
) -> Result<Way, Stopped> {
    let start = match backwards {
        true => dfa.start_state_reverse(cache, input),
        false => dfa.start_state_forward(cache, input),
    };
    let mut state = match start {
        Ok(state) => state,
        // The byte before it is one that the automaton does not know.
        Err(_) => return Ok(Way::Unknown),
    };
    let (first, last) = (input.start(), input.end());
    let bytes = &input.haystack()[first..last];
    let place = |step: usize| match backwards {
        true => last - step,
        false => first + step,
    };
    let mut found = Way::None;
    for step in 0..bytes.len() {
        if step % STEPS == 0 && budget.is_dropped() {
            return Err(Stopped::Dropped);
        }
        let byte = match backwards {
            true => bytes[bytes.len() - 1 - step],
            false => bytes[step],
        };
        state = match dfa.next_state(cache, state, byte) {
            Ok(state) => state,
            Err(_) => return Ok(Way::Unknown),
        };
        if state.is_tagged() {
            if state.is_match() {
                found = Way::Found(place(step));
            } else if state.is_dead() {
                return Ok(found);
            } else if state.is_quit() {
                return Ok(Way::Unknown);
            }
        }
    }
    // The byte beyond the input, or its end.
    let beyond = match backwards {
        true => first.checked_sub(1).map(|at| input.haystack()[at]),
        false => input.haystack().get(last).copied(),
    };
    let ended = match beyond {
        Some(byte) => dfa.next_state(cache, state, byte),
        None => dfa.next_eoi_state(cache, state),
    };
    Ok(match ended {
        Ok(state) if state.is_match() => Way::Found(place(bytes.len())),
        Ok(state) if state.is_quit() => Way::Unknown,
        Ok(_) => found,
        Err(_) => Way::Unknown,
    })
}

/// The matcher of one piece of a search.
#[derive(Debug, Clone, Copy)]
pub(super) struct Interruptible<'a> {
    pub(super) fast: &'a RegexMatcher,
    pub(super) stepper: &'a Stepper,
    pub(super) budget: &'a Budget,
}

impl Interruptible<'_> {
    fn is_quick(&self, bytes: usize) -> bool {
        bytes.saturating_mul(self.stepper.states) <= QUICK
    }

    /// Finds the first match of one line, without its break, from `at` on.
    fn in_line(&self, line: &[u8], at: usize) -> Result<Option<Match>, Stopped> {
        if self.budget.is_dropped() {
            return Err(Stopped::Dropped);
        }
        if !self.is_quick(line.len()) {
            if let Some(found) = self.stepper.find(line, at, self.budget)? {
                return Ok(found);
            }
            if line.len().saturating_mul(self.stepper.states) > SLOW {
                return Err(Stopped::TooLong);
            }
        }
        self.fast(line, at)
    }

    fn fast(&self, bytes: &[u8], at: usize) -> Result<Option<Match>, Stopped> {
        // It has no errors.
        self.fast.find_at(bytes, at).map_err(|_| Stopped::TooLong)
    }
}

impl Matcher for Interruptible<'_> {
    type Captures = NoCaptures;
    type Error = Stopped;

    fn find_at(&self, haystack: &[u8], at: usize) -> Result<Option<Match>, Stopped> {
        if self.is_quick(haystack.len() - at) {
            return self.fast(haystack, at);
        }
        // No match goes beyond its line: the pattern has no line break.
        let mut start = memchr::memrchr(b'\n', &haystack[..at]).map_or(0, |before| before + 1);
        let mut at = at;
        loop {
            let end = memchr::memchr(b'\n', &haystack[at..]).map(|length| at + length);
            let line = &haystack[start..end.unwrap_or(haystack.len())];
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            if at - start <= line.len()
                && let Some(found) = self.in_line(line, at - start)?
            {
                return Ok(Some(found.offset(start)));
            }
            match end {
                Some(end) => (start, at) = (end + 1, end + 1),
                None => return Ok(None),
            }
        }
    }

    fn find_candidate_line(&self, haystack: &[u8]) -> Result<Option<LineMatchKind>, Stopped> {
        if self.is_quick(haystack.len()) {
            let found = self.fast.find_candidate_line(haystack);
            return found.map_err(|_| Stopped::TooLong);
        }
        let found = self.find_at(haystack, 0)?;
        Ok(found.map(|found| LineMatchKind::Confirmed(found.end())))
    }

    fn new_captures(&self) -> Result<NoCaptures, Stopped> {
        Ok(NoCaptures::new())
    }

    fn non_matching_bytes(&self) -> Option<&ByteSet> {
        self.fast.non_matching_bytes()
    }

    fn line_terminator(&self) -> Option<LineTerminator> {
        self.fast.line_terminator()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use grep_regex::RegexMatcherBuilder;

    fn fast(pattern: &str) -> RegexMatcher {
        let mut builder = RegexMatcherBuilder::new();
        builder.multi_line(true).crlf(true);
        builder.build(pattern).unwrap()
    }

    #[test]
    fn the_automaton_finds_what_the_fast_matcher_finds() {
        let (budget, _caller) = Budget::for_tests();
        let lines: [&[u8]; 9] = [
            b"",
            b"a",
            b"needle in a haystack with a needle",
            b"aaaaab",
            b"  x = 17; y = 4",
            "gr\u{fc}\u{df}e an alle".as_bytes(),
            b"\xff\xfe not text",
            b"word wordy sword",
            b"abcabcabcd",
        ];
        for pattern in [
            "needle",
            "a+",
            "a*",
            "^",
            "$",
            "^a|b$",
            r"\bword\b",
            r"\d+",
            r"[^x]+",
            "(abc)+d",
            r"\w+",
            "x|needle in",
            "a{2,4}",
            ".",
            r"\s*$",
            "\u{fc}",
        ] {
            let matcher = fast(pattern);
            let stepper = Stepper::new(pattern.to_owned(), false, 1);
            for line in lines {
                for at in 0..=line.len() {
                    let expected = matcher.find_at(line, at).unwrap();
                    if let Some(found) = stepper.find(line, at, &budget).unwrap() {
                        assert_eq!(found, expected, "{pattern:?} in {line:?} from {at}");
                    } else {
                        assert!(pattern.contains(r"\b") && !line.is_ascii(), "{pattern}");
                    }
                }
            }
            // The same over lines, all of which are long for so many states.
            let stepper = Stepper::new(pattern.to_owned(), false, QUICK);
            let all = lines.join(&b"\r\n"[..]);
            let whole = Interruptible {
                fast: &matcher,
                stepper: &stepper,
                budget: &budget,
            };
            let mut at = 0;
            while at <= all.len() {
                let expected = matcher.find_at(&all, at).unwrap();
                match whole.find_at(&all, at) {
                    Err(stopped) => assert_eq!(stopped, Stopped::TooLong),
                    // Between the two bytes of a break there is no line.
                    Ok(found) if expected.is_none_or(|one| !one.is_empty()) => {
                        assert_eq!(found, expected, "{pattern:?} from {at}");
                    }
                    Ok(_) => {}
                }
                at += 7;
            }
        }
    }

    #[test]
    fn a_match_ends_when_nobody_waits_for_it() {
        let (budget, caller) = Budget::for_tests();
        let pattern = "[ab]{3000}c";
        let (matcher, stepper) = (fast(pattern), Stepper::new(pattern.to_owned(), false, 3000));
        let whole = Interruptible {
            fast: &matcher,
            stepper: &stepper,
            budget: &budget,
        };
        let mut line = b"ab".repeat(20_000);
        line.push(b'c');
        let found = whole.find_at(&line, 0).unwrap().unwrap();
        assert_eq!((found.start(), found.end()), (37_000, 40_001));
        // While it goes on: a line of which it would take minutes to see the end.
        let endless = b"ab".repeat(64 << 20);
        let (begun, begins) = std::sync::mpsc::channel();
        let leaving = std::thread::spawn(move || {
            begins.recv().unwrap();
            drop(caller);
        });
        begun.send(()).unwrap();
        assert_eq!(whole.find_at(&endless, 0), Err(Stopped::Dropped));
        leaving.join().unwrap();
    }
}
