//! What `avt` dumps, in the words that every terminal knows and without the blanks at the end of
//! lines, which a viewer would take for text when it is made narrower.

use super::clusters::Clusters;
use unicode_width::UnicodeWidthChar;

/// Underline, inverse and strikethrough: attributes that a blank shows.
const SHOWN: u16 = 1 << 4 | 1 << 7 | 1 << 9;

/// The attributes that are set, as far as they tell whether a blank shows.
#[derive(Debug, Default)]
struct Pen {
    attributes: u16,
    background: bool,
}

impl Pen {
    /// Follows the parameters of SGR as `avt` writes them.
    fn set(&mut self, parameters: &str) {
        for parameter in parameters.split(';') {
            let number = parameter.split(':').next().unwrap_or_default();
            match number.parse().unwrap_or(0u16) {
                0 => *self = Self::default(),
                on @ 1..=9 => self.attributes |= 1 << on,
                off @ 23..=29 => self.attributes &= !(1 << (off - 20)),
                49 => self.background = false,
                40..=48 | 100..=107 => self.background = true,
                _ => {}
            }
        }
    }

    fn shows_blanks(&self) -> bool {
        self.background || self.attributes & SHOWN != 0
    }
}

/// Writes the dump of a screen of so many columns. Repetitions (REP) are written out, colons in
/// colours become semicolons, and the other screen is entered by its oldest name.
pub(super) fn write(out: &mut String, dump: &str, columns: usize, clusters: &Clusters) {
    let mut row = Row::new(out.len());
    let mut printed = None;
    let mut pen = Pen::default();
    let mut rest = dump;
    while let Some(letter) = rest.chars().next() {
        if letter != '\u{1b}' {
            rest = &rest[letter.len_utf8()..];
            if letter == '\r' {
                row.end(out, columns);
            }
            clusters.write(out, letter);
            printed = Some(letter);
            match letter {
                '\n' => row = Row::new(out.len()),
                _ => row.put(letter, &pen, out.len()),
            }
            continue;
        }
        let (sequence, after) = split_sequence(rest);
        rest = after;
        let parameters = sequence
            .strip_prefix("\u{1b}[")
            .map(|body| &body[..body.len().saturating_sub(1)]);
        match (parameters, sequence.as_bytes().last()) {
            (Some(parameters), Some(b'm')) => {
                pen.set(parameters);
                out.extend(sequence.chars().map(|letter| match letter {
                    ':' => ';',
                    letter => letter,
                }));
            }
            (Some(parameters), Some(b'b')) => {
                let count = parameters.parse::<u16>().unwrap_or(0);
                if let Some(letter) = printed {
                    for _ in 0..count {
                        clusters.write(out, letter);
                        row.put(letter, &pen, out.len());
                    }
                }
            }
            (_, last) => {
                row.end(out, columns);
                match sequence {
                    // Tab stops, by the names of CTC (ECMA-48, 8.3.17), which few terminals know.
                    "\u{1b}[5W" => out.push_str("\u{1b}[3g"),
                    "\u{1b}[W" => out.push_str("\u{1b}H"),
                    _ => out.push_str(&sequence.replace("?1047", "?47")),
                }
                row = Row::new(out.len());
                // The rows come first of all, and after the other screen is entered. Elsewhere the
                // cursor is moved, and a character only put where it is to be.
                let in_rows = matches!(sequence, "\u{1b}[?1047h" | "\u{1b}[1;1H");
                row.counts = in_rows || last != Some(&b'H');
            }
        }
    }
    row.end(out, columns);
}

/// A row that is being written.
struct Row {
    /// Cells that were written.
    width: usize,
    /// Where the blanks at its end begin and end, when nothing but attributes came after them.
    blanks: (usize, usize),
    counts: bool,
}

impl Row {
    fn new(at: usize) -> Self {
        Self {
            width: 0,
            blanks: (at, at),
            counts: true,
        }
    }

