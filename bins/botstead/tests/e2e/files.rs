//! Files over HTTP.

use crate::client::Workspace;
use crate::server::Server;
use bytes::Bytes;
use futures_util::StreamExt;
use reqwest::{Method, Response};
use serde_json::{Value, json};
use std::time::Duration;

impl Workspace {
    pub(crate) fn fs(&self, call: &str) -> String {
        format!("{}/fs{call}", self.path)
    }

    pub(crate) async fn fetch(&self, call: &str, headers: &[(&str, &str)]) -> Response {
        let mut request = self.client.request(Method::GET, &self.fs(call));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.send().await.unwrap()
    }

    pub(crate) async fn upload(
        &self,
        path: &str,
        content: reqwest::Body,
        path_first: bool,
    ) -> Value {
        let file = reqwest::multipart::Part::stream(content).file_name("any");
        let form = reqwest::multipart::Form::new();
        let path = path.to_owned();
        let form = match path_first {
            true => form.text("path", path).part("file", file),
            false => form.part("file", file).text("path", path),
        };
        let request = self.client.request(Method::POST, &self.fs("/upload"));
        let answer = request.multipart(form).send().await.unwrap();
        let status = answer.status().as_u16();
        let body: Value = answer.json().await.unwrap();
        assert_eq!(status, 200, "{body}");
        body
    }
}

