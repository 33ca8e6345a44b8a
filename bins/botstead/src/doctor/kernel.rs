//! What the kernel has.

use super::{Check, version_numbers};
use nix::sys::fanotify::{EventFFlags, Fanotify, InitFlags};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2 as open_beneath};
use rustix::io::Errno;
use std::fs;
use std::path::Path;

/// openat2 is from 5.6; what was tested is from 5.10, that of Debian 11.
const OLDEST: &[u64] = &[5, 6];
const OLDEST_TESTED: &[u64] = &[5, 10];
/// The change feed of live snapshots needs what fanotify tells of overlayfs since 6.5
/// (`botstead_live_copy::ChangeFeed`).
const OLDEST_WITH_FEED: &[u64] = &[6, 5];

pub(super) fn privileges() -> Check {
    if rustix::process::geteuid().is_root() {
        Check::ok("privileges", "runs as root")
    } else {
        Check::fail(
            "privileges",
            "does not run as root",
            "run it with sudo: mounts, namespaces and control groups need root",
        )
    }
}

pub(super) fn version() -> Check {
    judge_version(&rustix::system::uname().release().to_string_lossy())
}

fn judge_version(release: &str) -> Check {
    let (name, numbers) = ("kernel", version_numbers(release));
    if numbers.as_slice() < OLDEST {
        Check::fail(name, release, "install Linux 5.10 or newer")
    } else if numbers.as_slice() < OLDEST_TESTED {
        Check::warn(
            name,
            release,
            "use Linux 5.10 or newer: this one was not tested",
        )
    } else {
        Check::ok(name, release)
    }
}

pub(super) fn overlayfs() -> Check {
    let listed = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    let release = rustix::system::uname();
    let modules = Path::new("/lib/modules").join(release.release().to_string_lossy().as_ref());
    let module = modules.join("kernel/fs/overlayfs");
    if lists_filesystem(&listed, "overlay") {
        Check::ok("overlayfs", "available")
    } else if module.exists() {
        Check::warn(
            "overlayfs",
            "its module is not loaded",
            "run: modprobe overlay",
        )
    } else {
        let advice = "run: modprobe overlay, or use a kernel with CONFIG_OVERLAY_FS";
        Check::fail("overlayfs", "the kernel does not have it", advice)
    }
}

fn lists_filesystem(proc_filesystems: &str, name: &str) -> bool {
    let names = proc_filesystems
        .lines()
        .filter_map(|l| l.split_whitespace().last());
    names.into_iter().any(|listed| listed == name)
}

pub(super) fn namespaces() -> Check {
    let wanted = ["cgroup", "ipc", "mnt", "net", "pid", "uts"];
    let missing: Vec<_> = wanted
        .into_iter()
        .filter(|name| !Path::new("/proc/self/ns").join(name).exists())
        .collect();
    if missing.is_empty() {
        Check::ok("namespaces", wanted.join(", "))
    } else {
        let detail = format!("the kernel lacks {}", missing.join(", "));
        let advice = "use a kernel with CONFIG_NAMESPACES and all kinds of them";
        Check::fail("namespaces", detail, advice)
    }
}

pub(super) fn openat2() -> Check {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    match open_beneath(CWD, "/", flags, Mode::empty(), ResolveFlags::IN_ROOT) {
        Ok(_) => Check::ok("openat2", "available"),
        Err(Errno::NOSYS) => Check::fail(
            "openat2",
            "the kernel does not have it",
            "use Linux 5.6 or newer",
        ),
        Err(error) => Check::fail(
            "openat2",
            format!("refused: {error}"),
            "allow the system call: a seccomp profile around this process blocks it",
        ),
    }
}