    /// A character was written, and the text is so long now.
    fn put(&mut self, letter: char, pen: &Pen, end: usize) {
        self.width += letter.width().unwrap_or(0);
        if letter != ' ' || pen.shows_blanks() {
            self.blanks = (end, end);
        } else if self.blanks.1 + 1 == end {
            self.blanks.1 = end;
        } else {
            self.blanks = (end - 1, end);
        }
    }

    /// Takes the blanks at its end away, unless it goes on in another one: that it does is seen by
    /// its being full.
    fn end(&mut self, out: &mut String, columns: usize) {
        if self.counts && self.width <= columns {
            out.replace_range(self.blanks.0..self.blanks.1, "");
        }
        *self = Self::new(out.len());
    }
}

/// Splits a control sequence from the beginning.
fn split_sequence(text: &str) -> (&str, &str) {
    let body = match text.strip_prefix("\u{1b}[") {
        Some(_) => 2,
        None => 1,
    };
    let last = text[body..].find(|letter: char| match body {
        2 => ('@'..='~').contains(&letter),
        // After intermediate bytes, of which `avt` writes one at most.
        _ => ('0'..='~').contains(&letter),
    });
    // What ends it is one byte long.
    text.split_at(last.map_or(text.len(), |last| body + last + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(dump: &str) -> String {
        let mut out = String::new();
        write(&mut out, dump, 12, &Clusters::default());
        out
    }

    #[test]
    fn writes_out_what_not_every_terminal_knows() {
        assert_eq!(written("x\x1b[4by"), "xxxxxy");
        assert_eq!(written("日\x1b[2b"), "日日日");
        assert_eq!(written("\x1b[5W\x1b[4G\x1b[W"), "\x1b[3g\x1b[4G\x1bH");
        assert_eq!(written("\x1b[1;38:5:200mx"), "\x1b[1;38;5;200mx");
        assert_eq!(written("\x1b(0\x0ex\x1b7y\x1bc"), "\x1b(0\x0ex\x1b7y\x1bc");
    }

    #[test]
    fn blanks_at_the_end_go_where_they_do_not_show() {
        assert_eq!(written("a  b  \r\nc \x1b[9b\r\n\r\n"), "a  b\r\nc\r\n\r\n");
        assert_eq!(written("a \x1b[9b\x1b[0m\x1b[1;1H"), "a\x1b[0m\x1b[1;1H");
        assert_eq!(written("\x1b[44m  \r\n"), "\x1b[44m  \r\n");
        assert_eq!(written("\x1b[44mx\x1b[49m  \r\n"), "\x1b[44mx\x1b[49m\r\n");
        assert_eq!(
            written("\x1b[1;7mx\x1b[22m  \r\n"),
            "\x1b[1;7mx\x1b[22m  \r\n"
        );
        assert_eq!(
            written("\x1b[1;7mx\x1b[22;27m  \r\n"),
            "\x1b[1;7mx\x1b[22;27m\r\n"
        );
        // One that only makes the cursor wait at the end of its line.
        assert_eq!(written("a \r\nb \x1b[2;9H "), "a\r\nb\x1b[2;9H ");
        assert_eq!(
            written("\x1b[2;9H\x1b[?1047h\x1b[1;1Ha \r\n"),
            "\x1b[2;9H\x1b[?47h\x1b[1;1Ha\r\n"
        );
        // A row that goes on in the next one needs its end.
        assert_eq!(
            written(&format!("a{}b \r\n", " ".repeat(11))),
            format!("a{}b \r\n", " ".repeat(11))
        );
        // In the middle, or of a line that goes on.
        assert_eq!(written("a  \x1b[1mb"), "a  \x1b[1mb");
        assert_eq!(written("a  b"), "a  b");
    }

    #[test]
    fn takes_what_is_cut() {
        for text in ["\x1b", "\x1b[", "\x1b[1;", "\x1b(", "x\x1b[99999999999b"] {
            written(text);
        }
    }
}
