//! The process group of a command. runc makes every command the leader of a session and so of a
//! group (setsid in its `nsexec.c`); containerd signals the leader only.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};
use std::os::fd::OwnedFd;

/// A group whose leader was alive when this was made.
#[derive(Debug)]
pub(super) struct Group {
    id: Pid,
    leader: OwnedFd,
}

impl Group {
    /// The group that this process leads; `None` when it ended or is in another process namespace.
    pub(super) fn of(leader: u32) -> Option<Self> {
        let id = Pid::from_raw(i32::try_from(leader).ok()?)?;
        let leader = pidfd_open(id, PidfdFlags::empty()).ok()?;
        Some(Self { id, leader })
    }

    /// Kills all of it while its leader lives, and tells whether it did. Once the leader ended its
    /// number may be another's; and what it left behind in the background was meant to stay.
    pub(super) fn kill(&self) -> bool {
        // A process file is readable once the process ended (pidfd_open(2)).
        let mut leader = [PollFd::new(&self.leader, PollFlags::IN)];
        let ended = poll(&mut leader, Some(&Timespec::default()));
        matches!(ended, Ok(0)) && kill_process_group(self.id, Signal::KILL).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::unix::process::CommandExt;
    use std::process::{Command, Stdio};

    #[test]
    fn a_group_dies_as_a_whole_and_only_with_its_leader() {
        let mut command = Command::new("/bin/sh");
        command
            .args(["-c", "sleep 1000 & echo here; wait"])
            .process_group(0);
        let mut leader = command.stdout(Stdio::piped()).spawn().unwrap();
        let group = Group::of(leader.id()).unwrap();
        let mut output = leader.stdout.take().unwrap();
        let mut here = [0; 5];
        output.read_exact(&mut here).unwrap();
        assert!(group.kill());
        leader.wait().unwrap();
        // The end comes once the child, which holds the pipe, is gone too.
        assert_eq!(output.read(&mut here).unwrap(), 0);
        assert!(!group.kill());
        assert!(Group::of(leader.id()).is_none());
    }
}
