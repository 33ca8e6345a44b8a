//! Measures the server over HTTP, and the bare containerd sequence in the same run.
//!
//! `cargo xtask bench` builds everything and runs this. It starts a server with temporary folders
//! and a containerd of its own, and removes all of it, whatever happens.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program for people at a terminal"
)]

mod against;
mod api;
mod bare;
mod depth;
mod export;
mod fleet;
mod freeze;
mod idle;
mod inside;
mod load;
mod machine;
mod paired;
mod report;
mod server;
mod stats;
mod terminals;

use against::Extent;
use anyhow::{Context, Result, bail};
use bare::Bare;
use clap::Parser;
use depth::Counts;
use machine::Machine;
use report::{PairRow, Report};
use server::{IMAGE, Programs, Server};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::signal::unix::{SignalKind, signal};

/// What can be measured, one name a line.
const MEASUREMENTS: &str = include_str!("../measurements.txt");

/// Measures the server.
#[derive(Debug, Parser)]
struct Options {
    /// The server's program
    #[arg(long)]
    server: PathBuf,
    /// The agent's program
    #[arg(long)]
    agent: PathBuf,
    /// Write the report to this file; only printed when not given
    #[arg(long)]
    report: Option<PathBuf>,
    /// Another build of the server's program, to be measured in turns with this one; with the agent
    /// that is beside it, or this one's
    #[arg(long)]
    against: Option<PathBuf>,
    /// Few rounds, to see whether it works
    #[arg(long)]
    quick: bool,
    /// Only measurements whose names contain one of these: first-command, create, stop-start,
    /// rollback, rollback-stopped, snapshot, snapshot-stop, freeze, export, command, files,
    /// terminals, fleet, idle, load, history, against
    filters: Vec<String>,
}

impl Options {
    fn wants(&self, name: &str) -> bool {
        self.filters.is_empty()
            || self
                .filters
                .iter()
                .any(|filter| name.contains(filter.as_str()))
    }

    /// How often operations are measured.
    fn rounds(&self) -> usize {
        if self.quick { 3 } else { 25 }
    }

    fn idle(&self) -> (usize, Duration) {
        match self.quick {
            true => (5, Duration::from_secs(10)),
            false => (100, Duration::from_secs(60)),
        }
    }

    fn load(&self) -> (usize, usize) {
        if self.quick { (3, 1) } else { (8, 4) }
    }

    fn extent(&self) -> Extent {
        let (idle_workspaces, idle_window) = self.idle();
        let (load_workspaces, load_rounds) = self.load();
        Extent {
            rounds: self.rounds(),
            idle_workspaces,
            idle_window,
            load_workspaces,
            load_rounds,
        }
    }

    /// The programs of the other build, where it is compared with one.
    fn other(&self) -> Option<Programs> {
        let server = self.against.clone()?;
        let beside = server.with_file_name("botstead-agent");
        let agent = match beside.is_file() {
            true => beside,
            false => self.agent.clone(),
        };
        Some(Programs { server, agent })
    }

    fn history(&self) -> Counts {
        match self.quick {
            true => Counts {
                snapshots: 40,
                rounds: 5,
                starts: 3,
                lookups: 2000,
            },
            false => Counts {
                snapshots: 1000,
                rounds: 100,
                starts: 15,
                lookups: 20_000,
            },
        }
    }
}

