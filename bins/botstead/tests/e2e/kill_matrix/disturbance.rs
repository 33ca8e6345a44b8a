//! What is lost together with the server.

use crate::disk::{Disk, make_room, top_up};
use crate::faults::harness::Harness;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Disturbance {
    Containerd,
    Locked,
    Full,
}

impl std::fmt::Display for Disturbance {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Containerd => "containerd killed",
            Self::Locked => "database locked",
            Self::Full => "disk full",
        })
    }
}

impl Disturbance {
    pub(super) const ALL: [Self; 3] = [Self::Containerd, Self::Locked, Self::Full];

    /// How long it lasts into the restart.
    pub(super) fn lasts(self) -> Duration {
        match self {
            // The server is who starts it again.
            Self::Containerd => Duration::ZERO,
            Self::Locked | Self::Full => Duration::from_secs(3),
        }
    }

    /// Writes the program that the server runs right before it dies.
    pub(super) fn prepare(self, harness: &Harness, disk: Option<&Disk>) -> Active {
        let beside = |name: &str| harness.server.beside(name);
        let (script, active) = match self {
            Self::Containerd => {
                let pid = harness.server.containerd();
                (format!("kill -KILL {pid}"), Active::Containerd(pid))
            }
            Self::Locked => {
                let lock = Lock {
                    database: harness.server.data.join("botstead.db"),
                    wanted: beside("lock-wanted"),
                    held: beside("lock-held"),
                    holder: None,
                };
                let (wanted, held) = (lock.wanted.display(), lock.held.display());
                let script = format!("touch {wanted}; while ! test -e {held}; do sleep 0.01; done");
                (script, Active::Locked(lock))
            }
            Self::Full => {
                let target = disk.unwrap().target().to_owned();
                // The bulk at once, then whatever is left; the second ends when nothing is.
                let script = format!(
                    "cd {} && fallocate -l $(( $(df --output=avail -B1 . | tail -n 1) - 4194304 )) \
                     filler; cat /dev/zero > rest 2>/dev/null; sync -f rest; \
                     cat /dev/zero >> rest 2>/dev/null",
                    target.display()
                );
                (script, Active::Full(target))
            }
        };
        // Replaced as one: the server that runs has its name.
        let next = beside("fault-command.next");
        std::fs::write(&next, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&next, std::fs::Permissions::from_mode(0o755)).unwrap();
        std::fs::rename(next, &harness.command).unwrap();
        active
    }
}

/// A disturbance that was or will be made.
pub(super) enum Active {
    /// The process that is killed.
    Containerd(u32),
    Locked(Lock),
    /// The filesystem that is filled.
    Full(PathBuf),
}

impl Active {
    /// Does what the server's program waits for.
    pub(super) fn meanwhile(&mut self) {
        if let Self::Locked(lock) = self
            && lock.holder.is_none()
            && lock.wanted.exists()
        {
            lock.hold("BEGIN EXCLUSIVE;");
            std::fs::write(&lock.held, "").unwrap();
        }
    }

    /// After the death of the server: asserts that the disturbance is there, to stay for now.
    pub(super) fn hold(&mut self, point: &str) {
        match self {
            Self::Containerd(pid) => {
                // The signal was sent; on a busy machine its end takes a moment.
                let gone = || {
                    let state = std::fs::read_to_string(format!("/proc/{pid}/stat"));
                    state.map_or(true, |stat| stat.contains(") Z"))
                };
                let deadline = Instant::now() + Duration::from_secs(5);
                while !gone() && Instant::now() < deadline {
                    std::thread::sleep(Duration::from_millis(5));
                }
                assert!(gone(), "{point}: containerd lives");
            }
            Self::Locked(lock) => {
                assert!(lock.holder.is_some(), "{point}: nobody locked the database");
                // Nobody has it open any more, so that not even readers need be let in.
                lock.release();
                lock.hold("PRAGMA locking_mode=EXCLUSIVE; BEGIN EXCLUSIVE;");
            }
            Self::Full(target) => {
                assert!(
                    target.join("filler").exists(),
                    "{point}: nobody filled the disk"
                );
                top_up(target);
                let file = target.join("probe");
                let written = std::fs::write(&file, vec![1; 64 << 10]);
                // It may be there with nothing in it.
                let _ = std::fs::remove_file(file);
                assert!(written.is_err(), "{point}: the disk has room");
            }
        }
    }

    pub(super) fn lift(self) {
        match self {
            Self::Containerd(_) => {}
            Self::Locked(mut lock) => {
                lock.release();
                for file in [&lock.wanted, &lock.held] {
                    std::fs::remove_file(file).unwrap();
                }
            }
            Self::Full(target) => make_room(&target),
        }
    }
}

/// A lock on the database that another process holds.
pub(super) struct Lock {
    database: PathBuf,
    wanted: PathBuf,
    held: PathBuf,
    holder: Option<Child>,
}

impl Lock {
    fn hold(&mut self, sql: &str) {
        let mut child = Command::new("sqlite3")
            .arg("-bail")
            .arg(&self.database)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("sqlite3 is missing: apt-get install sqlite3");
        let asked = format!(".timeout 10000\n{sql}\nSELECT 'held';\n");
        let input = child.stdin.as_mut().unwrap();
        input.write_all(asked.as_bytes()).unwrap();
        input.flush().unwrap();
        let answers = BufReader::new(child.stdout.as_mut().unwrap()).lines();
        let held = answers.map_while(Result::ok).any(|line| line == "held");
        self.holder = Some(child);
        assert!(held, "the database cannot be locked");
    }

    /// Ends the holder the way that leaves the files alone.
    fn release(&mut self) {
        if let Some(mut holder) = self.holder.take() {
            holder.kill().unwrap();
            holder.wait().unwrap();
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        self.release();
    }
}
