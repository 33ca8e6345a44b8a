//! A look at the host: processes and mounts that belong to a server, and waiting.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Waits until `ask` has an answer, and fails with `what` after 30 seconds.
#[track_caller]
pub(crate) fn eventually<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < deadline, "not within 30 s: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The processes of containerd (`containerd`, `containerd-shim-runc-v2`) whose command line names
/// something inside `folder`, with their program's name.
pub(crate) fn processes_below(folder: &Path) -> Vec<(i32, String)> {
    let inside = format!("{}/", folder.display());
    let mut found = Vec::new();
    for pid in pids() {
        let arguments = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let arguments = String::from_utf8_lossy(&arguments).into_owned();
        let mut words = arguments.split('\0');
        let program = words.next().and_then(|path| path.rsplit('/').next());
        let Some(program) = program.filter(|name| name.starts_with("containerd")) else {
            continue;
        };
        if words.any(|word| word.contains(&inside)) {
            found.push((pid, program.to_owned()));
        }
    }
    found
}

fn pids() -> Vec<i32> {
    let entries = fs::read_dir("/proc").unwrap();
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect()
}

/// The state and the parent of a process.
fn stat(pid: i32) -> Option<(char, i32)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, columns) = stat.rsplit_once(") ")?;
    let mut columns = columns.split(' ');
    let state = columns.next()?.chars().next()?;
    Some((state, columns.next()?.parse().ok()?))
}

pub(crate) fn runs(pid: i32) -> bool {
    stat(pid).is_some_and(|(state, _)| state != 'Z')
}

/// Ends workspaces (children of shims), containerd and shims of `folder`.
pub(crate) fn end_processes_below(folder: &Path) {
    let (shims, daemons): (Vec<_>, Vec<_>) = processes_below(folder)
        .into_iter()
        .partition(|(_, program)| program.starts_with("containerd-shim"));
    let shims: Vec<i32> = shims.into_iter().map(|(pid, _)| pid).collect();
    let daemons: Vec<i32> = daemons.into_iter().map(|(pid, _)| pid).collect();
    let of_shim = |pid: &i32| stat(*pid).is_some_and(|(_, parent)| shims.contains(&parent));
    let workspaces: Vec<i32> = pids().into_iter().filter(of_shim).collect();
    // Daemons first: a server is gone already, and nobody may start anything again.
    for group in [daemons, workspaces, shims] {
        for pid in &group {
            let _ = kill(Pid::from_raw(*pid), Signal::SIGKILL);
        }
        let deadline = Instant::now() + Duration::from_secs(10);
        while group.iter().any(|pid| runs(*pid)) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Mount points below a folder, the deepest first.
pub(crate) fn mounts_below(folder: &Path) -> Vec<PathBuf> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mut found: Vec<PathBuf> = table
        .lines()
        .filter_map(|line| Some(PathBuf::from(line.split(' ').nth(4)?)))
        .filter(|path| path.starts_with(folder) && path != folder)
        .collect();
    found.sort_by_key(|path| std::cmp::Reverse(path.components().count()));
    found
}

/// Removes a control group of any hierarchy with what is below it.
pub(crate) fn remove_control_groups(name: &str) {
    let mut roots = vec![PathBuf::from("/sys/fs/cgroup")];
    roots.extend(folders(Path::new("/sys/fs/cgroup")));
    for root in roots {
        remove_group(&root.join(name));
    }
}

fn remove_group(folder: &Path) {
    for child in folders(folder) {
        remove_group(&child);
    }
    let _ = fs::remove_dir(folder);
}

fn folders(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| {
            let entry = entry.ok()?;
            entry.file_type().ok()?.is_dir().then(|| entry.path())
        })
        .collect()
}
