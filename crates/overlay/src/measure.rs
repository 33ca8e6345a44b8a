//! What a tree occupies on its filesystem, whatever its depth and size.

use crate::entries::each;
use crate::tree::{Id, id, kind, stat_fd};
use rustix::fd::AsFd;
use rustix::fs::{FileType, Statx};
use rustix::io::{Errno, Result};
use std::collections::HashSet;

/// What a tree occupies.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Occupied {
    /// Bytes of blocks, those of files with several names once.
    pub bytes: u64,
    /// Inodes, the root's included.
    pub inodes: u64,
}

/// How often a tree is gone through in which directories are moved meanwhile.
const ATTEMPTS: u32 = 8;

/// Measures the tree of an open directory. What goes meanwhile is not counted; where directories are moved
/// again and again, the most that was come to.
///
/// Memory: names of directories to be gone into, and a number for each file with several names.
///
/// # Errors
/// What the filesystem says.
pub fn measure(dir: impl AsFd) -> Result<Occupied> {
    let mut most = Occupied::default();
    for _ in 0..ATTEMPTS {
        let mut count = Count::default();
        count.add(&stat_fd(&dir)?);
        let whole = each(&dir, |_, _, stat| {
            count.add(stat);
            Ok(())
        });
        match whole {
            // The way back up from a directory that was moved leads elsewhere.
            Err(Errno::STALE) if count.occupied.inodes > most.inodes => most = count.occupied,
            Err(Errno::STALE) => {}
            whole => return whole.map(|()| count.occupied),
        }
    }
    Ok(most)
}

#[derive(Default)]
struct Count {
    occupied: Occupied,
    /// Files with several names.
    seen: HashSet<Id>,
}

impl Count {
    fn add(&mut self, stat: &Statx) {
        let is_shared = stat.stx_nlink > 1 && kind(stat) != FileType::Directory;
        if is_shared && !self.seen.insert(id(stat)) {
            return;
        }
        self.occupied.inodes += 1;
        self.occupied.bytes += stat.stx_blocks * 512;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::beneath;
    use crate::remove::empty;
    use rustix::fs::{Mode, OFlags, mkdirat};
    use std::fs;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn names_of_one_file_count_once_and_holes_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let at = |path: &str| dir.path().join(path);
        fs::create_dir(at("d")).unwrap();
        fs::write(at("d/one"), vec![1; 100_000]).unwrap();
        fs::hard_link(at("d/one"), at("two")).unwrap();
        let sparse = fs::File::create(at("sparse")).unwrap();
        sparse.set_len(1 << 40).unwrap();
        let occupied = measure(fs::File::open(dir.path()).unwrap()).unwrap();
        assert_eq!(occupied.inodes, 4);
        let blocks = |path: &str| fs::metadata(at(path)).unwrap().blocks() * 512;
        let sum = ["", "d", "d/one", "sparse"].map(blocks).iter().sum();
        assert_eq!(occupied.bytes, sum);
    }

    #[test]
    fn a_tree_is_measured_whose_paths_are_longer_than_any_call_takes() {
        let dir = tempfile::tempdir().unwrap();
        let root = rustix::fs::open(dir.path(), OFlags::RDONLY, Mode::empty()).unwrap();
        let name = "d".repeat(200);
        let mut at = root.try_clone().unwrap();
        for _ in 0..100 {
            mkdirat(&at, name.as_str(), Mode::RWXU).unwrap();
            at = beneath::open(&at, name.as_bytes(), OFlags::RDONLY | OFlags::DIRECTORY).unwrap();
        }
        assert_eq!(measure(&root).unwrap().inodes, 101);
        empty(&root).unwrap();
    }
}
