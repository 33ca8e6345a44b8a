//! The model against itself, against an emulator of other authors (vt100), and against noise.

mod marks;

use super::*;
use proptest::prelude::*;

const SIZE: Size = Size {
    columns: 20,
    rows: 6,
};

fn screen(size: Size, output: &str) -> Screen {
    let mut screen = Screen::new(size);
    screen.feed(output.as_bytes());
    screen
}

/// A viewer that comes now.
fn viewer(screen: &Screen) -> Screen {
    let mut viewer = Screen::new(screen.size());
    viewer.feed(&screen.render());
    viewer
}

fn text(screen: &Screen) -> Vec<String> {
    let lines = screen.terminal.screen().visible_lines();
    lines
        .map(|line| {
            let mut text = String::new();
            // The second half of a wide character has no width of its own.
            for cell in line.cells().iter().filter(|cell| cell.width() > 0) {
                screen.clusters.write(&mut text, cell.char());
            }
            text.trim_end().to_owned()
        })
        .collect()
}

fn history_text(screen: &Screen) -> String {
    let mut out = String::new();
    let primary: Vec<_> = screen.terminal.primary_screen().all_lines().collect();
    let near: Vec<_> = primary[..primary.len() - screen.terminal.size().1]
        .iter()
        .map(|line| Row::new(line, &screen.clusters))
        .collect();
    history::write_rows(
        &mut out,
        screen.history.rows().chain(&near),
        screen.terminal.size().0,
    );
    out
}

/// What the cells show: nothing, or a character with what it looks like.
fn cells(screen: &Screen) -> Vec<Option<(String, avt::Pen)>> {
    let lines = screen.terminal.screen().visible_lines();
    let cells = lines.flat_map(|line| line.cells().to_vec());
    let shown = cells.map(|cell| {
        let pen = *cell.pen();
        let blank = !history::shows_blanks(&pen);
        let mut text = String::new();
        screen.clusters.write(&mut text, cell.char());
        (text != " " || !blank).then_some((text, pen))
    });
    shown.collect()
}

/// A viewer that comes after `output` and sees the rest is shown what one is that saw everything.
#[track_caller]
fn check(output: &str, rest: &str) {
    let mut whole = screen(SIZE, output);
    let mut late = viewer(&whole);
    assert_same(&whole, &late, output);
    whole.feed(rest.as_bytes());
    late.feed(rest.as_bytes());
    assert_same(&whole, &late, rest);
}

#[track_caller]
fn assert_same(whole: &Screen, late: &Screen, what: &str) {
    assert_eq!(text(whole), text(late), "text after {what:?}");
    assert_eq!(
        whole.terminal.cursor(),
        late.terminal.cursor(),
        "cursor after {what:?}"
    );
    assert_eq!(cells(whole), cells(late), "cells after {what:?}");
    assert_eq!(whole.modes, late.modes, "modes after {what:?}");
    assert_eq!(
        history_text(whole),
        history_text(late),
        "history after {what:?}"
    );
    assert_eq!(whole.partial, late.partial);
}

#[test]
fn a_late_viewer_sees_the_same_screen() {
    check("", "hello");
    check("hello\r\nworld", "!\r\n");
    check("\x1b[1;31mred\x1b[44m on blue", " more\x1b[m plain");
    check("\x1b[38;5;200mx\x1b[38;2;1;2;3my\x1b[9;5;7;3;4mz", "w");
    check("wide 日本語 and e\u{301}", "語");
    check("exactly twenty wide!", "next");
    check(&"long line that wraps ".repeat(3), "and goes on");
    check("\x1b(0lqqqk\x1b(B \x1b)0\x0eqq", "qq\x0fqq");
    check("\x1b[?7lno wrap at the right end at all", "xyz");
    check("\x1b[4h\x1b[Habc\x1b[H", "inserted");
    check("\x1b[3g\x1b[5G\x1bH\r", "\tx");
    check("\x1b[5;10H\x1b7\x1b[H\x1b[31m", "\x1b8here");
    check("========\x1b[3b", "\x1b[2b");
}

