//! Usage of running containers, straight from the cgroup files: some hundredfold faster than through
//! containerd and the shim. Version 1, version 2 and the hybrid of both are read alike by runc:
//! where a version 1 controller is mounted it counts.

use crate::config::ContainerdConfig;
use crate::op::Op;
use async_trait::async_trait;
use botstead_runtime::{CpuUsage, ErrorKind, MemoryUsage, Metrics, Result, Usage};
use botstead_types::ContainerId;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The [`Metrics`] of a namespace.
#[derive(Debug)]
pub(crate) struct CgroupMetrics {
    pub(crate) config: Arc<ContainerdConfig>,
    pub(crate) tree: Tree,
}

/// Where controllers are mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Tree {
    /// A mount of version 1 for each.
    V1 {
        memory: PathBuf,
        cpu: PathBuf,
        pids: PathBuf,
    },
    /// One mount of version 2.
    V2(PathBuf),
    /// Neither.
    None,
}

impl Tree {
    /// Looks at this host's mounts.
    pub(crate) fn detect() -> Self {
        Self::parse(&std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default())
    }

    /// From proc_pid_mountinfo(5).
    fn parse(mountinfo: &str) -> Self {
        let mut v2 = None;
        let (mut memory, mut cpu, mut pids) = (None, None, None);
        for line in mountinfo.lines() {
            let Some((left, right)) = line.split_once(" - ") else {
                continue;
            };
            let Some(point) = left.split(' ').nth(4).map(PathBuf::from) else {
                continue;
            };
            let mut right = right.split(' ');
            match right.next() {
                Some("cgroup2") => v2 = v2.or(Some(point)),
                Some("cgroup") => {
                    for option in right.nth(1).unwrap_or_default().split(',') {
                        match option {
                            "memory" => memory = Some(point.clone()),
                            "cpuacct" => cpu = Some(point.clone()),
                            "pids" => pids = Some(point.clone()),
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        }
        match (memory, cpu, pids, v2) {
            (Some(memory), Some(cpu), Some(pids), _) => Self::V1 { memory, cpu, pids },
            (.., Some(v2)) => Self::V2(v2),
            _ => Self::None,
        }
    }

    fn read(&self, cgroup: &str) -> std::io::Result<Usage> {
        let text = |folder: &Path, file: &str| {
            std::fs::read_to_string(folder.join(cgroup.trim_start_matches('/')).join(file))
        };
        let number =
            |folder: &Path, file: &str| -> std::io::Result<u64> { Ok(limit(&text(folder, file)?)) };
        match self {
            Self::V1 { memory, cpu, pids } => {
                let inactive = field(&text(memory, "memory.stat")?, "total_inactive_file");
                let used: u64 = number(memory, "memory.usage_in_bytes")?;
                Ok(Usage {
                    cpu: CpuUsage {
                        usage_nanoseconds: number(cpu, "cpuacct.usage")?,
                        user_nanoseconds: number(cpu, "cpuacct.usage_user")?,
                        kernel_nanoseconds: number(cpu, "cpuacct.usage_sys")?,
                    },
                    memory: MemoryUsage {
                        usage_bytes: used.saturating_sub(inactive),
                        limit_bytes: number(memory, "memory.limit_in_bytes")?,
                    },
                    pids: number(pids, "pids.current")?,
                })
            }
            Self::V2(root) => {
                let cpu = text(root, "cpu.stat")?;
                let nanoseconds = |name| field(&cpu, name).saturating_mul(1000);
                let inactive = field(&text(root, "memory.stat")?, "inactive_file");
                let used: u64 = number(root, "memory.current")?;
                Ok(Usage {
                    cpu: CpuUsage {
                        usage_nanoseconds: nanoseconds("usage_usec"),
                        user_nanoseconds: nanoseconds("user_usec"),
                        kernel_nanoseconds: nanoseconds("system_usec"),
                    },
                    memory: MemoryUsage {
                        usage_bytes: used.saturating_sub(inactive),
                        limit_bytes: number(root, "memory.max")?,
                    },
                    pids: number(root, "pids.current")?,
                })
            }
            Self::None => Err(std::io::ErrorKind::Unsupported.into()),
        }
    }
}

/// A number; `max` and what version 1 shows instead (the largest number of pages) are 0.
fn limit(text: &str) -> u64 {
    let number = text.trim().parse().unwrap_or(0);
    if number >= 1 << 62 { 0 } else { number }
}

/// A line's number in a file of `name number` lines.
fn field(text: &str, name: &str) -> u64 {
    let value = |line: &str| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok();
    text.lines().find_map(value).unwrap_or(0)
}

#[async_trait]
impl Metrics for CgroupMetrics {
    async fn usage(&self, id: &ContainerId) -> Result<Usage> {
        let op = Op::new("measure container", id);
        // A few short reads of kernel memory, 15 microseconds: not worth a blocking thread.
        match self.tree.read(&self.config.cgroup(id)) {
            Ok(usage) if usage.pids > 0 => Ok(usage),
            Ok(_) => Err(op.fail(ErrorKind::NotFound, "it does not run")),
            Err(cause) if cause.kind() == std::io::ErrorKind::Unsupported => {
                Err(op.fail_with(ErrorKind::Unsupported, "this host has no cgroups", cause))
            }
            Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => {
                Err(op.fail_with(ErrorKind::NotFound, "it does not run", cause))
            }
            // ENODEV: the cgroup was removed while its file was open.
            Err(cause) if cause.raw_os_error() == Some(19) => {
                Err(op.fail_with(ErrorKind::NotFound, "it does not run", cause))
            }
            Err(cause) => Err(op.fail_with(ErrorKind::Internal, "its cgroup is unreadable", cause)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_of_each_version_are_recognised() {
        let v2 = "35 24 0:30 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate";
        assert_eq!(Tree::parse(v2), Tree::V2("/sys/fs/cgroup".into()));
        let hybrid = "30 24 0:26 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n\
            31 24 0:27 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
            32 24 0:28 / /sys/fs/cgroup/memory rw shared:3 - cgroup cgroup rw,memory\n\
            33 24 0:29 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids";
        let Tree::V1 { cpu, .. } = Tree::parse(hybrid) else {
            panic!("not version 1");
        };
        assert_eq!(cpu, Path::new("/sys/fs/cgroup/cpu,cpuacct"));
        assert_eq!(Tree::parse(""), Tree::None);
    }

    #[test]
    fn both_versions_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let group = folder.path().join("p/c");
        std::fs::create_dir_all(&group).unwrap();
        for (file, text) in [
            (
                "memory.stat",
                "cache 5\ntotal_inactive_file 4096\ninactive_file 8192\n",
            ),
            ("memory.usage_in_bytes", "104857600\n"),
            ("memory.limit_in_bytes", "9223372036854771712\n"),
            ("cpuacct.usage", "30\n"),
            ("cpuacct.usage_user", "20\n"),
            ("cpuacct.usage_sys", "10\n"),
            ("pids.current", "3\n"),
            (
                "cpu.stat",
                "usage_usec 30\nuser_usec 20\nsystem_usec 10\nnr_periods 0\n",
            ),
            ("memory.current", "104857600\n"),
            ("memory.max", "max\n"),
        ] {
            std::fs::write(group.join(file), text).unwrap();
        }
        let root = folder.path().to_owned();
        let v1 = Tree::V1 {
            memory: root.clone(),
            cpu: root.clone(),
            pids: root.clone(),
        };
        let one = v1.read("/p/c").unwrap();
        let two = Tree::V2(root).read("/p/c").unwrap();
        assert_eq!(
            one.memory,
            MemoryUsage {
                usage_bytes: 104_853_504,
                limit_bytes: 0
            }
        );
        assert_eq!(
            two.memory,
            MemoryUsage {
                usage_bytes: 104_849_408,
                limit_bytes: 0
            }
        );
        assert_eq!(
            (one.cpu.usage_nanoseconds, two.cpu.usage_nanoseconds),
            (30, 30_000)
        );
        assert_eq!((one.pids, two.pids), (3, 3));
    }
}
