//! The model of a terminal's screen: what a viewer that comes later has to be shown.
//!
//! The grid is `avt`'s. Here is what it leaves out: bytes that are no characters, modes that only
//! concern the viewer ([`super::modes`]), rows that scrolled off ([`super::history`]), sequences that
//! are unfinished, and what keeps a hostile program from costing more than it writes.

use super::clusters::{self, Clusters};
use super::dump;
use super::history::{self, History, Row};
use super::modes::Modes;
use super::pty::Size;
use avt::parser::{AnsiMode, EdScope, Function, State};
use avt::{Line, Observation, Observer, Parser, ScreenKind, Terminal};
use std::fmt::Write;
use unicode_width::UnicodeWidthChar;

/// Rows that scrolled off and that `avt` still holds, to come back when the screen grows.
const NEAR_ROWS: usize = 64;
/// A longer control sequence is not kept for the viewer that comes in its middle.
const SEQUENCE_BYTES: usize = 4096;
/// Cells that may be touched between two turns of everything else in the agent, by the guess that
/// each few bytes can touch all of them.
const CELLS_A_TURN: usize = 8_000_000;
/// Cells that may be in memory while the rows are broken to another width.
const REFLOW_CELLS: usize = 2_000_000;

/// A terminal's screen.
pub(super) struct Screen {
    terminal: Terminal,
    parser: Parser,
    /// Bytes of a character that is not complete.
    partial: Vec<u8>,
    sequence: Sequence,
    modes: Modes,
    history: History,
    clusters: Clusters,
    /// What is printed moves the rest of its row on.
    inserts: bool,
}

impl std::fmt::Debug for Screen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Screen")
            .field("size", &self.terminal.size())
            .finish_non_exhaustive()
    }
}

/// A control sequence that is coming.
#[derive(Debug, Default)]
struct Sequence {
    text: String,
    cut: bool,
}

impl Sequence {
    fn push(&mut self, letter: char) {
        if self.text.len() + letter.len_utf8() <= SEQUENCE_BYTES {
            self.text.push(letter);
        } else {
            self.cut = true;
        }
    }

    fn clear(&mut self) {
        self.text.clear();
        self.cut = false;
    }

    /// What makes a fresh terminal take the rest of it as this one does.
    fn resume(&self) -> &str {
        if !self.cut {
            return &self.text;
        }
        // Its rest only has to be ignored up to its end: as a command of no known number, or as a
        // string for the application.
        let command = self.text.starts_with("\x1b]") || self.text.starts_with('\u{9d}');
        if command { "\x1b]9999;" } else { "\x1b_" }
    }
}

/// Takes the rows that `avt` gives up.
struct Evicted<'a>(&'a mut History, &'a Clusters);

impl Observer for Evicted<'_> {
    type Output = ();

    fn evicted(&mut self, _context: &mut Observation<'_>, line: &Line) {
        self.0.push(Row::new(line, self.1));
    }

    fn end(&mut self, _context: &mut Observation<'_>) {}
}

impl Screen {
    pub(super) fn new(size: Size) -> Self {
        let (columns, rows) = cells(size);
        Self {
            terminal: Terminal::with_scrollback(columns, rows, Some(NEAR_ROWS))
                .unwrap_or_else(|_| unreachable!("neither is 0")),
            parser: Parser::new(),
            partial: Vec::new(),
            sequence: Sequence::default(),
            modes: Modes::default(),
            history: History::default(),
            clusters: Clusters::default(),
            inserts: false,
        }
    }

    pub(super) fn size(&self) -> Size {
        let (columns, rows) = self.terminal.size();
        let number = |value: usize| u16::try_from(value).unwrap_or(u16::MAX);
        Size {
            columns: number(columns),
            rows: number(rows),
        }
    }

    /// How many bytes to feed before others get their turn.
    pub(super) fn turn_bytes(&self) -> usize {
        let (columns, rows) = self.terminal.size();
        (CELLS_A_TURN / (columns * rows)).clamp(32, 16 << 10)
    }

    /// Takes what the program wrote.
    pub(super) fn feed(&mut self, bytes: &[u8]) {
        let joined;
        let bytes = if self.partial.is_empty() {
            bytes
        } else {
            self.partial.extend_from_slice(bytes);
            joined = std::mem::take(&mut self.partial);
            &joined
        };
        let mut chunks = bytes.utf8_chunks().peekable();
        while let Some(chunk) = chunks.next() {
            for letter in chunk.valid().chars() {
                self.letter(letter);
            }
            let invalid = chunk.invalid();
            if invalid.is_empty() {
                continue;
            }
            let unfinished = std::str::from_utf8(invalid)
                .is_err_and(|error| error.error_len().is_none())
                && chunks.peek().is_none();
            if unfinished {
                self.partial = invalid.to_vec();
            } else {
                self.letter(char::REPLACEMENT_CHARACTER);
            }
        }
    }

