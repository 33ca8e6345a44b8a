//! Starting the containerd program.

use super::process::Process;
use super::{DaemonConfig, DaemonError, survivor};
use rustix::process::{Resource, setrlimit};
use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::process::Command;

/// A log longer than this is put aside when containerd starts.
const LOG_MAX: u64 = 10 << 20;

/// Oldest version, as major and minor number, that the adapter works with.
const OLDEST: (u32, u32) = (1, 6);

/// How much of a log an error tells.
const TAIL_BYTES: u64 = 8 << 10;
const TAIL_LINES: usize = 10;

/// How long `--version` may take on a busy host.
const VERSION_LIMIT: Duration = Duration::from_secs(10);

/// A containerd just started, and where its part of the log begins.
#[derive(Debug)]
pub(super) struct Launched {
    pub(super) process: Process,
    pub(super) program: PathBuf,
    log_start: u64,
}

impl Launched {
    /// The last lines that this process wrote.
    pub(super) fn log_tail(&self, config: &DaemonConfig) -> String {
        tail(&config.log_file, self.log_start)
            .unwrap_or_else(|error| format!("({}: {error})", config.log_file.display()))
    }
}

/// Starts containerd and notes its pid. Nothing can come between the two, since neither awaits.
pub(super) fn launch(config: &DaemonConfig) -> Result<Launched, DaemonError> {
    let program = find_program(config)?;
    config.write()?;
    for folder in config.task_folders() {
        remove_half_removed(&folder);
    }
    rotate(&config.log_file).map_err(DaemonError::file("rotate", &config.log_file))?;
    let (log, log_start) =
        open_log(&config.log_file).map_err(DaemonError::file("open", &config.log_file))?;
    let spawn_error = |source| DaemonError::Spawn {
        path: program.clone(),
        source,
    };
    let child = command(&program, config)
        .arg("--config")
        .arg(config.config_file())
        .stdin(Stdio::null())
        .stdout(log.try_clone().map_err(spawn_error)?)
        .stderr(log)
        .current_dir("/")
        // Its own process group: ^C and a closed terminal end the server and not containerd.
        .process_group(0)
        .spawn()
        .map_err(spawn_error)?;
    let process = Process::of_child(child).map_err(spawn_error)?;
    survivor::record(config, &process)?;
    Ok(Launched {
        process,
        program,
        log_start,
    })
}

/// Removes what a containerd that was killed left of task folders. It renames `NAME` to `.NAME` before it
/// removes it, and can remove no later one of that name while the first is there. Best effort.
fn remove_half_removed(folder: &Path) {
    let namespaces = folder.read_dir().into_iter().flatten().flatten();
    let tasks = namespaces.flat_map(|namespace| namespace.path().read_dir());
    for task in tasks.flatten().flatten() {
        if !task.file_name().as_encoded_bytes().starts_with(b".") {
            continue;
        }
        let path = task.path();
        // As containerd itself: a root that is still mounted is a workspace's files.
        let removed = match std::fs::remove_dir(path.join("rootfs")) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => std::fs::remove_dir_all(&path),
        };
        match removed {
            Ok(()) => tracing::info!(path = %path.display(), "removed half of a task's folder"),
            Err(error) => tracing::warn!(path = %path.display(), %error,
                "cannot remove half of a task's folder; unmount what is in it and remove it"),
        }
    }
}

/// The program with the environment and the limit of open files that it and its shims get. Not the
/// server's: its environment may hold secrets, and `NOTIFY_SOCKET`, with which containerd would answer
/// systemd in the server's place; its limit is higher than programs in workspaces can do with.
fn command(program: &Path, config: &DaemonConfig) -> Command {
    let mut command = Command::new(program);
    command.env_clear().env("PATH", search_path(config));
    for name in ["HOME", "LANG", "TMPDIR"] {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    let open_files = config.open_files;
    // SAFETY: the closure makes one system call, with a value that was read before the fork. It
    // allocates nothing and takes no lock.
    #[allow(
        unsafe_code,
        reason = "std has no safe way to act between fork and exec"
    )]
    unsafe {
        command.pre_exec(move || Ok(setrlimit(Resource::Nofile, open_files)?));
    }
    command
}

/// Where programs are looked for, by this and by containerd.
fn search_path(config: &DaemonConfig) -> OsString {
    let path = std::env::var_os("PATH")
        .unwrap_or_else(|| "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".into());
    match &config.path_prefix {
        None => path,
        Some(prefix) => {
            let mut all = prefix.clone().into_os_string();
            all.push(":");
            all.push(path);
            all
        }
    }
}

fn find_program(config: &DaemonConfig) -> Result<PathBuf, DaemonError> {
    let missing = || DaemonError::NoBinary {
        path: config.containerd.clone(),
    };
    // A name with a directory is a path, as for a shell.
    if config.containerd.components().count() > 1 {
        let path = std::path::absolute(&config.containerd).map_err(|_| missing())?;
        return is_program(&path).then_some(path).ok_or_else(missing);
    }
    std::env::split_paths(&search_path(config))
        .filter(|dir| dir.is_absolute())
        .map(|dir| dir.join(&config.containerd))
        .find(|path| is_program(path))
        .ok_or_else(missing)
}

