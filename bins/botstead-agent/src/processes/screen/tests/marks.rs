//! Characters of width 0, with the one that they stand on.

use super::*;

/// Accents, vowel signs, parts of syllables, joiners, variation selectors, skin tones, flags.
const TEXTS: [&str; 12] = [
    "ภาษาไทย ที่นี่ น้ำ",
    "हिन्दी में क्षत्रिय",
    "cafe\u{301} A\u{30a}ngstro\u{308}m",
    "\u{1112}\u{1161}\u{11ab}\u{1100}\u{1173}\u{11af}",
    "\u{1f468}\u{200d}\u{1f469}\u{200d}\u{1f467}!",
    "\u{2764}\u{fe0f}\u{200d}\u{1f525} \u{26a0}\u{fe0f}",
    "\u{1f1eb}\u{1f1f7}\u{1f1e9}\u{1f1ea}",
    "\u{1f44d}\u{1f3fd} \u{1f44b}\u{1f3ff}",
    "1\u{fe0f}\u{20e3} 2\u{fe0f}\u{20e3}",
    "\u{1f3f4}\u{e0067}\u{e0062}\u{e0065}\u{e006e}\u{e0067}\u{e007f}",
    "שָׁלוֹם مَرْحَبًا",
    // What the model uses for itself.
    "\u{100500}\u{301}\u{100001} \u{3e001}\u{fe0f}",
];

#[test]
fn they_come_back_wherever_the_output_is_split() {
    for text_of in TEXTS {
        let bytes = text_of.as_bytes();
        for split in 0..=bytes.len() {
            let (before, after) = bytes.split_at(split);
            let mut whole = Screen::new(SIZE);
            whole.feed(before);
            let mut late = viewer(&whole);
            for screen in [&mut whole, &mut late] {
                screen.feed(after);
            }
            assert_eq!(text(&whole)[0], text_of, "split at {split}");
            assert_same(&whole, &late, text_of);
            assert_same(&whole, &viewer(&whole), text_of);
        }
        let mut whole = Screen::new(SIZE);
        for byte in bytes {
            whole.feed(&[*byte]);
        }
        assert_eq!(text(&whole)[0], text_of);
    }
}

/// The judge has them in its cells, too, as far as these are long enough.
#[test]
fn another_emulator_finds_them_in_the_same_cells() {
    for text_of in TEXTS {
        let output = format!("\x1b[32m{text_of}\r\n\x1b[m{text_of}{text_of}");
        let screen = screen(SIZE, &output);
        let [mut direct, mut late] =
            [0; 2].map(|_| vt100::Parser::new(6.try_into().unwrap(), 20.try_into().unwrap(), 0));
        direct.process(output.as_bytes());
        late.process(&screen.render());
        for (row, column) in (0..6).flat_map(|row| (0..20).map(move |column| (row, column))) {
            let cell = |parser: &vt100::Parser| {
                let cell = parser.screen().cell(row, column).unwrap();
                (cell.contents().trim().to_owned(), cell.fgcolor())
            };
            assert_eq!(cell(&direct), cell(&late), "{text_of} at {row} {column}");
        }
        let cursor = |parser: &vt100::Parser| parser.screen().cursor_position();
        // The judge gives some characters two cells when U+FE0F follows; most viewers do not.
        if !text_of.contains('\u{fe0f}') {
            assert_eq!(cursor(&direct), cursor(&late), "{text_of}");
        }
    }
}

#[test]
fn what_scrolled_off_has_them() {
    let lines: String = (0..300)
        .map(|number| format!("{number} {}\r\n", TEXTS[number % TEXTS.len()]))
        .collect();
    let mut screen = Screen::new(Size {
        columns: 40,
        rows: 6,
    });
    screen.feed(lines.as_bytes());
    for (columns, rows) in [(40, 6), (7, 6), (80, 3), (3, 200), (40, 6)] {
        screen.resize(Size { columns, rows });
        let late = viewer(&screen);
        assert_eq!(text(&screen), text(&late), "{columns}x{rows}");
        assert_eq!(cells(&screen), cells(&late), "{columns}x{rows}");
        let all = history_text(&screen) + &text(&screen).join("\r\n");
        assert!(all.starts_with(&format!("0 {}\r\n1 {}\r\n", TEXTS[0], TEXTS[1])));
        assert!(history_text(&late).starts_with(&format!("0 {}\r\n", TEXTS[0])));
    }
    // `clear` empties what scrolled off, and nothing else.
    screen.feed(b"\x1b[3J");
    assert_eq!(history_text(&screen), "");
    assert!(text(&screen)[4].contains(TEXTS[299 % TEXTS.len()]));
}

#[test]
fn the_other_screen_has_them() {
    check(
        "e\u{301}\x1b[?1049h\x1b[2Ja\u{308}",
        "\u{301}\x1b[?1049l\u{302}",
    );
}

