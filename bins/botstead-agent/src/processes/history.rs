//! The rows that scrolled off a terminal's screen, as the text and attributes that show them again.

use super::clusters::Clusters;
use avt::{Cell, Color, Line, Pen};
use std::collections::VecDeque;
use std::fmt::Write;

/// Memory for one terminal's rows, and how many there may be.
const MOST_BYTES: usize = 512 << 10;
const MOST_ROWS: usize = 10_000;
/// What a row costs beside its text.
const ROW_BYTES: usize = 40;

/// A row of the screen.
#[derive(Debug, PartialEq, Eq, Clone)]
pub(super) struct Row {
    text: Box<str>,
    /// Columns that its text takes.
    columns: usize,
    /// It goes on in the next row.
    wrapped: bool,
}

impl Row {
    fn cost(&self) -> usize {
        self.text.len() + ROW_BYTES
    }

    pub(super) fn new(line: &Line, clusters: &Clusters) -> Self {
        let wrapped = line.is_wrapped();
        let cells = line.cells();
        let used = if wrapped {
            cells.len()
        } else {
            let blank = Cell::default();
            let trailing = cells.iter().rev().take_while(|cell| **cell == blank);
            cells.len() - trailing.count()
        };
        let mut text = String::new();
        let mut pen = Pen::default();
        // The second half of a wide character has no width of its own.
        for cell in cells[..used].iter().filter(|cell| cell.width() > 0) {
            if *cell.pen() != pen {
                pen = *cell.pen();
                write_pen(&mut text, &pen);
            }
            clusters.write(&mut text, cell.char());
        }
        if !pen.is_default() {
            text.push_str("\x1b[m");
        }
        Self {
            text: text.into_boxed_str(),
            columns: used,
            wrapped,
        }
    }
}

/// Whether a blank shows.
pub(super) fn shows_blanks(pen: &Pen) -> bool {
    pen.background().is_some() || pen.is_underline() || pen.is_inverse() || pen.is_strikethrough()
}

/// Sets all attributes, from whatever was set before.
pub(super) fn pen(pen: &Pen) -> String {
    let mut out = String::new();
    write_pen(&mut out, pen);
    out
}

fn write_pen(out: &mut String, pen: &Pen) {
    out.push_str("\x1b[0");
    let attributes = [
        (pen.is_bold(), ";1"),
        (pen.is_faint(), ";2"),
        (pen.is_italic(), ";3"),
        (pen.is_underline(), ";4"),
        (pen.is_blink(), ";5"),
        (pen.is_inverse(), ";7"),
        (pen.is_strikethrough(), ";9"),
    ];
    for (_, number) in attributes.iter().filter(|(on, _)| *on) {
        out.push_str(number);
    }
    for (color, base) in [(pen.foreground(), 30), (pen.background(), 40)] {
        // Writing to a string cannot fail.
        let _ = match color {
            None => Ok(()),
            Some(Color::Indexed(index @ 0..8)) => write!(out, ";{}", base + u32::from(index)),
            Some(Color::Indexed(index @ 8..16)) => write!(out, ";{}", base + 52 + u32::from(index)),
            Some(Color::Indexed(index)) => write!(out, ";{};5;{index}", base + 8),
            Some(Color::RGB(rgb)) => write!(out, ";{};2;{};{};{}", base + 8, rgb.r, rgb.g, rgb.b),
        };
    }
    out.push('m');
}

/// The rows, oldest first; the oldest go when there are too many.
#[derive(Debug, Default)]
pub(super) struct History {
    rows: VecDeque<Row>,
    bytes: usize,
}

impl History {
    /// Adds the newest row.
    pub(super) fn push(&mut self, row: Row) {
        self.bytes += row.cost();
        self.rows.push_back(row);
        while self.bytes > MOST_BYTES || self.rows.len() > MOST_ROWS {
            let Some(oldest) = self.rows.pop_front() else {
                break;
            };
            self.bytes -= oldest.cost();
        }
    }

    /// Forgets all rows.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// The rows, oldest first.
    pub(super) fn rows(&self) -> impl Iterator<Item = &Row> {
        self.rows.iter()
    }
}

/// Writes rows to a fresh terminal of a width, each on its line, and returns how many lines of that
/// terminal they take.
pub(super) fn write_rows<'a>(
    out: &mut String,
    rows: impl IntoIterator<Item = &'a Row>,
    width: usize,
) -> usize {
    let (mut lines, mut columns, mut open) = (0, 0, false);
    for row in rows {
        out.push_str(&row.text);
        columns += row.columns;
        open = row.wrapped;
        if !open {
            out.push_str("\r\n");
            lines += columns.div_ceil(width).max(1);
            columns = 0;
        }
    }
    if open {
        // Its end is on the screen.
        out.push_str("\r\n");
        lines += columns.div_ceil(width).max(1);
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(columns: usize, text: &str) -> Vec<Row> {
        let mut terminal = avt::Terminal::with_scrollback(columns, 4, None).unwrap();
        terminal.feed(text);
        let lines = terminal.screen().all_lines();
        let clusters = Clusters::default();
        lines.map(|line| Row::new(line, &clusters)).collect()
    }

    #[test]
    fn a_row_is_its_text_with_attributes() {
        let found = rows(
            20,
            "a \x1b[1;31mb\x1b[0m c\x1b[48;2;1;2;3m \x1b[38;5;200mx\x1b[m\r\n\x1b[92m日本",
        );
        assert_eq!(
            &*found[0].text,
            "a \x1b[0;1;31mb\x1b[0m c\x1b[0;48;2;1;2;3m \x1b[0;38;5;200;48;2;1;2;3mx\x1b[m"
        );
        assert_eq!(&*found[1].text, "\x1b[0;92m日本\x1b[m");
        assert_eq!(found[1].columns, 4);
        assert_eq!(&*found[2].text, "");
    }

    #[test]
    fn rows_that_go_on_are_joined() {
        let found = rows(4, "abcdefghij\r\nx\r\n");
        let mut out = String::new();
        assert_eq!(write_rows(&mut out, &found[..4], 4), 4);
        assert_eq!(out, "abcdefghij\r\nx\r\n");
        let mut out = String::new();
        assert_eq!(write_rows(&mut out, &found[..2], 80), 1);
        assert_eq!(out, "abcdefgh\r\n");
    }

    #[test]
    fn memory_is_bounded() {
        let mut history = History::default();
        let long = rows(1000, &"x".repeat(999)).remove(0);
        for _ in 0..2000 {
            history.push(long.clone());
        }
        assert!(history.bytes <= MOST_BYTES && history.bytes > MOST_BYTES / 2);
        for _ in 0..20_000 {
            history.push(rows(1, "")[0].clone());
        }
        assert_eq!(history.rows().count(), MOST_ROWS);
        history.clear();
        assert_eq!((history.bytes, history.rows().count()), (0, 0));
    }
}