fn is_program(path: &Path) -> bool {
    path.metadata()
        .is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

/// Fails unless the program is a containerd that the adapter can work with.
pub(super) async fn check_version(config: &DaemonConfig) -> Result<(), DaemonError> {
    let path = find_program(config)?;
    let fail = |reason: String| DaemonError::Version {
        path: path.clone(),
        reason,
    };
    let mut command = command(&path, config);
    command
        .arg("--version")
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let output = tokio::time::timeout(VERSION_LIMIT, command.output())
        .await
        .map_err(|_| fail(format!("no answer within {} s", VERSION_LIMIT.as_secs())))?
        .map_err(|source| DaemonError::Spawn {
            path: path.clone(),
            source,
        })?;
    let text = String::from_utf8_lossy(&output.stdout);
    let Some((found, version)) = parse_version(&text) else {
        let said = if text.trim().is_empty() {
            String::from_utf8_lossy(&output.stderr)
        } else {
            text
        };
        return Err(fail(format!(
            "--version ended with {} and said {:?}",
            output.status,
            said.chars().take(200).collect::<String>()
        )));
    };
    if version < OLDEST {
        return Err(DaemonError::TooOld { path, found });
    }
    Ok(())
}

/// Reads `containerd <module> <version> <revision>`; distributions write the version with or
/// without `v` and with all kinds of suffixes.
fn parse_version(text: &str) -> Option<(String, (u32, u32))> {
    let mut words = text.split_whitespace();
    if words.next() != Some("containerd") {
        return None;
    }
    let version = words.nth(1)?;
    let mut parts = version.strip_prefix('v').unwrap_or(version).split('.');
    let major = parts.next()?.parse().ok()?;
    let minor: String = parts
        .next()?
        .chars()
        .take_while(char::is_ascii_digit)
        .collect();
    Some((version.to_owned(), (major, minor.parse().ok()?)))
}

/// Puts a long log aside, over the one that was put aside before.
fn rotate(log: &Path) -> io::Result<()> {
    match log.metadata() {
        Ok(metadata) if metadata.len() > LOG_MAX => {
            let mut old = log.as_os_str().to_owned();
            old.push(".1");
            std::fs::rename(log, old)
        }
        _ => Ok(()),
    }
}

fn open_log(log: &Path) -> io::Result<(File, u64)> {
    let file = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(log)?;
    let length = file.metadata()?.len();
    Ok((file, length))
}

fn tail(log: &Path, start: u64) -> io::Result<String> {
    let mut file = File::open(log)?;
    let from = file.metadata()?.len().saturating_sub(TAIL_BYTES).max(start);
    file.seek(SeekFrom::Start(from))?;
    let mut bytes = Vec::new();
    file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    Ok(lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_all_packagers_are_read() {
        for (text, expected) in [
            (
                "containerd github.com/containerd/containerd 1.6.20~ds1 1.6.20~ds1-1+deb12u3\n",
                Some((1, 6)),
            ),
            (
                "containerd github.com/containerd/containerd/v2 2.1.9+unknown \n",
                Some((2, 1)),
            ),
            ("containerd containerd.io v1.7.22 7f7fdf5\n", Some((1, 7))),
            ("containerd containerd.io 2.2-rc.1 abc\n", Some((2, 2))),
            ("Docker version 20.10, build abc\n", None),
            ("containerd\n", None),
            ("", None),
        ] {
            assert_eq!(parse_version(text).map(|(_, version)| version), expected);
        }
        assert!((1, 5) < OLDEST && (2, 0) > OLDEST);
    }

    #[test]
    fn half_removed_task_folders_go_and_those_of_tasks_stay() {
        let dir = tempfile::tempdir().unwrap();
        let tasks = dir.path().join("namespace");
        for name in [".one", "two", ".mounted/rootfs"] {
            std::fs::create_dir_all(tasks.join(name)).unwrap();
            std::fs::write(tasks.join(name).join("file"), "x").unwrap();
        }
        std::fs::create_dir(tasks.join(".one/rootfs")).unwrap();
        remove_half_removed(dir.path());
        let mut left: Vec<_> = tasks
            .read_dir()
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        left.sort();
        assert_eq!(left, [".mounted", "two"]);
        assert!(tasks.join(".mounted/rootfs/file").exists());
        remove_half_removed(&dir.path().join("none"));
    }

    #[test]
    fn a_long_log_is_put_aside_once() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let old = dir.path().join("log.1");
        std::fs::write(&log, "short").unwrap();
        rotate(&log).unwrap();
        assert!(!old.exists());
        std::fs::write(&old, "older").unwrap();
        File::create(&log).unwrap().set_len(LOG_MAX + 1).unwrap();
        rotate(&log).unwrap();
        assert!(!log.exists());
        assert_eq!(old.metadata().unwrap().len(), LOG_MAX + 1);
        rotate(&log).unwrap();
    }

    #[test]
    fn the_tail_holds_the_last_lines_of_this_start_only() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        std::fs::write(&log, "before\nnow 1\nnow 2\n").unwrap();
        assert_eq!(tail(&log, 7).unwrap(), "now 1\nnow 2");
        std::fs::write(&log, "x\n".repeat(100_000)).unwrap();
        assert_eq!(tail(&log, 0).unwrap().lines().count(), TAIL_LINES);
    }
}
