//! Registries that want a sign-in: what works, and what nobody sees of it.

use crate::client::Workspace;
use crate::server::{Server, busybox_image};
use botstead_image_fixtures::{Access, Registry};
use serde_json::json;
use std::path::Path;
use std::process::Command;

/// What of a sign-in may be seen nowhere, and of one that is wrong.
const SECRETS: [&str; 4] = [
    Registry::PASSWORD,
    Registry::AUTH,
    "wrong-pass",
    "Ym90Ondyb25nLXBhc3M=",
];

fn private_registry() -> Registry {
    let access = Access {
        sign_in: true,
        ..Access::default()
    };
    Registry::start_with(access).unwrap()
}

fn assert_secret(what: &str, text: &str) {
    for secret in SECRETS {
        assert!(!text.contains(secret), "{what} shows {secret}:\n{text}");
    }
}

/// Files below a folder that hold something secret.
fn telling(folder: &Path) -> String {
    let mut grep = Command::new("grep");
    grep.args(["-rlaFs", "--devices=skip"]);
    for secret in SECRETS {
        grep.args(["-e", secret]);
    }
    let found = grep.arg(folder).output().unwrap();
    String::from_utf8(found.stdout).unwrap()
}

/// Fails when something secret is seen from inside a workspace.
async fn assert_nothing_inside(workspace: &Workspace) {
    let seen = workspace
        .sh("env; cat /proc/*/environ /proc/*/cmdline /proc/self/mountinfo 2>/dev/null; true")
        .await;
    assert_secret("the inside", &seen);
    // In pieces, so that the command's own text is none of what is found.
    let pattern = SECRETS.map(|secret| {
        let (one, other) = secret.split_at(4);
        format!("-e {one}\"\"{other}")
    });
    let pattern = pattern.join(" ");
    let line = format!(
        "for top in /*; do case $top in /proc|/sys|/dev) ;; *) grep -rlF {pattern} $top;; esac; done 2>/dev/null; true"
    );
    assert_eq!(workspace.sh(&line).await, "");
}

/// Fails when an answer about a workspace shows something secret.
async fn assert_nothing_told(workspace: &Workspace) {
    let bot = format!("/bots/{}", workspace.bot);
    let paths = [
        "".to_owned(),
        "/operations".to_owned(),
        "/container".to_owned(),
        "/container/metrics".to_owned(),
        "/container/snapshots".to_owned(),
        "/container/exec".to_owned(),
    ];
    for path in paths.map(|path| format!("{bot}{path}")) {
        let answer = workspace.client.get(&path).await.ok();
        assert_secret(&path, &answer.to_string());
    }
    let images = workspace.client.get("/images").await.ok();
    assert_secret("/images", &images.to_string());
}

#[tokio::test]
async fn a_private_image_is_used_and_its_sign_in_is_seen_nowhere() {
    let mut server = Server::start().await;
    let registry = private_registry();
    let image = registry.push("team/app", "1", &busybox_image()).await;
    let image = image.unwrap();
    let file = server.beside("sign-ins.json");
    let write = |auth: &str| {
        let auths = json!({"auths": {registry.address(): {"auth": auth}}});
        std::fs::write(&file, auths.to_string()).unwrap();
    };
    write(SECRETS[3]);
    server.terminate();
    let environment = [
        (
            "BOTSTEAD_REGISTRY__CREDENTIALS_FILE",
            file.to_str().unwrap(),
        ),
        // As much as there is of whatever concerns pulls.
        (
            "BOTSTEAD_LOG__FILTER",
            "info,botstead=trace,reqwest=trace,hyper=trace,hyper_util=trace",
        ),
    ];
    server.run(&environment).await;
    // It was made as the test's umask says.
    assert!(server.log().contains("chmod 600"), "{}", server.log());

    let workspace = server.client.workspace(&server.client.bot().await);
    let events = workspace.create(json!({"image": image})).await;
    let last = events.last().unwrap();
    assert_eq!(last["type"], "error", "{events:?}");
    assert!(
        last["message"]
            .as_str()
            .unwrap()
            .contains("refused the sign-in"),
        "{events:?}"
    );
    assert_secret("a refused creation", &json!(events).to_string());

    write(Registry::AUTH);
    let events = workspace.create(json!({"image": image})).await;
    assert_eq!(events.last().unwrap()["type"], "complete", "{events:?}");
    assert_secret("a creation", &json!(events).to_string());
    assert_nothing_inside(&workspace).await;
    workspace.snapshot().await;
    assert_nothing_told(&workspace).await;
    assert_secret("the log", &server.log());
    assert_eq!(telling(&server.data), "");
    assert_ne!(telling(&file), "");
}