#[tokio::test]
async fn files_are_written_read_listed_moved_and_deleted() {
    let server = Server::start().await;
    let workspace = server.client.running().await;
    let client = &workspace.client;
    let written = workspace
        .post(
            "/fs/write",
            json!({"path": "/data/deep/er/note.txt", "content": "gr\u{fc}\u{df}e\n"}),
        )
        .await
        .ok();
    assert_eq!(
        (&written["ok"], &written["created"]),
        (&json!(true), &json!(true))
    );
    let read = client
        .get(&workspace.fs("/read?path=/data/deep/er/note.txt"))
        .await
        .ok();
    assert_eq!(
        (
            &read["content"],
            &read["encoding"],
            &read["size"],
            &read["revision"]
        ),
        (
            &json!("gr\u{fc}\u{df}e\n"),
            &json!("utf-8"),
            &json!(8),
            &written["revision"]
        )
    );
    // New files and directories are the image's user's, and a mode stays.
    workspace.sh("chmod 750 /data/deep/er/note.txt").await;
    let first = client
        .get(&workspace.fs("/read?path=/data/deep/er/note.txt"))
        .await
        .ok();
    let body = json!({"path": "/data/deep/er/note.txt", "content": "two\nthree\nfour\n",
        "expected_revision": first["revision"]});
    workspace.post("/fs/write", body.clone()).await.ok();
    workspace
        .post("/fs/write", body)
        .await
        .refused(409, "stale_revision");
    let entry = client
        .get(&workspace.fs("?path=/data/deep/er/note.txt"))
        .await
        .ok();
    assert_eq!(
        (&entry["name"], &entry["mode"]),
        (&json!("note.txt"), &json!("-rwxr-x---"))
    );
    assert_eq!(
        (&entry["isDir"], &entry["size"]),
        (&json!(false), &json!(15))
    );
    let part = client
        .get(&workspace.fs("/read?path=/data/deep/er/note.txt&line=2&lines=1"))
        .await
        .ok();
    assert_eq!(part["content"], "three\n");
    let part = client
        .get(&workspace.fs("/read?path=/data/deep/er/note.txt&offset=4&length=5"))
        .await
        .ok();
    assert_eq!(part["content"], "three");

    // A link is written through, never replaced.
    workspace
        .sh("ln -s er/note.txt /data/deep/link; ln -s /data/deep /data/dir")
        .await;
    workspace
        .post(
            "/fs/write",
            json!({"path": "/data/dir/link", "content": "through"}),
        )
        .await
        .ok();
    assert_eq!(
        workspace
            .sh("readlink /data/deep/link; cat /data/deep/er/note.txt")
            .await,
        "er/note.txt\nthrough"
    );
    let entry = client
        .get(&workspace.fs("?path=/data/deep/link"))
        .await
        .ok();
    assert_eq!(
        (&entry["isSymlink"], &entry["target"]),
        (&json!(true), &json!("er/note.txt"))
    );

    let binary = json!({"path": "/data/bin", "content": "AP/+AA==", "encoding": "base64"});
    workspace.post("/fs/write", binary).await.ok();
    let read = client.get(&workspace.fs("/read?path=/data/bin")).await.ok();
    assert_eq!(
        (&read["content"], &read["encoding"]),
        (&json!("AP/+AA=="), &json!("base64"))
    );

    workspace
        .post("/fs/mkdir", json!({"path": "/data/a/b/c"}))
        .await
        .ok();
    workspace
        .post("/fs/mkdir", json!({"path": "/data/a/b/c"}))
        .await
        .ok();
    workspace
        .post(
            "/fs/rename",
            json!({"oldPath": "/data/bin", "newPath": "/data/a/moved"}),
        )
        .await
        .ok();
    workspace
        .post(
            "/fs/rename",
            json!({"oldPath": "/data/a/moved", "newPath": "/data/deep/er/note.txt"}),
        )
        .await
        .refused(409, "path_exists");
    workspace
        .post(
            "/fs/copy",
            json!({"oldPath": "/data/a", "newPath": "/data/z"}),
        )
        .await
        .refused(422, "is_a_directory");
    workspace
        .post(
            "/fs/copy",
            json!({"oldPath": "/data/a", "newPath": "/data/z", "recursive": true}),
        )
        .await
        .ok();
    let listed = client
        .get(&workspace.fs("/list?path=/data/z&recursive"))
        .await
        .ok();
    let paths: Vec<_> = listed["entries"]
        .as_array()
        .unwrap()
        .iter()
        .map(|e| &e["path"])
        .collect();
    assert_eq!(paths, ["/data/z/b", "/data/z/b/c", "/data/z/moved"]);
    workspace
        .post("/fs/delete", json!({"path": "/data/z"}))
        .await
        .refused(409, "directory_not_empty");
    workspace
        .post("/fs/delete", json!({"path": "/data/z", "recursive": true}))
        .await
        .ok();
    workspace
        .post("/fs/delete", json!({"path": "/data/z"}))
        .await
        .refused(404, "path_not_found");
    for root in ["/", "//./", "/data/.."] {
        let refused = workspace
            .post("/fs/delete", json!({"path": root, "recursive": true}))
            .await;
        assert!(matches!(refused.status, 400 | 403), "{root}: {refused:?}");
    }
    for (call, status, code) in [
        ("?path=/data/none", 404, "path_not_found"),
        ("?path=relative", 400, "invalid_value"),
        ("?path=/a%00b", 400, "invalid_value"),
        ("", 400, "invalid_value"),
        ("/list?path=/etc/passwd", 422, "not_a_directory"),
        ("/read?path=/data", 422, "is_a_directory"),
        ("/read?path=/data/deep&line=0", 400, "invalid_value"),
        ("/list?path=/data&limit=1001", 400, "invalid_value"),
        ("/list?path=/data&cursor=!", 400, "invalid_value"),
    ] {
        client.get(&workspace.fs(call)).await.refused(status, code);
    }
}

