//! Terminals with real programs in them, seen through another emulator.

use super::workspace::{Call, Workspace, command, kept, size, variable, wait_until};
use botstead_bridge::FailureKind;
use botstead_bridge::proto::run_input::{Attach, Input, Start};
use botstead_bridge::proto::{FindShellRequest, ListProcessesRequest, TerminalSize};
use std::time::{Duration, Instant};

pub(crate) fn terminal(args: &[&str], columns: u32, rows: u32) -> Start {
    Start {
        terminal: size(columns, rows),
        env: vec![variable("PS1", "$ "), variable("HISTFILE", "")],
        ..kept(args)
    }
}

pub(crate) fn attach(id: &str) -> Attach {
    Attach {
        id: id.to_owned(),
        replay: true,
        follow: true,
        ..Attach::default()
    }
}

/// What an emulator shows of an output.
pub(crate) fn shown(output: &[u8], columns: u16, rows: u16) -> vt100::Parser {
    let mut parser = vt100::Parser::new(rows.try_into().unwrap(), columns.try_into().unwrap(), 0);
    parser.process(output);
    parser
}

pub(crate) fn rows(parser: &vt100::Parser) -> Vec<String> {
    let (_, columns) = parser.screen().size();
    let rows = parser.screen().rows(0, columns.get());
    rows.map(|row| row.trim_end().to_owned()).collect()
}

/// Waits until a terminal has been silent for a while.
pub(crate) async fn settle(call: &mut Call) {
    while tokio::time::timeout(Duration::from_millis(250), call.next())
        .await
        .is_ok_and(|more| more)
    {}
}

#[tokio::test]
async fn a_shell_with_everything_that_belongs_to_it() {
    let workspace = Workspace::start(&[]);
    let start = terminal(&[], 100, 30);
    let id = start.id.clone();
    let mut call = workspace.begin(start).await;
    call.until_text("$ ").await;
    let script = "echo \"$TERM $COLORTERM $0 $PWD $HOME $(tty) $(stty size)\"\r";
    call.write(script).await;
    call.until_text("xterm-256color truecolor /bin/bash /data /data /dev/pts/0 30 100")
        .await;
    // Job control works: it is the controlling terminal.
    call.write("sleep 610; echo interrupt''ed $?\r").await;
    wait_until("the job", async || workspace.count("sleep 610") > 0).await;
    call.write("\x03").await;
    call.until("a prompt after it", |seen| {
        seen.text().contains("^C") && seen.text().ends_with("$ ")
    })
    .await;
    // A signal reaches what is in the foreground.
    call.write("sleep 611; echo signalled $?\r").await;
    wait_until("the job", async || workspace.count("sleep 611") > 0).await;
    call.send(Input::Signal(15)).await;
    call.until_text("signalled 143").await;
    // What is typed in one is seen in all, and so is the end.
    let other = workspace.attach(attach(&id)).await;
    other.write("exit 7\r").await;
    assert_eq!(call.finish().await.code(), 7);
    assert_eq!(other.finish().await.code(), 7);
    let late = workspace.attach(attach(&id)).await.finish().await;
    assert!(late.text().contains("signalled 143") && late.code() == 7);
}

/// Tells its size whenever it is told that it has another one, and misses nothing: the signal waits
/// while it is handled. Shells do miss one that comes at the wrong moment.
const SIZES: &str = r#"
use POSIX ":signal_h";
$| = 1;
sigprocmask(SIG_BLOCK, POSIX::SigSet->new(28));
$SIG{WINCH} = sub { print "size ", `stty size` };
print "ready\n";
sigsuspend(POSIX::SigSet->new) while 1;
"#;

