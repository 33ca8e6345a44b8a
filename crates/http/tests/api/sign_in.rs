//! Signing in beside those who flood it, and behind proxies.

use crate::support::{Api, PASSWORD};
use reqwest::{Client, Method, StatusCode};
use serde_json::json;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

async fn attempt(api: &Api, client: &Client, username: &str, password: &str) -> StatusCode {
    let body = json!({"username": username, "password": password});
    let request = client.post(format!("{}/auth/login", api.base)).json(&body);
    request.send().await.unwrap().status()
}

/// The same through a proxy on this host that names its client.
async fn forwarded(api: &Api, client: &str, username: &str, password: &str) -> StatusCode {
    let body = json!({"username": username, "password": password});
    let request = api.request("", Method::POST, "/auth/login").json(&body);
    let reply = request.header("X-Forwarded-For", client).send();
    reply.await.unwrap().status()
}

#[tokio::test(flavor = "multi_thread")]
async fn ninety_connections_of_one_address_do_not_keep_others_out() {
    let api = Api::start().await;
    let flood = Api::client_from([127, 0, 0, 2]);
    let guesses: Vec<_> = (0..90)
        .map(|n| {
            let body = json!({"username": format!("user{n}"), "password": "incorrect horse"});
            let request = flood.post(format!("{}/auth/login", api.base)).json(&body);
            tokio::spawn(async move { request.send().await.unwrap().status() })
        })
        .collect();
    // Neither whoever comes from there for the first time nor whoever came before is turned away.
    let stranger = Api::client_from([127, 0, 0, 3]);
    for _ in 0..3 {
        assert_eq!(attempt(&api, &stranger, "ann", PASSWORD).await, 200);
        api.sign_in("admin").await;
    }
    let mut turned_away = 0;
    for guess in guesses {
        turned_away += usize::from(guess.await.unwrap() == StatusCode::TOO_MANY_REQUESTS);
    }
    assert!(turned_away > 0, "the flood was no flood");
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_a_trusted_proxy_nobody_locks_others_out() {
    let api = Api::start_with(|config| {
        config.trusted_proxies = vec!["127.0.0.1/32".parse().unwrap()];
    })
    .await;
    for _ in 0..5 {
        let status = forwarded(&api, "203.0.113.7", "admin", "incorrect horse").await;
        assert_eq!(status, 401);
    }
    assert_eq!(forwarded(&api, "203.0.113.7", "admin", PASSWORD).await, 429);
    // What the client itself put in front of its address changes nothing.
    let lies = "203.0.113.9, 203.0.113.7";
    assert_eq!(forwarded(&api, lies, "admin", PASSWORD).await, 429);
    assert_eq!(forwarded(&api, "203.0.113.8", "admin", PASSWORD).await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_no_trusted_proxy_has_one_address() {
    let api = Api::start().await;
    for n in 0..5 {
        let status = forwarded(&api, &format!("203.0.113.{n}"), "ghost", "incorrect horse").await;
        assert_eq!(status, 401);
    }
    assert_eq!(
        forwarded(&api, "203.0.113.99", "ghost", PASSWORD).await,
        429
    );
    // Who came from the proxy before is not locked out, although all its clients are one.
    for _ in 0..7 {
        let status = forwarded(&api, "203.0.113.7", "admin", "incorrect horse").await;
        assert_eq!(status, 401);
    }
    api.sign_in("admin").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sign_in_is_small_and_quick() {
    let api = Api::start().await;
    let body = json!({"username": "ann", "password": "x".repeat(9 << 10)});
    let reply = api.call("", Method::POST, "/auth/login", Some(body)).await;
    reply.expect_problem(413, "body_too_large");
    // The longest password that can be set fits, escaped as it may be.
    let long = "\\u20ac".repeat(256);
    let body = format!("{{\"username\":\"ann\",\"password\":\"{long}\"}}");
    let request = api.request("", Method::POST, "/auth/login").body(body);
    let reply = api.send(request.header("content-type", "application/json"));
    reply.await.expect_problem(401, "invalid_credentials");

    let mut slow = TcpStream::connect(api.base.strip_prefix("http://").unwrap())
        .await
        .unwrap();
    let head = "POST /auth/login HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
                content-length: 100\r\n\r\n{";
    slow.write_all(head.as_bytes()).await.unwrap();
    let mut reply = Vec::new();
    // Other bodies may take 30 s.
    let read = slow.read_to_end(&mut reply);
    tokio::time::timeout(Duration::from_secs(25), read)
        .await
        .expect("the body is waited for")
        .unwrap();
    let reply = String::from_utf8(reply).unwrap();
    assert!(reply.starts_with("HTTP/1.1 408"), "{reply}");
}
