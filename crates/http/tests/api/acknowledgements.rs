//! What the kernel is told about connections, and what old clients are sent on them.

use crate::support::Api;
use botstead_runtime_testing::{ImageContent, PullScript};
use reqwest::Method;
use rustix::net::{getpeername, getsockname, sockopt};
use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};
use serde_json::json;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The server's ends of its connections, by the address of who is at the other end.
fn served_by(server: SocketAddr) -> Vec<(SocketAddr, OwnedFd)> {
    let own = pidfd_open(getpid(), PidfdFlags::empty()).unwrap();
    let numbers = std::fs::read_dir("/proc/self/fd").unwrap();
    let numbers = numbers.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    numbers
        // One that was closed meanwhile is none of those that are held open here.
        .filter_map(|number| {
            let number = number.parse().unwrap();
            pidfd_getfd(&own, number, PidfdGetfdFlags::empty()).ok()
        })
        .filter_map(|socket| {
            let at = SocketAddr::try_from(getsockname(&socket).ok()?).ok()?;
            let peer = SocketAddr::try_from(getpeername(&socket).ok()??).ok()?;
            (at == server).then_some((peer, socket))
        })
        .collect()
}

/// With Nagle's algorithm an event is held back until the client acknowledged the one before,
/// which a client whose connection is kept alive delays by 40 ms.
#[tokio::test(flavor = "multi_thread")]
async fn no_event_waits_for_an_acknowledgement() {
    let api = Api::start().await;
    let image = "registry.test/slow:1".parse().unwrap();
    let script = PullScript {
        hangs_after: Some(1),
        ..PullScript::default()
    };
    let content = ImageContent::of_files([("/x", "y")]);
    api.runtime.add_remote_image(&image, content, script);
    let path = format!("{}/container", api.bot().await);
    // One connection that streams as long as this test wants, beside one that is only kept.
    let creation = api.request(&api.member, Method::POST, &path);
    let creation = creation.json(&json!({"image": image})).send();
    let _stream = creation.await.unwrap();
    api.get("/bots").await.expect(200);
    let server = api.base.strip_prefix("http://").unwrap().parse().unwrap();
    let connections = served_by(server);
    assert!(connections.len() >= 2, "{connections:?}");
    for (peer, connection) in connections {
        assert!(
            sockopt::tcp_nodelay(&connection).unwrap(),
            "the connection of {peer} waits for acknowledgements"
        );
    }
}

/// HTTP/1.0 has no chunks: what streams ends with its connection.
#[tokio::test(flavor = "multi_thread")]
async fn clients_of_http_1_0_get_no_chunks() {
    let api = Api::start().await;
    let path = format!("{}/container", api.bot().await);
    let token = &api.member;
    let server = api.base.strip_prefix("http://").unwrap();
    for (method, path, body) in [("POST", path.as_str(), "data: "), ("GET", "/bots", "{")] {
        let mut stream = TcpStream::connect(server).await.unwrap();
        let request = format!(
            "{method} {path} HTTP/1.0\r\nConnection: keep-alive\r\nContent-Length: 0\r\nAuthorization: Bearer {token}\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut reply = String::new();
        if body == "{" {
            // Of a known length: the connection stays.
            while !reply.ends_with('}') {
                reply.push(char::from(stream.read_u8().await.unwrap()));
            }
        } else {
            stream.read_to_string(&mut reply).await.unwrap();
        }
        let (head, content) = reply.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.0 200"), "{head}");
        let head = head.to_ascii_lowercase();
        assert!(!head.contains("transfer-encoding"), "{head}");
        assert_eq!(head.contains("content-length"), body == "{", "{head}");
        assert!(content.starts_with(body), "{content}");
    }
}
