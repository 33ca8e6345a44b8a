//! Terminals over WebSockets, with real programs in them.

use crate::server::Server;
use crate::socket::Terminal;
use serde_json::json;

#[tokio::test]
async fn a_program_keeps_its_screen_through_a_dropped_connection() {
    let server = Server::start().await;
    let workspace = server.client.running().await;
    let offered = workspace
        .client
        .get(&format!("{}/terminal", workspace.path))
        .await
        .ok();
    assert_eq!(offered, json!({"available": true, "shell": "/bin/sh"}));

    let mut terminal = workspace.terminal("").await;
    terminal
        .send("cd /data; echo $((6*7)) $HOME $TERM; vi note\r")
        .await;
    terminal.until("vi", |it| it.text().contains('~')).await;
    terminal.send("ihello\rworld\x1b").await;
    terminal.shows("world").await;
    terminal.resize(100, 30).await;
    // The status line of vi is the last one.
    terminal.send("\x0c").await;
    terminal
        .until("a redraw at the new size", |it| {
            it.text().lines().count() == 30 || it.text().lines().nth(29).is_some()
        })
        .await;
    let (text, cursor) = (terminal.text(), terminal.cursor());
    let session = terminal.session.clone();
    drop(terminal);

    let query = format!("cols=100&rows=30&session={session}");
    let mut again = Terminal::open(&workspace, &query).await.unwrap();
    again.resize(100, 30).await;
    assert_eq!(again.session, session);
    again.until("the same screen", |it| it.text() == text).await;
    assert_eq!(again.cursor(), cursor);
    // It goes on where it was: a line more, write, quit, and the shell ends with a code.
    again.send("oagain").await;
    again.shows("again").await;
    // Alone, as a key: followed at once by more it would begin a longer one.
    again.send("\x1b").await;
    again.shows("- note").await;
    again.send(":wq\r").await;
    again
        .until("the shell", |it| !it.text().contains('~'))
        .await;
    again.send("exit 7\r").await;
    assert_eq!(again.closed().await, Some(1000));
    assert_eq!(again.code, Some(7));
    assert_eq!(workspace.sh("cat /data/note").await, "hello\nworld\nagain");
    // Whoever comes late is told how it ended.
    let mut late = Terminal::open(&workspace, &query).await.unwrap();
    assert_eq!((late.closed().await, late.code), (Some(1000), Some(7)));
}

#[tokio::test]
async fn a_full_screen_program_comes_back_as_it_was() {
    let server = Server::start().await;
    let workspace = server.client.running().await;
    let mut terminal = workspace.terminal("").await;
    terminal.send("top -d 1\r").await;
    terminal.shows("COMMAND").await;
    let session = terminal.session.clone();
    drop(terminal);
    let mut again = workspace.terminal(&session).await;
    again.shows("COMMAND").await;
    again.send("q").await;
    again.send("echo quit$((1+1))\r").await;
    again.shows("quit2").await;
}

#[tokio::test]
async fn several_people_look_at_one_terminal() {
    let server = Server::start().await;
    let workspace = server.client.running().await;
    let mut one = workspace.terminal("").await;
    one.send("echo from-$((1+0))\r").await;
    one.shows("from-1").await;
    let mut two = workspace.terminal(&one.session).await;
    two.shows("from-1").await;
    two.send("echo from-$((1+1))\r").await;
    one.shows("from-2").await;
    two.shows("from-2").await;
    let path = format!("{}/terminal/sessions", workspace.path);
    let listed = workspace.client.get(&path).await.ok();
    assert_eq!(listed["items"][0]["id"], one.session);
    assert_eq!(listed["items"][0]["viewers"], 2);
    let one_path = format!("{path}/{}", one.session);
    assert_eq!(workspace.client.delete(&one_path).await.status, 204);
    assert_eq!(one.closed().await, Some(1000));
    assert_eq!(two.closed().await, Some(1000));
    workspace
        .client
        .delete(&one_path)
        .await
        .refused(404, "session_not_found");
}

#[tokio::test]
async fn people_with_windows_of_several_sizes_share_a_terminal() {
    let server = Server::start().await;
    let workspace = server.client.running().await;
    let mut one = Terminal::open(&workspace, "cols=120&rows=40&session=")
        .await
        .unwrap();
    one.send("stty size\r").await;
    one.shows("40 120").await;
    assert_eq!(one.told, None);
    // Who only says which terminal leaves its size alone, and is told.
    let query = format!("session={}", one.session);
    let mut two = Terminal::open(&workspace, &query).await.unwrap();
    two.until("its size", |it| it.told == Some((120, 40))).await;
    two.shows("40 120").await;
    let smaller = format!("cols=90&rows=50&{query}");
    let three = Terminal::open(&workspace, &smaller).await.unwrap();
    for terminal in [&mut one, &mut two] {
        terminal
            .until("the smallest", |it| it.told == Some((90, 40)))
            .await;
    }
    one.send("stty size\r").await;
    one.shows("40 90").await;
    drop(three);
    one.until("its own size", |it| it.told == Some((120, 40)))
        .await;
}