#[test]
fn both_screens_and_margins_come_back() {
    check(
        "shell\r\n$ vi\x1b[?1049h\x1b[2J\x1b[Hediting",
        "\x1b[?1049l after",
    );
    check("one\x1b[?47htwo", "\x1b[?47l three");
    check("\x1b[2;4r\x1b[4;1Hlast", "\r\nscrolled\r\nagain");
    check("\x1b[2;5r\x1b[?6h\x1b[2;3Hin", "\x1b[1;1Horigin\x1b[r");
    check("\x1b[?1049h\x1b[2;4rx\x1b[?25l", "\r\n\r\n\r\ny\x1b[?1049l");
}

#[test]
fn modes_and_title_come_back() {
    let all =
        "\x1b[?1h\x1b=\x1b[?2004h\x1b[?1002;1006h\x1b[?25l\x1b[?1004h\x1b[5 q\x1b]0;my title\x07";
    let late = viewer(&screen(SIZE, all));
    assert_eq!(late.modes, screen(SIZE, all).modes);
    assert!(late.terminal.cursor_key_app_mode());
    assert!(!late.terminal.cursor().visible);
    let written = String::from_utf8(screen(SIZE, all).render()).unwrap();
    for part in [
        "\x1b[?1h",
        "\x1b=",
        "\x1b[?2004h",
        "\x1b[?1002h",
        "\x1b[?1006h",
        "\x1b[?25l",
        "\x1b[?1004h",
        "\x1b[5 q",
        "\x1b]2;my title\x07",
    ] {
        assert!(written.contains(part), "{part:?} in {written:?}");
    }
    check(all, "\x1b[?1002l\x1b>\x1b[?25h\x1b]2;other\x1b\\");
    check(all, "\x1bcreset");
}

#[test]
fn one_that_comes_in_the_middle_of_a_sequence_takes_its_rest() {
    check("a\x1b", "[31mb");
    check("a\x1b[3", "1mb");
    check("a\x1b[?20", "04hb");
    check("a\x1b]0;ti", "tle\x07b");
    check("a\x1b]0;ti", "tle\x1b\\b");
    check("a\x1bPq#0;2", ";0;0;0\x1b\\b");
    check("a\x1b[3\n1", ";4mb");
    let long = format!("a\x1b]52;c;{}", "x".repeat(10_000));
    check(&long, "yyy\x07b");
    let long = format!("a\x1bP{}", "x".repeat(10_000));
    check(&long, "yyy\x1b\\b");
    // In the middle of a character.
    let mut whole = Screen::new(SIZE);
    whole.feed(b"a\xe6\x97");
    let mut late = viewer(&whole);
    for screen in [&mut whole, &mut late] {
        screen.feed(b"\xa5b\xff\xe6\x97!");
    }
    assert_same(&whole, &late, "half a character");
    assert_eq!(text(&late)[0], "a日b\u{fffd}\u{fffd}!");
}

#[test]
fn what_scrolled_off_comes_back_above() {
    let lines: String = (0..200)
        .map(|number| format!("line {number}\r\n"))
        .collect();
    check(&lines, "$ ");
    check("1\r\n2\r\n3\r\n4\r\n5\r\n6\r\n7", "\r\n8");
    // A line that begins above the screen is cut in two there.
    let wrapped = screen(SIZE, &format!("{lines}{}", "wrapped text ".repeat(20)));
    assert_eq!(text(&wrapped), text(&viewer(&wrapped)));
    let late = viewer(&screen(SIZE, &lines));
    assert!(history_text(&late).starts_with("line 0\r\nline 1\r\n"));
    assert_eq!(text(&late)[0], "line 195");
    // `clear` takes it away.
    let cleared = screen(SIZE, &format!("{lines}\x1b[H\x1b[2J\x1b[3J$ "));
    assert_eq!(history_text(&cleared), "");
    assert_eq!(text(&cleared)[0], "$");
    // A full repaint leaves nothing behind.
    let painted = screen(SIZE, &"\x1b[H\x1b[2Jframe\r\nof two".repeat(50));
    assert_eq!(history_text(&painted), "");
}

