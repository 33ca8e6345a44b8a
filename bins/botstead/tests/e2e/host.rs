//! The server and its host. The service manager: it says when it is ready, and at a shutdown of the host,
//! but not of the server alone, workspaces are stopped. The firewall: what others remove is put back. The
//! memory: what the kernel kills is told.

use crate::server::Server;
use botstead_network_bridge::BridgeConfig;
use reqwest::Method;
use serde_json::{Value, json};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// Makes `systemctl` say that the system is in this state, for servers with this search path.
fn system_is(folder: &Path, state: &str) -> String {
    std::fs::create_dir_all(folder).unwrap();
    let program = folder.join("systemctl");
    let text = format!("#!/bin/sh\n[ \"$1\" = is-system-running ] && echo {state}\nexit 1\n");
    std::fs::write(&program, text).unwrap();
    std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
    format!("{}:{}", folder.display(), std::env::var("PATH").unwrap())
}

#[tokio::test]
async fn the_service_manager_hears_that_it_is_ready_when_it_answers() {
    let mut server = Server::start().await;
    server.terminate();
    let path = server.beside("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager
        .set_read_timeout(Some(Duration::from_secs(60)))
        .unwrap();
    let hear = || {
        let mut message = [0; 512];
        let length = manager
            .recv(&mut message)
            .expect("nothing was said within a minute");
        String::from_utf8(message[..length].to_vec()).unwrap()
    };
    server.spawn(&[("NOTIFY_SOCKET", path.to_str().unwrap())]);
    assert_eq!(hear(), "READY=1");
    assert!(server.stranger().is_ready().await, "it does not answer");
    server.terminate();
    let end = hear();
    assert!(end.starts_with("STOPPING=1\nEXTEND_TIMEOUT_USEC="), "{end}");
}

#[tokio::test]
async fn workspaces_are_stopped_in_order_when_the_host_shuts_down_and_run_again_after_it() {
    let mut server = Server::start().await;
    let tools = server.beside("tools");
    let path = system_is(&tools, "running");
    server.terminate();
    server.run(&[("PATH", &path)]).await;
    let runs = server.client.running().await;
    let stopped = server.client.running().await;
    stopped.post("/stop", json!({})).await.ok();
    // A database that is asked to end puts itself in order first.
    runs.sh("(trap 'sleep 0.5; echo whole > /data/base; exit' TERM; echo > /data/runs; while true; do sleep 0.05; done) > /dev/null 2>&1 &")
        .await;
    runs.sh("until [ -e /data/runs ]; do sleep 0.02; done")
        .await;

    // The server alone: nothing is stopped.
    let tasks = server.ctr(&["tasks", "list"]);
    server.terminate();
    assert_eq!(server.ctr(&["tasks", "list"]), tasks);
    server.run(&[("PATH", &path)]).await;
    let runs = server.client.workspace(&runs.bot);
    assert_eq!(runs.sh("cat /data/base || echo none").await, "none");

    // The host, in the middle of a command.
    system_is(&tools, "stopping");
    let waits = runs.clone();
    let waits = tokio::spawn(async move {
        let body = json!({"command": "echo > /data/waits; sleep 600"});
        waits.post("/exec", body).await
    });
    runs.sh("until [ -e /data/waits ]; do sleep 0.02; done")
        .await;
    server.terminate();
    let waited = waits.await.unwrap();
    assert_eq!(waited.body["exit_code"].as_i64(), Some(143), "{waited:?}");
    assert!(server.nothing_runs(), "{}", server.log());
    assert_eq!(server.mounts(), [""; 0]);

    // They are as their users want them when the host is there again.
    system_is(&tools, "running");
    server.run(&[("PATH", &path)]).await;
    let runs = server.client.workspace(&runs.bot);
    assert_eq!(runs.sh("cat /data/base").await, "whole");
    let stopped = server.client.workspace(&stopped.bot);
    assert_eq!(stopped.info().await["status"], "stopped");
}

/// What `doctor` says of the server's own firewall table.
fn own_table(server: &Server) -> Value {
    let said = server.admin(&["doctor", "--json"]);
    let said: Value = serde_json::from_slice(&said.stdout).unwrap();
    let checks = said["checks"].as_array().unwrap();
    let own = checks
        .iter()
        .find(|check| check["name"] == "own firewall table");
    own.unwrap()["status"].clone()
}

#[tokio::test]
async fn a_firewall_table_that_others_remove_is_missed_by_doctor_and_put_back() {
    let mut server = Server::start().await;
    let workspace = server.client.running().await;
    let names = BridgeConfig::for_installation(&server.installation().unwrap(), "");
    let table = names.table_name.as_str();
    let nft = |words: &[&str]| {
        let done = Command::new("nft").args(words).output().unwrap();
        done.status.success()
    };
    assert_eq!(own_table(&server), "ok");
    // A firewall that is loaded again flushes the rules of all. The whole machine's must not be, here.
    assert!(nft(&["delete", "table", "inet", table]));
    let deadline = Instant::now() + Duration::from_secs(30);
    while !nft(&["list", "table", "inet", table]) {
        assert!(Instant::now() < deadline, "{}", server.log());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    workspace.reachable().await;
    server.terminate();
    assert!(nft(&["delete", "table", "inet", table]));
    assert_eq!(own_table(&server), "fail");
    server.run(&[]).await;
}

#[tokio::test]
async fn a_teardown_waits_for_the_end_of_workspaces_and_cuts_no_network() {
    let mut server = Server::start().await;
    let workspace = server.client.running().await;
    let names = BridgeConfig::for_installation(&server.installation().unwrap(), "");
    let bridge = Path::new("/sys/class/net").join(&names.bridge_name);
    server.terminate();
    let refused = server.admin(&["teardown"]);
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success(), "{said}");
    assert!(said.contains("stop the workspaces"), "{said}");
    assert!(bridge.exists());

    server.run(&[]).await;
    let workspace = server.client.workspace(&workspace.bot);
    workspace.reachable().await;
    workspace.post("/stop", json!({})).await.ok();
    server.terminate();
    let groups = control_groups(&server);
    assert!(!groups.is_empty());
    // What is killed may leave its control group later.
    let container = format!("workspace-{}", workspace.bot);
    let mut leaving = Command::new("sleep").arg("600").spawn().unwrap();
    let mut entered = 0;
    for group in &groups {
        let group = group.join(&container);
        std::fs::create_dir_all(&group).unwrap();
        // One of CPUs takes a process when it has some.
        let written = std::fs::write(group.join("cgroup.procs"), leaving.id().to_string());
        entered += usize::from(written.is_ok());
    }
    let done = std::thread::scope(|scope| {
        let done = scope.spawn(|| server.admin(&["teardown"]));
        // The groups come last.
        while bridge.exists() && !done.is_finished() {
            std::thread::sleep(Duration::from_millis(10));
        }
        std::thread::sleep(Duration::from_millis(300));
        let waits = !done.is_finished();
        leaving.kill().unwrap();
        leaving.wait().unwrap();
        assert!(entered > 0, "no control group took the process");
        assert!(waits, "a group with a process was not waited for");
        done.join().unwrap()
    });
    assert!(done.status.success(), "{done:?}");
    assert!(!bridge.exists());
    assert_eq!(control_groups(&server), Vec::<PathBuf>::new());
}

/// The installation's folders of control groups: one, or one for each controller.
fn control_groups(server: &Server) -> Vec<PathBuf> {
    let name = format!("botstead-{}", server.installation().unwrap());
    let root = Path::new("/sys/fs/cgroup");
    let trees = std::fs::read_dir(root).unwrap();
    let trees = trees.map(|tree| tree.unwrap().path());
    let all = trees.chain([root.to_owned()]).map(|tree| tree.join(&name));
    all.filter(|group| group.is_dir()).collect()
}

#[tokio::test]
async fn kills_for_lack_of_memory_are_told_to_all_who_ask() {
    let server = Server::start().await;
    let workspace = server.client.workspace(&server.client.bot().await);
    let body = json!({"image": crate::server::IMAGE, "limits": {"memory_bytes": 64 << 20}});
    let events = workspace.create(body).await;
    assert_eq!(events.last().unwrap()["type"], "complete", "{events:?}");

    let harmless = workspace.exec(json!({"command": "true"})).await.ok();
    assert!(harmless["oom"].is_null(), "{harmless}");
    assert!(workspace.info().await["out_of_memory"].is_null());
    // It looks for the end of a line in memory.
    let hog = json!({"command": ["tail", "/dev/zero"]});
    let killed = workspace.exec(hog.clone()).await.ok();
    assert_eq!(
        (&killed["exit_code"], &killed["oom"]),
        (&json!(137), &json!(true)),
        "{killed}"
    );
    let request = server
        .client
        .request(Method::POST, &format!("{}/exec", workspace.path));
    let request = request.header("accept", "text/event-stream").json(&hog);
    let text = request.send().await.unwrap().text().await.unwrap();
    let last = text
        .lines()
        .rfind(|line| line.starts_with("data: "))
        .unwrap();
    assert!(
        last.contains("\"exit_code\":137") && last.contains("\"oom\":true"),
        "{last}"
    );
    let harmless = workspace.exec(json!({"command": "true"})).await.ok();
    assert!(harmless["oom"].is_null(), "{harmless}");

    // One that nobody waits for: the runtime tells of it.
    workspace.sh("tail /dev/zero > /dev/null 2>&1 &").await;
    let metric = async || {
        let text = server
            .client
            .request(Method::GET, "/metrics")
            .send()
            .await
            .unwrap();
        let text = text.text().await.unwrap();
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix("botstead_out_of_memory_kills_total "));
        line.unwrap().parse::<u64>().unwrap()
    };
    let deadline = Instant::now() + Duration::from_secs(30);
    while metric().await < 3 {
        assert!(Instant::now() < deadline, "{}", server.log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(metric().await, 3);
    let known = workspace.info().await["out_of_memory"].clone();
    assert_eq!(known["kills"], 3, "{known}");
    assert!(known["last_at"].is_string(), "{known}");
    assert!(
        server.log().contains("at its memory limit"),
        "{}",
        server.log()
    );

    // It is remembered when the task that it happened to is gone, and the server's process.
    let mut server = server;
    workspace.post("/stop", json!({})).await.ok();
    server.terminate();
    server.run(&[]).await;
    let workspace = server.client.workspace(&workspace.bot);
    workspace.post("/start", json!({})).await.ok();
    let known = workspace.info().await["out_of_memory"].clone();
    assert_eq!(known["kills"], 0, "{known}");
    assert!(known["last_at"].is_string(), "{known}");
}
