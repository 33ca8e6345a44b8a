//! The main job: create, run, snapshot, roll back, over HTTP.

use super::harness::{IMAGE, eventually, image_for_user, registry, shared};
use serde_json::{Value, json};

#[test]
fn the_main_job_from_a_registry() {
    let server = shared();
    let client = &server.client;
    let (_registry, reference) = registry(&image_for_user());
    let bot = client.bot();

    let events = client.create_well(&bot, &json!({ "image": reference }));
    assert_eq!(events[0], json!({"type": "pulling", "image": reference}));
    let kinds: Vec<&str> = events.iter().map(|e| e["type"].as_str().unwrap()).collect();
    let progress: Vec<&Value> = events
        .iter()
        .filter(|event| event["type"] == "pull_progress")
        .collect();
    assert!(!progress.is_empty(), "{kinds:?}");
    for event in &progress {
        for layer in event["layers"].as_array().unwrap() {
            let (offset, total) = (&layer["offset"], &layer["total"]);
            assert!(offset.as_u64().unwrap() <= total.as_u64().unwrap());
            assert!(layer["ref"].as_str().unwrap().starts_with("sha256:"));
        }
    }
    assert_eq!(kinds[kinds.len() - 2..], ["creating", "complete"]);
    let made = &events.last().unwrap()["container"];
    assert_eq!(made["container_id"], format!("workspace-{bot}"));
    assert_eq!(made["started"], true);

    let info = client.container(&bot);
    assert_eq!(info["status"], "running");
    assert_eq!(info["reachable"], true);
    assert_eq!(info["image"], reference);
    assert_eq!(info["legacy"], false);
    let metrics = client.get(&format!("/bots/{bot}/container/metrics")).expect(200);
    assert_eq!(metrics["supported"], true, "{metrics}");
    assert!(metrics["metrics"]["memory"]["usage_bytes"].as_u64().unwrap() > 0);

    client.sh(&bot, "echo first > note");
    assert_eq!(client.snapshot(&bot, "one"), 1);
    client.sh(&bot, "echo second > note; echo new > added");
    assert_eq!(client.snapshot(&bot, "two"), 2);
    client.sh(&bot, "echo third > note");

    let done = client.rollback(&bot, 1);
    assert_eq!(done["safety_version"], 3, "what was there is kept");
    assert_eq!(client.sh(&bot, "cat note; ls"), "first\nnote");
    client.rollback(&bot, 3);
    assert_eq!(client.sh(&bot, "cat note added"), "third\nnew");
    client.rollback(&bot, 2);
    assert_eq!(client.sh(&bot, "cat note added"), "second\nnew");
    assert_eq!(client.container(&bot)["head_version"], 2);

    client.power(&bot, "stop");
    assert_eq!(client.container(&bot)["status"], "stopped");
    let command = json!({"command": ["true"]});
    client
        .post(&format!("/bots/{bot}/container/exec"), &command)
        .problem(409, "workspace_not_running");
    client.power(&bot, "start");
    assert_eq!(client.container(&bot)["reachable"], true);
    assert_eq!(client.sh(&bot, "cat note"), "second");

    let path = format!("/bots/{bot}/container");
    client.delete(&path).expect(204);
    client.get(&path).problem(404, "workspace_not_found");
    client.delete(&path).expect(204);
    let tree = client.tree(&bot);
    client.rollback(&bot, 1);
    client.power(&bot, "start");
    assert_eq!(client.sh(&bot, "cat note"), "first");
    assert!(tree.iter().all(|version| client.tree(&bot).contains(version)));
    client.delete_bot(&bot);
    client.get(&path).problem(404, "bot_not_found");
}

#[test]
fn a_stopped_workspace_is_snapshotted_and_rolled_back_without_a_start() {
    let server = shared();
    let client = &server.client;
    let bot = client.running_bot();
    client.sh(&bot, "echo 1 > n");
    client.power(&bot, "stop");
    assert_eq!(client.snapshot(&bot, "stopped"), 1);
    assert_eq!(client.container(&bot)["status"], "stopped");
    client.power(&bot, "start");
    client.sh(&bot, "echo 2 > n");
    client.power(&bot, "stop");
    client.rollback(&bot, 1);
    assert_eq!(client.container(&bot)["status"], "stopped");
    client.power(&bot, "start");
    assert_eq!(client.sh(&bot, "cat n"), "1");
    client.delete_bot(&bot);
}

