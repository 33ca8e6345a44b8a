//! What holds for every route: sign-in, errors, request ids, limits, health, shutdown.

use crate::support::{Api, IMAGE};
use botstead_http::MetricsAccess;
use botstead_runtime_testing::{ImageContent, PullScript};
use reqwest::Method;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

const NOBODY: &str = "0198a8a5-0000-7000-8000-000000000001";

/// Every operation of the document, with ids in its path.
fn operations(bot: &str) -> Vec<(Method, String, String)> {
    let document = serde_json::to_value(botstead_http::openapi()).unwrap();
    let mut operations = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for method in item.as_object().unwrap().keys() {
            let method = Method::from_bytes(method.to_uppercase().as_bytes()).unwrap();
            let filled = path
                .replace("{bot_id}", bot)
                .replace("{user_id}", NOBODY)
                .replace("{operation_id}", NOBODY)
                .replace("{preserved_id}", NOBODY)
                .replace("{version}", "1")
                .replace("{a}/diff/{b}", "1/diff/current")
                .replace("{name}", "active-none")
                .replace("{ref}", IMAGE);
            operations.push((method, path.clone(), filled));
        }
    }
    assert!(operations.len() >= 30);
    operations
}

#[tokio::test(flavor = "multi_thread")]
async fn every_route_but_the_public_ones_needs_a_caller() {
    let api = Api::start().await;
    let public = [
        "/auth/login",
        "/healthz",
        "/readyz",
        "/openapi.json",
        "/docs",
    ];
    for (method, route, path) in operations(NOBODY) {
        for token in ["", "nonsense"] {
            let reply = api.call(token, method.clone(), &path, None).await;
            if public.contains(&route.as_str()) {
                assert_ne!(reply.status, 401, "{method} {route}");
                continue;
            }
            if method == Method::HEAD {
                assert_eq!(reply.status, 401, "{method} {route}");
                continue;
            }
            let code = if token.is_empty() {
                "unauthenticated"
            } else {
                "invalid_token"
            };
            reply.expect_problem(401, code);
            assert_eq!(reply.header("www-authenticate"), "Bearer");
            assert!(!reply.text.contains("nonsense"));
        }
    }
}

/// Other spellings of a path that routing takes for the same.
fn spellings(path: &str) -> Vec<String> {
    let mut spellings = Vec::new();
    // A letter of each segment, in turn, in capitals and small.
    for (at, byte) in path.bytes().enumerate() {
        if byte.is_ascii_alphabetic() && path.as_bytes()[at - 1] == b'/' {
            for coded in [format!("%{byte:02x}"), format!("%{byte:02X}")] {
                spellings.push(format!("{}{coded}{}", &path[..at], &path[at + 1..]));
            }
        }
    }
    let all = path.bytes().map(|byte| match byte {
        b'/' => "/".to_owned(),
        byte => format!("%{byte:02X}"),
    });
    spellings.push(all.collect());
    spellings.push(format!("/{path}"));
    spellings.push(format!("{path}/"));
    spellings
}

#[tokio::test(flavor = "multi_thread")]
async fn no_spelling_of_a_path_gets_around_sign_in() {
    let api = Api::start().await;
    let public = |route: &str| {
        let known = [
            "/auth/login",
            "/healthz",
            "/readyz",
            "/openapi.json",
            "/docs",
        ];
        known.contains(&route)
    };
    for (method, route, path) in operations(NOBODY) {
        if public(&route) {
            continue;
        }
        for spelling in spellings(&path) {
            let reply = api.call("", method.clone(), &spelling, None).await;
            assert_eq!(reply.status, 401, "{method} {spelling}: {}", reply.text);
        }
    }
    // Nor does it make another route of it.
    let plain = api.get("/auth/me").await.expect(200);
    assert_eq!(api.get("/%61uth/m%65").await.expect(200), plain);
    assert_eq!(
        api.call("", Method::GET, "/%68ealthz", None).await.status,
        200
    );
    // What does not exist is nobody's business either.
    let reply = api.call("", Method::GET, "/nothing", None).await;
    reply.expect_problem(401, "unauthenticated");
}

