//! An agent that lies: it sends more than was asked for, more than there can be, or less than it says.

use crate::support::Api;
use async_trait::async_trait;
use botstead_bridge::proto::agent_server::{Agent, AgentServer};
use botstead_bridge::proto::files_server::{Files, FilesServer};
use botstead_bridge::proto::processes_server::{Processes, ProcessesServer};
use botstead_bridge::proto::search_reply::{Done, Line, Match, Part, Span};
use botstead_bridge::proto::{self, ProcessInfo};
use botstead_runtime::{ByteStream, Channels, Result as RuntimeResult};
use botstead_types::ContainerId;
use futures_util::stream::{self, BoxStream, StreamExt};
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tonic::transport::Server;
use tonic::{Request, Response, Status, Streaming};

type Reply<T> = Result<Response<T>, Status>;
type Many<T> = BoxStream<'static, Result<T, Status>>;

fn no<T>() -> Reply<T> {
    Err(Status::unimplemented("not here"))
}

#[derive(Clone, Default)]
struct Liar {
    /// How many matches were sent.
    sent: Arc<AtomicUsize>,
}

#[async_trait]
impl Channels for Liar {
    async fn connect(&self, _: &ContainerId, _: &str) -> RuntimeResult<Box<dyn ByteStream>> {
        let (ours, theirs) = tokio::io::duplex(1 << 20);
        let server = Server::builder()
            .add_service(AgentServer::new(self.clone()))
            .add_service(FilesServer::new(self.clone()))
            .add_service(ProcessesServer::new(self.clone()));
        let incoming = stream::iter([Ok::<_, std::io::Error>(theirs)]).chain(stream::pending());
        tokio::spawn(server.serve_with_incoming(incoming));
        Ok(Box::new(ours))
    }
}

#[async_trait]
impl Agent for Liar {
    async fn health(&self, _: Request<proto::HealthRequest>) -> Reply<proto::HealthReply> {
        Ok(Response::new(proto::HealthReply {
            version: "v".repeat(1 << 20),
            ..proto::HealthReply::default()
        }))
    }
}

fn found() -> proto::SearchReply {
    let line = Line {
        number: 1,
        text: vec![b'x'; 8 << 10].into(),
        spans: vec![Span { start: 0, end: 9 }; 100],
        left_out: 0,
    };
    proto::SearchReply {
        part: Some(Part::Match(Match {
            path: vec![b'/'; 10_000].into(),
            lines: vec![line; 60],
            ..Match::default()
        })),
    }
}

#[async_trait]
impl Files for Liar {
    type ReadStream = Many<proto::ReadReply>;
    type SearchStream = Many<proto::SearchReply>;
    type WatchStream = Many<proto::WatchReply>;
    type ArchiveStream = Many<proto::ArchiveReply>;

    async fn search(
        &self,
        request: Request<proto::SearchRequest>,
    ) -> Reply<Many<proto::SearchReply>> {
        let request = request.into_inner();
        if request.pattern == "ends early" {
            return Ok(Response::new(stream::iter([Ok(found())]).boxed()));
        }
        if request.pattern == "done" {
            let done = proto::SearchReply {
                part: Some(Part::Done(Done {
                    matches: u64::MAX,
                    ..Done::default()
                })),
            };
            return Ok(Response::new(stream::iter([Ok(done)]).boxed()));
        }
        let sent = Arc::clone(&self.sent);
        let endless = stream::repeat_with(move || {
            sent.fetch_add(1, Ordering::SeqCst);
            Ok(found())
        });
        Ok(Response::new(endless.boxed()))
    }

    async fn list(&self, request: Request<proto::ListRequest>) -> Reply<proto::ListReply> {
        let flood = request.into_inner().recursive;
        let entry = proto::Entry {
            // A name that needs three characters for each byte.
            path: vec![0xff; if flood { 0 } else { 3000 }].into(),
            ..proto::Entry::default()
        };
        Ok(Response::new(proto::ListReply {
            path: "/".into(),
            entries: vec![entry; if flood { 1 << 20 } else { 1200 }],
            more: false,
        }))
    }

