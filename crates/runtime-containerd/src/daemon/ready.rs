//! Whether containerd answers.

use super::process::Process;
use crate::client;
use containerd_client::services::v1::version_client::VersionClient;
use std::io;
use std::path::Path;
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::time::{Instant, sleep, timeout};

/// How it went with a containerd that was waited for.
#[derive(Debug)]
pub(super) enum Ready {
    /// It answers and has this version.
    Answers(String),
    /// It ended with this status.
    Ended(String),
    /// It runs and does not answer.
    TimedOut,
}

/// Waits until the process answers on the socket, ends, or `limit` is over.
pub(super) async fn wait(
    process: &mut Process,
    socket: &Path,
    limit: Option<Duration>,
) -> io::Result<Ready> {
    let pid = process.pid();
    let deadline = limit.map(|limit| Instant::now() + limit);
    let answer = async {
        let mut pause = Duration::from_millis(5);
        loop {
            if let Some(version) = ask(socket, pid).await {
                return Some(version);
            }
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return None;
            }
            sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(40));
        }
    };
    tokio::select! {
        biased;
        ended = process.ended() => Ok(Ready::Ended(ended?)),
        version = answer => Ok(version.map_or(Ready::TimedOut, Ready::Answers)),
    }
}

/// The version that the process tells; `None` when it does not listen or does not answer.
async fn ask(socket: &Path, pid: i32) -> Option<String> {
    // The kernel tells who listens: a socket of another daemon is no answer.
    let stream = UnixStream::connect(socket).await.ok()?;
    if stream.peer_cred().ok()?.pid() != Some(pid) {
        return None;
    }
    drop(stream);
    let mut client = VersionClient::new(client::channel(socket));
    let answer = timeout(Duration::from_secs(2), client.version(())).await;
    Some(answer.ok()?.ok()?.into_inner().version)
}
