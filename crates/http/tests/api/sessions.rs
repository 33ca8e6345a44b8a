//! What is under way for a user ends with the user's session.

use crate::support::Api;
use botstead_runtime_testing::{ImageContent, PullScript};
use botstead_store::UserPatch;
use botstead_types::Role;
use reqwest::{Method, Response};
use serde_json::{Value, json};
use std::time::Duration;

/// Without the end of a session nothing here would end.
const PATIENCE: Duration = Duration::from_secs(20);

const SLOW: &str = "registry.test/slow:1";

/// A server where pulling an image hangs.
async fn start() -> Api {
    let api = Api::start().await;
    let script = PullScript {
        hangs_after: Some(0),
        ..PullScript::default()
    };
    let content = ImageContent::of_files([("/x", "y")]);
    api.runtime
        .add_remote_image(&SLOW.parse().unwrap(), content, script);
    api
}

/// An event stream of this user that does not end by itself.
async fn stream(api: &Api, token: &str) -> Response {
    let made = api
        .call(token, Method::POST, "/bots", Some(json!({})))
        .await;
    let path = format!(
        "/bots/{}/container",
        made.expect(201)["id"].as_str().unwrap()
    );
    let request = api.request(token, Method::POST, &path);
    let mut reply = request.json(&json!({"image": SLOW})).send().await.unwrap();
    assert_eq!(reply.status(), 200);
    reply.chunk().await.unwrap().unwrap();
    reply
}

/// Fails unless the stream ends, and with these words.
async fn ends(reply: Response) {
    let text = tokio::time::timeout(PATIENCE, reply.text()).await;
    let text = text.expect("the stream goes on").unwrap();
    assert!(text.contains(r#""code":"session_ended""#), "{text}");
}

/// Fails unless the stream goes on for a while.
async fn goes_on(reply: &mut Response) {
    let ends = async {
        while let Some(data) = reply.chunk().await.unwrap() {
            let text = String::from_utf8_lossy(&data);
            assert!(!text.contains("session_ended"), "{text}");
        }
    };
    let ended = tokio::time::timeout(Duration::from_millis(1500), ends).await;
    assert!(ended.is_err(), "the stream ended");
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_end_when_their_user_is_deactivated_or_gets_a_new_password() {
    let api = start().await;
    let mut others = stream(&api, &api.other).await;
    for change in [
        json!({"is_active": false}),
        json!({"password": "another horse"}),
    ] {
        let name = format!(
            "user-{}",
            change.as_object().unwrap().len() + change.to_string().len()
        );
        let new = json!({"username": name, "password": crate::support::PASSWORD});
        let made = api
            .call(&api.admin, Method::POST, "/users", Some(new))
            .await;
        let user = format!("/users/{}", made.expect(201)["id"].as_str().unwrap());
        let token = api.sign_in(&name).await;
        let reply = stream(&api, &token).await;
        let changed = api
            .call(&api.admin, Method::PATCH, &user, Some(change))
            .await;
        changed.expect(200);
        ends(reply).await;
    }
    goes_on(&mut others).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_admin_who_becomes_a_member_loses_streams_and_is_told_so() {
    let api = start().await;
    let me = api.user(&api.admin).await;
    let other = api.user(&api.other).await;
    let promoted = Some(json!({"role": "admin"}));
    let mut of_other = stream(&api, &api.other).await;
    let changed = api.call(&api.admin, Method::PATCH, &other, promoted).await;
    changed.expect(200);
    goes_on(&mut of_other).await;
    let reply = stream(&api, &api.admin).await;
    // The very request that ends the session is answered.
    let member = Some(json!({"role": "member"}));
    let changed = api.call(&api.admin, Method::PATCH, &me, member).await;
    assert_eq!(changed.expect(200)["role"], "member");
    ends(reply).await;
    goes_on(&mut of_other).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_process_changes_in_the_database_counts_as_well() {
    let api = start().await;
    let reply = stream(&api, &api.member).await;
    let user = api.store.users.by_username("ann").await.unwrap();
    let patch = UserPatch {
        is_active: Some(false),
        ..UserPatch::default()
    };
    api.store.users.update(user.id, &patch).await.unwrap();
    ends(reply).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_was_not_answered_yet_is_cut_off() {
    let api = start().await;
    let bot = api.bot_with_workspace().await;
    let file = api.directory.path().join("runs");
    let line = format!("touch {}; exec sleep 600", file.display());
    let request = api.request(&api.member, Method::POST, &format!("{bot}/container/exec"));
    let command = tokio::spawn(request.json(&json!({"command": line})).send());
    let begun = std::time::Instant::now();
    while !file.exists() {
        assert!(begun.elapsed() < PATIENCE, "the command does not begin");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let user = api.user(&api.member).await;
    let change: Option<Value> = Some(json!({"is_active": false}));
    let changed = api.call(&api.admin, Method::PATCH, &user, change).await;
    changed.expect(200);
    let answered = tokio::time::timeout(PATIENCE, command).await;
    let answered = answered.expect("the command goes on").unwrap();
    assert!(answered.is_err(), "{answered:?}");
    // Other requests of the server go on.
    assert_eq!(
        api.store.users.by_username("bob").await.unwrap().role,
        Role::Member
    );
    api.call(&api.other, Method::GET, "/bots", None)
        .await
        .expect(200);
}
