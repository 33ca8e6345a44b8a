//! Terminals with the world's writings, of which many put several characters into one cell.

use super::terminals::{attach, rows, settle, shown, terminal};
use super::workspace::{Workspace, resident};
use botstead_bridge::proto::TerminalSize;
use botstead_bridge::proto::run_input::Input;

const TEXTS: [&str; 8] = [
    "ภาษาไทย ที่นี่ น้ำ",
    "हिन्दी में क्षत्रिय",
    "cafe\u{301} A\u{30a}ngstro\u{308}m",
    "\u{1112}\u{1161}\u{11ab}\u{1100}\u{1173}\u{11af}",
    "\u{1f468}\u{200d}\u{1f469}\u{200d}\u{1f467}\u{200d}\u{1f466}",
    "\u{1f44d}\u{1f3fd} \u{1f1eb}\u{1f1f7}",
    "\u{1f3f4}\u{e0067}\u{e0062}\u{e0065}\u{e006e}\u{e0067}\u{e007f}",
    "1\u{fe0f}\u{20e3} \u{2764}\u{fe0f}\u{200d}\u{1f525}",
];

/// Each byte in a write of its own, and then a prompt.
const BYTES: &str = r#"
my $all = join '', map { "$_\r\n" } @ARGV;
for my $round (1..5) {
    for my $byte (split //, $all) { syswrite STDOUT, $byte }
}
syswrite STDOUT, "all written> ";
sysread STDIN, my $line, 100;
"#;

#[tokio::test]
async fn whoever_comes_back_reads_what_was_written() {
    let workspace = Workspace::start(&[]);
    let mut args = vec!["perl", "-e", BYTES];
    args.extend(TEXTS);
    let start = terminal(&args, 40, 12);
    let id = start.id.clone();
    let mut call = workspace.begin(start).await;
    call.until_text("all written>").await;
    for (columns, height) in [(40, 12), (9, 12), (60, 8)] {
        call.send(Input::Resize(TerminalSize {
            columns,
            rows: height,
        }))
        .await;
        settle(&mut call).await;
        let mut late = workspace.attach(attach(&id)).await;
        late.until_text("written>").await;
        settle(&mut late).await;
        let back = late.seen.text();
        // What is on the screen, and what scrolled off before. A line that begins above the screen may
        // be cut there.
        for text in TEXTS {
            let times = back.matches(text).count();
            assert!(
                times >= 4,
                "{times} of {text} at {columns} columns in {back:?}"
            );
        }
        if columns == 40 {
            let [whole, again] = [&call, &late].map(|call| shown(&call.seen.stdout, 40, 12));
            assert_eq!(rows(&whole), rows(&again));
        }
    }
    call.write("\r").await;
    assert_eq!(call.finish().await.code(), 0);
    // The last screen of one that ended.
    let ended = workspace.attach(attach(&id)).await.finish().await;
    assert!(ended.text().contains(TEXTS[0]) && ended.text().contains(TEXTS[7]));
}

#[tokio::test]
async fn marks_without_end_cost_no_memory() {
    let workspace = Workspace::start(&[]);
    let script = r#"
        binmode STDOUT, ":utf8";
        print "\x{301}" x 1000000 for 1..4;
        for my $letter (0x4e00..0x9000) { print chr($letter), chr(0x300 + $letter % 70) x 20 }
        print "a\r\nall written> ";
        $| = 1; print ""; sysread STDIN, my $line, 100;
    "#;
    let start = terminal(&["perl", "-e", script], 200, 50);
    let id = start.id.clone();
    let mut call = workspace.begin(start).await;
    call.until("its start", |seen| seen.pid > 0).await;
    let before = resident(workspace.agent);
    call.until_text("all written>").await;
    let grown = resident(workspace.agent).saturating_sub(before);
    assert!(grown < 16 << 10, "the agent grew by {grown} KiB");
    let late = workspace.attach(attach(&id)).await;
    late.write("\r").await;
    assert_eq!(late.finish().await.code(), 0);
}
