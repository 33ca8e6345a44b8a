//! What runc touches in a container's root at a start, looked at before. Everything in the root is hostile.
//!
//! The files of its users and groups it opens as they are, after everything is mounted, and where one is a
//! pipe it waits for whoever writes to that. And before the root is the container's it removes and makes
//! links in `/dev`: where that is a link, in a folder of the host (CVE-2026-41579, corrected in runc 1.3.6
//! and 1.4.3).

use crate::spec::mounts;
use botstead_overlay::{Error, PrivateMount, beneath, tree};
use rustix::fd::BorrowedFd;
use rustix::fs::{FileType, OFlags, readlinkat};
use rustix::io::Errno;
use std::path::PathBuf;

/// What runc opens in the root before the container is confined to it.
const OPENED: [&str; 2] = ["etc/passwd", "etc/group"];

/// What the kernel's filesystems are mounted on.
const FOLDERS: [&str; 3] = ["dev", "proc", "sys"];

/// So many parts of paths are gone through, those of links included; no honest root has more.
const MOST_PARTS: usize = 256;

/// The most that runc is let read of each: it reads all of it before the container has a process, and
/// within its share of the processors.
const MOST_BYTES: u64 = 1 << 20;

/// What a path leads to.
enum Found {
    Nothing,
    /// Of this kind and length in bytes.
    There(FileType, u64),
    /// What runc finds there is not in the layers.
    Unknown,
}

/// What of this must be another way, in a root of layers from the bottom up on whose `mounts` nothing is
/// known.
pub(super) fn refused(layers: &[PathBuf], mounts: &[String]) -> Result<Option<String>, Error> {
    let mount = PrivateMount::read_only(layers)?;
    Ok(wrong(mount.root(), mounts))
}

fn wrong(root: BorrowedFd<'_>, mounts: &[String]) -> Option<String> {
    if let Some(path) = FOLDERS.into_iter().find(|path| !is_folder(root, path)) {
        return Some(format!("its /{path} must be a directory"));
    }
    let Some(mounts) = places(root, mounts) else {
        return Some("a link on the way to one of its mounts leads on and on".to_owned());
    };
    let path = OPENED
        .into_iter()
        .find(|path| !is_readable(root, path.as_bytes(), &mounts))?;
    Some(format!(
        "its /{path} must be a regular file of its own, of at most {} KiB",
        MOST_BYTES >> 10
    ))
}

/// Whether it is a directory, and no link to one, or is missing.
fn is_folder(root: BorrowedFd<'_>, path: &str) -> bool {
    match beneath::open(root, path.as_bytes(), OFlags::PATH) {
        Ok(place) => {
            tree::stat_fd(&place).is_ok_and(|stat| tree::kind(&stat) == FileType::Directory)
        }
        Err(errno) => errno == Errno::NOENT,
    }
}

/// What links make of the places of mounts: runc follows those too. `None` where that leads too far.
fn places(root: BorrowedFd<'_>, mounts: &[String]) -> Option<Vec<Vec<u8>>> {
    let all = mounts.iter().map(String::as_str).chain(mounts::kernel());
    all.map(|destination| Some(follow(root, destination.as_bytes(), &[])?.0))
        .collect()
}

/// Whether a path leads to a regular file that is not too large, or to nothing, as the container's root sees it.
fn is_readable(root: BorrowedFd<'_>, path: &[u8], mounts: &[Vec<u8>]) -> bool {
    match follow(root, path, mounts) {
        Some((_, Found::Nothing)) => true,
        Some((_, Found::There(FileType::RegularFile, bytes))) => bytes <= MOST_BYTES,
        Some((_, Found::There(..) | Found::Unknown)) | None => false,
    }
}

/// Where a path leads in the container's root, and to what. Links are followed here and not by the kernel:
/// what is below a mount of the container's is not what runc finds there, so nothing on the way may be on
/// one of these. `None` when the way is too long.
fn follow(root: BorrowedFd<'_>, path: &[u8], mounts: &[Vec<u8>]) -> Option<(Vec<u8>, Found)> {
    let parts = |path: &[u8]| -> Vec<Vec<u8>> {
        let parts = path.split(|byte| *byte == b'/').rev();
        parts.map(<[u8]>::to_vec).collect()
    };
    let mut at: Vec<Vec<u8>> = Vec::new();
    // The next one last.
    let mut rest = parts(path);
    let mut is_missing = false;
    for _ in 0..MOST_PARTS {
        match rest.pop() {
            None if is_missing => return Some((at.join(&b'/'), Found::Nothing)),
            None => return Some((at.join(&b'/'), Found::There(FileType::Directory, 0))),
            Some(part) if part.is_empty() || part == b"." => continue,
            Some(part) if part == b".." => {
                at.pop();
                // What is missing may be there by then: runc makes the way to a mount.
                is_missing = false;
                continue;
            }
            Some(part) => at.push(part),
        }
        let here = at.join(&b'/');
        if mounts.iter().any(|it| is_beneath(&here, it)) {
            return Some((here, Found::Unknown));
        }
        if is_missing {
            continue;
        }
        let found = beneath::open(root, &here, OFlags::PATH)
            .and_then(|place| Ok((tree::stat_fd(&place)?, place)));
        let found = found.map(|(stat, place)| (tree::kind(&stat), stat, place));
        match found {
            Err(Errno::NOENT | Errno::NOTDIR) => is_missing = true,
            Ok((FileType::Directory, ..)) => {}
            Ok((FileType::Symlink, _, place)) => {
                let Ok(target) = readlinkat(&place, c"", Vec::new()) else {
                    return Some((here, Found::Unknown));
                };
                at.pop();
                if target.as_bytes().starts_with(b"/") {
                    at.clear();
                }
                rest.extend(parts(target.as_bytes()));
            }
            Ok((kind, stat, _)) => return Some((here, Found::There(kind, stat.stx_size))),
            Err(_) => return Some((here, Found::Unknown)),
        }
    }
    None
}

