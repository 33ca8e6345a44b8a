//! A containerd of this installation's own: started, watched, restarted with back-off, adopted.
//!
//! Its root, state and socket belong to one installation, and a lock file sees to it that one server
//! at a time uses them. It runs in a session of its own and outlives the server, also one that was
//! killed: dropping a [`Daemon`] leaves it running, and the next [`Daemon::start`] adopts it.
//! Workspaces outlive even containerd, since their shims do. [`Daemon::stop`] ends it.

use crate::client::{self, error};
use botstead_runtime::{Error, ErrorKind, Result};
use containerd_client::services::v1::version_client::VersionClient;
use nix::fcntl::{Flock, FlockArg};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// How long containerd may take until it answers; it recovers its shims first.
const START: Duration = Duration::from_secs(30);
/// How long it may take to end after SIGTERM.
const STOP: Duration = Duration::from_secs(20);
/// The pauses between restarts double up to this one.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Where a managed containerd lives and which one it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DaemonConfig {
    /// Content and snapshots: on the disk for data.
    pub root: PathBuf,
    /// Socket, state, lock and pid file: a short path, gone after a restart of the host.
    pub run: PathBuf,
    /// The program.
    pub containerd: PathBuf,
    /// A folder in which shim and runc are looked for first.
    pub path: Option<PathBuf>,
    /// A log longer than this when containerd starts is moved to `containerd.log.1`.
    pub log_limit: u64,
}

impl DaemonConfig {
    /// containerd of the host's PATH with its data in `root`.
    pub fn new(root: impl Into<PathBuf>, run: impl Into<PathBuf>) -> Self {
        Self {
            root: root.into(),
            run: run.into(),
            containerd: "containerd".into(),
            path: None,
            log_limit: 16 << 20,
        }
    }

    fn socket(&self) -> PathBuf {
        self.run.join("containerd.sock")
    }

    /// Version 2 is read by 1.6, 1.7 and 2.x alike. What is not used is off: Kubernetes' services
    /// (under the names of both generations), tracing, NRI, and the folder in /opt.
    fn text(&self) -> String {
        let quoted = |path: &Path| toml_string(&path.to_string_lossy());
        format!(
            "version = 2\nroot = {}\nstate = {}\n\
             disabled_plugins = [\"io.containerd.grpc.v1.cri\", \"io.containerd.cri.v1.images\", \
             \"io.containerd.cri.v1.runtime\", \"io.containerd.nri.v1.nri\", \
             \"io.containerd.internal.v1.opt\", \"io.containerd.internal.v1.tracing\", \
             \"io.containerd.tracing.processor.v1.otlp\"]\n\
             [grpc]\n  address = {}\n[ttrpc]\n  address = {}\n",
            quoted(&self.root),
            quoted(&self.run.join("state")),
            quoted(&self.socket()),
            quoted(&self.run.join("containerd.sock.ttrpc")),
        )
    }
}

fn toml_string(text: &str) -> String {
    // A JSON string is a basic string of TOML.
    serde_json::Value::from(text).to_string()
}

/// Which process it is; a pid alone may be another's by now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Identity {
    pid: i32,
    started: u64,
}

impl Identity {
    /// The process with this id, now.
    fn of(pid: i32) -> Option<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let (_, fields) = stat.rsplit_once(") ")?;
        let mut fields = fields.split(' ');
        if fields.next()? == "Z" {
            return None;
        }
        // proc_pid_stat(5): field 22, of which two are before the state.
        let started = fields.nth(18)?.parse().ok()?;
        Some(Self { pid, started })
    }
}

/// A containerd under supervision.
#[derive(Debug)]
pub struct Daemon {
    config: DaemonConfig,
    adopted: bool,
    current: watch::Receiver<Identity>,
    supervisor: JoinHandle<()>,
    _lock: Flock<File>,
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.supervisor.abort();
    }
}

fn failed(kind: ErrorKind, reason: &str, config: &DaemonConfig) -> Error {
    Error::new(kind, "run containerd in", config.run.display()).because(reason)
}

impl Daemon {
    /// Adopts the containerd that survived an earlier server, or starts one, and waits until it
    /// answers.
    ///
    /// # Errors
    /// `Conflict` when another server uses it, `Unavailable` when it does not start or answer,
    /// `Internal` when its folders cannot be written.
    pub async fn start(config: DaemonConfig) -> Result<Self> {
        let broken = |cause: std::io::Error| {
            failed(ErrorKind::Internal, "its folders", &config).with_source(cause)
        };
        std::fs::create_dir_all(&config.root).map_err(broken)?;
        std::fs::create_dir_all(&config.run).map_err(broken)?;
        let file = File::create(config.run.join("lock")).map_err(broken)?;
        let lock = Flock::lock(file, FlockArg::LockExclusiveNonblock)
            .map_err(|_| failed(ErrorKind::Conflict, "another server uses it", &config))?;
        let (identity, adopted) = match survivor(&config).await {
            Some(identity) => (identity, true),
            None => (launch(&config).await?, false),
        };
        let (sender, current) = watch::channel(identity);
        let supervisor = tokio::spawn(supervise(config.clone(), sender));
        Ok(Self {
            config,
            adopted,
            current,
            supervisor,
            _lock: lock,
        })
    }

    /// Its gRPC socket.
    pub fn socket(&self) -> PathBuf {
        self.config.socket()
    }

    /// Its process id now.
    pub fn pid(&self) -> i32 {
        self.current.borrow().pid
    }

    /// Whether it had survived an earlier server.
    pub fn adopted(&self) -> bool {
        self.adopted
    }

