//! What every long-running process needs: a log, one TLS provider, and a way to be told to end.

use crate::config::{Log, LogFormat};
use anyhow::Context;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::io::IsTerminal;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

/// Starts the log on standard error: standard output belongs to what a command answers.
///
/// # Errors
/// When the filter cannot be read or a log was started before.
pub fn start_log(log: &Log) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(&log.filter).context("cannot read log.filter")?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    let started = match log.format {
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
        LogFormat::Text => builder
            .with_ansi(std::io::stderr().is_terminal())
            .try_init(),
    };
    started.map_err(|error| anyhow::anyhow!("cannot start the log: {error}"))
}

/// Chooses the TLS implementation of the process: two are linked, and rustls panics at the first
/// connection when none was chosen.
pub fn install_tls_provider() {
    // An error means that one is installed, which is all that is wanted.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}

/// Lets the process open as many files as it may: a connection takes two. The usual soft limit is for
/// programs that use select(2).
pub fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, soft = limit.current, "cannot raise the limit of open files");
    }
}

/// A token that is cancelled on SIGTERM, SIGINT or SIGHUP. A second signal ends the process at
/// once with 130, for whoever does not want to wait for the grace period; the journal makes that
/// safe. Call it within the main runtime.
///
/// # Errors
/// When a handler cannot be installed.
pub fn shutdown_signal() -> anyhow::Result<CancellationToken> {
    let install =
        |kind, name: &'static str| signal(kind).with_context(|| format!("cannot handle {name}"));
    let mut terminate = install(SignalKind::terminate(), "SIGTERM")?;
    let mut interrupt = install(SignalKind::interrupt(), "SIGINT")?;
    let mut hang_up = install(SignalKind::hangup(), "SIGHUP")?;
    let token = CancellationToken::new();
    let cancelled = token.clone();
    tokio::spawn(async move {
        loop {
            let name = tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
                _ = hang_up.recv() => "SIGHUP",
            };
            if cancelled.is_cancelled() {
                tracing::warn!(signal = name, "second signal, ending without waiting");
                std::process::exit(130);
            }
            tracing::info!(signal = name, "shutting down");
            cancelled.cancel();
        }
    });
    Ok(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_files_can_be_opened_as_the_host_lets() {
        let most = getrlimit(Resource::Nofile).maximum;
        let less = Rlimit {
            // Also where there is no limit to what it may be.
            current: Some(most.map_or(1 << 20, |most| most - 1)),
            maximum: most,
        };
        setrlimit(Resource::Nofile, less).unwrap();
        assert_ne!(getrlimit(Resource::Nofile).current, most);
        raise_open_files();
        assert_eq!(getrlimit(Resource::Nofile).current, most);
    }
}