/// Whether a path is the other one or below it.
fn is_beneath(path: &[u8], other: &[u8]) -> bool {
    let rest = path.strip_prefix(other);
    rest.is_some_and(|rest| rest.first().is_none_or(|next| *next == b'/'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fd::AsFd;
    use rustix::fs::{CWD, Mode, mkfifoat};
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn only_what_is_a_regular_file_or_missing_can_be_read() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("root");
        for path in ["etc", "proc", "dev", "nix/etc"] {
            fs::create_dir_all(root.join(path)).unwrap();
        }
        for path in ["regular", "nix/etc/passwd", "proc/version", "development"] {
            fs::write(root.join(path), "").unwrap();
        }
        mkfifoat(CWD, root.join("pipe"), Mode::RWXU).unwrap();
        mkfifoat(CWD, folder.path().join("outside"), Mode::RWXU).unwrap();
        // Below the mount it leads to a file, on it to a descriptor of runc's.
        symlink("/regular", root.join("dev/fd")).unwrap();
        symlink("/etc/passwd", root.join("circle")).unwrap();
        symlink("nix", root.join("store")).unwrap();
        let opened = fs::File::open(&root).unwrap();
        let path = root.join("etc/passwd");
        let is_refused = || wrong(opened.as_fd(), &[]).is_some();
        assert!(!is_refused(), "missing");
        for (target, readable) in [
            ("../regular", true),
            ("/regular", true),
            ("../../../../regular", true),
            ("/store/./etc/passwd", true),
            ("/development", true),
            ("/none", true),
            ("/regular/x", true),
            ("/pipe", false),
            // As runc makes what is not there for a mount below it.
            ("/run/../pipe", false),
            ("/run/x/../../pipe", false),
            ("/none/../regular", true),
            ("../outside", true),
            ("/etc", false),
            ("/", false),
            ("/circle", false),
            ("/proc/version", false),
            ("/dev/fd", false),
        ] {
            symlink(target, &path).unwrap();
            assert_eq!(is_refused(), !readable, "{target}");
            fs::remove_file(&path).unwrap();
        }
        for (bytes, refused) in [(MOST_BYTES, false), (MOST_BYTES + 1, true), (1 << 40, true)] {
            fs::File::create(&path).unwrap().set_len(bytes).unwrap();
            assert_eq!(is_refused(), refused, "{bytes} bytes");
        }
        fs::rename(root.join("pipe"), &path).unwrap();
        assert!(is_refused(), "a pipe");
    }

    #[test]
    fn nothing_may_stand_where_the_kernels_filesystems_go() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("root");
        fs::create_dir_all(root.join("other")).unwrap();
        let opened = fs::File::open(&root).unwrap();
        for path in FOLDERS {
            for target in ["other", "/other", "/none"] {
                symlink(target, root.join(path)).unwrap();
                let wrong = wrong(opened.as_fd(), &[]);
                assert_eq!(wrong, Some(format!("its /{path} must be a directory")));
                fs::remove_file(root.join(path)).unwrap();
            }
            fs::create_dir(root.join(path)).unwrap();
            assert_eq!(wrong(opened.as_fd(), &[]), None);
        }
    }

    #[test]
    fn nothing_is_read_on_a_mount_wherever_links_put_that() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("root");
        for path in ["etc", "home/device", "device2"] {
            fs::create_dir_all(root.join(path)).unwrap();
        }
        fs::write(root.join("home/device/users"), "").unwrap();
        fs::write(root.join("device2/users"), "").unwrap();
        symlink("/home", root.join("opt")).unwrap();
        symlink("home", root.join("run")).unwrap();
        let long = format!("/{}home", "./".repeat(MOST_PARTS));
        symlink(long, root.join("long")).unwrap();
        let etc = root.join("etc/passwd");
        let opened = fs::File::open(&root).unwrap();
        let is_refused = |target: &str, destination: &str| {
            symlink(target, &etc).unwrap();
            let mounts = places(opened.as_fd(), &[destination.to_owned()]);
            let readable = mounts.is_some_and(|it| is_readable(opened.as_fd(), b"etc/passwd", &it));
            fs::remove_file(&etc).unwrap();
            !readable
        };
        for (target, destination, refused) in [
            ("/home/device/users", "/home/device", true),
            ("/home/device/users", "/home/device/users", true),
            ("/home/device/none", "/home/device", true),
            // As the mount's own place leads elsewhere, or is made there.
            ("/home/device/users", "/opt/device", true),
            ("/home/new/users", "/opt/./x/../new", true),
            ("/device2/users", "/device", false),
            ("/opt/device/users", "/device2", false),
            ("/home/device/users", "/etc/hosts", false),
            ("/home/device/users", "/long/device", true),
            // As what is always mounted is elsewhere.
            ("/home/botstead/host/users", "/device", true),
        ] {
            let found = is_refused(target, destination);
            assert_eq!(found, refused, "{target} {destination}");
        }
    }
}