#[tokio::test]
async fn the_last_size_wins_whoever_asks_for_it() {
    let workspace = Workspace::start(&[]);
    let start = terminal(&["perl", "-e", SIZES], 100, 30);
    let id = start.id.clone();
    let mut call = workspace.begin(start).await;
    call.until_text("ready").await;
    for round in 1..20 {
        call.send(Input::Resize(TerminalSize {
            columns: 90,
            rows: 20 + round,
        }))
        .await;
        call.until_text(&format!("size {} 90", 20 + round)).await;
        let other = Attach {
            terminal: size(70, 10 + round),
            ..attach(&id)
        };
        let mut other = workspace.attach(other).await;
        call.until_text(&format!("size {} 70", 10 + round)).await;
        other.until_text(&format!("size {} 70", 10 + round)).await;
    }
    call.send(Input::Signal(15)).await;
    assert_eq!(call.finish().await.code(), 143);
}

#[tokio::test]
async fn an_editor_is_the_same_after_coming_back() {
    let workspace = Workspace::start(&[]);
    workspace
        .shell("i=0; while [ $i -lt 200 ]; do i=$((i+1)); echo line $i; done > /tmp/text")
        .await;
    let start = terminal(&["bash", "--norc", "--noprofile", "-i"], 80, 24);
    let id = start.id.clone();
    let mut call = workspace.begin(start).await;
    call.until_text("$ ").await;
    call.write("seq 1 40; busybox vi /tmp/text\r").await;
    call.until_text("line 23").await;
    call.write("\x06\x06jjjwiInserted \x1b").await;
    call.until_text("Inserted").await;
    settle(&mut call).await;

    let mut late = workspace.attach(attach(&id)).await;
    late.until_text("Inserted").await;
    settle(&mut late).await;
    let (whole, back) = (
        shown(&call.seen.stdout, 80, 24),
        shown(&late.seen.stdout, 80, 24),
    );
    assert_eq!(rows(&whole), rows(&back));
    assert_eq!(
        whole.screen().cursor_position(),
        back.screen().cursor_position()
    );
    assert!(back.screen().alternate_screen());
    assert!(
        late.seen.stdout.len() < 8 << 10,
        "a screen, not all that was ever shown"
    );

    let answered =
        |seen: &super::workspace::Seen| seen.text().matches("back in the shell").count() > 1;
    // The one that came back goes on where the other was: leaves the editor, and below it is the
    // shell, with what scrolled off above.
    drop(call);
    late.write(":wq\r").await;
    late.write("echo back in the shell\r").await;
    late.until("its answer", answered).await;
    let mut again = workspace.attach(attach(&id)).await;
    again.until("its answer", answered).await;
    settle(&mut late).await;
    settle(&mut again).await;
    let (whole, back) = (
        shown(&late.seen.stdout, 80, 24),
        shown(&again.seen.stdout, 80, 24),
    );
    assert_eq!(rows(&whole), rows(&back));
    assert!(!back.screen().alternate_screen());
    assert!(
        again.seen.text().contains("\r\n1\r\n2\r\n3\r\n"),
        "{:?}",
        again.seen.text()
    );
    assert_eq!(workspace.shell("grep -c Inserted /tmp/text").await, "1\n");
}

/// `top` redraws by itself: the modes and the cursor must be right, not only the text.
#[tokio::test]
async fn a_monitor_goes_on_for_one_that_comes_late() {
    let workspace = Workspace::start(&[]);
    let start = terminal(&["busybox", "top", "-d", "1"], 80, 20);
    let id = start.id.clone();
    let mut call = workspace.begin(start).await;
    call.until_text("COMMAND").await;
    let mut late = workspace.attach(attach(&id)).await;
    late.until_text("COMMAND").await;
    let before = late.seen.stdout.len();
    late.until("a redraw", |seen| seen.stdout.len() > before + 200)
        .await;
    settle(&mut late).await;
    settle(&mut call).await;
    let (whole, back) = (
        shown(&call.seen.stdout, 80, 20),
        shown(&late.seen.stdout, 80, 20),
    );
    assert_eq!(rows(&whole)[2..], rows(&back)[2..]);
    late.write("q").await;
    assert_eq!(late.finish().await.code(), 0);
}

