//! Commands and terminals: the service `Processes` of the protocol.
//!
//! [`launch`] starts a program, [`control`] acts on it, [`pump`] carries its output: to the caller
//! ([`plain`]), or into what is kept ([`kept`]) for viewers ([`view`]). Here the calls are taken
//! apart, and nothing else.

mod arguments;
mod clusters;
mod control;
mod dump;
mod history;
mod input;
mod kept;
mod launch;
mod modes;
mod plain;
mod pty;
mod pump;
mod registry;
mod replay;
mod screen;
mod stat;
mod stream;
mod table;
mod tree;
mod view;

use crate::children::Children;
use crate::environment::Environment;
use crate::identity;
use crate::worker::Worker;
use botstead_bridge::proto::processes_server::Processes;
use botstead_bridge::proto::run_input::{Attach, Input, Start};
use botstead_bridge::proto::run_output::{self, Exit, Started};
use botstead_bridge::proto::{
    FindShellReply, FindShellRequest, ListProcessesReply, ListProcessesRequest, RemoveProcessReply,
    RemoveProcessRequest, RunInput, RunOutput, SignalReply, SignalRequest, WriteInputReply,
    WriteInputRequest,
};
use botstead_bridge::{Failure, FailureKind};
use control::{Control, Output};
use input::Target;
use kept::{About, Kept, Wanted};
use launch::{Launch, Launched};
use pty::Size;
use registry::{Registry, Reservation};
use rustix::process::Rlimit;
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

/// A message of an answer.
type Reply = Result<RunOutput, Status>;

/// Messages of an answer that wait for the connection. More would only be memory.
const WAITING: usize = 2;
/// How long to wait for a process that was killed.
const KILLED: Duration = Duration::from_secs(5);

/// What the service is given.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) children: Arc<Children>,
    pub(crate) environment: Environment,
    /// Who commands run as where the caller does not say.
    pub(crate) user: String,
    /// The limit of open files that commands get.
    pub(crate) open_files: Option<Rlimit>,
    pub(crate) starter: Worker,
    pub(crate) killer: Worker,
    /// Reads what processes say of themselves, which may make it wait for them.
    pub(crate) looker: Worker,
}

/// The service.
#[derive(Debug, Clone)]
pub(crate) struct ProcessesService {
    settings: Arc<Settings>,
    registry: Arc<Registry>,
}

/// A process that was started, or one that failed to.
enum Begun {
    Running(Arc<Control>, Output),
    Failed(Exit),
}

impl ProcessesService {
    pub(crate) fn new(settings: Settings) -> Self {
        Self {
            settings: Arc::new(settings),
            registry: Arc::default(),
        }
    }

    /// Looks up the user and the shell, and starts the program.
    async fn launch(&self, start: &Start) -> Result<Begun, Failure> {
        let settings = Arc::clone(&self.settings);
        let start = start.clone();
        let launched = self
            .settings
            .starter
            .run(move || {
                let launch = settings.prepare(start)?;
                launch::start(&settings.children, launch)
            })
            .await
            .map_err(|_| Failure::new(FailureKind::Internal, "the agent failed to start it"))??;
        match launched {
            Launched::Running(running) => {
                let children = Arc::clone(&self.settings.children);
                let killer = self.settings.killer.clone();
                let (control, output) = Control::new(running, children, killer)?;
                Ok(Begun::Running(Arc::new(control), output))
            }
            Launched::Failed { code, message } => Ok(Begun::Failed(Exit {
                code,
                message,
                ..Exit::default()
            })),
        }
    }

    /// Starts a process and follows it, in a task of its own: it must not get lost when the caller
    /// leaves while it starts.
    async fn start(
        self,
        start: Start,
        caller: mpsc::Sender<Reply>,
        input: Streaming<RunInput>,
        begun: tokio::sync::oneshot::Sender<Result<(), Failure>>,
    ) {
        let result = async {
            let reservation = self.registry.reserve(&start.id, start.keep)?;
            Ok((reservation, self.launch(&start).await?))
        };
        let (reservation, process) = match result.await {
            Ok(process) => process,
            Err(failure) => {
                // Nobody to tell when the caller left.
                let _ = begun.send(Err(failure));
                return;
            }
        };
        let _ = begun.send(Ok(()));
        if start.keep {
            self.keep(start, reservation, process, caller, input).await;
        } else {
            plain(start, reservation, process, caller, input).await;
        }
    }