#[test]
fn a_workspace_is_a_computer_with_network_names_and_limits() {
    let server = shared();
    let client = &server.client;
    let bot = client.bot();
    let limits = json!({"memory_bytes": 268_435_456, "pids": 128});
    client.create_well(&bot, &json!({"image": IMAGE, "limits": limits}));

    let address = client.sh(&bot, "ip -4 -o addr show dev eth0 | awk '{print $4}'");
    let address = address.split('/').next().unwrap();
    let gateway = client.sh(&bot, "ip route | awk '/^default/ {print $3}'");
    assert!(!gateway.is_empty());
    let hostname = client.sh(&bot, "hostname");
    assert!(!hostname.is_empty());
    let hosts = client.sh(&bot, "cat /etc/hosts");
    assert!(hosts.contains("127.0.0.1"), "{hosts}");
    assert!(hosts.contains(&hostname), "{hosts}");
    let resolver = client.sh(&bot, "cat /etc/resolv.conf");
    assert!(!resolver.contains("127.0.0.53"), "{resolver}");

    // From the host, what listens inside is reached.
    let listen = json!({"command": "echo hello from inside | nc -l -p 7777", "timeout_seconds": 20});
    let (other, its_bot) = (client.clone(), bot.clone());
    let listener = std::thread::spawn(move || other.exec(&its_bot, &listen));
    let heard = eventually("the workspace answers on its address", || {
        let stream = std::net::TcpStream::connect((address, 7777)).ok()?;
        std::io::read_to_string(stream).ok()
    });
    assert_eq!(heard, "hello from inside\n");
    assert_eq!(listener.join().unwrap()["exit_code"], 0);

    // The limits hold: more processes than allowed cannot be made, more memory neither.
    let forks = client.exec(&bot, &json!({"command":
        "i=0; while [ $i -lt 200 ]; do sleep 5 & i=$((i+1)); done; wait", "timeout_seconds": 20}));
    assert!(forks["stderr"].as_str().unwrap().contains("fork"), "{forks}");
    let hog = client.exec(&bot, &json!({"command":
        "dd if=/dev/zero of=/dev/null bs=400M count=1", "timeout_seconds": 30}));
    assert_ne!(hog["exit_code"], 0, "{hog}");
    eventually("it is usable after that", || {
        let path = format!("/bots/{bot}/container/exec");
        let done = client.post(&path, &json!({"command": ["true"]}));
        (done.status == 200 && done.body["exit_code"] == 0).then_some(())
    });
    let metrics = client.get(&format!("/bots/{bot}/container/metrics")).expect(200);
    assert_eq!(metrics["metrics"]["memory"]["limit_bytes"], 268_435_456);
    client.delete_bot(&bot);
}

#[test]
fn commands_end_as_they_ended() {
    let server = shared();
    let client = &server.client;
    let (_registry, reference) = registry(&image_for_user());
    let bot = client.bot();
    client.create_well(&bot, &json!({ "image": reference }));

    assert_eq!(client.sh(&bot, "id -u; pwd; echo $FROM_IMAGE"), "1000\n/data\nyes");
    let code = |command: Value| client.exec(&bot, &json!({ "command": command }))["exit_code"].clone();
    assert_eq!(code(json!("exit 7")), 7);
    assert_eq!(code(json!(["no-such-program"])), 127);
    assert_eq!(code(json!(["/etc/passwd"])), 126);
    assert_eq!(code(json!("kill -9 $$")), 137);
    let as_root = client.exec(&bot, &json!({"command": ["id", "-u"], "user": "root"}));
    assert_eq!(as_root["stdout"], "0\n");
    let given = json!({"command": "cat; echo $A; pwd", "stdin": "in ", "env": {"A": "b"}, "cwd": "/tmp"});
    assert_eq!(client.exec(&bot, &given)["stdout"], "in b\n/tmp\n");
    let split = client.exec(&bot, &json!({"command": "echo out; echo err >&2"}));
    assert_eq!((&split["stdout"], &split["stderr"]), (&json!("out\n"), &json!("err\n")));

    let late = client.exec(&bot, &json!({"command": "sleep 61 & sleep 60", "timeout_seconds": 0.5}));
    assert_eq!(late["timed_out"], true, "{late}");
    assert!(late["duration_ms"].as_u64().unwrap() < 10_000);
    eventually("its children are gone too", || {
        let left = client.sh(&bot, "ps | grep 'sleep 6[01]' | wc -l");
        (left.trim() == "0").then_some(())
    });
    let much = client.exec(&bot, &json!({"command": "yes | head -c 3000000"}));
    assert_eq!(much["truncated"], true);
    assert_eq!(much["stdout"].as_str().unwrap().len(), 1 << 20);
    client.delete_bot(&bot);
}
