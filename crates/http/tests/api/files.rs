//! Files over HTTP, served by the agent's own service on a folder of this host.

use crate::broken::{Raw, check_nobody_takes};
use crate::support::{Api, Reply};
use async_trait::async_trait;
use botstead_agent::files::{FilesService, Settings};
use botstead_bridge::proto;
use botstead_bridge::proto::agent_server::{Agent, AgentServer};
use botstead_bridge::proto::files_server::FilesServer;
use botstead_runtime::{ByteStream, Channels, Result as RuntimeResult};
use botstead_types::ContainerId;
use futures_util::stream::{self, StreamExt};
use reqwest::Method;
use reqwest::multipart::Form;
use serde_json::json;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, UNIX_EPOCH};
use tempfile::TempDir;
use tonic::transport::Server;
use tonic::{Request, Response, Status};

/// An agent of which only the files are served.
#[derive(Clone)]
struct OnlyFiles {
    files: Arc<FilesService>,
    knows_users: bool,
}

#[async_trait]
impl Channels for OnlyFiles {
    async fn connect(&self, _: &ContainerId, _: &str) -> RuntimeResult<Box<dyn ByteStream>> {
        let (ours, theirs) = tokio::io::duplex(1 << 20);
        let server = Server::builder()
            .add_service(AgentServer::new(self.clone()))
            .add_service(FilesServer::from_arc(Arc::clone(&self.files)));
        let incoming = stream::iter([Ok::<_, std::io::Error>(theirs)]).chain(stream::pending());
        tokio::spawn(server.serve_with_incoming(incoming));
        Ok(Box::new(ours))
    }
}

#[async_trait]
impl Agent for OnlyFiles {
    async fn health(
        &self,
        _: Request<proto::HealthRequest>,
    ) -> Result<Response<proto::HealthReply>, Status> {
        Ok(Response::new(proto::HealthReply {
            revision: u32::from(self.knows_users),
            ..proto::HealthReply::default()
        }))
    }
}

/// A server, a bot with a workspace, and a folder whose paths are the same inside and here.
pub(crate) struct World {
    pub(crate) api: Api,
    pub(crate) fs: String,
    folder: TempDir,
}

impl World {
    pub(crate) async fn new() -> Self {
        Self::with_agent(true).await
    }

