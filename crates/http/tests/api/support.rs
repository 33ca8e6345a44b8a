//! The whole server on a real socket: the in-memory runtime beneath, a real SQLite database.

use async_trait::async_trait;
use botstead_accounts::{Accounts, NewUser, Password, Settings, TokenKey};
use botstead_authz::Actor;
use botstead_http::{HttpConfig, MetricsAccess, Server, Services};
use botstead_runtime::{
    Channels, Exec, ExecOutput, ExitStatus, Result as RuntimeResult, Signal, Task, TaskEvent, Tasks,
};
use botstead_runtime_testing::{ImageContent, InMemoryRuntime};
use botstead_store::Store;
use botstead_store_sql::SqlStore;
use botstead_types::{ContainerId, ImageRef, Role};
use botstead_workspace::{WorkspaceConfig, Workspaces};
use futures_util::stream::BoxStream;
use reqwest::{Client, Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};
use std::net::IpAddr;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

pub(crate) const IMAGE: &str = "localhost/botstead/workspace:latest";
pub(crate) const PASSWORD: &str = "correct horse";

/// Tasks in memory whose commands are processes of this host, so that the path of a command
/// through the server is whole.
struct HostCommands(Arc<dyn Tasks>);

#[async_trait]
impl Tasks for HostCommands {
    async fn create(&self, id: &ContainerId) -> RuntimeResult<u32> {
        self.0.create(id).await
    }
    async fn start(&self, id: &ContainerId) -> RuntimeResult<()> {
        self.0.start(id).await
    }
    async fn kill(&self, id: &ContainerId, signal: Signal) -> RuntimeResult<()> {
        self.0.kill(id, signal).await
    }
    async fn wait(&self, id: &ContainerId) -> RuntimeResult<ExitStatus> {
        self.0.wait(id).await
    }
    async fn delete(&self, id: &ContainerId) -> RuntimeResult<ExitStatus> {
        self.0.delete(id).await
    }
    async fn get(&self, id: &ContainerId) -> RuntimeResult<Task> {
        self.0.get(id).await
    }
    async fn list(&self) -> RuntimeResult<Vec<(ContainerId, Task)>> {
        self.0.list().await
    }
    async fn exec(&self, id: &ContainerId, exec: Exec) -> RuntimeResult<ExecOutput> {
        self.0.get(id).await?;
        let mut child = tokio::process::Command::new(&exec.args[0])
            .args(&exec.args[1..])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(&exec.stdin).await.unwrap();
        drop(stdin);
        let mut output = child.wait_with_output().await.unwrap();
        let (limit, mut truncated) = (exec.output_limit, false);
        for kept in [&mut output.stdout, &mut output.stderr] {
            truncated |= kept.len() > limit;
            kept.truncate(limit);
        }
        Ok(ExecOutput {
            exit_code: output.status.code().unwrap().try_into().unwrap(),
            stdout: output.stdout.into(),
            stderr: output.stderr.into(),
            truncated,
            timed_out: false,
        })
    }
    fn events(&self) -> BoxStream<'static, RuntimeResult<TaskEvent>> {
        self.0.events()
    }
}

/// What a test changes in a server before it starts.
pub(crate) struct Setup {
    pub(crate) http: HttpConfig,
    pub(crate) workspace: WorkspaceConfig,
    /// Says what the backend can do, and is asked first for channels.
    pub(crate) channels: Option<Arc<dyn Channels>>,
}

/// A running server with its parts.
pub(crate) struct Api {
    pub(crate) runtime: InMemoryRuntime,
    pub(crate) store: Store,
    pub(crate) base: String,
    pub(crate) admin: String,
    pub(crate) member: String,
    pub(crate) other: String,
    pub(crate) directory: tempfile::TempDir,
    client: Client,
    shutdown: oneshot::Sender<()>,
    server: JoinHandle<Result<(), botstead_http::Error>>,
}

/// A reply, read to its end.
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) headers: reqwest::header::HeaderMap,
    pub(crate) text: String,
}

impl Reply {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .map_or("", |value| value.to_str().unwrap())
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|_| panic!("no JSON: {}", self.text))
    }

    /// Fails unless it has this status, and gives its body.
    #[track_caller]
    pub(crate) fn expect(&self, status: u16) -> Value {
        assert_eq!(self.status.as_u16(), status, "{}", self.text);
        if self.text.is_empty() {
            Value::Null
        } else {
            self.json()
        }
    }

    /// Fails unless it is a problem with this status and code.
    #[track_caller]
    pub(crate) fn expect_problem(&self, status: u16, code: &str) -> Value {
        let body = self.expect(status);
        assert_eq!(self.header("content-type"), "application/problem+json");
        assert_eq!(body["code"], code, "{body}");
        assert_eq!(body["status"], status);
        assert_eq!(body["message"], body["detail"]);
        assert_eq!(body["request_id"], self.header("x-request-id"));
        assert!(body["instance"].as_str().unwrap().starts_with('/'));
        body
    }

    /// The events of a stream.
    #[track_caller]
    pub(crate) fn events(&self) -> Vec<Value> {
        assert_eq!(self.status.as_u16(), 200, "{}", self.text);
        assert_eq!(self.header("content-type"), "text/event-stream");
        assert_eq!(self.header("cache-control"), "no-cache");
        assert_eq!(self.header("x-accel-buffering"), "no");
        let events = self.text.split("\n\n").filter(|event| !event.is_empty());
        events
            .filter(|event| !event.starts_with(':'))
            .map(|event| serde_json::from_str(event.strip_prefix("data: ").unwrap()).unwrap())
            .collect()
    }
}