#[tokio::test]
async fn downloads_have_ranges_tags_and_conditions() {
    let server = Server::start().await;
    let workspace = server.client.running().await;
    workspace.sh("seq 1 100000 > /data/numbers.txt; mkdir -p /data/tree/sub; echo x > /data/tree/sub/f; ln -s f /data/tree/sub/l").await;
    let whole = workspace
        .fetch("/download?path=/data/numbers.txt", &[])
        .await;
    assert_eq!(whole.status(), 200);
    let header = |answer: &Response, name: &str| {
        answer
            .headers()
            .get(name)
            .map(|value| value.to_str().unwrap().to_owned())
    };
    let tag = header(&whole, "etag").unwrap();
    assert_eq!(
        header(&whole, "content-type").unwrap(),
        "text/plain; charset=utf-8"
    );
    assert_eq!(header(&whole, "content-length").unwrap(), "588895");
    assert!(
        header(&whole, "content-disposition")
            .unwrap()
            .contains("numbers.txt")
    );
    let content = whole.bytes().await.unwrap();
    assert_eq!(content.len(), 588_895);

    let get = async |headers: &[(&str, &str)]| {
        let answer = workspace
            .fetch("/download?path=/data/numbers.txt", headers)
            .await;
        let status = answer.status().as_u16();
        let range = answer.headers().get("content-range").cloned();
        (status, range, answer.bytes().await.unwrap())
    };
    let (status, range, part) = get(&[("range", "bytes=100-199")]).await;
    assert_eq!((status, &part[..]), (206, &content[100..200]));
    assert_eq!(range.unwrap(), "bytes 100-199/588895");
    let (status, _, part) = get(&[("range", "bytes=-5")]).await;
    assert_eq!((status, &part[..]), (206, &content[588_890..]));
    assert_eq!(get(&[("range", "bytes=588895-")]).await.0, 416);
    assert_eq!(get(&[("if-none-match", &tag)]).await.0, 304);
    assert_eq!(get(&[("if-match", "\"other\"")]).await.0, 412);
    let (status, ..) = get(&[("range", "bytes=0-1"), ("if-range", &tag)]).await;
    assert_eq!(status, 206);
    workspace.sh("echo more >> /data/numbers.txt").await;
    let (status, ..) = get(&[("range", "bytes=0-1"), ("if-range", &tag)]).await;
    assert_eq!(status, 200, "a changed file is sent whole");
    assert_eq!(get(&[("if-none-match", &tag)]).await.0, 200);

    let head = workspace.client.request(
        Method::HEAD,
        &workspace.fs("/download?path=/data/numbers.txt"),
    );
    let head = head.send().await.unwrap();
    assert_eq!(header(&head, "content-length").unwrap(), "588900");

    let archive = workspace.fetch("/download?path=/data/tree", &[]).await;
    assert_eq!(
        header(&archive, "content-type").unwrap(),
        "application/gzip"
    );
    let archive = archive.bytes().await.unwrap();
    let mut names: Vec<_> = tar::Archive::new(flate2::read::GzDecoder::new(&archive[..]))
        .entries()
        .unwrap()
        .map(|entry| entry.unwrap().path().unwrap().display().to_string())
        .collect();
    names.sort();
    assert_eq!(names, ["tree/", "tree/sub/", "tree/sub/f", "tree/sub/l"]);

    // A browser downloads with a ticket, once.
    let path = workspace.fs("/download");
    let ticket = json!({"method": "GET", "path": format!("{path}?path=/data/numbers.txt")});
    let ticket = workspace.client.post("/auth/tickets", ticket).await.ok();
    let with_ticket = format!(
        "{path}?path=/data/numbers.txt&ticket={}",
        ticket["ticket"].as_str().unwrap()
    );
    let anonymous = workspace.client.anonymous();
    let answer = anonymous
        .request(Method::GET, &with_ticket)
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 200);
    let answer = anonymous
        .request(Method::GET, &with_ticket)
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 401);
}

