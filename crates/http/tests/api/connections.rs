//! Connections that do nothing, read nothing, or are too many.

use crate::support::Api;
use botstead_runtime_testing::ImageContent;
use bytes::Bytes;
use rand::RngCore;
use reqwest::Method;
use serde_json::json;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

/// Without a limit nothing here would end.
const PATIENCE: Duration = Duration::from_secs(30);

async fn connect(api: &Api, from: [u8; 4]) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((from, 0).into()).unwrap();
    let address = api.base.strip_prefix("http://").unwrap();
    socket.connect(address.parse().unwrap()).await.unwrap()
}

/// Asks for health and reads the reply.
async fn is_served(stream: &mut TcpStream) -> bool {
    let request = b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n";
    if stream.write_all(request).await.is_err() {
        return false;
    }
    let mut reply = Vec::new();
    while !reply.ends_with(b"{\"status\":\"ok\"}") {
        match stream.read_buf(&mut reply).await {
            Ok(0) | Err(_) => return false,
            Ok(_) => {}
        }
    }
    true
}

/// Fails unless the server ends the connection.
async fn is_cut(stream: &mut TcpStream) {
    let mut rest = Vec::new();
    let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut rest)).await;
    // A reset is an end as well.
    let _ = read.expect("the connection stays");
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_that_do_not_come_are_not_waited_for_on_any_request_of_a_connection() {
    let api = Api::start_with(|config| {
        config.header_timeout = Duration::from_secs(5);
        config.keep_alive = Duration::from_secs(1);
    })
    .await;
    let mut first = connect(&api, [127, 0, 0, 1]).await;
    first.write_all(b"GET /healthz HTT").await.unwrap();
    let mut second = connect(&api, [127, 0, 0, 1]).await;
    assert!(is_served(&mut second).await);
    second.write_all(b"GET /healthz HTT").await.unwrap();
    is_cut(&mut first).await;
    is_cut(&mut second).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_address_has_its_share_of_the_connections() {
    let api = Api::start_with(|config| config.max_connections_per_address = 4).await;
    let here = [127, 0, 0, 2];
    let mut held = Vec::new();
    for _ in 0..4 {
        let mut stream = connect(&api, here).await;
        assert!(is_served(&mut stream).await);
        held.push(stream);
    }
    let mut elsewhere = connect(&api, [127, 0, 0, 3]).await;
    assert!(is_served(&mut elsewhere).await);
    let mut fifth = connect(&api, here).await;
    assert!(is_served(&mut fifth).await, "silent ones keep it out");
    let mut longest_idle = held.remove(0);
    is_cut(&mut longest_idle).await;
    for stream in held.iter_mut().chain([&mut elsewhere]) {
        assert!(is_served(stream).await, "the others go on");
    }
}

/// Has a command of a session under way that lasts.
async fn occupy(stream: &mut TcpStream, token: &str, path: &str, client: &str) {
    let body = json!({"command": ["sleep", "60"]}).to_string();
    let request = format!(
        "POST {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\nx-forwarded-for: {client}\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sessions_of_one_user_do_not_keep_the_others_out() {
    for (most, of_one) in [(8, 1024), (1024, 4)] {
        let api = Api::start_with(|config| {
            config.max_connections = most;
            config.max_connections_per_address = of_one;
        })
        .await;
        let path = format!("{}/container/exec", api.bot_with_workspace().await);
        let here = [127, 0, 0, 2];
        let mut held = Vec::new();
        for _ in 0..4 {
            let mut stream = connect(&api, here).await;
            occupy(&mut stream, &api.member, &path, "").await;
            held.push(stream);
            // They are told apart by their age, and all have their session.
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        let mut admin = connect(&api, here).await;
        assert!(is_served(&mut admin).await, "one user has all connections");
        is_cut(&mut held[0]).await;
        let second = tokio::time::timeout(Duration::from_millis(300), held[1].read_u8()).await;
        assert!(second.is_err(), "more of them are cut than has to be");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn when_all_connections_are_taken_by_sessions_the_user_with_the_most_makes_room() {
    let api = Api::start_with(|config| config.max_connections = 6).await;
    let path = format!("{}/container/exec", api.bot_with_workspace().await);
    let mut held = Vec::new();
    // From everywhere, so that no network is crowded.
    for n in 2..10 {
        let mut stream = connect(&api, [127, 0, 0, n]).await;
        occupy(&mut stream, &api.member, &path, "").await;
        held.push(stream);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let mut admin = connect(&api, [127, 0, 0, 20]).await;
    assert!(is_served(&mut admin).await, "one user has all connections");
    is_cut(&mut held[0]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn when_all_connections_are_taken_the_longest_idle_one_goes() {
    // Those of the client that signed the users in count as well.
    let api = Api::start_with(|config| config.max_connections = 4).await;
    let mut held = Vec::new();
    for n in 2..20 {
        let mut stream = connect(&api, [127, 0, 0, n]).await;
        assert!(is_served(&mut stream).await, "connection {n}");
        held.push(stream);
    }
    is_cut(&mut held[0]).await;
}

/// A request of nobody that does not come whole for some seconds.
async fn linger(stream: &mut TcpStream, client: &str) {
    let head = format!(
        "POST /auth/login HTTP/1.1\r\nhost: x\r\nx-forwarded-for: {client}\r\n\
         content-type: application/json\r\ncontent-length: 100\r\n\r\n{{"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn when_all_connections_are_taken_the_oldest_request_without_a_session_goes_first() {
    // One is of the client that signed the users in.
    let api = Api::start_with(|config| config.max_connections = 5).await;
    let mut idle = connect(&api, [127, 0, 0, 2]).await;
    assert!(is_served(&mut idle).await);
    let mut strangers = Vec::new();
    for n in 0..3 {
        let mut stream = connect(&api, [127, 0, 0, 10 + n]).await;
        linger(&mut stream, "").await;
        strangers.push(stream);
        // They are told apart by their age.
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let mut one_more = connect(&api, [127, 0, 0, 4]).await;
    assert!(is_served(&mut one_more).await);
    is_cut(&mut strangers[0]).await;
    // The others end by themselves, and are told so.
    let mut reply = [0; 12];
    strangers[1].read_exact(&mut reply).await.unwrap();
    assert_eq!(&reply, b"HTTP/1.1 408");
    assert!(is_served(&mut idle).await, "who does nothing stays");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sign_in_that_has_to_wait_is_not_cut_when_all_connections_are_taken() {
    let api = Api::start_with(|config| config.max_connections = 8).await;
    // She is known here, so that each further attempt waits for a second, one after the other.
    let wrong = json!({"username": "ann", "password": "incorrect horse"});
    for _ in 0..5 {
        let refused = api.call("", Method::POST, "/auth/login", Some(wrong.clone()));
        assert_eq!(refused.await.status, 401);
    }
    let body = wrong.to_string();
    let request = format!(
        "POST /auth/login HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut waiting = Vec::new();
    for _ in 0..3 {
        let mut stream = connect(&api, [127, 0, 0, 1]).await;
        stream.write_all(request.as_bytes()).await.unwrap();
        waiting.push(stream);
    }
    tokio::time::sleep(Duration::from_millis(1200)).await;
    let mut others = Vec::new();
    for n in 2..14 {
        let mut other = connect(&api, [127, 0, 0, n]).await;
        assert!(is_served(&mut other).await);
        others.push(other);
    }
    for mut stream in waiting {
        let mut reply = [0; 12];
        let read = tokio::time::timeout(PATIENCE, stream.read_exact(&mut reply)).await;
        read.expect("it is not answered").unwrap();
        assert_eq!(&reply, b"HTTP/1.1 401");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_behind_a_proxy_has_its_share_of_the_requests() {
    let api = Api::start_with(|config| {
        config.trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()];
        config.max_connections_per_address = 2;
    })
    .await;
    let path = format!("{}/container/exec", api.bot_with_workspace().await);
    let health = async |client: &str| {
        let request = api.request("", Method::GET, "/healthz");
        api.send(request.header("x-forwarded-for", client)).await
    };
    // Strangers keep nobody of their network out: the oldest goes.
    let mut strangers = Vec::new();
    for _ in 0..2 {
        let mut stream = connect(&api, [127, 0, 0, 1]).await;
        linger(&mut stream, "203.0.113.7").await;
        strangers.push(stream);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    health("203.0.113.7").await.expect(200);
    is_cut(&mut strangers[0]).await;
    drop(strangers);
    // Those who have a session and one request each stay, and one more is refused.
    let mut held = Vec::new();
    for token in [&api.member, &api.admin] {
        let mut stream = connect(&api, [127, 0, 0, 1]).await;
        occupy(&mut stream, token, &path, "203.0.113.7").await;
        held.push(stream);
        // It has its session.
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    let begun = std::time::Instant::now();
    while health("203.0.113.7").await.status == 200 {
        assert!(begun.elapsed() < Duration::from_secs(4), "it has no share");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let refused = health("203.0.113.7").await;
    refused.expect_problem(429, "too_many_requests");
    health("203.0.113.8").await.expect(200);
    // What the proxy asks for itself, and what was under way, goes on.
    api.get("/bots").await.expect(200);
    drop(held);
    let begun = std::time::Instant::now();
    while health("203.0.113.7").await.status != 200 {
        assert!(begun.elapsed() < PATIENCE, "the share is not given back");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_do_not_read_hold_nothing_up_and_are_cut_off() {
    let api = Api::set_up(|setup| {
        setup.http.write_timeout = Duration::from_secs(2);
        setup.workspace.max_concurrent_exports = 4;
    })
    .await;
    // More than what sockets hold, and not to be compressed.
    let mut noise = vec![0; 24 << 20];
    rand::rng().fill_bytes(&mut noise);
    let layer = BTreeMap::from([("data/noise".to_owned(), Some(Bytes::from(noise)))]);
    let content = ImageContent {
        layers: vec![layer],
        ..ImageContent::default()
    };
    api.runtime
        .add_image(&"localhost/noise:1".parse().unwrap(), content);
    let bot = api.bot_with(json!({"image": "localhost/noise:1"})).await;
    let path = format!("{bot}/container/data/export");
    let mut stalled = Vec::new();
    for _ in 0..2 {
        let mut stream = connect(&api, [127, 0, 0, 1]).await;
        let request = format!(
            "POST {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\n\
             content-length: 0\r\n\r\n",
            api.member
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut begin = [0; 15];
        stream.read_exact(&mut begin).await.unwrap();
        assert_eq!(&begin, b"HTTP/1.1 200 OK");
        stalled.push(stream);
    }
    // Nobody has more than half of the places, and the rest of the server does not notice.
    let third = api.call(&api.member, Method::POST, &path, None).await;
    third.expect_problem(429, "too_many_exports");
    api.sign_in("bob").await;

    // Once they are cut off their places are free, and whoever reads gets all of it.
    let request = || api.request(&api.member, Method::POST, &path).send();
    let begun = std::time::Instant::now();
    let mut reply = request().await.unwrap();
    while reply.status() == 429 {
        assert!(
            begun.elapsed() < 4 * PATIENCE,
            "the places are not given back"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
        reply = request().await.unwrap();
    }
    assert_eq!(reply.status(), 200);
    assert!(reply.bytes().await.unwrap().len() > 24 << 20);
    for mut stream in stalled {
        is_cut(&mut stream).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reply_in_memory_is_read_at_a_pace_or_cut_off() {
    /// What is kept of an output.
    const OUTPUT: usize = 1 << 20;
    // Two of them, and six bytes of JSON for each byte: more than what sockets hold.
    const SIZE: usize = 12 * OUTPUT;
    let api = Api::start_with(|config| {
        config.write_timeout = Duration::from_secs(2);
        config.min_reply_pace = SIZE;
        config.max_text_bytes = 256 << 10;
        config.max_json_bytes = 128 << 10;
        config.max_reply_bytes = 256 << 10;
        // What these three need at least: less than this reply.
        config.max_memory_bytes = 0;
    })
    .await;
    let bot = api.bot_with_workspace().await;
    let print = format!("head -c {OUTPUT} /dev/zero | tr '\\0' '\\1'");
    let print = format!("{print}; {print} >&2");
    let body = json!({"command": ["sh", "-c", print]}).to_string();
    let request = format!(
        "POST {bot}/container/exec HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        api.member,
        body.len()
    );
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(64 << 10).unwrap();
    let address = api.base.strip_prefix("http://").unwrap();
    let mut stream = socket.connect(address.parse().unwrap()).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut read = 0;
    let mut piece = vec![0; 16 << 10];
    let begun = tokio::sync::Notify::new();
    let slow = async {
        loop {
            // It is never silent for as long as the kernel waits.
            tokio::time::sleep(Duration::from_millis(50)).await;
            match stream.read(&mut piece).await {
                Ok(0) | Err(_) => break,
                Ok(more) => read += more,
            }
            begun.notify_one();
            if read >= SIZE {
                break;
            }
        }
    };
    let other = async {
        // From here on there is no room for anything else.
        begun.notified().await;
        let begun = std::time::Instant::now();
        loop {
            let note = json!({"metadata": {"note": "x".repeat(60 << 10)}});
            let made = api.call(&api.other, Method::POST, "/bots", Some(note));
            let made = made.await;
            if made.status == 201 || begun.elapsed() > PATIENCE {
                return made;
            }
        }
    };
    let (_, made) = tokio::join!(tokio::time::timeout(2 * PATIENCE, slow), other);
    made.expect(201);
    assert!(read < SIZE, "all of it was read, slowly");
}
