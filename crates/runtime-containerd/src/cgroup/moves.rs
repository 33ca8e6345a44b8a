//! Takes out of a start the time for which the kernel lets the first move between control groups wait.
//!
//! Every move needs the lock `cgroup_threadgroup_rwsem`, which forks and exits share. Since Linux 6.0
//! whoever takes it waits for an RCU grace period, 10 ms and more, unless the hierarchy is mounted with
//! `favordynmods` (cgroup-v2.rst) or somebody held it some milliseconds ago. A runtime moves the first
//! process of a container half-way through its start; when this process was moved shortly before, to
//! where it is, the wait is over by then, and nothing else has changed.

use super::mounts::Mounts;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// For longer than this after a move the next one does not wait: a grace period takes longer.
const PAUSE: Duration = Duration::from_millis(4);
/// Longer than it takes from the beginning of a start to its move. One that hangs costs no more.
const WINDOW: Duration = Duration::from_millis(250);

/// Lets moves between control groups not wait, for all starts together.
#[derive(Debug, Default)]
pub(crate) struct QuickMoves {
    /// When it ends, while it goes on.
    until: Arc<Mutex<Option<Instant>>>,
}

impl QuickMoves {
    /// For a start that begins now. Returns at once: what there is to wait passes in a thread of its own.
    /// Must be called in a runtime.
    pub(crate) fn begin(&self) {
        let mut until = self.until.lock().unwrap_or_else(PoisonError::into_inner);
        if until.replace(Instant::now() + WINDOW).is_some() {
            return;
        }
        let until = Arc::clone(&self.until);
        tokio::task::spawn_blocking(move || {
            if let Err(error) = repeat(&until) {
                tracing::debug!(%error, "starts wait for moves between control groups");
                *until.lock().unwrap_or_else(PoisonError::into_inner) = None;
            }
        });
    }
}

/// Until nobody asks for it any longer.
fn repeat(until: &Mutex<Option<Instant>>) -> io::Result<()> {
    let own = own_processes()?;
    loop {
        // 0 is whoever writes.
        std::fs::write(&own, "0")?;
        std::thread::sleep(PAUSE);
        let mut until = until.lock().unwrap_or_else(PoisonError::into_inner);
        if until.is_none_or(|until| until < Instant::now()) {
            *until = None;
            return Ok(());
        }
    }
}

/// `cgroup.procs` of the control group that this process is in, in one of the hierarchies.
fn own_processes() -> io::Result<PathBuf> {
    let mounts = Mounts::parse(&std::fs::read_to_string("/proc/self/mountinfo")?);
    let groups = std::fs::read_to_string("/proc/self/cgroup")?;
    let file = processes(&mounts, &groups).ok_or(io::ErrorKind::Unsupported)?;
    // Not where only a part of the hierarchy is mounted: the path is then another group's.
    let own = std::process::id().to_string();
    let listed = std::fs::read_to_string(&file)?;
    match listed.lines().any(|process| process == own) {
        true => Ok(file),
        false => Err(io::ErrorKind::NotFound.into()),
    }
}

/// From the text of `/proc/<pid>/cgroup` (cgroups(7)).
fn processes(mounts: &Mounts, groups: &str) -> Option<PathBuf> {
    let of = |wanted: &str| {
        groups.lines().find_map(|line| {
            let (_, line) = line.split_once(':')?;
            let (controllers, path) = line.split_once(':')?;
            let is_it = controllers.split(',').any(|one| one == wanted);
            is_it.then(|| path.trim_start_matches('/'))
        })
    };
    let known = [
        (&mounts.unified, ""),
        (&mounts.pids, "pids"),
        (&mounts.memory, "memory"),
    ];
    known.into_iter().find_map(|(mount, controller)| {
        let folder = Path::new(mount.as_ref()?).join(of(controller)?);
        Some(folder.join("cgroup.procs"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_ends_by_itself_and_this_process_stays_where_it_is() {
        let groups = || std::fs::read_to_string("/proc/self/cgroup").unwrap();
        let before = groups();
        let moves = QuickMoves::default();
        moves.begin();
        moves.begin();
        assert!(moves.until.lock().unwrap().is_some());
        while moves.until.lock().unwrap().is_some() {
            tokio::time::sleep(PAUSE).await;
        }
        assert_eq!(before, groups());
        // It can be had again.
        moves.begin();
        assert!(moves.until.lock().unwrap().is_some());
    }

    #[test]
    fn a_process_is_written_to_where_it_is() {
        repeat(&Mutex::default()).unwrap();
    }

    #[test]
    fn the_file_is_found_in_either_version() {
        let at = |point: &str| Some(point.to_owned());
        let pids = Mounts {
            pids: at("/c/pids"),
            ..Mounts::default()
        };
        let unified = Mounts {
            unified: at("/c"),
            ..Mounts::default()
        };
        let cases = [
            (
                &pids,
                "3:cpu,pids:/a/b\n0::/x\n",
                Some("/c/pids/a/b/cgroup.procs"),
            ),
            (&pids, "8:pids:/\n", Some("/c/pids/cgroup.procs")),
            (
                &unified,
                "0::/system.slice/x:y\n",
                Some("/c/system.slice/x:y/cgroup.procs"),
            ),
            (&unified, "3:pids:/a\n", None),
        ];
        for (mounts, groups, wanted) in cases {
            assert_eq!(processes(mounts, groups).as_deref(), wanted.map(Path::new));
        }
    }
}
