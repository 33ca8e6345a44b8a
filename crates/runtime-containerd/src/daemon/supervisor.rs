//! Keeps containerd running.

use super::launch::{self, Launched};
use super::lock::Lock;
use super::process::Process;
use super::ready::{self, Ready};
use super::{DaemonConfig, DaemonError, survivor};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

/// The first pause before a restart; it doubles with each.
const BACK_OFF: Duration = Duration::from_millis(250);
const BACK_OFF_MAX: Duration = Duration::from_secs(10);

/// Running for so long, it counts as healthy again.
const HEALTHY: Duration = Duration::from_secs(60);

/// The task that waits for containerd's end and starts it again.
#[derive(Debug)]
pub(super) struct Supervisor {
    pub(super) config: DaemonConfig,
    /// The process that answers.
    pub(super) pid: watch::Sender<Option<i32>>,
    pub(super) stop: CancellationToken,
    /// Held by the task, so that it is freed only when the task can start nothing any more.
    pub(super) _lock: Lock,
}

impl Supervisor {
    /// Runs until it is stopped; then ends containerd.
    pub(super) async fn run(self, first: Process) -> Result<(), DaemonError> {
        let mut process = Some(first);
        let mut back_off = BackOff::default();
        loop {
            if let Some(process) = &mut process {
                let since = Instant::now();
                tokio::select! {
                    biased;
                    () = self.stop.cancelled() => return self.end(process).await,
                    ended = self.keep(process) => ended
                        .inspect_err(|error| tracing::error!(%error, "containerd is no longer supervised"))?,
                }
                back_off.ran_for(since.elapsed());
            }
            self.pid.send_replace(None);
            let pause = back_off.next();
            tracing::info!(
                milliseconds = pause.as_millis(),
                "restarting containerd after a pause"
            );
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return survivor::forget(&self.config),
                () = sleep(pause) => {}
            }
            process = match launch::launch(&self.config) {
                Ok(Launched { process, .. }) => Some(process),
                Err(error) => {
                    let cause = std::error::Error::source(&error).map(ToString::to_string);
                    tracing::error!(%error, cause, "containerd was not restarted");
                    None
                }
            };
        }
    }

    /// Waits until it answers and then until it ends.
    async fn keep(&self, process: &mut Process) -> Result<(), DaemonError> {
        let pid = process.pid();
        let watch_error = |source| DaemonError::Process {
            operation: "watch",
            pid,
            source,
        };
        let socket = self.config.socket();
        loop {
            match ready::wait(process, &socket, Some(self.config.start_limit))
                .await
                .map_err(watch_error)?
            {
                Ready::Answers(version) => {
                    tracing::info!(pid, version, "containerd runs");
                    self.pid.send_replace(Some(pid));
                    let status = process.ended().await.map_err(watch_error)?;
                    tracing::error!(pid, status, "containerd ended");
                    return Ok(());
                }
                Ready::Ended(status) => {
                    tracing::error!(
                        pid,
                        status,
                        log = %self.config.log_file.display(),
                        "containerd ended before it answered"
                    );
                    return Ok(());
                }
                // It is not ended: with many workspaces it waits for many shims, and would for as
                // long after another start.
                Ready::TimedOut => tracing::warn!(pid, "containerd does not answer yet"),
            }
        }
    }

    async fn end(&self, process: &mut Process) -> Result<(), DaemonError> {
        self.pid.send_replace(None);
        end(process).await?;
        survivor::forget(&self.config)
    }
}

/// Ends containerd. Workspaces go on under their shims.
pub(super) async fn end(process: &mut Process) -> Result<(), DaemonError> {
    process
        .terminate()
        .await
        .map_err(|source| DaemonError::Process {
            operation: "stop",
            pid: process.pid(),
            source,
        })
}

/// The pauses between restarts.
#[derive(Debug)]
struct BackOff {
    pause: Duration,
}

impl Default for BackOff {
    fn default() -> Self {
        Self { pause: BACK_OFF }
    }
}

impl BackOff {
    fn ran_for(&mut self, time: Duration) {
        if time >= HEALTHY {
            self.pause = BACK_OFF;
        }
    }

    fn next(&mut self) -> Duration {
        let pause = self.pause;
        self.pause = (pause * 2).min(BACK_OFF_MAX);
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_ten_seconds_and_start_over_after_a_healthy_minute() {
        let mut back_off = BackOff::default();
        let pauses: Vec<u128> = (0..8)
            .map(|_| {
                back_off.ran_for(Duration::from_secs(59));
                back_off.next().as_millis()
            })
            .collect();
        assert_eq!(pauses, [250, 500, 1000, 2000, 4000, 8000, 10_000, 10_000]);
        back_off.ran_for(Duration::from_secs(60));
        assert_eq!(back_off.next().as_millis(), 250);
    }
}
