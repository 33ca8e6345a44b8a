//! A workspace that works against its host.

use crate::client::Workspace;
use crate::server::{Server, signal};
use futures_util::StreamExt;
use reqwest::Method;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

#[tokio::test]
async fn links_and_dots_lead_nowhere() {
    let server = Server::start().await;
    let workspace = server.client.running().await;
    // A secret of the host that the workspace must never see.
    let secret = tempfile::NamedTempFile::new_in("/var/tmp").unwrap();
    std::fs::write(secret.path(), "secret of the host").unwrap();
    let outside = secret.path().to_str().unwrap();
    workspace
        .sh(&format!(
            "ln -s {outside} /data/link; ln -s /etc/shadow /data/shadow; ln -s / /data/root; \
             ln -s ../../../../../../../../etc/shadow /data/up; ln -s /proc/1/root{outside} /data/proc; \
             ln -s loop /data/loop; mkdir -p /data/d"
        ))
        .await;
    let client = &workspace.client;
    for path in [
        "/data/link",
        "/data/shadow",
        "/data/up",
        "/data/proc",
        "/data/loop",
        &format!("/../../..{outside}"),
        &format!("/data/root/..{outside}"),
        "/data/d/../../../../../../etc/shadow",
    ] {
        for call in ["read", "download"] {
            let answer =
                client.request(Method::GET, &workspace.fs(&format!("/{call}?path={path}")));
            let answer = answer.send().await.unwrap();
            let status = answer.status();
            let body = answer.text().await.unwrap();
            assert!(status.as_u16() < 500, "{call} {path}: {status} {body}");
            assert!(!body.contains("secret of the host"), "{call} {path}");
        }
        // What is written goes inside, or is refused; the host's file stays.
        let answer = workspace
            .post("/fs/write", json!({"path": path, "content": "evil"}))
            .await;
        assert!(answer.status < 500, "{path}: {answer:?}");
    }
    assert_eq!(
        std::fs::read_to_string(secret.path()).unwrap(),
        "secret of the host"
    );
    for (field, body) in [
        ("mkdir", json!({"path": "/../../../data/../../../../y"})),
        (
            "rename",
            json!({"oldPath": "/data/d", "newPath": "/../../../../d2"}),
        ),
        (
            "delete",
            json!({"path": "/../../../../d2", "recursive": true}),
        ),
    ] {
        workspace.post(&format!("/fs/{field}"), body).await.ok();
    }
    assert!(!std::path::Path::new("/y").exists() && !std::path::Path::new("/d2").exists());
}

#[tokio::test]
async fn a_link_that_is_swapped_during_writes_never_leads_out_of_its_directory() {
    let server = Server::start().await;
    let workspace = server.client.running().await;
    workspace
        .sh("mkdir -p /data/w /data/other; echo kept > /data/other/f")
        .await;
    let swap = "cd /data/w; while true; do ln -sfn /data/other d; rm -f d; mkdir d 2>/dev/null; rm -rf d; done";
    let swapping = workspace
        .exec(json!({"command": swap, "detach": true}))
        .await
        .ok();
    let begun = Instant::now();
    let mut rounds = 0;
    while begun.elapsed() < Duration::from_secs(5) {
        let body = json!({"path": "/data/w/d/g", "content": rounds.to_string()});
        let answer = workspace.post("/fs/write", body).await;
        assert!(answer.status < 500, "{answer:?}");
        rounds += 1;
    }
    assert!(rounds > 50, "only {rounds} writes");
    let id = swapping["exec_id"].as_str().unwrap();
    workspace
        .client
        .delete(&format!("{}/exec/{id}", workspace.path))
        .await;
    assert_eq!(workspace.sh("cat /data/other/f").await, "kept");
    assert_eq!(
        workspace.sh("find /data -name '.botstead*' | wc -l").await,
        "0"
    );
}

