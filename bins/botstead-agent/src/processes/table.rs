//! The service `ProcessTable`: all that runs in the workspace, whoever started it, and signals to it.
//!
//! It needs neither a new process nor a new thread: it is what its owner has left when the workspace
//! is at its limit of processes.

use super::ProcessesService;
use super::stat::{Process, numbers, processes, read, send};
use botstead_bridge::proto::process_table_server::ProcessTable;
use botstead_bridge::proto::{
    ReadTableReply, ReadTableRequest, SignalManyReply, SignalManyRequest, TableEntry,
};
use botstead_bridge::{Failure, FailureKind};
use bytes::Bytes;
use rustix::param::{clock_ticks_per_second, page_size};
use rustix::process::Signal;
use rustix::time::{ClockId, clock_gettime};
use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::sync::OnceLock;
use std::time::{SystemTime, UNIX_EPOCH};
use tonic::{Request, Response, Status};

/// Entries of an answer, which has to fit into a message.
const MOST_ENTRIES: usize = 500;
/// Bytes of a process's arguments.
const MOST_ARGUMENTS: usize = 1 << 10;
/// Processes that one call signals.
const MOST_SIGNALLED: usize = 1000;

#[tonic::async_trait]
impl ProcessTable for ProcessesService {
    async fn read(
        &self,
        request: Request<ReadTableRequest>,
    ) -> Result<Response<ReadTableReply>, Status> {
        let ReadTableRequest { after, limit } = request.into_inner();
        let leaders = self.registry.leaders();
        let limit = usize::try_from(limit)
            .unwrap_or(MOST_ENTRIES)
            .clamp(1, MOST_ENTRIES);
        let reply = self
            .settings
            .looker
            .run(move || table(after, limit, &leaders));
        let reply = reply.await.map_err(|_| failed())?;
        Ok(Response::new(reply.map_err(unread)?))
    }

    async fn signal_many(
        &self,
        request: Request<SignalManyRequest>,
    ) -> Result<Response<SignalManyReply>, Status> {
        let request = request.into_inner();
        let signal = Signal::from_named_raw(request.signal).ok_or_else(|| {
            Failure::new(
                FailureKind::Invalid,
                format!("{} is not a signal", request.signal),
            )
        })?;
        if request.pids.len() > MOST_SIGNALLED {
            let words = format!("at most {MOST_SIGNALLED} processes are signalled at once");
            return Err(Failure::new(FailureKind::Invalid, words).into());
        }
        // Not behind the trees that are being ended: it is for what they do not end.
        let sent = self.settings.looker.run(move || match request.all {
            true => signal_all(signal),
            false => Ok(signal_these(&request.pids, signal)),
        });
        let pids = sent.await.map_err(|_| failed())??;
        Ok(Response::new(SignalManyReply { pids }))
    }
}

fn failed() -> Failure {
    Failure::new(FailureKind::Internal, "the agent failed")
}

/// `/proc` could not be read.
fn unread(error: std::io::Error) -> Failure {
    let words = format!("the workspace's processes cannot be listed: {error}");
    Failure::new(FailureKind::Limit, words).with_errno(error.raw_os_error().unwrap_or_default())
}

fn signal_these(pids: &[u32], signal: Signal) -> Vec<u32> {
    let is_sent = |pid: &u32| {
        // Number 0 and negative ones are groups, and the agent's is not of the table.
        let number = i32::try_from(*pid).ok().filter(|number| *number > 0);
        number
            .filter(|_| *pid != std::process::id())
            .and_then(read)
            .is_some_and(|process| !process.ended() && send(process.pid, process.started, signal))
    };
    pids.iter().copied().filter(is_sent).collect()
}

/// Signals everything at one stroke, which a fork bomb does not outrun.
fn signal_all(signal: Signal) -> Result<Vec<u32>, Failure> {
    if std::process::id() != 1 {
        let words = "the agent is not the first process of its workspace";
        return Err(Failure::new(FailureKind::Unsupported, words));
    }
    let there = processes();
    let number = nix::sys::signal::Signal::try_from(signal.as_raw())
        .map_err(|_| Failure::new(FailureKind::Invalid, "it is not a signal"))?;
    // From the first process: all that it sees but itself, kill(2). ESRCH: there is none.
    match nix::sys::signal::kill(nix::unistd::Pid::from_raw(-1), number) {
        Ok(()) => {}
        Err(nix::errno::Errno::ESRCH) => return Ok(Vec::new()),
        Err(errno) => return Err(Failure::new(FailureKind::Internal, errno.to_string())),
    }
    let mut there = there.map_err(unread)?;
    there.retain(|process| !process.ended());
    Ok(there
        .iter()
        .map(|process| process.pid.unsigned_abs())
        .collect())
}

