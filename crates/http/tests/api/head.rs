//! HEAD: what GET answers, without its content.

use crate::broken::Raw;
use crate::support::Api;
use reqwest::Method;
use serde_json::json;

const SOME_ID: &str = "0198a8a5-0000-7000-8000-000000000001";

#[tokio::test(flavor = "multi_thread")]
async fn head_is_get_without_its_content_on_every_route() {
    let api = Api::start().await;
    let bot = api.bot_with_workspace().await;
    let id = bot.strip_prefix("/bots/").unwrap();
    let version = json!({"snapshot_name": "one"});
    api.post(&format!("{bot}/container/snapshots"), version)
        .await
        .expect(201);
    let document = serde_json::to_value(botstead_http::openapi()).unwrap();
    let (mut asked, mut found) = (0, 0);
    for (path, item) in document["paths"].as_object().unwrap() {
        if item.get("get").is_none() {
            continue;
        }
        let parts = path.split('/').map(|part| match part {
            "{bot_id}" => id,
            "{version}" | "{a}" => "1",
            "{b}" => "current",
            part if part.starts_with('{') => SOME_ID,
            part => part,
        });
        let path = parts.collect::<Vec<_>>().join("/");
        let get = api
            .request(&api.admin, Method::GET, &path)
            .send()
            .await
            .unwrap();
        let head = api.call(&api.admin, Method::HEAD, &path, None).await;
        assert_eq!(head.status, get.status(), "{path}");
        assert_eq!(head.text, "", "{path}");
        // Figures differ from one look to the next.
        let length = match path.ends_with("/metrics") {
            true => "content-type",
            false => "content-length",
        };
        for name in ["content-type", length, "allow", "www-authenticate"] {
            // How long a problem is depends on the ids in it, which are of one length.
            assert_eq!(
                head.headers.get(name),
                get.headers().get(name),
                "{path} {name}"
            );
        }
        asked += 1;
        found += usize::from(get.status() == 200);
    }
    assert!(asked > 30 && found > 10, "{found} of {asked}");
    // What takes no GET takes no HEAD.
    let refused = api
        .call(&api.admin, Method::HEAD, "/auth/login", None)
        .await;
    assert_eq!(refused.status, 405);
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_waits_for_no_reply_gets_each_with_its_own_content() {
    let api = Api::start().await;
    let bot = api.bot_with_workspace().await;
    let me = api.get("/auth/me").await.text;
    for path in ["/auth/me", "/openapi.json", &bot, "/bots"] {
        let mut raw = Raw::connect(&api).await;
        raw.ask(&api, "HEAD", path).await;
        raw.ask(&api, "GET", "/auth/me").await;
        assert_eq!(raw.head().await.0, 200, "{path}");
        let (status, headers) = raw.head().await;
        let length = format!("content-length: {}", me.len());
        assert_eq!((status, headers.contains(&length)), (200, true), "{path}");
        assert_eq!(raw.text(me.len()).await, me, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_opens_no_socket() {
    let api = Api::start().await;
    let bot = api.bot_with_workspace().await;
    let socket = format!("{bot}/container/terminal/ws");
    let upgrade = api
        .request(&api.member, Method::HEAD, &socket)
        .header("Connection", "Upgrade")
        .header("Upgrade", "websocket")
        .header("Sec-WebSocket-Version", "13")
        .header("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==");
    assert_eq!(api.send(upgrade).await.status, 405);
}