impl Api {
    pub(crate) async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    pub(crate) async fn start_with(change: impl FnOnce(&mut HttpConfig)) -> Self {
        Self::set_up(|setup| change(&mut setup.http)).await
    }

    pub(crate) async fn set_up(change: impl FnOnce(&mut Setup)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut setup = Setup {
            http: HttpConfig {
                listen: vec![([127, 0, 0, 1], 0).into()],
                workers: Some(1),
                spool_dir: directory.path().join("spool"),
                shutdown_grace: Duration::from_secs(3),
                metrics: MetricsAccess::Admin,
                ..HttpConfig::default()
            },
            workspace: WorkspaceConfig::new("/memory/agent".into(), directory.path().to_owned()),
            channels: None,
        };
        setup.workspace.min_free_bytes = 0;
        setup.workspace.min_free_percent = 0;
        setup.workspace.busy_wait = Duration::from_millis(200);
        change(&mut setup);
        let has_channels = setup.channels.is_some();
        let runtime = InMemoryRuntime::limited(|can| can.channels = has_channels);
        let image: ImageRef = IMAGE.parse().unwrap();
        runtime.add_image(&image, ImageContent::of_files([("/etc/os-release", "x")]));
        let store = SqlStore::open_temporary(directory.path())
            .await
            .unwrap()
            .store();
        let mut ports = runtime.runtime();
        ports.tasks = Arc::new(HostCommands(ports.tasks));
        if let Some(channels) = setup.channels {
            ports.channels = channels;
        }
        let workspaces = Workspaces::open(ports, store.clone(), setup.workspace, Handle::current())
            .await
            .unwrap();
        let accounts = Accounts::new(
            store.clone(),
            &Settings::default(),
            &TokenKey::generate().unwrap(),
            Handle::current(),
        );
        for (username, role) in [
            ("admin", Role::Admin),
            ("ann", Role::Member),
            ("bob", Role::Member),
        ] {
            let user = NewUser {
                username: username.to_owned(),
                display_name: None,
                role,
                password: Password::new(PASSWORD),
            };
            accounts.create_user(&Actor::System, user).await.unwrap();
        }
        let services = Services {
            workspaces,
            accounts,
        };
        let server = Server::bind(setup.http, services).unwrap();
        let base = format!("http://{}", server.addresses()[0]);
        let (shutdown, asked) = oneshot::channel::<()>();
        let server = tokio::spawn(server.run(async move {
            let _ = asked.await;
        }));
        let mut api = Self {
            runtime,
            store,
            base,
            admin: String::new(),
            member: String::new(),
            other: String::new(),
            directory,
            client: Client::new(),
            shutdown,
            server,
        };
        api.admin = api.sign_in("admin").await;
        api.member = api.sign_in("ann").await;
        api.other = api.sign_in("bob").await;
        api
    }

    pub(crate) async fn sign_in(&self, username: &str) -> String {
        let body = json!({"username": username, "password": PASSWORD});
        let reply = self.call("", Method::POST, "/auth/login", Some(body)).await;
        reply.expect(200)["access_token"]
            .as_str()
            .unwrap()
            .to_owned()
    }

    /// A request that is not sent yet; no token when it is empty.
    pub(crate) fn request(&self, token: &str, method: Method, path: &str) -> RequestBuilder {
        let request = self.client.request(method, format!("{}{path}", self.base));
        if token.is_empty() {
            request
        } else {
            request.bearer_auth(token)
        }
    }

    pub(crate) async fn send(&self, request: RequestBuilder) -> Reply {
        let reply = request.send().await.unwrap();
        Reply {
            status: reply.status(),
            headers: reply.headers().clone(),
            text: reply.text().await.unwrap(),
        }
    }

    pub(crate) async fn call(
        &self,
        token: &str,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> Reply {
        let mut request = self.request(token, method, path);
        if let Some(body) = body {
            request = request.json(&body);
        }
        self.send(request).await
    }

    pub(crate) async fn get(&self, path: &str) -> Reply {
        self.call(&self.member, Method::GET, path, None).await
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> Reply {
        self.call(&self.member, Method::POST, path, Some(body))
            .await
    }

    pub(crate) async fn delete(&self, path: &str) -> Reply {
        self.call(&self.member, Method::DELETE, path, None).await
    }

    /// A new bot of the member; its path.
    pub(crate) async fn bot(&self) -> String {
        let bot = self.post("/bots", json!({})).await.expect(201);
        format!("/bots/{}", bot["id"].as_str().unwrap())
    }

    /// A new bot of the member with a running workspace; its path.
    pub(crate) async fn bot_with_workspace(&self) -> String {
        self.bot_with(json!({})).await
    }

    /// The same from a body of one's own.
    pub(crate) async fn bot_with(&self, body: Value) -> String {
        let bot = self.bot().await;
        let path = format!("{bot}/container");
        let events = self.post(&path, body).await.events();
        assert_eq!(events.last().unwrap()["type"], "complete", "{events:?}");
        bot
    }

    /// A client that comes from another address of this host.
    pub(crate) fn client_from(address: [u8; 4]) -> Client {
        let builder = Client::builder().local_address(IpAddr::from(address));
        builder.build().unwrap()
    }

    /// The path of a user's account.
    pub(crate) async fn user(&self, token: &str) -> String {
        let me = self.call(token, Method::GET, "/auth/me", None).await;
        format!("/users/{}", me.expect(200)["id"].as_str().unwrap())
    }

    /// Asks the server to end.
    pub(crate) fn shut_down(self) -> JoinHandle<Result<(), botstead_http::Error>> {
        self.shutdown.send(()).unwrap();
        self.server
    }
}
