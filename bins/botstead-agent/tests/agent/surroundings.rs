//! What a command runs in: a terminal, a home.

use super::workspace::{Workspace, command, size, variable, wait_until};
use botstead_bridge::proto::ListProcessesRequest;
use botstead_bridge::proto::run_input::{Attach, Input, Start};
use bytes::Bytes;

#[tokio::test]
async fn another_user_has_their_own_home() {
    let workspace = Workspace::start(&["--user", "bot"]);
    let home = async |user: &str, env: &[(&str, &str)]| {
        let start = Start {
            user: user.to_owned(),
            env: env
                .iter()
                .map(|(name, value)| variable(name, value))
                .collect(),
            ..command(&["sh", "-c", "echo $HOME,$XDG_CACHE_HOME"])
        };
        workspace.run(start).await.text().trim_end().to_owned()
    };
    for own in ["", "bot", "1000", "bot:audio", "1000:29"] {
        assert_eq!(home(own, &[]).await, "/data,/data/.cache", "{own}");
    }
    assert_eq!(home("root", &[]).await, "/root,");
    assert_eq!(home("1001", &[]).await, "/,");
    assert_eq!(home("nobody:audio", &[]).await, "/nonexistent,");
    // Who has none there has that of all.
    assert_eq!(home("4242", &[]).await, "/data,/data/.cache");
    let given = [("HOME", "/tmp"), ("XDG_CACHE_HOME", "/tmp/c")];
    assert_eq!(home("root", &given).await, "/tmp,/tmp/c");
    assert_eq!(home("", &given).await, "/tmp,/tmp/c");
}

#[tokio::test]
async fn runs_in_a_terminal() {
    let workspace = Workspace::start(&[]);
    let in_terminal = |keep: bool, line: &str| Start {
        keep,
        terminal_output: keep,
        terminal: size(100, 30),
        ..command(&["sh", "-c", line])
    };
    for keep in [false, true] {
        let line = "tty; stty size; echo error >&2; test -t 2 && echo $TERM";
        let seen = workspace.run(in_terminal(keep, line)).await;
        let text = seen.text();
        let (tty, rest) = text.split_once("\r\n").unwrap();
        assert!(tty.starts_with("/dev/pts/"), "{text:?}");
        let expected = "30 100\r\nerror\r\nxterm-256color\r\n";
        assert_eq!((rest, seen.stderr.len()), (expected, 0));
        // Input, a part of a line at its end, and the end.
        let line = "stty -echo; echo up; cat | tr a-z A-Z; echo; echo end";
        let start = in_terminal(keep, line);
        let start = Start {
            stdin_open: true,
            ..start
        };
        let mut call = workspace.begin(start).await;
        call.until_text("up").await;
        call.write("one\ntwo").await;
        call.send(Input::CloseStdin(true)).await;
        let seen = call.finish().await;
        assert_eq!(seen.text(), "up\r\nONE\r\nTWO\r\nend\r\n");
        // What ends it hangs up.
        let line = "trap 'echo hung; exit 7' HUP; echo up; while :; do sleep 0.02; done";
        let start = Start {
            timeout_ms: 1500,
            ..in_terminal(keep, line)
        };
        let seen = workspace.run(start).await;
        // The shell may say what became of its child.
        let text = seen.text();
        assert!(
            text.starts_with("up\r\n") && text.ends_with("hung\r\n"),
            "{text:?}"
        );
        assert_eq!(seen.code(), 7);
        assert!(seen.exit.unwrap().timed_out);
    }
    // What it reads first, and the end where there is nothing to read.
    for (stdin, expected) in [
        ("", "end\r\n"),
        ("a\n", "a\r\na\r\nend\r\n"),
        ("b", "bb\r\nend\r\n"),
    ] {
        let start = Start {
            stdin: Bytes::from_static(stdin.as_bytes()),
            ..in_terminal(true, "cat; test -z \"$1\" || echo; echo end")
        };
        let mut start = start;
        start.args.push(Bytes::from_static(b"sh"));
        start
            .args
            .push(Bytes::from_static(stdin.trim_end_matches("a\n").as_bytes()));
        let id = start.id.clone();
        let seen = workspace.run(start).await;
        assert_eq!(seen.text(), expected, "{stdin:?}");
        // It is a command to look at, not a terminal: its output is all held.
        let attach = Attach {
            id: id.clone(),
            replay: true,
            ..Attach::default()
        };
        assert_eq!(
            workspace.attach(attach).await.finish().await.text(),
            expected
        );
        let list = workspace
            .client()
            .processes()
            .list(ListProcessesRequest {})
            .await;
        let list = list.unwrap().into_inner().processes;
        assert!(
            list.iter()
                .any(|process| process.id == id && !process.terminal)
        );
    }
    // A caller that leaves hangs up too.
    let line = "trap 'touch /tmp/hung; exit' HUP; echo up; while :; do sleep 0.02; done";
    let mut call = workspace.begin(in_terminal(false, line)).await;
    call.until_text("up").await;
    drop(call);
    wait_until("the hang-up", async || {
        workspace.root().join("tmp/hung").exists()
    })
    .await;
}
