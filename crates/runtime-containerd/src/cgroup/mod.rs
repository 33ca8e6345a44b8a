//! What a cgroup uses, read from its files: some microseconds where containerd needs milliseconds. And
//! moves between cgroups that do not wait: see `moves`.
//!
//! Where which controllers are is found out once. This knows no containers; whose cgroup it is,
//! the caller knows.

mod files;
mod mounts;
mod moves;
mod parse;

use botstead_runtime::{CpuUsage, MemoryUsage, Usage};
use files::Files;
use mounts::Mounts;
pub(crate) use moves::QuickMoves;
use std::io;
use std::path::PathBuf;

/// The host's cgroup hierarchies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cgroups {
    layout: Layout,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Layout {
    /// Where the controllers of version 1 are mounted; some may share one mount, some may be missing.
    V1 {
        cpuacct: Option<String>,
        memory: Option<String>,
        pids: Option<String>,
    },
    /// Where the one hierarchy of version 2 is mounted.
    V2 { root: String },
}

impl Cgroups {
    /// The hierarchies that this process sees.
    ///
    /// # Errors
    /// `Unsupported` when there are none; otherwise when `/proc` cannot be read.
    pub(crate) fn detect() -> io::Result<Self> {
        let mountinfo = std::fs::read("/proc/self/mountinfo")?;
        Self::of(&String::from_utf8_lossy(&mountinfo))
            .ok_or_else(|| io::ErrorKind::Unsupported.into())
    }

    /// From the text of `/proc/<pid>/mountinfo`. On a hybrid host the controllers are in version 1,
    /// as runtimes have it, and the mount of version 2 has none.
    fn of(mountinfo: &str) -> Option<Self> {
        let Mounts {
            cpuacct,
            memory,
            pids,
            unified,
            ..
        } = Mounts::parse(mountinfo);
        let layout = if cpuacct.is_some() || memory.is_some() || pids.is_some() {
            Layout::V1 {
                cpuacct,
                memory,
                pids,
            }
        } else {
            Layout::V2 { root: unified? }
        };
        Some(Self { layout })
    }

    /// What the cgroup, such as `/botstead/<id>`, uses now; `None` when it does not exist.
    ///
    /// Figures of a controller that the host does not have, or that is not enabled for this cgroup
    /// of version 2, are 0; without the pids controller processes are counted, not threads.
    ///
    /// # Errors
    /// `InvalidInput` for a path that leaves the hierarchy, `InvalidData` for a file in no known form,
    /// or what the kernel says.
    pub(crate) fn usage(&self, cgroup_path: &str) -> io::Result<Option<Usage>> {
        let path = beneath(cgroup_path)?;
        match &self.layout {
            Layout::V1 {
                cpuacct,
                memory,
                pids,
            } => usage_v1(cpuacct.as_deref(), memory.as_deref(), pids.as_deref(), path),
            Layout::V2 { root } => usage_v2(root, path),
        }
    }

    /// How many processes of the cgroup, and of those below it in version 2, the kernel has killed for
    /// lack of memory; `None` when it does not exist or the kernel does not count (before 4.13).
    ///
    /// # Errors
    /// As [`Cgroups::usage`].
    pub(crate) fn out_of_memory_kills(&self, cgroup_path: &str) -> io::Result<Option<u64>> {
        let path = beneath(cgroup_path)?;
        let (mount, file) = match &self.layout {
            Layout::V1 {
                memory: Some(mount),
                ..
            } => (mount, "memory.oom_control"),
            Layout::V1 { memory: None, .. } => return Ok(None),
            Layout::V2 { root } => (root, "memory.events"),
        };
        let mut files = Files::new();
        files.enter(mount, path);
        let count = files.read(file, |text| Some(parse::field(text, b"oom_kill")))?;
        Ok(count.flatten())
    }
}

/// The path as one below a mount.
fn beneath(cgroup_path: &str) -> io::Result<&str> {
    let path = cgroup_path.trim_matches('/');
    if path.is_empty() || path.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    Ok(path)
}

/// The folder of a cgroup, such as `/botstead/<id>`, by which its processes are frozen: that of the
/// freezer controller where the host has version 1 of it, else of version 2. `None` when there is no
/// such cgroup.
pub(crate) fn freezer_path(cgroup_path: &str) -> Option<PathBuf> {
    let mountinfo = std::fs::read("/proc/self/mountinfo").ok()?;
    let mounts = Mounts::parse(&String::from_utf8_lossy(&mountinfo));
    let path = cgroup_path.trim_matches('/');
    let candidates = [mounts.freezer, mounts.unified];
    candidates
        .into_iter()
        .flatten()
        .map(|mount| PathBuf::from(mount).join(path))
        .find(|folder| {
            ["freezer.state", "cgroup.freeze"]
                .iter()
                .any(|file| folder.join(file).exists())
        })
}

/// runc makes a cgroup in every hierarchy: one that is missing somewhere is about to go, or gone.
fn usage_v1(
    cpuacct: Option<&str>,
    memory: Option<&str>,
    pids: Option<&str>,
    path: &str,
) -> io::Result<Option<Usage>> {
    let mut files = Files::new();
    let mut usage = Usage::default();
    if let Some(mount) = cpuacct {
        files.enter(mount, path);
        let Some(total) = files.read("cpuacct.usage", parse::number)? else {
            return Ok(None);
        };
        let Some(stat) = files.read("cpuacct.stat", parse::cpuacct_stat)? else {
            return Ok(None);
        };
        usage.cpu = CpuUsage {
            usage_nanoseconds: total,
            ..stat
        };
    }
    if let Some(mount) = memory {
        files.enter(mount, path);
        let Some(total) = files.read("memory.usage_in_bytes", parse::number)? else {
            return Ok(None);
        };
        let inactive = files.read("memory.stat", |text| {
            Some(parse::field(text, b"total_inactive_file").unwrap_or(0))
        })?;
        let limit = files.read("memory.limit_in_bytes", parse::limit_v1)?;
        usage.memory = MemoryUsage {
            usage_bytes: total.saturating_sub(inactive.unwrap_or(0)),
            limit_bytes: limit.unwrap_or(0),
        };
    }
    let pids = match pids {
        Some(mount) => {
            files.enter(mount, path);
            files.read("pids.current", parse::number)?
        }
        // Still in another hierarchy, of which there is one at least.
        None => files.count_lines("cgroup.procs")?,
    };
    Ok(pids.map(|pids| Usage { pids, ..usage }))
}

/// Every cgroup of version 2 has `cpu.stat`, with or without the controller.
fn usage_v2(root: &str, path: &str) -> io::Result<Option<Usage>> {
    let mut files = Files::new();
    files.enter(root, path);
    let Some(cpu) = files.read("cpu.stat", parse::cpu_stat)? else {
        return Ok(None);
    };
    let memory = match files.read("memory.current", parse::number)? {
        None => MemoryUsage::default(),
        Some(total) => {
            let inactive = files.read("memory.stat", |text| {
                Some(parse::field(text, b"inactive_file").unwrap_or(0))
            })?;
            MemoryUsage {
                usage_bytes: total.saturating_sub(inactive.unwrap_or(0)),
                limit_bytes: files.read("memory.max", parse::limit_v2)?.unwrap_or(0),
            }
        }
    };
    let pids = match files.read("pids.current", parse::number)? {
        Some(pids) => Some(pids),
        None => files.count_lines("cgroup.procs")?,
    };
    // Gone in the middle of it.
    Ok(pids.map(|pids| Usage { cpu, memory, pids }))
}

#[cfg(test)]
mod tests;