/// They belong to the cell before the cursor, whatever was done between, and change nothing else.
#[test]
fn they_stand_on_the_cell_before_the_cursor() {
    let shows = |output: &str, expected: &str| {
        let screen = screen(SIZE, output);
        assert_eq!(text(&screen)[0], expected, "{output:?}");
        for (at, _) in output.char_indices() {
            check(&output[..at], &output[at..]);
        }
        check(output, "\u{302}x");
    };
    shows("abc\x1b[2G\u{301}", "a\u{301}bc");
    shows("abc\x1b[2G\u{301}X", "a\u{301}Xc");
    shows("\x1b[31ma\x1b[1;44m\u{301}b", "a\u{301}b");
    shows("ab\x1b[G\x1b[4hc\u{301}", "c\u{301}ab");
    shows("ab\x1b[2G\x1b[4h\u{301}c", "a\u{301}cb");
    // At the end of a row, where the next character goes on in the next one.
    let row = "1234567890123456789";
    shows(&format!("{row}0\u{301}"), &format!("{row}0\u{301}"));
    shows(&format!("{row}0\x1b[?7l\u{301}"), &format!("{row}0\u{301}"));
    shows(
        "123456789012345678日\u{fe0f}",
        "123456789012345678日\u{fe0f}",
    );
    // In the middle of a wide character, on a blank one, and on none.
    shows("日\x1b[2G\u{301}", "日\u{301}");
    shows("\x1b[5G\u{301}", "    \u{301}");
    shows("\u{301}a", "a");
    shows("\x1b(0q\u{301}", "─\u{301}");
    shows("e\u{301}\x1b[3b", "e\u{301}e\u{301}e\u{301}e\u{301}");
    let same = "e\u{301}".repeat(9);
    shows(&same, &same);
    let pen = |output, column: usize| cells(&screen(SIZE, output))[column].clone().unwrap().1;
    // How the blank looks that it stands on is not replayed.
    check("\x1b[1m\x1b[?47h", "\t\u{e31}");
    let output = "\x1b[31ma\x1b[1;44m\u{301}b";
    assert_eq!(pen(output, 0), pen("\x1b[31ma", 0));
    assert_eq!(pen(output, 1), pen("\x1b[31;1;44mab", 1));
}

#[test]
fn more_of_them_than_are_kept_cost_nothing_else() {
    // A pile on one character.
    let pile = format!("a{}b", "\u{336}".repeat(1000));
    let whole = screen(SIZE, &pile);
    assert!(text(&whole)[0].starts_with("a\u{336}") && text(&whole)[0].ends_with("\u{336}b"));
    assert!(text(&whole)[0].len() < 80);
    check(&pile, "c");
    // More different ones than there is room for, one after another and all at once.
    let marks: Vec<char> = ('\u{300}'..='\u{34e}').collect();
    let different = (0..20_000).map(|number| {
        let (one, two) = (number % marks.len(), number / marks.len() % marks.len());
        let letter = char::from(b'a' + (number % 26) as u8);
        format!("{letter}{}{}", marks[one], marks[two])
    });
    let different: String = different.collect();
    let mut small = screen(SIZE, &different);
    let last = format!("z{}", marks[5]);
    small.feed(format!("\x1b[H\x1b[2J{last}").as_bytes());
    assert_eq!(text(&small)[0], last);
    let large = screen(Size::MOST, &different);
    let first: String = different.chars().take(1500).collect();
    assert!(text(&large)[0].starts_with(&first));
    assert_same(&large, &viewer(&large), "more than there is room for");
    // What is lost is marks only: each letter has its cell.
    let letters = text(&large).concat();
    assert_eq!(letters.chars().filter(char::is_ascii).count(), 20_000);
}

#[test]
fn floods_of_them_take_little_time() {
    for (name, piece) in [("marks", "\u{301}"), ("letters", "a\u{301}")] {
        let mut screen = Screen::new(SIZE);
        let flood = piece.repeat((1 << 20) / piece.len());
        let began = processor_time();
        screen.feed(flood.as_bytes());
        let took = processor_time() - began;
        eprintln!("a MiB of {name} took {took} ms");
        // Unoptimised.
        assert!(took < 10_000, "a MiB of {name} took {took} ms");
    }
    // Always new ones, on a screen that is full of others.
    let mut screen = Screen::new(Size::MOST);
    let different = |from: u32| -> String {
        let letters = (from..).filter_map(char::from_u32).take(10_000);
        letters.flat_map(|letter| [letter, '\u{301}']).collect()
    };
    screen.feed(different(0x4e00).as_bytes());
    let began = processor_time();
    for from in 0..10 {
        screen.feed(b"\x1b[300;1H");
        screen.feed(different(0x2_0000 + from * 1000).as_bytes());
    }
    let took = processor_time() - began;
    eprintln!("600 KiB of new ones took {took} ms");
    assert!(took < 10_000, "600 KiB of new ones took {took} ms");
}