#[tokio::test]
async fn strange_files_are_refused_or_served_but_never_hang() {
    let server = Server::start().await;
    let workspace = server.client.running().await;
    workspace
        .sh("cd /data; mkfifo pipe 2>/dev/null || busybox mkfifo pipe; busybox mknod null c 1 3 || true; \
             busybox truncate -s 10G sparse; printf 'new\nline' > 'a\nb'")
        .await;
    let client = &workspace.client;
    let quick = Duration::from_secs(10);
    let begun = Instant::now();
    client
        .get(&workspace.fs("/read?path=/data/pipe"))
        .await
        .refused(422, "not_a_regular_file");
    client
        .get(&workspace.fs("/download?path=/data/pipe"))
        .await
        .refused(422, "not_a_regular_file");
    client
        .get(&workspace.fs("/read?path=/data/sparse"))
        .await
        .refused(413, "file_too_large");
    let part = workspace
        .fetch(
            "/download?path=/data/sparse",
            &[("range", "bytes=10000000000-10000000009")],
        )
        .await;
    assert_eq!(
        (part.status().as_u16(), part.bytes().await.unwrap().len()),
        (206, 10)
    );
    let cpus = client
        .get(&workspace.fs("/read?path=/proc/cpuinfo"))
        .await
        .ok();
    assert!(cpus["content"].as_str().unwrap().contains("processor"));
    assert!(begun.elapsed() < quick, "{:?}", begun.elapsed());

    // Names of any bytes survive, both ways.
    workspace
        .exec(json!({"command": ["sh", "-c", "printf x > \"/data/$(printf 'bad\\377')\""]}))
        .await
        .ok();
    let listed = client.get(&workspace.fs("/list?path=/data")).await.ok();
    let entries = listed["entries"].as_array().unwrap();
    let bad = entries
        .iter()
        .find(|e| e["name_base64"].is_string())
        .unwrap();
    assert_eq!(
        (&bad["path"], &bad["name_base64"]),
        (&json!("/data/bad%FF"), &json!("YmFk/w=="))
    );
    assert!(entries.iter().any(|e| e["name"] == "a\nb"), "{listed}");
    let read = client
        .get(&workspace.fs("/read?path=/data/bad%FF"))
        .await
        .ok();
    assert_eq!(read["content"], "x");
    let path = bad["path_base64"].as_str().unwrap();
    workspace
        .post("/fs/write", json!({"path_base64": path, "content": "y"}))
        .await
        .ok();
    workspace
        .post("/fs/delete", json!({"path_base64": path}))
        .await
        .ok();
    client
        .get(&workspace.fs("/read?path=/data/bad%FF"))
        .await
        .refused(404, "path_not_found");
}

#[tokio::test]
async fn a_directory_of_many_entries_comes_in_pages() {
    let server = Server::start().await;
    let workspace = server.client.running().await;
    workspace
        .sh("mkdir /data/many; cd /data/many; seq 200000 | xargs touch")
        .await;
    let (mut cursor, mut count, mut last) = (String::new(), 0, String::new());
    let before = server.resident_bytes();
    for _ in 0..5 {
        let call = format!("/list?path=/data/many&limit=1000&cursor={cursor}");
        let page = workspace.client.get(&workspace.fs(&call)).await.ok();
        let entries = page["entries"].as_array().unwrap();
        count += entries.len();
        let first = entries[0]["path"].as_str().unwrap();
        assert!(first > last.as_str(), "{first} after {last}");
        entries[999]["path"].as_str().unwrap().clone_into(&mut last);
        page["next_cursor"]
            .as_str()
            .unwrap()
            .clone_into(&mut cursor);
    }
    assert_eq!(count, 5000);
    assert!(server.resident_bytes().saturating_sub(before) < 32 << 20);
}

