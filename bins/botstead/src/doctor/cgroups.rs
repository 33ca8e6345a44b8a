//! Control groups, version 1, 2 or both (hybrid).

use super::Check;
use std::fs;

const WANTED: [&str; 3] = ["cpu", "memory", "pids"];

pub(super) fn check() -> Check {
    let unified = fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").ok();
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    judge(unified.as_deref(), &mounts)
}

/// `unified` is cgroup.controllers at the root where version 2 is mounted there.
fn judge(unified: Option<&str>, mounts: &str) -> Check {
    let (version, available): (_, Vec<&str>) = match unified {
        Some(controllers) => ("version 2", controllers.split_whitespace().collect()),
        None => ("version 1", mounted_controllers(mounts)),
    };
    if available.is_empty() {
        return Check::fail(
            "cgroups",
            "no control groups are mounted",
            "mount them under /sys/fs/cgroup, as systemd or the package cgroupfs-mount does",
        );
    }
    let missing: Vec<_> = WANTED
        .into_iter()
        .filter(|wanted| !available.contains(wanted))
        .collect();
    if missing.is_empty() {
        return Check::ok("cgroups", format!("{version} with {}", WANTED.join(", ")));
    }
    let detail = format!("{version} without {}", missing.join(", "));
    let advice = "enable them on the kernel's command line (cgroup_enable=memory): limits of \
                  workspaces need them";
    Check::fail("cgroups", detail, advice)
}

/// The controllers of all version 1 hierarchies in /proc/self/mounts (proc(5)): they are among
/// the mount options.
fn mounted_controllers(mounts: &str) -> Vec<&str> {
    let mounted = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(2);
        (fields.next() == Some("cgroup")).then(|| fields.next().unwrap_or_default())
    });
    mounted.flat_map(|options| options.split(',')).collect()
}

#[cfg(test)]
mod tests {
    use super::super::Status;
    use super::*;

    const V1: &str = "proc /proc proc rw 0 0
cgroup /sys/fs/cgroup/memory cgroup rw,nosuid,memory 0 0
cgroup /sys/fs/cgroup/cpu,cpuacct cgroup rw,cpu,cpuacct 0 0
cgroup2 /sys/fs/cgroup/unified cgroup2 rw,nosuid 0 0
";

    #[test]
    fn version_2_is_judged_by_its_controllers() {
        assert_eq!(
            judge(Some("cpuset cpu io memory pids\n"), "").status,
            Status::Ok
        );
        let check = judge(Some("cpu pids"), V1);
        assert_eq!(check.status, Status::Fail);
        assert_eq!(check.detail, "version 2 without memory");
    }

    #[test]
    fn version_1_is_judged_by_its_mounts() {
        assert_eq!(judge(None, V1).detail, "version 1 without pids");
        let complete = format!("{V1}cgroup /sys/fs/cgroup/pids cgroup rw,pids 0 0\n");
        assert_eq!(judge(None, &complete).status, Status::Ok);
        assert!(judge(None, "").detail.contains("no control groups"));
    }
}
