//! What a terminal's program has set beside the screen's contents: the modes, the cursor's shape and
//! the title that the screen's model does not know.
//!
//! Read from whole control sequences, as text.

use std::fmt::Write;

/// A longer title is cut.
const TITLE_CHARS: usize = 256;

/// DEC private modes that are on or off, each by itself: reverse video, blinking cursor, keypad,
/// focus events, alternate scroll, bracketed paste, colour scheme reports.
const FLAGS: [u16; 7] = [5, 12, 66, 1004, 1007, 2004, 2031];
/// Which mouse events are reported; the last one that was set holds.
const MOUSE: [u16; 5] = [9, 1000, 1001, 1002, 1003];
/// How they are written; the last one that was set holds.
const MOUSE_FORMAT: [u16; 4] = [1005, 1006, 1015, 1016];
/// The keypad as a flag of [`FLAGS`].
const KEYPAD: u16 = 66;

/// The modes.
#[derive(Debug, Default, PartialEq, Eq, Clone)]
pub(super) struct Modes {
    flags: [bool; FLAGS.len()],
    mouse: Option<u16>,
    mouse_format: Option<u16>,
    cursor_style: Option<u16>,
    modify_other_keys: Option<u16>,
    title: String,
}

impl Modes {
    /// Takes note of a control sequence, from ESC to its last character.
    pub(super) fn observe(&mut self, sequence: &str) {
        let (introducer, rest) = match sequence.strip_prefix('\u{1b}') {
            Some(rest) => {
                let mut chars = rest.chars();
                (chars.next(), chars.as_str())
            }
            None => {
                let mut chars = sequence.chars();
                let introducer = match chars.next() {
                    Some('\u{9b}') => Some('['),
                    Some('\u{9d}') => Some(']'),
                    _ => None,
                };
                (introducer, chars.as_str())
            }
        };
        match introducer {
            Some('=') => self.set(KEYPAD, true),
            Some('>') => self.set(KEYPAD, false),
            Some('[') => self.control(rest),
            Some(']') => self.command(rest),
            _ => {}
        }
    }

    /// ESC c.
    pub(super) fn reset(&mut self) {
        *self = Self {
            // A reset is of the terminal, and a title belongs to its window.
            title: std::mem::take(&mut self.title),
            ..Self::default()
        };
    }

    /// A control sequence proper, after its introducer.
    fn control(&mut self, rest: &str) {
        let numbers = |text: &str| -> Vec<u16> {
            text.split(';')
                .map(|number| number.parse().unwrap_or(0))
                .collect()
        };
        let last = rest.chars().next_back();
        if let (Some(body), Some(last @ ('h' | 'l'))) = (rest.strip_prefix('?'), last) {
            for mode in numbers(&body[..body.len() - 1]) {
                self.set(mode, last == 'h');
            }
        } else if let Some(style) = rest.strip_suffix(" q") {
            self.cursor_style = style.parse().ok().filter(|style| (1..=6).contains(style));
        } else if let Some(keys) = rest
            .strip_prefix('>')
            .and_then(|keys| keys.strip_suffix('m'))
        {
            // XTMODKEYS, resource 4: how modified keys are sent.
            if let [4, value @ ..] = numbers(keys).as_slice() {
                self.modify_other_keys = value.first().copied().filter(|value| *value > 0);
            }
        } else if rest == "!p" {
            self.set(KEYPAD, false);
        }
    }

    /// An operating system command, after its introducer.
    fn command(&mut self, rest: &str) {
        let Some((number, text)) = rest.split_once(';') else {
            return;
        };
        if number == "0" || number == "2" {
            self.title = text
                .chars()
                .filter(|letter| !letter.is_control())
                .take(TITLE_CHARS)
                .collect();
        }
    }

    fn set(&mut self, mode: u16, on: bool) {
        if let Some(index) = FLAGS.iter().position(|flag| *flag == mode) {
            self.flags[index] = on;
        } else if MOUSE.contains(&mode) {
            self.mouse = on.then_some(mode);
        } else if MOUSE_FORMAT.contains(&mode) {
            self.mouse_format = on.then_some(mode);
        }
    }

    /// Sequences that set a fresh terminal to these modes.
    pub(super) fn write(&self, out: &mut String) {
        let flags = FLAGS
            .iter()
            .zip(self.flags)
            .filter(|(_, on)| *on)
            .map(|(mode, _)| *mode);
        for mode in flags.chain(self.mouse).chain(self.mouse_format) {
            // Writing to a string cannot fail.
            let _ = if mode == KEYPAD {
                write!(out, "\x1b=")
            } else {
                write!(out, "\x1b[?{mode}h")
            };
        }
        if let Some(style) = self.cursor_style {
            let _ = write!(out, "\x1b[{style} q");
        }
        if let Some(value) = self.modify_other_keys {
            let _ = write!(out, "\x1b[>4;{value}m");
        }
        if !self.title.is_empty() {
            let _ = write!(out, "\x1b]2;{}\x07", self.title);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(sequences: &[&str]) -> String {
        let mut modes = Modes::default();
        for sequence in sequences {
            modes.observe(sequence);
        }
        let mut out = String::new();
        modes.write(&mut out);
        out
    }

    #[test]
    fn reproduces_what_was_set() {
        assert_eq!(written(&[]), "");
        assert_eq!(written(&["\x1b[?2004h", "\x1b="]), "\x1b=\x1b[?2004h");
        assert_eq!(written(&["\x1b[?2004;1004h", "\x1b[?2004l"]), "\x1b[?1004h");
        assert_eq!(
            written(&["\x1b[?1000h", "\x1b[?1002;1006h"]),
            "\x1b[?1002h\x1b[?1006h"
        );
        assert_eq!(written(&["\x1b[?1003h", "\x1b[?1000l"]), "");
        assert_eq!(written(&["\x1b[4 q"]), "\x1b[4 q");
        assert_eq!(written(&["\x1b[4 q", "\x1b[0 q"]), "");
        assert_eq!(written(&["\x1b[>4;2m"]), "\x1b[>4;2m");
        assert_eq!(written(&["\x1b[>4;2m", "\x1b[>4m"]), "");
        assert_eq!(written(&["\x1b=", "\x1b>"]), "");
        assert_eq!(
            written(&["\x1b]0;a title", "\x1b]1;icon"]),
            "\x1b]2;a title\x07"
        );
        assert_eq!(written(&["\u{9b}?1006h"]), "\x1b[?1006h");
    }

    #[test]
    fn is_not_taken_in_by_titles() {
        let long = format!("\x1b]2;{}", "x".repeat(5000));
        assert_eq!(written(&[&long]).len(), 5 + 256);
        assert_eq!(written(&["\x1b]2;a\u{1b}[31m\u{9b}b"]), "\x1b]2;a[31mb\x07");
    }

    #[test]
    fn ignores_what_it_does_not_know() {
        for sequence in [
            "",
            "\x1b",
            "\x1b[",
            "\x1b[h",
            "\x1b[?h",
            "\x1b[?;;;l",
            "\x1b[?é",
            "\x1b]",
            "\x1b[ q",
            "x",
            "é",
        ] {
            assert_eq!(written(&[sequence]), "", "{sequence:?}");
        }
    }
}