#[tokio::test]
async fn a_flood_on_stdout_waits_for_a_slow_client() {
    let server = Server::start().await;
    let workspace = server.client.running().await;
    workspace.sh("true").await;
    let before = server.resident_bytes();
    let request = workspace
        .client
        .request(Method::POST, &format!("{}/exec", workspace.path));
    let request = request
        .header("accept", "text/event-stream")
        .json(&json!({"command": "yes"}));
    let mut body = request.send().await.unwrap().bytes_stream();
    let peak = server.watch_memory();
    let mut received = 0;
    for _ in 0..40 {
        received += body.next().await.unwrap().unwrap().len();
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let grown = peak.stop().saturating_sub(before);
    assert!(
        received > 0 && grown < 16 << 20,
        "{received} received, grown by {grown}"
    );
    // A client that leaves ends the command.
    drop(body);
    let mut left = String::new();
    for _ in 0..100 {
        left = workspace.sh("ps | grep -c '[y]es$' || true").await;
        if left == "0" {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(left, "0");
}

async fn with_few_processes(server: &Server) -> Workspace {
    let workspace = server.client.workspace(&server.client.bot().await);
    let body = json!({"image": crate::server::IMAGE, "limits": {"pids": 64}});
    let events = workspace.create(body).await;
    assert_eq!(events.last().unwrap()["type"], "complete");
    workspace
}

#[tokio::test]
async fn the_agent_answers_under_a_fork_bomb() {
    let server = Server::start().await;
    let workspace = with_few_processes(&server).await;
    let bomb = json!({"command": "bomb() { bomb | bomb & }; bomb; sleep 60", "detach": true});
    let bomb = workspace.exec(bomb).await.ok();
    tokio::time::sleep(Duration::from_secs(2)).await;
    let info = workspace.info().await;
    assert_eq!(info["reachable"], true, "{info}");
    workspace
        .post(
            "/fs/write",
            json!({"path": "/data/under-fire", "content": "x"}),
        )
        .await
        .ok();
    let listed = workspace
        .client
        .get(&workspace.fs("/list?path=/data"))
        .await
        .ok();
    assert!(listed["entries"].to_string().contains("under-fire"));
    // Commands are refused with a reason, or get through when a place is free.
    let mut refused = false;
    for _ in 0..200 {
        let answer = workspace
            .exec(json!({"command": ["true"], "timeout_seconds": 5}))
            .await;
        if answer.status != 200 {
            answer.refused(429, "workspace_limit");
            refused = true;
            break;
        }
    }
    let id = bomb["exec_id"].as_str().unwrap();
    workspace
        .client
        .delete(&format!("{}/exec/{id}", workspace.path))
        .await;
    workspace.post("/stop", json!({})).await.ok();
    workspace.post("/start", json!({})).await.ok();
    assert_eq!(workspace.sh("cat /data/under-fire").await, "x");
    println!("a command was refused under the bomb: {refused}");
}

/// Hundreds that fork without end, each in a session of its own and orphaned: fewer than the limit of
/// processes, so that none of them ends by it.
const FORKS: &str =
    "for n in $(seq 300); do setsid timeout 90 sh -c 'while :; do (:); done' & done";

#[tokio::test]
async fn hundreds_of_processes_that_fork_without_end_are_seen_and_ended() {
    let server = Server::start().await;
    let workspace = server.client.running().await;
    // The agent goes before what it runs.
    let priorities = workspace
        .sh("cut -d' ' -f19 /proc/1/stat /proc/self/stat")
        .await;
    assert_eq!(priorities, "-19\n0");
    let forks = json!({"command": FORKS, "detach": true});
    workspace.exec(forks).await.ok();
    tokio::time::sleep(Duration::from_secs(4)).await;
    let list = async || {
        let path = format!("{}/processes", workspace.path);
        workspace.client.get(&path).await.ok()
    };
    let seen = list().await;
    assert!(seen["next_cursor"].is_string(), "{seen}");
    workspace.snapshot().await;
    let body = json!({"signal": "KILL", "all": true});
    let ended = workspace.post("/processes/signal", body).await.ok();
    assert!(ended["pids"].as_array().unwrap().len() > 100, "{ended}");
    while list().await["items"] != json!([]) {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(workspace.sh("echo on").await, "on");
}

#[tokio::test]
async fn what_runs_is_seen_and_ended_at_the_limit_of_processes() {
    let server = Server::start().await;
    let workspace = with_few_processes(&server).await;
    // Some out of every session that anybody knows of, then one by one until the limit.
    let line = "for n in $(seq 40); do setsid sleep 600 & done; wait";
    let full = json!({"command": line, "detach": true});
    let mut answer = workspace.exec(full).await;
    for _ in 0..100 {
        if answer.status != 202 {
            break;
        }
        let one = json!({"command": ["sleep", "600"], "detach": true});
        answer = workspace.exec(one).await;
    }
    let problem = answer.body["detail"].clone();
    answer.refused(429, "workspace_limit");
    assert!(
        problem.to_string().contains("list the processes"),
        "{problem}"
    );
    let path = format!("{}/processes", workspace.path);
    let all = workspace.client.get(&path).await.ok();
    let all = all["items"].as_array().unwrap();
    let sleeps = |process: &&Value| process["command"] == json!(["sleep", "600"]);
    assert!(all.iter().filter(sleeps).count() > 30, "{all:?}");
    assert!(all.iter().all(|process| process["pid"].as_u64() > Some(1)));
    // In pages it is the same.
    let (mut paged, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = format!("{path}?limit=10&cursor={cursor}");
        let page = workspace.client.get(&page).await.ok();
        paged.extend(page["items"].as_array().unwrap().clone());
        match page["next_cursor"].as_str() {
            Some(next) => next.clone_into(&mut cursor),
            None => break,
        }
    }
    assert_eq!(paged.len(), all.len());
    let refused = workspace.client.get(&format!("{path}?cursor=eA")).await;
    refused.refused(400, "invalid_value");
    // One by its number.
    let one = all.iter().find(sleeps).unwrap()["pid"].clone();
    let body = json!({"signal": "KILL", "pids": [one, 4_000_000]});
    let sent = workspace.post("/processes/signal", body).await.ok();
    assert_eq!(sent["pids"], json!([one]));
    for (body, words) in [
        (json!({"signal": "KILL"}), "pids or all must be given"),
        (json!({"signal": "KILL", "pids": [1]}), "agent"),
        (json!({"signal": "NOPE", "all": true}), "signal"),
    ] {
        let problem = workspace.post("/processes/signal", body).await;
        let detail = problem.body["detail"].to_string();
        problem.refused(400, "invalid_value");
        assert!(detail.contains(words), "{detail}");
    }
    // Then all of them, and the workspace is usable.
    let body = json!({"signal": "SIGKILL", "all": true});
    workspace.post("/processes/signal", body).await.ok();
    for _ in 0..200 {
        let left = workspace.client.get(&path).await.ok();
        if left["items"].as_array().unwrap().is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(workspace.sh("echo alive").await, "alive");
    workspace.post("/stop", json!({})).await.ok();
    let stopped = workspace.client.get(&path).await;
    stopped.refused(409, "workspace_not_running");
}

#[tokio::test]
async fn nothing_inside_can_stand_in_for_the_agent() {
    let mut server = Server::start().await;
    let workspace = server.client.running().await;
    // The root inside puts a link to a socket of the host where the agent's is, again and again.
    let host = tempfile::tempdir_in("/run").unwrap();
    let trap = host.path().join("trap.sock");
    let listener = std::os::unix::net::UnixListener::bind(&trap).unwrap();
    listener.set_nonblocking(true).unwrap();
    let line = format!(
        "cd /run/botstead/host; while true; do rm -f agent.sock; ln -s {} agent.sock; done",
        trap.display()
    );
    let body = json!({"command": line, "user": "0", "detach": true});
    assert_eq!(workspace.exec(body).await.status, 202);
    // A new server has no connection yet.
    server.terminate();
    server.run(&[]).await;
    let workspace = server.client.workspace(&workspace.bot);
    for _ in 0..5 {
        let _ = workspace.get().await;
        let _ = workspace
            .exec(json!({"command": ["true"], "timeout_seconds": 5}))
            .await;
    }
    assert!(
        listener.accept().is_err(),
        "the server was led to a socket of the host"
    );
    workspace.post("/stop", json!({})).await.ok();
    workspace.post("/start", json!({})).await.ok();
    workspace.reachable().await;
    assert_eq!(workspace.sh("echo back").await, "back");
}

#[tokio::test]
async fn an_agent_that_is_silent_is_told_and_nothing_ends() {
    let server = Server::start().await;
    let workspace = server.client.running().await;
    workspace.sh("echo kept > /data/file").await;
    let body = json!({"command": "echo begun; sleep 1000", "detach": true});
    let runs = workspace.exec(body).await.ok();
    let runs = format!(
        "{}/exec/{}",
        workspace.path,
        runs["exec_id"].as_str().unwrap()
    );
    let id = format!("workspace-{}", workspace.bot);
    let tasks = server.ctr(&["tasks", "list"]);
    let task = tasks.lines().find(|line| line.starts_with(&id)).unwrap();
    let pid = task.split_whitespace().nth(1).unwrap().parse().unwrap();
    // Only the host can stop a namespace's first process (pid_namespaces(7)).
    signal(pid, "STOP");
    let info = workspace.info().await;
    assert_eq!(
        (&info["task_running"], &info["reachable"]),
        (&json!(true), &json!(false)),
        "{info}"
    );
    let begun = Instant::now();
    while workspace.info().await["reachable"] != true {
        let patience = Duration::from_secs(180);
        assert!(begun.elapsed() < patience, "nobody repairs it");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert_eq!(workspace.sh("cat /data/file").await, "kept");
    let seen = workspace.client.get(&runs).await.ok();
    assert_eq!(
        (&seen["running"], &seen["stdout"]),
        (&json!(true), &json!("begun\n"))
    );
}
