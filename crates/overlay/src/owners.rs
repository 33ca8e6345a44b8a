//! Giving what belongs to one user in a tree to another, whatever its depth and size.

use crate::entries::each;
use crate::meta::{mode, owner};
use crate::tree::{kind, stat_fd};
use rustix::fd::AsFd;
use rustix::fs::{AtFlags, FileType, Gid, Mode, Statx, Uid, chmodat, chownat, fchown};
use rustix::io::Result;

/// A user's number, and that of their group.
type User = (u32, u32);

/// Gives everything of one user in the tree of an open directory to another, and everything of their group to
/// the other's group: the directory last, so that one that was cut off can be told. Links are given
/// themselves. Nobody else writes to the tree.
///
/// # Errors
/// What the filesystem says.
pub fn pass_on(dir: impl AsFd, from: User, to: User) -> Result<()> {
    if from == to {
        return Ok(());
    }
    each(&dir, |parent, name, stat| {
        let Some((uid, gid)) = changed(stat, from, to) else {
            return Ok(());
        };
        chownat(parent, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?;
        let mode = mode(stat);
        // They go with the owner (chown(2)).
        if kind(stat) == FileType::RegularFile && mode.intersects(Mode::SUID | Mode::SGID) {
            chmodat(parent, name, mode, AtFlags::empty())?;
        }
        Ok(())
    })?;
    if let Some((uid, gid)) = changed(&stat_fd(&dir)?, from, to) {
        fchown(&dir, uid, gid)?;
    }
    Ok(())
}

/// The new owner and group of an entry, where one of them is another.
fn changed(stat: &Statx, from: User, to: User) -> Option<(Option<Uid>, Option<Gid>)> {
    let (uid, gid) = owner(stat);
    let uid = uid.filter(|uid| uid.as_raw() == from.0 && from.0 != to.0);
    let gid = gid.filter(|gid| gid.as_raw() == from.1 && from.1 != to.1);
    let new = (
        uid.map(|_| Uid::from_raw(to.0)),
        gid.map(|_| Gid::from_raw(to.1)),
    );
    (new != (None, None)).then_some(new)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, File};
    use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, lchown, symlink};

    #[test]
    fn what_is_one_users_becomes_the_others() {
        let (dir, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let at = |path: &str| dir.path().join(path);
        fs::create_dir_all(at("a/b")).unwrap();
        for path in ["a/own", "a/b/own", "theirs", "group"] {
            fs::write(at(path), "").unwrap();
        }
        symlink(outside.path(), at("link")).unwrap();
        for path in ["", "a", "a/own", "a/b/own", "link"] {
            lchown(at(path), Some(1000), Some(1001)).unwrap();
        }
        chown(at("theirs"), Some(7), Some(8)).unwrap();
        chown(at("group"), Some(7), Some(1001)).unwrap();
        fs::set_permissions(at("a/own"), fs::Permissions::from_mode(0o6755)).unwrap();
        pass_on(File::open(&dir).unwrap(), (1000, 1001), (2000, 2001)).unwrap();
        let owner = |path: &str| {
            let stat = fs::symlink_metadata(at(path)).unwrap();
            (stat.uid(), stat.gid())
        };
        for path in ["", "a", "a/own", "a/b/own", "link"] {
            assert_eq!(owner(path), (2000, 2001), "{path}");
        }
        let mode = fs::metadata(at("a/own")).unwrap().mode();
        assert_eq!(mode & 0o7777, 0o6755);
        assert_eq!(owner("a/b"), (0, 0));
        assert_eq!(owner("theirs"), (7, 8));
        assert_eq!(owner("group"), (7, 2001));
        assert_eq!(outside.path().metadata().unwrap().uid(), 0);
    }
}