    async fn stat(&self, request: Request<proto::StatRequest>) -> Reply<proto::Entry> {
        let at = request.into_inner().at.unwrap_or_default();
        Ok(Response::new(proto::Entry {
            path: at.path,
            kind: proto::entry::Kind::Directory.into(),
            ..proto::Entry::default()
        }))
    }
    /// Says what there is, and gives nothing of it, or, of what is large, all, but slowly.
    async fn read(&self, request: Request<proto::ReadRequest>) -> Reply<Many<proto::ReadReply>> {
        use proto::read_reply::{Head, Part};
        if request
            .into_inner()
            .at
            .is_some_and(|at| at.path == "/large")
        {
            let part = |part| Ok(proto::ReadReply { part: Some(part) });
            let head = part(Part::Head(Head {
                entry: Some(proto::Entry::default()),
                length: Some(LARGE as u64),
                ..Head::default()
            }));
            let data = vec![part(Part::Data(vec![b'x'; LARGE / 16].into())); 16];
            let slowly = stream::iter(data).then(|data| async {
                tokio::time::sleep(Duration::from_millis(10)).await;
                data
            });
            return Ok(Response::new(stream::iter([head]).chain(slowly).boxed()));
        }
        let part = |part| Ok(proto::ReadReply { part: Some(part) });
        let head = part(Part::Head(Head {
            entry: Some(proto::Entry::default()),
            length: Some(10),
            ..Head::default()
        }));
        let nothing = stream::repeat_with(move || part(Part::Data(Vec::new().into())));
        let slowly = nothing.then(|empty| async {
            tokio::time::sleep(Duration::from_millis(20)).await;
            empty
        });
        Ok(Response::new(stream::iter([head]).chain(slowly).boxed()))
    }
    async fn write(&self, _: Request<Streaming<proto::WriteRequest>>) -> Reply<proto::WriteReply> {
        no()
    }
    async fn make_directory(&self, _: Request<proto::MakeDirectoryRequest>) -> Reply<proto::Entry> {
        no()
    }
    async fn rename(&self, _: Request<proto::RenameRequest>) -> Reply<proto::RenameReply> {
        no()
    }
    async fn remove(&self, _: Request<proto::RemoveRequest>) -> Reply<proto::RemoveReply> {
        no()
    }
    async fn change(&self, _: Request<proto::ChangeRequest>) -> Reply<proto::ChangeReply> {
        no()
    }
    async fn copy(&self, _: Request<proto::CopyRequest>) -> Reply<proto::CopyReply> {
        std::future::pending().await
    }
    async fn watch(&self, _: Request<proto::WatchRequest>) -> Reply<Many<proto::WatchReply>> {
        no()
    }
    /// Of what is called `shrunk` a file became shorter.
    async fn archive(
        &self,
        request: Request<proto::ArchiveRequest>,
    ) -> Reply<Many<proto::ArchiveReply>> {
        let at = request.into_inner().at.unwrap_or_default();
        let done = proto::archive_reply::Done {
            cut: u64::from(at.path == "/shrunk"),
            ..proto::archive_reply::Done::default()
        };
        let data = proto::ArchiveReply {
            data: vec![b'x'; 10_000].into(),
            done: None,
        };
        let end = proto::ArchiveReply {
            done: Some(done),
            ..proto::ArchiveReply::default()
        };
        Ok(Response::new(stream::iter([Ok(data), Ok(end)]).boxed()))
    }
}

#[async_trait]
impl Processes for Liar {
    type RunStream = Many<proto::RunOutput>;

    async fn list(
        &self,
        _: Request<proto::ListProcessesRequest>,
    ) -> Reply<proto::ListProcessesReply> {
        let process = |n: usize| ProcessInfo {
            id: format!("p{n}"),
            args: vec!["x".repeat(100).into(); 10],
            terminal: n.is_multiple_of(2),
            running: true,
            started_at_ms: i64::MAX,
            idle_ms: u64::MAX,
            ..ProcessInfo::default()
        };
        Ok(Response::new(proto::ListProcessesReply {
            processes: (0..3000).map(process).collect(),
        }))
    }

