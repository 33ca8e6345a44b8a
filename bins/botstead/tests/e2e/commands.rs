//! Commands by the agent: streamed, detached, in great number, in images of every kind.

use crate::server::{Server, bare_image, debian_archive};
use botstead_image_fixtures::oci_archive;
use futures_util::StreamExt;
use reqwest::Method;
use serde_json::{Value, json};
use std::time::Duration;

#[tokio::test]
async fn output_streams_while_a_command_runs() {
    let server = Server::start().await;
    let workspace = server.client.running().await;
    let request = workspace
        .client
        .request(Method::POST, &format!("{}/exec", workspace.path));
    let line = "cat; echo one; sleep 1; echo two >&2; exit 3";
    let request = request
        .header("accept", "text/event-stream")
        .json(&json!({"command": line, "stdin": "zero\n"}));
    let text = request.send().await.unwrap().text().await.unwrap();
    let events: Vec<Value> = text
        .lines()
        .filter_map(|line| line.strip_prefix("data: "))
        .map(|event| serde_json::from_str(event).unwrap())
        .collect();
    assert_eq!(events.first().unwrap()["type"], "started");
    let last = events.last().unwrap();
    assert_eq!(
        (&last["type"], &last["exit_code"]),
        (&json!("exit"), &json!(3))
    );
    assert!(last["duration_ms"].as_u64().unwrap() >= 1000);
    let output = |kind: &str| -> Vec<u8> {
        use base64::Engine;
        let parts = events.iter().filter(|event| event["type"] == kind);
        parts
            .flat_map(|event| {
                base64::engine::general_purpose::STANDARD
                    .decode(event["data"].as_str().unwrap())
                    .unwrap()
            })
            .collect()
    };
    assert_eq!(
        (output("stdout"), output("stderr")),
        (b"zero\none\n".to_vec(), b"two\n".to_vec())
    );
}