    fn letter(&mut self, letter: char) {
        let function = self.parser.feed(letter);
        if letter == '\u{1b}' || is_introducer(letter) {
            // A sequence ends where another begins; a string's terminator begins with ESC.
            self.modes.observe(&self.sequence.text);
            self.sequence.clear();
        }
        if self.parser.state != State::Ground {
            // Control characters inside a sequence were carried out, and are not part of it.
            if letter >= ' ' || letter == '\u{1b}' {
                self.sequence.push(letter);
            }
        } else if !self.sequence.text.is_empty() {
            let terminator = matches!(letter, '\u{7}' | '\u{9c}');
            if !terminator {
                self.sequence.push(letter);
            }
            self.modes.observe(&self.sequence.text);
            self.sequence.clear();
        }
        if let Some(function) = function {
            self.function(function);
        }
    }

    fn function(&mut self, function: Function) {
        match function {
            Function::Print('\u{7f}') => {}
            // Viewers show it on the cell before, and the model must not take another one.
            Function::Print(letter) if letter > '\u{2ff}' && letter.width() == Some(0) => {
                self.mark(letter);
            }
            Function::Print(letter) if clusters::is_placeholder(letter) => {
                let wide = letter.width() == Some(2);
                let own = self.placeholder(letter.encode_utf8(&mut [0; 4]), wide);
                // Without room for it, something that takes as many cells.
                let lost = if wide {
                    '〓'
                } else {
                    char::REPLACEMENT_CHARACTER
                };
                self.execute(Function::Print(own.unwrap_or(lost)));
            }
            // No program repeats past a line; each such sequence could fill many screens.
            Function::Rep(count) => {
                let columns = u16::try_from(self.terminal.size().0).unwrap_or(u16::MAX);
                self.execute(Function::Rep(count.min(columns)));
            }
            Function::Ed(EdScope::SavedLines) => self.forget_history(),
            // `avt` moves the screen into the history, where viewers erase it.
            Function::Ed(EdScope::All)
                if self.terminal.active_screen_kind() == ScreenKind::Primary =>
            {
                self.execute(Function::Ed(EdScope::Above));
                self.execute(Function::Ed(EdScope::Below));
            }
            Function::Ris => {
                self.execute(Function::Ris);
                self.modes.reset();
                self.history.clear();
                self.clusters = Clusters::default();
                self.inserts = false;
            }
            other => {
                match &other {
                    Function::Sm(modes) if modes.as_slice().contains(&AnsiMode::Insert) => {
                        self.inserts = true;
                    }
                    Function::Rm(modes) if modes.as_slice().contains(&AnsiMode::Insert) => {
                        self.inserts = false;
                    }
                    Function::Decstr => self.inserts = false,
                    _ => {}
                }
                self.execute(other);
            }
        }
    }

    fn execute(&mut self, function: Function) {
        self.terminal
            .execute_with(function, Evicted(&mut self.history, &self.clusters));
    }

    /// Puts a character of width 0 onto the cell before the cursor, as viewers do, wherever the cursor
    /// came from. At the beginning of a row there is none.
    fn mark(&mut self, mark: char) {
        let before = self.terminal.cursor();
        let Some(mut column) = before.col.checked_sub(1) else {
            return;
        };
        let cell = |terminal: &Terminal, column: usize| {
            let line = terminal.screen().line(before.row);
            line.and_then(|line| line.cells().get(column).copied())
        };
        let mut old = cell(&self.terminal, column);
        if old.is_some_and(|cell| cell.width() == 0) && column > 0 {
            column -= 1;
            old = cell(&self.terminal, column);
        }
        let Some(old) = old else { return };
        let Some(text) = self.clusters.joined(old.char(), mark) else {
            return;
        };
        let Some(new) = self.placeholder(&text, old.width() == 2) else {
            return;
        };
        // `avt` has no other way to change a cell than to print it anew, as it was.
        let put = |terminal: &mut Terminal| {
            let column = u16::try_from(column + 1).unwrap_or(u16::MAX);
            terminal.execute([Function::Cha(column), Function::Print(new)]);
        };
        if self.inserts {
            self.terminal.feed("\x1b[4l");
        }
        put(&mut self.terminal);
        let pen = cell(&self.terminal, column).map_or(*old.pen(), |cell| *cell.pen());
        // The cursor waited behind the end of its row, and rows are not continued any more.
        let waits = before.col == self.terminal.size().0;
        let stuck = waits && self.terminal.cursor().col != before.col;
        if stuck {
            self.terminal.feed("\x1b[?7h");
        }
        // What a cell looks like that shows nothing is not replayed, so that it cannot count.
        let old = match old.char() == ' ' && !history::shows_blanks(old.pen()) {
            true => pen,
            false => *old.pen(),
        };
        if stuck || pen != old {
            self.terminal.feed(history::pen(&old));
            put(&mut self.terminal);
            self.terminal.feed(history::pen(&pen));
        }
        if stuck {
            self.terminal.feed("\x1b[?7l");
        }
        if !waits {
            let column = u16::try_from(before.col + 1).unwrap_or(u16::MAX);
            self.terminal.execute(Function::Cha(column));
        }
        if self.inserts {
            self.terminal.feed("\x1b[4h");
        }
    }