#[test]
fn its_size_changes_without_loss() {
    let mut screen = screen(SIZE, "first\r\nsecond\r\n$ ");
    for (columns, rows) in [(10, 3), (80, 24), (1, 1), (1000, 500), (20, 6)] {
        screen.resize(Size { columns, rows });
        let late = viewer(&screen);
        assert_same(&screen, &late, &format!("{columns}x{rows}"));
    }
    let all = history_text(&screen) + &text(&screen).join("\r\n");
    assert!(all.contains("first") && all.contains("second"), "{all:?}");
}

#[test]
fn a_narrow_size_keeps_what_is_on_the_screen_and_above_it() {
    // Enough cells that the width is reached in steps.
    let lines: String = (0..1200)
        .map(|n| format!("{n:04} {}\r\n", "x".repeat(990)))
        .collect();
    let mut screen = screen(Size::MOST, &format!("{lines}$ "));
    for columns in [3, 1, 1000] {
        screen.resize(Size { columns, rows: 2 });
        let late = viewer(&screen);
        assert_eq!(text(&screen), text(&late), "{columns} columns");
        assert_eq!(screen.terminal.cursor(), late.terminal.cursor());
        assert!(history_text(&screen).contains("xxx"), "{columns} columns");
    }
    assert_eq!(text(&screen)[1], "$");
}

/// Milliseconds that this thread worked: the machine may be busy.
fn processor_time() -> i64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    time.tv_sec * 1000 + time.tv_nsec / 1_000_000
}

#[test]
fn a_hostile_program_costs_little() {
    // The most cells, and sequences of a few bytes that each touch all of them, or repeat.
    for piece in [
        "\x1b[2J",
        "\x1b#8",
        "\x1b[65535S",
        "\x1b[65535b",
        "\x1bc",
        "\x1b[3J\n",
        "\x1b[L",
        "\u{301}",
        "a\u{301}",
        "a\x1b[4h\x1b[31m\u{301}",
    ] {
        let mut screen = Screen::new(Size::MOST);
        let flood = format!("x{}", piece.repeat(screen.turn_bytes() / piece.len() + 1));
        let began = processor_time();
        screen.feed(flood.as_bytes());
        let took = processor_time() - began;
        // Unoptimised; the agent itself is more than ten times faster.
        assert!(took < 2000, "{piece:?} took {took} ms in one turn");
    }
    // Strings without end.
    let mut screen = Screen::new(SIZE);
    for start in ["\x1b]0;", "\x1bP", "\x1b_", "\x1b["] {
        screen.feed(start.as_bytes());
        for _ in 0..100 {
            screen.feed(&[b'1'; 10_000]);
        }
        assert!(screen.sequence.text.capacity() <= 2 * SEQUENCE_BYTES);
    }
    assert!(screen.render().len() < 64 << 10);
}