    /// Starts, and takes no input. One that is called `flood` fills both outputs with the first byte of its
    /// argument, and ends later.
    async fn run(
        &self,
        request: Request<Streaming<proto::RunInput>>,
    ) -> Reply<Many<proto::RunOutput>> {
        use proto::run_input::Input;
        use proto::run_output::{Exit, Output};
        let mut input = request.into_inner();
        let first = input.message().await?.and_then(|first| first.input);
        let args = match first {
            Some(Input::Start(start)) => start.args,
            _ => Vec::new(),
        };
        if args.first().is_some_and(|name| name == "flood") {
            let byte = args[1][0];
            let part = |output| {
                Ok(proto::RunOutput {
                    output: Some(output),
                })
            };
            let data = move || vec![byte; 64 << 10].into();
            let parts = (0..16).flat_map(move |_| [Output::Stdout(data()), Output::Stderr(data())]);
            let exit = stream::once(async {
                tokio::time::sleep(Duration::from_secs(7)).await;
                Output::Exit(Exit::default())
            });
            return Ok(Response::new(
                stream::iter(parts).chain(exit).map(part).boxed(),
            ));
        }
        let waits = stream::once(async move {
            let _input = input;
            std::future::pending().await
        });
        let started = stream::iter([Ok(proto::RunOutput::default())]);
        Ok(Response::new(started.chain(waits).boxed()))
    }
    async fn write_input(
        &self,
        _: Request<proto::WriteInputRequest>,
    ) -> Reply<proto::WriteInputReply> {
        no()
    }
    async fn signal(&self, _: Request<proto::SignalRequest>) -> Reply<proto::SignalReply> {
        no()
    }
    async fn remove(
        &self,
        _: Request<proto::RemoveProcessRequest>,
    ) -> Reply<proto::RemoveProcessReply> {
        no()
    }
    async fn find_shell(
        &self,
        _: Request<proto::FindShellRequest>,
    ) -> Reply<proto::FindShellReply> {
        no()
    }
}

/// The reply's budget in these tests.
const BUDGET: usize = 1 << 20;
/// The bytes of a file that is read as text.
const LARGE: usize = 1 << 20;