pub(super) fn fanotify() -> Check {
    // FAN_REPORT_DIR_FID | FAN_REPORT_NAME (linux/fanotify.h, Linux 5.9): nix has no names for
    // them yet.
    let report_names = InitFlags::from_bits_retain(0x400 | 0x800);
    let flags = InitFlags::FAN_CLASS_NOTIF | InitFlags::FAN_CLOEXEC | report_names;
    let opened = Fanotify::init(flags, EventFFlags::O_RDONLY).map(drop);
    let release = rustix::system::uname();
    judge_fanotify(
        &release.release().to_string_lossy(),
        opened.map_err(|error| error.to_string()),
    )
}

/// Snapshots are whole without it, and take longer: that an old kernel has none is a note.
fn judge_fanotify(release: &str, opened: Result<(), String>) -> Check {
    match opened {
        Ok(()) if version_numbers(release).as_slice() < OLDEST_WITH_FEED => Check::ok(
            "fanotify",
            "reports names, but not enough of them: live snapshots walk the files, which takes longer; \
             Linux 6.5 or newer has the change feed",
        ),
        Ok(()) => Check::ok("fanotify", "reports names"),
        Err(error) => Check::warn(
            "fanotify",
            format!("not available: {error}"),
            "live snapshots will walk the files instead; Linux 6.5 or newer as root has it",
        ),
    }
}

/// What `cargo xtask up` sets. All workspaces are uid 0 of one user namespace and share one user's
/// inotify instances (inotify(7)).
const WATCHERS: u32 = 8192;

pub(super) fn inotify() -> Check {
    judge_inotify(
        &fs::read_to_string("/proc/sys/fs/inotify/max_user_instances").unwrap_or_default(),
    )
}

fn judge_inotify(instances: &str) -> Check {
    let name = "inotify";
    match instances.trim().parse::<u32>() {
        Ok(most) if most >= WATCHERS => Check::ok(name, format!("{most} watchers")),
        Ok(most) => Check::warn(
            name,
            format!("{most} watchers for all workspaces together"),
            "run: sysctl -w fs.inotify.max_user_instances=8192, and put that line into /etc/sysctl.d",
        ),
        Err(_) => Check::warn(
            name,
            "the kernel does not have it",
            "use a kernel with CONFIG_INOTIFY_USER: programs in workspaces cannot watch files",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Status;
    use super::*;

    #[test]
    fn kernels_are_judged_by_their_version() {
        for (release, status) in [
            ("6.18.0-1-amd64", Status::Ok),
            ("5.10.0-30-amd64", Status::Ok),
            ("10.0", Status::Ok),
            ("5.6.1", Status::Warn),
            ("5.4.0-200-generic", Status::Fail),
            ("3.10.0-1160.el7", Status::Fail),
            ("strange", Status::Fail),
        ] {
            assert_eq!(judge_version(release).status, status, "{release}");
        }
    }

    #[test]
    fn few_watchers_for_all_workspaces_are_warned_of() {
        for (instances, status) in [
            ("8192\n", Status::Ok),
            ("128\n", Status::Warn),
            ("", Status::Warn),
        ] {
            assert_eq!(judge_inotify(instances).status, status, "{instances:?}");
        }
    }

    #[test]
    fn kernels_without_the_change_feed_are_told() {
        for (release, feed) in [
            ("6.1.0-57-cloud-amd64", false),
            ("5.15.0-100-generic", false),
            ("6.5.0", true),
            ("6.12.117", true),
        ] {
            let check = judge_fanotify(release, Ok(()));
            assert_eq!(check.status, Status::Ok, "{release}");
            assert_ne!(check.detail.contains("walk"), feed, "{release}");
        }
        let refused = judge_fanotify("6.12.0", Err("EPERM".to_owned()));
        assert_eq!(refused.status, Status::Warn);
    }

    #[test]
    fn filesystems_are_found_by_their_whole_name() {
        let listed = "nodev\tsysfs\nnodev\toverlay\n\text4\n";
        assert!(lists_filesystem(listed, "overlay"));
        assert!(lists_filesystem(listed, "ext4"));
        assert!(!lists_filesystem(listed, "over"));
        assert!(!lists_filesystem("", "overlay"));
    }
}
