//! Uploads: who may send one is looked at before it is received, and so is the room for it.

use crate::support::Api;
use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use reqwest::{Body, Method, RequestBuilder};
use std::convert::Infallible;
use std::time::Duration;

const BOUNDARY: &str = "xxBOUNDARYxx";

/// Without a look before the end this would not end.
const PATIENCE: Duration = Duration::from_secs(20);

/// A form whose field of this name never ends; one piece of it comes every now and then.
fn endless(field: &str, every: Duration) -> Body {
    let head = format!(
        "--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"{field}\"; filename=\"x\"\r\n\r\n"
    );
    let pieces = stream::unfold((), move |()| async move {
        tokio::time::sleep(every).await;
        Some((Bytes::from(vec![b'x'; 64 << 10]), ()))
    });
    let pieces = stream::once(async { Bytes::from(head) }).chain(pieces);
    wrap(pieces)
}

fn wrap(pieces: impl Stream<Item = Bytes> + Send + 'static) -> Body {
    Body::wrap_stream(pieces.map(Ok::<_, Infallible>))
}

fn form(request: RequestBuilder, body: Body) -> RequestBuilder {
    let kind = format!("multipart/form-data; boundary={BOUNDARY}");
    request.header("content-type", kind).body(body)
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_may_not_write_sends_nothing() {
    let api = Api::start().await;
    let bot = api.bot_with_workspace().await;
    for path in ["fs/upload", "data/import"] {
        let path = format!("{bot}/container/{path}");
        let request = api.request(&api.other, Method::POST, &path);
        let request = form(request, endless("file", Duration::from_millis(50)));
        let reply = tokio::time::timeout(PATIENCE, api.send(request)).await;
        let reply = reply.unwrap_or_else(|_| panic!("{path} is received without an end"));
        reply.expect_problem(404, "bot_not_found");
    }
    // Nor are they told that what they send is no form.
    for (path, token, status, code) in [
        ("fs/upload", &api.other, 404, "bot_not_found"),
        ("data/import", &api.other, 404, "bot_not_found"),
        ("data/import", &api.member, 415, "unsupported_media_type"),
    ] {
        let path = format!("{bot}/container/{path}");
        let no_form = Some(serde_json::json!({}));
        let reply = api.call(token, Method::POST, &path, no_form).await;
        reply.expect_problem(status, code);
    }
    // Neither is a body that would be held in memory.
    for path in ["fs/write", "fs/mkdir", "exec", "snapshots"] {
        let path = format!("{bot}/container/{path}");
        let request = api.request(&api.other, Method::POST, &path);
        let body = endless("file", Duration::from_millis(50));
        let request = request
            .header("content-type", "application/json")
            .body(body);
        let reply = tokio::time::timeout(PATIENCE, api.send(request)).await;
        let reply = reply.unwrap_or_else(|_| panic!("{path} is received without an end"));
        reply.expect_problem(404, "bot_not_found");
    }
    let spool = api.directory.path().join("spool");
    assert_eq!(std::fs::read_dir(spool).unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_fields_are_not_passed_over() {
    let api = Api::start().await;
    let bot = api.bot_with_workspace().await;
    let path = format!("{bot}/container/data/import");
    let request = api.request(&api.member, Method::POST, &path);
    let request = form(request, endless("later", Duration::ZERO));
    let reply = tokio::time::timeout(PATIENCE, api.send(request)).await;
    let reply = reply.expect("it is passed over without end");
    reply.expect_problem(400, "invalid_body");

    let field = |name: &str| {
        format!("--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\nx\r\n")
    };
    let many: String = (0..1000).map(|n| field(&format!("f{n}"))).collect();
    let request = api.request(&api.member, Method::POST, &path);
    let reply = api.send(form(request, Body::from(many))).await;
    let problem = reply.expect_problem(400, "invalid_body");
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.contains("no field `f0`"), "{problem}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_no_room_is_refused_before_it_is_sent() {
    let api = Api::start().await;
    let bot = api.bot_with_workspace().await;
    // More than any disk has.
    let announced = (1u64 << 60).to_string();
    for (token, path) in [
        (&api.member, format!("{bot}/container/data/import")),
        (&api.admin, "/images/import?name=a/b".to_owned()),
    ] {
        let request = api.request(token, Method::POST, &path);
        let request = form(request, endless("file", Duration::from_millis(50)));
        let reply = api.send(request.header("content-length", &announced));
        let reply = tokio::time::timeout(PATIENCE, reply).await;
        let reply = reply.unwrap_or_else(|_| panic!("{path} is received without an end"));
        reply.expect_problem(507, "insufficient_storage");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_server_left_of_uploads_goes_at_the_next_start() {
    let folder = tempfile::tempdir().unwrap();
    let left = folder.path().join("upload-Ab12");
    std::fs::write(&left, "half of a file").unwrap();
    let spool = folder.path().to_owned();
    let _api = Api::start_with(|config| config.spool_dir = spool).await;
    assert!(!left.exists());
}
