//! All that runs in a workspace, whoever started it, and signals to it: also where nothing can be started
//! any more.

use crate::agent::{answered, require, timed};
use crate::exec::is_id;
use crate::{Listed, Result, Workspaces};
use botstead_authz::Actor;
use botstead_bridge::proto;
use botstead_types::BotId;
use chrono::{DateTime, Utc};
use std::time::Duration;

/// The most bytes of a process's arguments, as the agent gives them.
const MOST_ARGUMENTS: usize = 1 << 10;
/// The most bytes of the kernel's name of a process.
const MOST_NAME: usize = 16;

/// A process of a workspace. What it says of itself is any bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessInfo {
    /// Its number in the workspace.
    pub pid: u32,
    /// That of its parent; 1 is the agent, 0 a process of the host.
    pub parent_pid: u32,
    /// Its effective user.
    pub uid: u32,
    /// The kernel's letter for its state, of proc_pid_stat(5); `?` for none of them.
    pub state: char,
    /// The kernel's name of it.
    pub name: Vec<u8>,
    /// Its arguments as it shows them; empty for one that has ended.
    pub command: Vec<Vec<u8>>,
    /// Whether arguments were left out.
    pub is_command_cut: bool,
    /// When it was started.
    pub started_at: DateTime<Utc>,
    /// The time of processors that it took.
    pub cpu: Duration,
    /// Its memory, resident.
    pub resident_bytes: u64,
    /// Its threads, which count against the limit of processes.
    pub threads: u32,
    /// The command or terminal that it belongs to; none when it left the session of that, or that has ended.
    pub started_by: Option<String>,
}

/// Which processes a signal is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Signalled {
    /// Those with these numbers, a thousand at most.
    These(Vec<u32>),
    /// All but the agent, at one stroke.
    All,
}

impl Workspaces {
    /// The processes of a running workspace but its agent, by number: those after `after`, at most `limit`
    /// and never more than 500.
    ///
    /// # Errors
    /// `BotNotFound`, `WorkspaceNotFound`, `NotRunning`, `Unreachable`, `Stalled`, `TooManyCalls`; `AgentOutdated` for an
    /// agent that runs since before this was known.
    pub async fn processes(
        &self,
        actor: &Actor,
        bot: BotId,
        after: u32,
        limit: u32,
    ) -> Result<Listed<ProcessInfo>> {
        let call = self.exec_call(actor, bot).await?;
        require(&call.client, 1, "lists of processes").await?;
        let request = timed(proto::ReadTableRequest { after, limit });
        let table = answered(call.client.process_table().read(request)).await?;
        Ok(listed(table, after, limit))
    }

    /// Sends a signal to processes of a running workspace, whoever started them. Gives the numbers of those
    /// that were there.
    ///
    /// # Errors
    /// As [`Workspaces::processes`]; `invalid_value` for what is no signal or too many numbers.
    pub async fn signal_processes(
        &self,
        actor: &Actor,
        bot: BotId,
        which: Signalled,
        signal: i32,
    ) -> Result<Vec<u32>> {
        let call = self.exec_call(actor, bot).await?;
        require(&call.client, 1, "lists of processes").await?;
        let (pids, all) = match which {
            Signalled::These(pids) => (pids, false),
            Signalled::All => (Vec::new(), true),
        };
        let request = timed(proto::SignalManyRequest { pids, all, signal });
        let sent = answered(call.client.process_table().signal_many(request)).await?;
        Ok(sent.pids)
    }
}

/// What an agent tells, as much of it as was asked for, and in an order that a list can be read in to its
/// end.
fn listed(table: proto::ReadTableReply, after: u32, limit: u32) -> Listed<ProcessInfo> {
    let mut last = after;
    let items: Vec<_> = table
        .entries
        .into_iter()
        .filter(|entry| {
            let follows = entry.pid > last;
            last = last.max(entry.pid);
            follows
        })
        .take(usize::try_from(limit).unwrap_or(usize::MAX))
        .map(process_info)
        .collect();
    Listed {
        more: table.more && !items.is_empty(),
        items,
    }
}

fn process_info(entry: proto::TableEntry) -> ProcessInfo {
    let mut left = MOST_ARGUMENTS;
    let command: Vec<_> = entry
        .args
        .iter()
        .map_while(|argument| {
            left = left.checked_sub(argument.len())?;
            Some(argument.to_vec())
        })
        .collect();
    let mut state = entry.state.chars();
    ProcessInfo {
        pid: entry.pid,
        parent_pid: entry.parent,
        uid: entry.uid,
        state: state
            .next()
            .filter(char::is_ascii_alphabetic)
            .unwrap_or('?'),
        name: entry.name.get(..MOST_NAME).unwrap_or(&entry.name).to_vec(),
        is_command_cut: entry.args_cut || command.len() < entry.args.len(),
        command,
        started_at: DateTime::from_timestamp_millis(entry.started_at_ms).unwrap_or_default(),
        cpu: Duration::from_millis(entry.cpu_ms),
        resident_bytes: entry.resident_bytes,
        threads: entry.threads,
        started_by: Some(entry.id).filter(|id| is_id(id)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    #[test]
    fn what_an_agent_tells_is_bounded_and_goes_forward() {
        let entry = |pid| proto::TableEntry {
            pid,
            state: "\u{1b}[31m".to_owned(),
            name: Bytes::from(vec![b'n'; 5000]),
            args: vec![Bytes::from(vec![b'a'; 600]); 9],
            id: "../x".to_owned(),
            ..proto::TableEntry::default()
        };
        let table = |pids: &[u32]| proto::ReadTableReply {
            entries: pids.iter().copied().map(entry).collect(),
            more: true,
        };
        let seen = listed(table(&[3, 9, 9, 4, 12, 15]), 5, 2);
        let pids: Vec<_> = seen.items.iter().map(|process| process.pid).collect();
        assert_eq!((pids, seen.more), (vec![9, 12], true));
        let first = &seen.items[0];
        assert_eq!((first.command.len(), first.is_command_cut), (1, true));
        assert_eq!((first.state, first.name.len()), ('?', 16));
        assert_eq!(first.started_by, None);
        // One that tells of a next page without anything on this one is not followed for ever.
        assert!(!listed(table(&[3]), 5, 2).more);
    }
}