    /// Ends it. Workspaces go on without it.
    ///
    /// # Errors
    /// `Unavailable` when it does not end.
    pub async fn stop(self) -> Result<()> {
        self.supervisor.abort();
        let identity = *self.current.borrow();
        if let Some(process) = open(identity) {
            let _ = pidfd_send_signal(&process, Signal::TERM);
            if tokio::time::timeout(STOP, gone(process)).await.is_err() {
                return Err(failed(
                    ErrorKind::Unavailable,
                    "it does not end",
                    &self.config,
                ));
            }
        }
        let _ = std::fs::remove_file(self.config.run.join("pid"));
        Ok(())
    }
}

/// The process, if it is still that one.
fn open(identity: Identity) -> Option<OwnedFd> {
    let process = pidfd_open(Pid::from_raw(identity.pid)?, PidfdFlags::NONBLOCK).ok()?;
    // Checked after opening: what is open now cannot become another.
    (Identity::of(identity.pid) == Some(identity)).then_some(process)
}

#[allow(unsafe_code)]
async fn gone(process: OwnedFd) {
    // SAFETY: an OwnedFd always tells one and the same open descriptor until it is dropped, which
    // is what `register` asks for.
    match unsafe { AsyncFd::register(process) } {
        // A process file is readable once the process ended (pidfd_open(2)).
        Ok(process) => drop(process.readable().await),
        Err(error) => tracing::error!(%error, "containerd cannot be watched"),
    }
}

async fn answers(config: &DaemonConfig) -> Result<()> {
    let mut request = tonic::Request::new(());
    request.set_timeout(Duration::from_secs(2));
    let mut version = VersionClient::new(client::channel(&config.socket()));
    let answer = version.version(request).await;
    answer
        .map(drop)
        .map_err(|status| error("ask for the version of", "containerd", status))
}

async fn survivor(config: &DaemonConfig) -> Option<Identity> {
    let text = std::fs::read(config.run.join("pid")).ok()?;
    let identity: Identity = serde_json::from_slice(&text).ok()?;
    let process = open(identity)?;
    if answers(config).await.is_ok() {
        return Some(identity);
    }
    // Two on one root would destroy it: this one must be gone before another starts.
    tracing::warn!(
        pid = identity.pid,
        "containerd does not answer and is replaced"
    );
    let _ = pidfd_send_signal(&process, Signal::KILL);
    let _ = tokio::time::timeout(STOP, gone(process)).await;
    None
}

async fn launch(config: &DaemonConfig) -> Result<Identity> {
    let identity = spawn(config).map_err(|cause| {
        failed(ErrorKind::Unavailable, "it cannot be started", config).with_source(cause)
    })?;
    let deadline = Instant::now() + START;
    loop {
        match answers(config).await {
            Ok(()) => return Ok(identity),
            Err(cause) if Instant::now() > deadline || open(identity).is_none() => {
                if let Some(process) = open(identity) {
                    let _ = pidfd_send_signal(&process, Signal::KILL);
                }
                let reason = "it does not answer; see its log, containerd.log beside its root";
                return Err(failed(ErrorKind::Unavailable, reason, config).with_source(cause));
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

#[allow(unsafe_code)]
fn spawn(config: &DaemonConfig) -> std::io::Result<Identity> {
    let file = config.run.join("config.toml");
    std::fs::write(&file, config.text())?;
    let log = config.root.with_extension("log");
    if std::fs::metadata(&log).is_ok_and(|log| log.len() > config.log_limit) {
        std::fs::rename(&log, config.root.with_extension("log.1"))?;
    }
    let log = OpenOptions::new().create(true).append(true).open(log)?;
    let mut command = Command::new(&config.containerd);
    command.arg("--config").arg(file).stdin(Stdio::null());
    command.stdout(log.try_clone()?).stderr(log);
    if let Some(first) = &config.path {
        let rest = std::env::var_os("PATH").unwrap_or_default();
        let all = std::iter::once(first.clone()).chain(std::env::split_paths(&rest));
        command.env(
            "PATH",
            std::env::join_paths(all).map_err(std::io::Error::other)?,
        );
    }
    // SAFETY: setsid is async-signal-safe, and nothing else runs between fork and exec. There is no
    // safe way to start a program in a session of its own.
    unsafe {
        command.pre_exec(|| rustix::process::setsid().map(drop).map_err(Into::into));
    }
    let mut child = command.spawn()?;
    let pid = i32::try_from(child.id()).map_err(std::io::Error::other)?;
    let identity = Identity::of(pid).ok_or_else(|| std::io::Error::other("it ended at once"));
    // So that it leaves no zombie when it ends while this process lives.
    std::thread::spawn(move || child.wait());
    let identity = identity?;
    std::fs::write(config.run.join("pid"), serde_json::to_vec(&identity)?)?;
    Ok(identity)
}

async fn supervise(config: DaemonConfig, current: watch::Sender<Identity>) {
    let mut pause = Duration::from_millis(100);
    loop {
        let identity = *current.borrow();
        let began = Instant::now();
        if let Some(process) = open(identity) {
            gone(process).await;
        }
        if began.elapsed() > LONGEST_PAUSE {
            pause = Duration::from_millis(100);
        }
        tracing::warn!(
            pid = identity.pid,
            ?pause,
            "containerd ended and is started again"
        );
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
        match launch(&config).await {
            Ok(identity) => drop(current.send(identity)),
            Err(error) => tracing::error!(error = error.chain(), "containerd does not start"),
        }
    }
}