#[tokio::test]
async fn a_hundred_at_once() {
    let workspace = Workspace::start(&[]);
    let all = (0..100).map(|number| {
        let workspace = &workspace;
        async move {
            let mut call = workspace.begin(terminal(&["sh"], 80, 24)).await;
            call.until_text("$ ").await;
            call.write(&format!("echo $((1000 + {number}))\r")).await;
            call.until_text(&format!("\n{}", 1000 + number)).await;
            call
        }
    });
    let calls = futures_util::future::join_all(all).await;
    let list = workspace
        .client()
        .processes()
        .list(ListProcessesRequest {})
        .await;
    let list = list.unwrap().into_inner().processes;
    assert_eq!(
        list.iter()
            .filter(|info| info.running && info.terminal)
            .count(),
        100
    );
    let ends = calls.into_iter().enumerate().map(async |(number, call)| {
        call.write(&format!("exit {number}\r")).await;
        assert_eq!(call.finish().await.code() as usize, number);
    });
    futures_util::future::join_all(ends).await;
}

#[tokio::test]
async fn a_stuck_viewer_holds_up_nobody() {
    let workspace = Workspace::start(&[]);
    let script = "read x; seq -f 'line %.0f of many that are shown' 25000; \
                  echo all shown; read x; exit 8";
    let start = terminal(&["bash", "-c", script], 80, 24);
    let id = start.id.clone();
    let mut stuck = workspace.begin(start).await;
    stuck.until("its start", |seen| seen.pid > 0).await;
    let mut other = workspace.attach(attach(&id)).await;
    other.write("\r").await;
    // It takes everything, and misses nothing.
    other.until_text("\nall shown").await;
    assert_eq!(other.seen.skipped, 0);
    assert_eq!(other.seen.text().matches("of many").count(), 25_000);
    // The other one comes back to life, and to the screen as it is.
    stuck.until_text("\nall shown").await;
    assert!(stuck.seen.skipped > 64 << 10, "{}", stuck.seen.skipped);
    let (whole, back) = (
        shown(&other.seen.stdout, 80, 24),
        shown(&stuck.seen.stdout, 80, 24),
    );
    assert_eq!(rows(&whole), rows(&back));
    other.write("\r").await;
    assert_eq!(stuck.finish().await.code(), 8);
}

/// What lies unread in many streams must not take the connection from all others.
#[tokio::test]
async fn many_stuck_viewers_hold_up_nobody() {
    let workspace = Workspace::start(&[]);
    let start = terminal(&["bash", "-c", "while :; do echo small; done"], 80, 24);
    let id = start.id.clone();
    let mut stuck = vec![workspace.begin(start).await];
    for _ in 0..40 {
        stuck.push(workspace.attach(attach(&id)).await);
    }
    let full = command(&["sh", "-c", "while :; do echo x; done"]);
    let mut unread = vec![workspace.begin(full.clone()).await];
    for _ in 0..40 {
        let start = Start {
            id: command(&[]).id,
            ..full.clone()
        };
        unread.push(workspace.begin(start).await);
    }
    // Until nothing of theirs fits anywhere any more.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let began = Instant::now();
    let zeros = workspace
        .shell("head -c 5000000 /dev/zero | wc -c; echo through")
        .await;
    assert_eq!(zeros, "5000000\nthrough\n");
    assert!(
        began.elapsed() < Duration::from_secs(10),
        "{:?}",
        began.elapsed()
    );
}

