//! A process of the workspace as the kernel shows it, and a signal to exactly that one.

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open, pidfd_send_signal};
use std::{fs, io};

/// What `/proc/PID/stat` says, proc_pid_stat(5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Process {
    pub(super) pid: i32,
    pub(super) state: u8,
    pub(super) parent: i32,
    pub(super) session: i32,
    /// User and system, in ticks.
    pub(super) cpu_ticks: u64,
    pub(super) threads: u32,
    /// Ticks after boot: with the number it tells a process from a later one of the same number.
    pub(super) started: u64,
}

impl Process {
    pub(super) fn ended(self) -> bool {
        matches!(self.state, b'Z' | b'X')
    }

    pub(super) fn stopped(self) -> bool {
        matches!(self.state, b'T' | b't')
    }
}

/// The numbers of all processes of the namespace but the agent's own, in no order.
///
/// # Errors
/// Those of reading `/proc`, as for want of descriptors or memory.
pub(super) fn numbers() -> io::Result<Vec<i32>> {
    let own = std::process::id();
    let mut numbers = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        numbers.extend(name.to_str().and_then(|name| name.parse::<i32>().ok()));
    }
    numbers.retain(|pid| pid.unsigned_abs() != own);
    Ok(numbers)
}

/// All processes of the namespace but the agent.
///
/// # Errors
/// As [`numbers`].
pub(super) fn processes() -> io::Result<Vec<Process>> {
    Ok(numbers()?.into_iter().filter_map(read).collect())
}

/// One process; none when it is gone.
pub(super) fn read(pid: i32) -> Option<Process> {
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
        // Fields 14 and 15.
        cpu_ticks: fields.nth(7)?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?,
        // Field 20.
        threads: fields.nth(4)?.parse().ok()?,
        // Field 22.
        started: fields.nth(1)?.parse().ok()?,
    })
}

/// Sends a signal to exactly this process, not to a later one with its number. Says whether it was
/// there.
pub(super) fn send(number: i32, started: u64, signal: Signal) -> bool {
    let Some(pid) = Pid::from_raw(number) else {
        return false;
    };
    let still_it = || read(number).is_some_and(|now| now.started == started);
    match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(descriptor) if still_it() => pidfd_send_signal(&descriptor, signal).is_ok(),
        Err(Errno::NOSYS) if still_it() => kill_process(pid, signal).is_ok(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_kernels_lines() {
        let own = i32::try_from(std::process::id()).unwrap();
        let found = read(own).unwrap();
        assert_eq!(found.parent, nix::unistd::getppid().as_raw());
        assert_eq!(found.session, nix::unistd::getsid(None).unwrap().as_raw());
        assert!(found.started > 0);
        let hostile = b"9 (a) Z 1 1 1 0) S 3 4 5 0 -1 4 1 2 3 4 5 6 7 8 20 0 11 0 777 1 2";
        let expected = Process {
            pid: 9,
            state: b'S',
            parent: 3,
            session: 5,
            cpu_ticks: 11,
            threads: 11,
            started: 777,
        };
        assert_eq!(parse(9, hostile), Some(expected));
        assert_eq!(parse(9, b"9 (cut"), None);
    }
}