fn table(
    after: u32,
    limit: usize,
    leaders: &HashMap<i32, String>,
) -> std::io::Result<ReadTableReply> {
    let mut numbers = numbers()?;
    numbers.retain(|pid| pid.unsigned_abs() > after);
    numbers.sort_unstable();
    let mut entries = Vec::new();
    let mut rest = numbers.iter();
    // The next one that is there still tells whether there is more.
    let more = loop {
        let found = rest.by_ref().find_map(|pid| entry(read(*pid)?, leaders));
        let Some(entry) = found else { break false };
        if entries.len() == limit {
            break true;
        }
        entries.push(entry);
    };
    Ok(ReadTableReply { entries, more })
}

/// None for one that is gone meanwhile.
fn entry(process: Process, leaders: &HashMap<i32, String>) -> Option<TableEntry> {
    let (args, args_cut) = arguments(process.pid);
    let ticks_per_second = clock_ticks_per_second().max(1);
    let milliseconds = |ticks: u64| ticks.saturating_mul(1000) / ticks_per_second;
    Some(TableEntry {
        pid: process.pid.unsigned_abs(),
        parent: process.parent.unsigned_abs(),
        uid: effective_user(process.pid)?,
        state: char::from(process.state).to_string(),
        name: start_of(process.pid, "comm", 16)
            .trim_ascii_end()
            .to_vec()
            .into(),
        args,
        args_cut,
        started_at_ms: booted_at_ms().saturating_add_unsigned(milliseconds(process.started)),
        cpu_ms: milliseconds(process.cpu_ticks),
        resident_bytes: resident(process.pid),
        threads: process.threads,
        id: leaders.get(&process.session).cloned().unwrap_or_default(),
    })
}

/// When the host was started, in milliseconds since 1970: one answer for all looks, so that a process has
/// one time.
fn booted_at_ms() -> i64 {
    static BOOTED: OnceLock<i64> = OnceLock::new();
    *BOOTED.get_or_init(measure_boot)
}

fn measure_boot() -> i64 {
    let since_1970 = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let since_boot = clock_gettime(ClockId::Boottime);
    let since_boot = since_boot.tv_sec.saturating_mul(1000) + since_boot.tv_nsec / 1_000_000;
    i64::try_from(since_1970.as_millis())
        .unwrap_or(i64::MAX)
        .saturating_sub(since_boot)
}

/// A line of `/proc/PID/status` has the real, the effective, the saved and the file system's user.
fn effective_user(pid: i32) -> Option<u32> {
    let status = start_of(pid, "status", 4 << 10);
    let lines = status.split(|byte| *byte == b'\n');
    lines
        .filter_map(|line| std::str::from_utf8(line).ok()?.strip_prefix("Uid:"))
        .find_map(|users| users.split_ascii_whitespace().nth(1)?.parse().ok())
}

/// The second field of `/proc/PID/statm`, in pages.
fn resident(pid: i32) -> u64 {
    let statm = start_of(pid, "statm", 256);
    let pages = std::str::from_utf8(&statm).ok().and_then(|text| {
        let pages = text.split_ascii_whitespace().nth(1)?;
        pages.parse::<u64>().ok()
    });
    pages.unwrap_or(0).saturating_mul(page_size() as u64)
}

/// The arguments as the process shows them, which it may have changed, and whether some were left out.
fn arguments(pid: i32) -> (Vec<Bytes>, bool) {
    let line = start_of(pid, "cmdline", MOST_ARGUMENTS + 1);
    let is_cut = line.len() > MOST_ARGUMENTS;
    let line = line.get(..MOST_ARGUMENTS).unwrap_or(&line);
    if line.is_empty() {
        return (Vec::new(), false);
    }
    let line = line.strip_suffix(b"\0").unwrap_or(line);
    let args = line.split(|byte| *byte == 0).map(Bytes::copy_from_slice);
    (args.collect(), is_cut)
}

/// The first bytes of a file of a process; empty when it is gone.
fn start_of(pid: i32, name: &str, most: usize) -> Vec<u8> {
    let mut text = Vec::new();
    if let Ok(file) = File::open(format!("/proc/{pid}/{name}")) {
        // What was read until it went.
        let _ = file.take(most as u64).read_to_end(&mut text);
    }
    text
}