#[tokio::test]
async fn the_shell_is_the_users_or_one_that_is_there() {
    let workspace = Workspace::start(&["--user", "bot"]);
    let shell = async |user: &str| {
        let request = FindShellRequest {
            user: user.to_owned(),
        };
        let answer = workspace.client().processes().find_shell(request).await;
        String::from_utf8(answer.unwrap().into_inner().path.to_vec()).unwrap()
    };
    assert_eq!(shell("").await, "/bin/sh");
    assert_eq!(shell("root").await, "/bin/bash");
    // Their own is not there, or no shell.
    assert_eq!(shell("busy").await, "/bin/bash");
    assert_eq!(shell("nobody").await, "/bin/bash");
    assert_eq!(shell("4242").await, "/bin/bash");
    // A terminal that is not kept, as another user who owns it.
    let start = Start {
        user: "busy".into(),
        keep: false,
        ..terminal(&["sh", "-c", "stat -c '%U %a' $(tty); id -un; cat"], 80, 24)
    };
    let mut call = workspace.begin(start).await;
    call.until_text("busy 620\r\nbusy\r\n").await;
    // The end of its input is what one would type.
    call.write("typed\r").await;
    call.until_text("typed\r\ntyped\r\n").await;
    call.send(Input::CloseStdin(true)).await;
    assert_eq!(call.finish().await.code(), 0);
    // One that leaves takes it along.
    let start = Start {
        keep: false,
        ..terminal(&["sleep", "612"], 80, 24)
    };
    let mut call = workspace.begin(start).await;
    call.until("its start", |seen| seen.pid > 0).await;
    drop(call);
    wait_until("its end", async || workspace.count("sleep 612") == 0).await;
    assert_eq!(workspace.run(command(&["true"])).await.code(), 0);
}

