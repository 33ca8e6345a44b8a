//! Finding a containerd that an earlier server left.

use super::process::{Process, Stat};
use super::{DaemonConfig, DaemonError};
use serde::{Deserialize, Serialize};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// The pid file. Together, boot, pid and start time name one process for all time.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    pid: i32,
    start_time: u64,
    boot_id: String,
    run_dir: PathBuf,
}

/// Notes which process serves the data directory.
pub(super) fn record(config: &DaemonConfig, process: &Process) -> Result<(), DaemonError> {
    let path = config.pid_file();
    let record = Record {
        pid: process.pid(),
        start_time: process.start_time(),
        boot_id: boot_id()?,
        run_dir: config.run_dir.clone(),
    };
    let write = || {
        // Renamed into place, so that a killed server leaves no half of it. Not synced: after a
        // power loss there is no survivor either.
        let new = path.with_extension("new");
        std::fs::write(&new, serde_json::to_vec(&record)?)?;
        std::fs::rename(&new, &path)
    };
    write().map_err(DaemonError::file("write", &path))
}

/// Removes the note.
pub(super) fn forget(config: &DaemonConfig) -> Result<(), DaemonError> {
    let path = config.pid_file();
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(DaemonError::file("remove", path)(error))
        }
        _ => Ok(()),
    }
}

/// The containerd that runs on the data directory. Call it under the lock.
pub(super) fn find(config: &DaemonConfig) -> Result<Option<Process>, DaemonError> {
    if let Some(process) = recorded(config)? {
        return Ok(Some(process));
    }
    // A server that was killed just after it had started containerd left no record.
    let Some((pid, start_time)) = running(&config.config_file())
        .map_err(DaemonError::file("look for containerd in", "/proc"))?
    else {
        return Ok(None);
    };
    open(pid, start_time)
}

fn recorded(config: &DaemonConfig) -> Result<Option<Process>, DaemonError> {
    let path = config.pid_file();
    let text = match std::fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(DaemonError::file("read", path)(error)),
    };
    let Ok(record) = serde_json::from_slice::<Record>(&text) else {
        tracing::warn!(path = %path.display(), "ignoring an unreadable pid file");
        return Ok(None);
    };
    if record.boot_id != boot_id()? {
        return Ok(None);
    }
    let Some(process) = open(record.pid, record.start_time)? else {
        return Ok(None);
    };
    if record.run_dir != config.run_dir {
        return Err(DaemonError::OtherRunDir {
            pid: record.pid,
            found: record.run_dir,
            expected: config.run_dir.clone(),
        });
    }
    Ok(Some(process))
}

fn open(pid: i32, start_time: u64) -> Result<Option<Process>, DaemonError> {
    Process::open(pid, start_time).map_err(|source| DaemonError::Process {
        operation: "watch",
        pid,
        source,
    })
}

fn boot_id() -> Result<String, DaemonError> {
    let path = "/proc/sys/kernel/random/boot_id";
    let id = std::fs::read_to_string(path).map_err(DaemonError::file("read", path))?;
    Ok(id.trim().to_owned())
}

/// The process that was started with the configuration file, and its start time. The oldest, since
/// a child that containerd forks has its command line until it executes its own program.
fn running(config_file: &Path) -> io::Result<Option<(i32, u64)>> {
    let namespace = std::fs::read_link("/proc/self/ns/pid")?;
    let mut found: Option<(i32, u64)> = None;
    for entry in std::fs::read_dir("/proc")? {
        let entry = entry?;
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        let dir = entry.path();
        // What cannot be read ended meanwhile. A program in a workspace may use any command line,
        // but it is in a pid namespace of its own.
        let Ok(command) = std::fs::read(dir.join("cmdline")) else {
            continue;
        };
        if !names_config(&command, config_file)
            || !std::fs::read_link(dir.join("ns/pid")).is_ok_and(|other| other == namespace)
        {
            continue;
        }
        if let Ok(stat) = Stat::read(pid)
            && !stat.dead
            && found.is_none_or(|(_, oldest)| stat.start_time < oldest)
        {
            found = Some((pid, stat.start_time));
        }
    }
    Ok(found)
}

/// Whether it is `<program> --config <file>`, as [`super::launch`] starts it.
fn names_config(command: &[u8], config_file: &Path) -> bool {
    let mut arguments = command.split(|byte| *byte == 0).skip(1);
    arguments.next() == Some(b"--config")
        && arguments.next() == Some(config_file.as_os_str().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_exact_command_line_is_ours() {
        let file = Path::new("/run/b/config.toml");
        assert!(names_config(
            b"/usr/bin/containerd\0--config\0/run/b/config.toml\0",
            file
        ));
        assert!(!names_config(b"vim\0/run/b/config.toml\0--config\0", file));
        assert!(!names_config(
            b"containerd\0--config\0/run/b/config.toml.old\0",
            file
        ));
        assert!(!names_config(b"", file));
    }
}