/// Pieces that mean something, so that noise gets deeper than random bytes do.
fn piece() -> impl Strategy<Value = Vec<u8>> {
    let number = prop_oneof![0u32..30, Just(65_535), Just(99_999)];
    let letter = prop::sample::select(b"@ABCDEFGHIJKLMPSTXZ`abdefghlmrstu".to_vec());
    prop_oneof![
        4 => prop::collection::vec(any::<u8>(), 0..40),
        4 => "[ -~\u{e9}\u{65e5}\u{301}\u{1f600}]{0,30}".prop_map(String::into_bytes),
        4 => "[a-c\u{65e5}\u{301}\u{e31}\u{200d}\u{fe0f}\u{100000}\u{3e000}]{0,30}".prop_map(String::into_bytes),
        8 => (number.clone(), number.clone(), letter)
            .prop_map(|(a, b, letter)| format!("\x1b[{a};{b}{}", char::from(letter)).into_bytes()),
        4 => (prop::sample::select(vec![1, 5, 6, 7, 25, 47, 1000, 1006, 1047, 1048, 1049, 2004]), any::<bool>())
            .prop_map(|(mode, on)| format!("\x1b[?{mode}{}", if on { 'h' } else { 'l' }).into_bytes()),
        3 => prop::sample::select(vec![
            &b"\r\n"[..], b"\n\n\n", b"\t", b"\x08", b"\x1b7", b"\x1b8", b"\x1bM", b"\x1bD", b"\x1bc",
            b"\x1b(0", b"\x1b(B", b"\x0e", b"\x0f", b"\x1b[4h", b"\x1b[4l", b"\x1b[!p", b"\x1b#8",
            b"\x1b]0;t\x07", b"\x1b]8;;http://x\x1b\\", b"\x1bPx", b"\x18", b"\xc2\x9b1m",
        ]).prop_map(<[u8]>::to_vec),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Whatever a program writes, at whatever sizes: no panic, bounded memory, and a viewer that
    /// comes in any moment is shown the same as one that was there all the time.
    #[test]
    fn noise_is_harmless(
        pieces in prop::collection::vec((piece(), prop::option::weighted(0.1, (1u16..60, 1u16..30))), 0..60),
        (columns, rows) in (1u16..60, 1u16..30),
        rest in prop::collection::vec(piece(), 0..4),
    ) {
        let mut screen = Screen::new(Size { columns, rows });
        for (piece, resize) in pieces {
            screen.feed(&piece);
            if let Some((columns, rows)) = resize {
                screen.resize(Size { columns, rows });
            }
        }
        let mut late = viewer(&screen);
        prop_assert_eq!(cells(&screen), cells(&late));
        for piece in rest {
            screen.feed(&piece);
            late.feed(&piece);
        }
        prop_assert_eq!(cells(&screen), cells(&late));
        prop_assert_eq!(screen.terminal.cursor(), late.terminal.cursor());
        prop_assert_eq!(&screen.modes, &late.modes);
    }

    /// What another emulator shows after the whole output is what it shows after the rendering.
    #[test]
    fn another_emulator_agrees(
        lines in prop::collection::vec(("[a-z \u{e9}\u{65e5}]{0,30}", 30u16..38, 1u16..7, 1u16..21), 1..12),
        alternate in any::<bool>(),
    ) {
        let mut output = String::new();
        for (index, (line, colour, row, column)) in lines.iter().enumerate() {
            if alternate && index == 3 {
                output.push_str("\x1b[?1049h\x1b[H");
            }
            output.push_str(&format!("\x1b[{colour}m{line}\r\n"));
            if index % 3 == 2 {
                output.push_str(&format!("\x1b[{row};{column}H\x1b[K\x1b[7mat\x1b[m"));
            }
        }
        let screen = screen(SIZE, &output);
        let mut direct = vt100::Parser::new(6.try_into().unwrap(), 20.try_into().unwrap(), 0);
        direct.process(output.as_bytes());
        let mut late = vt100::Parser::new(6.try_into().unwrap(), 20.try_into().unwrap(), 0);
        late.process(&screen.render());
        let rows = |parser: &vt100::Parser| -> Vec<String> {
            let rows = parser.screen().rows(0, 20);
            rows.map(|row| row.trim_end().to_owned()).collect()
        };
        prop_assert_eq!(rows(&direct), rows(&late));
        prop_assert_eq!(direct.screen().cursor_position(), late.screen().cursor_position());
        for (row, column) in (0..6).flat_map(|row| (0..20).map(move |column| (row, column))) {
            let cell = |parser: &vt100::Parser| {
                let cell = parser.screen().cell(row, column).unwrap();
                (cell.contents().trim().to_owned(), cell.fgcolor(), cell.inverse())
            };
            let (a, b) = (cell(&direct), cell(&late));
            if !a.0.is_empty() {
                prop_assert_eq!(a, b, "cell {} {}", row, column);
            }
        }
    }
}