async fn measure(
    options: &Options,
    server: &Server,
    other: Option<&Server>,
    bare: &mut Bare,
) -> Result<Report> {
    let mut report = Report::default();
    let first = server.resident()?;
    let (api, rounds) = (&server.api, options.rounds());
    macro_rules! pair {
        ($name:literal, $title:literal, $target:literal, $measure:path) => {
            if options.wants($name) {
                let pair = progress($title, $measure(api, bare, rounds)).await?;
                let row = PairRow {
                    name: $title,
                    target: $target,
                    pair,
                };
                print!("    {}", row.render());
                report.pairs.push(row);
            }
        };
    }
    pair!(
        "first-command",
        "create to first command",
        true,
        inside::first_command
    );
    pair!("create", "create", true, paired::create);
    pair!("stop-start", "stop + start", true, paired::stop_start);
    pair!("rollback", "rollback, running", true, paired::rollback);
    pair!(
        "rollback-stopped",
        "rollback, stopped",
        false,
        paired::rollback_stopped
    );
    pair!("snapshot", "snapshot, live", false, paired::snapshot);
    pair!(
        "snapshot-stop",
        "snapshot, stopping",
        false,
        paired::snapshot_stop
    );
    if options.wants("freeze") {
        let sizes: &[(usize, usize)] = match options.quick {
            true => &[(1000, 3)],
            false => &[(1000, 25), (20_000, 20), (100_000, 8), (500_000, 3)],
        };
        let agent = options.agent.clone();
        let stop = Arc::new(AtomicBool::new(false));
        let end = StopWhenDropped(Arc::clone(&stop));
        let measured = async move {
            let _end = end;
            tokio::task::spawn_blocking(move || freeze::measure(agent, sizes, &stop)).await?
        };
        report.freezes = progress("freeze", measured).await?;
    }
    if options.wants("export") {
        let rounds = if options.quick { 2 } else { 7 };
        let exports = export::measure(api, options.quick, rounds);
        report.exports = progress("export", exports).await?;
    }
    if options.wants("command") {
        let rounds = if options.quick { 20 } else { 500 };
        let command = progress("command", inside::command(api, rounds)).await?;
        report.command = Some(command);
    }
    if options.wants("files") {
        let (size, rounds) = if options.quick {
            (16 << 20, 2)
        } else {
            (512 << 20, 7)
        };
        report.files = Some(progress("files", inside::files(api, size, rounds)).await?);
    }
    if options.wants("terminals") {
        let (count, rounds) = if options.quick { (10, 2) } else { (100, 10) };
        let terminals = terminals::measure(server, count, rounds);
        report.terminals = Some(progress("terminals", terminals).await?);
    }
    if options.wants("fleet") {
        let (workspaces, reads) = if options.quick { (10, 30) } else { (50, 500) };
        let fleet = progress("fleet", fleet::measure(server, workspaces, reads)).await?;
        report.fleet = Some(fleet);
    }
    if options.wants("idle") {
        let (workspaces, window) = options.idle();
        let idle = idle::measure(server, workspaces, window);
        report.idle = Some(progress("idle", idle).await?);
    }
    if options.wants("load") {
        let (workspaces, rounds) = options.load();
        let load = load::measure(server, workspaces, rounds);
        report.load = Some(progress("load", load).await?);
    }
    if options.wants("history") {
        let depth = progress("history", depth::measure(api, options.history())).await?;
        report.depth = Some(depth);
    }
    if options.filters.is_empty() {
        tokio::time::sleep(load::REST).await;
        report.ends = Some((first, server.resident()?));
    }
    if let Some(other) = other.filter(|_| options.wants("against")) {
        let against = against::measure(server, other, options.extent());
        report.against = Some(progress("against", against).await?);
    }
    Ok(report)
}

/// Ends work on another thread with the future that waits for it.
struct StopWhenDropped(Arc<AtomicBool>);

impl Drop for StopWhenDropped {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

async fn progress<T>(name: &str, work: impl Future<Output = Result<T>>) -> Result<T> {
    println!("==> {name}");
    let began = Instant::now();
    let done = work
        .await
        .with_context(|| format!("measuring {name} failed"))?;
    println!("    {name}: done in {:.1} s", began.elapsed().as_secs_f64());
    Ok(done)
}

/// Everything that needs the server, so that the caller can end it afterwards.
async fn with_server(
    options: &Options,
    server: &Server,
    other: Option<&Server>,
    bare: &mut Option<Bare>,
) -> Result<String> {
    server.import_image().await?;
    if let Some(other) = other {
        other.import_image().await?;
    }
    // A workspace whose record tells the bare sequence what to make.
    let model = server.api.new_bot().await?;
    server.api.create(&model, IMAGE).await?;
    let shown = server.api.get(&model, "").await?;
    let container = shown["container_id"].as_str().context("no container_id")?;
    let namespace = server.containerd_namespace();
    let bare =
        bare.insert(Bare::new(&server.socket(), &namespace, container, server.run_dir()).await?);
    let machine = Machine::look(bare.version().await?)?;
    println!("{machine}");
    let report = measure(options, server, other, bare).await?;
    Ok(report.render(&machine))
}

async fn run(options: &Options) -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!("the bench starts containers and must run as root");
    }
    if let Some(filter) = options.filters.iter().find(|filter| {
        !MEASUREMENTS
            .lines()
            .any(|name| name.contains(filter.as_str()))
    }) {
        bail!("nothing is called {filter:?}; there is:\n{MEASUREMENTS}");
    }
    let programs = Programs {
        server: options.server.clone(),
        agent: options.agent.clone(),
    };
    let mut terminated = signal(SignalKind::terminate())?;
    let server = Server::start(&programs).await?;
    let mut bare = None;
    let mut other = None;
    let work = async {
        if let Some(programs) = options.other() {
            let started = Server::start(&programs).await;
            other = Some(started.context("the other build does not start")?);
        }
        with_server(options, &server, other.as_ref(), &mut bare).await
    };
    let measured = tokio::select! {
        measured = work => measured,
        _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("interrupted")),
        _ = terminated.recv() => Err(anyhow::anyhow!("told to end")),
    };
    let measured = measured.with_context(|| format!("the server's log ends:\n{}", server.log()));
    let ended = match other {
        Some(other) => other.end(None).await,
        None => Ok(()),
    };
    let ended = ended.and(server.end(bare.as_ref()).await);
    let ended = ended.context("cannot clean up");
    let text = measured?;
    ended?;
    println!("\n{text}");
    if let Some(path) = &options.report {
        std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

#[tokio::main]
async fn main() -> ExitCode {
    botstead_live_copy::measure::writer();
    match run(&Options::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
