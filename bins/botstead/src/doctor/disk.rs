//! The file system of the data directory: what it is, what is free, whether it shares blocks.

use super::{Check, Status};
use crate::config::Config;
use crate::installation::open_to_others;
use botstead_workspace::Reserve;
use rustix::fs::{ioctl_ficlone, statfs, statvfs};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Free space, kind and block sharing, of the data directory or of where it will be made.
pub(super) fn check(config: &Config) -> Vec<Check> {
    let directory = nearest_existing(&config.data_dir);
    vec![
        privacy(&config.data_dir),
        free_space(&directory, config),
        kind(&directory),
        reflink(&directory),
    ]
}

/// Whether others may enter the data directory.
fn privacy(directory: &Path) -> Check {
    let name = "data directory";
    match open_to_others(directory) {
        Ok(None) => Check::ok(name, format!("{} is private", directory.display())),
        Ok(Some(mode)) => Check::fail(
            name,
            format!(
                "{} is open to others (mode {mode:04o}): what workspaces made set-uid would be theirs to run",
                directory.display()
            ),
            format!("run: chmod 700 {}", directory.display()),
        ),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Check::ok(name, format!("{} will be made", directory.display()))
        }
        Err(error) => Check::fail(
            name,
            format!("{}: {error}", directory.display()),
            "run it as root, and see that the path is right",
        ),
    }
}

fn nearest_existing(path: &Path) -> PathBuf {
    let existing = path.ancestors().find(|ancestor| ancestor.is_dir());
    existing.unwrap_or(Path::new("/")).to_owned()
}

fn free_space(directory: &Path, config: &Config) -> Check {
    let stat = match statvfs(directory) {
        Ok(stat) => stat,
        Err(error) => {
            let detail = format!("{}: {error}", directory.display());
            return Check::fail("disk space", detail, "set data_dir to a readable directory");
        }
    };
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    let total = stat.f_blocks.saturating_mul(stat.f_frsize);
    let limits = &config.limits;
    let (bytes, percent) = (limits.min_free_bytes, limits.min_free_percent);
    let reserve = Reserve::of(total, stat.f_files, bytes, percent);
    let check = judge_free(free, total, reserve.bytes);
    let inodes = judge_inodes(stat.f_favail, stat.f_files, reserve.inodes);
    match inodes {
        Some(inodes) if check.status != Status::Fail => inodes,
        _ => check,
    }
}

/// What is wrong with the number of inodes. Some file systems have no fixed one and say 0.
fn judge_inodes(free: u64, total: u64, needed: u64) -> Option<Check> {
    let detail = format!("{free} inodes left of {total}");
    if free < needed {
        let advice = "remove small files, of which workspaces have many, or lower limits.min_free_percent: \
                      until then new work is refused";
        return Some(Check::fail("disk space", detail, advice));
    }
    let advice = "remove small files: workspaces have many";
    (free < (total / 100).max(needed.saturating_mul(2)))
        .then(|| Check::warn("disk space", detail, advice))
}

fn judge_free(free: u64, total: u64, needed: u64) -> Check {
    let gib = |bytes: u64| format!("{}.{} GiB", bytes >> 30, (bytes >> 20) % 1024 * 10 / 1024);
    let detail = format!("{} free of {}", gib(free), gib(total));
    if free < needed {
        let advice = format!(
            "free {} on it, or lower limits.min_free_bytes and limits.min_free_percent: until then \
             new work is refused",
            gib(needed - free)
        );
        Check::fail("disk space", detail, advice)
    } else if free < needed.saturating_mul(2) {
        let advice = "below twice the limit under which new work is refused";
        Check::warn("disk space", detail, advice)
    } else {
        Check::ok("disk space", detail)
    }
}

fn kind(directory: &Path) -> Check {
    match statfs(directory) {
        Ok(stat) => judge_kind(stat.f_type),
        Err(error) => {
            let detail = format!("{}: {error}", directory.display());
            Check::fail(
                "file system",
                detail,
                "set data_dir to a readable directory",
            )
        }
    }
}

