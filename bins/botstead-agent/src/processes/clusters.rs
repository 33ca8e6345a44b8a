//! Characters of width 0 (accents, vowel signs, joiners, variation selectors) with the one before them.
//!
//! The grid has one character per cell. A cell that shows more has a placeholder, and what it stands for
//! is here. Placeholders are characters that programs have no use for; one that comes all the same is
//! kept in the same way.

use std::collections::HashMap;
use std::sync::Arc;

/// How many there may be at once. A screen of Thai or Hindi has some hundred different ones.
const MOST: usize = 1 << 12;
/// What one may be long. More marks than that on one character are not kept.
const MOST_BYTES: usize = 64;
/// The placeholders of one cell, of private use, and those of two, which are not assigned.
const NARROW: u32 = 0x10_0000;
const WIDE: u32 = 0x3_E000;

/// What the placeholders on a screen stand for.
#[derive(Debug, Default)]
pub(super) struct Clusters {
    texts: Vec<Option<Arc<str>>>,
    placeholders: HashMap<Arc<str>, char>,
    /// Places in `texts` that are free again.
    free: Vec<u16>,
    /// What was asked for since the last sweep.
    asked: usize,
}

/// Its place, and whether it has two cells.
fn place(letter: char) -> Option<(usize, bool)> {
    let number = u32::from(letter);
    [(NARROW, false), (WIDE, true)]
        .into_iter()
        .find_map(|(first, wide)| {
            let place = usize::try_from(number.checked_sub(first)?).ok()?;
            (place < MOST).then_some((place, wide))
        })
}

fn placeholder(place: usize, wide: bool) -> Option<char> {
    let first = if wide { WIDE } else { NARROW };
    char::from_u32(first + u32::try_from(place).ok()?)
}

/// Whether it is a placeholder; what it stands for is another question.
pub(super) fn is_placeholder(letter: char) -> bool {
    place(letter).is_some()
}

impl Clusters {
    /// Writes what a character of the grid stands for.
    pub(super) fn write(&self, out: &mut String, letter: char) {
        match place(letter).and_then(|(place, _)| self.texts.get(place)?.as_deref()) {
            Some(text) => out.push_str(text),
            None => out.push(letter),
        }
    }

    /// What a character of the grid stands for, with one of width 0 more; `None` when it is full.
    pub(super) fn joined(&self, letter: char, mark: char) -> Option<String> {
        let mut text = String::with_capacity(MOST_BYTES);
        self.write(&mut text, letter);
        (text.len() + mark.len_utf8() <= MOST_BYTES).then(|| {
            text.push(mark);
            text
        })
    }

    /// The placeholder of a text that takes one cell or two; `None` when there are too many.
    pub(super) fn placeholder(&mut self, text: &str, wide: bool) -> Option<char> {
        self.asked += 1;
        if let Some(known) = self.placeholders.get(text) {
            return place(*known)
                .is_some_and(|(_, is_wide)| is_wide == wide)
                .then_some(*known);
        }
        let at = match self.free.pop() {
            Some(at) => at.into(),
            None if self.texts.len() < MOST => {
                self.texts.push(None);
                self.texts.len() - 1
            }
            None => return None,
        };
        let new = placeholder(at, wide)?;
        let text: Arc<str> = text.into();
        self.texts[at] = Some(Arc::clone(&text));
        self.placeholders.insert(text, new);
        Some(new)
    }

    /// Whether to sweep: there is no room, and so much was asked for that a look at so many cells costs
    /// little beside it.
    pub(super) fn needs_sweep(&self, cells: usize) -> bool {
        self.free.is_empty() && self.texts.len() >= MOST && self.asked >= MOST.max(cells / 64)
    }

    /// Forgets all but those that are on the screen.
    pub(super) fn sweep(&mut self, on_screen: impl Iterator<Item = char>) {
        let mut used = vec![false; self.texts.len()];
        for (place, _) in on_screen.filter_map(place) {
            if let Some(used) = used.get_mut(place) {
                *used = true;
            }
        }
        for (at, _) in used.iter().enumerate().filter(|(_, used)| !**used) {
            if let Some(text) = self.texts[at].take() {
                self.placeholders.remove(&text);
                self.free.extend(u16::try_from(at));
            }
        }
        self.asked = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use unicode_width::UnicodeWidthChar;

    #[test]
    fn placeholders_take_the_cells_that_they_should() {
        for (wide, width) in [(false, 1), (true, 2)] {
            for at in 0..MOST {
                let letter = placeholder(at, wide).unwrap();
                assert_eq!(letter.width(), Some(width), "{letter:?}");
                assert_eq!(place(letter), Some((at, wide)));
            }
        }
        for letter in [
            'e',
            '日',
            '\u{fffff}',
            '\u{10ffff}',
            '\u{3dfff}',
            '\u{3f000}',
        ] {
            assert!(!is_placeholder(letter), "{letter:?}");
        }
    }

    #[test]
    fn a_text_has_one_placeholder_and_gives_it_back() {
        let mut clusters = Clusters::default();
        let joined = clusters.joined('e', '\u{301}').unwrap();
        let one = clusters.placeholder(&joined, false).unwrap();
        assert_eq!(clusters.placeholder("e\u{301}", false), Some(one));
        assert_eq!(clusters.placeholder("e\u{301}", true), None);
        assert_eq!(clusters.joined(one, '\u{302}').unwrap(), "e\u{301}\u{302}");
        for number in 1..MOST {
            assert!(clusters.placeholder(&number.to_string(), true).is_some());
        }
        assert_eq!(clusters.placeholder("more", true), None);
        assert!(clusters.needs_sweep(0) && !clusters.needs_sweep(1_000_000));
        clusters.sweep(['x', one].into_iter());
        assert!(!clusters.needs_sweep(0));
        let mut out = String::new();
        clusters.write(&mut out, one);
        assert_eq!(out, "e\u{301}");
        assert!(clusters.placeholder("more", true).is_some());
        assert_eq!(clusters.placeholders.len(), 2);
    }

    #[test]
    fn a_character_with_marks_without_end_is_full() {
        let mut clusters = Clusters::default();
        let mut letter = 'a';
        while let Some(text) = clusters.joined(letter, '\u{336}') {
            assert!(text.len() <= MOST_BYTES);
            letter = clusters.placeholder(&text, false).unwrap();
        }
        assert!(clusters.texts.len() <= MOST_BYTES);
    }
}
