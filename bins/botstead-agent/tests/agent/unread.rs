//! Input for programs in terminals that read it late or never.

use super::terminals::{attach, terminal};
use super::workspace::{Call, Workspace, kept, resident};
use botstead_bridge::proto::TerminalSize;
use botstead_bridge::proto::run_input::{Input, Start};
use bytes::Bytes;
use std::time::{Duration, Instant};

const PIECE: usize = 32 << 10;

/// Sends so much as fast as it is taken, which must not be stopped for long.
async fn send(call: &mut Call, bytes: usize) {
    // In lines: of one that is too long, a terminal's kernel takes all and keeps little.
    let piece = Bytes::from(b"typing\r\r".repeat(PIECE / 8));
    let sent = async {
        for _ in 0..bytes / PIECE {
            call.send(Input::Stdin(piece.clone())).await;
        }
    };
    let sent = tokio::time::timeout(Duration::from_secs(20), sent).await;
    sent.expect("what is sent is taken or refused");
}

/// A program that reads nothing and tells its sizes and signals, in a terminal with these modes.
fn reads_nothing(modes: &str) -> Start {
    let script = "trap 'echo interrupted; exit 5' INT; trap 'echo told; exit 6' TERM
                  stty -echo $0; echo ready
                  while :; do
                      now=$(stty size); [ \"$now\" = \"$was\" ] || echo size $now; was=$now
                      sleep 0.02
                  done";
    terminal(&["bash", "-c", script, modes], 80, 24)
}

#[tokio::test]
async fn more_of_it_than_fits_anywhere_holds_nothing_else_up() {
    let workspace = Workspace::start(&[]);
    for modes in ["icanon", "-icanon", "noflsh", "raw"] {
        let start = reads_nothing(modes);
        let id = start.id.clone();
        let mut call = workspace.begin(start).await;
        call.until_text("ready").await;
        let before = resident(workspace.agent);
        send(&mut call, 3 << 20).await;
        let began = Instant::now();
        let (columns, rows) = (70, 20);
        call.send(Input::Resize(TerminalSize { columns, rows }))
            .await;
        call.until_text("size 20 70").await;
        // It is told what is lost: what was waiting is not, and the kernel has some.
        let refused = |seen: &super::workspace::Seen| seen.refused > 3 << 19;
        call.until("what was refused", refused).await;
        assert!(call.seen.refused <= 2 << 20, "{}", call.seen.refused);
        assert!(call.seen.refused.is_multiple_of(PIECE as u64));
        // More of it, which is refused at once, costs nothing.
        send(&mut call, 64 << 20).await;
        call.until("the rest", |seen| seen.refused > 65 << 20).await;
        let grown = resident(workspace.agent).saturating_sub(before);
        assert!(grown < 8 << 10, "the agent grew by {grown} KiB");
        // Others are not concerned.
        let mut other = workspace.attach(attach(&id)).await;
        other.until_text("size 20 70").await;
        if modes == "raw" {
            call.send(Input::Signal(15)).await;
            call.until_text("told").await;
        } else {
            call.write("x\x03").await;
            call.until_text("interrupted").await;
        }
        assert!(began.elapsed() < Duration::from_secs(20));
        assert_eq!(other.seen.refused, 0);
        let code = if modes == "raw" { 6 } else { 5 };
        assert_eq!(call.finish().await.code(), code, "{modes}");
    }
}

/// A program that is busy for a moment, and one that goes on reading slower than it is written to.
#[tokio::test]
async fn one_that_reads_after_all_gets_everything() {
    let workspace = Workspace::start(&[]);
    for script in [
        "stty raw -echo; echo ready; sleep 0.8; head -c 5242880 | wc -c",
        "stty raw -echo; echo ready; i=0; while [ $i -lt 40 ]; do i=$((i+1)); \
         dd bs=1k count=128 iflag=fullblock 2>/dev/null; sleep 0.1; done | wc -c",
    ] {
        let mut call = workspace
            .begin(terminal(&["sh", "-c", script], 80, 24))
            .await;
        call.until_text("ready").await;
        send(&mut call, 5 << 20).await;
        call.until_text("5242880").await;
        assert_eq!(call.seen.refused, 0);
        assert_eq!(call.finish().await.code(), 0);
    }
}

/// What was there before is read, and what comes after that; between them is one hole, which is told.
#[tokio::test]
async fn what_is_lost_is_known_to_the_byte() {
    let workspace = Workspace::start(&[]);
    let script = r#"
        system "stty raw -echo"; syswrite STDOUT, "ready";
        select undef, undef, undef, 0.05 until -e "/tmp/go";
        my ($all, $some) = 0;
        do { $all += sysread STDIN, $some, 65536 } until $some =~ /\n/;
        syswrite STDOUT, "<$all>"; sleep 1000;
    "#;
    let mut call = workspace
        .begin(terminal(&["perl", "-e", script], 80, 24))
        .await;
    call.until_text("ready").await;
    send(&mut call, 3 << 20).await;
    call.until("what was refused", |seen| seen.refused > 3 << 19)
        .await;
    workspace.shell("touch /tmp/go").await;
    // As long as what waited is not taken, what is typed is lost.
    let mut typed = 0;
    let deadline = Instant::now() + Duration::from_secs(20);
    let refused = loop {
        let before = call.seen.refused;
        call.write("x").await;
        typed += 1;
        let told = call.until("it", |seen| seen.refused > before);
        let told = tokio::time::timeout(Duration::from_millis(300), told).await;
        if told.is_err() {
            break call.seen.refused;
        }
        assert!(Instant::now() < deadline, "it is never taken again");
    };
    call.write("\n").await;
    let arrived = (3 << 20) + typed - refused + 1;
    call.until_text(&format!("<{arrived}>")).await;
    call.send(Input::Signal(9)).await;
}

/// Where there is no terminal, nobody looks on, and a hole would be worse than to wait.
#[tokio::test]
async fn a_command_without_a_terminal_misses_nothing() {
    let workspace = Workspace::start(&[]);
    let script = "sleep 4; head -c 3145728 | wc -c";
    let start = Start {
        stdin_open: true,
        ..kept(&["sh", "-c", script])
    };
    let mut call = workspace.begin(start).await;
    send(&mut call, 3 << 20).await;
    call.until_text("3145728").await;
    assert_eq!((call.seen.refused, call.finish().await.code()), (0, 0));
}
