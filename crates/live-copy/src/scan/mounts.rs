//! Where overlay mounts show the tree that is copied, from a process's list of mounts.

use botstead_overlay::tree::{Id, id};
use rustix::fs::{AtFlags, CWD, StatxFlags, statx};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

/// A mount that shows the tree.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Mount {
    device: (u32, u32),
    /// What of the overlay it shows, without the last slash.
    shown: Vec<u8>,
    /// Where, without the last slash.
    at: Vec<u8>,
}

/// The mounts that show a tree, or may.
#[derive(Debug)]
pub(crate) struct Mounts {
    /// The device of the tree's own filesystem.
    pub(crate) source: (u32, u32),
    mounts: Vec<Mount>,
}

impl Mounts {
    /// Finds them in the list of one of the processes: all see the same overlay, as a rule at the same
    /// place. Where a list says otherwise, what is not found is not known, and that is all.
    pub(crate) fn find(source: Id, pids: &[u32]) -> Self {
        let mounts = pids
            .iter()
            .filter_map(|pid| std::fs::read(format!("/proc/{pid}/mountinfo")).ok())
            .map(|list| parse(&list, |upper| may_be_tree(upper, source)))
            .find(|mounts| !mounts.is_empty());
        Self {
            source: (source.0, source.1),
            mounts: mounts.unwrap_or_default(),
        }
    }

    /// Whether any was found.
    pub(crate) fn is_known(&self) -> bool {
        !self.mounts.is_empty()
    }

    /// Whether files of a device are of the tree's overlay.
    pub(crate) fn is_overlay(&self, device: (u32, u32)) -> bool {
        self.mounts.iter().any(|mount| mount.device == device)
    }

    /// What in the tree a path may be.
    pub(crate) fn in_tree(&self, path: &[u8]) -> Vec<Vec<u8>> {
        self.mounts
            .iter()
            .filter_map(|mount| {
                let rest = path.strip_prefix(&*mount.at)?;
                let begins = rest.is_empty() || rest.starts_with(b"/");
                begins.then(|| [&*mount.shown, rest].concat())
            })
            .collect()
    }
}

/// Whether the upper directory of a mount is the tree, or may be: it is named as whoever mounted it
/// sees it, and what cannot be found here may be anything.
fn may_be_tree(upper: &[u8], source: Id) -> bool {
    let stat = statx(
        CWD,
        OsStr::from_bytes(upper),
        AtFlags::empty(),
        StatxFlags::BASIC_STATS,
    );
    stat.map_or(true, |stat| id(&stat) == source)
}

/// The overlay mounts in a list whose upper directory is wanted (proc_pid_mountinfo(5)).
fn parse(list: &[u8], is_wanted: impl Fn(&[u8]) -> bool) -> Vec<Mount> {
    list.split(|byte| *byte == b'\n')
        .filter_map(|line| {
            let words: Vec<_> = line.split(|byte| *byte == b' ').collect();
            let dash = words.iter().position(|word| *word == b"-")?;
            if *words.get(dash + 1)? != b"overlay" {
                return None;
            }
            let options = words.get(dash + 3)?.split(|byte| *byte == b',');
            let upper = options
                .filter_map(|option| option.strip_prefix(b"upperdir="))
                .next()?;
            if !is_wanted(&unescape(upper)) {
                return None;
            }
            let (major, minor) = std::str::from_utf8(words.get(2)?).ok()?.split_once(':')?;
            let trim = |word: &[u8]| {
                let path = unescape(word);
                path.strip_suffix(b"/").map_or(path.clone(), <[u8]>::to_vec)
            };
            Some(Mount {
                device: (major.parse().ok()?, minor.parse().ok()?),
                shown: trim(words.get(3)?),
                at: trim(words.get(4)?),
            })
        })
        .collect()
}

/// Spaces and the like stand as a backslash and three octal digits.
fn unescape(word: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(word.len());
    let mut rest = word;
    while let Some((first, others)) = rest.split_first() {
        let digits = others
            .get(..3)
            .and_then(|digits| std::str::from_utf8(digits).ok());
        let code = digits.and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match (first, code) {
            (b'\\', Some(code)) => {
                plain.push(code);
                rest = &others[3..];
            }
            _ => {
                plain.push(*first);
                rest = others;
            }
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &[u8] = b"\
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n\
80 22 0:42 / / rw,relatime - overlay overlay rw,lowerdir=/l1:/l2,upperdir=/snap\\0401/fs,workdir=/w\n\
81 22 0:43 / /other rw - overlay overlay rw,lowerdir=/l1,upperdir=/snap/2/fs,workdir=/w2\n\
82 80 0:42 /data/x /mnt/a\\040b rw master:3 - overlay overlay rw,lowerdir=/l1:/l2,upperdir=/snap\\0401/fs,workdir=/w\n\
83 80 0:44 / /ro ro - overlay overlay ro,lowerdir=/l1:/l2\n";

    fn mounts() -> Mounts {
        Mounts {
            source: (254, 0),
            mounts: parse(LIST, |upper| upper == b"/snap 1/fs"),
        }
    }

    #[test]
    fn only_the_mounts_of_the_tree_count() {
        let mounts = mounts();
        assert!(mounts.is_known() && mounts.is_overlay((0, 42)));
        assert!(!mounts.is_overlay((0, 43)) && !mounts.is_overlay((254, 0)));
        assert!(parse(LIST, |_| false).is_empty());
    }

    #[test]
    fn paths_lead_into_the_tree_by_every_mount() {
        let mounts = mounts();
        let root = |path: &[u8]| mounts.in_tree(path);
        assert_eq!(root(b"/data/f"), [b"/data/f".to_vec()]);
        let below: [Vec<u8>; 2] = [b"/mnt/a b/f".to_vec(), b"/data/x/f".to_vec()];
        assert_eq!(root(b"/mnt/a b/f"), below);
        assert_eq!(root(b"/mnt/a bc"), [b"/mnt/a bc".to_vec()]);
    }

    #[test]
    fn a_mount_whose_upper_directory_cannot_be_found_counts() {
        let dir = tempfile::tempdir().unwrap();
        let own =
            id(&botstead_overlay::tree::stat_fd(std::fs::File::open(dir.path()).unwrap()).unwrap());
        let path = dir.path().to_str().unwrap().as_bytes();
        assert!(may_be_tree(path, own));
        assert!(!may_be_tree(b"/", own));
        assert!(may_be_tree(b"/no/such/directory", own));
    }
}
