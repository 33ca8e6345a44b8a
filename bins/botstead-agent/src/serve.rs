//! PID 1: holds the signals, starts every thread, prepares `/data`, and serves until it is told to
//! end.

use crate::agent::AgentService;
use crate::children::Children;
use crate::data;
use crate::environment::{DATA, Environment};
use crate::files::{FilesService, Settings as FileSettings};
use crate::identity::{self, Identity};
use crate::init::{self, HeldSignals};
use crate::listener::{Listener, UnixSocket};
use crate::log::report;
use crate::options::Options;
use crate::processes::{ProcessesService, Settings};
use crate::worker::{self, Worker};
use botstead_bridge::proto::agent_server::AgentServer;
use botstead_bridge::proto::files_server::FilesServer;
use botstead_bridge::proto::process_table_server::ProcessTableServer;
use botstead_bridge::proto::processes_server::ProcessesServer;
use botstead_bridge::{CONNECTION_WINDOW, STREAM_WINDOW};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::convert::Infallible;
use std::io;
use std::path::Path;
use std::sync::Arc;
use tonic::transport::Server;
use tonic::transport::server::Router;

/// That the template was applied.
const SEEDED: &str = "/var/lib/botstead/seeded";

/// Calls at once on a connection. hyper's default of 200 would be a hundred terminals and a hundred
/// commands.
const MOST_CALLS: u32 = 4096;
/// A hundred viewers may leave at once, which is no attack.
const MOST_RESETS: usize = 4096;

/// Runs as PID 1 until it is told to end.
///
/// # Errors
/// It could not begin. Once it serves, only the end of the workspace ends it.
pub fn run(options: &Options) -> io::Result<()> {
    // Nobody inside traces this process, reads its memory or takes its descriptors: the root there has
    // the same user and the same capabilities (ptrace(2), "Ptrace access mode checking"). Programs that
    // it executes can be traced again, and the host's root, with CAP_SYS_PTRACE, can do all of it. It
    // leaves no core file either.
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)?;
    // Soon: a signal that comes earlier is lost, and threads inherit what is held.
    let signals = HeldSignals::hold()?;
    let open_files = raise_open_files();
    // `/data` comes before threads and socket: who connects finds it.
    let owner = owner(&options.user);
    prepare_data(options.template.as_deref(), &owner);
    let children = Arc::new(Children::default());
    let settings = Settings {
        children: Arc::clone(&children),
        environment: Environment::new(std::env::vars_os(), options.toolkit.as_deref())
            .with_timezone(
                Path::new("/usr/share/zoneinfo"),
                options.timezone_rule.as_deref(),
            ),
        user: options.user.clone(),
        open_files,
        starter: Worker::start("start")?,
        killer: Worker::start("kill")?,
        looker: Worker::start("look")?,
    };
    let runtime = worker::runtime()?;
    let processes = ProcessesService::new(settings);
    let router = router(processes.clone(), Arc::clone(&children), &owner);
    let result = runtime.block_on(async {
        let serving = match &options.socket {
            Some(path) => Some(tokio::spawn(serve(path.clone(), router)?)),
            None => None,
        };
        init::run(signals, &children, options.grace, || {
            // Accepts no more; the connections that there are go on until the end.
            if let Some(serving) = serving {
                serving.abort();
            }
            processes.hang_up();
        })
        .await
    });
    // Threads may be inside a file operation; the workspace does not wait for them.
    runtime.shutdown_background();
    result
}

/// All services.
fn router(processes: ProcessesService, children: Arc<Children>, owner: &Identity) -> Router {
    let agent = AgentService::new(children);
    let files = FilesService::new(FileSettings {
        owner_uid: owner.uid,
        owner_gid: owner.gid,
        ..FileSettings::default()
    });
    Server::builder()
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(MOST_CALLS)
        .http2_max_pending_accept_reset_streams(Some(MOST_RESETS))
        .add_service(AgentServer::new(agent))
        .add_service(FilesServer::new(files))
        .add_service(ProcessTableServer::new(processes.clone()))
        .add_service(ProcessesServer::new(processes))
}

/// Listens, and gives what serves the connections.
fn serve(
    path: std::path::PathBuf,
    router: Router,
) -> io::Result<impl Future<Output = ()> + Send + 'static> {
    let listener = Listener::Unix(UnixSocket::bind(&path)?);
    let connections = futures_util::stream::unfold(listener, |mut listener| async {
        let connection = listener.accept().await;
        Some((Ok::<_, Infallible>(connection), listener))
    });
    Ok(async move {
        if let Err(error) = router.serve_with_incoming(connections).await {
            report!("serves no more: {error}");
        }
    })
}

/// Who owns new files. A user that the image does not have is told of once, here: commands of that
/// user fail as long as there is none, rather than run as root without a word, and files belong to
/// root meanwhile.
fn owner(user: &str) -> Identity {
    identity::look_up(user).unwrap_or_else(|failure| {
        report!(
            "{}: new files belong to 0:0, and commands need a user of their own",
            failure.message
        );
        Identity::default()
    })
}

/// Without `/data` commands have no place to start in, which the one who runs one is told; ending
/// here would take the whole workspace away.
fn prepare_data(template: Option<&Path>, owner: &Identity) {
    let folder = Path::new(DATA);
    if let Err(error) = data::make(folder, owner) {
        report!("cannot make {DATA}: {error}");
        return;
    }
    if let Some(template) = template
        && let Err(error) = data::seed(template, folder, Path::new(SEEDED), owner)
    {
        report!("cannot fill {DATA} from {}: {error}", template.display());
    }
}

/// A hundred terminals with their viewers need more descriptors than the usual soft limit. Returns
/// the limit that was, which commands get: some programs go through all descriptors that they could
/// have.
fn raise_open_files() -> Option<Rlimit> {
    let before = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: before.maximum,
        maximum: before.maximum,
    };
    setrlimit(Resource::Nofile, raised).ok().map(|()| before)
}
