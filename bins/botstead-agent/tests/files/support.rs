//! An agent's service on a unix socket, a client of it, and a folder that is the root of requests.

use async_trait::async_trait;
use botstead_agent::files::{FilesService, Settings};
use botstead_bridge::proto::files_client::FilesClient;
use botstead_bridge::proto::files_server::FilesServer;
use botstead_bridge::proto::{self, read_reply, read_request, write_request};
use botstead_bridge::{AgentPool, Connector, Failure, FailureKind, Stream};
use botstead_types::ContainerId;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{self, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::net::{UnixListener, UnixStream};
use tokio_stream::StreamExt;
use tonic::codegen::tokio_stream;
use tonic::transport::{Channel, Server};
use tonic::{Status, Streaming};

/// Who owns what the agent makes.
pub(crate) const OWNER: (u32, u32) = (12345, 23456);

/// Watches of one call.
pub(crate) const MOST_WATCHES: usize = 300;

/// Blocking threads, as in the agent.
const THREADS: usize = 6;

/// The agent's socket, which has no place in the filesystem; one agent serves all tests.
fn agent() -> &'static SocketAddr {
    static AGENT: OnceLock<SocketAddr> = OnceLock::new();
    AGENT.get_or_init(|| {
        // Walks are to need few descriptors.
        let hard = getrlimit(Resource::Nofile).maximum;
        let limit = Rlimit {
            current: Some(1024),
            maximum: hard,
        };
        setrlimit(Resource::Nofile, limit).unwrap();
        let name = format!("botstead-files-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(name).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(THREADS)
            .build()
            .unwrap();
        let listener = {
            let _inside = runtime.enter();
            let listener = net::UnixListener::bind_addr(&address).unwrap();
            listener.set_nonblocking(true).unwrap();
            UnixListener::from_std(listener).unwrap()
        };
        std::thread::spawn(move || runtime.block_on(serve(listener)));
        address
    })
}

async fn serve(listener: UnixListener) {
    let service = Arc::new(FilesService::new(Settings {
        owner_uid: OWNER.0,
        owner_gid: OWNER.1,
        max_watches: MOST_WATCHES,
    }));
    let incoming = tokio_stream::wrappers::UnixListenerStream::new(listener);
    Server::builder()
        .initial_stream_window_size(256 << 10)
        .initial_connection_window_size(4 << 20)
        .add_service(FilesServer::from_arc(service))
        .serve_with_incoming(incoming)
        .await
        .unwrap();
}

struct Socket;

#[async_trait]
impl Connector for Socket {
    async fn connect(&self, _: &ContainerId) -> io::Result<Box<dyn Stream>> {
        let stream = net::UnixStream::connect_addr(agent())?;
        stream.set_nonblocking(true)?;
        Ok(Box::new(UnixStream::from_std(stream)?))
    }
}

/// A client with a folder of its own.
pub(crate) struct Space {
    pub(crate) folder: TempDir,
    pub(crate) files: FilesClient<Channel>,
}

pub(crate) type Answer<T> = Result<T, Failure>;

/// What a status says of the agent's failure; one of the transport fails the test.
pub(crate) fn failure(status: Status) -> Failure {
    Failure::of(&status).unwrap_or_else(|| panic!("not the agent's failure: {status:?}"))
}

/// The kind of failure.
pub(crate) fn kind<T>(answer: Answer<T>) -> Option<FailureKind> {
    answer.err().map(|failure| failure.kind)
}

impl Space {
    pub(crate) fn new() -> Self {
        Self::at(TempDir::with_prefix("botstead-files-").unwrap())
    }

    /// In memory where there is such a place, for many files.
    pub(crate) fn fast() -> Self {
        let memory = Path::new("/dev/shm");
        match TempDir::with_prefix_in("botstead-files-", memory) {
            Ok(folder) => Self::at(folder),
            Err(_) => Self::new(),
        }
    }

    pub(crate) fn at(folder: TempDir) -> Self {
        let pool = AgentPool::new(Arc::new(Socket));
        let container: ContainerId = "workspace-test".parse().unwrap();
        Self {
            folder,
            files: pool.get(&container).files(),
        }
    }

    /// Where a path inside the root is on this machine.
    pub(crate) fn host(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        self.folder
            .path()
            .join(path.strip_prefix("/").unwrap_or(path))
    }

    pub(crate) fn root(&self) -> Vec<u8> {
        self.folder.path().as_os_str().as_bytes().to_vec()
    }

    pub(crate) fn location(&self, path: impl AsRef<[u8]>) -> Option<proto::Location> {
        Some(proto::Location {
            root: self.root().into(),
            path: path.as_ref().to_vec().into(),
        })
    }

    /// Makes a file with its folders.
    pub(crate) fn put(&self, path: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let host = self.host(path);
        std::fs::create_dir_all(host.parent().unwrap()).unwrap();
        std::fs::write(&host, content).unwrap();
        host
    }

    pub(crate) fn link(&self, path: &str, target: impl AsRef<Path>) {
        std::os::unix::fs::symlink(target, self.host(path)).unwrap();
    }

    pub(crate) async fn stat(&self, path: impl AsRef<[u8]>) -> Answer<proto::Entry> {
        let request = proto::StatRequest {
            at: self.location(path),
            follow: false,
        };
        let answer = self.files.clone().stat(request).await;
        answer.map(|entry| entry.into_inner()).map_err(failure)
    }

    pub(crate) async fn list(&self, request: proto::ListRequest) -> Answer<proto::ListReply> {
        let answer = self.files.clone().list(request).await;
        answer.map(|reply| reply.into_inner()).map_err(failure)
    }

    pub(crate) async fn read(&self, path: impl AsRef<[u8]>) -> Answer<(read_reply::Head, Vec<u8>)> {
        self.read_part(path, None).await
    }

    pub(crate) async fn read_part(
        &self,
        path: impl AsRef<[u8]>,
        part: Option<read_request::Part>,
    ) -> Answer<(read_reply::Head, Vec<u8>)> {
        let request = proto::ReadRequest {
            at: self.location(path),
            part,
            ..proto::ReadRequest::default()
        };
        self.read_as(request).await
    }

    pub(crate) async fn read_as(
        &self,
        request: proto::ReadRequest,
    ) -> Answer<(read_reply::Head, Vec<u8>)> {
        let stream = self.files.clone().read(request).await.map_err(failure)?;
        received(stream.into_inner()).await
    }

    /// Writes a whole file.
    pub(crate) async fn write(
        &self,
        path: impl AsRef<[u8]>,
        data: impl AsRef<[u8]>,
    ) -> Answer<proto::WriteReply> {
        self.write_as(self.head(path), data).await
    }

    pub(crate) fn head(&self, path: impl AsRef<[u8]>) -> write_request::Head {
        write_request::Head {
            at: self.location(path),
            ..write_request::Head::default()
        }
    }

    pub(crate) async fn write_as(
        &self,
        head: write_request::Head,
        data: impl AsRef<[u8]>,
    ) -> Answer<proto::WriteReply> {
        let data = bytes::Bytes::copy_from_slice(data.as_ref());
        let size = data.len() as u64;
        let mut messages = vec![part(write_request::Part::Head(head))];
        let chunks = (0..data.len()).step_by(64 << 10);
        messages.extend(chunks.map(|begin| {
            let end = data.len().min(begin + (64 << 10));
            part(write_request::Part::Data(data.slice(begin..end)))
        }));
        messages.push(part(write_request::Part::End(write_request::End { size })));
        self.write_messages(messages).await
    }

    pub(crate) async fn write_messages(
        &self,
        messages: Vec<proto::WriteRequest>,
    ) -> Answer<proto::WriteReply> {
        let answer = self.files.clone().write(tokio_stream::iter(messages)).await;
        answer.map(|reply| reply.into_inner()).map_err(failure)
    }

    pub(crate) async fn remove(
        &self,
        path: impl AsRef<[u8]>,
        recursive: bool,
    ) -> Answer<proto::RemoveReply> {
        let request = proto::RemoveRequest {
            at: self.location(path),
            recursive,
        };
        let answer = self.files.clone().remove(request).await;
        answer.map(|reply| reply.into_inner()).map_err(failure)
    }

    /// The names under a folder, to see that nothing hidden is left.
    pub(crate) fn names(&self, path: &str) -> Vec<String> {
        let mut names: Vec<String> = std::fs::read_dir(self.host(path))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    pub(crate) fn owner(&self, path: &str) -> (u32, u32) {
        let metadata = std::fs::symlink_metadata(self.host(path)).unwrap();
        (metadata.uid(), metadata.gid())
    }

    pub(crate) fn mode(&self, path: &str) -> u32 {
        std::fs::symlink_metadata(self.host(path)).unwrap().mode() & 0o7777
    }
}

/// A whole read: its head, and its data put together.
pub(crate) async fn received(
    mut stream: Streaming<proto::ReadReply>,
) -> Answer<(read_reply::Head, Vec<u8>)> {
    let mut head = None;
    let mut data = Vec::new();
    while let Some(reply) = stream.next().await {
        match reply.map_err(failure)?.part.unwrap() {
            read_reply::Part::Head(begin) => assert!(head.replace(begin).is_none()),
            read_reply::Part::Data(chunk) => {
                assert!(head.is_some(), "the head comes first");
                assert!(chunk.len() <= botstead_bridge::CHUNK_BYTES);
                data.extend_from_slice(&chunk);
            }
        }
    }
    let head = head.expect("a head");
    if let Some(length) = head.length {
        assert_eq!(length, data.len() as u64, "the announced length");
    }
    Ok((head, data))
}

pub(crate) fn part(part: write_request::Part) -> proto::WriteRequest {
    proto::WriteRequest { part: Some(part) }
}

/// A mount that goes with the test.
pub(crate) struct Mounted(pub(crate) PathBuf);

impl Mounted {
    pub(crate) fn new(kind: &str, at: PathBuf, options: &str) -> Self {
        std::fs::create_dir_all(&at).unwrap();
        let options = std::ffi::CString::new(options).unwrap();
        mount(
            kind,
            &at,
            kind,
            MountFlags::empty(),
            Some(options.as_c_str()),
        )
        .expect("this test mounts and must run as root");
        Self(at)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // The folder's removal tells when this failed.
        let _ = unmount(&self.0, UnmountFlags::DETACH);
    }
}

/// Waits until something holds.
pub(crate) async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < deadline, "waited 20 s for {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A deterministic generator of numbers (splitmix64).
pub(crate) struct Numbers(pub(crate) u64);

impl Numbers {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}