    /// The placeholder of a text that takes one cell or two, where there is room for one more.
    fn placeholder(&mut self, text: &str, wide: bool) -> Option<char> {
        let found = self.clusters.placeholder(text, wide);
        let (columns, rows) = self.terminal.size();
        if found.is_some() || !self.clusters.needs_sweep((2 * rows + NEAR_ROWS) * columns) {
            return found;
        }
        let primary = self.terminal.primary_screen().all_lines();
        let lines = primary.chain(self.terminal.screen().visible_lines());
        self.clusters.sweep(lines.flat_map(Line::chars));
        self.clusters.placeholder(text, wide)
    }

    fn forget_history(&mut self) {
        self.history.clear();
        let (columns, rows) = self.terminal.size();
        if self.terminal.primary_screen().all_lines().count() > rows {
            // There is no other way to empty it; a dump leaves the history out.
            let dump = self.terminal.dump();
            if let Ok(mut fresh) = Terminal::with_scrollback(columns, rows, Some(NEAR_ROWS)) {
                fresh.feed(dump.as_str());
                self.terminal = fresh;
            }
        }
    }

    /// Gives it another size.
    ///
    /// `avt` makes all rows of the new width before it gives up those that are too many, and each of
    /// them holds the memory of the row that it was cut from: a thousand columns made one would take a
    /// thousand times the screen. So a much narrower width is reached in halves, and what is too much
    /// scrolls off after each.
    pub(super) fn resize(&mut self, size: Size) {
        let (columns, rows) = cells(size);
        loop {
            let (now, kept) = self.terminal.size();
            // A row that is cut into n leaves n, n - 1, .. and 1 of these parts behind.
            let parts = now.div_ceil(columns);
            if (kept + NEAR_ROWS) * now * (parts + 1) / 2 <= REFLOW_CELLS || parts <= 2 {
                break;
            }
            self.resize_at_once(now.div_ceil(2), kept);
        }
        self.resize_at_once(columns, rows);
    }

    fn resize_at_once(&mut self, columns: usize, rows: usize) {
        self.terminal
            .resize_with(columns, rows, Evicted(&mut self.history, &self.clusters));
    }

    /// What makes any terminal of the same size show this screen, with its history above, and go on
    /// as this one does with what the program writes next.
    pub(super) fn render(&self) -> Vec<u8> {
        let (columns, rows) = self.terminal.size();
        let mut out = String::from("\x1bc");
        let primary: Vec<&Line> = self.terminal.primary_screen().all_lines().collect();
        let near: Vec<Row> = primary[..primary.len().saturating_sub(rows)]
            .iter()
            .map(|line| Row::new(line, &self.clusters))
            .collect();
        let lines = history::write_rows(&mut out, self.history.rows().chain(&near), columns);
        if lines > 0 {
            // Those of its lines that are on the screen now scroll off, and no empty ones do.
            let on_screen = lines.min(rows - 1);
            // Writing to a string cannot fail.
            let _ = write!(out, "\x1b[{rows};1H");
            out.extend(std::iter::repeat_n('\n', on_screen));
            out.push_str("\x1b[H\x1b[J");
        }
        dump::write(&mut out, &self.terminal.dump(), columns, &self.clusters);
        self.modes.write(&mut out);
        out.push_str(self.sequence.resume());
        let mut bytes = out.into_bytes();
        bytes.extend_from_slice(&self.partial);
        bytes
    }
}

fn cells(size: Size) -> (usize, usize) {
    (size.columns.max(1).into(), size.rows.max(1).into())
}

fn is_introducer(letter: char) -> bool {
    matches!(letter, '\u{90}' | '\u{98}' | '\u{9b}' | '\u{9d}'..='\u{9f}')
}

#[cfg(test)]
mod tests;
