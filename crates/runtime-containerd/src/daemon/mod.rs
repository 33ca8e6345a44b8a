//! A containerd of the server's own: its configuration, its start, its supervision.
//!
//! It has its own root, state and socket beside a containerd that the host may have. It and the
//! workspaces outlive the server: dropping [`Daemon`] leaves it running and the next server adopts
//! it, so that an upgrade or a crash of the server is not noticed in a workspace. Under systemd the
//! server's unit needs `KillMode=process`.
//!
//! What it serves is in the rest of this crate, which talks to [`Daemon::socket`] alone and works
//! with any containerd.

mod config;
mod error;
mod launch;
mod lock;
mod process;
mod ready;
mod supervisor;
mod survivor;

pub use config::DaemonConfig;
pub use error::DaemonError;

use launch::Launched;
use lock::Lock;
use process::Process;
use ready::Ready;
use std::path::{Path, PathBuf};
use supervisor::Supervisor;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

/// A supervised containerd.
///
/// Dropping it ends the supervision and frees the data directory for another server; containerd
/// runs on.
#[derive(Debug)]
pub struct Daemon {
    socket: PathBuf,
    adopted: bool,
    pid: watch::Receiver<Option<i32>>,
    stop: CancellationToken,
    supervision: AbortOnDropHandle<Result<(), DaemonError>>,
}

impl Daemon {
    /// Adopts the containerd that an earlier server left on this data directory, or starts one,
    /// and returns when it answers.
    ///
    /// An adopted one keeps the program and configuration that it was started with until its next
    /// start.
    ///
    /// # Errors
    /// When another server uses the data directory, the program is missing, older than 1.6 or
    /// broken, or it does not answer within [`DaemonConfig::start_limit`]. Nothing that was started
    /// here is left running then.
    pub async fn start(config: DaemonConfig) -> Result<Self, DaemonError> {
        let config = config.absolute()?;
        config.make_dirs()?;
        let lock = Lock::acquire(&config.lock_file()).await?;
        let (process, adopted) = match adopt(&config).await? {
            Some(process) => (process, true),
            None => (start(&config).await?, false),
        };

        let socket = config.socket();
        let stop = CancellationToken::new();
        let (sender, pid) = watch::channel(Some(process.pid()));
        let supervisor = Supervisor {
            config,
            pid: sender,
            stop: stop.clone(),
            _lock: lock,
        };
        Ok(Self {
            socket,
            adopted,
            pid,
            stop,
            supervision: AbortOnDropHandle::new(tokio::spawn(supervisor.run(process))),
        })
    }

    /// Where it listens; the same for as long as this lives.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// The process that answers now; `None` between its end and its restart.
    pub fn pid(&self) -> Option<i32> {
        *self.pid.borrow()
    }

    /// Whether [`Daemon::start`] found it running.
    pub fn adopted(&self) -> bool {
        self.adopted
    }

    /// Ends containerd and returns when it is gone. Workspaces go on under their shims, and the
    /// next containerd finds them.
    ///
    /// # Errors
    /// When its process cannot be signalled or its pid file not removed.
    pub async fn stop(mut self) -> Result<(), DaemonError> {
        self.stop.cancel();
        match (&mut self.supervision).await {
            Ok(result) => result,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // Only dropping the handle or the runtime cancels it.
                Err(_) => Ok(()),
            },
        }
    }
}

/// The containerd of an earlier server, if it answers. One that does not is ended: two must never
/// use one root.
async fn adopt(config: &DaemonConfig) -> Result<Option<Process>, DaemonError> {
    let Some(mut process) = survivor::find(config)? else {
        return Ok(None);
    };
    let pid = process.pid();
    match ready::wait(&mut process, &config.socket(), Some(config.start_limit))
        .await
        .map_err(|source| DaemonError::Process {
            operation: "watch",
            pid,
            source,
        })? {
        Ready::Answers(version) => {
            tracing::info!(pid, version, "adopted the containerd of an earlier server");
            survivor::record(config, &process)?;
            Ok(Some(process))
        }
        Ready::Ended(_) => Ok(None),
        Ready::TimedOut => {
            tracing::warn!(pid, "ending a containerd that does not answer");
            supervisor::end(&mut process).await?;
            Ok(None)
        }
    }
}

async fn start(config: &DaemonConfig) -> Result<Process, DaemonError> {
    launch::check_version(config).await?;
    let mut launched = launch::launch(config)?;
    let pid = launched.process.pid();
    let ready = ready::wait(
        &mut launched.process,
        &config.socket(),
        Some(config.start_limit),
    )
    .await
    .map_err(|source| DaemonError::Process {
        operation: "watch",
        pid,
        source,
    })?;
    let log = launched.log_tail(config);
    let Launched {
        mut process,
        program,
        ..
    } = launched;
    match ready {
        Ready::Answers(version) => {
            tracing::info!(pid, version, "started containerd");
            Ok(process)
        }
        Ready::Ended(status) => {
            survivor::forget(config)?;
            Err(DaemonError::Exited {
                path: program,
                status,
                log,
            })
        }
        Ready::TimedOut => {
            supervisor::end(&mut process).await?;
            survivor::forget(config)?;
            Err(DaemonError::NoAnswer {
                path: program,
                after: config.start_limit,
                log,
            })
        }
    }
}
