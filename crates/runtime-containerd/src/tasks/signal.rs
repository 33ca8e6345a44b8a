//! Signals straight to a task's first process. Through the shim each of them launches runc, which
//! takes longer than what the process then does.

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::fs;

/// Signals the process if it is one of the control group, and tells whether it did. Process ids are
/// used again, and containerd may not know yet that this one's process ended.
pub(super) fn send(pid: u32, cgroup: &str, signal: i32) -> bool {
    let Some(id) = i32::try_from(pid).ok().and_then(Pid::from_raw) else {
        return false;
    };
    let Some(signal) = Signal::from_named_raw(signal) else {
        return false;
    };
    let Ok(process) = pidfd_open(id, PidfdFlags::empty()) else {
        return false;
    };
    // What is read belongs to the process that is open, if that still takes the signal below.
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    is_in(&groups, cgroup) && pidfd_send_signal(&process, signal).is_ok()
}

/// Whether one of the lines `number:controllers:path` (cgroups(7)) names the control group.
fn is_in(groups: &str, cgroup: &str) -> bool {
    groups
        .lines()
        .filter_map(|line| line.splitn(3, ':').nth(2))
        .any(|path| path == cgroup)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;
    use std::process::Command;

    #[test]
    fn only_a_process_of_the_group_is_signalled() {
        let mut child = Command::new("sleep").arg("600").spawn().unwrap();
        let groups = fs::read_to_string(format!("/proc/{}/cgroup", child.id())).unwrap();
        let own = groups.lines().next().unwrap();
        let own = own.splitn(3, ':').nth(2).unwrap();
        for (cgroup, number) in [
            ("/botstead-x/workspace-y", Signal::KILL.as_raw()),
            (own, 0),
            (own, 1000),
        ] {
            assert!(!send(child.id(), cgroup, number), "{cgroup} {number}");
        }
        assert!(child.try_wait().unwrap().is_none());
        assert!(send(child.id(), own, Signal::TERM.as_raw()));
        let ended = child.wait().unwrap();
        assert_eq!(ended.signal(), Some(Signal::TERM.as_raw()));
        assert!(!send(child.id(), own, Signal::TERM.as_raw()), "it is gone");
    }

    #[test]
    fn a_group_is_named_as_a_whole() {
        let groups = "4:memory:/botstead-1/workspace-2\n0::/other\n";
        assert!(is_in(groups, "/botstead-1/workspace-2"));
        assert!(is_in(groups, "/other"));
        assert!(!is_in(groups, "/botstead-1"));
        assert!(!is_in(groups, "/botstead-1/workspace-22"));
        assert!(!is_in(groups, ""));
        assert!(!is_in("", ""));
    }
}