/// A program that reads nothing, and more input for it than all buffers up to it take.
#[tokio::test]
async fn sizes_and_interrupts_pass_input_without_end() {
    let server = Server::start().await;
    let workspace = server.client.running().await;
    let script = "trap 'echo interrupted; exit 5' INT; stty -icanon -echo; echo ready
                  while :; do echo \"$(stty size)\"; sleep 0.1; done";
    let body = json!({"command": ["sh", "-c", script], "cols": 80, "rows": 24});
    let sessions = format!("{}/terminal/sessions", workspace.path);
    let started = workspace.client.post(&sessions, body).await.ok();
    let mut terminal = workspace.terminal(started["id"].as_str().unwrap()).await;
    terminal.shows("24 80").await;
    let sent = async {
        for _ in 0..3 << 2 {
            terminal.send(&"typing\r\r".repeat(32 << 10)).await;
        }
        terminal.resize(70, 20).await;
    };
    let sent = tokio::time::timeout(std::time::Duration::from_secs(20), sent).await;
    sent.expect("the server reads what is sent");
    terminal.shows("20 70").await;
    terminal
        .until("what was refused", |it| it.refused > 1 << 20)
        .await;
    assert!(terminal.refused <= 2 << 20, "{}", terminal.refused);
    terminal.send("\x03").await;
    assert_eq!(terminal.closed().await, Some(1000));
    assert_eq!(terminal.code, Some(5));
}

#[tokio::test]
async fn a_terminal_is_started_as_one_wants_it() {
    let server = Server::start().await;
    let workspace = server.client.running().await;
    let sessions = format!("{}/terminal/sessions", workspace.path);
    let body = json!({
        "command": "echo $(pwd) $WORD $(id -u) $(stty size); read x; exit 6", "cwd": "/tmp",
        "env": {"WORD": "spoken"}, "user": "7", "cols": 70, "rows": 20,
    });
    let started = workspace.client.post(&sessions, body).await;
    assert_eq!(started.status, 201, "{started:?}");
    let id = started.ok()["id"].as_str().unwrap().to_owned();
    let listed = workspace.client.get(&sessions).await.ok();
    assert_eq!(listed["items"][0]["id"], id, "{listed}");
    assert_eq!(listed["items"][0]["running"], true, "{listed}");
    let query = format!("session={id}");
    let mut terminal = Terminal::open(&workspace, &query).await.unwrap();
    terminal.shows("/tmp spoken 7 20 70").await;
    terminal.send("\r").await;
    assert_eq!(
        (terminal.closed().await, terminal.code),
        (Some(1000), Some(6))
    );
    // The same in one step, and without anything: the shell, also where `/data` is gone.
    let query = "cwd=/tmp&user=7&command=pwd;id%20-u;read%20x&session=";
    let mut terminal = Terminal::open(&workspace, query).await.unwrap();
    terminal.shows("/tmp\n7").await;
    let again = format!("cwd=/tmp&session={}", terminal.session);
    assert_eq!(Terminal::open(&workspace, &again).await.err(), Some(400));
    workspace
        .sh("rm -r /data/* /data/.[!.]* 2>/dev/null; rmdir /data || mv /data /gone")
        .await;
    let started = workspace.client.post(&sessions, json!({})).await;
    assert_eq!(started.status, 201, "{started:?}");
    let mut terminal = workspace.terminal("").await;
    terminal.send("echo in-$(pwd)-\r").await;
    terminal.shows("in-/-").await;
    for (body, status, code) in [
        (json!({"cwd": "/none"}), 404, "path_not_found"),
        (json!({"cwd": "tmp"}), 400, "invalid_cwd"),
        (json!({"user": "nobody-here"}), 422, "no_such_user"),
        (json!({"cols": 0}), 400, "invalid_value"),
    ] {
        let refused = workspace.client.post(&sessions, body).await;
        refused.refused(status, code);
    }
}

