//! Sign-in, users and bots.

use crate::support::{Api, PASSWORD};
use reqwest::Method;
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread")]
async fn sign_in_gives_a_token_for_oneself() {
    let api = Api::start().await;
    let body = json!({"username": "Ann", "password": PASSWORD});
    let signed_in = api.call("", Method::POST, "/auth/login", Some(body)).await;
    let signed_in = signed_in.expect(200);
    assert_eq!(signed_in["token_type"], "Bearer");
    assert!(signed_in["expires_at"].as_str().unwrap().ends_with('Z'));
    assert_eq!(signed_in["user"]["role"], "member");
    let me = api.get("/auth/me").await.expect(200);
    assert_eq!(me, signed_in["user"]);
    let key = api
        .request("", Method::GET, "/auth/me")
        .header("X-API-Key", &api.member);
    assert_eq!(api.send(key).await.expect(200), me);

    let wrong = json!({"username": "ann", "password": "wrong password"});
    let refused = api.call("", Method::POST, "/auth/login", Some(wrong)).await;
    refused.expect_problem(401, "invalid_credentials");
    assert_eq!(refused.header("www-authenticate"), "Bearer");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_is_for_a_caller() {
    let api = Api::start().await;
    let body = json!({"method": "GET", "path": "/bots"});
    let issued = api.post("/auth/tickets", body).await.expect(201);
    assert!(issued["ticket"].as_str().unwrap().len() >= 16);
    // The route is no download.
    let path = format!("/bots?ticket={}", issued["ticket"].as_str().unwrap());
    let refused = api.call("", Method::GET, &path, None).await;
    refused.expect_problem(401, "unauthenticated");
    // As an upgrade it is let in, once.
    let upgrade = || {
        let request = api.request("", Method::GET, &path);
        request
            .header("Connection", "Upgrade")
            .header("Upgrade", "websocket")
    };
    api.send(upgrade()).await.expect(200);
    api.send(upgrade())
        .await
        .expect_problem(401, "invalid_ticket");
    let token = format!("/bots?token={}", api.member);
    let request = api.request("", Method::GET, &token);
    let request = request
        .header("Connection", "Upgrade")
        .header("Upgrade", "websocket");
    api.send(request).await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn admins_manage_users() {
    let api = Api::start().await;
    let admin = |method: Method, path: String, body: Option<Value>| {
        let api = &api;
        async move { api.call(&api.admin, method, &path, body).await }
    };
    let new = json!({"username": "carl", "password": PASSWORD, "display_name": "Carl"});
    let made = admin(Method::POST, "/users".into(), Some(new.clone()))
        .await
        .expect(201);
    assert_eq!(made["display_name"], "Carl");
    assert_eq!(made["is_active"], true);
    assert!(!made.to_string().contains("hash"));
    let again = admin(Method::POST, "/users".into(), Some(new)).await;
    again.expect_problem(409, "username_taken");

    let path = format!("/users/{}", made["id"].as_str().unwrap());
    assert_eq!(
        admin(Method::GET, path.clone(), None).await.expect(200),
        made
    );
    let patch = json!({"display_name": null, "is_active": false});
    let changed = admin(Method::PATCH, path.clone(), Some(patch))
        .await
        .expect(200);
    assert_eq!(changed.get("display_name"), None);
    assert_eq!(changed["is_active"], false);

    let page = admin(Method::GET, "/users?limit=3".into(), None)
        .await
        .expect(200);
    assert_eq!(page["items"].as_array().unwrap().len(), 3);
    let next = format!(
        "/users?limit=3&cursor={}",
        page["next_cursor"].as_str().unwrap()
    );
    let page = admin(Method::GET, next, None).await.expect(200);
    assert_eq!(page["items"].as_array().unwrap().len(), 1);
    assert_eq!(page.get("next_cursor"), None);

    admin(Method::DELETE, path.clone(), None).await.expect(204);
    admin(Method::GET, path, None)
        .await
        .expect_problem(404, "user_not_found");
    let typo = json!({"usrname": "x"});
    let refused = admin(Method::POST, "/users".into(), Some(typo)).await;
    let body = refused.expect_problem(400, "invalid_body");
    assert!(
        body["detail"].as_str().unwrap().contains("usrname"),
        "{body}"
    );
    for (method, path) in [(Method::GET, "/users"), (Method::GET, "/images")] {
        let refused = api.call(&api.member, method, path, None).await;
        refused.expect_problem(403, "forbidden");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bots_come_and_go() {
    let api = Api::start().await;
    let body = json!({"name": "scout", "metadata": {"colour": "red", "size": 3}});
    let bot = api.post("/bots", body).await.expect(201);
    assert_eq!(bot["status"], "ready");
    assert_eq!(bot["name"], "scout");
    assert_eq!(bot.get("display_name"), None);
    let path = format!("/bots/{}", bot["id"].as_str().unwrap());
    assert_eq!(api.get(&path).await.expect(200), bot);
    let patch = json!({"display_name": "Scout", "metadata": {"size": null}});
    let request = api
        .call(&api.member, Method::PATCH, &path, Some(patch))
        .await;
    let changed = request.expect(200);
    assert_eq!(changed["display_name"], "Scout");
    assert_eq!(changed["metadata"], json!({"colour": "red"}));
    let mine = api.get("/bots").await.expect(200);
    assert_eq!(mine["items"].as_array().unwrap().len(), 1);
    let none = api
        .call(&api.other, Method::GET, "/bots", None)
        .await
        .expect(200);
    assert_eq!(none, json!({"items": []}));
    let all = api
        .call(&api.admin, Method::GET, "/bots", None)
        .await
        .expect(200);
    assert_eq!(all["items"].as_array().unwrap().len(), 1);
    api.delete(&path).await.expect(204);
    api.get(&path).await.expect_problem(404, "bot_not_found");
}
