//! Ends a command with everything that it started: asks, and kills what is left after a grace.
//!
//! Its tree is every process of its session and every descendant of such a one, as `/proc` shows
//! them. Out of reach is what made itself a daemon: in a session of its own and orphaned to PID 1
//! before it was looked for.

use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open, pidfd_send_signal};
use std::collections::{HashMap, HashSet};
use std::fs;
use std::thread;
use std::time::Duration;

/// How often to look for processes that were forked since the last look. A fork bomb is held by its
/// limit of processes, and every look stops all that it finds.
const LOOKS: usize = 100;
/// Between looks for what was killed and is still there.
const PAUSE: Duration = Duration::from_millis(1);

/// What `/proc/PID/stat` says, proc_pid_stat(5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Process {
    pid: i32,
    state: u8,
    parent: i32,
    session: i32,
    /// Ticks after boot: with the number it tells a process from a later one of the same number.
    started: u64,
}

impl Process {
    fn ended(self) -> bool {
        matches!(self.state, b'Z' | b'X')
    }

    fn stopped(self) -> bool {
        matches!(self.state, b'T' | b't')
    }
}

/// A tree that is being ended: the session of a process and every member that was found, which stays
/// one when its parent is gone.
#[derive(Debug, Clone)]
pub(super) struct Tree {
    leader: i32,
    members: HashMap<i32, u64>,
}

impl Tree {
    /// That of a session's first process.
    pub(super) fn of(leader: Pid) -> Self {
        Self {
            leader: leader.as_raw_nonzero().get(),
            members: HashMap::new(),
        }
    }

    /// Sends a signal to every member, and lets all of them act on it.
    ///
    /// They are stopped first: a parent that ends at the signal would leave a child that it has just
    /// forked, in a session of its own, with nothing that shows where it belongs.
    pub(super) fn ask(&mut self, signal: Signal) {
        self.members = hold(self.leader, &self.members);
        for signal in [signal, Signal::CONT] {
            for (&pid, &started) in &self.members {
                send(pid, started, signal);
            }
        }
    }

    /// Whether all of it is gone.
    pub(super) fn is_gone(&mut self) -> bool {
        self.look().is_empty()
    }

    fn look(&mut self) -> Vec<Process> {
        let found = tree(self.leader, &processes(), &self.members);
        self.members
            .extend(found.iter().map(|process| (process.pid, process.started)));
        found
    }

    /// Kills all of it.
    pub(super) fn kill(self) {
        kill(self.leader, self.members);
    }
}

/// Kills a tree, and returns when all of it is gone, or after about a second when the kernel keeps
/// one.
fn kill(leader: i32, known: HashMap<i32, u64>) {
    let mut members = hold(leader, &known);
    for _ in 0..LOOKS {
        let left = tree(leader, &processes(), &members);
        if left.is_empty() {
            return;
        }
        for process in left {
            members.insert(process.pid, process.started);
            send(process.pid, process.started, Signal::KILL);
        }
        thread::sleep(PAUSE);
    }
}

/// Stops a tree, again and again until nothing in it runs: what is stopped forks no more, and no
/// parent goes away that shows where its children belong.
fn hold(leader: i32, known: &HashMap<i32, u64>) -> HashMap<i32, u64> {
    let mut members = known.clone();
    for _ in 0..LOOKS {
        let found = tree(leader, &processes(), &members);
        if found.iter().all(|process| process.stopped()) {
            break;
        }
        for process in found {
            members.insert(process.pid, process.started);
            send(process.pid, process.started, Signal::STOP);
        }
    }
    members
}

/// Those that run and belong to the leader's session, to `members`, or descend from one of these.
fn tree(leader: i32, all: &[Process], members: &HashMap<i32, u64>) -> Vec<Process> {
    let mut inside: HashSet<i32> = all
        .iter()
        .filter(|process| {
            process.pid == leader
                || process.session == leader
                || members.get(&process.pid) == Some(&process.started)
        })
        .map(|process| process.pid)
        .collect();
    // Numbers wrap, so a child may stand before its parent.
    loop {
        let before = inside.len();
        for process in all {
            if inside.contains(&process.parent) {
                inside.insert(process.pid);
            }
        }
        if inside.len() == before {
            break;
        }
    }
    all.iter()
        .filter(|process| inside.contains(&process.pid) && !process.ended())
        .copied()
        .collect()
}

/// Sends a signal to exactly this process, not to a later one with its number.
fn send(number: i32, started: u64, signal: Signal) {
    let Some(pid) = Pid::from_raw(number) else {
        return;
    };
    let still_it = || read(number).is_some_and(|now| now.started == started);
    // That it is gone is what is wanted.
    let _ = match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(descriptor) if still_it() => pidfd_send_signal(&descriptor, signal),
        Err(rustix::io::Errno::NOSYS) if still_it() => kill_process(pid, signal),
        _ => Ok(()),
    };
}

/// All processes of the namespace but the agent.
fn processes() -> Vec<Process> {
    let Ok(folder) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    let own = std::process::id();
    folder
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|pid: &i32| pid.unsigned_abs() != own)
        .filter_map(read)
        .collect()
}

fn read(pid: i32) -> Option<Process> {
    parse(pid, &fs::read(format!("/proc/{pid}/stat")).ok()?)
}

fn parse(pid: i32, stat: &[u8]) -> Option<Process> {
    // The name may hold anything, parentheses and spaces too; nothing after it does.
    let end = stat.iter().rposition(|byte| *byte == b')')?;
    let mut fields = std::str::from_utf8(stat.get(end + 2..)?).ok()?.split(' ');
    Some(Process {
        pid,
        state: *fields.next()?.as_bytes().first()?,
        parent: fields.next()?.parse().ok()?,
        // After the process group, field 5.
        session: fields.nth(1)?.parse().ok()?,
        // Field 22.
        started: fields.nth(15)?.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(pid: i32, parent: i32, session: i32) -> Process {
        Process {
            pid,
            state: b'S',
            parent,
            session,
            started: 1,
        }
    }

    #[test]
    fn reads_the_kernels_lines() {
        let own = i32::try_from(std::process::id()).unwrap();
        let found = read(own).unwrap();
        assert_eq!(found.parent, nix::unistd::getppid().as_raw());
        assert_eq!(found.session, nix::unistd::getsid(None).unwrap().as_raw());
        assert!(found.started > 0);
        let hostile = b"9 (a) Z 1 1 1 0) S 3 4 5 0 -1 4 1 2 3 4 5 6 7 8 20 0 1 0 777 1 2";
        let expected = Process {
            pid: 9,
            state: b'S',
            parent: 3,
            session: 5,
            started: 777,
        };
        assert_eq!(parse(9, hostile), Some(expected));
        assert_eq!(parse(9, b"9 (cut"), None);
    }

    #[test]
    fn a_tree_is_the_session_and_all_descendants() {
        let mut zombie = process(14, 10, 10);
        zombie.state = b'Z';
        let all = [
            process(2, 11, 2),
            process(10, 1, 10),
            process(11, 1, 10),
            process(12, 10, 12),
            process(13, 12, 13),
            zombie,
            process(20, 1, 20),
            process(21, 1, 21),
        ];
        let found = |members: &[(i32, u64)]| -> Vec<i32> {
            tree(10, &all, &members.iter().copied().collect())
                .iter()
                .map(|process| process.pid)
                .collect()
        };
        assert_eq!(found(&[]), [2, 10, 11, 12, 13]);
        // One that was found before stays a member when its parent is gone; another process that
        // got its number is none.
        assert_eq!(found(&[(21, 1), (20, 9)]), [2, 10, 11, 12, 13, 21]);
    }
}