/// A program that reads nothing, and more input for it than the kernel and the agent's queue of one
/// connection once took.
#[tokio::test]
async fn sizes_and_interrupts_pass_input_that_nobody_reads() {
    let workspace = Workspace::start(&[]);
    let script = "trap 'echo interrupted; exit 5' INT; stty $0; echo ready
                  while :; do
                      now=$(stty size); [ \"$now\" = \"$was\" ] || echo size $now; was=$now
                      sleep 0.02
                  done";
    for modes in ["icanon", "-icanon", "noflsh"] {
        let start = terminal(&["bash", "-c", script, modes], 80, 24);
        let id = start.id.clone();
        let mut typing = workspace.begin(start).await;
        typing.until_text("ready").await;
        let mut other = workspace.attach(attach(&id)).await;
        other.until_text("ready").await;
        for _ in 0..12 {
            typing.write(&"unread\r".repeat(9000)).await;
        }
        // By the one whose input waits,
        typing
            .send(Input::Resize(TerminalSize {
                columns: 70,
                rows: 20,
            }))
            .await;
        typing.until_text("size 20 70").await;
        // and by another one.
        other
            .send(Input::Resize(TerminalSize {
                columns: 60,
                rows: 10,
            }))
            .await;
        other.until_text("size 10 60").await;
        if modes == "icanon" {
            other.write("\x03").await;
        } else {
            typing.write("typed before\x03").await;
        }
        other.until_text("interrupted").await;
        assert_eq!(other.finish().await.code(), 5, "{modes}");
    }
    // What a shell has not read when it is interrupted is not carried out.
    let start = terminal(&["bash", "--norc", "--noprofile", "-i"], 80, 24);
    let mut call = workspace.begin(start).await;
    call.until_text("$ ").await;
    call.write("sleep 630\r").await;
    wait_until("the sleep", async || workspace.count("sleep 630") > 0).await;
    for _ in 0..8 {
        call.write(&"echo not carried out\r".repeat(3000)).await;
    }
    call.write("\x03").await;
    call.write("echo car''ried out\r").await;
    call.until_text("\rcarried out").await;
    assert!(!call.seen.text().contains("\rnot carried out"));
}

#[tokio::test]
async fn the_end_of_the_workspace_hangs_terminals_up() {
    // An interactive shell takes no notice of SIGTERM.
    let mut workspace = Workspace::start(&["--grace-ms", "60000"]);
    let mut call = workspace.begin(terminal(&[], 80, 24)).await;
    call.until_text("$ ").await;
    let mut busy = workspace.begin(terminal(&[], 80, 24)).await;
    busy.until_text("$ ").await;
    busy.write("sleep 631\r").await;
    wait_until("the sleep", async || workspace.count("sleep 631") > 0).await;
    workspace.signal(nix::sys::signal::Signal::SIGTERM);
    let (_, took) = workspace.ended();
    assert!(took < Duration::from_secs(20), "{took:?}");
}

#[tokio::test]
async fn viewers_agree_on_the_smallest_size() {
    let workspace = Workspace::start(&[]);
    let script = "while :; do
                      now=$(stty size); [ \"$now\" = \"$was\" ] || echo \"<$now>\"; was=$now
                      sleep 0.02
                  done";
    let start = terminal(&["bash", "-c", script], 100, 30);
    let id = start.id.clone();
    let mut first = workspace.begin(start).await;
    first.until_text("<30 100>").await;
    // One that says nothing is told, and changes nothing.
    let mut watching = workspace.attach(attach(&id)).await;
    watching
        .until("its size", |seen| seen.size == Some((100, 30)))
        .await;
    // One that has less room, in one direction,
    let narrow = Attach {
        terminal: size(60, 50),
        ..attach(&id)
    };
    let mut narrow = workspace.attach(narrow).await;
    narrow.until_text("<30 60>").await;
    assert_eq!(narrow.seen.size, Some((60, 30)));
    for call in [&mut first, &mut watching] {
        call.until("the smaller size", |seen| seen.size == Some((60, 30)))
            .await;
    }
    // who has more room later, and asks for more than there is.
    let (columns, rows) = (200, 60);
    narrow
        .send(Input::Resize(TerminalSize { columns, rows }))
        .await;
    narrow.until_text("<30 100>").await;
    narrow
        .until("what it gets", |seen| seen.size == Some((100, 30)))
        .await;
    // When the smallest leaves, the others have more.
    drop(first);
    narrow.until_text("<60 200>").await;
    watching
        .until("the larger size", |seen| seen.size == Some((200, 60)))
        .await;
    // The last that said something leaves its size behind.
    drop(narrow);
    watching.send(Input::Signal(15)).await;
    let seen = watching.finish().await;
    assert_eq!((seen.code(), seen.size), (143, Some((200, 60))));
}

#[tokio::test]
async fn a_terminal_has_the_environment_of_commands_and_needs_no_data() {
    let workspace = Workspace::start(&[]);
    std::fs::write(
        workspace.root().join("etc/profile"),
        "PATH=/of/the/profile\n",
    )
    .unwrap();
    let path = workspace.shell("echo $PATH").await;
    let mut call = workspace.begin(terminal(&[], 80, 24)).await;
    call.until_text("$ ").await;
    call.write("echo \"<$PATH>\"\r").await;
    call.until_text(&format!("<{}>", path.trim())).await;
    // It begins where there is a place to begin, for one who may want to bring `/data` back.
    workspace.shell("cd /; rm -r /data").await;
    let mut call = workspace
        .begin(terminal(&["sh", "-c", "echo in $PWD; cat"], 80, 24))
        .await;
    call.until_text("in /\r\n").await;
    // Commands count on it, and a place that was asked for is that place.
    let asked = Start {
        cwd: "/data".into(),
        ..terminal(&["pwd"], 80, 24)
    };
    for start in [command(&["pwd"]), asked] {
        let failure = workspace.call(Input::Start(start)).await.err().unwrap();
        assert_eq!(failure.kind, FailureKind::NotFound);
    }
}

/// What is pasted after the end of a shell is read by nobody, and holds up nothing.
#[tokio::test]
async fn a_paste_that_goes_on_after_the_end_of_the_shell_ends_nothing_else() {
    let workspace = Workspace::start(&[]);
    let other = workspace.begin(kept(&["sleep", "620"])).await;
    for _ in 0..4 {
        let mut call = workspace.begin(terminal(&[], 80, 24)).await;
        call.until_text("$ ").await;
        let lines = "echo this is a line of a paste\r".repeat(700);
        call.write(&format!("exit\r{lines}")).await;
        let ended = tokio::time::timeout(Duration::from_secs(20), call.finish()).await;
        ended.expect("the end of the shell is told");
        let answer =
            tokio::time::timeout(Duration::from_secs(10), workspace.shell("echo still here"));
        assert_eq!(answer.await.expect("it answers").trim(), "still here");
    }
    assert_eq!(workspace.count("sleep 620"), 1);
    drop(other);
}
