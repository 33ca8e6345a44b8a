//! What runc opens in a container's root at a start: the files of its users and groups. It opens them as
//! they are, after everything is mounted, and where one is a pipe it waits for whoever writes to that. So
//! they are looked at before. Everything in the root is hostile.

use crate::spec::mounts;
use botstead_overlay::{Error, PrivateMount, beneath, tree};
use rustix::fd::BorrowedFd;
use rustix::fs::{FileType, OFlags, readlinkat};
use rustix::io::Errno;
use std::path::PathBuf;

const OPENED: [&str; 2] = ["etc/passwd", "etc/group"];

/// So many parts of paths are gone through, those of links included; no honest root has more.
const MOST_PARTS: usize = 256;

/// The first of these files that is neither a regular file nor missing, in a root of layers from the
/// bottom up.
pub(super) fn unreadable(layers: &[PathBuf]) -> Result<Option<&'static str>, Error> {
    let mount = PrivateMount::read_only(layers)?;
    let mut opened = OPENED.into_iter();
    Ok(opened.find(|path| !is_readable(mount.root(), path.as_bytes())))
}

/// Whether a path leads to a regular file or to nothing, as the container's root sees it. Links are
/// followed here and not by the kernel: what is below a mount of the container's is not what runc finds
/// there, so nothing on the way may be on one of the kernel's filesystems.
fn is_readable(root: BorrowedFd<'_>, path: &[u8]) -> bool {
    let parts = |path: &[u8]| -> Vec<Vec<u8>> {
        let parts = path.split(|byte| *byte == b'/').rev();
        parts.map(<[u8]>::to_vec).collect()
    };
    let mut at: Vec<Vec<u8>> = Vec::new();
    // The next one last.
    let mut rest = parts(path);
    for _ in 0..MOST_PARTS {
        match rest.pop() {
            // A directory.
            None => return false,
            Some(part) if part.is_empty() || part == b"." => continue,
            Some(part) if part == b".." => {
                at.pop();
                continue;
            }
            Some(part) => at.push(part),
        }
        let here = at.join(&b'/');
        if mounts::is_of_the_kernel(&here) {
            return false;
        }
        let place = match beneath::open(root, &here, OFlags::PATH) {
            Ok(place) => place,
            Err(errno) => return matches!(errno, Errno::NOENT | Errno::NOTDIR),
        };
        match tree::stat_fd(&place).map(|stat| tree::kind(&stat)) {
            Ok(FileType::Directory) => {}
            Ok(FileType::RegularFile) => return true,
            Ok(FileType::Symlink) => {
                let Ok(target) = readlinkat(&place, c"", Vec::new()) else {
                    return false;
                };
                at.pop();
                if target.as_bytes().starts_with(b"/") {
                    at.clear();
                }
                rest.extend(parts(target.as_bytes()));
            }
            _ => return false,
        }
    }
    false
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
        assert!(is_readable(opened.as_fd(), b"etc/passwd"), "missing");
        for (target, readable) in [
            ("../regular", true),
            ("/regular", true),
            ("../../../../regular", true),
            ("/store/./etc/passwd", true),
            ("/development", true),
            ("/none", true),
            ("/regular/x", true),
            ("/pipe", false),
            ("../outside", true),
            ("/etc", false),
            ("/", false),
            ("/circle", false),
            ("/proc/version", false),
            ("/dev/fd", false),
        ] {
            symlink(target, &path).unwrap();
            let found = is_readable(opened.as_fd(), b"etc/passwd");
            assert_eq!(found, readable, "{target}");
            fs::remove_file(&path).unwrap();
        }
        fs::rename(root.join("pipe"), &path).unwrap();
        assert!(!is_readable(opened.as_fd(), b"etc/passwd"), "a pipe");
    }
}
