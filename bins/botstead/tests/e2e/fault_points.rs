//! The server is killed at every step of its journal, and started again.
//!
//! After each death the operation must be as if it had not begun, or as if it had ended, every
//! version that was recorded must have its files, and nothing may be left over.

use super::harness::{IMAGE, Server, Settings, eventually};
use botstead_workspace::FAULT_POINTS;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use std::os::unix::process::ExitStatusExt;

/// Two versions and something newer: `n` is 1 in version 1, 2 in version 2, and 3 now.
fn with_history(server: &Server) -> String {
    let client = &server.client;
    let bot = client.running_bot();
    for version in 1..=2 {
        client.sh(&bot, &format!("echo {version} > n; echo {version} > only-{version}"));
        assert_eq!(client.snapshot(&bot, "v"), version);
    }
    client.sh(&bot, "echo 3 > n");
    bot
}

/// What the files of the bot's workspace say.
fn state(server: &Server, bot: &str) -> String {
    server.client.sh(bot, "cat n only-* | tr '\\n' ' '")
}

/// Does what the point belongs to; whether a reply comes depends on where the server dies.
fn provoke(server: &Server, bot: &str, what: &str) {
    let client = &server.client;
    let path = format!("/bots/{bot}/container");
    let (method, path, body) = match what {
        "create" => {
            if let Ok(events) = client.stream(&path, &json!({})) {
                events.for_each(drop);
            }
            return;
        }
        "snapshot" => ("POST", format!("{path}/snapshots"), Some(json!({"snapshot_name": "x"}))),
        "rollback" => ("POST", format!("{path}/snapshots/rollback"), Some(json!({"version": 1}))),
        "delete" => ("DELETE", format!("{path}?delete_versions=true"), None),
        other => panic!("no operation is called {other}"),
    };
    let _ = client.attempt(method, &path, body.as_ref());
}

/// Checks that the bot is in the state before or after, and usable. Returns which.
fn check(server: &Server, bot: &str, what: &str) -> &'static str {
    let client = &server.client;
    let path = format!("/bots/{bot}/container");
    let answer = client.get(&path);
    let exists = match answer.status {
        200 => true,
        404 => false,
        _ => panic!("{answer:?}"),
    };
    let tree = client.tree(bot);
    let last = client.last_operation(bot);
    assert!(last.is_none_or(|operation| operation["state"] != "running"));
    let outcome = match (what, exists) {
        ("create", false) => "before",
        ("create", true) => "after",
        ("delete", false) => {
            assert_eq!(tree, [] as [u64; 0]);
            "after"
        }
        ("snapshot" | "rollback", false) => panic!("the workspace is gone"),
        _ => {
            assert_eq!(client.versions(bot), tree, "a recorded version is missing");
            assert!(tree.starts_with(&[1, 2]), "{tree:?}");
            ""
        }
    };
    if !outcome.is_empty() {
        if !exists {
            client.create_well(bot, &json!({}));
        }
        usable(server, bot);
        return outcome;
    }
    usable(server, bot);
    // The state now, then the files of every version.
    let now = state(server, bot);
    let outcome = match (what, now.as_str(), tree.len()) {
        ("rollback", "1 1", 3) | ("snapshot", "3 1 2", 3) => "after",
        (_, "3 1 2", 2) => "before",
        _ => panic!("neither before nor after: {now:?} with versions {tree:?}"),
    };
    client.rollback(bot, 1);
    assert_eq!(state(server, bot), "1 1");
    client.rollback(bot, 2);
    assert_eq!(state(server, bot), "2 1 2");
    if tree.len() == 3 {
        client.rollback(bot, 3);
        assert_eq!(state(server, bot), "3 1 2");
    }
    outcome
}

fn usable(server: &Server, bot: &str) {
    let client = &server.client;
    let info = client.container(bot);
    // A workspace that ran before its server died, runs after the next start.
    assert_eq!((&info["status"], &info["reachable"]), (&json!("running"), &json!(true)), "{info}");
    assert_eq!(info["last_error"], Value::Null);
    assert_eq!(client.sh(bot, "echo works"), "works");
    client.power(bot, "stop");
    client.power(bot, "start");
    assert_eq!(client.sh(bot, "ip -o addr show dev eth0 | grep -c 'inet '"), "1");
}

#[test]
fn killing_the_server_at_any_fault_point_loses_and_leaves_nothing() {
    let mut server = Server::start(&Settings::default());
    // Unpacked layers of the image stay; they come with the first workspace.
    let first = server.client.running_bot();
    server.client.delete_bot(&first);
    let clean = server.belongings();
    assert!(clean.containers.is_empty() && clean.leases.is_empty(), "{clean:?}");
    let (mut before, mut after) = (0, 0);
    for point in FAULT_POINTS {
        let what = point.split('.').next().unwrap();
        let bot = match what {
            "create" => server.client.bot(),
            _ => with_history(&server),
        };
        // Armed in a server of its own: what prepares the point must not reach it.
        server.signal(Signal::SIGTERM);
        server.wait();
        server.launch(&[("BOTSTEAD_FAULT_POINT", point)]);
        provoke(&server, &bot, what);
        let status = server.wait();
        assert_eq!(status.signal(), Some(9), "{point} was not reached: {status}");
        server.launch(&[]);
        let outcome = check(&server, &bot, what);
        match outcome {
            "before" => before += 1,
            _ => after += 1,
        }
        eprintln!("{point}: the state {outcome}");
        server.client.delete_bot(&bot);
        eventually(&format!("nothing is left after {point}"), || {
            let now = server.belongings();
            (now == clean).then_some(()).or_else(|| {
                if std::env::var_os("E2E_SHOW").is_some() {
                    eprintln!("{point}: {now:?}\nclean: {clean:?}");
                }
                None
            })
        });
    }
    assert_eq!(before + after, FAULT_POINTS.len());
    eprintln!(
        "killed at {} points of {IMAGE}: {before} times the state before, {after} times after",
        FAULT_POINTS.len()
    );
}
