//! What is said of a value that is refused: which field, which value, which rule.

use crate::files::World;
use reqwest::Method;
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_names_the_field_the_value_and_the_rule() {
    let world = World::new().await;
    let (api, fs) = (&world.api, &world.fs);
    let container = fs.strip_suffix("/fs").unwrap();
    let bot = container.strip_suffix("/container").unwrap();
    for (path, said) in [
        (
            "?path=x",
            &["path", "\"x\"", "must be an absolute path"][..],
        ),
        (
            "?path=/a%00",
            &["path", "/a", "must not contain a zero byte"],
        ),
        ("?path_base64=!", &["path", "\"!\"", "must be base64"]),
        (
            "?path=/&follow=maybe",
            &["follow", "\"maybe\"", "true or false"],
        ),
        (
            "/list?path=/&limit=0",
            &["limit", "\"0\"", "must be from 1 to 1000"],
        ),
        (
            "/list?path=/&limit=few",
            &["limit", "\"few\"", "a whole number"],
        ),
        (
            "/list?path=/&max_depth=-1",
            &["max_depth", "\"-1\"", "a whole number"],
        ),
        (
            "/list?path=/&cursor=x",
            &["cursor", "\"x\"", "must be the `next_cursor`"],
        ),
        (
            "/read?path=/a&line=0",
            &["line", "\"0\"", "must be at least 1"],
        ),
        (
            "/read?path=/a&offset=99999999999999999999",
            &["offset", "\"99999999999999999999\"", "too large"],
        ),
        (
            "/read?path=/a&encoding=utf16",
            &["encoding", "\"utf16\"", "must be utf-8 or base64"],
        ),
        (
            "/search?path=/&limit=10001",
            &["limit", "\"10001\"", "must be from 1 to 10000"],
        ),
        (
            "/search?path=/&context=21",
            &["context", "\"21\"", "must be at most 20 lines"],
        ),
        (
            "/search?path=/&literal=2",
            &["literal", "\"2\"", "true or false"],
        ),
    ] {
        let reply = api.get(&format!("{fs}{path}")).await;
        let problem = reply.expect(400);
        let detail = problem["detail"].as_str().unwrap();
        for part in said {
            assert!(detail.contains(part), "{path}: {detail}");
        }
    }
    for (path, body, said) in [
        (
            "/write",
            json!({"path": "x", "content": ""}),
            &["path", "\"x\"", "must be an absolute path"][..],
        ),
        (
            "/write",
            json!({"path": "/x", "content": 7}),
            &["content", "`7`", "a string"],
        ),
        (
            "/write",
            json!({"path": "/x", "content": "", "mode": "rwx"}),
            &["mode", "\"rwx\"", "octal text"],
        ),
        (
            "/write",
            json!({"path": "/x", "content": "", "encoding": "x"}),
            &["encoding", "\"x\"", "must be utf-8 or base64"],
        ),
        (
            "/mkdir",
            json!({"path": "x"}),
            &["path", "\"x\"", "must be an absolute path"],
        ),
        (
            "/rename",
            json!({"oldPath": "x", "newPath": "/y"}),
            &["oldPath", "\"x\"", "must be an absolute path"],
        ),
        (
            "/copy",
            json!({"oldPath": "/x", "newPath": "y"}),
            &["newPath", "\"y\"", "must be an absolute path"],
        ),
        (
            "/copy",
            json!({"oldPath": "/x", "newPath_base64": "!"}),
            &["newPath", "\"!\"", "must be base64"],
        ),
        (
            "/delete",
            json!({"path": "/x", "recursive": "yes"}),
            &["recursive", "\"yes\"", "true or false"],
        ),
        (
            "/chmod",
            json!({"path": "/x", "mode": "9"}),
            &["mode", "\"9\"", "octal text"],
        ),
    ] {
        let reply = api.post(&format!("{fs}{path}"), body).await;
        let problem = reply.expect(400);
        let detail = problem["detail"].as_str().unwrap();
        for part in said {
            assert!(detail.contains(part), "{path}: {detail}");
        }
    }
    for (method, path, said) in [
        (
            Method::GET,
            "/bots?limit=101".to_owned(),
            &["limit", "\"101\"", "must be from 1 to 100"][..],
        ),
        (
            Method::GET,
            "/bots?cursor=x".to_owned(),
            &["cursor", "no page of this list"],
        ),
        (
            Method::GET,
            "/bots/x".to_owned(),
            &["bot id", "\"x\"", "a lower-case UUID"],
        ),
        (
            Method::DELETE,
            format!("{bot}?preserve_data=maybe"),
            &["preserve_data", "\"maybe\"", "true or false"],
        ),
        (
            Method::GET,
            format!("{container}/snapshots/x/diff/current"),
            &["version", "\"x\"", "must be a whole number"],
        ),
        (
            Method::POST,
            format!("{container}/data/export?format=zip"),
            &["format", "`zip`", "`tar.gz`"],
        ),
    ] {
        let reply = api.call(&api.member, method, &path, None).await;
        let problem = reply.expect(400);
        let detail = problem["detail"].as_str().unwrap();
        for part in said {
            assert!(detail.contains(part), "{path}: {detail}");
        }
    }
}
