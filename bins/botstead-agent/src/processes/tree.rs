//! Ends a command with everything that it started: asks, and kills what is left after a grace.
//!
//! Its tree is every process of its session and every descendant of such a one, as `/proc` shows
//! them. Out of reach is what made itself a daemon: in a session of its own and orphaned to PID 1
//! before it was looked for.

use super::stat::{Process, processes, read, send};
use rustix::process::{Pid, Signal};
use std::collections::{HashMap, HashSet};
use std::thread;
use std::time::{Duration, Instant};

/// How long to look for processes that were forked since the last look. A fork bomb is held by its limit of
/// processes, every look stops all that it finds, and one takes long where there are thousands.
const HOLD: Duration = Duration::from_secs(1);
const KILL: Duration = Duration::from_secs(2);
/// Between looks for what was killed and is still there.
const PAUSE: Duration = Duration::from_millis(1);

/// A session's first process, and when it was started: once nothing of the session is left another process
/// can get its number.
#[derive(Debug, Clone, Copy)]
struct Leader {
    pid: i32,
    /// None where it is gone already.
    started: Option<u64>,
}

/// A tree that is being ended: the session of a process and every member that was found, which stays
/// one when its parent is gone.
#[derive(Debug, Clone)]
pub(super) struct Tree {
    leader: Leader,
    members: HashMap<i32, u64>,
}

impl Tree {
    /// That of a session's first process.
    pub(super) fn of(leader: Pid) -> Self {
        let pid = leader.as_raw_nonzero().get();
        let started = read(pid).map(|process| process.started);
        Self {
            leader: Leader { pid, started },
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
                // That it is gone is what is wanted.
                let _ = send(pid, started, signal);
            }
        }
    }

    /// Whether all of it is gone.
    pub(super) fn is_gone(&mut self) -> bool {
        // Who cannot look cannot tell.
        let Some(found) = look(self.leader, &self.members) else {
            return false;
        };
        self.members
            .extend(found.iter().map(|process| (process.pid, process.started)));
        found.is_empty()
    }

    /// Kills all of it.
    pub(super) fn kill(self) {
        kill(self.leader, self.members);
    }
}

/// Kills a tree, and returns when all of it is gone, or after some seconds when the kernel keeps one.
fn kill(leader: Leader, known: HashMap<i32, u64>) {
    let mut members = hold(leader, &known);
    let until = Instant::now() + KILL;
    while Instant::now() < until {
        let Some(left) = look(leader, &members) else {
            thread::sleep(PAUSE);
            continue;
        };
        if left.is_empty() {
            return;
        }
        for process in left {
            members.insert(process.pid, process.started);
            let _ = send(process.pid, process.started, Signal::KILL);
        }
        thread::sleep(PAUSE);
    }
}

/// Stops a tree, again and again until nothing in it runs: what is stopped forks no more, and no
/// parent goes away that shows where its children belong.
fn hold(leader: Leader, known: &HashMap<i32, u64>) -> HashMap<i32, u64> {
    let mut members = known.clone();
    let mut stood_still = false;
    let until = Instant::now() + HOLD;
    while Instant::now() < until {
        let Some(found) = look(leader, &members) else {
            thread::sleep(PAUSE);
            continue;
        };
        let running: Vec<_> = found.iter().filter(|process| !process.stopped()).collect();
        for process in &running {
            send(process.pid, process.started, Signal::STOP);
        }
        // A look takes time: one whose parent stopped during it may be missing in it.
        if running.is_empty() && stood_still {
            break;
        }
        stood_still = running.is_empty();
        if !stood_still {
            thread::sleep(PAUSE);
        }
        members.extend(found.iter().map(|process| (process.pid, process.started)));
    }
    members
}

/// The tree as it is now; none where `/proc` cannot be read.
fn look(leader: Leader, members: &HashMap<i32, u64>) -> Option<Vec<Process>> {
    let all = processes().ok()?;
    Some(tree(leader, &all, members))
}

/// Those that run and belong to the leader's session, to `members`, or descend from one of these.
fn tree(leader: Leader, all: &[Process], members: &HashMap<i32, u64>) -> Vec<Process> {
    let is_other =
        |process: &Process| process.pid == leader.pid && leader.started != Some(process.started);
    let is_over = all.iter().any(is_other);
    let mut inside: HashSet<i32> = all
        .iter()
        .filter(|process| {
            (!is_over && process.session == leader.pid)
                || (process.pid == leader.pid && !is_other(process))
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

#[cfg(test)]
mod tests {
    use super::*;

    fn process(pid: i32, parent: i32, session: i32) -> Process {
        Process {
            pid,
            state: b'S',
            parent,
            session,
            cpu_ticks: 0,
            threads: 1,
            started: 1,
        }
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
        let found = |started, members: &[(i32, u64)]| -> Vec<i32> {
            let leader = Leader { pid: 10, started };
            tree(leader, &all, &members.iter().copied().collect())
                .iter()
                .map(|process| process.pid)
                .collect()
        };
        assert_eq!(found(Some(1), &[]), [2, 10, 11, 12, 13]);
        // One that was found before stays a member when its parent is gone; another process that
        // got its number is none.
        let members = [(21, 1), (20, 9)];
        assert_eq!(found(Some(1), &members), [2, 10, 11, 12, 13, 21]);
        // Neither is anything of a session that another one leads.
        for started in [None, Some(9)] {
            assert_eq!(found(started, &members), [21]);
        }
    }
}
