//! Protects a container's first process from the out-of-memory killer, and no other process in it; and lets
//! it go before all others in the container when the processors are busy.
//!
//! A first process of ours has to answer also beside a thousand others that run, as it is asked for what is
//! to be ended. Its threads get its priority, and it takes it from the commands that it runs; nobody in the
//! container can take it back, which needs CAP_SYS_NICE. Between containers their control groups decide.
//!
//! A value below zero that is written to `oom_score_adj` by somebody with CAP_SYS_RESOURCE, as runc has,
//! also becomes the lowest value that the process may give itself later without any capability, and so
//! may every process that it starts (`oom_score_adj_min` in the kernel's fs/proc/base.c): whoever runs
//! in the container could take the first process's protection for itself. The older file `oom_adj` sets
//! the same value and leaves that limit at zero. Children still begin with their parent's value, and a
//! first process of ours resets it before it runs a command; none can take it back.

use botstead_types::ContainerId;
use rustix::process::{Pid, setpriority_process};
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

/// `oom_adj` runs from -17 (never) to 15, `oom_score_adj` from -1000 to 1000 (proc(5)).
const OLD_SCALE: i32 = 17;
/// As a nice value (sched(7)).
const PRIORITY: i32 = -19;

/// Protects first processes, and tells when the host does not let it.
#[derive(Debug, Default)]
pub(crate) struct Protection {
    refused: AtomicBool,
}

impl Protection {
    /// Gives the container's first process a value below zero; others come by way of its specification.
    /// Without it the process is only less protected, so that failures are logged: once as a warning, until
    /// it works again, because what one container is refused, all are. Blocking.
    pub(super) fn first_process(&self, id: &ContainerId, pid: u32, oom_score_adj: i32) {
        if oom_score_adj >= 0 || pid == 0 {
            return;
        }
        let process = i32::try_from(pid).ok().and_then(Pid::from_raw);
        // Before it has more threads than one, and only a loss under load where the host does not let it.
        if let Err(error) = setpriority_process(process, PRIORITY) {
            tracing::debug!(%id, %error, "its first process goes before no others");
        }
        let process = Path::new("/proc").join(pid.to_string());
        let written = write(&process, oom_score_adj);
        if written.is_err() && !process.exists() {
            // It ended meanwhile.
            return;
        }
        let changed = self.is_news(written.is_err());
        match written {
            Err(error) if changed => tracing::warn!(%id, %error,
                "first processes of workspaces have no protection when memory runs out, this one and \
                 perhaps others"),
            Err(error) => {
                tracing::debug!(%id, %error, "its first process has no protection either");
            }
            Ok(()) if changed => {
                tracing::info!(%id, "first processes of workspaces have their protection again");
            }
            Ok(()) => {}
        }
    }

    /// Whether it is otherwise than the last time.
    fn is_news(&self, refused: bool) -> bool {
        self.refused.swap(refused, Ordering::Relaxed) != refused
    }
}

fn write(process: &Path, oom_score_adj: i32) -> io::Result<()> {
    // Rounded towards zero: -17 would mean never.
    let old = oom_score_adj.max(-1000) * OLD_SCALE / 1000;
    // Not created where a kernel has it no longer.
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .open(process.join("oom_adj"))?;
    io::Write::write_all(&mut file, old.to_string().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn a_refusal_is_news_once_and_its_end_is() {
        let protection = Protection::default();
        let told = [false, true, true, false, false, true].map(|now| protection.is_news(now));
        assert_eq!(told, [false, true, false, true, false, true]);
    }

    #[test]
    fn neither_the_process_nor_its_children_can_take_what_it_was_given() {
        // Without the capability, as in a container.
        let script = "read go; cat /proc/self/oom_score_adj; echo 0 > /proc/self/oom_score_adj; \
             (echo -1 > /proc/self/oom_score_adj) 2>/dev/null && echo taken; \
             sh -c '(echo -998 > /proc/self/oom_score_adj) 2>/dev/null && echo taken'; \
             (echo -17 > /proc/self/oom_adj) 2>/dev/null && echo taken; cat /proc/self/oom_score_adj";
        let mut process = Command::new("setpriv")
            .args(["--bounding-set=-sys_resource", "--inh-caps=-sys_resource"])
            .args(["sh", "-c", script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let folder = Path::new("/proc").join(process.id().to_string());
        // What runc does.
        std::fs::write(folder.join("oom_score_adj"), "0").unwrap();
        // Not every host's root may.
        let given = match write(&folder, -998) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => 0,
            written => written.map(|()| -941).unwrap(),
        };
        io::Write::write_all(process.stdin.as_mut().unwrap(), b"go\n").unwrap();
        let output = process.wait_with_output().unwrap();
        let seen = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(seen, format!("{given}\n0\n"));
    }
}
