//! Workspaces: create, look, snapshots, commands, operations, delete.

use crate::support::{Api, IMAGE};
use botstead_runtime_testing::{ImageContent, PullScript};
use botstead_store::Change;
use reqwest::Method;
use serde_json::{Value, json};
use std::time::Duration;

fn kinds(events: &[Value]) -> Vec<&str> {
    events
        .iter()
        .map(|event| event["type"].as_str().unwrap())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bot_with_neither_container_nor_version_has_no_list_of_snapshots() {
    let api = Api::start().await;
    let bot = api.bot().await;
    let path = format!("{bot}/container/snapshots");
    api.get(&path)
        .await
        .expect_problem(404, "workspace_not_found");
    let bot = api.bot_with_workspace().await;
    let path = format!("{bot}/container/snapshots");
    api.get(&path).await.expect(200);
    api.post(&path, json!({"snapshot_name": "kept"}))
        .await
        .expect(201);
    api.delete(&format!("{bot}/container")).await.expect(204);
    let left = api.get(&path).await.expect(200);
    assert_eq!(left["snapshots"].as_array().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_are_given_in_pages_where_that_is_asked_for() {
    let api = Api::start().await;
    let container = format!("{}/container", api.bot_with_workspace().await);
    for n in 0..5 {
        let body = json!({"snapshot_name": format!("n{n}")});
        let path = format!("{container}/snapshots");
        api.post(&path, body).await.expect(201);
    }
    for (path, list) in [("snapshots", "snapshots"), ("snapshots/tree", "versions")] {
        let path = format!("{container}/{path}");
        let whole = api.get(&path).await.expect(200);
        assert!(whole.get("next_cursor").is_none() && whole.get("truncated").is_none());
        let whole = whole[list].as_array().unwrap();
        assert!(whole.len() >= 5);
        let (mut pages, mut cursor) = (Vec::new(), String::new());
        loop {
            let page = api.get(&format!("{path}?limit=2&cursor={cursor}")).await;
            let page = page.expect(200);
            let items = page[list].as_array().unwrap();
            assert!((1..=2).contains(&items.len()), "{page}");
            pages.extend(items.iter().cloned());
            let Some(next) = page["next_cursor"].as_str() else {
                break;
            };
            assert_eq!(page["truncated"], true);
            cursor = next.to_owned();
        }
        assert_eq!(&pages, whole);
        for bad in ["limit=0", "limit=101", "cursor=x", "cursor=e30"] {
            let reply = api.get(&format!("{path}?{bad}")).await;
            reply.expect_problem(400, "invalid_value");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_to_recover_is_given_in_pages_where_that_is_asked_for() {
    let api = Api::start().await;
    // Two bots whose data stays although they are gone, and what two others have that the database lost.
    for _ in 0..2 {
        let bot = api.bot_with_workspace().await;
        write_note(&api, &bot);
        let deleted = api.delete(&format!("{bot}?preserve_data=true")).await;
        deleted.expect(204);
    }
    for _ in 0..2 {
        let bot = api.bot_with_workspace().await;
        let id = bot.strip_prefix("/bots/").unwrap().parse().unwrap();
        let gone = vec![Change::DeleteBot(id)];
        api.store.transactions.apply(gone).await.unwrap();
    }
    for list in ["/recovery", "/recovery/archives"] {
        let page = async |query: &str| {
            let path = format!("{list}?{query}");
            api.call(&api.admin, Method::GET, &path, None).await
        };
        let whole = page("").await.expect(200);
        assert!(whole.get("next_cursor").is_none() && whole.get("truncated").is_none());
        let whole = whole["items"].as_array().unwrap();
        assert!(whole.len() >= 2, "{list}: {whole:?}");
        let mut all = Vec::new();
        let mut cursor = String::new();
        loop {
            let page = page(&format!("limit=1&cursor={cursor}")).await.expect(200);
            let items = page["items"].as_array().unwrap();
            assert_eq!(items.len(), 1);
            all.extend(items.clone());
            match page.get("next_cursor") {
                Some(next) => cursor = next.as_str().unwrap().to_owned(),
                None => break,
            }
        }
        assert_eq!(&all, whole, "{list}");
        page("limit=0").await.expect_problem(400, "invalid_value");
        page("cursor=e30")
            .await
            .expect_problem(400, "invalid_value");
    }
}

/// Writes into `/data` of a bot's workspace.
fn write_note(api: &Api, bot: &str) {
    let id = bot.strip_prefix("/bots/").unwrap();
    let snapshots = api.runtime.snapshots();
    let active = snapshots
        .iter()
        .find(|found| found.kind.to_string() == "Active" && format!("{found:?}").contains(id));
    let key = &active.unwrap().key;
    api.runtime.write_file(key, "data/note", "mine");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_creation_tells_its_steps_in_order() {
    let api = Api::start().await;
    let bot = api.bot().await;
    let path = format!("{bot}/container");
    let body = json!({"gpu": {"devices": []}});
    let events = api.post(&path, body).await.events();
    assert_eq!(events[0], json!({"type": "pulling", "image": IMAGE}));
    assert_eq!(
        kinds(&events)
            .into_iter()
            .filter(|kind| *kind == "creating")
            .count(),
        1
    );
    for event in &events {
        if event["type"] == "pull_progress" {
            assert!(event["layers"].is_array(), "{event}");
        }
    }
    let id = bot.strip_prefix("/bots/").unwrap();
    let info = api.get(&path).await.expect(200);
    assert_eq!(
        events.last().unwrap(),
        &json!({"type": "complete", "container": {
            "container_id": format!("workspace-{id}"),
            "image": IMAGE,
            "image_digest": info["image_digest"],
            "snapshotter": "memory",
            "started": true,
            "data_restored": false,
            "has_preserved_data": false,
        }})
    );
    assert_eq!(info["status"], "running");
    assert_eq!(info["task_running"], true);
    assert_eq!(info["legacy"], false);
    assert_eq!(info["namespace"], "memory");
    assert_eq!(info["container_path"], "/data");
    assert_eq!(info.get("cdi_devices"), None);

    // Again without a body: it runs already.
    let again = api
        .call(&api.member, Method::POST, &path, None)
        .await
        .events();
    assert_eq!(kinds(&again).last(), Some(&"complete"));
    let limits = info["limits"].clone();
    let memory = limits["memory_bytes"].as_u64().unwrap();
    for (other, status) in [
        (json!({"image": "registry.test/x:1"}), 409),
        (json!({"limits": {"memory_bytes": memory / 2}}), 409),
        (json!({"limits": {"cpu_millis": 10}}), 409),
        (json!({"limits": {"memory_bytes": memory}}), 200),
        (json!({"limits": limits}), 200),
    ] {
        let reply = api.post(&path, other).await;
        match status {
            200 => assert_eq!(kinds(&reply.events()).last(), Some(&"complete")),
            _ => drop(reply.expect_problem(409, "container_exists")),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_be_refused_before_the_first_event_is_no_stream() {
    let api = Api::start().await;
    let bot = api.bot().await;
    let path = format!("{bot}/container");
    for (body, code) in [
        (json!({"image": "NOT AN IMAGE"}), "invalid_value"),
        (json!({"gpu": {"devices": ["gpu0"]}}), "invalid_value"),
        (json!({"limits": {"memory_bytes": 1}}), "invalid_value"),
        (json!({"pull": "sometimes"}), "invalid_body"),
        (json!({"restore_data": "yes"}), "invalid_body"),
    ] {
        api.post(&path, body).await.expect_problem(400, code);
    }
    let other = api.post(&path, json!({"snapshotter": "zfs"})).await;
    assert_eq!(other.expect(400)["status"], 400);
    api.get(&path)
        .await
        .expect_problem(404, "workspace_not_found");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_reports_progress_and_failure_in_the_stream() {
    let api = Api::start().await;
    let image = "registry.test/a/b:1".parse().unwrap();
    let script = PullScript {
        steps: 5,
        step_time: Duration::from_millis(60),
        ..PullScript::default()
    };
    let content = ImageContent::of_files([("/x", "y")]);
    api.runtime.add_remote_image(&image, content, script);
    let path = format!("{}/container", api.bot().await);
    let events = api
        .post(&path, json!({"image": "registry.test/a/b:1"}))
        .await
        .events();
    let progress: Vec<&Value> = events
        .iter()
        .filter(|event| event["type"] == "pull_progress")
        .collect();
    assert!(!progress.is_empty(), "{events:?}");
    let layer = &progress.last().unwrap()["layers"][0];
    assert!(
        layer["ref"].as_str().unwrap().starts_with("sha256:"),
        "{layer}"
    );
    assert_eq!(layer["offset"], layer["total"]);
    assert_eq!(kinds(&events).last(), Some(&"complete"));

    let path = format!("{}/container", api.bot().await);
    let reply = api
        .post(&path, json!({"image": "registry.test/none:1"}))
        .await;
    let events = reply.events();
    let last = events.last().unwrap();
    assert_eq!(last["type"], "error");
    assert_eq!(last["request_id"], reply.header("x-request-id"));
    assert!(
        last["code"].is_string() && last["message"].is_string(),
        "{last}"
    );
    assert_eq!(last.as_object().unwrap().len(), 4, "{last}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_moved_tag_arrives_where_it_is_asked_for_and_a_digest_shows_it() {
    let api = Api::start().await;
    let image = "registry.test/a/b:1".parse().unwrap();
    let push = |text| {
        let content = ImageContent::of_files([("/x", text)]);
        let script = PullScript::default();
        api.runtime.add_remote_image(&image, content, script);
    };
    push("one");
    let bot = api.bot_with(json!({"image": "registry.test/a/b:1"})).await;
    let path = format!("{bot}/container");
    let digest = async || api.get(&path).await.expect(200)["image_digest"].clone();
    let change = async |body| {
        let path = format!("{path}/image");
        let reply = api.call(&api.member, Method::PUT, &path, Some(body)).await;
        assert_eq!(kinds(&reply.events()).last(), Some(&"complete"));
    };
    let first = digest().await;
    assert!(first.as_str().unwrap().starts_with("sha256:"), "{first}");
    push("two");
    // A workspace that exists is not made anew, and the answer tells so.
    for body in [
        json!({"pull": "always"}),
        json!({"image": "registry.test/a/b:1", "pull": "always"}),
    ] {
        let events = api.post(&path, body).await.events();
        let last = events.last().unwrap();
        assert_eq!(last["type"], "complete", "{events:?}");
        assert_eq!(last["container"]["image_digest"], first, "{events:?}");
        assert_eq!(digest().await, first);
    }
    for body in [
        json!({"image": "registry.test/a/b:1"}),
        json!({"image": "registry.test/a/b:1", "pull": "if_not_present"}),
    ] {
        change(body).await;
        assert_eq!(digest().await, first);
    }
    change(json!({"image": "registry.test/a/b:1", "pull": "always"})).await;
    let second = digest().await;
    assert_ne!(second, first);
    let bad = json!({"image": "registry.test/a/b:1", "pull": "sometimes"});
    let path_of_image = format!("{path}/image");
    let reply = api
        .call(&api.member, Method::PUT, &path_of_image, Some(bad))
        .await;
    reply.expect_problem(400, "invalid_body");

    // What is here is found by its digest: no registry has it under that name.
    let by_digest = format!("registry.test/a/b@{}", second.as_str().unwrap());
    let bot = api.bot_with(json!({"image": by_digest})).await;
    let made = api.get(&format!("{bot}/container")).await.expect(200);
    assert_eq!(
        (&made["image"], &made["image_digest"]),
        (&json!(by_digest), &second)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_creation_goes_on_when_its_client_leaves() {
    let api = Api::start().await;
    let image = "registry.test/a/b:1".parse().unwrap();
    let script = PullScript {
        steps: 4,
        step_time: Duration::from_millis(100),
        ..PullScript::default()
    };
    let content = ImageContent::of_files([("/x", "y")]);
    api.runtime.add_remote_image(&image, content, script);
    let bot = api.bot().await;
    let path = format!("{bot}/container");
    let request = api.request(&api.member, Method::POST, &path);
    let reply = request
        .json(&json!({"image": "registry.test/a/b:1"}))
        .send()
        .await
        .unwrap();
    drop(reply);
    let mut state = Value::Null;
    for _ in 0..100 {
        let list = api.get(&format!("{bot}/operations")).await.expect(200);
        state = list["items"][0]["state"].clone();
        if state == "succeeded" {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(state, "succeeded");
    assert_eq!(api.get(&path).await.expect(200)["task_running"], true);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_can_be_cancelled() {
    let api = Api::start().await;
    let image = "registry.test/slow:1".parse().unwrap();
    let script = PullScript {
        hangs_after: Some(0),
        ..PullScript::default()
    };
    let content = ImageContent::of_files([("/x", "y")]);
    api.runtime.add_remote_image(&image, content, script);
    let bot = api.bot().await;
    let path = format!("{bot}/container");
    let request = api.request(&api.member, Method::POST, &path);
    let reply = request
        .json(&json!({"image": "registry.test/slow:1"}))
        .send()
        .await
        .unwrap();
    let mut operation = Value::Null;
    for _ in 0..100 {
        operation = api.get(&format!("{bot}/operations")).await.expect(200)["items"][0].clone();
        if operation["cancellable"] == true {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(operation["kind"], "create");
    assert_eq!(operation["state"], "running");
    let path = format!("{bot}/operations/{}", operation["id"].as_str().unwrap());
    assert_eq!(api.get(&path).await.expect(200)["id"], operation["id"]);
    api.delete(&path).await.expect(200);
    let text = reply.text().await.unwrap();
    assert!(text.contains(r#""code":"cancelled""#), "{text}");
    assert_eq!(api.get(&path).await.expect(200)["state"], "cancelled");
    api.delete(&path)
        .await
        .expect_problem(409, "not_cancellable");
    let unknown = format!("{bot}/operations/0198a8a5-0000-7000-8000-000000000001");
    api.get(&unknown)
        .await
        .expect_problem(404, "operation_not_found");
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_are_made_listed_and_brought_back() {
    let api = Api::start().await;
    let bot = api.bot_with_workspace().await;
    let path = format!("{bot}/container/snapshots");
    let made = api
        .post(&path, json!({"snapshot_name": "first"}))
        .await
        .expect(201);
    assert_eq!(made["version"], 1);
    assert_eq!(made["source"], "manual");
    assert_eq!(made["display_name"], "first");
    let fields = made.as_object().unwrap();
    // Seven that are always there, and what a copy of a running one took.
    assert_eq!(fields.len(), 10, "{made}");
    let list = api.get(&path).await.expect(200);
    assert_eq!(list["snapshotter"], "memory");
    let snapshots = list["snapshots"].as_array().unwrap();
    let version = snapshots
        .iter()
        .find(|snapshot| snapshot["version"] == 1)
        .unwrap();
    assert_eq!(version["name"], "first");
    assert_eq!(version["managed"], true);
    assert_eq!(version["kind"], "Committed");
    assert_eq!(
        version["runtime_snapshot_name"],
        made["runtime_snapshot_name"]
    );
    let layer = snapshots
        .iter()
        .find(|snapshot| snapshot["managed"] == false)
        .unwrap();
    assert_eq!(layer["source"], "image_layer");
    assert_eq!(
        api.get(&format!("{path}?snapshotter=zfs")).await.status,
        400
    );

    let rollback = format!("{path}/rollback");
    let dry = api
        .post(&rollback, json!({"version": 1, "dry_run": true}))
        .await
        .expect(200);
    assert_eq!(dry["rolled_back_to"], 1);
    let done = api.post(&rollback, json!({"version": 1})).await.expect(200);
    assert_eq!(done["rolled_back_to"], 1);
    api.post(&rollback, json!({"version": 0}))
        .await
        .expect_problem(400, "invalid_value");
    api.post(&rollback, json!({"version": 99}))
        .await
        .expect_problem(404, "version_not_found");
    api.post(&rollback, json!({}))
        .await
        .expect_problem(400, "invalid_body");
    let tree = api.get(&format!("{path}/tree")).await.expect(200);
    assert_eq!(tree["head_version"], 1);
    assert_eq!(tree["versions"][0]["name"], "first");
    assert_eq!(tree["versions"][0]["pinned"], false);
    assert!(tree["versions"][0]["size_bytes"].is_u64());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workspace_stops_starts_and_goes() {
    let api = Api::start().await;
    let bot = api.bot_with_workspace().await;
    let path = format!("{bot}/container");
    let metrics = api.get(&format!("{path}/metrics")).await.expect(200);
    assert_eq!(metrics["supported"], true);
    assert_eq!(
        metrics["status"],
        json!({"exists": true, "task_running": true})
    );
    assert!(
        metrics["metrics"]["cpu"]["usage_nanoseconds"].is_u64(),
        "{metrics}"
    );
    let stopped = api
        .post(&format!("{path}/stop"), json!({}))
        .await
        .expect(200);
    assert_eq!(stopped, json!({"stopped": true}));
    assert_eq!(api.get(&path).await.expect(200)["status"], "stopped");
    let refused = api
        .post(&format!("{path}/exec"), json!({"command": "true"}))
        .await;
    refused.expect_problem(409, "workspace_not_running");
    let started = api
        .call(&api.member, Method::POST, &format!("{path}/start"), None)
        .await;
    assert_eq!(started.expect(200), json!({"started": true}));
    let refused = api.delete(&format!("{path}?preserve_data=maybe")).await;
    refused.expect_problem(400, "invalid_query");
    api.delete(&path).await.expect(204);
    api.delete(&path).await.expect(204);
    api.get(&path)
        .await
        .expect_problem(404, "workspace_not_found");
    let metrics = api.get(&format!("{path}/metrics")).await.expect(200);
    assert_eq!(metrics["status"]["exists"], false);
    assert_eq!(metrics["metrics"], json!({}));
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_run_and_answer() {
    let api = Api::start().await;
    let bot = api.bot_with_workspace().await;
    let path = format!("{bot}/container/exec");
    let line = json!({"command": "cat; echo err >&2; exit 3", "stdin": "in"});
    let reply = api.post(&path, line).await.expect(200);
    assert_eq!(reply["exit_code"], 3);
    assert_eq!(reply["stdout"], "in");
    assert_eq!(reply["stderr"], "err\n");
    assert_eq!(
        (&reply["truncated"], &reply["timed_out"]),
        (&json!(false), &json!(false))
    );
    assert!(reply["duration_ms"].is_u64() && reply["exec_id"].is_string());
    let words = json!({"command": ["printf", "\\377"], "encoding": "base64"});
    assert_eq!(api.post(&path, words).await.expect(200)["stdout"], "/w==");
    let detached = api
        .post(&path, json!({"command": "true", "detach": true}))
        .await;
    detached.expect_problem(501, "unsupported");
    let request = api
        .request(&api.member, Method::POST, &path)
        .json(&json!({"command": "true"}));
    let streamed = api
        .send(request.header("accept", "text/event-stream"))
        .await;
    streamed.expect_problem(501, "unsupported");
    for bad in [json!({}), json!({"command": 1})] {
        api.post(&path, bad)
            .await
            .expect_problem(400, "invalid_body");
    }
    api.post(&path, json!({"command": []}))
        .await
        .expect_problem(400, "invalid_value");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_ends_its_command() {
    let api = Api::start().await;
    let bot = api.bot_with_workspace().await;
    let path = format!("{bot}/container/exec");
    let file = api.directory.path().join("pid");
    let line = format!("echo $$ > {}; exec sleep 60", file.display());
    let request = api.request(&api.member, Method::POST, &path);
    let request = request
        .json(&json!({"command": line}))
        .timeout(Duration::from_millis(700));
    assert!(request.send().await.unwrap_err().is_timeout());
    let pid = std::fs::read_to_string(file).unwrap();
    let process = std::path::Path::new("/proc").join(pid.trim());
    let alive = || {
        let status = std::fs::read_to_string(process.join("status")).unwrap_or_default();
        !status.is_empty() && !status.contains("\nState:\tZ")
    };
    for _ in 0..100 {
        if !alive() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("the command still runs two seconds after its client left");
}