#[tokio::test(flavor = "multi_thread")]
async fn readiness_tells_versions_to_admins_only() {
    let api = Api::start().await;
    for (token, told) in [
        ("", false),
        ("nonsense", false),
        (&api.member, false),
        (&api.admin, true),
    ] {
        let ready = api
            .call(token, Method::GET, "/readyz", None)
            .await
            .expect(200);
        assert_eq!(ready["status"], "ready");
        assert_eq!(ready.get("runtime_version").is_some(), told, "{ready}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_members_bot_does_not_exist() {
    let api = Api::start().await;
    let bot = api.bot_with_workspace().await;
    let id = bot.strip_prefix("/bots/").unwrap();
    for (method, route, path) in operations(id) {
        if !route.starts_with("/bots/{bot_id}") {
            continue;
        }
        // An upload is a form, and a terminal an upgrade: both are refused for what they are not.
        if route.ends_with("/fs/upload")
            || route.ends_with("/terminal/ws")
            || route.ends_with("/data/import")
        {
            continue;
        }
        let body = match route.rsplit('/').next().unwrap() {
            "rollback" => Some(json!({"version": 1})),
            "restore-path" => Some(json!({"path": "/x"})),
            "image" => Some(json!({"image": IMAGE})),
            "fork" => Some(json!({"from_bot": id})),
            "exec" => Some(json!({"command": ["true"]})),
            "signal" => Some(json!({"signal": 15})),
            "write" | "mkdir" | "delete" => Some(json!({"path": "/x", "content": ""})),
            "rename" | "copy" => Some(json!({"oldPath": "/x", "newPath": "/y"})),
            _ => (method != Method::GET && method != Method::DELETE).then(|| json!({})),
        };
        let path = match route.contains("/fs") && method != Method::POST {
            true => format!("{path}?path=/x"),
            false => path,
        };
        if method == Method::HEAD {
            assert_eq!(api.call(&api.other, method, &path, None).await.status, 404);
            continue;
        }
        let reply = api.call(&api.other, method, &path, body).await;
        reply.expect_problem(404, "bot_not_found");
    }
    api.get(&bot).await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_framework_fails_in_the_same_form() {
    let api = Api::start().await;
    api.get("/nothing")
        .await
        .expect_problem(404, "route_not_found");
    let reply = api.call(&api.member, Method::PUT, "/bots", None).await;
    reply.expect_problem(405, "method_not_allowed");
    assert_eq!(reply.header("allow"), "GET, POST");
    let reply = api
        .call(&api.admin, Method::PUT, "/images/a/b:c", None)
        .await;
    reply.expect_problem(405, "method_not_allowed");
    for id in ["x", "..%2Fx", "0198A8A5-0000-7000-8000-000000000001"] {
        let reply = api.get(&format!("/bots/{id}/container")).await;
        reply.expect_problem(400, "invalid_value");
    }
    api.get("/bots?limit=0")
        .await
        .expect_problem(400, "invalid_value");
    api.get("/bots?limit=x")
        .await
        .expect_problem(400, "invalid_query");
    api.get("/bots?cursor=made-up")
        .await
        .expect_problem(400, "invalid_request");

    let post = |body: &'static str, kind: &'static str| {
        let request = api.request(&api.member, Method::POST, "/bots");
        api.send(request.header("content-type", kind).body(body))
    };
    post("{", "application/json")
        .await
        .expect_problem(400, "invalid_body");
    post("{}", "text/plain")
        .await
        .expect_problem(415, "unsupported_media_type");
    let large = "x".repeat((1 << 20) + 1);
    let reply = api.post("/bots", json!({"name": large})).await;
    reply.expect_problem(413, "body_too_large");
    let reply = api.post("/bots", json!({"nmae": "x"})).await;
    reply.expect_problem(400, "invalid_body");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_reply_has_a_request_id() {
    let api = Api::start().await;
    let with = |id: &'static str| {
        api.send(
            api.request("", Method::GET, "/healthz")
                .header("x-request-id", id),
        )
    };
    assert_eq!(
        with("mine-1.a_b").await.header("x-request-id"),
        "mine-1.a_b"
    );
    let new = with("bad id").await;
    assert_eq!(new.header("x-request-id").len(), 36);
    assert_eq!(new.header("x-content-type-options"), "nosniff");
}

#[tokio::test(flavor = "multi_thread")]
async fn health_says_what_does_not_answer() {
    let api = Api::start().await;
    api.get("/healthz").await.expect(200);
    let ready = api.get("/readyz").await.expect(200);
    assert_eq!(ready["status"], "ready");
    api.runtime.stop_answering();
    let reply = api.get("/readyz").await;
    let body = reply.expect_problem(503, "not_ready");
    assert_eq!(body["unavailable"], json!(["runtime"]));
    assert!(!reply.header("retry-after").is_empty());
    api.get("/healthz").await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn figures_are_for_admins_unless_opened() {
    let api = Api::start().await;
    api.bot_with_workspace().await;
    api.get("/metrics").await.expect_problem(403, "forbidden");
    let reply = api.call(&api.admin, Method::GET, "/metrics", None).await;
    assert_eq!(reply.status, 200);
    for line in [
        "botstead_workspaces 1",
        r#"botstead_operations_total{kind="create",outcome="succeeded"} 1"#,
        r#"botstead_http_requests_total{method="POST",route="/bots/{bot_id}/container",status="2xx"} 1"#,
    ] {
        assert!(
            reply.text.lines().any(|l| l == line),
            "no {line} in\n{}",
            reply.text
        );
    }
    let open = Api::start_with(|config| config.metrics = MetricsAccess::Open).await;
    let reply = open.call("", Method::GET, "/metrics", None).await;
    assert_eq!(reply.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_document_and_its_page_are_served() {
    let api = Api::start().await;
    let document = api
        .call("", Method::GET, "/openapi.json", None)
        .await
        .expect(200);
    assert_eq!(
        document,
        serde_json::to_value(botstead_http::openapi()).unwrap()
    );
    let page = api.call("", Method::GET, "/docs", None).await;
    assert_eq!(page.header("content-type"), "text/html; charset=utf-8");
    assert!(
        page.text
            .contains("/bots/{bot_id}/container/snapshots/rollback")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn images_come_and_go() {
    let api = Api::start().await;
    let image = "registry.test/a/b:1".parse().unwrap();
    let content = || ImageContent::of_files([("/etc/os-release", "b")]);
    api.runtime
        .add_remote_image(&image, content(), PullScript::default());
    let body = Some(json!({"ref": "registry.test/a/b:1"}));
    let pull = api
        .call(&api.admin, Method::POST, "/images", body)
        .await
        .events();
    assert_eq!(
        pull[0],
        json!({"type": "pulling", "image": "registry.test/a/b:1"})
    );
    let last = pull.last().unwrap();
    assert_eq!(last["type"], "complete", "{last}");
    assert_eq!(last["image"]["ref"], "registry.test/a/b:1");
    let missing = Some(json!({"ref": "registry.test/none:1"}));
    let failed = api
        .call(&api.admin, Method::POST, "/images", missing)
        .await
        .events();
    let last = failed.last().unwrap();
    assert_eq!(
        (&last["type"], &last["code"]),
        (&json!("error"), &json!("image_not_found"))
    );
    let list = api
        .call(&api.admin, Method::GET, "/images", None)
        .await
        .expect(200);
    assert_eq!(list["items"].as_array().unwrap().len(), 2);
    let path = "/images/registry.test/a/b:1";
    api.call(&api.admin, Method::DELETE, path, None)
        .await
        .expect(204);
    let again = api.call(&api.admin, Method::DELETE, path, None).await;
    again.expect_problem(404, "image_not_found");
}

/// Two shapes of one name are one in the document, and it tells what one of the routes never answers.
#[test]
fn shapes_of_the_same_name_are_told_apart() {
    let document = serde_json::to_value(botstead_http::openapi()).unwrap();
    let container = "/bots/{bot_id}/container";
    let of = |route: &str, status: &str, field: &str| {
        let reply = &document["paths"][format!("{container}{route}")]["post"]["responses"][status];
        let name = reply["content"]["application/json"]["schema"]["$ref"]
            .as_str()
            .unwrap();
        let shape = &document["components"]["schemas"][name.rsplit('/').next().unwrap()];
        assert!(shape["properties"][field].is_object(), "{route}: {shape}");
    };
    of("/start", "200", "started");
    of("/terminal/sessions", "201", "id");
    let modes = ["SnapshotMode", "ImportMode"].map(|name| {
        let shape = &document["components"]["schemas"][name];
        shape.to_string().contains("live")
    });
    assert_eq!(modes, [true, false]);
}

#[tokio::test(flavor = "multi_thread")]
async fn registries_are_set_by_admins_and_tell_no_secret() {
    let api = Api::start().await;
    let call = |method: Method, path: &str, body: Option<Value>| {
        let (api, path) = (&api, path.to_owned());
        async move { api.call(&api.admin, method, &path, body).await }
    };
    let path = "/registries/registry.test:5000";
    let body = json!({
        "username": "bot", "password": "s3cret", "mirrors": ["mirror.test/hub"],
        "certificate_authorities": "PEM",
    });
    let set = call(Method::PUT, path, Some(body.clone())).await;
    let expected = json!({
        "registry": "registry.test:5000", "source": "api", "sign_in": "password", "username": "bot",
        "mirrors": ["mirror.test/hub"], "has_certificate_authorities": true,
    });
    assert_eq!(set.expect(200), expected);
    let list = call(Method::GET, "/registries", None).await.expect(200);
    assert_eq!(list, json!({"items": [expected]}));
    // What is not said again is gone.
    let token = json!({"identity_token": "s3cret"});
    let set = call(Method::PUT, path, Some(token)).await.expect(200);
    let expected = json!({
        "registry": "registry.test:5000", "source": "api", "sign_in": "identity_token",
        "mirrors": [], "has_certificate_authorities": false,
    });
    assert_eq!(set, expected);

    for (path, body, told) in [
        (path, json!({"username": "bot"}), "username and password"),
        (path, json!({"password": "s3cret"}), "username and password"),
        (
            path,
            json!({"username": "bot", "password": "s3cret", "identity_token": "s3cret"}),
            "identity_token alone",
        ),
        (
            path,
            json!({"username": "a:b", "password": "s3cret"}),
            "colon",
        ),
        (
            path,
            json!({"username": "bot", "password": "s3\ncret"}),
            "control characters",
        ),
        (
            path,
            json!({"mirrors": ["https://mirror.test"]}),
            "not a URL",
        ),
        (path, json!({"mirrors": vec!["a.test"; 9]}), "at most 8"),
        (
            path,
            json!({"passwort": "s3cret"}),
            "did you mean `password`",
        ),
        ("/registries/ghcr.io/acme", json!({}), "host or host:port"),
        ("/registries/registry", json!({}), "host or host:port"),
        (
            "/registries/index.docker.io",
            json!({}),
            "name it docker.io",
        ),
    ] {
        let refused = call(Method::PUT, path, Some(body.clone())).await;
        let text = refused.expect(400).to_string();
        assert!(text.contains(told), "{body}: {text}");
        assert!(!text.contains("s3cret") && !text.contains("s3"), "{text}");
    }
    let list = call(Method::GET, "/registries", None).await.expect(200);
    assert_eq!(list, json!({"items": [expected]}));

    for (method, path) in [
        (Method::GET, "/registries"),
        (Method::PUT, path),
        (Method::DELETE, path),
    ] {
        let body = (method == Method::PUT).then(|| body.clone());
        let refused = api.call(&api.member, method, path, body).await;
        refused.expect_problem(403, "forbidden");
    }
    call(Method::DELETE, path, None).await.expect(204);
    let again = call(Method::DELETE, path, None).await;
    again.expect_problem(404, "registry_not_set");
    let list = call(Method::GET, "/registries", None).await.expect(200);
    assert_eq!(list, json!({"items": []}));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_is_refused_leaves_nothing() {
    let api = Api::start_with(|config| config.max_import_bytes = 1000).await;
    let import = |token: &str, bytes: usize| {
        let request = api.request(token, Method::POST, "/images/import?name=a/b");
        api.send(request.body(vec![b'x'; bytes]))
    };
    import(&api.admin, 999)
        .await
        .expect_problem(422, "invalid_value");
    import(&api.admin, 1001)
        .await
        .expect_problem(413, "archive_too_large");
    import(&api.admin, 0)
        .await
        .expect_problem(400, "invalid_body");
    import(&api.member, 999)
        .await
        .expect_problem(403, "forbidden");
    let spool = api.directory.path().join("spool");
    assert_eq!(std::fs::read_dir(spool).unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn shutdown_ends_streams_with_an_event_and_takes_nothing_new() {
    let api = Api::start().await;
    let image = "registry.test/slow:1".parse().unwrap();
    let script = PullScript {
        hangs_after: Some(0),
        ..PullScript::default()
    };
    let content = ImageContent::of_files([("/x", "y")]);
    api.runtime.add_remote_image(&image, content, script);
    let request = api.request(&api.admin, Method::POST, "/images");
    let reply = request
        .json(&json!({"ref": "registry.test/slow:1"}))
        .send()
        .await
        .unwrap();
    let (base, begun) = (api.base.clone(), Instant::now());
    let server = api.shut_down();
    let text = reply.text().await.unwrap();
    assert!(text.contains(r#""code":"shutting_down""#), "{text}");
    server.await.unwrap().unwrap();
    assert!(begun.elapsed() < Duration::from_secs(5));
    assert!(reqwest::get(format!("{base}/healthz")).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_database_does_not_know_is_for_admins() {
    let api = Api::start().await;
    let calls = [
        (Method::GET, "/recovery"),
        (Method::POST, "/recovery/active-none/export"),
        (Method::DELETE, "/recovery/active-none"),
    ];
    for (method, path) in calls {
        let refused = api.call(&api.member, method.clone(), path, None).await;
        refused.expect_problem(403, "forbidden");
        let reply = api.call(&api.admin, method, path, None).await;
        match path {
            "/recovery" => assert_eq!(reply.expect(200), json!({"items": []})),
            _ => drop(reply.expect_problem(404, "nothing_to_recover")),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_json_becomes_counts_as_memory() {
    let api = Api::start_with(|config| {
        // Each user has two MiB.
        config.max_memory_bytes = 0;
        config.max_text_bytes = 1;
        config.max_reply_bytes = 1;
    })
    .await;
    let bot = api.bot_with_workspace().await;
    let path = format!("{bot}/container/exec");
    let (begun, end) = (
        api.directory.path().join("begun"),
        api.directory.path().join("end"),
    );
    let script = r#"touch "$0"; until [ -e "$1" ]; do sleep 0.05; done"#;
    let files = [begun.to_str().unwrap(), end.to_str().unwrap()];
    let mut command = vec!["sh", "-c", script, files[0], files[1]];
    command.resize(20_000, "");
    let held = api.post(&path, json!({"command": command}));
    let others = async {
        while !begun.exists() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        // A tenth of her share as it is sent.
        let numbers = json!({"metadata": {"x": vec![1; 100_000]}});
        let hers = api.call(&api.member, Method::PATCH, &bot, Some(numbers.clone()));
        let hers = hers.await;
        hers.expect_problem(503, "too_much_in_flight");
        let his = api.call(&api.other, Method::POST, "/bots", Some(numbers));
        his.await.expect_problem(413, "metadata_too_large");
        std::fs::write(&end, "").unwrap();
    };
    let (held, ()) = tokio::join!(held, others);
    held.expect(200);
    // There is room again.
    let small = json!({"metadata": {"x": vec![1; 20_000]}});
    let small = api.call(&api.member, Method::PATCH, &bot, Some(small));
    small.await.expect(200);
}