    /// A process that outlives its call, whose caller is its first viewer.
    async fn keep(
        &self,
        start: Start,
        reservation: Reservation,
        process: Begun,
        caller: mpsc::Sender<Reply>,
        input: Streaming<RunInput>,
    ) {
        // What has a terminal and is no terminal to look at is a command like others.
        let terminal = start.terminal.filter(|_| !start.terminal_output);
        let about = About {
            id: start.id,
            args: start.args,
            terminal: terminal.map(Size::from),
            replay_bytes: start.replay_bytes,
        };
        let id = about.id.clone();
        let (kept, output) = match process {
            Begun::Running(control, output) => {
                if !start.stdin.is_empty() || start.terminal_output && !start.stdin_open {
                    control.begin_input(start.stdin, start.stdin_open);
                }
                (Arc::new(Kept::new(about, Some(control))), Some(output))
            }
            Begun::Failed(exit) => {
                let kept = Arc::new(Kept::new(about, None));
                kept.end(exit);
                (kept, None)
            }
        };
        reservation.keep(&kept);
        let watch = kept.watch(Wanted {
            replay: true,
            from: [0, 0],
            follow: true,
            room: Size::said(terminal),
            // Who opens a terminal looks at it.
            reads: terminal.is_some(),
        });
        let viewer = tokio::spawn(view::view(watch, caller, input));
        if let Some(output) = output {
            kept.follow(output, timeout(start.timeout_ms)).await;
        }
        self.registry.ended(&id);
        drop(viewer);
    }

    /// Hangs every terminal up: an interactive shell that is told to end by SIGTERM does not.
    pub(crate) fn hang_up(&self) {
        for control in self.registry.running() {
            control.hang_up();
        }
    }

    fn attach(&self, attach: &Attach) -> Result<kept::Watch, Failure> {
        let kept = self.registry.kept(&attach.id)?;
        let from = [attach.stdout_offset, attach.stderr_offset];
        kept.reaches(from)?;
        Ok(kept.watch(Wanted {
            replay: attach.replay,
            from,
            follow: attach.follow,
            room: Size::said(attach.terminal),
            reads: true,
        }))
    }
}

impl Settings {
    fn identity(&self, user: &str) -> Result<identity::Identity, Failure> {
        identity::look_up(if user.is_empty() { &self.user } else { user })
    }

    /// The home of somebody else than the workspace's own user, whose home is the folder of the bot's files.
    fn home<'a>(&self, identity: &'a identity::Identity) -> Option<&'a Path> {
        let own = self.identity("");
        let is_own = own.is_ok_and(|own| own.uid == identity.uid);
        identity.home.as_deref().filter(|_| !is_own)
    }

    fn prepare(&self, start: Start) -> Result<Launch, Failure> {
        let identity = self.identity(&start.user)?;
        let terminal = start.terminal.map(Size::from);
        let home = self.home(&identity);
        let environment = self
            .environment
            .of(&identity, home, terminal.is_some(), &start.env)?;
        let mut args: Vec<_> = start
            .args
            .iter()
            .map(|argument| OsString::from_vec(argument.to_vec()))
            .collect();
        if args.is_empty() && terminal.is_some() {
            let shell = self
                .environment
                .shell(&identity)
                .ok_or_else(|| Failure::new(FailureKind::NoShell, "the image has no shell"))?;
            // No login shell: the profiles of many images set PATH anew, without the image's own.
            args.push(shell.into_os_string());
        }
        if args.first().is_none_or(|program| program.is_empty()) {
            return Err(Failure::new(FailureKind::Invalid, "there is no program"));
        }
        Ok(Launch {
            args,
            cwd: start.cwd.to_vec(),
            environment,
            identity,
            terminal,
            no_stdin: start.no_stdin,
            open_files: self.open_files,
        })
    }
}

/// A process that lives as long as its call.
async fn plain(
    start: Start,
    reservation: Reservation,
    process: Begun,
    caller: mpsc::Sender<Reply>,
    input: Streaming<RunInput>,
) {
    match process {
        Begun::Running(control, output) => {
            reservation.plain(&control);
            let started = started(
                start.id,
                control.pid().as_raw_nonzero().get().unsigned_abs(),
            );
            let _ = caller.try_send(Ok(started));
            let target = Target::Plain(Arc::clone(&control));
            let input = AbortOnDrop(tokio::spawn(input::pass_on(input, target)));
            plain::follow(control, output, caller, timeout(start.timeout_ms)).await;
            drop(input);
        }
        Begun::Failed(exit) => {
            // There is room for both.
            let _ = caller.try_send(Ok(started(start.id, 0)));
            let exit = plain::message(run_output::Output::Exit(exit));
            let _ = caller.try_send(Ok(exit));
        }
    }
}

