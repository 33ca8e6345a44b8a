//! One containerd process, a child of this server or of an earlier one.

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::process::Child;

/// How long containerd may take to end by itself: it closes its database and no workspaces.
const GRACE: Duration = Duration::from_secs(10);

/// A process held by a pidfd: signals and waits never meet another process that got its number.
#[derive(Debug)]
pub(super) struct Process {
    pid: i32,
    start_time: u64,
    pidfd: AsyncFd<OwnedFd>,
    /// Present when it is ours to reap.
    child: Option<Child>,
}

impl Process {
    /// A process just spawned.
    pub(super) fn of_child(child: Child) -> io::Result<Self> {
        // A child that nobody waited for has its id and its entry in /proc, even when it ended.
        let pid = child
            .id()
            .and_then(|pid| i32::try_from(pid).ok())
            .ok_or(Errno::SRCH)?;
        Ok(Self {
            pid,
            start_time: Stat::read(pid)?.start_time,
            pidfd: watch(pid)?,
            child: Some(child),
        })
    }

    /// A process of an earlier server; `None` when it is gone or its number is another's.
    pub(super) fn open(pid: i32, start_time: u64) -> io::Result<Option<Self>> {
        let pidfd = match watch(pid) {
            Ok(pidfd) => pidfd,
            Err(error) if is_gone(&error) => return Ok(None),
            Err(error) => return Err(error),
        };
        // Read after the pidfd was opened: what matches now is what the pidfd holds.
        match Stat::read(pid) {
            Ok(stat) if stat.start_time == start_time && !stat.dead => Ok(Some(Self {
                pid,
                start_time,
                pidfd,
                child: None,
            })),
            Ok(_) => Ok(None),
            Err(error) if is_gone(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(super) fn pid(&self) -> i32 {
        self.pid
    }

    pub(super) fn start_time(&self) -> u64 {
        self.start_time
    }

    /// Waits for its end, reaps it when it is ours and tells its status as far as it is known.
    /// May be cancelled.
    pub(super) async fn ended(&mut self) -> io::Result<String> {
        match &mut self.child {
            Some(child) => Ok(child.wait().await?.to_string()),
            None => {
                // A pidfd is readable from the end of its process on (`pidfd_open(2)`).
                let _ = self.pidfd.readable().await?;
                Ok("an unknown status".to_owned())
            }
        }
    }

    /// Ends it: asks, waits, forces.
    pub(super) async fn terminate(&mut self) -> io::Result<()> {
        self.signal(Signal::TERM)?;
        if let Ok(ended) = tokio::time::timeout(GRACE, self.ended()).await {
            return ended.map(drop);
        }
        self.signal(Signal::KILL)?;
        self.ended().await.map(drop)
    }

    fn signal(&self, signal: Signal) -> io::Result<()> {
        match pidfd_send_signal(self.pidfd.get_ref(), signal) {
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

#[expect(
    deprecated,
    reason = "its successor is unsafe, for types whose descriptor may change; that of an OwnedFd cannot"
)]
fn watch(pid: i32) -> io::Result<AsyncFd<OwnedFd>> {
    let pid = Pid::from_raw(pid).ok_or(Errno::SRCH)?;
    AsyncFd::with_interest(pidfd_open(pid, PidfdFlags::empty())?, Interest::READABLE)
}

/// Whether the error says that there is no such process. Reading a file in /proc fails with
/// `ESRCH` when its process ends meanwhile.
pub(super) fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
        || error.raw_os_error() == Some(Errno::SRCH.raw_os_error())
}

/// What `/proc/<pid>/stat` tells.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Stat {
    /// Ended and not reaped.
    pub(super) dead: bool,
    /// Clock ticks after boot; with the pid it names a process for as long as the host is up.
    pub(super) start_time: u64,
}

impl Stat {
    pub(super) fn read(pid: i32) -> io::Result<Self> {
        let text = std::fs::read(format!("/proc/{pid}/stat"))?;
        Self::parse(&text).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// The second field is the program's name, which may hold anything, also `)` and blanks: what
    /// follows its last `)` is field 3 (the state) and up; the start time is field 22 (`proc(5)`).
    fn parse(text: &[u8]) -> Option<Self> {
        let name_end = text.iter().rposition(|byte| *byte == b')')?;
        let mut fields = std::str::from_utf8(&text[name_end + 1..])
            .ok()?
            .split_ascii_whitespace();
        let state = fields.next()?;
        Some(Self {
            dead: matches!(state, "Z" | "X" | "x"),
            start_time: fields.nth(18)?.parse().ok()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_name_cannot_confuse_the_start_time() {
        let stat = b"42 (a) Z 1 (b) S 1 42 42 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 8 0 987654 1 2 3";
        assert_eq!(
            Stat::parse(stat),
            Some(Stat {
                dead: false,
                start_time: 987_654
            })
        );
        assert_eq!(Stat::parse(b"42 (a) S 1"), None);
    }

    #[tokio::test]
    async fn a_process_is_known_by_its_start_time_too() {
        let child = tokio::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap();
        let mut own = Process::of_child(child).unwrap();
        let mut other = Process::open(own.pid(), own.start_time()).unwrap().unwrap();
        assert!(
            Process::open(own.pid(), own.start_time() + 1)
                .unwrap()
                .is_none()
        );

        own.signal(Signal::KILL).unwrap();
        other.ended().await.unwrap();
        // Dead but not yet reaped.
        assert!(
            Process::open(own.pid(), own.start_time())
                .unwrap()
                .is_none()
        );
        own.ended().await.unwrap();
        other.terminate().await.unwrap();
        assert!(
            Process::open(own.pid(), own.start_time())
                .unwrap()
                .is_none()
        );
    }
}