#[tokio::test]
async fn a_sign_in_that_an_admin_sets_is_in_one_file_of_secrets_alone() {
    let mut server = Server::start().await;
    let registry = private_registry();
    let image = registry.push("team/app", "1", &busybox_image()).await;
    let image = image.unwrap();
    let path = format!("/registries/{}", registry.address());
    let body = |password: &str| json!({"username": Registry::USERNAME, "password": password});
    let set = server.client.put(&path, body("wrong-pass")).await.ok();
    assert_secret("what was set", &set.to_string());
    let workspace = server.client.workspace(&server.client.bot().await);
    let refused = workspace.create(json!({"image": image})).await;
    let refused = refused.last().unwrap();
    assert_eq!(refused["code"], "registry_denied", "{refused}");
    assert_secret("a refused creation", &refused.to_string());

    server
        .client
        .put(&path, body(Registry::PASSWORD))
        .await
        .ok();
    // What was answered outlives a kill.
    server.kill();
    server
        .run(&[(
            "BOTSTEAD_LOG__FILTER",
            "info,botstead=trace,reqwest=trace,hyper=trace",
        )])
        .await;
    let workspace = server.client.workspace(&workspace.bot);
    let events = workspace.create(json!({"image": image})).await;
    assert_eq!(events.last().unwrap()["type"], "complete", "{events:?}");
    assert_nothing_inside(&workspace).await;
    workspace.snapshot().await;
    assert_nothing_told(&workspace).await;
    let known = server.client.get("/registries").await.ok();
    assert_eq!(known["items"][0]["registry"], json!(registry.address()));
    assert_secret("/registries", &known.to_string());
    assert_secret("the log", &server.log());
    let file = server.data.join("secrets/registries.json");
    assert_eq!(telling(&server.data), format!("{}\n", file.display()));

    server.client.delete(&path).await.ok();
    assert_eq!(telling(&server.data), "");
    // It is used by nobody any more.
    let other = server.client.workspace(&server.client.bot().await);
    let events = other
        .create(json!({"image": image, "pull": "always"}))
        .await;
    assert_eq!(
        events.last().unwrap()["code"],
        "registry_denied",
        "{events:?}"
    );
}

#[tokio::test]
async fn a_start_is_refused_with_the_file_that_is_not_in_order() {
    let mut server = Server::start().await;
    server.terminate();
    let damaged = server.beside("damaged");
    std::fs::write(&damaged, "damaged-pass").unwrap();
    let path = damaged.to_str().unwrap();
    let table = format!("{{\"*\" = {path:?}}}");
    for (variable, value, reason) in [
        (
            "BOTSTEAD_REGISTRY__CERTIFICATE_AUTHORITIES",
            table.as_str(),
            "it holds no certificate",
        ),
        (
            "BOTSTEAD_REGISTRY__CREDENTIALS_FILE",
            path,
            "not in the format of docker's config.json",
        ),
    ] {
        let refused = server.refused_start(&[(variable, value)]);
        let line = refused.lines().find(|line| line.starts_with("error:"));
        let line = line.unwrap_or_else(|| panic!("{refused}"));
        assert!(line.contains(path) && line.contains(reason), "{line}");
        assert!(!refused.contains("damaged-pass"), "{refused}");
    }
    server.run(&[]).await;
}