#[tokio::test]
async fn a_command_can_have_a_terminal() {
    let server = Server::start().await;
    let workspace = server.client.running().await;
    let client = &workspace.client;
    let path = |id: &str, rest: &str| format!("{}/exec/{id}{rest}", workspace.path);
    let body = json!({
        "command": "test -t 0 && test -t 1 && test -t 2 && stty size; echo error >&2; read line; echo got $line; cat",
        "tty": true, "cols": 120, "rows": 40, "stdin": "word\n",
    });
    // The echo comes when it was typed, which may be before all else.
    let check = |done: &Value| {
        let shown = done["stdout"].as_str().unwrap();
        for line in ["40 120\r\n", "error\r\n", "word\r\n", "got word\r\n"] {
            assert!(shown.contains(line), "{done}");
        }
        assert_eq!(
            (&done["stderr"], &done["exit_code"]),
            (&json!(""), &json!(0))
        );
    };
    check(&workspace.exec(body.clone()).await.ok());
    let mut detached = body;
    detached["detach"] = json!(true);
    let started = workspace.exec(detached).await.ok();
    let id = started["exec_id"].as_str().unwrap();
    check(&client.get(&path(id, "?follow=true")).await.ok());
    let listed = client.get(&format!("{}/exec", workspace.path)).await.ok();
    assert_eq!(listed["items"][0]["exec_id"], id);
    let terminals = client
        .get(&format!("{}/terminal/sessions", workspace.path))
        .await;
    assert_eq!(terminals.ok()["items"], json!([]));
    // It is typed into while it runs, also an interrupt.
    let line =
        "trap 'echo interrupted; exit 5' INT; stty -echo; echo up; while :; do sleep 0.05; done";
    let body = json!({"command": line, "tty": true, "stdin_open": true, "detach": true});
    let started = workspace.exec(body).await.ok();
    let id = started["exec_id"].as_str().unwrap();
    loop {
        let done = client.get(&path(id, "")).await.ok();
        if done["stdout"].as_str().unwrap().contains("up") {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    client
        .post(&path(id, "/stdin"), json!({"data": "\u{3}"}))
        .await
        .ok();
    let done = client.get(&path(id, "?follow=true")).await.ok();
    assert!(
        done["stdout"]
            .as_str()
            .unwrap()
            .ends_with("interrupted\r\n"),
        "{done}"
    );
    assert_eq!(done["exit_code"], 5);
    workspace
        .exec(json!({"command": "true", "rows": 10}))
        .await
        .refused(400, "invalid_value");
}

#[tokio::test]
async fn another_user_has_their_own_home() {
    let server = Server::start().await;
    let workspace = server.client.running().await;
    let line = "echo 'ann:x:1234:1234::/home/ann:/bin/sh' >> /etc/passwd";
    workspace.sh(line).await;
    for (user, env, expected) in [
        (json!(null), json!({}), "/data"),
        (json!("0"), json!({}), "/data"),
        (json!("ann"), json!({}), "/home/ann"),
        (json!("1234:0"), json!({}), "/home/ann"),
        (json!("ann"), json!({"HOME": "/tmp"}), "/tmp"),
    ] {
        let body = json!({"command": "echo $HOME", "user": user, "env": env});
        let done = workspace.exec(body).await.ok();
        assert_eq!(done["stdout"], format!("{expected}\n"), "{user}");
    }
}

#[tokio::test]
async fn detached_commands_are_followed_fed_and_ended() {
    let server = Server::start().await;
    let workspace = server.client.running().await;
    let client = &workspace.client;
    let start = async |command: Value| {
        let answer = workspace
            .exec(json!({"command": command, "detach": true, "stdin_open": true}))
            .await;
        assert_eq!(answer.status, 202, "{answer:?}");
        answer.ok()["exec_id"].as_str().unwrap().to_owned()
    };
    let cat = start(json!(["cat"])).await;
    let path = |id: &str, rest: &str| format!("{}/exec/{id}{rest}", workspace.path);
    client
        .post(&path(&cat, "/stdin"), json!({"data": "a\n"}))
        .await
        .ok();
    client
        .post(
            &path(&cat, "/stdin"),
            json!({"data": "Ygo=", "encoding": "base64", "close": true}),
        )
        .await
        .ok();
    let done = client.get(&path(&cat, "?follow=true")).await.ok();
    assert_eq!(
        (&done["stdout"], &done["exit_code"]),
        (&json!("a\nb\n"), &json!(0))
    );
    client
        .post(&path(&cat, "/stdin"), json!({"data": "late"}))
        .await
        .refused(409, "process_ended");

    let trap = start(json!(
        "trap 'echo caught; exit 5' INT; echo ready; while :; do sleep 0.1; done"
    ))
    .await;
    let request = client.request(Method::GET, &path(&trap, "?follow=true"));
    let mut events = request
        .header("accept", "text/event-stream")
        .send()
        .await
        .unwrap()
        .bytes_stream();
    let mut text = String::new();
    while !text.contains("stdout") {
        text.push_str(&String::from_utf8_lossy(
            &events.next().await.unwrap().unwrap(),
        ));
    }
    client
        .post(&path(&trap, "/signal"), json!({"signal": "SIGINT"}))
        .await
        .ok();
    while let Some(bytes) = events.next().await {
        text.push_str(&String::from_utf8_lossy(&bytes.unwrap()));
    }
    assert!(text.contains("\"exit_code\":5"), "{text}");

    let tree = start(json!("sleep 1234 & sleep 1234 & wait")).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let listed = client.get(&format!("{}/exec", workspace.path)).await.ok();
    let running: Vec<_> = listed["items"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|e| e["running"] == true)
        .collect();
    assert_eq!(running.len(), 1, "{listed}");
    assert_eq!(client.delete(&path(&tree, "")).await.status, 204);
    client
        .get(&path(&tree, ""))
        .await
        .refused(404, "exec_not_found");
    assert_eq!(
        workspace.sh("ps | grep -c '[s]leep 1234' || true").await,
        "0"
    );
    workspace
        .post("/exec", json!({"command": ["pwd"], "cwd": "/none"}))
        .await
        .refused(404, "path_not_found");
    workspace
        .post("/exec", json!({"command": ["id"], "user": "nobody-here"}))
        .await
        .refused(422, "no_such_user");
}

#[tokio::test]
async fn stdin_is_the_same_for_a_command_that_is_detached() {
    let server = Server::start().await;
    let workspace = server.client.running().await;
    let client = &workspace.client;
    let path = |id: &str, rest: &str| format!("{}/exec/{id}{rest}", workspace.path);
    let long = "line\n".repeat(50_000);
    // It comes as a whole, also to a program that is slow to read it, and ends; nothing ends at once.
    for (stdin, expected) in [
        (json!(null), 0),
        (json!(""), 0),
        (json!("a\n"), 1),
        (json!(long), 50_000),
    ] {
        let body = json!({"command": "sleep 0.2; wc -l", "stdin": stdin});
        let here = workspace.exec(body.clone()).await.ok();
        assert_eq!(here["stdout"], format!("{expected}\n"), "{here}");
        let mut body = body;
        body["detach"] = json!(true);
        let started = workspace.exec(body).await.ok();
        let id = started["exec_id"].as_str().unwrap();
        let done = client.get(&path(id, "?follow=true")).await.ok();
        assert_eq!(done["stdout"], here["stdout"], "{done}");
        client
            .post(&path(id, "/stdin"), json!({"data": "late"}))
            .await
            .refused(409, "process_ended");
    }
    // Asked to stay open it does, detached or not.
    let body = json!({"command": ["cat"], "stdin": "one\n", "stdin_open": true, "detach": true});
    let started = workspace.exec(body).await.ok();
    let id = started["exec_id"].as_str().unwrap().to_owned();
    let more = json!({"data": "two\n", "close": true});
    client.post(&path(&id, "/stdin"), more.clone()).await.ok();
    let done = client.get(&path(&id, "?follow=true")).await.ok();
    assert_eq!(done["stdout"], "one\ntwo\n");
    let request = client.request(Method::POST, &format!("{}/exec", workspace.path));
    let body = json!({"command": ["cat"], "stdin": "one\n", "stdin_open": true});
    let answer = request
        .header("accept", "text/event-stream")
        .json(&body)
        .send()
        .await
        .unwrap();
    let mut events = answer.bytes_stream();
    let mut text = String::new();
    let mut written = false;
    while let Some(bytes) = events.next().await {
        text.push_str(&String::from_utf8_lossy(&bytes.unwrap()));
        if !written && let Some((_, rest)) = text.split_once("\"exec_id\":\"") {
            let id = rest.split('"').next().unwrap().to_owned();
            client.post(&path(&id, "/stdin"), more.clone()).await.ok();
            written = true;
        }
    }
    assert!(written && text.contains("\"exit_code\":0"), "{text}");
}

#[tokio::test]
async fn a_hundred_commands_run_at_once() {
    let server = Server::start().await;
    let workspace = server.client.running().await;
    let all = (0..100).map(|number| {
        let workspace = workspace.clone();
        async move {
            let line = format!("sleep 1; echo {number}; exit {}", number % 7);
            let done = workspace.exec(json!({"command": line})).await.ok();
            assert_eq!(done["stdout"], format!("{number}\n"));
            assert_eq!(done["exit_code"], number % 7);
        }
    });
    futures_util::future::join_all(all).await;
}

#[tokio::test]
async fn an_image_with_nothing_but_the_agent_has_files_and_says_that_it_has_no_shell() {
    let server = Server::start().await;
    let mut archive = Vec::new();
    oci_archive(
        &mut archive,
        &[(Some("localhost/test/bare:1"), &bare_image())],
        None,
    )
    .unwrap();
    assert_eq!(server.client.import(archive).await.status, 201);
    let workspace = server.client.workspace(&server.client.bot().await);
    let events = workspace
        .create(json!({"image": "localhost/test/bare:1"}))
        .await;
    assert_eq!(events.last().unwrap()["type"], "complete", "{events:?}");
    workspace.reachable().await;
    workspace
        .post("/fs/write", json!({"path": "/data/a", "content": "bare"}))
        .await
        .ok();
    let read = workspace
        .client
        .get(&workspace.fs("/read?path=/data/a"))
        .await
        .ok();
    assert_eq!(read["content"], "bare");
    let offered = workspace
        .client
        .get(&format!("{}/terminal", workspace.path))
        .await
        .ok();
    assert_eq!(offered, json!({"available": false, "shell": ""}));
    let refused = crate::socket::Terminal::open(&workspace, "session=")
        .await
        .err();
    assert_eq!(refused, Some(422));
    let done = workspace.exec(json!({"command": "echo x"})).await.ok();
    assert_eq!(done["exit_code"], 127, "{done}");
    // The agent itself is a program.
    let done = workspace
        .exec(json!({"command": ["/run/botstead/agent", "--version"]}))
        .await
        .ok();
    assert_eq!(done["exit_code"], 0, "{done}");
    workspace.post("/stop", json!({})).await.ok();
    workspace.post("/start", json!({})).await.ok();
    let read = workspace
        .client
        .get(&workspace.fs("/read?path=/data/a"))
        .await
        .ok();
    assert_eq!(read["content"], "bare");
}

#[tokio::test]
async fn the_default_image_is_a_computer_that_an_agent_can_use() {
    let server = Server::start().await;
    let archive = tokio::fs::read(debian_archive()).await.unwrap();
    assert_eq!(server.client.import(archive).await.status, 201);
    let workspace = server.client.workspace(&server.client.bot().await);
    let events = workspace.create(json!({})).await;
    assert_eq!(events.last().unwrap()["type"], "complete", "{events:?}");
    // An echo as ping sends it without rights of its own.
    let ping = "import socket; \
        s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP); \
        s.settimeout(10); s.sendto(bytes([8, 0, 0, 0, 0, 0, 0, 1]), ('127.0.0.1', 0)); \
        print(s.recv(100)[0])";
    let echo = json!({"command": ["python3", "-c", ping], "user": "4321"});
    let echo = workspace.exec(echo).await.ok();
    assert_eq!(echo["stdout"], "0\n", "{echo}");
    let line = "bash -c 'git --version && python3 -c \"print(6*7)\" && curl --version | head -1 && ps aux | wc -l' && echo $HOME && pwd";
    let output = workspace.sh(line).await;
    assert!(
        output.contains("git version")
            && output.contains("\n42\n")
            && output.ends_with("/data\n/data"),
        "{output}"
    );
    let mut terminal = workspace.terminal("").await;
    terminal.send("echo $0 $((40+2)); stty size\r").await;
    terminal.shows("bash 42").await;
    terminal.shows("24 80").await;
    terminal.send("python3\r").await;
    terminal.shows(">>>").await;
    terminal.send("print(2**20)\rexit()\r").await;
    terminal.shows("1048576").await;
    terminal.send("exit\r").await;
    assert_eq!(terminal.closed().await, Some(1000));
    // Nothing that the agent does is seen in the bot's files.
    let files = workspace.sh("ls -A /data").await;
    assert_eq!(files, ".bash_history\n.python_history");
}

#[tokio::test]
async fn templates_are_seeded_once_and_a_toolkit_is_on_the_path() {
    use std::os::unix::fs::PermissionsExt;
    let folder = crate::server::folder("botstead-e2e-");
    let (template, toolkit) = (
        folder.path().join("template"),
        folder.path().join("toolkit"),
    );
    std::fs::create_dir_all(template.join("docs")).unwrap();
    std::fs::create_dir_all(toolkit.join("bin")).unwrap();
    std::fs::write(template.join("docs/README"), "welcome\n").unwrap();
    std::fs::write(template.join("todo"), "work\n").unwrap();
    std::fs::write(toolkit.join("bin/hello"), "#!/bin/sh\necho tool\n").unwrap();
    std::fs::set_permissions(
        toolkit.join("bin/hello"),
        std::fs::Permissions::from_mode(0o755),
    )
    .unwrap();
    let data = folder.path().join("data");
    let extra = format!("template_dir = {template:?}\ntoolkit_dir = {toolkit:?}\n");
    let server = Server::start_with_workspace(folder, data, &extra).await;
    let workspace = server.client.running().await;
    assert_eq!(
        workspace
            .sh("cat /data/docs/README /data/todo; hello")
            .await,
        "welcome\nwork\ntool"
    );
    workspace
        .sh("rm /data/todo; echo mine > /data/docs/README")
        .await;
    workspace.post("/stop", json!({})).await.ok();
    workspace.post("/start", json!({})).await.ok();
    assert_eq!(
        workspace.sh("cat /data/docs/README; ls /data").await,
        "mine\ndocs"
    );
}