#[tokio::test]
async fn a_terminal_outlives_the_server() {
    let mut server = Server::start().await;
    let workspace = server.client.running().await;
    let mut terminal = workspace.terminal("").await;
    terminal.send("x=kept; echo ready-$((1+1))\r").await;
    terminal.shows("ready-2").await;
    let started = workspace
        .exec(json!({"command": "i=0; while [ $i -lt 1000 ]; do i=$((i+1)); echo $i; sleep 0.1; done", "detach": true}))
        .await;
    assert_eq!(started.status, 202);
    let exec = started.ok()["exec_id"].as_str().unwrap().to_owned();

    // Told to end, it says so to who looks.
    server.terminate();
    assert_eq!(terminal.closed().await, Some(1012));
    server.run(&[]).await;
    let workspace = server.client.workspace(&workspace.bot);
    let mut again = workspace.terminal(&terminal.session).await;
    again.shows("ready-2").await;
    again.send("echo $x\r").await;
    again.shows("kept").await;

    // Killed, the same.
    server.kill();
    assert_ne!(again.closed().await, Some(1000));
    server.run(&[]).await;
    let workspace = server.client.workspace(&workspace.bot);
    let mut third = workspace.terminal(&terminal.session).await;
    third.send("echo still-$x\r").await;
    third.shows("still-kept").await;
    let path = format!("{}/exec/{exec}", workspace.path);
    let seen = workspace.client.get(&path).await.ok();
    assert_eq!(seen["running"], true, "{seen}");
    let output = seen["stdout"].as_str().unwrap();
    assert!(output.starts_with("1\n2\n3\n"), "{output}");
}

#[tokio::test]
async fn frames_and_requests_that_make_no_sense_are_refused() {
    let server = Server::start().await;
    let workspace = server.client.running().await;
    // A client without `session=` gets bytes only.
    let mut plain = Terminal::open(&workspace, "cols=80&rows=24").await.unwrap();
    plain.send("echo plain-$((2+2)); exit 3\r").await;
    plain.shows("plain-4").await;
    assert_eq!(plain.closed().await, Some(1000));
    assert_eq!((plain.session.as_str(), plain.code), ("", None));

    let mut bad = workspace.terminal("").await;
    bad.send_text("ls\n").await;
    assert_eq!(bad.closed().await, Some(1007));
    let mut unknown = workspace.terminal(&bad.session).await;
    unknown.send_text(r#"{"type":"something_new","x":1}"#).await;
    unknown.send("echo alive-$((1+1))\r").await;
    unknown.shows("alive-2").await;
    let mut large = workspace.terminal(&bad.session).await;
    // What is discarded shows that it came as a whole.
    large
        .send(&format!(": {}\r", " ".repeat((256 << 10) - 3)))
        .await;
    large.send("echo taken-$((1+1))\r").await;
    large.shows("taken-2").await;
    large.send(&"x".repeat((256 << 10) + 1)).await;
    assert_eq!(large.closed().await, Some(1009));

    for (query, status) in [
        ("cols=0&rows=24&session=", 400),
        ("cols=80&rows=501&session=", 400),
        ("session=00000000-0000-0000-0000-000000000000", 404),
        ("session=../../x", 404),
    ] {
        let refused = Terminal::open(&workspace, query).await.err();
        assert_eq!(refused, Some(status), "{query}");
    }
    let evil = Some("https://evil.example");
    let refused = Terminal::open_from(&workspace, "session=", evil)
        .await
        .err();
    assert_eq!(refused, Some(403));
    workspace
        .client
        .get(&format!("{}/terminal/ws", workspace.path))
        .await
        .refused(400, "not_a_websocket");
    workspace.post("/stop", json!({})).await.ok();
    assert_eq!(
        Terminal::open(&workspace, "session=").await.err(),
        Some(409)
    );
}

#[tokio::test]
async fn a_hundred_terminals_are_open_at_once() {
    let server = Server::start().await;
    let workspace = server.client.running().await;
    let mut all = Vec::new();
    for number in 0..100 {
        let mut terminal = workspace.terminal("").await;
        terminal
            .send(&format!("echo number-$(({number}+1000))\r"))
            .await;
        all.push(terminal);
    }
    for (number, terminal) in all.iter_mut().enumerate() {
        terminal.shows(&format!("number-{}", number + 1000)).await;
    }
    for terminal in &mut all {
        terminal.send("exit\r").await;
    }
    for terminal in &mut all {
        assert_eq!(terminal.closed().await, Some(1000));
    }
}

#[tokio::test]
async fn a_flood_that_nobody_reads_costs_the_server_nothing() {
    let server = Server::start().await;
    let workspace = server.client.running().await;
    let mut terminal = workspace.terminal("").await;
    terminal.send("echo before\r").await;
    terminal.shows("before").await;
    let before = server.resident_bytes();
    terminal
        .send("yes 'a line that goes on and on and on'\r")
        .await;
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    let grown = server.resident_bytes().saturating_sub(before);
    assert!(grown < 16 << 20, "the server grew by {grown} bytes");
    // Whoever comes back can interrupt it and work.
    let mut other = workspace.terminal(&terminal.session).await;
    drop(terminal);
    other.send("\x03").await;
    other.send("echo after-$((1+1))\r").await;
    other.shows("after-2").await;
}