    async fn with_agent(knows_users: bool) -> Self {
        let channels = Arc::new(OnlyFiles {
            files: Arc::new(FilesService::new(Settings::default())),
            knows_users,
        });
        let api = Api::set_up(|setup| setup.channels = Some(channels)).await;
        let bot = api.bot_with_workspace().await;
        Self {
            fs: format!("{bot}/container/fs"),
            folder: TempDir::with_prefix("botstead-files-").unwrap(),
            api,
        }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn put(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        let path = self.at(name);
        std::fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    }

    async fn ask(&self, method: Method, path: &str, headers: &[(&str, &str)]) -> Reply {
        let path = format!("{}/download?path={path}", self.fs);
        let mut request = self.api.request(&self.api.member, method, &path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.api.send(request).await
    }

    async fn upload(&self, form: Form) -> Reply {
        let path = format!("{}/upload", self.fs);
        let request = self.api.request(&self.api.member, Method::POST, &path);
        self.api.send(request.multipart(form)).await
    }

    async fn download(&self, path: &str, headers: &[(&str, &str)]) -> Reply {
        self.ask(Method::GET, path, headers).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_from_before_1970_is_downloaded_with_its_date() {
    let world = World::new().await;
    let path = world.put("old", "content");
    let file = std::fs::File::open(&path).unwrap();
    for (before, date) in [
        (1, "Wed, 31 Dec 1969 23:59:59 GMT"),
        (2_145_916_800, "Wed, 01 Jan 1902 00:00:00 GMT"),
    ] {
        file.set_modified(UNIX_EPOCH - Duration::from_secs(before))
            .unwrap();
        let reply = world.download(&path, &[]).await;
        assert_eq!((reply.status.as_u16(), &*reply.text), (200, "content"));
        assert_eq!(reply.header("last-modified"), date);
        let same = world.download(&path, &[("if-modified-since", date)]).await;
        assert_eq!(same.status, 304);
        assert_eq!(same.header("etag"), reply.header("etag"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_being_written_is_downloaded_as_it_was_opened() {
    let world = World::new().await;
    let path = world.put("log", "line\n");
    let end = Arc::new(AtomicBool::new(false));
    let writer = std::thread::spawn({
        let (path, end) = (path.clone(), Arc::clone(&end));
        move || {
            let mut file = std::fs::File::options().append(true).open(path).unwrap();
            while !end.load(Ordering::Relaxed) {
                file.write_all(b"line\n").unwrap();
            }
        }
    });
    let mut refused = Vec::new();
    for round in 0..40 {
        let headers: &[_] = match round % 4 {
            0 => &[],
            1 => &[("range", "bytes=0-4")],
            2 => &[("range", "bytes=-5")],
            _ => &[("if-match", "*")],
        };
        let reply = world.download(&path, headers).await;
        let (part, status) = (round % 4, reply.status.as_u16());
        let fits = match part {
            1 => status == 206 && reply.text == "line\n",
            // A line across two pages grows the file twice.
            2 => status == 206 && reply.text.len() == 5 && "line\nline\n".contains(&reply.text),
            _ => status == 200 && reply.text.len().to_string() == reply.header("content-length"),
        };
        if !fits {
            refused.push((part, status, reply.text.len()));
        }
    }
    let stale = world.download(&path, &[("if-match", "\"1-2-3-4\"")]).await;
    end.store(true, Ordering::Relaxed);
    writer.join().unwrap();
    assert!(refused.is_empty(), "{refused:?}");
    stale.expect_problem(412, "precondition_failed");
}

#[tokio::test(flavor = "multi_thread")]
async fn head_answers_as_get_does() {
    let world = World::new().await;
    let fifo = world.at("fifo");
    rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, 0o600.into()).unwrap();
    world.put("file.txt", "content");
    world.put("empty", "");
    let here = |name: &str| world.at(name).to_str().unwrap().to_owned();
    for (path, status) in [
        (here("file.txt"), 200),
        (here("empty"), 200),
        (here(""), 200),
        (here("fifo"), 422),
        (here("none"), 404),
        ("/proc/version".to_owned(), 200),
        (
            "/sys/kernel/mm/transparent_hugepage/enabled".to_owned(),
            200,
        ),
        ("/proc/self/mem".to_owned(), 422),
        ("relative".to_owned(), 400),
    ] {
        let [get, head] = [Method::GET, Method::HEAD]
            .map(|method| world.ask(method, &path, &[("x-request-id", "r")]));
        let (get, head) = (get.await, head.await);
        assert_eq!(get.status.as_u16(), status, "{path}: {}", get.text);
        assert_eq!(head.status, get.status, "{path}");
        assert!(head.text.is_empty());
        let headers = |reply: &Reply| {
            let headers = reply.headers.iter();
            let mut headers: Vec<_> = headers
                .filter(|(name, _)| *name != "date")
                .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
                .collect();
            headers.sort();
            headers
        };
        assert_eq!(headers(&head), headers(&get), "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ranges_and_dates_are_answered_as_the_standard_says() {
    let world = World::new().await;
    let path = world.put("ten", "0123456789");
    for (range, status, said, content) in [
        ("bytes=2-4", 206, "bytes 2-4/10", "234"),
        ("bytes=7-", 206, "bytes 7-9/10", "789"),
        ("bytes=8-99", 206, "bytes 8-9/10", "89"),
        ("bytes=-3", 206, "bytes 7-9/10", "789"),
        ("bytes=-99", 206, "bytes 0-9/10", "0123456789"),
        (
            "bytes=0-18446744073709551615",
            206,
            "bytes 0-9/10",
            "0123456789",
        ),
        ("bytes=5-1", 200, "", "0123456789"),
        ("bytes=0-1,3-4", 200, "", "0123456789"),
    ] {
        let reply = world.download(&path, &[("range", range)]).await;
        assert_eq!(
            (reply.status.as_u16(), &*reply.text),
            (status, content),
            "{range}"
        );
        assert_eq!(reply.header("content-range"), said, "{range}");
    }
    for range in ["bytes=10-", "bytes=99-100", "bytes=-0"] {
        let reply = world.download(&path, &[("range", range)]).await;
        reply.expect_problem(416, "range_not_satisfiable");
        assert_eq!(reply.header("content-range"), "bytes */10", "{range}");
    }
    let whole = world.download(&path, &[]).await;
    let (tag, date) = (whole.header("etag"), whole.header("last-modified"));
    let long_ago = "Thu, 01 Jan 1970 00:00:00 GMT";
    for (headers, status) in [
        (vec![("if-modified-since", date)], 304),
        (vec![("if-modified-since", long_ago)], 200),
        (vec![("if-unmodified-since", date)], 200),
        (vec![("if-unmodified-since", long_ago)], 412),
        (
            vec![("if-match", tag), ("if-unmodified-since", long_ago)],
            200,
        ),
        (
            vec![("if-none-match", "\"x\""), ("if-modified-since", date)],
            200,
        ),
        (vec![("if-range", tag), ("range", "bytes=0-0")], 206),
        (vec![("if-range", "\"x\""), ("range", "bytes=0-0")], 200),
        (vec![("if-none-match", tag), ("range", "bytes=99-")], 304),
    ] {
        let reply = world.download(&path, &headers).await;
        assert_eq!(reply.status.as_u16(), status, "{headers:?}");
    }
    let head = world
        .ask(Method::HEAD, &path, &[("range", "bytes=0-1")])
        .await;
    assert_eq!(
        (head.status.as_u16(), head.header("content-length")),
        (200, "10")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_kernel_makes_up_has_no_tag_no_date_and_no_parts() {
    let world = World::new().await;
    for path in [
        "/proc/version",
        "/sys/kernel/mm/transparent_hugepage/enabled",
    ] {
        for headers in [
            &[][..],
            &[("range", "bytes=1-2")],
            &[("range", "bytes=-2")],
            &[("if-none-match", "\"\"")],
            &[("if-modified-since", "Fri, 31 Dec 2100 00:00:00 GMT")],
        ] {
            let reply = world.download(path, headers).await;
            assert_eq!(reply.status, 200, "{path} {headers:?}: {}", reply.text);
            assert_eq!(reply.text, std::fs::read_to_string(path).unwrap());
            for name in ["etag", "last-modified", "accept-ranges", "content-range"] {
                assert_eq!(reply.header(name), "", "{path} {headers:?}");
            }
        }
    }
    let refused = world.download("/proc/self/mem", &[]).await;
    refused.expect_problem(422, "not_a_regular_file");
    let read = format!("{}/read?path=/proc/self/mem", world.fs);
    let refused = world.api.get(&read).await;
    refused.expect_problem(422, "not_a_regular_file");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_search_takes_braces_and_says_where_it_did_not_look() {
    let world = World::new().await;
    for name in ["a.js", "b.ts", "c.rs"] {
        world.put(name, "a needle\r\n");
    }
    let binary = world.put("d.ts", "needle\0");
    let place = world.at("");
    let search = format!("{}/search?path={}", world.fs, place.display());
    let reply = world
        .api
        .get(&format!("{search}&glob=*.{{js,ts}}&pattern=needle$"))
        .await;
    let found = reply.expect(200);
    assert_eq!(found["matches"].as_array().unwrap().len(), 2, "{found}");
    assert_eq!(
        (&found["files_searched"], &found["skipped_files"]),
        (&2.into(), &1.into())
    );
    assert_eq!(
        found["skipped"],
        json!([{"path": binary, "reason": "binary"}])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_fields_and_values_are_refused_by_name() {
    let world = World::new().await;
    let path = world.at("f").to_str().unwrap().to_owned();
    for (call, body, said) in [
        (
            "write",
            json!({"path": path, "content": "x", "contents": "y"}),
            "contents: unknown field",
        ),
        (
            "write",
            json!({"path": path, "content": "x", "mode": 420}),
            "mode: invalid type: integer `420`, expected octal text",
        ),
        (
            "write",
            json!({"path": path, "content": "x", "mode": "0899"}),
            "mode: \"0899\" must be octal text",
        ),
        (
            "write",
            json!({"path": path, "content": "?", "encoding": "base64"}),
            "content: must be base64",
        ),
        (
            "mkdir",
            json!({"path": path, "parents": true}),
            "parents: unknown field",
        ),
        (
            "rename",
            json!({"oldPath": path, "newPath": path, "replace": true}),
            "replace: unknown field",
        ),
        (
            "copy",
            json!({"oldPath": path, "new_path": path}),
            "new_path: unknown field",
        ),
        (
            "delete",
            json!({"path": path, "force": true}),
            "force: unknown field",
        ),
        (
            "chmod",
            json!({"path": path, "recursive": true}),
            "mode or owner must be given",
        ),
    ] {
        let reply = world.api.post(&format!("{}/{call}", world.fs), body).await;
        let detail = reply.expect(400)["detail"].to_string().replace('\\', "");
        assert!(detail.contains(said), "{call}: {detail}");
    }
    assert!(!world.at("f").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn modes_are_octal_text_everywhere() {
    let world = World::new().await;
    let mode = |name: &str| world.at(name).metadata().unwrap().mode() & 0o7777;
    let at = |name: &str| world.at(name).to_str().unwrap().to_owned();
    let post = async |call: &str, body| {
        let reply = world.api.post(&format!("{}/{call}", world.fs), body).await;
        reply.expect(200)
    };
    post(
        "write",
        json!({"path": at("w"), "content": "x", "mode": "0750"}),
    )
    .await;
    assert_eq!(mode("w"), 0o750);
    for path_first in [true, false] {
        let form = match path_first {
            true => Form::new()
                .text("path", at("u"))
                .text("mode", "600")
                .text("file", "x"),
            false => Form::new()
                .text("file", "x")
                .text("path", at("v"))
                .text("mode", "600"),
        };
        world.upload(form).await.expect(200);
    }
    assert_eq!((mode("u"), mode("v")), (0o600, 0o600));
    std::fs::create_dir(world.at("d")).unwrap();
    world.put("d/f", "");
    let changed = post(
        "chmod",
        json!({"path": at("d"), "mode": "0711", "owner": "5:6", "recursive": true}),
    );
    assert_eq!(changed.await, json!({"ok": true, "changed": 2}));
    let owner = world.at("d/f").metadata().unwrap();
    assert_eq!((mode("d/f"), owner.uid(), owner.gid()), (0o711, 5, 6));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_form_has_one_file_and_no_other_fields() {
    let world = World::new().await;
    let path = world.at("f").to_str().unwrap().to_owned();
    for (form, said) in [
        (
            Form::new()
                .text("path", path.clone())
                .text("file", "1")
                .text("file", "2"),
            "`file` only once",
        ),
        (
            Form::new()
                .text("file", "1")
                .text("file", "2")
                .text("path", path.clone()),
            "`file` only once",
        ),
        (
            Form::new()
                .text("path", path.clone())
                .text("path", path.clone())
                .text("file", "1"),
            "`path` only once",
        ),
        (
            Form::new()
                .text("path", path.clone())
                .text("file", "1")
                .text("perm", "7"),
            "no field `perm`",
        ),
        (Form::new().text("path", path.clone()), "no field `file`"),
        (
            Form::new()
                .text("path", path.clone())
                .text("mode", "9")
                .text("file", "1"),
            "octal text",
        ),
    ] {
        let reply = world.upload(form).await;
        let detail = reply.expect(400)["detail"].to_string();
        assert!(detail.contains(said), "{detail}");
        assert!(!world.at("f").exists(), "{said}");
    }
    world
        .upload(Form::new().text("path", path).text("file", "1"))
        .await
        .expect(200);
    assert_eq!(std::fs::read(world.at("f")).unwrap(), b"1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_is_for_the_file_that_it_was_got_for() {
    let world = World::new().await;
    let (one, two) = (world.put("one", "1"), world.put("two", "2"));
    let ticket = async |query: &str| {
        let path = format!("{}/download{query}", world.fs);
        let body = json!({"method": "GET", "path": path});
        let issued = world.api.post("/auth/tickets", body).await.expect(201);
        issued["ticket"].as_str().unwrap().to_owned()
    };
    let show = async |path: &str, ticket: &str| {
        let path = format!("{}/download?path={path}&ticket={ticket}", world.fs);
        world.api.call("", Method::GET, &path, None).await
    };
    let issued = ticket(&format!("?path={one}")).await;
    assert_eq!(show(&one, &issued).await.text, "1");
    for query in [format!("?path={one}"), String::new()] {
        let issued = ticket(&query).await;
        show(&two, &issued)
            .await
            .expect_problem(401, "invalid_ticket");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn text_says_its_charset_and_sources_are_text() {
    let world = World::new().await;
    for (name, kind) in [
        ("a.ts", "text/plain; charset=utf-8"),
        ("Dockerfile", "text/plain; charset=utf-8"),
        ("a.css", "text/css; charset=utf-8"),
        ("a.png", "image/png"),
    ] {
        let path = world.put(name, "x");
        let reply = world.download(&path, &[]).await;
        assert_eq!(reply.header("content-type"), kind, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_agent_is_not_asked_to_do_it_as_a_user() {
    let world = World::with_agent(false).await;
    let path = world.put("note", "content");
    let read = format!("{}/read?path={path}", world.fs);
    world.api.get(&read).await.expect(200);
    world.api.get(&format!("{read}&user=")).await.expect(200);
    let refused = world.api.get(&format!("{read}&user=1000")).await;
    let refused = refused.expect_problem(409, "agent_outdated");
    let words = refused["detail"].as_str().unwrap();
    assert!(words.contains("stop and start the workspace"), "{words}");
    let body = json!({"path": path, "content": "x", "user": "1000"});
    let refused = world.api.post(&format!("{}/write", world.fs), body).await;
    refused.expect_problem(409, "agent_outdated");
    assert_eq!(
        std::fs::read_to_string(world.at("note")).unwrap(),
        "content"
    );
    let long = world
        .api
        .get(&format!("{read}&user={}", "x".repeat(256)))
        .await;
    long.expect_problem(400, "invalid_value");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_of_a_directory_that_fails_is_no_archive_and_its_connection_goes_on() {
    let world = World::new().await;
    let mode = |path: PathBuf, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    mode(world.folder.path().to_owned(), 0o755);
    // What comes first is much or nothing.
    for (name, bytes) in [("much", 4 << 20), ("nothing", 0)] {
        let folder = world.at(name);
        std::fs::create_dir(&folder).unwrap();
        if bytes > 0 {
            std::fs::write(folder.join("a"), vec![b'x'; bytes]).unwrap();
        }
        std::fs::write(folder.join("secret"), "x").unwrap();
        mode(folder.join("secret"), 0o600);
        let path = folder.to_str().unwrap();
        let call = format!("{}/download?path={path}", world.fs);
        let mut raw = Raw::connect(&world.api).await;
        raw.ask(&world.api, "GET", &format!("{call}&user=4242"))
            .await;
        assert_eq!(raw.head().await.0, 200);
        let broken = raw.body().await;
        raw.ask(&world.api, "GET", &call).await;
        assert_eq!(raw.head().await.0, 200);
        let whole = raw.body().await;
        let file = world.at("archive.tar.gz");
        std::fs::write(&file, broken).unwrap();
        check_nobody_takes(&file, "--gzip");
        std::fs::write(&file, whole).unwrap();
        let listed = std::process::Command::new("tar")
            .arg("-tzf")
            .arg(&file)
            .output();
        assert!(listed.unwrap().status.success());
    }
}