async fn start() -> (Api, Liar, String) {
    let liar = Liar::default();
    let channels = Arc::new(liar.clone());
    let api = Api::set_up(|setup| {
        setup.http.max_text_bytes = LARGE;
        // Half of it is for four such files, three times each.
        setup.http.max_memory_bytes = 2 * 4 * 3 * LARGE;
        setup.http.max_reply_bytes = BUDGET;
        setup.http.max_json_bytes = 4 << 20;
        setup.workspace.agent_patience = Duration::from_millis(100);
        setup.channels = Some(channels);
    })
    .await;
    let bot = api.bot_with_workspace().await;
    (api, liar, format!("{bot}/container"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_search_has_no_more_than_fits_into_a_reply() {
    let (api, liar, container) = start().await;
    let path = format!("{container}/fs/search?path=/&pattern=x&context=20&limit=10000");
    let reply = api.get(&path).await;
    let found = reply.expect(200);
    assert!(
        reply.text.len() < BUDGET + 1024,
        "{} bytes",
        reply.text.len()
    );
    assert_eq!(found["truncated"], true);
    let matches = found["matches"].as_array().unwrap();
    assert!(!matches.is_empty());
    // Neither lines that were not asked for nor lines of any length.
    assert_eq!(matches[0]["lines"].as_array().unwrap().len(), 41);
    assert_eq!(matches[0]["lines"][0]["text"].as_str().unwrap().len(), 4096);
    // The agent was told to stop: what it sent on fits into buffers.
    let sent = liar.sent.load(Ordering::SeqCst);
    assert!(sent < 1000, "{sent} matches were sent");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_search_has_no_more_matches_than_were_asked_for() {
    let (api, _, container) = start().await;
    let path = format!("{container}/fs/search?path=/&pattern=x&limit=3");
    let found = api.get(&path).await.expect(200);
    assert_eq!(found["matches"].as_array().unwrap().len(), 3);
    assert_eq!(found["truncated"], true);
    let request = api.request(&api.member, reqwest::Method::GET, &path);
    let events = api.send(request.header("accept", "text/event-stream"));
    let events = events.await.events();
    assert_eq!(events.len(), 4);
    assert_eq!(events[3]["type"], "done");
    assert_eq!(
        (&events[3]["matches"], &events[3]["truncated"]),
        (&3.into(), &true.into())
    );

    let path = format!("{container}/fs/search?path=/&pattern=done");
    let request = api.request(&api.member, reqwest::Method::GET, &path);
    let events = api.send(request.header("accept", "text/event-stream"));
    assert_eq!(events.await.events()[0]["matches"], 0);
    // One that breaks off is not taken for a whole one.
    let path = format!("{container}/fs/search?path=/&pattern=ends%20early");
    let reply = api.get(&path).await;
    reply.expect_problem(503, "workspace_unreachable");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_is_given_in_pages_that_fit() {
    let (api, _, container) = start().await;
    let reply = api
        .get(&format!("{container}/fs/list?path=/&limit=1000"))
        .await;
    let page = reply.expect(200);
    assert!(
        reply.text.len() < BUDGET + 16_384,
        "{} bytes",
        reply.text.len()
    );
    let entries = page["entries"].as_array().unwrap().len();
    assert!((1..1000).contains(&entries), "{entries}");
    assert!(page["next_cursor"].is_string());
    // A million empty entries take two bytes each on the way here.
    let reply = api
        .get(&format!("{container}/fs/list?path=/&recursive=true"))
        .await;
    reply.expect_problem(503, "workspace_unreachable");
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_of_processes_are_cut_and_say_so() {
    let (api, _, container) = start().await;
    for path in ["exec", "terminal/sessions"] {
        let reply = api.get(&format!("{container}/{path}")).await;
        let list = reply.expect(200);
        assert_eq!(list["truncated"], true, "{path}");
        assert!(list["items"].as_array().unwrap().len() <= 1024);
        assert!(reply.text.len() < BUDGET + 1024);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_begins_and_does_not_go_on_is_ended() {
    let (api, _, container) = start().await;
    let path = format!("{container}/fs/read?path=/a");
    let read = api.get(&path);
    let copy = json!({"oldPath": "/a", "newPath": "/b"});
    let path = format!("{container}/fs/copy");
    let copy = api.post(&path, copy);
    let (read, copy) = tokio::join!(read, copy);
    for reply in [read, copy] {
        reply.expect_problem(503, "workspace_stalled");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_have_no_room_beside_each_other_are_read_after_each_other() {
    let (api, _, container) = start().await;
    let path = format!("{container}/fs/read?path=/large");
    let replies = futures_util::future::join_all((0..8).map(|_| api.get(&path))).await;
    for reply in replies {
        assert_eq!(reply.expect(200)["content"].as_str().unwrap().len(), LARGE);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_keep_no_more_of_their_outputs_than_there_is_memory() {
    let (api, _, container) = start().await;
    let path = format!("{container}/exec");
    let flood = |byte| api.post(&path, json!({"command": ["flood", byte]}));
    let alone = flood("x").await.expect(200);
    assert_eq!(alone["truncated"], false);
    assert_eq!(alone["stderr"].as_str().unwrap().len(), 1 << 20);
    // One user has half of the memory, 12 MiB. What is kept of a byte takes 3, as a control character 8.
    for (byte, least, most) in [("x", 3 << 20, 5 << 20), ("\u{1}", 1 << 20, 2 << 20)] {
        let mut kept = 0;
        for reply in futures_util::future::join_all((0..8).map(|_| flood(byte))).await {
            let reply = reply.expect(200);
            let outputs = ["stdout", "stderr"].map(|it| reply[it].as_str().unwrap().len());
            let sum = outputs.iter().sum::<usize>();
            assert_eq!(reply["truncated"], sum < 2 << 20);
            kept += sum;
        }
        assert!(
            (least..most).contains(&kept),
            "{kept} bytes of {byte:?} are kept"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_of_files_that_became_shorter_is_none() {
    let (api, _, container) = start().await;
    for (path, whole) in [("/as-it-is", true), ("/shrunk", false)] {
        let path = format!("{container}/fs/download?path={path}");
        let request = api.request(&api.member, reqwest::Method::GET, &path);
        let reply = request.send().await.unwrap().error_for_status().unwrap();
        let file = api.directory.path().join("archive.gz");
        std::fs::write(&file, reply.bytes().await.unwrap()).unwrap();
        let tested = std::process::Command::new("gzip")
            .arg("-t")
            .arg(&file)
            .output();
        assert_eq!(tested.unwrap().status.success(), whole, "{path}");
    }
}