/// Files that a runtime mounts and files of the kernel, in a real workspace.
#[tokio::test]
async fn mounted_files_are_written_and_those_of_the_kernel_are_told() {
    let server = Server::start().await;
    let workspace = server.client.running().await;
    let client = &workspace.client;
    let hosts = "127.0.0.1 localhost somebody\n";
    for path in ["/etc/hosts", "/etc/resolv.conf"] {
        let written = json!({"path": path, "content": hosts});
        workspace.post("/fs/write", written).await.ok();
        let shown = workspace.sh(&format!("cat {path}")).await;
        assert_eq!(shown, hosts.trim_end(), "{path}");
        workspace.upload(path, "# none\n".into(), true).await;
        assert_eq!(workspace.sh(&format!("cat {path}")).await, "# none");
    }
    // Copies and renames onto them are in place too; they themselves stay.
    for (call, name) in [("/fs/copy", "copied"), ("/fs/rename", "renamed")] {
        let from = format!("/data/{name}");
        let content = format!("# {name}\n");
        workspace
            .post("/fs/write", json!({"path": from, "content": content}))
            .await
            .ok();
        let onto = json!({"oldPath": from, "newPath": "/etc/hosts", "overwrite": true});
        workspace.post(call, onto).await.ok();
        let shown = workspace
            .sh("cat /etc/hosts; grep -c ' /etc/hosts ' /proc/self/mountinfo")
            .await;
        assert_eq!(shown, format!("# {name}\n1"));
    }
    let left = workspace
        .sh("ls /data/copied /data/renamed 2>/dev/null || true")
        .await;
    assert_eq!(left, "/data/copied");
    let away = json!({"oldPath": "/etc/hosts", "newPath": "/etc/old"});
    workspace
        .post("/fs/rename", away)
        .await
        .refused(409, "path_busy");
    let hostname = json!({"path": "/proc/sys/kernel/hostname", "content": "x"});
    workspace
        .post("/fs/write", hostname)
        .await
        .refused(403, "permission_denied");
    for call in ["/read", "/download"] {
        let path = workspace.fs(&format!("{call}?path=/proc/self/mem"));
        client.get(&path).await.refused(422, "not_a_regular_file");
    }
    let status = workspace.fetch("/download?path=/proc/1/status", &[]).await;
    assert_eq!(
        (status.status().as_u16(), status.headers().get("etag")),
        (200, None)
    );
    // Modes and owners, as the workspace knows them.
    workspace.sh("mkdir -p /data/t/s; touch /data/t/s/f").await;
    let change = json!({"path": "/data/t", "mode": "0751", "owner": "bot:1000", "recursive": true});
    let changed = workspace.post("/fs/chmod", change).await.ok();
    assert_eq!(changed["changed"], 3);
    assert_eq!(
        workspace.sh("stat -c '%a %u %g' /data/t/s/f").await,
        "751 1000 1000"
    );
}

#[tokio::test]
async fn four_gibibytes_go_up_and_down_in_constant_memory() {
    const CHUNK: usize = 1 << 20;
    const CHUNKS: usize = 4096;
    let server = Server::start().await;
    let workspace = server.client.running().await;
    workspace.upload("/data/small", "warm".into(), true).await;
    let before = server.resident_bytes();
    let block = Bytes::from((0..CHUNK).map(|n| (n % 251) as u8).collect::<Vec<_>>());
    let sent = block.clone();
    let content =
        futures_util::stream::iter((0..CHUNKS).map(move |_| Ok::<_, std::io::Error>(sent.clone())));
    let peak = server.watch_memory();
    let uploaded = workspace
        .upload("/data/big", reqwest::Body::wrap_stream(content), true)
        .await;
    assert_eq!(uploaded["size"], (CHUNK * CHUNKS) as u64);
    let answer = workspace.fetch("/download?path=/data/big", &[]).await;
    let mut body = answer.bytes_stream();
    let mut at = 0usize;
    while let Some(bytes) = body.next().await {
        let bytes = bytes.unwrap();
        // Compared piece by piece with what was sent.
        let start = at % CHUNK;
        let first = (CHUNK - start).min(bytes.len());
        assert_eq!(bytes[..first], block[start..start + first]);
        at += bytes.len();
    }
    assert_eq!(at, CHUNK * CHUNKS);
    let grown = peak.stop().saturating_sub(before);
    assert!(grown <= 64 << 20, "the server grew by {} MiB", grown >> 20);
    workspace.sh("rm /data/big").await;
}