/// Judges by the magic number of statfs(2).
fn judge_kind(magic: i64) -> Check {
    match magic {
        0xef53 => Check::ok("file system", "ext4"),
        0x5846_5342 => Check::ok("file system", "XFS"),
        0x9123_683e => Check::ok("file system", "btrfs"),
        0x2fc1_2fc1 => Check::ok("file system", "ZFS"),
        0x0102_1994 => Check::warn(
            "file system",
            "tmpfs",
            "everything is lost when the host restarts: set data_dir to a disk",
        ),
        0x794c_7630 => Check::fail(
            "file system",
            "overlayfs, on which overlayfs cannot keep snapshots",
            "set data_dir to a volume: this is the root of a container",
        ),
        0x6969 | 0xff53_4d42 | 0xfe53_4d42 | 0x6573_5546 => Check::fail(
            "file system",
            format!("a network or user-space file system ({magic:#x})"),
            "set data_dir to a local disk: neither overlayfs nor SQLite is safe there",
        ),
        other => Check::warn(
            "file system",
            format!("unknown ({other:#x})"),
            "ext4, XFS and btrfs were tested",
        ),
    }
}

/// Whether copies can share blocks. Without that they work and take longer.
fn reflink(directory: &Path) -> Check {
    match clone_a_file(directory) {
        Ok(true) => Check::ok("reflink", "supported: copies share blocks"),
        Ok(false) => Check::ok("reflink", "not supported here: copies are full"),
        Err(error) => Check::fail(
            "reflink",
            format!("cannot write in {}: {error}", directory.display()),
            "run it as root, and see that the file system is writable",
        ),
    }
}

fn clone_a_file(directory: &Path) -> io::Result<bool> {
    let mut source = tempfile::tempfile_in(directory)?;
    source.write_all(&[1; 4096])?;
    let target = tempfile::tempfile_in(directory)?;
    // Whatever the error is, the copy has to be made another way.
    Ok(ioctl_ficlone(&target, &source).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_space_is_judged_by_both_limits() {
        const GIB: u64 = 1 << 30;
        for (free, total, status) in [
            (50 * GIB, 100 * GIB, Status::Ok),
            (9 * GIB, 100 * GIB, Status::Warn),
            (4 * GIB, 100 * GIB, Status::Fail),
            (GIB / 2, 2 * GIB, Status::Fail),
            (0, 0, Status::Fail),
        ] {
            let check = judge_free(free, total, Reserve::of(total, 0, GIB, 5).bytes);
            assert_eq!(check.status, status, "{free} of {total}");
        }
        let check = judge_free(3 * GIB / 2, 10 * GIB, 2 * GIB);
        assert_eq!(check.detail, "1.5 GiB free of 10.0 GiB");
        assert!(check.advice.unwrap().starts_with("free 0.5 GiB"));
    }

    #[test]
    fn inodes_are_judged_where_there_is_a_number_of_them() {
        for (free, total, percent, status) in [
            (0, 0, 5, None),
            (50, 100, 5, None),
            (9, 100, 5, Some(Status::Warn)),
            (4, 100, 5, Some(Status::Fail)),
            (99, 10_000, 0, Some(Status::Warn)),
        ] {
            let judged = judge_inodes(free, total, Reserve::of(0, total, 0, percent).inodes);
            assert_eq!(
                judged.map(|check| check.status),
                status,
                "{free} of {total}"
            );
        }
    }

    #[test]
    fn file_systems_are_told_apart() {
        assert_eq!(judge_kind(0xef53).status, Status::Ok);
        assert_eq!(judge_kind(0x794c_7630).status, Status::Fail);
        assert_eq!(judge_kind(0x0102_1994).status, Status::Warn);
        assert_eq!(judge_kind(1).detail, "unknown (0x1)");
    }

    #[test]
    fn a_data_directory_that_others_may_enter_is_told() {
        use std::os::unix::fs::PermissionsExt;
        let root = tempfile::tempdir().unwrap();
        for (mode, status) in [
            (0o700, Status::Ok),
            (0o755, Status::Fail),
            (0o710, Status::Fail),
        ] {
            std::fs::set_permissions(root.path(), std::fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(privacy(root.path()).status, status, "{mode:o}");
        }
        assert_eq!(privacy(&root.path().join("new")).status, Status::Ok);
    }

    #[test]
    fn a_missing_directory_is_judged_by_its_parent() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(nearest_existing(&root.path().join("a/b")), root.path());
        assert!(clone_a_file(root.path()).is_ok());
        assert!(clone_a_file(&root.path().join("a")).is_err());
        assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 0);
    }
}