fn started(id: String, pid: u32) -> RunOutput {
    plain::message(run_output::Output::Started(Started { id, pid }))
}

fn timeout(milliseconds: u64) -> Option<Duration> {
    (milliseconds > 0).then(|| Duration::from_millis(milliseconds))
}

/// A task that has no reason to go on without this.
#[derive(Debug)]
struct AbortOnDrop(JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[tonic::async_trait]
impl Processes for ProcessesService {
    type RunStream = ReceiverStream<Reply>;

    async fn run(
        &self,
        request: Request<Streaming<RunInput>>,
    ) -> Result<Response<Self::RunStream>, Status> {
        let mut input = request.into_inner();
        let first = input.message().await?.and_then(|message| message.input);
        let (caller, output) = mpsc::channel(WAITING);
        match first {
            Some(Input::Start(start)) => {
                let (tell, begun) = tokio::sync::oneshot::channel();
                tokio::spawn(self.clone().start(start, caller, input, tell));
                begun
                    .await
                    .map_err(|_| Failure::new(FailureKind::Internal, "the agent failed"))??;
            }
            Some(Input::Attach(attach)) => {
                let watch = self.attach(&attach)?;
                tokio::spawn(view::view(watch, caller, input));
            }
            _ => {
                let words = "the first input is neither start nor attach";
                return Err(Failure::new(FailureKind::Invalid, words).into());
            }
        }
        Ok(Response::new(ReceiverStream::new(output)))
    }

    async fn list(
        &self,
        _request: Request<ListProcessesRequest>,
    ) -> Result<Response<ListProcessesReply>, Status> {
        let kept = self.registry.list();
        let mut processes: Vec<_> = kept.iter().map(|kept| kept.info()).collect();
        arguments::shorten(&mut processes);
        processes.sort_by(|a, b| (a.started_at_ms, &a.id).cmp(&(b.started_at_ms, &b.id)));
        Ok(Response::new(ListProcessesReply { processes }))
    }

    async fn write_input(
        &self,
        request: Request<WriteInputRequest>,
    ) -> Result<Response<WriteInputReply>, Status> {
        let request = request.into_inner();
        if !request.data.is_empty() {
            let control = self.registry.control(&request.id)?;
            let typed = control.typed(request.data, false);
            match self.registry.kept(&request.id) {
                Ok(kept) => kept.write(&typed).await?,
                Err(_) => control.write(&typed).await?,
            }
        }
        if request.close {
            self.registry.control(&request.id)?.close_input().await;
        }
        Ok(Response::new(WriteInputReply {}))
    }

    async fn signal(
        &self,
        request: Request<SignalRequest>,
    ) -> Result<Response<SignalReply>, Status> {
        let request = request.into_inner();
        self.registry.control(&request.id)?.signal(request.signal)?;
        Ok(Response::new(SignalReply {}))
    }

    async fn remove(
        &self,
        request: Request<RemoveProcessRequest>,
    ) -> Result<Response<RemoveProcessReply>, Status> {
        let id = request.into_inner().id;
        let kept = self.registry.kept(&id)?;
        // In a task of its own: what was begun is finished when the caller leaves.
        let registry = Arc::clone(&self.registry);
        let removed = tokio::spawn(async move {
            if let Ok(control) = kept.control() {
                control.end_tree().await;
            }
            let exit = tokio::time::timeout(KILLED, kept.ended())
                .await
                .map_err(|_| {
                    Failure::new(FailureKind::Busy, "the process was killed and does not end")
                })?;
            registry.remove(&id);
            Ok::<_, Failure>(exit)
        });
        let exit = removed
            .await
            .map_err(|_| Failure::new(FailureKind::Internal, "the agent failed"))??;
        Ok(Response::new(RemoveProcessReply { exit: Some(exit) }))
    }

    async fn find_shell(
        &self,
        request: Request<FindShellRequest>,
    ) -> Result<Response<FindShellReply>, Status> {
        let user = request.into_inner().user;
        let settings = Arc::clone(&self.settings);
        let shell = self
            .settings
            .starter
            .run(move || {
                let identity = settings.identity(&user)?;
                Ok::<_, Failure>(settings.environment.shell(&identity))
            })
            .await
            .map_err(|_| Failure::new(FailureKind::Internal, "the agent failed"))??;
        let path = shell.map(|shell| shell.as_os_str().as_bytes().to_vec());
        Ok(Response::new(FindShellReply {
            path: path.unwrap_or_default().into(),
        }))
    }
}