#[tokio::test]
async fn uploads_appear_whole_or_not_at_all() {
    let server = Server::start().await;
    let workspace = server.client.running().await;
    let late = workspace
        .upload("/data/up/late", vec![7; 3 << 20].into(), false)
        .await;
    assert_eq!(
        (&late["size"], &late["path"]),
        (&json!(3 << 20), &json!("/data/up/late"))
    );
    workspace.upload("/data/up/file", "old".into(), true).await;
    // The client dies in the middle.
    let (sender, receiver) = tokio::sync::mpsc::channel::<Result<Bytes, std::io::Error>>(1);
    let content = reqwest::Body::wrap_stream(tokio_stream::wrappers::ReceiverStream::new(receiver));
    let form = reqwest::multipart::Form::new()
        .text("path", "/data/up/file")
        .part("file", reqwest::multipart::Part::stream(content));
    let request = workspace
        .client
        .request(Method::POST, &workspace.fs("/upload"));
    let upload = tokio::spawn(request.multipart(form).send());
    for _ in 0..20 {
        sender
            .send(Ok(Bytes::from(vec![1; 100_000])))
            .await
            .unwrap();
    }
    upload.abort();
    drop(sender);
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(
        workspace
            .sh("cat /data/up/file; echo; ls -A /data/up")
            .await,
        "old\nfile\nlate"
    );
    let form = reqwest::multipart::Form::new().text("path", "/data/x");
    let request = workspace
        .client
        .request(Method::POST, &workspace.fs("/upload"));
    let answer = request.multipart(form).send().await.unwrap();
    assert_eq!(answer.status(), 400);
}

#[tokio::test]
async fn searches_find_names_and_content_and_watches_tell_changes() {
    let server = Server::start().await;
    let workspace = server.client.running().await;
    workspace
        .sh("mkdir -p /data/p/src /data/p/target; cd /data/p; echo target > .gitignore; \
             printf 'one\nfn Main() {\nthree\n' > src/a.rs; echo 'fn main' > target/b.rs; echo 'fn main' > src/c.txt")
        .await;
    let client = &workspace.client;
    let found = client
        .get(&workspace.fs("/search?path=/data/p&glob=*.rs"))
        .await
        .ok();
    let paths = |found: &Value| -> Vec<String> {
        let matches = found["matches"].as_array().unwrap().iter();
        let mut paths: Vec<_> = matches
            .map(|m| m["path"].as_str().unwrap().to_owned())
            .collect();
        paths.sort();
        paths
    };
    assert_eq!(paths(&found), ["/data/p/src/a.rs", "/data/p/target/b.rs"]);
    let query =
        "/search?path=/data/p&glob=*.rs&pattern=fn%20main&ignore_case&respect_gitignore&context=1";
    let found = client.get(&workspace.fs(query)).await.ok();
    assert_eq!(paths(&found), ["/data/p/src/a.rs"]);
    let lines = found["matches"][0]["lines"].as_array().unwrap();
    assert_eq!(lines.len(), 3, "{found}");
    assert_eq!(
        lines[1],
        json!({"line": 2, "text": "fn Main() {", "matches": [[0, 7]]})
    );
    client
        .get(&workspace.fs("/search?path=/data&pattern=("))
        .await
        .refused(400, "invalid_value");

    let answer = workspace.fetch("/watch?path=/data/p&recursive", &[]).await;
    let mut events = answer.bytes_stream();
    let mut text = String::new();
    let mut seen = async |needle: &str| {
        let wait = async {
            while !text.contains(needle) {
                text.push_str(&String::from_utf8_lossy(
                    &events.next().await.unwrap().unwrap(),
                ));
            }
        };
        let waited = tokio::time::timeout(Duration::from_secs(10), wait).await;
        waited.unwrap_or_else(|_| panic!("no {needle}"));
    };
    seen("\"type\":\"ready\"").await;
    workspace.sh("cd /data/p; echo x > src/new; mv src/new src/renamed; mkdir deep; echo y > deep/f; rm src/a.rs").await;
    seen("{\"type\":\"created\",\"path\":\"/data/p/src/new\"").await;
    seen("\"type\":\"renamed\",\"path\":\"/data/p/src/new\",\"to\":\"/data/p/src/renamed\"").await;
    seen("\"path\":\"/data/p/deep/f\"").await;
    seen("{\"type\":\"removed\",\"path\":\"/data/p/src/a.rs\"").await;
}
